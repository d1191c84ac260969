"""Criteria: what a reconstruction is compared by besides its likelihood. None of them is one.

Each is a small module ``forward(estimate, target) -> scalar`` on data (B, C, *grid), averaged so that its
size does not depend on the batch or the length. The target's spectra are computed without a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.features import STFT, LogMel
from audiovae.config import Config
from audiovae.errors import ShapeError
from audiovae.image.features import FeatureNetwork


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


class MelCriterion(Criterion):
    """A comparison of two waveforms' mel power, averaged over resolutions: of ``scale`` times its logarithm."""

    def __init__(self, sample_rate: int, resolutions: tuple[MelResolution, ...] = MEL_RESOLUTIONS, scale: float = 1.0):
        super().__init__()
        self.mels = nn.ModuleList(
            LogMel(sample_rate, r.n_fft, r.hop, r.num_mels, scale=scale, offset=0.0) for r in resolutions)

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        estimate, target = estimate.flatten(0, 1).unsqueeze(1), target.flatten(0, 1).unsqueeze(1)
        terms = []
        for mel in self.mels:
            with torch.no_grad():
                truth = mel(target)
            terms.append(self.at(mel(estimate), truth))
        return torch.stack(terms).mean()

    def at(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """The comparison of log power (B, M, L) at one resolution."""
        raise NotImplementedError


class LogMelL1(MelCriterion):
    """Mean absolute difference of log-mel power in nats, averaged over resolutions.

    Power below LogMel's floor, about 80 dB under full scale, counts as silence.

    >>> criterion, x = LogMelL1(sample_rate=16000), torch.randn(2, 1, 4000)
    >>> f"{criterion(2 * x, x):.2f}"  # log 4
    '1.39'
    """

    def at(self, estimate: Tensor, truth: Tensor) -> Tensor:
        return (estimate - truth).abs().mean()


class MelLoudness(MelCriterion):
    """Mean absolute difference of loudness, mel power to the power of ``exponent``, over each example's mean loudness.

    To a logarithm an error in a faint frame is as dear as in a loud one; to the ear it is not. Loudness grows as
    intensity to the power of 0.3 (Stevens 1955, "The measurement of loudness"). Averaged over resolutions.

    >>> criterion, x = MelLoudness(sample_rate=16000), torch.randn(2, 1, 4000)
    >>> f"{criterion(2 * x, x):.2f}"  # 4^0.3 - 1
    '0.52'
    """

    def __init__(self, sample_rate: int, resolutions: tuple[MelResolution, ...] = MEL_RESOLUTIONS,
                 exponent: float = 0.3):
        super().__init__(sample_rate, resolutions, scale=exponent)

    def at(self, estimate: Tensor, truth: Tensor) -> Tensor:
        loudness = truth.exp()
        return ((estimate.exp() - loudness).abs().mean((1, 2)) / loudness.mean((1, 2))).mean()


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


class FrameRate(Criterion):
    """How much more, or less, the loudness sways in time with a model's frames than the target's does.

    Frames that are put together leave a hum at their rate: the mean over all frames of the energy within one, each in
    units of the frame's own, is not flat. That mean is compared, as the first few terms of its Fourier series, whose
    amplitudes are depths of modulation: the root of their differences' sum of squares. A sway that is the sound's own
    does not stay in step with the frames, and its mean falls with their number, so that this wants batches of seconds.

    period : samples of a frame, counted from the start of an example.
    harmonics : of its rate, at most period / 2.

    Raises ShapeError on examples shorter than a period.

    >>> hum = 1 + 0.2 * torch.cos(2 * torch.pi * torch.arange(32000) / 320)
    >>> x = torch.randn(32000, generator=torch.Generator().manual_seed(0))
    >>> f"{FrameRate(320)((x * hum.sqrt()).view(1, 1, -1), x.view(1, 1, -1)):.1f}"
    '0.2'
    """

    SILENCE = 1e-5  # power, -50 dB of full scale: frames that are quieter count less

    def __init__(self, period: int = 320, harmonics: int = 8):
        super().__init__()
        self.period, self.harmonics = period, harmonics
        turn = 2 * torch.pi * torch.arange(1, harmonics + 1)[:, None] * torch.arange(period) / period
        self.register_buffer("waves", 2 / period * torch.cat([turn.cos(), turn.sin()]), persistent=False)

    def compare(self, estimate: Tensor, target: Tensor) -> Tensor:
        if estimate.shape[-1] < self.period:
            raise ShapeError(f"FrameRate wants examples of a period or more, {self.period} samples, got "
                             f"{estimate.shape[-1]}: take longer crops.")
        with torch.no_grad():
            truth = self.depths(target)
        return torch.linalg.vector_norm(self.depths(estimate) - truth)

    def depths(self, x: Tensor) -> Tensor:
        """Of x (B, C, T), the cosines' and sines' amplitudes (2 H,) as shares of the mean energy."""
        frames = x[..., :x.shape[-1] // self.period * self.period].reshape(-1, self.period).square()
        return self.waves @ (frames / (frames.mean(1, keepdim=True) + self.SILENCE)).mean(0)  # type: ignore[operator]


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
