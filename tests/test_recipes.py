"""Every recipe's configuration reads, builds, trains two steps on tiny data, and validates."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave
from sklearn.datasets import load_digits

from audiovae.checkpoint import save_model
from audiovae.code_data import CodesData
from audiovae.config import read
from audiovae.data import AudioData
from audiovae.image.sets import ArchiveData, FolderData
from audiovae.models import DensityConfig, HierarchicalConfig, LadderConfig, LevelConfig, ModelConfig, MultiresConfig
from audiovae.models.density import PixelCNNConfig
from audiovae.shapes import DataSpec, MelSpec
from audiovae.spectrogram_data import SpectrogramData
from audiovae.train import Experiment, train
from audiovae.voice_data import VoiceData

RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.toml"))


@pytest.fixture(scope="module")
def tiny_archive(tmp_path_factory) -> Path:
    """Scikit-learn's digits as MNIST is laid out: 28 x 28, 8 bits, in one npz."""
    x, y = load_digits(return_X_y=True)
    large = np.pad(np.kron(x.reshape(-1, 8, 8), np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    x = (large / 16 * 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("archive") / "mnist.npz"
    np.savez(path, x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    return path


@pytest.fixture(scope="module")
def tiny_colours(tmp_path_factory) -> tuple[Path, Path]:
    """A few pictures of 32 x 32 in colour, as CIFAR-10 in one npz and as a folder of files."""
    folder, dice = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    x = np.kron(dice.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8), np.ones((1, 4, 4, 1), dtype=np.uint8))
    np.savez(folder / "cifar10.npz", x_train=x[:32], y_train=np.arange(32) % 10, x_test=x[32:],
             y_test=np.arange(16) % 10)
    (folder / "files").mkdir()
    for i, picture in enumerate(x):
        imsave(folder / f"files/{i}.png", picture)
    return folder / "cifar10.npz", folder / "files"


@pytest.fixture(scope="module")
def tiny_codes(tiny_corpus, tmp_path_factory) -> tuple[Path, Path]:
    """A model of two levels of codes, untrained, and a copy of the corpus that their codes may lie beside."""
    folder = tmp_path_factory.mktemp("codes")
    config = MultiresConfig(levels=tuple(LevelConfig(strides=(4,) * n, num_codes=16, dim=4, width=4, depth=1)
                                         for n in (3, 4)))
    (folder / "codec").mkdir()
    save_model(folder / "codec", config.build(DataSpec(channels=1, dims=1, sample_rate=16000)), config)
    return folder / "codec", Path(shutil.copytree(tiny_corpus, folder / "corpus"))


@pytest.fixture(scope="module")
def tiny_picture_codes(tmp_path_factory) -> tuple[Path, Path]:
    """A hierarchy of two levels of codes of digits, and one of spectrograms, untrained."""
    config = HierarchicalConfig(levels=2 * (LevelConfig(strides=(2,), num_codes=16, dim=4, width=4, depth=1),))
    specs = (DataSpec(channels=1, dims=2, size=(8, 8), levels=17),
             DataSpec(channels=1, dims=2, size=(64, 64), mel=MelSpec(16_000, n_fft=1024, hop=256, num_mels=64)))
    folders = tuple(tmp_path_factory.mktemp("model") for _ in specs)
    for folder, spec in zip(folders, specs, strict=True):
        save_model(folder, config.build(spec), config)
    return folders


def shrunk(model: ModelConfig) -> ModelConfig:
    """A ladder of the same rows, a tenth as wide and with one group at most on each; other models as they are.

    A PixelCNN, which draws its samples pixel by pixel, of two layers.
    """
    if isinstance(model, DensityConfig) and isinstance(model.estimator, PixelCNNConfig):
        return replace(model, estimator=replace(model.estimator, width=12, depth=2))
    if not isinstance(model, LadderConfig):
        return model
    return replace(model, scales=tuple(replace(row, width=max(row.width // 10, 4), groups=min(row.groups, 1), cells=1)
                                       for row in model.scales))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_recipe_trains(path, tiny_corpus, tiny_archive, tiny_colours, tiny_codes, tiny_picture_codes, tmp_path):
    experiment = read(Experiment, path)
    if isinstance(experiment.data, AudioData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, seconds=0.4, validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, VoiceData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, seconds=0.4, reference_seconds=0.5,
                       validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, SpectrogramData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, ArchiveData):
        archive = tiny_colours[0] if "cifar" in experiment.data.path else tiny_archive
        size = min(experiment.data.batch_size, 16)
        experiment = replace(experiment, data=replace(experiment.data, path=str(archive), batch_size=size))
        if isinstance(experiment.model, DensityConfig):
            experiment = replace(experiment, model=shrunk(experiment.model))
    if isinstance(experiment.data, CodesData) and experiment.data.corpus:
        data = replace(experiment.data, model=str(tiny_codes[0]), corpus=str(tiny_codes[1]), batch_size=2, tokens=16,
                       validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, CodesData) and experiment.data.pictures is not None:
        data, model = experiment.data, tiny_picture_codes[0]
        if isinstance(data.pictures, SpectrogramData):
            data, model = replace(data, pictures=replace(data.pictures, corpus=str(tiny_corpus), most=4),
                                  batch_size=2), tiny_picture_codes[1]
        experiment = replace(experiment, data=replace(data, model=str(model)))
    if isinstance(experiment.data, FolderData):  # the papers' sizes are for other machines: the same rows, smaller
        data = replace(experiment.data, path=str(tiny_colours[1]), size=32, batch_size=2)
        experiment = replace(experiment, data=data, model=shrunk(experiment.model))
    experiment = replace(experiment, train=replace(experiment.train, steps=2, minutes=None, precision="no"))
    state = train(experiment, tmp_path / "run")
    assert state.step == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1  # the validation at the end
    assert isinstance(experiment.data, CodesData) or list((tmp_path / "run/samples").rglob("*.*"))
