"""Sources of batches for training: every batch is a pure function of (seed, step, rank).

That is what makes a resumed run the same run: there is no loader state to save.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Discriminator

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.crops import CorpusSource, CropSampler
from audiovae.audio.features import LogMel
from audiovae.checkpoint import load_model
from audiovae.code_data import CodesData
from audiovae.config import Config, Count, Positive
from audiovae.errors import ConfigError
from audiovae.image.pictures import PartName
from audiovae.image.sets import (
    ArchiveData,
    CelebAData,
    CIFAR10Data,
    DigitsData,
    FashionMNISTData,
    FolderData,
    MNISTData,
    PictureConfig,
    ShapesData,
)
from audiovae.models import Autoencoder
from audiovae.seeds import generator
from audiovae.shapes import Batch, DataSpec, check_grid, fixed_size, grid_of
from audiovae.voice_data import VoiceData


class Source(Protocol):
    """What the training loop asks of data."""

    spec: DataSpec

    def fit(self, hop: int) -> None:
        """Make the examples' sides multiples of the model's hop."""
        ...

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The training batch of a step and process."""
        ...

    def validation(self) -> list[Batch]:
        """The held-out batches, the same at every call."""
        ...


class AudioSource(CorpusSource):
    """Random crops of a prepared corpus (``audiovae prepare``), labelled by speaker; music with tags and timing."""

    def __init__(self, config: "AudioData", seed: int):
        super().__init__(config.corpus, config.validation_batches, seed)
        self.config = config
        self.fit(hop=1)
        self.spec = DataSpec(channels=self.corpus.channels, dims=1, sample_rate=self.corpus.sample_rate,
                             labels=self.corpus.speakers, size=(self.train.samples,), tags=self.corpus.tag_names)

    def fit(self, hop: int) -> None:
        self.cut(max(1, round(self.config.seconds * self.corpus.sample_rate / hop)) * hop)

    def cut(self, samples: int) -> None:
        """Make the crops ``samples`` long."""
        size = self.config.batch_size
        self.train = CropSampler(self.corpus, "train", samples, size, self.seed, self.config.augment)
        self.valid = CropSampler(self.corpus, "valid", samples, size, seed=0)


class SpectrogramSource:
    """Random crops of a prepared corpus as log-mel pictures (B, 1, M, L) in [0, 1], labelled by speaker.

    0 is digital silence and 1 a tone of full scale; M mel bands, low ones first, and L frames.
    """

    def __init__(self, config: "SpectrogramData", seed: int):
        length = config.frames * config.hop
        crops = AudioData("audio", config.corpus, 1.0, config.batch_size, config.validation_batches)
        self.config = config
        self.audio = AudioSource(crops, seed)
        self.audio.corpus.mono("spectrogram data")
        self.audio.cut(length)
        self.mel = unit_log_mel(self.audio.corpus.sample_rate, config.n_fft, config.hop, config.num_mels)
        self.spec = DataSpec(channels=1, dims=2, labels=self.audio.spec.labels, size=(config.num_mels, config.frames))

    def fit(self, hop: int) -> None:
        check_grid("spectrograms (num_mels x frames)", self.validation()[0].x, hop)

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self._picture(self.audio.batch(step, rank))

    def validation(self) -> list[Batch]:
        return [self._picture(batch) for batch in self.audio.validation()]

    def _picture(self, batch: Batch) -> Batch:
        return replace(batch, x=self.mel(batch.x).clamp(0, 1).unsqueeze(1))


class LatentsSource:
    """What a trained model's encoder makes of pictures, as data (B, 1, D) of its own: M1 + M2 (Kingma 2014, 2.3).

    D counts all numbers of a latent. Training draws z from the posterior anew at every step; validation and test
    take its mean.
    """

    def __init__(self, config: "LatentsData", seed: int):
        self.inner = config.data.build(seed)
        model = load_model(config.model)
        if not isinstance(model, Autoencoder) or model.bottleneck.is_discrete:
            raise ConfigError(f"data.model {config.model} has no continuous latent: name a VAE or an autoencoder.")
        if (model.data.channels, model.data.size) != (self.inner.spec.channels, self.inner.spec.size):
            raise ConfigError(f"data.model {config.model} was trained on {model.data}, but data.data has "
                              f"{self.inner.spec}.")
        self.seed, self.model = seed, model
        model.requires_grad_(False)
        size = self._encoded(next(self.inner.batches("valid", size=1)), draw=False).x.shape[2:]
        self.spec = DataSpec(channels=1, dims=1, labels=self.inner.spec.labels, size=tuple(size))

    def fit(self, hop: int) -> None:
        grid_of("latents", fixed_size("latents", self.spec), hop)

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self._encoded(self.inner.batch(step, rank), draw=True, dice=generator(self.seed, step, rank, 1))

    def validation(self) -> list[Batch]:
        return [self._encoded(batch, draw=False) for batch in self.inner.validation()]

    def batches(self, name: PartName, size: int = 256, limit: int | None = None) -> Iterator[Batch]:
        """A part in batches of at most ``size``, as :meth:`ImageSource.batches` gives them."""
        for batch in self.inner.batches(name, size, limit):
            yield self._encoded(batch, draw=False)

    def part(self, name: PartName) -> Batch:
        """A whole part as one batch, in its order."""
        return self._encoded(self.inner.part(name), draw=False)

    @torch.no_grad()
    def _encoded(self, batch: Batch, draw: bool, dice: torch.Generator | None = None) -> Batch:
        parameters = self.model.encode(batch.x, batch.condition)
        z = self.model.bottleneck.decode(parameters)
        if draw and parameters.shape[1] == 2 * z.shape[1]:  # a normal: its means, then its log-variances
            deviation = (0.5 * parameters[:, z.shape[1]:]).exp()
            z = z + deviation * torch.randn(z.shape, generator=dice)
        return replace(batch, x=z.flatten(1).unsqueeze(1))


def unit_log_mel(sample_rate: int, n_fft: int, hop: int, num_mels: int) -> LogMel:
    """Log-mel frames scaled so that digital silence is 0 and a tone of full scale, at its band's peak, about 1.

    >>> mel = unit_log_mel(16000, n_fft=1024, hop=256, num_mels=64)
    >>> float(mel(torch.zeros(1, 1, 2560)).abs().max()) < 1e-6
    True
    """
    floor = 1e-6
    tone = 1.5 * (n_fft / 4) ** 2  # power of the Hann window's three bins around a sine of amplitude 1
    scale = 1 / math.log(tone / floor)
    return LogMel(sample_rate, n_fft, hop, num_mels, scale=scale, offset=-scale * math.log(floor), floor=floor)


@dataclass(frozen=True)
class AudioData(Config):
    """A prepared corpus folder, and how it is cut: crops of ``seconds``, ``batch_size`` of them a step.

    augment : how training crops are varied, level, microphone, room and speed; None leaves them as they are.
    """

    kind: Literal["audio"] = "audio"
    corpus: str = ""
    seconds: Positive = 1.0
    batch_size: Count = 16
    validation_batches: Count = 4
    augment: AugmentConfig | None = None

    def build(self, seed: int) -> AudioSource:
        return AudioSource(self, seed)


@dataclass(frozen=True)
class SpectrogramData(Config):
    """A prepared corpus folder seen as pictures of ``num_mels`` x ``frames``: what reads pictures reads them too.

    n_fft, hop : samples, of the Fourier transform and from frame to frame.
    """

    kind: Literal["spectrogram"] = "spectrogram"
    corpus: str = ""
    num_mels: Count = 64
    frames: Count = 64
    n_fft: Count = 1024
    hop: Count = 256
    batch_size: Count = 32
    validation_batches: Count = 4

    def build(self, seed: int) -> SpectrogramSource:
        return SpectrogramSource(self, seed)


@dataclass(frozen=True)
class LatentsData(Config):
    """The latents of the trained ``model`` (a checkpoint or run) on pictures, in place of the pictures."""

    kind: Literal["latents"] = "latents"
    model: str = ""
    data: PictureConfig = DigitsData()

    def build(self, seed: int) -> LatentsSource:
        return LatentsSource(self, seed)


DataConfig = Annotated[
    AudioData | VoiceData | SpectrogramData | CodesData | LatentsData | DigitsData | MNISTData | FashionMNISTData
    | CIFAR10Data | CelebAData | ArchiveData | FolderData | ShapesData,
    Discriminator("kind"),
]
