"""The objective: distortion + rate control + weighted criteria and bottleneck losses, and what is logged.

    total = (w_d * distortion + penalty(rate)) / dims + Σ w * criterion + Σ w * bottleneck loss

Distortion is -log p(x|z) and rate the latent's, both in nats per example; ``dims`` is the number of data
dimensions of one example (C T, or C H W). So every term is per dimension, and weights and learning rates
carry over from one crop length or picture size to another.

With K latents an example and the bound "iwae", what takes the place of distortion and rate is the importance-
weighted bound: -log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x) (Burda 2016, eq. 8).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import getitem
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.config import Config, Weight
from audiovae.criteria_config import CriterionConfig
from audiovae.errors import ConfigError
from audiovae.image.features import FeatureNetwork, LabelledBatches
from audiovae.likelihoods import Likelihood
from audiovae.nn.spectral import SpectralPenalty
from audiovae.rate_control import RateControl, sum_of_levels
from audiovae.rate_control_config import ConstantConfig, RateControlConfig
from audiovae.shapes import Latent, Output, Scalars

Bound = Literal["elbo", "iwae"]


@dataclass
class Loss:
    """One batch's loss, averaged over its examples.

    total : what is minimised, per data dimension; the only one with a gradient.
    distortion : -log p(x|z), nats per example.
    rate : nats per example, summed over levels; 0 where the bottleneck has none.
    iwae : the importance-weighted bound of the K latents drawn, nats per example; None for K = 1, or where
        there is no ELBO.
    terms : the criteria and bottleneck losses by name, unweighted.
    stats : the bottleneck's statistics by name, and ``beta``; worked out when asked for.
    dims : data dimensions of an example, where there is an ELBO.
    estimate : (B, C, *grid) the likelihood's mean with its gradient, where an adversary judges it.
    """

    total: Tensor
    distortion: Tensor
    rate: Tensor
    iwae: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: Scalars = field(default_factory=Scalars)
    dims: int | None = None
    estimate: Tensor | None = None

    @property
    def elbo(self) -> Tensor | None:
        """-(distortion + rate), nats per example, higher is better, whatever beta is.

        None when it would not be one: the bottleneck has no rate, or criteria, an adversary or a distortion weight
        other than 1 took the likelihood's place in training.
        """
        return None if self.dims is None else -(self.distortion + self.rate)

    @property
    def bits_per_dimension(self) -> Tensor | None:
        """-elbo / (dims log 2), lower is better, or None.

        The likelihood's ``measure`` says what they are of: of a density, of the data as it is, without
        dequantization, it can be negative, and compares only within one unit of the data.
        """
        return None if self.elbo is None or self.dims is None else -self.elbo / (self.dims * math.log(2))

    def numbers(self) -> dict[str, float]:
        """Everything by name, as numbers for a log; what is None is left out."""
        named = {"total": self.total, "distortion": self.distortion, "rate": self.rate, "elbo": self.elbo,
                 "iwae": self.iwae, "bits_per_dimension": self.bits_per_dimension, **self.terms, **self.stats}
        return {name: float(value.detach()) for name, value in named.items() if value is not None}


class Objective(nn.Module):
    """What training minimises.

    Parameters
    ----------
    rate_control : how the rate is weighed.
    criteria : by name; each compares the likelihood's mean with the data.
    weights : of each criterion and each bottleneck loss, by name.
    distortion_weight : of the likelihood; 0 leaves the criteria alone to say what is near.
    bound, samples : what is maximised, and K, latents drawn for each example.

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
                 distortion_weight: float = 1.0, bound: Bound = "elbo", samples: int = 1,
                 weight_l1: float = 0.0, weight_l2: float = 0.0, spectral: float = 0.0):
        super().__init__()
        self.rate_control, self.weights = rate_control, weights
        self.weight_l1, self.weight_l2, self.spectral = weight_l1, weight_l2, spectral
        self.spectrum: SpectralPenalty | None = None
        self.criteria = nn.ModuleDict(dict(criteria))
        self.distortion_weight, self.bound, self.samples = distortion_weight, bound, samples

    def forward(self, output: Output, x: Tensor, likelihood: Likelihood, progress: float) -> Loss:
        """Data (B, C, *grid) against what a model made of it, after the share ``progress`` of training."""
        count, dims = len(output.params) // len(x), math.prod(x.shape[1:])
        every = x.repeat_interleave(count, 0) if count > 1 else x
        log_prob = likelihood.log_prob(output.params, every).view(len(x), count)
        each = log_prob.mean(1) if count > 1 else log_prob  # (B, 1) has the same mean as (B,)
        distortion = -(each if output.weights is None else (output.weights * log_prob).sum(1)).mean()
        terms = _losses(output.latents)
        if self.criteria:
            if output.weights is not None:
                raise ConfigError("objective: criteria compare one reconstruction an example, and the semi-supervised "
                                  "model has one for each label: leave objective.criteria out.")
            estimate = likelihood.mean(output.params)
            terms |= {name: criterion(estimate, every) for name, criterion in self.criteria.items()}
        iwae = self._importance(output, log_prob) if count > 1 else None
        if self.bound == "iwae" and iwae is not None:
            total = -iwae
        else:
            weighed = self.distortion_weight * distortion if self.distortion_weight else torch.zeros_like(distortion)
            total = self.rate_control.total(weighed, output.latents, progress, dims)
        total = total / dims
        for name, value in terms.items():
            if name not in self.weights:
                raise ConfigError(f"objective: the loss '{name}' has no weight; it knows "
                                  f"{', '.join(sorted(self.weights))}.")
            total = total + self.weights[name] * value
        rate = sum_of_levels(output.latents).detach()
        loss = Loss(total, distortion.detach(), rate, terms={n: v.detach() for n, v in terms.items()},
                    stats=_stats(output.latents))
        loss.stats["beta"] = partial(rate.new_tensor, self.rate_control.weight(progress))
        if self.distortion_weight == 1 and not self.criteria and all(map(has_rate, output.latents)):
            loss.dims, loss.iwae = dims, iwae.detach() if iwae is not None else None
        return loss

    def weight_penalty(self, model: nn.Module, dims: int = 1) -> Tensor | None:
        """weight_l1 Σ|w| + weight_l2 Σ w² over the model's weight matrices, and spectral Σ s / dims over its layers'
        largest singular values; None where all weights are 0."""
        parts = []
        if self.weight_l1 or self.weight_l2:
            matrices = [p for p in model.parameters() if p.ndim > 1]
            parts += [self.weight_l1 * w.abs().sum() + self.weight_l2 * w.square().sum() for w in matrices]
        if self.spectral:
            self.watch(model)
            assert self.spectrum is not None
            parts.append(self.spectral / dims * self.spectrum(model))
        return torch.stack(parts).sum() if parts else None

    def watch(self, model: nn.Module) -> None:
        """Begin to follow the singular values of a model's layers, where they have a weight."""
        if self.spectral and self.spectrum is None:
            self.spectrum = SpectralPenalty(model).train(self.training)

    def networks(self) -> dict[str, str]:
        """The feature networks that criteria compare in, by the criterion's name."""
        found = {name: getattr(criterion, "network", None) for name, criterion in self.criteria.items()}
        return {name: network.title for name, network in found.items() if isinstance(network, FeatureNetwork)}

    def _importance(self, output: Output, log_prob: Tensor) -> Tensor | None:
        """The importance-weighted bound, averaged over the batch: (B, K) log p(x|z_k) -> a scalar."""
        ratios = [latent.log_ratio for latent in output.latents if latent.log_ratio is not None]
        if len(ratios) < len(output.latents) or output.weights is not None:
            if self.bound == "iwae":
                raise ConfigError("objective: the bound 'iwae' wants latents that are drawn, such as the Gaussian "
                                  "bottleneck's: take the bound 'elbo'.")
            return None
        return importance_bound(log_prob - torch.stack(ratios).sum(0).view_as(log_prob)).mean()


def joined(losses: Mapping[int, Loss]) -> Loss:
    """The losses of models trained beside each other, by level, as one: sums, and all else by its level's number.

    No parameter is in two of them, so the gradient of the sum is each model's own.
    """
    every = list(losses.values())
    stats = Scalars.joined({f"_{level}": loss.stats for level, loss in losses.items()})
    for level, loss in losses.items():
        del stats[f"beta_{level}"]
        stats[f"total_{level}"], stats[f"distortion_{level}"] = loss.total.detach(), loss.distortion
    stats["beta"] = partial(getitem, every[0].stats, "beta")
    total, distortion, rate = (torch.stack([getattr(loss, name) for loss in every]).sum()
                               for name in ("total", "distortion", "rate"))
    terms = {f"{name}_{level}": value for level, loss in losses.items() for name, value in loss.terms.items()}
    return Loss(total, distortion, rate, terms=terms, stats=stats)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log 1/K Σ_k w_k from log w_k (B, K): (B,) nats, below log p(x) in expectation for any K (Burda 2016).

    >>> importance_bound(torch.tensor([[0.0, 0.0]]))
    tensor([0.])
    """
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def has_rate(latent: Latent) -> bool:
    """What is drawn has a KL, codes have a length; the identity has neither, nor what passes a codebook by."""
    known = latent.rate_map is not None or latent.log_ratio is not None or latent.codes is not None
    return known and not latent.stats.get("bypass", 0)


def _losses(latents: tuple[Latent, ...]) -> dict[str, Tensor]:
    """The bottlenecks' losses by name, each summed over the levels that have it."""
    total: dict[str, Tensor] = {}
    for latent in latents:
        for name, value in latent.losses.items():
            total[name] = total[name] + value if name in total else value
    return total


def _stats(latents: tuple[Latent, ...]) -> Scalars:
    """The statistics of one level by their names, of several with the level's number behind."""
    return Scalars.joined({f"_{level}" if len(latents) > 1 else "": z.stats for level, z in enumerate(latents)})


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """The objective's parts.

    commitment, codebook : weights of the losses of a quantizing bottleneck.
    sparsity : weight of a sparse bottleneck's penalty.
    classification : weight of a classifier's cross-entropy on labelled examples (α of Kingma 2014, eq. 9,
        per data dimension).
    label_adversary : weight of a label adversary's cross-entropy, which its classifier lowers and the encoder raises.
    weight_l1, weight_l2 : weights of Σ|w| and Σ w² over the model's weight matrices (not biases, nor norms).
    spectral : λ of the layers' largest singular values, nats an example each (NVAE, section 3.2; 0.1 there).
    bound, samples : "elbo" or "iwae", and K, latents drawn for each example.
    """

    distortion_weight: float = 1.0
    rate: RateControlConfig = ConstantConfig()
    criteria: tuple[CriterionConfig, ...] = ()
    commitment: float = 0.25
    codebook: float = 1.0
    sparsity: float = 1.0
    classification: float = 1.0
    label_adversary: Weight = 0.1
    weight_l1: float = 0.0
    weight_l2: float = 0.0
    spectral: Weight = 0.0
    bound: Bound = "elbo"
    samples: int = 1

    def build(self, sample_rate: int | None, source: LabelledBatches | None = None) -> Objective:
        """Raise ConfigError on a criterion named twice, or one for audio where there is no sample rate.

        ``source`` is the training data, for a criterion that learns from it.
        """
        kinds = [criterion.kind for criterion in self.criteria]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ConfigError(f"objective: criterion '{twice[0]}' is given more than once: give it once, with "
                              "all its resolutions.")
        if self.samples < 1:
            raise ConfigError(f"objective.samples wants at least 1, got {self.samples}.")
        if self.bound == "iwae" and (self.rate != ConstantConfig() or self.distortion_weight != 1):
            raise ConfigError("objective: the bound 'iwae' has no rate apart to control: leave objective.rate and "
                              "distortion_weight as they are.")
        weights = {"commitment": self.commitment, "codebook": self.codebook, "sparsity": self.sparsity,
                   "classification": self.classification, "label_adversary": self.label_adversary}
        weights |= {criterion.kind: criterion.weight for criterion in self.criteria}
        criteria = {criterion.kind: criterion.build(sample_rate, source) for criterion in self.criteria}
        return Objective(self.rate.build(), criteria, weights, self.distortion_weight, self.bound, self.samples,
                         self.weight_l1, self.weight_l2, self.spectral)
