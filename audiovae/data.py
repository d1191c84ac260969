"""Sources of batches for training: every batch is a pure function of (seed, step, rank).

That is what makes a resumed run the same run: there is no loader state to save.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Discriminator

from audiovae.audio.corpus import Corpus
from audiovae.audio.crops import CropSampler
from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.image.digits import digits
from audiovae.shapes import Batch, Condition, DataSpec, check_grid


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


class AudioSource:
    """Random crops of a prepared corpus (``audiovae prepare``), labelled by speaker."""

    def __init__(self, config: "AudioData", seed: int):
        if not config.corpus:
            raise ConfigError("data.corpus is not set: name a folder made by `audiovae prepare`.")
        self.config, self.seed = config, seed
        self.corpus = Corpus.open(Path(config.corpus))
        self.spec = DataSpec(channels=1, dims=1, sample_rate=self.corpus.sample_rate, labels=self.corpus.speakers)
        self.fit(hop=1)

    def fit(self, hop: int) -> None:
        samples = max(1, round(self.config.seconds * self.corpus.sample_rate / hop)) * hop
        size = self.config.batch_size
        self.train = CropSampler(self.corpus, "train", samples, size, self.seed)
        self.valid = CropSampler(self.corpus, "valid", samples, size, seed=0)

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self.train.batch(step, rank)

    def validation(self) -> list[Batch]:
        return [self.valid.batch(step) for step in range(self.config.validation_batches)]


class DigitsSource:
    """Scikit-learn's digits, 8 x 8 grey, labelled "0" to "9"; drawn with replacement."""

    def __init__(self, config: "DigitsData", seed: int):
        self.config, self.seed = config, seed
        self.spec = DataSpec(channels=1, dims=2, labels=tuple("0123456789"))
        self.x, self.label = digits("train")

    def fit(self, hop: int) -> None:
        check_grid("digits (8 x 8)", self.x, hop)

    def batch(self, step: int, rank: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(mix(self.seed, step, rank))
        pick = torch.randint(len(self.x), (self.config.batch_size,), generator=generator)
        return Batch(self.x[pick], Condition(self.label[pick]), tuple(f"digit {i}" for i in pick.tolist()))

    def validation(self) -> list[Batch]:
        x, label = digits("valid")
        return [Batch(x, Condition(label), tuple(f"valid {i}" for i in range(len(x))))]


@dataclass(frozen=True)
class AudioData(Config):
    """A prepared corpus folder, and how it is cut: crops of ``seconds``, ``batch_size`` of them a step."""

    kind: Literal["audio"] = "audio"
    corpus: str = ""
    seconds: float = 1.0
    batch_size: int = 16
    validation_batches: int = 4

    def build(self, seed: int) -> AudioSource:
        return AudioSource(self, seed)


@dataclass(frozen=True)
class DigitsData(Config):
    """The digits of scikit-learn, inside its wheel."""

    kind: Literal["digits"] = "digits"
    batch_size: int = 128

    def build(self, seed: int) -> DigitsSource:
        return DigitsSource(self, seed)


DataConfig = Annotated[AudioData | DigitsData, Discriminator("kind")]


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, different ones far apart (splitmix64's finaliser).

    >>> mix(0, 1, 2) != mix(0, 2, 1)
    True
    """
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1
