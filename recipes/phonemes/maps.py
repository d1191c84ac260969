"""From codes to phonemes: maps that are learnt by counting.

Each takes codes about each step (N, O, Q), REACH steps before and after it, with the phonemes (N,) to learn from, and
codes to tell the phonemes of; ``count`` is how many phonemes there are.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.signedinteger]
Reader = Callable[[Ints, Ints, Ints, int], Ints]  # codes and phonemes to learn from, codes to tell, how many phonemes
REACH, TRUST = 3, 0.4  # steps before and after that a code's neighbours are, and what a word of theirs weighs
FEW = 30.0  # what a code alone weighs beside a pair, in frames


def counted(keys: Ints, phonemes: Ints, size: int, count: int) -> NDArray[np.float64]:
    """How often each phoneme comes with each key, (size, count)."""
    flat = np.bincount(keys.astype(np.int64) * count + phonemes, minlength=size * count)
    return flat.reshape(size, count).astype(np.float64)


def of_first(train: Ints, phonemes: Ints, test: Ints, count: int) -> Ints:
    """The phoneme that the first code stood for most often; of a code never met, the most frequent of all."""
    size = int(max(train.max(), test.max())) + 1
    prior = np.bincount(phonemes, minlength=count) / len(phonemes)
    return (counted(train[:, REACH, 0], phonemes, size, count) + 1e-3 * prior).argmax(1)[test[:, REACH, 0]]


def of_pair(train: Ints, phonemes: Ints, test: Ints, count: int) -> Ints:
    """The phoneme of the first two codes together, backed by that of the first where a pair is rare."""
    size = int(max(train.max(), test.max())) + 1
    one = counted(train[:, REACH, 0], phonemes, size, count) + np.bincount(phonemes, minlength=count) / len(phonemes)
    key = lambda codes: codes[:, REACH, 0].astype(np.int64) * size + codes[:, REACH, 1]  # noqa: E731
    pairs, place = np.unique(key(train), return_inverse=True)
    table = counted(place, phonemes, len(pairs) + 1, count)  # the last stays empty: for pairs never met
    asked = np.searchsorted(pairs, key(test)).clip(max=len(pairs) - 1)
    asked = np.where(pairs[asked] == key(test), asked, len(pairs))
    backing = one / one.sum(1, keepdims=True)
    return np.concatenate([(table[part] + FEW * backing[first]).argmax(1) for part, first in
                           zip(cut(asked), cut(test[:, REACH, 0]), strict=True)])


def of_neighbours(train: Ints, phonemes: Ints, test: Ints, count: int) -> Ints:
    """The likeliest phoneme given the first code, and those before and after as if independent, weighed by TRUST."""
    return _bayes(train[..., :1], phonemes, test[..., :1], count)


def of_all(train: Ints, phonemes: Ints, test: Ints, count: int) -> Ints:
    """As :func:`of_neighbours`, of all codes of each step."""
    return _bayes(train, phonemes, test, count)


def _bayes(train: Ints, phonemes: Ints, test: Ints, count: int) -> Ints:
    size = int(max(train.max(), test.max())) + 1
    prior = np.log(np.bincount(phonemes, minlength=count) + 0.5)
    total = np.tile(prior.astype(np.float32), (len(test), 1))
    for place in np.ndindex(train.shape[1:]):
        table = counted(train[:, place[0], place[1]], phonemes, size, count) + 0.5
        weight = 1.0 if place == (REACH, 0) else TRUST
        total += (weight * np.log(table / table.sum(0))).astype(np.float32)[test[:, place[0], place[1]]]
    return total.argmax(1)


def cut(x: Ints) -> Iterator[Ints]:
    """Parts of an array, so that a table of all phonemes for each item stays small."""
    return (x[start:start + 100_000] for start in range(0, len(x), 100_000))


READERS: dict[str, Reader] = {
    "the first code": of_first,
    "the first two codes": of_pair,
    f"the first code and {REACH} on either side": of_neighbours,
    f"all codes and {REACH} steps on either side": of_all,
}
