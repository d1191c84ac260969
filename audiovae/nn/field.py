"""Receptive fields: which inputs an output can depend on, composed through a stack of layers.

This is what lets a codec cut a recording into blocks with a halo and get what the whole would give.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor


@dataclass(frozen=True)
class Field:
    """Output ``o`` depends on inputs ``i`` with o*stride - left <= i <= o*stride + right.

    stride : inputs per output (a fraction below 1 where a layer upsamples).
    left, right : reach in inputs.

    >>> conv, pool = Field.conv(kernel=3, padding=1), Field.conv(kernel=4, stride=4)
    >>> conv.then(pool)
    Field(stride=Fraction(4, 1), left=Fraction(1, 1), right=Fraction(4, 1))
    """

    stride: Fraction = Fraction(1)
    left: Fraction = Fraction(0)
    right: Fraction = Fraction(0)

    @classmethod
    def conv(cls, kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> "Field":
        """The field of a convolution: o reads o*stride - padding + j*dilation for j < kernel."""
        return cls(Fraction(stride), Fraction(padding), Fraction((kernel - 1) * dilation - padding))

    @classmethod
    def transposed(cls, kernel: int, stride: int, padding: int = 0) -> "Field":
        """The field of a transposed convolution: input i reaches i*stride - padding + j for j < kernel."""
        return cls(Fraction(1, stride), Fraction(kernel - 1 - padding, stride), Fraction(padding, stride))

    def then(self, after: "Field") -> "Field":
        """The field of this layer followed by ``after``."""
        s = self.stride
        return Field(s * after.stride, after.left * s + self.left, after.right * s + self.right)

    def wider(self, other: "Field") -> "Field":
        """The field of what depends on the inputs of both, which have one stride; ValueError where they have not."""
        if self.stride != other.stride:
            raise ValueError(f"fields of one stride can be joined, got {self.stride} and {other.stride}")
        return Field(self.stride, max(self.left, other.left), max(self.right, other.right))

    @property
    def halo(self) -> tuple[int, int]:
        """Whole inputs needed to the left and to the right of the first input of an output."""
        return math.ceil(self.left), math.ceil(self.right)


def compose(*fields: Field) -> Field:
    """The field of layers applied one after the other, first to last."""
    total = Field()
    for field in fields:
        total = total.then(field)
    return total


Part = tuple[Callable[[Tensor], Tensor], Field]  # a function of (B, C, n) along time, and what it reads
