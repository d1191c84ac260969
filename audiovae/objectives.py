"""The objective: distortion + rate control + weighted criteria and bottleneck losses, and what is logged.

    total = (w_d * distortion + penalty(rate)) / dims + Σ w * criterion + Σ w * bottleneck loss

Distortion is -log p(x|z) and rate the latent's, both in nats per example; ``dims`` is the number of data
dimensions of one example (C T, or C H W). So every term is per dimension, and weights and learning rates
carry over from one crop length or picture size to another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from audiovae.config import Config
from audiovae.criteria import CriterionConfig
from audiovae.errors import ConfigError
from audiovae.likelihoods import Likelihood
from audiovae.rate_control import ConstantConfig, RateControl, RateControlConfig, sum_of_levels
from audiovae.shapes import Latent, Output


@dataclass
class Loss:
    """One batch's loss, averaged over its examples.

    total : what is minimised, per data dimension; the only one with a gradient.
    distortion : -log p(x|z), nats per example.
    rate : nats per example, summed over levels; 0 where the bottleneck has none.
    elbo : -(distortion + rate), nats per example, higher is better, whatever beta is. None when it would
        not be one: the bottleneck has no rate, or criteria or a distortion weight other than 1 took the
        likelihood's place in training.
    bits_per_dimension : -elbo / (dims log 2), lower is better. Of a density it is that of the data as it
        is, without dequantization: it can be negative, and compares only within one unit of the data.
    terms : the criteria and bottleneck losses by name, unweighted.
    stats : the bottleneck's statistics by name, and ``beta``.
    """

    total: Tensor
    distortion: Tensor
    rate: Tensor
    elbo: Tensor | None = None
    bits_per_dimension: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Everything by name, as numbers for a log; what is None is left out."""
        named = {"total": self.total, "distortion": self.distortion, "rate": self.rate, "elbo": self.elbo,
                 "bits_per_dimension": self.bits_per_dimension, **self.terms, **self.stats}
        return {name: float(value.detach()) for name, value in named.items() if value is not None}


class Objective(nn.Module):
    """What training minimises.

    Parameters
    ----------
    rate_control : how the rate is weighed.
    criteria : by name; each compares the likelihood's mean with the data.
    weights : of each criterion and each bottleneck loss, by name.
    distortion_weight : of the likelihood; 0 leaves the criteria alone to say what is near.

    Raises ConfigError on a bottleneck loss without a weight: nothing is dropped in silence.

    >>> import torch
    >>> from audiovae.likelihoods import Gaussian
    >>> objective = ObjectiveConfig().build(sample_rate=None)
    >>> x = torch.zeros(2, 1, 8)
    >>> latent = Latent(z=x, rate=torch.ones(2), rate_map=torch.ones(2, 1, 8) / 8)
    >>> loss = objective(Output((latent,), params=x), x, Gaussian(), progress=0.0)
    >>> loss.elbo  # -(8 log(2 pi) / 2 + 1)
    tensor(-8.3515)
    """

    def __init__(self, rate_control: RateControl, criteria: Mapping[str, nn.Module], weights: dict[str, float],
                 distortion_weight: float = 1.0):
        super().__init__()
        self.rate_control, self.weights = rate_control, weights
        self.criteria = nn.ModuleDict(dict(criteria))
        self.distortion_weight = distortion_weight

    def forward(self, output: Output, x: Tensor, likelihood: Likelihood, progress: float) -> Loss:
        """Data (B, C, *grid) against what a model made of it, after the share ``progress`` of training."""
        distortion = -likelihood.log_prob(output.params, x).mean()
        terms = _losses(output.latents)
        if self.criteria:
            estimate = likelihood.mean(output.params)
            terms |= {name: criterion(estimate, x) for name, criterion in self.criteria.items()}
        dims = x[0].numel()
        total = self.rate_control(output.latents, progress) / dims
        if self.distortion_weight:
            total = total + self.distortion_weight * distortion / dims
        for name, value in terms.items():
            if name not in self.weights:
                raise ConfigError(f"objective: the bottleneck's loss '{name}' has no weight; it knows "
                                  f"{', '.join(sorted(self.weights))}.")
            total = total + self.weights[name] * value
        rate = sum_of_levels(output.latents).detach()
        loss = Loss(total, distortion.detach(), rate, terms={n: v.detach() for n, v in terms.items()},
                    stats=_stats(output.latents))
        loss.stats["beta"] = rate.new_tensor(self.rate_control.weight(progress))
        if self.distortion_weight == 1 and not self.criteria and all(map(_has_rate, output.latents)):
            loss.elbo = -(loss.distortion + rate)
            loss.bits_per_dimension = -loss.elbo / (dims * math.log(2))
        return loss


def _has_rate(latent: Latent) -> bool:
    """A KL says where it is spent, codes have a length; the identity has neither."""
    return latent.rate_map is not None or latent.codes is not None


def _losses(latents: tuple[Latent, ...]) -> dict[str, Tensor]:
    """The bottlenecks' losses by name, each summed over the levels that have it."""
    total: dict[str, Tensor] = {}
    for latent in latents:
        for name, value in latent.losses.items():
            total[name] = total[name] + value if name in total else value
    return total


def _stats(latents: tuple[Latent, ...]) -> dict[str, Tensor]:
    """The statistics of one level by their names, of several with the level's number behind."""
    return {name if len(latents) == 1 else f"{name}_{level}": value.detach()
            for level, latent in enumerate(latents) for name, value in latent.stats.items()}


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """The objective's parts; ``commitment`` and ``codebook`` weigh the losses of a quantizing bottleneck."""

    distortion_weight: float = 1.0
    rate: RateControlConfig = ConstantConfig()
    criteria: tuple[CriterionConfig, ...] = ()
    commitment: float = 0.25
    codebook: float = 1.0

    def build(self, sample_rate: int | None) -> Objective:
        """Raise ConfigError on a criterion named twice, or one for audio where there is no sample rate."""
        kinds = [criterion.kind for criterion in self.criteria]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ConfigError(f"objective: criterion '{twice[0]}' is given more than once: give it once, with "
                              "all its resolutions.")
        weights = {"commitment": self.commitment, "codebook": self.codebook}
        weights |= {criterion.kind: criterion.weight for criterion in self.criteria}
        criteria = {criterion.kind: criterion.build(sample_rate) for criterion in self.criteria}
        return Objective(self.rate.build(), criteria, weights, self.distortion_weight)
