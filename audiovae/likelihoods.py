"""Likelihoods p(x|z): what a decoder's output says about the data, as log-probability in nats.

A decoder gives P numbers for each data channel, stacked as (B, P * C, *grid): first the C of the first
parameter, then the C of the next. Gaussian and Laplace are densities, whose logarithm can be positive
and depends on the data's units; Bernoulli and categorical are masses, never above 0.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError

Scale = Literal["fixed", "global", "predicted", "calibrated"]


class Likelihood(nn.Module):
    """The contract every likelihood keeps.

    Attributes
    ----------
    params_per_channel : P, numbers the decoder gives for each data channel.
    """

    params_per_channel: int = 1

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over all dimensions: (B, P C, *grid), (B, C, *grid) -> (B,)."""
        raise NotImplementedError

    def mean(self, params: Tensor) -> Tensor:
        """The expected data: (B, P C, *grid) -> (B, C, *grid)."""
        raise NotImplementedError

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Data drawn from p(x|z): (B, P C, *grid) -> (B, C, *grid)."""
        raise NotImplementedError

    def _agree(self, params: Tensor, x: Tensor) -> None:
        wanted = (x.shape[0], self.params_per_channel * x.shape[1], *x.shape[2:])
        if params.shape != wanted:
            raise ShapeError(f"{type(self).__name__} wants parameters {wanted} for data {tuple(x.shape)}, "
                             f"got {tuple(params.shape)}: give P={self.params_per_channel} a channel.")


class LocationScale(Likelihood):
    """A likelihood with a location from the decoder and a scale of one of four kinds.

    Parameters
    ----------
    scale : where the scale s comes from:
        "fixed", ``value`` for good; "global", one learned number that starts at ``value``;
        "predicted", for each element by the decoder (P = 2), about ``value`` times exp of its output;
        "calibrated", the value that maximises the batch's likelihood (σ-VAE, Rybkin 2020, eq. 6), found in
        closed form; evaluation and sampling use the average over training, kept in a buffer.
    value : s of a standard deviation or width, in the data's units.
    floor : the lowest scale that is learned, predicted or calibrated.

    While training, ``log_prob`` of a calibrated likelihood updates its average, as batch normalisation
    does. Its gradient needs none through the scale: at the optimum that derivative is 0.
    """

    DECAY = 0.99  # of the average that evaluation uses; the first batches count equally
    average: Tensor
    batches: Tensor

    def __init__(self, scale: Scale = "fixed", value: float = 1.0, floor: float = 1e-3):
        super().__init__()
        if not (value > 0 and floor > 0) or (scale != "fixed" and value <= floor):
            raise ConfigError(f"{type(self).__name__} wants a scale above 0 and above its floor {floor:g}, "
                              f"got {value:g}: raise the one or lower the other.")
        self.kind, self.value, self.floor = scale, value, floor
        self.params_per_channel = 2 if scale == "predicted" else 1
        if scale == "global":
            self.offset = nn.Parameter(torch.zeros(()))
        if scale == "calibrated":
            self.register_buffer("average", torch.tensor(self._deviation(torch.tensor(value)).item()))
            self.register_buffer("batches", torch.zeros(()))

    def _deviation(self, error: Tensor) -> Tensor:
        """What the optimal scale averages over elements."""
        raise NotImplementedError

    def _optimum(self, average: Tensor) -> Tensor:
        """The scale of greatest likelihood for the averaged deviation."""
        raise NotImplementedError

    def _log_density(self, standardised: Tensor) -> Tensor:
        """log p of (x - location) / s with s = 1."""
        raise NotImplementedError

    def scale(self, params: Tensor) -> Tensor:
        """s for every element, or one for all: broadcasts against (B, C, *grid)."""
        if self.kind == "fixed":
            return params.new_tensor(self.value)
        if self.kind == "calibrated":
            return self._optimum(self.average).clamp(min=self.floor)
        raw = self.offset if self.kind == "global" else params.chunk(2, dim=1)[1]
        return _above(self.floor, raw, self.value)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        error = x - self.mean(params)
        if self.kind == "calibrated" and self.training:
            self._calibrate(error.detach())
            scale = self._optimum(self._deviation(error.detach()).mean()).clamp(min=self.floor)
        else:
            scale = self.scale(params)
        return (self._log_density(error / scale) - scale.log()).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return params.chunk(self.params_per_channel, dim=1)[0]

    @torch.no_grad()
    def _calibrate(self, error: Tensor) -> None:
        self.batches += 1
        weight = (1 / self.batches).clamp(min=1 - self.DECAY)
        self.average.lerp_(self._deviation(error).mean().to(self.average.dtype), weight)


class Gaussian(LocationScale):
    """Independent normal noise of standard deviation s: a density.

    log p = -Σ [(x - μ)² / 2s² + log s + ½ log 2π]; the optimal s² is the mean of (x - μ)².

    >>> Gaussian("fixed", 1.0).log_prob(torch.zeros(2, 1, 100), torch.zeros(2, 1, 100)) / 100
    tensor([-0.9189, -0.9189])
    """

    def _deviation(self, error: Tensor) -> Tensor:
        return error.square()

    def _optimum(self, average: Tensor) -> Tensor:
        return average.sqrt()

    def _log_density(self, standardised: Tensor) -> Tensor:
        return -0.5 * standardised.square() - 0.5 * math.log(2 * math.pi)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(params)
        return mean + self.scale(params) * _normal(mean, generator)


class Laplace(LocationScale):
    """Independent two-sided exponential noise of width s: a density.

    log p = -Σ [|x - μ| / s + log 2s]; the optimal s is the mean of |x - μ|.

    >>> Laplace("fixed", 0.5).log_prob(torch.zeros(1, 1, 100), torch.ones(1, 1, 100))
    tensor([-200.])
    """

    def _deviation(self, error: Tensor) -> Tensor:
        return error.abs()

    def _optimum(self, average: Tensor) -> Tensor:
        return average

    def _log_density(self, standardised: Tensor) -> Tensor:
        return -standardised.abs() - math.log(2)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(params)
        one, other = (torch.empty_like(mean).exponential_(generator=generator) for _ in range(2))
        return mean + self.scale(params) * (one - other)


class Bernoulli(Likelihood):
    """Binary data, or grey values in [0, 1] read as the chance of a 1; the parameter is the logit. A mass.

    For a grey x the value is the mean of log p over binary data drawn with chance x.
    Raises ShapeError on data outside [0, 1].

    >>> Bernoulli().log_prob(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)) / 64
    tensor([-0.6931])
    """

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        _unit("Bernoulli", x)
        return -F.binary_cross_entropy_with_logits(params, x, reduction="none").flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return params.sigmoid()

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(params.sigmoid(), generator=generator)


class Categorical(Likelihood):
    """Data on the grid k / (levels - 1), each level with a logit of its own. A mass.

    Raises ShapeError on data outside [0, 1] or between two levels.

    >>> Categorical(256).log_prob(torch.zeros(1, 256, 10), torch.ones(1, 1, 10)) / 10  # -log 256
    tensor([-5.5452])
    """

    TOLERANCE = 0.01  # of a level: single precision keeps 8- and 16-bit grids far closer

    def __init__(self, levels: int = 256):
        super().__init__()
        if levels < 2:
            raise ConfigError(f"Categorical wants at least 2 levels, got {levels}.")
        self.levels = self.params_per_channel = levels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        _unit("Categorical", x)
        level = x * (self.levels - 1)
        index = level.round()
        if bool(((level - index).abs() > self.TOLERANCE).any()):
            raise ShapeError(f"Categorical wants data on the grid k / {self.levels - 1}, got values in "
                             "between: quantize it, or set levels to the data's number of values.")
        return -F.cross_entropy(self._logits(params), index.long(), reduction="none").flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, self.levels, dtype=params.dtype, device=params.device)
        return torch.einsum("bk...,k->b...", self._logits(params).softmax(1), grid)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        chances = self._logits(params).softmax(1).movedim(1, -1)
        index = torch.multinomial(chances.flatten(0, -2), 1, generator=generator)
        return index.view(chances.shape[:-1]).to(params.dtype) / (self.levels - 1)

    def _logits(self, params: Tensor) -> Tensor:
        """(B, K C, *grid) -> (B, K, C, *grid)."""
        return params.unflatten(1, (self.levels, -1))


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


def _above(floor: float, raw: Tensor, value: float) -> Tensor:
    """A scale that is ``value`` at raw 0, grows as exp(raw) and fades to ``floor``: soft clipping."""
    start = math.log(value / floor)
    return floor * F.softplus(raw + start + math.log(-math.expm1(-start))).exp()


def _unit(owner: str, x: Tensor) -> None:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ShapeError(f"{owner} wants data in [0, 1], got values from {x.min():g} to {x.max():g}.")


@dataclass(frozen=True)
class GaussianConfig(Config):
    """``sigma`` is the standard deviation, or where it starts; see :class:`LocationScale` for ``scale``."""

    kind: Literal["gaussian"] = "gaussian"
    scale: Scale = "fixed"
    sigma: float = 1.0
    floor: float = 1e-3

    def build(self) -> Gaussian:
        return Gaussian(self.scale, self.sigma, self.floor)


@dataclass(frozen=True)
class LaplaceConfig(Config):
    """``width`` is the mean absolute deviation, or where it starts; ``scale`` is as for the Gaussian."""

    kind: Literal["laplace"] = "laplace"
    scale: Scale = "fixed"
    width: float = 1.0
    floor: float = 1e-3

    def build(self) -> Laplace:
        return Laplace(self.scale, self.width, self.floor)


@dataclass(frozen=True)
class BernoulliConfig(Config):
    kind: Literal["bernoulli"] = "bernoulli"

    def build(self) -> Bernoulli:
        return Bernoulli()


@dataclass(frozen=True)
class CategoricalConfig(Config):
    kind: Literal["categorical"] = "categorical"
    levels: int = 256

    def build(self) -> Categorical:
        return Categorical(self.levels)


LikelihoodConfig = Annotated[GaussianConfig | LaplaceConfig | BernoulliConfig | CategoricalConfig,
                             Discriminator("kind")]
