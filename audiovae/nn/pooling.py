"""Everything of an example, at whatever place, as one vector: mean and deviation over the places."""

import torch
from torch import Tensor

LEAST = 1e-5  # of a variance, whose root then has a gradient


def mean_and_deviation(h: Tensor, share: Tensor | None = None) -> Tensor:
    """(B, L, W) to (B, 2 W) over the L places, weighed by ``share`` (B, L, W), which sums to 1, or all alike.

    >>> mean_and_deviation(torch.tensor([[[1.0], [3.0]]]))
    tensor([[2., 1.]])
    """
    weighed, over = (h, Tensor.mean) if share is None else (share * h, Tensor.sum)
    mean, square = over(weighed, 1), over(weighed * h, 1)
    return torch.cat([mean, (square - mean * mean).clamp(min=LEAST).sqrt()], dim=1)
