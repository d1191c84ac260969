"""Band-limited resampling between any two rates, whole or as a stream, with the same result.

The kernel is torchaudio's: a sinc of 6 zero crossings under a Hann window, cut off at 0.99 of the lower
Nyquist frequency (Smith, "Digital Audio Resampling"). It is applied as one polyphase filter, so that
memory grows with the larger rate and not with the product of both, whatever their common divisor.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.errors import AudioError

ZERO_CROSSINGS = 6
ROLLOFF = 0.99


def resampled_length(length: int, source: int, target: int) -> int:
    """Samples that ``length`` samples at ``source`` Hz become at ``target`` Hz: ceil(length target / source).

    >>> resampled_length(44_101, 44_100, 16_000)
    16001
    """
    return -(-length * target // source)


def resample(waveform: Tensor, source: int, target: int) -> Tensor:
    """Resample the last axis from ``source`` to ``target`` Hz.

    Shapes: (..., T) -> (..., ceil(T target / source)), float32.

    Raises
    ------
    AudioError
        When a rate is not positive.

    >>> resample(torch.zeros(2, 44_100), 44_100, 16_000).shape
    torch.Size([2, 16000])
    """
    _check(source, target)
    if source == target:
        return waveform
    samples = waveform.detach().to("cpu", torch.float32)
    flat = samples.flatten(0, -2) if samples.ndim > 1 else samples[None]
    out = torch.empty(len(flat), resampled_length(waveform.shape[-1], source, target))
    for row, result in zip(flat, out, strict=True):
        resampler = Resampler(source, target)
        result.copy_(torch.from_numpy(np.concatenate([resampler.push(row.numpy()), resampler.flush()])))
    return out.reshape(*waveform.shape[:-1], out.shape[-1]).to(waveform.device)


def resampled(pieces: Iterable[Tensor], source: int, target: int) -> Iterator[Tensor]:
    """:func:`resample` of a waveform that comes in pieces (n,), as it comes.

    >>> wave = torch.randn(1000)
    >>> torch.equal(torch.cat(list(resampled(wave.split(77), 16_000, 44_100))), resample(wave, 16_000, 44_100))
    True
    """
    _check(source, target)
    if source == target:
        yield from pieces
        return
    resampler = Resampler(source, target)
    for piece in pieces:
        yield torch.from_numpy(resampler.push(piece.numpy()))
    yield torch.from_numpy(resampler.flush())


class Resampler:
    """Resampling with a memory: push blocks of any length, then flush; joined they are the whole, resampled.

    An output is given as soon as no later input can reach it, so the delay is the kernel's half width
    (6 / 0.99 samples of the lower rate) and memory is constant. n inputs give
    ceil(n target / source) outputs.

    Parameters
    ----------
    source, target : rates in Hz.

    Raises
    ------
    AudioError
        When a rate is not positive.

    >>> resampler = Resampler(48_000, 16_000)
    >>> parts = [resampler.push(np.ones(n, np.float32)) for n in (1, 500, 7)] + [resampler.flush()]
    >>> sum(len(part) for part in parts)
    170
    """

    def __init__(self, source: int, target: int):
        _check(source, target)
        divisor = gcd(source, target)
        self.down, self.up = source // divisor, target // divisor
        self.kernel, self.center = _kernel(self.down, self.up)
        self._start = 0  # index of the buffer's first input, a multiple of ``down`` so that phases line up
        self._buffer = np.zeros(0, np.float32)
        self._given = 0

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next inputs (n,), give the outputs (m,) that are final now."""
        self._buffer = np.concatenate([self._buffer, np.asarray(block, np.float32)])
        received = self._start + len(self._buffer)
        return self._give(max(self._given, (received * self.up - self.center - 1) // self.down + 1))

    def flush(self) -> NDArray[np.float32]:
        """Give the outputs (m,) left over, as if zeros followed, and start anew."""
        rest = self._give(resampled_length(self._start + len(self._buffer), self.down, self.up))
        self._start, self._given, self._buffer = 0, 0, np.zeros(0, np.float32)
        return rest

    def _give(self, until: int) -> NDArray[np.float32]:
        """Outputs ``_given`` to ``until``: y[j] is the sum over i of x[i] kernel[center + j down - i up]."""
        if until <= self._given:
            return np.zeros(0, np.float32)
        # The filter counts from the buffer's start: there y[j] stands at (center + j down - start up) / down.
        shift = self.center // self.down - self._start // self.down * self.up
        from scipy.signal import upfirdn  # takes longer to import than all else but torch

        filtered = upfirdn(self.kernel, self._buffer, self.up, self.down)
        given = np.zeros(until - self._given, np.float32)
        part = filtered[shift + self._given : shift + until]
        given[: len(part)] = part  # beyond the filter's end are zeros
        self._given = until
        needed = max(0, (until * self.down - self.center) // self.up) // self.down * self.down
        if needed > self._start:
            self._buffer = self._buffer[needed - self._start :].copy()
            self._start = needed
        return given


@lru_cache(maxsize=16)
def _kernel(down: int, up: int) -> tuple[NDArray[np.float32], int]:
    """The windowed sinc on the grid both rates share, and its centre, a multiple of ``down``."""
    cutoff = min(down, up) * ROLLOFF
    half = int(ZERO_CROSSINGS * down * up / cutoff)
    center = -(-half // down) * down
    t = np.arange(-center, center + 1) / (down * up) * cutoff
    window = np.where(np.abs(t) < ZERO_CROSSINGS, np.cos(np.pi * t / (2 * ZERO_CROSSINGS)) ** 2, 0)
    return (np.sinc(t) * window * cutoff / down).astype(np.float32), center


def _check(source: int, target: int) -> None:
    if source <= 0 or target <= 0:
        raise AudioError(f"resampling wants positive rates in Hz, got {source} and {target}.")
