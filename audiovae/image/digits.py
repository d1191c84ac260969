"""The digits of scikit-learn: 1,797 grey pictures of 8 x 8 with 17 levels, inside its wheel."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 8, 8) in [0, 1] on the grid k / 16, and labels (N,) int64.

    Every tenth picture is "test", the one before it "valid", the others "train".

    >>> x, y = digits("test")
    >>> tuple(x.shape), float(x.max())
    ((179, 1, 8, 8), 1.0)
    """
    pixels, target = load_digits(return_X_y=True)
    tenth = np.arange(len(target)) % 10
    keep = {"test": tenth == 9, "valid": tenth == 8, "train": tenth < 8}[split]
    x = torch.from_numpy(pixels[keep]).float().div(16).view(-1, 1, 8, 8)
    return x, torch.from_numpy(target[keep]).long()
