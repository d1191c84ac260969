"""Codecs of several levels: chunked = whole, code files of any levels, decoding from any, one and two channels."""

import numpy as np
import pytest
import torch

from audiovae.audio.io import read_audio, stream_channels, write_audio
from audiovae.checkpoint import load_model, save_model
from audiovae.cli import main
from audiovae.codec import Codec
from audiovae.codes import CodeReader, Codes
from audiovae.config import from_dict
from audiovae.errors import AudioError, CheckpointError, CodeFileError, ConfigError, LabelError, ShapeError
from audiovae.level_codec import HierarchyCodec, MultiresCodec, codec_of, folded, open_codec
from audiovae.models import AutoencoderConfig, HierarchicalConfig, MultiresConfig
from audiovae.shapes import Condition, DataSpec
from audiovae.transcode import Recording, encode_file

RATE = 8000
ROW = {"width": 6, "depth": 2, "growth": 2, "num_codes": 16, "dim": 4}
APART = {"kind": "multires", "levels": [{"strides": [2, 2], **ROW}, {"strides": [4, 4], **ROW, "num_quantizers": 2},
                                        {"strides": [4, 4, 4], **ROW}]}
STACKED = {"kind": "hierarchical", "levels": [{"strides": [2, 2], **ROW}, {"strides": [4], **ROW},
                                              {"strides": [2], **ROW, "num_quantizers": 2}]}


def config(table):
    return from_dict(MultiresConfig if table["kind"] == "multires" else HierarchicalConfig, table)


def build(table, channels=1, labels=()):
    """A random model whose codebooks are drawn from its own latents, so that many codes are used."""
    torch.manual_seed(1)
    model = config(table).build(DataSpec(channels, 1, RATE, labels))
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(4, channels, 64 * 40))
    return model.eval()


@pytest.fixture(params=["apart", "stacked"])
def table(request):
    return {"apart": APART, "stacked": STACKED}[request.param]


@pytest.fixture
def folder(table, tmp_path):
    """A checkpoint of such a model."""
    (path := tmp_path / "model").mkdir()
    save_model(path, build(table), config(table))
    return path


def test_one_channel_of_a_recording_is_given_to_both_of_a_codec(tmp_path):
    codec = codec_of(build(APART, 2))
    write_audio(tmp_path / "two.wav", 0.1 * torch.randn(2, 64 * 45 + 1), RATE)
    its = read_audio(tmp_path / "two.wav", channel=1)[0]
    got = torch.cat(list(Recording(tmp_path / "two.wav", codec, channel=1)), dim=1)
    assert torch.equal(got, its.expand(2, -1))
    encode_file(codec, tmp_path / "two.wav", tmp_path / "one.codes", channel=1)
    assert Codes.load(tmp_path / "one.codes").num_samples == 64 * 45 + 1


@pytest.mark.parametrize("channels", [1, 2])
def test_cut_anywhere_gives_the_codes_and_the_sound_of_the_whole(table, channels):
    model = build(table, channels)
    codec = codec_of(model, beam=1)
    codec.block = 3
    wave = torch.randn(channels, 64 * 45)
    whole = model.encode_levels(wave[None])
    sound = model.decode_levels(whole)[0]
    assert all(len(level.unique()) > 8 for level in whole)
    given = wave if channels > 1 else wave[0]
    for size in (wave.shape[-1], 1000, 77):
        blocks = list(codec.encode_blocks(given.split(size, dim=-1)))
        levels = [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]
        assert [np.array_equal(a, b[0]) for a, b in zip(levels, whole, strict=True)] == [True] * 3
    assert len(blocks) > 3
    cuts = [tuple(level[:, i * 64 // hop:(i + 5) * 64 // hop] for level, hop in zip(levels, codec.hops, strict=True))
            for i in range(0, 45, 5)]
    pieces = list(codec.decode_blocks(cuts, lambda: wave.shape[-1] - 7))
    joined = torch.cat(pieces, dim=-1)
    assert joined.shape == given[..., :-7].shape and len(pieces) > 3
    torch.testing.assert_close(joined.view(channels, -1), sound[..., :-7], rtol=1e-4, atol=1e-5)


def test_a_halo_one_step_short_would_be_heard():
    """The halos are needed: with less, blocks of the hierarchy are no longer the whole."""
    codec = HierarchyCodec(build(STACKED))
    codec.block = 3
    wave = torch.randn(32 * 45)
    whole = codec.model.encode_levels(wave[None, None], beam=codec.beam)
    codec._encoder_halo = (0, 0)
    levels = [np.concatenate(parts, axis=1) for parts in zip(*codec.encode_blocks([wave]), strict=True)]
    assert not all(np.array_equal(a, b[0]) for a, b in zip(levels, whole, strict=True))


def test_pieces_are_held_no_longer_than_the_slowest_block():
    """Constant memory: what has been taken from a long recording is never far beyond what every level has given."""
    codec, taken, given = MultiresCodec(build(APART)), [0], [0, 0, 0]
    codec.block = 4

    def pieces():
        for _ in range(400):
            taken[0] += 100
            yield torch.randn(100)

    furthest = 0
    for block in codec.encode_blocks(pieces()):
        given = [n + its.shape[1] * hop for n, its, hop in zip(given, block, codec.hops, strict=True)]
        furthest = max(furthest, taken[0] - min(given))
    slowest = codec.parts[-1]
    assert min(given) >= 40000 and furthest <= (slowest.block + 2 * sum(slowest._halos[0])) * 64 + 2000


@pytest.mark.parametrize("channels", [1, 2])
def test_the_file_says_all_and_any_level_decodes(tmp_path, channels):
    codec = MultiresCodec(build(APART, channels), beam=1)
    wave = torch.randn(channels, 9001)
    codes = codec.encode(wave, RATE)
    codes.save(path := tmp_path / "a.codes")
    again = Codes.load(path)
    assert (again.hops, again.num_codes, again.channels) == ((4, 16, 64), ((16,), (16, 16), (16,)), channels)
    assert [level.shape for level in again.levels] == [(1, 2251), (2, 563), (1, 141)]
    for level in (0, 1, 2):
        sound, alone = codec.decode(again, level=level), codec.model.each[level]
        padded = torch.nn.functional.pad(wave, (0, -9001 % alone.hop))
        torch.testing.assert_close(sound.view(channels, -1), alone.reconstruct(padded[None])[0, :, :9001],
                                   rtol=1e-4, atol=1e-5)
        part = codec.decode(again, level=level, start=0.3, stop=0.5)
        assert torch.equal(part, sound[..., 2400:4000])
    assert torch.equal(codec.decode(again), codec.decode(again, level=0))
    some = MultiresCodec(codec.model, [1, 2], beam=1)
    few = some.encode(wave, RATE)
    assert few.hops == (16, 64) and torch.equal(codec.decode(few), codec.decode(codes, level=1))
    with pytest.raises(ConfigError, match="no level 0 in these codes, which hold 1, 2"):
        codec.decode(few, level=0)
    again.export(tmp_path / "a.npz")
    assert torch.equal(codec.decode(Codes.load(tmp_path / "a.npz"), level=2), codec.decode(again, level=2))


def test_two_channels_are_told_from_one_by_the_file_alone(tmp_path):
    """A mono file is what earlier versions read; the count of a stereo one is sealed with the rest."""
    for channels in (1, 2):
        MultiresCodec(build(APART, channels)).encode(torch.randn(channels, 800), RATE).save(tmp_path / f"{channels}")
    assert [(tmp_path / str(c)).read_bytes()[8] for c in (1, 2)] == [2, 3]  # the version
    with CodeReader(tmp_path / "2") as reader:
        assert reader.header.channels == 2 and sum(level.size for block in reader for level in block) > 0
    data = bytearray((tmp_path / "2").read_bytes())
    data[14] = 1
    (tmp_path / "2").write_bytes(data)
    with pytest.raises(CodeFileError, match="its header was changed"):
        Codes.load(tmp_path / "2")


def test_a_hierarchy_is_decoded_from_all_of_it(tmp_path):
    codec = HierarchyCodec(build(STACKED))
    wave = torch.randn(5001)
    codes = codec.encode(wave, RATE)
    assert codes.hops == (4, 16, 32) and [level.shape[1] for level in codes.levels] == [157 * 8, 157 * 2, 157]
    sound = codec.decode(codes)
    assert sound.shape == wave.shape and torch.equal(codec.decode(codes, start=0.2, stop=0.4), sound[1600:3200])
    with pytest.raises(ConfigError, match="decoded from all its 3 levels: leave --level out"):
        codec.decode(codes, level=1)
    with pytest.raises(ConfigError, match="decoded from all its 3 levels: leave --levels"):
        codec_of(codec.model, [0, 2])
    assert codec_of(codec.model, [0, 1, 2]).levels == (0, 1, 2)


def test_a_hierarchy_searches_as_widely_as_told():
    """Its top, of two codebooks, comes nearer by a beam."""
    model, wave = build(STACKED), torch.randn(32 * 60)
    top = model._bottlenecks[-1]
    h = model.into[-1](model._up(wave[None, None])[-1]).detach()
    distance = {}
    for beam in (1, 4):
        codes = torch.from_numpy(codec_of(model, beam=beam).encode(wave, RATE).levels[-1])[None]
        assert torch.equal(codes, top.encode(h, beam=beam))
        distance[beam] = float((top.decode(codes) - h).square().mean())
    assert distance[4] < distance[1]
    with pytest.raises(ConfigError, match="a beam of 1 or more, got 0"):
        codec_of(model, beam=0)


def test_bfloat16_reaches_the_levels_that_have_linear_layers(tmp_path, capsys):
    """A level that is a whole model of spectral stacks has them; strided levels and hierarchies are refused."""
    alike = {"kind": "spectral", "n_fft": 128, "width": 8, "depth": 1}
    parts = {"kind": "autoencoder", "encoder": alike | {"mel_hop": 32, "num_mels": 12}, "decoder": alike | {"hop": 64},
             "bottleneck": {"kind": "vq", "num_codes": 8, "dim": 4}}
    model = build({"kind": "multires", "levels": [parts]})
    lean = codec_of(model, precision="bf16")
    assert {p.dtype for p in lean.at(0).model.parameters()} == {torch.float32, torch.bfloat16}
    assert lean.fingerprint == codec_of(model).fingerprint
    for table in (APART, STACKED):
        with pytest.raises(ConfigError, match="has none: leave it at 'no'"):
            codec_of(build(table), precision="bf16")
    (folder := tmp_path / "model").mkdir()
    save_model(folder, build(STACKED), config(STACKED))
    write_audio(tmp_path / "a.wav", 0.1 * torch.randn(1, 6400), RATE)
    call = ["encode", str(tmp_path / "a.wav"), "--model", str(folder), "-o"]
    assert main([*call, str(tmp_path / "a.codes"), "--precision", "bf16"]) == 2
    assert "a hierarchy has none" in capsys.readouterr().err
    for beam in (1, 4):
        assert main([*call, str(tmp_path / f"{beam}.npz"), "--beam", str(beam)]) == 0
        wave = read_audio(tmp_path / "a.wav")[0][0]
        wanted = codec_of(load_model(folder), beam=beam).encode(wave, RATE)
        assert all(np.array_equal(a, b) for a, b in zip(Codes.load(tmp_path / f"{beam}.npz").levels, wanted.levels,
                                                        strict=True))


def test_a_hierarchys_codec_knows_its_voices():
    table = STACKED | {"condition_dim": 4}
    model = build(table, labels=("anna", "bert"))
    for stack in model.decoders:
        for p in stack.parameters():
            p.data.add_(0.05)  # as at the start a condition changes nothing
    codec = HierarchyCodec(model)
    codes = codec.encode(torch.randn(2000), RATE, "bert")
    told = model.decode_levels([torch.from_numpy(level)[None] for level in codes.levels], Condition(torch.tensor([1])))
    torch.testing.assert_close(codec.decode(codes), told[0, 0, :2000], rtol=1e-4, atol=1e-5)
    assert codec.encode(torch.randn(2000), RATE).label in ("anna", "bert")
    with pytest.raises(LabelError, match="no speaker 'carl' in this model"):
        codec.encode(torch.randn(2000), RATE, "carl")


def test_one_level_has_the_codec_it_had():
    model = AutoencoderConfig().build(DataSpec(1, 1, 16000))
    assert type(codec_of(model, [0])) is Codec
    with pytest.raises(ConfigError, match="no levels 1: this model has levels 0 to 0"):
        codec_of(model, [1])
    with pytest.raises(CheckpointError, match="LevelCodec"):
        Codec(build(APART))
    with pytest.raises(CheckpointError, match="a model of waveforms"):
        codec_of(from_dict(HierarchicalConfig, {}).build(DataSpec(1, 2, size=(8, 8))))
    codec = Codec(model)
    codes = codec.encode(torch.randn(4000), 16000)
    assert torch.equal(codec.decode(codes, level=0), codec.decode(codes))
    with pytest.raises(ConfigError, match="no level 2: this model has level 0 alone"):
        codec.decode(codes, level=2)


def test_bad_waveforms_are_refused(table):
    codec = codec_of(build(table, channels=2))
    for wave, error, told in ((torch.randn(3, 800), ShapeError, "2 channels, or one for all"),
                              (torch.randn(2, 20), AudioError, "shorter than one step of the slowest level"),
                              (torch.full((2, 800), torch.nan), AudioError, "NaN")):
        with pytest.raises(error, match=told):
            codec.encode(wave, RATE)
    mono = torch.randn(800)
    assert all(np.array_equal(a, b) for a, b in zip(codec.encode(mono, RATE).levels,
                                                   codec.encode(mono.expand(2, -1), RATE).levels, strict=True))


def test_folded_codes_are_a_slower_levels_rows():
    codes = torch.arange(24).view(1, 2, 12)
    rows = folded(codes, 3)
    for step in range(4):
        assert rows[0, :, step].tolist() == [codes[0, q, step * 3 + i] for q in range(2) for i in range(3)]


def test_channels_are_read_as_they_come(tmp_path):
    wave = torch.rand(2, 5000) - 0.5
    write_audio(tmp_path / "x.wav", wave, 16000)
    read = torch.cat(list(stream_channels(tmp_path / "x.wav", 2, block_seconds=0.1)), dim=1)
    torch.testing.assert_close(read, wave, rtol=0, atol=1e-4)
    slow = torch.cat(list(stream_channels(tmp_path / "x.wav", 2, 8000, 0.1)), dim=1)
    for channel in (0, 1):
        assert torch.equal(slow[channel], read_audio(tmp_path / "x.wav", 8000, channel)[0][0])
    with pytest.raises(AudioError, match="has 2 channels: wanted 1 or 3"):
        list(stream_channels(tmp_path / "x.wav", 3))


def test_the_commands_take_models_of_several_levels(folder, table, tmp_path, capsys):
    source, apart = tmp_path / "x.wav", table is APART
    write_audio(source, 0.3 * torch.randn(1, 9000), RATE)
    assert main(["encode", str(source), "-o", str(tmp_path / "x.codes"), "--model", str(folder)]) == 0
    codec = open_codec(folder)
    codes = Codes.load(tmp_path / "x.codes")
    assert all(np.array_equal(a, b) for a, b in zip(
        codes.levels, codec.encode(read_audio(source)[0][0], RATE).levels, strict=True))
    assert main(["decode", str(tmp_path / "x.codes"), "-o", str(tmp_path / "y.wav"), "--model", str(folder)]) == 0
    assert read_audio(tmp_path / "y.wav")[0].shape == (1, 9000)
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "x.codes")]) == 0
    assert "level 2" in capsys.readouterr().out
    assert main(["inspect", str(folder)]) == 0
    told = capsys.readouterr().out
    assert all(f"level {number}" in told for number in range(3)) and "kbit/s" in told
    level = ["decode", str(tmp_path / "x.codes"), "-o", str(tmp_path / "z.wav"), "--model", str(folder), "--level", "2"]
    some = ["encode", str(source), "-o", str(tmp_path / "s.codes"), "--model", str(folder), "--levels", "1,2"]
    assert (main(level), main(some)) == ((0, 0) if apart else (2, 2))
    if apart:
        torch.testing.assert_close(read_audio(tmp_path / "z.wav")[0][0], codec.decode(codes, level=2).clamp(-1, 1),
                                   rtol=0, atol=1e-4)
        assert Codes.load(tmp_path / "s.codes").hops == (16, 64)
    for more in (["--levels", "3"], ["--levels", "x"], ["--kbps", "3"], ["--format", "parquet"]):
        out = str(tmp_path / "folder") if "--format" in more else str(tmp_path / "t.codes")
        capsys.readouterr()
        assert main(["encode", str(source), "-o", out, "--model", str(folder), *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_of_recordings_goes_on_where_it_stopped(folder, tmp_path, capsys):
    for name in "ab":
        write_audio(tmp_path / "in" / f"{name}.wav", 0.3 * torch.randn(1, 2000), RATE)
    command = ["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(folder)]
    assert main(command) == 0
    assert main(command) == 0
    assert "2 skipped" in capsys.readouterr().out


def test_stereo_through_files(tmp_path, capsys):
    (folder := tmp_path / "model").mkdir()
    save_model(folder, build(APART, 2), config(APART))
    write_audio(tmp_path / "x.wav", 0.3 * torch.randn(2, 4000), RATE)
    assert main(["encode", str(tmp_path / "x.wav"), "-o", str(tmp_path / "x.codes"), "--model", str(folder)]) == 0
    assert main(["decode", str(tmp_path / "x.codes"), "-o", str(tmp_path / "y.wav"), "--model", str(folder)]) == 0
    sound = torch.cat(list(stream_channels(tmp_path / "y.wav", 2)), dim=1)
    assert sound.shape == (2, 4000) and not torch.allclose(sound[0], sound[1], atol=1e-3)
    assert main(["decode", str(tmp_path / "x.codes"), "-o", "-", "--model", str(folder)]) == 2
    assert "a pipe carries one channel" in capsys.readouterr().err
