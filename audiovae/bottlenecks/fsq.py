"""Finite scalar quantization: every channel is rounded to a few levels, and there is no codebook to learn.

Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple", section 3.1.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audiovae.bottlenecks.base import Bottleneck, check_codes, check_finite, check_some
from audiovae.bottlenecks.search import usage
from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.shapes import Latent, check

MARGIN = 1e-3  # the bound lies this share beyond the outermost level, so that the level can be reached


@dataclass(frozen=True)
class FSQConfig(Config):
    """Settings of :class:`FiniteScalarQuantizer`; levels holds the number of levels of each channel.

    >>> FSQConfig(levels=(8, 8, 8, 5, 5, 5)).build(dims=1).num_codes
    (64000,)
    """

    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ConfigError(f"FSQConfig wants 3 levels or more for each channel, got {self.levels}.")

    def build(self, dims: int) -> "FiniteScalarQuantizer":
        return FiniteScalarQuantizer(self, dims)


class FiniteScalarQuantizer(Bottleneck):
    """z_d = round(bound(z_e,d)) / (levels_d // 2), gradient of the rounding taken as 1.

    bound(z) = tanh(z + s) · (l - 1)(1 + ε)/2 - o, with o = 1/2 for an even number of levels l and else 0,
    and s such that bound(0) = 0. The levels of all channels together are one code, their mixed-radix
    number with channel 0 counting fastest: codes run from 0 to the product of the levels. The rate is
    L · Σ log l nats.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid) in [-1, 1], codes (B, 1, *grid) int64.

    >>> fsq = FSQConfig(levels=(5, 3)).build(dims=1)
    >>> latent = fsq(torch.tensor([[[-9.0, 0.0, 9.0], [-9.0, 0.0, 9.0]]]))
    >>> latent.codes
    tensor([[[ 0,  7, 14]]])
    >>> fsq.decode(latent.codes)[0, 0]
    tensor([-1.,  0.,  1.])
    """

    levels: Tensor
    radix: Tensor

    def __init__(self, config: FSQConfig, dims: int = 1) -> None:
        super().__init__()
        self.channels_in = self.channels_out = len(config.levels)
        self.num_codes = (math.prod(config.levels),)
        self.dims = dims
        levels = torch.tensor(config.levels).view(-1, *[1] * dims)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("radix", levels.cumprod(0) // levels, persistent=False)

    def forward(self, h: Tensor) -> Latent:
        bounded = self._bound(h)
        check_some("FiniteScalarQuantizer", h)
        digits = bounded.detach().round()
        z = (bounded + (digits - bounded).detach()) / self._half
        codes = self._number(digits)
        rate = z.new_full((len(h),), h[0, 0].numel() * math.log(self.num_codes[0]))
        stats = usage(lambda: codes.unique(return_counts=True)[1], self.num_codes[0])
        return Latent(z=z, rate=rate, codes=codes, stats=stats)

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        """(B, D, *grid) -> codes (B, 1, *grid) int64."""
        return self._number(self._bound(h).round())

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, *grid) -> z (B, D, *grid); ShapeError where they are not codes of these levels."""
        check_codes("FiniteScalarQuantizer", codes, self.num_codes, self.dims)
        return (codes // self.radix % self.levels - self._half).float() / self._half

    @torch.no_grad()
    def continuous(self, h: Tensor) -> Tensor:
        return self._bound(h) / self._half

    @property
    def _half(self) -> Tensor:
        return self.levels // 2

    def _bound(self, h: Tensor) -> Tensor:
        owner = "FiniteScalarQuantizer"
        check(owner, h, self.channels_in, self.dims, letter="D")
        check_finite(owner, h)
        reach = (self.levels - 1) * (1 + MARGIN) / 2
        offset = 0.5 * (1 - self.levels % 2)
        return (h.float() + (offset / reach).atanh()).tanh() * reach - offset

    def _number(self, digits: Tensor) -> Tensor:
        return ((digits.long() + self._half) * self.radix).sum(1, keepdim=True)
