"""What two recordings of music have in common: harmony, rhythm, timbre; and a piece with itself.

All that compare take (estimate, reference), both (T,) of one length and aligned, frame by frame: they tell what is left
of a piece once some of its codes were drawn anew. Two strangers have some of everything in common, so a number is read
beside that of strangers.
"""

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.errors import AudioError, ShapeError

Wave = Tensor | NDArray[np.float32]
Frames = NDArray[np.float32]
QUIET = 1e-3  # of the loudest frame's root mean square: frames below it have no harmony to compare
BANDS, SMOOTH = 40, 13  # mel bands, and cepstral coefficients that tell their outline
SECONDS = 0.186  # of a frame: semitones are apart from about 100 Hz on


def chroma(wave: Wave, sample_rate: int) -> Frames:
    """The strength of the twelve pitch classes, C first, in each frame of (T,): (12, N), 1 for the strongest.

    A frame begins every quarter of about 0.19 s. An octave more or less is the same class; tuned to 440 Hz.

    >>> time = torch.arange(16000) / 16000
    >>> int(chroma((6.2832 * 440 * time).sin(), 16000)[:, 10].argmax())
    9
    """
    n_fft = _frame(sample_rate)
    samples = _samples("chroma", wave, sample_rate)
    return librosa.feature.chroma_stft(y=samples, sr=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, tuning=0.0)


def chroma_similarity(estimate: Wave, reference: Wave, sample_rate: int) -> float:
    """Harmony and melody in common: the mean cosine of two recordings' chroma, frame by frame, 0 to 1.

    Frames in which the reference is silent do not count. Strangers in one key often have 0.7 to 0.9.
    Raises ShapeError on two shapes, AudioError on a silent reference.

    >>> time = torch.arange(16000) / 16000
    >>> low, octave, tritone = ((6.2832 * hertz * time).sin() for hertz in (440, 880, 622.25))
    >>> chroma_similarity(octave, low, 16000) > 0.9 > 0.2 > chroma_similarity(tritone, low, 16000)
    True
    """
    ours, theirs = _pair("chroma_similarity", estimate, reference, sample_rate)
    n_fft = _frame(sample_rate)
    level = librosa.feature.rms(y=theirs, frame_length=n_fft, hop_length=n_fft // 4)[0]
    heard = level > QUIET * level.max()
    a, b = chroma(ours, sample_rate)[:, heard], chroma(theirs, sample_rate)[:, heard]
    return float(np.mean((a * b).sum(0) / np.maximum(np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), 1e-9)))


def rhythm_similarity(estimate: Wave, reference: Wave, sample_rate: int) -> float:
    """Rhythm in common: the correlation of two recordings' onset envelopes, -1 to 1, about 0 for strangers.

    The envelope is the rise of log-mel power from frame to frame (librosa). An estimate without any onset has 0.
    Raises ShapeError on two shapes, AudioError where the reference has no onset.

    >>> clicks = torch.zeros(32000).index_fill(0, torch.arange(2000, 32000, 5000), 1.0)
    >>> round(rhythm_similarity(0.1 * clicks, clicks, 16000), 2)
    1.0
    """
    ours, theirs = (_onsets(x, sample_rate) for x in _pair("rhythm_similarity", estimate, reference, sample_rate))
    if not theirs.std() > 0:
        raise AudioError("rhythm_similarity wants a reference with onsets, got one without: leave it out.")
    return float(np.corrcoef(ours, theirs)[0, 1]) if ours.std() > 0 else 0.0


def timbre_distance(estimate: Wave, reference: Wave, sample_rate: int) -> float:
    """How far the outlines of two recordings' spectra are apart, whatever their levels: dB, 0 for the same outline.

    Root mean square over mel bands of the difference of log-mel power, without its mean and its fine structure (MFCC 1
    to 12), averaged over frames. Power is floored 80 dB below the loudest band of each.
    Raises ShapeError on two shapes, AudioError on a silent reference.

    >>> noise = torch.randn(16000)
    >>> timbre_distance(noise, noise, 16000)
    0.0
    """
    ours, theirs = _pair("timbre_distance", estimate, reference, sample_rate)
    difference = _decibels(_mel(ours, sample_rate)) - _decibels(_mel(theirs, sample_rate))
    outline = librosa.feature.mfcc(S=difference, n_mfcc=SMOOTH)[1:]
    return float(np.sqrt((outline**2).sum(0) / BANDS).mean())


def self_similarity(wave: Wave, sample_rate: int, size: int = 300) -> Frames:
    """How alike any two moments of a piece (T,) are in harmony and timbre: (N, N), 1 where they are the same.

    N is ``size``, or fewer for a short piece. A moment is what chroma and MFCC are on average between one and the
    next; it is the cosine of what is special to each, after Foote 1999. AudioError on silence.

    >>> matrix = self_similarity(torch.randn(32000), 16000, size=20)
    >>> matrix.shape, bool(np.allclose(matrix.diagonal(), 1))
    ((20, 20), True)
    """
    samples = _samples("self_similarity", wave, sample_rate)
    if not samples.any():
        raise AudioError("self_similarity wants a recording with sound in it, got silence.")
    outline = librosa.feature.mfcc(S=_decibels(_mel(samples, sample_rate)), n_mfcc=SMOOTH)[1:]
    features = [chroma(samples, sample_rate), outline]
    columns = np.concatenate([(f - f.mean(axis=1, keepdims=True)) / max(float(f.std()), 1e-9) for f in features])
    parts = np.array_split(columns, min(size, columns.shape[1]), axis=1)
    moments = np.stack([part.mean(axis=1) for part in parts])
    moments /= np.maximum(np.linalg.norm(moments, axis=1, keepdims=True), 1e-9)
    return moments @ moments.T


def _frame(sample_rate: int) -> int:
    return 2 ** round(float(np.log2(SECONDS * sample_rate)))


def _mel(samples: Frames, sample_rate: int, parts: int = 1) -> Frames:
    n_fft = _frame(sample_rate) // parts
    return librosa.feature.melspectrogram(y=samples, sr=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=BANDS)


def _onsets(samples: Frames, sample_rate: int) -> Frames:
    decibels = _decibels(_mel(samples, sample_rate, parts=4))
    # Without the frames that reach beyond an end: all recordings rise there.
    return librosa.onset.onset_strength(S=decibels, sr=sample_rate, center=False)[4:-4]


def _decibels(power: Frames) -> Frames:
    """Floored 80 dB below the loudest, so that a gain is nothing but a constant; -80 for silence."""
    return 10 * np.log10(np.maximum(power, 1e-8 * (power.max() or 1.0)))


def _samples(owner: str, wave: Wave, sample_rate: int) -> Frames:
    samples = torch.as_tensor(wave).detach().float().cpu().numpy()
    least = 2 * _frame(sample_rate)
    if samples.ndim != 1 or len(samples) < least or not np.isfinite(samples).all():
        raise ShapeError(f"{owner} wants finite samples (T,) with T >= {least}, got {tuple(samples.shape)}.")
    return samples


def _pair(owner: str, estimate: Wave, reference: Wave, sample_rate: int) -> tuple[Frames, Frames]:
    ours, theirs = _samples(owner, estimate, sample_rate), _samples(owner, reference, sample_rate)
    if ours.shape != theirs.shape:
        raise ShapeError(f"{owner} wants two recordings (T,) of one length, got {ours.shape} and {theirs.shape}: "
                         "align them, and cut the longer one.")
    if not theirs.any():
        raise AudioError(f"{owner} wants a reference with sound in it, got a silent one: leave it out.")
    return ours, theirs
