"""The Gaussian posterior of a VAE, as it is or bent by a flow, against a prior.

Kingma & Welling 2014, sections 2.3-2.4 and appendix B; committed rate: Razavi 2019 (δ-VAE).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from scipy.special import lambertw
from torch import Tensor

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.bottlenecks.flows import DiagonalConfig, IAFConfig
from audiovae.bottlenecks.priors import PriorConfig, StandardPrior, StandardPriorConfig
from audiovae.config import Config, Count
from audiovae.errors import ConfigError
from audiovae.shapes import Latent, Posterior, Scalars, check

LOG_2PI = math.log(2 * math.pi)
TINY = 1e-8  # the square root's slope at 0 is infinite
LOG_VARIANCE = (-14.0, 8.0)  # σ from 0.0009 to 55: exp stays far from both ends of float32
ACTIVE = 0.01  # variance of the posterior mean above which a latent dimension is in use (Burda 2016, sec. 5)


@dataclass(frozen=True)
class GaussianConfig(Config):
    """Settings of :class:`Gaussian`; dim is D, the latent's channels (the encoder gives 2 D).

    committed : δ, nats that each element of z spends at the least; 0 leaves the posterior free.
    prior : what the posterior is held against: "standard", "mixture" or "vamp".
    posterior : "diagonal", or "iaf" for one with a flow on top (the encoder gives its context too).
    """

    kind: Literal["gaussian"] = "gaussian"
    dim: Count = 64
    committed: float = 0.0
    prior: PriorConfig = StandardPriorConfig()
    posterior: Annotated[DiagonalConfig | IAFConfig, Discriminator("kind")] = DiagonalConfig()

    def build(self, dims: int) -> "Gaussian":
        return Gaussian(self, dims)


class Gaussian(Bottleneck):
    """q(z|x) = N(μ, σ²), read from the encoder as D means then D log-variances (clamped).

    ``forward`` draws z = μ + σ ε in training and in evaluation, so that an ELBO is one in both;
    ``encode`` then ``decode`` give the mean μ. The rate is the KL against N(0, 1) in nats, and
    ``rate_map`` is the same before it is summed, for free bits. ``stats``: ``active_units`` counts the
    dimensions whose μ varies (variance above 0.01) over batch and grid, ``kl_per_dim`` is the mean KL of
    one element of z.

    With a committed rate δ the posterior cannot come closer to the prior than δ nats an element, whatever
    the decoder does: σ² stays where -½(1 + ln σ² - σ²) <= δ, and μ = sqrt(2 δ + 1 + ln σ² - σ² + max(0, m)²)
    for what the encoder gives as m, so that the KL is δ + ½ max(0, m)².

    With another prior or with a flow f the KL has no closed form: the rate is log q(z|x) - log p(z) at the
    drawn z, the same as ``log_ratio``, and there is no ``rate_map``. With a flow z = f(z_0), z_0 ~ N(μ, σ²),
    E channels of context follow the log-variances, ``decode`` gives f(μ), and there is no ``posterior``.

    Shapes: (B, 2 D + E, *grid) -> Latent with z (B, D, *grid), rate and log_ratio (B,), rate_map (B, D, *grid).

    Raises ConfigError where a committed rate meets another prior or a flow: it is a bound on the closed form.

    >>> gaussian = GaussianConfig(dim=4).build(dims=1)
    >>> latent = gaussian(torch.zeros(2, 8, 10))
    >>> latent.z.shape, latent.rate
    (torch.Size([2, 4, 10]), tensor([0., 0.]))
    """

    def __init__(self, config: GaussianConfig, dims: int = 1) -> None:
        super().__init__()
        if config.committed < 0:
            raise ConfigError(f"Gaussian wants a committed rate of at least 0 nats, got {config.committed:g}.")
        self.prior, self.flow = config.prior.build(config.dim), config.posterior.build(config.dim)
        self.closed = isinstance(self.prior, StandardPrior) and self.flow is None
        if config.committed and not self.closed:
            raise ConfigError("Gaussian commits a rate only against the standard prior and with a diagonal posterior: "
                              f"set committed to 0, not {config.committed:g}, or leave the others as they are.")
        self.channels_in, self.channels_out = 2 * config.dim + config.posterior.context, config.dim
        self.dims, self.committed, self.pseudo_inputs = dims, config.committed, self.prior.pseudo_inputs

    def forward(self, h: Tensor, components: Tensor | None = None) -> Latent:
        posterior = self.posterior(h)
        check_some("Gaussian", h)
        mean, log_variance = posterior
        noise = torch.randn_like(mean)
        z = torch.addcmul(mean, (0.5 * log_variance).exp(), noise)
        stats = Scalars(active_units=partial(_active_units, mean.detach()))
        if self.closed:
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            log_ratio = 0.5 * (z.square() - noise.square() - log_variance).flatten(1).sum(1)
            stats["kl_per_dim"] = kl.detach().mean
            return Latent(z=z, rate=kl.flatten(1).sum(1), stats=stats, rate_map=kl, posterior=posterior,
                          log_ratio=log_ratio)
        log_q = -0.5 * (noise.square() + log_variance + LOG_2PI).flatten(1).sum(1)
        if self.flow is not None:
            z, log_det = self.flow(z, self._context(h))
            log_q = log_q - log_det
        log_ratio = log_q - self.prior.log_prob(z, self._components(components))
        stats["kl_per_dim"] = log_ratio.detach().mean() / z[0].numel()
        return Latent(z=z, rate=log_ratio, stats=stats, posterior=posterior if self.flow is None else None,
                      log_ratio=log_ratio)

    def log_posterior(self, z: Tensor, h: Tensor) -> Tensor:
        """log q(z|x) of any z (B, D, *grid), from what the encoder gives for x: (B,) nats."""
        mean, log_variance = self.posterior(h)
        start, log_det = (z, z.new_zeros(len(z))) if self.flow is None else self.flow.inverse(z, self._context(h))
        error = (start - mean).square() * (-log_variance).exp()
        return -0.5 * (error + log_variance + LOG_2PI).flatten(1).sum(1) - log_det

    def encode(self, h: Tensor) -> Tensor:
        """(B, 2 D + E, *grid) -> as many parameters: means and log-variances, as they are used, and the context."""
        check_finite("Gaussian", h)
        return torch.cat([*self.posterior(h), self._context(h)], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """The parameters of :meth:`encode` -> z (B, D, *grid), the posterior's mean, or where the flow takes it."""
        check("Gaussian", codes, self.channels_in, self.dims, letter="2D")
        mean = codes[:, :self.channels_out]
        return mean if self.flow is None else self.flow(mean, self._context(codes))[0]

    def sample_prior(self, count: int, grid: tuple[int, ...], temperature: float = 1.0,
                     generator: torch.Generator | None = None, components: Tensor | None = None) -> Tensor:
        return self.prior.sample((count, self.channels_out, *grid), temperature, generator,
                                 self._components(components))

    def posterior(self, h: Tensor) -> Posterior:
        """q(z|x), or what the flow starts from, as the encoder gives it."""
        check("Gaussian", h, self.channels_in, self.dims, letter="2D")
        used = h if self.flow is None else h[:, :2 * self.channels_out]
        mean, log_variance = used.float().chunk(2, dim=1)  # float32 under autocast: the KL sums many terms
        if not self.committed:
            return Posterior(mean, log_variance.clamp(*LOG_VARIANCE))
        low, high = _variance_within(self.committed)
        variance = low + (high - low) * log_variance.sigmoid()
        room = (2 * self.committed + 1 + variance.log() - variance).clamp(min=0)  # 0 at both ends, but for rounding
        return Posterior((room + mean.clamp(min=0).square() + TINY).sqrt(), variance.log())

    def _context(self, h: Tensor) -> Tensor:
        return h[:, 2 * self.channels_out:].float()

    def _components(self, h: Tensor | None) -> Posterior | None:
        """The posteriors of the pseudo-inputs, from what the encoder makes of them."""
        return None if h is None else self.posterior(h)


def _active_units(mean: Tensor) -> Tensor:
    """How many of the D dimensions of the posterior's mean (B, D, *grid) vary over batch and grid."""
    return (mean.transpose(0, 1).flatten(1).var(1, correction=0) > ACTIVE).sum().float()


def _variance_within(nats: float) -> tuple[float, float]:
    """The variances whose N(0, σ²) is at most ``nats`` from N(0, 1): the roots of σ² - 1 - ln σ² = 2 nats.

    >>> low, high = _variance_within(0.5)
    >>> round(low, 4), round(high, 4)
    (0.1586, 3.1462)
    """
    low, high = (float(-lambertw(-math.exp(-1 - 2 * nats), branch).real) for branch in (0, -1))
    return low, high
