"""Data to latents and back, in batches, for every model with one continuous latent.

The letters are those of :mod:`audiovae.shapes`; a vector latent has the grid (1,) or (1, 1).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from audiovae.bottlenecks import Gaussian
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import Autoencoder, Ladder, Model, SemiSupervised
from audiovae.shapes import Condition, Posterior

BATCH = 256


def autoencoder(model: Model) -> Autoencoder | Ladder:
    """The part of a model that encodes to one continuous latent and decodes it; ConfigError where there is none.

    A ladder is seen as its groups together.
    """
    inner = model.autoencoder if isinstance(model, SemiSupervised) else model
    if not isinstance(inner, Autoencoder | Ladder) or inner.bottleneck.is_discrete:
        bottleneck = getattr(inner, "bottleneck", None)
        got = f"one with {type(bottleneck).__name__}" if bottleneck is not None else f"{type(inner).__name__}"
        raise ConfigError(f"latents wants a model with a continuous latent, got {got}: take bottleneck 'gaussian', "
                          "'identity' or 'sparse'.")
    return inner


@torch.no_grad()
def locate(model: Model, x: Tensor, condition: Condition | None = None, batch: int = BATCH) -> Tensor:
    """Where data (B, C, *grid) lies, ``batch`` examples at a time: z (B, D, *latent grid), without noise.

    Raises ConfigError where the model's latent is codes, or it has none.

    >>> from audiovae.latents.example import example_vae
    >>> locate(example_vae(), torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 2, 1, 1])
    """
    bottleneck, encoder = autoencoder(model).bottleneck, _encoder_of(model)
    return _batched(lambda part, its: bottleneck.decode(encoder.encode(part, its)), model, x, condition, batch)


@torch.no_grad()
def encode(model: Model, x: Tensor, condition: Condition | None = None, batch: int = BATCH) -> Posterior:
    """q(z|x) of data (B, C, *grid), ``batch`` examples at a time: each part (B, D, *latent grid).

    The latent of an autoencoder without noise is a point: its log-variance is -inf.

    Raises ConfigError as :func:`locate` does, and where q is no diagonal normal, since a flow has bent it.

    >>> from audiovae.latents.example import example_vae
    >>> encode(example_vae(), torch.rand(5, 1, 8, 8)).log_variance.shape
    torch.Size([5, 2, 1, 1])
    """
    bottleneck = autoencoder(model).bottleneck
    if autoencoder(model).bent:
        raise ConfigError("latents wants a diagonal posterior here, got one with a flow: take "
                          "bottleneck.posterior 'diagonal'.")
    codes = _batched(lambda part, its: _encoder_of(model).encode(part, its), model, x, condition, batch)
    if not isinstance(bottleneck, Gaussian):
        return Posterior(codes, torch.full_like(codes, -math.inf))
    return Posterior(*codes.chunk(2, dim=1))


@torch.no_grad()
def generate(model: Model, z: Tensor, condition: Condition | None = None, batch: int = BATCH) -> Tensor:
    """Data (B, C, *grid) from latents (B, D, *latent grid), ``batch`` at a time: the likelihood's mean.

    A condition of one example holds for all.

    >>> from audiovae.latents.example import example_vae
    >>> generate(example_vae(), torch.zeros(5, 2, 1, 1)).shape
    torch.Size([5, 1, 8, 8])
    """
    inner = autoencoder(model)
    return _batched(lambda part, its: inner.generate(part, its), model, z, condition, batch)


@torch.no_grad()
def drawn(model: Model, x: Tensor, condition: Condition | None = None, batch: int = BATCH) -> Tensor:
    """One latent of each example (B, C, *grid) from q(z|x), whatever q is: (B, D, *latent grid).

    >>> from audiovae.latents.example import example_vae
    >>> drawn(example_vae(), torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 2, 1, 1])
    """
    inner = autoencoder(model)
    return _batched(lambda part, its: inner.latent(part, its).z, model, x, condition, batch)


@torch.no_grad()
def sampled(model: Model, x: Tensor, condition: Condition | None = None, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """One latent of each example from q(z|x), and how likely the model's own prior holds it: (B, D, *grid), (B,) nats.

    ConfigError as :func:`encode`, or where the latent is a point.

    >>> from audiovae.latents.example import example_vae
    >>> z, log_prior = sampled(example_vae(), torch.rand(5, 1, 8, 8))
    >>> torch.allclose(log_prior, -(z.square() + 1.8379).flatten(1).sum(1) / 2, atol=1e-4)
    True
    """
    inner, latents = autoencoder(model), []

    def passed(part: Tensor, its: Condition | None) -> Tensor:
        latents.append(inner.latent(part, its))
        return latents[-1].z

    z = _batched(passed, model, x, condition, batch)
    if any(latent.posterior is None or latent.log_ratio is None for latent in latents):
        raise ConfigError("latents wants a diagonal posterior here: take bottleneck 'gaussian', its posterior "
                          "'diagonal'.")
    mean, log_variance = (torch.cat([latent.posterior[i] for latent in latents]).cpu() for i in (0, 1))
    error = (z - mean).square() * (-log_variance).exp()
    log_posterior = -0.5 * (error + log_variance + math.log(2 * math.pi)).flatten(1).sum(1)
    return z, log_posterior - torch.cat([latent.log_ratio for latent in latents]).cpu()


def draw(posterior: Posterior, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """z ~ q(z|x), its spread times ``temperature``: (B, D, *grid).

    >>> draw(Posterior(torch.ones(2, 3), torch.full((2, 3), -torch.inf)))
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return posterior.mean + temperature * (0.5 * posterior.log_variance).exp() * noise


def standard_kl(posterior: Posterior) -> Tensor:
    """KL(q(z|x) || N(0, 1)) of each element in nats: (B, D, *grid). Kingma & Welling 2014, appendix B.

    ConfigError where q is a point, whose KL is infinite.

    >>> standard_kl(Posterior(torch.tensor([[3.0]]), torch.zeros(1, 1)))
    tensor([[4.5000]])
    """
    mean, log_variance = posterior
    if torch.isneginf(log_variance).any():
        raise ConfigError("the KL wants a posterior with a spread: this model's latent is a point; take bottleneck "
                          "'gaussian'.")
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def kl_per_dimension(model: Model, x: Tensor, condition: Condition | None = None) -> Tensor:
    """KL(q(z_d|x) || N(0, 1)) of each latent dimension, summed over the grid, mean over data (B, C, *grid): (D,) nats.

    >>> from audiovae.latents.example import example_vae
    >>> kl_per_dimension(example_vae(), torch.rand(5, 1, 8, 8)).shape
    torch.Size([2])
    """
    kl = standard_kl(encode(model, x, condition))
    return kl.flatten(2).sum(2).mean(0)


def _encoder_of(model: Model) -> Autoencoder | Ladder | SemiSupervised:
    """What is asked to encode: a semi-supervised model finds labels that are not told."""
    return model if isinstance(model, SemiSupervised) else autoencoder(model)


def repeated(condition: Condition | None, count: int) -> Condition | None:
    """The condition of one example for ``count``; one of ``count`` examples as it is. ShapeError for another number.

    >>> repeated(Condition(torch.tensor([3])), 2).label
    tensor([3, 3])
    """
    return None if condition is None else Condition(_rows(condition.label, count), _rows(condition.embedding, count))


def _rows(value: Tensor | None, count: int) -> Tensor | None:
    if value is None or len(value) == count:
        return value
    if len(value) != 1:
        raise ShapeError(f"latents wants a condition of 1 or {count} examples, got {len(value)}.")
    return value.expand(count, *value.shape[1:])


def _batched(call: Callable[[Tensor, Condition | None], Tensor], model: Model, x: Tensor,
             condition: Condition | None, batch: int) -> Tensor:
    """``call`` on parts of ``x`` on the model's device, joined on the CPU."""
    device = next(model.parameters()).device
    told = repeated(condition, len(x))
    done = []
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        its = told and Condition(told.label if told.label is None else told.label[part],
                                 told.embedding if told.embedding is None else told.embedding[part])
        done.append(call(x[part].to(device), its and its.to(device)).cpu())
    return torch.cat(done)
