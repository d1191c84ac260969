"""What a voice begins as: pulses at the pitch, and noise. A source-filter decoder shapes both (Fant 1960).

Both have a variance of 1 and a flat spectrum, so that a filter's gain is the sound's spectrum. Both are functions of
the place in the recording: any part of them is the same, however the recording is cut.
"""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NOISE = 131_071  # samples until the noise comes again, 8 s at 16 kHz
DEFAULT_PITCH = 100.0  # Hz, of pulses under a recording without any voice


class Excitation:
    """Pulses and noise for a whole recording, given its pitch (N,) in Hz by frames of ``hop`` samples.

    Pitch runs straight from the middle of two frames to that of the next two. Pulses are all harmonics below half the
    sample rate at once, in phase: no aliasing, wherever a pulse falls between samples.

    >>> excitation = Excitation(np.full(100, 200.0), sample_rate=16000, hop=160)
    >>> wave = excitation(0, 100)
    >>> wave.shape, [round(float(x)) for x in wave.var(1)]
    (torch.Size([2, 16000]), [1, 1])
    >>> torch.equal(excitation(30, 40), wave[:, 4800:6400])
    True
    """

    def __init__(self, pitch: NDArray[np.floating], sample_rate: int, hop: int, phase: float = 0.0, place: int = 0):
        pitch = np.where(pitch > 0, pitch, DEFAULT_PITCH).astype(np.float64)
        ends = np.concatenate([pitch[:1], (pitch[1:] + pitch[:-1]) / 2, pitch[-1:]])  # Hz, at frames' borders
        turns = np.cumsum((ends[1:] + ends[:-1]) / 2 * hop / sample_rate)
        self.ends = torch.from_numpy(ends)
        self.turns = torch.from_numpy(np.concatenate([[0.0], turns[:-1]]) + phase)
        self.sample_rate, self.hop, self.place = sample_rate, hop, place

    def __call__(self, first: int, last: int) -> Tensor:
        """Of frames ``first`` to ``last``: pulses and noise, (2, (last - first) * hop)."""
        at = torch.arange(first * self.hop, last * self.hop) + self.place
        return torch.stack([self._pulses(first, last), _noise()[at % NOISE]])

    def _pulses(self, first: int, last: int) -> Tensor:
        start, end = self.ends[first:last, None], self.ends[first + 1:last + 1, None]
        share = torch.arange(self.hop, dtype=torch.float64) / self.hop
        pitch = start + (end - start) * share
        turns = self.turns[first:last, None] + (start + pitch) / 2 * share * (self.hop / self.sample_rate)
        angle = ((turns % 1) * 2 * math.pi).flatten().float()
        count = (self.sample_rate / 2 / pitch).flatten().float()
        whole = count.floor()
        # Σ cos(k a) for k = 1 .. K in closed form; the next harmonic comes in as the pitch falls, without a step
        half = (angle / 2).sin()
        near = half.abs() < 1e-4
        summed = ((whole + 0.5) * angle).sin() / (2 * torch.where(near, 1.0, half)) - 0.5
        summed = torch.where(near, whole, summed) + (count - whole) * ((whole + 1) * angle).cos()
        return summed * (2 / count).sqrt()


@cache
def _noise() -> Tensor:
    """What is heard again and again, made once: training asks for many short excitations."""
    return torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
