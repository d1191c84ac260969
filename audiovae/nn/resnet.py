"""Residual stacks with growing dilation, as in Jukebox (Dhariwal 2020, section 3 and appendix B)."""

from collections.abc import Iterable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from audiovae.nn import rows
from audiovae.nn.conv import FiLM, SameConv
from audiovae.nn.field import Field, Part, compose


class ResidualBlock(nn.Module):
    """x + conv1(relu(conv3(relu(x)))), the inner convolution dilated, the result told the condition.

    Shapes: x (B, C, *grid), vector (B, E) or None -> (B, C, *grid).
    """

    def __init__(self, dims: int, width: int, hidden: int, dilation: int, condition_dim: int = 0,
                 causal: bool = False):
        super().__init__()
        self.inner = SameConv(dims, width, hidden, kernel=3, dilation=dilation, causal=causal)
        self.outer = SameConv(dims, hidden, width)
        self.film = FiLM(condition_dim, hidden) if condition_dim else None
        self.field = self.inner.field

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Weight and bias of the inner, then of the outer convolution."""
        inner, outer = self.inner.conv, self.outer.conv
        return inner.weight, inner.bias, outer.weight, outer.bias  # type: ignore[return-value]

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        if vector is None and rows.fits(x):
            return _in_rows([self], x)
        h = self.inner(F.relu(x))
        if self.film is not None and vector is not None:
            h = self.film(h.movedim(1, -1), vector).movedim(-1, 1)
        return self.outer(F.relu_(h)).add_(x)  # a convolution's backward pass does not ask for what it gave


class ResidualStack(nn.Module):
    """``depth`` residual blocks with dilations growth^0, growth^1, ...; reversed in a decoder.

    >>> stack = ResidualStack(dims=1, width=8, depth=3, growth=3)
    >>> stack(torch.zeros(1, 8, 40)).shape, stack.field.halo
    (torch.Size([1, 8, 40]), (13, 13))
    """

    def __init__(self, dims: int, width: int, depth: int, growth: int, hidden: int | None = None,
                 reverse: bool = False, condition_dim: int = 0, causal: bool = False):
        super().__init__()
        dilations = [growth**d for d in range(depth)]
        if reverse:
            dilations.reverse()
        self.blocks = nn.ModuleList(
            ResidualBlock(dims, width, hidden or width, d, condition_dim, causal) for d in dilations)
        self.field: Field = compose(*(block.field for block in self.blocks))  # type: ignore[misc]

    def forward(self, x: Tensor, vector: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, C, *grid), vector (B, E); mask (B, 1, L) keeps the padding of a batch at 0, of the result too."""
        if vector is None and self.blocks and rows.fits(x):
            return _in_rows(self.blocks, x, mask)  # type: ignore[arg-type]
        for block in self.blocks:
            x = block(x if mask is None else x * mask, vector)
        return x if mask is None else x * mask

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """Its blocks one by one."""
        return [(partial(block, vector=vector), block.field) for block in self.blocks]  # type: ignore[misc]


def _in_rows(blocks: Iterable[ResidualBlock], x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The blocks one after the other, told nothing, where :func:`audiovae.nn.rows.fits` has x."""
    inner = [block.inner for block in blocks]
    return rows.chain(x, [block.weights for block in blocks], [layer.dilation for layer in inner], inner[0].past > 0,
                      mask)
