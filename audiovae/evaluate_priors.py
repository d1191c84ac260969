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
from audiovae.priors.bigram import Counts, best_weight
from audiovae.report import Table
from audiovae.shapes import Batch

T = TypeVar("T")
AT_ONCE = 16


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
    train, held = [codes for _, codes in source.indexed("train")], list(source.indexed(split))
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

    Each quantizer counts alone, see :class:`audiovae.priors.bigram.Counts`; pairs are smoothed as does best.

    >>> tick = [np.tile([0, 1], 50)[None]]
    >>> unigram, bigram = counted(tick, tick, size=2)
    >>> round(float(unigram[0]), 3), bool(bigram[0] < 0.02)
    (0.693, True)
    """
    counts = [Counts([codes[q] for codes in train], size) for q in range(len(train[0]))]
    weight = best_weight(counts, held)
    nats = [[sum(its.nats_alone(row) for its, row in zip(counts, codes, strict=True)),
             sum(its.nats(row, weight) for its, row in zip(counts, codes, strict=True))] for codes in held]
    single, pair = np.array(nats).T / np.array([codes.size for codes in held])
    return single, pair
