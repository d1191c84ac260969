"""The discretized mixture of logistics: a mass over ordered levels that costs few parameters.

Salimans 2017 (PixelCNN++), section 2.1 and, for the channels of a colour, section 2.2; also the
likelihood of NVAE on colour pictures.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods.base import Likelihood, Measure, level_of, levels_of
from audiovae.shapes import DataSpec

NARROWEST = 2.0  # e^-2 of half a level: all but 0.1 % of a component falls on one level
RGB = 3


class LogisticMixture(Likelihood):
    """Data on the grid k / (levels - 1), each level with what a mixture of logistics puts around it. A mass.

    On the scale y = 2x - 1, whose levels lie 2δ apart, P(y) = Σ_m π_m [σ((y + δ - μ_m) / s_m) -
    σ((y - δ - μ_m) / s_m)]; the lowest level takes the tail below it and the highest the one above.

    The decoder gives each channel the M logits of π, then M μ, then M log s, softly held within
    ±(2 + log(levels - 1)): P = 3 M. ``coupled`` is for the three channels of a colour: one m is drawn for
    all three, a green's μ grows by a r and a blue's by b r + c g, with the values r and g of the same pixel.
    The coefficients a, b, c = tanh of M more parameters, one to each channel: P = 4 M; the logits of the
    shared π are the sum of what the three channels give.

    ``mean`` is exact for channels on their own. Of coupled ones it puts the component's expected r and g
    for their values, which neglects what the two ends of the scale cut off.

    Raises ShapeError on data outside [0, 1] or between two levels, or coupled on other than 3 channels.

    >>> likelihood = LogisticMixture(levels=256, mixtures=5)
    >>> likelihood.params_per_channel
    15
    >>> x = torch.linspace(0, 1, 256).view(256, 1, 1)
    >>> likelihood.log_prob(torch.randn(1, 15, 1).expand(256, 15, 1), x).exp().sum()
    tensor(1.0000)
    """

    measure: Measure = "mass"

    def __init__(self, levels: int = 256, mixtures: int = 5, coupled: bool = False):
        super().__init__()
        if levels < 2 or mixtures < 1:
            raise ConfigError("LogisticMixture wants at least 2 levels and 1 component, got "
                              f"levels {levels} and mixtures {mixtures}.")
        self.levels, self.mixtures, self.coupled = levels, mixtures, coupled
        self.params_per_channel = (4 if coupled else 3) * mixtures
        self.delta = 1 / (levels - 1)  # half the distance of two levels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        index = level_of("LogisticMixture", x, self.levels)
        logits, location, log_scale, *coefficient = self._split(params)
        y = 2 * x - 1
        if coefficient:
            location = torch.cat([self._shifted(c, location, coefficient[0], y.unsqueeze(1)) for c in range(RGB)], 2)
        mass = self._log_mass(y.unsqueeze(1), index.unsqueeze(1), location, log_scale)  # (B, M, C, *grid)
        if self.coupled:
            mass = mass.sum(2)
        return torch.logsumexp(logits.log_softmax(1) + mass, dim=1).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        logits, location, log_scale, *coefficient = self._split(params)
        if not coefficient:
            return (logits.softmax(1) * self._expected(location, log_scale)).sum(1)
        expected = torch.zeros_like(location[:, :, :0])
        for c in range(RGB):
            shifted = self._shifted(c, location, coefficient[0], 2 * expected - 1)
            expected = torch.cat([expected, self._expected(shifted, log_scale[:, :, c:c + 1])], 2)
        return (logits.softmax(1).unsqueeze(2) * expected).sum(1)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits, location, log_scale, *coefficient = self._split(params)
        chances = logits.softmax(1).movedim(1, -1)
        drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator)
        drawn = drawn.view(chances.shape[:-1]).unsqueeze(1)  # (B, 1, C, *grid), or (B, 1, *grid) for all three
        if self.coupled:
            drawn = drawn.unsqueeze(2).expand_as(location[:, :1])
        location, log_scale, *coefficient = (t.gather(1, drawn) for t in (location, log_scale, *coefficient))
        uniform = torch.empty_like(location).uniform_(generator=generator)
        noise = log_scale.exp() * torch.logit(uniform, eps=torch.finfo(location.dtype).eps / 2)
        if not coefficient:
            return self._nearest(location + noise).squeeze(1)
        x = torch.zeros_like(location[:, :, :0])
        for c in range(RGB):
            shifted = self._shifted(c, location, coefficient[0], 2 * x - 1)
            x = torch.cat([x, self._nearest(shifted + noise[:, :, c:c + 1])], 2)
        return x.squeeze(1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """(B, P C, *grid) -> logits (B, M, C, *grid), or (B, M, *grid) of shared ones, and the rest with C."""
        parts = params.unflatten(1, (self.params_per_channel, -1)).split(self.mixtures, dim=1)
        logits, location, raw, *coefficient = parts
        bound = NARROWEST - math.log(self.delta)
        log_scale = bound * torch.tanh(raw / bound)
        if not self.coupled:
            return logits, location, log_scale
        if params.shape[1] != RGB * self.params_per_channel:
            raise ShapeError(f"LogisticMixture wants 3 channels when coupled, so {RGB * self.params_per_channel} "
                             f"parameters, got {params.shape[1]}: set coupled to false.")
        return logits.sum(2), location, log_scale, coefficient[0].tanh()

    def _shifted(self, channel: int, location: Tensor, coefficient: Tensor, y: Tensor) -> Tensor:
        """μ of one channel, (B, M, 1, *grid), given the values y (B, 1 or M, >= channel, *grid) before it."""
        own = location[:, :, channel:channel + 1]
        slots = {0: (), 1: (0,), 2: (1, 2)}[channel]  # a; b and c
        for before, slot in enumerate(slots):
            own = own + coefficient[:, :, slot:slot + 1] * y[:, :, before:before + 1]
        return own

    def _log_mass(self, y: Tensor, index: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """log [σ(a) - σ(b)] = log σ(a) + log σ(-b) + log(1 - exp(b - a)): nothing cancels, however far the tail."""
        inverse = (-log_scale).exp()
        a, b = (y - location + self.delta) * inverse, (y - location - self.delta) * inverse
        below, above = F.logsigmoid(a), F.logsigmoid(-b)
        within = below + above + torch.log(-torch.expm1(-2 * self.delta * inverse))
        return torch.where(index == 0, below, torch.where(index == self.levels - 1, above, within))

    def _expected(self, location: Tensor, log_scale: Tensor) -> Tensor:
        """E[x] of a component: the mean over j = 1 ... levels - 1 of the chance of level j or a higher one."""
        inverse = (-log_scale).exp()
        total = torch.zeros_like(location)
        for j in range(1, self.levels):  # one level at a time: all at once would take levels times the memory
            total = total + torch.sigmoid((location - ((2 * j - 1) * self.delta - 1)) * inverse)
        return total * self.delta

    def _nearest(self, y: Tensor) -> Tensor:
        """The level whose share of the line y falls on, as x in [0, 1]."""
        return ((y + 1) / (2 * self.delta)).round().clamp(0, self.levels - 1) * self.delta


@dataclass(frozen=True)
class LogisticMixtureConfig(Config):
    """``mixtures`` components; ``coupled`` for the three channels of a colour; levels None takes the data's."""

    kind: Literal["logistic_mixture"] = "logistic_mixture"
    levels: int | None = None
    mixtures: int = 5
    coupled: bool = False

    def build(self, data: DataSpec) -> LogisticMixture:
        return LogisticMixture(levels_of("logistic_mixture", self.levels, data), self.mixtures, self.coupled)
