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
from audiovae.audio.io import CONVERTED, AudioWriter
from audiovae.audio.pitch import Prosody, ProsodyInPassing
from audiovae.audio.psola import repitched
from audiovae.audio.resample import resample, resampled
from audiovae.audio.scroll import Scroll
from audiovae.audio.waveform import mono
from audiovae.blocks import decoder_halo, windows
from audiovae.checkpoint import load_model
from audiovae.codec import BLOCK, Codec
from audiovae.differential import DifferentialFilter, Sayer, Speaker
from audiovae.equalisation import equalised, is_loud, long_term_spectrum
from audiovae.errors import AudioError, ConfigError, LabelError, VoiceError
from audiovae.models import Model
from audiovae.retrieval import Kept, Latents, check_share
from audiovae.shapes import Condition
from audiovae.source_filter import SourceFilterDecoder
from audiovae.transcode import Recording
from audiovae.voices import LEAST, MOST, Voice, check_speech, check_voice_model, decoder_of, hear, loud_steps

DEFAULT = "voice-16k"
Melody = Literal["target", "source"] | float
Mode = Literal["clear", "latents", "codes"]
SAMPLE = 1000  # latent steps, 20 s, by which it is told how a decoder speaks, and how loud
MODE: Mode = "clear"
PASSES = 1
RETRIEVAL = 0.0  # besides transport it brings .004 of likeness for .02 of word errors
LIKENESS = 1.0
WIDER = 1.5  # the most that the target's range of pitch may be wider, or narrower, than the source's


class Converter:
    """A model with a reference encoder, for recordings of any length.

    What is kept of a whole recording are its pitch and level, and its latents, of a long one in a temporary file; the
    voice is made in blocks, with the halo that the receptive field asks for, so that chunked = whole. It is made from
    the latents, or (mode "clear") by a filter on the recording, which keeps more of how clear it is, and of its own
    voice.

    Parameters
    ----------
    model : as ``recipes/vctk_conversion/voice.toml`` trains it.
    kbps : the most kbit/s of codes that latents are rounded to: fewer carry less of the source's voice, and of what it
        says. None rounds them in mode "codes" alone, to all codes there are.

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
        self.codec, self.coded = Codec(model, kbps), kbps is not None
        self.model = self.codec.model
        self.sample_rate, self.frame = self.codec.sample_rate, model.data.prosody

    @classmethod
    def from_pretrained(cls, path: str | Path = DEFAULT, kbps: float | None = None) -> "Converter":
        """Load a model as :meth:`Codec.from_pretrained` does."""
        return cls(load_model(path), kbps)

    def hear(self, recordings: Iterable[Tensor | np.ndarray], sample_rate: int | None = None) -> Voice:
        """The voice in recordings (T,) or (C, T); VoiceError where they hold too little speech, AudioError on NaN."""
        rate = sample_rate or self.sample_rate
        return hear(self.model, (self._taken("hear", wave, rate) for wave in recordings))

    def convert(self, waveform: Tensor | np.ndarray, sample_rate: int, voice: Voice, melody: Melody = "target",
                mode: Mode = MODE, passes: int = PASSES, retrieval: float = RETRIEVAL, transport: bool = True,
                likeness: float = LIKENESS) -> Tensor:
        """A waveform (T,) or (C, T) said in ``voice``: (T',) at the model's rate.

        ``mode`` "latents" speaks anew what the encoder heard, nearest to the target's voice; "codes" the same once it
        is rounded to codes; "clear" filters the recording, with a ``likeness`` of 0 by what lies between the two voices
        alone, of 1 until it is as the decoder would say it. ``melody`` "target" moves the pitch to the target's mean
        and range, "source" keeps it, a number moves it by so many semitones. Where the decoder speaks, it is heard and
        said ``passes`` times in all: each leaves less of the source's voice, and of its words (what SelfVC trains on,
        Neekhara 2023, used once more). To the same end latents are brought to where the target's own lie
        (``transport``, :mod:`audiovae.transport`), then drawn by the share ``retrieval`` towards those nearest among
        them (:func:`audiovae.retrieval.retrieved`).

        Raises AudioError on what :meth:`Codec.encode` refuses, VoiceError on another model's voice and, in mode
        "clear" with a likeness below 1, on a recording whose own voice cannot be told because hardly anybody speaks in
        it; ConfigError on what :func:`check_passes` and :func:`check_coded` refuse, or a share or a likeness that is
        not from 0 to 1.
        """
        wave = self._taken("convert", waveform, sample_rate)
        if len(wave) < self.codec.hop:
            raise AudioError(f"Converter.convert: {len(wave)} samples at {self.sample_rate} Hz are shorter than one "
                             f"latent step ({self.codec.hop}).")
        pieces = wave.split(1 << 16)
        return torch.cat(list(self.stream(pieces, pieces, lambda: len(wave), voice, melody, mode, passes, retrieval,
                                          transport, likeness)))

    def _taken(self, method: str, waveform: Tensor | np.ndarray, sample_rate: int) -> Tensor:
        """A waveform as the model takes it, (T,); AudioError where its samples are not finite."""
        wave = mono(waveform)
        if not bool(wave.isfinite().all()):
            raise AudioError(f"Converter.{method}: the waveform has NaN or infinite samples.")
        return resample(wave, sample_rate, self.sample_rate)

    def stream(self, first: Iterable[Tensor], again: Iterable[Tensor], num_samples: Callable[[], int], voice: Voice,
               melody: Melody = "target", mode: Mode = MODE, passes: int = PASSES, retrieval: float = RETRIEVAL,
               transport: bool = True, likeness: float = LIKENESS) -> Iterator[Tensor]:
        """A recording in pieces (n,) to pieces of what ``voice`` makes of it.

        It is read as ``first``, and in mode "clear" as ``again``.
        """
        check_passes(passes, mode)
        check_coded(self.coded, mode)
        check_share(retrieval)
        check_share(likeness, "likeness")
        if voice.model != self.codec.fingerprint:
            raise VoiceError(f"the voice is of another model ({voice.model}): this one is {self.codec.fingerprint}.")
        opening = Opening(first, round(MOST * self.sample_rate) if mode == "clear" else 0)
        found, heard = self._heard(opening, voice, retrieval, transport, mode)
        per = self.codec.hop // self.frame
        sung = moved(found, voice, melody)
        halo = decoder_halo(self.codec.fields[1])
        if mode == "clear":
            say = self._filtered(opening.heard(), again, voice, found, sung, heard, likeness)
            halo = (halo[0] + -(-say.halo // per), halo[1] + -(-say.halo // per))
        else:
            say = self._spoken(voice, sung, heard)
            for _ in range(passes - 1):
                found, heard = self._heard(self._said(say, heard, halo), voice, retrieval, transport, mode)
                say = self._spoken(voice, moved(found, voice, "target" if melody == "target" else "source"), heard)
        rest = num_samples()
        for piece in self._said(say, heard, halo):
            yield piece[:rest]
            rest -= len(piece)

    def _heard(self, pieces: Iterable[Tensor], voice: Voice, retrieval: float, transport: bool, mode: Mode
               ) -> tuple[Prosody, Latents]:
        """The prosody of samples in pieces (n,), and their latents, brought to the voice's."""
        passing, bottleneck = ProsodyInPassing(pieces, self.sample_rate, self.frame), self.model.bottleneck
        rounded = self.coded or mode == "codes"
        read = (lambda h: bottleneck.decode(self.codec.quantize(h))) if rounded else bottleneck.continuous
        own, bank = Kept(self.codec.encode_stream(passing, read)), read(voice.hidden[None].float())[0]
        per = self.codec.hop // self.frame
        found = passing.found().padded(len(own) * per)
        power = 10 ** (torch.from_numpy(found.level) / 10)
        loud = loud_steps(10 * power.view(-1, per).mean(1).log10())
        return found, Latents(own, bank, retrieval, (loud, voice.loud) if transport else None, mode == "clear")

    def _said(self, say: Sayer, heard: Latents, halo: tuple[int, int]) -> Iterator[Tensor]:
        """What ``say`` makes of latents, in pieces (n,) of whole latent steps."""
        hop, per, total = self.codec.hop, self.codec.hop // self.frame, len(heard)
        for start, stop, low, high in windows(0, total, total, halo, BLOCK):
            with torch.no_grad():
                wave = say(heard(low, high), low * per, high * per)
            yield wave[(start - low) * hop:(stop - low) * hop]

    def _spoken(self, voice: Voice, sung: Prosody, heard: Latents) -> Sayer:
        """What speaks by the decoder alone, on the whole as loud as the source."""
        decoder, (z, first, last) = self._speaker(voice, sung, heard), self._sample(sung, heard)
        say = self._sayer(decoder, voice.vector, sung)
        level = torch.from_numpy(sung.level[first:last]).double()
        loud = is_loud(level)  # a decoder may be at its own level in pauses
        with torch.no_grad():
            power = say(z, first, last).double().view(len(level), -1).square().mean(1)
        gain = float((10 ** (level[loud] / 10)).mean() / power[loud].mean().clamp(min=1e-12)) ** 0.5
        return lambda z, first, last: gain * say(z, first, last)

    def _filtered(self, opening: Tensor, recording: Iterable[Tensor], voice: Voice, found: Prosody, sung: Prosody,
                  heard: Latents, likeness: float) -> DifferentialFilter:
        """The same, by a filter on the recording, whose own voice is that of its ``opening`` (T,)."""
        wave = Scroll(repitched(recording, found, sung.pitch, self.sample_rate, self.frame), behind=0)
        other = Speaker(self._speaker(voice, sung, heard), voice.vector, sung)
        voiced = float(found.voiced[:len(opening) // self.frame].sum()) * self.frame / self.sample_rate
        if likeness < 1:
            check_speech("the recording", voiced, len(opening) / self.sample_rate, "convert it in mode latents, with a "
                         "likeness of 1, or give 5 s of speech or more")
        own = self._own(opening, found, heard) if voiced >= LEAST else None
        return DifferentialFilter(own, other, found.level, wave, self.sample_rate,
                                  self._spoken(voice, sung, heard) if likeness else None, likeness)

    def _own(self, opening: Tensor, melody: Prosody, heard: Latents) -> Speaker:
        """The voice that a recording is in, by its ``opening`` (T,)."""
        decoder, (z, first, last) = self.model.decoder, self._sample(melody, heard)
        assert isinstance(decoder, SourceFilterDecoder)
        with torch.no_grad():
            vector = check_voice_model(self.model).vector(opening[None, None])[0]
            spectrum, _ = long_term_spectrum(opening, decoder.stft)
        return Speaker(self._equalised(vector, spectrum, decoder, melody, (z[:1], first, last)), vector, melody)

    def _speaker(self, voice: Voice, sung: Prosody, heard: Latents) -> SourceFilterDecoder:
        """The decoder that speaks as a voice does, brought to its long-term spectrum."""
        return self._equalised(voice.vector, voice.spectrum, decoder_of(self.model, voice), sung,
                               self._sample(sung, heard))

    def _equalised(self, vector: Tensor, spectrum: Tensor, decoder: SourceFilterDecoder, melody: Prosody,
                   sample: tuple[Tensor, int, int]) -> SourceFilterDecoder:
        """A decoder brought to a long-term spectrum, by how it says a sample of the latents."""
        with torch.no_grad():
            said = self._sayer(decoder, vector, melody)(*sample)
            return equalised(decoder, said, spectrum, self.sample_rate)

    def _sample(self, melody: Prosody, heard: Latents) -> tuple[Tensor, int, int]:
        """The latents of at most SAMPLE steps, those with the most voiced frames, and the first and last of these."""
        per, size = self.codec.hop // self.frame, min(SAMPLE, len(heard))
        starts = range(0, len(heard) - size, SAMPLE // 2)
        start = max((*starts, len(heard) - size), key=lambda at: melody.voiced[at * per:(at + size) * per].sum())
        return heard(start, start + size), start * per, (start + size) * per

    def _sayer(self, decoder: SourceFilterDecoder, vector: Tensor, melody: Prosody) -> Sayer:
        rows, excitation = melody.tensor()[None], Excitation(melody.pitch, self.sample_rate, self.frame)

        def say(z: Tensor, first: int, last: int) -> Tensor:
            its = Condition(prosody=rows[..., first:last], excitation=excitation(first, last)[None])
            return self.model.likelihood.mean(decoder(z[-1:], vector[None], its))[0, 0]  # the last are the voice's

        return say

    def convert_file(self, source: Path, target: Path, voice: Voice, name: str, melody: Melody = "target",
                     channel: int | None = None, sample_rate: int | None = None, mode: Mode = MODE,
                     passes: int = PASSES, retrieval: float = RETRIEVAL, transport: bool = True,
                     likeness: float = LIKENESS) -> str:
        """Convert a recording of any length; a sentence on what was written.

        ``sample_rate`` is what to write, in Hz, None for the model's own. The file's comment says that the voice was
        converted.
        """
        recording = Recording(source, self.codec, channel)
        rate = sample_rate or self.sample_rate
        pieces = self.stream(recording, recording, lambda: recording.samples, voice, melody, mode, passes,
                             retrieval, transport, likeness)
        with AudioWriter(target, rate, comment=CONVERTED) as writer:
            try:
                for piece in resampled(pieces, self.sample_rate, rate):
                    writer.write(piece)
            except VoiceError as error:
                raise VoiceError(f"{source}: {error}") from None
        clipped = f" {writer.clipped} samples were beyond full scale." if writer.clipped else ""
        return f"{target}: {recording.samples / self.sample_rate:.2f} s in the voice of {name}.{clipped}"


class Opening:
    """Pieces (n,) passed on, of which the first ``size`` samples are kept."""

    def __init__(self, pieces: Iterable[Tensor], size: int):
        self.pieces, self.size = pieces, size
        self.kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        left = self.size
        for piece in self.pieces:
            if left > 0:
                self.kept.append(piece[:left])
                left -= len(piece)
            yield piece

    def heard(self) -> Tensor:
        return torch.cat(self.kept)


def check_passes(passes: int, mode: Mode) -> None:
    """ConfigError unless a recording can be said so many times: once at least, and in mode "clear" once at most."""
    if passes < 1:
        raise ConfigError(f"passes wants at least 1, got {passes}.")
    if passes > 1 and mode == "clear":
        raise ConfigError(f"mode clear filters the recording itself, once: {passes} passes want mode latents or codes.")


def check_coded(coded: bool, mode: Mode) -> None:
    """ConfigError where codes are asked for at a rate, and latents that are not rounded to them."""
    if coded and mode == "latents":
        raise ConfigError("mode latents does not round them to codes: leave kbps out, or take mode codes.")


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
    with AudioWriter(target, codec.sample_rate, comment=CONVERTED) as writer:
        for piece in codec.decode_stream(codec.encode_stream(recording), lambda: recording.samples, speaker):
            writer.write(piece)
    return f"{target}: {recording.samples / codec.sample_rate:.2f} s in the voice of {speaker}."


def check_target(codec: Codec, target: str) -> str:
    """The target itself if the model can speak in that voice; LabelError saying why if it cannot."""
    if not codec.speakers:
        raise LabelError("this model's decoder is not told who speaks, so it cannot convert: train one with "
                         "model.condition_dim set.")
    if target and target not in codec.speakers and Path(target).exists():
        raise LabelError(f"{target} is a file, but this model knows its {len(codec.speakers)} training "
                         f"speakers by name only: name one of them, as {codec.speakers[0]}.")
    codec.check(target)
    return target
