"""An attribute vector put on show: what it moves, and what else changes on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from audiovae.errors import LabelError
from audiovae.gallery.exhibit import Exhibit, show
from audiovae.gallery.study import Study, marks, pick
from audiovae.latents import Judge, Move, attribute_vector, generate, locate, pooled, report_move, train_judge
from audiovae.metrics import Interval, mean_interval
from audiovae.report import Table
from audiovae.report.moves import draw_move

AMOUNTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
OTHERS = 5  # other probabilities that are told, those that change most
MOVED = 200  # examples, at most


def attribute(study: Study, having: Sequence[str] = (), without: Sequence[str] = (), by: str = "label",
              amounts: Sequence[float] = AMOUNTS, shown: int = 8) -> Exhibit:
    """A vector from examples of some groups against others, held-out examples moved along it, and what changed.

    The vector and the judges are of training data; what moves are held-out examples of the other groups, or where
    their groups are unknown, all. Without ``having`` the first group is meant, without ``without`` all others are.

    Raises LabelError on a group that no training example is in, or when one side is empty.

    >>> from audiovae.gallery.study import example_study
    >>> attribute(example_study(), having=["a"]).sentence[:59]
    'The vector of a against b, c, found in 30 training examples'
    """
    groups = study.groups(study.train, by)
    having = having or [min(group for group in groups if group is not None)]
    has = marks(groups, having, without)
    without = without or sorted({group for group in groups if group is not None} - set(having))
    if not (has == 0).any():
        raise LabelError(f"latents: all training examples with a group by '{by}' are in {', '.join(having)}: there is "
                         "nothing to set them against.")
    known = has >= 0
    z = pooled(study.places) if study.places.ndim == 3 else study.places  # of sound what lasts, not when it is said
    vector = attribute_vector(z[known], has[known] == 1)
    wanted, other = f"is {', '.join(having)}", f"is {', '.join(without)}"
    judges = [train_judge(study.train.x, has, (other, wanted), study.sample_rate)]
    label = study.train.condition.label
    if label is not None and len(label[label >= 0].unique()) > 2:
        judges.append(train_judge(study.train.x, label, study.model.data.labels, study.sample_rate))

    told, truth = study.told(study.held_out), _held_out_marks(study, having, without, by)
    moving = (truth == 0 if (truth == 0).any() else truth < 1).nonzero().flatten()[:MOVED]
    start, told = locate(study.model, study.held_out.x[moving], pick(told, moving)), pick(told, moving)
    moved = report_move(study.model, start, vector, amounts, judges, told)
    few = slice(0, shown if study.sample_rate is None else 1)
    rows = [generate(study.model, start[few] + amount * vector, pick(told, few)) for amount in amounts]
    sentence = (f"The vector of {', '.join(having)} against {', '.join(without)}, found in {int(known.sum())} training "
                f"examples, moves {len(moving)} held-out ones; a logistic regression judges"
                f"{_accuracy(judges[0], study, truth)}.")
    exhibit = show("attribute", "Attribute vector", sentence, rows, [f"{amount:+g}" for amount in amounts],
                   "From top to bottom, more of the attribute", study.sample_rate, study.mel)
    chances = _told_chances(moved, wanted, dropped={other, *(having if len(having) == 1 else ())})
    distance = [mean_interval(row.tolist()) for row in moved.distance]
    exhibit.figures["Mean probability, by the judges; in bold what is wanted"] = draw_move(moved.amounts, chances)
    exhibit.tables["Means over held-out examples with 95 % intervals; change in data: root mean square"] = Table(
        ("amount", *chances, "change in data"),
        [(f"{amount:+g}", *map(str, row)) for amount, *row in zip(amounts, *chances.values(), distance, strict=True)])
    return exhibit


def _held_out_marks(study: Study, having: Sequence[str], without: Sequence[str], by: str) -> Tensor:
    """1, 0 and -1 for held-out examples as for training ones; all -1 where nothing is known of them."""
    try:
        groups = study.groups(study.held_out, by)
    except LabelError:  # speakers held out have no label
        return torch.full((len(study.held_out.x),), -1)
    return torch.tensor([1 if group in having else 0 if group in without else -1 for group in groups])


def _accuracy(judge: Judge, study: Study, truth: Tensor) -> str:
    known = truth >= 0
    if not known.any():
        return " (its accuracy on held-out data is not known)"
    share = judge.accuracy(study.held_out.x[known], truth[known])
    return f" (right on {share:.0%} of {int(known.sum())} held-out examples)"


def _told_chances(moved: Move, wanted: str, dropped: set[str]) -> dict[str, list[Interval]]:
    """The probability of what is wanted at each amount, then of those others that change most.

    ``dropped`` is not told: the complement of what is wanted, and its own label's.
    """
    others = {name: float(row.mean(1).max() - row.mean(1).min()) for name, row in moved.chances.items()
              if name != wanted and name not in dropped}
    most = sorted(others, key=lambda name: -others[name])[:OTHERS]
    return {name: [mean_interval(row.tolist()) for row in moved.chances[name]] for name in (wanted, *most)}
