"""audiovae latents: walk a trained model's latent space, and tell what it is like."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from audiovae.commands.arguments import parse, refuse, split_settings
from audiovae.errors import ConfigError, LabelError, OutputError, ShapeError
from audiovae.gallery import (
    Exhibit,
    Study,
    attribute,
    depths,
    diagnosis,
    interpolation,
    neighbours,
    open_study,
    plane,
    recordings,
    restyled,
    samples,
    traversal,
)
from audiovae.gallery.study import MOST
from audiovae.latents import augment, write_variations
from audiovae.report import Report

Action = Literal["sample", "interpolate", "traverse", "attribute", "manifold", "restyle", "nearest", "diagnose",
                 "depth", "augment", "report"]
LISTED = 4  # files that are told by name
OF_SOUND = 4  # samples, where none are asked for: each is a file


OF_ACTIONS = {"temperature": ("sample", "nearest", "augment"), "label": ("sample",), "kind": ("interpolate",),
              "steps": ("interpolate", "traverse"), "with_labels": ("attribute",), "without": ("attribute",),
              "by": ("attribute",)}


@dataclass(frozen=True)
class Arguments:
    """Walk the latent space of a trained model (bottleneck gaussian, identity or sparse); draw it, or let it be heard.

    Example: audiovae latents interpolate --model runs/digits -o out

    sample: new data. interpolate: from one example to the next. traverse: each latent dimension alone. attribute:
    along the vector of an attribute. manifold: the plane of two dimensions. restyle: one style as every label.
    nearest: samples beside their nearest training examples. diagnose: what is used, what is known, holes. depth:
    examples rebuilt from a ladder's top groups alone. augment: variations of the training data, for a new data set.
    report: one page of all of these that apply, but augment.

    The data is the run's own; settings such as --data.corpus change it.
    """

    action: tyro.conf.Positional[Action]
    """What to do."""
    model: Path
    """Training run or checkpoint folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("latents")
    """Folder for what is drawn or written; for augment a new folder, or an .npz file."""
    split: Literal["train", "valid", "test"] = "test"
    """Part of the data that is held out (of recordings, always valid)."""
    limit: int = 1000
    """Most examples of it to take, drawn at random; for augment, of the training data."""
    count: int | None = None
    """Samples (default 64, of sound 4), pairs, examples or variations of each, as the action has it."""
    temperature: float = 1.0
    """Spread of what is drawn, times this."""
    steps: int = 9
    """Steps of a walk."""
    kind: Literal["linear", "spherical"] = "spherical"
    """Of an interpolation."""
    label: str | None = None
    """Sample this label only."""
    with_labels: tuple[str, ...] = ()
    """Groups that have the attribute."""
    without: tuple[str, ...] = ()
    """Groups that do not (default: all others)."""
    by: str = "label"
    """What groups are: label, gender (of a corpus), or a file of names and groups, a tab between."""
    recordings: tuple[Path, ...] = ()
    """Two recordings to interpolate, for a model of sound."""
    seed: int = 0
    """Another seed draws other latents and other examples."""


def main(argv: list[str]) -> int:
    known, settings = split_settings(argv)
    arguments = parse("latents", Arguments, known)
    if arguments.output.is_file() and arguments.action != "augment":  # better told now than after the work
        raise OutputError(f"{arguments.output} is a file: name a folder.")
    for name, least in (("count", 1), ("steps", 2)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} wants {least} or more, got {value}.")
    if not 0 <= arguments.temperature < math.inf:
        raise ConfigError(f"--temperature wants 0 or more, got {arguments.temperature:g}.")
    if arguments.recordings and (arguments.action != "interpolate" or len(arguments.recordings) != 2):
        raise ConfigError("--recordings wants two recordings, for the action interpolate.")
    if arguments.action != "report":
        refuse(arguments, [name for name, actions in OF_ACTIONS.items() if arguments.action not in actions],
               f"is not for the action {arguments.action}")
    torch.manual_seed(arguments.seed)
    most = None if arguments.action == "nearest" else MOST  # a copy may be of any of them
    study = open_study(arguments.model, settings, arguments.split, arguments.limit, arguments.seed, most)
    if arguments.action == "augment":
        return _augment(study, arguments)
    exhibits = _exhibits(study, arguments)
    if arguments.action == "report":
        return _report(exhibits, arguments, study.part)
    exhibit = exhibits[arguments.action]()
    paths = exhibit.write(arguments.output)
    for caption, table in exhibit.tables.items():
        print(f"{caption}:\n\n{table.text()}\n")
    written = ", ".join(path.name for path in paths[:LISTED]) + (", ..." if len(paths) > LISTED else "")
    print(f"{exhibit.sentence} Written to {arguments.output}: {written}.")
    return 0


def _exhibits(study: Study, arguments: Arguments) -> dict[str, Callable[[], Exhibit]]:
    """What each action makes, in the order of a page."""
    count, sound = arguments.count, study.sample_rate is not None
    batch = recordings(study, arguments.recordings) if arguments.recordings else study.held_out
    return {
        "sample": lambda: samples(study, count or (OF_SOUND if sound else 64), arguments.temperature, arguments.label),
        "interpolate": lambda: interpolation(study, batch, count or 6, arguments.steps, arguments.kind),
        "traverse": lambda: traversal(study, arguments.steps, count or 12),
        "attribute": lambda: attribute(study, arguments.with_labels, arguments.without, arguments.by),
        "manifold": lambda: plane(study, count or 15),
        "restyle": lambda: restyled(study, count or 8),
        "nearest": lambda: neighbours(study, count or (OF_SOUND if sound else 12), arguments.temperature),
        "diagnose": lambda: diagnosis(study),
        "depth": lambda: depths(study, count or 8),
    }


def _report(exhibits: dict[str, Callable[[], Exhibit]], arguments: Arguments, part: str) -> int:
    """One page of all that apply to this model; what does not is named there with its reason."""
    report = Report("Latent space", lead=f"{arguments.model}, on its {part} data.")
    missing = []
    for name, make in exhibits.items():
        try:
            make().put_on(report)
        except (ConfigError, LabelError, ShapeError) as error:  # such as labels, to a model that is told none
            missing.append(f"{name}: {str(error).removeprefix('latents: ')}")
    if missing:
        report.section("What does not apply to this model")
        for line in missing:
            report.text(line)
    report.write(arguments.output / "latents.html")
    print(f"{len(exhibits) - len(missing)} of {len(exhibits)} exhibits apply; the page is "
          f"{arguments.output / 'latents.html'}.")
    return 0


def _augment(study: Study, arguments: Arguments) -> int:
    examples = slice(0, arguments.limit)
    x, label = study.train.x[examples], study.train.condition.label
    made = augment(study.model, x, arguments.count or 1, study.told(study.train, examples), arguments.temperature,
                   study.generator)
    written = write_variations(arguments.output, made, label if label is None else label[examples],
                               study.model.data.labels, study.sample_rate)
    print(f"{written} variations of {len(x)} training examples at temperature {arguments.temperature:g} written to "
          f"{arguments.output}.")
    return 0
