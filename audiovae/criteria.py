"""Criteria: what a reconstruction is compared by besides its likelihood. None of them is one.

Each is a small module ``forward(estimate, target) -> scalar`` on data (B, C, *grid), averaged so that its
size does not depend on the batch or the length. The target's spectra are computed without a gradient.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.features import STFT, LogMel
from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.image.features import FeatureNetwork, LabelledBatches
from audiovae.image.pretrained import comparing_network


@dataclass(frozen=True)
class Resolution(Config):
    """One transform: ``n_fft``, ``hop`` and window ``size`` in samples (None: n_fft)."""

    n_fft: int
    hop: int
    size: int | None = None

    def build(self) -> STFT:
        return STFT(self.n_fft, self.hop, self.size)


@dataclass(frozen=True)
class MelResolution(Config):
    """One mel spectrogram: ``n_fft`` and ``hop`` in samples, and its number of bands."""

    n_fft: int
    hop: int
    num_mels: int


# Yamamoto 2020, table 2, and Jukebox's code chose the same three.
RESOLUTIONS = (Resolution(1024, 120, 600), Resolution(2048, 240, 1200), Resolution(512, 50, 240))
MEL_RESOLUTIONS = (MelResolution(256, 64, 40), MelResolution(512, 128, 64), MelResolution(1024, 256, 80))


class Criterion(nn.Module):
    """The contract: two batches of data of one shape (B, C, *grid) to a scalar, 0 where they are equal."""

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        if estimate.shape != target.shape:
            raise ShapeError(f"{type(self).__name__} wants an estimate of its target's shape "
                             f"{tuple(target.shape)}, got {tuple(estimate.shape)}: crop or pad one of them.")
        return self.compare(estimate, target)

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class LogMelL1(Criterion):
    """Mean absolute difference of log-mel power in nats, averaged over resolutions.

    Power below LogMel's floor, about 80 dB under full scale, counts as silence.

    >>> criterion, x = LogMelL1(sample_rate=16000), torch.randn(2, 1, 4000)
    >>> f"{criterion(2 * x, x):.2f}"  # log 4
    '1.39'
    """

    def __init__(self, sample_rate: int, resolutions: tuple[MelResolution, ...] = MEL_RESOLUTIONS):
        super().__init__()
        self.mels = nn.ModuleList(
            LogMel(sample_rate, r.n_fft, r.hop, r.num_mels, scale=1.0, offset=0.0) for r in resolutions)

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        estimate, target = estimate.flatten(0, 1).unsqueeze(1), target.flatten(0, 1).unsqueeze(1)
        terms = []
        for mel in self.mels:
            with torch.no_grad():
                truth = mel(target)
            terms.append((mel(estimate) - truth).abs().mean())
        return torch.stack(terms).mean()


class SpectralCriterion(Criterion):
    """A comparison of two waveforms' transforms, averaged over resolutions."""

    def __init__(self, resolutions: tuple[Resolution, ...] = RESOLUTIONS):
        super().__init__()
        self.stfts = nn.ModuleList(r.build() for r in resolutions)

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        return torch.stack([self.at(stft, estimate, target) for stft in self.stfts]).mean()  # type: ignore[arg-type]

    def at(self, stft: STFT, estimate: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class MultiResolutionSTFT(SpectralCriterion):
    """Spectral convergence + mean |Δ ln magnitude| (Yamamoto 2020, eq. 4-6).

    Spectral convergence is || |X̂| - |X| || / || |X| || over the whole batch, so that a silent example
    cannot outweigh the others. Power has the least value 1e-7, as in the authors' code.

    >>> criterion, x = MultiResolutionSTFT(), torch.randn(2, 1, 4000)
    >>> f"{criterion(2 * x, x):.3f}"  # 1 + log 2
    '1.693'
    """

    FLOOR = 1e-7

    def at(self, stft: STFT, estimate: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            truth = stft.magnitude(target, self.FLOOR)
        magnitude = stft.magnitude(estimate, self.FLOOR)
        convergence = (magnitude - truth).norm() / _loudness(truth.flatten(), stft)
        return convergence + (magnitude.log() - truth.log()).abs().mean()


class JukeboxSpectral(SpectralCriterion):
    """|| |STFT(x̂)| - |STFT(x)| ||₂ of an example, averaged over the batch (Dhariwal 2020, section 3).

    Jukebox divides by the mean of || |STFT(x)| ||₂ over its training set; here the batch's own mean takes
    that place, so that the value does not change with loudness or length.

    >>> criterion, x = JukeboxSpectral(), torch.randn(2, 1, 4000)
    >>> f"{criterion(0.7 * x, x):.3f}"
    '0.300'
    """

    def at(self, stft: STFT, estimate: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            truth = stft.magnitude(target)
        difference = stft.magnitude(estimate) - truth
        return difference.flatten(1).norm(dim=1).mean() / _loudness(truth.flatten(1), stft)


class ComplexSTFT(SpectralCriterion):
    """Mean |STFT(x̂) - STFT(x)|, phase and all, in units of the data.

    Each spectrum is divided by the norm of its window, so that white noise of deviation σ counts about
    0.89 σ at every resolution. The transform is linear: that of x̂ - x does for both.

    >>> f"{ComplexSTFT()(0.1 * torch.randn(4, 1, 16000), torch.zeros(4, 1, 16000)):.2f}"
    '0.09'
    """

    def at(self, stft: STFT, estimate: Tensor, target: Tensor) -> Tensor:
        return stft.magnitude(estimate - target).mean() / stft.window.norm()


class TopSquares(Criterion):
    """Mean of an example's ``k`` largest squared errors: Jukebox's L∞ term (Dhariwal 2020, its code).

    Raises ShapeError on examples of fewer than ``k`` numbers.

    >>> TopSquares(k=2)(torch.tensor([[[3.0, 1.0, 0.0, 2.0]]]), torch.zeros(1, 1, 4))
    tensor(6.5000)
    """

    def __init__(self, k: int = 2048):
        super().__init__()
        self.k = k

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        squares = (estimate - target).square().flatten(1)
        if squares.shape[1] < self.k:
            raise ShapeError(f"TopSquares wants examples of at least k={self.k} numbers, got "
                             f"{squares.shape[1]}: take a smaller k or longer crops.")
        return squares.topk(self.k, dim=1, sorted=False).values.mean()


class SampleL1(Criterion):
    """Mean absolute error.

    >>> SampleL1()(torch.ones(1, 1, 4), torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]))
    tensor(1.)
    """

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        return (estimate - target).abs().mean()


class SampleL2(Criterion):
    """Mean squared error.

    >>> SampleL2()(torch.ones(1, 1, 4), torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]))
    tensor(1.5000)
    """

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        return (estimate - target).square().mean()


class Perceptual(Criterion):
    """Squared distance of a network's activations, each place's channels scaled to length 1, averaged over layers.

    Zhang 2018, eq. 1 with all learned weights 1; with unscaled activations it is the feature loss of Johnson 2016.
    From 0 to 2 where activations are not negative. The network is not trained by it.

    >>> from audiovae.image.features import Classifier
    >>> criterion = Perceptual(Classifier("untrained", dims=2, channels=1, num_labels=2))
    >>> x = torch.rand(2, 1, 8, 8)
    >>> float(criterion(x, x)), bool(criterion(1 - x, x) > 0)
    (0.0, True)
    """

    def __init__(self, network: FeatureNetwork):
        super().__init__()
        self.network = network.frozen()

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            truths = [F.normalize(truth, dim=1) for truth in self.network.layers(target)]
        layers = self.network.layers(estimate)
        return torch.stack([(F.normalize(layer, dim=1) - truth).square().sum(1).mean()
                            for layer, truth in zip(layers, truths, strict=True)]).mean()


QUIET = 1e-3  # a batch is never taken for quieter than this deviation, -60 dB: silence divides by nothing


def _loudness(magnitude: Tensor, stft: STFT) -> Tensor:
    """The mean over examples of the norm of their magnitudes (..., N)."""
    quiet = QUIET * magnitude.shape[-1] ** 0.5 * stft.window.norm()
    return torch.maximum(magnitude.norm(dim=-1).mean(), quiet)


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
    LogMelConfig | MultiResolutionSTFTConfig | JukeboxSpectralConfig | ComplexSTFTConfig | TopSquaresConfig
    | SampleL1Config | SampleL2Config | PerceptualConfig, Discriminator("kind")]
