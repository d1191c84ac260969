"""The code file: a header, packets of entropy-coded codes, and an end that seals them.

    file    magic (8), version u16, length u32, header JSON, crc32 of these;  packets;  end
    packet  length u32, crc32 u32, payload
    payload steps u32 of each level, weight u8 of each quantizer, coder's words u32, crc32 of the codes
    end     "END." (4), samples u64, steps u64 of each level, crc32 u32, BLAKE2b-128 of all before it

All little-endian. A packet's crc goes on from the one before it, so that none can be lost or moved; that
of the codes tells a decoder that went another way from damage. What is stored in a packet depends on the
codes alone, not on how they were cut when written. Nothing is ever unpickled.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
from constriction import stream  # pyright: ignore - compiled, it brings no types

from audiovae.codes.entropy import WEIGHTS, CountingModel
from audiovae.codes.header import CodeHeader
from audiovae.errors import CodeFileError
from audiovae.files import atomic_file

MAGIC = b"\x89AVCODE\n"  # no text file starts so, and one transferred as text is no longer whole
VERSION = 1
END = b"END."
STEPS = 2048  # of level 0 in a packet, about: few to hold, yet 20 bytes weigh little; a fact of version 1
DIGEST = 16
MAX_HEADER = 2**20


class CodeWriter:
    """Write codes block by block, in constant memory; the file appears when it is complete, or not at all.

    ``target`` may be an open binary file instead of a path; it is written as the codes come, and not closed.

    Used as a context manager. Raises OutputError where the system refuses, ShapeError on wrong codes,
    CodeFileError when left without ``finish``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.codes"
    >>> with CodeWriter(path, CodeHeader(16000, (320,), ((1024, 1024),), "9f3c")) as writer:
    ...     writer.write([np.zeros((2, 30), dtype=np.int64)])
    ...     writer.write([np.zeros((2, 21), dtype=np.int64)])
    ...     writer.finish(num_samples=16001)
    >>> with CodeReader(path) as reader:
    ...     reader.num_samples, [levels[0].shape for levels in reader]
    (16001, [(2, 51)])
    """

    def __init__(self, target: str | Path | BinaryIO, header: CodeHeader):
        self.target, self.header = target, header
        self.steps = [0] * len(header.hops)
        self._packets = _Packets(header)
        self._pending = [np.zeros((len(sizes), 0), dtype=np.int64) for sizes in header.num_codes]
        self._finished = False

    def __enter__(self) -> "CodeWriter":
        with ExitStack() as stack:
            if isinstance(self.target, str | Path):
                temporary = stack.enter_context(atomic_file(self.target))
                self._file: BinaryIO = stack.enter_context(open(temporary, "wb"))
            else:
                self._file = self.target
            self._digest = hashlib.blake2b(digest_size=DIGEST)
            text = self.header.to_json().encode()
            front = MAGIC + struct.pack("<HI", VERSION, len(text)) + text
            self._put(front + struct.pack("<I", crc32(front)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and not self._finished:
            unfinished = CodeFileError(f"{self.target}: not written, finish(num_samples) was not called.")
            self._stack.__exit__(type(unfinished), unfinished, None)
            raise unfinished
        self._stack.__exit__(*error)  # pyright: ignore[reportArgumentType]

    def write(self, levels: Sequence[np.ndarray]) -> None:
        """Append one (Q, n) array of codes for each level; n may be any number, and differ by level."""
        arrays = self.header.check_levels(levels)
        self._pending = [np.concatenate(pair, axis=1) for pair in zip(self._pending, arrays, strict=True)]
        while all(p.shape[1] >= n for p, n in zip(self._pending, self._packets.steps, strict=True)):
            self._packet()

    def finish(self, num_samples: int) -> None:
        """Write what is left and the end; ``num_samples`` is the exact length of the waveform."""
        total = [done + left.shape[1] for done, left in zip(self.steps, self._pending, strict=True)]
        self.header.check_length(total, num_samples)
        while any(p.shape[1] for p in self._pending):
            self._packet()
        end = END + struct.pack(f"<Q{len(total)}Q", num_samples, *total)
        self._put(end + struct.pack("<I", crc32(end)))
        self._file.write(self._digest.digest())
        self._finished = True

    def _packet(self) -> None:
        now = [p[:, :n] for p, n in zip(self._pending, self._packets.steps, strict=True)]
        self._pending = [p[:, n:] for p, n in zip(self._pending, self._packets.steps, strict=True)]
        self.steps = [done + part.shape[1] for done, part in zip(self.steps, now, strict=True)]
        self._put(self._packets.seal(self._packets.encode(now)))

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class CodeReader:
    """Read a code file block by block, in constant memory; what it yields has been checked.

    Opening checks the header and the end, so a truncated file fails at once; each block is checked
    before it is yielded; the seal of the whole is checked after the last. Iterate once, within ``with``.

    Attributes
    ----------
    header : the CodeHeader.
    num_samples : exact length of the waveform.
    steps : L of each level.

    Raises CodeFileError on a file that is missing, no code file, newer, truncated, changed or longer.
    """

    header: CodeHeader
    num_samples: int
    steps: tuple[int, ...]

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> "CodeReader":
        try:
            self._file: BinaryIO = open(self.path, "rb")
        except OSError as error:
            raise CodeFileError(f"{self.path}: cannot be read, {_reason(error)}.") from None
        try:
            self._open()
        except CodeFileError as error:
            self._file.close()
            raise CodeFileError(f"{self.path}: {error}") from None
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        try:
            yield from self._blocks()
        except CodeFileError as error:
            raise CodeFileError(f"{self.path}: {error}") from None

    def _blocks(self) -> Iterator[tuple[np.ndarray, ...]]:
        packets, left = _Packets(self.header), self.steps
        while self._file.tell() < self._end:
            length, crc = struct.unpack("<II", self._take(8))
            if length > self._end - self._file.tell() or packets.crc(payload := self._take(length)) != crc:
                raise _damaged("a packet was changed")
            levels = packets.decode(payload)
            if levels is None:
                raise _damaged("a packet does not hold the codes it states")
            left = tuple(n - level.shape[1] for n, level in zip(left, levels, strict=True))
            yield levels
        self._take(self._end_size - DIGEST)
        if any(left) or self._file.read(DIGEST) != self._digest.digest():
            raise _damaged("its seal does not fit what it holds")

    def _open(self) -> None:
        """Read and check the two ends; leave the file at the first packet."""
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        front = self._take(len(MAGIC) + 6)
        if not front.startswith(MAGIC):
            raise CodeFileError(f"no code file (it starts with {front[:8]!r}).")
        version, length = struct.unpack("<HI", front[len(MAGIC):])
        if version != VERSION:
            raise CodeFileError(f"a code file of version {version}, this audiovae reads version "
                                f"{VERSION}: install a newer one.")
        if length > MAX_HEADER:
            raise _damaged("its header was changed")
        text = self._take(length)
        if struct.pack("<I", crc32(text, crc32(front))) != self._take(4):
            raise _damaged("its header was changed")
        self.header = CodeHeader.from_json(text)
        first = self._file.tell()
        levels = len(self.header.hops)
        self._end_size = len(END) + 8 * (1 + levels) + 4 + DIGEST
        self._end = self._file.seek(0, 2) - self._end_size
        if self._end < first:
            raise _damaged("truncated")
        self._file.seek(self._end)
        end = self._file.read(self._end_size - DIGEST)
        if not end.startswith(END) or struct.pack("<I", crc32(end[:-4])) != end[-4:]:
            raise _damaged("its end is not where it should be: truncated, changed or added to")
        self.num_samples, *steps = struct.unpack(f"<{1 + levels}Q", end[len(END):-4])
        self.steps = tuple(steps)
        self.header.check_length(self.steps, self.num_samples)
        self._file.seek(first)

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise _damaged("truncated")
        self._digest.update(data)
        return data


class _Packets:
    """Codes to payloads and back; holds what goes on from packet to packet: the counts and the crc."""

    def __init__(self, header: CodeHeader):
        self.num_codes = header.num_codes
        self.models = [[CountingModel(k) for k in sizes] for sizes in header.num_codes]
        self.last = 0
        unit = header.hops[-1]  # a packet ends at the same sample in every level
        span = max(1, STEPS * header.hops[0] // unit) * unit
        self.steps = tuple(span // hop for hop in header.hops)

    def seal(self, payload: bytes) -> bytes:
        return struct.pack("<II", len(payload), self.crc(payload)) + payload

    def crc(self, payload: bytes) -> int:
        self.last = crc32(payload, crc32(struct.pack("<I", len(payload)), self.last))
        return self.last

    def encode(self, levels: Sequence[np.ndarray]) -> bytes:
        coder, choices = stream.queue.RangeEncoder(), []
        for codes, models in zip(levels, self.models, strict=True):
            choices += [model.encode(coder, row) for model, row in zip(models, codes, strict=True)]
        front = struct.pack(f"<{len(levels)}I", *(codes.shape[1] for codes in levels)) + bytes(choices)
        words = coder.get_compressed().astype("<u4").tobytes()
        return front + words + struct.pack("<I", _crc(levels))

    def decode(self, payload: bytes) -> tuple[np.ndarray, ...] | None:
        """The codes of each level; None where the payload is not one that ``encode`` made."""
        counts, rows = len(self.models), sum(map(len, self.models))
        front = 4 * counts + rows
        if len(payload) < front + 4 or (len(payload) - front) % 4:
            return None
        lengths = struct.unpack(f"<{counts}I", payload[:4 * counts])
        choices = iter(payload[4 * counts:front])
        if any(n > most for n, most in zip(lengths, self.steps, strict=True)) or not any(lengths):
            return None
        if max(payload[4 * counts:front]) >= len(WEIGHTS):
            return None
        coder = stream.queue.RangeDecoder(np.frombuffer(payload[front:-4], dtype="<u4").astype(np.uint32))
        try:
            levels = tuple(np.stack([model.decode(coder, n, next(choices)) for model in models])
                           for models, n in zip(self.models, lengths, strict=True))
        except (AssertionError, ValueError):  # the coder's words for "these bytes are not mine"
            return None
        return levels if struct.pack("<I", _crc(levels)) == payload[-4:] else None


def _crc(levels: Sequence[np.ndarray]) -> int:
    crc = 0
    for codes in levels:
        crc = crc32(np.ascontiguousarray(codes, dtype="<i8").tobytes(), crc)
    return crc


def _damaged(what: str) -> CodeFileError:
    return CodeFileError(f"damaged, {what}; copy it anew or encode the recording again.")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
