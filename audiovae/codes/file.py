"""The code file: a header, packets of entropy-coded codes, and an end that seals them.

    file    magic (8), version u16, length u32, header, crc32 of these;  packets;  end
    header  that of codes.header, packed, and the fingerprint of the prior as a text; in version 1 JSON, no prior;
            in version 3, which only files of more than one channel take, their number before it;
            in version 4, of pictures, before that the values of a pixel, the sides, and those of each level's grid
    packet  length u32, crc32 u32, payload
    payload steps u32 of each level, model, coder's words u32, crc32 of the codes
    model   weight u8 of each quantizer, of codes that were counted; or the one byte 255: the prior
    end     "END." (4), samples u64, steps u64 of each level, crc32 u32, BLAKE2b-128 of all before it

All little-endian. Samples of a picture are its pixels, steps of a level the places of its grid, row by row. A
packet's crc goes on from the one before it, so that none can be lost or moved; that of the codes tells a decoder
that went another way from damage. What is stored in a packet depends on the codes alone, not on how they were cut
when written. A packet takes the model that makes it smaller: the counts go on from packet to packet, whichever
model each takes; the prior starts anew in each, which costs it three steps of context in 2048, and leaves a packet
that it coded readable by itself. Nothing is ever unpickled.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np

from audiovae.codes.header import Canvas, CodeHeader, pack_number, pack_text, unpack_number, unpack_text
from audiovae.codes.packets import Packets, codes_crc
from audiovae.codes.prior import CodePrior, bundled_prior
from audiovae.errors import CodeFileError
from audiovae.files import atomic_file, reason

MAGIC = b"\x89AVCODE\n"  # no text file starts so, and one transferred as text is no longer whole
MONO, STEREO, VERSION = 2, 3, 4
END = b"END."
DIGEST = 16
MAX_HEADER = 2**20
MAX_PACKET = 2**24  # more than any writer puts into one; bounds what a hostile length can make a reader wait for


class CodeWriter:
    """Write codes block by block, in constant memory; the file appears when it is complete, or not at all.

    ``target`` may be an open binary file instead of a path; it is written as the codes come, and not closed.
    With a ``prior`` its reader will need that prior. ``coded`` counts the bytes that the coder took, ``packet_bytes``
    those of the packets: all of the file but its header and its end.

    Used as a context manager. Raises OutputError where the system refuses, ShapeError on wrong codes,
    CodeFileError when left without ``finish`` or given a prior of other codes.

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

    def __init__(self, target: str | Path | BinaryIO, header: CodeHeader, prior: CodePrior | None = None):
        if prior is not None:
            prior.check(header.fingerprint, header.num_codes)
        self.target, self.header, self.prior = target, header, prior
        self.steps, self.coded, self.packet_bytes = [0] * len(header.hops), 0, 0
        self._packets = Packets(header, prior)
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
            packed = self.header.to_bytes() + pack_text(self.prior.fingerprint if self.prior else None)
            channels, canvas, version = self.header.channels, self.header.canvas, MONO
            if channels > 1 or canvas is not None:
                packed, version = pack_number(channels) + packed, STEREO
            if canvas is not None:
                packed, version = canvas.to_bytes() + packed, VERSION
            front = MAGIC + struct.pack("<HI", version, len(packed)) + packed
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

    def flush(self) -> None:
        """Write a packet of what has come, as far as all levels reach, and hand it on: for readers that wait.

        A packet takes some 20 bytes of its own, so a file of many is longer, and otherwise as good as any.
        """
        unit = self.header.hops[-1]
        whole = min(p.shape[1] * hop for p, hop in zip(self._pending, self.header.hops, strict=True)) // unit
        if whole:
            self._packet(tuple(whole * unit // hop for hop in self.header.hops))
        self._file.flush()

    def finish(self, num_samples: int) -> None:
        """Write what is left and the end; ``num_samples`` is the exact length of the waveform, or the pixels."""
        total = [done + left.shape[1] for done, left in zip(self.steps, self._pending, strict=True)]
        self.header.check_length(total, num_samples)
        while any(p.shape[1] for p in self._pending):
            self._packet()
        end = END + struct.pack(f"<Q{len(total)}Q", num_samples, *total)
        self._put(end + struct.pack("<I", crc32(end)))
        self._file.write(self._digest.digest())
        self._finished = True

    def _packet(self, steps: tuple[int, ...] | None = None) -> None:
        steps = steps or self._packets.steps
        now = [p[:, :n] for p, n in zip(self._pending, steps, strict=True)]
        self._pending = [p[:, n:] for p, n in zip(self._pending, steps, strict=True)]
        self.steps = [done + part.shape[1] for done, part in zip(self.steps, now, strict=True)]
        front, words = self._packets.encode(now)
        packet = self._packets.seal(front + words + struct.pack("<I", codes_crc(now)))
        self.coded += len(words)
        self.packet_bytes += len(packet)
        self._put(packet)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class CodeReader:
    """Read a code file block by block, in constant memory; what it yields has been checked.

    Opening checks the header and the end, so a truncated file fails at once; each block is checked
    before it is yielded; the seal of the whole is checked after the last. Iterate once, within ``with``.

    An open binary file, such as a pipe, is read forward only and not closed: what stands at the end is then known
    and checked once it has come, so a truncated one fails only there, and no more than a packet is waited for.

    Parameters
    ----------
    source : a path, or a binary file that is open.
    prior : the one it may have been written with; those that come with audiovae are found without.

    Attributes
    ----------
    header : the CodeHeader.
    prior : the one it was written with, None where there was none.
    num_samples : exact length of the waveform, or pixels of a picture; of an open file, once all blocks are read.
    steps : L of each level, likewise.

    Raises CodeFileError on a file that is missing, no code file, newer, truncated, changed or longer, or of a prior
    that is not at hand.
    """

    header: CodeHeader
    num_samples: int
    steps: tuple[int, ...]

    def __init__(self, source: str | Path | BinaryIO, prior: CodePrior | None = None):
        self.source, self.prior = source, prior
        self.path = source if isinstance(source, str | Path) else getattr(source, "name", "stream")

    def __enter__(self) -> "CodeReader":
        try:
            self._file = open(self.source, "rb") if isinstance(self.source, str | Path) else self.source
        except OSError as error:
            raise CodeFileError(f"{self.path}: cannot be read, {reason(error)}.") from None
        try:
            self._open()
        except CodeFileError as error:
            self.__exit__()
            raise CodeFileError(f"{self.path}: {error}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not self.source:
            self._file.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        try:
            yield from self._blocks()
        except CodeFileError as error:
            raise CodeFileError(f"{self.path}: {error}") from None

    def _blocks(self) -> Iterator[tuple[np.ndarray, ...]]:
        packets, done = Packets(self.header, self.prior), (0,) * len(self.header.hops)
        while not (front := self._take(8)).startswith(END):
            length, crc = struct.unpack("<II", front)
            if length > MAX_PACKET or packets.crc(payload := self._take(length)) != crc:
                raise _damaged("a packet was changed")
            levels = packets.decode(payload)
            if levels is None:
                raise _damaged("a packet does not hold the codes it states")
            done = tuple(n + level.shape[1] for n, level in zip(done, levels, strict=True))
            yield levels
        self._end(front + self._take(self._end_size - DIGEST - len(front)))
        if done != self.steps or self._file.read(DIGEST) != self._digest.digest():
            raise _damaged("its seal does not fit what it holds")
        if self._file.read(1):
            raise _damaged("its end is not where it should be: added to")

    def _open(self) -> None:
        """Read and check the front, and the end of what can be sought in; leave the file at the first packet."""
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        front = self._take(len(MAGIC) + 6)
        if not front.startswith(MAGIC):
            raise CodeFileError(f"no code file (it starts with {front[:8]!r}).")
        version, length = struct.unpack("<HI", front[len(MAGIC):])
        if not 1 <= version <= VERSION:
            raise CodeFileError(f"a code file of version {version}, this audiovae reads versions 1 to "
                                f"{VERSION}: install a newer one.")
        if length > MAX_HEADER:
            raise _damaged("its header was changed")
        packed = self._take(length)
        if struct.pack("<I", crc32(packed, crc32(front))) != self._take(4):
            raise _damaged("its header was changed")
        if version == 1:
            self.header, self.prior = CodeHeader.from_json(packed), None
        else:
            canvas, rest = Canvas.from_bytes(packed) if version > STEREO else (None, packed)
            channels, rest = unpack_number(rest) if version > MONO else (1, rest)
            self.header, rest = CodeHeader.from_bytes(rest, channels, canvas)
            fingerprint, rest = unpack_text(rest)
            if rest:
                raise CodeFileError("codes with an unreadable header (it is too long).")
            self.prior = self._prior(fingerprint)
        self._end_size = len(END) + 8 * (1 + len(self.header.hops)) + 4 + DIGEST
        if self._file is self.source:
            return
        first = self._file.tell()
        if (at := self._file.seek(0, 2) - self._end_size) < first:
            raise _damaged("truncated")
        self._file.seek(at)
        self._end(self._file.read(self._end_size - DIGEST))
        self._file.seek(first)

    def _end(self, end: bytes) -> None:
        if not end.startswith(END) or struct.pack("<I", crc32(end[:-4])) != end[-4:]:
            raise _damaged("its end is not where it should be: truncated, changed or added to")
        self.num_samples, *steps = struct.unpack(f"<{1 + len(self.header.hops)}Q", end[len(END):-4])
        self.steps = tuple(steps)
        self.header.check_length(self.steps, self.num_samples)

    def _prior(self, fingerprint: str | None) -> CodePrior | None:
        if fingerprint is None:
            return None
        given = self.prior
        found = given if given and given.fingerprint == fingerprint else bundled_prior(fingerprint)
        if found is None:
            but = f"not with the one given, {given.fingerprint}" if given else "which is not at hand"
            raise CodeFileError(f"coded with prior {fingerprint[:16]} of model {self.header.fingerprint[:16]}, {but}: "
                                "name the model that it lies beside.")
        found.check(self.header.fingerprint, self.header.num_codes)
        return found

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise _damaged("truncated")
        self._digest.update(data)
        return data


def _damaged(what: str) -> CodeFileError:
    return CodeFileError(f"damaged, {what}; copy it anew or encode the recording again.")
