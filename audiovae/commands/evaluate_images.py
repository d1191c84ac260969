"""audiovae evaluate for a model of pictures: measured on the held-out part of its own data, shown on a page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from audiovae.checkpoint import find_checkpoint, load_model, read_description
from audiovae.config import Config, from_dict, merge
from audiovae.data import DataConfig, Source
from audiovae.errors import ConfigError, ShapeError
from audiovae.evaluate_images import PictureEvaluation, evaluate_pictures, is_told, score_generated, told
from audiovae.files import atomic_file
from audiovae.image.features import classifier_of
from audiovae.image.pictures import PartName
from audiovae.image.source import ImageSource
from audiovae.latents import interpolate, manifold, traverse
from audiovae.models import Autoencoder, DensityModel, Model
from audiovae.report import Report, draw_kl, draw_loss, draw_pictures, draw_usage
from audiovae.shapes import Batch, Condition, DataSpec

if TYPE_CHECKING:
    from audiovae.commands.evaluate import Arguments

ACROSS = 16  # pictures in a row of the page
CURVES = ("elbo", "bits_per_dimension", "distortion", "rate")


def run(asked: "Arguments", settings: dict[str, str | list[str]]) -> int:
    """Measure, print the tables, and write evaluation.json and evaluation.html where an output is named."""
    model = load_model(asked.model)
    source = own_data(asked.model, model.data, settings)
    batch = held_out(source, asked.split, asked.limit, asked.seed)
    binarize = source.config.binarize if isinstance(source, ImageSource) else "none"
    with tqdm(total=len(batch.x), unit="picture", disable=None) as bar:
        result = evaluate_pictures(model, batch, binarize, asked.samples, asked.seed, bar.update)
    if asked.generate:
        _score(result, model, source, batch, asked)
    tables = {"measures": result.table(), "latent": result.latent(), "generated": result.generated()}
    print("\n\n".join([*(table.text() for table in tables.values() if table.rows), *result.notes]))
    if asked.output is None:
        return 0
    values: dict[str, Any] = {name: json.loads(table.json()) for name, table in tables.items()}
    values["measures"] = {name: vars(result.interval(name)) for name in result.values}
    values["generated"] = {name: vars(value) for name, value in result.scores}
    values["kl_per_dimension"] = None if result.kl is None else [float(f"{kl:.6g}") for kl in result.kl]
    with atomic_file(asked.output / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    page(asked, model, batch, result).write(asked.output / "evaluation.html")
    print(f"\n{len(batch.x)} pictures measured; evaluation.json and evaluation.html are in {asked.output}.")
    return 0


def own_data(path: Path, spec: DataSpec, settings: dict[str, str | list[str]]) -> Source:
    """The data a model was trained on, as its checkpoint tells, changed by --data settings.

    Raises ConfigError where the checkpoint tells of none, or what comes out is not what the model takes.
    """
    experiment = read_description(find_checkpoint(path)).get("experiment", {})
    if not all(key.startswith("data.") for key in settings):
        raise ConfigError(f"settings of --data only are taken here, got {', '.join(f'--{key}' for key in settings)}.")
    values = merge({"data": experiment.get("data", {})}, settings)
    if not values["data"]:
        raise ConfigError(f"model {path} does not tell what it was trained on: name the pictures with --data.kind.")
    source = from_dict(_Held, values, source=f"model {path}").data.build(seed=0)
    found, wanted = ((s.channels, s.size, s.levels) for s in (source.spec, spec))
    if found != wanted:
        raise ConfigError(f"model {path} was trained on pictures of (channels, size, levels) {wanted}, these are of "
                          f"{found}: name others with --data.")
    return source


@dataclass(frozen=True)
class _Held(Config):
    data: DataConfig


def held_out(source: Source, split: PartName, limit: int | None, seed: int) -> Batch:
    """A part of the data, or ``limit`` examples of it drawn by lot, in their order; 0 or None for all.

    Raises ConfigError where the data has no such part.
    """
    if isinstance(source, ImageSource):
        whole = source.part(split)
    elif split == "valid":
        batches = source.validation()
        label = [batch.condition.label for batch in batches if batch.condition.label is not None]
        whole = Batch(torch.cat([batch.x for batch in batches]), Condition(torch.cat(label) if label else None),
                      tuple(name for batch in batches for name in batch.names))
    else:
        raise ConfigError(f"data of this kind has no {split} part to measure on: take --split valid.")
    if not limit or limit >= len(whole.x):
        return whole
    order = torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(seed))
    return chosen(whole, order[:limit].sort().values)


def chosen(batch: Batch, index: Tensor) -> Batch:
    """The examples at ``index`` (M,) int64, in its order."""
    label = batch.condition.label
    return Batch(batch.x[index], Condition(None if label is None else label[index]),
                 tuple(batch.names[i] for i in index.tolist()))


def page(asked: "Arguments", model: Model, batch: Batch, result: PictureEvaluation) -> Report:
    """What was measured, reconstructions, draws, walks through the latent space, and the course of training."""
    report = Report("Evaluation", lead=f"{asked.model} on {len(batch.x)} pictures of the {asked.split} part.")
    for table in (result.table(), result.latent(), result.generated()):
        if table.rows:
            report.table(table)
    for note in result.notes:
        report.text(note)
    if result.kl is not None:
        report.figure("What each latent dimension says of a picture", draw_kl(result.kl))
    if result.counts:
        report.figure("Use of the codes, most frequent first", draw_usage(result.counts))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        few = chosen(batch, torch.linspace(0, len(batch.x) - 1, min(ACROSS, len(batch.x))).long())
        if not isinstance(model, DensityModel):
            report.section("Reconstructions")
            report.figure("Held-out pictures above what the model makes of them",
                          draw_pictures([few.x, model.reconstruct(few.x, told(model, few.condition))],
                                        ["source", "reconstruction"]))
        _draw_samples(report, model, asked.seed)
        if isinstance(model, Autoencoder) and not model.bottleneck.is_discrete and not model.decoder.autoregressive:
            _draw_walks(report, model, few, result)
    log = find_checkpoint(asked.model).parent / "log.jsonl"
    if log.exists():
        logged = {name for line in log.read_text().splitlines() for name in json.loads(line)}
        report.section("Training")
        report.figure("The course of training", draw_loss(log, [name for name in CURVES if name in logged]))
    return report


def _draw_samples(report: Report, model: Model, seed: int) -> None:
    """Four rows from the prior; of a model that is told labels, one row for each of them."""
    labels = model.data.labels[:ACROSS] if is_told(model) else ()
    conditions = [Condition(torch.full((ACROSS,), k)) for k in range(len(labels))] or [None] * 4
    generator = torch.Generator().manual_seed(seed)
    try:
        rows = [model.sample(ACROSS, condition, generator=generator) for condition in conditions]
    except ConfigError as error:
        report.text(f"No samples: {error}")
        return
    report.section("Samples")
    report.figure("Drawn from the prior", draw_pictures(rows, labels))


def _draw_walks(report: Report, model: Autoencoder, few: Batch, result: PictureEvaluation) -> None:
    """Interpolation between pictures, a traversal of each dimension, and the plane of the two that say most."""
    condition = told(model, few.condition)
    z = model.bottleneck.decode(model.encode(few.x, condition))
    report.section("Walks through the latent space")
    rows = [model.generate(interpolate(z[i], z[-1 - i], ACROSS, "spherical"),
                           None if condition is None else _expanded(condition, i)) for i in range(min(4, len(z) // 2))]
    report.figure("From one held-out picture to another, along a great circle", draw_pictures(rows))
    if result.kl is None:
        return
    order = result.kl.argsort(descending=True).tolist()
    one = None if condition is None else condition.first(1)
    values = torch.linspace(-3, 3, ACROSS).tolist()
    report.figure("One dimension moved from -3 to 3, the others as in the first held-out picture; by their KL",
                  draw_pictures([traverse(model, z[0], d, values, one) for d in order[:8]],
                                [f"z{d}: {result.kl[d]:.2f} nats" for d in order[:8]]))
    if len(order) > 1:
        side = 12
        plane = manifold(model, side, (order[0], order[1]), one)
        report.figure(f"The plane of z{order[0]} (to the right) and z{order[1]} (upwards) at quantiles of the prior, "
                      "the others 0", draw_pictures(list(plane.split(side))))


def _expanded(condition: Condition, index: int) -> Condition:
    label = condition.label
    return Condition(None if label is None else label[index].expand(ACROSS))


def _score(result: PictureEvaluation, model: Model, source: Source, batch: Batch, asked: "Arguments") -> None:
    """Add the scores of generated pictures, or the reason why there are none."""
    try:
        kind = getattr(source.config, "kind", "data") if isinstance(source, ImageSource) else "spectrogram"
        result.scores = score_generated(model, classifier_of(source, kind), batch, asked.generate, asked.seed)
    except (ConfigError, ShapeError) as error:
        result.notes.append(f"No scores of generated pictures: {error}")
