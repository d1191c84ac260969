"""Whole files through a codec, in constant memory: recording to codes, codes to recording."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from audiovae.audio.io import AudioWriter, stream_audio, write_audio
from audiovae.codec import Codec
from audiovae.codes import CodeReader, Codes, CodeWriter
from audiovae.errors import AudioError, OutputError

LOOK_SECONDS = 30.0  # how far into a recording the voice that suits it best is looked for


class Recording:
    """A recording as pieces (n,) at a codec's rate, checked on the way: read once, constant memory.

    After the last piece ``samples`` is its length. Raises AudioError if it cannot be read, is shorter
    than one latent step, or is silent throughout.
    """

    def __init__(self, path: Path, codec: Codec, channel: int | None = None):
        self.path, self.codec, self.channel = path, codec, channel
        self.samples = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.samples, peak = 0, 0.0
        for piece in stream_audio(self.path, self.codec.sample_rate, "mix" if self.channel is None else self.channel):
            self.samples += len(piece)
            peak = max(peak, float(piece.abs().max())) if len(piece) else peak
            yield piece
        if self.samples < self.codec.hop:
            raise AudioError(f"{self.path}: {self.samples} samples at {self.codec.sample_rate} Hz are shorter than "
                             f"one latent step ({self.codec.hop}).")
        if peak == 0:
            raise AudioError(f"{self.path}: silent, every sample is 0.")

    def head(self) -> Tensor:
        """Its first half minute at most."""
        pieces, length = [], 0
        for piece in self:
            pieces.append(piece)
            length += len(piece)
            if length >= LOOK_SECONDS * self.codec.sample_rate:
                break
        return torch.cat(pieces)


def encode_file(codec: Codec, source: Path, target: Path, speaker: str | None = None,
                channel: int | None = None) -> str:
    """Encode a recording to a code file (.codes, .npz or .npy by suffix); a sentence on what was written."""
    if target.suffix not in (".codes", ".npz", ".npy"):
        raise OutputError(f"{target}: codes are written as .codes, .npz or .npy, not as '{target.suffix}'.")
    recording = Recording(source, codec, channel)
    if speaker is None and codec.speakers:
        speaker = codec.closest_speaker(recording.head())
    blocks = codec.encode_stream(recording)
    if target.suffix in (".npz", ".npy"):
        codec.codes(blocks, lambda: recording.samples, speaker).export(target)
    else:
        with CodeWriter(target, codec.header(speaker), codec.prior) as writer:
            for block in blocks:
                writer.write((block,))
            writer.finish(recording.samples)
    return _sentence(target, recording.samples, codec, speaker)


def decode_file(codec: Codec, source: Path, target: Path, speaker: str | None = None) -> str:
    """Decode a code file (.codes or .npz) to a recording; a sentence on what was written."""
    if source.suffix == ".npz":
        codes = Codes.load(source)
        write_audio(target, codec.decode(codes, speaker), codec.sample_rate)
        return _sentence(target, codes.num_samples, codec, speaker or codes.label)
    with CodeReader(source, codec.prior) as reader, AudioWriter(target, codec.sample_rate) as writer:
        reader.header.check_fingerprint(codec.fingerprint)
        speaker = speaker or reader.header.label
        blocks = (levels[0] for levels in reader)
        for piece in codec.decode_stream(blocks, lambda: reader.num_samples, speaker):
            writer.write(piece)
    return _sentence(target, reader.num_samples, codec, speaker)


def _sentence(target: Path, samples: int, codec: Codec, speaker: str | None) -> str:
    voice = f" in the voice of {speaker}" if speaker else ""
    return f"{target}: {samples / codec.sample_rate:.2f} s{voice}."
