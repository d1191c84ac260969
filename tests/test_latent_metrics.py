"""Diagnostics of a latent space, against closed forms on linear-Gaussian models, loops, and known holes."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from audiovae.bottlenecks import GaussianConfig, IdentityConfig
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import MLPEncoderConfig
from audiovae.errors import ConfigError, ShapeError
from audiovae.image.digits import digits
from audiovae.latents import encode, locate
from audiovae.latents.coding import draw
from audiovae.likelihoods import BernoulliConfig
from audiovae.metrics.latents import (
    active_units,
    fitted_draws,
    holes,
    latent_information,
    path_smoothness,
    smoothness,
    spread,
)
from audiovae.models import AutoencoderConfig
from audiovae.shapes import DataSpec, Posterior


def standard(z):
    return Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)


def linear_gaussian(count):
    """x ~ N(0, 1) of 3 numbers, q(z|x) = N(A x, s²) of 2: everything about q(z) is known."""
    a, std = torch.tensor([[1.0, 0.5, -0.3], [0.2, -0.6, 0.4]]).double(), torch.tensor([0.4, 0.9]).double()
    x = torch.randn(count, 3).double()
    q = Posterior(x @ a.T, (2 * std.log()).expand(count, 2))
    marginal = MultivariateNormal(torch.zeros(2).double(), a @ a.T + torch.diag(std**2))
    mutual = 0.5 * (torch.logdet(marginal.covariance_matrix) - 2 * std.log().sum())
    apart = kl_divergence(marginal, MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))
    return q, float(mutual), float(apart)


def test_mutual_information_and_marginal_kl_of_a_linear_gaussian_model():
    q, mutual, apart = linear_gaussian(3000)
    z = draw(q)
    found = latent_information(z, q, standard(z))
    for estimate, truth in ((found.mutual, mutual), (found.marginal_kl, apart), (found.rate, mutual + apart)):
        assert abs(estimate.mean - truth) < 2.5 * estimate.half_width, (estimate, truth)
        assert estimate.half_width < 0.1
    assert mutual > 0.5 and apart > 0.05  # the truths are far from 0, and from each other


def test_the_parts_sum_to_the_rate_which_is_the_closed_form():
    q = Posterior(torch.randn(500, 4, 3), torch.randn(500, 4, 3))
    z = draw(q)
    found = latent_information(z, q, standard(z))
    assert found.mutual.mean + found.marginal_kl.mean == pytest.approx(found.rate.mean, abs=1e-9)
    closed = kl_divergence(Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    assert abs(found.rate.mean - float(closed)) < 2.5 * found.rate.half_width


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_information_is_that_of_a_loop_over_pairs(chunk):
    q = Posterior(torch.randn(12, 3, 2).double(), torch.randn(12, 3, 2).double())
    z = draw(q)
    parts = [Independent(Normal(m.flatten(), (v.flatten() / 2).exp()), 1)
             for m, v in zip(q.mean, q.log_variance, strict=True)]
    mutual = []
    for one, own in zip(z, parts, strict=True):
        mixture = sum(math.exp(float(other.log_prob(one.flatten()))) for other in parts) / 12
        mutual.append(float(own.log_prob(one.flatten())) - math.log(mixture))
    found = latent_information(z, q, standard(z), chunk)
    assert found.mutual.mean == pytest.approx(sum(mutual) / 12) and found.limit == pytest.approx(math.log(12))


def test_information_is_nothing_where_all_posteriors_are_one_and_log_n_where_none_meet():
    same = Posterior(torch.ones(50, 2), torch.zeros(50, 2))
    z = draw(same)
    assert latent_information(z, same, standard(z)).mutual.mean == pytest.approx(0, abs=1e-9)
    apart = Posterior(1000 * torch.arange(50.0).view(50, 1), torch.zeros(50, 1))
    z = draw(apart)
    found = latent_information(z, apart, standard(z))
    assert found.mutual.mean == pytest.approx(found.limit, rel=1e-6)


def test_narrow_posteriors_far_out_lose_no_digits():
    """Squares multiplied out cancel: at 100 with a spread of 1e-3 single precision would be off by thousands."""
    q = Posterior(100 + 0.01 * torch.randn(20, 2).double(), torch.full((20, 2), 2 * math.log(1e-3)).double())
    z = draw(q)
    logs = torch.stack([Normal(m, 1e-3).log_prob(z).sum(1) for m in q.mean], dim=1)
    truth = logs.diagonal() - (logs.logsumexp(1) - math.log(20))
    assert latent_information(z, q, standard(z)).mutual.mean == pytest.approx(float(truth.mean()), abs=1e-5)


def test_information_of_what_has_none():
    q = Posterior(torch.zeros(5, 2), torch.full((5, 2), -torch.inf))
    with pytest.raises(ConfigError, match="a spread"):
        latent_information(q.mean, q, torch.zeros(5))
    with pytest.raises(ShapeError, match="each of 5 posteriors"):
        latent_information(torch.zeros(4, 2), q, torch.zeros(5))


def test_units_are_active_by_their_variance():
    mean = torch.randn(200, 4, 3) * torch.tensor([0.05, 0.2, 1.0, 0.0]).view(4, 1) + 7
    truth = [float(np.var([float(v) for one in mean for v in one[d]])) > 0.01 for d in range(4)]
    assert active_units(mean).tolist() == truth == [False, True, True, False]


def test_holes_between_two_clusters_are_as_large_as_the_prior_says():
    """Encodings fill [-3, -2] and [2, 3]; the normal fitted to them puts most of its mass elsewhere."""
    cluster = torch.linspace(2, 3, 501).double()
    encoded = torch.cat([-cluster, cluster]).view(-1, 1)
    held_out = encoded[::7] + 1e-3  # half way to the next
    drawn = fitted_draws(encoded, 5000)
    found = holes(drawn, encoded, held_out)
    std = float(encoded.std(correction=0))
    truth = 1 - 2 * (norm.cdf(3, scale=std) - norm.cdf(2, scale=std))
    assert abs(found.mean - truth) < 2.5 * found.half_width and truth > 0.7


def test_there_are_no_holes_where_the_prior_is_the_data():
    encoded, held_out, drawn = torch.randn(3, 1500, 2)
    assert holes(drawn, encoded, held_out).mean == pytest.approx(0.01, abs=0.012)
    assert holes(encoded, encoded, held_out).mean == 0
    assert holes(drawn + 20, encoded, held_out).mean == 1
    assert holes(drawn, encoded, held_out, quantile=0.5).mean == pytest.approx(0.5, abs=0.06)


def test_a_fitted_normal_has_the_mean_and_covariance_of_the_latents():
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [3.0, 0.5, 0.0]])  # of rank 2
    z = (torch.randn(400, 3) @ mix.T + 5).view(400, 3, 1, 1)
    drawn = fitted_draws(z, 20_000).flatten(1)
    assert torch.allclose(drawn.mean(0), z.flatten(1).mean(0), atol=0.1)
    assert torch.allclose(torch.cov(drawn.T), torch.cov(z.flatten(1).T, correction=0), rtol=0.05, atol=0.05)
    scaled = (drawn - drawn.mean(0)) / drawn.std(0)
    assert abs(float(scaled[:, 0].pow(4).mean()) - 3) < 0.2  # a normal's


def test_smoothness_of_a_linear_decoder_is_its_slope():
    turn, _ = torch.linalg.qr(torch.randn(40, 4).double())
    z = torch.randn(30, 4, 1).double()
    found = smoothness(lambda z: 2.5 * z.flatten(1) @ turn.T, z, step=0.01)
    assert found.mean == pytest.approx(2.5) and found.half_width < 1e-6
    slopes = torch.tensor([1.0, 5.0]).double()
    found = smoothness(lambda z: z * slopes, torch.zeros(4000, 2).double(), step=0.01)
    truth = np.mean([math.hypot(math.cos(a), 5 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 10_001)[:-1]])
    assert abs(found.mean - truth) < 2.5 * found.half_width


def test_a_path_tells_an_even_decoder_from_one_that_jumps():
    a, b = torch.zeros(3, 2).double(), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]).double()
    even = path_smoothness(lambda z: 3 * z, a, b, steps=8)
    assert even.ratio.mean == pytest.approx(3) and even.jump.mean == pytest.approx(1)
    jumps = path_smoothness(lambda z: (z.sum(1, keepdim=True) > 0.37).double(), a, b, steps=8)
    assert jumps.jump.mean == pytest.approx(8)
    ways = [1.0, 2.0, 5.0]
    assert jumps.ratio.mean == pytest.approx(sum(1 / way for way in ways) / 3)
    with pytest.raises(ShapeError, match="different latents"):
        path_smoothness(lambda z: z, a, a, steps=4)
    with pytest.raises(ShapeError, match="different data"):
        path_smoothness(torch.zeros_like, a, b, steps=4)


def test_spread_is_the_distance_from_the_mean():
    z = torch.randn(50, 3, 2)
    truth = sum(float((one - z.mean(0)).square().sum()) for one in z) / 50
    assert spread(z) == pytest.approx(math.sqrt(truth), rel=1e-5)


def trained(bottleneck, steps=250):
    torch.manual_seed(0)
    config = AutoencoderConfig(encoder=MLPEncoderConfig(widths=(128,)), decoder=MLPDecoderConfig(widths=(128,)),
                               bottleneck=bottleneck, likelihood=BernoulliConfig())
    model = config.build(DataSpec(channels=1, dims=2, size=(8, 8)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, _ = digits("train")
    for _ in range(steps):
        out = model(batch := x[torch.randint(len(x), (128,))])
        loss = (out.latents[0].rate - model.likelihood.log_prob(out.params, batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_an_autoencoder_leaves_more_holes_than_a_vae():
    train, test = digits("train")[0], digits("test")[0]
    vae, plain = trained(GaussianConfig(dim=4)), trained(IdentityConfig(dim=4))
    of_vae = holes(vae.sample_prior(1000), draw(encode(vae, train)), draw(encode(vae, test)))
    points = locate(plain, train)
    of_plain = holes(fitted_draws(points, 1000), points, locate(plain, test))
    assert of_plain.mean - of_plain.half_width > of_vae.mean + of_vae.half_width
