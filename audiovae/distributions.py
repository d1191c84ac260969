"""Distributions that information is measured of: discrete, normal with independent dimensions, normal.

All is float64 of numpy; log-densities are in nats.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from audiovae.errors import ShapeError

TOLERANCE = 1e-6  # of float32: how far a sum may be from 1, or a covariance from its transpose
LOG_TAU = math.log(2 * math.pi)


class Discrete:
    """The chances p (K,) of K outcomes; their sum is 1 within 1e-6, and is then made exactly 1.

    Raises ShapeError where p is not (K,), is negative somewhere or has another sum.

    >>> Discrete([0.2, 0.8]).p
    array([0.2, 0.8])
    """

    def __init__(self, p: ArrayLike):
        p = finite("Discrete", "chances (K,)", p, ndim=1)
        if p.min() < 0 or abs(p.sum() - 1) > TOLERANCE:
            raise ShapeError(f"Discrete wants chances of at least 0 that sum to 1, got a least of {p.min():g} and a "
                             f"sum of {p.sum():.7g}: divide counts by their sum.")
        self.p = p / p.sum()


class Gaussian(ABC):
    """mean + L ε with ε ~ N(0, 1) of D dimensions: what the two kinds of normal have in common.

    log_scale : log |det L|, nats; the sum of the log standard deviations where L is diagonal.
    """

    mean: np.ndarray
    log_scale: float

    @abstractmethod
    def colour(self, noise: np.ndarray) -> np.ndarray:
        """L ε, for noise (..., D)."""

    @abstractmethod
    def whiten(self, offset: np.ndarray) -> np.ndarray:
        """L⁻¹ (x - mean), for offsets (..., D) from the mean."""

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, D) draws."""
        return self.mean + self.colour(generator.standard_normal((count, len(self.mean))))

    def log_prob(self, x: ArrayLike) -> np.ndarray:
        """Log-density at x (..., D), in nats: (...)."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim == 0 or x.shape[-1] != len(self.mean):
            raise ShapeError(f"{type(self).__name__} wants x as (..., D={len(self.mean)}), got {x.shape}.")
        return -0.5 * (np.square(self.whiten(x - self.mean)).sum(-1) + len(self.mean) * LOG_TAU) - self.log_scale


class DiagonalNormal(Gaussian):
    """Independent normals: mean (D,) and standard deviation std (D,); a number is a vector of one.

    Raises ShapeError where the two differ in shape, or a standard deviation is not above 0.

    >>> DiagonalNormal(6, 4).log_prob([6.0]).round(4)                      # -log(4 sqrt(2 pi))
    np.float64(-2.3052)
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike):
        self.mean = finite("DiagonalNormal", "a mean (D,)", np.atleast_1d(mean), ndim=1)
        self.std = finite("DiagonalNormal", "standard deviations (D,)", np.atleast_1d(std), ndim=1)
        if self.mean.shape != self.std.shape or self.std.min() <= 0:
            raise ShapeError(f"DiagonalNormal wants a standard deviation above 0 for each of {len(self.mean)} means, "
                             f"got {len(self.std)} from {self.std.min():g} up.")
        self.log_scale = float(np.log(self.std).sum())

    def colour(self, noise: np.ndarray) -> np.ndarray:
        return noise * self.std

    def whiten(self, offset: np.ndarray) -> np.ndarray:
        return offset / self.std


class Normal(Gaussian):
    """N(mean, covariance): mean (D,), covariance (D, D).

    Raises ShapeError where the shapes do not fit, or the covariance is not symmetric and positive definite.

    >>> Normal([0, 0], [[1, 0.5], [0.5, 1]]).log_prob([0, 0]).round(4)          # -log(2 pi) - log(3/4) / 2
    np.float64(-1.694)
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike):
        self.mean = finite("Normal", "a mean (D,)", mean, ndim=1)
        covariance = finite("Normal", "a covariance (D, D)", covariance, ndim=2)
        if covariance.shape != 2 * self.mean.shape:
            raise ShapeError(f"Normal wants a covariance of {2 * self.mean.shape}, got {covariance.shape}: "
                             "DiagonalNormal takes standard deviations.")
        skew = np.abs(covariance - covariance.T).max() / np.abs(covariance).max(initial=1e-300)
        if skew > TOLERANCE:
            raise ShapeError(f"Normal wants a symmetric covariance, got one that is {skew:.2g} of its largest entry "
                             "away from its transpose: average the two.")
        self.covariance = (covariance + covariance.T) / 2
        try:
            self.factor = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            least = np.linalg.eigvalsh(self.covariance)[0]
            raise ShapeError(f"Normal wants a positive definite covariance, got a least eigenvalue of {least:.3g}: "
                             "leave out dimensions that follow from others.") from None
        self.log_scale = float(np.log(self.factor.diagonal()).sum())

    def colour(self, noise: np.ndarray) -> np.ndarray:
        return noise @ self.factor.T

    def whiten(self, offset: np.ndarray) -> np.ndarray:
        flat = offset.reshape(-1, len(self.mean))
        return solve_triangular(self.factor, flat.T, lower=True).T.reshape(offset.shape)


def finite(owner: str, name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    """The value as float64; ShapeError unless it has ``ndim`` axes, is not empty and holds numbers only."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ShapeError(f"{owner} wants {name}, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ShapeError(f"{owner} wants {name} of finite numbers, got NaN or infinity.")
    return array
