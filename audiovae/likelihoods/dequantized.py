"""Dequantization: a density made the bound of a mass, by noise that fills the gaps between levels."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.likelihoods.base import Likelihood, level_of, levels_of
from audiovae.likelihoods.location_scale import GaussianConfig, LaplaceConfig, LogisticConfig
from audiovae.likelihoods.noise import Noise, NoiseConfig, UniformNoiseConfig
from audiovae.shapes import DataSpec


class Dequantized(Likelihood):
    """Data on the grid k / (levels - 1) under a density p of v = (k + u) / levels in [0, 1], u ~ q(u|x).

    With P(x) the integral of p over the D-dimensional cell of x, log P(x) is at least the mean over u of
    log p(v) - D log levels - log q(u|x) (Theis 2016, eq. 5; Ho 2019, eq. 9). ``log_prob`` is one draw of
    that bound, in evaluation as in training, or with ``samples`` S > 1 the tighter log of the mean of S
    draws (Burda 2016), at S times the cost of the density. P sums to less than 1 where p reaches beyond
    [0, 1]; then ``sample`` gives what is beyond to the nearest level.

    The density's location and scale are those of v; ``mean`` gives the level, on the data's scale, in
    whose middle the density's mean lies: v = (k + ½) / levels comes back as k / (levels - 1).

    Raises ShapeError on data outside [0, 1] or between two levels, ConfigError when ``inner`` is no density.

    >>> from audiovae.likelihoods import Gaussian
    >>> from audiovae.likelihoods.noise import UniformNoise
    >>> likelihood = Dequantized(Gaussian("fixed", 1e3), levels=256, noise=UniformNoise())
    >>> likelihood.log_prob(torch.zeros(1, 1, 10), torch.ones(1, 1, 10)) / 10  # -log(256 · 1000 √(2 π))
    tensor([-13.3719])
    >>> likelihood.measure
    'uniform dequantization'
    """

    def __init__(self, inner: Likelihood, levels: int, noise: Noise, samples: int = 1):
        super().__init__()
        if inner.measure != "density":
            raise ConfigError(f"Dequantized wants a density inside, got {type(inner).__name__}, a "
                              f"{inner.measure}: use that as it is.")
        if levels < 2 or samples < 1:
            raise ConfigError(f"Dequantized wants at least 2 levels and 1 sample, got levels {levels} and "
                              f"samples {samples}.")
        self.inner, self.noise, self.levels, self.samples = inner, noise, levels, samples
        self.params_per_channel, self.measure = inner.params_per_channel, noise.measure

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        level = level_of("Dequantized", x, self.levels)
        params, x, level = (t.repeat_interleave(self.samples, 0) for t in (params, x, level))
        u, log_q = self.noise(x)
        log_density = self.inner.log_prob(params, (level + u) / self.levels)
        bound = log_density - x[0].numel() * math.log(self.levels) - log_q
        return bound.view(-1, self.samples).logsumexp(1) - math.log(self.samples)

    def mean(self, params: Tensor) -> Tensor:
        return (self.inner.mean(params) * self.levels - 0.5) / (self.levels - 1)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        level = (self.inner.sample(params, generator) * self.levels).floor()
        return level.clamp(0, self.levels - 1) / (self.levels - 1)


@dataclass(frozen=True)
class DequantizedConfig(Config):
    """A density ``inner``, whose scale is that of v in [0, 1], and the ``noise``; levels None takes the data's."""

    kind: Literal["dequantized"] = "dequantized"
    inner: Annotated[GaussianConfig | LaplaceConfig | LogisticConfig, Discriminator("kind")] = GaussianConfig(
        scale="predicted", sigma=0.1)
    noise: NoiseConfig = UniformNoiseConfig()
    levels: int | None = None
    samples: int = 1

    def build(self, data: DataSpec) -> Dequantized:
        return Dequantized(self.inner.build(data), levels_of("dequantized", self.levels, data),
                           self.noise.build(data), self.samples)
