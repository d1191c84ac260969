"""Variants of a recipe beside each other: each trained with several seeds, measured on held-out data, in one table.

    python recipes/image_vae/study.py collapse
    python recipes/image_vae/study.py beta --seeds 0 1 2
    python recipes/image_vae/study.py dequantization --data cifar10.npz
    python recipes/image_vae/study.py semi-supervised --data mnist.npz --seeds 0 1 2

A variant is a name and what it sets in the recipe's TOML file. What is trained already is not trained again, so a study
can be stopped and started. Runs and numbers (study.json) lie in runs/study/NAME. Without --data, a study that wants an
archive runs on scikit-learn's digits: it then shows that it works, and no more.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Literal

import torch
import tyro

from audiovae.checkpoint import load_model, run_checkpoints
from audiovae.commands.curve import finished
from audiovae.config import read, to_dict
from audiovae.data import LatentsSource
from audiovae.errors import ConfigError
from audiovae.files import atomic_file
from audiovae.image.shapes import combinations, draw
from audiovae.image.source import ImageData, ImageSource
from audiovae.latents import locate
from audiovae.metrics import beta_vae_score, factor_vae_score, mutual_information_gap
from audiovae.metrics.bounds import evidence
from audiovae.metrics.latents import active_units
from audiovae.models import SemiSupervised
from audiovae.report import Table
from audiovae.shapes import Batch
from audiovae.train import Experiment, build, train

HERE = Path(__file__).parent
Numbers = dict[str, float]
Overrides = dict[str, Any]
Source = ImageSource | LatentsSource
SHAPES_JUDGED = 5000
FIRST = "M1"  # the variant whose latents another one is trained on


@dataclass(frozen=True)
class Study:
    """A recipe, its variants, and what is measured of a trained one: (run, data, most examples) to numbers by name."""

    recipe: str
    variants: dict[str, Overrides]
    measure: Callable[[Path, Source, int], Numbers]


@torch.no_grad()
def used(run: Path, source: Source, limit: int) -> Numbers:
    """Whether the latent is used: rate, active units, and the bound, nats an example."""
    model, x = load_model(run), held_out(source, limit).x
    found = evidence(model, x, samples=4)
    return {"rate, nats": float(found.rate.mean()), "active units": float(active_units(locate(model, x)).sum()),
            "distortion, nats": float(found.distortion.mean()), "ELBO, nats": float(found.elbo.mean())}


@torch.no_grad()
def disentangled(run: Path, source: Source, limit: int) -> Numbers:
    """Reconstruction of new shapes, and how their factors lie in the latent's dimensions."""
    model, seen = load_model(run), sum(len(part) for part in source.parts.values())  # type: ignore[union-attr]
    factors = combinations(seen + SHAPES_JUDGED)[seen:]  # the first are those of the data
    x = draw(factors, source.spec.size[-1]).float()  # type: ignore[index]
    codes, known = locate(model, x).flatten(1).double().numpy(), factors.numpy()
    found = evidence(model, x[:limit])
    return {"distortion, nats": float(found.distortion.mean()), "rate, nats": float(found.rate.mean()),
            "MIG": mutual_information_gap(codes, known).score,
            "β-VAE score": beta_vae_score(codes, known).score,
            "FactorVAE score": factor_vae_score(codes, known).score}


@torch.no_grad()
def bits(run: Path, source: Source, limit: int) -> Numbers:
    """Bits per dimension from the ELBO, with one draw of latent and noise for each picture."""
    model, x = load_model(run), held_out(source, limit).x
    nats = torch.cat([evidence(model, part).elbo for part in x.split(100)])
    return {"bits per dimension": -float(nats.mean()) / (x[0].numel() * math.log(2))}


@torch.no_grad()
def mistaken(run: Path, source: Source, limit: int) -> Numbers:
    """Share of held-out examples whose likeliest label is wrong.

    For a model that knows no labels a support vector machine tells them, from the posterior means of the labelled
    examples (M1, Kingma 2014).
    """
    from sklearn.svm import SVC

    model, test = load_model(run), held_out(source, limit)
    label = test.condition.label
    assert label is not None
    if isinstance(model, SemiSupervised):
        guess = torch.cat([model.classify(x).argmax(1) for x in test.x.split(1000)])
    else:
        training = source.part("train")
        assert training.condition.label is not None
        known = training.condition.label >= 0
        machine = SVC(C=10).fit(locate(model, training.x[known]).flatten(1), training.condition.label[known])
        guess = torch.from_numpy(machine.predict(locate(model, test.x).flatten(1)))
    return {"error, %": 100 * float((guess != label).float().mean())}


def held_out(source: Source, limit: int) -> Batch:
    """At most ``limit`` examples of the test part, evenly spread."""
    return next(source.batches("test", size=limit, limit=1))


def rate(kind: str, **more: float) -> Overrides:
    return {"objective.rate.kind": kind} | {f"objective.rate.{key}": value for key, value in more.items()}


DECODER, NOISE = "model.decoder.", "model.likelihood.noise."
STUDIES = {
    "collapse": Study("collapse.toml", {
        "plain VAE": {},
        "linear annealing of β": rate("linear", until=0.5),
        "cyclical annealing of β": rate("cyclical", cycles=4),
        "free bits": rate("free_bits", nats=0.5),
        "capacity": rate("capacity", nats=4.0, gamma=10.0),
        "constant rate": rate("constant_rate", nats=4.0, gamma=1.0),
        "committed rate (δ-VAE)": {"model.bottleneck.committed": 0.5},
        "lagging inference": {"train.encoder_steps": 2, "train.steps": 3000},
        "GECO": rate("geco", target=0.31, speed=0.1),
        "decoder of short reach": {DECODER + "depth": 1, DECODER + "kernel": 3},
        "decoder that drops pixels": {DECODER + "pixel_dropout": 0.5},
    }, used),
    "beta": Study("beta.toml", {
        "β = 1": rate("constant", beta=1.0),
        "β = 4": rate("constant", beta=4.0),
        "β-TCVAE, β = 6": rate("total_correlation", beta=6.0),
        "capacity to 18 nats": rate("capacity", nats=18.0, gamma=30.0, until=0.8),
    }, disentangled),
    "dequantization": Study("dequantization.toml", {
        "uniform noise": {NOISE + "kind": "uniform"},
        "learned noise, flow": {NOISE + "kind": "flow", NOISE + "width": 16, NOISE + "depth": 1, NOISE + "layers": 2},
        "learned noise, logit-normal": {NOISE + "kind": "logit_normal", NOISE + "width": 16, NOISE + "depth": 1},
    }, bits),
    "semi-supervised": Study("m2.toml", {
        "classifier alone": {"data.labelled_share": 1.0, "objective.distortion_weight": 0.0,
                             "objective.rate.kind": "constant", "objective.rate.beta": 0.0},
        "M2": {},
        FIRST: {"model.kind": "autoencoder", "data.labelled_share": 0.01, "train.steps": 8000,
                "model.encoder.kind": "mlp", "model.encoder.widths": (400, 400),
                "model.decoder.kind": "mlp", "model.decoder.widths": (400, 400),
                "model.bottleneck.kind": "gaussian", "model.bottleneck.dim": 50,
                "model.likelihood.kind": "bernoulli"},
        "M1 + M2": {"data.kind": "latents", "model.autoencoder.likelihood.kind": "gaussian",
                    "model.autoencoder.likelihood.scale": "global", "objective.classification": 0.8,
                    "train.steps": 6000},
    }, mistaken),
}


@dataclass(frozen=True)
class Arguments:
    """Train the variants of a study and tell them apart.

    Example: python recipes/image_vae/study.py collapse --seeds 0 1 2
    """

    study: tyro.conf.Positional[Literal["collapse", "beta", "dequantization", "semi-supervised"]]
    """Which."""
    seeds: tuple[int, ...] = (0,)
    """Each variant is trained with each."""
    data: Path | None = None
    """An .npz archive of pictures, in place of the recipe's data."""
    steps: int | None = None
    """Of each run (default: the recipe's)."""
    only: tuple[str, ...] = ()
    """Variants by their whole names (default: all)."""
    limit: int = 2000
    """Held-out examples to measure on, at most."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/study")
    """Folder of the runs and tables."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    study = STUDIES[arguments.study]
    chosen = {name: settings(study, overrides, arguments) for name, overrides in study.variants.items()
              if not arguments.only or name in arguments.only}
    found: dict[str, list[Numbers]] = {name: [] for name in chosen}
    target = arguments.output / arguments.study / "study.json"
    for seed, (name, experiment) in product(arguments.seeds, chosen.items()):
        numbers = trained_and_measured(experiment(seed), place(arguments, name, seed), study, arguments.limit)
        if numbers is None:
            print("Interrupted and saved; give the same command to go on.", file=sys.stderr)
            return 130
        found[name].append(numbers)
        print(f"{name}, seed {seed}: " + ", ".join(f"{key} {v:.4g}" for key, v in numbers.items()), flush=True)
        with atomic_file(target) as temporary:
            temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{tabulated(found).text()}")
    print(f"\nMean ± standard deviation over {len(arguments.seeds)} seeds; each run's numbers are in {target}.")
    return 0


def tabulated(found: dict[str, list[Numbers]]) -> Table:
    """One row a variant: the mean over seeds and, of several, the standard deviation."""
    measures = next(iter(found.values()))[0]
    return Table(("variant", *measures), [
        (name, *(spread([numbers[measure] for numbers in runs]) for measure in measures))
        for name, runs in found.items()])


def settings(study: Study, overrides: Overrides, arguments: Arguments) -> Callable[[int], Experiment]:
    """The experiment of a variant for a seed. Raises ConfigError on an archive for a study that draws its own data."""
    recipe = HERE / study.recipe
    data = to_dict(read(Experiment, recipe).data)  # type: ignore[arg-type]
    if arguments.data and data["kind"] == "shapes":
        raise ConfigError("study beta wants pictures whose factors are known: leave --data out.")
    common = {field.name: data[field.name] for field in fields(ImageData)}
    if arguments.data:
        shown = {"kind": "npz", "path": str(arguments.data), **common}
    elif data["kind"] == "npz":
        shown = {"kind": "digits", **common}
    else:
        shown = data

    def experiment(seed: int) -> Experiment:
        latents = overrides.get("data.kind") == "latents"
        told = {"data.kind": "latents", "data.model": str(place(arguments, FIRST, seed))} if latents else {}
        told |= {f"data.data.{key}" if latents else f"data.{key}": value for key, value in shown.items()}
        told |= overrides | {"train.seed": seed}
        if arguments.steps is not None:
            told["train.steps"] = arguments.steps
        return read(Experiment, recipe, {key: value for key, value in told.items() if value is not None})

    return experiment


def place(arguments: Arguments, variant: str, seed: int) -> Path:
    """The folder of a variant's run."""
    return arguments.output / arguments.study / f"{slug(variant)}-{seed}"


def trained_and_measured(experiment: Experiment, folder: Path, study: Study, limit: int) -> Numbers | None:
    """What a run reaches on held-out data, trained first if it is not; None when it was interrupted."""
    if not finished(folder, experiment) and train(experiment, folder, resume=bool(run_checkpoints(folder))).interrupted:
        return None
    source, _ = build(experiment)
    assert isinstance(source, Source)
    torch.manual_seed(0)
    return study.measure(folder, source, limit)


def spread(values: list[float]) -> str:
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.replace("β", "beta").replace("δ", "delta")).strip("-")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
