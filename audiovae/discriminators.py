"""Discriminators against blur and buzz: networks that learn to tell reconstructions from data, place by place.

On the data itself (Isola 2017, section 3.2.2), or on the spectra of waveforms at several resolutions (Défossez 2022,
section 3.4; Jang 2021). The hinge loss of Lim & Ye 2017; the adaptive weight of Esser 2021, eq. 7. Training takes
turns: the model's step adds :meth:`Adversary.weighed` to its loss, then a second optimizer takes a step on
:meth:`Adversary.forward`. A model trained so bounds no likelihood, and its loss reports no ELBO.
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


class STFTDiscriminator(nn.Module):
    """A patch discriminator for each of several complex spectra of a waveform, frames by bins.

    Short windows show a buzz between the frames of a decoder, long ones a note between its harmonics. A bin's
    magnitude relative to white noise of deviation 1 is raised to 0.3, as loudness is, and keeps its phase: else the
    loudest bins would be all there is to see.

    Parameters
    ----------
    channels : C of the waveform.
    resolutions : transforms, one patch discriminator each.
    width, depth : of each, see :class:`PatchDiscriminator`.

    Attributes
    ----------
    fields : of a score at each resolution, along time, in samples.

    Shapes: (B, C, T) -> for each resolution scores (B, 1, ceil(T / hop) / 2^depth, F / 2^depth), rounded down.

    >>> judge = STFTDiscriminator(1, (Resolution(512, 128), Resolution(128, 32)), width=8, depth=2)
    >>> [tuple(scores.shape) for scores in judge(torch.zeros(4, 1, 4096)).scores]
    [(4, 1, 8, 64), (4, 1, 32, 16)]
    """

    POWER = 0.3
    FLOOR = 1e-6  # of the power, -60 dB: what is quieter is not raised further

    def __init__(self, channels: int, resolutions: tuple[Resolution, ...], width: int = 16, depth: int = 2):
        super().__init__()
        self.channels = channels
        self.stfts = nn.ModuleList(resolution.build() for resolution in resolutions)
        self.judges = nn.ModuleList(PatchDiscriminator(2, 2 * channels, width, depth) for _ in resolutions)
        self.fields = tuple(stft.field.then(judge.field)  # type: ignore[operator, arg-type]
                            for stft, judge in zip(self.stfts, self.judges, strict=True))

    def forward(self, x: Tensor) -> Verdict:
        check("STFTDiscriminator", x, self.channels, dims=1)
        found = [judge(self.spectrum(x, stft))  # type: ignore[arg-type]
                 for stft, judge in zip(self.stfts, self.judges, strict=True)]
        return Verdict(tuple(s for verdict in found for s in verdict.scores),
                       tuple(f for verdict in found for f in verdict.features))

    def spectrum(self, x: Tensor, stft: STFT) -> Tensor:
        """(B, C, T) -> (B, 2 C, L, F), real and imaginary parts."""
        with torch.autocast(x.device.type, enabled=False):  # powers span more than half precision holds
            parts = torch.view_as_real(stft(x.float())) / stft.window.norm()
            loud = (parts.square().sum(-1, keepdim=True) + self.FLOOR) ** (0.5 * (self.POWER - 1))
            return (parts * loud).movedim(-1, 2).flatten(1, 2)


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
    """Patch discriminators on complex spectra of waveforms, one for each of ``resolutions``."""

    kind: Literal["multi_resolution_stft"] = "multi_resolution_stft"
    matching: Weight = 2.0
    resolutions: tuple[Resolution, ...] = (Resolution(1024, 256), Resolution(512, 128), Resolution(256, 64))
    width: Count = 16
    depth: Count = 2

    def build(self, data: DataSpec) -> Adversary:
        """ConfigError where the data are no waveforms, or no resolution is given."""
        if data.sample_rate is None or not self.resolutions:
            raise ConfigError(f"adversary 'multi_resolution_stft' wants waveforms and at least one resolution, got "
                              f"{data} and {len(self.resolutions)} resolutions: take 'patch'.")
        judge = STFTDiscriminator(data.channels, self.resolutions, self.width, self.depth)
        return Adversary(judge, self.weight, self.matching)


AdversaryConfig = Annotated[PatchConfig | STFTConfig, Discriminator("kind")]
