"""A normalizing flow: one density over the whole example, by invertible layers (Dinh 2016, Durkan 2019)."""

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from audiovae.errors import ConfigError, ExtraError
from audiovae.likelihoods.base import Likelihood, Measure, check_unit
from audiovae.shapes import check_size

if TYPE_CHECKING:
    from zuko.flows import Flow as ZukoFlow

Coupling = Literal["affine", "spline"]
EDGE = 0.05  # x in [0, 1] is pressed into [EDGE, 1 - EDGE] before its logit is taken (Dinh 2016, section 4.1)


class Flow(Likelihood):
    """log p(x) = log N(f(x); 0, 1) + log |det df/dx|, with no parameters from a decoder: P = 0. A density.

    f takes the logit of x in [0, 1], then ``transforms`` coupling layers, each of which moves one half of the
    elements by what a perceptron of ``widths`` reads from the other: ``affine`` (RealNVP) or by a monotonic
    ``spline``. Both directions take one pass, so that all elements are drawn at once.

    Raises ShapeError on data outside [0, 1] or of another size, ExtraError without the package zuko, which
    brings the layers.

    >>> flow = Flow(channels=1, size=(4, 4), transforms=2, widths=(16,))
    >>> nothing = torch.zeros(3, 0, 4, 4)
    >>> flow.log_prob(nothing, flow.sample(nothing)).shape
    torch.Size([3])
    """

    params_per_channel = 0
    measure: Measure = "density"

    def __init__(self, channels: int, size: tuple[int, ...], transforms: int = 6, widths: tuple[int, ...] = (128, 128),
                 coupling: Coupling = "affine"):
        super().__init__()
        if transforms < 2:
            raise ConfigError(f"Flow wants at least 2 transforms, one for each half, got {transforms}.")
        self.channels, self.size = channels, size
        self.flow = _flow(channels * math.prod(size), transforms, widths, coupling)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        check_size("Flow", x, self.channels, self.size)
        self._agree(params, x)
        check_unit("Flow", x)
        within = EDGE + (1 - 2 * EDGE) * x.flatten(1)
        log_slope = math.log(1 - 2 * EDGE) - within.log() - (1 - within).log()
        return self.flow().log_prob(within.logit()) + log_slope.sum(1)

    def mean(self, params: Tensor) -> Tensor:
        """Raises ConfigError: a flow's mean has no closed form."""
        raise ConfigError("Flow has no mean in closed form: sample it, and leave out criteria that compare a mean.")

    @torch.no_grad()
    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = params.new_empty(len(params), self.channels * math.prod(self.size)).normal_(generator=generator)
        within = self.flow().transform.inv(noise).sigmoid()
        x = (within - EDGE) / (1 - 2 * EDGE)  # the density reaches a little beyond [0, 1]
        return x.clamp(0, 1).view(len(params), self.channels, *self.size)


def _flow(features: int, transforms: int, widths: tuple[int, ...], coupling: Coupling) -> "ZukoFlow":
    try:
        from zuko.flows import NSF, RealNVP
    except ImportError:
        raise ExtraError("Flow wants zuko: pip install 'audiovae[flows]'.") from None
    if coupling == "affine":
        return RealNVP(features, transforms=transforms, hidden_features=widths)
    return NSF(features, transforms=transforms, passes=2, hidden_features=widths)  # two passes: coupling
