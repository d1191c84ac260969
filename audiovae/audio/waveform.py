"""Waveforms in memory: what users hand in as one channel, and the part of it that says most."""

import numpy as np
import torch
from torch import Tensor

from audiovae.errors import ShapeError


def mono(waveform: Tensor | np.ndarray) -> Tensor:
    """(T,) or (C, T) floating point to (T,) float32, channels averaged; ShapeError for anything else."""
    wave = torch.as_tensor(waveform)
    if not wave.is_floating_point():
        raise ShapeError(f"Codec wants floating point samples in [-1, 1], got {wave.dtype}: divide integers "
                         "by their full scale first.")
    if wave.ndim == 2 and wave.shape[0] <= wave.shape[1]:
        wave = wave.mean(0)
    if wave.ndim != 1 or not len(wave):
        raise ShapeError(f"Codec wants a waveform (T,) or (C, T) with C <= T and T > 0, got {tuple(wave.shape)}.")
    return wave.float()


def loudest(wave: Tensor, length: int) -> Tensor:
    """The stretch of ``length`` samples of a waveform (T,) with the most energy, on a coarse grid."""
    if len(wave) <= length:
        return wave
    starts = range(0, len(wave) - length + 1, max(1, length // 4))
    return max((wave[s:s + length] for s in starts), key=lambda part: float(part.square().sum()))
