"""Reading recordings: every format libsndfile knows, in constant memory, bad files named.

Samples are float32 in [-1, 1] (float files may go beyond). Reading gives one channel: the mean of all,
or one that is chosen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.resample import Resampler
from audiovae.audio.truncation import truncation
from audiovae.errors import AudioError
from audiovae.files import printable

Channel = int | Literal["mix"]

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".sph"),
)
CONVERTED = "converted voice, made with audiovae: not a recording of the person it sounds like"  # as its comment says
SILENCE = 1e-4  # peak (-80 dB of full scale) below which a recording counts as silent


@dataclass(frozen=True)
class AudioInfo:
    """What a recording holds, found by reading all of it.

    sample_rate : Hz. frames : samples a channel. peak : of all channels, 1 = full scale.
    rms : root mean square over all channels. format : as libsndfile calls it, such as "WAV PCM_16".
    """

    path: Path
    format: str
    sample_rate: int
    channels: int
    frames: int
    peak: float
    rms: float

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate

    @property
    def silent(self) -> bool:
        return self.peak < SILENCE


def length_said(path: str | Path) -> float | None:
    """Seconds that the head of a recording says it lasts; None where it cannot be read, which whoever reads it tells.

    >>> length_said("missing.wav") is None
    True
    """
    try:
        info = soundfile.info(str(path))
    except (RuntimeError, OSError):
        return None
    return info.frames / info.samplerate


def audio_info(path: str | Path) -> AudioInfo:
    """Read a recording from end to end and say what it holds; silence is no error here.

    Raises AudioError as :func:`read_audio` does.

    >>> import tempfile
    >>> from audiovae.audio.io import write_audio
    >>> path = Path(tempfile.mkdtemp()) / "x.wav"
    >>> write_audio(path, torch.zeros(2, 8000), 16_000)
    >>> audio_info(path).seconds, audio_info(path).channels, audio_info(path).silent
    (0.5, 2, True)
    """
    frames, peak, power = 0, 0.0, 0.0
    with _opened(path) as file:
        for block in _blocks(file, path, file.samplerate * 10):
            frames += len(block)
            peak = max(peak, float(np.abs(block).max()))
            power += float(np.square(block, dtype=np.float64).sum())
        rms = (power / (frames * file.channels)) ** 0.5
        kind = f"{file.format} {file.subtype}"
        return AudioInfo(Path(path), kind, file.samplerate, file.channels, frames, peak, rms)


def audio_comment(path: str | Path) -> str:
    """What a recording says of itself, "" where it says nothing or cannot be opened, which whoever reads it will tell.

    >>> import tempfile
    >>> from audiovae.audio.io import AudioWriter
    >>> path = Path(tempfile.mkdtemp()) / "x.wav"
    >>> with AudioWriter(path, 16_000, comment="made by a machine") as writer:
    ...     writer.write(torch.zeros(160))
    >>> audio_comment(path)
    'made by a machine'
    """
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment
    except (OSError, UnicodeError, soundfile.LibsndfileError):
        return ""


def is_converted(path: str | Path) -> bool:
    """Whether a recording says that it is a converted voice, and so is not of the person it sounds like."""
    return audio_comment(path) == CONVERTED


def read_audio(
    path: str | Path, sample_rate: int | None = None, channel: Channel = "mix"
) -> tuple[Tensor, int]:
    """Read a whole recording as (1, T) float32, and its rate in Hz.

    Parameters
    ----------
    sample_rate : Hz to resample to; None keeps the file's own.
    channel : "mix" for the mean of all channels, or one of them from 0.

    Raises
    ------
    AudioError
        When it is missing, a folder, empty, not audio, without samples, truncated, damaged, has NaN or
        infinite samples, or lacks that channel.

    >>> import tempfile
    >>> from audiovae.audio.io import write_audio
    >>> path = Path(tempfile.mkdtemp()) / "x.wav"
    >>> write_audio(path, torch.zeros(2, 44_100), 44_100)
    >>> wave, rate = read_audio(path, sample_rate=16_000)
    >>> wave.shape, rate
    (torch.Size([1, 16000]), 16000)
    """
    with _opened(path) as file:
        rate = sample_rate or file.samplerate
        return torch.cat([*_stream(file, path, rate, channel, 10.0)])[None], rate


def stream_audio(
    path: str | Path, sample_rate: int | None = None, channel: Channel = "mix", block_seconds: float = 10.0
) -> Iterator[Tensor]:
    """Read a recording block by block: (T,) float32 tensors which, joined, are what :func:`read_audio` gives.

    Memory does not grow with the recording. Blocks are about ``block_seconds`` long; one may be empty.
    Raises AudioError as :func:`read_audio` does, where the fault is met.

    >>> import tempfile
    >>> from audiovae.audio.io import write_audio
    >>> path = Path(tempfile.mkdtemp()) / "x.wav"
    >>> write_audio(path, torch.zeros(44_100), 44_100)
    >>> sum(len(block) for block in stream_audio(path, sample_rate=16_000, block_seconds=0.3))
    16000
    """
    with _opened(path) as file:
        yield from _stream(file, path, sample_rate or file.samplerate, channel, block_seconds)


def stream_channels(
    path: str | Path, channels: int, sample_rate: int | None = None, block_seconds: float = 10.0
) -> Iterator[Tensor]:
    """:func:`stream_audio` with all channels: (channels, T) float32 blocks; one channel is given to each.

    Raises AudioError as it does, and on another number of channels.

    >>> import tempfile
    >>> from audiovae.audio.io import write_audio
    >>> path = Path(tempfile.mkdtemp()) / "x.wav"
    >>> write_audio(path, torch.zeros(2, 44_100), 44_100)
    >>> torch.cat([*stream_channels(path, channels=2, sample_rate=16_000)], dim=1).shape
    torch.Size([2, 16000])
    """
    with _opened(path) as file:
        if file.channels not in (1, channels):
            raise AudioError(f"{path} has {file.channels} channels: wanted 1 or {channels}; mix them down first.")
        rate = sample_rate or file.samplerate
        resamplers = [Resampler(file.samplerate, rate) for _ in range(file.channels if rate != file.samplerate else 0)]
        for block in _blocks(file, path, max(1, round(block_seconds * file.samplerate))):
            rows = np.ascontiguousarray(block.T)
            if resamplers:
                rows = np.stack([its.push(row) for its, row in zip(resamplers, rows, strict=True)])
            yield torch.from_numpy(rows).expand(channels, -1)
        if resamplers:
            yield torch.from_numpy(np.stack([its.flush() for its in resamplers])).expand(channels, -1)


def _stream(
    file: soundfile.SoundFile, path: str | Path, rate: int, channel: Channel, seconds: float
) -> Iterator[Tensor]:
    if channel != "mix" and not 0 <= channel < file.channels:
        raise AudioError(f"{path} has no channel {channel}: wanted 0 to {file.channels - 1}.")
    resampler = Resampler(file.samplerate, rate) if rate != file.samplerate else None
    weights = np.full(file.channels, 1 / file.channels, np.float32)
    for block in _blocks(file, path, max(1, round(seconds * file.samplerate))):
        # The mean as a product: over an axis as short as this one, mean() takes ten times as long.
        mono = block @ weights if channel == "mix" else block[:, channel].copy()
        yield torch.from_numpy(resampler.push(mono) if resampler else mono)
    if resampler:
        yield torch.from_numpy(resampler.flush())


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """An open recording; what libsndfile, the system or the container say against it is an AudioError."""
    path = Path(path)
    try:
        if not path.exists():
            raise AudioError(f"{path} is missing: check the path.")
        if (shown := printable(path)) != str(path):
            raise AudioError(f"{shown}: this name is not UTF-8, in which names are kept: rename it.")
        if path.is_dir():
            raise AudioError(f"{path} is a folder: name a recording.")
        with open(path, "rb") as raw:
            head = raw.read(512)
        if not head:
            raise AudioError(f"{path} is empty (0 bytes): fetch or export it again.")
        if _is_text(head):
            raise AudioError(f"{path} is not audio: it holds text.")
        if lacking := truncation(path):
            raise AudioError(f"{path} is truncated: {lacking}; fetch or export it again.")
        if path.suffix.lower() == ".raw":  # soundfile wants to be told rate and format
            raise AudioError(f"{path} has no header: convert it to wav first.")
        with soundfile.SoundFile(path) as file:
            yield file
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror or error}.") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} cannot be read: {_plain(error)}") from None


def _blocks(file: soundfile.SoundFile, path: str | Path, frames: int) -> Iterator[NDArray[np.float32]]:
    """All blocks (n, C), none empty; checks that there is a sample, that all are finite and none missing."""
    count = 0
    while True:
        block = np.asarray(file.read(frames, dtype="float32", always_2d=True), np.float32)
        if not len(block):
            break
        if not np.isfinite(block).all():
            at = (count + int(np.argmin(np.isfinite(block).all(axis=1)))) / file.samplerate
            raise AudioError(f"{path} has a NaN or infinite sample at {at:.3f} s: repair or leave it out.")
        count += len(block)
        yield block
    if count == 0:
        raise AudioError(f"{path} holds no samples: a header only.")
    if count < file.frames < 1 << 62 and file.format != "MP3":  # an MP3's count may be an estimate
        raise AudioError(f"{path} is truncated: {count} of {file.frames} samples could be decoded.")


def _is_text(head: bytes) -> bool:
    """Whether a file begins as text does; a NIST SPHERE recording has a header of text."""
    if head.startswith(b"NIST_1A") or any(byte < 32 and byte not in b"\t\r\n\f" for byte in head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a letter of several bytes, cut by the 512th
    return True


def _plain(error: soundfile.LibsndfileError) -> str:
    """libsndfile's words in ours; the numbers are those of sndfile.h."""
    if error.code == 1:
        return "not audio, or a format libsndfile does not know (m4a and webm among them: convert to wav)."
    return f"truncated or damaged ({str(error.error_string).rstrip('.')})."

