"""Attribute vectors: the direction in latent space in which an attribute grows, and what else changes on the way.

Larsen 2016, section 3.3 (the mean of those that have it minus the mean of those that do not).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.features import LogMel
from audiovae.errors import ShapeError
from audiovae.latents.coding import generate
from audiovae.models import Model
from audiovae.shapes import Condition

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def attribute_vector(z: Tensor, has: Tensor, against: Sequence[Tensor] = ()) -> Tensor:
    """Mean latent of those that have an attribute minus that of the others: z (B, D, *grid), has (B,) -> (D, *grid).

    ``against`` are vectors of other attributes: what lies in their span is taken out, so that a move along the
    result is orthogonal to each of them.

    Raises ShapeError where all or none have the attribute, or the shapes do not fit.

    >>> attribute_vector(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([True, False]),
    ...                  against=[torch.tensor([0.0, 1.0])])
    tensor([1., 0.])
    """
    has = has.bool()
    if has.shape != z.shape[:1] or has.all() or not has.any():
        raise ShapeError(f"attribute_vector wants (B={len(z)},) marks, some true and some false, got "
                         f"{tuple(has.shape)} with {int(has.sum())} true.")
    if any(other.shape != z.shape[1:] for other in against):
        raise ShapeError(f"attribute_vector wants vectors of {tuple(z.shape[1:])} to go against, got "
                         f"{[tuple(other.shape) for other in against]}.")
    vector = z[has].mean(0) - z[~has].mean(0)
    if against:
        span = torch.stack([other.flatten() for other in against], dim=1).double()
        flat = vector.flatten().double()
        vector = (flat - span @ torch.linalg.pinv(span) @ flat).view_as(vector).to(z.dtype)
    return vector


def pooled(z: Tensor) -> Tensor:
    """z (B, D, *grid) averaged over its grid, (B, D, 1) or (B, D, 1, 1): of sound, what lasts.

    >>> pooled(torch.arange(6.0).view(1, 2, 3))[0, :, 0]
    tensor([1., 4.])
    """
    return z.flatten(2).mean(2).view(*z.shape[:2], *[1] * (z.ndim - 2))


def move(z: Tensor, vector: Tensor, amounts: Sequence[float]) -> Tensor:
    """One latent z (D, *grid) plus each of A ``amounts`` of a vector, the same or pooled: (A, D, *grid).

    With an attribute's vector 1 is the whole way from the mean of those without to the mean of those with it.

    >>> move(torch.zeros(2), torch.tensor([1.0, 3.0]), amounts=[0, 0.5])
    tensor([[0.0000, 0.0000],
            [0.5000, 1.5000]])
    """
    return z + torch.tensor(amounts, dtype=z.dtype).view(-1, *[1] * z.ndim) * vector


@dataclass(frozen=True)
class Judge:
    """A logistic regression that says which of ``names`` it sees or hears; see :func:`train_judge`."""

    names: tuple[str, ...]
    regression: "Pipeline"
    sample_rate: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Data (B, C, *grid) to the probability of each name, (B, S), 0 of names it was never shown."""
        known = self.regression[-1].classes_
        chances = torch.zeros(len(x), len(self.names), dtype=torch.float64)
        chances[:, known] = torch.from_numpy(self.regression.predict_proba(_seen(x, self.sample_rate)))
        return chances.float()

    def accuracy(self, x: Tensor, label: Tensor) -> float:
        """The share of data (B, C, *grid) with labels (B,) whose likeliest name is the right one."""
        return float((self(x).argmax(1) == label).float().mean())


def train_judge(x: Tensor, label: Tensor, names: Sequence[str], sample_rate: int | None = None) -> Judge:
    """A judge of labels (B,), indices into ``names``, from data (B, C, *grid): multinomial logistic regression.

    It reads pixels, or of sound at ``sample_rate`` Hz the mean and spread of each log-mel band over time, each made
    to mean 0 and spread 1. Examples labelled -1 are left out. It is no better than a linear reader of these is:
    state its accuracy on held-out data beside what it says.

    Raises ShapeError when there are no two classes to tell apart.

    >>> judge = train_judge(torch.tensor([0.0, 0.1, 0.9, 1.0]).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 1]),
    ...                     names=("dark", "light"))
    >>> judge(torch.ones(1, 1, 1, 1)).argmax()
    tensor(1)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = label >= 0
    if len(label) != len(x) or len(label[known].unique()) < 2:
        raise ShapeError(f"train_judge wants one label an example and at least two classes, got {len(label)} "
                         f"labels for {len(x)} examples with {len(label[known].unique())} classes.")
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return Judge(tuple(names), regression.fit(_seen(x[known], sample_rate), label[known].numpy()), sample_rate)


@dataclass(frozen=True)
class Move:
    """What B examples became when moved by A amounts of a vector.

    chances : of each name that a judge knows, (A, B).
    distance : (A, B) root mean square change of the data from the decoded example itself, in the data's unit.
    """

    amounts: tuple[float, ...]
    chances: dict[str, Tensor]
    distance: Tensor


def report_move(model: Model, z: Tensor, vector: Tensor, amounts: Sequence[float], judges: Sequence[Judge],
                condition: Condition | None = None) -> Move:
    """Move latents z (B, D, *grid) along a vector, decode, and let judges say what changed, wanted or not.

    The name of an attribute and the names of all else can be of different judges; a name that two have is the
    last one's.

    >>> from audiovae.latents.example import example_vae
    >>> judge = train_judge(torch.rand(6, 1, 8, 8), torch.arange(6) % 2, names=("dark", "light"))
    >>> moved = report_move(example_vae(), torch.zeros(3, 2, 1, 1), torch.ones(2, 1, 1), [-1, 0, 1], [judge])
    >>> moved.chances["light"].shape, moved.distance[1]
    (torch.Size([3, 3]), tensor([0., 0., 0.]))
    """
    start = generate(model, z, condition)
    chances: Mapping[str, list[Tensor]] = {name: [] for judge in judges for name in judge.names}
    distances = []
    for amount in amounts:
        x = generate(model, z + amount * vector, condition)
        distances.append((x - start).flatten(1).square().mean(1).sqrt())
        for name, column in {n: c for judge in judges for n, c in zip(judge.names, judge(x).T, strict=True)}.items():
            chances[name].append(column)
    return Move(tuple(amounts), {name: torch.stack(rows) for name, rows in chances.items()}, torch.stack(distances))


def _seen(x: Tensor, sample_rate: int | None) -> np.ndarray:
    """What a judge reads of data (B, C, *grid): (B, F) float64."""
    if sample_rate is not None:
        mel = LogMel(sample_rate, n_fft=1024, hop=256, num_mels=40)(x.mean(1, keepdim=True))
        x = torch.cat([mel.mean(2), mel.std(2, correction=0)], dim=1)
    return x.flatten(1).double().numpy()
