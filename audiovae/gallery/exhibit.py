"""An exhibit: pictures or sounds, tables, and a sentence on what is seen; for a folder of files or for a page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from audiovae.audio.io import write_audio
from audiovae.audio.spectrogram import sound_of
from audiovae.files import atomic_file
from audiovae.report import Report, Table, draw_spectrograms
from audiovae.report.pictures import draw_pictures
from audiovae.shapes import MelSpec

DPI = 144
PANELS = 5  # spectrograms above each other, at most about so many
PLAYED = 4  # pictures of a row that are heard, where pictures are of sound


@dataclass
class Exhibit:
    """One thing to see or hear.

    name, title : of its files, and on a page.
    sentence : what it shows, of how much data.
    figures, tables : by caption. sounds : waveforms (T,) by caption, at ``sample_rate`` Hz.
    """

    name: str
    title: str
    sentence: str
    figures: dict[str, Figure] = field(default_factory=dict)
    sounds: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    sample_rate: int | None = None

    def write(self, folder: Path) -> list[Path]:
        """One .png a figure, one .json a table, one .wav a sound, named by its caption; which. OutputError as files."""
        paths = []
        for i, figure in enumerate(self.figures.values()):
            paths.append(folder / f"{self.name}{f'-{i + 1}' if len(self.figures) > 1 else ''}.png")
            with atomic_file(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=DPI, facecolor="white", bbox_inches="tight")
        for i, table in enumerate(self.tables.values()):
            paths.append(folder / f"{self.name}{f'-{i + 1}' if len(self.tables) > 1 else ''}.json")
            with atomic_file(paths[-1]) as temporary:
                temporary.write_text(table.json() + "\n")
        for i, (caption, wave) in enumerate(self.sounds.items()):
            assert self.sample_rate is not None
            paths.append(folder / f"{self.name}-{i + 1:02d} {re.sub(r'[^A-Za-z0-9+.%-]+', '_', caption)}.wav")
            write_audio(paths[-1], wave, self.sample_rate)
        return paths

    def put_on(self, report: Report) -> None:
        report.section(self.title)
        report.text(self.sentence)
        for caption, wave in self.sounds.items():
            assert self.sample_rate is not None
            report.audio(caption, wave, self.sample_rate)
        for caption, figure in self.figures.items():
            report.figure(caption, figure)
        for caption, table in self.tables.items():
            report.table(table, caption)


def show(name: str, title: str, sentence: str, rows: Sequence[Tensor], names: Sequence[str] = (), caption: str = "",
         sample_rate: int | None = None, mel: MelSpec | None = None) -> Exhibit:
    """Rows of pictures (N, C, H, W) as one figure; of sound the first of each row (N, C, T) as players, some drawn.

    ``names`` are of the rows, and may be left out for pictures. Pictures that are of sound, by ``mel``, are drawn with
    the low bands below, and the first few of each row that has a name are heard one after the other.

    >>> import torch
    >>> pair = show("pair", "Pair", "Two tones.", 2 * [torch.rand(1, 1, 4000)], ["low", "high"], sample_rate=8000)
    >>> list(pair.sounds)
    ['low', 'high']
    """
    if mel is not None:
        heard = {label: sound_of(row[:PLAYED], mel).flatten() for label, row in zip(names, rows, strict=bool(names))}
        upright = draw_pictures([row.flip(2) for row in rows], names)
        return Exhibit(name, title, sentence, {caption or sentence: upright}, heard, sample_rate=mel.sample_rate)
    if sample_rate is None:
        return Exhibit(name, title, sentence, {caption or sentence: draw_pictures(rows, names)})
    waves = {label: row[0].mean(0) for label, row in zip(names, rows, strict=True)}
    some = dict(list(waves.items())[::-(-len(waves) // PANELS)])
    return Exhibit(name, title, sentence, {caption or sentence: draw_spectrograms(some, sample_rate)}, waves,
                   sample_rate=sample_rate)
