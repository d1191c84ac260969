"""Every recipe's configuration reads, builds, trains two steps on tiny data, and validates."""

from dataclasses import replace
from pathlib import Path

import pytest

from audiovae.config import read
from audiovae.data import AudioData
from audiovae.train import Experiment, train

RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_recipe_trains(path, tiny_corpus, tmp_path):
    experiment = read(Experiment, path)
    if isinstance(experiment.data, AudioData):
        data = replace(experiment.data, corpus=str(tiny_corpus), batch_size=2, seconds=0.4, validation_batches=1)
        experiment = replace(experiment, data=data)
    experiment = replace(experiment, train=replace(experiment.train, steps=2, minutes=None))
    state = train(experiment, tmp_path / "run")
    assert state.step == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1  # the validation at the end
    assert list((tmp_path / "run/samples").rglob("*.*"))
