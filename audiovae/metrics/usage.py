"""How much of each codebook is used: counts over held-out codes, which add up over recordings."""

from collections.abc import Sequence

import numpy as np

from audiovae.errors import ShapeError


def code_counts(codes: np.ndarray, num_codes: Sequence[int]) -> tuple[np.ndarray, ...]:
    """How often each quantizer uses each of its K codes: (Q, L) integers to Q arrays (K,) of int64.

    Add the counts of many recordings before judging: a short one cannot use a whole codebook.

    >>> code_counts(np.array([[0, 2, 2]]), num_codes=(4,))
    (array([1, 0, 2, 0]),)
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or len(codes) != len(num_codes) or not np.issubdtype(codes.dtype, np.integer):
        raise ShapeError(f"code_counts wants (Q={len(num_codes)}, L) integers, got {codes.shape} of {codes.dtype}.")
    if codes.size and (codes.min() < 0 or (codes.max(axis=1) >= num_codes).any()):
        raise ShapeError(f"code_counts wants codes from 0 to K - 1 with K {tuple(num_codes)}, got {codes.min()} to "
                         f"{codes.max()}.")
    return tuple(np.bincount(row, minlength=k) for row, k in zip(codes, num_codes, strict=True))


def usage(counts: np.ndarray) -> float:
    """Share of the K codes that occur at all, 0 to 1.

    >>> usage(np.array([3, 0, 1, 0]))
    0.5
    """
    return float(np.count_nonzero(counts) / len(counts))


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of the codes: K where all are equally likely, 1 where there is only one.

    Plugged in from counts, so it is too low unless there are many more codes than K.
    ShapeError where nothing was counted.

    >>> round(perplexity(np.array([5, 5, 5, 5])), 6)
    4.0
    """
    total = counts.sum()
    if total == 0:
        raise ShapeError("perplexity wants at least one code, got counts that are all 0.")
    p = counts[counts > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))
