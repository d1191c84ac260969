"""Densities with a location and a scale for each element: Gaussian, Laplace, logistic."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.likelihoods.base import Likelihood, Measure
from audiovae.shapes import DataSpec

Scale = Literal["fixed", "global", "predicted", "calibrated"]


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

    measure: Measure = "density"
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


class Logistic(LocationScale):
    """Independent logistic noise of scale s, standard deviation 1.81 s: a density.

    With t = (x - μ) / s, log p = Σ [log σ(t) + log σ(-t) - log s]. The s of greatest likelihood has no closed
    form, so "calibrated" raises ConfigError.

    >>> Logistic("fixed", 0.25).log_prob(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))  # 100 log(1 / 4s)
    tensor([0.])
    """

    def __init__(self, scale: Scale = "fixed", value: float = 1.0, floor: float = 1e-3):
        if scale == "calibrated":
            raise ConfigError("Logistic wants a fixed, global or predicted scale, got calibrated: take one of "
                              "those, or a Gaussian or Laplace likelihood.")
        super().__init__(scale, value, floor)

    def _log_density(self, standardised: Tensor) -> Tensor:
        return F.logsigmoid(standardised) + F.logsigmoid(-standardised)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(params)
        uniform = torch.empty_like(mean).uniform_(generator=generator)
        return mean + self.scale(params) * torch.logit(uniform, eps=torch.finfo(mean.dtype).eps / 2)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


def _above(floor: float, raw: Tensor, value: float) -> Tensor:
    """A scale that is ``value`` at raw 0, grows as exp(raw) and fades to ``floor``: soft clipping."""
    start = math.log(value / floor)
    return floor * F.softplus(raw + start + math.log(-math.expm1(-start))).exp()


@dataclass(frozen=True)
class GaussianConfig(Config):
    """``sigma`` is the standard deviation, or where it starts; see :class:`LocationScale` for ``scale``."""

    kind: Literal["gaussian"] = "gaussian"
    scale: Scale = "fixed"
    sigma: float = 1.0
    floor: float = 1e-3

    def build(self, data: DataSpec) -> Gaussian:
        return Gaussian(self.scale, self.sigma, self.floor)


@dataclass(frozen=True)
class LaplaceConfig(Config):
    """``width`` is the mean absolute deviation, or where it starts; ``scale`` is as for the Gaussian."""

    kind: Literal["laplace"] = "laplace"
    scale: Scale = "fixed"
    width: float = 1.0
    floor: float = 1e-3

    def build(self, data: DataSpec) -> Laplace:
        return Laplace(self.scale, self.width, self.floor)


@dataclass(frozen=True)
class LogisticConfig(Config):
    """``width`` is the scale s, or where it starts; ``scale`` is as for the Gaussian, but not calibrated."""

    kind: Literal["logistic"] = "logistic"
    scale: Literal["fixed", "global", "predicted"] = "fixed"
    width: float = 1.0
    floor: float = 1e-3

    def build(self, data: DataSpec) -> Logistic:
        return Logistic(self.scale, self.width, self.floor)
