"""Entropy and divergence of discrete and normal distributions: exact, or by Monte Carlo with a standard error.

    H(p) = E_p[-log p]     H(p, q) = E_p[-log q]     KL(p || q) = H(p, q) - H(p)     (Kullback & Leibler 1951)

Of a density, H is the differential entropy: it changes with the unit of the data and may be negative. KL is
never negative, and 0 only where p = q; it depends on the direction; no invertible map of the data changes it;
for independent parts it adds up.

Between normals of one mean, both the direction and the meaning of "2" matter. KL(N(0, 1) || N(0, 2)) is 0.318
nats, and 0.807 the other way round, where 2 is the standard deviation; 0.0966 and 0.1534 where it is the
variance. The 0.443 and 0.693 that are often printed are neither: log 2 - 1/4 takes 2 for the standard
deviation in the logarithm and for the variance in the quotient; log 2 is the logarithm alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, rel_entr, xlogy

from audiovae.distributions import LOG_TAU, DiagonalNormal, Discrete, Gaussian, Normal, finite
from audiovae.errors import ConfigError, ShapeError, nearest

__all__ = ["DiagonalNormal", "Discrete", "Estimate", "GaussianTerms", "Normal", "cross_entropy", "entropy",
           "estimate_jensen_shannon", "estimate_kl", "gaussian_terms", "jensen_shannon", "kl", "mutual_information"]

Unit = Literal["nats", "bits"]
Generator = TypeVar("Generator")

NATS = {"nats": 1.0, "bits": math.log(2)}  # in one of the unit


@dataclass(frozen=True)
class GaussianTerms:
    """The parts of KL(p || q) between normals; they sum to it, and only the first two can be negative.

    log_ratio : log |det L_q| - log |det L_p|; of one dimension, log(σ_q / σ_p).
    variance_ratio : (tr(Σ_q⁻¹ Σ_p) - D) / 2; of one dimension, ((σ_p / σ_q)² - 1) / 2.
    mean_shift : (μ_p - μ_q)ᵀ Σ_q⁻¹ (μ_p - μ_q) / 2; of one dimension, ((μ_p - μ_q) / σ_q)² / 2.
    """

    log_ratio: float
    variance_ratio: float
    mean_shift: float

    @property
    def total(self) -> float:
        return max(0.0, self.log_ratio + self.variance_ratio + self.mean_shift)  # below 0 by rounding only


@dataclass(frozen=True)
class Estimate:
    """A Monte-Carlo mean over ``count`` draws and its standard error, both in ``unit``.

    standard_error : NaN where the value is infinite.

    >>> print(Estimate(24.1137, 0.05, count=1000, unit="nats"))
    24.1137 ± 0.05 nats
    """

    value: float
    standard_error: float
    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.standard_error:.2g} {self.unit}"


def entropy(p: Discrete | Gaussian, unit: Unit = "nats") -> float:
    """H(p); of a normal, the differential entropy log |det L| + D log(2 π e) / 2.

    >>> entropy(Discrete([0.25] * 4), unit="bits")
    2.0
    >>> round(entropy(DiagonalNormal(0, 1)), 4)
    1.4189
    """
    nats = entr(p.p).sum() if isinstance(p, Discrete) else p.log_scale + 0.5 * len(p.mean) * (LOG_TAU + 1)
    return float(nats / _nats_in(unit))


def cross_entropy(p: Discrete | Gaussian, q: Discrete | Gaussian, unit: Unit = "nats") -> float:
    """H(p, q), the mean code length for data of p under q's code; infinite where q rules out what p does not.

    Raises ShapeError where p and q are not of one kind and size.

    >>> round(cross_entropy(Discrete([0.2, 0.8]), Discrete([0.5, 0.5]), unit="bits"), 4)
    1.0
    """
    size = _same_size("cross_entropy", p, q)
    if isinstance(p, Discrete) and isinstance(q, Discrete):
        return float(-xlogy(p.p, q.p).sum() / _nats_in(unit))
    assert isinstance(p, Gaussian) and isinstance(q, Gaussian)
    nats = q.log_scale + 0.5 * (size * LOG_TAU + _trace(p, q) + _shift(p, q))
    return nats / _nats_in(unit)


def kl(p: Discrete | Gaussian, q: Discrete | Gaussian, unit: Unit = "nats") -> float:
    """KL(p || q), at least 0; infinite where q rules out what p does not.

    Raises ShapeError where p and q are not of one kind and size.

    >>> round(kl(DiagonalNormal(6, 4), DiagonalNormal(0, 1)), 2)
    24.11
    >>> round(kl(Discrete([0.2, 0.8]), Discrete([0.5, 0.5]), unit="bits"), 4)
    0.2781
    """
    _same_size("kl", p, q)
    if isinstance(p, Discrete) and isinstance(q, Discrete):
        return float(max(0.0, rel_entr(p.p, q.p).sum()) / _nats_in(unit))
    assert isinstance(p, Gaussian) and isinstance(q, Gaussian)
    return gaussian_terms(p, q).total / _nats_in(unit)


def gaussian_terms(p: Gaussian, q: Gaussian) -> GaussianTerms:
    """What KL(p || q) between normals is made of, in nats.

    >>> gaussian_terms(DiagonalNormal(6, 4), DiagonalNormal(0, 1))
    GaussianTerms(log_ratio=-1.386..., variance_ratio=7.5, mean_shift=18.0)
    """
    size = _same_size("gaussian_terms", p, q)
    return GaussianTerms(q.log_scale - p.log_scale, (_trace(p, q) - size) / 2, _shift(p, q) / 2)


def jensen_shannon(p: Discrete, q: Discrete, unit: Unit = "nats") -> float:
    """KL to the mixture m of both, (KL(p || m) + KL(q || m)) / 2 (Lin 1991): symmetric, from 0 to log 2 or 1 bit.

    >>> jensen_shannon(Discrete([1, 0]), Discrete([0, 1]), unit="bits")
    1.0
    """
    _same_size("jensen_shannon", p, q)
    mixture = Discrete((p.p + q.p) / 2)
    return (kl(p, mixture, unit) + kl(q, mixture, unit)) / 2


def mutual_information(joint: ArrayLike, unit: Unit = "nats") -> float:
    """KL from a table of joint chances (A, B) to the product of its margins: what one tells of the other.

    >>> mutual_information([[0.5, 0.0], [0.0, 0.5]], unit="bits")
    1.0
    """
    table = finite("mutual_information", "joint chances (A, B)", joint, ndim=2)
    product = np.outer(table.sum(1), table.sum(0))
    return kl(Discrete(table.ravel()), Discrete(product.ravel()), unit)


def estimate_kl(draw: Callable[[int, Generator], Any], log_p: Callable[[Any], ArrayLike],
                log_q: Callable[[Any], ArrayLike], generator: Generator, count: int = 10_000,
                unit: Unit = "nats") -> Estimate:
    """KL(p || q) as the mean of log p - log q over draws of p, for densities that can only be evaluated.

    Unbiased, though it can come out below 0. Where q is far narrower than p, rare draws carry the mean and
    the standard error is too small: compare several seeds.

    Parameters
    ----------
    draw : ``draw(count, generator)`` gives ``count`` samples of p, in whatever form the densities take.
    log_p, log_q : log-densities of the samples (count,), in nats; arrays, or tensors without a gradient.
    generator : of numpy or torch, as ``draw`` wants it.

    Raises ShapeError where a log-density is not (count,), is NaN, or p rules out its own draw.

    >>> p, q = DiagonalNormal(6, 4), DiagonalNormal(0, 1)
    >>> estimate = estimate_kl(p.sample, p.log_prob, q.log_prob, np.random.default_rng(0))
    >>> abs(estimate.value - kl(p, q)) < 4 * estimate.standard_error
    True
    """
    _check_count("estimate_kl", count)
    x = draw(count, generator)
    return _mean(_log_ratio("estimate_kl", log_p(x), log_q(x), count)[None], unit)


def estimate_jensen_shannon(p: Gaussian, q: Gaussian, generator: np.random.Generator, count: int = 10_000,
                            unit: Unit = "nats") -> Estimate:
    """The Jensen-Shannon divergence of two normals, which has no closed form; ``count`` draws of each.

    >>> p, q = DiagonalNormal(0, 1), DiagonalNormal(50, 1)
    >>> round(estimate_jensen_shannon(p, q, np.random.default_rng(0), unit="bits").value, 6)
    1.0
    """
    _check_count("estimate_jensen_shannon", count)
    _same_size("estimate_jensen_shannon", p, q)
    ratios = []
    for one in (p, q):
        x = one.sample(count, generator)
        mixture = np.logaddexp(p.log_prob(x), q.log_prob(x)) - math.log(2)
        ratios.append(_log_ratio("estimate_jensen_shannon", one.log_prob(x), mixture, count))
    return _mean(np.stack(ratios), unit)


def _mean(ratios: np.ndarray, unit: Unit) -> Estimate:
    """The mean of strata (S, count) that are drawn apart: their errors add as variances."""
    value = float(ratios.mean() / _nats_in(unit))
    if not math.isfinite(value):
        return Estimate(value, math.nan, ratios.shape[1], unit)
    error = np.sqrt((ratios.var(axis=1, ddof=1) / ratios.shape[1]).sum()) / len(ratios)
    return Estimate(value, float(error / _nats_in(unit)), ratios.shape[1], unit)


def _log_ratio(owner: str, log_p: ArrayLike, log_q: ArrayLike, count: int) -> np.ndarray:
    p, q = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    if p.shape != (count,) or q.shape != (count,):
        raise ShapeError(f"{owner} wants a log-density for each of {count} draws, got {p.shape} and {q.shape}: sum "
                         "over the dimensions of a draw.")
    if not np.isfinite(p).all() or np.isnan(q).any() or (q == np.inf).any():
        raise ShapeError(f"{owner} wants log-densities that are numbers, with log p above -inf at p's own draws: "
                         "check that the draws are of p.")
    return p - q


@np.errstate(over="ignore")  # beyond float64 a sum is rounded to infinity
def _trace(p: Gaussian, q: Gaussian) -> float:
    """tr(Σ_q⁻¹ Σ_p) = |L_q⁻¹ L_p|²; without a matrix where both are diagonal."""
    if isinstance(p, DiagonalNormal) and isinstance(q, DiagonalNormal):
        return float(np.square(p.std / q.std).sum())
    return float(np.square(q.whiten(p.colour(np.eye(len(p.mean))))).sum())


@np.errstate(over="ignore")
def _shift(p: Gaussian, q: Gaussian) -> float:
    """(μ_p - μ_q)ᵀ Σ_q⁻¹ (μ_p - μ_q)."""
    return float(np.square(q.whiten(p.mean - q.mean)).sum())


def _same_size(owner: str, p: Discrete | Gaussian, q: Discrete | Gaussian) -> int:
    kinds = [("outcomes", len(d.p)) if isinstance(d, Discrete) else ("dimensions", len(d.mean)) for d in (p, q)]
    if kinds[0] != kinds[1]:
        raise ShapeError(f"{owner} wants two distributions over the same, got one of {kinds[0][1]} {kinds[0][0]} and "
                         f"one of {kinds[1][1]} {kinds[1][0]}.")
    return kinds[0][1]


def _nats_in(unit: str) -> float:
    if unit not in NATS:
        raise ConfigError(f"no unit '{unit}' of information; {nearest(unit, NATS)}.")
    return NATS[unit]


def _check_count(owner: str, count: int) -> None:
    if count < 2:
        raise ShapeError(f"{owner} wants at least 2 draws for a standard error, got {count}.")
