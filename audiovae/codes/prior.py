"""A learnt prior over the codes of a model: small integers, so that every machine finds the same frequencies.

A code q of step t is one cell; wave s holds the cells with q + t = s. A cell is predicted from cells of earlier
waves alone (CONTEXT), so that a decoder takes all cells of a wave at once, and looks at no quantizer above its
own, so that any first n of Q quantizers can be coded. With e the embedding of a code, all in steps of 1/64:

    sum      C[q, t] = Σ e[j, code (j, t)] over j <= q, as a residual quantizer sums its codes; 0 outside
    hidden   h = clip(⌊W [C of the context] + b⌋, 0, 4)
    code     its group of about √K codes by softmax(V h + c) to the base 2, then its place in that group likewise

Every operation is exact: activations are at most 255/64, weights 127/64 and layers 512 wide, so that any partial
sum is an integer below 2^24 (of 1/64²) and float32 holds it, whatever order, thread or fused operation a matrix
product uses. Powers of 2 come from a table of integers. The coder's own steps, one division and one product in
double precision each, are rounded alike by every machine that follows IEEE 754.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from math import isqrt
from pathlib import Path

import numpy as np
import safetensors
from constriction import stream  # pyright: ignore - compiled, it brings no types
from safetensors.numpy import save_file

from audiovae.errors import CheckpointError, CodeFileError
from audiovae.files import atomic_file

FILE = "prior.safetensors"
FORMAT = 1
UNIT = 64  # steps of one in every weight, activation and logit (in bits)
CONTEXT = ((1, 1), (1, 0), (2, 0), (1, 2))  # waves and quantizers back: steps t of q - 1, t - 1 and t - 2 of q, t + 1
BACK, ABOVE = 2, 2  # the most of either
TOP = 255  # of activations
WEIGHT = 127
BIAS = 2**17
WIDEST = 512
DEEPEST = 20  # bits below the likeliest where frequencies end
FAMILY = stream.model.Categorical(perfect=False)


class CodePrior:
    """Predicts the codes of one model, for a range coder; made by ``audiovae prior``, kept beside the model.

    Parameters
    ----------
    tensors : ``order`` (Q, K): the code at each place; ``embedding`` (Q, K, D), by place; ``hidden`` (Q, 4 D, H),
        ``group`` (Q, H, R) and ``member`` (Q, R, H, R), with R = ⌈√K⌉, place = R group + member; and
        ``hidden_bias`` (Q, H), ``group_bias`` (Q, R), ``member_bias`` (Q, R, R). All integers.
    model : fingerprint of the model whose codes these are.
    facts : texts that are kept with it, for readers.

    Raises CheckpointError on tensors that are no prior, or not provably exact.

    >>> prior = CodePrior.uniform(num_codes=(1024,) * 4, model="9f3c")
    >>> codes = np.random.default_rng(0).integers(0, 1024, (4, 50))
    >>> prior.encode(coder := stream.queue.RangeEncoder(), codes)
    >>> words = coder.get_compressed()
    >>> bool((prior.decode(stream.queue.RangeDecoder(words), 4, 50) == codes).all()), 32 * len(words) / codes.size
    (True, 10.08)
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], model: str, facts: Mapping[str, str] | None = None):
        _check(tensors)
        self.tensors, self.model, self.facts = dict(tensors), model, dict(facts or {})
        count, size, self._dim = tensors["embedding"].shape
        self.num_codes = (size,) * count
        self._side = tensors["group"].shape[2]
        self._order = tensors["order"].astype(np.int64)
        self._place = self._order.argsort(axis=1)
        self._embedding, self._hidden, self._group, self._member = (
            tensors[name].astype(np.float32) for name in ("embedding", "hidden", "group", "member"))
        self._hidden_bias, self._group_bias = (
            tensors[f"{name}_bias"].astype(np.float32)[:, None] for name in ("hidden", "group"))
        self._member_bias = tensors["member_bias"].astype(np.float32)[:, :, None]
        self.fingerprint = _fingerprint(self.tensors, model)

    def check(self, model: str, num_codes: tuple[tuple[int, ...], ...]) -> None:
        """Raise CodeFileError unless it predicts codes of the model of that fingerprint and of these sizes."""
        if model != self.model or len(num_codes) != 1 or self.num_codes[:len(num_codes[0])] != num_codes[0]:
            raise CodeFileError(f"prior {self.fingerprint} is for codes of model {self.model[:16]}, "
                                f"{len(self.num_codes)} x {self.num_codes[0]}, not for these of model {model[:16]}: "
                                "leave it out, or train one with `audiovae prior`.")

    def encode(self, coder: stream.queue.RangeEncoder, codes: np.ndarray) -> None:
        """Append ``codes`` (n, L), of the first n quantizers, to ``coder``; nothing before them is known."""
        coder.encode(*self._coded(codes))

    def decode(self, coder: stream.queue.RangeDecoder, count: int, length: int) -> np.ndarray:
        """The next codes (``count``, ``length``) int64; ValueError where what is coded is no code."""
        waves = length + count - 1
        sums = self._sums(count, waves)
        places = np.zeros((waves, count), dtype=np.int64)
        for wave in range(waves):
            low, high = max(0, wave - length + 1), min(count, wave + 1)
            live, below = slice(low, high), slice(ABOVE + low - 1, ABOVE + high - 1)
            hidden = self._activations(sums, wave, wave + 1)
            group = coder.decode(FAMILY, _frequencies(_layer(hidden, self._group[:count], self._group_bias[:count]))
                                 [live, 0])
            which = np.arange(low, high), group
            member = coder.decode(FAMILY, _frequencies(_layer(hidden[live], self._member[which],
                                                              self._member_bias[which]))[:, 0])
            place = group * self._side + member
            if place.max() >= self.num_codes[0]:
                raise ValueError("a place that no code has")
            places[wave, live] = place
            np.add(sums[BACK + wave - 1, below], self._embedding[which[0], place],
                   out=sums[BACK + wave, ABOVE + low:ABOVE + high])
        diagonal = np.stack([places[q:q + length, q] for q in range(count)])
        return np.take_along_axis(self._order[:count], diagonal, axis=1)

    def bits(self, codes: np.ndarray) -> float:
        """-Σ log2 p over ``codes`` (n, L): what coding them costs, but for rounding to words."""
        symbols, _, frequencies = self._coded(codes)
        own = np.take_along_axis(frequencies, symbols[:, None].astype(np.int64), axis=1)[:, 0]
        return float(np.log2(frequencies.sum(axis=1) / own).sum())

    def _coded(self, codes: np.ndarray) -> tuple[np.ndarray, stream.model.Categorical, np.ndarray]:
        """Symbols (N,) int32, groups and members, and their frequencies (N, R), wave by wave as they are coded."""
        count, length = codes.shape
        places = np.take_along_axis(self._place[:count], codes, axis=1)
        waves = length + count - 1
        sums, level = self._sums(count, waves), np.zeros((length, self._dim), dtype=np.float32)
        symbols = np.zeros((waves, 2, count), dtype=np.int32)
        live = np.zeros(symbols.shape, dtype=bool)
        for q, row in enumerate(places):
            level = level + self._embedding[q, row]
            sums[BACK + q:BACK + q + length, ABOVE + q] = level
            symbols[q:q + length, 0, q], symbols[q:q + length, 1, q] = np.divmod(row, self._side)
            live[q:q + length, :, q] = True
        hidden = self._activations(sums, 0, waves)
        frequencies = np.empty((waves, 2, count, self._side))
        frequencies[:, 0] = _frequencies(_layer(hidden, self._group[:count], self._group_bias[:count])).swapaxes(0, 1)
        for q in range(count):
            groups = symbols[:, 0, q]
            for group in np.unique(groups):
                rows = np.flatnonzero(groups == group)
                frequencies[rows, 1, q] = _frequencies(_layer(hidden[q, rows], self._member[q, group],
                                                              self._member_bias[q, group]))
        return symbols[live], FAMILY, frequencies[live]

    def _sums(self, count: int, waves: int) -> np.ndarray:
        """Room for C, by wave and quantizer, with the zeros that lie outside."""
        return np.zeros((BACK + waves, ABOVE + count, self._dim), dtype=np.float32)

    def _activations(self, sums: np.ndarray, start: int, stop: int) -> np.ndarray:
        """h (n, waves, H) of the waves from ``start`` to ``stop``."""
        count = sums.shape[1] - ABOVE
        seen = [sums[BACK - back + start:BACK - back + stop, ABOVE - above:ABOVE - above + count]
                for back, above in CONTEXT]
        x = np.concatenate(seen, axis=2).swapaxes(0, 1)
        np.minimum(np.maximum(x, -TOP, out=x), TOP, out=x)
        x = _layer(x, self._hidden[:count], self._hidden_bias[:count])
        return np.minimum(np.maximum(x, 0, out=x), TOP, out=x)

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all; OutputError where the system refuses."""
        with atomic_file(path) as temporary:
            save_file(self.tensors, temporary, {**self.facts, "format": str(FORMAT), "model": self.model})

    @classmethod
    def load(cls, path: str | Path) -> "CodePrior":
        """Read what :meth:`save` wrote; CheckpointError unless it is whole and a prior."""
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except (safetensors.SafetensorError, OSError, TypeError) as error:
            raise CheckpointError(f"prior {path}: not a whole safetensors file ({error}).") from None
        if facts.get("format") != str(FORMAT) or "model" not in facts:
            raise CheckpointError(f"prior {path}: format {facts.get('format')}, this audiovae reads {FORMAT}: train it "
                                  "anew with `audiovae prior`, or upgrade audiovae.")
        try:
            return cls(tensors, facts["model"], {k: v for k, v in facts.items() if k not in ("format", "model")})
        except CheckpointError as error:
            raise CheckpointError(f"prior {path}: {error}") from None

    @classmethod
    def uniform(cls, num_codes: tuple[int, ...], model: str, dim: int = 1, width: int = 1) -> "CodePrior":
        """The prior that knows nothing, D = ``dim`` and H = ``width``: every code within a group is as likely."""
        count, size = len(num_codes), num_codes[0]
        side = side_of(size)
        shapes = {"embedding": (size, dim), "hidden": (len(CONTEXT) * dim, width), "group": (width, side),
                  "member": (side, width, side)}
        biases = {"hidden_bias": (width,), "group_bias": (side,), "member_bias": (side, side)}
        tensors = {name: np.zeros((count, *shape), dtype=np.int8) for name, shape in shapes.items()}
        tensors |= {name: np.zeros((count, *shape), dtype=np.int32) for name, shape in biases.items()}
        return cls(tensors | {"order": np.tile(np.arange(size, dtype=np.uint16), (count, 1))}, model)


def side_of(num_codes: int) -> int:
    """R = ⌈√K⌉, and 2 at least, since the coder knows no alphabet of one."""
    return max(2, isqrt(num_codes - 1) + 1)


def find_prior(model: str | Path) -> CodePrior | None:
    """The prior over codes that lies beside a model, named as :meth:`Codec.from_pretrained` takes it, or None."""
    from audiovae.checkpoint import find_checkpoint  # imports torch, which codes do without

    path = find_checkpoint(model) / FILE
    return CodePrior.load(path) if path.exists() else None


def bundled_prior(fingerprint: str) -> CodePrior | None:
    """The prior of that fingerprint among those that come with audiovae."""
    from audiovae.checkpoint import PRETRAINED  # as above

    priors = map(CodePrior.load, PRETRAINED.glob(f"*/{FILE}"))
    return next((prior for prior in priors if prior.fingerprint == fingerprint), None)


def _layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """⌊x W + b⌋ in steps of 1/64."""
    x = x @ weight
    x += bias
    x *= 1 / UNIT
    return np.floor(x, out=x)


def _frequencies(logits: np.ndarray) -> np.ndarray:
    """Integers in proportion to 2^logit along the last axis, 1 at least, as float64: the sum is exact too."""
    depth = logits.max(axis=-1, keepdims=True) - logits
    return _powers().take(depth.astype(np.int64), mode="clip")


@cache
def _powers() -> np.ndarray:
    """⌊2^(20 - i/64)⌋ by whole numbers alone: its 64th power's root, which is six square roots.

    >>> _powers()[[0, 64, 32]].tolist(), 2**19.5 - 741455 < 1
    ([1048576.0, 524288.0, 741455.0], True)
    """
    powers = [2 ** (DEEPEST * UNIT - i) for i in range(DEEPEST * UNIT + 1)]
    for _ in range(UNIT.bit_length() - 1):
        powers = [isqrt(power) for power in powers]
    return np.array(powers, dtype=np.float64)


def _check(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError unless these are the tensors of a prior whose arithmetic is exact."""
    try:
        count, size, dim = tensors["embedding"].shape
        width, side = tensors["hidden"].shape[-1], side_of(size)
        wanted = {"order": (size,), "embedding": (size, dim), "hidden": (len(CONTEXT) * dim, width),
                  "hidden_bias": (width,), "group": (width, side), "group_bias": (side,),
                  "member": (side, width, side), "member_bias": (side, side)}
        fits = {name: value.shape for name, value in tensors.items()} == {
            name: (count, *shape) for name, shape in wanted.items()}
        whole = all(np.issubdtype(value.dtype, np.integer) for value in tensors.values())
        exact = max(width, len(CONTEXT) * dim) <= WIDEST and all(
            np.abs(value.astype(np.int64)).max() <= (BIAS if name.endswith("_bias") else WEIGHT)
            for name, value in tensors.items() if name != "order")
        ordered = (np.sort(tensors["order"], axis=1) == np.arange(size)).all()
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"no prior over codes ({error}).") from None
    if not (fits and whole and exact and ordered):
        raise CheckpointError("no prior over codes: tensors of other shapes, types or ranges.")


def _fingerprint(tensors: Mapping[str, np.ndarray], model: str) -> str:
    digest = hashlib.blake2b(model.encode(), digest_size=8)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.shape}".encode())
        digest.update(value.astype("<i4").tobytes())
    return digest.hexdigest()
