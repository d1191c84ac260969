"""The study of the image recipes trains, measures and tabulates; only shown to run here, two steps a variant."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from audiovae.errors import ConfigError
from audiovae.image.shapes import combinations

SCRIPT = Path(__file__).parent.parent / "recipes/image_vae/study.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_variant_fits_its_recipe(study, tmp_path):
    """Every variant of every study reads, and differs from all its neighbours."""
    for name, one in study.STUDIES.items():
        arguments = study.Arguments(name, output=tmp_path)
        made = [study.settings(one, overrides, arguments)(seed=3) for overrides in one.variants.values()]
        assert all(experiment.train.seed == 3 for experiment in made)
        assert all(a != b for i, a in enumerate(made) for b in made[:i])


def test_an_archive_keeps_the_recipe_s_way_with_pictures(study, tmp_path):
    for archive, kind in ((None, "digits"), (tmp_path / "x.npz", "npz")):
        arguments = study.Arguments("semi-supervised", data=archive, output=tmp_path)
        one = study.STUDIES["semi-supervised"]
        data = study.settings(one, {}, arguments)(0).data
        assert (data.kind, data.labelled, data.labelled_share) == (kind, 100, 0.0625)
        latents = study.settings(one, one.variants["M1 + M2"], arguments)(0).data
        assert latents.data == data and latents.model == str(tmp_path / "semi-supervised/M1-0")


def test_shapes_of_unknown_factors_are_refused(study, tmp_path):
    with pytest.raises(ConfigError, match="leave --data out"):
        study.main(["beta", "--data", "pictures.npz", "-o", str(tmp_path)])


def test_shapes_judged_are_not_those_trained_on():
    """What :func:`disentangled` rests on: a longer list of combinations begins with the shorter one."""
    assert combinations(60)[:36].equal(combinations(36))


@pytest.mark.parametrize(("name", "only", "measures"), [
    ("collapse", ["plain VAE", "GECO"], {"rate, nats", "active units", "ELBO, nats"}),
    ("dequantization", ["uniform noise", "learned noise, flow"], {"bits per dimension"}),
    ("semi-supervised", ["M1", "M1 + M2"], {"error, %"}),
])
def test_a_study_runs_once(study, name, only, measures, tmp_path, capsys):
    """Two steps a variant; a second call trains nothing and finds the same numbers."""
    call = [name, "--steps", "2", "--limit", "60", "--only", *only, "-o", str(tmp_path)]
    assert study.main(call) == 0
    target = tmp_path / name / "study.json"
    found, logs = json.loads(target.read_text()), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("log.jsonl")}
    assert list(found) == only and len(logs) == len(only)
    assert all(measures <= numbers.keys() for runs in found.values() for numbers in runs)
    assert only[-1] in capsys.readouterr().out
    assert study.main(call) == 0
    assert json.loads(target.read_text()) == found
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("log.jsonl")} == logs


def test_the_study_of_beta_judges_by_known_factors(study, tmp_path, monkeypatch):
    few = replace(study.STUDIES["beta"], variants={"few": {"data.count": 100}})
    monkeypatch.setitem(study.STUDIES, "beta", few)
    monkeypatch.setattr(study, "SHAPES_JUDGED", 300)
    assert study.main(["beta", "--steps", "2", "-o", str(tmp_path)]) == 0
    (numbers,) = json.loads((tmp_path / "beta/study.json").read_text())["few"]
    assert 0 <= numbers["MIG"] <= 1 and 0 <= numbers["β-VAE score"] <= 1
