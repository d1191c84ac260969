"""Render the embedded default corpus of music: five genres of our own small composer, on General MIDI instruments.

    python data/demo_music.py OUT [--hours 1] [--rate 22050] [--seed 0]

writes OUT for `audiovae prepare music OUT`: ARTIST/NUMBER.flac (mono, 16 bits), tags.csv with file, artist, genre, mode
and title, and split.txt, in which each genre has three artists to train on, one for valid and one for test. Pieces last
20 to 60 s. The same seed gives the same corpus bit for bit. It proves that a recipe runs, and is no measure of music.
"""

import argparse
import csv
import signal
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from composer import BEAT, DRUMS, GENRES, Piece, artists, compose
from tqdm import tqdm

from audiovae.errors import AudiovaeError, CorpusError
from audiovae.files import atomic_folder

NAMES = (
    "Ada Lark", "Bo Finch", "Cora Wren", "Dov Heron", "Edda Swift", "Finn Plover", "Greta Dunlin", "Hugo Rook",
    "Ines Martin", "Jonas Crane", "Kaja Starling", "Leo Avocet", "Mira Teal", "Nils Kestrel", "Oona Siskin",
    "Pavel Curlew", "Quinn Bunting", "Rosa Egret", "Sven Dipper", "Tilda Pipit", "Umar Linnet", "Vera Grebe",
    "Wim Osprey", "Xenia Dove", "Yuri Thrush",
)  # fmt: skip
PARTS = ("train", "train", "train", "valid", "test")  # of a genre's artists
FIRST = ("Quiet", "Long", "Blue", "Morning", "Paper", "Winter", "Second", "Open", "Low", "Bright", "Old", "Slow")
LAST = ("Harbour", "Letter", "Window", "Garden", "Road", "Lantern", "River", "Staircase", "Orchard", "Signal")
RMS, PEAK, TAIL = 0.1, 0.95, 1.5  # level of a piece; s it fades out in
TRIES = 3  # at a piece


class Player:
    """Pieces to samples (T,) float32 at ``sample_rate`` Hz; CorpusError where its packages are missing.

    The synthesizer works in a process of its own, which is started again when it does not answer: it has hung before.
    """

    def __init__(self, sample_rate: int, patience: float = 60):
        fonts = find_spec("pretty_midi")
        if find_spec("symusic") is None or fonts is None or fonts.origin is None:
            raise CorpusError("symusic and pretty_midi are missing: pip install 'audiovae[music]'.")
        self.patience = patience  # s that a piece may take, some hundred times what it does take
        self.settings = Path(fonts.origin).parent / "TimGM6mb.sf2", sample_rate
        self._start()

    def _start(self) -> None:
        processes = get_context("spawn")
        self._pieces, theirs = processes.Pipe()
        self._process = processes.Process(target=play_all, args=(theirs, *self.settings), daemon=True)
        self._process.start()
        theirs.close()

    def play(self, piece: Piece) -> np.ndarray:
        """CorpusError when the synthesizer has died or not answered in time, and that ``TRIES`` times."""
        for _ in range(TRIES):
            with suppress(EOFError, ConnectionError):
                self._pieces.send(piece)
                if self._pieces.poll(self.patience):
                    return self._pieces.recv()
            self._process.kill()
            self._start()
        raise CorpusError(f"symusic was asked {TRIES} times and did not play {piece.title!r}: try another --rate.")


def play_all(pieces: Connection, font: Path, sample_rate: int) -> None:
    """Answer every piece with its samples, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    symusic: Any = import_module("symusic")
    synthesizer = symusic.Synthesizer(sf_path=str(font), sample_rate=sample_rate)
    with suppress(EOFError):
        while True:
            pieces.send(play(symusic, synthesizer, pieces.recv(), sample_rate))


def play(symusic: Any, synthesizer: Any, piece: Piece, sample_rate: int) -> np.ndarray:
    score = symusic.Score(BEAT)
    score.tempos.append(symusic.Tempo(0, piece.minute))
    for program, notes in sorted(piece.parts.items()):
        track = symusic.Track(program=max(program, 0), is_drum=program == DRUMS, name="")
        for note in sorted(notes, key=lambda n: (n.start, n.pitch)):
            track.notes.append(symusic.Note(note.start, note.length, note.pitch, note.level))
        score.tracks.append(track)
    wave = np.asarray(synthesizer.render(score, stereo=False))[0].astype(np.float64)
    fade = min(round(TAIL * sample_rate), len(wave))
    wave[len(wave) - fade:] *= np.cos(np.linspace(0, np.pi / 2, fade)) ** 2
    level = min(RMS / np.sqrt(np.mean(wave**2)), PEAK / np.abs(wave).max())
    return (wave * level).astype(np.float32)


def render(out: Path, hours: float, sample_rate: int, seed: int) -> tuple[int, float]:
    """Write the folder ``out``, whole or not at all; the pieces in it and their seconds."""
    if not 0 < hours <= 100:
        raise CorpusError(f"--hours: wanted more than 0, at most 100, got {hours:g}.")
    if not 16_000 <= sample_rate <= 48_000:  # below, some instruments never come to an end
        raise CorpusError(f"--rate: wanted 16000 to 48000 Hz, got {sample_rate}.")
    players = [artist for i, genre in enumerate(GENRES)
               for artist in artists(genre, NAMES[i::len(GENRES)], np.random.default_rng([seed, i]))]  # fmt: skip
    rows, seconds = [], 0.0
    with atomic_folder(out) as folder, tqdm(total=hours, unit="h", desc="rendering", disable=None) as bar:
        player = Player(sample_rate)
        while seconds < 3600 * hours or len(rows) % len(players):  # each round, every artist writes one
            number, who = divmod(len(rows), len(players))
            artist, dice = players[who], np.random.default_rng([seed, len(GENRES) + who, number])
            piece = compose(artist, f"{dice.choice(FIRST)} {dice.choice(LAST)}", dice)
            wave = player.play(piece)
            name = f"{artist.name}/{number:03d}.flac"
            (folder / name).parent.mkdir(exist_ok=True)
            soundfile.write(folder / name, wave, sample_rate, subtype="PCM_16")
            rows.append([name, artist.name, artist.genre.name, piece.mode, piece.title])
            seconds += len(wave) / sample_rate
            bar.update(len(wave) / sample_rate / 3600)
        with open(folder / "tags.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["file", "artist", "genre", "mode", "title"], *rows])
        parts = [f"{artist.name}\t{PARTS[i % len(PARTS)]}\n" for i, artist in enumerate(players)]
        (folder / "split.txt").write_text("".join(parts), encoding="utf-8")
    return len(rows), seconds


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Render the demo corpus of music, five genres, for prepare music.")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--hours", type=float, default=1.0, help="of music, at least (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=22_050, help="Hz (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other artists and pieces")
    arguments = parser.parse_args(argv)
    try:
        count, seconds = render(arguments.out, arguments.hours, arguments.rate, arguments.seed)
    except AudiovaeError as error:
        print(f"demo_music: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {count} pieces by {len(NAMES)} artists in {len(GENRES)} genres, "
          f"{seconds / 60:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
