"""A recording through the codes of its spectrogram: the top level kept, those below drawn anew, all of it to hear.

    FOLDER/upsampled-01 recording.wav ...   the recording and what becomes of it
    FOLDER/upsampled.html, .png, .json      a page with players, the spectrograms, how far each is from the recording
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from audiovae.audio.io import read_audio
from audiovae.audio.reader import SILENCE
from audiovae.audio.spectrogram import decibels, joined, pictures_of, sound_of, unit_log_mel
from audiovae.errors import AudioError, ConfigError
from audiovae.files import atomic_folder
from audiovae.gallery.exhibit import Exhibit
from audiovae.generate import PriorFile, Request, check_minutes
from audiovae.models import Model
from audiovae.picture_samples import decode, draw_codes, model_label
from audiovae.report import Report, Table, draw_pictures, draw_spectrograms
from audiovae.shapes import Condition, MelSpec

SHOWN, PANELS = 8, 5  # pictures of each version on the page, and spectrograms of sound


@dataclass(frozen=True)
class Version:
    """What became of a recording: its pictures (N, 1, M, L), and their sound (T,)."""

    pictures: Tensor
    sound: Tensor


def read_recording(path: Path, model: Model, minutes: float | None = None) -> Tensor:
    """A recording, or its beginning, as a waveform (1, T) of one channel at the rate of the model's spectrograms.

    Raises AudioError as reading does, or where it is silent or shorter than one picture; ConfigError where the model is
    not of spectrograms, or on minutes that are none or more than a day.
    """
    spec, frames = spectrograms_of(model)
    if minutes is not None:
        check_minutes(minutes)
    wave, rate = read_audio(path, spec.sample_rate)
    wave = wave[:, :None if minutes is None else round(60 * minutes * rate)]
    least = frames * spec.hop
    if wave.shape[1] < least:
        raise AudioError(f"{path}: {wave.shape[1] / rate:.2f} s are shorter than one picture of {frames} frames "
                         f"({least / rate:.2f} s at {rate} Hz): take a longer recording.")
    if float(wave.abs().max()) < SILENCE:
        raise AudioError(f"{path} is silent, all of it below -80 dB of full scale: take one with sound.")
    return wave


def spectrograms_of(model: Model) -> tuple[MelSpec, int]:
    """What a model's pictures are spectrograms of, and their frames; ConfigError where they are none."""
    if model.data.mel is None or model.data.size is None:
        raise ConfigError("--upsample of priors over pictures wants a model of spectrograms (data.kind "
                          "\"spectrogram\"), this one is of pictures: leave it out.")
    return model.data.mel, model.data.size[-1]


@torch.no_grad()
def upsampled(priors: Sequence[PriorFile], model: Model, wave: Tensor, request: Request,
              progress: Callable[[int], object] | None = None) -> dict[str, Version]:
    """What becomes of a waveform (1, T), by name: by way of its spectrogram, of all codes, of the top's alone, and
    with the codes below the top drawn anew, ``request.count`` times.

    Each picture of the recording is drawn by itself. Raises ConfigError where no level is left to draw.
    """
    if len(priors) < 2:
        raise ConfigError("--upsample keeps the top's codes and draws those below: name a prior for a level below too.")
    spec, frames = spectrograms_of(model)
    top, label = priors[0].codes.level, model_label(model, request.label)
    x = pictures_of(wave, spec, frames)
    told = Condition(None if label is None else torch.full((len(x),), label))
    codes = model.encode_levels(x, told)  # type: ignore[operator] - a prior is over the codes of some model
    kept, each = {top: codes[top]}, replace(request, count=len(x))
    pictures = {"spectrogram": x, "all codes": decode(model, dict(enumerate(codes)), label),
                "top alone": decode(model, kept, label)}
    for n in range(request.count):
        drawn = draw_codes(priors, each, kept, again=n, progress=progress)
        pictures[f"drawn anew {n + 1}"] = decode(model, drawn, label)
    sounds = {name: sound_of(joined(its), spec, request.seed)[0, 0, :wave.shape[1]].clamp(-1, 1)
              for name, its in pictures.items()}
    return {"recording": Version(x, wave[0]), **{name: Version(pictures[name], sounds[name]) for name in pictures}}


def distances(versions: dict[str, Version], spec: MelSpec) -> Table:
    """How far each version is from the recording: the mean difference of log-mel values, in dB, sign left out.

    picture : of its pictures, which the codes make. sound : of its sound, which phase that does not fit adds to.
    """
    mel = unit_log_mel(spec)
    wanted = mel(versions["recording"].sound[None, None]).clamp(0, 1)

    def far(value: Tensor) -> float:
        return decibels(spec) * float((value[..., :wanted.shape[2]].clamp(0, 1) - wanted).abs().mean())

    return Table(("version", "picture, dB", "sound, dB"),
                 [(name, far(joined(its.pictures)[0]), far(mel(its.sound[None, None])))
                  for name, its in versions.items() if name != "recording"])


def exhibit_of(versions: dict[str, Version], spec: MelSpec, sentence: str) -> Exhibit:
    """The versions as players, as spectrograms of their sound and as the model's pictures, with their distances."""
    rows = {name: its.pictures[:SHOWN].flip(2) for name, its in versions.items() if name != "recording"}
    some = {name: its.sound for name, its in list(versions.items())[:PANELS]}
    figures = {"Spectrograms of the sounds": draw_spectrograms(some, spec.sample_rate),
               "The first log-mel pictures, low bands below": draw_pictures(list(rows.values()), list(rows))}
    return Exhibit("upsampled", "The same top, other codes below", sentence, figures,
                   {name: its.sound for name, its in versions.items()},
                   {"Distance from the recording": distances(versions, spec)}, spec.sample_rate)


def write_versions(folder: Path, exhibit: Exhibit) -> list[str]:
    """The exhibit's files and its page, whole or not at all; their names. OutputError where the folder is there."""
    report = Report("A recording drawn anew")
    exhibit.put_on(report)
    with atomic_folder(folder) as temporary:
        names = [path.name for path in exhibit.write(temporary)]
        report.write(temporary / "upsampled.html")
    return names
