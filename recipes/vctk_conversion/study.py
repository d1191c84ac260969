"""Ways to convert a voice beside each other, and what takes the source's voice out of one of them.

    python recipes/vctk_conversion/study.py remedies --data corpora/speech --trials runs/judge --minutes 12
    python recipes/vctk_conversion/study.py models --data corpora/speech --trials runs/judge --minutes 12

remedies: voice.toml, and one thing of it changed. models, beside it: a VQ-VAE told its speakers by name (van den Oord
2017), and the same with a continuous latent that spends as many nats as the codes can. Each is trained from nothing for
the same minutes; then it converts the first --limit trials of each condition (trials.py), of targets that it knows if
it goes by names, and the calibrated judges are asked (judge.py). What is trained, converted or judged already is not
again. Runs, what they converted, and numbers (study.json) lie in runs/study/NAME.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import tyro
from baselines import NAMED, chosen, converted
from baselines import Arguments as Conversions
from calibrate import JUDGES, Answers, Calibration, Name, calibrated
from judge import ACCEPTED, OPINION, TO_SOURCE, TO_TARGET, WORDS, all_judged, averaged, by
from trials import Trial, ended, first, read_trials

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from studies import Arguments, Numbers, Overrides, Source, Study, run  # noqa: E402

from audiovae.audio.corpus import Corpus  # noqa: E402
from audiovae.checkpoint import load_model  # noqa: E402
from audiovae.errors import CorpusError  # noqa: E402
from audiovae.files import json_lines  # noqa: E402
from audiovae.voices import is_voice_model  # noqa: E402

BEGUN: Overrides = {"train.schedule": "cosine", "train.warmup": 0.01, "train.ema": 0.99}  # what short runs want
SOON = {"model.bottleneck.kmeans_after": 200, "data.disguised_from": 500}
NATS = 50 * 9 * 0.6931  # of a crop of small.toml, a second: what one codebook of 512 can say
KEPT, OF_OWN = (TO_TARGET, TO_SOURCE, ACCEPTED, WORDS, OPINION), (TO_SOURCE, WORDS)


@dataclass(frozen=True)
class Judged(Arguments):
    """Train the variants of a study, convert by them, and judge what they say."""

    trials: Path = Path("runs/judge")
    """Folder of trials.jsonl."""
    spoken: Path | None = None
    """Recordings with their text beside them, to calibrate the recogniser on (default: it is not asked)."""
    limit: int = 10
    """Trials of each condition, the first ones."""


@dataclass(frozen=True)
class Panel:
    """Trials, and the judges that passed their calibration on the recordings of all of them."""

    trials: list[Trial]
    answers: Answers
    judges: dict[Name, Calibration]


def assembled(folder: Path, spoken: Path | None) -> Panel:
    """The trials of a folder, and judges of which each has been asked about real recordings first."""
    trials, answers = read_trials(folder), Answers(folder / "answers.jsonl")
    asked = [calibrated(judge, answers, trials, spoken) for judge in JUDGES]
    return Panel(trials, answers, {one.judge: one for one in asked if one.passed})


def judged(run: Path, source: Source, limit: int, panel: Panel) -> Numbers:
    """What the judges say of the trials as a run converts them, means; and of the sources in their own voices.

    CorpusError where one cannot be converted, or there is none; "unjudged" counts those that a judge could not judge.
    """
    model, steps = load_model(run), max(row["step"] for row in json_lines(run / "log.jsonl"))
    by_ear, place = is_voice_model(model), run / f"converted-{steps}"
    trials = first([trial for trial in panel.trials if by_ear or trial.target in model.data.labels], limit)
    modes = ("own", "zero-shot") if by_ear else (NAMED,)
    systems = chosen(Conversions(place, systems=modes, model=str(run)))
    _, failed = converted(place, systems, trials)
    if failed or not trials:
        raise CorpusError(f"{len(failed)} of {len(trials)} conversions by {run} failed"
                          + (f": {failed[0][1]}" if failed else "; none is of a speaker that it knows."))
    rows = all_judged(place, list(systems), trials, panel.answers, panel.judges)
    numbers: Numbers = {"unjudged": sum(bool(row["failed"]) for row in rows)}
    for system, mode in zip(systems, modes, strict=True):
        its = [row for row in rows if row["system"] == system]
        groups = {"own voice": its} if mode == "own" else by(its, lambda row: row["condition"])
        for group, name in product(groups, OF_OWN if mode == "own" else KEPT):
            if (mean := averaged(groups[group], name)) is not None:
                numbers[f"{group}, {name}"] = mean.mean
    return numbers | {"steps": steps}


def studies(measure: Callable[[Path, Source, int], Numbers]) -> dict[str, Study]:
    voice = BEGUN | SOON
    return {
        "remedies": Study(HERE / "voice.toml", {
            "voice.toml": voice,
            "not disguised": voice | {"data.disguised": 0.0},
            "formants not moved": voice | {"model.encoder.warp": 0.0},
            "mean not taken off": voice | {"model.encoder.mean_seconds": 0.0},
            "one codebook": voice | {"model.bottleneck.num_quantizers": 1},
            "codebooks of 64": voice | {"model.bottleneck.num_codes": 64},
            "25 codes a second": voice | {"model.encoder.frames": 4, "model.decoder.frames": 4,
                                          "model.decoder.hop": 640},
            "speaker-adversarial": voice | {"model.label_adversary.width": 256, "objective.label_adversary": 0.5},
        }, measure),
        "models": Study(HERE / "small.toml", {
            "VQ-VAE": BEGUN | {"model.bottleneck.num_quantizers": 1},
            "Gaussian": BEGUN | {"model.bottleneck": {"kind": "gaussian", "dim": 64},
                                 "objective.rate": {"kind": "constant_rate", "nats": NATS, "gamma": 10.0}},
        }, measure),
    }


def begin(arguments: Judged) -> int:
    """What the end wants is looked at first: training takes long."""
    panel = assembled(arguments.trials, arguments.spoken)
    first(panel.trials, arguments.limit)
    if arguments.study == "models" and arguments.data is not None:
        known = Corpus.open(arguments.data).speakers
        if not any(trial.target in known for trial in panel.trials):
            raise CorpusError(f"{arguments.data} has none of the speakers that the trials are to be converted to.")
    return run(studies(partial(judged, panel=panel)), arguments)


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Judged, args=argv, description=__doc__)
    return ended("study", lambda: begin(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
