"""Whole files through a codec, in constant memory: recording to codes, codes to recording."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.io import AudioWriter, stream_audio, stream_channels
from audiovae.audio.raw import RawReader, RawWriter
from audiovae.codes import CodeReader, Codes, CodeWriter
from audiovae.errors import AudioError, OutputError
from audiovae.level_codec import AnyCodec
from audiovae.parallel import ahead

LOOK_SECONDS = 30.0  # how far into a recording the voice that suits it best is looked for


class Recording:
    """A recording as pieces (n,), or (C, n), at a codec's rate, checked on the way: read once, constant memory.

    After the last piece ``samples`` is its length. Raises AudioError if it cannot be read, is shorter
    than one latent step, or is silent throughout.
    """

    def __init__(self, path: Path, codec: AnyCodec, channel: int | None = None):
        self.path, self.codec, self.channel = path, codec, channel
        self.samples = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.samples, peak = 0, 0.0
        for piece in self._pieces():
            self.samples += piece.shape[-1]
            peak = max(peak, float(piece.abs().max())) if piece.shape[-1] else peak
            yield piece
        if self.samples < self.codec.hop:
            raise AudioError(f"{self.path}: {self.samples} samples at {self.codec.sample_rate} Hz are shorter than "
                             f"one latent step ({self.codec.hop}).")
        if peak == 0:
            raise AudioError(f"{self.path}: silent, every sample is 0.")

    def _pieces(self) -> Iterator[Tensor]:
        if self.codec.channels > 1 and self.channel is None:
            return stream_channels(self.path, self.codec.channels, self.codec.sample_rate)
        pieces = stream_audio(self.path, self.codec.sample_rate, "mix" if self.channel is None else self.channel)
        return (piece.expand(self.codec.channels, -1) for piece in pieces) if self.codec.channels > 1 else pieces


def encode_stream(codec: AnyCodec, source: RawReader | Recording, target: Path | BinaryIO,
                  speaker: str | None = None) -> None:
    """Encode a recording to a code file as it comes; to an open file a packet for each block, as soon as it is there.

    A code waits for the rest of its block, ``codec.block`` steps, and for the encoder's halo.
    """
    _write(codec, codec.encode_blocks(source), source, target, speaker)


def decode_stream(codec: AnyCodec, source: Path | BinaryIO, writer: AudioWriter | RawWriter,
                  speaker: str | None = None, level: int | None = None) -> str | None:
    """Decode a code file as it comes, from one ``level`` if the model can; the speaker it was decoded for."""
    with CodeReader(source, codec.prior) as reader:
        reader.header.check_fingerprint(codec.fingerprint)
        speaker = speaker or reader.header.label
        for piece in codec.decode_blocks(reader, lambda: reader.num_samples, speaker, reader.header.hops, level):
            writer.write(piece)
        return speaker


def encode_file(codec: AnyCodec, source: Path, target: Path, speaker: str | None = None,
                channel: int | None = None) -> str:
    """Encode a recording to a code file (.codes, .npz or .npy by suffix); a sentence on what was written."""
    if target.suffix not in (".codes", ".npz", ".npy"):
        raise OutputError(f"{target}: codes are written as .codes, .npz or .npy, not as '{target.suffix}'.")
    recording = Recording(source, codec, channel)
    for _, pieces in ahead([(source, recording)]):
        speaker = write_codes(codec, recording, pieces, target, speaker)
    return sentence(target, recording.samples, codec, speaker)


def write_codes(codec: AnyCodec, recording: Recording, pieces: Iterable[Tensor], target: Path,
                speaker: str | None = None) -> str | None:
    """Write the codes of ``pieces``, which ``recording`` gives, to a code file; the voice that decodes it."""
    speaker, blocks = encode_pieces(codec, pieces, speaker)
    if target.suffix in (".npz", ".npy"):
        codec.codes(blocks, lambda: recording.samples, speaker).export(target)
    else:
        _write(codec, blocks, recording, target, speaker)
    return speaker


def encode_pieces(codec: AnyCodec, pieces: Iterable[Tensor], speaker: str | None = None
                  ) -> tuple[str | None, Iterator[tuple[np.ndarray, ...]]]:
    """The voice that decodes a recording (unless told, the one most like its first half minute), and its codes."""
    if speaker is None and codec.speakers:
        pieces, first, left = iter(pieces), [], LOOK_SECONDS * codec.sample_rate
        while left > 0 and (piece := next(pieces, None)) is not None:
            first.append(piece)
            left -= piece.shape[-1]
        speaker, pieces = codec.closest_speaker(torch.cat(first, dim=-1)), chain(first, pieces)
    return speaker, codec.encode_blocks(pieces)


def decode_file(codec: AnyCodec, source: Path, target: Path, speaker: str | None = None, start: float = 0.0,
                stop: float | None = None, level: int | None = None) -> str:
    """Decode a code file (.codes or .npz), or its part in seconds, to a recording; a sentence on what was written."""
    with AudioWriter(target, codec.sample_rate, codec.channels) as writer:
        speaker = decode_to(codec, source, writer, speaker, start, stop, level)
    return sentence(target, writer.frames, codec, speaker)


def decode_to(codec: AnyCodec, source: Path, writer: AudioWriter | RawWriter, speaker: str | None = None,
              start: float = 0.0, stop: float | None = None, level: int | None = None) -> str | None:
    """Decode a code file, or its part, into a writer; the speaker. A part or an .npz holds all codes in memory."""
    if source.suffix != ".npz" and not start and stop is None:
        return decode_stream(codec, source, writer, speaker, level)
    codes = Codes.load(source, codec.prior)
    writer.write(codec.decode(codes, speaker, start, stop, level))
    return speaker or codes.label


def sentence(target: Path, samples: int, codec: AnyCodec, speaker: str | None) -> str:
    """What was written where, as a command says it at its end."""
    voice = f" in the voice of {speaker}" if speaker else ""
    return f"{target}: {samples / codec.sample_rate:.2f} s{voice}."


def _write(codec: AnyCodec, blocks: Iterable[tuple[np.ndarray, ...]], source: RawReader | Recording,
           target: Path | BinaryIO, speaker: str | None) -> None:
    """Blocks of codes to a code file, each handed on at once where it is an open one; ``source`` tells the length."""
    with CodeWriter(target, codec.header(speaker), codec.prior) as writer:
        for block in blocks:
            writer.write(block)
            if not isinstance(target, Path):
                writer.flush()
        writer.finish(source.samples)
