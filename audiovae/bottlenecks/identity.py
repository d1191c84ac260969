"""No bottleneck at all: the plain autoencoder."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.config import Config, Count
from audiovae.shapes import Latent, check


@dataclass(frozen=True)
class IdentityConfig(Config):
    """Settings of :class:`Identity`; dim is D, the latent's channels."""

    kind: Literal["identity"] = "identity"
    dim: Count = 64

    def build(self, dims: int) -> "Identity":
        return Identity(self, dims)


class Identity(Bottleneck):
    """Passes the latent as it is; its rate is undefined, and given as 0.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid), rate (B,).

    >>> import torch
    >>> h = torch.randn(2, 8, 10)
    >>> torch.equal(IdentityConfig(dim=8).build(dims=1)(h).z, h)
    True
    """

    def __init__(self, config: IdentityConfig, dims: int = 1) -> None:
        super().__init__()
        self.channels_in = self.channels_out = config.dim
        self.dims = dims

    def forward(self, h: Tensor) -> Latent:
        check("Identity", h, self.channels_in, self.dims, letter="D")
        check_some("Identity", h)
        return Latent(z=h, rate=h.new_zeros(len(h)))

    def encode(self, h: Tensor) -> Tensor:
        """The latent itself, refused with a ShapeError where it is not finite."""
        check("Identity", h, self.channels_in, self.dims, letter="D")
        check_finite("Identity", h)
        return h

    def decode(self, codes: Tensor) -> Tensor:
        """What :meth:`encode` gave."""
        check("Identity", codes, self.channels_out, self.dims, letter="D")
        return codes
