"""Bounds against the exact log p(x) of linear-Gaussian models, where p(x) = N(b, W Wᵀ + s² I)."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from audiovae.bottlenecks import GaussianConfig as GaussianBottleneckConfig
from audiovae.bottlenecks import VQConfig
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import MLPEncoderConfig
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods import BernoulliConfig, CategoricalConfig, GaussianConfig
from audiovae.metrics import bounds, mean_interval
from audiovae.metrics.bounds import evidence, log_likelihood
from audiovae.models import Autoencoder, AutoencoderConfig, DensityConfig, SemiSupervisedConfig
from audiovae.shapes import Condition, DataSpec

SIZE, LATENT, NOISE = (3, 4), 16, 0.6  # 16: torch's noise is the same however it is cut at multiples of 16
DATA = DataSpec(channels=1, dims=2, size=SIZE)


def model_of(widths: tuple[int, ...], bottleneck, likelihood, **more) -> AutoencoderConfig:
    return AutoencoderConfig(encoder=MLPEncoderConfig(widths=widths), bottleneck=bottleneck,
                             decoder=MLPDecoderConfig(widths=widths), likelihood=likelihood, **more)


def linear(off: float = 0.0) -> tuple[Autoencoder, np.ndarray, np.ndarray]:
    """A linear decoder W z + b and the encoder of its true posterior, ``off`` by a share; with b and W Wᵀ + s² I.

    The columns of W are orthogonal (some of them 0), so that the posterior is diagonal: with variance
    v = 1 / (1 + |w|² / s²) and mean v Wᵀ (x - b) / s².
    """
    model = model_of((), GaussianBottleneckConfig(dim=LATENT), GaussianConfig(sigma=NOISE)).build(DATA)
    dims = math.prod(SIZE)
    basis, _ = torch.linalg.qr(torch.randn(dims, dims))
    lengths = torch.cat([torch.linspace(0.2, 2, dims), torch.zeros(LATENT - dims)])
    weight, bias = torch.zeros(dims, LATENT), torch.randn(dims)
    weight[:, :dims] = basis * lengths[:dims]
    variance = 1 / (1 + (lengths / NOISE)**2)
    to_mean = variance[:, None] * weight.T / NOISE**2
    (into,), (out,) = model.encoder.layers, model.decoder.layers
    with torch.no_grad():
        out.weight.copy_(weight), out.bias.copy_(bias)
        into.weight.copy_(torch.cat([(1 - off) * to_mean, torch.zeros_like(to_mean)]))
        into.bias.copy_(torch.cat([-(to_mean @ bias), variance.log() + off]))
    covariance = (weight @ weight.T).double().numpy() + NOISE**2 * np.eye(dims)
    return model.eval(), bias.double().numpy(), covariance


def draw(mean: np.ndarray, covariance: np.ndarray, count: int) -> Tensor:
    rows = np.random.default_rng(0).multivariate_normal(mean, covariance, count)
    return torch.from_numpy(rows).float().view(count, 1, *SIZE)


def exact(x: Tensor, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return stats.multivariate_normal.logpdf(x.flatten(1).double().numpy(), mean, covariance)


@pytest.mark.parametrize("samples", [1, 7])
def test_at_the_true_posterior_every_draw_is_the_evidence(samples):
    """Bayes: p(x|z) p(z) / q(z|x) is p(x) whatever z is, so that there is nothing left to average."""
    model, mean, covariance = linear()
    x = draw(mean, covariance, 20)
    assert log_likelihood(model, x, samples).numpy() == pytest.approx(exact(x, mean, covariance), abs=1e-4)


def test_the_elbo_is_the_evidence_at_the_true_posterior_and_below_it_elsewhere():
    model, mean, covariance = linear()
    x = draw(mean, covariance, 50)
    truth = exact(x, mean, covariance)
    gap = evidence(model, x, samples=2000).elbo.numpy() - truth
    spread = math.sqrt(LATENT / 2 / 2000)  # about that of Σ (z² - ε²) / 2, what a draw is off by
    assert abs(gap.mean()) < 4 * spread / math.sqrt(50)
    worse, mean, covariance = linear(off=0.3)
    x = draw(mean, covariance, 50)
    assert (evidence(worse, x, samples=500).elbo.numpy() < exact(x, mean, covariance) - 0.1).all()


def test_the_estimate_rises_with_its_samples_to_the_evidence_and_no_further():
    model, mean, covariance = linear(off=0.25)
    x = draw(mean, covariance, 60)
    truth = exact(x, mean, covariance)
    gaps = [truth - log_likelihood(model, x, samples).numpy() for samples in (1, 10, 100, 1000, 10000)]
    intervals = [mean_interval(gap) for gap in gaps]
    assert all(a.mean > b.mean for a, b in pairwise(intervals))
    assert intervals[0].mean > 10 * intervals[-1].mean
    assert intervals[-1].mean > -intervals[-1].half_width  # never above log p(x), but for chance
    assert intervals[-1].mean < 0.1


def test_one_sample_is_the_elbo_in_the_mean():
    """With K = 1 the weight is a draw of the ELBO; a sign turned in log q - log p would be seen here."""
    model, mean, covariance = linear(off=0.5)
    x = draw(mean, covariance, 8)
    once = torch.stack([log_likelihood(model, x, 1) for _ in range(2000)])
    error = once.std(0) / math.sqrt(2000)
    assert ((once.mean(0) - evidence(model, x, samples=4000).elbo).abs() < 6 * error).all()


@pytest.mark.parametrize("likelihood", [BernoulliConfig(), CategoricalConfig(levels=2), GaussianConfig()])
def test_a_chunk_does_not_change_the_estimate(likelihood):
    """The noise of one seed is used in the same order, whether several examples share a chunk or one fills many."""
    model = model_of((8,), GaussianBottleneckConfig(dim=LATENT), likelihood).build(DATA).eval()
    x = torch.rand(5, 1, *SIZE).round()

    def estimate(chunk: int) -> Tensor:
        torch.manual_seed(3)
        return log_likelihood(model, x, samples=40, chunk=chunk)

    whole = estimate(1000)
    for chunk in (1, 7, 40, 80):
        torch.testing.assert_close(estimate(chunk), whole, rtol=0, atol=1e-4)
    torch.manual_seed(3)
    by_hand = []
    for one in x.split(1):
        output = model(one, samples=40)
        log_p = model.likelihood.log_prob(output.params, one.repeat(40, 1, 1, 1))
        ratio = output.latents[0].log_ratio
        assert ratio is not None
        by_hand.append(math.log(np.mean([math.exp(float(w)) for w in (log_p - ratio).detach()])))
    assert whole.numpy() == pytest.approx(by_hand, abs=1e-4)


def test_a_turned_weight_or_a_forgotten_count_would_be_seen(monkeypatch):
    """The same tests on a broken copy: log p(z) / q(z|x) upside down, or a sum in place of the mean."""
    model, mean, covariance = linear()
    x = draw(mean, covariance, 20)
    truth, right = exact(x, mean, covariance), bounds._log_ratio
    monkeypatch.setattr(bounds, "_log_ratio", lambda *given: -right(*given))
    assert np.abs(log_likelihood(model, x, 7).numpy() - truth).min() > 0.1
    monkeypatch.setattr(bounds, "_log_ratio", right)
    assert np.abs(log_likelihood(model, x, 7).numpy() + math.log(7) - truth).min() > 0.1


def test_no_more_than_a_chunk_is_decoded_at_once(monkeypatch):
    model, mean, covariance = linear()
    seen, log_prob = [], model.likelihood.log_prob
    monkeypatch.setattr(model.likelihood, "log_prob", lambda params, x: seen.append(len(params)) or log_prob(params, x))
    for samples, count in ((1000, 3), (7, 50)):
        log_likelihood(model, draw(mean, covariance, count), samples, chunk=64)
        assert max(seen) <= 64 and sum(seen) == samples * count
        seen.clear()


def test_a_model_without_a_latent_says_its_likelihood_itself():
    model = DensityConfig().build(DataSpec(channels=1, dims=2, size=SIZE, levels=2)).eval()
    x = torch.rand(4, 1, *SIZE).round()
    torch.testing.assert_close(log_likelihood(model, x, samples=9), model.log_prob(x).double().detach())
    torch.testing.assert_close(evidence(model, x).elbo, model.log_prob(x).detach())
    assert evidence(model, x).rate.tolist() == [0.0] * 4


def test_labels_told_are_used_and_labels_summed_over_are_the_mean_of_their_chances():
    data = DataSpec(channels=1, dims=2, size=SIZE, labels=("a", "b", "c"), levels=2)
    inner = model_of((8,), GaussianBottleneckConfig(dim=LATENT), BernoulliConfig(), condition_dim=4,
                     condition_encoder=True)
    model = SemiSupervisedConfig(autoencoder=inner).build(data).eval()
    x = torch.rand(6, 1, *SIZE).round()
    torch.manual_seed(1)
    whole = log_likelihood(model, x, samples=16)
    torch.manual_seed(1)
    told = [log_likelihood(model.autoencoder, x, 16, Condition(torch.full((6,), label))) for label in range(3)]
    assert not torch.allclose(told[0], told[1], atol=1e-3)
    assert whole.exp().numpy() == pytest.approx(torch.stack(told).exp().mean(0).numpy(), rel=1e-5)
    mixed = Condition(torch.tensor([0, 1, 2, 0, 1, 2]))
    torch.manual_seed(1)
    together = log_likelihood(model.autoencoder, x, 16, mixed, chunk=32)
    torch.manual_seed(1)
    assert torch.allclose(log_likelihood(model.autoencoder, x, 16, mixed), together, atol=1e-4)
    assert evidence(model, x).elbo.shape == (6,)


def test_what_has_no_density_is_refused():
    model = model_of((), VQConfig(num_codes=8, dim=4), GaussianConfig()).build(DATA).eval()
    x = torch.randn(2, 1, *SIZE)
    with pytest.raises(ConfigError, match="wants a latent with a density, got VectorQuantizer"):
        log_likelihood(model, x, 5)
    assert evidence(model, x).rate.tolist() == pytest.approx([math.log(8)] * 2)
    with pytest.raises(ConfigError, match="samples and chunk of at least 1, got 0"):
        log_likelihood(model, x, 0)


def test_data_expanded_is_still_checked():
    """What is one example many times over is looked at once, but it is looked at."""
    model = model_of((), GaussianBottleneckConfig(dim=LATENT), BernoulliConfig()).build(DATA).eval()
    x = torch.zeros(1, 1, *SIZE)
    x[0, 0, 2, 3] = 1.5
    with pytest.raises(ShapeError, match="data in \\[0, 1\\]"):
        log_likelihood(model, x, 5)
