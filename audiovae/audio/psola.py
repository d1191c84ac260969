"""Another melody for the same sound: pitch-synchronous overlap-add in the time domain (Moulines & Charpentier 1990).

Marks are set once a period; the waveform around each, faded in and out between its neighbours, is laid down at the
wanted distance. No sample is stretched, so the spectral envelope stays; what has no pitch passes as it is. The distance
of the marks is read from the waveform, where a period looks most like the one before, and only near the pitch that is
told: the wanted pitch says by what factor each period is moved, and a voice's fine unsteadiness stays.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.pitch import Prosody
from audiovae.audio.scroll import Scroll

LEAST = 50.0  # Hz: the longest period there is
REACH = (0.8, 1.25)  # periods from a mark in which the next one is looked for
ALIKE = 0.3  # correlation under which the told period is taken instead
PLAIN = 0.005  # s between marks where there is no pitch
EDGE = 2  # frames that a voice is thought to begin before, and to last after, it is found
GAP = 4  # frames without voice, between two with it, that are taken to have it
BLOCK = 16000  # samples that are given at once
TAPS, PHASES = 16, 64  # of the sinc that reads between samples, and the places where it can


class Mark(NamedTuple):
    """A place in samples, whether the next mark is one period on, and how far a grain from here may reach."""

    at: float
    periodic: bool
    left: float = math.inf
    right: float = math.inf


def repitched(pieces: Iterable[Tensor], source: Prosody, pitch: NDArray[np.floating], sample_rate: int, hop: int
              ) -> Iterator[Tensor]:
    """A waveform in pieces (n,) with its ``source`` melody moved to ``pitch`` (N,) Hz: as many samples, in pieces.

    ``source`` is what :func:`audiovae.audio.pitch.prosody` finds in it with this ``hop``; frames beyond its end are as
    its last. Where both pitches agree the waveform comes back, sample for sample. Loudness stays. Memory is constant,
    and the result the same however the waveform is cut.

    >>> from audiovae.audio.pitch import prosody
    >>> time = torch.arange(16000) / 16000
    >>> buzz = 0.1 * sum(torch.cos(2 * torch.pi * 100 * k * time) / k for k in range(1, 20))
    >>> found = prosody(buzz, 16000, hop=160)
    >>> higher = torch.cat(list(repitched([buzz], found, 1.25 * found.pitch, 16000, hop=160)))
    >>> len(higher), round(float(np.median(prosody(higher, 16000, hop=160).pitch)))
    (16000, 125)
    """
    wave = Scroll(pieces, behind=round(8 * sample_rate / LEAST))
    marks = Marks(wave, source, sample_rate, hop)
    factor = np.maximum(pitch, 1) / np.maximum(source.pitch, 1)
    made: list[NDArray[np.float32]] = []
    given = ready = 0
    for one, other in pairwise(grains(iter(marks), factor, hop)):
        made.append(_between(wave, one, other))
        given += len(made[-1])
        ready += len(made[-1])
        if done := wave.ended(given):
            made[-1] = made[-1][:len(made[-1]) - (given - (wave.end or 0))]
        if done or ready >= BLOCK:
            yield torch.from_numpy(np.concatenate(made))
            made, ready = [], 0
        if done:
            return


class Marks:
    """Where periods lie in a waveform, one after another; every ``PLAIN`` seconds where it has none; without end."""

    def __init__(self, wave: Scroll, source: Prosody, sample_rate: int, hop: int):
        self.wave, self.hop = wave, hop
        self.voiced = _closed(source.voiced & (source.pitch > 0))
        self.period = sample_rate / np.maximum(source.pitch, LEAST)
        self.plain = min(round(PLAIN * sample_rate), hop)

    def __iter__(self) -> Iterator[Mark]:
        """Each with the distance of its neighbours as its reach, where they are a period away."""
        (before, voiced), places = (-math.inf, False), self._places()
        here, periodic = next(places)
        for after, its in places:
            left, right = here - before if voiced else math.inf, after - here if periodic else math.inf
            yield Mark(here, periodic, min(left, right) if math.inf in (left, right) else left,
                       min(left, right) if math.inf in (left, right) else right)
            (before, voiced), (here, periodic) = (here, periodic), (after, its)

    def _places(self) -> Iterator[tuple[float, bool]]:
        at, inside = 0.0, False
        while True:
            if inside:
                after = self._next(at)
                if not (periodic := self._is_voiced(after)):
                    after = at + self.plain
                    while self._is_voiced(after):
                        after += self.plain
                inside = periodic
            else:
                after, periodic = at + self.plain, False
                if inside := self._is_voiced(after):
                    after = self._peak(after)
            yield at, periodic
            at = after

    def _frame(self, place: float) -> int:
        return min(int(place) // self.hop, len(self.voiced) - 1)

    def _is_voiced(self, place: float) -> bool:
        return bool(self.voiced[self._frame(place)])

    def _peak(self, place: float) -> float:
        """The loudest place of the period that begins there."""
        first = int(place)
        return first + float(np.abs(self.wave(first, first + round(self.period[self._frame(place)]))).argmax())

    def _next(self, at: float) -> float:
        """A period on from a mark: where the waveform looks most like what it does around the mark."""
        period, middle = float(self.period[self._frame(at)]), round(at)
        half, low, high = round(period / 2), round(REACH[0] * period) - 1, round(REACH[1] * period) + 1
        like = self.wave(middle - half, middle + half + 1)
        near = self.wave(middle + low - half, middle + high + half + 1)
        energy = np.cumsum(near * near, dtype=np.float64)
        energy[2 * half + 1:] -= energy[:-2 * half - 1].copy()
        alike = np.correlate(near, like, "valid") / np.sqrt(np.maximum(energy[2 * half:] * (like @ like), 1e-20))
        best = 1 + int(alike[1:-1].argmax())
        if alike[best] < ALIKE:
            return at + period
        before, top, after = alike[best - 1:best + 2].tolist()
        bend = before - 2 * top + after
        return at + low + best + (min(max((before - after) / (2 * bend), -0.5), 0.5) if bend < 0 else 0.0)


class Grain(NamedTuple):
    """A part of the waveform laid down at ``place``: what is around ``mark``, times ``gain``."""

    place: float
    mark: Mark
    gain: float


def grains(marks: Iterator[Mark], factor: NDArray[np.floating], hop: int) -> Iterator[Grain]:
    """Periods divided by ``factor`` (N,), each filled from the nearest mark; other marks stay where they are."""
    here, after, place = next(marks), next(marks), 0.0
    middles = (np.arange(len(factor)) + 0.5) * hop
    while True:
        faster = float(np.interp(place, middles, factor)) if here.periodic else 1.0
        nearest = here if place - here.at <= after.at - place else after
        yield Grain(place, nearest, faster ** -0.5)  # as much power in more, or fewer, periods
        if not here.periodic:
            here, after = after, next(marks)
            place = here.at
            continue
        place += (after.at - here.at) / faster
        while here.periodic and after.at <= place + 1e-6:
            here, after = after, next(marks)
        if not here.periodic and place > here.at + 1e-6:  # the voice has ended
            here, after = after, next(marks)
            place = here.at


def _between(wave: Scroll, one: Grain, other: Grain) -> NDArray[np.float32]:
    """From the middle of a grain to that of the next: the one fades, the other comes."""
    first, last = math.ceil(one.place), math.ceil(other.place)
    span, moved = other.place - one.place, (one.mark.at - one.place, other.mark.at - other.place)
    if abs(moved[0] - moved[1]) < 1e-6 and one.gain == other.gain == 1:
        return _read(wave, first, last, moved[0])
    at = np.arange(first, last)
    fades = (_fade((at - one.place) / min(span, one.mark.right)) * one.gain,
             _fade((other.place - at) / min(span, other.mark.left)) * other.gain)
    both = fades[0] * _read(wave, first, last, moved[0]) + fades[1] * _read(wave, first, last, moved[1])
    return both.astype(np.float32, copy=False)


def _fade(x: NDArray[np.floating]) -> NDArray[np.float32]:
    return (0.5 + 0.5 * np.cos(np.pi * np.minimum(x, 1))).astype(np.float32)


def _read(wave: Scroll, first: int, last: int, moved: float) -> NDArray[np.float32]:
    """Samples ``first`` to ``last``, each from a place that lies ``moved`` samples on."""
    whole, phase = divmod(round(moved * PHASES), PHASES)
    if phase == 0:
        return wave(first + whole, last + whole)
    start = first + whole - TAPS // 2 + 1
    return np.correlate(wave(start, last + whole + TAPS // 2), SINC[phase], "valid")


def _sinc() -> NDArray[np.float32]:
    """(PHASES, TAPS): what reads a sample p / PHASES after the tap TAPS / 2 - 1."""
    at = np.arange(TAPS) - (TAPS // 2 - 1) - np.arange(PHASES)[:, None] / PHASES
    taps = np.sinc(at) * np.cos(np.pi * at / (TAPS + 1)) ** 2
    return (taps / taps.sum(1, keepdims=True)).astype(np.float32)


SINC = _sinc()


def _closed(voiced: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Short gaps closed, and a little more on both sides."""
    wide = voiced.copy()
    frames = np.flatnonzero(voiced)
    for one, other in pairwise(frames.tolist()):
        if 1 < other - one <= GAP + 1:
            wide[one:other] = True
    for _ in range(EDGE):
        wide = wide | np.append(wide[1:], False) | np.insert(wide[:-1], 0, False)
    return wide
