"""Judge the conversions of a list of trials: who it sounds like, what is understood, how it sounds, at what pitch.

    python recipes/vctk_conversion/judge.py runs/judge --spoken prompts/

The folder holds trials.jsonl and a folder for each system, with SYSTEM/TRIAL.wav for every trial (trials.py,
baselines.py). Every judge is first calibrated on real recordings, and not used where that fails (calibrate.py). What
has been judged is kept in answers.jsonl and not judged again. Tables are printed, and written with players to
report.html; judged.json has a row for each conversion.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from calibrate import JUDGES, RATE, Answers, Calibration, Name, calibrated
from tqdm import tqdm
from trials import Trial, ended, first, read_trials

from audiovae.audio.io import read_audio
from audiovae.errors import AudioError, CorpusError
from audiovae.files import atomic_file
from audiovae.metrics import (
    Interval,
    mean_interval,
    pitch_correlation,
    pitch_difference,
    spoken_words,
    word_error_rate,
)
from audiovae.report import Report, Table

Row = dict[str, Any]
TO_TARGET, TO_SOURCE, NEARER, ACCEPTED = "to target", "to source", "nearer to target, %", "accepted, %"
WORDS, PITCH, MELODY, OPINION = "WER", "pitch error, st", "melody kept", "predicted MOS"
WORST_BY = ((TO_TARGET, False), (WORDS, True), (PITCH, True), (OPINION, False))  # and whether high is bad


def by_verifier(path: Path, trial: Trial, answers: Answers, calibration: Calibration) -> Row:
    voice = np.array(answers.of("verifier", path))
    near = float(voice @ answers.centroid(trial.kept))
    row: Row = {TO_TARGET: near, ACCEPTED: 100.0 * (near >= calibration.found["threshold"])}  # type: ignore[operator]
    if trial.source_kept:
        row[TO_SOURCE] = float(voice @ answers.centroid(trial.source_kept))
        row[NEARER] = 100.0 * (near > row[TO_SOURCE])
    return row


def by_recogniser(path: Path, trial: Trial, answers: Answers, calibration: Calibration) -> Row:
    """The reference is what is understood of the source, where anything is."""
    said, understood = (answers.of("recogniser", it) for it in (trial.source, path))
    rate = word_error_rate(understood, said) if spoken_words(said) else None
    return {"said": said, "understood": understood, WORDS: rate}


def by_pitch(path: Path, trial: Trial, answers: Answers, calibration: Calibration) -> Row:
    """How far the median pitch is from that of the target's recordings, and how the contour correlates with the
    source's."""
    found, theirs = answers.contour(path), np.concatenate([answers.contour(it) for it in trial.kept])
    return {PITCH: abs(pitch_difference(found, theirs)),
            MELODY: pitch_correlation(found, answers.contour(trial.source))}


def by_opinion(path: Path, trial: Trial, answers: Answers, calibration: Calibration) -> Row:
    return {OPINION: answers.of("opinion", path)}


MEASURES: dict[Name, Callable[[Path, Trial, Answers, Calibration], Row]] = {
    "verifier": by_verifier, "recogniser": by_recogniser, "pitch": by_pitch, "opinion": by_opinion}


def all_judged(folder: Path, systems: Sequence[str], trials: Sequence[Trial], answers: Answers,
               judges: dict[Name, Calibration]) -> list[Row]:
    """A row for each system and trial; "failed" says what a judge could not judge, or that nothing was converted."""
    rows = []
    for system, trial in tqdm([(s, t) for s in systems for t in trials], unit="conversion", disable=None):
        path = folder / system / f"{trial.name}.wav"
        row: Row = {"system": system, "trial": trial.name, "condition": trial.condition,
                    "source_speaker": trial.source_speaker, "source_sex": trial.source_sex, "target": trial.target,
                    "target_sex": trial.target_sex, "source": trial.source, "converted": str(path), "failed": []}
        if not path.exists():
            row["failed"].append("not converted")
        for name, calibration in judges.items() if path.exists() else ():
            try:
                row |= MEASURES[name](path, trial, answers, calibration)
            except AudioError as error:
                row["failed"].append(f"{name}: {error}")
        rows.append(row)
    return rows


def measures(rows: Sequence[Row]) -> list[str]:
    """Those of the measures that were judged, in the order of the table."""
    order = (TO_TARGET, TO_SOURCE, NEARER, ACCEPTED, WORDS, PITCH, MELODY, OPINION)
    return [name for name in order if any(row.get(name) is not None for row in rows)]


def averaged(rows: Sequence[Row], name: str) -> Interval | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return mean_interval(values) if values else None


def of_systems(rows: Sequence[Row], condition: str) -> Table:
    """One row a system, each measure's mean and interval over the trials of a condition."""
    here = [row for row in rows if row["condition"] == condition]
    names = measures(here)
    return Table(("system", *names, "failed"), [
        (system, *(averaged(its, name) for name in names), sum(bool(row["failed"]) for row in its))
        for system, its in by(here, lambda row: row["system"]).items()])


def of_sexes(rows: Sequence[Row], system: str) -> Table | None:
    """Source's sex to target's sex, for a system; None where no sex is known."""
    here = [row for row in rows if row["system"] == system and "?" not in (row["source_sex"], row["target_sex"])]
    names = measures(here)
    pairs = by(here, lambda row: f"{row['source_sex']} to {row['target_sex']}")
    return Table(("sexes", *names), [(pair, *(averaged(its, name) for name in names))
                                     for pair, its in sorted(pairs.items())]) if here else None


def by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def worst(rows: Sequence[Row], system: str, count: int) -> list[Row]:
    """Those that failed, then the least like their target (or, unjudged, the least understood, and so on)."""
    here = [row for row in rows if row["system"] == system]
    name, high = next(((name, high) for name, high in WORST_BY if name in measures(here)), (None, False))
    if name is None:
        return here[:count]

    def rank(row: Row) -> float:
        value = row.get(name)
        return -np.inf if value is None else -value if high else value

    return sorted(here, key=rank)[:count]


def of_worst(rows: Sequence[Row]) -> Table:
    names = measures(rows)
    return Table(("trial", *names, "understood"), [
        (row["trial"], *(row.get(name) for name in names), " ".join([*row["failed"], row.get("understood", "")]))
        for row in rows])


def of_calibrations(found: Sequence[Calibration]) -> Table:
    return Table(("judge", "used", "criterion", "measured"), [
        (one.judge, "yes" if one.passed else "no", one.criterion,
         "; ".join(f"{name} {value if isinstance(value, Interval) else f'{value:.3g}'}"
                   for name, value in one.found.items())) for one in found])


def page(rows: Sequence[Row], found: Sequence[Calibration], trials: Sequence[Trial], count: int) -> Report:
    report = Report("Conversions, judged", lead=f"{len(rows)} conversions; mean ± 95 % interval over trials.")
    report.section("The judges")
    report.table(of_calibrations(found))
    for condition in dict.fromkeys(row["condition"] for row in rows):
        report.section(f"Targets: {condition}")
        report.table(of_systems(rows, condition))
    references = {trial.name: trial.references[0] for trial in trials}
    for system in dict.fromkeys(row["system"] for row in rows):
        report.section(system)
        if table := of_sexes(rows, system):
            report.table(table, "Source's sex to target's sex")
        bad = worst(rows, system, count)
        report.table(of_worst(bad), f"The worst {len(bad)}")
        for row in bad:
            report.text(f"{row['trial']}: source, converted, a reference of the target.")
            for caption, place in (("source", row["source"]), ("converted", row["converted"]),
                                   ("target", references[row["trial"]])):
                if Path(place).exists():
                    report.audio(caption, read_audio(place, RATE)[0][0], RATE)
    return report


@dataclass(frozen=True)
class Arguments:
    """Judge the conversions of a list of trials.

    Example: python recipes/vctk_conversion/judge.py runs/judge --spoken prompts/
    """

    folder: tyro.conf.Positional[Path]
    """That of trials.jsonl and of a folder for each system."""
    systems: tuple[str, ...] = ()
    """Folders of conversions (default: all that hold one)."""
    judges: tuple[Name, ...] = tuple(JUDGES)
    """Which to ask."""
    spoken: Path | None = None
    """Recordings with their text beside them (NAME.wav, NAME.txt) to calibrate the recogniser on."""
    trials: int | None = None
    """How many of each condition, the first ones (default: all)."""
    worst: int = 10
    """How many of the worst conversions of each system are listed and can be heard."""


def present(arguments: Arguments, trials: Sequence[Trial]) -> list[str]:
    """The systems to judge. CorpusError where there is none, or one has not a single conversion."""
    folder = arguments.folder
    systems = arguments.systems or sorted(place.name for place in folder.iterdir() if place.is_dir() and any(
        (place / f"{trial.name}.wav").exists() for trial in trials))
    if not systems:
        raise CorpusError(f"{folder} holds no conversion: wanted SYSTEM/{trials[0].name}.wav and others.")
    for system in systems:
        if not any((folder / system / f"{trial.name}.wav").exists() for trial in trials):
            raise CorpusError(f"{folder / system} holds none of {len(trials)} conversions, such as "
                              f"{trials[0].name}.wav: make them first, or name other --systems.")
    return list(systems)


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    return ended("judge", lambda: judge_all(arguments))


def judge_all(arguments: Arguments) -> None:
    folder = arguments.folder
    trials = first(read_trials(folder), arguments.trials)
    systems, answers = present(arguments, trials), Answers(folder / "answers.jsonl")
    found = [calibrated(judge, answers, trials, arguments.spoken) for judge in arguments.judges]
    print(of_calibrations(found).text(), flush=True)
    usable: dict[Name, Calibration] = {one.judge: one for one in found if one.passed}
    if not usable:
        raise CorpusError("no judge passed its calibration, so nothing was judged.")
    rows = all_judged(folder, systems, trials, answers, usable)
    page(rows, found, trials, arguments.worst).write(folder / "report.html")
    with atomic_file(folder / "judged.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for condition in dict.fromkeys(row["condition"] for row in rows):
        print(f"\nTargets: {condition}\n{of_systems(rows, condition).text()}")
    for system in systems:
        if table := of_sexes(rows, system):
            print(f"\n{system}\n{table.text()}")
        bad = worst(rows, system, arguments.worst)
        print(f"\n{system}, the worst {len(bad)}\n{of_worst(bad).text()}")
    print(f"\nMean ± 95 % interval. Rows are in {folder / 'judged.json'}, players in {folder / 'report.html'}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
