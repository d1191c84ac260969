"""New pictures from priors over codes, the slowest level first; or from a model that has a prior of its own.

    FOLDER/pictures.png, pictures.html   all of them, 8 a row, and a page: samples, what each level holds, bits
    FOLDER/0000.png, 0000.codes ...      each by itself, pixel for pixel, and the codes that `audiovae decode` reads
    FOLDER/0000.wav ...                  the sound of each, where pictures are spectrograms

Every draw is a function of (seed, picture, level), so a picture is the same whatever is drawn beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from audiovae.audio.io import write_audio
from audiovae.audio.spectrogram import sound_of
from audiovae.checkpoint import find_checkpoint, fingerprint, load_model, read_description
from audiovae.code_data import CodesData
from audiovae.config import from_dict
from audiovae.errors import CheckpointError, ConfigError, LabelError, nearest
from audiovae.files import atomic_folder
from audiovae.gallery.exhibit import Exhibit, show
from audiovae.generate import PriorFile, Request, check_model, check_request
from audiovae.image.features import classifier_of
from audiovae.image.files import write_picture
from audiovae.image.source import ImageSource
from audiovae.models import Model, PriorModel
from audiovae.picture_codec import PictureCodec, decode_codes, labels_of
from audiovae.priors import Drawing
from audiovae.report import Report, compression
from audiovae.seeds import generator
from audiovae.shapes import Condition
from audiovae.train import Experiment

A_ROW, SHOWN, AGAIN = 8, 8, 2  # pictures a row, those whose levels are shown, and how often lower ones are drawn anew
Codes = dict[int, Tensor]


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, C, H, W) in [0, 1], their codes (N, Q, H', W') by level, a sentence on them, and their label."""

    x: Tensor
    codes: Codes
    sentence: str
    label: str | None = None


def open_decoder(name: str | Path, priors: Sequence[PriorFile]) -> Model:
    """The model that ``priors`` are over, to decode with; CheckpointError where it is another, naming both sides."""
    model = load_model(name).requires_grad_(False).eval()
    check_model(priors, name, fingerprint(model))
    for prior in priors:
        codes, sides = prior.codes, tuple(side * prior.codes.hop for side in prior.data.size or ())
        if model.data.size is not None and sides != model.data.size:
            raise CheckpointError(f"prior {prior.path} makes {prior.data.size} codes of hop {codes.hop}, pictures of "
                                  f"{sides}, but model {name} is of pictures of {model.data.size}: train the prior on "
                                  "those.")
    return model


def draw_codes(priors: Sequence[PriorFile], request: Request, given: Codes | None = None, again: int = 0,
               progress: Callable[[int], object] | None = None) -> Codes:
    """Codes (count, Q, H, W) of every prior's level, those ``given`` kept; another ``again`` is another draw.

    Raises LabelError on a label that a prior was not trained with, ConfigError on weights that it cannot have.
    """
    check_request(priors, request)
    codes = dict(given or {})
    for prior in (prior for prior in priors if prior.codes.level not in codes):
        level, label, parts = prior.codes.level, _index(prior, request.label), []
        model: PriorModel = prior.load(request.weights)
        assert prior.data.size is not None
        for first in range(0, request.count, request.batch):
            last = min(first + request.batch, request.count)
            upper = codes[level + 1][first:last] if prior.codes.upper else None
            dice = [generator(request.seed, picture, level, again) for picture in range(first, last)]
            parts.append(model.draw(dice, prior.data.size, Condition(_told(label, last - first), upper=upper),
                                    request.drawings.get(level, Drawing()), progress=progress))
        codes[level] = torch.cat(parts)
    return codes


def decode(model: Model, codes: Codes, label: int | None = None) -> Tensor:
    """Codes of some levels to pictures, told all the same label; see :func:`decode_codes`."""
    return decode_codes(model, codes, Condition(_told(label, len(next(iter(codes.values()))))))


def from_priors(priors: Sequence[PriorFile], model: Model, request: Request, reject: int = 1,
                progress: Callable[[int], object] | None = None) -> Drawn:
    """Pictures drawn level by level; of ``reject`` times as many, those that a classifier takes for the label."""
    _check_reject(reject, request.label)
    codes = draw_codes(priors, replace(request, count=request.count * reject), progress=progress)
    x = decode(model, codes, model_label(model, request.label))
    how = " and ".join(f"level {prior.codes.level} at {in_words(request.drawings.get(prior.codes.level, Drawing()))}"
                       for prior in priors)
    keep, said = likeliest(x, read_description(priors[0].path), request, reject)
    numbers = "" if request.weights == "float32" else f", {request.weights} weights"
    return Drawn(x[keep], {level: its[keep] for level, its in codes.items()},
                 f"{request.count} pictures{_asked(request.label)}, {how}, seed {request.seed}{numbers}.{said}",
                 request.label)


def from_model(path: Path, request: Request, temperature: float = 1.0, reject: int = 1) -> tuple[Model, Drawn]:
    """Pictures from the prior that a model has itself, such as a VAE's, a ladder's or a density's.

    Raises ConfigError where the model has no prior, or is of sound; LabelError on a label that it is not told.
    """
    _check_reject(reject, request.label)
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"--temperature wants 0 or more, got {temperature:g}.")
    folder = find_checkpoint(path)
    model = load_model(folder).requires_grad_(False).eval()
    if model.data.dims != 2 or model.data.sample_rate is not None:
        raise ConfigError(f"{path} is a model of sound, not of pictures: draw from it by `audiovae latents sample "
                          f"--model {path}`.")
    label = model_label(model, request.label, str(path))
    count = request.count * reject
    dice = torch.Generator().manual_seed(request.seed)
    told = Condition(_told(label, count)) if label is not None else None
    x = model.sample(count, told, temperature, dice, model.data.size)
    keep, said = likeliest(x, read_description(folder), request, reject)
    return model, Drawn(x[keep], {}, f"{request.count} pictures{_asked(request.label)} from the model's own prior at "
                                     f"temperature {temperature:g}, seed {request.seed}.{said}")


def likeliest(x: Tensor, description: dict, request: Request, reject: int) -> tuple[Tensor, str]:
    """Which ``request.count`` of the pictures a classifier of the training data finds likeliest to be of the label.

    Razavi 2019, section 3.3; Ravuri & Vinyals 2019. And a sentence on it, "" where nothing is rejected.
    """
    if reject == 1:
        return torch.arange(len(x)), ""
    experiment = description.get("experiment", {})
    if "data" not in experiment:
        raise CheckpointError("the checkpoint does not tell the data it was trained on, which --reject wants: name a "
                              "run made by `audiovae train`.")
    data = from_dict(Experiment, {"data": experiment["data"]}, source="data of the checkpoint").data
    pictures = data.pictures if isinstance(data, CodesData) else data
    source = pictures.build(experiment["train"]["seed"]) if pictures is not None else None
    if not isinstance(source, ImageSource) or request.label not in source.spec.labels:
        raise ConfigError(f"--reject wants training pictures with a label '{request.label}': leave it out.")
    judge = classifier_of(source, seed=request.seed)
    chances = judge.extract(x).log_probs[:, source.spec.labels.index(request.label)].exp()
    keep = chances.topk(request.count).indices.sort().values
    return keep, (f" The {request.count} of {len(x)} drawn that a {judge.name} takes for '{request.label}' most "
                  f"surely: a mean chance of {chances[keep].mean():.3f}, of all {chances.mean():.3f}.")


def levels_shown(priors: Sequence[PriorFile], model: Model, request: Request, drawn: Drawn) -> Exhibit:
    """The first pictures as each level adds to those above; then the top's codes with others below, and the likeliest.

    A row of a hierarchy's upper levels alone has the mean of the codebooks in place of the lower.
    """
    some = {level: codes[:SHOWN] for level, codes in drawn.codes.items()}
    label, order = model_label(model, request.label), [prior.codes.level for prior in priors]
    few = replace(request, count=len(next(iter(some.values()))))
    rows = {(f"level {order[0]} alone" if n == 0 else f"and level {level}"):
            decode(model, {its: some[its] for its in order[:n + 1]}, label) for n, level in enumerate(order)}
    if len(order) > 1:
        top = {order[0]: some[order[0]]}
        for again in range(1, AGAIN + 1):
            rows[f"others below, {again}"] = decode(model, draw_codes(priors, few, top, again), label)
        best = replace(few, drawings={**few.drawings, **{level: Drawing(temperature=0) for level in order[1:]}})
        rows["likeliest below"] = decode(model, draw_codes(priors, best, top), label)
    sentence = "The first pictures, by the one level that was drawn."
    if len(order) > 1:
        sentence = ("The first pictures, level by level from the top; the last rows keep the top's codes and draw "
                    "those below it anew, or take the likeliest.")
    return show("levels", "What each level holds", sentence, list(rows.values()), list(rows),
                caption="From the top alone to all levels", mel=model.data.mel)


def write_pictures(folder: Path, model: Model, drawn: Drawn, more: Sequence[Exhibit] = ()) -> None:
    """The pictures, their sound where they are spectrograms, their codes and the page, whole or not at all.

    OutputError where the folder is there already.
    """
    rows = drawn.x.split(A_ROW)
    report = Report("Pictures", lead=drawn.sentence)
    samples = show("pictures", "Samples", "In the order of their files.", rows, mel=model.data.mel)
    if model.data.mel is not None:
        samples.sounds = {f"{n:04d}": wave for n, wave in enumerate(sound_of(drawn.x, model.data.mel)[:, 0])}
    samples.put_on(report)
    for exhibit in more:
        exhibit.put_on(report)
    if model.code_levels:
        report.section("What a picture takes")
        report.table(compression(model, drawn.x.shape[2:]), "Bits of a code are log2 K, before any prior")
    with atomic_folder(folder) as temporary:
        for n, picture in enumerate(drawn.x):
            write_picture(temporary / f"{n:04d}.png", picture)
        for name, wave in samples.sounds.items():
            write_audio(temporary / f"{name}.wav", wave, samples.sample_rate or 0)
        missing = torch.ones(len(rows) * A_ROW - len(drawn.x), *drawn.x.shape[1:]) if len(rows) > 1 else drawn.x[:0]
        whole = torch.cat([drawn.x, missing]).split(A_ROW)
        write_picture(temporary / "pictures.png", torch.cat([torch.cat(list(row), dim=2) for row in whole], dim=1))
        if drawn.codes:
            codec, size = PictureCodec(model, sorted(drawn.codes)), (drawn.x.shape[2], drawn.x.shape[3])
            label = drawn.label if drawn.label in codec.labels else None  # a prior may be told what the decoder is not
            for n in range(len(drawn.x)):
                its = {level: codes[n] for level, codes in drawn.codes.items()}
                codec.codes(its, size, label).save(temporary / f"{n:04d}.codes")
        report.write(temporary / "pictures.html")


def _index(prior: PriorFile, label: str | None) -> int | None:
    return None if label is None else prior.data.labels.index(label)


def _told(label: int | None, count: int) -> Tensor | None:
    return None if label is None else torch.full((count,), label)


def model_label(model: Model, label: str | None, path: str | None = None) -> int | None:
    """A label as a model is told it, None to one that is not told; with ``path``, LabelError on one it cannot take."""
    labels = labels_of(model)
    if label in labels:
        return labels.index(label)  # type: ignore[arg-type]
    if label is not None and path is not None:
        told = nearest(label, labels) if labels else "it is told no labels: leave --label out"
        raise LabelError(f"model {path} knows no '{label}'; {told}.")
    return None


def _check_reject(reject: int, label: str | None) -> None:
    if reject < 1 or (reject > 1 and label is None):
        raise ConfigError(f"--reject wants a number from 1, and a --label that a classifier is to find, got {reject} "
                          f"and label {label}.")


def _asked(label: str | None) -> str:
    return "" if label is None else f" of '{label}'"


def in_words(drawing: Drawing) -> str:
    """How codes are drawn, for a sentence."""
    names = {"top_k": 0, "top_p": 1, "guidance": 1}
    more = "".join(f", {name} {getattr(drawing, name):g}" for name, usual in names.items()
                   if getattr(drawing, name) != usual)
    return f"temperature {drawing.temperature:g}{more}"
