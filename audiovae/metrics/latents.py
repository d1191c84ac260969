"""What a latent space is like: what it is used for, what it tells of the data, its holes, its smoothness.

Active units: Burda 2016, section 5. The rate in two parts, E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)):
Hoffman & Johnson 2016. All in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from audiovae.bottlenecks.gaussian import ACTIVE
from audiovae.errors import ConfigError, ShapeError
from audiovae.latents.neighbours import nearest
from audiovae.metrics.interval import Interval, mean_interval
from audiovae.shapes import Posterior

LOG_2PI = math.log(2 * math.pi)
CHUNK = 500  # latents held against all posteriors at a time


def active_units(mean: Tensor) -> Tensor:
    """Whether each latent dimension is in use: (B, D, *grid) posterior means -> (D,) bool.

    In use is what varies with the data: the variance of the mean over examples and grid is above 0.01.

    >>> active_units(torch.tensor([[1.0, 5.0], [-1.0, 5.0]]))
    tensor([ True, False])
    """
    return mean.transpose(0, 1).flatten(1).var(1, correction=0) > ACTIVE


@dataclass(frozen=True)
class LatentInformation:
    """The rate of N examples and its two parts, nats an example; the means add up.

    rate : E log q(z|x) - log p(z).
    mutual : I(x; z) = E log q(z|x) - log q(z), what the latent tells of which example it was drawn for.
    marginal_kl : KL(q(z) || p(z)), how far all the latents together are from the prior.
    limit : log N; a mutual information near it is too low, and more examples tell by how much.
    """

    rate: Interval
    mutual: Interval
    marginal_kl: Interval
    limit: float


def latent_information(z: Tensor, posterior: Posterior, log_prior: Tensor, chunk: int = CHUNK) -> LatentInformation:
    """I(x; z) and KL(q(z) || p(z)) from one latent of each of N examples.

    The aggregated posterior q(z) is the mixture of these N posteriors, so I(x; z) is at most log N. The intervals
    are of the mean over examples, for this mixture.

    Parameters
    ----------
    z : (N, D, *grid), one draw from each posterior.
    posterior : of the same examples.
    log_prior : (N,) log p(z) at these draws, nats.

    Raises ShapeError when these do not fit each other, ConfigError when the posteriors are points.

    >>> q = Posterior(torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1))         # which of two it was is always clear
    >>> found = latent_information(q.mean, q, log_prior=torch.full((2,), -41.4189))
    >>> print(f"{found.mutual.mean:.4f} + {found.marginal_kl.mean:.4f} = {found.rate.mean:.4f}")
    0.6931 + 39.8068 = 40.5000
    """
    mean, log_variance = (part.double().flatten(1) for part in posterior)
    z, count = z.double().flatten(1), len(z)
    if z.shape != mean.shape or log_prior.shape != (count,):
        raise ShapeError(f"latent_information wants a latent and a log-prior for each of {len(mean)} posteriors, got "
                         f"{tuple(z.shape)} and {tuple(log_prior.shape)}.")
    if torch.isneginf(log_variance).any():
        raise ConfigError("latent_information wants posteriors with a spread: a point tells infinitely much.")
    constant = -0.5 * (log_variance.sum(1) + z.shape[1] * LOG_2PI)
    own = constant - 0.5 * ((z - mean).square() * (-log_variance).exp()).sum(1)
    precision = (-log_variance).exp()
    all_of_them = []
    for part in z.split(chunk):  # |z - μ|²/σ² multiplied out, as three products of matrices
        error = part.square() @ precision.T - 2 * part @ (mean * precision).T + (mean.square() * precision).sum(1)
        all_of_them.append((constant - 0.5 * error).logsumexp(1))
    marginal = torch.cat(all_of_them) - math.log(count)
    log_prior = log_prior.double()
    return LatentInformation(_mean(own - log_prior), _mean(own - marginal),
                             _mean(marginal - log_prior), math.log(count))


def holes(drawn: Tensor, encoded: Tensor, held_out: Tensor, quantile: float = 0.99) -> Interval:
    """The share of latents drawn from a prior that no training example is near: holes of the latent space.

    Near is what is at most as far from its nearest encoded training example as 99 % of held-out examples are from
    theirs. So the share is 0.01 where the prior is like the encoded data, and what the decoder makes of the rest it
    was never trained for. Encodings of a VAE are draws from its posteriors; of an autoencoder the points, and the
    prior is then a normal fitted to them (:func:`fitted_draws`).

    drawn (B, D, *grid), encoded (N, ...), held_out (M, ...); the interval is that of a share of B, for this limit.

    >>> grid = torch.linspace(-1, 1, 101).view(-1, 1)
    >>> holes(torch.tensor([[0.0], [5.0]]), encoded=grid, held_out=grid + 0.01).mean
    0.5
    """
    limit = torch.quantile(nearest(held_out, encoded)[0], quantile)
    return _mean((nearest(drawn, encoded)[0] > limit).float())


def fitted_draws(z: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """(count, D, *grid) draws from the normal with mean and full covariance of latents z (N, D, *grid).

    >>> fitted_draws(torch.randn(50, 3, 1, 1), count=7).shape
    torch.Size([7, 3, 1, 1])
    """
    flat = z.double().flatten(1)
    centred = flat - flat.mean(0)
    noise = torch.randn(count, len(flat), generator=generator, dtype=torch.float64)
    # A mix of the N centred latents with normal weights has their covariance, whatever its rank.
    return (flat.mean(0) + noise @ centred / math.sqrt(len(flat))).view(count, *z.shape[1:]).to(z.dtype)


def spread(z: Tensor) -> float:
    """Root mean square distance of latents (N, D, *grid) from their mean: the unit in which steps compare.

    >>> spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    1.0
    """
    flat = z.flatten(1)
    return float((flat - flat.mean(0)).square().sum(1).mean().sqrt())


def smoothness(decode: Callable[[Tensor], Tensor], z: Tensor, step: float,
               generator: torch.Generator | None = None) -> Interval:
    """Mean distance in data per distance in latent, over a small step from each z (B, D, *grid) in a random direction.

    Both distances are Euclidean, over all dimensions; ``step`` is in the latent's own unit. Multiply by
    :func:`spread` to compare models whose latents differ in scale.

    >>> round(smoothness(lambda z: 3 * z, torch.randn(10, 4), step=0.1).mean, 3)
    3.0
    """
    direction = torch.randn(z.shape, generator=generator)
    direction /= direction.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
    return _mean(_distance(decode(z + step * direction), decode(z)) / step)


@dataclass(frozen=True)
class PathSmoothness:
    """Over straight ways between latents.

    ratio : distance gone in data per distance in latent.
    jump : the largest step in data over the mean step; 1 where all are alike, the number of steps where all
        the change is in one.
    """

    ratio: Interval
    jump: Interval


def path_smoothness(decode: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, steps: int) -> PathSmoothness:
    """How data changes on the straight way from each a (B, D, *grid) to its b, in ``steps`` equal steps.

    ShapeError where a pair is the same latent twice, or nothing changes on its way.

    >>> found = path_smoothness(lambda z: 3 * z, torch.zeros(2, 4), torch.rand(2, 4), steps=5)
    >>> round(found.ratio.mean, 3), round(found.jump.mean, 3)
    (3.0, 1.0)
    """
    places = [decode(torch.lerp(a, b, i / steps)) for i in range(steps + 1)]
    lengths = torch.stack([_distance(after, before) for before, after in pairwise(places)])
    way = _distance(a, b)
    if not (way > 0).all() or not (lengths.sum(0) > 0).all():
        raise ShapeError("path_smoothness wants pairs of different latents that decode to different data.")
    return PathSmoothness(_mean(lengths.sum(0) / way), _mean(lengths.max(0).values / lengths.mean(0)))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).double().norm(dim=1).cpu()


def _mean(values: Tensor) -> Interval:
    return mean_interval(values.tolist())
