"""The melody of speech, judged: pitch by WORLD's DIO and StoneMask (Morise et al. 2009, 2016), and its error.

A contour is (N,) Hz, one frame every 10 ms, 0 where there is no pitch. ``pip install 'audiovae[judges]'``.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.errors import AudioError, ShapeError
from audiovae.metrics.extra import extra

STEP = 0.01  # s from one frame to the next
LOW, HIGH = 60.0, 500.0  # Hz, from a low man's voice to a child's
Contour = NDArray[np.float64]


def pitch_contour(waveform: Tensor | NDArray[np.float32], sample_rate: int) -> Contour:
    """The pitch of a waveform (T,), N = floor(T / rate / 10 ms) + 1 frames. ExtraError without ``pyworld``.

    >>> time = torch.arange(16000) / 16000
    >>> contour = pitch_contour(sum((6.2832 * 110 * k * time).sin() / k for k in range(1, 20)), 16000)
    >>> len(contour), round(float(np.median(contour[contour > 0])))
    (101, 110)
    """
    world = extra("pyworld", "judges")
    wave = torch.as_tensor(waveform).double().contiguous().numpy()
    coarse, times = world.dio(wave, sample_rate, f0_floor=LOW, f0_ceil=HIGH, frame_period=1000 * STEP)
    return world.stonemask(wave, coarse, times, sample_rate)


def pitch_statistics(contour: Contour) -> tuple[float, float]:
    """Mean and standard deviation of ln pitch over the frames that have one. AudioError where none has.

    >>> pitch_statistics(np.array([0.0, 100.0, 100.0]))
    (4.605..., 0.0)
    """
    logs = np.log(contour[contour > 0])
    if not len(logs):
        raise AudioError("the recording has no pitch: give one of someone speaking.")
    return float(logs.mean()), float(logs.std())


def pitch_moved(contour: Contour, mean: float, deviation: float) -> Contour:
    """A contour brought to another voice's mean and standard deviation of ln pitch; a flat one stays flat.

    ln f' = mean + deviation (ln f - m) / s, where f has mean m and deviation s.

    >>> pitch_moved(np.array([100.0, 0.0, 100.0]), mean=float(np.log(200)), deviation=0.3).round(6)
    array([200.,   0., 200.])
    """
    own, spread = pitch_statistics(contour)
    voiced = contour > 0
    logs = np.log(np.where(voiced, contour, 1.0))
    scale = deviation / spread if spread > 1e-9 else 1.0
    return np.where(voiced, np.exp(mean + scale * (logs - own)), 0.0)


def pitch_difference(contour: Contour, other: Contour) -> float:
    """Semitones from the median pitch of one contour to that of another, of whatever lengths; AudioError on no pitch.

    Medians, because a tracker that takes noise for a voice moves means.

    >>> pitch_difference(np.array([220.0, 0.0]), np.array([110.0, 110.0, 110.0]))
    12.0
    """
    one, two = (np.median(np.log2(its[its > 0])) if (its > 0).any() else None for its in (contour, other))
    if one is None or two is None:
        raise AudioError("a recording has no pitch: give one of someone speaking.")
    return float(12 * (one - two))


def pitch_correlation(contour: Contour, other: Contour) -> float:
    """How alike two melodies run: the correlation of ln pitch over the frames where both have one, from -1 to 1.

    Raises as :func:`pitch_error`, and AudioError where one of them stays at one pitch.

    >>> pitch_correlation(np.array([100.0, 0.0, 120.0, 110.0]), np.array([200.0, 0.0, 240.0, 220.0]))
    1.0
    """
    logs = np.log(_both_voiced(contour, other))
    if min(logs.std(1)) < 1e-9:
        raise AudioError("a recording stays at one pitch, so that melodies cannot be compared.")
    return round(float(np.corrcoef(logs)[0, 1]), 12)


def pitch_error(contour: Contour, wanted: Contour) -> float:
    """Median distance in semitones from the wanted pitch, over the frames where both have one.

    Contours may end some frames apart. Raises ShapeError where they differ by more than a tenth in length, AudioError
    where no frame has a pitch in both.

    >>> pitch_error(np.array([220.0, 0.0, 220.0]), wanted=np.array([110.0, 110.0, 110.0]))
    12.0
    """
    found, wanted = _both_voiced(contour, wanted)
    return float(np.median(np.abs(12 * np.log2(found / wanted))))


def _both_voiced(contour: Contour, other: Contour) -> Contour:
    """(2, n) the frames of two contours in which both have a pitch."""
    length = min(len(contour), len(other))
    if abs(len(contour) - len(other)) > max(3, 0.1 * length):
        raise ShapeError(f"melodies of one length can be compared, got {len(contour)} and {len(other)} frames.")
    pair = np.stack([contour[:length], other[:length]])
    pair = pair[:, (pair > 0).all(0)]
    if not pair.size:
        raise AudioError("no frame has a pitch both in the recording and in what it is compared with.")
    return pair
