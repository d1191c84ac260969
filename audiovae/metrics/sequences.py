"""What generated codes owe to the codes trained on: the longest run that was copied, and the label they sound like."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from audiovae.errors import ConfigError, ShapeError

Codes = NDArray[np.integer]


class Copy(NamedTuple):
    """The longest run of codes found elsewhere. length : steps. start : in the sequence; source, place : which of the
    training sequences, and where in it. All but the length are -1 where nothing is copied."""

    length: int
    start: int = -1
    source: int = -1
    place: int = -1


def longest_copy(sequence: Codes, training: Sequence[Codes]) -> Copy:
    """The longest run of a sequence's steps that some training sequence has, too: exact.

    Runs are named by doubling (Karp, Miller and Rosenberg 1972): two runs of 2n steps are the same where both halves
    have the same names. A run of any length is two that overlap, so a binary search over lengths ends it: with N steps
    in all and a copy of n it takes O(N log N log n), in whole numbers, without a hash.

    Shapes: (L,), or (Q, L) where a step is the Q codes together; all alike. Of several longest, the first in the
    sequence and its first place. ShapeError where shapes do not fit.

    >>> longest_copy(np.array([9, 3, 4, 5, 9]), [np.array([1, 2]), np.array([3, 4, 5, 6])])
    Copy(length=3, start=1, source=1, place=0)
    """
    every = [np.atleast_2d(np.asarray(codes)) for codes in (*training, sequence)]
    if any(c.ndim != 2 or len(c) != len(every[-1]) or not np.issubdtype(c.dtype, np.integer) for c in every):
        raise ShapeError(f"longest_copy wants integers (L,) or (Q={len(every[-1])}, L), got "
                         f"{sorted({str(c.shape) for c in every if len(c) != len(every[-1]) or c.ndim != 2})}.")
    ends = np.cumsum([c.shape[1] + 1 for c in every])
    query = int(ends[-1]) - every[-1].shape[1] - 1
    names = np.full(ends[-1], -1, np.int64)  # after each sequence lies a step of no name: no run goes across
    inside = np.ones(len(names), bool)
    inside[ends - 1] = False
    for row in np.concatenate(every, axis=1):
        steps = np.unique(row, return_inverse=True)[1]
        names[inside] = _named(names[inside] + 1, steps)
    names = _of_query(names, query)

    length, best = 1, _shared(names, query)
    if best is None:
        return Copy(0)
    while (found := _shared(twice := _runs(names, length, query), query)) is not None:
        names, length, best = twice, 2 * length, found
    low, high = length, 2 * length - 1
    while low < high:
        middle = (low + high + 1) // 2
        if (found := _shared(_runs(names, middle - length, query), query)) is None:
            high = middle - 1
        else:
            low, best = middle, found
    start, place = best
    source = int(np.searchsorted(ends, place, side="right"))
    return Copy(low, start - query, source, place - (int(ends[source - 1]) if source else 0))


def _named(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number from 0 for each pair of numbers, the same for the same pair."""
    return np.unique(first * (int(second.max(initial=0)) + 1) + second, return_inverse=True)[1]


def _runs(names: NDArray[np.int64], apart: int, query: int) -> NDArray[np.int64]:
    """The names of longer runs, each of a run at i and one at i + ``apart``; -1 where either has none."""
    count = max(len(names) - apart, 0)
    runs = np.full(count, -1, np.int64)
    at = np.flatnonzero((names[:count] >= 0) & (names[apart:] >= 0))
    runs[at] = _named(names[at], names[at + apart])
    return _of_query(runs, query)


def _of_query(runs: NDArray[np.int64], query: int) -> NDArray[np.int64]:
    """Without the names that none after ``query`` has: few are left to compare at the next length."""
    wanted = np.zeros(int(runs.max(initial=-1)) + 2, bool)
    wanted[runs[query:]] = True
    wanted[-1] = False  # where -1 points
    return np.where(wanted[runs], runs, -1)


def _shared(runs: NDArray[np.int64], query: int) -> tuple[int, int] | None:
    """The first run after ``query`` whose name is before it, too, and the first place there."""
    places = np.flatnonzero(runs[:query] >= 0)
    starts = query + np.flatnonzero(np.isin(runs[query:], runs[places]) & (runs[query:] >= 0))
    if not len(starts):
        return None
    return int(starts[0]), int(places[np.argmax(runs[places] == runs[starts[0]])])


class SequenceClassifier:
    """Tells the label (genre) of a sequence of codes by how often each code and pair of codes occurs.

    Multinomial logistic regression on the square roots of the shares of codes and of neighbouring pairs; classes are
    weighted alike, however many examples each has. Deterministic.

    Parameters
    ----------
    num_codes : K of each of the Q quantizers.
    grams : 2 for codes and pairs, 1 for codes alone.
    strength : inverse of the penalty on the weights.

    Shapes: sequences are (L,) or (Q, L) integers, L as it comes.

    >>> up, down = np.tile([0, 1, 2], 20), np.tile([2, 1, 0], 20)
    >>> judge = SequenceClassifier((3,)).fit([up, down, up[1:], down[1:]], ["up", "down", "up", "down"])
    >>> judge.predict([up[5:]]), judge.accuracy([down[7:], up[9:]], ["down", "up"])
    (['up'], 1.0)
    """

    def __init__(self, num_codes: Sequence[int], grams: int = 2, strength: float = 30.0):
        if grams not in (1, 2):
            raise ConfigError(f"SequenceClassifier takes grams 1 or 2, got {grams}.")
        self.num_codes, self.grams, self.strength = tuple(num_codes), grams, strength
        self.columns: NDArray[np.int64] = np.zeros(0, np.int64)
        self.model: Any = None

    def fit(self, sequences: Sequence[Codes], labels: Sequence[str]) -> "SequenceClassifier":
        """Learn from labelled sequences; ConfigError where there are fewer than two labels."""
        from sklearn.linear_model import LogisticRegression

        if len(set(labels)) < 2 or len(labels) != len(sequences):
            raise ConfigError(f"SequenceClassifier wants a label for each sequence and two of them or more, got "
                              f"{len(sequences)} sequences and labels {sorted(set(labels))}.")
        counted = [self._count(codes) for codes in sequences]
        self.columns = np.unique(np.concatenate([keys for keys, _ in counted]))
        self.model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000)
        self.model.fit(self._matrix(counted), list(labels))
        return self

    def predict(self, sequences: Sequence[Codes]) -> list[str]:
        """The likeliest label of each sequence; ConfigError before :meth:`fit`."""
        if self.model is None:
            raise ConfigError("SequenceClassifier has learnt nothing: call fit first.")
        return [str(label) for label in self.model.predict(self._matrix([self._count(codes) for codes in sequences]))]

    def accuracy(self, sequences: Sequence[Codes], labels: Sequence[str]) -> float:
        """Share of sequences whose label is told rightly, 0 to 1."""
        return float(np.mean([told == label for told, label in zip(self.predict(sequences), labels, strict=True)]))

    def _count(self, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The keys of the codes and pairs of a sequence, sorted, and the square roots of their shares."""
        rows = np.atleast_2d(np.asarray(codes)).astype(np.int64)
        if len(rows) != len(self.num_codes) or not rows.shape[1] or (rows.min() < 0) or any(
                row.max() >= k for row, k in zip(rows, self.num_codes, strict=True)):
            raise ShapeError(f"SequenceClassifier wants codes (Q={len(self.num_codes)}, L > 0) below {self.num_codes}, "
                             f"got {np.shape(codes)}.")
        keys, shares, base = [], [], 0
        for row, k in zip(rows, self.num_codes, strict=True):
            for found in (row, k + row[:-1] * k + row[1:])[:self.grams]:
                key, count = np.unique(found, return_counts=True)
                keys.append(base + key)
                shares.append(np.sqrt(count / max(len(found), 1)))
            base += k + k * k
        return np.concatenate(keys), np.concatenate(shares)

    def _matrix(self, counted: list[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> scipy.sparse.csr_matrix:
        """A row a sequence, a column for each key that was seen in training."""
        data, indices, ends = [], [], [0]
        for keys, shares in counted:
            at = np.minimum(np.searchsorted(self.columns, keys), len(self.columns) - 1)
            known = self.columns[at] == keys
            data.append(shares[known])
            indices.append(at[known])
            ends.append(ends[-1] + int(known.sum()))
        return scipy.sparse.csr_matrix((np.concatenate(data), np.concatenate(indices), ends),
                                       shape=(len(counted), len(self.columns)))
