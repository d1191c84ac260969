"""Criteria by configuration: a row of settings each, and the union that a recipe chooses from."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Discriminator

from audiovae.config import Config, Count, Positive
from audiovae.criteria import (
    MEL_RESOLUTIONS,
    RESOLUTIONS,
    ComplexSTFT,
    FrameRate,
    JukeboxSpectral,
    LogMelL1,
    MelLoudness,
    MelResolution,
    MultiResolutionSTFT,
    Perceptual,
    Resolution,
    SampleL1,
    SampleL2,
    TopSquares,
)
from audiovae.errors import ConfigError
from audiovae.image.features import LabelledBatches
from audiovae.image.pretrained import comparing_network


def _hertz(kind: str, sample_rate: int | None) -> int:
    if sample_rate is None:
        raise ConfigError(f"criterion '{kind}' wants audio, and this data has no sample rate: take "
                          "'sample_l1' or 'sample_l2'.")
    return sample_rate


@dataclass(frozen=True)
class LogMelConfig(Config):
    kind: Literal["log_mel"] = "log_mel"
    weight: float = 1.0
    resolutions: tuple[MelResolution, ...] = MEL_RESOLUTIONS

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> LogMelL1:
        return LogMelL1(_hertz(self.kind, sample_rate), self.resolutions)


@dataclass(frozen=True)
class MelLoudnessConfig(Config):
    kind: Literal["mel_loudness"] = "mel_loudness"
    weight: float = 1.0
    resolutions: tuple[MelResolution, ...] = MEL_RESOLUTIONS
    exponent: Positive = 0.3

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> MelLoudness:
        return MelLoudness(_hertz(self.kind, sample_rate), self.resolutions, self.exponent)


@dataclass(frozen=True)
class MultiResolutionSTFTConfig(Config):
    kind: Literal["multi_resolution_stft"] = "multi_resolution_stft"
    weight: float = 1.0
    resolutions: tuple[Resolution, ...] = RESOLUTIONS

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> MultiResolutionSTFT:
        _hertz(self.kind, sample_rate)
        return MultiResolutionSTFT(self.resolutions)


@dataclass(frozen=True)
class JukeboxSpectralConfig(Config):
    kind: Literal["jukebox_spectral"] = "jukebox_spectral"
    weight: float = 1.0
    resolutions: tuple[Resolution, ...] = RESOLUTIONS

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> JukeboxSpectral:
        _hertz(self.kind, sample_rate)
        return JukeboxSpectral(self.resolutions)


@dataclass(frozen=True)
class ComplexSTFTConfig(Config):
    kind: Literal["complex_stft"] = "complex_stft"
    weight: float = 1.0
    resolutions: tuple[Resolution, ...] = RESOLUTIONS

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> ComplexSTFT:
        _hertz(self.kind, sample_rate)
        return ComplexSTFT(self.resolutions)


@dataclass(frozen=True)
class FrameRateConfig(Config):
    """``period`` in samples: the model's hop, or what a decoder of several frames a step makes of it."""

    kind: Literal["frame_rate"] = "frame_rate"
    weight: float = 1.0
    period: Count = 320
    harmonics: Count = 8

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> FrameRate:
        _hertz(self.kind, sample_rate)
        if 2 * self.harmonics > self.period:
            raise ConfigError(f"criterion 'frame_rate' has at most period / 2 harmonics, got {self.harmonics} of a "
                              f"period of {self.period}.")
        return FrameRate(self.period, self.harmonics)


@dataclass(frozen=True)
class TopSquaresConfig(Config):
    kind: Literal["top_squares"] = "top_squares"
    weight: float = 0.02
    k: int = 2048

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> TopSquares:
        return TopSquares(self.k)


@dataclass(frozen=True)
class SampleL1Config(Config):
    kind: Literal["sample_l1"] = "sample_l1"
    weight: float = 1.0

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> SampleL1:
        return SampleL1()


@dataclass(frozen=True)
class SampleL2Config(Config):
    kind: Literal["sample_l2"] = "sample_l2"
    weight: float = 1.0

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> SampleL2:
        return SampleL2()


@dataclass(frozen=True)
class PerceptualConfig(Config):
    """Distance in a network's features.

    network : "classifier", trained for ``steps`` on the data's labels before all else; "vgg", from disk; "auto", VGG
        where its weights are on disk and the pictures have 16 pixels a side, else the classifier. A checkpoint
        says which it was.
    """

    kind: Literal["perceptual"] = "perceptual"
    weight: float = 1.0
    network: Literal["auto", "classifier", "vgg"] = "auto"
    steps: int = 200

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> Perceptual:
        return Perceptual(comparing_network(self.network, source, self.steps))


CriterionConfig = Annotated[
    LogMelConfig | MelLoudnessConfig | MultiResolutionSTFTConfig | JukeboxSpectralConfig | ComplexSTFTConfig
    | FrameRateConfig | TopSquaresConfig | SampleL1Config | SampleL2Config | PerceptualConfig, Discriminator("kind")]
