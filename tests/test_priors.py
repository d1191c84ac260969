"""Priors and the flow posterior against sums, integrals and the closed forms of torch.distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from audiovae.bottlenecks import GaussianConfig
from audiovae.bottlenecks.flows import IAFConfig, InverseAutoregressiveFlow
from audiovae.bottlenecks.gaussian import Gaussian
from audiovae.bottlenecks.priors import (
    MixturePrior,
    MixturePriorConfig,
    PseudoInputs,
    StandardPrior,
    VampPrior,
    VampPriorConfig,
    log_mixture,
)
from audiovae.config import from_dict
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.errors import ConfigError, ExtraError, ShapeError
from audiovae.likelihoods import BernoulliConfig
from audiovae.models import AutoencoderConfig
from audiovae.objectives import ObjectiveConfig
from audiovae.rate_control_config import FreeBitsConfig
from audiovae.shapes import DataSpec, Posterior


def torchs_mixture(mean: Tensor, log_variance: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(torch.ones(len(mean))), Independent(Normal(mean, (log_variance / 2).exp()), 1))


def iaf(wild: float = 0.0, dim: int = 2, **settings: int) -> Gaussian:
    """A bottleneck with a flow whose weights are moved ``wild`` far from where they start."""
    bottleneck = GaussianConfig(dim=dim, posterior=IAFConfig(context=3, width=16, **settings)).build(dims=1)
    with torch.no_grad():
        for parameter in bottleneck.parameters():
            parameter.add_(wild * torch.randn_like(parameter))
    return bottleneck


def test_a_mixture_is_torchs_mixture():
    z, mean, log_variance = torch.randn(9, 4), torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(log_mixture(z, mean, log_variance), torchs_mixture(mean, log_variance).log_prob(z))


def test_a_mixture_stays_finite_far_from_all_its_components():
    z = torch.full((1, 2), 1e4, requires_grad=True)
    log_mixture(z, torch.zeros(3, 2), torch.zeros(3, 2)).sum().backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())


def test_a_mixture_prior_is_one_for_each_place_of_the_grid():
    prior, z = MixturePrior(dim=3, components=4), torch.randn(2, 3, 5, 6)
    truth = torchs_mixture(prior.location, prior.log_variance)
    by_place = sum(truth.log_prob(z[:, :, i, j]) for i in range(5) for j in range(6))
    torch.testing.assert_close(prior.log_prob(z), by_place)


def test_a_vamp_prior_is_one_for_the_whole_latent():
    z, components = torch.randn(2, 3, 4), Posterior(torch.randn(6, 3, 4), torch.randn(6, 3, 4))
    truth = torchs_mixture(components.mean.flatten(1), components.log_variance.flatten(1)).log_prob(z.flatten(1))
    torch.testing.assert_close(VampPrior(6).log_prob(z, components), truth)


def test_one_component_at_rest_is_the_standard_prior():
    z, rest = torch.randn(4, 3, 7), Posterior(torch.zeros(1, 3, 7), torch.zeros(1, 3, 7))
    torch.testing.assert_close(VampPrior(1).log_prob(z, rest), StandardPrior().log_prob(z))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_prior_samples_are_where_the_density_says(temperature):
    """The distribution function of one number; a temperature narrows each component, and moves none."""
    prior = MixturePrior(dim=1, components=3)
    with torch.no_grad():
        prior.location.copy_(torch.tensor([[-3.0], [0.0], [2.0]]))
        prior.log_variance.copy_(torch.tensor([[-2.0], [-1.0], [0.5]]))
    components = Posterior(prior.location[..., None].detach(), prior.log_variance[..., None].detach())
    spread = temperature * (prior.log_variance.detach() / 2).exp().flatten().numpy()

    def truth(z):
        return np.mean([stats.norm.cdf(z, m, s) for m, s in zip((-3.0, 0.0, 2.0), spread, strict=True)], axis=0)

    for drawn in (prior.sample((20, 1, 100), temperature), VampPrior(3).sample((2000, 1, 1), temperature,
                                                                              components=components)):
        assert stats.kstest(drawn.flatten().numpy(), truth)[1] > 1e-3


@pytest.mark.parametrize("config", [GaussianConfig(dim=2), GaussianConfig(dim=2, prior=MixturePriorConfig()),
                                    GaussianConfig(dim=2, posterior=IAFConfig())])
def test_a_generator_repeats_what_a_prior_gives(config):
    bottleneck = config.build(dims=2)
    one, same, other = (bottleneck.sample_prior(3, (4, 5), generator=torch.Generator().manual_seed(seed))
                        for seed in (1, 1, 2))
    assert one.shape == (3, 2, 4, 5)
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("flow", [False, True])
def test_the_rate_is_the_log_ratio_of_what_was_drawn(flow):
    posterior = {"posterior": IAFConfig(context=3)} if flow else {}
    bottleneck = GaussianConfig(dim=2, prior=MixturePriorConfig(components=5), **posterior).build(dims=1)
    h = torch.randn(4, bottleneck.channels_in, 6)
    latent = bottleneck(h)
    truth = bottleneck.log_posterior(latent.z, h) - bottleneck.prior.log_prob(latent.z)
    torch.testing.assert_close(latent.rate, truth, rtol=1e-4, atol=1e-4)
    assert torch.equal(latent.rate, latent.log_ratio) and latent.rate_map is None
    assert (latent.posterior is None) == flow


def test_a_mixture_of_one_at_rest_averages_to_the_closed_form():
    h = torch.randn(1, 4, 1).expand(40_000, -1, -1)
    bottleneck = GaussianConfig(dim=2, prior=MixturePriorConfig(components=1)).build(dims=1)
    with torch.no_grad():
        bottleneck.prior.location.zero_()
    rates = bottleneck(h).rate.detach()
    exact = float(GaussianConfig(dim=2).build(dims=1)(h[:1]).rate)
    assert abs(float(rates.mean()) - exact) < 5 * float(rates.std()) / 200


def test_a_mixture_prior_learns_what_the_posteriors_make_together():
    """Of two far clusters of posteriors, which of the two is all there is to tell: log 2, were none left over."""
    side = torch.randint(0, 2, (64, 1, 1)) * 8.0 - 4
    h = torch.cat([side, torch.full_like(side, -4.0)], 1)
    bottleneck = GaussianConfig(dim=1, prior=MixturePriorConfig(components=4)).build(dims=1)
    optimizer = torch.optim.Adam(bottleneck.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        bottleneck(h).rate.mean().backward()
        optimizer.step()
    learned = float(bottleneck(h.repeat(10, 1, 1)).rate.mean().detach())
    assert math.log(2) - 0.05 < learned < math.log(2) + 0.5
    assert float(GaussianConfig(dim=1).build(dims=1)(h).rate.mean()) > 8


def test_a_flow_starts_as_the_diagonal_posterior():
    bottleneck, h = iaf(), torch.randn(5, 7, 4)
    plain = GaussianConfig(dim=2).build(dims=1)
    z = torch.randn(5, 2, 4)
    torch.testing.assert_close(bottleneck.log_posterior(z, h), plain.log_posterior(z, h[:, :4]))
    torch.testing.assert_close(bottleneck.decode(bottleneck.encode(h)), plain.decode(plain.encode(h[:, :4])))


@pytest.mark.parametrize("layers", [1, 3])
def test_a_flow_posterior_integrates_to_one(layers):
    bottleneck, step = iaf(wild=0.2, layers=layers), 0.08
    z = torch.cartesian_prod(*[torch.arange(-14, 14, step)] * 2).unsqueeze(-1)
    h = torch.tensor([0.3, -0.2, -0.5, -1.0, 1.0, -1.0, 0.5]).view(1, 7, 1).expand(len(z), -1, -1)
    with torch.no_grad():
        total = bottleneck.log_posterior(z, h).double().exp().sum() * step**2
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_a_flows_determinant_is_that_of_its_jacobian_and_its_inverse_comes_back():
    flow = InverseAutoregressiveFlow(dim=4, context=3, layers=3, width=16).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    start, context = torch.randn(1, 4, 1).double(), torch.randn(1, 3, 1).double()
    z, log_det = flow(start, context)
    jacobian = torch.autograd.functional.jacobian(lambda s: flow(s, context)[0].flatten(), start)
    truth = torch.linalg.slogdet(torch.as_tensor(jacobian).view(4, 4))[1]
    torch.testing.assert_close(log_det[0], truth)
    back, same = flow.inverse(z, context)
    torch.testing.assert_close(back, start)
    torch.testing.assert_close(same, log_det)


def test_places_of_the_grid_flow_on_their_own():
    flow = iaf(wild=0.3).flow
    start, context = torch.randn(2, 2, 3, 4), torch.randn(2, 3, 3, 4)
    z, log_det = flow(start, context)
    places = [flow(start[..., i:i + 1, j:j + 1], context[..., i:i + 1, j:j + 1]) for i in range(3) for j in range(4)]
    torch.testing.assert_close(torch.cat([p[0].flatten(2) for p in places], 2), z.flatten(2))
    torch.testing.assert_close(torch.stack([p[1] for p in places]).sum(0), log_det)


def test_a_flow_fits_a_bent_posterior_that_no_diagonal_can():
    """p(z) = N(0, 1), p(x|z) = N(x; z_2 - z_1², 0.3²), x = 0: the posterior is a banana, log p(x) an integral."""
    def log_likelihood(z):
        return stats.norm.logpdf(0, z[:, 1] - z[:, 0] ** 2, 0.3)

    grid = np.stack(np.meshgrid(*[np.arange(-6, 6, 0.02)] * 2, indexing="ij"), -1).reshape(-1, 2)
    evidence = np.log((np.exp(log_likelihood(grid) + stats.norm.logpdf(grid).sum(1))).sum() * 0.02**2)

    def bound(bottleneck):
        h = torch.zeros(1, bottleneck.channels_in, 1, requires_grad=True)
        optimizer = torch.optim.Adam([h, *bottleneck.parameters()], lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            loss(bottleneck, h.expand(128, -1, -1)).backward()
            optimizer.step()
        with torch.no_grad():
            return -float(loss(bottleneck, h.expand(20_000, -1, -1)))

    def loss(bottleneck, h):
        latent = bottleneck(h)
        z = latent.z.squeeze(-1)
        return (latent.rate - Normal(z[:, 1] - z[:, 0] ** 2, 0.3).log_prob(torch.zeros(()))).mean()

    diagonal, bent = bound(GaussianConfig(dim=2).build(dims=1)), bound(iaf(layers=2))
    assert diagonal < evidence - 0.2
    assert (diagonal + evidence) / 2 < bent < evidence + 0.02


def vae(prior: MixturePriorConfig | VampPriorConfig, **settings: bool) -> AutoencoderConfig:
    return AutoencoderConfig(encoder=StridedEncoderConfig(strides=(2, 2), width=8, depth=1),
                             bottleneck=GaussianConfig(dim=2, prior=prior),
                             decoder=StridedDecoderConfig(strides=(2, 2), width=8, depth=1),
                             likelihood=BernoulliConfig(), **settings)


PICTURES = DataSpec(channels=1, dims=2, size=(8, 8), levels=2)


@pytest.mark.parametrize("latent", ["grid", "vector"])
def test_a_vamp_prior_is_the_encoders_own_mixture_and_learns_its_pseudo_inputs(latent):
    model = vae(VampPriorConfig(components=6), latent=latent).build(PICTURES)
    x = torch.randint(0, 2, (3, 1, 8, 8)).float()
    output = model(x)
    (level,) = output.latents
    components = model.bottleneck.posterior(model.encoder(model.pseudo_inputs()))
    log_prior = torchs_mixture(components.mean.flatten(1), components.log_variance.flatten(1)).log_prob(
        level.z.flatten(1))
    truth = model.bottleneck.log_posterior(level.z, model.encoder(x)) - log_prior
    torch.testing.assert_close(level.rate, truth, rtol=1e-4, atol=1e-4)
    ObjectiveConfig().build(None)(output, x, model.likelihood, 0.0).total.backward()
    assert model.pseudo_inputs.raw.grad.abs().sum() > 0
    assert model.sample(5).shape == (5, 1, 8, 8)


def test_with_the_data_for_pseudo_inputs_a_vamp_prior_is_the_aggregated_posterior():
    """Then the rate is what z tells of which example it was: at most log K nats, whatever the encoder (eq. 8)."""
    model = vae(VampPriorConfig(components=8)).build(PICTURES)
    x = torch.rand(8, 1, 8, 8).clamp(0.01, 0.99)
    with torch.no_grad():
        model.pseudo_inputs.raw.copy_(x.logit())
        for parameter in model.encoder.parameters():
            parameter.mul_(1.5)
        rates = model(x, samples=200).latents[0].rate
    assert 0 < float(rates.mean()) < math.log(8) + 1e-3
    assert float(rates.max()) < math.log(8) + 1e-3


@pytest.mark.parametrize(("values", "prior", "flow"), [
    ({"kind": "gaussian"}, StandardPrior, False),
    ({"kind": "gaussian", "prior": {"kind": "mixture", "components": "7"}}, MixturePrior, False),
    ({"kind": "gaussian", "prior": {"kind": "vamp"}, "posterior": {"kind": "iaf", "layers": 1}}, VampPrior, True)])
def test_a_config_chooses_prior_and_posterior_by_kind(values, prior, flow):
    bottleneck = from_dict(AutoencoderConfig, {"bottleneck": values}).bottleneck.build(dims=1)
    assert isinstance(bottleneck.prior, prior)
    assert isinstance(bottleneck.flow, InverseAutoregressiveFlow) == flow


@pytest.mark.parametrize(("act", "error", "words"), [
    (lambda: GaussianConfig(committed=0.1, prior=MixturePriorConfig()).build(1), ConfigError, "commits a rate only"),
    (lambda: GaussianConfig(committed=0.1, posterior=IAFConfig()).build(1), ConfigError, "commits a rate only"),
    (lambda: MixturePrior(2, 0), ConfigError, "at least 1 component"),
    (lambda: InverseAutoregressiveFlow(2, 0, 1, 8), ConfigError, "at least 1"),
    (lambda: PseudoInputs(3, DataSpec(1, 1)), ConfigError, "data of one size"),
    (lambda: VampPrior(3).log_prob(torch.zeros(1, 2, 1)), ShapeError, "got none"),
    (lambda: FreeBitsConfig().build()([iaf()(torch.zeros(2, 7, 1))], 0.0), ConfigError, "free_bits"),
])
def test_what_does_not_fit_is_said(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_a_flow_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(ExtraError, match=r"audiovae\[flows\]"):
        iaf()
