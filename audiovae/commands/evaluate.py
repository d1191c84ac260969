"""audiovae evaluate: a codec measured on recordings, a model of pictures on pictures, as tables, JSON and a page."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from audiovae.audio.corpus import Corpus
from audiovae.checkpoint import find_checkpoint, load_model, read_description
from audiovae.codec import Codec
from audiovae.codes import Codes
from audiovae.codes.prior import find_prior
from audiovae.commands.arguments import AUDIO, Failures, find, parse, report_failures, split_settings
from audiovae.convert import Converter
from audiovae.errors import AudiovaeError, ConfigError, CorpusError, OutputError, VoiceError
from audiovae.evaluate import Clip, Evaluation, evaluate_each
from audiovae.files import Input, atomic_file
from audiovae.level_codec import AnyCodec, MultiresCodec, codec_of
from audiovae.priors import Weights
from audiovae.report import Report, Table, draw_codes, draw_spectrograms, draw_usage
from audiovae.transcode import Recording
from audiovae.voices import is_voice_model

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure a model on recordings it was not trained on: quality, bit rate, use of codes, speed, memory.

    Example: audiovae evaluate corpora/vctk --model runs/small -o evaluation
    Example: audiovae evaluate --model runs/digits -o evaluation

    A model that speaks in any voice says each recording again in its own, heard in itself; how like others it sounds
    recipes/vctk_conversion/judge.py measures.

    A model of pictures, or of sound without codes, is measured on the held-out part of its own data (or what
    --data.kind and the like name): bounds of its likelihood, bits per dimension, reconstruction, use of the latent,
    generated pictures. A prior over codes is measured in nats a code, beside counting codes and pairs.
    Writes evaluation.json and evaluation.html (with players and spectrograms, or pictures) into the output folder.
    PESQ and STOI come with: pip install 'audiovae[metrics]'
    """

    inputs: tyro.conf.Positional[tuple[str, ...]] = ()
    """A corpus made by `audiovae prepare`, or recordings, globs and folders; none for a model of pictures."""
    model: Path
    """Checkpoint folder, training run or hub repository."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for evaluation.json and evaluation.html (default: the table on screen only)."""
    split: Literal["train", "valid", "test"] = "test"
    """Part of a corpus, or of a set of pictures, to measure on."""
    limit: int | None = None
    """Most recordings of a corpus (default 100), recordings otherwise or pictures (default all) to take, drawn at
    random; 0 for all."""
    listen: int = 4
    """How many recordings to put into the page."""
    samples: int = 500
    """Latents drawn for each picture to estimate its likelihood (IWAE-K); 0 leaves it out."""
    generate: int = 1000
    """Pictures to draw from the model and score against real ones; 0 leaves it out."""
    network: Literal["auto", "classifier", "inception"] = "auto"
    """Whose features they are scored in: Inception's (then it is FID) or those of a classifier of the data, trained for
    it; auto takes Inception where its weights are on disk."""
    weights: Weights = "float32"
    """int8 measures a prior over codes as `audiovae sample --weights int8` draws from it."""
    seed: int = 0
    """Another seed draws other recordings, pictures and latents."""
    threads: int | None = None
    """Processor threads (default: all cores)."""


@dataclass
class Heard:
    """A recording for the page: its samples, and what came back from each codec, by name."""

    clip: Clip
    source: Tensor
    estimates: dict[str, Tensor]


def main(argv: list[str]) -> int:
    known, settings = split_settings(argv)
    arguments = parse("evaluate", Arguments, known)
    for name in ("limit", "samples", "generate"):
        if (value := getattr(arguments, name)) is not None and value < 0:
            raise ConfigError(f"--{name} wants 0 or more, got {value}.")
    if arguments.threads is not None and arguments.threads < 1:
        raise ConfigError(f"--threads wants 1 or more, got {arguments.threads}.")
    if arguments.output is not None and arguments.output.is_file():  # better told now than after the work
        raise OutputError(f"{arguments.output} is a file: name a folder.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    description = read_description(find_checkpoint(arguments.model))
    if arguments.weights != "float32" and description["model"]["kind"] != "prior":
        raise ConfigError(f"--weights {arguments.weights} is for priors over codes, {arguments.model} is of kind "
                          f"'{description['model']['kind']}': leave it out.")
    if description["data"]["sample_rate"] is None:
        return _of_pictures(arguments, settings)
    model = load_model(arguments.model)
    if not getattr(getattr(model, "bottleneck", None), "is_discrete", True):
        return _of_pictures(arguments, settings)
    if settings:
        raise ConfigError(f"a model of audio is measured on the recordings named, not on --{next(iter(settings))}.")
    converter = Converter(model) if is_voice_model(model) else None
    codec = converter.codec if converter is not None else codec_of(model)
    if isinstance(codec, Codec) and (prior := find_prior(arguments.model)) is not None:
        prior.check(codec.fingerprint, (codec.num_codes,))
        codec.prior = prior  # as `audiovae encode` takes it: a file is as small
    codecs: dict[str, AnyCodec] = {"": codec}
    if isinstance(codec, MultiresCodec):
        codecs = {f"level {n}": codec.at(n) for n in codec.levels}
    heard: list[Heard] = []

    def listen(name: str, clip: Clip, source: Tensor, estimate: Tensor) -> None:
        if heard and heard[-1].clip is clip:
            heard[-1].estimates[name] = estimate
        elif len(heard) < arguments.listen:
            heard.append(Heard(clip, source, {name: estimate}))

    found, failed = find(arguments.inputs, AUDIO, whole=_is_corpus)
    corpora = {item.path for item in found if _is_corpus(item.path)}
    drawn = {*_some([item for item in found if item.path not in corpora], arguments.limit or 0, arguments.seed)}
    items = [clip for item in found if item.path in corpora or item in drawn
             for clip in (_drawn(item.path, arguments) if item.path in corpora else [item])]
    total = len(items) + len(failed)
    clips = (clip for item in tqdm(items, unit="file", disable=None) if (clip := _opened(item, codec, failed, total)))
    if converter is not None:
        clips = (clip for clip in clips if _speaks(clip, converter, failed))
    first = next(clips, None)
    if first is None:
        return report_failures("evaluate", failed, total, arguments.output)
    say = partial(_own_voice, converter) if converter is not None else None
    results = evaluate_each(codecs, itertools.chain([first], clips), listen, say)
    for name, result in results.items():
        print(f"{name}\n" if name else "", end="")
        for table in _tables(result).values():
            print(table.text(), end="\n\n")
    if arguments.output is not None:
        _write(arguments.output, arguments, codecs, results, heard)
        print(f"{len(result.rows)} recordings measured; evaluation.json and evaluation.html are in {arguments.output}.")
    return report_failures("evaluate", failed, total, arguments.output)


def _of_pictures(arguments: Arguments, settings: dict[str, str | list[str]]) -> int:
    if arguments.inputs:
        raise ConfigError(f"{arguments.model} is a model without codes, measured on its own data: leave out "
                          f"{arguments.inputs[0]}, or name other data with --data.kind and the like.")
    if read_description(find_checkpoint(arguments.model))["model"]["kind"] == "prior":
        from audiovae.commands import evaluate_priors

        return evaluate_priors.run(arguments, settings)
    from audiovae.commands.evaluate_images import run

    return run(arguments, settings)


def _is_corpus(path: Path) -> bool:
    return (path / "corpus.json").exists()


def _drawn(folder: Path, arguments: Arguments) -> Iterator[Clip]:
    """The recordings of a corpus to measure."""
    corpus = Corpus.open(folder)
    utterances = corpus.utterances(arguments.split)
    if not utterances:
        raise CorpusError(f"corpus {folder} has no {arguments.split} part; name another --split.")
    for utterance in _some(utterances, 100 if arguments.limit is None else arguments.limit, arguments.seed):
        yield Clip(utterance.id, torch.from_numpy(corpus.audio(utterance)), corpus.sample_rate, utterance.speaker)


def _some(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """At most ``limit`` of them, drawn at random, in order; all for 0."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[index] for index in sorted(order[:limit or len(order)])]


def _opened(item: Input | Clip, codec: AnyCodec, failed: Failures, total: int) -> Clip | None:
    """The clip itself, or the file read; a file that cannot be is kept for the list, unless it is the only one."""
    if isinstance(item, Clip):
        return item
    try:
        return Clip(str(item.relative), torch.cat([*Recording(item.path, codec)], dim=-1), codec.sample_rate)
    except AudiovaeError as error:
        if total == 1:
            raise
        failed.append((item.path, str(error)))
        return None


def _own_voice(converter: Converter, codes: Codes, source: Tensor) -> Tensor:
    """A recording said again in its own voice, heard in itself; its time counts all of it, codes and pitch too."""
    return converter.convert(source, converter.sample_rate, converter.hear([source]), "source")


def _speaks(clip: Clip, converter: Converter, failed: Failures) -> bool:
    try:
        converter.hear([clip.waveform], clip.sample_rate)
        return True
    except VoiceError as error:
        failed.append((Path(clip.name), str(error)))
        return False


def _tables(result: Evaluation) -> dict[str, Table]:
    return {"measures": result.table(), "codebooks": result.codebooks(), "costs": result.costs()}


def _write(folder: Path, arguments: Arguments, codecs: dict[str, AnyCodec], results: dict[str, Evaluation],
           heard: list[Heard]) -> None:
    """evaluation.json, of several levels by their names, and the page."""
    values = {}
    for name, result in results.items():
        values[name] = {kind: json.loads(table.json()) for kind, table in _tables(result).items()}
        values[name]["recordings"] = [{"name": n} | row for n, row in zip(result.names, result.rows, strict=True)]
    with atomic_file(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(values.get("", values), indent=1) + "\n")
    first = next(iter(results.values()))
    report = Report("Evaluation", lead=f"{arguments.model} on {len(first.rows)} recordings, "
                                       f"{first.seconds / 60:.1f} minutes.")
    for name, result in results.items():
        if name:
            report.section(name.capitalize())
        for table in _tables(result).values():
            report.table(table)
        report.figure("Use of the codes, most frequent first", draw_usage(result.counts))
    for its in heard:
        report.section(its.clip.name)
        one = next(iter(codecs.values()))
        named = {"source": its.source} | {name or "reconstruction": wave for name, wave in its.estimates.items()}
        for name, wave in named.items():
            report.audio(name, wave, one.sample_rate)
        report.figure("Source and reconstruction", draw_spectrograms(
            {name: wave if wave.ndim == 1 else wave.mean(0) for name, wave in named.items()}, one.sample_rate))
        for name, codec in codecs.items():
            codes = codec.encode(its.source, codec.sample_rate,
                                 its.clip.speaker if its.clip.speaker in codec.speakers else None)
            for number, (level, sizes, hop) in enumerate(zip(codes.levels, codes.num_codes, codes.hops, strict=True)):
                title = f"Codes of level {number}" if len(codes.levels) > 1 else f"Codes of {name}" if name else "Codes"
                report.figure(title, draw_codes(level, sizes, hop / codec.sample_rate))
    report.write(folder / "evaluation.html")
