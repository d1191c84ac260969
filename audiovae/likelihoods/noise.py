"""Noise q(u|x) that makes levels continuous: uniform, or learned so that the bound it gives is tight.

Theis 2016, section 3.1 (uniform); Ho 2019 (Flow++), section 3.1 (learned: variational dequantization).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.config import Config, Count
from audiovae.errors import ConfigError, ExtraError
from audiovae.likelihoods.base import Measure
from audiovae.nn.conv import SameConv
from audiovae.nn.resnet import ResidualStack
from audiovae.shapes import DataSpec

if TYPE_CHECKING:
    from zuko.transforms import MonotonicRQSTransform

SPREAD = 1.7  # of the normal nearest to a logistic, whose sigmoid is uniform
SWING = 3.0  # the most that log σ is learned away from there
BINS, BOUND = 8, 10.0  # of a spline between logits of ±10, the identity beyond: u from 5e-5 to 1 - 5e-5


class Noise(nn.Module):
    """The contract: u in [0, 1] for every element of data x, and how likely that draw was.

    Attributes
    ----------
    measure : what bits per dimension are called that rest on it.

    Shapes: x (B, C, *grid) in [0, 1] -> u (B, C, *grid) and log q(u|x) (B,) in nats.
    """

    measure: Measure

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u, with log q(u|x); the gradient passes through the draw."""
        raise NotImplementedError

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        """log q(u|x) of a given u: (B,) nats."""
        raise NotImplementedError


class UniformNoise(Noise):
    """Every u alike: log q = 0.

    >>> UniformNoise()(torch.zeros(2, 1, 8, 8))[1]
    tensor([0., 0.])
    """

    measure: Measure = "uniform dequantization"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.rand_like(x)
        return u, self.log_prob(u, x)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class LogitNormalNoise(Noise):
    """u = σ(y), y ~ N(μ(x), σ(x)²) for each element on its own, from a small convolutional network.

    It starts as the logit-normal nearest to uniform noise.

    >>> noise = LogitNormalNoise(channels=3, dims=2)
    >>> u, log_q = noise(torch.rand(2, 3, 8, 8))
    >>> u.shape, log_q.shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2]))
    """

    measure: Measure = "variational dequantization"

    def __init__(self, channels: int, dims: int, width: int = 32, depth: int = 2):
        super().__init__()
        self.network = _network(dims, channels, 2 * channels, width, depth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self._normal(x)
        y = mean + log_sigma.exp() * torch.randn_like(mean)
        return y.sigmoid(), self._log_prob(y, mean, log_sigma)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        return self._log_prob(u.logit(), *self._normal(x))

    def _normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.network(2 * x - 1).chunk(2, dim=1)
        return mean, math.log(SPREAD) + SWING * torch.tanh(raw / SWING)

    def _log_prob(self, y: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
        normal = -0.5 * ((y - mean) / log_sigma.exp()).square() - log_sigma - 0.5 * math.log(2 * math.pi)
        return (normal - _log_slope(y)).flatten(1).sum(1)


class FlowNoise(Noise):
    """u = σ(f(y; x)), y logistic and f a flow of coupling layers, so that the noise of neighbours can depend.

    Layer l takes one colour of a checkerboard over channels and grid, and moves it by monotonic rational
    quadratic splines (Durkan 2019) whose knots a small convolutional network reads from x and from the
    other colour. It starts as uniform noise.

    Raises ExtraError without the package zuko, which brings the spline.

    >>> noise = FlowNoise(channels=1, dims=1, layers=2)
    >>> x = torch.rand(4, 1, 16)
    >>> u, log_q = noise(x)
    >>> torch.allclose(noise.log_prob(u, x), log_q, atol=1e-4), bool(log_q.abs().max() < 1e-4)
    (True, True)
    """

    measure: Measure = "variational dequantization"

    def __init__(self, channels: int, dims: int, width: int = 32, depth: int = 2, layers: int = 4):
        super().__init__()
        if layers < 2:
            raise ConfigError(f"FlowNoise wants at least 2 layers, one for each colour of its board, got {layers}.")
        _spline()
        knots = (3 * BINS - 1) * channels
        self.layers = nn.ModuleList(_network(dims, 2 * channels, knots, width, depth) for _ in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = torch.rand_like(x).logit(eps=torch.finfo(x.dtype).eps / 2)
        y, log_q = start, _log_slope(start)
        for layer in range(len(self.layers)):
            moves, spline = self._coupling(layer, y, x)
            moved, log_slope = spline.call_and_ladj(y)
            y, log_q = torch.where(moves, moved, y), log_q - moves * log_slope
        return y.sigmoid(), (log_q - _log_slope(y)).flatten(1).sum(1)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        y = u.logit()
        log_q = -_log_slope(y)
        for layer in reversed(range(len(self.layers))):
            moves, spline = self._coupling(layer, y, x)
            before = torch.where(moves, spline.inv(y), y)  # type: ignore[arg-type]
            log_q = log_q - moves * spline.call_and_ladj(before)[1]
            y = before
        return (log_q + _log_slope(y)).flatten(1).sum(1)

    def _coupling(self, layer: int, y: Tensor, x: Tensor) -> "tuple[Tensor, MonotonicRQSTransform]":
        """Which elements a layer moves, (C, *grid), and by what spline: it reads only those that stay."""
        axes = torch.meshgrid(*(torch.arange(n, device=x.device) for n in x.shape[1:]), indexing="ij")
        moves = (sum(axes[1:], start=axes[0]) + layer) % 2 == 0
        stays = torch.where(moves, 0.0, y.sigmoid() - 0.5)
        knots = self.layers[layer](torch.cat([2 * x - 1, stays], dim=1))
        knots = knots.unflatten(1, (-1, x.shape[1])).movedim(1, -1)
        return moves, _spline()(*knots.split([BINS, BINS, BINS - 1], dim=-1), bound=BOUND)


def _network(dims: int, channels: int, channels_out: int, width: int, depth: int) -> nn.Sequential:
    """Convolutions that keep the grid and give 0 at the start."""
    last = SameConv(dims, width, channels_out)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(SameConv(dims, channels, width, kernel=3), ResidualStack(dims, width, depth, growth=1),
                         nn.ReLU(), last)


def _log_slope(y: Tensor) -> Tensor:
    """log dσ/dy, which is also the log density of a logistic y."""
    return F.logsigmoid(y) + F.logsigmoid(-y)


def _spline() -> "type[MonotonicRQSTransform]":
    try:
        from zuko.transforms import MonotonicRQSTransform
    except ImportError:
        raise ExtraError("FlowNoise wants zuko: pip install 'audiovae[flows]'.") from None
    return MonotonicRQSTransform


@dataclass(frozen=True)
class UniformNoiseConfig(Config):
    """No settings: every u alike."""

    kind: Literal["uniform"] = "uniform"

    def build(self, data: DataSpec) -> UniformNoise:
        return UniformNoise()


@dataclass(frozen=True)
class LogitNormalNoiseConfig(Config):
    """``width`` channels and ``depth`` residual blocks of the network that reads x."""

    kind: Literal["logit_normal"] = "logit_normal"
    width: Count = 32
    depth: int = 2

    def build(self, data: DataSpec) -> LogitNormalNoise:
        return LogitNormalNoise(data.channels, data.dims, self.width, self.depth)


@dataclass(frozen=True)
class FlowNoiseConfig(Config):
    """``layers`` couplings, each with a network of ``width`` channels and ``depth`` residual blocks."""

    kind: Literal["flow"] = "flow"
    width: Count = 32
    depth: int = 2
    layers: int = 4

    def build(self, data: DataSpec) -> FlowNoise:
        return FlowNoise(data.channels, data.dims, self.width, self.depth, self.layers)


NoiseConfig = Annotated[UniformNoiseConfig | LogitNormalNoiseConfig | FlowNoiseConfig, Discriminator("kind")]
