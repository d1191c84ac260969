"""Levels of a recording: loudness (ITU-R BS.1770), silence at its ends."""

import math

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import loudness as bs1770

from audiovae.errors import AudioError

_GATE_SECONDS = 0.4  # BS.1770 measures blocks of this length


def loudness(waveform: NDArray[np.float32], sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of (T,) or (2, T); -inf where nothing is above -70 LUFS.

    A recording shorter than the standard's block of 0.4 s is measured as if it went on and on.

    >>> t = np.arange(48_000) / 48_000
    >>> abs(loudness(np.sin(2 * np.pi * 997 * t).astype(np.float32), 48_000) - -3.01) < 0.1
    True
    """
    block = math.ceil(_GATE_SECONDS * sample_rate) + 1
    if 0 < waveform.shape[-1] < block:
        waveform = np.tile(waveform, math.ceil(block / waveform.shape[-1]))
    # torchaudio's filters clip at 1, and the K weighting lifts high notes: a loud recording is measured
    # lower. What is so loud has nothing to lose at the absolute gate, which moves with it.
    peak = float(np.abs(waveform).max(initial=0.0))
    scale = min(1.0, 0.25 / peak) if peak > 0 else 1.0
    x = torch.from_numpy(np.atleast_2d(np.asarray(waveform, np.float64) * scale))
    value = float(bs1770(x, sample_rate)) - 20 * math.log10(scale)
    return value if math.isfinite(value) else -math.inf


def loudness_gain(waveform: NDArray[np.float32], sample_rate: int, target: float) -> float:
    """Gain in dB that brings a recording to ``target`` LUFS.

    Raises
    ------
    AudioError
        When it is too quiet to be measured.

    >>> t = np.arange(48_000) / 48_000
    >>> round(loudness_gain(np.sin(2 * np.pi * 997 * t).astype(np.float32), 48_000, target=-23.0))
    -20
    """
    now = loudness(waveform, sample_rate)
    if now == -math.inf:
        raise AudioError("the recording is too quiet to bring to a loudness: below -70 LUFS throughout.")
    return target - now


def trim_silence(waveform: NDArray[np.float32], decibels: float) -> NDArray[np.float32]:
    """Cut both ends of (T,) or (2, T) that stay ``decibels`` below the loudest frame (2048, hop 512; librosa).

    >>> x = np.concatenate([np.zeros(8000), np.ones(8000), np.zeros(8000)]).astype(np.float32)
    >>> 8000 <= len(trim_silence(x, 40)) < 12_500
    True
    """
    return librosa.effects.trim(waveform, top_db=decibels)[0]
