"""Pictures through the code file: the very codes come back, none depends on the others, and what is bad is named."""

import base64
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_checkpoint import CONFIG as SOUND
from test_checkpoint import SPEC as SOUND_SPEC

from audiovae.checkpoint import load_model, save_model
from audiovae.cli import main
from audiovae.codes import Canvas, CodeHeader, Codes
from audiovae.config import from_dict
from audiovae.errors import CodeFileError, PictureError, ShapeError
from audiovae.image.digits import digits
from audiovae.image.files import read_picture, to_bytes, write_picture
from audiovae.models import ModelConfig
from audiovae.picture_codec import PictureCodec
from audiovae.report import compression
from audiovae.shapes import Condition, DataSpec
from audiovae.train import Experiment, train

ROW = {"width": 8, "depth": 1, "num_codes": 8, "dim": 4}
GRID = {"kind": "strided", "strides": [2], "width": 8, "depth": 1}
FLAT = {"kind": "mlp", "widths": [8]}
TRAINED = {
    "hierarchy": {"kind": "hierarchical", "levels": [{"strides": [2], **ROW}] * 2, "condition_dim": 4},
    "residual": {"encoder": GRID, "decoder": GRID, "bottleneck": {"kind": "rvq", "num_codes": 8, "num_quantizers": 3,
                                                                  "dim": 4}},
}
UNTRAINED = {
    "scalar": ({"encoder": FLAT, "decoder": FLAT, "latent": "vector",
                "bottleneck": {"kind": "fsq", "levels": [5, 5]}}, 1),
    "colour": ({"kind": "multires", "levels": [{"kind": "level", "strides": [2] * n, **ROW} for n in (1, 2)]}, 3),
    "drawn": ({"encoder": GRID, "decoder": {"kind": "pixelcnn", "width": 4, "depth": 1, "inner": GRID},
               "bottleneck": {"kind": "vq", "num_codes": 8, "dim": 4}, "likelihood": {"kind": "bernoulli"}}, 1),
    "gaussian": ({"encoder": FLAT, "decoder": FLAT, "latent": "vector", "bottleneck": {"kind": "gaussian", "dim": 2},
                  "likelihood": {"kind": "bernoulli"}}, 1),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, values in TRAINED.items():
        values = {"data": {"kind": "digits", "batch_size": 8}, "model": {"kind": "autoencoder"} | values,
                  "train": {"steps": 2}}
        train(from_dict(Experiment, values), folder / name)
    torch.manual_seed(0)
    for name, (values, channels) in UNTRAINED.items():
        config = from_dict(ModelConfig, {"kind": "autoencoder"} | values)
        (folder / name).mkdir()
        save_model(folder / name, config.build(DataSpec(channels, 2, size=(8, 8), levels=256)), config)
    (folder / "sound").mkdir()
    save_model(folder / "sound", SOUND.build(SOUND_SPEC), SOUND)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three digits below a folder, a colour picture beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "digits").mkdir()
    for n, x in enumerate(digits("test")[0][:3]):
        write_picture(folder / f"digits/{n}.png", x)
    write_picture(folder / "colour.png", torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0)))
    return folder


def run(command, source, output, model, *words):
    return main([command, str(source), "-o", str(output), "--model", str(model), *map(str, words)])


@torch.no_grad()
def test_the_command_writes_the_codes_of_the_data_itself_and_the_reconstruction(models, pictures, tmp_path, capsys):
    for command, source in (("encode", pictures / "digits"), ("decode", tmp_path / "encode")):
        assert run(command, source, tmp_path / command, models / "hierarchy") == 0
        assert "3 " in capsys.readouterr().out
    model = load_model(models / "hierarchy")
    levels = model.encode_levels(digits("test")[0][:3])  # of the 17 levels of the set, not of the files' 256
    shown = model.decode_levels(levels)
    for n in range(3):
        codes = Codes.load(tmp_path / f"encode/{n}.codes")
        assert [its.shape for its in codes.maps] == [(1, 4, 4), (1, 2, 2)]
        assert codes.canvas == Canvas((8, 8), ((4, 4), (2, 2)), 17) and codes.channels == 1 and codes.label is None
        for its, level in zip(codes.maps, levels, strict=True):
            assert np.array_equal(its, level[n])
        difference = np.array(Image.open(tmp_path / f"decode/{n}.png")).astype(int) - to_bytes(shown[n, 0])
        assert abs(difference).max() <= 1  # three at once may round another way than one


@torch.no_grad()
@pytest.mark.parametrize("name", ["residual", "scalar", "colour", "drawn"])
@pytest.mark.parametrize("suffix", [".codes", ".npz"])
def test_every_kind_of_codes_goes_round(models, pictures, tmp_path, name, suffix):
    source = pictures / ("colour.png" if name == "colour" else "digits/1.png")
    assert run("encode", source, tmp_path / f"a{suffix}", models / name) == 0
    assert run("decode", tmp_path / f"a{suffix}", tmp_path / "a.png", models / name) == 0
    model, codes = load_model(models / name), Codes.load(tmp_path / f"a{suffix}")
    last = (model.data.levels or 256) - 1
    x = (read_picture(source, model.data.channels).float() / 255 * last).round()[None] / last
    levels = model.encode_levels(x)
    assert all(np.array_equal(its, level[0]) for its, level in zip(codes.maps, levels, strict=True))
    again = read_picture(tmp_path / "a.png", model.data.channels)
    assert again.shape == x.shape[1:]
    if name != "drawn":  # which draws: the same for the same codes, and that is all
        assert np.array_equal(again, to_bytes(model.decode_levels(levels)[0]))
    assert run("decode", tmp_path / f"a{suffix}", tmp_path / "b.png", models / name) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_has_the_same_file_whatever_is_encoded_beside_it(models, pictures, tmp_path):
    for name in ("hierarchy", "residual"):
        assert run("encode", pictures / "digits", tmp_path / name, models / name) == 0
        assert run("encode", pictures / "digits", tmp_path / f"two {name}", models / name, "--workers", 1,
                   "--overwrite") == 0
        for n in (2, 0, 1):
            assert run("encode", pictures / f"digits/{n}.png", tmp_path / "alone.codes", models / name) == 0
            alone = (tmp_path / "alone.codes").read_bytes()
            assert alone == (tmp_path / f"{name}/{n}.codes").read_bytes()
            assert alone == (tmp_path / f"two {name}/{n}.codes").read_bytes()


def test_inspect_tells_grids_and_bits(models, pictures, tmp_path, capsys):
    assert run("encode", pictures / "digits/0.png", tmp_path / "a.codes", models / "hierarchy", "--label", "3") == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "a.codes")]) == 0
    told, size = capsys.readouterr().out, 8 * (tmp_path / "a.codes").stat().st_size
    for part in ("a picture of 8 x 8", f"{size} bits as stored ({size / 64:.2f} a pixel)", "label       3",
                 "60 bits of codes without entropy coding (0.94 a pixel)", "262 bits of values (4.09 a pixel)",
                 "level 0     4 x 4 codes of hop 2, 48.0 bits", "level 1     2 x 2 codes of hop 4, 12.0 bits"):
        assert part in told, part


@torch.no_grad()
def test_levels_and_labels(models, pictures, tmp_path):
    top, model = tmp_path / "top.codes", load_model(models / "hierarchy")
    assert run("encode", pictures / "digits/0.png", top, models / "hierarchy", "--levels", 1) == 0
    assert run("decode", top, tmp_path / "top.png", models / "hierarchy") == 0
    codes = Codes.load(top)
    assert codes.hops == (4,) and codes.canvas.grids == ((2, 2),)
    wanted = model.reveal([None, torch.from_numpy(codes.maps[0])[None]])
    assert np.array_equal(read_picture(tmp_path / "top.png", 1), to_bytes(wanted[0]))
    codec, x = PictureCodec(model), digits("test")[0][0]
    assert torch.equal(codec.decode(codec.encode(x, "3")), model.reconstruct(x[None], Condition(torch.tensor([3])))[0])
    assert not torch.equal(codec.decode(codec.encode(x), "3"), codec.decode(codec.encode(x), "4"))
    for level in (0, 1):
        assert run("encode", pictures / "colour.png", tmp_path / "c.codes", models / "colour") == 0
        assert run("decode", tmp_path / "c.codes", tmp_path / f"{level}.png", models / "colour", "--level", level) == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


# Written when versions 2 and 3 were the newest: codes rng(3).integers(0, 16, (1, 24)), then (0, 4, (2, 6)); the second
# file goes on with the same dice, in two channels.
OLD = ("iUFWQ09ERQoCABoAAADAPgICCAEQAQEEAho/Pz8/Pz8/Pw1wMjI2ACGIqU8fAAAAKzEzOhgAAAAGAAAAAAAA2CwjwdmB9v3QxtVGAzOq69R9"
       "vuhFTkQuLwAAAAAAAAAYAAAAAAAAAAYAAAAAAAAATQQ9YSi1uNHQ/TDPq2NfnjJ1L/c=",
       "iUFWQ09ERQoDABsAAAACwD4CAggBEAEBBAIaPz8/Pz8/Pz8NcDIyNgBKW1n6HwAAAIAaoK8YAAAABgAAAAAAAB/w1KtYzMXvhPyoTER/8o9b"
       "Ooy8RU5ELi8AAAAAAAAAGAAAAAAAAAAGAAAAAAAAAE0EPWE0xoBiwTkQbI0d1W3sk+kK")


def test_older_code_files_are_read_and_sound_is_still_written_as_they_are(tmp_path):
    dice = np.random.default_rng(3)
    for channels, text in enumerate(OLD, start=1):
        (path := tmp_path / "old.codes").write_bytes(base64.b64decode(text))
        old = Codes.load(path)
        assert np.array_equal(old.levels[0], dice.integers(0, 16, (1, 24)))
        assert np.array_equal(old.levels[1], dice.integers(0, 4, (2, 6)))
        assert old.header == CodeHeader(8000, (2, 8), ((16,), (4, 4)), "3f" * 8, "p226", channels)
        old.save(tmp_path / "new.codes")
        assert (tmp_path / "new.codes").read_bytes() == path.read_bytes()


def picture_codes(**more) -> Codes:
    dice = np.random.default_rng(0)
    facts = {"num_samples": 96, "canvas": Canvas((8, 12), ((4, 6), (2, 3)), 17), "channels": 3} | more
    return Codes((dice.integers(0, 8, (2, 24)), dice.integers(0, 5, (1, 6))), 0, hops=(2, 4), num_codes=((8, 8), (5,)),
                 fingerprint="3f" * 8, **facts)


def test_a_broken_file_is_never_decoded(tmp_path):
    codes = picture_codes(label="3")
    codes.save(path := tmp_path / "a.codes")
    data = path.read_bytes()
    assert data[8] == 4 and Codes.load(path).header == codes.header
    broken = [data[:n] + bytes([data[n] ^ 0x11]) + data[n + 1:] for n in range(len(data))]
    for what in [*broken, *(data[:n] for n in range(len(data))), data + b"x"]:
        path.write_bytes(what)
        with pytest.raises(CodeFileError):
            Codes.load(path)


def test_no_bytes_make_a_canvas_but_such_as_can_be():
    dice, good, refused = np.random.default_rng(0), picture_codes().canvas.to_bytes(), 0
    for trial in range(2000):
        data = bytearray(good[:dice.integers(0, len(good) + 1)] if trial % 2 else dice.bytes(dice.integers(0, 40)))
        data[:1] = dice.bytes(min(1, len(data)))
        try:
            canvas, _ = Canvas.from_bytes(bytes(data))
            assert 0 < canvas.pixels <= 2**32 and len(canvas.grids) <= 17
        except CodeFileError:
            refused += 1
    assert 1000 < refused < 2000


@pytest.mark.parametrize(("more", "error"), [
    ({"canvas": Canvas((8, 12), ((4, 6),))}, "a grid for each of 2"), ({"canvas": None}, "sample rate"),
    ({"canvas": Canvas((8, 12), ((4, 6), (3, 3)))}, "are not"), ({"num_samples": 95}, "95 pixels"),
])
def test_codes_of_a_picture_that_cannot_be(more, error):
    with pytest.raises(CodeFileError, match=error):
        picture_codes(**more)


def test_a_picture_has_no_time():
    codes = picture_codes()
    for ask in (lambda: codes.seconds, lambda: codes.kbps, lambda: codes.slice(0, 1), lambda: codes.samples(0),
                lambda: Codes.concatenate([codes, codes])):
        with pytest.raises(ShapeError, match="no seconds"):
            ask()
    assert codes.nominal_bits == pytest.approx(48 * 3 + 6 * np.log2(5))


@pytest.fixture
def bad(pictures, tmp_path):
    """Files that are no picture for a model of grey 8 x 8 ones, with what must be said of each."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    whole = (pictures / "digits/0.png").read_bytes()
    Image.fromarray(np.resize(grey, (9, 8))).save(tmp_path / "odd.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    Image.merge("LA", [Image.fromarray(grey)] * 2).save(tmp_path / "clear.png")
    Image.fromarray(grey).save(tmp_path / "moves.gif", save_all=True, append_images=[Image.fromarray(grey.T)])
    (tmp_path / "colour.png").write_bytes((pictures / "colour.png").read_bytes())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.png").write_text("This is no picture.\n" * 20)
    soundfile.write(tmp_path / "sound.wav", 0.1 * np.ones(8000), 8000)
    return tmp_path, {"odd.png": "9 x 8 (height x width)", "deep.png": "mode I;16", "clear.png": "transparent",
                      "moves.gif": "2 frames", "colour.png": "RGB, wanted grey", "empty.png": "empty",
                      "cut.png": "cannot be read", "text.png": "no picture", "sound.wav": "no picture"}


def refused(capsys, words, *said):
    """Exit code 2 and one line that says what is wrong."""
    assert main(list(map(str, words))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"audiovae: {words[0]}: "), lines
    for part in said:
        assert part in lines[0], lines


def test_a_bad_picture_is_named_in_one_line_and_a_folder_goes_on(models, pictures, bad, capsys, tmp_path_factory):
    (folder, reasons), out = bad, tmp_path_factory.mktemp("out")
    for name, said in reasons.items():
        refused(capsys, ["encode", folder / name, "-o", out / "a.codes", "--model", models / "hierarchy"], name, said)
    refused(capsys, ["encode", folder / "none.png", "-o", out / "a.codes", "--model", models / "hierarchy"], "missing")
    assert not list(out.iterdir())
    write_picture(folder / "good.png", digits("test")[0][0])
    assert run("encode", folder, out, models / "hierarchy") == 2
    said = capsys.readouterr()
    names = sorted(set(reasons) - {"sound.wav"})
    assert "1 files encoded" in said.out and f"{len(names)} failed" in said.out
    listed = (out / "failed.tsv").read_text().splitlines()
    assert [Path(line.split("\t")[0]).name for line in listed] == names
    assert sorted(path.name for path in out.iterdir()) == ["failed.tsv", "good.codes"]
    os.utime(folder / "good.png", (1, 1))
    for name, words, skipped in (("hierarchy", (), 1), ("hierarchy", ("--overwrite",), 0), ("residual", (), 0),
                                 ("hierarchy", (), 0), ("hierarchy", ("--label", "3"), 0), ("hierarchy", (), 0)):
        assert run("encode", folder, out, models / name, *words) == 2
        assert f"{skipped} skipped" in capsys.readouterr().out, (name, words)


@pytest.mark.parametrize(("words", "said"), [
    (["encode", "{digit}", "--precision", "bf16"], "--precision is of sound"),
    (["decode", "{codes}", "--precision", "bf16"], "--precision is of sound"),
    (["encode", "{digit}", "--kbps", "3"], "--kbps is of sound"),
    (["encode", "{digit}", "--channel", "0"], "--channel"),
    (["encode", "{digit}", "--no-prior"], "--prior is of sound"), (["encode", "{digit}", "--block", "4"], "--block"),
    (["encode", "{digit}", "--format", "parquet", "-o", "{out}"], "--format parquet is of sound"),
    (["encode", "-", "-o", "-"], "a pipe carries sound"), (["encode", "{digit}", "--levels", "0,5"], "levels 0 to 1"),
    (["encode", "{digit}", "--label", "eleven"], "no label 'eleven'"),
    (["encode", "{digit}", "-o", "{out}/a.wav"], "as '.wav'"),
    (["encode", "{digit}", "--model", "{models}/gaussian"], "with Gaussian"),
    (["encode", "{digit}", "--model", "{models}/sound"], "of sound: name a model of pictures"),
    (["encode", "{digit}", "--model", "{models}/residual", "--label", "3"], "which is told none"),
    (["encode", "{colour}", "--model", "{models}/scalar"], "RGB"),
    (["decode", "{codes}", "--from", "1"], "--from is of sound"), (["decode", "{codes}", "--to", "1"], "--to"),
    (["decode", "{codes}", "--raw", "s16le"], "--raw"), (["decode", "{codes}", "--format", "wav"], "--format wav"),
    (["decode", "{codes}", "-o", "{out}/a.wav"], "written as .png"),
    (["decode", "{codes}", "--level", "0"], "hierarchy"),
    (["decode", "{codes}", "--speaker", "eleven"], "no label 'eleven'"), (["decode", "-"], "a pipe carries sound"),
    (["decode", "{codes}", "--model", "{models}/residual"], "codes are of model"),
    (["decode", "{codes}", "--model", "{models}/sound", "-o", "{out}/a.wav"], "codes are of model"),
    (["decode", "{codes}", "--model", "{models}/sound", "-o", "{out}/a.png"], "which is of sound"),
    (["decode", "{digit}"], "no code file"), (["decode", "{colours}", "--level", "2", "--model", "{models}/colour"],
                                             "no level 2"),
    (["decode", "{forged}"], "none that this model makes"),
])
def test_what_is_not_for_pictures_is_refused(models, pictures, tmp_path, capsys, words, said):
    PictureCodec(load_model(models / "hierarchy")).encode(digits("test")[0][0]).save(tmp_path / "a.codes")
    PictureCodec(load_model(models / "colour")).encode(torch.rand(3, 8, 8)).save(tmp_path / "c.codes")
    codes = Codes.load(tmp_path / "a.codes")
    canvas = Canvas((8, 8), ((2, 8), (2, 2)), 17)
    Codes(codes.levels, num_samples=64, **(vars(codes.header) | {"canvas": canvas})).save(tmp_path / "f.codes")
    (tmp_path / "out").mkdir()
    names = {"digit": pictures / "digits/0.png", "colour": pictures / "colour.png", "codes": tmp_path / "a.codes",
             "colours": tmp_path / "c.codes", "forged": tmp_path / "f.codes", "models": models, "out": tmp_path / "out"}
    words = [word.format(**names) for word in words]
    words += [] if "--model" in words else ["--model", models / "hierarchy"]
    words += [] if "-o" in words else ["-o", tmp_path / "out" / ("a.codes" if words[0] == "encode" else "a.png")]
    refused(capsys, words, said)
    assert not list((tmp_path / "out").iterdir())


def test_pictures_are_written_whole_or_not_at_all_and_never_over_an_original(models, pictures, tmp_path, capsys,
                                                                             monkeypatch):
    write_picture(tmp_path / "a.png", digits("test")[0][0])
    before = (tmp_path / "a.png").read_bytes()
    assert main(["encode", str(tmp_path / "a.png"), "--model", str(models / "hierarchy")]) == 0  # beside it
    refused(capsys, ["decode", tmp_path / "a.codes", "--model", models / "hierarchy"], "is there already")

    def full(self, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    words = ["decode", tmp_path / "a.codes", "-o", tmp_path / "a.png", "--model", models / "hierarchy"]
    refused(capsys, words, "no space left")
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.codes", "a.png"]


def test_pictures_that_are_grey_or_rgb_in_other_words_are_read_pixel_for_pixel(tmp_path):
    dice = np.random.default_rng(0)
    rgb, grey = dice.integers(0, 256, (6, 8, 3), np.uint8), dice.integers(0, 256, (6, 8), np.uint8)
    few = rgb // 128 * 255
    Image.fromarray(few).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([rgb, np.full((6, 8), 255, np.uint8)])).save(tmp_path / "opaque.png")
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    turned = Image.fromarray(grey)
    turned.getexif()[274] = 6  # to be shown turned by a quarter
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    assert np.array_equal(read_picture(tmp_path / "palette.png", 3), few.transpose(2, 0, 1))
    assert np.array_equal(read_picture(tmp_path / "opaque.png", 3), rgb.transpose(2, 0, 1))
    assert np.array_equal(read_picture(tmp_path / "bits.png", 1)[0], (grey > 99) * 255)
    assert np.array_equal(read_picture(tmp_path / "turned.png", 1)[0], np.rot90(grey, -1))
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path, 1)


def test_the_compression_table_counts_bits(models):
    rows = {row[0]: row[1:] for row in compression(load_model(models / "hierarchy"), (8, 8)).rows}
    assert list(rows) == ["values", "level 1", "level 0", "all levels"]
    assert rows["level 1"][:4] == ("2 × 2", 4, 3.0, 12.0) and rows["level 0"][:4] == ("4 × 4", 16, 3.0, 48.0)
    assert rows["all levels"][3] == 60 and rows["all levels"][4] == pytest.approx(64 * np.log2(17) / 60)
    rows = compression(load_model(models / "scalar"), (8, 8)).rows
    assert [row[1:3] for row in rows] == [("8 × 8", 64), ("1 × 1", 1)]
    assert not compression(load_model(models / "gaussian"), (8, 8)).rows
