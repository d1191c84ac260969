"""One typed row for each level of a model of several: its strides, its codebook and the width of its stacks.

The paper's sizes (Dhariwal 2020, table 4): hops 8, 32 and 128 in strides of 2, 2048 codes of 64 numbers, residual
width 32 and depth 4 a stride, twice both at the lowest level, dilations 3^d, reversed in the decoder.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from audiovae.bottlenecks import BottleneckConfig, RVQConfig, VQConfig
from audiovae.config import Config, Count, Decay, Weight, Whole
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.likelihoods import LikelihoodConfig
from audiovae.models.autoencoder import AutoencoderConfig


@dataclass(frozen=True)
class LevelConfig(Config):
    """A level of codes between strided stacks, of waveforms, spectrograms and pictures alike.

    strides : of the encoder, first to last, reversed in the decoder; their product is the hop over what it reads.
    num_codes, dim, num_quantizers : K, D and Q of its residual quantizer; one of them is a VQ.
    width, depth, growth, hidden : of the residual stacks: channels, blocks a stride, base of the dilations, and
        channels within a block (None: ``width``).
    lookahead : 0 for causal stacks in time.
    decay, standardize, kmeans_after, dead_threshold : see CodebookConfig.

    >>> LevelConfig(strides=(4, 2)).hop
    8
    """

    kind: Literal["level"] = "level"
    strides: tuple[Count, ...] = (2, 2, 2)
    num_codes: Count = 2048
    dim: Count = 64
    num_quantizers: Count = 1
    width: Count = 32
    depth: Count = 4
    growth: Count = 3
    hidden: Count | None = None
    lookahead: Whole | None = None
    decay: Decay = 0.99
    standardize: bool = False
    kmeans_after: Whole = 0
    dead_threshold: Weight = 0.1

    @property
    def hop(self) -> int:
        return prod(self.strides)

    @property
    def bottleneck(self) -> BottleneckConfig:
        """The quantizer of this level."""
        told = {name: getattr(self, name) for name in ("num_codes", "dim", "decay", "standardize", "kmeans_after",
                                                       "dead_threshold")}
        if self.num_quantizers == 1:
            return VQConfig(**told)
        return RVQConfig(num_quantizers=self.num_quantizers, **told)

    @property
    def encoder(self) -> StridedEncoderConfig:
        return StridedEncoderConfig(strides=self.strides, width=self.width, depth=self.depth, growth=self.growth,
                                    hidden=self.hidden, lookahead=self.lookahead)

    @property
    def decoder(self) -> StridedDecoderConfig:
        return StridedDecoderConfig(strides=self.strides[::-1], width=self.width, depth=self.depth,
                                    growth=self.growth, hidden=self.hidden, lookahead=self.lookahead)

    def alone(self, likelihood: LikelihoodConfig) -> AutoencoderConfig:
        """The level by itself: an autoencoder of the data."""
        return AutoencoderConfig(encoder=self.encoder, bottleneck=self.bottleneck, decoder=self.decoder,
                                 likelihood=likelihood)
