"""Bounds of log p(x) for models with a latent: the ELBO, and the importance-weighted estimate above it.

    ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))                          (Kingma & Welling 2014, eq. 3)
    log p(x) ≈ log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x),  z_k ~ q(z|x)     (Burda 2016, eq. 8)

The mean of the second is between the ELBO and log p(x) and rises with K, so what is left of the gap can only
make a model look worse. All draws come from torch's own generator: ``torch.manual_seed`` repeats them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audiovae.errors import ConfigError
from audiovae.likelihoods import Likelihood
from audiovae.models import DensityModel, Model, SemiSupervised
from audiovae.shapes import Condition, Output

CHUNK = 500  # latents decoded at a time: as fast as it gets where a picture's parameters stay in the cache


@dataclass(frozen=True)
class Evidence:
    """The two parts of the ELBO of each example, (B,) nats.

    distortion : -log p(x|z), averaged over the latents drawn.
    rate : KL(q(z|x) || p(z)), or the length of the codes.
    """

    distortion: Tensor
    rate: Tensor

    @property
    def elbo(self) -> Tensor:
        """-(distortion + rate), higher is better."""
        return -(self.distortion + self.rate)


@torch.no_grad()
def evidence(model: Model, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Evidence:
    """The ELBO of data (B, C, *grid) in its two parts, from ``samples`` latents drawn for each example.

    >>> from audiovae.bottlenecks import GaussianConfig
    >>> from audiovae.models import AutoencoderConfig
    >>> from audiovae.encoders import MLPEncoderConfig
    >>> from audiovae.decoders import MLPDecoderConfig
    >>> from audiovae.shapes import DataSpec
    >>> config = AutoencoderConfig(encoder=MLPEncoderConfig(), bottleneck=GaussianConfig(dim=2),
    ...                            decoder=MLPDecoderConfig())
    >>> model = config.build(DataSpec(channels=1, dims=2, size=(8, 8)))
    >>> evidence(model, torch.zeros(5, 1, 8, 8)).elbo.shape
    torch.Size([5])
    """
    return evidence_of(model.likelihood, model(x, condition, samples), x)


def evidence_of(likelihood: Likelihood, output: Output, x: Tensor) -> Evidence:
    """The same of what a model has made of data (B, C, *grid) already; without latents the rate is 0."""
    count = len(output.params) // len(x)
    log_prob = likelihood.log_prob(output.params, _repeated(x, count)).view(len(x), count)
    rate = sum((latent.rate for latent in output.latents), x.new_zeros(()))
    if output.weights is not None:  # of labels that are summed over; the rates are sums already
        return Evidence(-(output.weights * log_prob).sum(1), rate)
    return Evidence(-log_prob.mean(1), rate.expand(len(x) * count).view(len(x), count).mean(1))


@torch.no_grad()
def log_likelihood(model: Model, x: Tensor, samples: int, condition: Condition | None = None,
                   chunk: int = CHUNK) -> Tensor:
    """log p(x) of data (B, C, *grid), estimated from ``samples`` K latents each: (B,) nats, float64.

    The memory it takes depends on ``chunk``, the latents decoded at a time, not on K nor on B. Of a model with
    labels it is log p(x|label), unless the model sums over labels itself: then it is log Σ_y p(y) p(x|y). A model
    without a latent needs no draws: its log p(x) is what it says itself.

    Raises ConfigError where the latent has no density to weigh it by (codes, or none at all), or on a K or
    chunk below 1.

    >>> from audiovae.models import AutoencoderConfig
    >>> from audiovae.shapes import DataSpec
    >>> config = AutoencoderConfig()  # its bottleneck gives codes
    >>> log_likelihood(config.build(DataSpec(1, 1, 16000)), torch.zeros(1, 1, 3200), samples=5)
    Traceback (most recent call last):
    audiovae.errors.ConfigError: log_likelihood wants a latent with a density, got ResidualQuantizer...
    """
    if samples < 1 or chunk < 1:
        raise ConfigError(f"log_likelihood wants samples and chunk of at least 1, got {samples} and {chunk}.")
    if isinstance(model, DensityModel):
        return model.log_prob(x, condition).double()
    if isinstance(model, SemiSupervised):
        labels = torch.arange(len(model.data.labels), device=x.device)
        each = [log_likelihood(model.autoencoder, x, samples, Condition(label.expand(len(x))), chunk)
                for label in labels]
        return torch.stack(each).logsumexp(0) - math.log(len(labels))
    together = max(1, chunk // samples)
    return torch.cat([_estimated(model, x[start:start + together], samples,
                                 _part(condition, slice(start, start + together)), chunk)
                      for start in range(0, len(x), together)])


def _estimated(model: Model, x: Tensor, samples: int, condition: Condition | None, chunk: int) -> Tensor:
    """The estimate for examples whose latents fit into a chunk, or for one example chunk by chunk."""
    total = x.new_full((len(x),), -math.inf, dtype=torch.float64)
    for done in range(0, samples, chunk):
        count = min(chunk, samples - done)
        output = model(x, condition, count)
        log_prob = model.likelihood.log_prob(output.params, _repeated(x, count))
        log_weights = (log_prob - _log_ratio(model, output)).double().view(len(x), count)
        total = torch.logaddexp(total, log_weights.logsumexp(1))
    return total - math.log(samples)


def _log_ratio(model: Model, output: Output) -> Tensor:
    ratios = [latent.log_ratio for latent in output.latents if latent.log_ratio is not None]
    if len(ratios) < len(output.latents):
        raise ConfigError(f"log_likelihood wants a latent with a density, got {type(model.bottleneck).__name__}: take "
                          "a Gaussian bottleneck, or the ELBO.")
    return torch.stack(ratios).sum(0)


def _repeated(x: Tensor, count: int) -> Tensor:
    """Each example ``count`` times; one example is not copied, and whoever checks it looks at it once."""
    return x.expand(count, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(count, 0)


def _part(condition: Condition | None, index: slice) -> Condition | None:
    if condition is None:
        return None
    label, embedding = condition.label, condition.embedding
    return Condition(label if label is None else label[index], embedding if embedding is None else embedding[index])
