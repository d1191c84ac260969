"""A page that shows, plays and tells what was done: one HTML file that needs nothing beside it."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from audiovae.errors import ShapeError
from audiovae.files import atomic_file
from audiovae.report.table import Table

DPI = 144
INK = {"light": "#3a3f45", "dark": "#c3c8ce"}  # of axes and labels, on a page of either kind


@dataclass(frozen=True)
class _Player:
    caption: str
    source: str


@dataclass(frozen=True)
class _Block:
    kind: str
    text: str = ""
    table: Markup = Markup("")
    light: str = ""
    dark: str = ""
    players: tuple[_Player, ...] = ()


class Report:
    """A page built from top to bottom, then written. Every text is escaped.

    Parameters
    ----------
    title : shown on top and in the browser's tab.
    lead : a sentence below it.

    >>> report = Report("Two notes", lead="A fifth apart.")
    >>> report.section("Sound")
    >>> report.text("Both last half a second.")
    >>> report.audio("A4", torch.sin(torch.arange(8000) * 2764.6 / 16000), 16000)
    >>> report.table(Table(("note", "Hz"), [("A4", 440), ("E5", 660)]))
    >>> "<h2>Sound</h2>" in report.html()
    True
    """

    def __init__(self, title: str, lead: str = ""):
        self.title, self.lead = title, lead
        self.blocks: list[_Block] = []

    def section(self, heading: str) -> None:
        self.blocks.append(_Block("section", heading))

    def text(self, text: str) -> None:
        """A paragraph."""
        self.blocks.append(_Block("text", text))

    def table(self, table: Table, caption: str = "") -> None:
        self.blocks.append(_Block("table", caption, table=table.html()))

    def audio(self, caption: str, wave: Tensor | np.ndarray, sample_rate: int) -> None:
        """A player of a waveform (T,) or (C, T) in [-1, 1], as 16-bit FLAC; players in a row stand together.

        What is louder is turned down to fit, and the caption says by how much. ShapeError on another shape
        or samples that are not finite.
        """
        samples = torch.as_tensor(wave).detach().cpu().double().numpy()
        if samples.ndim not in (1, 2) or not samples.size or not np.isfinite(samples).all():
            raise ShapeError(f"Report.audio wants finite samples (T,) or (C, T), got {samples.shape}.")
        peak = np.abs(samples).max()
        if peak > 1:
            samples = samples / peak
            caption = f"{caption} (turned down by {20 * math.log10(peak):.1f} dB to fit)"
        file = io.BytesIO()
        soundfile.write(file, samples.T, sample_rate, format="FLAC", subtype="PCM_16")
        player = _Player(caption, _data("audio/flac", file.getvalue()))
        beside = self.blocks.pop().players if self.blocks and self.blocks[-1].kind == "audio" else ()
        self.blocks.append(_Block("audio", players=(*beside, player)))

    def figure(self, caption: str, figure: Figure) -> None:
        """A picture, inked once for light and once for dark pages; the caption is also its spoken text."""
        pictures = []
        for ink in INK.values():
            pictures.append(_data("image/png", _draw(figure, ink)))
            figure.set_layout_engine("none")  # the colour of a text moves nothing: laid out once
        light, dark = pictures
        self.blocks.append(_Block("figure", caption, light=light, dark=dark))

    def html(self) -> str:
        environment = Environment(loader=PackageLoader("audiovae"), autoescape=True, undefined=StrictUndefined,
                                  trim_blocks=True, lstrip_blocks=True)
        template = environment.get_template("report.html.j2")
        return template.render(title=self.title, lead=self.lead, blocks=self.blocks)

    def write(self, path: str | Path) -> None:
        """Write the page, whole or not at all; OutputError where the system refuses."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def _draw(figure: Figure, ink: str) -> bytes:
    """PNG on no ground, axes and texts in one colour."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_color") and hasattr(artist, "get_text")):
        text.set_color(ink)  # pyright: ignore[reportAttributeAccessIssue] - a matplotlib.text.Text
    for axes in figure.axes:
        axes.tick_params(color=ink, labelcolor=ink, which="both")
        for spine in axes.spines.values():
            spine.set_edgecolor(ink)
    figure.savefig(file := io.BytesIO(), format="png", dpi=DPI, transparent=True)
    return file.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
