"""What a move through latent space does to what a classifier sees, as a figure."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from audiovae.errors import ShapeError
from audiovae.metrics import Interval
from audiovae.report.figures import FIRST, SECOND, TEXT, WIDTH


def draw_move(amounts: Sequence[float], chances: Mapping[str, Sequence[Interval]]) -> Figure:
    """Mean probability of each name with its interval, at each amount of a vector; the first name stands out.

    ShapeError unless there is an interval for each of at least two amounts.

    >>> chances = {"smiling": [Interval(0.1, 0.02, 50), Interval(0.8, 0.03, 50)]}
    >>> draw_move([0, 1], chances).axes[0].get_ylabel()
    'probability'
    """
    if len(amounts) < 2 or not chances or any(len(row) != len(amounts) for row in chances.values()):
        raise ShapeError(f"draw_move wants an interval for each of at least two amounts, got {len(amounts)} amounts "
                         f"and {[len(row) for row in chances.values()]}.")
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    for rank, (name, row) in enumerate(chances.items()):
        color, width = (FIRST, 2.0) if rank == 0 else (SECOND, 0.9)
        mean = [interval.mean for interval in row]
        axes.plot(amounts, mean, color=color, linewidth=width, alpha=1.0 if rank == 0 else 0.7)
        axes.fill_between(amounts, [i.mean - i.half_width for i in row], [i.mean + i.half_width for i in row],
                          color=color, alpha=0.15, linewidth=0)
        top = max(range(len(mean)), key=mean.__getitem__)  # where lines lie apart the most
        axes.annotate(name, (amounts[top], mean[top]), xytext=(3, 3), textcoords="offset points", fontsize=TEXT)
    axes.set(ylim=(-0.02, 1.1), xlim=(amounts[0], amounts[-1] + 0.1 * (amounts[-1] - amounts[0])))
    axes.set_xlabel("amount of the vector", fontsize=TEXT)
    axes.set_ylabel("probability", fontsize=TEXT)
    axes.tick_params(labelsize=TEXT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
