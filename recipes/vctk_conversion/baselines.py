"""Conversions of a list of trials by systems that learn nothing, for a model to be compared with, and by a model.

    python recipes/vctk_conversion/baselines.py runs/judge
    python recipes/vctk_conversion/baselines.py runs/judge --model runs/vctk --systems zero-shot enrolled
    python recipes/vctk_conversion/baselines.py runs/judge --model runs/small     # one that knows its speakers by name

copied: the source itself. world: WORLD's vocoder (Morise et al. 2016), pitch moved to the target's mean and range, the
spectral envelope warped to the target's formants and equalised to its mean. nearest: each log-mel frame replaced by the
target's most like it, then Griffin & Lim 1984. Each conversion is written to SYSTEM/TRIAL.wav in the list's folder;
what is there is not made again.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import librosa
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm
from trials import RATE, Trial, clear, ended, first, read_trials, recordings_in

from audiovae.audio.io import read_audio, write_audio
from audiovae.audio.resample import resample
from audiovae.checkpoint import load_model
from audiovae.codec import Codec
from audiovae.commands.arguments import Failures, report_failures
from audiovae.convert import LIKENESS, PASSES, RETRIEVAL, Converter, convert
from audiovae.enrolment import enroll
from audiovae.errors import AudioError, CheckpointError, ConfigError, CorpusError, LabelError, ShapeError, VoiceError
from audiovae.metrics import pitch_contour, pitch_moved, pitch_statistics
from audiovae.metrics.extra import extra
from audiovae.metrics.melody import STEP
from audiovae.models import Autoencoder, ConditionEmbedding, Model
from audiovae.shapes import Condition
from audiovae.voices import Voice, is_voice_model

Wave = NDArray[np.float64]
System = Callable[[Trial], Wave]
WARPS = np.exp(np.linspace(np.log(0.8), np.log(1.25), 31))  # of the frequency axis, from a child's to a large man's
FORMANTS = 5000.0  # Hz below which envelopes are compared to find the warp
N_FFT, HOP, MELS, ROUNDS = 1024, 200, 80, 60


def copied(trial: Trial) -> Wave:
    return heard(trial.source)


def world(trial: Trial) -> Wave:
    """Analysis, pitch and envelope changed, synthesis; by frames of 10 ms."""
    vocoder, source = extra("pyworld", "judges"), heard(trial.source)
    contour, envelope = analysed(source)
    references = [analysed(heard(path)) for path in trial.references]
    wanted = pitch_moved(contour, *pitch_statistics(np.concatenate([one for one, _ in references])))
    theirs = mean_envelope(np.concatenate([one for one, _ in references]), np.concatenate([e for _, e in references]))
    own = mean_envelope(contour, envelope)
    low = slice(0, round(FORMANTS / (RATE / 2) * len(own)))

    def shape(curve: Wave) -> Wave:
        return curve[low] - curve[low].mean()

    warp = min(WARPS, key=lambda a: float(((shape(warped(own, a)) - shape(theirs)) ** 2).sum()))
    changed = np.apply_along_axis(warped, 1, np.log(envelope), warp) + (theirs - warped(own, warp))
    times = np.arange(len(contour)) * STEP
    noise = vocoder.d4c(source, contour, times, RATE)
    made = vocoder.synthesize(wanted, np.exp(changed), noise, RATE, 1000 * STEP)
    return made[:len(source)]


def analysed(wave: Wave) -> tuple[Wave, Wave]:
    """Pitch (N,) Hz and spectral envelope (N, F) in power."""
    contour = pitch_contour(wave, RATE)  # type: ignore[arg-type]
    times = np.arange(len(contour)) * STEP
    return contour, extra("pyworld", "judges").cheaptrick(wave, contour, times, RATE)


def mean_envelope(contour: Wave, envelope: Wave) -> Wave:
    """Mean log envelope (F,) of the frames with a pitch, all brought to one level before."""
    logs = np.log(envelope[contour > 0])
    return (logs - logs.mean(1, keepdims=True)).mean(0)


def warped(curve: Wave, factor: float) -> Wave:
    """A curve over frequency (F,) whose formants lie ``factor`` times as high."""
    bins = np.arange(len(curve))
    return np.interp(bins / factor, bins, curve)


def nearest(trial: Trial) -> Wave:
    """Frames compared without each voice's mean, taken whole from the target."""
    source = heard(trial.source)
    mine, theirs = log_mel(source), np.concatenate([log_mel(heard(path)) for path in trial.references])
    level_mine, level_theirs = (torch.from_numpy(x - x.mean(0)) for x in (mine, theirs))
    distance = torch.cdist(level_mine, level_theirs)
    power = np.exp(theirs[distance.argmin(1).numpy()])
    spread = np.linalg.pinv(librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS))
    magnitude = np.sqrt(np.maximum(power @ spread.T, 1e-10)).T
    return librosa.griffinlim(magnitude, n_iter=ROUNDS, hop_length=HOP, n_fft=N_FFT, length=len(source), random_state=0)


def log_mel(wave: Wave) -> Wave:
    """(N, MELS)"""
    mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=N_FFT, hop_length=HOP, n_mels=MELS)
    return np.log(mel + 1e-6).T


def heard(path: str) -> Wave:
    return read_audio(path, RATE)[0][0].double().numpy()


BASELINES: dict[str, System] = {"copied": copied, "world": world, "nearest": nearest}
MODES = ("own", "zero-shot", "enrolled", "clear", "clear-enrolled")
NAMED = "named"
UNTOLD = ("copied", "own", NAMED)  # these hear no reference


class ByModel:
    """Conversion by a trained model, in one of MODES: the source in its own voice, heard in all there is of it; in
    the target's, heard in the references; in the target's, enrolled on the references; both of these as filters on the
    source. With --kbps from codes."""

    def __init__(self, model: Model, arguments: "Arguments"):
        self.converter, self.arguments = Converter(model, arguments.kbps), arguments
        self.enrolled: dict[tuple[str, ...], Voice] = {}

    def __call__(self, trial: Trial, mode: str) -> Wave:
        source, spoken = self.heard(trial.source), "latents" if self.arguments.kbps is None else "codes"
        said = self.converter.convert(
            source, self.converter.sample_rate, self.voice(trial, mode), "source" if mode == "own" else "target",
            "clear" if mode.startswith("clear") else spoken, self.arguments.passes, self.arguments.retrieval,
            self.arguments.transport, self.arguments.likeness)
        return resample(said, self.converter.sample_rate, RATE).numpy()

    def voice(self, trial: Trial, mode: str) -> Voice:
        if mode == "own":
            return self.converter.hear([self.heard(path) for path in (trial.source, *trial.source_kept)])
        references, key = [self.heard(path) for path in trial.references], tuple(trial.references)
        if not mode.endswith("enrolled"):
            return self.converter.hear(references)
        if key not in self.enrolled:
            self.enrolled[key] = enroll(self.converter.model, references)
        return self.enrolled[key]

    def heard(self, path: str) -> torch.Tensor:
        return read_audio(path, self.converter.sample_rate)[0].mean(0)


class ByName:
    """Conversion by a model whose decoder is told a speaker of its training by name: by its codes, as ``audiovae
    convert`` does, or by the means of continuous latents."""

    def __init__(self, model: Model):
        if not isinstance(model, Autoencoder) or not isinstance(model.embedding, ConditionEmbedding):
            raise CheckpointError("conversion wants a model that hears its speakers, or one told them by name.")
        self.model, self.rate = model.eval().requires_grad_(False), model.data.sample_rate or RATE
        self.codec = Codec(model) if model.bottleneck.is_discrete else None

    @torch.no_grad()
    def __call__(self, trial: Trial) -> Wave:
        if trial.target not in self.model.data.labels:
            raise LabelError(f"the model was not trained on {trial.target}.")
        wave = read_audio(trial.source, self.rate)[0].mean(0)
        if self.codec is not None:
            said = convert(self.codec, wave, self.rate, trial.target)
        else:
            x = torch.nn.functional.pad(wave, (0, -len(wave) % self.model.hop))[None, None]
            told = Condition(torch.tensor([self.model.data.labels.index(trial.target)]))
            said = self.model.decode(self.model.encode(x), told)[0, 0, :len(wave)]
        return resample(said, self.rate, RATE).double().numpy()


def level(wave: Wave, like: Wave) -> Wave:
    """As loud as the source, and nowhere clipped."""
    gain = np.sqrt((like**2).mean() / max((wave**2).mean(), 1e-12))
    return wave * min(gain, 0.99 / max(float(np.abs(wave).max()), 1e-9))


@dataclass(frozen=True)
class Arguments:
    """Convert a list of trials by the baselines, or by a model.

    Example: python recipes/vctk_conversion/baselines.py runs/judge --systems world
    """

    folder: tyro.conf.Positional[Path]
    """That of trials.jsonl."""
    systems: tuple[str, ...] = ()
    """Some of copied, world, nearest; with --model some of own, zero-shot, enrolled, clear, clear-enrolled (default:
    all)."""
    model: str | None = None
    """A trained model, by name or folder; its systems are called NAME-own, NAME-zero-shot and so on, or, of one that is
    told its speakers by name, NAME-named."""
    passes: int = PASSES
    """Unless a filter does it, how many times it is said; where not as usual, the systems' names say so."""
    retrieval: float = RETRIEVAL
    """How far latents are drawn to the target's own; where not as usual, the systems' names say so."""
    likeness: float = LIKENESS
    """In modes clear, how far the recording is filtered; where not as usual, the systems' names say so."""
    transport: bool = True
    """Whether they are brought before to where the target's lie in all; the systems' names say where not."""
    kbps: float | None = None
    """Most kbit/s of codes that latents are rounded to; the systems' names say so (default: they are not)."""
    seconds: tuple[float, ...] = ()
    """Of a target's recordings to convert by, in place of the trial's five; the systems' names say so. Targets that
    have less for one of these are left out."""
    trials: int | None = None
    """How many of each condition, the first ones (default: all)."""


def chosen(arguments: Arguments) -> dict[str, System]:
    """Systems by the name of their folder. ConfigError on one that is not known."""
    if arguments.model is None:
        return _some(BASELINES, arguments, "")
    model, prefix = load_model(arguments.model), f"{Path(arguments.model).name}-"
    if not is_voice_model(model):
        return _some({NAMED: ByName(model)}, arguments, prefix)
    speaker = ByModel(model, arguments)
    modes = [mode for mode in MODES if arguments.passes == PASSES or not mode.startswith("clear")]  # a filter: once
    suffix = f"-{arguments.passes}" if arguments.passes != PASSES else ""
    suffix += f"-retrieval{arguments.retrieval:g}" if arguments.retrieval != RETRIEVAL else ""
    suffix += f"-{arguments.kbps:g}kbps" if arguments.kbps else ""
    suffix += f"-likeness{arguments.likeness:g}" if arguments.likeness != LIKENESS else ""
    suffix += "" if arguments.transport else "-not-transported"
    return _some({mode: partial(speaker, mode=mode) for mode in modes}, arguments, prefix, suffix)


def _some(known: dict[str, System], arguments: Arguments, prefix: str, suffix: str | None = None) -> dict[str, System]:
    """Those asked for; ``suffix`` says how they differ from the usual, and None that they know no other way."""
    if suffix is None and (arguments.passes, arguments.retrieval, arguments.likeness, arguments.kbps,
                           arguments.transport) != (PASSES, RETRIEVAL, LIKENESS, None, True):
        raise ConfigError("--passes, --retrieval, --likeness, --kbps and --no-transport want a --model that hears its "
                          "speakers: leave them out.")
    if arguments.seconds:
        known = {name: system for name, system in known.items() if name not in UNTOLD}
    if unknown := set(arguments.systems) - set(known):
        raise ConfigError(f"no system {', '.join(sorted(unknown))}: wanted some of {', '.join(known)}.")
    return {prefix + name + (suffix or ""): system for name, system in known.items()
            if name in (arguments.systems or known)}


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    return ended("baselines", lambda: convert_all(arguments))


def convert_all(arguments: Arguments) -> int:
    """Every trial by every system; those that cannot be are listed at the end, and the others are done."""
    trials, systems = first(read_trials(arguments.folder), arguments.trials), chosen(arguments)
    if arguments.seconds and not min(arguments.seconds) > 0:
        raise ConfigError(f"--seconds wants numbers above 0, got {min(arguments.seconds):g}.")
    lengths = sorted(arguments.seconds, reverse=True) or [None]  # who has the most has the others
    told: dict[float | None, list[Trial]] = {}
    for seconds in lengths:
        trials = told[seconds] = [its for trial in trials if (its := told_by(trial, seconds))]
    if not trials:
        raise CorpusError(f"no target has {max(arguments.seconds):g} s beside what it is judged by: ask for less.")
    work, failed, made = 0, [], []
    for seconds in reversed(lengths):
        named = {name + (f"-{seconds:g}s" if seconds else ""): system for name, system in systems.items()}
        count, bad = converted(arguments.folder, named, told[seconds])
        work, failed, made = work + count, failed + bad, made + list(named)
    print(f"{arguments.folder}: {len(trials)} conversions each by {', '.join(made)}; {work - len(failed)} of them new.")
    return report_failures("baselines", failed, work, None)


def told_by(trial: Trial, seconds: float | None) -> Trial | None:
    """The trial with ``seconds`` or a little more of the target's recordings to convert by, beside those it is judged
    by, drawn by their names; the more begin with the fewer. None where there are not so many.

    They are all in the folder of the target's name, or that of its first reference. CorpusError where that is gone.
    """
    if seconds is None:
        return trial
    first = Path(trial.references[0])
    folder = next((place for place in first.parents if place.name == trial.target), first.parent)
    if not folder.is_dir():
        raise CorpusError(f"{folder} is gone: list the trials anew by trials.py.")
    others = [path for path in recordings_in(folder) if str(path) not in trial.kept]
    references = []
    for info in clear(sorted(others, key=lambda path: blake2b(path.name.encode()).digest())):
        references.append(str(info.path))
        seconds -= info.seconds
        if seconds <= 0:
            return replace(trial, references=references)
    return None


def converted(folder: Path, systems: dict[str, System], trials: Iterable[Trial]) -> tuple[int, Failures]:
    """Make those conversions that are not there; how many were to be made, and which could not be."""
    work = [(name, trial) for name in systems for trial in trials if not (folder / name / f"{trial.name}.wav").exists()]
    failed: Failures = []
    for name, trial in tqdm(work, unit="conversion", disable=None):
        target = folder / name / f"{trial.name}.wav"
        try:
            made = level(systems[name](trial), heard(trial.source))
        except (AudioError, LabelError, ShapeError, VoiceError) as error:
            failed.append((target, str(error)))
        else:
            write_audio(target, torch.from_numpy(made).float()[None], RATE)
    return len(work), failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
