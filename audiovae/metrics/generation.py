"""Measures of generated examples: how near their features lie to those of real ones, and how much they cover.

All are functions of feature vectors (N, F), computed in float64. What a number means depends on the network that
made the features, so :func:`generation_scores` prints its name with every score; only with the Inception network
are they FID and KID. Packages that compute these scores want pictures and their own Inception network, or have
not been kept up; on plain features each is a few lines.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor

from audiovae.errors import ShapeError
from audiovae.image.features import FeatureNetwork
from audiovae.metrics.interval import Interval, mean_interval

GROUPS = 10  # of fake examples: left out one by one, or compared one by one, for the intervals


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """||μ - m||² + tr(S + C - 2 (S C)^½) of normal distributions fitted to two sets (Heusel 2017, eq. 6).

    Its expectation over N fake examples lies above its limit by about a constant over N: compare it only at equal
    N, or see :func:`extrapolated_frechet_distance`. Shapes: (N, F), (M, F).

    Raises ShapeError on fewer than 2 examples or unlike features.

    >>> x = torch.randn(1000, 4)
    >>> f"{frechet_distance(x, x + 1):.2f}"
    '4.00'
    """
    return _Frechet(real)(fake)


class _Frechet:
    """The distance to one set of real examples (N, F), whose part of the work is done once."""

    def __init__(self, real: Tensor):
        _check(real, real)
        self.real = real.double()
        self.mean, covariance = _moments(self.real)
        self.trace = covariance.trace()
        values, vectors = torch.linalg.eigh(covariance)
        self.root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def __call__(self, fake: Tensor) -> float:
        _check(self.real, fake)
        mean, covariance = _moments(fake.double())
        # S C and the symmetric S^½ C S^½ have the same eigenvalues, and those of the latter are safe to find.
        values = torch.linalg.eigvalsh(self.root @ covariance @ self.root).clamp(min=0)
        return float((self.mean - mean).square().sum() + self.trace + covariance.trace() - 2 * values.sqrt().sum())


def extrapolated_frechet_distance(real: Tensor, fake: Tensor, points: int = 15, seed: int = 0) -> Interval:
    """The Fréchet distance that infinitely many fake examples would have (Chong & Forsyth 2020, section 3).

    A line in 1 / N through its values at ``points`` sizes from N / 5 to N, examples drawn by lot, met at 1 / N = 0.
    The 95 % interval leaves out one of ten groups of the fake examples at a time (jackknife); it is for other
    draws of fake examples against these same real ones, whose own number still counts.

    Raises ShapeError on fewer than 100 fake examples.

    >>> x = torch.randn(500, 2)
    >>> extrapolated_frechet_distance(x, x).count
    500
    """
    if len(fake) < 100:
        raise ShapeError(f"extrapolated_frechet_distance wants at least 100 fake examples, got {len(fake)}: "
                         "generate more.")
    distance = _Frechet(real)

    def limit(some: Tensor) -> float:
        sizes = np.linspace(len(some) / 5, len(some), points).astype(int)
        generator = torch.Generator().manual_seed(seed)
        draws = (some[torch.randperm(len(some), generator=generator)[:size]] for size in sizes)
        return float(np.polyfit(1 / sizes, [distance(draw) for draw in draws], 1)[1])

    return _jackknife(limit, fake)


def kernel_distance(real: Tensor, fake: Tensor, blocks: int = GROUPS) -> Interval:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³ (Bińkowski 2018, eq. 4 and section 4).

    0 in expectation for two independent draws of one distribution, so that it can be negative; reconstructions of
    the very examples they are compared with come out below 0. The mean of ``blocks`` disjoint
    blocks of both sets, with the 95 % interval that their spread gives. Shapes: (N, F), (M, F).

    Raises ShapeError on fewer than 2 examples a block.

    >>> kernel_distance(torch.randn(500, 3), torch.randn(500, 3) + 1).mean > 0.1
    True
    """
    _check(real, fake)
    if min(len(real), len(fake)) < 2 * blocks:
        raise ShapeError(f"kernel_distance wants at least 2 examples in each of {blocks} blocks, got {len(real)} real "
                         f"and {len(fake)} fake ones: give more, or take fewer blocks.")
    pairs = zip(*(_shuffled(x).double().tensor_split(blocks) for x in (real, fake)), strict=True)
    return mean_interval(_squared_discrepancy(x, y) for x, y in pairs)


def inception_score(log_probs: Tensor) -> Interval:
    """exp E KL(p(y|x) ‖ p(y)) of a classifier's answers (N, K) in nats: 1 to K, higher is better (Salimans 2016).

    It knows no real examples: a set with one perfect picture a class has the best score. The 95 % interval is a
    jackknife over ten groups.

    Raises ShapeError on fewer than 10 examples.

    >>> f"{inception_score(torch.eye(4).repeat(25, 1).log()).mean:.3f}"
    '4.000'
    """
    def score(some: Tensor) -> float:
        log_marginal = some.logsumexp(0) - np.log(len(some))
        return float(_kl(some, log_marginal).mean().exp())

    if log_probs.ndim != 2 or len(log_probs) < GROUPS:
        raise ShapeError(f"inception_score wants log-probabilities (N, K) of at least {GROUPS} examples, got "
                         f"{tuple(log_probs.shape)}.")
    return _jackknife(score, log_probs.double())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[Interval, Interval]:
    """How many fakes look real, and how much of the real the fakes cover (Kynkäänniemi 2019, eq. 1-2): 0 to 1.

    A set's manifold is the union of balls around its points, each reaching to the point's k-th neighbour.
    Shapes: (N, F), (M, F). The 95 % intervals are over the points asked, for the manifolds as they are.

    Raises ShapeError on sets of no more than k examples.

    >>> x = torch.randn(50, 2)
    >>> precision_recall(x, x + 100)[0].mean
    0.0
    """
    precise, recalled = _inside(real, fake, k).any(0), _inside(fake, real, k).any(0)
    return mean_interval(precise.double().tolist()), mean_interval(recalled.double().tolist())


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[Interval, Interval]:
    """In how many real balls a fake lies, over k; the share of real balls with a fake in them (Naeem 2020, eq. 4, 5).

    Density is 1 in expectation for equal distributions, and can be above; coverage is then 1 - about 2^-k. An
    outlier among the fakes does not blow them up as it does recall. Shapes, intervals and errors as
    :func:`precision_recall`.

    >>> x = torch.randn(50, 2)
    >>> density_coverage(x, x)[1].mean
    1.0
    """
    near = _inside(real, fake, k)
    return mean_interval((near.sum(0).double() / k).tolist()), mean_interval(near.any(1).double().tolist())


@dataclass(frozen=True)
class GenerationScores:
    """The scores of one set of fakes, named with the network; rows for a table with ``COLUMNS``.

    frechet is at the number of fakes at hand, ``frechet_limit`` for infinitely many.
    """

    title: str
    standard: bool
    real: int
    fake: int
    frechet: Interval
    frechet_limit: Interval
    kernel: Interval
    inception: Interval
    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval

    COLUMNS = ("score", "value")

    def rows(self) -> list[tuple[str, Interval]]:
        frechet, kernel = ("FID", "KID") if self.standard else ("Fréchet distance", "kernel distance")
        named = {
            f"{frechet} at {self.fake} against {self.real}": self.frechet,
            f"{frechet} extrapolated to ∞": self.frechet_limit,
            kernel: self.kernel,
            "Inception Score": self.inception,
            "precision": self.precision, "recall": self.recall,
            "density": self.density, "coverage": self.coverage}
        return [(f"{name} ({self.title})", value) for name, value in named.items()]


def generation_scores(real: Tensor, fake: Tensor, network: FeatureNetwork) -> GenerationScores:
    """Every score of fakes (N, C, *grid) against real examples (M, C, *grid), in the features of ``network``.

    Take real examples that no model was trained on, and as many fakes: 500 at the least, 10,000 to publish.

    Raises ShapeError on fewer than 100 fakes or 20 real examples.

    >>> from audiovae.image.features import train_classifier
    >>> x, y = torch.rand(200, 1, 8, 8), torch.arange(200) % 2
    >>> scores = generation_scores(x[:100], x[100:], train_classifier(x, y, "noise", steps=2))
    >>> scores.rows()[0][0]
    'Fréchet distance at 100 against 100 (noise classifier, 64 features)'
    """
    ours, theirs = network.extract(real), network.extract(fake)
    precision, recall = precision_recall(ours.vectors, theirs.vectors)
    density, coverage = density_coverage(ours.vectors, theirs.vectors)
    return GenerationScores(
        network.title, network.standard, len(real), len(fake), _jackknife(_Frechet(ours.vectors), theirs.vectors),
        extrapolated_frechet_distance(ours.vectors, theirs.vectors), kernel_distance(ours.vectors, theirs.vectors),
        inception_score(theirs.log_probs), precision, recall, density, coverage)


def _check(real: Tensor, fake: Tensor) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ShapeError(f"scores of generated examples want two sets (N, F) of at least 2 feature vectors, got "
                         f"{tuple(real.shape)} and {tuple(fake.shape)}.")


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _squared_discrepancy(x: Tensor, y: Tensor) -> float:
    """Pairs of an example with itself are left out: that is what makes it unbiased."""
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in (xx, yy))
    return float(within - 2 * xy.mean())


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p log p / q (N,), where 0 log 0 is 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)


def _inside(centres: Tensor, points: Tensor, k: int) -> Tensor:
    """Whether point j is in the ball of centre i, which reaches to its k-th neighbour: (N, M) bool."""
    _check(centres, points)
    if len(centres) <= k:
        raise ShapeError(f"a manifold of {k}-th neighbours wants more than {k} examples, got {len(centres)}.")
    centres, points = centres.double(), points.double()
    found = []
    for some in centres.split(1000):  # what grows with N² is kept as bits, not as distances
        radius = torch.cdist(some, centres).kthvalue(k + 1).values  # the first is the centre itself
        found.append(torch.cdist(some, points) <= radius[:, None])
    return torch.cat(found)


def _shuffled(x: Tensor) -> Tensor:
    """In an order drawn by lot, always the same: examples often come sorted by class."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def _jackknife(score: Callable[[Tensor], float], fake: Tensor) -> Interval:
    """A score of a set of independent examples, with the 95 % interval from leaving out each of ten groups."""
    groups = _shuffled(torch.arange(len(fake)) % GROUPS)
    without = np.array([score(fake[groups != group]) for group in range(GROUPS)])
    error = np.sqrt((GROUPS - 1) * without.var())
    return Interval(score(fake), float(t.ppf(0.975, GROUPS - 1) * error), len(fake))
