"""Pictures in memory as whole levels, in the three parts of an experiment: train, valid and test."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from audiovae.errors import CorpusError, ShapeError
from audiovae.shapes import Condition

PartName = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Part:
    """Some of the pictures of a set.

    pixels : (N, C, H, W) uint8, levels from 0 to n - 1.
    label : (N,) int64, -1 where unknown.
    names : N of them.
    embedding : (N, E) float, a vector that comes with each picture, or None.

    Raises CorpusError when there is no picture, ShapeError when these do not fit each other.

    >>> some = Part(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]), numbered("digit", range(3)))
    >>> len(some), some.take(torch.tensor([2])).names
    (3, ('digit 2',))
    """

    pixels: Tensor
    label: Tensor
    names: tuple[str, ...]
    embedding: Tensor | None = None

    def __post_init__(self):
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise ShapeError(f"Part wants pixels (N, C, H, W) of uint8, got {tuple(self.pixels.shape)} of "
                             f"{self.pixels.dtype}: keep levels, not fractions.")
        if not len(self.pixels) == len(self.label) == len(self.names):
            raise ShapeError(f"Part wants one label and one name a picture, got {len(self.pixels)} pictures, "
                             f"{len(self.label)} labels and {len(self.names)} names.")
        if self.embedding is not None and (self.embedding.ndim != 2 or len(self.embedding) != len(self.pixels)):
            raise ShapeError(f"Part wants embeddings (N={len(self.pixels)}, E), got {tuple(self.embedding.shape)}.")
        if not len(self):
            raise CorpusError("a part of a picture set is empty: give it more pictures.")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Tensor) -> "Part":
        """The pictures at ``index`` (M,) int64, in its order."""
        names = tuple(self.names[i] for i in index.tolist())
        pixels, label = self.pixels.index_select(0, index), self.label.index_select(0, index)  # x[index] is slower
        return Part(pixels, label, names, self.embedding[index] if self.embedding is not None else None)

    def condition(self) -> Condition:
        """What a model may be told of them."""
        return Condition(self.label, self.embedding)


@dataclass(frozen=True)
class Pictures:
    """A whole set: pictures of one size, in three parts.

    levels : n, so that a pixel of level k shows k / (n - 1) of full light.
    labels : the names that a label is an index into.

    Raises ShapeError when the parts are not of one size.
    """

    train: Part
    valid: Part
    test: Part
    levels: int = 256
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        parts = (self.train, self.valid, self.test)
        widths = {part.embedding.shape[1] if part.embedding is not None else 0 for part in parts}
        if len(widths) > 1:
            raise ShapeError(f"Pictures wants embeddings of one width in all parts or none, got {sorted(widths)}.")
        sizes = [tuple(part.pixels.shape[1:]) for part in parts]
        if len(set(sizes)) > 1:
            raise ShapeError(f"Pictures wants one size (C, H, W) in all parts, got train {sizes[0]}, valid {sizes[1]}, "
                             f"test {sizes[2]}: make them alike.")


def numbered(noun: str, numbers: Iterable[int]) -> tuple[str, ...]:
    """Names of pictures that have none: "digit 0", "digit 1".

    >>> numbered("digit", [3, 5])
    ('digit 3', 'digit 5')
    """
    return tuple(f"{noun} {i}" for i in numbers)


def carve(part: Part, share: float = 0.1, at_most: int = 5000) -> tuple[Part, Part]:
    """Split a part in two by lot, always the same: what stays, and ``share`` of it, but not more than ``at_most``.

    Raises CorpusError when either would be empty.

    >>> some = Part(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.zeros(20).long(), numbered("digit", range(20)))
    >>> [len(part) for part in carve(some)]
    [18, 2]
    """
    count = min(int(len(part) * share), at_most)
    if not 0 < count < len(part):
        raise CorpusError(f"{len(part)} pictures are too few to take {share:g} of them for validation or test: "
                          "give more.")
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    return part.take(order[count:].sort().values), part.take(order[:count].sort().values)


def three_parts(train: Part, test: Part | None = None) -> tuple[Part, Part, Part]:
    """Train, valid, test: what is missing is carved from train, first the test part, then validation."""
    if test is None:
        train, test = carve(train)
    train, valid = carve(train)
    return train, valid, test
