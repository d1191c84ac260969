"""The letters of the project, the types that pass between its parts, and the checks at its doors.

B batch, C channels, T samples, F frequency bins, L latent steps (or H W latent rows, columns),
D latent width, K codebook size, Q quantizers (residual stages), S speakers. ``hop`` is samples per
latent step. ``z_e`` is a latent before and ``z_q`` after quantization. ``grid`` is the latent's
shape in time or space: (L,) or (H, W). A rate is in nats per example unless the name says otherwise.
"""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from audiovae.errors import ShapeError


@dataclass
class Latent:
    """What a bottleneck gives: the latent a decoder reads, its rate, and what training needs.

    z : (B, D, *grid), what the decoder reads.
    rate : (B,) nats per example; KL for a Gaussian, sum of log K for codes, 0 where undefined.
    codes : (B, Q, *grid) int64 for a discrete bottleneck, else None.
    losses : unweighted scalar training terms by name, such as ``commitment``.
    stats : scalars for the log, such as ``perplexity`` or ``active_units``; never trained on.
    rate_map : (B, D, *grid) nats, where the rate is spent (free bits read it); None where it is constant.
    """

    z: Tensor
    rate: Tensor
    codes: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    rate_map: Tensor | None = None


@dataclass
class Output:
    """What a model gives: one latent per level (level 0 is the fastest) and the likelihood's parameters.

    params : (B, P * C, *data grid); P parameters for each of the C data channels.
    """

    latents: tuple[Latent, ...]
    params: Tensor


@dataclass(frozen=True)
class Condition:
    """What a decoder or a prior is told besides its latent; every part can be left out.

    label : (B,) int64, index into the names the model was trained on; -1 where it is unknown.
    """

    label: Tensor | None = None

    def to(self, device: torch.device) -> "Condition":
        return Condition(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data: C channels, 1 or 2 grid axes, Hz for audio, names of the labels."""

    channels: int
    dims: int
    sample_rate: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """One training batch: data (B, C, *grid), its condition, and where each example came from."""

    x: Tensor
    condition: Condition
    names: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.x.to(device), self.condition.to(device), self.names)


def _move(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


def check(owner: str, x: Tensor, channels: int, dims: int, letter: str = "C") -> None:
    """Raise ShapeError unless ``x`` is (B, channels, *grid) with ``dims`` grid axes and real dtype.

    >>> check("Encoder", torch.zeros(2, 1, 100), channels=1, dims=1)
    """
    grid = ", L" if dims == 1 else ", H, W"
    if x.ndim != 2 + dims or x.shape[1] != channels:
        hint = ": transpose(1, 2) first" if dims == 1 and x.ndim == 3 and x.shape[2] == channels else ""
        raise ShapeError(f"{owner} wants (B, {letter}={channels}{grid}), got {tuple(x.shape)}{hint}.")
    if not x.is_floating_point():
        raise ShapeError(f"{owner} wants floating point values, got {x.dtype}: call .float() first.")


def check_grid(owner: str, x: Tensor, hop: int) -> None:
    """Raise ShapeError unless every grid axis of ``x`` (B, C, *grid) is a multiple of ``hop``, not 0."""
    if any(side % hop or side == 0 for side in x.shape[2:]):
        raise ShapeError(f"{owner} wants sides that are multiples of its hop {hop}, got "
                         f"{tuple(x.shape[2:])}: pad or crop first.")


def rows(x: Tensor) -> Tensor:
    """(B, D, *grid) -> (N, D), one latent vector a row, N = B times the grid."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def unrows(flat: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`rows`: (N, D) -> (B, D, *grid) with the batch and grid of ``like``.

    >>> x = torch.randn(2, 3, 4, 5)
    >>> torch.equal(unrows(rows(x), x), x)
    True
    """
    return flat.reshape(like.shape[0], *like.shape[2:], flat.shape[-1]).movedim(-1, 1)
