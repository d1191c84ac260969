"""Matrices as shades: what stands for what, how often; which moments of a piece are alike."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from audiovae.errors import ShapeError
from audiovae.report.figures import TEXT, WIDTH


def draw_matrix(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str] = (), xlabel: str = "",
                ylabel: str = "") -> Figure:
    """Shares (R, C) in [0, 1], dark for 0; a name for each row and, unless there are too many to read, each column.

    ShapeError where the names do not fit.

    >>> draw_matrix(np.eye(2), ["a", "b"], ["a", "b"], xlabel="told as").axes[0].get_xlabel()
    'told as'
    """
    shares = np.asarray(shares, dtype=float)
    if shares.ndim != 2 or not shares.size or len(rows) != len(shares) or len(columns) not in (0, shares.shape[1]):
        raise ShapeError(f"draw_matrix wants (R={len(rows)}, C={len(columns) or 'any'}), got {shares.shape}.")
    figure = Figure(figsize=(WIDTH, 1.2 + 0.14 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=1)
    axes.set_yticks(range(len(rows)), rows, fontsize=TEXT - 3)
    if columns:
        axes.set_xticks(range(len(columns)), columns, fontsize=TEXT - 3, rotation=90)
    axes.tick_params(labelsize=TEXT - 3, length=2)
    axes.set_xlabel(xlabel, fontsize=TEXT)
    axes.set_ylabel(ylabel, fontsize=TEXT)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("share", size=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1)
    return figure


def draw_self_similarity(matrix: np.ndarray, seconds: float) -> Figure:
    """How alike any two moments of a piece of ``seconds`` are (N, N), such as :func:`audiovae.metrics.self_similarity`.

    Stripes beside the diagonal are what is repeated, squares on it are parts that keep their sound.
    ShapeError where the matrix is not square.

    >>> draw_self_similarity(np.eye(8), seconds=20.0).axes[0].get_ylabel()
    'time / s'
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or not matrix.size or len(matrix) != matrix.shape[1]:
        raise ShapeError(f"draw_self_similarity wants (N, N), got {matrix.shape}.")
    figure = Figure(figsize=(0.65 * WIDTH, 0.55 * WIDTH), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, origin="lower", interpolation="nearest", cmap="magma", extent=(0, seconds, 0, seconds),
                        vmin=0, vmax=1)
    axes.set_xlabel("time / s", fontsize=TEXT)
    axes.set_ylabel("time / s", fontsize=TEXT)
    axes.tick_params(labelsize=TEXT - 1)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("likeness", size=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1)
    return figure
