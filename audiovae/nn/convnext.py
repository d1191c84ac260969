"""ConvNeXt blocks (Liu 2022) in one or two dimensions, channels last in memory throughout.

A depthwise convolution looks along the grid, a two-layer perceptron mixes the channels: nearly all of
the work is plain matrix products, which is why these stacks are fast on a CPU at low frame rates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovae.errors import ConfigError
from audiovae.nn.conv import FiLM
from audiovae.nn.field import Field, Part, compose


class ConvNeXtBlock(nn.Module):
    """x + s * mlp(film(norm(depthwise(x)))), with a learned scale s per channel.

    ``ahead`` is how many of the kernel's steps lie after the one it gives; None means half of them.
    Shapes: x (B, *grid, C), vector (B, E) or None -> (B, *grid, C).
    """

    def __init__(self, dims: int, width: int, hidden: int, kernel: int = 7, layer_scale: float = 0.3,
                 condition_dim: int = 0, ahead: int | None = None):
        super().__init__()
        if ahead is not None and (dims != 1 or not 0 <= ahead < kernel):
            raise ConfigError(f"ConvNeXtBlock looks ahead in time, 0 to kernel - 1 steps; got {ahead} with kernel "
                              f"{kernel} and {dims} grid axes.")
        self.dims = dims
        half = kernel // 2 if ahead is None else 0
        self.sides = None if ahead is None else (kernel - 1 - ahead, ahead)
        self.depthwise = nn.Conv2d(width, width, (1, kernel) if dims == 1 else kernel, groups=width,
                                   padding=(0, half) if dims == 1 else half)
        self.norm = nn.LayerNorm(width)
        self.film = FiLM(condition_dim, width) if condition_dim else None
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))
        self.field = Field.conv(kernel, padding=kernel // 2 if self.sides is None else self.sides[0])

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        return self._mix(x, self._look(x), vector)

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """The block as functions of (B, C, L): a stream looks along the grid, then mixes only what is new."""
        def look(x: Tensor) -> Tensor:
            x = x.transpose(1, 2)
            return torch.cat([x, self._look(x)], dim=2).transpose(1, 2)

        def mix(both: Tensor) -> Tensor:
            x, h = both.transpose(1, 2).chunk(2, dim=2)
            return self._mix(x, h, vector).transpose(1, 2)

        return [(look, self.field), (mix, Field())]

    def _look(self, x: Tensor) -> Tensor:
        padded = x if self.sides is None else F.pad(x, (0, 0, *self.sides))
        # (B, L, C) seen as (B, C, 1, L) is already channels last: the convolution copies nothing.
        image = (padded.unsqueeze(1) if self.dims == 1 else padded).permute(0, 3, 1, 2)
        h = self.depthwise(image).permute(0, 2, 3, 1)
        return h.squeeze(1) if self.dims == 1 else h

    def _mix(self, x: Tensor, h: Tensor, vector: Tensor | None) -> Tensor:
        h = self.norm(h)
        if self.film is not None and vector is not None:
            h = self.film(h, vector)
        return torch.addcmul(x, self.project(F.gelu(self.expand(h))), self.scale)


class ConvNeXtStack(nn.Module):
    """``depth`` ConvNeXt blocks one after the other.

    Parameters
    ----------
    lookahead : steps that the whole stack may look ahead, taken by its first blocks; 0 is causal, None lets
        every block look as far ahead as behind.

    Raises ConfigError where the blocks cannot look so far ahead.

    >>> stack = ConvNeXtStack(dims=1, width=16, depth=4)
    >>> stack(torch.zeros(2, 50, 16)).shape, stack.field.halo
    (torch.Size([2, 50, 16]), (12, 12))
    >>> ConvNeXtStack(dims=1, width=16, depth=4, lookahead=4).field.halo
    (20, 4)
    """

    def __init__(self, dims: int, width: int, depth: int, hidden: int | None = None, kernel: int = 7,
                 condition_dim: int = 0, lookahead: int | None = None):
        super().__init__()
        half = kernel // 2
        if lookahead is not None and not 0 <= lookahead <= depth * half:
            raise ConfigError(f"ConvNeXtStack can look 0 to {depth * half} steps ahead (depth {depth}, kernel "
                              f"{kernel}), got {lookahead}.")
        ahead = [None if lookahead is None else min(half, max(0, lookahead - i * half)) for i in range(depth)]
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dims, width, hidden or 2 * width, kernel, condition_dim=condition_dim, ahead=steps)
            for steps in ahead)
        self.field: Field = compose(*(block.field for block in self.blocks))  # type: ignore[misc]

    def forward(self, x: Tensor, vector: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, *grid, C), vector (B, E); mask (B, L, 1) keeps the padding of a batch at 0."""
        for block in self.blocks:
            x = block(x if mask is None else x * mask, vector)
        return x

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """The parts of its blocks, first to last, where ``dims`` is 1."""
        return [part for block in self.blocks for part in block.parts(vector)]  # type: ignore[operator]
