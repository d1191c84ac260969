"""Likelihoods against scipy.stats, their optima by search, their samples by their moments."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from audiovae.config import from_dict
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods import (
    Bernoulli,
    BernoulliConfig,
    Categorical,
    CategoricalConfig,
    Gaussian,
    GaussianConfig,
    Laplace,
    LaplaceConfig,
    LikelihoodConfig,
    Logistic,
    LogisticConfig,
    LogisticMixture,
    LogisticMixtureConfig,
)
from audiovae.shapes import DataSpec

SCIPY = {Gaussian: stats.norm, Laplace: stats.laplace, Logistic: stats.logistic}
CALIBRATED = (Gaussian, Laplace)
PICTURES = DataSpec(channels=3, dims=2, levels=17)
GRIDS = [(2, 30), (3, 4, 5)]  # C and T, C and H W


def per_example(log_density: np.ndarray) -> np.ndarray:
    return log_density.reshape(len(log_density), -1).sum(1)


def optimum(kind: type, error: torch.Tensor) -> float:
    """The closed form of the best scale."""
    return float(error.square().mean().sqrt() if kind is Gaussian else error.abs().mean())


@pytest.mark.parametrize("kind", SCIPY)
@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("scale", ["fixed", "global"])
def test_one_scale_for_all_is_scipys_density(kind, shape, scale):
    params, x = torch.randn(2, 4, *shape)
    truth = SCIPY[kind].logpdf(x.numpy(), loc=params.numpy(), scale=0.3)
    np.testing.assert_allclose(kind(scale, 0.3).log_prob(params, x).detach(), per_example(truth), rtol=1e-5)


@pytest.mark.parametrize("kind", SCIPY)
@pytest.mark.parametrize("shape", GRIDS)
def test_a_predicted_scale_is_scipys_density_element_by_element(kind, shape):
    location, raw, x = torch.randn(3, 4, *shape)
    likelihood = kind("predicted", 0.5, floor=1e-3)
    start = np.log(0.5 / 1e-3)
    scale = 1e-3 * np.exp(F.softplus(raw.double() + start + np.log1p(-np.exp(-start))).numpy())
    truth = SCIPY[kind].logpdf(x.numpy(), loc=location.numpy(), scale=scale)
    params = torch.cat([location, raw], dim=1)
    assert likelihood.params_per_channel == 2
    np.testing.assert_allclose(likelihood.log_prob(params, x), per_example(truth), rtol=1e-4)
    assert torch.equal(likelihood.mean(params), location)


def test_a_predicted_scale_is_its_value_times_exp_until_it_meets_its_floor():
    likelihood = Gaussian("predicted", 1.0, floor=1e-3)
    raw = torch.tensor([-50.0, 0.0, 1.0]).view(1, 1, 3)
    scale = likelihood.scale(torch.cat([torch.zeros_like(raw), raw], dim=1)).flatten()
    torch.testing.assert_close(scale, torch.tensor([1e-3, 1.0, np.e]), rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_calibrated_scale_beats_every_other_on_its_batch(kind):
    params, x = torch.randn(2, 8, 1, 50)
    calibrated = kind("calibrated").log_prob(params, x).sum()
    best = optimum(kind, x - params)
    torch.testing.assert_close(calibrated, kind("fixed", best).log_prob(params, x).sum())
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert kind("fixed", best * factor).log_prob(params, x).sum() < calibrated


@pytest.mark.parametrize("kind", CALIBRATED)
def test_the_gradient_of_a_calibrated_likelihood_is_that_of_its_closed_form(kind):
    """With the optimum put in, Σ log p is -n log s*(μ) and a constant: its own gradient needs no detach."""
    params, x = torch.randn(8, 1, 50, requires_grad=True), torch.randn(8, 1, 50)
    (ours,) = torch.autograd.grad(kind("calibrated").log_prob(params, x).sum(), params)
    error = x - params
    deviation = error.square().mean().log() / 2 if kind is Gaussian else error.abs().mean().log()
    (truth,) = torch.autograd.grad(-x.numel() * deviation, params)
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("kind", CALIBRATED)
def test_evaluation_uses_the_average_over_training_and_does_not_move_it(kind):
    likelihood = kind("calibrated")
    batches = [k * torch.randn(8, 1, 50) for k in (1.0, 2.0, 3.0)]
    for x in batches:
        likelihood.log_prob(torch.zeros_like(x), x)
    saved = {name: value.clone() for name, value in likelihood.state_dict().items()}
    expected = optimum(kind, torch.cat(batches))
    x = torch.randn(4, 1, 50)
    for again in (likelihood.eval(), kind("calibrated").eval()):
        again.load_state_dict(saved)
        torch.testing.assert_close(again.log_prob(0 * x, x), kind("fixed", expected).log_prob(0 * x, x))
    assert all(torch.equal(saved[name], value) for name, value in likelihood.state_dict().items())


@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_perfect_batch_leaves_the_scale_at_its_floor(kind):
    x = torch.randn(2, 1, 10)
    torch.testing.assert_close(kind("calibrated", floor=0.01).log_prob(x, x),
                               kind("fixed", 0.01).log_prob(x, x))


@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_global_scale_learns_the_optimum(kind):
    likelihood, x = kind("global", 1.0), 0.05 * torch.randn(64, 1, 100)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood.log_prob(torch.zeros_like(x), x).mean()).backward()
        optimizer.step()
    assert float(likelihood.scale(x).detach()) == pytest.approx(optimum(kind, x), rel=0.01)


def test_a_density_can_be_positive_and_changes_with_the_unit_by_the_jacobian():
    params, x = torch.randn(2, 3, 1, 40)
    inches = Gaussian("fixed", 0.01).log_prob(params, x)
    torch.testing.assert_close(Gaussian("fixed", 10.0).log_prob(1000 * params, 1000 * x),
                               inches - 40 * np.log(1000.0))
    assert bool((Gaussian("fixed", 0.01).log_prob(x, x) > 0).all())


@pytest.mark.parametrize("shape", GRIDS)
def test_bernoulli_is_scipys_mass(shape):
    logits, x = torch.randn(4, *shape), (torch.rand(4, *shape) < 0.5).float()
    truth = stats.bernoulli.logpmf(x.numpy(), torch.sigmoid(logits).numpy())
    np.testing.assert_allclose(Bernoulli().log_prob(logits, x), per_example(truth), rtol=1e-4)


def test_bernoulli_of_grey_is_the_mean_over_binary_data_drawn_from_it():
    logits, grey = torch.randn(1, 1, 6), torch.rand(1, 1, 6)
    ones, zeros = torch.ones_like(grey), torch.zeros_like(grey)
    by_element = sum(chance[..., i] * Bernoulli().log_prob(logits[..., i:i + 1], value[..., i:i + 1])
                     for chance, value in ((grey, ones), (1 - grey, zeros)) for i in range(6))
    torch.testing.assert_close(Bernoulli().log_prob(logits, grey), by_element.flatten())


def test_bernoulli_stays_finite_for_the_surest_logit():
    log_prob = Bernoulli().log_prob(torch.full((1, 1, 1), 300.0), torch.zeros(1, 1, 1))
    assert float(log_prob) == -300.0


@pytest.mark.parametrize("shape", GRIDS)
def test_categorical_is_the_softmax_read_one_element_at_a_time(shape):
    levels, channels = 7, shape[0]
    params, index = torch.randn(2, levels * channels, *shape[1:]), torch.randint(0, levels, (2, *shape))
    likelihood = Categorical(levels)
    log_prob, mean = likelihood.log_prob(params, index / (levels - 1)), likelihood.mean(params)
    for b in range(2):
        total = 0.0
        for at in np.ndindex(*shape):
            logits = np.array([float(params[(b, k * channels + at[0], *at[1:])]) for k in range(levels)])
            chances = np.exp(logits) / np.exp(logits).sum()
            total += np.log(chances[index[(b, *at)]])
            expected = chances @ np.linspace(0, 1, levels)
            assert float(mean[(b, *at)]) == pytest.approx(expected, abs=1e-5)
        assert float(log_prob[b]) == pytest.approx(total, rel=1e-5)


def test_the_masses_of_all_data_sum_to_one():
    params = torch.randn(1, 3 * 2, 1)  # three levels, two channels, one position: nine pictures
    total = sum(Categorical(3).log_prob(params, torch.tensor([[[a], [b]]]) / 2).exp()
                for a in range(3) for b in range(3))
    torch.testing.assert_close(total, torch.ones(1))


@pytest.mark.parametrize(("likelihood", "params"), [
    (Gaussian("fixed", 0.3), torch.tensor([0.7])),
    (Gaussian("predicted", 1.0), torch.tensor([0.7, -1.0])),
    (Laplace("global", 0.3), torch.tensor([0.7])),
    (Laplace("calibrated", 0.3), torch.tensor([0.7])),
    (Logistic("predicted", 0.3), torch.tensor([0.7, 0.2])),
    (Bernoulli(), torch.tensor([0.4])),
    (Categorical(4), torch.tensor([0.4, 1.0, -1.0, 0.0])),
    (LogisticMixture(4, mixtures=2), torch.tensor([0.4, 1.0, -0.5, 0.5, -1.0, -2.0])),
])
def test_samples_have_the_mean_and_spread_that_log_prob_says(likelihood, params):
    """Mean by ``mean``; spread by integrating (or summing) exp(log_prob)."""
    params, n = params.view(1, -1, 1).expand(1, -1, 40000), 40000
    likelihood.eval()
    drawn = likelihood.sample(params, generator=torch.Generator().manual_seed(1)).detach()
    grid = torch.linspace(-9, 9, 36001) if isinstance(likelihood, Gaussian | Laplace | Logistic) else torch.arange(2.0)
    grid = torch.linspace(0, 1, 4) if isinstance(likelihood, Categorical | LogisticMixture) else grid
    weight = likelihood.log_prob(params[..., :1].expand(len(grid), -1, 1), grid.view(-1, 1, 1)).exp().detach()
    weight = weight / weight.sum()
    mean = (weight * grid).sum()
    spread = (weight * (grid - mean).square()).sum().sqrt()
    torch.testing.assert_close(likelihood.mean(params)[0, 0, 0], mean, rtol=0, atol=1e-3)
    assert drawn.shape == (1, 1, n)
    assert abs(float(drawn.mean() - mean)) < 5 * float(spread) / n**0.5
    assert float(drawn.std()) == pytest.approx(float(spread), rel=0.03)


@pytest.mark.parametrize("likelihood", [
    Gaussian(), Laplace(), Logistic(), Bernoulli(), Categorical(4), LogisticMixture(4),
    LogisticMixture(4, coupled=True)])
def test_a_generator_repeats_the_sample(likelihood):
    params = torch.zeros(2, likelihood.params_per_channel * 3, 50)
    one, same, other = (likelihood.sample(params, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("config", "kind"), [
    (GaussianConfig(), Gaussian), (LaplaceConfig(scale="predicted"), Laplace),
    (LogisticConfig(), Logistic), (BernoulliConfig(), Bernoulli), (CategoricalConfig(levels=17), Categorical),
    (LogisticMixtureConfig(), LogisticMixture)])
def test_the_union_of_configs_is_the_registry(config, kind):
    @dataclass(frozen=True)
    class Model:
        likelihood: LikelihoodConfig

    read = from_dict(Model, {"likelihood": {"kind": config.kind}}).likelihood
    assert isinstance(read, type(config))
    likelihood = config.build(PICTURES)
    assert isinstance(likelihood, kind)
    assert isinstance(likelihood, nn.Module)


def test_the_levels_are_the_datas_unless_said():
    assert LogisticMixtureConfig().build(PICTURES).levels == CategoricalConfig().build(PICTURES).levels == 17
    assert CategoricalConfig(levels=9).build(PICTURES).levels == 9


def test_each_says_what_its_nats_are_of():
    assert {kind: kind.measure for kind in (Gaussian, Laplace, Logistic)} == dict.fromkeys(SCIPY, "density")
    assert {kind.measure for kind in (Bernoulli, Categorical, LogisticMixture)} == {"mass"}


def one(value: float, params: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters and data of one value nine times."""
    return torch.zeros(1, params, 9), torch.full((1, 1, 9), value)


@pytest.mark.parametrize(("act", "error", "words"), [
    (lambda: Gaussian("predicted").log_prob(*one(0.0)), ShapeError, r"wants parameters \(1, 2, 9\)"),
    (lambda: Bernoulli().log_prob(*one(1.5)), ShapeError, r"\[0, 1\]"),
    (lambda: Bernoulli().log_prob(*one(np.nan)), ShapeError, r"\[0, 1\]"),
    (lambda: Categorical(4).log_prob(*one(0.5, params=4)), ShapeError, "in between"),
    (lambda: LogisticMixture(4).log_prob(*one(0.5, params=15)), ShapeError, "in between"),
    (lambda: LogisticMixture(4, 1, coupled=True).log_prob(*one(0.0, params=4)), ShapeError, "wants 3 channels"),
    (lambda: LogisticMixture(4, 0), ConfigError, "1 component"),
    (lambda: LogisticMixtureConfig().build(DataSpec(channels=1, dims=1)), ConfigError, "how many levels"),
    (lambda: Logistic("calibrated"), ConfigError, "got calibrated"),
    (lambda: Categorical(1), ConfigError, "at least 2 levels"),
    (lambda: Gaussian("fixed", 0.0), ConfigError, "above 0"),
    (lambda: Laplace("global", 0.001, floor=0.01), ConfigError, "above its floor 0.01"),
])
def test_what_does_not_fit_is_said(act, error, words):
    with pytest.raises(error, match=words):
        act()
