"""audiovae sample: new music or pictures from priors, or pictures from any model that has a prior of its own."""

import sys
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from tqdm import tqdm

from audiovae.checkpoint import find_checkpoint, read_description
from audiovae.commands.arguments import parse, refuse
from audiovae.config import from_dict
from audiovae.errors import CheckpointError, ConfigError
from audiovae.files import check_folder
from audiovae.generate import (
    Drawing,
    PriorFile,
    Request,
    Steps,
    check_minutes,
    check_model,
    check_request,
    check_work,
    digest,
    draw,
    open_priors,
    open_songs,
    to_json,
    work,
)
from audiovae.level_codec import AnyCodec, open_codec
from audiovae.picture_samples import from_model, from_priors, in_words, levels_shown, open_decoder, write_pictures
from audiovae.priors import ABSENT, Weights
from audiovae.report import compression
from audiovae.songs import (
    Place,
    check_decodable,
    check_free,
    decodable,
    given_codes,
    keep,
    kept,
    write_rough,
    write_songs,
)
from audiovae.spectrogram_samples import exhibit_of, read_recording, spectrograms_of, upsampled, write_versions

OF_PICTURES = ("priors", "output", "count", "batch", "label", "temperature", "seed")
OF_PRIORS = ("codec", "top_k", "top_p", "guidance", "weights")


@dataclass(frozen=True)
class Arguments:
    """Sample new music or pictures: the slowest level of codes first, then those below it, each told the one above.

    Example: audiovae sample runs/top runs/bottom -o new/song.wav --minutes 1.5 --tags "genre=Waltz" --seed 3

    A first rough listen is written as soon as the slowest level is drawn. Ctrl-C keeps what is drawn, and the same
    command with --resume goes on to the same songs. Per-level settings are given for the slowest level first; one
    value is for all.

    Go on from a recording of your own: --prime my.wav --prime-seconds 10. From a song made here: --prime song.codes.
    Another middle: --prime song.codes --infill 12.0:15.5. Other details below the same slowest level:
    --upsample song.codes

    Pictures, from priors over their codes: audiovae sample runs/top runs/bottom -o new --count 16 --label 3; without
    priors, from a model with a prior of its own, such as a VAE or a ladder: audiovae sample runs/vae -o new --count 16
    Spectrograms are pictures that are heard too; other details of a recording: audiovae sample runs/top runs/bottom
    -o new --upsample song.wav
    """

    priors: tyro.conf.Positional[tuple[Path, ...]]
    """Runs or checkpoints whose model.kind is "prior", one for each level from the slowest down, in any order."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("songs")
    """A .wav or .flac file, or a folder; the codes and a page go beside it. Of pictures a new folder."""
    codec: Path | None = None
    """The model whose codes these are (default: where the first prior's run found it)."""
    minutes: float | None = None
    """Length of a song, what it goes on from included (default: 0.5; with --infill or --upsample the source's); of a
    recording for --upsample so much of its beginning."""
    count: int = 1
    """Variations: one song or picture for each, with its own dice."""
    batch: int = 4
    """Songs drawn together (pictures: 16 times as many); it changes how long they take, and nothing else."""
    tags: tuple[str, ...] = ()
    """Names to ask for, such as "genre=Waltz" "artist=Ada Lark"; `audiovae inspect` lists a prior's."""
    label: str | None = None
    """Label to ask for, of priors whose corpus has speakers and no tags, or whose pictures have labels."""
    text: str | None = None
    """Lyrics or any text, of priors trained with data.text."""
    temperature: tuple[float, ...] = (1.0,)
    """Below 1 the likelier codes come more often."""
    top_k: tuple[int, ...] = (0,)
    """The most codes to choose from; 0: all."""
    top_p: tuple[float, ...] = (1.0,)
    """The share of chance that the likeliest codes must have together to be all that is chosen from."""
    guidance: tuple[float, ...] = (1.0,)
    """Above 1 leans towards what was asked for (classifier-free guidance)."""
    reject: int = 1
    """Of pictures: draw so many times more, and keep those that a classifier takes for the label most surely."""
    prime: Path | None = None
    """Recording or code file to go on from, or to fill a gap in."""
    prime_seconds: float | None = None
    """Seconds of its end to go on from (default: all of it)."""
    infill: str | None = None
    """FROM:TO in seconds: draw this part of --prime anew and keep the rest."""
    upsample: Path | None = None
    """Code file, of spectrograms a recording, whose slowest level is kept, and the levels below drawn anew."""
    overlap: float = 0.5
    """Of windows with each other, in songs longer than a prior's context, as a share of it."""
    weights: Weights = "float32"
    """int8: a prior's large products in whole numbers, on the processor; faster, and of other songs. `audiovae evaluate
    --weights int8` says what it costs in nats a code."""
    seed: int = 0
    """The same seed and settings give the same songs."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with songs that were stopped."""


def main(argv: list[str]) -> int:
    arguments = parse("sample", Arguments, argv)
    if not arguments.priors:
        raise ConfigError("no prior: name a run whose model.kind is \"prior\", trained on the codes of a model.")
    if len(arguments.priors) == 1 and not _is_prior(arguments.priors[0]):
        return _pictures(arguments, None)
    priors = open_priors(arguments.priors)
    if priors[0].data.dims == 2:
        return (_pictures if arguments.upsample is None else _upsample)(arguments, priors)
    if arguments.reject != 1:
        raise ConfigError("--reject is for pictures: of songs, raise --count and choose.")
    codec = _codec(arguments, priors)
    given = _given(arguments, codec)
    request = _request(arguments, priors, codec, given)
    check_request(priors, request)  # before there is a folder
    place = Place.of(arguments.output, arguments.count)
    check_free(place, arguments.resume)
    songs = open_songs(priors, codec.model.code_levels, request, _open_gap(arguments, codec, given.codes))
    check_decodable(codec, songs)
    check_work(priors, request, songs)
    request = replace(request, given=digest(songs) if given.codes else "")
    asked = to_json(request, priors)
    begun = kept(place, asked) if arguments.resume else None
    place.folder.mkdir(parents=True, exist_ok=True)
    if begun is None:
        keep(place, asked, songs)  # so that there is something to go on with from now on
    rough: list[Path] = []

    def listen(level: int, drawn: dict[int, Steps]) -> None:
        if level == priors[0].codes.level and len(priors) > 1 and level in decodable(codec, drawn):
            rough.extend(write_rough(codec, request, place, drawn, level))
            tqdm.write(f"a first listen, from level {level}: {rough[0]}", file=sys.stderr)

    steps = sum((min(request.batch, request.count - first)) * (stop - start)
                for _, first, start, stop in work(priors, request, songs))
    try:
        with tqdm(total=steps, unit="step", disable=None) as bar:
            drawn = draw(priors, request, songs, begun, bar.update,
                         lambda some: keep(place, asked, some), listen)
    except KeyboardInterrupt:
        print(f"Interrupted; what is drawn is in {place.kept}: go on with the same command and --resume.",
              file=sys.stderr)
        return 130
    paths = write_songs(codec, priors, request, place, drawn)
    print(f"{request.count} song{'s' if request.count > 1 else ''} of {request.samples / codec.sample_rate:.1f} s "
          f"written to {', '.join(map(str, paths))}, with codes beside; the page is {place.page}.")
    return 0


def _is_prior(path: Path) -> bool:
    return read_description(find_checkpoint(path)).get("model", {}).get("kind") == "prior"


def _pictures(arguments: Arguments, priors: list[PriorFile] | None) -> int:
    """Pictures by their priors, or by a model's own."""
    if priors is None:
        _check_taken(arguments, {*OF_PICTURES, "reject"}, "pictures of a model without priors over its codes")
    else:
        _check_taken(arguments, {*OF_PICTURES, *OF_PRIORS, "reject"}, "pictures")
    check_folder(arguments.output)
    drawings = {} if priors is None else _drawings(arguments, priors)
    request = Request(1, arguments.count, 16 * arguments.batch, arguments.seed, (), arguments.label, None, drawings,
                      weights=arguments.weights)
    if priors is None:
        model, drawn = from_model(arguments.priors[0], request, _of_level("temperature", arguments.temperature, 0, 1),
                                  arguments.reject)
        more = []
    else:
        model = open_decoder(_model_name(arguments, priors), priors)
        steps = sum(prod(prior.data.size or ()) * -(-request.count * arguments.reject // request.batch)
                    for prior in priors)
        with tqdm(total=steps, unit="code", disable=None) as bar:
            drawn = from_priors(priors, model, request, arguments.reject, bar.update)
        more = [levels_shown(priors, model, request, drawn)]
    write_pictures(arguments.output, model, drawn, more)
    if model.code_levels:
        print(f"{compression(model, drawn.x.shape[2:]).text()}\n")
    print(f"{drawn.sentence} Written to {arguments.output}; the page is {arguments.output / 'pictures.html'}.")
    return 0


def _upsample(arguments: Arguments, priors: list[PriorFile]) -> int:
    """A recording's spectrogram with its top codes kept and those below drawn anew, as pictures and sound."""
    _check_taken(arguments, {*OF_PICTURES, *OF_PRIORS, "upsample", "minutes"}, "--upsample of a recording")
    check_folder(arguments.output)
    assert arguments.upsample is not None
    model = open_decoder(_model_name(arguments, priors), priors)
    spec, frames = spectrograms_of(model)
    wave = read_recording(arguments.upsample, model, arguments.minutes)
    pictures = -(-wave.shape[1] // (frames * spec.hop))
    request = Request(1, arguments.count, 16 * arguments.batch, arguments.seed, (), arguments.label, None,
                      _drawings(arguments, priors), weights=arguments.weights)
    steps = request.count * sum(prod(prior.data.size or ()) * -(-pictures // request.batch) for prior in priors[1:])
    with tqdm(total=steps, unit="code", disable=None) as bar:
        versions = upsampled(priors, model, wave, request, bar.update)
    below = " and ".join(f"level {prior.codes.level} at {in_words(request.drawings[prior.codes.level])}"
                         for prior in priors[1:])
    sentence = (f"{wave.shape[1] / spec.sample_rate:.1f} s of {arguments.upsample.name} as {pictures} pictures: level "
                f"{priors[0].codes.level} kept, {below} drawn anew {request.count} "
                f"time{'s' if request.count > 1 else ''}, seed {request.seed}.")
    exhibit = exhibit_of(versions, spec, sentence)
    names = write_versions(arguments.output, exhibit)
    for caption, table in exhibit.tables.items():
        print(f"{caption}:\n\n{table.text()}\n")
    sounds = [name for name in names if name.endswith(".wav")]
    print(f"{sentence} {len(sounds)} sounds written to {arguments.output}, from {sounds[0]} to {sounds[-1]}; the page "
          f"is {arguments.output / 'upsampled.html'}.")
    return 0


def _check_taken(arguments: Arguments, taken: set[str], what: str) -> None:
    """ConfigError on an argument that is given and not ``taken``."""
    refuse(arguments, [field.name for field in fields(Arguments) if field.name not in taken], f"is not for {what}")


def _model_name(arguments: Arguments, priors: list[PriorFile]) -> str | Path:
    """What to decode with; CheckpointError where neither --codec nor the first prior's run says it."""
    name = arguments.codec or priors[0].trained_on
    if name is None:
        raise CheckpointError(f"prior {priors[0].path} does not say whose codes it is over: name the model with "
                              "--codec.")
    return name


def _codec(arguments: Arguments, priors: list[PriorFile]) -> AnyCodec:
    """The model of the codes; CheckpointError where it is not to be found, or is another."""
    name = _model_name(arguments, priors)
    codec = open_codec(name)
    check_model(priors, name, codec.fingerprint)
    return codec


class Given(NamedTuple):
    """Codes to go on from, by level, and how many samples they stand for."""

    codes: dict[int, Steps]
    samples: int


def _given(arguments: Arguments, codec: AnyCodec) -> Given:
    if arguments.prime_seconds is not None and arguments.prime is None:
        raise ConfigError("--prime-seconds is of a recording to go on from: name it with --prime.")
    if arguments.prime is not None and arguments.upsample is not None:
        raise ConfigError("--prime and --upsample do not go together: name one.")
    if arguments.infill is not None and arguments.prime is None:
        raise ConfigError("--infill wants a song to fill a gap in: name it with --prime.")
    if arguments.upsample is not None:
        codes, samples = given_codes(codec, arguments.upsample)
        top = len(codec.model.code_levels) - 1
        if top not in codes:
            raise ConfigError(f"{arguments.upsample} does not hold the slowest level ({top}): upsample one that does.")
        return Given({top: codes[top]}, samples)
    if arguments.prime is not None:
        return Given(*given_codes(codec, arguments.prime, arguments.prime_seconds))
    return Given({}, 0)


def _request(arguments: Arguments, priors: list[PriorFile], codec: AnyCodec, given: Given) -> Request:
    there = given.samples
    if arguments.minutes is not None:
        check_minutes(arguments.minutes)
        samples = round(arguments.minutes * 60 * codec.sample_rate)
    else:
        whole = arguments.infill is not None or arguments.upsample is not None
        samples = there if whole else there + round(30 * codec.sample_rate)
    if arguments.prime is not None and arguments.infill is None and samples <= there:
        raise ConfigError(f"--minutes {samples / codec.sample_rate / 60:g} is no longer than the prime "
                          f"({there / codec.sample_rate:.1f} s): ask for more, or take less of it by --prime-seconds.")
    return Request(samples, arguments.count, arguments.batch, arguments.seed, arguments.tags, arguments.label,
                   arguments.text, _drawings(arguments, priors), arguments.overlap, arguments.weights)


def _drawings(arguments: Arguments, priors: list[PriorFile]) -> dict[int, Drawing]:
    drawings = {}
    for place, prior in enumerate(priors):
        values = {name: _of_level(name, getattr(arguments, name), place, len(priors))
                  for name in ("temperature", "top_k", "top_p", "guidance")}
        drawings[prior.codes.level] = from_dict(Drawing, values, source="drawing")
    return drawings


def _of_level(name: str, values: tuple[float, ...], place: int, count: int) -> float:
    if len(values) not in (1, count):
        raise ConfigError(f"--{name.replace('_', '-')} wants one value, or one for each of {count} levels, got "
                          f"{len(values)}.")
    return values[place if len(values) > 1 else 0]


def _open_gap(arguments: Arguments, codec: AnyCodec, given: dict[int, Steps]) -> dict[int, Steps]:
    """What is given, with -1 where --infill asks for new codes."""
    if arguments.infill is None:
        return given
    seconds = max(codes.shape[1] * codec.model.code_levels[level].hop for level, codes in given.items()
                  ) / codec.sample_rate
    try:
        start, stop = (float(part) for part in arguments.infill.split(":"))
    except ValueError:
        raise ConfigError(f"--infill wants FROM:TO in seconds, such as 12.0:15.5, got {arguments.infill}.") from None
    if not 0 <= start < stop <= seconds:
        raise ConfigError(f"--infill {arguments.infill} is not within the song, which lasts {seconds:.1f} s.")
    opened, top = {}, codec.model.code_levels[-1].hop
    for level, codes in given.items():
        hop = codec.model.code_levels[level].hop
        first = int(start * codec.sample_rate) // top * top // hop
        last = -(-int(stop * codec.sample_rate) // top) * top // hop
        opened[level] = codes.copy()
        opened[level][:, first:last] = ABSENT
    return opened


