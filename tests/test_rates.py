"""Rate controls by their gradients, closed forms and what they do to a small VAE; resumed with what they learned."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from audiovae.bottlenecks import GaussianConfig
from audiovae.config import from_dict, to_dict
from audiovae.errors import ConfigError
from audiovae.objectives import ObjectiveConfig
from audiovae.rate_control import Geco, RateControl, RateControlConfig, Target, TotalCorrelation, total_correlation
from audiovae.run import last_checkpoint
from audiovae.shapes import Latent, Posterior
from audiovae.train import Experiment, train


def drawn(mean: Tensor, variance: float) -> Latent:
    """Latents drawn from N(mean, variance), mean (B, D)."""
    h = torch.cat([mean, torch.full_like(mean, math.log(variance))], dim=1)[..., None]
    return GaussianConfig(dim=mean.shape[1]).build(dims=1)(h)


@pytest.mark.parametrize(("nats", "sign"), [(10.0, 1), (40.0, -1)])
def test_a_target_pulls_the_rate_from_either_side(nats, sign):
    rate = torch.tensor([20.0, 30.0], requires_grad=True)
    penalty = Target(nats=nats, gamma=3.0)([Latent(torch.zeros(2, 1, 1), rate)], progress=0.0)
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(3 * abs(25 - nats))
    assert rate.grad.tolist() == [sign * 1.5, sign * 1.5]


def test_capacity_rises_to_its_end_and_stays():
    control = Target(nats=8.0, until=0.5)
    assert [control.capacity(p) for p in (0.0, 0.25, 0.5, 0.9)] == [0.0, 4.0, 8.0, 8.0]


def test_total_correlation_is_that_of_a_loop():
    latent = drawn(torch.randn(7, 3), 0.3)
    mean, log_variance, z = (t[..., 0].double() for t in (*latent.posterior, latent.z))

    def density(i: int, j: int, d: int) -> float:
        return math.exp(-((z[i, d] - mean[j, d])**2) / (2 * 0.3) - 0.5 * (log_variance[j, d] + math.log(2 * math.pi)))

    total = 0.0
    for i in range(7):
        joint = sum(math.prod(density(i, j, d) for d in range(3)) for j in range(7)) / 7
        marginals = math.prod(sum(density(i, j, d) for j in range(7)) / 7 for d in range(3))
        total += math.log(joint / marginals) / 7
    assert float(total_correlation(latent)) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_total_correlation_nears_that_of_a_correlated_normal(correlation):
    """Two dimensions of correlation r: TC = -½ log(1 - r²). The means carry it, the posteriors' width blurs it."""
    width, count = 0.1, 3000
    cover = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    mean = torch.randn(count, 2) @ torch.linalg.cholesky(cover).T
    r = correlation / (1 + width)
    assert float(total_correlation(drawn(mean, width))) == pytest.approx(-0.5 * math.log(1 - r * r), abs=0.05)


def test_total_correlation_of_weight_one_is_the_plain_bound():
    latent = drawn(torch.randn(16, 4), 0.5)
    torch.testing.assert_close(TotalCorrelation(beta=1.0)([latent], 0.0), RateControl()([latent], 0.0))
    more = TotalCorrelation(beta=3.0)([latent], 0.0) - TotalCorrelation(beta=2.0)([latent], 0.0)
    torch.testing.assert_close(more, total_correlation(latent))


def test_total_correlation_wants_a_posterior():
    with pytest.raises(ConfigError, match="drawn from a diagonal normal"):
        TotalCorrelation(beta=2.0)([Latent(torch.zeros(2, 1, 1), torch.zeros(2))], 0.0)


def test_geco_weighs_what_is_missed():
    control, latent = Geco(target=0.5, speed=0.5), Latent(torch.zeros(1, 1, 1), torch.tensor([10.0]))
    betas = [control.weight(0.0)]
    for distortion in (100.0, 100.0, 10.0, 10.0, 10.0, 10.0):  # of 100 dimensions: above 0.5 each, then below
        control.total(torch.tensor(distortion), [latent], 0.0, dims=100)
        betas.append(control.weight(0.0))
    assert betas[0] == 1 and betas[2] < betas[1] < 1  # too distorted: the rate costs less
    assert betas[-1] > betas[-2]
    before = float(control.log_multiplier)
    control.eval().total(torch.tensor(100.0), [latent], 0.0, dims=100)
    assert float(control.log_multiplier) == before  # validation does not move it


def small_vae(rate: dict, steps: int = 400, **loop) -> Experiment:
    part = {"kind": "mlp", "widths": [64]}
    return from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 64, "binarize": "threshold"},
        "model": {"encoder": part, "decoder": part, "bottleneck": {"kind": "gaussian", "dim": 8},
                  "likelihood": {"kind": "bernoulli"}},
        "objective": {"rate": rate},
        "train": {"steps": steps, "lr": 5e-3, "log_every": steps, **loop}})


def validated(experiment: Experiment, folder) -> dict[str, float]:
    train(experiment, folder)
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])


def test_the_rate_asked_for_is_the_rate_had(tmp_path):
    plain = validated(small_vae({"kind": "constant"}), tmp_path / "plain")
    held = validated(small_vae({"kind": "constant_rate", "nats": 8.0, "gamma": 5.0}), tmp_path / "held")
    assert plain["rate"] < 6
    assert held["rate"] == pytest.approx(8, abs=0.6)


@pytest.mark.parametrize(("target", "rate"), [(0.22, "above"), (0.36, "below")])
def test_geco_meets_its_distortion_at_a_rate_of_its_own(target, rate, tmp_path):
    plain = validated(small_vae({"kind": "constant"}), tmp_path / "plain")
    held = validated(small_vae({"kind": "geco", "target": target, "speed": 0.3}), tmp_path / "held")
    assert 0.26 < plain["distortion"] / 64 < 0.32  # nats a dimension: between the two targets
    assert held["distortion"] / 64 == pytest.approx(target, abs=0.03)
    assert held["rate"] > 2 * plain["rate"] if rate == "above" else held["rate"] < plain["rate"] / 2


@pytest.mark.parametrize("settings", [
    {"objective": {"rate": {"kind": "geco", "target": 0.3}}}, {"objective": {"bound": "iwae", "samples": 3}},
    {"train": {"encoder_steps": 2}}], ids=["geco", "iwae", "lagging"])
def test_stopped_and_gone_on_it_is_the_run_that_never_stopped(settings, tmp_path):
    base = small_vae({"kind": "constant"}, steps=8, schedule="constant", warmup=0)

    def run(folder, steps: int, resume: bool) -> None:
        objective, loop = settings.get("objective", {}), settings.get("train", {})
        values = {"data": {"kind": "digits", "batch_size": 16, "binarize": "dynamic"}, "model": to_dict(base.model),
                  "objective": objective, "train": {"steps": steps, "schedule": "constant", "warmup": 0, **loop}}
        train(from_dict(Experiment, values), folder, resume)

    run(tmp_path / "whole", 8, resume=False)
    run(tmp_path / "cut", 5, resume=False)
    run(tmp_path / "cut", 8, resume=True)
    whole, cut = (load_file(last_checkpoint(tmp_path / name) / "training.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_in_the_encoders_steps_nothing_else_moves(tmp_path):
    for steps in (2, 3):  # of three steps the first two are the encoder's
        train(small_vae({"kind": "constant"}, steps=steps, warmup=0, encoder_steps=2, schedule="constant"),
              tmp_path / str(steps))
    early, late = (load_file(last_checkpoint(tmp_path / s) / "training.safetensors") for s in ("2", "3"))
    start = small_vae({"kind": "constant"})
    torch.manual_seed(0)
    fresh = start.model.build(start.data.build(0).spec).state_dict()
    moved = {name for name, value in fresh.items() if not torch.equal(value, early[f"weights/{name}"])}
    assert moved and all(name.startswith("encoder") for name in moved)
    assert any(not torch.equal(early[f"weights/{n}"], late[f"weights/{n}"]) for n in fresh if n.startswith("decoder"))


@pytest.mark.parametrize(("rate", "word"), [
    ({"kind": "capacity", "nats": -1}, "at least 0 nats"), ({"kind": "capacity", "until": 2}, "until from 0 to 1"),
    ({"kind": "geco", "speed": 0}, "speed above 0"), ({"kind": "total_correlation", "beta": float("nan")}, "beta")])
def test_what_a_control_cannot_be_is_said(rate, word):
    with pytest.raises(ConfigError, match=word):
        from_dict(RateControlConfig, rate).build()


def test_an_importance_weighted_bound_leaves_no_rate_to_control():
    objective = from_dict(ObjectiveConfig, {"bound": "iwae", "samples": 5, "rate": {"kind": "constant", "beta": 2}})
    with pytest.raises(ConfigError, match="no rate apart to control"):
        objective.build(None)


def test_the_posterior_that_a_latent_is_drawn_from_is_told():
    mean = torch.randn(3, 2)
    assert isinstance(drawn(mean, 0.5).posterior, Posterior)
    torch.testing.assert_close(drawn(mean, 0.5).posterior.mean[..., 0], mean)
