"""Pictures: what is drawn when, how parts stay apart, what is read from files, and the exact outlines of shapes."""

import contextlib
import math
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from audiovae.audio.corpus import Corpus
from audiovae.audio.spectrogram import unit_log_mel
from audiovae.config import from_dict
from audiovae.data import DataConfig
from audiovae.errors import ConfigError, CorpusError, ExtraError, ShapeError
from audiovae.image import torchvision_sets
from audiovae.image.archive import read_archive
from audiovae.image.digits import digits, read_digits
from audiovae.image.folder import read_folder
from audiovae.image.pictures import Part, Pictures, carve, numbered, three_parts
from audiovae.image.sets import ArchiveData, CIFAR10Data, DigitsData, FashionMNISTData, MNISTData, ShapesData
from audiovae.image.shapes import COMBINATIONS, COUNTS, REACH, combinations, draw, draw_shapes
from audiovae.image.source import ImageData, ImageSource, keep_labels
from audiovae.models import AutoencoderConfig
from audiovae.shapes import Condition, MelSpec
from audiovae.spectrogram_data import SpectrogramData

GREY = read_digits()


def source(seed=0, **options) -> ImageSource:
    return ImageSource(GREY, ImageData(**options), seed)


# what is drawn, and when

@pytest.mark.parametrize("options", [{}, {"binarize": "dynamic"}, {"labelled": 20}], ids=str)
def test_a_batch_is_a_function_of_seed_step_and_rank(options):
    first, again = source(**options), source(**options)
    again.batch(0), again.batch(9)  # what was drawn before is of no matter
    batch = first.batch(3, rank=1)
    assert torch.equal(batch.x, again.batch(3, rank=1).x)
    assert batch.names == again.batch(3, rank=1).names
    for other in (again.batch(4, rank=1), again.batch(3, rank=0), source(seed=1, **options).batch(3, rank=1)):
        assert not torch.equal(batch.x, other.x)


def test_a_training_batch_shows_the_pictures_and_labels_it_names():
    batch = source(batch_size=50).batch(0)
    index = torch.tensor([GREY.train.names.index(name) for name in batch.names])
    assert torch.equal(batch.x * 16, GREY.train.pixels[index].float())
    assert torch.equal(batch.condition.label, GREY.train.label[index])


def test_training_draws_every_picture_alike():
    """1,439 pictures, 100 batches of 1,000: chi-squared stays within five deviations of its mean."""
    train, counts = source(batch_size=1000), torch.zeros(len(GREY.train))
    index = {name: i for i, name in enumerate(GREY.train.names)}
    for step in range(100):
        counts += torch.bincount(torch.tensor([index[n] for n in train.batch(step).names]), minlength=len(counts))
    mean = 1e5 / len(counts)
    assert float(((counts - mean) ** 2 / mean).sum()) == pytest.approx(len(counts), abs=5 * math.sqrt(2 * len(counts)))


@pytest.mark.parametrize("binarize", ["none", "dynamic", "threshold"])
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_evaluation_sees_each_picture_once_whatever_the_batches(name, binarize):
    one = source(binarize=binarize)
    whole, other = one.part(name), source(seed=5, binarize=binarize)
    for size in (1, 100, 10_000) if name == "valid" else (100,):
        batches = list(other.batches(name, size=size))
        assert torch.equal(torch.cat([b.x for b in batches]), whole.x)
        assert sum((b.names for b in batches), ()) == whole.names == getattr(GREY, name).names
        lengths = [len(b.x) for b in batches]
        assert max(lengths) <= size and max(lengths) - min(lengths) <= 1
    assert torch.equal(one.part(name).x, whole.x)


def test_validation_batches_are_spread_over_the_part():
    part = GREY.valid.take(torch.arange(1000) % 179)
    many = ImageSource(replace(GREY, valid=replace(part, names=numbered("n", range(1000)))),
                       ImageData(validation_batches=2), seed=0)
    places = [int(name.split()[1]) for batch in many.validation() for name in batch.names]
    assert len(places) == len(set(places)) == 512
    assert np.diff(places).max() <= 2 and places[-1] >= 997
    assert sum(len(b.x) for b in source(validation_batches=9).validation()) == 179


def test_dynamic_binarisation_has_the_grey_picture_for_mean_and_is_fresh():
    """4,000 draws of one picture: every pixel's mean within five standard errors; step by step another draw."""
    grey = GREY.train.take(torch.tensor([7]))
    one = ImageSource(replace(GREY, train=grey), ImageData(binarize="dynamic", batch_size=400), seed=0)
    draws = torch.cat([one.batch(step).x for step in range(10)])
    p = grey.pixels[0].float() / 16
    error = (p * (1 - p) / len(draws)).sqrt()
    assert ((draws.mean(0) - p).abs() <= 5 * error).all()
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(one.batch(0).x, one.batch(1).x)
    assert len(draws[:50].unique(dim=0)) > 45  # and within a batch
    assert one.spec.levels == 2


def test_the_fixed_draw_is_a_fair_one():
    valid = source(binarize="dynamic").part("valid").x
    p = GREY.valid.pixels.float() / 16
    assert abs(float((valid - p).sum())) <= 5 * float((p * (1 - p)).sum().sqrt())


def test_a_threshold_takes_half_the_light_and_more():
    one = source(binarize="threshold")
    assert torch.equal(one.part("test").x, (GREY.test.pixels >= 8).float())
    assert one.spec.levels == 2
    assert source().spec.levels == 17


def test_the_digits_are_the_fractions_they_were():
    x, label = digits("valid")
    whole = source().part("valid")
    assert torch.equal(x, whole.x) and torch.equal(label, whole.condition.label)


# few labels

@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_share_of_labelled_examples_is_exact(share):
    one = source(labelled=50, labelled_share=share, batch_size=64)
    shown = set()
    for step in range(60):
        batch = one.batch(step)
        count = round(64 * share)
        assert (batch.condition.label[:count] >= 0).all() and (batch.condition.label[count:] == -1).all()
        shown |= {*batch.names[:count]}
        assert not shown & {*batch.names[count:]}  # a labelled one is never shown as if it had none
    assert len(shown) == 50
    truth = dict(zip(GREY.train.names, GREY.train.label.tolist(), strict=True))
    assert np.bincount([truth[name] for name in shown]).tolist() == [5] * 10


def test_labels_are_chosen_by_seed_and_hidden_in_no_other_part():
    one, other = (source(seed=seed, labelled=50).part("train").condition.label for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, source(labelled=50).part("train").condition.label)
    assert ((one == -1) | (one == GREY.train.label)).all()
    assert torch.equal(source(labelled=50).part("test").condition.label, GREY.test.label)


@pytest.mark.parametrize("options", [{"labelled": 15}, {"labelled": 0}, {"labelled": 5000}, {"batch_size": 0},
                                     {"validation_batches": 0}, {"labelled": 10, "labelled_share": 0.0},
                                     {"labelled": 10, "labelled_share": 1.5}], ids=str)
def test_numbers_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match=r"data\.\w+"):
        source(**options)


def test_a_set_all_of_which_is_labelled_needs_no_choice():
    label = torch.arange(20) % 2
    assert torch.equal(keep_labels(label, classes=2, count=20, seed=0), label)
    part = Part(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), label, numbered("n", range(20)))
    with pytest.raises(ConfigError, match="leaves no picture without a label"):
        ImageSource(Pictures(part, part, part, labels=("a", "b")), ImageData(labelled=20), seed=0)


# parts

def test_carving_keeps_every_picture_once():
    for count, held in ((10, 1), (1000, 100), (60_000, 5000)):
        part = Part(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count), numbered("n", range(count)))
        rest, taken = carve(part)
        assert len(taken) == held
        assert sorted([*rest.label.tolist(), *taken.label.tolist()]) == list(range(count))
        assert torch.equal(carve(part)[1].label, taken.label)
    train, valid, test = three_parts(part)
    assert len({*train.names, *valid.names, *test.names}) == count


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_pictures_are_refused(count):
    part = GREY.train.take(torch.arange(count))
    with pytest.raises(CorpusError, match="too few"):
        carve(part)


def test_parts_must_fit_each_other():
    with pytest.raises(ShapeError, match="uint8"):
        Part(torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), ("a", "b"))
    with pytest.raises(ShapeError, match="one name a picture"):
        Part(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), ("a",))
    with pytest.raises(CorpusError, match="empty"):
        GREY.train.take(torch.arange(0))
    with pytest.raises(ShapeError, match="one size"):
        replace(GREY, test=replace(GREY.test, pixels=GREY.test.pixels[..., :4]))
    with pytest.raises(ShapeError, match="hop 3"):
        source().fit(3)


# archives

@pytest.mark.parametrize("layout", ["N H W", "N H W C", "N C H W"])
def test_an_archive_comes_back_whatever_its_layout(layout, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), np.uint8)
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
    if layout == "N H W":
        pixels = pixels[:, :1]
    stored = {"N H W": x[..., 0], "N H W C": x, "N C H W": x.transpose(0, 3, 1, 2)}[layout]
    y = np.arange(60) % 4
    np.savez(tmp_path / "a.npz", x_train=stored[:50], y_train=y[:50], x_test=stored[50:], y_test=y[50:])
    got = read_archive(tmp_path / "a.npz")
    assert torch.equal(got.test.pixels, pixels[50:])
    assert (len(got.train), len(got.valid), got.levels, got.labels) == (45, 5, 256, ("0", "1", "2", "3"))
    for part in (got.train, got.valid):
        index = torch.tensor([int(name.split()[1]) for name in part.names])
        assert torch.equal(part.pixels, pixels[index]) and torch.equal(part.label, torch.from_numpy(y)[index])
    assert not {*got.train.names} & {*got.valid.names}


def test_embeddings_in_an_archive_go_with_their_pictures_and_reach_the_decoder(tmp_path):
    dice = np.random.default_rng(0)
    own = dice.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=own, e=own.reshape(60, -1)[:, :3] / 255)  # each tells its own first three pixels
    source = ArchiveData(path=str(tmp_path / "a.npz"), batch_size=16).build(seed=0)
    assert source.spec.embedding == 3
    for batch in (source.batch(5), *source.validation(), source.part("test")):
        torch.testing.assert_close(batch.condition.embedding, batch.x.flatten(1)[:, :3])
    part = {"kind": "mlp", "widths": [8]}
    model = from_dict(AutoencoderConfig, {"encoder": part, "decoder": part, "condition_dim": 4, "label_dropout": 0.0,
                                          "bottleneck": {"kind": "gaussian", "dim": 2}}).build(source.spec)
    told = torch.rand(1, 3, requires_grad=True)
    model.params(torch.zeros(1, 2, 1, 1), Condition(embedding=told)).sum().backward()
    assert told.grad.abs().min() > 0


def test_an_archive_of_ones_and_zeros_has_two_levels_and_may_lack_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((40, 4, 4)) > 0.5)
    got = read_archive(tmp_path / "a.npz")
    assert (got.levels, got.labels, got.train.label.unique().tolist()) == (2, (), [-1])
    assert len(got.train) + len(got.valid) + len(got.test) == 40
    assert torch.equal(ImageSource(got, ImageData(), 0).part("test").x, got.test.pixels.float())


BAD = {
    "other keys": ({"images": np.zeros((20, 4, 4), np.uint8)}, r"x_train.*images uint8 \(20, 4, 4\)"),
    "fractions": ({"x": np.zeros((20, 4, 4))}, "uint8 levels, got float64.*scale"),
    "not finite": ({"x": np.full((20, 4, 4), np.nan)}, "not finite"),
    "two colours": ({"x": np.zeros((20, 4, 4, 2), np.uint8)}, r"C 1 or 3, got \(20, 4, 4, 2\)"),
    "no telling": ({"x": np.zeros((20, 3, 4, 3), np.uint8)}, "cannot be told"),
    "flat": ({"x": np.zeros((20, 16), np.uint8)}, r"got \(20, 16\)"),
    "empty": ({"x": np.zeros((0, 4, 4), np.uint8)}, "empty"),
    "too few": ({"x": np.zeros((4, 4, 4), np.uint8)}, "too few"),
    "labels of another length": ({"x": np.zeros((20, 4, 4), np.uint8), "y": np.zeros(3, int)}, "y wants 20"),
    "labels that are no whole numbers": ({"x": np.zeros((20, 4, 4), np.uint8), "y": np.zeros(20)}, "whole numbers"),
    "embeddings": ({"x": np.zeros((20, 4, 4), np.uint8), "e": np.full((20, 2), np.nan)}, "e wants finite embeddings"),
    "labels beyond all kinds": ({"x": np.zeros((20, 4, 4), np.uint8), "y": np.full(20, 3 * 10**9)}, "up to 3000000000"),
    "labels that would wrap": ({"x": np.zeros((20, 4, 4), np.uint8), "y": np.full(20, 2**63, np.uint64)}, "y wants 20"),
    "objects": ({"x": np.array([{}, 1], object)}, "no .npz file of plain numbers"),
    "only test": ({"x_test": np.zeros((20, 4, 4), np.uint8)}, "x_train"),
    "valid, no test": ({"x_train": np.zeros((20, 4, 4), np.uint8), "x_valid": np.zeros((20, 4, 4), np.uint8)},
                       "no x_test"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_of_another_kind_is_told_in_one_line(case, tmp_path):
    arrays, message = BAD[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CorpusError, match=message) as error:
        read_archive(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_an_archive_with_a_member_that_is_no_array_or_damaged_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", b"no array")
    with pytest.raises(CorpusError, match=r"no .npz file of plain numbers"):
        read_archive(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", x=np.random.default_rng(0).integers(0, 256, (50, 9, 9)).astype(np.uint8))
    whole = (tmp_path / "b.npz").read_bytes()
    for place in range(60, len(whole) - 200, 97):  # a bit flips: refused, or read with one pixel changed
        (tmp_path / "c.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        with contextlib.suppress(CorpusError):
            read_archive(tmp_path / "c.npz")


def test_numbers_of_pictures_can_be_text_as_on_a_command_line(tmp_path):
    write_folder(tmp_path, count=24)
    for values, channels in (({"kind": "shapes", "side": "32", "count": "40"}, 1),
                             ({"kind": "folder", "path": str(tmp_path), "size": "8", "channels": "1"}, 1)):
        assert from_dict(DataConfig, values).build(seed=0).spec.channels == channels
    for values in ({"kind": "shapes", "side": 48}, {"kind": "folder", "path": str(tmp_path), "channels": 2}):
        with pytest.raises(ConfigError, match="wants"):
            from_dict(DataConfig, values).build(seed=0)


def test_pictures_of_more_than_8_bits_are_left_out_not_cut_off(tmp_path):
    write_folder(tmp_path, count=24)
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(tmp_path / "floats.tiff")
    with pytest.warns(UserWarning, match=r"2 of 26 files.*wanted 8 bits"):
        read_folder(tmp_path, 8, 1)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CorpusError, match="npz"):
        read_archive(tmp_path / "a.npz")


# folders

def write_folder(folder, count=30, size=(9, 7), mode="RGB"):
    x = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    for i, pixels in enumerate(x):
        path = folder / ("cat", "dog")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
    return x


def test_a_folder_of_squares_comes_back_pixel_by_pixel(tmp_path):
    x = write_folder(tmp_path, size=(8, 8))
    got = read_folder(tmp_path, size=8)
    assert got.labels == ("cat", "dog")
    assert len({*got.train.names, *got.valid.names, *got.test.names}) == 30
    for part in (got.train, got.valid, got.test):
        for pixels, label, name in zip(part.pixels, part.label, part.names, strict=True):
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), x[int(name[4:6])])
            assert name.startswith(got.labels[label])


def test_a_picture_is_cut_to_its_middle_square(tmp_path):
    x = write_folder(tmp_path, size=(12, 8))
    got = read_folder(tmp_path, size=8)
    assert np.array_equal(got.train.pixels[0].permute(1, 2, 0).numpy(), x[int(got.train.names[0][4:6])][:, 2:10])


def test_a_folder_with_parts_keeps_them_and_can_be_grey(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", count=4)
    got = read_folder(tmp_path, size=6, channels=1)
    assert (len(got.train), len(got.valid), len(got.test)) == (27, 3, 4)
    assert got.train.pixels.shape[1:] == (1, 6, 6)
    assert got.labels == ("cat", "dog")


def test_bad_files_are_left_out_with_one_warning_and_all_bad_is_an_error(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "cat/90.png").write_bytes(b"no picture")
    (tmp_path / "cat/91.png").write_bytes((tmp_path / "cat/00.png").read_bytes()[:60])
    with pytest.warns(UserWarning, match=r"2 of 32 files cannot be read.*first cat/90.png") as caught:
        got = read_folder(tmp_path, size=8)
    assert len(caught) == 1
    assert len(got.train) + len(got.valid) + len(got.test) == 30
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.png").write_bytes(b"no picture")
    with pytest.raises(CorpusError, match="none of 1 files"):
        read_folder(other, size=8)


def test_a_folder_that_is_not_there_or_holds_nothing_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="missing"):
        read_folder(tmp_path / "no", size=8)
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(CorpusError, match="is a file"):
        read_folder(tmp_path / "file.txt", size=8)
    with pytest.raises(CorpusError, match="holds no picture"):
        read_folder(tmp_path, size=8)


# torchvision's sets, from files written here

def write_idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


@pytest.mark.parametrize(("config", "folder"), [(MNISTData, "MNIST"), (FashionMNISTData, "FashionMNIST")])
def test_idx_files_come_back(config, folder, tmp_path):
    pytest.importorskip("torchvision")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 28, 28), np.uint8), rng.integers(0, 10, 60, np.uint8)
    for name, rows in (("train", slice(0, 50)), ("t10k", slice(50, 60))):
        write_idx(tmp_path / folder / f"raw/{name}-images-idx3-ubyte", x[rows])
        write_idx(tmp_path / folder / f"raw/{name}-labels-idx1-ubyte", y[rows])
    got = config(root=str(tmp_path)).build(seed=0)
    assert got.spec.size == (28, 28) and len(got.spec.labels) == 10 and got.spec.levels == 256
    assert np.array_equal(got.parts["test"].pixels[:, 0], x[50:])
    assert np.array_equal(got.parts["test"].label, y[50:])
    assert (len(got.parts["train"]), len(got.parts["valid"])) == (45, 5)
    index = [int(name.split()[-1]) for name in got.parts["train"].names]
    assert np.array_equal(got.parts["train"].pixels[:, 0], x[index])
    (tmp_path / folder / "raw/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03cut")
    with pytest.raises(CorpusError, match=folder):
        config(root=str(tmp_path)).read()


def test_faces_are_read_cropped_and_labelled(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)  # these are not the true files
    base = tmp_path / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(6)]
    for i, name in enumerate(names):  # bright in the middle 148 x 148 alone
        frame = np.zeros((218, 178, 3), np.uint8)
        frame[35:183, 15:163] = 40 * i + 20
        Image.fromarray(frame).save(base / "img_align_celeba" / name, quality=100)
    (base / "list_eval_partition.txt").write_text("".join(f"{n} {i // 2}\n" for i, n in enumerate(names)))
    for file, columns in (("identity_CelebA.txt", None), ("list_bbox_celeba.txt", "image_id x y"),
                          ("list_landmarks_align_celeba.txt", "x y"), ("list_attr_celeba.txt", "Bald Smiling")):
        head = f"6\n{columns}\n" if columns else ""
        (base / file).write_text(head + "".join(f"{n} {-1} {1 if i % 2 else -1}\n" for i, n in enumerate(names)))
    got = torchvision_sets.read_celeba(tmp_path, size=16, attribute="Smiling")
    assert got.labels == ("not Smiling", "Smiling")
    assert [part.label.tolist() for part in (got.train, got.valid, got.test)] == [[0, 1]] * 3
    assert got.valid.pixels.shape == (2, 3, 16, 16)
    assert (got.valid.pixels[1].float().mean() - 140).abs() < 4
    with pytest.raises(CorpusError, match=r"no attribute 'Smile'; nearest: Smiling"):
        torchvision_sets.read_celeba(tmp_path, attribute="Smile")


def test_a_set_that_is_missing_or_without_its_reader_is_told(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    with pytest.raises(CorpusError, match=r"CIFAR10 cannot be read.*download = true"):
        CIFAR10Data(root=str(tmp_path)).read()
    with pytest.raises(ConfigError, match=r"data\.root is not set"):
        CIFAR10Data().read()
    monkeypatch.setitem(__import__("sys").modules, "torchvision.datasets", None)
    with pytest.raises(ExtraError, match=r"audiovae\[images\]"):
        MNISTData(root=str(tmp_path)).read()


# shapes

def by_loop(row: list[int], side: int) -> np.ndarray:
    """One picture, one pixel at a time, in double precision."""
    shape, scale, turn, x, y = row
    out, angle, unit = np.zeros((side, side), np.uint8), 2 * math.pi * turn / 40, side / 64
    for r in range(side):
        for c in range(side):
            dx, dy = (c + 0.5) - (16.5 + x) * unit, (16.5 + y) * unit - (r + 0.5)
            size = REACH * side * (0.5 + 0.1 * scale)
            u = (math.cos(angle) * dx + math.sin(angle) * dy) / size
            v = (math.cos(angle) * dy - math.sin(angle) * dx) / size
            if shape == 0:
                lit = max(abs(u), abs(v)) <= math.sqrt(0.5)
            elif shape == 1:
                lit = u * u + 4 * v * v <= 1
            else:
                a, b = 1.25 * u, 1.25 * v + 0.25
                lit = (a * a + b * b - 1) ** 3 <= a * a * b**3
            out[r, c] = lit
    return out


@pytest.mark.parametrize("side", [32, 64])
def test_a_loop_over_pixels_draws_the_same(side):
    """To a pixel in 10,000: one whose centre lies on the outline may fall to either side by rounding."""
    factors = combinations(24, seed=3)
    wrong = sum((by_loop(row.tolist(), side) != picture[0].numpy()).sum()
                for row, picture in zip(factors, draw(factors, side), strict=True))
    assert wrong <= len(factors) * side**2 / 10_000


def at(shape, scale, turn=0, x=16, y=16):
    return draw(torch.tensor([[shape, scale, turn, x, y]]))[0, 0]


@pytest.mark.parametrize("shape", range(3))
def test_area_goes_with_the_square_of_the_scale_and_not_with_the_turn(shape):
    unit = {0: 2.0, 1: math.pi / 2, 2: 3.6612 / 1.25**2}[shape] * (64 * REACH) ** 2  # area at scale 1, in pixels
    for scale in range(6):
        area = np.mean([int(at(shape, scale, turn).sum()) for turn in range(40)])
        assert area == pytest.approx(unit * (0.5 + 0.1 * scale) ** 2, rel=0.04)


@pytest.mark.parametrize("shape", range(3))
def test_a_place_moves_the_picture_by_whole_pixels(shape):
    middle = at(shape, 4, 7)
    for x, y in ((0, 0), (31, 0), (3, 29), (31, 31)):
        assert torch.equal(at(shape, 4, 7, x, y), middle.roll((y - 16, x - 16), dims=(0, 1)))
    assert not any(bool(edge.any()) for p in (at(shape, 5, 3, 0, 0), at(shape, 5, 3, 31, 31))
                   for edge in (p[0], p[-1], p[:, 0], p[:, -1]))  # nothing is cut off


def centroid(picture):
    rows, columns = picture.nonzero().double().mean(0).add(0.5).tolist()
    return columns, rows


@pytest.mark.parametrize("shape", [0, 1])
def test_the_centre_of_mass_is_the_place(shape):
    for x, y, turn in ((0, 31, 0), (12, 5, 13), (31, 16, 38)):
        assert centroid(at(shape, 5, turn, x, y)) == pytest.approx((16.5 + x, 16.5 + y), abs=0.05)


def test_turns_are_counterclockwise_and_even():
    """The heart's centre of mass lies above its middle by d, and goes around it with the turn."""
    x0, y0 = centroid(at(2, 5))
    d = 32.5 - y0
    assert d > 0.4 and x0 == pytest.approx(32.5, abs=0.01)
    for turn in range(40):
        angle = 2 * math.pi * turn / 40
        assert centroid(at(2, 5, turn)) == pytest.approx(
            (32.5 - d * math.sin(angle), 32.5 - d * math.cos(angle)), abs=0.2)
        assert torch.equal(at(2, 5, (turn + 10) % 40), patch_rotated(at(2, 5, turn)))


def patch_rotated(picture):
    """A quarter turn counterclockwise about the pixel (32, 32)."""
    out = torch.zeros_like(picture)
    out[1:, 1:] = picture[1:, 1:].rot90()
    return out


@pytest.mark.parametrize(("shape", "period"), [(0, 10), (1, 20), (2, 40)])
def test_pictures_are_equal_only_where_the_outline_is(shape, period):
    """All turns at full scale: as many different pictures as the shape has different turns."""
    for x, y in ((16, 16), (0, 30)):
        pictures = draw(torch.tensor([[shape, 5, turn, x, y] for turn in range(40)]))
        assert len(pictures.flatten(1).unique(dim=0)) == period
        assert torch.equal(pictures[:period], pictures[-period:])


def test_different_combinations_are_different_pictures():
    factors = combinations(3000, seed=1)
    pictures = draw(factors)
    factors[:, 2] %= torch.tensor([10, 20, 40])[factors[:, 0]]
    assert len(pictures.flatten(1).unique(dim=0)) == len(factors.unique(dim=0))


def test_parts_of_the_shapes_share_no_combination():
    pictures = draw_shapes(count=500, side=32)
    parts = [pictures.train, pictures.valid, pictures.test]
    assert [len(part) for part in parts] == [500, 50, 50]
    assert len({name for part in parts for name in part.names}) == 600
    name, label = pictures.train.names[3], int(pictures.train.label[3])
    scale, turn, x, y = (int(word.split()[1]) for word in name.split(", ")[1:])
    assert name.startswith(pictures.labels[label])
    assert torch.equal(draw(torch.tensor([[label, scale, turn, x, y]]), 32)[0], pictures.train.pixels[3])


def test_every_factor_is_drawn_alike():
    factors = combinations(60_000)
    for column, count in zip(factors.unbind(1), COUNTS, strict=True):
        got = torch.bincount(column, minlength=count).double()
        assert float(((got - 60_000 / count) ** 2 / (60_000 / count)).sum()) < count + 5 * math.sqrt(2 * count)


def test_factors_out_of_range_are_refused():
    with pytest.raises(ShapeError, match="below"):
        draw(torch.tensor([[3, 0, 0, 0, 0]]))
    with pytest.raises(ShapeError, match="int64"):
        draw(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match=str(COMBINATIONS)):
        combinations(COMBINATIONS + 1)
    assert ShapesData(count=20, side=32).build(0).spec.levels == 2


# spectrograms

def test_spectrograms_are_the_crops_log_mel_scaled(tiny_corpus):
    config = SpectrogramData(corpus=str(tiny_corpus), num_mels=32, frames=16, hop=128, n_fft=512, batch_size=3)
    one = config.build(seed=0)
    batch = one.batch(5)
    assert batch.x.shape == (3, 1, 32, 16) and one.spec.size == (32, 16) and one.spec.sample_rate is None
    assert one.spec.labels == Corpus.open(tiny_corpus).speakers
    assert float(batch.x.min()) >= 0 and float(batch.x.max()) <= 1 and float(batch.x.std()) > 0.05
    assert torch.equal(batch.x, config.build(seed=0).batch(5).x)
    assert not torch.equal(batch.x, one.batch(5, rank=1).x)
    assert torch.equal(one.validation()[0].x, config.build(seed=9).validation()[0].x)
    one.fit(8)
    with pytest.raises(ShapeError, match="hop 5"):
        one.fit(5)


def test_a_tone_of_full_scale_is_about_one_and_each_20_decibels_are_one_step():
    mel = unit_log_mel(MelSpec(16_000, n_fft=1024, hop=256, num_mels=64))
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8192) / 16_000)[None, None]
    loud, soft, softer = (float(mel(tone * gain)[..., 4:-4].max()) for gain in (1, 0.1, 0.01))
    assert loud == pytest.approx(1, abs=0.03)
    assert loud - soft == pytest.approx(soft - softer, abs=1e-3)


# configurations

@pytest.mark.parametrize("kind", ["digits", "mnist", "fashion_mnist", "cifar10", "celeba", "npz", "folder", "shapes"])
def test_every_kind_takes_the_common_options(kind):
    config = from_dict(DataConfig, {"kind": kind, "batch_size": 7, "binarize": "dynamic", "labelled": 100})
    assert (config.batch_size, config.binarize, config.labelled) == (7, "dynamic", 100)


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError):
        from_dict(DataConfig, {"kind": "digits", "batchsize": 7})
    with pytest.raises(ConfigError):
        from_dict(DataConfig, {"kind": "digits", "binarize": "sometimes"})
    assert DigitsData().build(0).batch(0).x.shape == (128, 1, 8, 8)
