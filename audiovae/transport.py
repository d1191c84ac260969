"""Latents brought to where a voice's own lie: their mean and covariance become those of its recordings.

Codes keep something of who spoke, and a decoder says it again. Of all maps that take one normal distribution to another
the one that moves latents least is linear (Peyré & Cuturi 2019, Computational Optimal Transport, Remark 2.31): what is
said stays where it was in the distribution, and is said as the target would.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from audiovae.errors import ShapeError

DOUBT = 30.0  # latents by which each side is drawn to what both are together: a short recording tells little
LEAST = 1e-4  # variance that every direction has at least


@dataclass(frozen=True)
class Moments:
    """How many latents there are, their mean (D,) and covariance (D, D), in double precision."""

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, pieces: Iterable[Tensor]) -> "Moments":
        """Those of latents in pieces (D, n), n from 0; ShapeError where there is no latent at all.

        >>> whole = torch.tensor([[0.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
        >>> Moments.of(whole.split(2, dim=1)).mean
        tensor([2., 1.], dtype=torch.float64)
        """
        count, total, products = 0, torch.zeros(1).double(), torch.zeros(1, 1).double()
        for piece in pieces:
            x = piece.double()
            count, total, products = count + x.shape[1], total + x.sum(1), products + x @ x.t()
        if not count:
            raise ShapeError("moments want at least one latent, got none.")
        mean = total / count
        return cls(count, mean, products / count - mean[:, None] * mean)


@dataclass(frozen=True)
class Transport:
    """The map x -> m_t + A (x - m_s) that takes latents distributed as the source's to the target's distribution.

    A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2 of their covariances S and T, each drawn towards what both are together by
    DOUBT latents.

    >>> source, target = (Moments.of([scale * torch.randn(2, 5000)]) for scale in (1, 3))
    >>> moved = Transport.between(source, target)(torch.ones(1, 2, 1))
    >>> bool((moved / 3 - 1).abs().max() < 0.1)
    True
    """

    matrix: Tensor
    source: Tensor
    target: Tensor

    @classmethod
    def between(cls, source: Moments, target: Moments) -> "Transport":
        both = (source.count * source.covariance + target.count * target.covariance) / (source.count + target.count)
        both = both + LEAST * torch.eye(len(both), dtype=both.dtype)
        s, t = ((its.count * its.covariance + DOUBT * both) / (its.count + DOUBT) for its in (source, target))
        root, inverse = _power(s, 0.5), _power(s, -0.5)
        return cls(inverse @ _power(root @ t @ root, 0.5) @ inverse, source.mean, target.mean)

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (1, D, L), each by itself, so that blocks = whole."""
        moved = self.target[:, None] + self.matrix @ (latents[0].double() - self.source[:, None])
        return moved[None].to(latents.dtype)


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp(min=1e-12) ** exponent) @ vectors.t()
