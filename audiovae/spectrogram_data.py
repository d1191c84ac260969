"""Sound as pictures: a prepared corpus seen as log-mel pictures, by random crops or all of it in order."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from audiovae.audio.crops import CorpusSource, CropSampler
from audiovae.audio.spectrogram import margin, unit_log_mel
from audiovae.config import Config, Count
from audiovae.image.pictures import PartName
from audiovae.shapes import Batch, DataSpec, MelSpec, check_grid

AT_ONCE = 256  # pictures


class SpectrogramSource(CorpusSource):
    """Random crops of a prepared corpus as log-mel pictures (B, 1, M, L) in [0, 1], labelled by speaker.

    0 is digital silence and 1 a tone of full scale; M mel bands, low ones first, and L frames. Frames at the edge of a
    picture see what lies beyond it.
    """

    def __init__(self, config: "SpectrogramData", seed: int):
        super().__init__(config.corpus, config.validation_batches, seed)
        rate = self.corpus.mono("spectrogram data").sample_rate
        self.config, self.size = config, (config.num_mels, config.frames)
        spec = MelSpec(rate, config.n_fft, config.hop, config.num_mels)
        self.mel, self.margin = unit_log_mel(spec), margin(spec)
        self.train = self._sampler("train", seed)
        self.valid = self._sampler("valid", 0)
        self.spec = DataSpec(channels=1, dims=2, labels=self.corpus.speakers, size=self.size, mel=spec)

    def fit(self, hop: int) -> None:
        check_grid("spectrograms (num_mels x frames)", self.validation()[0].x, hop)

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self._picture(super().batch(step, rank))

    def validation(self) -> list[Batch]:
        return [self._picture(batch) for batch in super().validation()]

    def batches(self, name: PartName, size: int = AT_ONCE, limit: int | None = None) -> Iterator[Batch]:
        """All recordings of a part as pictures that follow each other, in nearly equal batches of at most ``size``.

        The last picture of a recording ends in silence. Of a part of more than ``config.most`` pictures, or ``limit``
        full batches, so many are taken, evenly spread over it. CorpusError where the corpus has no such part.
        """
        sampler = self._sampler(name, 0)
        which, starts = sampler.tiles()
        most = (len(which), self.config.most or len(which), len(which) if limit is None else limit * size)
        spread = np.arange(min(most)) * len(which) // min(most)
        for index in np.array_split(spread, math.ceil(len(spread) / size)):
            yield self._picture(sampler.at(which[index], starts[index]))

    def _sampler(self, name: PartName, seed: int) -> CropSampler:
        config = self.config
        return CropSampler(self.corpus, name, config.frames * config.hop, config.batch_size, seed,
                           beside=self.margin * config.hop)

    def _picture(self, batch: Batch) -> Batch:
        x = self.mel(batch.x)[:, None, :, self.margin:self.margin + self.config.frames]
        return replace(batch, x=x.clamp(0, 1).contiguous())


@dataclass(frozen=True)
class SpectrogramData(Config):
    """A prepared corpus folder seen as pictures of ``num_mels`` x ``frames``: what reads pictures reads them too.

    n_fft, hop : samples, of the Fourier transform and from frame to frame.
    most : pictures of a part that are taken where it is gone through in order, as a prior over codes does, evenly
        spread over it; None for all. Training on random crops sees all of it.
    """

    kind: Literal["spectrogram"] = "spectrogram"
    corpus: str = ""
    num_mels: Count = 64
    frames: Count = 64
    n_fft: Count = 1024
    hop: Count = 256
    batch_size: Count = 32
    validation_batches: Count = 4
    most: Count | None = None

    def build(self, seed: int) -> SpectrogramSource:
        return SpectrogramSource(self, seed)
