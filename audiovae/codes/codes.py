"""The codes of one recording or picture in memory, and their three ways to disk."""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from audiovae.codes.file import CodeReader, CodeWriter
from audiovae.codes.header import Canvas, CodeHeader
from audiovae.codes.prior import CodePrior
from audiovae.errors import CodeFileError, OutputError, ShapeError
from audiovae.files import atomic_file, reason

ZIP = b"PK\x03\x04"
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, RuntimeError,
               zipfile.BadZipFile, zlib.error)  # what numpy says of an .npz that is damaged or not ours


@dataclass(frozen=True, eq=False)
class Codes:
    """What an encoder made of one recording or picture, with all that is needed to decode it.

    Parameters
    ----------
    levels : one int64 array (Q, L) for each level, level 0 the fastest; of a picture its grid row by row.
    sample_rate : Hz; 0 of a picture.
    num_samples : T, exact length of the recording in samples, at most L * hop in each level; pixels of a picture.
    hops : samples per latent step of each level.
    num_codes : for each level the K of each of its Q quantizers.
    fingerprint : of the model that made them.
    label : speaker or class the decoder is told, or None.
    prior : what their code file is coded with, and read again; None to code by counting alone.
    channels : C of the recording or picture.
    canvas : the sides of the picture and of its grids; None of a recording.

    Raises ShapeError on codes that do not fit, CodeFileError on facts that cannot be or a prior of other codes.

    >>> import tempfile
    >>> codes = Codes((np.arange(100).reshape(2, 50),), 16000, 15900, (320,), ((1024, 1024),), "9f3c")
    >>> codes.save(path := Path(tempfile.mkdtemp()) / "a.codes")
    >>> again = Codes.load(path)
    >>> again.num_samples, again.levels[0].shape, again.nominal_kbps
    (15900, (2, 50), 1.0)
    """

    levels: tuple[np.ndarray, ...]
    sample_rate: int
    num_samples: int
    hops: tuple[int, ...]
    num_codes: tuple[tuple[int, ...], ...]
    fingerprint: str
    label: str | None = None
    prior: CodePrior | None = field(default=None, repr=False)
    channels: int = 1
    canvas: Canvas | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", self.header.check_levels(self.levels))
        self.header.check_length([codes.shape[1] for codes in self.levels], self.num_samples)
        if self.prior is not None:
            self.prior.check(self.fingerprint, self.num_codes)

    @property
    def header(self) -> CodeHeader:
        return CodeHeader(self.sample_rate, self.hops, self.num_codes, self.fingerprint, self.label, self.channels,
                          self.canvas)

    @property
    def maps(self) -> tuple[np.ndarray, ...]:
        """The levels on their grids: (Q, H, W) of a picture, (Q, L) of a recording."""
        grids = self.canvas.grids if self.canvas else [(-1,)] * len(self.levels)
        return tuple(codes.reshape(len(codes), *grid) for codes, grid in zip(self.levels, grids, strict=True))

    @property
    def seconds(self) -> float:
        """How long the recording is; ShapeError of a picture, which has no time, and so no rate or part in it."""
        if self.canvas is not None:
            raise ShapeError("codes of a picture have no seconds: ask for their bits.")
        return self.num_samples / self.sample_rate

    @property
    def bits(self) -> int:
        """Those of their code file, with its header and all; computed by writing one in memory."""
        self._write(file := io.BytesIO())
        return len(file.getbuffer()) * 8

    @property
    def nominal_bits(self) -> float:
        """log2 K for each code: what the model states, without container or entropy coding."""
        return sum(level.shape[1] * math.log2(math.prod(sizes))
                   for level, sizes in zip(self.levels, self.num_codes, strict=True))

    @property
    def nominal_kbps(self) -> float:
        """kbit/s with log2 K bits a code: what the model states, without container or entropy coding."""
        return self.header.nominal_kbps

    @property
    def kbps(self) -> float:
        """kbit/s of their code file: :attr:`bits` over time."""
        return self.bits / self.seconds / 1000

    @property
    def bits_per_code(self) -> float:
        """Bits that the coder takes for a code on the mean, container apart; computed as :attr:`kbps` is."""
        return self._write(io.BytesIO()).coded * 8 / sum(codes.size for codes in self.levels)

    @property
    def packet_kbps(self) -> float:
        """kbit/s of the packets of that file, its header and end apart: what a long recording comes to."""
        return self._write(io.BytesIO()).packet_bytes * 8 / self.seconds / 1000

    def slice(self, start: float, stop: float | None = None) -> "Cut":
        """The codes of ``start`` to ``stop`` seconds (None: the end), out to whole steps of the slowest level.

        A cut says in ``start`` and ``stop`` which samples it stands for: those asked for, and up to a step more at
        each side. Its codes are the very same; decoded alone, its first and last steps miss what stood beside them,
        for which there is ``Codec.decode(codes, start=..., stop=...)``.

        Raises ShapeError where the recording has no such stretch.

        >>> codes = Codes((np.arange(100).reshape(2, 50),), 16000, 15900, (320,), ((1024, 1024),), "9f3c")
        >>> cut = codes.slice(0.25, 0.5)
        >>> cut.codes.levels[0][0], cut.start, cut.stop
        (array([12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]), 3840, 8000)
        """
        first, last = self.samples(start, stop)
        unit = self.hops[-1]
        first, last = first // unit * unit, min(-(-last // unit) * unit, self.num_samples)
        levels = tuple(codes[:, first // hop:-(-last // hop)]
                       for codes, hop in zip(self.levels, self.hops, strict=True))
        return Cut(self._of(levels, last - first, self.header, self.prior), first, last)

    def samples(self, start: float, stop: float | None = None) -> tuple[int, int]:
        """Seconds as the samples [first, last); ShapeError unless 0 <= start < stop, with a sample of it here."""
        length = self.seconds  # first, so that a picture says what it has not
        if not math.isfinite(start) or (stop is not None and math.isnan(stop)):
            raise ShapeError(f"codes want a part from a number of seconds, got {start:g} to {stop}.")
        first = round(start * self.sample_rate)
        last = self.num_samples if stop is None else round(min(stop * self.sample_rate, self.num_samples))
        if not 0 <= first < last:
            end = "the end" if stop is None else f"{stop:g} s"
            raise ShapeError(f"no samples from {start:g} s to {end} in codes of {length:.3f} s.")
        return first, last

    @classmethod
    def concatenate(cls, parts: Sequence["Codes"]) -> "Codes":
        """The codes of several recordings, one after the other, as of one recording.

        Each part but the last is taken to its last whole step, up to a step longer than its recording. The label
        is kept where all have the same, the prior is the first part's. Raises CodeFileError unless all are of one
        model, rate and codebooks; ShapeError on none, on a picture, or on a part whose levels end apart.

        >>> codes = Codes((np.arange(100).reshape(2, 50),), 16000, 15900, (320,), ((1024, 1024),), "9f3c")
        >>> both = Codes.concatenate([codes, codes])
        >>> both.levels[0].shape, both.num_samples
        ((2, 100), 31900)
        """
        if not parts:
            raise ShapeError("Codes.concatenate wants at least one part, got none.")
        labels = {part.label for part in parts}
        header = replace(parts[0].header, label=labels.pop() if len(labels) == 1 else None)
        for place, part in enumerate(parts):
            _ = part.seconds  # a picture has none
            part.check_fingerprint(header.fingerprint)
            if replace(part.header, label=header.label) != header:
                raise CodeFileError(f"Codes.concatenate: part {place} has {part.sample_rate} Hz, hops {part.hops} and "
                                    f"num_codes {part.num_codes}, the first {header.sample_rate} Hz, {header.hops} and "
                                    f"{header.num_codes}: encode them alike.")
        reach = [{codes.shape[1] * hop for codes, hop in zip(part.levels, part.hops, strict=True)} for part in parts]
        if any(len(ends) > 1 for ends in reach[:-1]):
            raise ShapeError("Codes.concatenate wants every part but the last to end in all levels at the same sample.")
        levels = tuple(np.concatenate(rows, axis=1) for rows in zip(*(part.levels for part in parts), strict=True))
        num_samples = sum(ends.pop() for ends in reach[:-1]) + parts[-1].num_samples
        return cls._of(levels, num_samples, header, parts[0].prior)

    def check_fingerprint(self, expected: str) -> None:
        """Raise CodeFileError, naming both, unless the model of fingerprint ``expected`` made these codes."""
        self.header.check_fingerprint(expected)

    def save(self, path: str | Path) -> None:
        """Write the entropy-coded code file, whole or not at all; OutputError where the system refuses."""
        self._write(path)

    @classmethod
    def load(cls, path: str | Path, prior: CodePrior | None = None) -> "Codes":
        """Read a code file or an exported ``.npz``, told apart by content; CodeFileError unless intact.

        A file coded with a prior that does not come with audiovae wants that ``prior``, :attr:`Codec.prior`.
        """
        with _opened(path) as file:
            if file.read(len(ZIP)) == ZIP:
                file.seek(0)
                return cls._from_npz(path, file)
        with CodeReader(path, prior) as reader:
            blocks = list(reader)
            levels = tuple(np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
            return cls._of(levels, reader.num_samples, reader.header, reader.prior)

    def export(self, path: str | Path) -> None:
        """Write ``.npz`` or ``.npy``, by suffix, of the smallest unsigned type that holds every code.

        The ``.npz`` describes itself: ``level_0``, ``level_1`` ... (Q, L), and ``header``, a JSON text. The
        ``.npy`` is the bare (Q, L) array of a model with one level, and cannot be decoded again. Codes of a picture
        are (Q, H, W) in both.

        Raises OutputError on another suffix, on ``.npy`` for several levels, or where the system refuses.
        """
        suffix = Path(path).suffix
        if suffix == ".npy" and len(self.levels) > 1:
            raise OutputError(f"{path}: .npy holds one level, these have {len(self.levels)}: write .npz.")
        if suffix not in (".npy", ".npz"):
            raise OutputError(f"{path}: codes are exported as .npz or .npy, not as '{suffix}'.")
        small = [codes.astype(np.min_scalar_type(max(sizes) - 1)) for codes, sizes in
                 zip(self.maps, self.num_codes, strict=True)]
        with atomic_file(path) as temporary:
            if suffix == ".npy":
                np.save(temporary, small[0], allow_pickle=False)
            else:
                header = json.dumps(json.loads(self.header.to_json()) | {"num_samples": self.num_samples})
                arrays = {f"level_{index}": codes for index, codes in enumerate(small)}
                arrays["header"] = np.array(header)
                np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]

    def _write(self, target: str | Path | BinaryIO) -> CodeWriter:
        with CodeWriter(target, self.header, self.prior) as writer:
            writer.write(self.levels)
            writer.finish(self.num_samples)
        return writer

    @classmethod
    def _from_npz(cls, path: str | Path, file: BinaryIO) -> "Codes":
        try:
            with np.load(file, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["header"][()]))
                num_samples = facts.pop("num_samples")
                header = CodeHeader.from_json(json.dumps(facts))
                levels = tuple(arrays[f"level_{index}"] for index in range(len(header.hops)))
            if header.canvas is not None:
                if [its.shape[1:] for its in levels] != [*header.canvas.grids]:
                    raise ValueError(f"grids are not {header.canvas.grids}")
                levels = tuple(its.reshape(len(its), -1) for its in levels)
            return cls._of(levels, num_samples, header)
        except _UNREADABLE as error:
            line = " ".join(str(error).split())[:120]
            raise CodeFileError(f"{path}: no codes of audiovae, or damaged ({line}).") from None

    @classmethod
    def _of(cls, levels: tuple[np.ndarray, ...], num_samples: int, header: CodeHeader,
            prior: CodePrior | None = None) -> "Codes":
        return cls(levels, header.sample_rate, num_samples, header.hops, header.num_codes, header.fingerprint,
                   header.label, prior, header.channels, header.canvas)


class Cut(NamedTuple):
    """A part of codes, and the samples [start, stop) of the whole that it stands for."""

    codes: Codes
    start: int
    stop: int


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise CodeFileError(f"{path}: cannot be read, {reason(error)}.") from None
