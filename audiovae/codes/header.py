"""What must be known of codes to decode them: the model, the rate or sides, and each level's hop and codebooks."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise

import numpy as np

from audiovae.errors import CodeFileError, ShapeError

MAX_CODES = 2**16  # the coder's probabilities are multiples of 2^-24: more codes would leave too few each
MAX_QUANTIZERS = 64
MAX_LEVELS = 16
MAX_CHANNELS = 64
MAX_HOP = 2**20  # these bound what a hostile header can make a reader allocate
MAX_SIDE = 2**16
MAX_VALUES = 2**16


@dataclass(frozen=True)
class Canvas:
    """What the codes of a picture cover.

    Parameters
    ----------
    size : (H, W) of the picture, pixels.
    grids : (H, W) of each level's codes, which are in their file row by row.
    values : how many levels a pixel's value can have in each channel: 256 of 8 bits.

    Raises CodeFileError where a value cannot be.

    >>> canvas = Canvas((8, 12), ((4, 6), (2, 3)), values=17)
    >>> canvas.cells, Canvas.from_bytes(canvas.to_bytes() + b"rest") == (canvas, b"rest")
    ((24, 6), True)
    """

    size: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    values: int = 256

    def __post_init__(self) -> None:
        if not all(len(sides) == 2 and all(_whole(side, 1, MAX_SIDE) for side in sides)
                   for sides in (self.size, *self.grids)):
            raise CodeFileError(f"codes of a picture want sides (H, W) of 1 to {MAX_SIDE}, got {self.size} and grids "
                                f"{self.grids}.")
        if not _whole(self.values, 2, MAX_VALUES):
            raise CodeFileError(f"codes of a picture want pixels of 2 to {MAX_VALUES} values, got {self.values!r}.")

    @property
    def pixels(self) -> int:
        return math.prod(self.size)

    @property
    def cells(self) -> tuple[int, ...]:
        """L of each level: how many places its grid has."""
        return tuple(math.prod(grid) for grid in self.grids)

    def to_bytes(self) -> bytes:
        numbers = [self.values, *self.size, len(self.grids), *(side for grid in self.grids for side in grid)]
        return b"".join(map(pack_number, numbers))

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple["Canvas", bytes]:
        """The inverse of :meth:`to_bytes`, and what follows it; CodeFileError where it is no such thing."""
        numbers: list[int] = []
        while len(numbers) < 4 or len(numbers) < 4 + 2 * min(numbers[3], MAX_LEVELS + 1):
            number, data = unpack_number(data)
            numbers.append(number)
        values, height, width, _, *sides = numbers
        return cls((height, width), tuple(zip(sides[::2], sides[1::2], strict=True)), values), data


@dataclass(frozen=True)
class CodeHeader:
    """Facts shared by every block of a recording's, or a picture's, codes.

    Parameters
    ----------
    sample_rate : Hz of the waveform the codes stand for; 0 of a picture.
    hops : samples (of pictures pixels of a side) per latent step of each level, level 0 the fastest, each a multiple of
        the one before.
    num_codes : for each level the K of each of its Q quantizers.
    fingerprint : of the model that made the codes, the only one that can decode them.
    label : name of the speaker or class the decoder is told; None where it is told none.
    channels : C of the waveform or picture.
    canvas : what they cover, where they are of a picture.

    Raises CodeFileError where a value cannot be.

    >>> header = CodeHeader(16000, hops=(320,), num_codes=((1024, 1024),), fingerprint="9f3c")
    >>> CodeHeader.from_json(header.to_json()) == header
    True
    """

    sample_rate: int
    hops: tuple[int, ...]
    num_codes: tuple[tuple[int, ...], ...]
    fingerprint: str
    label: str | None = None
    channels: int = 1
    canvas: Canvas | None = None

    def __post_init__(self) -> None:
        if not _whole(self.channels, 1, MAX_CHANNELS):
            raise CodeFileError(f"codes want 1 to {MAX_CHANNELS} channels, got {self.channels!r}.")
        if not (_whole(self.sample_rate, 1, 2**31) if self.canvas is None else self.sample_rate == 0):
            raise CodeFileError(f"codes want a sample rate in Hz, 0 of a picture, got {self.sample_rate!r}.")
        if not 1 <= len(self.hops) == len(self.num_codes) <= MAX_LEVELS:
            raise CodeFileError(f"codes want a hop and a list of codebook sizes for 1 to {MAX_LEVELS} "
                                f"levels, got hops {self.hops} and num_codes {self.num_codes}.")
        if not all(_whole(hop, 1, MAX_HOP) for hop in self.hops) or any(b % a for a, b in pairwise(self.hops)):
            raise CodeFileError(f"codes want hops of 1 to {MAX_HOP} samples, level 0 the lowest and each a multiple "
                                f"of the one before, got {self.hops}.")
        if self.canvas is not None and len(self.canvas.grids) != len(self.hops):
            raise CodeFileError(f"codes of a picture want a grid for each of {len(self.hops)} levels, got "
                                f"{self.canvas.grids}.")
        for sizes in self.num_codes:
            if not 1 <= len(sizes) <= MAX_QUANTIZERS or not all(_whole(k, 1, MAX_CODES) for k in sizes):
                raise CodeFileError(f"codes want 1 to {MAX_QUANTIZERS} quantizers of 1 to {MAX_CODES} codes "
                                    f"in each level, got {sizes}.")
        if not isinstance(self.fingerprint, str) or not isinstance(self.label, str | None):
            raise CodeFileError("codes want texts as fingerprint and label, got "
                                f"{self.fingerprint!r}, {self.label!r}.")

    def to_json(self) -> str:
        facts = {name: value for name, value in asdict(self).items() if name != "canvas" or value is not None}
        return json.dumps(facts, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "CodeHeader":
        """The inverse of :meth:`to_json`; CodeFileError where the text is no such header."""
        try:
            values = json.loads(text)
            values["hops"] = tuple(values["hops"])
            values["num_codes"] = tuple(tuple(sizes) for sizes in values["num_codes"])
            if (canvas := values.get("canvas")) is not None:
                values["canvas"] = Canvas(tuple(canvas["size"]), tuple(map(tuple, canvas["grids"])), canvas["values"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, CodeFileError):
                raise
            raise CodeFileError(f"codes with an unreadable header ({type(error).__name__}).") from None

    def to_bytes(self) -> bytes:
        """A few dozen bytes: whole numbers of 7 bits a byte, each level's K run by run, then the two texts."""
        numbers = [self.sample_rate, len(self.hops), *self.hops]
        for sizes in self.num_codes:
            runs = [(size, len(list(run))) for size, run in groupby(sizes)]
            numbers += [len(runs), *(number for run in runs for number in run)]
        return b"".join(map(pack_number, numbers)) + pack_text(self.fingerprint) + pack_text(self.label)

    @classmethod
    def from_bytes(cls, data: bytes, channels: int = 1, canvas: Canvas | None = None) -> tuple["CodeHeader", bytes]:
        """The inverse of :meth:`to_bytes`, and what follows it; CodeFileError where it is no such header.

        Channels and canvas are not in these bytes: a code file says them before, where it wants to.
        """
        sample_rate, data = unpack_number(data)
        levels, data = unpack_number(data)
        hops, num_codes = [], []
        for _ in range(min(levels, MAX_LEVELS + 1)):
            hop, data = unpack_number(data)
            hops.append(hop)
        for _ in hops:
            runs, data = unpack_number(data)
            sizes: tuple[int, ...] = ()
            for _ in range(min(runs, MAX_QUANTIZERS + 1)):
                size, data = unpack_number(data)
                count, data = unpack_number(data)
                sizes += (size,) * min(count, MAX_QUANTIZERS + 1)
            num_codes.append(sizes)
        fingerprint, data = unpack_text(data)
        label, data = unpack_text(data)
        return cls(sample_rate, tuple(hops), tuple(num_codes), fingerprint, label, channels, canvas), data  # type: ignore

    @property
    def nominal_kbps(self) -> float:
        """kbit/s of codes written with log2 K bits each, no entropy coding."""
        bits = sum(sum(map(math.log2, ks)) / hop for ks, hop in zip(self.num_codes, self.hops, strict=True))
        return bits * self.sample_rate / 1000

    def check_fingerprint(self, expected: str) -> None:
        """Raise CodeFileError, naming both, unless the model of fingerprint ``expected`` made these codes."""
        if self.fingerprint != expected:
            raise CodeFileError(f"codes are of model {self.fingerprint[:16]}, not of model {expected[:16]}: "
                                "decode them with the model that made them.")

    def check_levels(self, levels: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """``levels`` as int64 arrays; ShapeError unless each is (Q, L) integers, code q below its K."""
        if len(levels) != len(self.hops):
            raise ShapeError(f"Codes want {len(self.hops)} levels of (Q, L), got {len(levels)}.")
        arrays = tuple(np.asarray(level) for level in levels)
        for index, (codes, sizes) in enumerate(zip(arrays, self.num_codes, strict=True)):
            if codes.ndim != 2 or len(codes) != len(sizes) or not np.issubdtype(codes.dtype, np.integer):
                raise ShapeError(f"Codes want level {index} as (Q={len(sizes)}, L) integers, got "
                                 f"{codes.shape} of {codes.dtype}.")
            if codes.size and (codes.min() < 0 or (codes.max(axis=1) >= sizes).any()):
                raise ShapeError(f"Codes want level {index} from 0 to K - 1 with K {sizes}, got "
                                 f"{codes.min()} to {codes.max()}: are they of another model?")
        return tuple(codes.astype(np.int64) for codes in arrays)

    def check_length(self, frames: Sequence[int], num_samples: int) -> None:
        """Raise CodeFileError unless every level's ``frames`` reach to the end of ``num_samples``, or fill its grid."""
        if self.canvas is not None:
            if (*frames, num_samples) != (*self.canvas.cells, self.canvas.pixels):
                raise CodeFileError(f"codes of a picture of {self.canvas.size} on grids {self.canvas.grids} are not "
                                    f"{tuple(frames)}, nor of {num_samples} pixels.")
            return
        reach = min(length * hop for length, hop in zip(frames, self.hops, strict=True))
        if not _whole(num_samples, 1, reach):
            raise CodeFileError(f"codes of {tuple(frames)} steps stand for 1 to {reach} samples, "
                                f"not for {num_samples}.")


def pack_number(number: int) -> bytes:
    """A whole number, 7 bits a byte, low ones first; the last byte is below 128.

    >>> pack_number(16000).hex(), unpack_number(pack_number(16000) + b"rest")
    ('807d', (16000, b'rest'))
    """
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + pack_number(high) if high else bytes([low])


def unpack_number(data: bytes) -> tuple[int, bytes]:
    """A number of at most 35 bits, and what follows it."""
    number = 0
    for place, byte in enumerate(data[:5]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, data[place + 1:]
    raise CodeFileError("codes with an unreadable header (a number does not end).")


def pack_text(text: str | None) -> bytes:
    """A text after its length and kind: hexadecimal digits take half a byte each, None takes a byte.

    >>> pack_text("9f3c").hex(), unpack_text(pack_text("p226") + b"rest")
    ('089f3c', ('p226', b'rest'))
    """
    if text is None:
        return pack_number(0)
    try:
        data, kind = bytes.fromhex(text), 2
    except ValueError:
        data = b""
    if data.hex() != text:  # capitals and blanks are no digits of ours
        data, kind = text.encode(), 1
    return pack_number(3 * len(data) + kind) + data


def unpack_text(data: bytes) -> tuple[str | None, bytes]:
    """The inverse of :func:`pack_text`, and what follows it."""
    number, data = unpack_number(data)
    length, kind = divmod(number, 3)
    if len(data) < length or (kind == 0 and length):
        raise CodeFileError("codes with an unreadable header (a text is cut short).")
    try:
        text = None if kind == 0 else data[:length].hex() if kind == 2 else data[:length].decode()
    except UnicodeDecodeError:
        raise CodeFileError("codes with an unreadable header (a text is none).") from None
    return text, data[length:]


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
