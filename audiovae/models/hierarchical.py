"""Levels of codes that tell each other what is left to say: VQ-VAE-2 (Razavi 2019, algorithm 1), in one or two
dimensions and of any number of levels.

    h_l = E_l(h_{l-1}),  h_{-1} = x                         up, to the top
    c_l = U_{l+1}([z_{l+1}, c_{l+1}])                       what the levels above say, on the grid of level l
    z_l = quantize(P_l([h_l, c_l]))                         down: the top first, each told those above
    x̂  = D([z_0, c_0])

c_0 holds every level above level 0, so the decoder reads them all. One objective trains all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks.base import Bottleneck
from audiovae.bottlenecks.rvq import searched
from audiovae.config import Config
from audiovae.decoders import StridedDecoder
from audiovae.encoders import StridedEncoder
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods import GaussianConfig, Likelihood, LikelihoodConfig
from audiovae.models.autoencoder import ConditionEmbedding
from audiovae.models.levels import LevelConfig
from audiovae.nn.conv import SameConv
from audiovae.nn.field import Field
from audiovae.shapes import CodeLevel, Condition, DataSpec, Latent, Output, check_grid

Quantize = Callable[[Bottleneck, Tensor], Latent]


class Hierarchical(nn.Module):
    """A VQ-VAE-2.

    Parameters
    ----------
    rows : a row a level, level 0 (the fastest, the paper's bottom) first; ``strides`` of the others are over the grid
        of the level before.
    likelihood, data, embedding : as of an autoencoder; the decoder is told the condition.

    Raises ConfigError where there is no row, or a level does not shorten the grid of the one before.

    >>> rows = (LevelConfig(strides=(2, 2), width=8, depth=1), LevelConfig(strides=(2,), width=8, depth=1))
    >>> model = HierarchicalConfig(levels=rows).build(DataSpec(channels=1, dims=2, size=(16, 16)))
    >>> [tuple(codes.shape[2:]) for codes in model.encode_levels(torch.rand(1, 1, 16, 16))]
    [(4, 4), (2, 2)]
    """

    def __init__(self, rows: Sequence[LevelConfig], likelihood: Likelihood, data: DataSpec,
                 embedding: ConditionEmbedding | None = None, condition_dim: int = 0):
        super().__init__()
        if not rows or any(row.lookahead is not None for row in rows):
            raise ConfigError("model 'hierarchical' wants at least one row in model.levels, each without lookahead: "
                              "the top is known only after its own hop.")
        below, dims = [data.channels, *(row.width for row in rows)], data.dims
        self.data, self.likelihood, self.embedding = data, likelihood, embedding
        self.hops = tuple(accumulate((row.hop for row in rows), mul))
        self.encoder = nn.ModuleList(
            StridedEncoder(dims, channels, row.width, row.strides, row.width, row.depth, row.growth, row.hidden)
            for channels, row in zip(below, rows, strict=False))
        self.bottlenecks = nn.ModuleList(row.bottleneck.build(dims) for row in rows)
        told = [row.width for row in rows[:-1]] + [0]  # channels of c_l
        self.into = nn.ModuleList(SameConv(dims, row.width + context, row.dim)
                                  for row, context in zip(rows, told, strict=True))
        outs = [likelihood.params_per_channel * data.channels, *told[:-1]]  # what level l's decoder gives
        self.decoders = nn.ModuleList(
            StridedDecoder(dims, row.dim + context, out, row.strides[::-1], row.width, row.depth, row.growth,
                           row.hidden, condition_dim)
            for row, context, out in zip(rows, told, outs, strict=True))

    @property
    def hop(self) -> int:
        """What sides of the data are multiples of: the top's hop."""
        return self.hops[-1]

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        return tuple(CodeLevel(hop, its.num_codes) for hop, its in zip(self.hops, self._bottlenecks, strict=True))

    @property
    def fields(self) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
        """Which samples the codes of each level depend on, and which codes of each level a sample does."""
        read: list[Field] = []
        seen, up = [], Field()
        for encoder in self.encoder:
            up = up.then(cast(Field, encoder.field))
            seen.append(up)
        for level in reversed(range(len(seen))):
            its = seen[level]
            read.insert(0, its if not read else its.wider(read[0].then(self._decoders[level + 1].field)))
        shown = [self._decoders[0].field]
        for decoder in self._decoders[1:]:  # read from the top down, so level l lies before all those under it
            shown.append(decoder.field.then(shown[-1]))
        return tuple(read), tuple(shown)

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """Data (B, C, *grid) through all levels; ``losses`` and rates are each level's own."""
        if samples != 1:
            raise ConfigError("model 'hierarchical' has codes, which are not drawn: leave objective.samples at 1.")
        vector = self._vector(condition, len(x))
        latents, context = self._down(self._up(x), vector, lambda bottleneck, h: bottleneck(h))
        return Output(tuple(latents), self._decoded(latents[0].z, context, vector))

    def encode_levels(self, x: Tensor, condition: Condition | None = None, beam: int = 1) -> tuple[Tensor, ...]:
        """Data (B, C, *grid) to codes (B, Q, *grid / hop) int64 of every level.

        ``beam`` is how widely residual quantizers search for them.
        """
        def quantized(bottleneck: Bottleneck, h: Tensor) -> Latent:
            codes = searched(bottleneck, h, beam=beam)
            return Latent(bottleneck.decode(codes), h.new_zeros(len(h)), codes)

        latents, _ = self._down(self._up(x), self._vector(condition, len(x)), quantized)
        return tuple(cast(Tensor, latent.codes) for latent in latents)

    def decode_levels(self, codes: Sequence[Tensor | None], condition: Condition | None = None) -> Tensor:
        """Codes of all levels to data; ShapeError where a level is missing, see :meth:`reveal`."""
        missing = [level for level, its in enumerate(codes) if its is None]
        if missing or len(codes) != len(self.hops):
            raise ShapeError(f"Hierarchical wants codes of all its {len(self.hops)} levels, got {len(codes)} with none "
                             f"in {missing}: decode with all, or see what some hold with reveal.")
        return self._shown([its.decode(cast(Tensor, level)) for its, level in
                            zip(self._bottlenecks, codes, strict=True)], condition)

    def reveal(self, codes: Sequence[Tensor | None], condition: Condition | None = None) -> Tensor:
        """What the levels that are there hold: in place of the others' codes stands their codebooks' mean, as used.

        The grid is the one that is there; ShapeError where none is.
        """
        there = next(((its.shape, self.hops[level]) for level, its in enumerate(codes) if its is not None), None)
        if there is None or len(codes) != len(self.hops):
            raise ShapeError(f"Hierarchical.reveal wants one entry for each of {len(self.hops)} levels, None for those "
                             f"left out, not for all; got {len(codes)}.")
        (batch, _, *grid), hop = there
        latents = []
        for level, (its, bottleneck) in enumerate(zip(codes, self._bottlenecks, strict=True)):
            if its is not None:
                latents.append(bottleneck.decode(its))
                continue
            mean = torch.stack([_mean(book) for book in bottleneck.books]).sum(0)  # type: ignore[union-attr]
            size = [side * hop // self.hops[level] for side in grid]
            latents.append(mean.view(1, -1, *[1] * len(grid)).expand(batch, -1, *size))
        return self._shown(latents, condition)

    def reconstruct(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Data (B, C, *grid) through both halves: what the model makes of it."""
        return self.decode_levels(self.encode_levels(x, condition), condition)

    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """Raises ConfigError: codes have no prior but one that is trained over them."""
        return self._bottlenecks[-1].sample_prior(count, (1,), temperature, generator)

    @property
    def _bottlenecks(self) -> list[Bottleneck]:
        return cast(list[Bottleneck], list(self.bottlenecks))

    @property
    def _decoders(self) -> list[StridedDecoder]:
        return cast(list[StridedDecoder], list(self.decoders))

    def _up(self, x: Tensor) -> list[Tensor]:
        """What every level's encoder gives, level 0 first."""
        check_grid("Hierarchical", x, self.hop)
        hidden: list[Tensor] = []
        for encoder in self.encoder:
            x = F.relu(encoder(x))
            hidden.append(x)
        return hidden

    def _down(self, hidden: list[Tensor], vector: Tensor | None, quantize: Quantize
              ) -> tuple[list[Latent], Tensor | None]:
        """Each level's latent, the top made first, and c_0; ``quantize(bottleneck, h)`` makes a Latent."""
        latents: list[Latent] = []
        context = None
        for level in reversed(range(len(hidden))):
            h = hidden[level] if context is None else torch.cat([hidden[level], context], dim=1)
            latents.insert(0, quantize(self._bottlenecks[level], self.into[level](h)))
            if level:
                context = self._decoded(latents[0].z, context, vector, level)
        return latents, context

    def _shown(self, latents: Sequence[Tensor], condition: Condition | None) -> Tensor:
        """Latents of all levels to data."""
        vector, context = self._vector(condition, len(latents[0])), None
        for level in reversed(range(len(latents))):
            context = self._decoded(latents[level], context, vector, level)
        return self.likelihood.mean(cast(Tensor, context))

    def _decoded(self, z: Tensor, context: Tensor | None, vector: Tensor | None, level: int = 0) -> Tensor:
        """c of the level below from z and c of this one; of level 0 the likelihood's parameters."""
        h = z if context is None else torch.cat([z, context], dim=1)
        out = self._decoders[level](h, vector)
        return F.relu(out) if level else out

    def _vector(self, condition: Condition | None, batch: int) -> Tensor | None:
        return self.embedding(condition, batch) if self.embedding is not None else None


def _mean(book: nn.Module) -> Tensor:
    """The mean of a codebook's codes (D,), as often as each is used."""
    weights = book.counts / book.counts.sum().clamp(min=1e-9)  # type: ignore[operator,union-attr]
    return weights @ book.table()  # type: ignore[operator]


@dataclass(frozen=True)
class HierarchicalConfig(Config):
    """A row a level, level 0 first; the paper's two levels of 256 x 256 pictures are strides 4, then 2.

    condition_dim : E of the vector that the decoder is told of the label; 0 leaves it out.
    label_dropout : how often training hides it.
    """

    kind: Literal["hierarchical"] = "hierarchical"
    levels: tuple[LevelConfig, ...] = (
        LevelConfig(strides=(2, 2), num_codes=512, width=128, depth=2, growth=1, hidden=32),
        LevelConfig(strides=(2,), num_codes=512, width=128, depth=2, growth=1, hidden=32))
    likelihood: LikelihoodConfig = GaussianConfig()
    condition_dim: int = 0
    label_dropout: float = 0.1

    def build(self, data: DataSpec) -> Hierarchical:
        if self.condition_dim and not (data.labels or data.embedding):
            raise ConfigError("model.condition_dim is set, but the data has no labels: set it to 0.")
        embedding = None
        if self.condition_dim:
            embedding = ConditionEmbedding(len(data.labels), data.embedding, self.condition_dim, self.label_dropout)
        return Hierarchical(self.levels, self.likelihood.build(data), data, embedding, self.condition_dim)
