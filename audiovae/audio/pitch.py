"""The melody and loudness of speech, frame by frame: pitch in Hz, whether there is one, and level.

Pitch is YIN's (de Cheveigné & Kawahara 2002), looked for in three ranges at once; once the whole recording has been
heard, the voice's middle decides between their answers, which takes most octave errors away. Frame f stands for samples
[f * hop, (f + 1) * hop), as everywhere; what has no pitch is filled in from the voiced frames on both sides.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from audiovae.errors import AudioError

# Hz, from a low man's voice to a child's: each is narrow enough that a period and its double seldom both fit
RANGES = ((60.0, 160.0), (95.0, 255.0), (150.0, 500.0))
WINDOW = 1024 / 16000  # s under a frame: nearly four periods of the lowest pitch
TROUGH = 0.1  # of the normalised difference, below which the first minimum is the period: section II.D
PERIODIC = 0.6  # least correlation of a frame with itself a period later
SHORTER = 0.02  # correlation that an octave is worth: two periods are always as much alike as one
UNLIKELY = 0.02  # correlation lost by a voice an octave from 180 Hz, where most are; more, further off
VERSION = 4  # of what is found: pitch that is kept on disk is found anew by another
QUIET = 40.0  # dB under the loudest frames: what is softer has no pitch to speak of
ROOM = 10.0  # dB over the softest frames, and FORE under the loudest: what is softer than both is the room between
FORE = 15.0  # words, whose rumble is much like itself a little later
SMOOTH = 5  # frames of the median that takes single errors away
BLOCK = 1000  # frames at once
AHEAD = 4  # blocks that may wait for a thread, so that memory stays where it is
MIDDLE = 150.0  # Hz that is told as 0


@dataclass(frozen=True)
class Prosody:
    """A recording's melody and level, N frames.

    pitch : (N,) Hz, filled in where there is none; 0 throughout where no frame has any.
    voiced : (N,) bool.
    level : (N,) dB of the frame's mean square, full scale 0.
    """

    pitch: NDArray[np.float32]
    voiced: NDArray[np.bool_]
    level: NDArray[np.float32]

    def tensor(self) -> Tensor:
        """What a decoder is told, (3, N): see :func:`told`."""
        return told(torch.from_numpy(self.pitch), torch.from_numpy(self.voiced), torch.from_numpy(self.level))

    def padded(self, frames: int) -> "Prosody":
        """The last frame held on, until there are as many ``frames``."""
        more = (0, frames - len(self.pitch))
        return Prosody(np.pad(self.pitch, more, "edge"), np.pad(self.voiced, more, "edge"),
                       np.pad(self.level, more, "edge"))

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of ln pitch over the voiced frames. AudioError where none is voiced."""
        if not self.voiced.any():
            raise AudioError("pitch: no voiced speech was found: give a recording of someone speaking.")
        logs = np.log(self.pitch[self.voiced])
        return float(logs.mean()), float(logs.std())


def told(pitch: Tensor, voiced: Tensor, level: Tensor) -> Tensor:
    """Pitch (..., N) Hz, voicing and level (dB) as three rows of about unit size: (..., 3, N).

    ln(pitch / 150 Hz) * 2, 0 or 1, and level / 20 + 1.5. Without any pitch the first row is 0.
    """
    melody = torch.where(pitch > 0, 2 * (pitch.clamp(min=1) / MIDDLE).log(), 0.0)
    return torch.stack([melody, voiced.to(melody), level / 20 + 1.5], dim=-2)


def at_pitch_of(prosody: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """What is told of a melody, (3, N), moved to where that of another, (3, N'), lies; and its pitch (N,), Hz.

    The median over the voiced frames becomes the other's; where either has none, nothing is moved.

    >>> low, high = (told(torch.tensor([hertz, 2 * hertz]), torch.tensor([True, False]), torch.zeros(2))
    ...              for hertz in (100.0, 250.0))
    >>> at_pitch_of(low, high)[1].round()
    tensor([250., 500.])
    """
    melody, others = (its[0][its[1] > 0.5] for its in (prosody, other))
    if len(melody) and len(others):
        prosody = torch.cat([prosody[:1] + others.median() - melody.median(), prosody[1:]])
    return prosody, MIDDLE * (prosody[0] / 2).exp()


def level(wave: Tensor, hop: int) -> Tensor:
    """dB of the mean square of every frame of a waveform (T,): (ceil(T / hop),), full scale 0."""
    frames = F.pad(wave, (0, -len(wave) % hop)).view(-1, hop)
    return 10 * frames.square().mean(1).clamp(min=1e-12).log10()


def prosody(waveform: NDArray[np.float32] | Tensor, sample_rate: int, hop: int) -> Prosody:
    """The prosody of a waveform (T,), N = ceil(T / hop) frames.

    >>> rate, time = 16000, np.arange(16000, dtype=np.float32) / 16000
    >>> tone = sum(np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 20)).astype(np.float32)
    >>> found = prosody(0.1 * tone, rate, hop=160)
    >>> len(found.pitch), bool(abs(np.median(found.pitch) - 110) < 1), round(float(found.voiced.mean()), 1)
    (100, True, 1.0)
    """
    return prosody_of_stream([torch.as_tensor(waveform)], sample_rate, hop)


def prosody_of_stream(pieces: Iterable[Tensor], sample_rate: int, hop: int) -> Prosody:
    """:func:`prosody` of a waveform that comes in pieces (n,), the same however it is cut.

    Raises AudioError where nothing comes.
    """
    passing = ProsodyInPassing(pieces, sample_rate, hop)
    for _ in passing:
        pass
    return passing.found()


class ProsodyInPassing:
    """Pieces (n,) of a waveform passed on, whose prosody can be told when the last has gone by.

    Seven numbers are kept of each frame, a twentieth of the samples. They are found on as many threads as torch may
    use, beside whatever else is done with the pieces.

    >>> passing = ProsodyInPassing([torch.zeros(1600), torch.zeros(800)], sample_rate=16000, hop=160)
    >>> [len(piece) for piece in passing], len(passing.found().pitch)
    ([1600, 800], 15)
    """

    def __init__(self, pieces: Iterable[Tensor], sample_rate: int, hop: int):
        self.pieces, self.sample_rate, self.hop = pieces, sample_rate, hop
        self.size = round(WINDOW * sample_rate / 2) * 2
        self._found: list[Future[NDArray[np.float32]]] = []
        threads = torch.get_num_threads()
        alone = {"initializer": torch.set_num_threads, "initargs": (1,)}  # a team of its own would be in the way
        self._beside, self._ahead = ThreadPoolExecutor(threads, **alone), AHEAD if threads > 1 else 0
        self._held, self._before = torch.zeros(0), torch.zeros((self.size - hop) // 2)
        self._margin = (self.size - hop) - len(self._before)

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self.pieces:
            self._held = torch.cat([self._held, piece.float()])
            self._hear(BLOCK)
            yield piece
        frames = -(-len(self._held) // self.hop)
        self._held = F.pad(self._held, (0, frames * self.hop - len(self._held) + self._margin))
        self._hear(1)

    def found(self) -> Prosody:
        """The prosody of all that went by. Raises AudioError where nothing did."""
        if not self._found:
            raise AudioError("pitch: the recording is empty.")
        return _settled(np.concatenate([found.result() for found in self._found], axis=1))

    def _hear(self, least: int) -> None:
        """Find what is to be found of frames whose samples are there, as long as there are so many."""
        hop, before = self.hop, self._before
        while len(self._held) >= least * hop + self._margin:
            count = min(BLOCK, (len(self._held) - self._margin) // hop)
            samples = torch.cat([before, self._held[:count * hop + self._margin]])
            self._found.append(self._beside.submit(_frames, samples.numpy(), self.sample_rate, self.size, hop, count))
            if len(self._found) > self._ahead:
                self._found[-self._ahead - 1].result()
            before = torch.cat([before, self._held[:count * hop]])[-len(before):] if len(before) else before
            self._held = self._held[count * hop:]
        self._before = before


def _frames(samples: NDArray[np.float32], sample_rate: int, size: int, hop: int, count: int) -> NDArray[np.float32]:
    """Level, then pitch and correlation as found in each of RANGES: (1 + 2 R, count)."""
    wave = torch.from_numpy(samples)
    inner = wave[(size - hop) // 2:][:count * hop]
    lags = int(sample_rate / RANGES[0][0]) + 2
    difference, alike = lagged(wave.unfold(0, size, hop)[:count], lags)
    found = [level(inner, hop)]
    for low, high in RANGES:
        lag = period(difference, max(int(sample_rate / high), 1), int(sample_rate / low) + 1)
        found += [sample_rate / lag, alike.gather(1, lag.round().long()[:, None])[:, 0]]
    return torch.stack(found).numpy()


def lagged(rows: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """How frames (N, size) compare with themselves τ = 0 ... lags later, over their first size - lags samples.

    Returns the cumulative mean normalised difference d'(τ) (eq. 8) and the normalised correlation, -1 to 1,
    each (N, lags + 1).

    >>> tone = torch.sin(2 * torch.pi * torch.arange(400.0) / 50)[None]
    >>> difference, alike = lagged(tone, lags=60)
    >>> int(difference[0].argmin()), int(alike[0, 40:].argmax()) + 40
    (50, 50)
    """
    length = rows.shape[1] - lags
    spectrum, start = torch.fft.rfft(rows), torch.fft.rfft(rows[:, :length], n=rows.shape[1])
    product = torch.fft.irfft(spectrum * start.conj(), n=rows.shape[1])[:, :lags + 1]
    sums = F.pad(rows.double().square().cumsum(1), (1, 0))
    energy = (sums[:, length:] - sums[:, :lags + 1]).clamp(min=0).float()
    difference = (energy[:, :1] + energy - 2 * product).clamp(min=0)
    difference[:, 0] = 0
    mean = difference.cumsum(1) / torch.arange(lags + 1).clamp(min=1)
    normalised = torch.where(mean > 0, difference / mean.clamp(min=1e-20), 1.0)
    return normalised, product / (energy[:, :1] * energy).sqrt().clamp(min=1e-9)


def period(difference: Tensor, shortest: int, longest: int) -> Tensor:
    """The period in samples, (N,), of each row of normalised differences (N, lags + 1), between two numbers of samples.

    The first minimum below TROUGH, or the least value of all where there is none, and between samples the lowest point
    of a parabola (sections II.D and II.E).

    >>> tone = torch.sin(2 * torch.pi * torch.arange(400.0) / 49.5)[None]
    >>> round(float(period(lagged(tone, lags=60)[0], 20, 58)), 1)
    49.5
    """
    inside = difference[:, shortest:longest + 1]
    before, after = difference[:, shortest - 1:longest], difference[:, shortest + 1:longest + 2]
    trough = (inside < TROUGH) & (inside <= before) & (inside < after)
    place = torch.where(trough.any(1), trough.int().argmax(1), inside.argmin(1))[:, None]
    left, middle, right = (row.gather(1, place)[:, 0] for row in (before, inside, after))
    bend = left - 2 * middle + right
    shift = torch.where(bend > 0, (left - right) / (2 * bend.clamp(min=1e-20)), 0.0).clamp(-0.5, 0.5)
    return shortest + place[:, 0] + shift


def _settled(found: NDArray[np.float32]) -> Prosody:
    """The range that suits the voice chosen, errors smoothed, gaps filled."""
    level, pitches, alike = found[0], found[1::2], found[2::2]
    loudest = np.quantile(level, 0.95)
    near = _around(level, 3).max(1)  # a low voice is soft between two pulses
    loud = (level > max(loudest - QUIET, -70)) & (near > min(np.quantile(near, 0.05) + ROOM, loudest - FORE))
    sure = loud & (alike.max(0) > PERIODIC + 0.2)
    if not sure.any():
        return Prosody(np.zeros_like(level), np.zeros(len(level), bool), level)
    alike = alike + SHORTER * np.log2(pitches / 100)
    # single frames are alike a formant's period later, or two of their own; over all of them one range fits best
    likely = (alike - UNLIKELY * np.log2(pitches / 180) ** 2)[:, sure].mean(1)
    middle = float(np.median(pitches[likely.argmax()][sure]))
    # a voice keeps within an octave or so of its middle: elsewhere the answer of another range is taken
    off = np.abs(np.log2(pitches / middle))
    score = alike - 0.5 * np.maximum(off - 0.7, 0)
    best = score.argmax(0)
    pitch = np.take_along_axis(pitches, best[None], 0)[0]
    voiced = loud & (np.take_along_axis(score, best[None], 0)[0] > PERIODIC)
    if not voiced.any():
        return Prosody(np.zeros_like(level), voiced, level)
    frames = np.arange(len(level))
    filled = np.exp(np.interp(frames, frames[voiced], np.log(pitch[voiced])))
    smooth = np.median(_around(filled, SMOOTH), axis=1)
    return Prosody(smooth.astype(np.float32), voiced, level)


def _around(values: NDArray[np.floating], count: int) -> NDArray[np.floating]:
    """Each of N values and those around it, an odd ``count`` in all: (N, count); the ends are held on."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, count // 2, mode="edge"), count)
