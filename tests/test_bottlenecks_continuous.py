"""The Gaussian against torch.distributions, and the identity."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from audiovae.bottlenecks import GaussianConfig, IdentityConfig
from audiovae.bottlenecks.gaussian import LOG_VARIANCE


def test_rate_is_the_kl_of_torch_distributions():
    h = 2 * torch.randn(5, 8, 3, 7)
    latent = GaussianConfig(dim=4).build(dims=2)(h)
    mean, log_variance = h.double().chunk(2, dim=1)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(latent.rate_map, kl.float())
    torch.testing.assert_close(latent.rate, kl.sum((1, 2, 3)).float())
    torch.testing.assert_close(latent.stats["kl_per_dim"], kl.mean().float())


def test_known_value():
    """KL(N(6, 4²) || N(0, 1)) = 24.11 nats."""
    h = torch.tensor([6.0, torch.tensor(16.0).log()]).view(1, 2, 1)
    assert GaussianConfig(dim=1).build(dims=1)(h).rate.item() == pytest.approx(24.1137, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_z_is_drawn_from_the_posterior_in_training_and_evaluation(training):
    h = torch.tensor([3.0, -1.0]).view(1, 2, 1).expand(1, 2, 200_000)
    z = GaussianConfig(dim=1).build(dims=1).train(training)(h).z
    assert z.mean().item() == pytest.approx(3, abs=0.01)
    assert z.var().log().item() == pytest.approx(-1, abs=0.02)


def test_gradient_is_that_of_the_reparameterised_draw():
    h = torch.randn(2, 4, 5, requires_grad=True)
    z = GaussianConfig(dim=2).build(dims=1)(h).z
    z.sum().backward()
    mean, _ = h.detach().chunk(2, dim=1)
    torch.testing.assert_close(h.grad[:, :2], torch.ones_like(mean))
    torch.testing.assert_close(h.grad[:, 2:], (z.detach() - mean) / 2)  # dz/dlogσ² = σε/2


def test_encode_then_decode_is_the_mean():
    bottleneck, h = GaussianConfig(dim=4).build(dims=1), torch.randn(3, 8, 6)
    assert torch.equal(bottleneck.decode(bottleneck.encode(h)), h[:, :4])


def test_an_extreme_log_variance_stays_finite():
    h = torch.tensor([[0.0, 1e4], [0.0, -1e4]]).view(2, 2, 1)
    bottleneck = GaussianConfig(dim=1).build(dims=1)
    latent = bottleneck(h)
    assert latent.z.isfinite().all() and latent.rate.isfinite().all()
    assert bottleneck.encode(h)[:, 1, 0].tolist() == list(LOG_VARIANCE[::-1])


def test_active_units_counts_dimensions_whose_mean_moves():
    h = torch.randn(16, 8, 10)
    h[:, 1:3] = 5.0  # far from the prior, so they cost nats, and still tell nothing apart
    assert GaussianConfig(dim=4).build(dims=1)(h).stats["active_units"] == 2


def test_identity_passes_value_and_gradient():
    h = torch.randn(2, 3, 4, requires_grad=True)
    identity = IdentityConfig(dim=3).build(dims=1)
    latent = identity(h)
    assert latent.z is h and latent.codes is None and latent.rate.tolist() == [0, 0]
    assert identity.decode(identity.encode(h)) is h


def test_log_ratio_is_that_of_torch_distributions_and_averages_to_the_rate():
    h = torch.randn(3, 4, 2)
    bottleneck = GaussianConfig(dim=2).build(dims=1)
    latent = bottleneck(h)
    mean, log_variance = latent.posterior
    ratio = Normal(mean, (log_variance / 2).exp()).log_prob(latent.z) - Normal(0.0, 1.0).log_prob(latent.z)
    torch.testing.assert_close(latent.log_ratio, ratio.sum((1, 2)), rtol=1e-4, atol=1e-5)
    many = bottleneck(h.repeat_interleave(20_000, 0)).log_ratio.view(3, -1)
    error = many.std(1) / many.shape[1] ** 0.5
    assert ((many.mean(1) - latent.rate).abs() < 4 * error).all()


@pytest.mark.parametrize("nats", [0.01, 0.1, 1.0])
def test_a_committed_rate_is_never_undercut_and_can_be_met(nats):
    h = 30 * torch.randn(64, 6, 5)
    rates = GaussianConfig(dim=3, committed=nats).build(dims=1)(h).rate_map
    assert rates.min() >= nats * (1 - 1e-3) - 1e-5
    at_rest = GaussianConfig(dim=3, committed=nats).build(dims=1)(torch.full((1, 6, 5), -1.0)).rate_map
    torch.testing.assert_close(at_rest, torch.full_like(at_rest, nats), rtol=1e-3, atol=1e-5)


def test_a_committed_rate_keeps_its_gradient_finite_at_the_ends():
    h = torch.tensor([[-100.0, 200.0], [-100.0, -200.0], [0.0, 0.0]]).view(3, 2, 1).requires_grad_()
    latent = GaussianConfig(dim=1, committed=0.2).build(dims=1)(h)
    (latent.rate.sum() + latent.z.sum()).backward()
    assert h.grad.isfinite().all()
