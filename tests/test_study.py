"""The studies of the recipes train, measure and tabulate; only shown to run here, two steps a variant."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.image.shapes import combinations
from audiovae.likelihoods import Dequantized, Logistic
from audiovae.likelihoods.noise import UniformNoise
from audiovae.shapes import DataSpec

RECIPES = Path(__file__).parent.parent / "recipes"


def opened(path):
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    return opened(RECIPES / "image_vae/study.py")


@pytest.fixture(scope="module")
def hierarchies():
    return opened(RECIPES / "image_hierarchies/study.py")


@pytest.fixture(scope="module")
def music():
    return opened(RECIPES / "music/study.py")


@pytest.fixture(scope="module")
def speech():
    return opened(RECIPES / "speech_codec/study.py")


@pytest.fixture(scope="module")
def studies(study):
    return sys.modules["studies"]


def test_every_variant_fits_its_recipe(study, hierarchies, music, speech, studies, tmp_path):
    """Every variant of every study reads, and differs from all its neighbours."""
    for name, one in (study.STUDIES | hierarchies.STUDIES | music.STUDIES | speech.STUDIES).items():
        arguments = studies.Arguments(name, output=tmp_path)
        made = [studies.settings(one, overrides, arguments)(seed=3) for overrides in one.variants.values()]
        assert all(experiment.train.seed == 3 for experiment in made)
        assert all(a != b for i, a in enumerate(made) for b in made[:i])


def test_an_archive_keeps_the_recipe_s_way_with_pictures(study, studies, tmp_path):
    for archive, kind in ((None, "digits"), (tmp_path / "x.npz", "npz")):
        arguments = studies.Arguments("semi-supervised", data=archive, output=tmp_path)
        one = study.STUDIES["semi-supervised"]
        data = studies.settings(one, {}, arguments)(0).data
        assert (data.kind, data.labelled, data.labelled_share) == (kind, 100, 0.0909)
        latents = studies.settings(one, one.variants["M1 + M2"], arguments)(0).data
        assert latents.data == data and latents.model == str(tmp_path / "semi-supervised/M1-0")


@pytest.mark.parametrize(("call", "said"), [
    (["beta", "--data", "pictures.npz"], "leave --data out"),
    (["gamma"], "choose of collapse, beta"),
    (["beta", "--only", "β = 5"], "choose of β = 1, β = 4"),
])
def test_what_does_not_fit_is_one_line(study, studies, call, said, tmp_path, capsys):
    assert studies.main(study.STUDIES, "", [*call, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_mass_of_independent_logistics_is_scipys(study):
    from scipy.stats import logistic

    likelihood = Dequantized(Logistic("predicted", 0.2), levels=5, noise=UniformNoise())
    params, x = 0.3 * torch.randn(3, 4, 6, 6), torch.randint(5, (3, 2, 6, 6)) / 4
    told = {"loc": likelihood.inner.mean(params), "scale": likelihood.inner.scale(params)}
    expected = np.log(logistic.cdf((4 * x + 1) / 5, **told) - logistic.cdf(4 * x / 5, **told)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(study.mass(likelihood, params, x), expected, rtol=1e-4)
    every = torch.arange(5.0).view(5, 1, 1, 1) / 4  # all there is, under a density far within [0, 1]
    params = torch.tensor([0.5, -9.0]).view(1, 2, 1, 1).expand(5, -1, -1, -1)
    assert study.mass(likelihood, params, every).exp().sum() == pytest.approx(1, abs=1e-6)


def test_shapes_judged_are_not_those_trained_on():
    """What :func:`disentangled` rests on: a longer list of combinations begins with the shorter one."""
    assert combinations(60)[:36].equal(combinations(36))


@pytest.mark.parametrize(("name", "only", "measures"), [
    ("collapse", ["plain VAE", "GECO"], {"rate, nats", "active units", "ELBO, nats"}),
    ("dequantization", ["uniform noise", "learned noise, flow"], {"bits per dimension", "of the exact mass"}),
    ("semi-supervised", ["M1", "M1 + M2"], {"error, %"}),
    ("ladder", ["as in the paper", "no batch normalisation"], {"NLL, IWAE-100, nats", "groups in use",
                                                               "steps left out"}),
    ("codes", ["two levels", "one level"], {"bits", "squared error", "level 0: perplexity"}),
])
def test_a_study_runs_once(study, hierarchies, studies, name, only, measures, tmp_path, capsys):
    """Two steps a variant; a second call trains nothing and finds the same numbers."""
    call = [name, "--steps", "2", "--limit", "60", "--only", *only, "-o", str(tmp_path)]
    assert studies.main(study.STUDIES | hierarchies.STUDIES, "", call) == 0
    target = tmp_path / name / "study.json"
    found, logs = json.loads(target.read_text()), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("log.jsonl")}
    assert list(found) == only and len(logs) == len(only)
    assert all(measures <= numbers.keys() for runs in found.values() for numbers in runs.values())
    assert only[-1] in capsys.readouterr().out
    assert studies.main(study.STUDIES | hierarchies.STUDIES, "", call) == 0
    assert json.loads(target.read_text()) == found
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("log.jsonl")} == logs
    assert studies.main(study.STUDIES | hierarchies.STUDIES, "", [*call, "--only", only[0]]) == 0
    assert json.loads(target.read_text()) == found  # the other's numbers are kept
    assert studies.main(study.STUDIES | hierarchies.STUDIES, "", [*call, "--seeds"]) == 2


def test_the_study_of_beta_judges_by_known_factors(study, studies, tmp_path, monkeypatch):
    few = {"beta": replace(study.STUDIES["beta"], variants={"few": {"data.count": 100}})}
    monkeypatch.setattr(study, "SHAPES_JUDGED", 300)
    assert studies.main(few, "", ["beta", "--steps", "2", "-o", str(tmp_path)]) == 0
    (numbers,) = json.loads((tmp_path / "beta/study.json").read_text())["few"].values()
    assert 0 <= numbers["MIG"] <= 1 and 0 <= numbers["β-VAE score"] <= 1


def test_one_level_takes_the_bits_of_two(hierarchies, studies, tmp_path):
    one = hierarchies.STUDIES["codes"]
    bits = []
    for name in ("two levels", "one level"):
        made = studies.settings(one, one.variants[name], studies.Arguments("codes", output=tmp_path))(0)
        model = made.model.build(made.data.build(0).spec)
        bits.append(hierarchies.compression(model, (8, 8)).rows[-1][4])
    assert bits[0] == 9 * 20 and bits[1] == pytest.approx(bits[0], rel=1e-3)


def kilobits(studies, study, overrides, name, tmp_path, rate):
    """The bit rate of a variant's codes, and its experiment; of one without codes the rate that it is held at."""
    made = studies.settings(study, overrides, studies.Arguments(name, minutes=2, output=tmp_path))(0)
    levels = made.model.build(DataSpec(channels=1, dims=1, sample_rate=rate)).code_levels
    if not levels:
        return made.objective.rate.nats / math.log(2) / made.data.seconds / 1000
    assert made.train.minutes == 2
    return rate / 1000 / levels[0].hop * sum(map(math.log2, levels[0].num_codes))


@pytest.mark.parametrize(("name", "kbps"), [("level-0", 30.3), ("level-1", 7.6), ("level-2", 1.9)])
def test_levels_of_music_are_compared_at_the_same_bits(music, studies, name, kbps, tmp_path):
    found = [kilobits(studies, music.STUDIES[name], overrides, name, tmp_path, 22050)
             for overrides in music.STUDIES[name].variants.values()]
    assert found[0] == pytest.approx(kbps, rel=0.01) and found == pytest.approx(found[:1] * len(found))


def test_what_is_compared_of_speech_takes_3_kilobits(speech, studies, tmp_path):
    found = {variant: kilobits(studies, one, overrides, name, tmp_path, 16000)
             for name, one in speech.STUDIES.items() for variant, overrides in one.variants.items()}
    assert len(found) > 10 and found == pytest.approx(dict.fromkeys(found, 3.0))


@pytest.mark.parametrize(("name", "only", "measures"), [
    ("level-2", ["spectral"], {"spectral convergence of the whole set, dB", "SI-SDR, dB"}),
    ("bottlenecks", ["FSQ, 8 x 8 x 8 x 8", "Gaussian, its rate held"], {"STOI", "kbit/s"})])
def test_a_study_of_sound_runs(music, speech, studies, name, only, measures, tiny_corpus, tmp_path):
    call = [name, "--steps", "2", "--limit", "2", "--data", str(tiny_corpus), "--only", *only, "-o", str(tmp_path)]
    assert studies.main(music.STUDIES | speech.STUDIES, "", call) == 0
    found = json.loads((tmp_path / name / "study.json").read_text())
    assert list(found) == only and measures <= found[only[0]]["0"].keys()
    for (numbers,) in map(dict.values, found.values()):
        assert np.isfinite(list(numbers.values())).all() and numbers["steps"] == 2
