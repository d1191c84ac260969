"""Codes at several rates, each by a model of its own: the VQ-VAE of Jukebox (Dhariwal 2020, section 3).

The levels share nothing but the data: each is an autoencoder that codes and decodes all of it by itself, so any of
them can be decoded from, and a prior for each puts detail into what the level above says. One run trains them all,
in every step or one after the other, each as it would be trained alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
from pydantic import Discriminator
from torch import Tensor, nn

from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods import GaussianConfig, Likelihood, LikelihoodConfig
from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig
from audiovae.models.levels import LevelConfig
from audiovae.shapes import CodeLevel, Condition, DataSpec, Output

Turn = int | Literal["each"] | None  # what is trained: one level, each in its turn, or all in every step


class Multires(nn.Module):
    """Autoencoders of the same data with growing hops, each with codes.

    Parameters
    ----------
    levels : level 0 the fastest; each hop a multiple of the one before, and larger.

    Raises ConfigError on other hops, or a level without codes.

    >>> rows = (LevelConfig(strides=(2, 2), width=8, depth=1), LevelConfig(strides=(2, 2, 2), width=8, depth=1))
    >>> model = MultiresConfig(levels=rows).build(DataSpec(channels=1, dims=1, sample_rate=44100))
    >>> codes = model.encode_levels(torch.randn(1, 1, 64))
    >>> [level.shape[-1] for level in codes], model.decode_levels([None, codes[1]]).shape
    ([16, 8], torch.Size([1, 1, 64]))
    """

    def __init__(self, levels: Sequence[Autoencoder]):
        super().__init__()
        hops = [level.hop for level in levels]
        if not hops or any(slow <= fast or slow % fast for fast, slow in pairwise(hops)):
            raise ConfigError(f"model 'multires' wants levels of growing hops, each a multiple of the one before, got "
                              f"{hops}: order model.levels from the fastest, and choose their strides so.")
        for number, level in enumerate(levels):
            if not level.bottleneck.is_discrete or level.decoder.autoregressive or level.vector:
                raise ConfigError("model 'multires' wants levels with codes on a grid and a decoder of one pass; level "
                                  f"{number} has {type(level.bottleneck).__name__} and {type(level.decoder).__name__}.")
        self.levels = nn.ModuleList(levels)
        self.data = levels[0].data
        self.working = self.shown = tuple(range(len(hops)))

    @property
    def each(self) -> list[Autoencoder]:
        """The models, level 0 first."""
        return cast(list[Autoencoder], list(self.levels))

    @property
    def hop(self) -> int:
        """What sides of the data are multiples of: the slowest level's hop."""
        return self.each[-1].hop

    @property
    def likelihood(self) -> Likelihood:
        """That of level 0; each has its own."""
        return self.each[0].likelihood

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        return tuple(level.code_levels[0] for level in self.each)

    def take_turn(self, turn: Turn, progress: float) -> float:
        """Set which levels are trained at the share ``progress`` of a run; the share of their own time that is.

        "each" gives every level, from level 0 on, as long as any other. Raises ConfigError where there is no such
        level.
        """
        count = len(self.levels)
        if turn is None:
            self.working = self.shown = tuple(range(count))
            return progress
        if turn == "each":
            now = min(int(progress * count + 1e-9), count - 1)
            self.working, self.shown = (now,), tuple(range(now + 1))
            return max(0.0, progress * count - now)
        if not 0 <= turn < count:
            raise ConfigError(f"train.level {turn}: this model has the levels 0 to {count - 1}.")
        self.working = self.shown = (turn,)
        return progress

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """Data (B, C, *grid) through every level, apart from each other; in training through those whose turn it is."""
        apart = {number: self.each[number](x, condition, samples)
                 for number in (self.working if self.training else self.shown)}
        latents = tuple(latent for output in apart.values() for latent in output.latents)
        return Output(latents, next(iter(apart.values())).params, apart=apart)

    def encode_levels(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Data (B, C, *grid) to codes (B, Q, *grid / hop) int64 of every level."""
        return tuple(level.encode(x, condition) for level in self.each)

    def decode_levels(self, codes: Sequence[Tensor | None], condition: Condition | None = None) -> Tensor:
        """Codes to data by the fastest level that is there; ShapeError where none is, or there are too many."""
        there = [number for number, its in enumerate(codes) if its is not None]
        if not there or len(codes) > len(self.levels):
            raise ShapeError(f"Multires wants codes of at least one of its {len(self.levels)} levels, None for those "
                             f"that are not there; got {len(codes)} levels with codes in {there}.")
        return self.each[there[0]].decode(cast(Tensor, codes[there[0]]), condition)

    def reconstruct(self, x: Tensor, condition: Condition | None = None, level: int | None = None) -> Tensor:
        """Data (B, C, *grid) through both halves of one level: the fastest that is in training, unless named."""
        return self.each[self.shown[0] if level is None else level].reconstruct(x, condition)

    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """Raises ConfigError: codes have no prior but one that is trained over them."""
        return self.each[-1].sample(count, condition, temperature, generator, size)


@dataclass(frozen=True)
class MultiresConfig(Config):
    """A row for each level, level 0 the fastest: a :class:`LevelConfig`, or a whole autoencoder of any parts.

    likelihood : of every level that is a row of kind "level".
    """

    kind: Literal["multires"] = "multires"
    levels: tuple[Annotated[LevelConfig | AutoencoderConfig, Discriminator("kind")], ...] = (
        LevelConfig(strides=(2,) * 3, width=64, depth=8), LevelConfig(strides=(2,) * 5), LevelConfig(strides=(2,) * 7))
    likelihood: LikelihoodConfig = GaussianConfig()

    def build(self, data: DataSpec) -> Multires:
        rows = [row.alone(self.likelihood) if isinstance(row, LevelConfig) else row for row in self.levels]
        return Multires([row.build(data) for row in rows])
