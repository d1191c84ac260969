"""What a prior over codes knows: nats a code on held-out data, beside counting codes and pairs of codes.

A recording is gone through in stretches of the prior's context, each after the one before and told nothing of it, as
training showed them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from audiovae.audio.corpus import Split
from audiovae.code_data import AudioCodes, PictureCodes
from audiovae.errors import CorpusError
from audiovae.metrics import mean_interval
from audiovae.models import PriorModel
from audiovae.report import Table
from audiovae.shapes import Batch

T = TypeVar("T")
AT_ONCE = 16
SMOOTHING = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class PriorEvaluation:
    """nats a code of each held-out example (recording or picture), by the prior and by what it is compared with.

    codes : of each example. prior, unigram, bigram : nats a code, (N,) each; the bigram is None for pictures.
    most : log K, what knowing nothing costs.
    """

    codes: NDArray[np.int64]
    prior: NDArray[np.float64]
    unigram: NDArray[np.float64]
    bigram: NDArray[np.float64] | None
    most: float
    rate: float | None

    def table(self, name: str = "prior") -> Table:
        """Means over all codes, with the interval over examples; kbit/s for audio. ``name`` is the prior's."""
        rows = []
        for what, nats in (("every code alike", np.full_like(self.prior, self.most)), ("unigram", self.unigram),
                           ("bigram", self.bigram), (name, self.prior)):
            if nats is not None:
                over = mean_interval(nats, sizes=self.codes)
                bits = over.mean / math.log(2)
                rows.append((what, over, bits, None if self.rate is None else bits * self.rate / 1000))
        return Table((f"{len(self.codes)} held-out", "nats a code", "bits a code", "kbit/s"), rows)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of ``items``, evenly spread: neighbours, as of one speaker or artist, are alike.

    >>> evenly("abcdef", 3), evenly("ab", 3)
    (['a', 'c', 'e'], ['a', 'b'])
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


@torch.no_grad()
def evaluate_prior(model: PriorModel, source: AudioCodes | PictureCodes, split: Split = "test",
                   limit: int | None = None, progress: Callable[[int], object] | None = None) -> PriorEvaluation:
    """Measure ``model`` on a split of the data that ``source`` gives; at most ``limit`` examples, evenly spread.

    The unigram and the bigram count the training part; the bigram's weight of its unigram is the best on the measured
    part, in its favour. Raises CorpusError on a split without examples.
    """
    model.eval()
    if isinstance(source, AudioCodes):
        train = [codes for _, codes in source.whole("train")]
        held = [(index, codes) for index, codes in source.indexed(split)]
    else:
        train = list(source.part("train").x.flatten(2).numpy())
        held = list(enumerate(source.part(split).x.flatten(2).numpy()))
    if not held:
        raise CorpusError(f"no {split} part to measure the prior on: name another --split.")
    if limit:
        held = evenly(held, limit)
    nats = []
    for index, codes in held:
        total = sum(float(model.log_prob(batch.x, batch.condition).sum()) for batch in _batches(source, index, split))
        nats.append(-total / codes.size)
        if progress:
            progress(1)
    spec = source.spec.codes
    assert spec is not None
    each = [codes for _, codes in held]
    unigram, bigram = counted(train, each, max(spec.num_codes))
    rate = spec.sample_rate / spec.hop * len(spec.num_codes) if spec.sample_rate else None
    return PriorEvaluation(np.array([codes.size for codes in each]), np.array(nats), unigram,
                           bigram if isinstance(source, AudioCodes) else None, math.log(max(spec.num_codes)), rate)


def _batches(source: AudioCodes | PictureCodes, index: int, split: Split) -> Iterable[Batch]:
    if isinstance(source, PictureCodes):
        return [source.picked(split, torch.tensor([index]))]
    return source.stretches(index, AT_ONCE)


def counted(train: list[NDArray[np.int64]], held: list[NDArray[np.int64]], size: int
            ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """nats a code of each of ``held`` (Q, L) by the frequencies in ``train``: of codes, and of codes given the last.

    Each quantizer counts alone. A code never seen counts half; the pair leans on the single code by a weight that is
    chosen from SMOOTHING to do best.

    >>> tick = [np.tile([0, 1], 50)[None]]
    >>> unigram, bigram = counted(tick, tick, size=2)
    >>> round(float(unigram[0]), 3), bool(bigram[0] < 0.02)
    (0.693, True)
    """
    rows = len(train[0])
    single = np.zeros((len(held), rows))
    pair = np.zeros((len(SMOOTHING), len(held), rows))
    for q in range(rows):
        counts = np.bincount(np.concatenate([codes[q] for codes in train]), minlength=size) + 0.5
        chances = counts / counts.sum()
        keys, numbers = np.unique(np.concatenate([codes[q, :-1] * size + codes[q, 1:] for codes in train]),
                                  return_counts=True)
        before = np.bincount(np.concatenate([codes[q, :-1] for codes in train]), minlength=size)
        for example, codes in enumerate(held):
            row = codes[q]
            single[example, q] = -np.log(chances[row]).sum()
            asked = row[:-1] * size + row[1:]
            at = np.searchsorted(keys, asked).clip(max=max(len(keys) - 1, 0))
            seen = np.where(keys[at] == asked, numbers[at], 0) if len(keys) else np.zeros(len(asked))
            for place, weight in enumerate(SMOOTHING):
                p = (seen + weight * chances[row[1:]]) / (before[row[:-1]] + weight)
                pair[place, example, q] = -np.log(p).sum() - np.log(chances[row[0]])
    sizes = np.array([codes.size for codes in held])
    best = pair.sum(axis=2)[np.argmin(pair.sum(axis=(1, 2)))]
    return single.sum(axis=1) / sizes, best / sizes
