"""ConvNeXt blocks (Liu 2022) in one or two dimensions, channels last in memory throughout.

A depthwise convolution looks along the grid, a two-layer perceptron mixes the channels: nearly all of
the work is plain matrix products, which is why these stacks are fast on a CPU at low frame rates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovae.nn.conv import FiLM
from audiovae.nn.field import Field, compose


class ConvNeXtBlock(nn.Module):
    """x + s * mlp(film(norm(depthwise(x)))), with a learned scale s per channel.

    Shapes: x (B, *grid, C), vector (B, E) or None -> (B, *grid, C).
    """

    def __init__(self, dims: int, width: int, hidden: int, kernel: int = 7, layer_scale: float = 0.3,
                 condition_dim: int = 0):
        super().__init__()
        self.dims = dims
        self.depthwise = nn.Conv2d(width, width, (1, kernel) if dims == 1 else kernel, groups=width,
                                   padding=(0, kernel // 2) if dims == 1 else kernel // 2)
        self.norm = nn.LayerNorm(width)
        self.film = FiLM(condition_dim, width) if condition_dim else None
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))
        self.field = Field.conv(kernel, padding=kernel // 2)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        # (B, L, C) seen as (B, C, 1, L) is already channels last: the convolution copies nothing.
        image = (x.unsqueeze(1) if self.dims == 1 else x).permute(0, 3, 1, 2)
        h = self.depthwise(image).permute(0, 2, 3, 1)
        h = self.norm(h.squeeze(1) if self.dims == 1 else h)
        if self.film is not None and vector is not None:
            h = self.film(h, vector)
        return torch.addcmul(x, self.project(F.gelu(self.expand(h))), self.scale)


class ConvNeXtStack(nn.Module):
    """``depth`` ConvNeXt blocks one after the other.

    >>> stack = ConvNeXtStack(dims=1, width=16, depth=4)
    >>> stack(torch.zeros(2, 50, 16)).shape, stack.field.halo
    (torch.Size([2, 50, 16]), (12, 12))
    """

    def __init__(self, dims: int, width: int, depth: int, hidden: int | None = None, kernel: int = 7,
                 condition_dim: int = 0):
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dims, width, hidden or 2 * width, kernel, condition_dim=condition_dim)
            for _ in range(depth))
        self.field: Field = compose(*(block.field for block in self.blocks))  # type: ignore[misc]

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, vector)
        return x
