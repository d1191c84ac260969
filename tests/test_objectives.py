"""The objective by its sum, its ELBO by an exact evidence; rate control by its schedules and gradients."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from audiovae.bottlenecks import GaussianConfig as GaussianBottleneckConfig
from audiovae.bottlenecks import VQConfig
from audiovae.config import from_dict, to_dict
from audiovae.criteria_config import JukeboxSpectralConfig, LogMelConfig, SampleL1Config, SampleL2Config
from audiovae.errors import ConfigError
from audiovae.likelihoods import Bernoulli, Gaussian
from audiovae.objectives import ObjectiveConfig
from audiovae.rate_control import Cyclical, FreeBits, Linear, RateControl
from audiovae.rate_control_config import ConstantConfig, CyclicalConfig, FreeBitsConfig, LinearConfig
from audiovae.shapes import Latent, Output, Scalars


def gaussian_latent(nats: Tensor) -> Latent:
    """A latent that spends (B, D, *grid) nats where told."""
    return Latent(z=torch.zeros_like(nats), rate=nats.flatten(1).sum(1), rate_map=nats)


def code_latent(rate: float = 5.0, **losses: float) -> Latent:
    return Latent(torch.zeros(2, 4, 3), torch.full((2,), rate), codes=torch.zeros(2, 1, 3, dtype=torch.int64),
                  losses={name: torch.tensor(value, requires_grad=True) for name, value in losses.items()})


def data() -> tuple[Tensor, Tensor]:
    """Parameters and data of two examples of twelve dimensions."""
    return torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)


def test_the_total_is_the_sum_it_says_per_dimension():
    params, x = data()
    nats = torch.rand(2, 4, 3)
    latent = gaussian_latent(nats)
    latent.losses["commitment"] = torch.tensor(0.7)
    config = ObjectiveConfig(distortion_weight=0.5, rate=ConstantConfig(beta=3.0), commitment=0.1,
                             criteria=(SampleL1Config(weight=2.0), SampleL2Config(weight=5.0)))
    loss = config.build(None)(Output((latent,), params), x, Gaussian("fixed", 0.2), progress=0.5)
    estimate, truth = params.detach().numpy(), x.numpy()
    distortion = -stats.norm.logpdf(truth, estimate, 0.2).sum() / 2
    rate = float(nats.sum()) / 2
    l1, l2 = np.abs(estimate - truth).mean(), ((estimate - truth) ** 2).mean()
    assert float(loss.distortion) == pytest.approx(distortion, rel=1e-5)
    assert float(loss.rate) == pytest.approx(rate, rel=1e-5)
    assert float(loss.total.detach()) == pytest.approx(
        (0.5 * distortion + 3 * rate) / 12 + 2 * l1 + 5 * l2 + 0.1 * 0.7, rel=1e-5)
    assert {name: float(value) for name, value in loss.terms.items()} == pytest.approx(
        {"sample_l1": l1, "sample_l2": l2, "commitment": 0.7}, rel=1e-5)


def test_only_the_total_has_a_gradient():
    params, x = data()
    loss = ObjectiveConfig(criteria=(SampleL1Config(),)).build(None)(
        Output((code_latent(commitment=1.0),), params), x, Gaussian(), progress=0.0)
    assert loss.total.requires_grad
    assert not any(v.requires_grad for v in (loss.distortion, loss.rate, *loss.terms.values(), *loss.stats.values()))


def test_the_elbo_of_the_exact_posterior_is_the_evidence():
    """x = z + noise with z ~ N(0, 1): with q the true posterior, E[ELBO] is log N(x; 0, 1 + σ²) exactly."""
    sigma, x, draws = 0.5, 1.3, 20000
    posterior = torch.tensor([x / (1 + sigma**2), math.log(sigma**2 / (1 + sigma**2))])
    bottleneck = GaussianBottleneckConfig(dim=1).build(dims=1)
    latent = bottleneck(posterior.view(1, 2, 1).expand(draws, 2, 1))
    objective = ObjectiveConfig(rate=ConstantConfig(beta=7.0)).build(None)
    loss = objective(Output((latent,), latent.z), torch.full((draws, 1, 1), x), Gaussian("fixed", sigma), 0.0)
    evidence = stats.norm.logpdf(x, 0, math.sqrt(1 + sigma**2))
    spread = Gaussian("fixed", sigma).log_prob(latent.z, torch.full((draws, 1, 1), x)).std() / draws**0.5
    assert loss.elbo is not None
    assert loss.bits_per_dimension is not None
    assert abs(float(loss.elbo) - evidence) < 4 * float(spread)
    assert float(loss.bits_per_dimension) == pytest.approx(-float(loss.elbo) / math.log(2), rel=1e-6)


def test_bits_per_dimension_of_an_even_guess_are_one():
    x = (torch.rand(3, 1, 8, 8) < 0.5).float()
    loss = ObjectiveConfig().build(None)(
        Output((gaussian_latent(torch.zeros(3, 2, 1, 1)),), torch.zeros_like(x)), x, Bernoulli(), 0.0)
    assert loss.numbers()["bits_per_dimension"] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("rate", [ConstantConfig(beta=4.0), LinearConfig(), FreeBitsConfig(nats=9.0)])
def test_the_elbo_does_not_depend_on_the_rate_control(rate):
    params, x = data()
    output = Output((gaussian_latent(torch.rand(2, 4, 3)),), params)
    plain, other = (ObjectiveConfig(rate=r).build(None)(output, x, Gaussian(), 0.01)
                    for r in (ConstantConfig(), rate))
    assert plain.elbo is not None
    assert other.elbo is not None
    assert torch.equal(plain.elbo, other.elbo)
    assert not torch.equal(plain.total, other.total)


@pytest.mark.parametrize(("config", "latent", "reported"), [
    (ObjectiveConfig(), code_latent(), True),
    (ObjectiveConfig(), gaussian_latent(torch.ones(2, 1, 1)), True),
    (ObjectiveConfig(), Latent(torch.zeros(2, 1, 1), torch.zeros(2)), False),  # the identity has no rate
    (ObjectiveConfig(distortion_weight=0.0), code_latent(), False),
    (ObjectiveConfig(distortion_weight=2.0), code_latent(), False),
    (ObjectiveConfig(criteria=(SampleL1Config(weight=1e-9),)), code_latent(), False),
])
def test_an_elbo_is_reported_only_when_it_is_one(config, latent, reported):
    params, x = data()
    loss = config.build(None)(Output((latent,), params), x, Gaussian(), progress=0.0)
    assert (loss.elbo is not None) is reported
    assert ("elbo" in loss.numbers()) is reported
    assert ("bits_per_dimension" in loss.numbers()) is reported
    assert {"total", "distortion", "rate", "beta"} <= loss.numbers().keys()


def test_a_levels_ladder_with_one_level_lacking_a_rate_has_no_elbo():
    params, x = data()
    latents = (code_latent(), Latent(torch.zeros(2, 1, 1), torch.zeros(2)))
    assert ObjectiveConfig().build(None)(Output(latents, params), x, Gaussian(), 0.0).elbo is None


def test_a_zero_distortion_weight_leaves_even_an_infinite_distortion_out_of_the_total():
    params, x = torch.zeros(2, 1, 4), torch.full((2, 1, 4), 1e30)
    loss = ObjectiveConfig(distortion_weight=0.0).build(None)(
        Output((code_latent(rate=0.0, commitment=1.0),), params), x, Gaussian(), 0.0)
    assert math.isinf(float(loss.distortion))
    assert float(loss.total.detach()) == pytest.approx(0.25)


def test_a_longer_crop_of_the_same_has_the_same_total():
    params, x = data()
    nats = torch.rand(2, 4, 3)
    objective = ObjectiveConfig(criteria=(SampleL1Config(),)).build(None)
    short, long = (objective(Output((gaussian_latent(nats.repeat(1, 1, n)),), params.repeat(1, 1, n)),
                             x.repeat(1, 1, n), Gaussian(), 0.0) for n in (1, 5))
    torch.testing.assert_close(short.total, long.total)
    torch.testing.assert_close(5 * short.distortion, long.distortion)
    torch.testing.assert_close(5 * short.rate, long.rate)


def test_levels_add_their_rates_and_losses_and_keep_their_statistics_apart():
    params, x = data()
    latents = (code_latent(3.0, commitment=1.0, codebook=0.5), code_latent(4.0, commitment=10.0))
    latents[0].stats["perplexity"], latents[1].stats["perplexity"] = torch.tensor(7.0), torch.tensor(8.0)
    numbers = ObjectiveConfig().build(None)(Output(latents, params), x, Gaussian(), 0.0).numbers()
    assert (numbers["rate"], numbers["commitment"], numbers["codebook"]) == (7.0, 11.0, 0.5)
    assert (numbers["perplexity_0"], numbers["perplexity_1"]) == (7.0, 8.0)
    assert "perplexity" not in numbers


def test_a_steps_statistics_are_worked_out_once_and_only_when_they_are_asked_for():
    asked = []

    def costly():
        asked.append(torch.is_grad_enabled())
        return torch.tensor(3.0)

    fast, slow = (Latent(torch.zeros(2, 1, 1), torch.zeros(2), stats=Scalars(use=of)) for of in (costly, costly))
    one = ObjectiveConfig().build(sample_rate=None)
    loss = one(Output((fast, slow), torch.zeros(2, 1, 8)), torch.zeros(2, 1, 8), Gaussian(), progress=0.0)
    assert list(loss.stats) == ["use_0", "use_1", "beta"] and asked == []
    assert loss.numbers()["use_1"] == loss.numbers()["use_0"] == 3
    assert asked == [False, False]
    both = Scalars.mean([Scalars(use=costly), {"use": torch.tensor(5.0)}])
    assert len(asked) == 2 and both["use"] == 4 and len(asked) == 3


def test_what_is_asked_for_after_a_step_is_what_the_step_had():
    """Codes and weights have moved on by then; the formulas are numpy's, on copies taken before."""
    torch.manual_seed(0)
    h = torch.randn(6, 8, 5, 5)
    gaussian, vq = GaussianBottleneckConfig(dim=4).build(dims=2), VQConfig(num_codes=16, dim=8).build(dims=2)
    vq(h)
    latents = gaussian(h), vq(h)
    counts = np.bincount(latents[1].codes.flatten(), minlength=16)
    mean, log_variance = h[:, :4].double().numpy(), h[:, 4:].double().numpy()
    for _ in range(3):
        vq(torch.randn_like(h))
    stats = {**latents[0].stats, **latents[1].stats}
    assert stats["active_units"] == (mean.transpose(1, 0, 2, 3).reshape(4, -1).var(1) > 0.01).sum()
    assert float(stats["kl_per_dim"]) == pytest.approx(
        np.mean(0.5 * (mean ** 2 + np.exp(log_variance) - 1 - log_variance)), rel=1e-5)
    p = counts[counts > 0] / counts.sum()
    assert float(stats["perplexity"]) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert float(stats["usage"]) == pytest.approx(len(p) / 16)


def test_weights_are_the_slopes_of_the_total():
    params, x = data()
    latent = code_latent(commitment=1.0, codebook=2.0)
    ObjectiveConfig(commitment=0.02, codebook=0.3).build(None)(
        Output((latent,), params), x, Gaussian(), 0.0).total.backward()
    assert [float(v.grad) for v in latent.losses.values() if v.grad is not None] == pytest.approx([0.02, 0.3])


def test_criteria_judge_the_likelihoods_mean():
    logits, x = torch.randn(2, 1, 6), torch.rand(2, 1, 6)
    loss = ObjectiveConfig(criteria=(SampleL1Config(),)).build(None)(
        Output((code_latent(),), logits), x, Bernoulli(), 0.0)
    torch.testing.assert_close(loss.terms["sample_l1"], (logits.sigmoid() - x).abs().mean())


def test_what_does_not_fit_is_said():
    params, x = data()
    with pytest.raises(ConfigError, match="loss 'entropy' has no weight; it knows classification, codebook"):
        ObjectiveConfig().build(None)(Output((code_latent(entropy=1.0),), params), x, Gaussian(), 0.0)
    with pytest.raises(ConfigError, match="'log_mel' is given more than once"):
        ObjectiveConfig(criteria=(LogMelConfig(), LogMelConfig())).build(16000)
    with pytest.raises(ConfigError, match="criterion 'jukebox_spectral' wants audio"):
        ObjectiveConfig(criteria=(JukeboxSpectralConfig(),)).build(None)


def test_a_config_survives_the_way_through_plain_values():
    config = ObjectiveConfig(rate=CyclicalConfig(cycles=3), commitment=0.02,
                             criteria=(LogMelConfig(weight=2.0), JukeboxSpectralConfig()))
    assert from_dict(ObjectiveConfig, to_dict(config)) == config


# Rate control


def test_linear_annealing_reaches_beta_where_it_says_and_stays():
    weights = [Linear(beta=2.0, until=0.25).weight(p) for p in np.linspace(0, 1, 9)]
    assert weights == pytest.approx([0, 1, 2, 2, 2, 2, 2, 2, 2])


def test_cyclical_annealing_is_fus_formula_at_every_step():
    """β_t = min(τ / R, 1), τ = mod(t - 1, ⌈T/M⌉) / (T/M), with t counted from 1."""
    steps, cycles, rise = 200, 4, 0.5
    control = Cyclical(beta=3.0, cycles=cycles, rise=rise)
    for t in range(1, steps + 1):
        tau = ((t - 1) % math.ceil(steps / cycles)) / (steps / cycles)
        assert control.weight((t - 1) / steps) == pytest.approx(3 * min(tau / rise, 1), abs=1e-9)


@pytest.mark.parametrize("control", [RateControl(2.0), Linear(2.0, 0.3), Cyclical(2.0), FreeBits(0.1, beta=2.0)])
def test_every_control_ends_at_beta(control):
    assert control.weight(1.0) == 2.0


@pytest.mark.parametrize("control", [RateControl(0.5), Linear(2.0, 1.0), FreeBits(0.0, "channel", beta=0.5),
                                     FreeBits(0.0, "element", beta=0.5), FreeBits(0.0, "level", beta=0.5)])
def test_a_control_is_beta_times_the_mean_rate_where_it_holds_nothing_back(control):
    one, other = torch.rand(4, 3, 5), torch.rand(4, 2, 7)
    penalty = control([gaussian_latent(one), gaussian_latent(other)], progress=0.25)
    assert float(penalty) == pytest.approx(0.5 * float(one.sum() + other.sum()) / 4, rel=1e-5)


GROUPS = {"element": lambda nats: nats.mean(0).reshape(-1), "channel": lambda nats: nats.mean(0).sum(1),
          "level": lambda nats: nats.mean(0).sum().reshape(1)}


@pytest.mark.parametrize("per", GROUPS)
def test_free_bits_press_only_on_groups_above_their_share(per):
    nats = (2 * torch.rand(4, 3, 5)).requires_grad_()
    groups = GROUPS[per](nats.detach())
    threshold = float(groups.median()) + 1e-3 if len(groups) > 1 else float(groups) - 1e-3
    penalty = FreeBits(threshold, per)([gaussian_latent(nats)], progress=0.0)
    assert float(penalty.detach()) == pytest.approx(sum(max(threshold, float(g)) for g in groups), rel=1e-5)
    (slope,) = torch.autograd.grad(penalty, nats)
    pressed = (groups > threshold).float() / 4
    wanted = {"element": lambda: pressed.view(3, 5), "channel": lambda: pressed.view(3, 1).expand(3, 5),
              "level": lambda: pressed.expand(3, 5)}[per]()
    torch.testing.assert_close(slope, wanted.expand(4, 3, 5))


def test_below_its_free_bits_a_latent_feels_nothing():
    nats = torch.full((4, 3, 5), 0.01, requires_grad=True)
    for per in GROUPS:
        penalty = FreeBits(1.0, per)([gaussian_latent(nats)], progress=0.0)  # type: ignore[arg-type]
        assert not bool(torch.autograd.grad(penalty, nats)[0].any())


def test_free_bits_hold_for_the_batch_and_not_for_each_example():
    """Kingma 2016 clamps the mean over the batch; clamping each example would press on the second here."""
    nats = torch.tensor([0.0, 1.0]).view(2, 1, 1).requires_grad_()
    penalty = FreeBits(0.6)([gaussian_latent(nats)], progress=0.0)
    assert float(penalty.detach()) == pytest.approx(0.6)
    assert not bool(torch.autograd.grad(penalty, nats)[0].any())


@pytest.mark.parametrize(("act", "words"), [
    (lambda: FreeBits()([code_latent()], 0.0), "this one's is constant"),
    (lambda: RateControl(-1.0), "beta of at least 0"),
    (lambda: FreeBits(nats=-1.0), "at least 0 nats"),
    (lambda: Linear(until=0.0), "until as a share"),
    (lambda: Cyclical(rise=1.5), "rise as a share"),
    (lambda: Cyclical(cycles=0), "at least one cycle"),
])
def test_a_rate_control_that_cannot_be_is_refused(act, words):
    with pytest.raises(ConfigError, match=words):
        act()


def test_free_bits_of_a_rate_without_a_closed_form_say_so():
    drawn = Latent(torch.zeros(1, 2, 1), torch.tensor([3.0]), log_ratio=torch.tensor([3.0]))
    with pytest.raises(ConfigError, match="closed form"):
        FreeBits()([drawn], 0.0)
    with pytest.raises(ConfigError, match="constant"):
        FreeBits()([replace(drawn, log_ratio=None)], 0.0)
