"""The report: one file that needs nothing beside it, says what it was told, and draws what is there."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from matplotlib import pyplot
from matplotlib.image import imread

from audiovae.errors import ConfigError, OutputError, ShapeError
from audiovae.metrics import Interval
from audiovae.report import (
    Report,
    Table,
    draw_codes,
    draw_loss,
    draw_spectrograms,
    draw_usage,
    draw_waveform,
)

EVIL = "<script>alert('&')</script>\""
VOID = {"meta", "img", "source", "link", "br", "hr"}


class Page(HTMLParser):
    """Tags that balance, what is linked, and what is read."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.alts: list[str] = []
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [(tag, value) for name, value in attrs if name in ("src", "srcset", "href")]
        self.alts += [value for name, value in attrs if name in ("alt", "aria-label")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page() -> Page:
    report = Report(EVIL, lead=EVIL)
    report.section(EVIL)
    report.text(EVIL)
    report.audio(EVIL, torch.zeros(800), 16000)
    report.audio("second", torch.zeros(2, 800), 44100)
    report.table(Table((EVIL, "n"), [(EVIL, 1)]), EVIL)
    report.figure(EVIL, draw_waveform(torch.randn(100), 16000))
    return Page(report.html())


def test_nothing_outside_the_page_is_needed(page):
    assert len(page.links) == 4
    assert all(value.startswith("data:") for _, value in page.links)
    assert not re.search(r"url\(|@import|https?:", "".join(page.words))


def test_every_text_is_shown_as_it_was_given_and_never_run(page):
    assert "script" not in page.tags
    assert sum(word.strip() == EVIL for word in page.words) == 10, "title, h1, lead, h2, p, 2 cells, 3 captions"
    assert page.alts.count(EVIL) == 4, "spoken: the player, the table, and the picture with its frame"


def sounds(report: Report) -> list[tuple[np.ndarray, int]]:
    found = [value for tag, value in Page(report.html()).links if tag == "audio"]
    return [soundfile.read(io.BytesIO(base64.b64decode(value.partition("base64,")[2]))) for value in found]


def test_players_play_what_was_given():
    report, wave = Report("x"), torch.rand(2, 3000) * 2 - 1
    report.audio("mono", wave[0], 16000)
    report.audio("stereo", wave.numpy(), 44100)
    report.audio("loud", 4 * wave[0] / wave[0].abs().max(), 8000)
    (mono, rate), (stereo, _), (loud, _) = sounds(report)
    assert rate == 16000 and np.abs(mono - wave[0].numpy()).max() < 2 / 32768
    assert np.abs(stereo.T - wave.numpy()).max() < 2 / 32768
    assert np.abs(loud - (wave[0] / wave[0].abs().max()).numpy()).max() < 2 / 32768
    assert "loud (turned down by 12.0 dB to fit)" in report.html() and "mono (" not in report.html()
    assert report.html().count('<div class="players">') == 1, "one row of players"


@pytest.mark.parametrize("wave", [torch.zeros(0), torch.zeros(1, 1, 5), torch.tensor([0.0, math.nan])])
def test_a_player_of_what_is_no_sound(wave):
    with pytest.raises(ShapeError, match=r"Report\.audio"):
        Report("x").audio("", wave, 16000)


def test_a_figure_is_inked_for_light_and_for_dark_pages():
    report = Report("x")
    report.figure("c", draw_waveform(torch.randn(1000), 16000))
    links = dict(Page(report.html()).links)
    shades = []
    for tag in ("img", "source"):
        pixels = imread(io.BytesIO(base64.b64decode(links[tag].partition("base64,")[2])))
        assert (pixels[0, :, 3] == 0).all(), "no ground of its own"
        grey = (pixels[..., 3] > 0.9) & (np.ptp(pixels[..., :3], axis=-1) < 0.1)  # axes and letters
        shades.append(pixels[grey][:, 0].mean())
    assert shades[0] < 0.35 and shades[1] > 0.65


def test_a_page_appears_whole_or_not_at_all(tmp_path):
    Report("Grüße").write(tmp_path / "a.html")
    assert "<h1>Grüße</h1>" in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(OutputError):
        Report("x").write(tmp_path / "a.html" / "b.html")
    with pytest.raises(OutputError):
        Report("x").write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_figures_leave_the_state_of_matplotlib_alone():
    before = pyplot.get_fignums(), dict(pyplot.rcParams)
    draw_spectrograms({"x": torch.randn(900)}, 16000)
    assert (pyplot.get_fignums(), dict(pyplot.rcParams)) == before


def test_a_table_on_screen():
    table = Table(("what", "value", "n"), [("short", Interval(9.3, 0.41, 5), 3), ("longer name", None, 1200)])
    assert table.text().splitlines() == [
        "what             value     n",
        "short        9.3 ± 0.4     3",
        "longer name          –  1200",
    ]


@pytest.mark.parametrize(("column", "shown"), [
    ([120.4, 3.21], ["120.40", "3.21"]), ([0.001234, 5.0], ["0.0012", "5.0000"]), ([1234.5], ["1234"]),
    ([0.0, 2.5], ["0.00", "2.50"]), ([math.inf, -math.inf, math.nan, 1.0], ["∞", "-∞", "–", "1.00"]),
    ([3e-9, 1.0], ["3.00e-09", "1.0000"]), ([7, 12], ["7", "12"]), ([np.float64(0.5)], ["0.500"]),
])
def test_numbers_of_a_column_share_their_decimals(column, shown):
    lines = Table(("x",), [(value,) for value in column]).text().splitlines()[1:]
    assert [line.strip() for line in lines] == shown


def test_a_table_for_programs():
    table = Table(("a", "b"), [(Interval(1.5, math.nan, 1), "x"), (math.inf, None), (np.int64(3), np.float64(0.5))])
    assert json.loads(table.json()) == [
        {"a": {"mean": 1.5, "half_width": None, "count": 1}, "b": "x"},
        {"a": "inf", "b": None}, {"a": 3, "b": 0.5},
    ]


def test_a_table_on_the_page():
    html = str(Table(("name", "n"), [("a", 1)]).html())
    assert '<th scope="col" class="number">n</th>' in html and '<th scope="row">a</th>' in html
    assert '<td class="number">1</td>' in html
    Page(html)
    with pytest.raises(ShapeError, match="2 cells a row"):
        Table(("a", "b"), [(1,)])


def test_a_tone_lies_at_its_frequency_in_its_panel():
    rate = 16000
    t = torch.arange(rate) / rate
    waves = {f"{hertz}": amplitude * (2 * math.pi * hertz * t).sin() for hertz, amplitude in ((1000, 1), (5000, 0.1))}
    figure = draw_spectrograms(waves, rate)
    peaks = []
    for axes, hertz in zip(figure.axes, (1000, 5000), strict=False):
        image = axes.get_images()[0]
        level = np.asarray(image.get_array())[:, 40]
        assert list(image.get_extent()) == [0, 1, 0, 8]
        assert level.argmax() / (len(level) - 1) * rate / 2 == pytest.approx(hertz, abs=20)
        peaks.append(level.max())
    assert peaks[0] == pytest.approx(0, abs=0.5), "0 dB is the loudest of all"
    assert peaks[1] == pytest.approx(-20, abs=0.5)


def test_a_long_recording_is_drawn_in_few_columns():
    wave = torch.zeros(90 * 8000)
    wave[45 * 8000] = 1.0
    image = np.asarray(draw_spectrograms({"x": wave}, 8000).axes[0].get_images()[0].get_array())
    assert image.shape[1] <= 1400
    assert image.max(axis=0).argmax() / image.shape[1] == pytest.approx(0.5, abs=0.01)


def test_codes_usage_and_loss_are_drawn_as_they_are(tmp_path):
    codes = np.array([[0, 3, 1], [7, 0, 2]])
    image = draw_codes(codes, (4, 8), 0.5).axes[0].get_images()[0]
    assert np.allclose(image.get_array(), codes / np.array([[3], [7]]))
    assert list(image.get_extent()) == [0, 1.5, 2.5, 0.5], "the first quantizer on top"
    panels = draw_usage([np.array([0, 6, 2, 0])] * 5).axes
    assert [axes.get_title(loc="left") for axes in panels if axes.axison] == [f"{i}: 50% used" for i in range(1, 6)]
    rows = [{"step": s, "minutes": s, "split": split, "distortion": s / 7} for s in (1, 2, 3)
            for split in ("train", "valid")] + [{"step": 3, "minutes": 3, "split": "train", "rate": 9.0}]
    (log := tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    top, bottom = draw_loss(log, ["distortion", "rate"]).axes
    assert [line.get_label() for line in top.lines] == ["train", "valid"]
    assert all(np.allclose(line.get_ydata(), np.array([1, 2, 3]) / 7) for line in top.lines)
    assert [list(line.get_xdata()) for line in bottom.lines] == [[3]]
    bits = [row | {"bits_per_dimension": 2.0, "bits_of": "mass of 17 levels"} for row in rows[:2]]
    (told := tmp_path / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bits))
    assert draw_loss(told, ["bits_per_dimension"]).axes[0].get_title(loc="left").endswith("(mass of 17 levels)")
    with pytest.raises(ConfigError, match=r"'distortoin' was logged; nearest: distortion"):
        draw_loss(log, ["distortoin"])
    for text in ("", "{", "[1]", '{"a": 1}'):
        log.write_text(text)
        with pytest.raises(ConfigError, match="no training log"):
            draw_loss(log, ["distortion"])
    with pytest.raises(ConfigError, match="no training log"):
        draw_loss(tmp_path / "none", ["distortion"])


@pytest.mark.parametrize("draw", [
    lambda: draw_waveform(torch.zeros(0), 8000), lambda: draw_waveform(torch.zeros(1, 9), 8000),
    lambda: draw_spectrograms({}, 8000), lambda: draw_spectrograms({"x": torch.tensor([math.nan])}, 8000),
    lambda: draw_codes(np.zeros((2, 0), int), (4, 4), 1), lambda: draw_codes(np.zeros((2, 3), int), (4,), 1),
    lambda: draw_usage([]), lambda: draw_usage([np.zeros(4, int)]),
])
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ShapeError, match="draw_"):
        draw()


@pytest.mark.parametrize("length", [1, 2, 100])
def test_the_shortest_sounds_are_drawn(length):
    report = Report("x")
    report.figure("w", draw_waveform(torch.randn(length), 16000))
    report.figure("s", draw_spectrograms({"x": torch.zeros(length)}, 16000))
    assert report.html()
