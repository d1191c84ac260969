"""Random crops of a corpus for training: batch (seed, step, rank) is always the same batch."""

import numpy as np
import torch
from numpy.typing import NDArray

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.corpus import Corpus, Split
from audiovae.errors import ConfigError, CorpusError
from audiovae.shapes import Batch, Condition


class UtteranceSampler:
    """Utterances of one split, drawn in proportion to their length, and their samples: what batches are cut from.

    Raises CorpusError when the split has no utterances.
    """

    def __init__(self, corpus: Corpus, split: Split, samples: int, batch_size: int, seed: int,
                 augment: AugmentConfig | None = None):
        self.utterances = corpus.utterances(split)
        if not self.utterances:
            raise CorpusError(f"corpus {corpus.folder} has no {split} utterances: prepare it with a {split} part.")
        index = {name: i for i, name in enumerate(corpus.speakers)}
        self.corpus, self.samples, self.batch_size, self.seed = corpus, samples, batch_size, seed
        self.augment = augment.build(corpus.sample_rate) if augment is not None else None
        self._labels = np.array([index.get(u.speaker, -1) for u in self.utterances])
        self._offsets = np.array([u.offset for u in self.utterances])
        self._lengths = np.array([u.length for u in self.utterances])
        self._ends = np.cumsum(self._lengths)
        self._tags = np.stack([corpus.borne(u) for u in self.utterances])

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The batch of a training step on one process."""
        raise NotImplementedError

    def _drawn(self, step: int, rank: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
        """The dice of a step and process, and a batch of utterances by them."""
        dice = np.random.default_rng([self.seed % 2**63, step, rank])
        return dice, np.searchsorted(self._ends, dice.integers(self._ends[-1], size=self.batch_size), side="right")

    def _read(self, utterance: int, start: int, out: NDArray[np.float32]) -> None:
        """Fill ``out`` (T,), or (2, T) of two channels, with samples from ``start`` on, where there are any."""
        skip = max(-start, 0)
        first = self._offsets[utterance] + start + skip
        count = max(min(out.shape[-1], self._lengths[utterance] - start) - skip, 0)
        np.divide(self.corpus.samples[first : first + count].T, 32768, out=out[..., skip : skip + count],
                  dtype=np.float32)

    def _condition(self, which: NDArray[np.int64], starts: NDArray[np.int64]) -> Condition:
        """Label and, where the corpus has tags, tags and timing of crops that begin at ``starts``."""
        label = torch.from_numpy(self._labels[which])
        if not self._tags.shape[1]:
            return Condition(label)
        total, offset = self._lengths[which], starts
        rate = self.corpus.sample_rate
        timing = np.stack([total / rate, offset / rate, offset / total], axis=1).astype(np.float32)
        return Condition(label, tags=torch.from_numpy(self._tags[which]), timing=torch.from_numpy(timing))


class CropSampler(UtteranceSampler):
    """Crops of a fixed length, drawn with replacement from one split.

    An utterance is drawn in proportion to its length; one shorter than the crop is padded with zeros at
    its end. As a batch depends on nothing but (seed, step, rank), a resumed run needs no loader state.

    Parameters
    ----------
    samples : T, length of a crop.
    batch_size : B, crops a batch, on each process.
    seed : any integer.
    augment : how crops are varied, or None.
    beside : samples read besides on each side of a crop, zeros beyond the ends of the utterance.

    Shapes: ``batch`` gives x (B, C, T + 2 beside) float32, label (B,) int64 (an index into ``corpus.speakers``, -1 for
    a speaker without training data), names such as "p225_001 @ 1.25 s" and, where the corpus has tags, tags (B, V)
    over ``corpus.tag_names`` and timing (B, 3) of the crop in its song.

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
                 augment: AugmentConfig | None = None, beside: int = 0):
        super().__init__(corpus, split, samples, batch_size, seed, augment)
        self.beside = beside

    def batch(self, step: int, rank: int = 0) -> Batch:
        generator, which = self._drawn(step, rank)
        width, beside = self.samples + 2 * self.beside, self.beside
        speeds = [self.augment.stretch(generator) if self.augment else None for _ in which]
        wanted = [self.augment.source(width, speed) if self.augment else width for speed in speeds]
        room = np.maximum(self._lengths[which] - wanted + 2 * beside, 0)
        starts = (generator.random(self.batch_size) * (room + 1)).astype(np.int64)
        rows = self._rows(len(which))
        for row, u, start, count, speed in zip(rows, which, starts - beside, wanted, speeds, strict=True):
            if speed is None or self.augment is None:
                self._read(u, start, row)
            else:
                self._read(u, start, source := np.zeros((*row.shape[:-1], count), np.float32))
                row[...] = self.augment(source, width, speed, generator)
        return self._batch(rows, which, starts)

    def at(self, which: NDArray[np.int64], starts: NDArray[np.int64]) -> Batch:
        """The crops of the utterances ``which`` that begin at ``starts``, as they are."""
        rows = self._rows(len(which))
        for row, u, start in zip(rows, which, starts - self.beside, strict=True):
            self._read(u, start, row)
        return self._batch(rows, which, starts)

    def _rows(self, count: int) -> NDArray[np.float32]:
        """Room for the samples of crops, (count, T), or (count, 2, T) of two channels."""
        channels, width = self.corpus.channels, self.samples + 2 * self.beside
        return np.zeros((count, width) if channels == 1 else (count, channels, width), np.float32)

    def _batch(self, rows: NDArray[np.float32], which: NDArray[np.int64], starts: NDArray[np.int64]) -> Batch:
        rate = self.corpus.sample_rate
        names = tuple(f"{self.utterances[u].id} @ {s / rate:.2f} s" for u, s in zip(which, starts, strict=True))
        x = torch.from_numpy(rows)
        return Batch(x if x.ndim == 3 else x[:, None], self._condition(which, starts), names)

    def tiles(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Utterances and starts of the crops that follow each other through all of the split, in its order."""
        counts = -(-self._lengths // self.samples)
        which = np.repeat(np.arange(len(counts)), counts)
        return which, (np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)) * self.samples


class CorpusSource:
    """A prepared corpus as a source of batches: a sampler of its train part, and one of its valid part.

    Raises ConfigError where no corpus is named, CorpusError where there is none.
    """

    train: UtteranceSampler
    valid: UtteranceSampler

    def __init__(self, folder: str, validation_batches: int, seed: int):
        if not folder:
            raise ConfigError("data.corpus is not set: name a folder made by `audiovae prepare`.")
        self.corpus, self.validation_batches, self.seed = Corpus.open(folder), validation_batches, seed

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self.train.batch(step, rank)

    def validation(self) -> list[Batch]:
        return [self.valid.batch(step) for step in range(self.validation_batches)]
