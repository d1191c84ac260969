"""Judges of recordings: what each says of one, kept once said, and whether it may be believed.

A judge is calibrated on real recordings before it judges any conversion. One that fails is not used:

verifier    equal error rate of the targets' recordings against centroids of their others and of other voices: 5 %
recogniser  word errors against texts that are known (--spoken): 15 %
opinion     rates a recording above the same in noise at 5 dB: 95 % of recordings
pitch       hears what a recording played 9/8 as fast is raised by: within 0.25 semitones in the median
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from trials import RATE, Trial

from audiovae.audio.io import AUDIO_SUFFIXES, read_audio
from audiovae.audio.resample import resample
from audiovae.errors import AudioError, CorpusError
from audiovae.metrics import (
    Interval,
    Recogniser,
    Verifier,
    centroid,
    equal_error,
    mean_interval,
    pitch_contour,
    pitch_error,
    predicted_mos,
    spoken_words,
    word_errors,
)

Name = Literal["verifier", "recogniser", "opinion", "pitch"]
EQUAL_ERROR, WORD_ERRORS, TOLD_APART, SEMITONES = 0.05, 0.15, 0.95, 0.25  # the criteria above
RECORDINGS = 40  # at most, for a calibration that hears each twice
NOISE, FASTER = 5.0, (9, 8)  # dB of speech over noise; speed


def _verifier() -> Callable[[NDArray[np.float32]], Any]:
    judge = Verifier()
    return lambda wave: [round(float(x), 5) for x in judge.embed(wave, RATE)]


def _recogniser() -> Callable[[NDArray[np.float32]], Any]:
    judge = Recogniser()
    return lambda wave: judge.transcribe(wave, RATE)


JUDGES: dict[Name, Callable[[], Callable[[NDArray[np.float32]], Any]]] = {
    "verifier": _verifier,
    "recogniser": _recogniser,
    "opinion": lambda: lambda wave: predicted_mos(wave, RATE),
    "pitch": lambda: lambda wave: [round(float(x), 2) for x in pitch_contour(wave, RATE)],
}


def _in_noise(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal(len(wave)) * np.sqrt((wave**2).mean()) * 10 ** (-NOISE / 20)
    both = wave + noise
    return (both / max(1.0, float(np.abs(both).max()))).astype(np.float32)


def _faster(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    return resample(torch.from_numpy(wave)[None], *FASTER)[0].numpy()


CHANGES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "": lambda wave: wave, "noise": _in_noise, "faster": _faster}


class Answers:
    """What judges said of recordings, kept in a file of lines: asked again, of the same samples, they are not heard.

    A recording is known by its content, so that a conversion made anew is judged anew.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, Any] = {}
        self._judges: dict[Name, Callable[[NDArray[np.float32]], Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                key, value = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            self._known[key] = value
        path.parent.mkdir(parents=True, exist_ok=True)

    def of(self, judge: Name, recording: str | Path, change: str = "") -> Any:
        key = f"{judge} {change} {_digest(recording)}"
        if key not in self._known:
            if judge not in self._judges:
                self._judges[judge] = JUDGES[judge]()
            wave = read_audio(recording, RATE)[0][0].numpy()
            try:
                self._known[key] = self._judges[judge](CHANGES[change](wave))
            except AudioError as error:
                raise AudioError(f"{recording}: {error}") from None
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._torn() else "") + json.dumps([key, self._known[key]]) + "\n")
        return self._known[key]

    def _torn(self) -> bool:
        """Whether the file ends within a line."""
        if not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def centroid(self, recordings: Sequence[str]) -> NDArray[np.floating]:
        return centroid([self.of("verifier", path) for path in recordings])

    def contour(self, recording: str | Path, change: str = "") -> NDArray[np.float64]:
        return np.array(self.of("pitch", recording, change))


def _digest(path: str | Path) -> str:
    try:
        return blake2b(Path(path).read_bytes(), digest_size=12).hexdigest()
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}.") from None


@dataclass(frozen=True)
class Calibration:
    """criterion : in words, with what was found. found : figures by name."""

    judge: Name
    passed: bool
    criterion: str
    found: dict[str, Interval | float]


def calibrated(judge: Name, answers: Answers, trials: Sequence[Trial], spoken: Path | None) -> Calibration:
    """The calibration of a judge on the real recordings of a list of trials."""
    return {"verifier": lambda: _of_verifier(answers, trials), "recogniser": lambda: _of_recogniser(answers, spoken),
            "opinion": lambda: _of_opinion(answers, _real(trials)),
            "pitch": lambda: _of_pitch(answers, _real(trials))}[judge]()


def _real(trials: Sequence[Trial]) -> list[str]:
    """Recordings of sources and of targets in turn, each once."""
    both = (path for trial in trials for path in (trial.source, trial.kept[0]))
    return list(islice(dict.fromkeys(both), RECORDINGS))


def _of_verifier(answers: Answers, trials: Sequence[Trial]) -> Calibration:
    voices = {trial.target: trial.kept for trial in trials}
    heard = {name: np.array([answers.of("verifier", path) for path in kept])
             for name, kept in tqdm(voices.items(), desc="verifier", unit="voice", disable=None)}
    if len(heard) < 2 or min(map(len, heard.values())) < 2:
        return Calibration("verifier", False, "wants two recordings each of two targets at least", {})
    same = [float(one @ centroid(np.delete(its, i, 0))) for its in heard.values() for i, one in enumerate(its)]
    centres = {name: centroid(its) for name, its in heard.items()}
    different = [float(one @ centre) for name, its in heard.items() for one in its
                 for other, centre in centres.items() if other != name]
    equal = equal_error(same, different)
    return Calibration("verifier", equal.rate <= EQUAL_ERROR,
                       f"equal error rate {100 * equal.rate:.1f} %, at most {100 * EQUAL_ERROR:g} % wanted",
                       {"same": mean_interval(same), "same, deviation": float(np.std(same)),
                        "different": mean_interval(different), "different, deviation": float(np.std(different)),
                        "equal error rate": equal.rate, "threshold": equal.threshold, "voices": float(len(heard))})


def _of_recogniser(answers: Answers, spoken: Path | None) -> Calibration:
    if spoken is None:
        return Calibration("recogniser", False, "wants recordings whose texts are known: --spoken FOLDER", {})
    texts = {path: path.with_suffix(".txt").read_text(encoding="utf-8") for path in sorted(spoken.rglob("*"))
             if path.suffix.lower() in AUDIO_SUFFIXES and path.with_suffix(".txt").exists()}
    if not texts:
        raise CorpusError(f"{spoken} has no recording with a text beside it: wanted NAME.wav and NAME.txt.")
    rates, errors, words = [], 0, 0
    for path, text in tqdm(texts.items(), desc="recogniser", unit="recording", disable=None):
        count, wrong = len(spoken_words(text)), word_errors(answers.of("recogniser", path), text)
        errors, words = errors + wrong, words + count
        rates.append(wrong / max(count, 1))
    return Calibration("recogniser", errors <= WORD_ERRORS * words,
                       f"word error rate {errors / max(words, 1):.3f} of {words} words, at most {WORD_ERRORS:g} wanted",
                       {"word error rate": errors / max(words, 1), "of a recording": mean_interval(rates)})


def _of_opinion(answers: Answers, recordings: list[str]) -> Calibration:
    clean, noisy = ([answers.of("opinion", path, change) for path in
                     tqdm(recordings, desc=f"opinion {change}", unit="recording", disable=None)]
                    for change in ("", "noise"))
    share = float(np.mean(np.array(clean) > np.array(noisy)))
    return Calibration("opinion", share >= TOLD_APART,
                       f"{100 * share:.0f} % of recordings rated above the same in noise at {NOISE:g} dB, "
                       f"{100 * TOLD_APART:g} % wanted",
                       {"originals": mean_interval(clean), "in noise": mean_interval(noisy)})


def _of_pitch(answers: Answers, recordings: list[str]) -> Calibration:
    errors, (up, down) = [], FASTER
    for path in tqdm(recordings, desc="pitch", unit="recording", disable=None):
        slow, fast = answers.contour(path), answers.contour(path, "faster")
        at = np.minimum(np.round(np.arange(len(slow)) * down / up).astype(int), len(fast) - 1)
        errors.append(pitch_error(fast[at], slow * up / down))
    middle = float(np.median(errors))
    return Calibration("pitch", middle <= SEMITONES,
                       f"{middle:.2f} semitones off when played {up}/{down} as fast, at most {SEMITONES:g} wanted",
                       {"error, semitones": mean_interval(errors)})
