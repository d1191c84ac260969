"""Voice conversion: the codes keep what was said, the decoder is told who is to say it."""

from pathlib import Path

import numpy as np
from torch import Tensor

from audiovae.audio.io import AudioWriter
from audiovae.codec import Codec
from audiovae.errors import LabelError
from audiovae.transcode import Recording


def convert(codec: Codec, waveform: Tensor | np.ndarray, sample_rate: int, target: str) -> Tensor:
    """A waveform (T,) or (C, T) said in the voice of ``target``: (T',) at the codec's rate.

    Raises LabelError if the model does not know ``target`` or is not told who speaks; AudioError if the
    waveform cannot be encoded.
    """
    target = check_target(codec, target)
    return codec.decode(codec.encode(waveform, sample_rate, speaker=target))


def convert_file(codec: Codec, source: Path, target: Path, speaker: str, channel: int | None = None) -> str:
    """Convert a recording of any length, in constant memory; a sentence on what was written."""
    recording = Recording(source, codec, channel)
    with AudioWriter(target, codec.sample_rate) as writer:
        for piece in codec.decode_stream(codec.encode_stream(recording), lambda: recording.samples, speaker):
            writer.write(piece)
    return f"{target}: {recording.samples / codec.sample_rate:.2f} s in the voice of {speaker}."


def check_target(codec: Codec, target: str) -> str:
    """The target itself if the model can speak in that voice; LabelError saying why if it cannot."""
    if not codec.speakers:
        raise LabelError("this model's decoder is not told who speaks, so it cannot convert: train one with "
                         "model.condition_dim set.")
    if target not in codec.speakers and Path(target).exists():
        raise LabelError(f"{target} is a recording, but this model knows its {len(codec.speakers)} training "
                         f"speakers by name only: name one of them, as {codec.speakers[0]}.")
    codec.check(target)
    return target
