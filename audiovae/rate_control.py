"""Rate control: how much a latent's rate weighs in training, as a function of how far training is.

Each takes the latents of all levels and the share of training done, and gives the penalty in nats per
example, averaged over the batch. Only here does ``beta`` mean anything: it weighs a rate, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.shapes import Latent


class RateControl:
    """Penalty beta(progress) * rate, the rate summed over levels: the contract, and the plain case.

    Subclasses change :meth:`weight`, or what is weighed.

    >>> latent = Latent(z=torch.zeros(2, 4, 10), rate=torch.tensor([30.0, 50.0]))
    >>> RateControl(beta=0.5)([latent, latent], progress=0.3)
    tensor(40.)
    """

    def __init__(self, beta: float = 1.0):
        if beta < 0:
            raise ConfigError(f"{type(self).__name__} wants beta of at least 0, got {beta:g}.")
        self.beta = beta

    def weight(self, progress: float) -> float:
        """beta after the share ``progress`` of training, from 0 to 1."""
        return self.beta

    def __call__(self, latents: Sequence[Latent], progress: float) -> Tensor:
        return self.weight(progress) * sum_of_levels(latents)


class Linear(RateControl):
    """beta rises from 0 to its value over the first ``until`` of training (Bowman 2016, section 3.1).

    >>> [Linear(beta=1.0, until=0.5).weight(p) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, beta: float = 1.0, until: float = 0.1):
        super().__init__(beta)
        self.until = _share("Linear", "until", until)

    def weight(self, progress: float) -> float:
        return self.beta * min(progress / self.until, 1.0)


class Cyclical(RateControl):
    """beta rises from 0 to its value over the first ``rise`` of each of several cycles (Fu 2019, eq. 6-7).

    >>> control = Cyclical(beta=1.0, cycles=2, rise=0.5)
    >>> [control.weight(p) for p in (0.0, 0.125, 0.25, 0.49, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, beta: float = 1.0, cycles: int = 4, rise: float = 0.5):
        super().__init__(beta)
        if cycles < 1:
            raise ConfigError(f"Cyclical wants at least one cycle, got {cycles}.")
        self.cycles, self.rise = cycles, _share("Cyclical", "rise", rise)

    def weight(self, progress: float) -> float:
        phase = progress * self.cycles % 1 if progress < 1 else 1.0  # training ends at the end of a cycle
        return self.beta * min(phase / self.rise, 1.0)


class FreeBits(RateControl):
    """Σ_j max(λ, rate_j): a group j of latent numbers is not pressed below λ nats (Kingma 2016, eq. 15).

    rate_j is the mean over the batch, so a group whose mean is below λ has no gradient from here.

    Parameters
    ----------
    nats : λ of each group, in nats per example.
    per : what a group is: "channel" one of D, over the whole grid (the paper's); "element" one number at
        one place of the grid; "level" all of a level's latent.

    Raises ConfigError on a latent that does not say where its rate is spent: codes have a constant rate.

    >>> latent = Latent(torch.zeros(1, 2, 1), torch.tensor([3.1]), rate_map=torch.tensor([[[0.1], [3.0]]]))
    >>> FreeBits(nats=0.5)([latent], progress=0.0)
    tensor(3.5000)
    """

    def __init__(self, nats: float = 0.5, per: Literal["channel", "element", "level"] = "channel",
                 beta: float = 1.0):
        super().__init__(beta)
        if nats < 0:
            raise ConfigError(f"FreeBits wants at least 0 nats, got {nats:g}.")
        self.nats, self.per = nats, per

    def __call__(self, latents: Sequence[Latent], progress: float) -> Tensor:
        rates = [self._groups(latent).clamp(min=self.nats).sum() for latent in latents]
        return self.weight(progress) * torch.stack(rates).sum()

    def _groups(self, latent: Latent) -> Tensor:
        if latent.rate_map is None:
            raise ConfigError("rate control 'free_bits' wants a bottleneck whose rate can change, such as "
                              "the Gaussian; this one's is constant: take kind 'constant'.")
        mean = latent.rate_map.mean(0)
        return {"element": mean, "channel": mean.flatten(1).sum(1), "level": mean.sum()}[self.per]


def sum_of_levels(latents: Sequence[Latent]) -> Tensor:
    """Nats per example of all levels together, averaged over the batch."""
    return torch.stack([latent.rate.mean() for latent in latents]).sum()


def _share(owner: str, name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ConfigError(f"{owner} wants {name} as a share of training above 0 and up to 1, got {value:g}.")
    return value


@dataclass(frozen=True)
class ConstantConfig(Config):
    kind: Literal["constant"] = "constant"
    beta: float = 1.0

    def build(self) -> RateControl:
        return RateControl(self.beta)


@dataclass(frozen=True)
class LinearConfig(Config):
    kind: Literal["linear"] = "linear"
    beta: float = 1.0
    until: float = 0.1

    def build(self) -> Linear:
        return Linear(self.beta, self.until)


@dataclass(frozen=True)
class CyclicalConfig(Config):
    kind: Literal["cyclical"] = "cyclical"
    beta: float = 1.0
    cycles: int = 4
    rise: float = 0.5

    def build(self) -> Cyclical:
        return Cyclical(self.beta, self.cycles, self.rise)


@dataclass(frozen=True)
class FreeBitsConfig(Config):
    kind: Literal["free_bits"] = "free_bits"
    nats: float = 0.5
    per: Literal["channel", "element", "level"] = "channel"
    beta: float = 1.0

    def build(self) -> FreeBits:
        return FreeBits(self.nats, self.per, self.beta)


RateControlConfig = Annotated[ConstantConfig | LinearConfig | CyclicalConfig | FreeBitsConfig,
                              Discriminator("kind")]
