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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from baselines import NAMED, chosen, converted
from baselines import Arguments as Conversions
from calibrate import JUDGES, Answers, Calibration, Name, calibrated
from judge import TO_SOURCE, WORDS, all_judged, averaged, measures
from trials import ended, first, read_trials

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from studies import Arguments, Numbers, Overrides, Source, Study, run  # noqa: E402

from audiovae.checkpoint import load_model  # noqa: E402
from audiovae.errors import CorpusError  # noqa: E402
from audiovae.files import json_lines  # noqa: E402
from audiovae.voices import is_voice_model  # noqa: E402

BEGUN: Overrides = {"train.schedule": "cosine", "train.warmup": 0.01, "train.ema": 0.99}  # what short runs want
SOON = {"model.bottleneck.kmeans_after": 200, "data.disguised_from": 500}
NATS = 50 * 9 * 0.6931  # of a crop of small.toml, a second: what one codebook of 512 can say
HEADINGS = {NAMED: "", "zero-shot": "", "own": "own voice, "}


@dataclass(frozen=True)
class Judged(Arguments):
    """Train the variants of a study, convert by them, and judge what they say."""

    trials: Path = Path("runs/judge")
    """Folder of trials.jsonl."""
    spoken: Path | None = None
    """Recordings with their text beside them, to calibrate the recogniser on (default: it is not asked)."""
    limit: int = 10
    """Trials of each condition, the first ones."""


def judged(run: Path, source: Source, limit: int, folder: Path, spoken: Path | None) -> Numbers:
    """What the judges say of the trials as a run converts them, means; and of the sources in their own voices.

    CorpusError where one cannot be made, or there is none for it to make.
    """
    model, steps = load_model(run), max(row["step"] for row in json_lines(run / "log.jsonl"))
    by_ear, place = is_voice_model(model), run / f"converted-{steps}"
    trials = [trial for trial in first(read_trials(folder), limit) if by_ear or trial.target in model.data.labels]
    modes = ("own", "zero-shot") if by_ear else (NAMED,)
    systems = chosen(Conversions(place, systems=modes, model=str(run)))
    _, failed = converted(place, systems, trials)
    if failed or not trials:
        raise CorpusError(f"{len(failed)} of {len(trials)} conversions by {run} failed"
                          + (f": {failed[0][1]}" if failed else "; none is of a speaker that it knows."))
    answers, every = Answers(folder / "answers.jsonl"), read_trials(folder)
    asked = [calibrated(judge, answers, every, spoken) for judge in JUDGES]
    usable: dict[Name, Calibration] = {one.judge: one for one in asked if one.passed}
    numbers: Numbers = {"conversions": len(trials)}
    for system, mode in zip(systems, modes, strict=True):
        rows = all_judged(place, [system], trials, answers, usable)
        for name in [TO_SOURCE, WORDS] if mode == "own" else measures(rows):
            if (mean := averaged(rows, name)) is not None:
                numbers[HEADINGS[mode] + name] = mean.mean
    return numbers | {"steps": steps}


def studies(arguments: Judged) -> dict[str, Study]:
    measure = partial(judged, folder=arguments.trials, spoken=arguments.spoken)
    voice, small = BEGUN | SOON, BEGUN
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
            "VQ-VAE": small | {"model.bottleneck.num_quantizers": 1},
            "Gaussian": small | {"model.bottleneck": {"kind": "gaussian", "dim": 64},
                                 "objective.rate": {"kind": "constant_rate", "nats": NATS, "gamma": 10.0}},
        }, measure),
    }


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Judged, args=argv, description=__doc__)
    return ended("study", lambda: run(studies(arguments), arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
