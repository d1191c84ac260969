"""The rate-distortion curve: what is trained, what is kept, and what is said of it."""

import json

import pytest

from audiovae.cli import main
from audiovae.commands.curve import at_beta
from audiovae.config import from_dict
from audiovae.errors import ConfigError
from audiovae.run import run_checkpoints
from audiovae.train import Experiment

TOML = """
[data]
kind = "digits"
[model]
encoder = { kind = "mlp", widths = [32] }
decoder = { kind = "mlp", widths = [32] }
bottleneck = { kind = "gaussian", dim = 3 }
likelihood = { kind = "categorical" }
[train]
steps = 80
lr = 1e-2
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "small.toml").write_text(TOML)
    return tmp_path / "small.toml"


def curve(recipe, *words):
    return main(["curve", str(recipe), "-o", str(recipe.parent / "curve"), *map(str, words)])


def test_a_higher_beta_buys_less_rate_and_nothing_is_trained_twice(recipe, capsys):
    assert curve(recipe, "--betas", 30, 0.1) == 0
    said = capsys.readouterr().out
    folder = recipe.parent / "curve"
    low, high = json.loads((folder / "curve.json").read_text())
    assert (low["beta"], high["beta"]) == (0.1, 30) and low["rate"]["count"] == 179
    assert high["rate"]["mean"] < 0.5 < low["rate"]["mean"]
    assert high["distortion"]["mean"] > low["distortion"]["mean"]
    assert "mass of 17 levels" in said and "Rate and distortion" in (folder / "curve.html").read_text()

    def stamps():
        return [run_checkpoints(folder / name)[-1].stat().st_mtime_ns for name in ("beta-0.1", "beta-30")]

    before = stamps()
    assert curve(recipe, "--betas", 0.1, 30) == 0
    assert stamps() == before
    assert capsys.readouterr().out == said  # the same table from the same runs
    path = run_checkpoints(folder / "beta-0.1")[-1] / "config.json"
    older = json.loads(path.read_text())
    del older["experiment"]["model"]["reference"]  # a setting that came after this run was trained
    path.write_text(json.dumps(older))
    assert curve(recipe, "--betas", 0.1) == 0
    capsys.readouterr()
    assert curve(recipe, "--betas", 0.1, "--train.lr", 0.5) == 2
    assert "train.lr is 0.01, not 0.5" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on(recipe, monkeypatch, capsys):
    """Stopped at step 30 by what Ctrl-C sets, the curve says so; the same command then trains the rest."""
    from audiovae import train as module

    class Stopped(module.Interrupt):
        def __enter__(self):
            self.steps = 0
            return super().__enter__()

        @property
        def caught(self):
            self.steps += 1
            return self.steps > 30

        @caught.setter
        def caught(self, value):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(module, "Interrupt", Stopped)
        assert curve(recipe, "--betas", 2) == 130
    assert "Interrupted at β = 2" in capsys.readouterr().err
    run = recipe.parent / "curve/beta-2"
    assert int(run_checkpoints(run)[-1].name.split("-")[1]) < 80
    assert curve(recipe, "--betas", 2) == 0
    assert run_checkpoints(run)[-1].name == "checkpoint-00000080"


@pytest.mark.parametrize(("words", "part"), [
    (["--betas", "1", "-2"], "got -2"),
    (["--betas", "nan"], "got nan"),
    (["--betas", "1", "3", "1"], "each once, got 1"),
    (["--betas", "x"], "x"),
    (["--model.bottleneck.kind", "identity"], "bottleneck 'identity'"),
    (["--model.bottleneck.kind", "vq"], "bottleneck 'vq'"),
    (["--model.kind", "density"], "kind 'density'"),
    (["--objective.rate.kind", "capacity"], "objective.rate.kind capacity"),
    (["--train.stepz", "3"], "nearest: steps"),
])
def test_what_cannot_be_drawn_is_refused_in_one_line(recipe, words, part, capsys):
    assert curve(recipe, *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("audiovae: curve: ") and part in line


def test_beta_alone_changes():
    recipe = from_dict(Experiment, {"objective": {"rate": {"kind": "linear", "until": 0.4}}})
    changed = at_beta(recipe, 7.0)
    assert changed.objective.rate == from_dict(
        Experiment, {"objective": {"rate": {"kind": "linear", "until": 0.4, "beta": 7.0}}}).objective.rate
    assert at_beta(changed, 1.0) == recipe
    with pytest.raises(ConfigError, match="constant_rate"):
        at_beta(from_dict(Experiment, {"objective": {"rate": {"kind": "constant_rate"}}}), 1.0)
