"""The contract every likelihood keeps, and the checks of data that several share."""

from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.errors import ConfigError, ShapeError
from audiovae.shapes import DataSpec

Measure = Literal["mass", "density", "uniform dequantization", "variational dequantization"]
TOLERANCE = 0.01  # of a level: single precision keeps 8- and 16-bit grids far closer


class Likelihood(nn.Module):
    """The contract every likelihood keeps.

    Attributes
    ----------
    params_per_channel : P, numbers the decoder gives for each data channel.
    measure : what its nats are of. A "mass" is never above 0; a "density" depends on the data's unit and can
        be; a density of dequantized data bounds the mass of the data from below, and says by which noise.
    """

    params_per_channel: int = 1
    measure: Measure

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


def distinct(x: Tensor) -> Tensor:
    """The first of the examples where all are one, expanded: what is asked of each need be asked once.

    >>> distinct(torch.zeros(1, 3).expand(5000, 3)).shape, distinct(torch.zeros(4, 3)).shape
    (torch.Size([1, 3]), torch.Size([4, 3]))
    """
    return x[:1] if x.ndim and x.stride(0) == 0 else x


def check_unit(owner: str, x: Tensor) -> None:
    """Raise ShapeError where data leaves [0, 1], or is NaN.

    >>> check_unit("Bernoulli", torch.ones(2, 1, 8, 8))
    """
    x = distinct(x)
    if not x.numel():
        return
    low, high = map(float, x.detach().aminmax())  # a tenth of what comparing each element costs; NaN where there is one
    if not (low >= 0 and high <= 1):
        raise ShapeError(f"{owner} wants data in [0, 1], got values from {x.min():g} to {x.max():g}.")


def level_of(owner: str, x: Tensor, levels: int) -> Tensor:
    """k of data k / (levels - 1), int64; raises ShapeError outside [0, 1] or between two levels.

    >>> level_of("Categorical", torch.tensor([0.0, 1.0]), levels=256)
    tensor([  0, 255])
    """
    check_unit(owner, x)
    level = distinct(x) * (levels - 1)
    index = level.round()
    if bool(((level - index).abs() > TOLERANCE).any()):
        raise ShapeError(f"{owner} wants data on the grid k / {levels - 1}, got values in between: quantize it, "
                         "or set levels to the data's number of values.")
    return index.long().expand(x.shape)


def levels_of(owner: str, levels: int | None, data: DataSpec) -> int:
    """The levels a config names, or else the data's; raises ConfigError where neither is known.

    >>> levels_of("categorical", None, DataSpec(channels=1, dims=2, levels=17))
    17
    """
    levels = data.levels if levels is None else levels
    if levels is None:
        raise ConfigError(f"likelihood {owner}: how many levels? The data does not lie on any; set "
                          "model.likelihood.levels, or take a density.")
    return levels
