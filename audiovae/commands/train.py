"""audiovae train: a TOML file and what overrides it, to a training run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.commands.arguments import parse, split_settings
from audiovae.config import from_dict, merge, read
from audiovae.errors import ConfigError
from audiovae.run import resumed_experiment
from audiovae.train import Experiment, train


@dataclass(frozen=True)
class Arguments:
    """Train a model from a TOML file; every setting can be given here too, as --section.key value.

    Example: audiovae train recipes/vctk_conversion/small.toml --data.corpus corpora/vctk
    --train.minutes 20 -o runs/vctk

    Ctrl-C finishes the step and saves; `audiovae train --resume runs/vctk` goes on. With no time budget
    (train.steps alone) a resumed run is the run that never stopped, bit for bit on one CPU.
    """

    config: Annotated[Path | None, tyro.conf.Positional] = None
    """TOML file holding what differs from the defaults below."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the run (default: runs/NAME of the TOML file)."""
    resume: Path | None = None
    """Folder of a run to go on with; its own settings are used, then any given here."""
    level: int | Literal["each"] | None = None
    """Of a multi-resolution model the level to train, or each after the other (default: all in every step)."""


@dataclass(frozen=True)
class Help(Arguments):
    __doc__ = Arguments.__doc__
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = Experiment()


def main(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        tyro.cli(tyro.conf.AvoidSubcommands[Help], prog="audiovae train", args=["--help"])
    known, settings = split_settings(argv)
    arguments = parse("train", Arguments, known)
    if arguments.level is not None:
        settings["train.level"] = str(arguments.level)
    if arguments.resume is not None:
        if arguments.config is not None or arguments.output is not None:
            raise ConfigError("--resume goes on with a run's own settings, in its own folder: leave the TOML file and "
                              "--output out.")
        folder = arguments.resume
        values = merge(resumed_experiment(folder), settings)
        experiment = from_dict(Experiment, values, source=f"run {folder}")
    elif arguments.config is not None:
        folder = arguments.output or Path("runs") / arguments.config.stem
        experiment = read(Experiment, arguments.config, settings)
    else:
        raise ConfigError("name a TOML file, or a run with --resume.")
    state = train(experiment, folder, resume=arguments.resume is not None)
    print(f"{state.step} steps in {state.minutes:.1f} minutes; model, log and samples are in {folder}.")
    if state.interrupted:
        print(f"Interrupted and saved; go on with: audiovae train --resume {folder}", file=sys.stderr)
        return 130
    return 0
