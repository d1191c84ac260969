"""Rate controls by configuration: a row of settings each, and the union that a recipe chooses from."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Discriminator

from audiovae.config import Config
from audiovae.rate_control import Balanced, Cyclical, FreeBits, Geco, Linear, RateControl, Target, TotalCorrelation


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
class BalancedConfig(Config):
    """As "linear", the levels of a ladder balanced while beta rises."""

    kind: Literal["balanced"] = "balanced"
    beta: float = 1.0
    until: float = 0.3

    def build(self) -> Balanced:
        return Balanced(self.beta, self.until)


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


@dataclass(frozen=True)
class CapacityConfig(Config):
    """Rate and capacity C in nats per example; C rises over the first ``until`` of training."""

    kind: Literal["capacity"] = "capacity"
    nats: float = 25.0
    gamma: float = 1000.0
    until: float = 0.5

    def build(self) -> Target:
        return Target(self.nats, self.gamma, self.until)


@dataclass(frozen=True)
class ConstantRateConfig(Config):
    """The rate held at ``nats`` per example."""

    kind: Literal["constant_rate"] = "constant_rate"
    nats: float = 10.0
    gamma: float = 1.0

    def build(self) -> Target:
        return Target(self.nats, self.gamma)


@dataclass(frozen=True)
class TotalCorrelationConfig(Config):
    kind: Literal["total_correlation"] = "total_correlation"
    beta: float = 6.0

    def build(self) -> TotalCorrelation:
        return TotalCorrelation(self.beta)


@dataclass(frozen=True)
class GecoConfig(Config):
    """``target`` in nats of distortion per data dimension; the multiplier's growth a step is exp(speed * error)."""

    kind: Literal["geco"] = "geco"
    target: float = 0.1
    speed: float = 0.1

    def build(self) -> Geco:
        return Geco(self.target, self.speed)


RateControlConfig = Annotated[
    ConstantConfig | LinearConfig | BalancedConfig | CyclicalConfig | FreeBitsConfig | CapacityConfig
    | ConstantRateConfig | TotalCorrelationConfig | GecoConfig, Discriminator("kind")]
