"""Models without a latent: exact, drawn as they say, and trained, saved and looked at by what serves all models."""

import itertools
import json
import math

import pytest
import torch

from audiovae.checkpoint import load_model
from audiovae.codec import Codec
from audiovae.commands.inspect import model_lines
from audiovae.config import from_dict
from audiovae.errors import CheckpointError, ConfigError, ShapeError
from audiovae.likelihoods.flow import Flow
from audiovae.models import DensityConfig
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import Condition, DataSpec
from audiovae.train import Experiment, train

PIXELS = {"kind": "pixelcnn", "width": 12, "depth": 3}
FLOW = {"kind": "flow", "transforms": 4, "widths": [16]}
LEARNED = {**FLOW, "noise": {"kind": "logit_normal", "width": 8, "depth": 1}}
PICTURES = DataSpec(channels=1, dims=2, size=(8, 8), levels=17, labels=("a", "b"))


def density(estimator, data=PICTURES, **more):
    return from_dict(DensityConfig, {"estimator": estimator, **more}).build(data)


def experiment(estimator, steps):
    return from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 32}, "model": {"kind": "density", "estimator": estimator},
        "train": {"steps": steps, "schedule": "constant", "warmup": 0, "log_every": 1, "lr": 3e-3, "ema": 0.5}})


@pytest.mark.parametrize(("estimator", "measure"), [
    (PIXELS, "mass"), (FLOW, "uniform dequantization"), (LEARNED, "variational dequantization")],
    ids=["pixelcnn", "flow", "flow with learned noise"])
def test_the_one_loop_trains_saves_and_validates_them(estimator, measure, tmp_path):
    train(experiment(estimator, 20), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    totals = [row["total"] for row in rows if row["split"] == "train"]
    assert sum(totals[-5:]) < sum(totals[:5]) - 0.5
    valid = next(row for row in rows if row["split"] == "valid")
    assert valid["rate"] == 0 and valid["elbo"] == pytest.approx(-valid["distortion"])
    assert all(row["bits_of"].startswith(measure) for row in rows)
    assert valid["bits_per_dimension"] == pytest.approx(valid["distortion"] / 64 / math.log(2), rel=1e-4)
    assert (tmp_path / "run/samples/00000020/source-above-sample.png").exists()
    model = load_model(tmp_path / "run")
    assert model.likelihood.measure == measure
    x = torch.randint(17, (200, 1, 8, 8)) / 16
    assert model.log_prob(x).mean() < valid["elbo"] - 5  # noise is no digit
    assert any(type(model.likelihood).__name__ in line for line in model_lines(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="DensityModel"):
        Codec(model)


@pytest.mark.parametrize("estimator", [PIXELS, FLOW], ids=["pixelcnn", "flow"])
def test_stop_and_go_on_is_the_run_that_never_stopped(estimator, tmp_path):
    train(experiment(estimator, 4), tmp_path / "whole")
    train(experiment(estimator, 2), tmp_path / "cut")
    train(experiment(estimator, 4), tmp_path / "cut", resume=True)
    whole, cut = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_elbo_is_the_exact_log_likelihood():
    """A sum over all pictures of exp(elbo) is 1, taken one picture at a time through the objective."""
    model = density({**PIXELS, "likelihood": {"kind": "bernoulli"}},
                    DataSpec(channels=1, dims=2, size=(2, 3), levels=2))
    objective = ObjectiveConfig().build(None)
    total = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=6):
        x = torch.tensor(bits).view(1, 1, 2, 3)
        elbo = objective(model(x), x, model.likelihood, progress=0.0).elbo
        assert elbo.item() == pytest.approx(model.log_prob(x).item(), rel=1e-5)
        total += math.exp(elbo.item())
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_a_flow_is_a_density(coupling):
    """It integrates to 1 over the square that it reaches, on a grid; a log-determinant left out would not."""
    flow = Flow(channels=1, size=(1, 2), transforms=3, widths=(8,), coupling=coupling).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.5)
    side = 200
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    with torch.no_grad():
        inside = flow.log_prob(torch.zeros(len(x), 0, 1, 2), x).exp().mean().item()
        drawn = flow.sample(torch.zeros(40000, 0, 1, 2, dtype=torch.float64))
    beyond = ((drawn == 0) | (drawn == 1)).any(-1).double().mean().item()  # what lies over the edge is put on it
    assert beyond < 0.2
    assert inside + beyond == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_a_flow_draws_what_it_says(coupling):
    """Its jacobian, by autograd from its own noise, gives the density of what it drew."""
    flow = Flow(channels=1, size=(2, 2), transforms=4, widths=(16,), coupling=coupling).double()
    nothing = torch.zeros(1, 0, 2, 2, dtype=torch.float64)
    x = flow.sample(nothing, torch.Generator().manual_seed(3))
    noise = torch.empty(4, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(3))

    def draw(noise):
        return (flow.flow().transform.inv(noise).sigmoid() - 0.05) / 0.9

    torch.testing.assert_close(draw(noise), x.flatten())
    slope = torch.autograd.functional.jacobian(draw, noise)
    normal = -0.5 * noise.square().sum() - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(nothing, x)[0], normal - torch.linalg.slogdet(slope)[1])


@pytest.mark.parametrize("estimator", [PIXELS, FLOW], ids=["pixelcnn", "flow"])
def test_samples_are_data_and_repeat_with_their_generator(estimator):
    model = density(estimator)
    drawn = [model.sample(5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    level = drawn[0] * 16
    assert drawn[0].shape == (5, 1, 8, 8) and torch.equal(level, level.round()) and level.unique().numel() > 5
    assert torch.isfinite(model.log_prob(drawn[0])).all()


def test_a_label_reaches_the_density():
    model = density(PIXELS, condition_dim=3).eval()
    x = torch.zeros(1, 1, 8, 8)
    told = [model.log_prob(x, Condition(torch.tensor([label]))).item() for label in (0, 1, -1)]
    assert len(set(told)) == 3 and told[2] == model.log_prob(x).item()
    assert model.sample(2, Condition(torch.tensor([0, 1]))).shape == (2, 1, 8, 8)


def test_what_does_not_fit_is_refused():
    audio = DataSpec(channels=1, dims=1, sample_rate=16000)
    with pytest.raises(ConfigError, match="wants pictures"):
        density(PIXELS, audio)
    with pytest.raises(ConfigError, match="one size"):
        density(FLOW, audio)
    with pytest.raises(ConfigError, match="no condition"):
        density(FLOW, condition_dim=3)
    with pytest.raises(ConfigError, match="no labels"):
        density(PIXELS, DataSpec(channels=1, dims=2, size=(8, 8), levels=2), condition_dim=3)
    with pytest.raises(ConfigError, match="coupled"):
        density({**PIXELS, "likelihood": {"kind": "logistic_mixture", "coupled": True}},
                DataSpec(channels=3, dims=2, size=(8, 8), levels=4))
    with pytest.raises(ConfigError, match=r"objective\.samples"):
        density(PIXELS)(torch.zeros(1, 1, 8, 8), samples=2)
    with pytest.raises(ConfigError, match="temperature 1"):
        density(FLOW).sample(1, temperature=0.5)
    with pytest.raises(ConfigError, match="no mean"):
        density(FLOW).likelihood.mean(torch.zeros(1, 0, 8, 8))
    with pytest.raises(ShapeError, match=r"\(8, 8\)"):
        density(FLOW).log_prob(torch.zeros(1, 1, 4, 4))


def test_continuous_data_needs_no_noise():
    model = density(FLOW, DataSpec(channels=1, dims=2, size=(4, 4)))
    assert model.likelihood.measure == "density"
    assert model.sample(2).unique().numel() > 20  # 32 but for those put on an edge
