"""Pictures of sound, codes and training, as matplotlib figures that belong to nobody's global state.

Lines keep to two mid tones, so that a figure can be shown on a light and on a dark page.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from audiovae.audio.features import STFT
from audiovae.errors import ConfigError, ShapeError, nearest
from audiovae.files import json_lines

WIDTH, TEXT = 7.0, 9.0  # inches, points
FIRST, SECOND = "#3f86c9", "#dd7a36"
COLUMNS = 1400  # of a picture along time: more would not be seen
RANGE = 80.0  # dB shown below the loudest


def draw_waveform(wave: Tensor | np.ndarray, sample_rate: int) -> Figure:
    """The lowest and highest sample of a waveform (T,) at each time.

    >>> draw_waveform(torch.randn(16000), 16000).axes[0].get_xlabel()
    'time / s'
    """
    samples = _mono("draw_waveform", wave).numpy()
    columns = np.array_split(samples, min(len(samples), COLUMNS))
    time = np.linspace(0, len(samples) / sample_rate, len(columns))
    figure, (axes,) = _figure(1.6)
    axes.fill_between(time, [c.min() for c in columns], [c.max() for c in columns], color=FIRST, linewidth=0.4)
    axes.set(xlabel="time / s", ylabel="amplitude", xlim=(0, len(samples) / sample_rate))
    return figure


def draw_spectrograms(waves: Mapping[str, Tensor | np.ndarray], sample_rate: int) -> Figure:
    """Spectrograms of waveforms (T,) above each other, by name: one time axis, one scale in dB for all.

    0 dB is the loudest point of all of them, so a quieter recording looks quieter.

    >>> figure = draw_spectrograms({"source": torch.randn(8000), "result": torch.randn(8000)}, 16000)
    >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
    ['source', 'result']
    """
    if not waves:
        raise ShapeError("draw_spectrograms wants at least one waveform, got none.")
    n_fft = 2 ** round(math.log2(0.05 * sample_rate))
    stft = STFT(n_fft, n_fft // 8)
    mono = [_mono("draw_spectrograms", wave) for wave in waves.values()]
    levels = [10 * np.log10(_pool(stft.power(wave).numpy()) + 1e-12) for wave in mono]
    top = max(level.max() for level in levels)
    figure, panels = _figure(1.7 * len(waves) + 0.3, rows=len(waves))
    longest = max(len(wave) for wave in mono) / sample_rate
    image = None
    for axes, name, wave, level in zip(panels, waves, mono, levels, strict=True):
        extent = (0, len(wave) / sample_rate, 0, sample_rate / 2000)
        image = axes.imshow(level.T - top, origin="lower", aspect="auto", extent=extent, cmap="magma",
                            vmin=-RANGE, vmax=0)
        axes.set_title(name, loc="left", fontsize=TEXT)
        axes.set(ylabel="kHz", xlim=(0, longest))
        axes.label_outer()
    panels[-1].set_xlabel("time / s")
    assert image is not None
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=10 * len(waves) + 5)
    bar.set_label("dB", size=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1)
    return figure


def draw_codes(codes: np.ndarray, num_codes: Sequence[int], hop_seconds: float) -> Figure:
    """Codes (Q, L) over time, a row for each quantizer; the shade is the code's place among its K.

    >>> draw_codes(np.zeros((4, 50), dtype=int), (64,) * 4, hop_seconds=0.02).axes[0].get_ylabel()
    'quantizer'
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or len(codes) != len(num_codes) or codes.shape[1] == 0:
        raise ShapeError(f"draw_codes wants (Q={len(num_codes)}, L > 0), got {codes.shape}.")
    figure, (axes,) = _figure(0.9 + 0.25 * len(codes))
    share = codes / np.maximum(1, np.array(num_codes) - 1)[:, None]
    extent = (0, codes.shape[1] * hop_seconds, len(codes) + 0.5, 0.5)
    image = axes.imshow(share, aspect="auto", interpolation="nearest", extent=extent, cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="time / s", ylabel="quantizer", yticks=range(1, len(codes) + 1, -(-len(codes) // 8)))
    bar = figure.colorbar(image, ax=axes, pad=0.01, ticks=[0, 1])
    bar.ax.set_yticklabels(["0", "K-1"], fontsize=TEXT - 1)
    return figure


def draw_usage(counts: Sequence[np.ndarray]) -> Figure:
    """How often each code occurs, most frequent first; one panel for each quantizer's counts (K,).

    The line is where all would lie if they were equally likely; what is missing on the right is unused.

    >>> figure = draw_usage([np.array([8, 4, 0, 2]), np.array([1, 1, 1, 1])])
    >>> figure.axes[0].get_title(loc="left")
    '1: 75% used'
    """
    if not counts or not all(len(c) and c.sum() for c in counts):
        raise ShapeError("draw_usage wants counts (K,) of at least one code for each quantizer.")
    across = min(4, len(counts))
    rows = -(-len(counts) // across)
    figure, panels = _figure(0.5 + 1.5 * rows, rows=rows, columns=across)
    least = min(0.3 / c.sum() for c in counts)
    for index, (axes, count) in enumerate(zip(panels, counts, strict=False)):
        share = np.sort(count)[::-1] / count.sum()
        axes.fill_between(np.arange(len(share)), least, np.maximum(share, least), step="mid", color=FIRST, linewidth=0)
        axes.axhline(1 / len(share), color=SECOND, linewidth=1)
        axes.set(yscale="log", ylim=(least, 1), xlim=(-0.5, len(share) - 0.5))
        axes.set_title(f"{index + 1}: {np.count_nonzero(count) / len(count):.0%} used", loc="left", fontsize=TEXT)
        axes.tick_params(labelleft=index % across == 0, labelbottom=index + across >= len(counts))
    for axes in panels[len(counts):]:
        axes.set_axis_off()
    figure.supxlabel("codes, most frequent first", fontsize=TEXT)
    figure.supylabel("share of all", fontsize=TEXT)
    return figure


def draw_loss(log: str | Path, names: Sequence[str]) -> Figure:
    """The course of training from its ``log.jsonl``: a panel for each name, a line for each split.

    Raises ConfigError where the log cannot be read, or has no such name (with the nearest known one).

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = log.write_text('{"step": 1, "minutes": 0.1, "split": "train", "distortion": 2.5}')
    >>> draw_loss(log, ["distortion"]).axes[0].get_title(loc="left")
    'distortion'
    """
    try:
        lines = json_lines(Path(log))
        splits = list(dict.fromkeys(line["split"] for line in lines))
        steps = max(line["step"] for line in lines)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{log}: no training log ({' '.join(str(error).split())}).") from None
    known = sorted({key for line in lines for key in line} - {"step", "minutes", "split", "bits_of"})
    figure, panels = _figure(1.7 * len(names) + 0.2, rows=len(names))
    for axes, name in zip(panels, names, strict=True):
        if name not in known:
            raise ConfigError(f"{log}: nothing called '{name}' was logged; {nearest(name, known)}.")
        for split, color in zip(splits, (FIRST, SECOND), strict=False):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            if points:
                few = len(points) < 20
                axes.plot(*zip(*points, strict=True), color=color, label=split, linewidth=1.4,
                          marker="o" if few else None, markersize=3)
        of = next((f" ({line['bits_of']})" for line in lines if name == "bits_per_dimension" and "bits_of" in line), "")
        axes.set_title(name + of, loc="left", fontsize=TEXT)
        axes.set_xlim(0, 1.02 * steps)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.label_outer()
    panels[-1].set_xlabel("step")
    panels[0].legend(frameon=False, loc="upper right", fontsize=TEXT)
    return figure


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=columns == 1, sharey=columns > 1).ravel().tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TEXT - 1)
        axes.xaxis.label.set_size(TEXT)
        axes.yaxis.label.set_size(TEXT)
    return figure, panels


def _mono(owner: str, wave: Tensor | np.ndarray) -> Tensor:
    samples = torch.as_tensor(wave).detach().float().cpu()
    if samples.ndim != 1 or not len(samples) or not torch.isfinite(samples).all():
        raise ShapeError(f"{owner} wants finite samples (T,) with T > 0, got {tuple(samples.shape)}.")
    return samples


def _pool(power: np.ndarray) -> np.ndarray:
    """(L, F) to at most COLUMNS rows, each the mean of its neighbours."""
    if len(power) <= COLUMNS:
        return power
    return np.stack([part.mean(axis=0) for part in np.array_split(power, COLUMNS)])
