"""Waveforms in memory: what users hand in as one channel, and the part of it that says most."""

import numpy as np
import torch
from torch import Tensor

from audiovae.errors import ShapeError


def channelled(waveform: Tensor | np.ndarray, channels: int) -> Tensor:
    """A waveform as a codec of ``channels`` wants it: :func:`mono` of one, (C, T) float32 of more, mono given to each.

    Raises ShapeError on any other number of channels.

    >>> channelled(torch.ones(8), channels=2).shape
    torch.Size([2, 8])
    """
    if channels == 1:
        return mono(waveform)
    wave = torch.as_tensor(waveform)
    if wave.ndim == 1 or len(wave) == 1:
        return mono(wave).expand(channels, -1).contiguous()
    mono(wave)  # its checks
    if len(wave) != channels:
        raise ShapeError(f"Codec wants {channels} channels, or one for all, got {tuple(wave.shape)}: mix them first.")
    return wave.float().contiguous()


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
    """The stretch of ``length`` samples of a waveform (..., T) with the most energy, on a coarse grid."""
    size = wave.shape[-1]
    if size <= length:
        return wave
    starts = range(0, size - length + 1, max(1, length // 4))
    return max((wave[..., s:s + length] for s in starts), key=lambda part: float(part.square().sum()))
