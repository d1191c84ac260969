"""The parts of a ladder of latents: groups of latent numbers, and the two towers that they stand between.

A group's z is told by all groups above it: p(z_l | z_>l) = N(μ, σ²), read from the decoder's h. Everywhere in the code
a group's latent is u = (z - μ) / σ, z in units of its prior: there the prior is N(0, 1) and a residual normal posterior
q(z_l | x, z_>l) = N(μ + σ Δμ, (σ Δσ)²) is N(Δμ, Δσ²), so that its KL, its free bits and its flows are those of the
Gaussian bottleneck (Vahdat & Kautz 2020, section 3.2 and eq. 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Annotated

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import DiagonalConfig, GaussianConfig, IAFConfig
from audiovae.config import Config, Count, Whole
from audiovae.nn.cells import BatchNorm, CellConfig, NVAECells, checkpointed
from audiovae.nn.conv import CONV, TRANSPOSED, Downsample, FiLM, SameConv, Upsample
from audiovae.shapes import Latent, Posterior

FAR = 10.0  # |log σ²| of a prior is softly held below: exp stays far from both ends of float32
PosteriorConfig = Annotated[DiagonalConfig | IAFConfig, Discriminator("kind")]
Choice = Callable[[int, "Group", Tensor, Posterior | None], Tensor]


@dataclass(frozen=True)
class ScaleConfig(Config):
    """One row of a ladder: a grid, what is computed on it, and how many groups of latents are drawn there.

    stride : of the grid, in steps of the row before (the first: of the data).
    width : channels of both towers.
    groups, latent_dim : how many there are, and D of each; 0 groups only compute.
    cells : residual cells a group in each tower; of a row without groups, or whose groups share a feature of the
        encoder, in all.
    """

    stride: Count = 2
    width: Count = 32
    groups: Whole = 1
    latent_dim: Count = 4
    cells: Count = 1


@dataclass(frozen=True)
class Plan:
    """What all rows of a ladder share; ``top`` is the slowest of the groups."""

    dims: int
    cells: CellConfig = NVAECells()
    posterior: PosteriorConfig = DiagonalConfig()
    residual: bool = True
    condition_dim: int = 0
    shared: bool = False
    depth: int = 1
    checkpoint: bool = False


class Cells(nn.ModuleList):
    """Residual cells one after the other; ``checkpoint``: the inside of each is computed again in the backward pass."""

    def __init__(self, side: str, plan: Plan, width: int, count: int):
        super().__init__(plan.cells.build(side, plan.dims, width, plan.depth)  # type: ignore[arg-type]
                         for _ in range(count))
        self.checkpoint = plan.checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for cell in self:
            x = checkpointed(cell, x) if self.checkpoint and torch.is_grad_enabled() else cell(x)
        return x


class Group(nn.Module):
    """One group of latents: its prior and posterior given the decoder's h, and the cells that read what was drawn.

    Shapes: h and the encoder's feature (B, C, *grid), u (B, D, *grid) -> h (B, C, *grid).

    >>> group = Group(ScaleConfig(width=8, latent_dim=2), Plan(dims=1))
    >>> h = torch.randn(3, 8, 5)
    >>> latent = group.latent(h, h, group.prior_of(h))
    >>> latent.z.shape, group(h, latent.z, group.prior_of(h), None).shape
    (torch.Size([3, 2, 5]), torch.Size([3, 8, 5]))
    """

    def __init__(self, scale: ScaleConfig, plan: Plan, top: bool = False):
        super().__init__()
        width, dim = scale.width, scale.latent_dim
        self.bottleneck = GaussianConfig(dim=dim, posterior=plan.posterior).build(plan.dims)
        self.prior = None if top else SameConv(plan.dims, width, 2 * dim)
        self.told = SameConv(plan.dims, width, width)
        self.posterior = SameConv(plan.dims, width, self.bottleneck.channels_in, kernel=3)
        self.join = SameConv(plan.dims, dim, width)
        self.film = FiLM(plan.condition_dim, width) if plan.condition_dim else None
        self.cells = Cells("decoder", plan, width, scale.cells)
        self.residual = plan.residual

    def prior_of(self, h: Tensor) -> Posterior | None:
        """p(z | z above) (B, D, *grid); None is the N(0, 1) of the top."""
        if self.prior is None:
            return None
        mean, log_variance = self.prior(F.silu(h)).float().chunk(2, dim=1)
        return Posterior(mean, FAR * torch.tanh(log_variance / FAR))

    def parameters_of(self, feature: Tensor, h: Tensor, prior: Posterior | None) -> Tensor:
        """q(u | x, z above) as the bottleneck takes it, from the encoder's feature and the decoder's h."""
        raw = self.posterior(F.silu(feature + self.told(F.silu(h))))
        if self.residual or prior is None:
            return raw
        mean, log_variance, context = raw.float().tensor_split(
            [self.bottleneck.channels_out, 2 * self.bottleneck.channels_out], dim=1)
        mean = (mean - prior.mean) * (-0.5 * prior.log_variance).exp()
        return torch.cat([mean, log_variance - prior.log_variance, context], dim=1)

    def latent(self, feature: Tensor, h: Tensor, prior: Posterior | None) -> Latent:
        """u drawn from its posterior, with its rate; ``stats``: ``kl``, nats an example."""
        latent = self.bottleneck(self.parameters_of(feature, h, prior))
        latent.stats["kl"] = latent.rate.detach().mean()
        return latent

    def forward(self, h: Tensor, units: Tensor, prior: Posterior | None, vector: Tensor | None) -> Tensor:
        """h with z = μ + σ u joined, told the condition (B, E), through the cells."""
        z = units if prior is None else torch.addcmul(prior.mean, (0.5 * prior.log_variance).exp(), units)
        h = h + self.join(z)
        if self.film is not None and vector is not None:
            h = self.film(h.movedim(1, -1), vector).movedim(-1, 1)
        return self.cells(h)


class BottomUp(nn.Module):
    """The encoder: data (B, C, *grid) to a feature for each group, the fastest first.

    >>> tower = BottomUp(1, (ScaleConfig(width=8, groups=2), ScaleConfig(width=16)), Plan(dims=1))
    >>> [tuple(feature.shape) for feature in tower(torch.zeros(3, 1, 8))]
    [(3, 8, 4), (3, 8, 4), (3, 16, 2)]
    """

    def __init__(self, channels: int, scales: Sequence[ScaleConfig], plan: Plan):
        super().__init__()
        first = scales[0]
        into = [_ends(plan.dims, channels, first.width, first.stride)]
        into += [_patches(CONV, plan.dims, a.width, b.width, b.stride) for a, b in pairwise(scales)]
        self.into = nn.ModuleList(into)
        stages = [1 if plan.shared else max(scale.groups, 1) for scale in scales]
        self.readers = [scale.groups // count for scale, count in zip(scales, stages, strict=True)]  # of each feature
        self.stages = nn.ModuleList(
            nn.ModuleList(Cells("encoder", plan, scale.width, scale.cells) for _ in range(count))
            for scale, count in zip(scales, stages, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for into, stages, readers in zip(self.into, self.stages, self.readers, strict=True):
            x = into(x)
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(x)
                features += [x] * readers
        return features


class TopDown(nn.Module):
    """The decoder: from what it has learnt to begin with down to the likelihood's parameters, group by group.

    ``choose(level, group, h, prior) -> u`` says what each group is, level 0 last: drawn, a mean, or given.
    """

    autoregressive = False

    def __init__(self, channels_out: int, scales: Sequence[ScaleConfig], plan: Plan, start: tuple[int, ...]):
        super().__init__()
        dims, last = plan.dims, len(scales) - 1
        self.start = nn.Parameter(torch.zeros(1, scales[-1].width, *start))
        self.groups = nn.ModuleList(
            nn.ModuleList(Group(scale, plan, top=(i, g) == (last, scale.groups - 1)) for g in range(scale.groups))
            for i, scale in enumerate(scales))
        self.alone = nn.ModuleList(Cells("decoder", plan, scale.width, 0 if scale.groups else scale.cells)
                                   for scale in scales)
        self.ups = nn.ModuleList(_patches(TRANSPOSED, dims, b.width, a.width, b.stride) for a, b in pairwise(scales))
        first = scales[0]
        norm = [BatchNorm(first.width)] if isinstance(plan.cells, NVAECells) and plan.cells.norm == "batch" else []
        self.head = nn.Sequential(*norm, nn.SiLU(), _ends(dims, first.width, channels_out, first.stride, up=True))

    def forward(self, count: int, grid: tuple[int, ...], vector: Tensor | None, choose: Choice) -> Tensor:
        """Parameters (count, P C, *data grid), beginning on the slowest ``grid``."""
        h = self.start.expand(count, -1, *grid)
        level = sum(map(len, self.groups))  # type: ignore[arg-type]
        for i in reversed(range(len(self.groups))):
            for group in reversed(self.groups[i]):  # type: ignore[call-overload]
                level -= 1
                prior = group.prior_of(h)
                h = group(h, choose(level, group, h, prior), prior, vector)
            h = self.alone[i](h)
            if i:
                h = self.ups[i - 1](h)
        return self.head(h)


def fold(z: Tensor, ratio: int) -> Tensor:
    """(B, D, *grid) to (B, D ratio^dims, *grid / ratio): what lies on one place of the coarser grid, as its channels.

    >>> fold(torch.arange(6).view(1, 1, 6), 2).tolist()
    [[[0, 2, 4], [1, 3, 5]]]
    """
    dims = z.ndim - 2
    split = z.reshape(*z.shape[:2], *(n for side in z.shape[2:] for n in (side // ratio, ratio)))
    outer, inner = [2 + 2 * i for i in range(dims)], [3 + 2 * i for i in range(dims)]
    return split.permute(0, 1, *inner, *outer).reshape(len(z), -1, *(side // ratio for side in z.shape[2:]))


def unfold(folded: Tensor, ratio: int) -> Tensor:
    """The inverse of :func:`fold`.

    >>> z = torch.randn(2, 3, 4, 6)
    >>> torch.equal(unfold(fold(z, 2), 2), z)
    True
    """
    dims = folded.ndim - 2
    split = folded.reshape(len(folded), -1, *[ratio] * dims, *folded.shape[2:])
    order = [n for i in range(dims) for n in (2 + dims + i, 2 + i)]
    return split.permute(0, 1, *order).reshape(len(folded), -1, *(ratio * side for side in folded.shape[2:]))


def hops(scales: Sequence[ScaleConfig]) -> list[int]:
    """Data steps to a step of each row's grid.

    >>> hops([ScaleConfig(stride=2), ScaleConfig(stride=4)])
    [2, 8]
    """
    return [prod(scale.stride for scale in scales[:i + 1]) for i in range(len(scales))]


def _ends(dims: int, channels: int, channels_out: int, stride: int, up: bool = False) -> nn.Module:
    """Between data and the fastest row: kernels that overlap, so that no seams are seen."""
    if stride == 1:
        return SameConv(dims, channels, channels_out, kernel=3)
    if stride % 2:
        return _patches(TRANSPOSED if up else CONV, dims, channels, channels_out, stride)
    return (Upsample if up else Downsample)(dims, channels, channels_out, stride)


def _patches(kinds: dict[int, type[nn.Module]], dims: int, channels: int, channels_out: int, stride: int) -> nn.Module:
    """Between two rows: each step of the slower is a patch of the faster, one matrix product."""
    return kinds[dims](channels, channels_out, stride, stride=stride)
