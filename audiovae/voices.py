"""Any voice: heard in recordings, kept as a small file, and spoken in by a model with a reference encoder."""

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from audiovae.audio.io import stream_audio
from audiovae.audio.pitch import level, prosody
from audiovae.checkpoint import fingerprint, write_tensors
from audiovae.codec import Codec
from audiovae.equalisation import is_loud, long_term_spectrum
from audiovae.errors import CheckpointError, VoiceError
from audiovae.files import atomic_file
from audiovae.models import Autoencoder
from audiovae.reference import ReferenceEncoder
from audiovae.source_filter import SourceFilterDecoder

SUFFIX = ".voice"
LEAST = 0.5  # s of voiced speech that a voice is heard from
MOST = 120.0  # s of reference that are read: a vector says no more after that
FORMAT = 4
SILENCE = -90.0  # dB, half a step of 16 bits: nobody speaks there


@dataclass(frozen=True)
class Voice:
    """A voice that a model can speak in.

    vector : (E,), what the model's reference encoder made of it.
    spectrum : (F,), its long-term spectrum, mean ln power of loud frames.
    pitch, spread : mean and standard deviation of ln Hz over voiced frames.
    seconds : of recordings it was heard in.
    model : the fingerprint of the model, which alone can use it.
    hidden : (D, N) in half precision, what the encoder gave for the recordings: the latents that they stand for are
        those to which :mod:`audiovae.retrieval` draws.
    loud : (N,) bool, which of them are speech and no pause, to which :mod:`audiovae.transport` brings others.
    weights : of the decoder, where the voice was enrolled: by name, what is added to the model's own.
    """

    vector: Tensor
    spectrum: Tensor
    pitch: float
    spread: float
    seconds: float
    model: str
    hidden: Tensor
    loud: Tensor
    weights: dict[str, Tensor] | None = None

    @property
    def hertz(self) -> float:
        """The middle of its pitch."""
        return math.exp(self.pitch)

    def save(self, path: Path) -> None:
        """Write it to one file, safetensors with half precision for the weights, whole or not at all."""
        tensors = {"vector": self.vector, "spectrum": self.spectrum, "hidden": self.hidden, "loud": self.loud}
        tensors |= {f"weights/{name}": value.half() for name, value in (self.weights or {}).items()}
        told = {"format": FORMAT, "pitch": self.pitch, "spread": self.spread, "seconds": self.seconds,
                "model": self.model}
        with atomic_file(path) as temporary:
            write_tensors(temporary, tensors, {"voice": json.dumps(told)})

    @classmethod
    def load(cls, path: Path) -> "Voice":
        """Read what :meth:`save` wrote; VoiceError where it is no voice."""
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["voice"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (written := told.pop("format")) != FORMAT:
                remedy = "upgrade audiovae" if written > FORMAT else "enroll it again"
                raise VoiceError(f"{path} was written by {'a newer' if written > FORMAT else 'an older'} audiovae: "
                                 f"{remedy}.")
            weights = {n.removeprefix("weights/"): v.float() for n, v in tensors.items() if n.startswith("weights/")}
            return cls(tensors["vector"], tensors["spectrum"], hidden=tensors["hidden"], loud=tensors["loud"],
                       weights=weights or None, **told)
        except VoiceError:
            raise
        except FileNotFoundError:
            raise VoiceError(f"{path} is missing: check the path, or make it with `audiovae enroll`.") from None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise VoiceError(f"{path} is not a whole voice file ({type(error).__name__}): make one with "
                             "`audiovae enroll`.") from None


def hear(model: Autoencoder, recordings: Iterable[Tensor]) -> Voice:
    """The voice in recordings (T,) each, at the model's rate. VoiceError where there is too little speech."""
    reference = check_voice_model(model)
    rate = model.data.sample_rate or 0
    waves, seconds = [], 0.0
    for wave in recordings:
        waves.append(wave[:round((MOST - seconds) * rate)])
        seconds += len(waves[-1]) / rate
        if seconds >= MOST:
            break
    joined = torch.cat(waves) if waves else torch.zeros(0)
    if not len(joined) or not bool(joined.any()):
        raise VoiceError("the recordings of the target hold no sound: give some of it speaking.")
    melody = prosody(joined, rate, model.data.prosody)
    check_speech("the recordings of the target", float(melody.voiced.sum()) * model.data.prosody / rate, seconds,
                 "give 5 s of speech or more")
    pitch, spread = melody.statistics()
    with torch.no_grad():
        vector = reference.vector(joined[None, None])[0]
        spectrum, _ = long_term_spectrum(joined, model.decoder.stft)  # type: ignore[union-attr]
    codec = Codec(model)
    whole = [wave for wave in waves if len(wave) >= codec.hop]
    if not whole:
        raise VoiceError("the recordings of the target are all shorter than one latent step: give longer ones.")
    # apart: where two were joined there would be no speech
    blocks = chain.from_iterable(codec.encode_stream([wave], Tensor.half) for wave in whole)
    hidden = torch.from_numpy(np.concatenate(list(blocks), axis=1))
    loud = torch.cat([loud_steps(level(wave, codec.hop)) for wave in whole])
    return Voice(vector, spectrum, pitch, spread, seconds, codec.fingerprint, hidden, loud)


def loud_steps(levels: Tensor) -> Tensor:
    """Which steps of a recording, by their levels (N,) in dB, are speech and no pause; none where all is silent.

    >>> loud_steps(torch.tensor([-20.0, -60.0, -30.0])).tolist(), loud_steps(torch.full((2,), -120.0)).tolist()
    ([True, False, True], [False, False])
    """
    return is_loud(levels) & (levels > SILENCE)


def check_speech(owner: str, voiced: float, seconds: float, remedy: str) -> None:
    """VoiceError where there are too few seconds of voiced speech to tell a voice from."""
    if voiced < LEAST:
        raise VoiceError(f"{voiced:.1f} s of voiced speech in {seconds:.1f} s of {owner}, too "
                         f"little to tell a voice from: {remedy}.")


def load_voice(model: Autoencoder, path: Path) -> Voice:
    """The voice of a file; VoiceError where it is none, or another model's."""
    voice, own = Voice.load(path), fingerprint(model)
    if voice.model != own:
        raise VoiceError(f"{path} is a voice of another model ({voice.model}), this one is {own}: enroll it again.")
    if voice.weights and set(voice.weights) != {name for name, _ in model.decoder.named_parameters()}:
        raise VoiceError(f"{path} lacks some of the weights of a voice: enroll it again.")
    return voice


def read_recordings(model: Autoencoder, paths: Iterable[Path]) -> Iterable[Tensor]:
    """Whole recordings (T,) at the model's rate, mixed to mono."""
    for path in paths:
        yield torch.cat(list(stream_audio(path, model.data.sample_rate or 0)))


def check_voice_model(model: object) -> ReferenceEncoder:
    """The reference encoder of a model that speaks in any voice; CheckpointError where it cannot."""
    if not is_voice_model(model):
        raise CheckpointError("this model has no reference encoder, so it cannot speak in a voice it hears: train one "
                              "as recipes/vctk_conversion/voice.toml does, or leave --model out.")
    return model.embedding  # type: ignore[return-value]  # is_voice_model has looked


def is_voice_model(model: object) -> TypeGuard[Autoencoder]:
    """Whether a model speaks in any voice it hears."""
    return (isinstance(model, Autoencoder) and isinstance(model.embedding, ReferenceEncoder)
            and isinstance(model.decoder, SourceFilterDecoder))


def decoder_of(model: Autoencoder, voice: Voice) -> SourceFilterDecoder:
    """The decoder that speaks in ``voice``: the model's own, or a copy with the weights that enrolment added."""
    decoder = model.decoder
    assert isinstance(decoder, SourceFilterDecoder)
    if not voice.weights:
        return decoder
    decoder = copy.deepcopy(decoder)
    for name, value in decoder.named_parameters():
        value.data += voice.weights[name]
    return decoder
