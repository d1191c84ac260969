"""Voice conversion: the codes keep what was said, the decoder is told who is to say it.

Two kinds of models do it. A codec whose decoder is told a training speaker by name needs no more than codes. A model
with a reference encoder speaks in any voice it hears: its codes are joined by the source's pitch, moved to where the
target's lies, and its level.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.excitation import Excitation
from audiovae.audio.io import AudioWriter
from audiovae.audio.pitch import Prosody, prosody_of_stream
from audiovae.audio.resample import resample, resampled
from audiovae.audio.waveform import mono
from audiovae.blocks import decoder_halo, windows
from audiovae.checkpoint import fingerprint, load_model
from audiovae.codec import BLOCK, Codec
from audiovae.errors import LabelError, VoiceError
from audiovae.models import Model
from audiovae.transcode import Recording
from audiovae.voices import Voice, check_voice_model, decoder_of, hear, told

DEFAULT = "voice-16k"
TAG = "converted voice, made with audiovae: not a recording of the person it sounds like"
Melody = Literal["target", "source"] | float
WIDER = 1.5  # the most that the target's range of pitch may be wider, or narrower, than the source's


class Converter:
    """A model with a reference encoder, for recordings of any length in constant memory.

    What is kept of a whole recording are its codes and its pitch and level, a fiftieth of the samples; the voice is
    made in blocks, with the halo that the receptive field asks for, so that chunked = whole.

    Parameters
    ----------
    model : as ``recipes/vctk_conversion/voice.toml`` trains it.
    kbps : the most kbit/s of its codes to use; fewer carry less of the source's voice, and of what it says.

    Raises CheckpointError on a model without a reference encoder.

    >>> from audiovae.models.example import voice_model
    >>> converter = Converter(voice_model())
    >>> from audiovae.audio.example import example_corpus
    >>> from audiovae.audio.corpus import Corpus
    >>> corpus = Corpus.open(example_corpus())
    >>> source, target = (torch.from_numpy(corpus.audio(u)) for u in corpus.all[:2])
    >>> said = converter.convert(source, corpus.sample_rate, converter.hear([target]))
    >>> len(said) == len(source)
    True
    """

    def __init__(self, model: Model, kbps: float | None = None):
        check_voice_model(model)
        self.codec = Codec(model, kbps)
        self.model = self.codec.model
        self.sample_rate, self.frame = self.codec.sample_rate, model.data.prosody
        self.fingerprint = fingerprint(model)

    @classmethod
    def from_pretrained(cls, path: str | Path = DEFAULT, kbps: float | None = None) -> "Converter":
        """Load a model as :meth:`Codec.from_pretrained` does."""
        return cls(load_model(path), kbps)

    def hear(self, recordings: Iterable[Tensor | np.ndarray], sample_rate: int | None = None) -> Voice:
        """The voice in recordings (T,) or (C, T); VoiceError where they hold too little speech."""
        rate = sample_rate or self.sample_rate
        return hear(self.model, (resample(mono(wave), rate, self.sample_rate) for wave in recordings))

    def convert(self, waveform: Tensor | np.ndarray, sample_rate: int, voice: Voice, melody: Melody = "target"
                ) -> Tensor:
        """A waveform (T,) or (C, T) said in ``voice``: (T',) at the model's rate.

        ``melody`` "target" moves the pitch to the target's mean and range, "source" keeps it, a number moves it by so
        many semitones. Raises AudioError on what :meth:`Codec.encode` refuses, VoiceError on another model's voice.
        """
        wave = resample(mono(waveform), sample_rate, self.sample_rate)
        pieces = wave.split(1 << 16)
        return torch.cat(list(self.stream(pieces, pieces, lambda: len(wave), voice, melody)))

    def stream(self, first: Iterable[Tensor], again: Iterable[Tensor], num_samples: Callable[[], int], voice: Voice,
               melody: Melody = "target") -> Iterator[Tensor]:
        """A recording that can be read twice, in pieces (n,), to pieces of what ``voice`` makes of it."""
        if voice.model != self.fingerprint:
            raise VoiceError(f"the voice is of another model ({voice.model}): this one is {self.fingerprint}.")
        found = prosody_of_stream(first, self.sample_rate, self.frame)
        codes = torch.from_numpy(np.concatenate(list(self.codec.encode_stream(again)), axis=1))
        sung = moved(found, voice, melody)
        per, total = self.codec.hop // self.frame, codes.shape[1]
        padded = sung.padded(total * per)
        melody_told, excitation = padded.tensor()[None], Excitation(padded.pitch, self.sample_rate, self.frame)
        decoder = decoder_of(self.model, voice)
        left = num_samples()
        for start, stop, low, high in windows(0, total, total, decoder_halo(self.codec.fields[1]), BLOCK):
            z = self.model.bottleneck.decode(codes[None, :, low:high])
            with torch.no_grad():
                params = decoder(z, *told(voice, melody_told[..., low * per:high * per],
                                          excitation(low * per, high * per)[None]))
                wave = self.model.likelihood.mean(params)[0, 0]
            piece = wave[(start - low) * self.codec.hop:(stop - low) * self.codec.hop][:left]
            left -= len(piece)
            yield piece

    def convert_file(self, source: Path, target: Path, voice: Voice, name: str, melody: Melody = "target",
                     channel: int | None = None, sample_rate: int | None = None) -> str:
        """Convert a recording of any length; a sentence on what was written.

        ``sample_rate`` is what to write, in Hz, None for the model's own. The file's comment says that the voice was
        converted.
        """
        recording = Recording(source, self.codec, channel)
        rate = sample_rate or self.sample_rate
        pieces = self.stream(recording, recording, lambda: recording.samples, voice, melody)
        with AudioWriter(target, rate, comment=TAG) as writer:
            for piece in resampled(pieces, self.sample_rate, rate):
                writer.write(piece)
        return f"{target}: {recording.samples / self.sample_rate:.2f} s in the voice of {name}."


def moved(source: Prosody, voice: Voice | None, melody: Melody) -> Prosody:
    """The melody that a voice is to have: moved to its mean and range, kept, or moved by semitones.

    >>> flat = Prosody(np.full(4, 100, np.float32), np.ones(4, bool), np.zeros(4, np.float32))
    >>> moved(flat, None, 12.0).pitch.round()
    array([200., 200., 200., 200.], dtype=float32)
    """
    if melody == "source" or not source.voiced.any():
        return source
    logs = np.log(np.maximum(source.pitch, 1))
    if melody == "target":
        assert voice is not None
        mean, spread = source.statistics()
        factor = min(max(voice.spread / max(spread, 1e-3), 1 / WIDER), WIDER)
        logs = voice.pitch + (logs - mean) * factor
    else:
        logs = logs + melody * np.log(2) / 12
    pitch = np.exp(np.clip(logs, np.log(50), np.log(800))).astype(np.float32)
    return Prosody(pitch, source.voiced, source.level)


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
    with AudioWriter(target, codec.sample_rate, comment=TAG) as writer:
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
