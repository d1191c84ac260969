"""Whole files through a codec, in constant memory: recording to codes, codes to recording."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.io import AudioWriter, stream_audio, write_audio
from audiovae.codec import Codec
from audiovae.codes import CodeReader, Codes, CodeWriter
from audiovae.errors import AudioError, OutputError
from audiovae.parallel import ahead

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


def encode_file(codec: Codec, source: Path, target: Path, speaker: str | None = None,
                channel: int | None = None) -> str:
    """Encode a recording to a code file (.codes, .npz or .npy by suffix); a sentence on what was written."""
    if target.suffix not in (".codes", ".npz", ".npy"):
        raise OutputError(f"{target}: codes are written as .codes, .npz or .npy, not as '{target.suffix}'.")
    recording = Recording(source, codec, channel)
    for _, pieces in ahead([(source, recording)]):
        speaker = write_codes(codec, recording, pieces, target, speaker)
    return _sentence(target, recording.samples, codec, speaker)


def write_codes(codec: Codec, recording: Recording, pieces: Iterable[Tensor], target: Path,
                speaker: str | None = None) -> str | None:
    """Write the codes of ``pieces``, which ``recording`` gives, to a code file; the voice that decodes it."""
    speaker, blocks = encode_pieces(codec, pieces, speaker)
    if target.suffix in (".npz", ".npy"):
        codec.codes(blocks, lambda: recording.samples, speaker).export(target)
    else:
        with CodeWriter(target, codec.header(speaker), codec.prior) as writer:
            for block in blocks:
                writer.write((block,))
            writer.finish(recording.samples)
    return speaker


def encode_pieces(codec: Codec, pieces: Iterable[Tensor], speaker: str | None = None
                  ) -> tuple[str | None, Iterator[np.ndarray]]:
    """The voice that decodes a recording (unless told, the one most like its first half minute), and its codes."""
    if speaker is None and codec.speakers:
        pieces, first = iter(pieces), []
        while sum(map(len, first)) < LOOK_SECONDS * codec.sample_rate and (piece := next(pieces, None)) is not None:
            first.append(piece)
        speaker, pieces = codec.closest_speaker(torch.cat(first)), chain(first, pieces)
    return speaker, codec.encode_stream(pieces)


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
