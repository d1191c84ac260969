"""Sources of batches for training: every batch is a pure function of (seed, step, rank).

That is what makes a resumed run the same run: there is no loader state to save.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Discriminator

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.crops import CorpusSource, CropSampler
from audiovae.checkpoint import load_model
from audiovae.code_data import CodesData
from audiovae.config import Config, Count, Positive, Weight
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
from audiovae.image.source import ImageSource
from audiovae.likelihoods import Bernoulli
from audiovae.models import Autoencoder, Model
from audiovae.seeds import generator
from audiovae.shapes import Batch, DataSpec, fixed_size, grid_of
from audiovae.spectrogram_data import SpectrogramData
from audiovae.voice_data import VoiceData

Binarize = Literal["none", "dynamic", "threshold"]


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
        if any(getattr(model.data, name) != getattr(self.inner.spec, name) for name in ("channels", "size", "levels")):
            raise ConfigError(f"data.model {config.model} was trained on {model.data}, but data.data has "
                              f"{self.inner.spec}.")
        if config.temperature and model.bent:
            raise ConfigError(f"data.model {config.model} has a flow for its posterior, which data of latents does not "
                              "draw from: set data.temperature to 0, for what becomes of its means.")
        self.seed, self.model, self.temperature = seed, model, config.temperature
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
            deviation = self.temperature * (0.5 * parameters[:, z.shape[1]:]).exp()
            z = z + deviation * torch.randn(z.shape, generator=dice)
        return replace(batch, x=z.flatten(1).unsqueeze(1))


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
class LatentsData(Config):
    """The latents of the trained ``model`` (a checkpoint or run) on pictures, in place of the pictures.

    temperature : spread of the draws for training, times the posterior's; 0 trains on its means.
    """

    kind: Literal["latents"] = "latents"
    model: str = ""
    temperature: Weight = 1.0
    data: PictureConfig = DigitsData()

    def build(self, seed: int) -> LatentsSource:
        return LatentsSource(self, seed)


DataConfig = Annotated[
    AudioData | VoiceData | SpectrogramData | CodesData | LatentsData | DigitsData | MNISTData | FashionMNISTData
    | CIFAR10Data | CelebAData | ArchiveData | FolderData | ShapesData,
    Discriminator("kind"),
]


def binarized(source: Source) -> Binarize:
    """How a source of data makes its pictures binary, which their bits per dimension must say."""
    return source.config.binarize if isinstance(source, ImageSource) else "none"


def bits_of(model: Model, data: DataSpec, binarize: Binarize = "none") -> str:
    """What a model's bits per dimension are bits of: its likelihood's measure, and how the data was made binary.

    >>> from audiovae.latents.example import example_vae
    >>> model = example_vae()
    >>> bits_of(model, model.data)
    'density, not comparable across units'
    """
    how = {"none": "", "dynamic": ", pixels drawn 0 or 1 by grey level", "threshold": ", pixels rounded to 0 or 1"}
    likelihood = model.likelihood
    if likelihood.measure == "density":
        return "density, not comparable across units" + how[binarize]
    if isinstance(likelihood, Bernoulli) and data.levels != 2:
        return "mass of pixels 0 or 1, in the mean over draws by their grey level"
    levels = f" of {data.levels} levels" if data.levels is not None else ""
    return f"{likelihood.measure}{levels}{how[binarize]}"
