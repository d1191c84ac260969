"""Pictures of pictures, and of what a latent costs, as matplotlib figures of one width."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from audiovae.errors import ShapeError
from audiovae.report.figures import FIRST, SECOND, TEXT, WIDTH

SIDE = 0.62  # inches, of a picture where there is room


def draw_pictures(rows: Sequence[Tensor], names: Sequence[str] = ()) -> Figure:
    """Pictures in rows, each (N, C, H, W) in [0, 1] with C 1 or 3, beneath each other; one name for each row or none.

    Rows may be of different length. What leaves [0, 1] is shown as black or white.

    Raises ShapeError without a picture, on other shapes, or where names and rows do not agree.

    >>> figure = draw_pictures([torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8)], ["source", "result"])
    >>> [text.get_text() for text in figure.texts]
    ['source', 'result']
    """
    if not rows or any(row.ndim != 4 or not len(row) or row.shape[1] not in (1, 3) for row in rows) or len(
            {row.shape[2:] for row in rows}) > 1:
        raise ShapeError(f"draw_pictures wants rows of pictures (N > 0, C, H, W) with C 1 or 3, all of one size, got "
                         f"{[tuple(row.shape) for row in rows]}.")
    if names and len(names) != len(rows):
        raise ShapeError(f"draw_pictures wants a name for each of {len(rows)} rows, got {len(names)}.")
    canvas = _tiled(rows)
    margin = 1.3 if names else 0.0
    scale = min(SIDE / (rows[0].shape[3] + 1), (WIDTH - margin) / canvas.shape[1])
    width, height = canvas.shape[1] * scale, canvas.shape[0] * scale
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((margin / WIDTH, 0, width / WIDTH, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for r, name in enumerate(names):
        figure.text(0, 1 - (r + 0.5) / len(rows), name, va="center", fontsize=TEXT)
    return figure


def _tiled(rows: Sequence[Tensor]) -> np.ndarray:
    """One picture (H', W', 4) of all of them, a clear line of one pixel between."""
    height, width = rows[0].shape[2] + 1, rows[0].shape[3] + 1
    canvas = np.zeros((height * len(rows), width * max(map(len, rows)), 4), dtype=np.float32)
    for r, row in enumerate(rows):
        for n, picture in enumerate(row.detach().cpu().float().clamp(0, 1)):
            place = canvas[r * height:(r + 1) * height - 1, n * width:(n + 1) * width - 1]
            place[..., :3], place[..., 3] = picture.permute(1, 2, 0).numpy(), 1
    return canvas


def draw_kl(kl: np.ndarray | Tensor) -> Figure:
    """What each latent dimension says of the data, (D,) nats, the most first.

    >>> draw_kl(np.array([0.1, 2.0])).axes[0].get_ylabel()
    'KL / nats'
    """
    values = np.sort(np.asarray(kl, dtype=float))[::-1]
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(1, len(values) + 1), values, color=FIRST, width=0.85)
    axes.set_xlabel("latent dimension, by its KL", fontsize=TEXT)
    axes.set_ylabel("KL / nats", fontsize=TEXT)
    axes.tick_params(labelsize=TEXT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_groups(nats: Sequence[float]) -> Figure:
    """What each group of a ladder's latents says of the data, nats an example, by level; those below 0.01 are marked.

    >>> draw_groups([2.0, 0.0]).axes[0].get_xlabel()
    'level of the group'
    """
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(nats)), nats, color=FIRST, width=0.85)
    for level in (level for level, value in enumerate(nats) if value < 0.01):
        axes.annotate("×", (level, 0), color=SECOND, ha="center", va="bottom", fontsize=TEXT)
    axes.set_xlabel("level of the group", fontsize=TEXT)
    axes.set_ylabel("KL / nats", fontsize=TEXT)
    axes.tick_params(labelsize=TEXT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_rate_distortion(betas: Sequence[float], rate: Sequence[float], distortion: Sequence[float]) -> Figure:
    """Distortion over rate, nats an example, one point for each β, with the lines of equal sum through them.

    On such a line the ELBO, -(distortion + rate), is one; the lowest line that is touched has the best
    (Alemi 2018, figure 1). ShapeError unless there are as many of each, and at least one.

    >>> figure = draw_rate_distortion([0.5, 1, 2], rate=[20, 15, 10], distortion=[70, 73, 80])
    >>> figure.axes[0].get_xlabel()
    'rate / nats'
    """
    if not betas or not len(betas) == len(rate) == len(distortion):
        raise ShapeError(f"draw_rate_distortion wants a rate and a distortion for each β, got {len(betas)}, "
                         f"{len(rate)} and {len(distortion)}.")
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(rate)
    x, y = np.asarray(rate, dtype=float), np.asarray(distortion, dtype=float)
    low, high = min(0.0, x.min()), 1.15 * max(x.max(), 1e-9)
    for total in x + y:
        best = total == (x + y).min()
        axes.plot((low, high), (total - low, total - high), color=SECOND, linewidth=1.2 if best else 0.5,
                  alpha=1.0 if best else 0.45)
    axes.plot(x[order], y[order], color=FIRST, marker="o", markersize=4, linewidth=1.4)
    for beta, a, b in zip(betas, x, y, strict=True):
        axes.annotate(f"β = {beta:g}", (a, b), xytext=(5, 5), textcoords="offset points", fontsize=TEXT)
    span = max(y.max() - y.min(), 0.05 * abs(y).max(), 1e-9)
    axes.set(xlim=(low, high), ylim=(y.min() - 0.15 * span, y.max() + 0.2 * span))
    axes.set_xlabel("rate / nats", fontsize=TEXT)
    axes.set_ylabel("distortion / nats", fontsize=TEXT)
    axes.tick_params(labelsize=TEXT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
