"""A patch discriminator against blur: a network that learns to tell reconstructions from data, place by place.

Isola 2017, section 3.2.2; the hinge loss of Lim & Ye 2017; the adaptive weight of Esser 2021, eq. 7. Training
takes turns: the model's step adds :meth:`Adversary.term` to its loss, then a second optimizer takes a step on
:meth:`Adversary.forward`. A model trained so bounds no likelihood, and its loss reports no ELBO.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.conv import CONV, SameConv
from audiovae.nn.field import Field, compose
from audiovae.shapes import DataSpec, check


class PatchDiscriminator(nn.Module):
    """A score for each patch of the data: higher where it looks real.

    ``depth`` convolutions of kernel 4 and stride 2, then two of kernel 3, each with spectral normalisation
    (Miyato 2018) in place of batch normalisation: a score depends on its patch alone, ``field`` wide.

    Shapes: (B, C, *grid) -> (B, 1, *grid / 2^depth), rounded down.

    >>> judge = PatchDiscriminator(dims=2, channels=3, width=8, depth=2)
    >>> judge(torch.zeros(4, 3, 32, 32)).shape, sum(judge.field.halo) + 1
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

    def forward(self, x: Tensor) -> Tensor:
        check("PatchDiscriminator", x, self.channels, self.dims)
        if min(x.shape[2:]) < 2**self.depth:
            raise ShapeError(f"PatchDiscriminator wants sides of at least {2**self.depth} at depth {self.depth}, got "
                             f"{tuple(x.shape[2:])}: set a smaller adversary.depth.")
        for down in self.downs:
            x = F.leaky_relu(down(x), 0.2)
        return self.head(F.leaky_relu(self.inner(x), 0.2))


class Adversary(nn.Module):
    """A discriminator with its two sides of the game.

    Parameters
    ----------
    discriminator : data (B, C, *grid) -> scores of any shape.
    weight : of the model's term, beside its own loss, once both pull equally at the decoder's last layer.

    >>> adversary = AdversarialConfig(width=8, depth=2).build(DataSpec(channels=1, dims=2))
    >>> real, estimate = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, requires_grad=True)
    >>> adversary.term(estimate).shape, adversary(real, estimate.detach()).shape
    (torch.Size([]), torch.Size([]))
    """

    MOST = 1e4  # bound of the adaptive weight, as in the authors' code
    DELTA = 1e-6

    def __init__(self, discriminator: nn.Module, weight: float):
        super().__init__()
        self.discriminator, self.weight = discriminator, weight

    def forward(self, real: Tensor, estimate: Tensor) -> Tensor:
        """What the discriminator minimises: mean max(0, 1 - D(x)) / 2 + mean max(0, 1 + D(x̂)) / 2.

        Both in one pass, (B, C, *grid) and (B', C, *grid); ``estimate`` without a gradient.
        """
        scores = self.discriminator(torch.cat([real, estimate.detach()]))
        ours, theirs = scores[:len(real)], scores[len(real):]
        return 0.5 * (F.relu(1 - ours).mean() + F.relu(1 + theirs).mean())

    def term(self, estimate: Tensor) -> Tensor:
        """What the model minimises, -mean D(x̂): its gradient reaches the estimate, never the discriminator."""
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, fixed, (estimate,)).mean()

    def weighed(self, loss: Tensor, estimate: Tensor, last: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The model's term times ``weight`` and λ = ||∇ loss|| / (||∇ term|| + δ), both at the weights ``last``.

        Also the term and λ for the log. Raises ConfigError where ``last`` has no part in the estimate.
        """
        term = self.term(estimate)
        ours, theirs = (torch.autograd.grad(value, last, retain_graph=True, allow_unused=True)[0]
                        for value in (loss, term))
        if ours is None or theirs is None:
            raise ConfigError("adversary: the decoder's last layer has no part in the reconstruction: take another "
                              "decoder.")
        balance = (ours.norm() / (theirs.norm() + self.DELTA)).clamp(max=self.MOST).detach()
        return self.weight * balance * term, {"adversarial": term.detach(), "adversarial_balance": balance}


def last_layer(decoder: nn.Module) -> nn.Parameter:
    """The weight matrix of a decoder's last layer; of a decoder around an ``inner`` one, that of the inner.

    >>> from audiovae.decoders import MLPDecoder
    >>> last_layer(MLPDecoder(channels_in=4, channels_out=1, size=(8, 8), widths=(32,))).shape
    torch.Size([64, 32])
    """
    inner = getattr(decoder, "inner", decoder)
    return [p for p in inner.parameters() if p.ndim > 1][-1]


@dataclass(frozen=True)
class AdversarialConfig(Config):
    """A patch discriminator as training's second optimizer.

    starts : steps the model trains alone first, so that there is something to judge.
    lr : peak learning rate of the discriminator; its schedule is the model's.
    """

    kind: Literal["patch"] = "patch"
    weight: float = 0.5
    starts: int = 1000
    lr: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.9)
    width: int = 32
    depth: int = 2

    def build(self, data: DataSpec) -> Adversary:
        """Raise ConfigError on numbers that make no network."""
        if min(self.width, self.depth) < 1 or self.starts < 0 or not self.lr > 0:
            raise ConfigError("adversary wants width and depth of at least 1, starts of at least 0 and lr above 0, "
                              f"got {self.width}, {self.depth}, {self.starts} and {self.lr}.")
        return Adversary(PatchDiscriminator(data.dims, data.channels, self.width, self.depth), self.weight)
