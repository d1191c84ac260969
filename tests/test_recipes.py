"""Every recipe's configuration reads, builds, trains two steps on tiny data, and validates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from audiovae.config import read
from audiovae.data import AudioData
from audiovae.image.sets import ArchiveData
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


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_recipe_trains(path, tiny_corpus, tiny_archive, tmp_path):
    experiment = read(Experiment, path)
    if isinstance(experiment.data, AudioData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, seconds=0.4, validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, VoiceData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, seconds=0.4, reference_seconds=0.5,
                       validation_batches=1)
        experiment = replace(experiment, data=data)
    if isinstance(experiment.data, ArchiveData):
        experiment = replace(experiment, data=replace(experiment.data, path=str(tiny_archive)))
    experiment = replace(experiment, train=replace(experiment.train, steps=2, minutes=None))
    state = train(experiment, tmp_path / "run")
    assert state.step == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1  # the validation at the end
    assert list((tmp_path / "run/samples").rglob("*.*"))
