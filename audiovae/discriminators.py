"""Discriminators against blur and buzz: networks that learn to tell reconstructions from data, place by place.

On the data itself (Isola 2017, section 3.2.2), or on the spectra of waveforms at several resolutions (Jang 2021). The
hinge loss of Lim & Ye 2017; the adaptive weight of Esser 2021, eq. 7. Training takes turns: the model's step adds
:meth:`Adversary.weighed` to its loss, then a second optimizer takes a step on :meth:`Adversary.forward`. A model
trained so bounds no likelihood, and its loss reports no ELBO.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from audiovae.audio.features import STFT
from audiovae.config import Config, Count, Decay, Positive, Weight, Whole
from audiovae.criteria import Resolution
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.conv import CONV, SameConv
from audiovae.nn.field import Field, compose
from audiovae.shapes import DataSpec, check


class Verdict(NamedTuple):
    """What a discriminator finds.

    scores : for each resolution, (B, 1, *places); higher where the data look real.
    features : what its layers saw on the way, (B, ...) each; matching compares them.
    """

    scores: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    """A score for each patch of the data: higher where it looks real.

    ``depth`` convolutions of kernel 4 and stride 2, then two of kernel 3, each with spectral normalisation
    (Miyato 2018) in place of batch normalisation: a score depends on its patch alone, ``field`` wide.

    Shapes: (B, C, *grid) -> scores (B, 1, *grid / 2^depth), rounded down.

    >>> judge = PatchDiscriminator(dims=2, channels=3, width=8, depth=2)
    >>> judge(torch.zeros(4, 3, 32, 32)).scores[0].shape, sum(judge.field.halo) + 1
    (torch.Size([4, 1, 8, 8]), 26)
    """

    WIDEST = 8  # times the first width, as in the paper

    def __init__(self, dims: int, channels: int, width: int = 64, depth: int = 3):
        super().__init__()
        self.dims, self.channels, self.depth = dims, channels, depth
        widths = [channels, *(width * min(2**stage, self.WIDEST) for stage in range(depth))]
        self.downs = nn.ModuleList(spectral_norm(CONV[dims](before, after, 4, stride=2, padding=1))
                                   for before, after in pairwise(widths))
        self.inner, self.head = SameConv(dims, widths[-1], widths[-1], 3), SameConv(dims, widths[-1], 1, 3)
        self.field = compose(*[Field.conv(4, 2, padding=1)] * depth, self.inner.field, self.head.field)
        for layer in (self.inner, self.head):
            spectral_norm(layer.conv)

    def forward(self, x: Tensor) -> Verdict:
        check("PatchDiscriminator", x, self.channels, self.dims)
        if min(x.shape[2:]) < 2**self.depth:
            raise ShapeError(f"PatchDiscriminator wants sides of at least {2**self.depth} at depth {self.depth}, got "
                             f"{tuple(x.shape[2:])}: set a smaller adversary.depth.")
        features = []
        for layer in (*self.downs, self.inner):
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Verdict((self.head(x),), tuple(features))


class SpectrumDiscriminator(nn.Module):
    """A score for each patch of a picture of a spectrum, frames by bins: higher where it looks real.

    Convolutions that see three frames and more bins than frames (Jang 2021), with strides over the bins, once over the
    frames. Weights are as they are: normalised spectrally it would learn more slowly.

    Shapes: (B, C, L, F) -> scores (B, 1, L / 2, F / 8), rounded up; ``field`` is along frames.

    >>> SpectrumDiscriminator(1)(torch.zeros(4, 1, 10, 65)).scores[0].shape
    torch.Size([4, 1, 5, 9])
    """

    LAYERS = ((1, 9, (1, 2)), (2, 5, (2, 2)), (2, 5, (1, 2)), (2, 3, (1, 1)))  # widths, bins, frames and bins a step

    def __init__(self, channels: int, width: int = 8):
        super().__init__()
        widths = [channels, *(width * times for times, *_ in self.LAYERS)]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, (3, bins), stride=strides, padding=(1, bins // 2))
            for (before, after), (_, bins, strides) in zip(pairwise(widths), self.LAYERS, strict=True))
        self.head = SameConv(2, widths[-1], 1, 3)
        self.field = compose(*(Field.conv(3, strides[0], padding=1) for *_, strides in self.LAYERS), self.head.field)

    def forward(self, x: Tensor) -> Verdict:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Verdict((self.head(x),), tuple(features))


class STFTDiscriminator(nn.Module):
    """A discriminator for each of several spectra of a waveform: the logarithm of their magnitudes, frames by bins.

    Short windows show a buzz between the frames of a decoder, long ones a note between its harmonics. Phase is left
    out: a network of this size tells less by real and imaginary parts, which turn from frame to frame.

    Parameters
    ----------
    channels : C of the waveform.
    resolutions : transforms, one :class:`SpectrumDiscriminator` each.
    width : of each.

    Attributes
    ----------
    fields : of a score at each resolution, along time, in samples.

    Shapes: (B, C, T) -> for each resolution scores (B, 1, ceil(T / hop) / 2, F / 8), rounded up.

    >>> judge = STFTDiscriminator(1, (Resolution(512, 128), Resolution(128, 32)))
    >>> [tuple(scores.shape) for scores in judge(torch.zeros(4, 1, 4096)).scores]
    [(4, 1, 16, 33), (4, 1, 64, 9)]
    """

    FLOOR = 1e-8  # of the power of white noise of deviation 1, -80 dB: what is quieter looks alike

    def __init__(self, channels: int, resolutions: tuple[Resolution, ...], width: int = 8):
        super().__init__()
        self.channels = channels
        self.stfts = nn.ModuleList(resolution.build() for resolution in resolutions)
        self.judges = nn.ModuleList(SpectrumDiscriminator(channels, width) for _ in resolutions)
        self.fields = tuple(stft.field.then(judge.field)  # type: ignore[operator, arg-type]
                            for stft, judge in zip(self.stfts, self.judges, strict=True))

    def forward(self, x: Tensor) -> Verdict:
        check("STFTDiscriminator", x, self.channels, dims=1)
        found = [judge(self.spectrum(x, stft))  # type: ignore[arg-type]
                 for stft, judge in zip(self.stfts, self.judges, strict=True)]
        return Verdict(tuple(s for verdict in found for s in verdict.scores),
                       tuple(f for verdict in found for f in verdict.features))

    def spectrum(self, x: Tensor, stft: STFT) -> Tensor:
        """(B, C, T) -> (B, C, L, F): levels in units of 20 dB, 2 for white noise of deviation 1, -2 for silence."""
        with torch.autocast(x.device.type, enabled=False):  # powers span more than half precision holds
            power = stft.power(x.float()) / stft.window.square().sum()
            return 0.5 * (power + self.FLOOR).log10() + 2


class Adversary(nn.Module):
    """A discriminator with its two sides of the game.

    Parameters
    ----------
    discriminator : data (B, C, *grid) -> :class:`Verdict`.
    weight : of the model's terms, beside its own loss, once both pull equally at the decoder's last layer.
    matching : weight of feature matching beside the score, among the model's terms.

    >>> adversary = PatchConfig(width=8, depth=2, matching=1).build(DataSpec(channels=1, dims=2))
    >>> real, estimate = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, requires_grad=True)
    >>> list(adversary.terms(real, estimate)), adversary(real, estimate.detach()).shape
    (['adversarial', 'feature_matching'], torch.Size([]))
    """

    MOST = 1e4  # bound of the adaptive weight, as in the authors' code
    DELTA = 1e-6

    def __init__(self, discriminator: nn.Module, weight: float, matching: float = 0.0):
        super().__init__()
        self.discriminator, self.weight, self.matching = discriminator, weight, matching

    def forward(self, real: Tensor, estimate: Tensor) -> Tensor:
        """What the discriminator minimises: mean max(0, 1 - D(x)) / 2 + mean max(0, 1 + D(x̂)) / 2, of the resolutions.

        Both in one pass, (B, C, *grid) and (B', C, *grid); ``estimate`` without a gradient.
        """
        scores = self.discriminator(torch.cat([real, estimate.detach()])).scores
        return torch.stack([0.5 * (F.relu(1 - s[:len(real)]).mean() + F.relu(1 + s[len(real):]).mean())
                            for s in scores]).mean()

    def terms(self, real: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        """What the model minimises, unweighted: its gradient reaches the estimate, never the discriminator.

        adversarial : -mean D(x̂), averaged over resolutions.
        feature_matching : mean |f(x̂) - f(x)| / mean |f(x)|, averaged over features f (Défossez 2022, eq. 2); left
            out where its weight is 0.
        """
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with parametrize.cached():  # the same weights for both: spectral normalisation changes at every look
            seen: Verdict = functional_call(self.discriminator, fixed, (estimate,))
            terms = {"adversarial": -torch.stack([scores.mean() for scores in seen.scores]).mean()}
            if self.matching:
                with torch.no_grad():
                    wanted: Verdict = functional_call(self.discriminator, fixed, (real,))
                terms["feature_matching"] = torch.stack(
                    [(f - w).abs().mean() / w.abs().mean().clamp(min=self.DELTA)
                     for f, w in zip(seen.features, wanted.features, strict=True)]).mean()
        return terms

    def weighed(self, loss: Tensor, real: Tensor, estimate: Tensor, last: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the model's terms times ``weight`` and λ = ||∇ loss|| / (||∇ sum|| + δ), both at ``last``.

        Also the terms and λ for the log. Raises ConfigError where ``last`` has no part in the estimate.
        """
        terms = self.terms(real, estimate)
        total = terms["adversarial"] + self.matching * terms.get("feature_matching", 0.0)
        pull, = torch.autograd.grad(total, estimate)  # once through the discriminator, for λ and for the step
        theirs, = torch.autograd.grad(estimate, last, pull, retain_graph=True, allow_unused=True)
        ours, = torch.autograd.grad(loss, last, retain_graph=True, allow_unused=True)
        if ours is None or theirs is None:
            raise ConfigError("adversary: the decoder's last layer has no part in the reconstruction: take another "
                              "decoder.")
        balance = (ours.norm() / (theirs.norm() + self.DELTA)).clamp(max=self.MOST).detach()
        along = (estimate * pull).sum()  # has the sum's gradient; its value is put right
        joined = self.weight * balance * (along + (total - along).detach())
        return joined, {name: term.detach() for name, term in terms.items()} | {"adversarial_balance": balance}


def last_layer(decoder: nn.Module) -> nn.Parameter:
    """The weight matrix of a decoder's last layer; of a decoder around an ``inner`` one, that of the inner.

    >>> from audiovae.decoders import MLPDecoder
    >>> last_layer(MLPDecoder(channels_in=4, channels_out=1, size=(8, 8), widths=(32,))).shape
    torch.Size([64, 32])
    """
    inner = getattr(decoder, "inner", decoder)
    return [p for p in inner.parameters() if p.ndim > 1][-1]


@dataclass(frozen=True)
class GameConfig(Config):
    """What every adversary has: an adversary is training's second optimizer.

    weight : of its terms, beside the model's own loss; see :class:`Adversary`.
    matching : weight of feature matching among its terms.
    starts : the step from which it plays, so that there is something to judge.
    lr : peak learning rate of the discriminator; its schedule is the model's.
    """

    weight: Weight = 0.5
    matching: Weight = 0.0
    starts: Whole = 1000
    lr: Positive = 5e-4
    betas: tuple[Decay, Decay] = (0.5, 0.9)


@dataclass(frozen=True)
class PatchConfig(GameConfig):
    """A patch discriminator on the data itself: pictures, or waveforms."""

    kind: Literal["patch"] = "patch"
    width: Count = 32
    depth: Count = 2

    def build(self, data: DataSpec) -> Adversary:
        return Adversary(PatchDiscriminator(data.dims, data.channels, self.width, self.depth), self.weight,
                         self.matching)


@dataclass(frozen=True)
class STFTConfig(GameConfig):
    """Discriminators of the spectra of waveforms, one for each of ``resolutions``."""

    kind: Literal["multi_resolution_stft"] = "multi_resolution_stft"
    matching: Weight = 2.0
    lr: Positive = 2e-3
    resolutions: tuple[Resolution, ...] = (Resolution(1024, 256), Resolution(512, 128), Resolution(256, 64))
    width: Count = 8

    def build(self, data: DataSpec) -> Adversary:
        """ConfigError where the data are no waveforms, or no resolution is given."""
        if data.sample_rate is None or not self.resolutions:
            raise ConfigError(f"adversary 'multi_resolution_stft' wants waveforms and at least one resolution, got "
                              f"{data} and {len(self.resolutions)} resolutions: take 'patch'.")
        judge = STFTDiscriminator(data.channels, self.resolutions, self.width)
        return Adversary(judge, self.weight, self.matching)


AdversaryConfig = Annotated[PatchConfig | STFTConfig, Discriminator("kind")]
