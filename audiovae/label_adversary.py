"""What a latent must not tell: a classifier of the label reads it, and the encoder gets its gradient turned round.

Ganin 2016, section 4.1: the gradient reversal layer. For speakers and codes, as Chou 2018, section 2.2, has it.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from audiovae.config import Config, Count
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.pooling import mean_and_deviation
from audiovae.shapes import DataSpec


class Reversed(Function):
    """x itself, with minus the gradient.

    >>> x = torch.ones(2, requires_grad=True)
    >>> Reversed.apply(x).sum().backward()
    >>> x.grad
    tensor([-1., -1.])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class LabelAdversary(nn.Module):
    """How well the labels are told from latents: nats that a classifier learns to lower, and an encoder to raise.

    A perceptron at every place of the grid, then mean and deviation over all places, then a linear map: it knows
    what a latent is like in all, not the order, which is what a voice or a style is.

    Shapes: z (B, D, *grid), label (B,) int64 with -1 for unknown, which is left out -> two scalars: the mean
    cross-entropy in nats, whose gradient reaches z turned round, and the share that the classifier tells. Both are 0
    where no label is known. Raises ShapeError unless there is one label an example.

    >>> adversary = LabelAdversary(channels=4, num_labels=10, width=16)
    >>> nats, told = adversary(torch.randn(3, 4, 50), torch.tensor([0, 9, -1]))
    >>> nats.shape, told.shape
    (torch.Size([]), torch.Size([]))
    """

    def __init__(self, channels: int, num_labels: int, width: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(2 * width, num_labels)

    def forward(self, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if label.shape != z.shape[:1]:
            raise ShapeError(f"LabelAdversary wants a label for each of {len(z)} examples, got {tuple(label.shape)}.")
        h = self.layers(Reversed.apply(z).flatten(2).transpose(1, 2))
        logits = self.out(mean_and_deviation(h)).float()
        known = (label >= 0).sum().clamp(min=1)
        nats = F.cross_entropy(logits, label, ignore_index=-1, reduction="sum") / known
        return nats, (logits.argmax(1) == label).sum() / known


@dataclass(frozen=True)
class LabelAdversaryConfig(Config):
    """A classifier of the label from the latent, ``width`` wide, which the encoder is trained against."""

    width: Count = 256

    def build(self, data: DataSpec, channels: int) -> LabelAdversary:
        """Raise ConfigError where the data has not two labels to tell apart."""
        if len(data.labels) < 2:
            raise ConfigError(f"model.label_adversary wants data of two labels and more, got {len(data.labels)}: "
                              "leave it out.")
        return LabelAdversary(channels, len(data.labels), self.width)
