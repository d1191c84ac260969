"""Random crops of a corpus for training: batch (seed, step, rank) is always the same batch."""

import numpy as np
import torch
from numpy.typing import NDArray

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.corpus import Corpus, Split
from audiovae.errors import CorpusError
from audiovae.shapes import Batch, Condition


class CropSampler:
    """Crops of a fixed length, drawn with replacement from one split.

    An utterance is drawn in proportion to its length; one shorter than the crop is padded with zeros at
    its end. As a batch depends on nothing but (seed, step, rank), a resumed run needs no loader state.

    Parameters
    ----------
    samples : T, length of a crop.
    batch_size : B, crops a batch, on each process.
    seed : any integer.
    augment : how crops are varied, or None.

    Shapes: ``batch`` gives x (B, 1, T) float32, label (B,) int64 (an index into ``corpus.speakers``, -1 for
    a speaker without training data), and names such as "p225_001 @ 1.25 s".

    Raises
    ------
    CorpusError
        When the split has no utterances.

    >>> from audiovae.audio.example import example_corpus
    >>> sampler = CropSampler(Corpus.open(example_corpus()), "train", samples=4000, batch_size=3, seed=0)
    >>> sampler.batch(step=7).x.shape
    torch.Size([3, 1, 4000])
    """

    def __init__(self, corpus: Corpus, split: Split, samples: int, batch_size: int, seed: int,
                 augment: AugmentConfig | None = None):
        utterances = corpus.utterances(split)
        if not utterances:
            raise CorpusError(f"corpus {corpus.folder} has no {split} utterances: prepare it with a {split} part.")
        index = {name: i for i, name in enumerate(corpus.speakers)}
        self.corpus, self.samples, self.batch_size, self.seed = corpus, samples, batch_size, seed
        self.augment = augment.build(corpus.sample_rate) if augment is not None else None
        self._ids = [u.id for u in utterances]
        self._labels = np.array([index.get(u.speaker, -1) for u in utterances])
        self._offsets = np.array([u.offset for u in utterances])
        self._lengths = np.array([u.length for u in utterances])
        self._ends = np.cumsum(self._lengths)

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of a training step on one process."""
        generator = np.random.default_rng([self.seed % 2**63, step, rank])
        which = np.searchsorted(self._ends, generator.integers(self._ends[-1], size=self.batch_size), side="right")
        speeds = [self.augment.stretch(generator) if self.augment else None for _ in which]
        wanted = [self.augment.source(self.samples, speed) if self.augment else self.samples for speed in speeds]
        room = np.maximum(self._lengths[which] - wanted, 0)
        starts = (generator.random(self.batch_size) * (room + 1)).astype(np.int64)
        x = np.zeros((self.batch_size, 1, self.samples), np.float32)
        for row, u, start, count, speed in zip(x, which, starts, wanted, speeds, strict=True):
            if speed is None or self.augment is None:
                self._read(u, start, row[0])
            else:
                self._read(u, start, source := np.zeros(count, np.float32))
                row[0] = self.augment(source, self.samples, speed, generator)
        rate = self.corpus.sample_rate
        names = tuple(f"{self._ids[u]} @ {s / rate:.2f} s" for u, s in zip(which, starts, strict=True))
        return Batch(torch.from_numpy(x), Condition(torch.from_numpy(self._labels[which])), names)

    def _read(self, utterance: int, start: int, out: NDArray[np.float32]) -> None:
        """Fill ``out`` with samples from ``start`` on, as far as the utterance goes."""
        first, count = self._offsets[utterance] + start, min(len(out), self._lengths[utterance])
        np.divide(self.corpus.samples[first : first + count], 32768, out=out[:count], dtype=np.float32)
