"""The diagonal Gaussian posterior of a VAE, against the prior N(0, 1).

Kingma & Welling 2014, sections 2.3-2.4 and appendix B; committed rate: Razavi 2019 (δ-VAE).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import lambertw
from torch import Tensor

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.shapes import Latent, Posterior, check

TINY = 1e-8  # the square root's slope at 0 is infinite
LOG_VARIANCE = (-14.0, 8.0)  # σ from 0.0009 to 55: exp stays far from both ends of float32
ACTIVE = 0.01  # variance of the posterior mean above which a latent dimension is in use (Burda 2016, sec. 5)


@dataclass(frozen=True)
class GaussianConfig(Config):
    """Settings of :class:`Gaussian`; dim is D, the latent's channels (the encoder gives 2 D).

    committed : δ, nats that each element of z spends at the least; 0 leaves the posterior free.
    """

    kind: Literal["gaussian"] = "gaussian"
    dim: int = 64
    committed: float = 0.0

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

    Shapes: (B, 2 D, *grid) -> Latent with z (B, D, *grid), rate and log_ratio (B,), rate_map (B, D, *grid).

    >>> gaussian = GaussianConfig(dim=4).build(dims=1)
    >>> latent = gaussian(torch.zeros(2, 8, 10))
    >>> latent.z.shape, latent.rate
    (torch.Size([2, 4, 10]), tensor([0., 0.]))
    """

    def __init__(self, config: GaussianConfig, dims: int = 1) -> None:
        super().__init__()
        if config.committed < 0:
            raise ConfigError(f"Gaussian wants a committed rate of at least 0 nats, got {config.committed:g}.")
        self.channels_in, self.channels_out = 2 * config.dim, config.dim
        self.dims, self.committed = dims, config.committed

    def forward(self, h: Tensor) -> Latent:
        posterior = self.posterior(h)
        check_some("Gaussian", h)
        mean, log_variance = posterior
        noise = torch.randn_like(mean)
        z = torch.addcmul(mean, (0.5 * log_variance).exp(), noise)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        log_ratio = 0.5 * (z.square() - noise.square() - log_variance).flatten(1).sum(1)
        with torch.no_grad():
            spread = mean.transpose(0, 1).flatten(1).var(1, correction=0)
            stats = {"active_units": (spread > ACTIVE).sum().float(), "kl_per_dim": kl.mean()}
        return Latent(z=z, rate=kl.flatten(1).sum(1), stats=stats, rate_map=kl, posterior=posterior,
                      log_ratio=log_ratio)

    def encode(self, h: Tensor) -> Tensor:
        """(B, 2 D, *grid) -> parameters (B, 2 D, *grid): means, then log-variances, as they are used."""
        check_finite("Gaussian", h)
        return torch.cat(self.posterior(h), dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """The parameters of :meth:`encode` -> z (B, D, *grid), the posterior's mean."""
        check("Gaussian", codes, self.channels_in, self.dims, letter="2D")
        return codes.chunk(2, dim=1)[0]

    def sample_prior(self, count: int, grid: tuple[int, ...], temperature: float = 1.0,
                     generator: torch.Generator | None = None) -> Tensor:
        device = generator.device if generator is not None else None
        return temperature * torch.randn(count, self.channels_out, *grid, generator=generator, device=device)

    def posterior(self, h: Tensor) -> Posterior:
        """q(z|x) from what the encoder gives."""
        check("Gaussian", h, self.channels_in, self.dims, letter="2D")
        mean, log_variance = h.float().chunk(2, dim=1)  # float32 under autocast: the KL sums many terms
        if not self.committed:
            return Posterior(mean, log_variance.clamp(*LOG_VARIANCE))
        low, high = _variance_within(self.committed)
        variance = low + (high - low) * log_variance.sigmoid()
        room = (2 * self.committed + 1 + variance.log() - variance).clamp(min=0)  # 0 at both ends, but for rounding
        return Posterior((room + mean.clamp(min=0).square() + TINY).sqrt(), variance.log())


def _variance_within(nats: float) -> tuple[float, float]:
    """The variances whose N(0, σ²) is at most ``nats`` from N(0, 1): the roots of σ² - 1 - ln σ² = 2 nats.

    >>> low, high = _variance_within(0.5)
    >>> round(low, 4), round(high, 4)
    (0.1586, 3.1462)
    """
    low, high = (float(-lambertw(-math.exp(-1 - 2 * nats), branch).real) for branch in (0, -1))
    return low, high
