"""audiovae inspect: what a code file, checkpoint, corpus or recording holds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from torch.nn import ModuleList

from audiovae.audio.corpus import Corpus
from audiovae.audio.io import audio_info
from audiovae.checkpoint import PICKLES, find_checkpoint, fingerprint, load_model
from audiovae.codes import Canvas, CodePrior, Codes
from audiovae.codes.prior import find_prior
from audiovae.commands.arguments import AUDIO, CODES, attempt, find, parse, report_failures
from audiovae.metrics.usage import code_counts, perplexity, usage
from audiovae.models import Model
from audiovae.picture_codec import in_sides

WEIGHTS = {*PICKLES, ".safetensors"}  # told to be no model on their own, and not to be no audio


@dataclass(frozen=True)
class Arguments:
    """Tell what code files, checkpoints, training runs, corpora and recordings hold.

    Example: audiovae inspect speech.codes
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Files, globs, folders of recordings or code files, corpora, checkpoints or runs."""
    model: Path | None = None
    """Model whose prior coded the code files, where it does not come with audiovae."""


def main(argv: list[str]) -> int:
    arguments = parse("inspect", Arguments, argv)
    found, failed = find(arguments.inputs, (*AUDIO, *CODES), whole=lambda path: is_corpus(path) or is_model(path))
    alone = len(found) + len(failed) == 1
    prior = None if arguments.model is None else find_prior(arguments.model)
    told, bad = attempt(found, lambda item: "\n".join(lines(item.path, prior)), alone)
    print("\n".join(told))
    return report_failures("inspect", failed + bad, len(found) + len(failed), output=None)


def is_corpus(path: Path) -> bool:
    return (path / "corpus.json").exists()


def is_model(path: Path) -> bool:
    return (path / "config.json").exists() or any(path.glob("checkpoint-*")) or path.suffix in WEIGHTS


def lines(path: Path, prior: CodePrior | None = None) -> Iterator[str]:
    """What there is to tell of a corpus, a model, a code file coded with ``prior`` or without, or a recording."""
    if is_corpus(path):
        return corpus_lines(path)
    if is_model(path):
        return model_lines(path)
    return code_lines(path, prior) if path.suffix.lower() in CODES else audio_lines(path)


def audio_lines(path: Path) -> Iterator[str]:
    info = audio_info(path)
    yield f"{path}: recording, {info.seconds:.2f} s, {info.sample_rate} Hz, {info.channels} channels"
    yield f"  format      {info.format}"
    yield f"  peak        {info.peak:.4f}{'  (silent)' if info.silent else ''}"


def code_lines(path: Path, prior: CodePrior | None = None) -> Iterator[str]:
    codes = Codes.load(path, prior)
    bits = 8 * path.stat().st_size
    yield f"{path}: {_picture(codes, codes.canvas, bits) if codes.canvas is not None else _recording(codes, bits)}"
    yield f"  model       {codes.fingerprint}"
    count = sum(level.size for level in codes.levels)
    nominal = codes.nominal_bits / count
    by = f"prior {codes.prior.fingerprint}" if codes.prior else "counting"
    yield f"  coded       {codes.bits_per_code:.2f} bits a code of {nominal:.2f}, by {by}"
    if codes.channels > 1:
        yield f"  channels    {codes.channels}"
    if codes.label is not None:
        yield f"  {'label' if codes.canvas else 'speaker':<11} {codes.label}"
    for number, (level, hop, sizes) in enumerate(zip(codes.levels, codes.hops, codes.num_codes, strict=True)):
        steps = f"{level.shape[1]} steps of {hop} samples" if codes.canvas is None else (
            f"{in_sides(codes.canvas.grids[number])} codes of hop {hop}, "
            f"{level.shape[1] * math.log2(math.prod(sizes)):.1f} bits without entropy coding")
        yield f"  level {number}     {steps}, {len(sizes)} quantizers"
        for stage, counts in enumerate(code_counts(level, sizes)):
            yield (f"    stage {stage:<3} {usage(counts):.0%} of {len(counts)} codes used, "
                   f"perplexity {perplexity(counts):.1f}")


def _recording(codes: Codes, bits: int) -> str:
    kbps = bits / codes.seconds / 1000
    return (f"codes of {codes.seconds:.2f} s at {codes.sample_rate} Hz, {kbps:.2f} kbit/s as stored, "
            f"{codes.nominal_kbps:.2f} without entropy coding")


def _picture(codes: Codes, canvas: Canvas, stored: int) -> str:
    """Height and width first, then bits of the whole file and of the codes in it, each also by pixel."""
    values = canvas.pixels * codes.channels * math.log2(canvas.values)
    told = ", ".join(f"{bits:.0f} bits {how} ({bits / canvas.pixels:.2f} a pixel)" for bits, how in (
        (stored, "as stored"), (codes.nominal_bits, "of codes without entropy coding"), (values, "of values")))
    return f"codes of a picture of {in_sides(canvas.size)}, {told}"


def corpus_lines(path: Path) -> Iterator[str]:
    corpus = Corpus.open(path)
    channels = f" in {corpus.channels} channels" if corpus.channels > 1 else ""
    yield f"{path}: corpus at {corpus.sample_rate} Hz{channels}, {len(corpus.speakers)} speakers to train on"
    for split in ("train", "valid", "test"):
        found = corpus.utterances(split)
        hours = sum(u.length for u in found) / corpus.sample_rate / 3600
        yield f"  {split:<11} {len(found)} utterances, {len({u.speaker for u in found})} speakers, {hours:.2f} h"
    yield f"  speakers    {_some(corpus.speakers)}"
    for field, names in corpus.tags.items():
        yield f"  {field:<11} {_some(names)}"


def prior_lines(model: Model) -> Iterator[str]:
    """What a prior is over, and the names that it can be asked for."""
    codes, data = model.data.codes, model.data
    assert codes is not None
    rate = "" if codes.sample_rate is None else f", {codes.sample_rate / codes.hop:.1f} steps a second"
    above = f", told {' x '.join(map(str, codes.upper))} of the level above" if codes.upper else ""
    yield f"  prior       {type(getattr(model, 'prior', model)).__name__} of {data.size} steps"
    sizes = " x ".join(map(str, codes.num_codes))
    yield f"  codes       of model {codes.model}, level {codes.level}: {sizes}{rate}{above}"
    if data.tags or data.labels:
        yield f"  names       {', '.join(data.tags or data.labels)}"
    told = [name for name in ("timing", "text") if getattr(data, name)]
    if told:
        yield f"  told        {' and '.join(told)}"


def model_lines(path: Path) -> Iterator[str]:
    folder = find_checkpoint(path)
    model = load_model(folder)
    count = sum(p.numel() for p in model.parameters())
    yield (f"{folder}: model ({type(model).__name__}), {count / 1e6:.2f} million parameters, fingerprint "
           f"{fingerprint(model)}")
    for name in ("classifier", "encoder", "bottleneck", "decoder", "network", "likelihood"):
        part = getattr(model, name, None)
        if part is not None and not isinstance(part, ModuleList):  # one for each level: the rows below tell of them
            yield f"  {name:<11} {type(part).__name__}"
    spec = model.data
    if spec.codes is not None:
        yield from prior_lines(model)
        return
    yield f"  data        {spec.channels} channels, {spec.dims} grid axes, hop {model.hop}"
    for number, level in enumerate(model.code_levels):
        name = "codes" if len(model.code_levels) == 1 else f"level {number}"
        sizes = " x ".join(map(str, level.num_codes))
        if spec.sample_rate is None:
            yield f"  {name:<11} {sizes}, hop {level.hop}"
            continue
        kbps = sum(map(math.log2, level.num_codes)) * spec.sample_rate / level.hop / 1000
        yield (f"  {name:<11} {sizes}, {spec.sample_rate / level.hop:.1f} steps a second, {kbps:.2f} kbit/s without "
               "entropy coding")
    if (prior := find_prior(folder)) is not None:
        yield f"  prior       {prior.fingerprint}, {prior.facts.get('measured', 'not measured')}"
    if getattr(model, "embedding", None) is not None:
        yield f"  labels      {_some(spec.labels)}"


def _some(names: tuple[str, ...], most: int = 200) -> str:
    return f"{', '.join(names[:most])}{' ...' if len(names) > most else ''}"
