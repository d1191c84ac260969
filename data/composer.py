"""A small composer: tunes over chords in the form AABA, in five genres, by artists who have habits.

A melody is a motif of one bar that is answered, moved to the next chords and ended; strong beats sound notes of the
chord, weak ones go by step. The second A is the first again; the last one comes home to the tonic. Everything is drawn
from the generator that is handed in, in whole ticks, so a seed is a piece.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator

BEAT = 480  # ticks
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
BLUES = (0, 3, 5, 6, 7, 10)
KICK, SNARE, CLAP, CLOSED, OPEN, RIDE, STICK = 36, 38, 39, 42, 46, 51, 37
DRUMS = -1
# Where a melody of eight bars is about, bar by bar: it rises to one height and falls again.
ARCHES = ((67, 70, 74, 72, 69, 73, 77, 72), (72, 74, 71, 69, 72, 76, 74, 69), (76, 73, 70, 72, 67, 71, 75, 72))


@dataclass(frozen=True)
class Note:
    """start, length : ticks. pitch : MIDI. level : 1 to 127."""

    start: int
    length: int
    pitch: int
    level: int


@dataclass(frozen=True)
class Piece:
    """parts : notes by General MIDI program, :data:`DRUMS` for the drums. length : ticks. minute : beats in one."""

    title: str
    mode: str
    minute: int
    length: int
    parts: dict[int, list[Note]]

    @property
    def seconds(self) -> float:
        return self.length / BEAT * 60 / self.minute


@dataclass(frozen=True)
class Genre:
    """What pieces of a genre have in common.

    beats : in a bar. minute : the least and most beats a minute. minor : share of artists who write in minor.
    leads, fills, basses : programs to choose a melody's, chords' and bass's from.
    progressions : of eight bars each, a degree of the scale a bar, 0 the tonic.
    rhythms : of one bar each, in eighths.
    play : adds all but the melody of one bar to the piece.
    scale : of the melody, where it is not the key's. swing : eighths of it are long and short.
    """

    name: str
    beats: int
    minute: tuple[int, int]
    minor: float
    leads: tuple[int, ...]
    fills: tuple[int, ...]
    basses: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]
    rhythms: tuple[tuple[int, ...], ...]
    play: Callable[["Band", int, int, int, bool], None]
    scale: tuple[int, ...] | None = None
    swing: bool = False


@dataclass(frozen=True)
class Artist:
    """Someone's habits: the same instruments, a few keys and progressions, a tempo and rhythms of their own."""

    name: str
    genre: Genre
    lead: int
    fill: int
    bass: int
    minor: bool
    keys: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]
    rhythms: tuple[tuple[int, ...], ...]
    minute: int
    leap: float
    pattern: int


@dataclass
class Band:
    """A piece in the making."""

    artist: Artist
    tonic: int
    scale: tuple[int, ...]
    dice: Generator
    parts: dict[int, list[Note]] = field(default_factory=dict)

    def add(self, program: int, start: float, length: float, pitch: int, level: int) -> None:
        """A note; start and length in beats."""
        level = int(np.clip(level + self.dice.integers(-6, 7), 1, 127))
        ticks = max(1, round(length * BEAT) - 6)
        self.parts.setdefault(program, []).append(Note(round(start * BEAT), ticks, pitch, level))

    def chord(self, degree: int, low: int, size: int = 3) -> list[int]:
        """Thirds on a degree of the scale, in close position from ``low`` on."""
        scale = MINOR if self.artist.minor else MAJOR
        tones = [self.tonic + scale[(degree + 2 * k) % 7] for k in range(size)]
        if self.artist.minor and degree == 4:
            tones[1] += 1  # the leading tone of the dominant
        return sorted(low + (tone - low) % 12 for tone in tones)

    def root(self, degree: int, low: int) -> int:
        scale = MINOR if self.artist.minor else MAJOR
        return low + (self.tonic + scale[degree] - low) % 12

    def drum(self, pattern: str, which: int, start: float, level: int) -> None:
        """A bar of strokes on a drum, x loud and o soft, all of one length."""
        for i, stroke in enumerate(pattern):
            if stroke != ".":
                at = start + i * self.artist.genre.beats / len(pattern)
                self.add(DRUMS, at, 0.25, which, level if stroke == "x" else level - 30)


def artists(genre: Genre, names: Sequence[str], dice: Generator) -> list[Artist]:
    """One artist a name; leads are dealt out, so that few share one."""
    leads = dice.permutation(genre.leads)
    found = []
    for i, name in enumerate(names):
        home = int(dice.integers(12))
        found.append(Artist(
            name, genre, int(leads[i % len(leads)]), int(dice.choice(genre.fills)), int(dice.choice(genre.basses)),
            bool(dice.random() < genre.minor), (home, (home + 5) % 12, (home + 7) % 12),
            _some(genre.progressions, 3, dice), _some(genre.rhythms, 4, dice), int(dice.integers(*genre.minute)),
            float(dice.uniform(0.1, 0.5)), int(dice.integers(3))))  # fmt: skip
    return found


def compose(artist: Artist, title: str, dice: Generator, seconds: float = 60.0) -> Piece:
    """A piece by an artist: AABA of eight bars each, or four where the tempo is slow; it keeps within ``seconds``."""
    minute = round(artist.minute * dice.uniform(0.95, 1.05))
    tonic, scale = int(dice.choice(artist.keys)), artist.genre.scale or (MINOR if artist.minor else MAJOR)
    band = Band(artist, tonic, scale, dice)
    beats = artist.genre.beats
    bars, form = next((bars, form) for bars, form in ((8, "AABABA"), (8, "AABA"), (4, "AABABA"), (4, "AABA"), (4, "A"))
                      if (len(form) * bars * beats + 4) * 60 / minute <= seconds or form == "A")
    chords = {name: artist.progressions[int(dice.integers(len(artist.progressions)))][:bars] for name in "AB"}
    tunes = {"A": _tune(band, chords["A"], 0), "B": _tune(band, chords["B"], 4)}
    place = 0
    for i, name in enumerate(form):
        last = i == len(form) - 1
        progression = (*chords[name][:-1], 0) if last else chords[name]
        for bar, degree in enumerate(progression):
            artist.genre.play(band, place + bar * beats, degree, bar + bars * i, name == "B")
        tune = _home(band, tunes[name]) if last else tunes[name]
        for start, length, pitch in tune:
            band.add(artist.lead, place + start, length, pitch, 104 if start % beats == 0 else 94)
        place += bars * beats
    for pitch in (band.root(0, 36), *band.chord(0, 55)):
        band.add(artist.fill, place, 4, pitch, 84)
    band.add(artist.lead, place, 4, min(_near(band, 0, 76), key=lambda p: abs(p - 76)), 96)
    return Piece(title, "minor" if artist.minor else "major", minute, (place + 4) * BEAT, band.parts)


Tune = list[tuple[float, float, int]]


def _tune(band: Band, progression: Sequence[int], lift: int) -> Tune:
    """A melody of four bars or eight: a motif, an answer, the motif on other chords, an end; and once more."""
    artist, dice, beats = band.artist, band.dice, band.artist.genre.beats
    motif, answer = (artist.rhythms[int(dice.integers(len(artist.rhythms)))] for _ in range(2))
    contour = dice.choice([-2, -1, -1, 1, 1, 2], size=16)
    arch = ARCHES[int(dice.integers(len(ARCHES)))]
    pitch, tune = arch[0] + lift, []
    for bar, degree in enumerate(progression):
        rhythm = (motif, answer, motif, (beats * 2,) if bar == len(progression) - 1 else answer)[bar % 4]
        at = 0
        for i, eighths in enumerate(rhythm):
            aim, move = arch[bar] + lift, int(contour[i])
            if abs(aim - pitch) > 3:
                move = abs(move) if aim > pitch else -abs(move)
            if at % 4 == 0 or eighths >= 4:
                wanted = pitch + move
                pitch = min(_near(band, degree, wanted), key=lambda p: (abs(p - wanted), p))
            else:
                pitch = _step(band, pitch, move * (2 if dice.random() < artist.leap else 1))
            start = at / 2 + (artist.genre.swing and at % 2) / 6
            tune.append((bar * beats + start, (at + eighths) / 2 - start, pitch))
            at += eighths
    return tune


def _home(band: Band, tune: Tune) -> Tune:
    """The same melody, its last note a tonic."""
    start, length, pitch = tune[-1]
    tonic = min((p for p in range(pitch - 8, pitch + 9) if (p - band.tonic) % 12 == 0), key=lambda p: abs(p - pitch))
    return [*tune[:-1], (start, length, tonic)]


def _near(band: Band, degree: int, pitch: int) -> list[int]:
    tones = {tone % 12 for tone in band.chord(degree, 60)}
    return [p for p in range(pitch - 9, pitch + 10) if p % 12 in tones]


def _step(band: Band, pitch: int, step: int) -> int:
    """``step`` notes of the scale up or down."""
    ladder = [p for p in range(pitch - 14, pitch + 15) if (p - band.tonic) % 12 in band.scale]
    here = min(range(len(ladder)), key=lambda i: (abs(ladder[i] - pitch), i))
    return ladder[here + step]


def _some(values: Sequence[tuple[int, ...]], count: int, dice: Generator) -> tuple[tuple[int, ...], ...]:
    return tuple(values[i] for i in sorted(dice.permutation(len(values))[:count]))


def _chorale(band: Band, at: int, degree: int, bar: int, other: bool) -> None:
    """Three voices under the melody; the bass passes to the third in the middle of a bar."""
    alto, tenor = band.chord(degree, 55)[2], band.chord(degree, 48)[1]
    for half, bass in ((0, band.root(degree, 36)), (2, band.chord(degree, 36)[1])):
        band.add(band.artist.bass, at + half, 2, bass, 86)
        band.add(band.artist.fill, at + half, 2, tenor, 78)
        band.add(band.artist.fill, at + half, 2, alto, 78)


def _waltz(band: Band, at: int, degree: int, bar: int, other: bool) -> None:
    """Bass on one, chords on two and three."""
    band.add(band.artist.bass, at, 1, band.root(degree, 36) + (7 if bar % 2 and band.artist.pattern else 0), 92)
    for beat in (1, 2):
        for pitch in band.chord(degree, 57):
            band.add(band.artist.fill, at + beat, 0.6, pitch, 72)
    if band.artist.pattern == 2:
        band.drum("x..", KICK, at, 80)
        band.drum(".oo", STICK, at, 84)


def _electronic(band: Band, at: int, degree: int, bar: int, other: bool) -> None:
    """Four on the floor, bass between the beats, a broken chord in sixteenths; the drums come in one by one."""
    artist = band.artist
    tones = band.chord(degree, 60)
    tones = [*tones, tones[0] + 12]
    order = ((0, 1, 2, 3), (3, 2, 1, 2), (0, 2, 1, 3))[artist.pattern]
    for i in range(16):
        band.add(artist.fill, at + i / 4, 0.25, tones[order[i % 4]], 74 if i % 4 else 86)
    for i in range(4):
        band.add(artist.bass, at + i + 0.5, 0.5, band.root(degree, 36), 100)
    band.drum("x...x...x...x..." if not other else "x.......x...x...", KICK, at, 116)
    if bar >= 4:
        band.drum("..x...x...x...x.", OPEN if artist.pattern == 1 else CLOSED, at, 88)
    if bar >= 8:
        band.drum("....x.......x...", CLAP, at, 100)
        band.drum("xoxoxoxoxoxoxoxo", CLOSED, at, 76)


def _boogie(band: Band, at: int, degree: int, bar: int, other: bool) -> None:
    """A walking left hand in swung eighths under chords off the beat."""
    artist, root = band.artist, band.root(degree, 36)
    walk = ((0, 4, 7, 9, 10, 9, 7, 4), (0, 0, 4, 4, 7, 7, 9, 7), (0, 12, 7, 12, 9, 12, 7, 12))[artist.pattern]
    for i, step in enumerate(walk):
        band.add(artist.bass, at + i // 2 + (i % 2) * 2 / 3, 0.6 if i % 2 == 0 else 0.3, root + step, 94 - 10 * (i % 2))
    for beat in (1, 3):
        for step in (4, 7, 10):  # dominant sevenths, as blues has them
            band.add(artist.fill, at + beat + (2 / 3 if other else 0), 0.3, root + 24 + step, 78)
    band.drum("x..x.xx..x.x", RIDE, at, 84)
    band.drum("x.....x.....", KICK, at, 96)
    band.drum("...x.....x..", SNARE, at, 92)


def _ballad(band: Band, at: int, degree: int, bar: int, other: bool) -> None:
    """Broken chords in eighths; in the middle, slow strings and a soft drum."""
    artist = band.artist
    low = band.root(degree, 40)
    tones = [low + 12 + (t - low) % 12 for t in band.chord(degree, 52)]
    order = ((0, 1, 2, 1, 0, 1, 2, 1), (0, 2, 1, 2, 0, 2, 1, 2), (0, 1, 2, 0, 1, 2, 1, 0))[artist.pattern]
    for i, which in enumerate(order):
        band.add(artist.fill, at + i / 2, 1, sorted(tones)[which], 76)
    band.add(artist.bass, at, 4, low, 84)
    if other:
        for pitch in band.chord(degree, 60):
            band.add(48, at, 4, pitch, 58)
        band.drum("x.....x.", KICK, at, 74)
        band.drum("....x...", STICK, at, 74)


GENRES = (
    Genre("Chorale", 4, (72, 88), 0.4, (73, 68, 71, 52, 19, 40), (19, 48, 52), (19, 42, 70),
          ((0, 4, 5, 2, 3, 0, 4, 0), (0, 3, 4, 0, 5, 3, 4, 4), (0, 5, 3, 4, 0, 3, 4, 0), (0, 2, 5, 3, 1, 4, 0, 4)),
          ((2, 2, 2, 2), (4, 2, 2), (2, 2, 4), (3, 1, 2, 2), (4, 4)), _chorale),
    Genre("Waltz", 3, (150, 190), 0.3, (40, 21, 71, 73, 22, 65), (0, 21, 24, 46), (32, 43, 0),
          ((0, 0, 4, 4, 4, 4, 0, 0), (0, 5, 1, 4, 0, 5, 1, 4), (0, 3, 4, 0, 3, 0, 4, 0), (0, 0, 3, 3, 1, 4, 0, 4)),
          ((2, 2, 2), (4, 2), (6,), (3, 1, 2), (2, 1, 1, 2)), _waltz),
    Genre("Electronic", 4, (118, 134), 0.8, (80, 81, 87, 82, 84, 62), (81, 80, 90, 88), (38, 39, 87),
          ((0, 5, 2, 6, 0, 5, 2, 6), (0, 0, 5, 5, 3, 3, 4, 4), (5, 3, 0, 4, 5, 3, 0, 4), (0, 6, 5, 6, 0, 6, 5, 4)),
          ((3, 3, 2), (1, 1, 2, 1, 1, 2), (4, 4), (3, 1, 2, 2), (6, 2), (1, 2, 1, 2, 2)), _electronic),
    Genre("Boogie", 4, (140, 168), 0.0, (66, 26, 16, 56, 29, 22), (0, 16, 27), (0, 32, 33),
          ((0, 0, 0, 0, 3, 3, 0, 0), (0, 3, 0, 0, 4, 3, 0, 4), (3, 3, 0, 0, 4, 3, 0, 4)),
          ((1, 1, 2, 2, 2), (2, 1, 1, 4), (3, 1, 1, 1, 2), (1, 1, 1, 1, 4), (2, 2, 1, 1, 2)),
          _boogie, BLUES, swing=True),
    Genre("Ballad", 4, (72, 88), 0.5, (73, 40, 60, 11, 75, 68), (24, 0, 4, 46), (32, 35, 42),
          ((0, 5, 3, 4, 0, 5, 3, 4), (0, 4, 5, 3, 0, 4, 3, 0), (5, 3, 0, 4, 5, 3, 4, 4), (0, 2, 3, 4, 5, 3, 4, 0)),
          ((4, 2, 2), (2, 2, 4), (3, 1, 4), (2, 1, 1, 4), (6, 2)), _ballad),
)  # fmt: skip


def shortened(piece: Piece, seconds: float) -> Piece:
    """The first ``seconds`` of a piece, cut at a beat: for tests and tries."""
    length = int(seconds * piece.minute / 60) * BEAT
    parts = {program: [n for n in notes if n.start < length] for program, notes in piece.parts.items()}
    return piece if length >= piece.length else replace(piece, length=length, parts=parts)
