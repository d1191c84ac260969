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
    steps = np.unique(np.concatenate(every, axis=1), axis=1, return_inverse=True)[1].ravel()
    names = np.empty(ends[-1], np.int64)
    inside = np.ones(ends[-1], bool)
    inside[ends - 1] = False  # a step of its own after each sequence: no run goes across
    names[inside] = steps
    names[~inside] = len(steps) + np.arange(len(ends))
    query = int(ends[-1]) - 1 - every[-1].shape[1]

    length, best = 1, _shared(names, 0, query)
    if best is None:
        return Copy(0)
    while len(names) > length:
        twice = _named(names[:-length], names[length:])
        if (found := _shared(twice, 0, query)) is None:
            break
        names, length, best = twice, 2 * length, found
    low, high = length, 2 * length - 1
    while low < high:
        middle = (low + high + 1) // 2
        if (found := _shared(names, middle - length, query)) is None:
            high = middle - 1
        else:
            low, best = middle, found
    start, place = best
    source = int(np.searchsorted(ends, place, side="right"))
    return Copy(low, start - query, source, place - (int(ends[source - 1]) if source else 0))


def _named(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair of numbers, the same for the same pair."""
    return np.unique(first * (int(second.max(initial=0)) + 1) + second, return_inverse=True)[1]


def _shared(names: NDArray[np.int64], apart: int, query: int) -> tuple[int, int] | None:
    """Where a run after ``query`` is the same as one before it: a run is its names at i and at i + ``apart``."""
    count = len(names) - apart
    if count <= query or not query:
        return None
    runs = _named(names[:count], names[apart:]) if apart else names
    known, places = np.unique(runs[:query], return_index=True)
    at = np.minimum(np.searchsorted(known, runs[query:]), len(known) - 1)
    same = np.flatnonzero(known[at] == runs[query:])
    return (query + int(same[0]), int(places[at[same[0]]])) if len(same) else None


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
