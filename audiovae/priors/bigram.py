"""What counting codes and pairs of them tells: a yardstick for priors, and a place for one to start from."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.errors import ConfigError, CorpusError

SMOOTHING = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
LARGEST = 2**27  # entries of a table, half a gigabyte

Codes = NDArray[np.int64]


class Counts:
    """How often each of K codes occurs in sequences (L,), and each after each.

    A code that never occurs counts half, and a pair leans on the single code: p(b | a) = (n_ab + w p(b)) / (n_a + w).

    single : p(b), (K,).

    >>> tick = Counts([np.tile([0, 1], 50)], size=2)
    >>> round(float(tick.nats(np.array([0, 1, 0, 1]), weight=0.3)), 3)  # the first costs ln 2, the others little
    0.702
    >>> np.exp(tick.log_chances(weight=0.3)).round(2)
    array([[0., 1.],
           [1., 0.]])
    """

    def __init__(self, rows: Sequence[Codes], size: int):
        self.size = size
        counts = np.bincount(np.concatenate(rows), minlength=size) + 0.5
        self.single = counts / counts.sum()
        self.keys, self.numbers = np.unique(np.concatenate([row[:-1] * size + row[1:] for row in rows]),
                                            return_counts=True)
        self.before = np.bincount(np.concatenate([row[:-1] for row in rows]), minlength=size)

    def nats_alone(self, row: Codes) -> float:
        """-Σ log p(b) of a sequence (L,)."""
        return float(-np.log(self.single[row]).sum())

    def nats(self, row: Codes, weight: float | Sequence[float]) -> NDArray[np.float64]:
        """-log p of a sequence (L,), for each weight: its first code by itself, every other one given the one before.
        """
        asked = row[:-1] * self.size + row[1:]
        at = np.searchsorted(self.keys, asked).clip(max=max(len(self.keys) - 1, 0))
        seen = np.where(self.keys[at] == asked, self.numbers[at], 0) if len(self.keys) else np.zeros(len(asked))
        weights = np.asarray(weight)[..., None]
        p = (seen + weights * self.single[row[1:]]) / (self.before[row[:-1]] + weights)
        return -np.log(p).sum(-1) - np.log(self.single[row[0]])

    def log_chances(self, weight: float) -> NDArray[np.float64]:
        """log p(b | a) (K, K) of every pair."""
        p = np.tile(weight * self.single, (self.size, 1))
        p.reshape(-1)[self.keys] += self.numbers
        return np.log(p / (self.before + weight)[:, None])


def best_weight(counts: Sequence[Counts], held: Sequence[Codes]) -> float:
    """Which of SMOOTHING says most of ``held`` (Q, L), one of ``counts`` for each of Q rows."""
    nats = sum(its.nats(row, SMOOTHING) for codes in held for its, row in zip(counts, codes, strict=True))
    return SMOOTHING[int(np.argmin(nats))]


class Bigram(nn.Module):
    """log p of every code that may follow, by the code before in the same row, each row counted alone.

    Shapes: codes before (B, Q, S), -1 for none, which is followed as codes are in all -> (B, S, Q, K). Knows nothing
    before :meth:`fit`. Raises ConfigError where the table would take more than half a gigabyte.

    >>> bigram = Bigram(rows=1, num_codes=2)
    >>> bigram.fit([np.tile([0, 1], 50)[None]], [np.array([[0, 1, 0]])])
    >>> bigram(torch.tensor([[[-1, 0]]])).exp().round(decimals=1)
    tensor([[[[0.5000, 0.5000]],
    <BLANKLINE>
             [[0.0000, 1.0000]]]])
    """

    table: Tensor
    offsets: Tensor

    def __init__(self, rows: int, num_codes: int):
        super().__init__()
        if rows * num_codes**2 > LARGEST:
            raise ConfigError(f"a bigram of {rows} × {num_codes}² pairs is too large a table to keep: set "
                              "model.prior.bigram to false.")
        self.rows, self.size = rows, num_codes
        self.register_buffer("table", torch.full((rows * (num_codes + 1), num_codes), -float(np.log(num_codes))))
        self.register_buffer("offsets", 1 + (num_codes + 1) * torch.arange(rows)[:, None], persistent=False)

    def fit(self, train: Iterable[Codes], held: Iterable[Codes]) -> None:
        """Count ``train``, sequences (Q, L), smoothed as suits ``held`` best; CorpusError where either is empty."""
        train, held = list(train), list(held)
        if not train or not held:
            raise CorpusError("a bigram counts recordings to train on, and is smoothed by others: the corpus has none "
                              "of one kind; prepare it with both, or set model.prior.bigram to false.")
        counts = [Counts([codes[q] for codes in train], self.size) for q in range(self.rows)]
        weight = best_weight(counts, held)
        tables = [np.concatenate([np.log(its.single)[None], its.log_chances(weight)]) for its in counts]
        self.table.copy_(torch.from_numpy(np.concatenate(tables)))

    def forward(self, before: Tensor) -> Tensor:
        return F.embedding((before + self.offsets).transpose(1, 2), self.table)
