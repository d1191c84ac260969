"""The diagonal Gaussian posterior of a VAE, against the prior N(0, 1).

Kingma & Welling 2014, sections 2.3-2.4 and appendix B.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.config import Config
from audiovae.shapes import Latent, check

LOG_VARIANCE = (-14.0, 8.0)  # σ from 0.0009 to 55: exp stays far from both ends of float32
ACTIVE = 0.01  # variance of the posterior mean above which a latent dimension is in use (Burda 2016, sec. 5)


@dataclass(frozen=True)
class GaussianConfig(Config):
    """Settings of :class:`Gaussian`; dim is D, the latent's channels (the encoder gives 2 D)."""

    kind: Literal["gaussian"] = "gaussian"
    dim: int = 64

    def build(self, dims: int) -> "Gaussian":
        return Gaussian(self, dims)


class Gaussian(Bottleneck):
    """q(z|x) = N(μ, σ²), read from the encoder as D means then D log-variances (clamped).

    ``forward`` draws z = μ + σ ε in training and in evaluation, so that an ELBO is one in both;
    ``encode`` then ``decode`` give the mean μ. The rate is the KL against N(0, 1) in nats, and
    ``rate_map`` is the same before it is summed, for free bits. ``stats``: ``active_units`` counts the
    dimensions whose μ varies (variance above 0.01) over batch and grid, ``kl_per_dim`` is the mean KL of
    one element of z.

    Shapes: (B, 2 D, *grid) -> Latent with z (B, D, *grid), rate (B,), rate_map (B, D, *grid).

    >>> gaussian = GaussianConfig(dim=4).build(dims=1)
    >>> latent = gaussian(torch.zeros(2, 8, 10))
    >>> latent.z.shape, latent.rate
    (torch.Size([2, 4, 10]), tensor([0., 0.]))
    """

    def __init__(self, config: GaussianConfig, dims: int = 1) -> None:
        super().__init__()
        self.channels_in, self.channels_out = 2 * config.dim, config.dim
        self.dims = dims

    def forward(self, h: Tensor) -> Latent:
        mean, log_variance = self._posterior(h)
        check_some("Gaussian", h)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        with torch.no_grad():
            spread = mean.transpose(0, 1).flatten(1).var(1, correction=0)
            stats = {"active_units": (spread > ACTIVE).sum().float(), "kl_per_dim": kl.mean()}
        return Latent(z=z, rate=kl.flatten(1).sum(1), stats=stats, rate_map=kl)

    def encode(self, h: Tensor) -> Tensor:
        """(B, 2 D, *grid) -> parameters (B, 2 D, *grid): means, then clamped log-variances."""
        check_finite("Gaussian", h)
        return torch.cat(self._posterior(h), dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """The parameters of :meth:`encode` -> z (B, D, *grid), the posterior's mean."""
        return self._posterior(codes)[0]

    def _posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        check("Gaussian", h, self.channels_in, self.dims, letter="2D")
        mean, log_variance = h.float().chunk(2, dim=1)  # float32 under autocast: the KL sums many terms
        return mean, log_variance.clamp(*LOG_VARIANCE)
