"""Dequantization against integrals over the cells: what the bound may say, and how near learned noise comes."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from audiovae.config import from_dict
from audiovae.errors import ConfigError, ExtraError, ShapeError
from audiovae.likelihoods import (
    Categorical,
    Dequantized,
    DequantizedConfig,
    Gaussian,
    Likelihood,
    LikelihoodConfig,
    Logistic,
)
from audiovae.likelihoods.noise import FlowNoise, LogitNormalNoise, Noise, UniformNoise
from audiovae.shapes import DataSpec

LEVELS = 4
LEARNED = {"logit_normal": LogitNormalNoise, "flow": FlowNoise}


class Steps(Likelihood):
    """A density on [0, 1] that is constant over each level's cell: levels times the level's share."""

    measure = "density"

    def __init__(self, shares: Tensor):
        super().__init__()
        self.density = shares * len(shares)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        index = (x * len(self.density)).long().clamp(max=len(self.density) - 1)  # 1 itself is of the last cell
        return self.density[index].log().flatten(1).sum(1)


def learned(kind: str, channels: int = 1, wild: float = 0.0) -> Noise:
    """Learned noise for a line of elements, its last layers moved ``wild`` far from where they start."""
    noise = LEARNED[kind](channels, dims=1, width=16, depth=1)
    with torch.no_grad():
        for parameter in noise.parameters():
            parameter.add_(wild * torch.randn_like(parameter))
    return noise


def noises() -> list[Noise]:
    return [UniformNoise(), learned("logit_normal", wild=0.2), learned("flow", wild=0.2)]


def mass(level: Tensor, location: float, sigma: float) -> np.ndarray:
    """The integral of a normal density over the cell of each level."""
    low = level.double().numpy() / LEVELS
    normal = stats.norm(location, sigma)
    return normal.cdf(low + 1 / LEVELS) - normal.cdf(low)


@pytest.mark.parametrize("shape", [(2, 10), (3, 4, 4)])
def test_a_uniform_density_gives_each_of_all_pictures_the_same_share(shape):
    likelihood = Dequantized(Steps(torch.full((256,), 1 / 256)), 256, UniformNoise())
    x = torch.randint(0, 256, (5, *shape)) / 255
    truth = torch.full((5,), -math.prod(shape) * math.log(256))
    torch.testing.assert_close(likelihood.log_prob(torch.zeros_like(x), x), truth)


def test_a_density_constant_over_each_cell_makes_the_bound_exact():
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    x = torch.tensor([[[0.0, 1.0, 1.0]], [[1 / 3, 2 / 3, 0.0]]])
    log_prob = Dequantized(Steps(shares), LEVELS, UniformNoise()).log_prob(torch.zeros_like(x), x)
    torch.testing.assert_close(log_prob, torch.tensor([0.1 * 0.4 * 0.4, 0.2 * 0.3 * 0.1]).log())


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_the_uniform_bound_is_its_integral(sigma):
    """The mean over u of log p(v) - log levels, integrated by the midpoint rule."""
    level, n = torch.arange(LEVELS), 20000
    x = (level / (LEVELS - 1)).view(LEVELS, 1, 1).repeat_interleave(n, 0)
    draws = Dequantized(Gaussian("fixed", sigma), LEVELS, UniformNoise()).log_prob(torch.full_like(x, 0.4), x)
    u = (np.arange(10000) + 0.5) / 10000
    for k, ours in zip(level, draws.view(LEVELS, n).double().numpy(), strict=True):
        truth = stats.norm.logpdf((int(k) + u) / LEVELS, 0.4, sigma).mean() - math.log(LEVELS)
        assert abs(ours.mean() - truth) < 5 * ours.std() / math.sqrt(n)


@pytest.mark.parametrize("noise", noises(), ids=lambda noise: type(noise).__name__)
@pytest.mark.parametrize("samples", [1, 8])
def test_no_noise_lifts_the_bound_above_the_integral_and_its_exponential_meets_it(noise, samples):
    """E log w <= log P, and E w = P: w is an unbiased estimate of the integral whatever q is."""
    level, n = torch.arange(LEVELS), 4000
    x = (level / (LEVELS - 1)).view(LEVELS, 1, 1).repeat_interleave(n, 0)
    likelihood = Dequantized(Gaussian("fixed", 0.2), LEVELS, noise, samples)
    draws = likelihood.log_prob(torch.full_like(x, 0.4), x).view(LEVELS, n).double().detach().numpy()
    truth, error = mass(level, 0.4, 0.2), draws.std(1) / math.sqrt(n)
    assert np.all(draws.mean(1) < np.log(truth) + 4 * error)
    weights = np.exp(draws)
    assert np.all(np.abs(weights.mean(1) - truth) < 6 * weights.std(1) / math.sqrt(n) + 1e-9)


def test_more_samples_tighten_the_bound():
    x = torch.full((4000, 1, 1), 1 / 3)
    means = [float(Dequantized(Gaussian("fixed", 0.05), LEVELS, UniformNoise(), samples)
                   .log_prob(torch.full_like(x, 0.4), x).mean()) for samples in (1, 4, 64)]
    truth = float(np.log(mass(torch.tensor(1), 0.4, 0.05)))
    assert means[0] < means[1] - 0.1 < means[2] - 0.1
    assert means[2] == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_noise_comes_close_to_the_integral_where_uniform_noise_does_not(kind):
    """One pixel, a density far narrower than a cell: learned noise loses less than a tenth."""
    truth = mass(torch.arange(LEVELS), 0.4, 0.06)
    likelihood = Dequantized(Gaussian("fixed", 0.06), LEVELS, learned(kind))
    x = torch.tensor(np.random.default_rng(0).choice(LEVELS, 128, p=truth / truth.sum())) / (LEVELS - 1)
    x = x.float().view(-1, 1, 1)
    params = torch.full_like(x, 0.4)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood.log_prob(params, x).mean()).backward()
        optimizer.step()
    many, params = x.repeat(80, 1, 1), params.repeat(80, 1, 1)
    with torch.no_grad():
        tight = float(likelihood.log_prob(params, many).mean())
        loose = float(Dequantized(Gaussian("fixed", 0.06), LEVELS, UniformNoise()).log_prob(params, many).mean())
    exact = float(np.log(truth[(many * (LEVELS - 1)).round().int().numpy()]).mean())
    assert loose < exact - 0.5
    assert exact - 0.1 * (exact - loose) < tight < exact + 0.005


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize(("elements", "step"), [(1, 0.01), (2, 0.2)])
def test_learned_noise_integrates_to_one(kind, elements, step):
    """Over y with u = σ(y), where a density that crowds an edge of [0, 1] is smooth."""
    noise = learned(kind, wild=0.15).double()
    y = torch.cartesian_prod(*[torch.arange(-15, 15, step, dtype=torch.float64)] * elements).view(-1, 1, elements)
    x = torch.rand(1, 1, elements, dtype=torch.float64).expand(len(y), -1, -1)
    slope = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y)
    density = (noise.log_prob(y.sigmoid(), x) + slope.flatten(1).sum(1)).exp()
    assert float(density.detach().sum() * step**elements) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", LEARNED)
def test_what_is_drawn_is_as_likely_as_the_way_back_says(kind):
    noise = learned(kind, channels=3, wild=0.2).double()
    x = torch.rand(8, 3, 6, dtype=torch.float64)
    u, log_q = noise(x)
    assert bool(((u > 0) & (u < 1)).all())
    torch.testing.assert_close(noise.log_prob(u, x), log_q)
    assert float(log_q.detach().std()) > 0.1  # not uniform any more


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_noise_starts_almost_uniform(kind):
    _, log_q = learned(kind)(torch.rand(1000, 1, 10))
    assert abs(float(log_q.detach().mean())) / 10 < 0.02  # nats an element: KL from the uniform one


@pytest.mark.parametrize(("kind", "dependent"), [("logit_normal", False), ("flow", True)])
def test_only_the_noise_of_a_flow_depends_on_its_neighbours(kind, dependent):
    """Where elements are independent, log q is a sum over them, and its mixed second derivatives are 0."""
    noise = learned(kind, wild=0.2).double()
    u = torch.rand(1, 1, 5, dtype=torch.float64)
    x = torch.rand_like(u)
    curvature = torch.autograd.functional.hessian(lambda u: noise.log_prob(u, x).sum(), u)
    mixed = torch.as_tensor(curvature).view(5, 5)
    mixed = mixed - mixed.diag().diag()
    assert bool((mixed.abs() > 1e-6).any()) == dependent


@pytest.mark.parametrize("inner", [Gaussian("predicted", 0.1), Logistic("fixed", 0.1)])
def test_the_mean_and_samples_are_on_the_scale_of_the_data(inner):
    likelihood = Dequantized(inner, LEVELS, UniformNoise())
    level = torch.arange(LEVELS).view(1, 1, -1)
    location = (level + 0.5) / LEVELS
    params = torch.cat([location, torch.zeros_like(location)][:inner.params_per_channel], 1)
    torch.testing.assert_close(likelihood.mean(params), level / (LEVELS - 1))
    drawn = likelihood.sample(params.repeat(20000, 1, 1), torch.Generator().manual_seed(0)) * (LEVELS - 1)
    torch.testing.assert_close(drawn, drawn.round())
    normal = stats.norm if isinstance(inner, Gaussian) else stats.logistic
    edges = np.array([-np.inf, *np.arange(1, LEVELS) / LEVELS, np.inf])
    for k in range(LEVELS):
        expected = np.diff(normal.cdf(edges, loc=float(location[0, 0, k]), scale=0.1))
        counts = np.bincount(drawn[:, 0, k].int().numpy(), minlength=LEVELS)
        np.testing.assert_allclose(counts / 20000, expected, atol=0.015)


@pytest.mark.parametrize(("noise", "says"), [("uniform", "uniform dequantization"),
                                             ("logit_normal", "variational dequantization"),
                                             ("flow", "variational dequantization")])
def test_a_config_says_which_dequantization_and_its_noise_is_trained(noise, says):
    @dataclass(frozen=True)
    class Model:
        likelihood: LikelihoodConfig = DequantizedConfig()

    config = from_dict(Model, {"likelihood": {"noise": {"kind": noise}, "inner": {"sigma": 0.2}}}).likelihood
    likelihood = config.build(DataSpec(channels=3, dims=2, levels=17))
    assert likelihood.measure == says
    x = torch.randint(0, 17, (2, 3, 4, 4)) / 16
    params = torch.zeros(2, likelihood.params_per_channel * 3, 4, 4, requires_grad=True)
    likelihood.log_prob(params, x).sum().backward()
    trained = [p for name, p in likelihood.named_parameters() if name.startswith("noise")]
    assert bool(trained) == (noise != "uniform")
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


@pytest.mark.parametrize(("act", "error", "words"), [
    (lambda: Dequantized(Categorical(4), 4, UniformNoise()), ConfigError, "got Categorical, a mass"),
    (lambda: Dequantized(Gaussian(), 1, UniformNoise()), ConfigError, "at least 2 levels"),
    (lambda: FlowNoise(1, 1, layers=1), ConfigError, "at least 2 layers"),
    (lambda: DequantizedConfig().build(DataSpec(channels=1, dims=1)), ConfigError, "how many levels"),
    (lambda: Dequantized(Gaussian(), 4, UniformNoise()).log_prob(torch.zeros(1, 1, 2), torch.full((1, 1, 2), 0.5)),
     ShapeError, "in between"),
])
def test_what_does_not_fit_is_said(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_a_flow_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.transforms", None)
    with pytest.raises(ExtraError, match=r"audiovae\[flows\]"):
        FlowNoise(1, 1)
