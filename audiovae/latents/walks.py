"""Walks through a latent space: from one point to another, along a dimension, over a plane, to another label."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from scipy.stats import norm
from torch import Tensor

from audiovae.errors import LabelError, ShapeError
from audiovae.latents.coding import autoencoder, generate, locate, repeated
from audiovae.models import Model
from audiovae.shapes import Condition, fixed_size

PARALLEL = 1e-4  # radians between two latents below which the great circle is a straight line to 1e-8

Kind = Literal["linear", "spherical"]


def interpolate(a: Tensor, b: Tensor, steps: int, kind: Kind = "linear") -> Tensor:
    """``steps`` latents from ``a`` to ``b``, each (D, *grid): (steps, D, *grid), the ends exactly a and b.

    "spherical" turns the direction at a constant angle a step (Shoemake 1985, eq. 3.3; the whole latent is one
    vector) while the length goes linearly. So the way between two draws of N(0, 1) in many dimensions keeps to the
    shell where such draws lie; the straight line cuts through its middle. Where the two are parallel (below 1e-4
    radians), or one is 0 and has no direction, the two kinds are the same.

    Raises ShapeError when the shapes differ, there are fewer than 2 steps, or the two are opposite to each other:
    then every great circle is as short.

    >>> interpolate(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), steps=3, kind="spherical")
    tensor([[2.0000, 0.0000],
            [1.4142, 1.4142],
            [0.0000, 2.0000]])
    """
    if a.shape != b.shape or steps < 2:
        raise ShapeError(f"interpolate wants two latents of one shape and at least 2 steps, got {tuple(a.shape)}, "
                         f"{tuple(b.shape)} and {steps}.")
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    of_a, of_b = _great_circle(a.double(), b.double(), t) if kind == "spherical" else (1 - t, t)
    shape = (-1, *[1] * a.ndim)
    return (of_a.view(shape) * a + of_b.view(shape) * b).to(a.dtype)


def traverse(model: Model, z: Tensor, dimension: int, values: Sequence[float],
             condition: Condition | None = None) -> Tensor:
    """Data (V, C, *grid) from one latent (D, *grid) with z_d set to each of V ``values``, everywhere on its grid.

    ShapeError where there is no such dimension.

    >>> from audiovae.latents.example import example_vae
    >>> traverse(example_vae(), torch.zeros(2, 1, 1), dimension=1, values=[-3, 0, 3]).shape
    torch.Size([3, 1, 8, 8])
    """
    if not 0 <= dimension < len(z):
        raise ShapeError(f"traverse wants a dimension from 0 to {len(z) - 1}, got {dimension}.")
    walk = z.repeat(len(values), *[1] * z.ndim)
    walk[:, dimension] = torch.tensor(values, dtype=z.dtype).view(-1, *[1] * (z.ndim - 1))
    return generate(model, walk, condition)


def manifold(model: Model, side: int, dimensions: tuple[int, int] = (0, 1),
             condition: Condition | None = None) -> Tensor:
    """Data (side², C, *size) over the plane of two latent dimensions, row by row; the others are 0.

    The points are quantiles of N(0, 1), so that each cell holds the same share of the prior (Kingma & Welling 2014,
    figure 4): the first dimension rises to the right, the second upwards. The model's data must be of one size.

    >>> from audiovae.latents.example import example_vae
    >>> manifold(example_vae(), side=4).shape
    torch.Size([16, 1, 8, 8])
    """
    inner = autoencoder(model)
    dim, grid = inner.bottleneck.channels_out, inner.grid(fixed_size("manifold", inner.data))
    if side < 1 or len({d for d in dimensions if 0 <= d < dim}) != 2:
        raise ShapeError(f"manifold wants a side of at least 1 and two different dimensions from 0 to {dim - 1}, got "
                         f"{side} and {dimensions}.")
    points = torch.from_numpy(norm.ppf((torch.arange(side).double() + 0.5) / side)).float()
    z = torch.zeros(side * side, dim, *[1] * len(grid))
    z[:, dimensions[0]] = points.repeat(side).view(-1, *[1] * len(grid))
    z[:, dimensions[1]] = points.flip(0).repeat_interleave(side).view(-1, *[1] * len(grid))
    return generate(model, z.expand(-1, -1, *grid), condition)


def restyle(model: Model, x: Tensor, label_from: Tensor | int, label_to: Tensor | int) -> Tensor:
    """Data (B, C, *grid) encoded under one label and decoded under another: its style, in another class (CVAE).

    A label is an index for all, or one for each example (B,). Raises LabelError where the model is not told labels,
    or not so many.

    >>> from audiovae.latents.example import example_vae
    >>> restyle(example_vae(), torch.rand(5, 1, 8, 8), label_from=0, label_to=2).shape
    torch.Size([5, 1, 8, 8])
    """
    inner = autoencoder(model)
    if inner.embedding is None or not inner.data.labels:
        raise LabelError("restyle wants a decoder that is told a label: train one with model.condition_dim set.")
    before, after = (_condition(label, len(x), len(inner.data.labels)) for label in (label_from, label_to))
    return generate(model, locate(model, x, before), after)


def _condition(label: Tensor | int, count: int, known: int) -> Condition:
    label = torch.as_tensor(label).view(-1)
    if int(label.min()) < -1 or int(label.max()) >= known:
        raise LabelError(f"restyle wants labels from 0 to {known - 1} (-1 for unknown), got {int(label.min())} to "
                         f"{int(label.max())}.")
    condition = repeated(Condition(label), count)
    assert condition is not None
    return condition


def _great_circle(a: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of ``a`` and ``b`` at each t, in float64."""
    length_a, length_b = a.norm(), b.norm()
    if length_a == 0 or length_b == 0:
        return 1 - t, t
    u, v = a / length_a, b / length_b
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # exact at both ends, where an arc cosine is not
    if angle < PARALLEL:
        return 1 - t, t
    if angle > math.pi - PARALLEL:
        raise ShapeError("interpolate wants no opposite latents for a spherical walk, since every great circle is as "
                         "short: take kind 'linear', or go by a third point.")
    length = length_a * (1 - t) + length_b * t
    return (torch.sin((1 - t) * angle) / torch.sin(angle) * (length / length_a),
            torch.sin(t * angle) / torch.sin(angle) * (length / length_b))
