"""A waveform that comes in pieces, read by place as if it were all there."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

AHEAD = 16000  # samples that are taken at once at least, so that pieces may be short


class Scroll:
    """Samples by their place in a stream of pieces (n,), forwards: zeros before its start and beyond its end.

    Pieces are taken as they are asked for; what lies more than ``behind`` samples before the latest place that was
    asked for is forgotten, and must not be asked for again.

    >>> import torch
    >>> scroll = Scroll(torch.arange(10.0).split(3), behind=2)
    >>> scroll(-1, 3), scroll(8, 12), scroll.ended(9), scroll.ended(10)
    (array([0., 0., 1., 2.], dtype=float32), array([8., 9., 0., 0.], dtype=float32), False, True)
    """

    def __init__(self, pieces: Iterable[Tensor], behind: int):
        self.pieces, self.behind = iter(pieces), behind
        self.first = -behind  # the place of held[0]
        self.held = np.zeros(behind, np.float32)
        self.end: int | None = None

    def __call__(self, first: int, last: int) -> NDArray[np.float32]:
        """Samples ``first`` to ``last``."""
        if last > self.first + len(self.held):
            self._take(first, last)
        if first < self.first:
            raise IndexError(f"Scroll keeps samples from {self.first} on, asked for {first}.")
        return self.held[first - self.first:last - self.first]

    def ended(self, place: int) -> bool:
        """Whether the waveform has no sample there or after."""
        self(place, place + 1)
        return self.end is not None and place >= self.end

    def _take(self, first: int, last: int) -> None:
        keep = max(0, min(first - self.behind - self.first, len(self.held)))
        parts, reach = [self.held[keep:]], self.first + len(self.held)
        self.first += keep
        while self.end is None and reach < last + AHEAD:
            piece = next(self.pieces, None)
            if piece is None:
                self.end = reach
            else:
                parts.append(piece.numpy().astype(np.float32, copy=False))
                reach += len(piece)
        parts.append(np.zeros(max(0, last - reach), np.float32))
        self.held = np.concatenate(parts)
