"""Inverse autoregressive flow: what makes a diagonal normal posterior bend and lean.

Kingma 2016, section 3 and algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from audiovae.config import Config
from audiovae.errors import ConfigError, ExtraError
from audiovae.shapes import rows, unrows


class InverseAutoregressiveFlow(nn.Module):
    """z = f_L(... f_1(z_0)): each step gives number i a scale and a shift read from those before it.

    The numbers are the D at one place of the grid, in turn first to last and last to first; all are told
    the context that the encoder gives for that place. A step costs one pass of a masked perceptron whatever
    D is; the way back costs D. It starts as the identity.

    Shapes: z_0 (B, D, *grid), context (B, E, *grid) -> z (B, D, *grid), log |det dz/dz_0| (B,) in nats.

    Raises ExtraError without the package zuko, which brings the masked perceptron.

    >>> flow = InverseAutoregressiveFlow(dim=4, context=8, layers=2, width=32)
    >>> z, log_det = flow(torch.zeros(3, 4, 1), torch.zeros(3, 8, 1))
    >>> z.shape, log_det.shape
    (torch.Size([3, 4, 1]), torch.Size([3]))
    """

    def __init__(self, dim: int, context: int, layers: int, width: int):
        super().__init__()
        if min(context, layers, width) < 1:
            raise ConfigError("InverseAutoregressiveFlow wants context, layers and width of at least 1, got "
                              f"{context}, {layers} and {width}.")
        try:
            from zuko.flows import MaskedAutoregressiveTransform
        except ImportError:
            raise ExtraError("InverseAutoregressiveFlow wants zuko: pip install 'audiovae[flows]'.") from None
        orders = torch.arange(dim), torch.arange(dim).flip(0)
        self.steps = nn.ModuleList(
            MaskedAutoregressiveTransform(dim, context, order=orders[step % 2],  # type: ignore[arg-type]
                                          hidden_features=(width, width)) for step in range(layers))
        for step in self.steps:
            for parameter in step.hyper[-1].parameters():  # type: ignore[index]
                nn.init.zeros_(parameter)

    def forward(self, start: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        z, told = rows(start), rows(context).to(start.dtype)
        total = z.new_zeros(len(z))
        with torch.autocast(z.device.type, enabled=False):  # a density: single precision
            for step in self.steps:
                z, log_det = step(told).call_and_ladj(z)
                total = total + log_det
        return unrows(z, start), total.view(len(start), -1).sum(1)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """z -> z_0 and the same log |det dz/dz_0|."""
        before, told = rows(z), rows(context).to(z.dtype)
        total = before.new_zeros(len(before))
        for step in reversed(self.steps):
            transform = step(told)
            before = transform.inv(before)
            total = total + transform.call_and_ladj(before)[1]
        return unrows(before, z), total.view(len(z), -1).sum(1)


@dataclass(frozen=True)
class DiagonalConfig(Config):
    """No settings: the posterior is the normal itself."""

    kind: Literal["diagonal"] = "diagonal"
    context: ClassVar[int] = 0

    def build(self, dim: int) -> None:
        return None


@dataclass(frozen=True)
class IAFConfig(Config):
    """``layers`` steps with perceptrons of ``width``, told ``context`` channels more of the encoder."""

    kind: Literal["iaf"] = "iaf"
    layers: int = 2
    context: int = 32
    width: int = 128

    def build(self, dim: int) -> InverseAutoregressiveFlow:
        return InverseAutoregressiveFlow(dim, self.context, self.layers, self.width)
