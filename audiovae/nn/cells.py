"""Residual cells of deep hierarchies, in one or two dimensions: NVAE's, and plainer ones without normalisation.

Vahdat & Kautz 2020 (NVAE), section 3.1 and figures 2 and 3; Child 2021 (vdvae), figure 3, for the plain ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from audiovae.config import Config, Count, Positive
from audiovae.nn.conv import CONV, SameConv

Side = Literal["encoder", "decoder"]
_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


class BatchNorm(nn.Module):
    """Batch normalisation over any grid; what a checkpoint computes again is not counted twice in its statistics.

    Attributes
    ----------
    momentum : share of a batch in the running statistics; None takes the mean over all batches since :meth:`reset`.

    Shapes: (B, C, *grid) -> the same.

    >>> norm = BatchNorm(4)
    >>> norm(torch.randn(8, 4, 10) + 5).mean().abs() < 1e-5
    tensor(True)
    """

    EPSILON = 1e-5
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.05):
        super().__init__()
        self.momentum: float | None = momentum
        self.seen = 0
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        share = self.momentum
        if self.training and _recomputing.get():
            share = 0.0
        elif self.training and share is None:
            self.seen += 1
            share = 1 / self.seen
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training, share or 0.0,
                            self.EPSILON)

    def reset(self) -> None:
        """Forget the statistics."""
        self.seen = 0
        self.mean.zero_()
        self.variance.fill_(1.0)


class SqueezeExcite(nn.Module):
    """Each channel times a gate in (0, 1) that is read from the means of all over the grid (Hu 2018).

    >>> SqueezeExcite(32)(torch.ones(2, 32, 5, 5)).shape
    torch.Size([2, 32, 5, 5])
    """

    def __init__(self, channels: int, ratio: int = 16):
        super().__init__()
        hidden = max(channels // ratio, 4)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.flatten(2).mean(2)))).sigmoid()
        return x * gate.view(*gate.shape, *[1] * (x.ndim - 2))


class EncoderCell(nn.Module):
    """x + s * SE(conv3(swish(BN(conv3(swish(BN(x))))))), NVAE's figure 3b.

    Shapes: (B, C, *grid) -> the same.

    >>> EncoderCell(1, 8, NVAECells())(torch.zeros(2, 8, 16)).shape
    torch.Size([2, 8, 16])
    """

    def __init__(self, dims: int, width: int, config: "NVAECells"):
        super().__init__()
        self.scale = config.residual
        self.layers = nn.Sequential(
            *_norm(width, config), nn.SiLU(), SameConv(dims, width, width, kernel=3),
            *_norm(width, config), nn.SiLU(), SameConv(dims, width, width, kernel=3), SqueezeExcite(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.layers(x), alpha=self.scale)


class DecoderCell(nn.Module):
    """x + s * SE(BN(conv1(swish(BN(depthwise(swish(BN(conv1(BN(x))))))))), NVAE's figure 3a.

    The first conv1 widens to ``expansion`` times the width, over which the depthwise convolution looks far at little
    cost; the second narrows again. Shapes: (B, C, *grid) -> the same.

    >>> DecoderCell(2, 8, NVAECells())(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, dims: int, width: int, config: "NVAECells"):
        super().__init__()
        self.scale, hidden = config.residual, width * config.expansion
        depthwise = CONV[dims](hidden, hidden, config.kernel, padding=config.kernel // 2, groups=hidden)
        self.layers = nn.Sequential(
            *_norm(width, config), SameConv(dims, width, hidden), *_norm(hidden, config), nn.SiLU(), depthwise,
            *_norm(hidden, config), nn.SiLU(), SameConv(dims, hidden, width), *_norm(width, config),
            SqueezeExcite(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.layers(x), alpha=self.scale)


class PlainCell(nn.Module):
    """x + conv1(gelu(conv3(gelu(conv3(gelu(conv1(gelu(x)))))))), narrower inside; no normalisation.

    Its last convolution begins small, by 1 / sqrt(depth) of the whole stack, which is what keeps a deep one stable.

    >>> PlainCell(1, 8, PlainCells(), depth=10)(torch.zeros(2, 8, 16)).shape
    torch.Size([2, 8, 16])
    """

    def __init__(self, dims: int, width: int, config: "PlainCells", depth: int = 1):
        super().__init__()
        hidden = max(round(width * config.narrowing), 1)
        last = SameConv(dims, hidden, width)
        with torch.no_grad():
            last.conv.weight.mul_(1 / sqrt(depth))  # type: ignore[operator]
            last.conv.bias.zero_()  # type: ignore[operator]
        self.layers = nn.Sequential(
            nn.GELU(), SameConv(dims, width, hidden), nn.GELU(), SameConv(dims, hidden, hidden, kernel=3),
            nn.GELU(), SameConv(dims, hidden, hidden, kernel=3), nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@dataclass(frozen=True)
class NVAECells(Config):
    """NVAE's cells.

    expansion, kernel : of the depthwise part of a decoder's cell (6 and 5 in the paper).
    norm : "batch", or "none" for the same cells without.
    residual : s, the share of a cell's branch.
    """

    kind: Literal["nvae"] = "nvae"
    expansion: Count = 6
    kernel: Count = 5
    norm: Literal["batch", "none"] = "batch"
    residual: Positive = 0.1

    def build(self, side: Side, dims: int, width: int, depth: int) -> nn.Module:
        return EncoderCell(dims, width, self) if side == "encoder" else DecoderCell(dims, width, self)


@dataclass(frozen=True)
class PlainCells(Config):
    """Cells of four convolutions, inside ``narrowing`` times as wide, the same in encoder and decoder (vdvae)."""

    kind: Literal["plain"] = "plain"
    narrowing: Positive = 0.25

    def build(self, side: Side, dims: int, width: int, depth: int) -> nn.Module:
        return PlainCell(dims, width, self, depth)


CellConfig = Annotated[NVAECells | PlainCells, Discriminator("kind")]


def checkpointed(cell: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """cell(x), its inside computed again in the backward pass instead of kept: less memory, the same gradients.

    >>> cell = EncoderCell(1, 8, NVAECells())
    >>> checkpointed(cell, torch.zeros(2, 8, 16)).shape
    torch.Size([2, 8, 16])
    """
    return checkpoint(cell, x, use_reentrant=False, preserve_rng_state=False,  # type: ignore[return-value]
                      context_fn=lambda: (nullcontext(), _recompute()))


@contextmanager
def _recompute() -> Iterator[None]:
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)


@contextmanager
def gathering(module: nn.Module) -> Iterator[list[BatchNorm]]:
    """Within, every batch normalisation in ``module`` gathers statistics anew; after it all are as they were.

    >>> cell = EncoderCell(1, 8, NVAECells()).eval()
    >>> with gathering(cell) as norms:
    ...     _ = cell(torch.randn(2, 8, 16)), cell(torch.randn(2, 8, 16))
    ...     norms[0].seen
    2
    """
    norms = [m for m in module.modules() if isinstance(m, BatchNorm)]
    kept = [(norm.mean.clone(), norm.variance.clone(), norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset()
            norm.momentum = None
            norm.train()
        yield norms
    finally:
        for norm, (mean, variance, momentum, training) in zip(norms, kept, strict=True):
            norm.mean.copy_(mean)
            norm.variance.copy_(variance)
            norm.momentum = momentum
            norm.train(training)


def _norm(channels: int, config: NVAECells) -> list[nn.Module]:
    return [BatchNorm(channels)] if config.norm == "batch" else []
