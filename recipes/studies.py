"""Variants of a recipe beside each other: each trained with several seeds, measured on held-out data, in one table.

What is trained already is not trained again, so a study can be stopped and started.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import torch
import tyro

from audiovae.checkpoint import run_checkpoints
from audiovae.commands.curve import finished
from audiovae.config import read, to_dict
from audiovae.data import LatentsSource
from audiovae.errors import AudiovaeError, ConfigError
from audiovae.files import atomic_file
from audiovae.image.source import ImageData, ImageSource
from audiovae.report import Table
from audiovae.shapes import Batch
from audiovae.spectrogram_data import SpectrogramSource
from audiovae.train import Experiment, build, train

Numbers = dict[str, float]
Overrides = dict[str, Any]
Source = ImageSource | LatentsSource | SpectrogramSource


@dataclass(frozen=True)
class Study:
    """A recipe, its variants, and what is measured of a trained one: (run, data, most examples) to numbers by name.

    A variant is a name and what it sets in the recipe. Data of kind "latents" are those of the variant ``first``.
    """

    recipe: Path
    variants: dict[str, Overrides]
    measure: Callable[[Path, Any, int], Numbers]
    first: str = ""


@dataclass(frozen=True)
class Arguments:
    """Train the variants of a study and tell them apart."""

    study: tyro.conf.Positional[str]
    """Which; its name is in the description above."""
    seeds: tuple[int, ...] = (0,)
    """Each variant is trained with each."""
    data: Path | None = None
    """An .npz archive of pictures, or a prepared corpus of sound, in place of the recipe's data."""
    steps: int | None = None
    """Of each run (default: the recipe's)."""
    minutes: float | None = None
    """Of each run at most (default: the recipe's)."""
    only: tuple[str, ...] = ()
    """Variants by their whole names (default: all)."""
    limit: int = 2000
    """Held-out examples to measure on, at most."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/study")
    """Folder of the runs and tables."""


def main(studies: dict[str, Study], description: str | None, argv: list[str]) -> int:
    """One of ``studies``, as a command: the exit code, and of bad input a line on stderr."""
    try:
        return run(studies, tyro.cli(Arguments, args=argv, description=description))
    except AudiovaeError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2


def run(studies: dict[str, Study], arguments: Arguments) -> int:
    """Train, measure, write and print. Raises ConfigError on a study, a variant or data that does not fit."""
    if arguments.study not in studies:
        raise ConfigError(f"there is no study '{arguments.study}': choose of {', '.join(studies)}.")
    study = studies[arguments.study]
    if unknown := set(arguments.only) - study.variants.keys():
        raise ConfigError(f"study {arguments.study} has no variant '{min(unknown)}': choose of "
                          f"{', '.join(study.variants)}.")
    chosen = {name: settings(study, overrides, arguments) for name, overrides in study.variants.items()
              if not arguments.only or name in arguments.only}
    if not arguments.seeds:
        raise ConfigError("--seeds wants a seed or several.")
    target = arguments.output / arguments.study / "study.json"
    kept: dict[str, dict[str, Numbers]] = json.loads(target.read_text()) if target.exists() else {}
    found: dict[str, list[Numbers]] = {name: [] for name in chosen}
    for seed, (name, experiment) in product(arguments.seeds, chosen.items()):
        numbers = trained_and_measured(experiment(seed), place(arguments, name, seed), study, arguments.limit)
        if numbers is None:
            print("Interrupted and saved; give the same command to go on.", file=sys.stderr)
            return 130
        found[name].append(numbers)
        print(f"{name}, seed {seed}: " + ", ".join(f"{key} {v:.4g}" for key, v in numbers.items()), flush=True)
        with atomic_file(target) as temporary:
            kept.setdefault(name, {})[str(seed)] = numbers
            temporary.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{tabulated(found).text()}")
    print(f"\nMean ± standard deviation over {len(arguments.seeds)} seeds; each run's numbers are in {target}.")
    return 0


def tabulated(found: dict[str, list[Numbers]]) -> Table:
    """One row a variant: the mean over seeds and, of several, the standard deviation."""
    measures = list(dict.fromkeys(measure for runs in found.values() for measure in runs[0]))
    return Table(("variant", *measures), [
        (name, *(spread([numbers[measure] for numbers in runs]) if measure in runs[0] else "" for measure in measures))
        for name, runs in found.items()])


def settings(study: Study, overrides: Overrides, arguments: Arguments) -> Callable[[int], Experiment]:
    """The experiment of a variant for a seed. Raises ConfigError on data for a study that draws its own."""
    data = to_dict(read(Experiment, study.recipe).data)  # type: ignore[arg-type]
    if arguments.data and data["kind"] == "shapes":
        raise ConfigError("this study wants pictures whose factors are known: leave --data out.")
    if "corpus" in data:
        shown = data | ({"corpus": str(arguments.data)} if arguments.data else {})
    else:
        common = {field.name: data[field.name] for field in fields(ImageData)}
        if arguments.data:
            shown = {"kind": "npz", "path": str(arguments.data), **common}
        elif data["kind"] == "npz":
            shown = {"kind": "digits", **common}
        else:
            shown = data

    def experiment(seed: int) -> Experiment:
        latents = overrides.get("data.kind") == "latents"
        told = {"data.kind": "latents", "data.model": str(place(arguments, study.first, seed))} if latents else {}
        told |= {f"data.data.{key}" if latents else f"data.{key}": value for key, value in shown.items()}
        told |= overrides | {"train.seed": seed}
        told |= {f"train.{name}": limit for name, limit in (("steps", arguments.steps), ("minutes", arguments.minutes))
                 if limit is not None}
        return read(Experiment, study.recipe, {key: value for key, value in told.items() if value is not None})

    return experiment


def held_out(source: Source, limit: int) -> Batch:
    """At most ``limit`` examples of the test part, evenly spread."""
    return next(source.batches("test", size=limit, limit=1))


def place(arguments: Arguments, variant: str, seed: int) -> Path:
    """The folder of a variant's run."""
    return arguments.output / arguments.study / f"{slug(variant)}-{seed}"


def trained_and_measured(experiment: Experiment, folder: Path, study: Study, limit: int) -> Numbers | None:
    """What a run reaches on held-out data, trained first if it is not; None when it was interrupted."""
    if not finished(folder, experiment) and train(experiment, folder, resume=bool(run_checkpoints(folder))).interrupted:
        return None
    source, _ = build(experiment)
    torch.manual_seed(0)
    return study.measure(folder, source, limit)


def spread(values: list[float]) -> str:
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.replace("β", "beta").replace("δ", "delta")).strip("-")
