"""Grouped (product) quantization: the channels in G groups, each with a codebook of its own.

Jégou et al. 2011, "Product quantization for nearest neighbor search": K^G codes for G · K vectors.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.bottlenecks.vq import VectorQuantizer, VQConfig
from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.shapes import Latent, Scalars, check


@dataclass(frozen=True)
class GroupedConfig(Config):
    """Settings of :class:`GroupedQuantizer`: G groups, and the quantizer of each (D = G · each.dim).

    >>> GroupedConfig(groups=4, each=VQConfig(num_codes=64, dim=16)).build(dims=1).channels_in
    64
    """

    kind: Literal["grouped"] = "grouped"
    groups: int = 2
    each: VQConfig = field(default_factory=lambda: VQConfig(dim=32))

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ConfigError(f"GroupedConfig wants 1 group or more, got {self.groups}.")

    def build(self, dims: int) -> "GroupedQuantizer":
        return GroupedQuantizer(self, dims)


class GroupedQuantizer(Bottleneck):
    """G vector quantizers side by side; group g reads the g-th D/G channels.

    Losses are means over the groups, so that they stay means over all elements; the rate is their sum.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid), codes (B, G, *grid) int64, rate (B,) nats.

    >>> grouped = GroupedConfig(groups=2, each=VQConfig(num_codes=8, dim=3)).build(dims=1)
    >>> grouped(torch.randn(2, 6, 10)).codes.shape
    torch.Size([2, 2, 10])
    """

    def __init__(self, config: GroupedConfig, dims: int = 1) -> None:
        super().__init__()
        self.parts = nn.ModuleList(VectorQuantizer(config.each, dims) for _ in range(config.groups))
        self.channels_in = self.channels_out = config.groups * config.each.dim
        self.num_codes = (config.each.num_codes,) * config.groups
        self.dims = dims

    def forward(self, h: Tensor) -> Latent:
        check_some("GroupedQuantizer", h)
        latents: list[Latent] = [part(group) for part, group in zip(self.parts, self._split(h), strict=True)]
        first = latents[0]
        return Latent(
            z=torch.cat([latent.z for latent in latents], dim=1),
            rate=torch.stack([latent.rate for latent in latents]).sum(0),
            codes=torch.cat([_codes(latent) for latent in latents], dim=1),
            losses={name: torch.stack([one.losses[name] for one in latents]).mean() for name in first.losses},
            stats=Scalars.mean([latent.stats for latent in latents]),
        )

    def encode(self, h: Tensor) -> Tensor:
        """(B, D, *grid) -> codes (B, G, *grid) int64."""
        pairs = zip(self._quantizers(), self._split(h), strict=True)
        return torch.cat([part.encode(group) for part, group in pairs], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, G, *grid) -> z (B, D, *grid)."""
        if codes.ndim != 2 + self.dims or codes.shape[1] != len(self.parts):
            raise ShapeError(f"GroupedQuantizer wants Q={len(self.parts)} codes, got {tuple(codes.shape)}.")
        pairs = zip(self._quantizers(), codes.split(1, dim=1), strict=True)
        return torch.cat([part.decode(code) for part, code in pairs], dim=1)

    def continuous(self, h: Tensor) -> Tensor:
        pairs = zip(self._quantizers(), self._split(h), strict=True)
        return torch.cat([part.continuous(group) for part, group in pairs], dim=1)

    def _quantizers(self) -> list[VectorQuantizer]:
        return list(self.parts)  # type: ignore[arg-type]

    def _split(self, h: Tensor) -> tuple[Tensor, ...]:
        check("GroupedQuantizer", h, self.channels_in, self.dims, letter="D")
        check_finite("GroupedQuantizer", h)  # of all groups, before the first one learns
        return h.chunk(len(self.parts), dim=1)


def _codes(latent: Latent) -> Tensor:
    assert latent.codes is not None
    return latent.codes
