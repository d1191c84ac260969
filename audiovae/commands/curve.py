"""audiovae curve: one recipe trained once for each β, and where each lands between rate and distortion.

Alemi 2018 ("Fixing a Broken ELBO"), section 3.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from audiovae.checkpoint import load_model, read_description, run_checkpoints
from audiovae.commands.arguments import parse, split_settings
from audiovae.config import from_dict, merge, read, to_dict
from audiovae.data import Source, binarized, bits_of
from audiovae.errors import ConfigError, OutputError
from audiovae.files import atomic_file
from audiovae.metrics import Interval, mean_interval
from audiovae.metrics.bounds import evidence
from audiovae.report import Report, Table, draw_rate_distortion
from audiovae.train import Experiment, build, train

UNWEIGHED = ("density", "hierarchical", "multires", "prior")  # models whose rate no β weighs


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe once for each β, all else alike, and draw distortion over rate on held-out data.

    Example: audiovae curve recipes/image_vae/baseline.toml --betas 0.1 0.3 1 3 10 -o runs/curve

    Any setting can be given too, as --section.key value. A run that is finished is not trained again, and one that
    was stopped goes on. Writes a run for each β, curve.json and curve.html into the output folder.
    """

    config: tyro.conf.Positional[Path]
    """TOML file of the recipe; its objective.rate must be of a kind that has a beta."""
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Weights of the rate, each a number of at least 0."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the runs, the table and the page."""


@dataclass(frozen=True)
class Point:
    """A trained model on held-out data: means over examples with their 95 % interval.

    distortion, rate : nats an example. bits_per_dimension : from their sum, whatever β is.
    """

    beta: float
    distortion: Interval
    rate: Interval
    bits_per_dimension: Interval


def main(argv: list[str]) -> int:
    known, settings = split_settings(argv)
    arguments = parse("curve", Arguments, known)
    betas = arguments.betas
    for beta in betas:
        if not 0 <= beta < math.inf or betas.count(beta) > 1:
            raise ConfigError(f"--betas wants numbers of at least 0, each once, got {beta:g}.")
    if not betas:
        raise ConfigError("--betas wants at least one number.")
    if arguments.output.is_file():
        raise OutputError(f"{arguments.output} is a file: name a folder.")
    recipe = read(Experiment, arguments.config, settings)
    bottleneck = getattr(recipe.model, "bottleneck", None)
    if bottleneck is not None and bottleneck.kind != "gaussian":
        raise ConfigError(f"curve wants a latent whose rate can be weighed; that of bottleneck '{bottleneck.kind}' is "
                          "none, or always the same: take 'gaussian'.")
    if recipe.model.kind in UNWEIGHED:
        raise ConfigError(f"curve wants a latent whose rate can be weighed; a model of kind '{recipe.model.kind}' has "
                          "none: take 'autoencoder' with bottleneck 'gaussian', or 'ladder'.")
    experiments = {beta: at_beta(recipe, beta) for beta in sorted(betas)}
    points, bits = [], ""
    for beta, experiment in experiments.items():
        folder = arguments.output / f"beta-{beta:g}"
        if not finished(folder, experiment):
            state = train(experiment, folder, resume=bool(run_checkpoints(folder)))
            if state.interrupted:
                print(f"Interrupted at β = {beta:g} and saved; give the same command to go on.", file=sys.stderr)
                return 130
        source, _ = build(experiment)
        points.append(point := measured(beta, folder, source))
        bits = bits_of(load_model(folder), source.spec, binarized(source))
        print(f"β = {beta:g}: distortion {point.distortion} nats, rate {point.rate} nats; {folder}", flush=True)
    table = tabulated(points, bits)
    print(f"\n{table.text()}")
    write(arguments, table, points)
    print(f"\ncurve.json and curve.html are in {arguments.output}.")
    return 0


def at_beta(recipe: Experiment, beta: float) -> Experiment:
    """The recipe with another weight of the rate.

    Raises ConfigError where its rate control has none, as one that aims at a rate.

    >>> at_beta(Experiment(), 4).objective.rate.beta
    4.0
    """
    values = to_dict(recipe)
    kind = values["objective"]["rate"]["kind"]
    if "beta" not in values["objective"]["rate"]:
        raise ConfigError(f"a curve over β wants a rate control that weighs the rate by β, got objective.rate.kind "
                          f"{kind}: take constant, linear or cyclical.")
    return from_dict(Experiment, merge(values, {"objective.rate.beta": beta}))


def finished(folder: Path, experiment: Experiment) -> bool:
    """Whether a run has used its budget; ConfigError where it is the run of another experiment."""
    found = run_checkpoints(folder)
    if not found:
        return False
    wanted = to_dict(experiment)
    told = to_dict(from_dict(Experiment, read_description(found[-1])["experiment"]))  # those that came since by default
    if told != wanted:
        raise ConfigError(f"{folder} holds a run with other settings ({_difference(told, wanted)}): name another "
                          "output folder.")
    state, budget = json.loads((found[-1] / "state.json").read_text()), experiment.train
    return any(limit is not None and state[name] >= limit
               for name, limit in (("step", budget.steps), ("minutes", budget.minutes)))


def _difference(before: object, after: object, path: str = "") -> str:
    """The first setting by which two experiments differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                return _difference(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {before}, not {after}"


def measured(beta: float, run: Path, source: Source) -> Point:
    """Rate and distortion of a run's last model on the held-out batches of its data; the same at every call."""
    model = load_model(run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [(evidence(model, batch.x, batch.condition), batch.x[0].numel()) for batch in source.validation()]
    distortion, rate = (torch.cat([getattr(part, name) for part, _ in parts]) for name in ("distortion", "rate"))
    bits = (distortion + rate) / (parts[0][1] * math.log(2))
    return Point(beta, *(mean_interval(values.tolist()) for values in (distortion, rate, bits)))


def tabulated(points: list[Point], bits: str) -> Table:
    rows = [(f"{p.beta:g}", str(p.distortion), str(p.rate), f"{-(p.distortion.mean + p.rate.mean):.2f}",
             str(p.bits_per_dimension)) for p in points]
    return Table(("β", "distortion, nats", "rate, nats", "ELBO, nats", f"bits per dimension ({bits})"), rows)


def write(arguments: Arguments, table: Table, points: list[Point]) -> None:
    values = [{name: value if name == "beta" else vars(value) for name, value in vars(point).items()}
              for point in points]
    with atomic_file(arguments.output / "curve.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
    report = Report("Rate and distortion", lead=f"{arguments.config}, trained once for each β; "
                                                f"{points[0].rate.count} held-out examples (validation part).")
    report.table(table)
    report.figure("Distortion over rate. Along a thin line the ELBO is one; the thick one is the best reached.",
                  draw_rate_distortion([p.beta for p in points], [p.rate.mean for p in points],
                                       [p.distortion.mean for p in points]))
    report.write(arguments.output / "curve.html")
