"""The letters of the project, the types that pass between its parts, and the checks at its doors.

B batch, C channels, T samples, F frequency bins, L latent steps (or H W latent rows, columns),
D latent width, K codebook size, Q quantizers (residual stages), S speakers. ``hop`` is samples per
latent step. ``z_e`` is a latent before and ``z_q`` after quantization. ``grid`` is the latent's
shape in time or space: (L,) or (H, W). A rate is in nats per example unless the name says otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from operator import getitem
from typing import NamedTuple

import torch
from torch import Tensor

from audiovae.errors import ConfigError, ShapeError


class Posterior(NamedTuple):
    """A diagonal normal q(z|x): its mean and the logarithm of its variance, both (B, D, *grid)."""

    mean: Tensor
    log_variance: Tensor


class CodeLevel(NamedTuple):
    """One level of a model's codes (B, Q, *grid / hop): data steps to a code on every grid axis, K of each of the Q."""

    hop: int
    num_codes: tuple[int, ...]


class Scalars(MutableMapping[str, Tensor]):
    """Scalars for a log by name: each is a tensor, or a function that gives it once it is asked for.

    Most steps are not logged, so what costs something is worked out on demand, without a gradient, and then kept. By
    then the step is over: a function may read what a step never changes, so neither weights nor running means.

    >>> scalars = Scalars(mean=torch.arange(4.0).mean)
    >>> list(scalars), scalars["mean"]
    (['mean'], tensor(1.5000))
    """

    def __init__(self, values: Mapping[str, Tensor | Callable[[], Tensor]] | None = None,
                 **more: Tensor | Callable[[], Tensor]):
        self._values = {**(values or {}), **more}

    @classmethod
    def mean(cls, parts: Sequence[Mapping[str, Tensor]]) -> "Scalars":
        """The means of what all the parts have by the same names, still to be worked out."""
        return cls({name: partial(_mean_of, parts, name) for name in parts[0]})

    @classmethod
    def joined(cls, parts: Mapping[str, Mapping[str, Tensor]]) -> "Scalars":
        """All of several parts, the part's key behind each name, still to be worked out."""
        return cls({f"{name}{key}": partial(getitem, part, name) for key, part in parts.items() for name in part})

    def __getitem__(self, name: str) -> Tensor:
        value = self._values[name]
        if not isinstance(value, Tensor):
            with torch.no_grad():
                value = self._values[name] = value()
        return value

    def __setitem__(self, name: str, value: Tensor | Callable[[], Tensor]) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class Latent:
    """What a bottleneck gives: the latent a decoder reads, its rate, and what training needs.

    z : (B, D, *grid), what the decoder reads.
    rate : (B,) nats per example; KL for a Gaussian, sum of log K for codes, 0 where undefined.
    codes : (B, Q, *grid) int64 for a discrete bottleneck, else None.
    losses : unweighted scalar training terms by name, such as ``commitment``.
    stats : scalars for the log, such as ``perplexity`` or ``active_units``; never trained on.
    rate_map : (B, D, *grid) nats, where the rate is spent (free bits read it); None where it is constant.
    posterior : what z was drawn from, where that is a diagonal normal.
    log_ratio : (B,) log q(z|x) - log p(z) at the drawn z, nats, with the gradient that importance weights
        need; ``rate`` is its expectation, in closed form where there is one. None for what is not drawn.
    """

    z: Tensor
    rate: Tensor
    codes: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: MutableMapping[str, Tensor] = field(default_factory=Scalars)
    rate_map: Tensor | None = None
    posterior: Posterior | None = None
    log_ratio: Tensor | None = None


@dataclass
class Output:
    """What a model gives: one latent per level (level 0 is the fastest) and the likelihood's parameters.

    With K latents an example, everything in it is (B K, ...), the K of the first example first.

    params : (B K, P * C, *data grid); P parameters for each of the C data channels.
    weights : (B, K) the chance of each of the K, where they are weighed: labels that are summed over.
    apart : by level, the outputs of models that are trained beside each other, each by its own; ``params`` are then
        those of the first.
    """

    latents: tuple[Latent, ...]
    params: Tensor
    weights: Tensor | None = None
    apart: dict[int, "Output"] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """What a decoder or a prior is told besides its latent; every part can be left out.

    label : (B,) int64, index into the names the model was trained on; -1 where it is unknown.
    embedding : (B, E), any vector.
    reference : (B, 1, R), a recording of the voice to speak in.
    prosody, excitation : (B, 3, N) and (B, 2, T), melody and level by frames, and the pulses and noise to be shaped,
        of a decoder that works as source and filter.
    tags : (B, V) float, 1 for each of the names of ``DataSpec.tags`` that holds: several artists, genres and so on.
    timing : (B, 3) float, seconds that the whole lasts, seconds from its start to the example's, and the share of the
        whole that lies before it.
    text : (B, N) int64, code points of lyrics or any text, 0 behind the shorter ones.
    upper : (B, Q', *grid') int64, codes of the level above, aligned with the example.
    other : of the first B' examples, what a decoder is told to say the same in another voice.
    """

    label: Tensor | None = None
    embedding: Tensor | None = None
    reference: Tensor | None = None
    prosody: Tensor | None = None
    excitation: Tensor | None = None
    tags: Tensor | None = None
    timing: Tensor | None = None
    text: Tensor | None = None
    upper: Tensor | None = None
    other: "Condition | None" = None

    def first(self, count: int) -> "Condition":
        """That of the first ``count`` examples."""
        return self._each(lambda told: told.first(count) if isinstance(told, Condition) else told[:count])

    def to(self, device: torch.device) -> "Condition":
        return self._each(lambda told: told.to(device))

    def _each(self, change: Callable[["Tensor | Condition"], "Tensor | Condition"]) -> "Condition":
        """Everything that is told, changed."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        return Condition(**{name: change(value) for name, value in told.items() if value is not None})  # type: ignore


@dataclass(frozen=True)
class CodeSpec:
    """What a prior must know of the codes it is over.

    num_codes : K of each of the Q quantizers.
    model : fingerprint of the model whose codes they are.
    level, hop : their level, and data steps to a code on every grid axis.
    sample_rate : Hz of the audio that they stand for, None for pictures.
    upper, ratio : num_codes of the level above, () where there is none, and codes here to one there on every axis.
    """

    num_codes: tuple[int, ...]
    model: str = ""
    level: int = 0
    hop: int = 1
    sample_rate: int | None = None
    upper: tuple[int, ...] = ()
    ratio: int = 1


@dataclass(frozen=True)
class MelSpec:
    """What log-mel pictures (B, 1, M, L) were made by, and what sound is made of them by.

    sample_rate : Hz of the sound. n_fft, hop : samples, of the Fourier transform and from frame to frame.
    num_mels : M.
    """

    sample_rate: int
    n_fft: int
    hop: int
    num_mels: int


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data.

    channels, dims : C, and 1 or 2 grid axes.
    sample_rate : Hz, for waveforms.
    labels : their names.
    size : the grid of one example, (T,) or (H, W), where all are alike; a vector latent needs it.
    levels : n where values lie on k / (n - 1), from 0 to 1: 256 for pictures of 8 bits, 2 for binary ones.
    embedding : E of the vector that comes with each example, 0 for none.
    prosody : samples to a frame of the melody and level that come with each example, 0 for none.
    tags : names that an example can bear, such as "genre=Waltz", in the order of ``Condition.tags``.
    timing, text : whether examples come with their place in a whole, and with text.
    codes : what the codes are of, where the data is codes (B, Q, *grid) int64.
    mel : what pictures are of, where they are of sound.
    """

    channels: int
    dims: int
    sample_rate: int | None = None
    labels: tuple[str, ...] = ()
    size: tuple[int, ...] | None = None
    levels: int | None = None
    embedding: int = 0
    prosody: int = 0
    tags: tuple[str, ...] = ()
    timing: bool = False
    text: bool = False
    codes: CodeSpec | None = None
    mel: MelSpec | None = None


@dataclass(frozen=True)
class Batch:
    """One training batch: data (B, C, *grid), its condition, and where each example came from."""

    x: Tensor
    condition: Condition
    names: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.x.to(device), self.condition.to(device), self.names)


def _mean_of(parts: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.stack([part[name] for part in parts]).mean()


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


def check_size(owner: str, x: Tensor, channels: int, size: tuple[int, ...]) -> None:
    """Raise ShapeError unless ``x`` is (B, channels, *size) of real dtype.

    >>> check_size("MLPEncoder", torch.zeros(2, 1, 8, 8), channels=1, size=(8, 8))
    """
    check(owner, x, channels, len(size))
    if x.shape[2:] != size:
        raise ShapeError(f"{owner} wants examples of {size}, got {tuple(x.shape[2:])}: it was built for one size.")


def fixed_size(owner: str, data: DataSpec) -> tuple[int, ...]:
    """The grid of one example; ConfigError where the data's examples are not of one size."""
    if data.size is None:
        raise ConfigError(f"{owner} wants data of one size, got {data}: take a latent on a grid.")
    return data.size


def grid_of(owner: str, size: tuple[int, ...], hop: int) -> tuple[int, ...]:
    """The latent's grid for data of ``size``; ConfigError unless each side is a multiple of the hop.

    >>> grid_of("encoder", (28, 28), hop=4)
    (7, 7)
    """
    if any(side % hop for side in size):
        raise ConfigError(f"{owner} wants sides that are multiples of its hop {hop}, got {size}: change the strides, "
                          "or the size of the data.")
    return tuple(side // hop for side in size)


def only_level(owner: str, codes: Sequence[Tensor | None]) -> Tensor:
    """The codes of a model of one level; ShapeError unless there is that one and no other.

    >>> only_level("Autoencoder", [torch.zeros(1, 1, 5, dtype=torch.int64)]).shape
    torch.Size([1, 1, 5])
    """
    if len(codes) != 1 or codes[0] is None:
        there = [level for level, its in enumerate(codes) if its is not None]
        raise ShapeError(f"{owner} wants the codes of its one level, got {len(codes)} levels with codes in {there}: "
                         "pass what encode_levels gave.")
    return codes[0]


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
