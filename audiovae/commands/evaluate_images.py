"""audiovae evaluate for models of pictures, and of sound without codes: on their own held-out data, as a page."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from audiovae.checkpoint import find_checkpoint, load_model, read_description
from audiovae.config import Config, from_dict, merge
from audiovae.data import DataConfig, LatentsSource, Source, binarized
from audiovae.errors import ConfigError, LabelError, ShapeError
from audiovae.evaluate_images import PictureEvaluation, evaluate_pictures, score_generated, told
from audiovae.files import atomic_file, json_lines
from audiovae.gallery import Exhibit, Study, depths, interpolation, plane, samples, traversal
from audiovae.gallery.exhibit import show
from audiovae.gallery.study import pick
from audiovae.image.pictures import PartName
from audiovae.image.pretrained import scoring_network
from audiovae.image.source import ImageSource
from audiovae.models import DensityModel, Hierarchical, Model, Multires
from audiovae.report import Report, compression, draw_groups, draw_kl, draw_loss, draw_usage
from audiovae.shapes import Batch, Condition, DataSpec
from audiovae.spectrogram_data import SpectrogramSource

if TYPE_CHECKING:
    from audiovae.commands.evaluate import Arguments

ACROSS = 16  # pictures in a row of the page
CURVES = ("elbo", "bits_per_dimension", "distortion", "rate")


def run(asked: "Arguments", settings: dict[str, str | list[str]]) -> int:
    """Measure, print the tables, and write evaluation.json and evaluation.html where an output is named."""
    model = load_model(asked.model)
    if isinstance(model, Multires):
        raise ConfigError("the levels of 'multires' are models apart, of sound; for pictures take 'hierarchical'.")
    source = own_data(asked.model, model.data, settings)
    source.fit(model.hop)
    if asked.split == "test" and not isinstance(source, _Parted):  # crops are of two parts only
        asked = replace(asked, split="valid")
    batch = held_out(source, asked.split, asked.limit, asked.seed)
    with tqdm(total=len(batch.x), unit="example", disable=None) as bar:
        result = evaluate_pictures(model, batch, binarized(source), asked.samples, asked.seed, bar.update)
    result.notes += trained_by(asked.model)
    if asked.generate and model.data.sample_rate is None:
        _score(result, model, source, batch, asked)
    tables = {"measures": result.table(), "latent": result.latent(), "groups": result.each_group(),
              "compression": compression(model, tuple(batch.x.shape[2:])), "generated": result.generated()}
    print("\n\n".join([*(table.text() for table in tables.values() if table.rows), *result.notes]))
    if asked.output is None:
        return 0
    values: dict[str, Any] = {name: json.loads(table.json()) for name, table in tables.items()}
    values["measures"] = {name: numbers(result.interval(name)) for name in result.values}
    values["generated"] = {name: numbers(value) for name, value in result.scores}
    values["kl_per_dimension"] = None if result.kl is None else [float(f"{kl:.6g}") for kl in result.kl]
    with atomic_file(asked.output / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    page(asked, model, source, batch, result).write(asked.output / "evaluation.html")
    print(f"\n{len(batch.x)} {result.what} measured; evaluation.json and evaluation.html are in {asked.output}.")
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


def trained_by(path: Path) -> list[str]:
    """A note on what a model was trained by besides its likelihood, in whose features; none where there was nothing."""
    description = read_description(find_checkpoint(path))
    experiment, networks = description.get("experiment", {}), description.get("networks", {})
    objective = experiment.get("objective", {})
    found = [f"the criterion {kind} (weight {criterion['weight']:g}"
             + (f", in the features of the {networks[kind]})" if kind in networks else ")")
             for criterion in objective.get("criteria", ()) for kind in (criterion["kind"],)]
    found += ["a patch discriminator"] if experiment.get("adversary") else []
    if not found:
        return []
    weight = objective.get("distortion_weight", 1.0)
    return [f"Trained by {' and '.join(found)} beside the likelihood (weight {weight:g}): what is said of bounds and "
            "bits holds, but training did not aim at them."]


_Parted = ImageSource | LatentsSource | SpectrogramSource


@dataclass(frozen=True)
class _Held(Config):
    data: DataConfig


def held_out(source: Source, split: PartName, limit: int | None, seed: int) -> Batch:
    """A part of the data, or ``limit`` examples of it drawn by lot, in their order; 0 or None for all.

    Raises ConfigError where the data has no such part.
    """
    if isinstance(source, ImageSource | LatentsSource):
        whole = source.part(split)
    elif split == "valid":
        whole = _joined(source.validation())
    elif isinstance(source, SpectrogramSource):
        whole = _joined(list(source.batches(split)))
    else:
        raise ConfigError(f"data of this kind has no {split} part to measure on: take --split valid.")
    if not limit or limit >= len(whole.x):
        return whole
    order = torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(seed))
    return chosen(whole, order[:limit].sort().values)


def _joined(batches: list[Batch]) -> Batch:
    label = [batch.condition.label for batch in batches if batch.condition.label is not None]
    embedding = [batch.condition.embedding for batch in batches if batch.condition.embedding is not None]
    condition = Condition(torch.cat(label) if label else None, embedding=torch.cat(embedding) if embedding else None)
    return Batch(torch.cat([batch.x for batch in batches]), condition,
                 tuple(name for batch in batches for name in batch.names))


def numbers(value: object) -> dict[str, Any]:
    """A measure's parts by name; None for a number that is not finite, which JSON does not know."""
    return {name: None if isinstance(its, float) and not math.isfinite(its) else its
            for name, its in vars(value).items()}


def chosen(batch: Batch, index: Tensor) -> Batch:
    """The examples at ``index`` (M,) int64, in its order."""
    return Batch(batch.x[index], pick(batch.condition, index) or Condition(),
                 tuple(batch.names[i] for i in index.tolist()))


def page(asked: "Arguments", model: Model, source: Source, batch: Batch, result: PictureEvaluation) -> Report:
    """What was measured, reconstructions, draws, walks through the latent space, and the course of training."""
    report = Report("Evaluation", lead=f"{asked.model} on {len(batch.x)} {result.what} of the {asked.split} part.")
    sizes = compression(model, tuple(batch.x.shape[2:]))
    for table in (result.table(), result.latent(), result.each_group(), sizes, result.generated()):
        if table.rows:
            report.table(table)
    if result.groups:
        report.figure("What each group of latents says of an example, level 0 the fastest and last drawn",
                      draw_groups([use.nats for use in result.groups]))
    for note in result.notes:
        report.text(note)
    if result.kl is not None:
        report.figure("What each latent dimension says of an example", draw_kl(result.kl))
    if result.counts:
        report.figure("Use of the codes, most frequent first", draw_usage(result.counts))
    if model.data.dims == 1 and model.data.sample_rate is None:
        return report  # latents of pictures: nothing to be seen
    if not isinstance(model, DensityModel):
        few = chosen(batch, torch.linspace(0, len(batch.x) - 1, min(ACROSS, len(batch.x))).long())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(asked.seed)
            rows = [few.x, model.reconstruct(few.x, told(model, few.condition))]  # type: ignore[operator]
        show("reconstructions", "Reconstructions", f"Held-out {result.what} and what the model makes of them.", rows,
             ["source", "reconstruction"], sample_rate=model.data.sample_rate, mel=model.data.mel).put_on(report)
    for exhibit in _exhibits(asked, model, source, batch):
        exhibit.put_on(report)
    log = find_checkpoint(asked.model).parent / "log.jsonl"
    if log.exists():
        logged = {name for row in json_lines(log) for name in row}
        report.section("Training")
        report.figure("The course of training", draw_loss(log, [name for name in CURVES if name in logged]))
    return report


def _exhibits(asked: "Arguments", model: Model, source: Source, batch: Batch) -> Iterator[Exhibit]:
    """Samples, and for a continuous latent walks through it; those that a model allows."""
    generator = torch.Generator().manual_seed(asked.seed)
    if isinstance(model, DensityModel):
        drawn = model.sample(4 * ACROSS, generator=generator)
        yield show("samples", "Samples", f"{len(drawn)} samples.", drawn.split(ACROSS), mel=model.data.mel)
        return
    if isinstance(model, Hierarchical):
        yield revealed(model, chosen(batch, torch.arange(min(ACROSS, len(batch.x)))))
    if model.code_levels:
        return  # codes are drawn by a prior of their own
    train = held_out(source, "train", 10_000, asked.seed) if isinstance(source, ImageSource) else source.batch(0)
    study = Study(model.requires_grad_(False), train, batch, asked.split, generator=generator)
    for make in (depths, samples, partial(interpolation, batch=batch), traversal, plane):
        with suppress(ConfigError, LabelError, ShapeError):  # a plane of one dimension, latents that are opposite
            yield make(study)


def revealed(model: Hierarchical, batch: Batch) -> Exhibit:
    """What the top level holds, and what each below it adds: levels switched on one after the other."""
    with torch.no_grad():
        condition = told(model, batch.condition)
        codes = model.encode_levels(batch.x, condition)
        steps = [[None] * first + list(codes[first:]) for first in reversed(range(len(codes)))]
        rows = [batch.x, *(model.reveal(step, condition) for step in steps)]
    names = ["source", *(f"levels {first} and up" if first else "all" for first in reversed(range(len(codes))))]
    return show("levels", "Levels", "Held-out pictures from the top level alone, and with those below it; in place of "
                "a level that is not told stands the mean of its codes.", rows, names, "From the top down",
                mel=model.data.mel)


def _score(result: PictureEvaluation, model: Model, source: Source, batch: Batch, asked: "Arguments") -> None:
    """Add the scores of generated pictures, or the reason why there are none."""
    try:
        network = scoring_network(asked.network, source)
        result.scores = score_generated(model, network, batch, asked.generate, asked.seed)
    except (ConfigError, ShapeError) as error:
        result.notes.append(f"No scores of generated pictures: {error}")
