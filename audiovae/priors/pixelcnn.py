"""A gated PixelCNN over grids of codes: each told all before it in reading order, by convolutions near it and by
attention wherever they are.

The priors of VQ-VAE-2 (Razavi 2019, section 3.2): with attention for the top, which has to hold a picture together;
told the codes above, without attention, for the levels below it, which are large. The codes of one place are drawn
one quantizer after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.config import Config, Count, Decay, Whole
from audiovae.errors import ConfigError
from audiovae.nn.pixelcnn import GatedPixelCNN
from audiovae.priors.base import ABSENT, Drawing, Prior, Progress, numbers, one_size
from audiovae.priors.conditions import Listener, ToldConfig
from audiovae.shapes import Condition, DataSpec


class PixelCNNPrior(Prior):
    """A PixelCNN that gives every code's chances from those before it.

    Parameters
    ----------
    data : codes (B, Q, H, W), of grids of one size; quantizers of one size K.
    config : widths, depth and what is listened to.

    Raises ConfigError on codes that are no grid, on data with text, which it has no ear for, and on a width that is no
    multiple of Q.

    >>> from audiovae.shapes import CodeSpec
    >>> data = DataSpec(channels=1, dims=2, size=(4, 6), labels=("cat", "dog"), codes=CodeSpec(num_codes=(16,)))
    >>> prior = PixelCNNPriorConfig(width=16, depth=2, attend=1, heads=2).build(data)
    >>> codes = torch.randint(16, (3, 1, 4, 6))
    >>> prior(codes, Condition(torch.tensor([0, 1, -1]))).shape, prior.log_prob(codes).shape
    (torch.Size([3, 1, 4, 6]), torch.Size([3]))
    >>> prior.sample((4, 6), None, Drawing(), [torch.Generator().manual_seed(0)]).shape
    torch.Size([1, 1, 4, 6])
    """

    def __init__(self, data: DataSpec, config: "PixelCNNPriorConfig"):
        super().__init__()
        if data.codes is None or data.dims != 2:
            raise ConfigError(f"PixelCNNPrior is over grids of codes (B, Q, H, W), got {data}: take model.prior.kind "
                              "\"causal\" for codes in time.")
        if data.text and config.told.text:
            raise ConfigError("PixelCNNPrior is told no text: set model.prior.told.text to false, or take "
                              "model.prior.kind \"causal\".")
        self.codes, self.rows = data.codes, len(data.codes.num_codes)
        self.size = one_size("PixelCNNPrior", data.codes)
        self.listener = Listener(data, config.told, config.width)
        self.listens = self.listener.droppable
        self.network = GatedPixelCNN(self.rows, self.size, config.width, config.depth, config.kernel,
                                     map_dim=config.width, pixel_dropout=config.pixel_dropout, num_codes=self.size,
                                     attend=config.attend, heads=config.heads, dropout=config.dropout)

    def forward(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        self._check(codes, 2)
        told = self._told(condition, len(codes), codes.shape[2:])
        logits = self.network(codes, spatial=told).unflatten(1, (self.size, self.rows))
        return -F.cross_entropy(logits, codes, ignore_index=ABSENT, reduction="none")

    @torch.no_grad()
    def sample(self, grid: tuple[int, ...], condition: Condition | None, drawing: Drawing,
               generators: Sequence[torch.Generator], prime: Tensor | None = None,
               progress: Progress | None = None) -> Tensor:
        height, width = grid
        shape = (len(generators), self.rows, height, width)
        given = self._primed(grid, len(generators), prime)
        heard = [self._told(condition, shape[0], grid, hear).expand(shape[0], -1, -1, -1)
                 for hear in self._ears(drawing)]
        dice = numbers(generators, *shape[1:])
        places = iter(product(range(height), range(width), range(self.rows)))

        def draw(logits: Tensor) -> Tensor:
            """The told and the untold are drawn from side by side, and given the same code."""
            i, j, row = next(places)
            told, *untold = logits.flatten(1).chunk(len(heard))
            codes = drawing.draw(drawing.guided(told, untold[0] if untold else None), dice[:, row, i, j])
            codes = torch.where(given[:, row, i, j] >= 0, given[:, row, i, j], codes)
            if progress is not None and row == self.rows - 1:
                progress(1)
            return codes.repeat(len(heard))

        return self.network.sample(draw, shape[0] * len(heard), (height, width), spatial=torch.cat(heard))[: shape[0]]

    def _told(self, condition: Condition | None, batch: int, grid: Sequence[int], hear: bool = True) -> Tensor:
        """All that is told, at every place (B or 1, D, H, W)."""
        told = self.listener(condition, batch, grid, hear)
        assert told.along is not None  # of a grid at least where each place is
        return (told.along + told.vector.view(-1, 1, told.vector.shape[-1])).transpose(1, 2).unflatten(2, tuple(grid))


@dataclass(frozen=True)
class PixelCNNPriorConfig(Config):
    """A gated PixelCNN.

    width, depth, kernel : features of each stack, layers, and the odd side of their kernels.
    attend, heads : layers from one attention over all codes before to the next, 0 for none; heads of each.
    dropout, pixel_dropout : of features, and of whole codes, hidden from those after them.
    """

    kind: Literal["pixelcnn"] = "pixelcnn"
    width: Count = 128
    depth: Count = 8
    kernel: Count = 3
    attend: Whole = 4
    heads: Count = 4
    dropout: Decay = 0.0
    pixel_dropout: Decay = 0.0
    told: ToldConfig = ToldConfig()

    def build(self, data: DataSpec) -> PixelCNNPrior:
        return PixelCNNPrior(data, self)
