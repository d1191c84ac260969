"""Entropy coding of codes by counting: an order-0 model for each quantizer, learnt as the codes go by.

The model is p(k) ∝ 1 + w n_k, with n_k how often code k came before. The encoder tries a few weights w
and states the best one for each stretch; w = 0 is the uniform model, so a stretch never costs more than
log2 K bits a code and the rounding to words. Counts are integers: the decoder repeats them exactly.
"""

from collections.abc import Iterator

import numpy as np
from constriction import stream  # pyright: ignore - compiled, it brings no types

WEIGHTS = np.array([0, 1, 2, 4, 8, 16, 64, 256])  # w; like the strides, a fact of version 1 of the file
FIRST_STRIDE = 16  # codes from one look at the counts to the next, at first; then a quarter of all seen


class CountingModel:
    """The adaptive model of one quantizer; an encoder and a decoder each keep one, in step.

    ``encode`` and ``decode`` must be called with the same stretches of codes, in the same order; a stretch that
    another model coded must be told to both by ``count``.

    Parameters
    ----------
    num_codes : K >= 1. A single code takes no bits at all.

    >>> coder, codes = stream.queue.RangeEncoder(), np.array([3, 1, 3, 3, 0] * 400)
    >>> weight, bits = CountingModel(512).cheapest(codes)
    >>> CountingModel(512).encode(coder, codes, weight)
    >>> words = coder.get_compressed()
    >>> 32 * len(words) / len(codes) < 2                        # bits a code: log2 512 is 9, its entropy 1.37
    True
    >>> again = CountingModel(512).decode(stream.queue.RangeDecoder(words), 2000, weight)
    >>> bool((again == codes).all())
    True
    """

    def __init__(self, num_codes: int):
        self.counts = np.zeros(num_codes, dtype=np.int64)
        self.seen = 0

    def encode(self, coder: stream.queue.RangeEncoder, codes: np.ndarray, choice: int) -> None:
        """Append ``codes`` (n,) to ``coder`` by the weight WEIGHTS[choice], which the decoder must be told."""
        if len(self.counts) > 1:
            for part in self._strides(len(codes)):
                coder.encode(codes[part].astype(np.int32), self._model(choice))
                self.count(codes[part])

    def decode(self, coder: stream.queue.RangeDecoder, length: int, choice: int) -> np.ndarray:
        """The next ``length`` codes, int64."""
        codes = np.zeros(length, dtype=np.int64)
        if len(self.counts) > 1:
            for part in self._strides(length):
                codes[part] = coder.decode(self._model(choice), part.stop - part.start)
                self.count(codes[part])
        return codes

    def cheapest(self, codes: np.ndarray) -> tuple[int, float]:
        """The index of the weight with the least -Σ log2 p over ``codes``, and that many bits; counts nothing."""
        if len(self.counts) == 1:
            return 0, 0.0
        counts, bits = self.counts.copy(), np.zeros(len(WEIGHTS))
        seen = self.seen
        for part in self._strides(len(codes)):
            own = counts[codes[part]]
            bits += np.log2(len(counts) + WEIGHTS * seen) * len(own)
            bits -= np.log2(1 + np.outer(WEIGHTS, own)).sum(axis=1)
            np.add.at(counts, codes[part], 1)
            seen += len(own)
        return int(bits.argmin()), float(bits.min())

    def _strides(self, length: int) -> Iterator[slice]:
        """Stretches between two looks at the counts: they grow, so that the looks stay few."""
        start, seen = 0, self.seen
        while start < length:
            stop = min(length, start + max(FIRST_STRIDE, seen // 4))
            yield slice(start, stop)
            seen, start = seen + stop - start, stop

    def _model(self, choice: int) -> stream.model.Categorical:
        return stream.model.Categorical((1 + WEIGHTS[choice] * self.counts).astype(np.float64), perfect=False)

    def count(self, codes: np.ndarray) -> None:
        """Take note of ``codes`` (n,) that came."""
        np.add.at(self.counts, codes, 1)
        self.seen += len(codes)
