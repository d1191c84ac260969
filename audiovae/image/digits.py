"""The digits of scikit-learn: 1,797 grey pictures of 8 x 8 with 17 levels, inside its wheel."""

import numpy as np
import torch
from torch import Tensor

from audiovae.image.pictures import Part, PartName, Pictures, numbered

LEVELS = 17


def read_digits() -> Pictures:
    """All of them: every tenth picture is in "test", the one before it in "valid", the others in "train".

    >>> pictures = read_digits()
    >>> len(pictures.train), len(pictures.valid), len(pictures.test), pictures.levels
    (1439, 179, 179, 17)
    """
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 8, 8)
    whole = Part(x, torch.from_numpy(target).long(), numbered("digit", range(len(x))))
    tenth = torch.arange(len(x)) % 10
    train, valid, test = (whole.take(keep.nonzero().flatten()) for keep in (tenth < 8, tenth == 8, tenth == 9))
    return Pictures(train, valid, test, LEVELS, tuple("0123456789"))


def digits(split: PartName) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 8, 8) in [0, 1] on the grid k / 16, and labels (N,) int64.

    >>> x, y = digits("test")
    >>> tuple(x.shape), float(x.max())
    ((179, 1, 8, 8), 1.0)
    """
    part: Part = getattr(read_digits(), split)
    return part.pixels.float().div(LEVELS - 1), part.label
