"""The table of models cannot go stale: every line's changes to the baseline build a model that has a finite loss."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from audiovae.checkpoint import save_model
from audiovae.config import from_dict, merge
from audiovae.rate_control_config import GecoConfig
from audiovae.train import Experiment, Trainee, build, build_rival

ROOT = Path(__file__).parent.parent
BASELINE = tomllib.loads((ROOT / "recipes/image_vae/baseline.toml").read_text())
ROWS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in (ROOT / "docs/models.md").read_text().splitlines() if line.startswith("| ")]
MODELS = [row for row in ROWS if row[0] != "Model"]


def changed(cell: str) -> dict[str, Any]:
    """The baseline with the changes of a cell, each `part.key = value`, laid over it."""
    changes = tomllib.loads("\n".join(re.findall(r"`([^`]*)`", cell)))
    return merge(BASELINE, {f"{part}.{key}": value for part, keys in changes.items() for key, value in keys.items()})


@pytest.fixture(scope="module")
def first_model(tmp_path_factory) -> str:
    """What "runs/m1" stands for: the baseline, as a run would leave it."""
    folder = tmp_path_factory.mktemp("m1")
    experiment = from_dict(Experiment, BASELINE)
    save_model(folder, build(experiment)[1], experiment.model)
    return str(folder)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row[0])
def test_every_line_builds_its_model(row, first_model):
    values = changed(row[3])
    assert row[3] == "none" or values != BASELINE or "linear" in row[3]  # annealing is in the baseline already
    if "model" in values["data"]:
        values["data"]["model"] = first_model
    else:
        values["data"]["batch_size"] = 8
    experiment = from_dict(Experiment, values)
    source, model = build(experiment)
    objective = experiment.objective.build(source.spec.sample_rate, source)
    rival = build_rival(experiment, model, torch.device("cpu"))
    loss = Trainee(model, objective, judged=rival is not None)(source.batch(0), progress=0.5)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row[0])
def test_every_line_names_a_test_that_is_there(row):
    found = re.fullmatch(r"\[`(test_\w+)`\]\(\.\./tests/(test_\w+\.py)\)", row[4])
    assert found is not None
    assert f"def {found[1]}(" in (ROOT / "tests" / found[2]).read_text()


def test_a_change_is_a_change():
    """The reader of cells replaces what it is told to, and leaves the rest of the baseline."""
    values = changed("`objective.rate = { kind = \"geco\", target = 1.5 }`<br>`train.encoder_steps = 2`")
    experiment = from_dict(Experiment, values)
    assert experiment.objective.rate == GecoConfig(target=1.5)
    assert experiment.train.encoder_steps == 2
    assert values["model"] == BASELINE["model"]
