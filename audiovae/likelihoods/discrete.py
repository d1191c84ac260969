"""Masses over binary data and over the levels of a grid, each element on its own."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.likelihoods.base import Likelihood, Measure, check_unit, level_of, levels_of
from audiovae.shapes import DataSpec


class Bernoulli(Likelihood):
    """Binary data, or grey values in [0, 1] read as the chance of a 1; the parameter is the logit. A mass.

    For a grey x the value is the mean of log p over binary data drawn with chance x.
    Raises ShapeError on data outside [0, 1].

    >>> Bernoulli().log_prob(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)) / 64
    tensor([-0.6931])
    """

    measure: Measure = "mass"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        check_unit("Bernoulli", x)
        # x l - log(1 + e^l): torch's cross-entropy, with one large intermediate in place of four
        return torch.linalg.vecdot(params.flatten(1), x.flatten(1)) - F.softplus(params).flatten(1).sum(1)

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

    measure: Measure = "mass"

    def __init__(self, levels: int = 256):
        super().__init__()
        if levels < 2:
            raise ConfigError(f"Categorical wants at least 2 levels, got {levels}.")
        self.levels = self.params_per_channel = levels

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        index = level_of("Categorical", x, self.levels)
        return -F.cross_entropy(self._logits(params), index, reduction="none").flatten(1).sum(1)

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


@dataclass(frozen=True)
class BernoulliConfig(Config):
    """No settings: every element has a logit."""

    kind: Literal["bernoulli"] = "bernoulli"

    def build(self, data: DataSpec) -> Bernoulli:
        return Bernoulli()


@dataclass(frozen=True)
class CategoricalConfig(Config):
    """``levels`` is how many values the data takes; None takes what the data says of itself."""

    kind: Literal["categorical"] = "categorical"
    levels: int | None = None

    def build(self, data: DataSpec) -> Categorical:
        return Categorical(levels_of("categorical", self.levels, data))
