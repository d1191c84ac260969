"""Sound through pipes, as it comes: raw samples or wav, read forward only, in constant memory."""

import signal
import struct
from collections.abc import Iterator
from types import FrameType
from typing import BinaryIO, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.resample import Resampler
from audiovae.audio.writer import pcm16
from audiovae.errors import AudioError
from audiovae.interrupt import Interrupt

Coding = Literal["s16le", "f32le"]
TYPES = {"s16le": np.dtype("<i2"), "s32le": np.dtype("<i4"), "f32le": np.dtype("<f4")}
WAV = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}  # format and bits, as wav numbers them
EXTENSIBLE = 0xFFFE
UNTOLD = 0x7FFFF000  # lengths from here on, and 0, are what programs write into a pipe before they know
CHUNK = 1 << 16  # bytes at most at once; a pipe gives what is there


class Source(Protocol):
    """What sound is read from: as much as is there, up to a size, and nothing at its end."""

    def read(self, size: int, /) -> bytes: ...

    def read1(self, size: int, /) -> bytes: ...


class UntilInterrupt(Interrupt):
    """An open binary file that ends, within, where Ctrl-C is pressed: sound that someone records has no other end.

    >>> import io
    >>> with UntilInterrupt(io.BytesIO(b"sound")) as file:
    ...     heard = file.read1(2)
    ...     signal.raise_signal(signal.SIGINT)
    ...     heard, file.read1(2), file.caught
    (b'so', b'', True)
    """

    class _Ended(Exception):
        pass

    def __init__(self, file: BinaryIO) -> None:
        super().__init__((signal.SIGINT,))
        self.file, self.name = file, getattr(file, "name", "stream")
        self._reading = False

    def read(self, size: int) -> bytes:
        """Just so many bytes, fewer only at the end."""
        found = b""
        while len(found) < size and (more := self.read1(size - len(found))):
            found += more
        return found

    def read1(self, size: int) -> bytes:
        """What is there, at most so many bytes; waits for the first."""
        if self.caught:
            return b""
        try:
            self._reading = True
            return self.file.read1(size)  # type: ignore[attr-defined] - a pipe's, or stdin's, has it
        except UntilInterrupt._Ended:
            return b""
        finally:
            self._reading = False

    def _catch(self, number: int, frame: FrameType | None) -> None:
        super()._catch(number, frame)
        if self._reading:  # else a read that waits would go on waiting
            raise UntilInterrupt._Ended


class RawReader:
    """Mono pieces (n,) float32 at ``sample_rate`` of what an open binary file holds, each as soon as it is there.

    Parameters
    ----------
    file : read forward only, such as ``sys.stdin.buffer``; of one that was interrupted what came until then counts.
    sample_rate : Hz to give.
    coding : of raw samples; None where the file is a wav, which tells for itself.
    source_rate, channels : of raw samples, in Hz; channels are interleaved, and averaged.

    After the last piece ``samples`` is how many were given. Raises AudioError on what is no wav (16 or 32 bits),
    ends within a sample or before its stated length, is not finite, or holds nothing.

    >>> import io
    >>> reader = RawReader(io.BytesIO(bytes(8000)), sample_rate=8000, coding="s16le", source_rate=16000)
    >>> sum(len(piece) for piece in reader), reader.samples
    (2000, 2000)
    """

    def __init__(self, file: Source, sample_rate: int, coding: Coding | None = None,
                 source_rate: int | None = None, channels: int = 1):
        self.file, self.sample_rate, self.coding = file, sample_rate, coding
        self.source_rate, self.channels, self.samples = source_rate or sample_rate, channels, 0
        self.name = getattr(file, "name", "stream")

    def __iter__(self) -> Iterator[Tensor]:
        self.samples = 0
        coding, rate, channels, left = self._wav() if self.coding is None else (
            self.coding, self.source_rate, self.channels, None)
        resampler = Resampler(rate, self.sample_rate) if rate != self.sample_rate else None
        for samples in self._frames(TYPES[coding], channels, left):
            piece = resampler.push(samples) if resampler else samples
            self.samples += len(piece)
            yield torch.from_numpy(piece)
        if resampler:
            piece = resampler.flush()
            self.samples += len(piece)
            yield torch.from_numpy(piece)
        if not self.samples:
            raise AudioError(f"{self.name} holds no samples.")

    def _frames(self, kind: np.dtype, channels: int, left: int | None) -> Iterator[np.ndarray]:
        rest, size = b"", kind.itemsize * channels
        scale = 1.0 if kind.kind == "f" else 0.5 ** (8 * kind.itemsize - 1)
        while left != 0 and (data := self.file.read1(CHUNK if left is None else min(left, CHUNK))):
            left = None if left is None else left - len(data)
            data = rest + data
            whole = len(data) // size * size
            rest = data[whole:]
            samples = np.frombuffer(data[:whole], kind).reshape(-1, channels) * np.float32(scale)
            samples = samples.astype(np.float32).mean(axis=1, dtype=np.float32)
            if not np.isfinite(samples).all():
                raise AudioError(f"{self.name} has a NaN or infinite sample: repair it, or say its coding by --raw.")
            yield samples
        if (rest or left) and not getattr(self.file, "caught", False):
            raise AudioError(f"{self.name} is truncated: it ends within a sample, or before its stated length.")

    def _wav(self) -> tuple[str, int, int, int | None]:
        """Coding, rate, channels and bytes of samples (None: to the end), of the chunks before the samples."""
        if (front := self.file.read(12))[:4] not in (b"RIFF", b"RF64") or front[8:] != b"WAVE":
            raise AudioError(f"{self.name} is no wav: send one, or raw samples with --raw and --rate.")
        told = None
        while len(head := self.file.read(8)) == 8:
            name, size = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data" and told is not None:
                return *told, size if 0 < size < UNTOLD else None
            size += size % 2
            body = self.file.read(min(size, CHUNK))
            size -= len(body)
            while size and (skipped := self.file.read(min(size, CHUNK))):  # a picture, for instance
                size -= len(skipped)
            if name == b"fmt " and len(body) >= 16:
                kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                kind = struct.unpack("<H", body[24:26])[0] if kind == EXTENSIBLE and len(body) >= 26 else kind
                if (kind, bits) not in WAV or not channels or not rate:
                    raise AudioError(f"{self.name} is a wav of format {kind} with {bits} bits: send one of 16-bit "
                                     "integers or 32-bit floats.")
                told = WAV[kind, bits], rate, channels
        raise AudioError(f"{self.name} is a wav without samples, or truncated.")


class RawWriter:
    """Write a waveform to an open binary file as it comes: raw samples, or a wav of 16 bits and untold length.

    >>> import io
    >>> RawWriter(file := io.BytesIO(), 16000, "s16le").write(torch.tensor([0.5, -1.0, 2.0]))
    >>> np.frombuffer(file.getvalue(), "<i2")
    array([ 16384, -32768,  32767], dtype=int16)
    """

    def __init__(self, file: BinaryIO, sample_rate: int, coding: Coding | None = None):
        self.file, self.coding, self.frames = file, coding, 0
        if coding is None:
            form = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
            untold = b"\xff" * 4
            file.write(b"RIFF" + untold + b"WAVEfmt " + form + b"data" + untold)

    def write(self, piece: Tensor) -> None:
        """Append a piece (T,) and hand it on."""
        samples = piece.numpy()
        self.file.write((samples.astype("<f4") if self.coding == "f32le" else pcm16(samples).astype("<i2")).tobytes())
        self.file.flush()
        self.frames += len(samples)
