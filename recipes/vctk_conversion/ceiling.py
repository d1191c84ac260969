"""How alike a conversion can be: a target's own recordings, said in the target's voice once more, for comparison.

    python recipes/vctk_conversion/ceiling.py runs/judge -o runs/ceiling
    python recipes/vctk_conversion/baselines.py runs/ceiling --model voice-16k --systems zero-shot
    python recipes/vctk_conversion/baselines.py runs/ceiling --systems copied
    python recipes/vctk_conversion/judge.py runs/ceiling --judges verifier opinion

Of each target of a list of conversions, half of what it is judged by becomes a source itself, under three conditions.
own: as it is. disguised: in the voice of the trial's source, by WORLD, as `baselines.py` does it. another: of the next
target in its place. Between own and disguised lies what a model does not undo of a timbre and a pitch that were
changed; between disguised and a conversion, what else a speaker is told by, accent and rhythm for instance.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from baselines import Wave, heard, world
from tqdm import tqdm
from trials import RATE, Trial, ended, first, read_trials, write_trials

from audiovae.audio.io import write_audio
from audiovae.errors import AudioError

SECONDS = 8.0  # of a source


@dataclass(frozen=True)
class Arguments:
    """List targets' own recordings as sources: as they are, disguised, and each other's.

    Example: python recipes/vctk_conversion/ceiling.py runs/judge -o runs/ceiling
    """

    folder: tyro.conf.Positional[Path]
    """That of trials.jsonl."""
    trials: int | None = None
    """How many of each condition, the first ones (default: all)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/ceiling")
    """Folder of the new list."""


def listed(trials: list[Trial], out: Path) -> Iterator[Trial]:
    """Three trials of each; less where there is no other target, or nothing voiced to disguise by."""
    for place, trial in enumerate(tqdm(trials, unit="target", disable=None)):
        kept = trial.kept[1::2]
        own = _trial(trial, "own", _joined(trial.kept[::2]), out, trial, kept)
        yield own
        following = (one for one in trials[place + 1:] + trials[:place] if one.target != trial.target)
        if other := next(following, None):
            yield _trial(trial, "another", _joined(other.kept[::2]), out, other, kept, other.kept[1::2])
        whose = [trial.source, *trial.source_kept]
        try:
            wave = world(replace(own, references=whose))
        except AudioError:
            continue  # the source's voice has no pitch in so few seconds
        yield _trial(trial, "disguised", wave, out, trial, kept, whose)


def _trial(trial: Trial, condition: str, wave: Wave, out: Path, whose: Trial, kept: list[str],
           source_kept: list[str] | None = None) -> Trial:
    """A trial to ``trial``'s target of a source that is written, judged by the recordings ``kept``."""
    name = f"{condition}-{trial.name}"
    path = (out / "sources" / f"{name}-source.wav").resolve()  # SYSTEM/TRIAL.wav would be a conversion
    write_audio(path, torch.from_numpy(wave).float()[None], RATE)
    return replace(trial, name=name, condition=condition, source=str(path), source_speaker=whose.target,
                   source_sex=whose.target_sex, kept=kept, source_kept=source_kept or [])


def _joined(paths: list[str]) -> Wave:
    return np.concatenate([heard(path) for path in paths])[:round(SECONDS * RATE)]


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    return ended("ceiling", lambda: write_trials(
        arguments.output, list(listed(first(read_trials(arguments.folder), arguments.trials), arguments.output))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
