"""Writing recordings: as a stream, in constant memory, whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.truncation import truncation
from audiovae.errors import AudioError, OutputError, ShapeError
from audiovae.files import atomic_file, printable

# By suffix, libsndfile's container and coding; the first two hold 16-bit integers.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
OGG_RATE = 200_000  # Hz, the most of Vorbis
_BLOCK = 1 << 15  # frames: libsndfile's Vorbis encoder takes a block on its stack and can overflow it


class AudioWriter:
    """Write a recording block by block; the file appears under its name once all of it is on disk.

    The suffix says the format: .wav and .flac (16 bits), .ogg (Vorbis) or .mp3. Samples beyond [-1, 1] are
    clipped to it and counted in ``clipped``. 16-bit samples x are stored as round(32768 x), so that what
    was read from a 16-bit file is written back bit for bit.

    Parameters
    ----------
    path : file to write; missing folders above it are made.
    sample_rate : Hz. channels : C of every block.
    comment : what the file says of itself to who asks for its metadata.

    Shapes: ``write`` takes (C, T), or (T,) for one channel, of any T.

    Raises
    ------
    OutputError
        On an unknown suffix, a rate or channel count the format lacks, a full disk, a read-only folder.
    AudioError
        On NaN or infinite samples, or if nothing was written.
    ShapeError
        On a block with another number of channels.

    >>> import tempfile
    >>> with AudioWriter(Path(tempfile.mkdtemp()) / "x.wav", sample_rate=16_000) as out:
    ...     for block in torch.linspace(-1.5, 1.5, 21).split(7):
    ...         out.write(block)
    >>> out.frames, out.clipped
    (21, 8)
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int = 1, comment: str | None = None):
        self.path, self.sample_rate, self.channels, self.comment = Path(path), sample_rate, channels, comment
        self.frames = 0
        self.clipped = 0
        if self.path.suffix.lower() not in FORMATS:
            raise OutputError(f"{path} cannot be written: its suffix is none of {', '.join(FORMATS)}.")
        if (shown := printable(self.path)) != str(path):
            raise OutputError(f"{shown} cannot be written: this name is not UTF-8; name another.")
        self._format, self._coding = FORMATS[self.path.suffix.lower()]
        if self._format == "OGG" and sample_rate > OGG_RATE:  # libsndfile refuses the first block, and dies in closing
            raise OutputError(f"{path}: a file .ogg has at most {OGG_RATE} Hz, got {sample_rate}: write .flac or .wav.")

    def __enter__(self) -> "AudioWriter":
        self._life = self._open()
        self._file, self._temporary = self._life.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._life.__exit__(kind, error, trace)

    def write(self, block: Tensor | NDArray[np.float32]) -> None:
        """Append a block (C, T) or (T,)."""
        samples = block.detach().cpu().numpy() if isinstance(block, Tensor) else np.asarray(block)
        samples = samples[None] if samples.ndim == 1 else samples
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise ShapeError(f"AudioWriter wants (C={self.channels}, T), got {tuple(block.shape)}.")
        if not np.isfinite(samples).all():
            raise AudioError(f"{self.path} was to get NaN or infinite samples: nothing is written.")
        self.clipped += int((np.abs(samples) > 1).sum())
        samples = pcm16(samples.T) if self._coding == "PCM_16" else np.clip(samples.T, -1, 1)
        with _libsndfile(self.path, self._temporary):
            for start in range(0, len(samples), _BLOCK):
                self._file.write(np.ascontiguousarray(samples[start : start + _BLOCK]))
        self.frames += len(samples)

    @contextmanager
    def _open(self) -> Iterator[tuple[soundfile.SoundFile, Path]]:
        with atomic_file(self.path) as temporary:
            with _libsndfile(self.path, temporary, self._takes()):
                file = soundfile.SoundFile(
                    temporary, "w", self.sample_rate, self.channels, self._coding, format=self._format
                )
            if self.comment is not None:
                file.comment = self.comment
            try:
                yield file, temporary
            except BaseException:
                file.close()
                raise
            with _libsndfile(self.path, temporary):
                file.close()
            if self.frames == 0:
                raise AudioError(f"{self.path} would hold no samples: nothing is written.")
            with _libsndfile(self.path, temporary):
                self._check(temporary)

    def _check(self, temporary: Path) -> None:
        """Look at the finished file: libsndfile does not report all that goes wrong when it closes one."""
        lacking = truncation(temporary)
        if lacking or soundfile.info(temporary).frames != self.frames:
            raise OutputError(f"{self.path} cannot be written: the disk did not keep all of it.")

    def _takes(self) -> str:
        mp3 = "mp3 takes 1 or 2 channels at 8000 to 48000 Hz in the usual steps; "
        got = f"got {self.channels} at {self.sample_rate} Hz; try .wav"
        return (mp3 if self._format == "MP3" else "") + got


def pcm16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of full scale 1 as 16-bit integers, those beyond it clipped.

    >>> pcm16(np.array([0.5, -1.5, 1.5], np.float32))
    array([ 16384, -32768,  32767], dtype=int16)
    """
    return np.minimum(np.rint(np.clip(samples, -1, 1) * 32768), 32767).astype(np.int16)


def write_audio(path: str | Path, waveform: Tensor | NDArray[np.float32], sample_rate: int) -> None:
    """Write a waveform (T,) or (C, T) at ``sample_rate`` Hz; see :class:`AudioWriter`.

    >>> import tempfile
    >>> write_audio(Path(tempfile.mkdtemp()) / "x.flac", torch.zeros(2, 100), 44_100)
    """
    channels = waveform.shape[0] if waveform.ndim == 2 else 1
    with AudioWriter(path, sample_rate, channels) as out:
        out.write(waveform)


@contextmanager
def _libsndfile(shown: Path, temporary: Path, hint: str = "") -> Iterator[None]:
    """libsndfile's errors as OutputError; it does not say why the system refused, so the system is asked."""
    try:
        yield
    except (soundfile.LibsndfileError, AssertionError) as error:  # the latter: fewer frames were taken
        with open(temporary, "ab") as file:
            file.write(bytes(1 << 16))  # an OSError here is told by atomic_file
        raise OutputError(f"{shown} cannot be written: {hint or error}.") from error
