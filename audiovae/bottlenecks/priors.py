"""Priors p(z) of a continuous latent: the standard normal, a learned mixture, and the VampPrior.

Tomczak & Welling 2018, sections 2-3: the mixture of Gaussians is their MoG prior, the other their VampPrior.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn

from audiovae.config import Config
from audiovae.errors import ConfigError, ShapeError
from audiovae.shapes import DataSpec, Posterior, fixed_size, rows, unrows


class Prior(nn.Module):
    """The contract: how likely a latent is, and new ones.

    ``components`` is what the encoder made of the pseudo-inputs, q(z|u_k), each (K, D, *grid); only the
    VampPrior reads it.

    Attributes
    ----------
    pseudo_inputs : K of those, 0 for a prior that stands on its own.
    """

    pseudo_inputs: int = 0

    def log_prob(self, z: Tensor, components: Posterior | None = None) -> Tensor:
        """log p(z) of z (B, D, *grid): (B,) nats."""
        raise NotImplementedError

    def sample(self, shape: tuple[int, ...], temperature: float = 1.0, generator: torch.Generator | None = None,
               components: Posterior | None = None) -> Tensor:
        """z of ``shape`` (B, D, *grid), the standard deviation of every normal times ``temperature``."""
        raise NotImplementedError


class StandardPrior(Prior):
    """N(0, 1) for every number.

    >>> StandardPrior().log_prob(torch.zeros(2, 4, 1)) / 4  # -½ log 2π
    tensor([-0.9189, -0.9189])
    """

    def log_prob(self, z: Tensor, components: Posterior | None = None) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def sample(self, shape: tuple[int, ...], temperature: float = 1.0, generator: torch.Generator | None = None,
               components: Posterior | None = None) -> Tensor:
        return temperature * _normal(shape, generator)


class MixturePrior(Prior):
    """1/K Σ_k N(μ_k, σ_k²) with learned diagonal normals, over the D numbers at each place of the grid.

    Places are independent, so that one prior fits every size; of a vector latent it is the MoG prior.

    >>> prior = MixturePrior(dim=4, components=10)
    >>> prior.log_prob(prior.sample((2, 4, 5))).shape
    torch.Size([2])
    """

    def __init__(self, dim: int, components: int):
        super().__init__()
        _some("MixturePrior", components)
        self.location = nn.Parameter(torch.randn(components, dim))  # as spread out as a standard normal
        self.log_variance = nn.Parameter(torch.zeros(components, dim))

    def log_prob(self, z: Tensor, components: Posterior | None = None) -> Tensor:
        return log_mixture(rows(z), self.location, self.log_variance).view(len(z), -1).sum(1)

    def sample(self, shape: tuple[int, ...], temperature: float = 1.0, generator: torch.Generator | None = None,
               components: Posterior | None = None) -> Tensor:
        like = torch.empty(shape)
        return unrows(_draw(rows(like).shape[0], self.location, self.log_variance, temperature, generator), like)


class VampPrior(Prior):
    """1/K Σ_k q(z|u_k): the mean posterior of K learned pseudo-inputs, over the whole latent at once (eq. 9).

    The model that holds the encoder learns the pseudo-inputs u_k, encodes them, and hands over ``components``.

    Raises ShapeError without them.

    >>> components = Posterior(torch.randn(10, 4, 1), torch.zeros(10, 4, 1))
    >>> prior = VampPrior(components=10)
    >>> prior.log_prob(prior.sample((2, 4, 1), components=components), components).shape
    torch.Size([2])
    """

    def __init__(self, components: int):
        super().__init__()
        _some("VampPrior", components)
        self.pseudo_inputs = components

    def log_prob(self, z: Tensor, components: Posterior | None = None) -> Tensor:
        mean, log_variance = self._flat(z[0].shape, components)
        return log_mixture(z.flatten(1), mean, log_variance)

    def sample(self, shape: tuple[int, ...], temperature: float = 1.0, generator: torch.Generator | None = None,
               components: Posterior | None = None) -> Tensor:
        mean, log_variance = self._flat(shape[1:], components)
        return _draw(shape[0], mean, log_variance, temperature, generator).view(shape)

    def _flat(self, shape: tuple[int, ...], components: Posterior | None) -> tuple[Tensor, Tensor]:
        wanted = (self.pseudo_inputs, *shape)
        if components is None or components.mean.shape != wanted:
            came = "none" if components is None else tuple(components.mean.shape)
            raise ShapeError(f"VampPrior wants the posteriors {wanted} of its pseudo-inputs, got {came}: call the "
                             "model that learns them, on data of one size.")
        return components.mean.flatten(1), components.log_variance.flatten(1)


class PseudoInputs(nn.Module):
    """K learned examples u_k of the data's one size, (K, C, *size); within [0, 1] where the data lies on levels.

    Raises ConfigError where the data has no one size.

    >>> PseudoInputs(10, DataSpec(channels=1, dims=2, size=(8, 8), levels=17))().shape
    torch.Size([10, 1, 8, 8])
    """

    def __init__(self, count: int, data: DataSpec):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(count, data.channels, *fixed_size("vamp prior", data)))
        self.bounded = data.levels is not None

    def forward(self) -> Tensor:
        return self.raw.sigmoid() if self.bounded else self.raw


def log_mixture(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log 1/K Σ_k N(z; μ_k, σ_k²): z (N, E), components (K, E) -> (N,) nats.

    >>> log_mixture(torch.zeros(1, 1), torch.zeros(3, 1), torch.zeros(3, 1))
    tensor([-0.9189])
    """
    error = (z[:, None] - mean).square() * (-log_variance).exp()
    log_density = -0.5 * (error + log_variance + math.log(2 * math.pi)).sum(-1)
    return log_density.logsumexp(1) - math.log(len(mean))


@torch.no_grad()
def _draw(count: int, mean: Tensor, log_variance: Tensor, temperature: float,
          generator: torch.Generator | None) -> Tensor:
    """(count, E) from the mixture of components (K, E)."""
    device = generator.device if generator is not None else None
    chosen = torch.randint(len(mean), (count,), generator=generator, device=device).to(mean.device)
    noise = _normal((count, mean.shape[1]), generator).to(mean.device)
    return mean[chosen] + temperature * (0.5 * log_variance[chosen]).exp() * noise


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device if generator is not None else None)


def _some(owner: str, components: int) -> None:
    if components < 1:
        raise ConfigError(f"{owner} wants at least 1 component, got {components}.")


@dataclass(frozen=True)
class StandardPriorConfig(Config):
    """No settings: N(0, 1)."""

    kind: Literal["standard"] = "standard"

    def build(self, dim: int) -> StandardPrior:
        return StandardPrior()


@dataclass(frozen=True)
class MixturePriorConfig(Config):
    """``components`` K of the learned mixture."""

    kind: Literal["mixture"] = "mixture"
    components: int = 100

    def build(self, dim: int) -> MixturePrior:
        return MixturePrior(dim, self.components)


@dataclass(frozen=True)
class VampPriorConfig(Config):
    """``components`` K, the pseudo-inputs; data must be of one size."""

    kind: Literal["vamp"] = "vamp"
    components: int = 100

    def build(self, dim: int) -> VampPrior:
        return VampPrior(self.components)


PriorConfig = Annotated[StandardPriorConfig | MixturePriorConfig | VampPriorConfig, Discriminator("kind")]
