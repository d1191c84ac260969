"""The discretized mixture of logistics against scipy's distribution function and sums over all levels."""

import numpy as np
import pytest
import torch
from scipy import stats

from audiovae.likelihoods import LogisticMixture


def all_pictures(levels: int, channels: int) -> torch.Tensor:
    """Every picture of one pixel, (levels ** channels, channels, 1)."""
    return torch.cartesian_prod(*[torch.linspace(0, 1, levels)] * channels).view(-1, channels, 1)


@pytest.mark.parametrize(("levels", "channels", "coupled"), [(2, 1, False), (256, 1, False), (4, 3, False),
                                                             (4, 3, True)])
@pytest.mark.parametrize("spread", [0.5, 5.0, 50.0])
def test_the_mass_of_a_logistic_mixture_sums_to_one(levels, channels, coupled, spread):
    likelihood = LogisticMixture(levels, mixtures=3, coupled=coupled)
    x = all_pictures(levels, channels)
    params = spread * torch.randn(1, likelihood.params_per_channel * channels, 1, dtype=torch.float64)
    total = likelihood.log_prob(params.expand(len(x), -1, -1), x.double()).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def mixture_by_hand(params: np.ndarray, y: np.ndarray, levels: int, coupled: bool) -> float:
    """The mass of one pixel from scipy's distribution function; params (P, C), y (C,) in [-1, 1]."""
    parts = params.reshape(4 if coupled else 3, -1, len(y))
    half, bound = 1 / (levels - 1), 2 + np.log(levels - 1)

    def of_channel(m, c):
        location = parts[1, m, c]
        if coupled:
            a, b, green = np.tanh(parts[3, m])
            location += {0: 0.0, 1: a * y[0], 2: b * y[0] + green * y[1]}[c]
        logistic = stats.logistic(location, np.exp(bound * np.tanh(parts[2, m, c] / bound)))
        above = 1.0 if y[c] > 1 - half else logistic.cdf(y[c] + half)
        below = 0.0 if y[c] < half - 1 else logistic.cdf(y[c] - half)
        return above - below

    def shares(logits):
        return np.exp(logits) / np.exp(logits).sum()

    channels, components = range(len(y)), range(parts.shape[1])
    if coupled:
        share = shares(parts[0].sum(1))
        return sum(share[m] * np.prod([of_channel(m, c) for c in channels]) for m in components)
    return float(np.prod([sum(shares(parts[0, :, c])[m] * of_channel(m, c) for m in components) for c in channels]))


@pytest.mark.parametrize("coupled", [False, True])
def test_a_logistic_mixture_is_scipys_distribution_function_pixel_by_pixel(coupled):
    likelihood = LogisticMixture(17, mixtures=3, coupled=coupled)
    params = torch.randn(2, likelihood.params_per_channel * 3, 4, 5, dtype=torch.float64)
    x = torch.randint(0, 17, (2, 3, 4, 5)).double() / 16
    log_prob = likelihood.log_prob(params, x)
    for b in range(2):
        truth = sum(np.log(mixture_by_hand(params[b, :, i, j].numpy(), 2 * x[b, :, i, j].numpy() - 1, 17, coupled))
                    for i in range(4) for j in range(5))
        assert float(log_prob[b]) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("side", [-1, 1])
def test_far_tails_keep_their_digits_in_single_precision(side):
    """Of two sigmoids that are 1 in float32 the difference would be 0, and its logarithm infinite."""
    bound = 2 + np.log(255)
    s = np.exp(bound * np.tanh(-3.0 / bound))
    params = torch.tensor([0.0, -1.5 * side, -3.0]).view(1, 3, 1)
    level = 127.5 + 117.5 * side
    gap = abs(2 * level / 255 - 1 + 1.5 * side)
    truth = -(gap - 1 / 255) / s + np.log1p(-np.exp(-2 / 255 / s))  # e^a (1 - e^(b - a)): the tail is exponential
    assert truth < -40
    x = torch.tensor([[[level / 255]]])
    assert float(LogisticMixture(256, mixtures=1).log_prob(params, x)) == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("size", [1e-6, 30.0, 1e4])
def test_extreme_parameters_leave_value_and_gradient_finite(coupled, size):
    likelihood = LogisticMixture(256, mixtures=4, coupled=coupled)
    params = (size * torch.randn(64, likelihood.params_per_channel * 3, 5)).requires_grad_()
    log_prob = likelihood.log_prob(params, torch.randint(0, 256, (64, 3, 5)) / 255)
    log_prob.sum().backward()
    assert bool(log_prob.isfinite().all()) and bool((log_prob <= 0).all())
    assert params.grad is not None and bool(params.grad.isfinite().all())


def test_what_couples_the_channels_is_told_by_their_correlation():
    """One wide red, green and blue narrow about it: r and g move together, apart when a is 0."""
    likelihood = LogisticMixture(256, mixtures=1, coupled=True)
    params = torch.zeros(1, 4, 3, 1)
    params[0, 2] = torch.tensor([-1.5, -4.0, -4.0])[:, None]
    for a, expected in ((4.0, 1.0), (-4.0, -1.0), (0.0, 0.0)):
        params[0, 3, 0] = a
        drawn = likelihood.sample(params.view(1, 12, 1).expand(1, 12, 4000))[0].numpy()
        assert np.corrcoef(drawn[0], drawn[1])[0, 1] == pytest.approx(expected, abs=0.1)
        assert np.corrcoef(drawn[0], drawn[2])[0, 1] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("coupled", [False, True])
def test_samples_of_a_logistic_mixture_are_spread_over_the_levels_as_its_mass_says(coupled):
    likelihood, n = LogisticMixture(4, mixtures=2, coupled=coupled), 20000
    params = torch.randn(1, likelihood.params_per_channel * 3, 1)
    x = all_pictures(4, 3)
    expected = n * likelihood.log_prob(params.expand(len(x), -1, -1), x).exp().double().numpy()
    drawn = likelihood.sample(params.expand(-1, -1, n))[0].T * 3
    counts = np.bincount((drawn @ torch.tensor([16.0, 4.0, 1.0])).round().int().numpy(), minlength=64)
    common = expected > 5
    chi = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert stats.chi2.sf(chi, int(common.sum()) - 1) > 1e-4


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_mean_of_a_logistic_mixture_is_the_sum_over_its_levels(levels):
    likelihood, x = LogisticMixture(levels, mixtures=3), all_pictures(levels, 1)
    params = 2 * torch.randn(1, 9, 1)
    mass = likelihood.log_prob(params.expand(levels, -1, -1), x).exp()
    torch.testing.assert_close(likelihood.mean(params).flatten()[0], (mass * x.flatten()).sum(), rtol=0, atol=1e-5)


def test_the_mean_of_coupled_channels_is_near_the_sum_over_all_colours():
    likelihood, x = LogisticMixture(4, mixtures=2, coupled=True), all_pictures(4, 3)
    params = 0.5 * torch.randn(1, 24, 1)
    mass = likelihood.log_prob(params.expand(64, -1, -1), x).exp()
    truth = (mass.view(-1, 1, 1) * x).sum(0)
    torch.testing.assert_close(likelihood.mean(params)[0], truth, rtol=0, atol=0.01)
