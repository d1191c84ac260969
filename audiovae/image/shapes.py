"""Binary pictures with known factors, drawn after dSprites (Matthey et al. 2017): a square, an ellipse or a heart.

    factor   values   what
    shape    3        square, ellipse (2 : 1), heart
    scale    6        0.5, 0.6 ... 1.0
    turn     40       9 degrees each, counterclockwise
    x        32       of the centre: half the picture in steps of 1/64 of it, left to right
    y        32       the same, downwards

A pixel is lit when its centre is inside the outline, without smoothing. So equal outlines give equal pictures: the
square again after 10 turns, the ellipse after 20, the heart never before 40.
"""

import math

import torch
from torch import Tensor

from audiovae.errors import ConfigError, ShapeError
from audiovae.image.pictures import Part, Pictures

SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "scale", "turn", "x", "y")
COUNTS = (len(SHAPES), 6, 40, 32, 32)
COMBINATIONS = math.prod(COUNTS)  # 737,280
REACH = 15 / 64  # of the picture's side, from the centre to the outline's farthest point at scale 1


def draw(factors: Tensor, side: int = 64) -> Tensor:
    """The pictures of some combinations of factors.

    Parameters
    ----------
    factors : (N, 5) int64, the index of each factor in the order of ``FACTORS``.
    side : S pixels.

    Shapes: (N, 5) -> (N, 1, S, S) uint8, 0 or 1.

    Raises ShapeError when ``factors`` are not of that shape or out of range.

    >>> square = draw(torch.tensor([[0, 5, 0, 16, 16]]))
    >>> tuple(square.shape), int(square.sum())  # 21 x 21 pixels
    ((1, 1, 64, 64), 441)
    """
    if factors.ndim != 2 or factors.shape[1] != len(COUNTS) or factors.dtype != torch.int64:
        raise ShapeError(f"draw wants factors (N, 5) int64, got {tuple(factors.shape)} of {factors.dtype}.")
    if bool(((factors < 0) | (factors >= torch.tensor(COUNTS))).any()):
        raise ShapeError(f"draw wants factors from 0 and below {COUNTS}, got some outside.")
    out = torch.zeros(len(factors), 1, side, side, dtype=torch.uint8)
    for shape, inside in enumerate((_in_square, _in_ellipse, _in_heart)):
        rows = (factors[:, 0] == shape).nonzero().flatten()
        for chunk in rows.split(128):  # what fits into the processor's cache
            out[chunk, 0] = inside(*_coordinates(factors[chunk], side)).to(torch.uint8)
    return out


def combinations(count: int, seed: int = 0) -> Tensor:
    """``count`` different combinations of factors, (count, 5) int64, drawn by lot.

    Raises ConfigError when there are not so many.

    >>> combinations(1000).max(dim=0).values
    tensor([ 2,  5, 39, 31, 31])
    """
    if not 0 < count <= COMBINATIONS:
        raise ConfigError(f"shapes wants 1 to {COMBINATIONS} pictures, got {count}.")
    number = torch.randperm(COMBINATIONS, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack(torch.unravel_index(number, COUNTS), dim=1)


def draw_shapes(count: int, side: int = 64) -> Pictures:
    """``count`` pictures for training and a tenth as many each for validation and test, all combinations different.

    A combination's name is "heart, scale 5, turn 3, x 0, y 31"; the label is the shape.

    Raises ConfigError when there are not so many combinations.

    >>> pictures = draw_shapes(count=20, side=32)
    >>> tuple(pictures.train.pixels.shape), len(pictures.valid), pictures.levels
    ((20, 1, 32, 32), 2, 2)
    """
    held = max(1, count // 10)
    factors = combinations(count + 2 * held).split([count, held, held])
    return Pictures(*(Part(draw(part, side), part[:, 0].clone(), tuple(map(_name, part.tolist())))
                      for part in factors), levels=2, labels=SHAPES)


def _name(row: list[int]) -> str:
    return ", ".join([SHAPES[row[0]], *(f"{name} {i}" for name, i in zip(FACTORS[1:], row[1:], strict=True))])


def _coordinates(factors: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Each pixel's centre in the shape's own frame, (N, S, S) twice: the farthest point of the outline is at 1."""
    _, scale, turn, x, y = factors.unbind(1)
    unit = side / 64
    pixel = torch.arange(side) + 0.5
    across = pixel - (16.5 + x).mul(unit).unsqueeze(1)    # (N, S), exact: multiples of a quarter pixel
    up = (16.5 + y).mul(unit).unsqueeze(1) - pixel
    cos, sin = (table[turn] / (REACH * side * (0.5 + 0.1 * scale)) for table in _turns())
    u = (cos[:, None] * across)[:, None, :] + (sin[:, None] * up)[:, :, None]
    v = (cos[:, None] * up)[:, :, None] - (sin[:, None] * across)[:, None, :]
    return u, v


def _turns() -> tuple[Tensor, Tensor]:
    """Cosine and sine of the 40 turns; a quarter turn only swaps them, so that the square's symmetry is exact."""
    angle = torch.arange(10, dtype=torch.float64) * (2 * math.pi / 40)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, -sin, -cos, sin]), torch.cat([sin, cos, -sin, -cos])


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= math.sqrt(0.5)


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + 4 * v.square() <= 1


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    """(a² + b² - 1)³ <= a² b³; the smallest circle around it has its centre at (0, 1/4) and the radius 5/4."""
    a2, b = (1.25 * u).square(), 1.25 * v + 0.25
    b2 = b.square()
    round_ = a2 + b2 - 1
    return round_.square() * round_ <= a2 * b2 * b
