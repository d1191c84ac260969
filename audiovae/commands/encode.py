"""audiovae encode: recordings and pictures to code files, or a corpus to shards."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from audiovae.audio.layouts import LayoutName
from audiovae.audio.raw import RawReader, UntilInterrupt
from audiovae.checkpoint import DEFAULT
from audiovae.codec import BEAM
from audiovae.commands.arguments import (
    AUDIO,
    PICTURES,
    Failures,
    check_folder_for_several,
    check_pipes,
    find,
    over_files,
    parse,
    refuse,
    report_failures,
    targets,
)
from audiovae.corpus_encoding import Done, Job, Settings, encode_jobs, is_row_current, is_row_of_another, who_says_what
from audiovae.engines import run_local, run_ray
from audiovae.errors import ConfigError, OutputError
from audiovae.files import Input
from audiovae.level_codec import AnyCodec
from audiovae.nn.bfloat16 import Precision
from audiovae.picture_codec import encode_picture, is_of_pictures
from audiovae.picture_encoding import PictureSettings, encode_pictures
from audiovae.shards import FORMATS as SHARDS
from audiovae.shards import ShardWriter
from audiovae.transcode import Recording, encode_file, encode_stream, sentence

FORMATS = (".codes", ".npz", ".npy")


@dataclass(frozen=True)
class Arguments:
    """Encode recordings of any format, rate and length to discrete codes, in constant memory; with a model of pictures,
    pictures of its size and channels.

    Example: audiovae encode speech.mp3 -o speech.codes --kbps 3

    A folder is mirrored: audiovae encode recordings/ -o codes/ --model runs/small --workers 8

    Killed and started again, it goes on: of several recordings those are skipped whose codes are there,
    of the same model and rate, and newer than the recording.

    Pictures: audiovae encode pictures/ -o codes/ --model runs/vqvae2

    As it comes, through pipes: arecord -f S16_LE -r 16000 -t raw | audiovae encode - -o - --raw s16le --rate 16000
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Recordings or pictures, globs or folders; - alone for stdin, a wav or what --raw says, up to Ctrl-C."""
    model: Path = Path(DEFAULT)
    """Checkpoint folder, training run, hub repository, or a model that comes with audiovae."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Code file (.codes, .npz or .npy), a folder for several (default: beside the recording), or - for stdout."""
    format: Literal["codes", "npz", "npy", "parquet", "webdataset"] = "codes"
    """What to write when the output is a folder: a file for each recording, or shards of many."""
    kbps: float | None = None
    """The most kbit/s of codes, of a model that serves several rates (default: all it has)."""
    beam: int = BEAM
    """Sums of codes kept while those of a residual quantizer are searched for: more come nearer to the recording, at no
    more bits, 1 is the fastest. Codes that are there already may be of any."""
    precision: Precision = "no"
    """bf16: linear layers multiply in bfloat16, faster on processors that do; a part of the codes are then others, as
    good."""
    levels: str = "all"
    """Levels to encode, of a model of several: all, or their numbers such as 0,2 (0 is the fastest)."""
    prior: bool = True
    """Code with the prior that lies beside the model, where there is one; decoding then needs it too."""
    speaker: Annotated[str | None, tyro.conf.arg(aliases=["--label"])] = None
    """Training speaker whose voice decodes it (default: the one that sounds most like the recording); of pictures the
    label that the model is told (default: none)."""
    channel: int | None = None
    """Channel to encode, from 0 (default: the mean of all). Code files do not say which: use a folder for each."""
    overwrite: bool = False
    """Encode anew what is there already."""
    workers: int | None = None
    """Processes of one thread each (default: this one alone; with ray, all CPUs of the cluster)."""
    engine: Literal["local", "ray"] = "local"
    """Where to encode: this machine, or a Ray cluster (RAY_ADDRESS; none: a new one of this machine)."""
    shard_hours: float = 10.0
    """Hours of audio in a shard."""
    layout: LayoutName | Literal["auto"] = "auto"
    """Layout of a folder, for the speakers and texts in shards, as `prepare` reads them."""
    raw: Literal["s16le", "f32le"] | None = None
    """Stdin holds raw samples: 16-bit integers or 32-bit floats, little-endian (default: a wav)."""
    rate: int | None = None
    """Hz of raw samples."""
    channels: int = 1
    """Interleaved channels of raw samples."""
    block: int | None = None
    """Latent steps at once: a code waits for as many and the model's halo (default: half a second of them to or from a
    pipe, else 1000). A small block works more for each second."""


class Tally:
    """How many recordings came to what, and how fast, from the moment it is made; or pictures, which have no hours."""

    def __init__(self, skipped: int = 0, timed: bool = True):
        self.encoded, self.skipped, self.seconds, self.timed = 0, skipped, 0.0, timed
        self.failed: Failures = []
        self.begun = time.perf_counter()

    def count(self, done: Done) -> None:
        self.encoded += not (done.skipped or done.failed)
        self.skipped += done.skipped
        self.seconds += done.seconds
        if done.failed:
            self.failed.append((done.job.path, done.failed))

    def sentence(self, missing: int, where: str) -> str:
        """``missing`` counts inputs that were no files at all; ``where`` says where codes were written."""
        minutes, hours = (time.perf_counter() - self.begun) / 60, self.seconds / 3600
        fast = (f"{hours:.2f} h of audio in {minutes:.2f} min: {hours / minutes:.2f} h a minute" if self.timed else
                f"{minutes:.2f} min")
        return (f"{self.encoded} files encoded {where}, {self.skipped} skipped (there already), "
                f"{len(self.failed) + missing} failed; {fast}.")


def main(argv: list[str]) -> int:
    arguments = parse("encode", Arguments, argv)
    _check(arguments)
    model = arguments.model.absolute() if arguments.model.exists() else arguments.model  # for workers elsewhere
    if is_of_pictures(model):
        return _pictures(arguments, str(model))
    if all(Path(name).suffix.lower() in PICTURES for name in arguments.inputs) and arguments.inputs:
        raise ConfigError(f"{arguments.inputs[0]} is a picture, model {model} is of sound: name a model of pictures.")
    settings = Settings(str(model), arguments.kbps, arguments.speaker, arguments.channel, arguments.overwrite,
                        arguments.prior, arguments.block, _levels(arguments), arguments.beam, arguments.precision)
    if check_pipes("encode", arguments.inputs, arguments.output):
        return _through_pipes(arguments, settings)
    if arguments.format not in SHARDS:
        codec = settings.codec()
        codec.check(settings.speaker)

        def process(source: Path, target: Path) -> str:
            return encode_file(codec, source, target, settings.speaker, settings.channel)

        return _to_files(arguments, AUDIO, process, partial(encode_jobs, settings))
    return _to_shards(arguments, settings)


def _check(arguments: Arguments) -> None:
    if arguments.channel is not None and arguments.channel < 0:
        raise ConfigError(f"--channel counts from 0, got {arguments.channel}.")
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers wants 1 or more processes, got {arguments.workers}.")
    if not arguments.shard_hours > 0:
        raise ConfigError(f"--shard-hours wants more than 0, got {arguments.shard_hours:g}.")
    if arguments.format in SHARDS and (arguments.output is None or arguments.output.is_file()):
        raise ConfigError(f"--format {arguments.format} wants a folder for its shards: name one with -o.")
    if any(value is not None and value < 1
           for value in (arguments.beam, arguments.block, arguments.rate, arguments.channels)):
        raise ConfigError("--beam, --block, --rate and --channels want numbers of at least 1.")
    if (arguments.raw is None) != (arguments.rate is None) or (arguments.raw and "-" not in arguments.inputs):
        raise ConfigError("--raw and --rate go together, for raw samples on stdin.")


def _levels(arguments: Arguments) -> tuple[int, ...] | None:
    if arguments.levels == "all":
        return None
    numbers = arguments.levels.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"--levels wants all, or numbers from 0 such as 0,2, got {arguments.levels}.")
    return tuple(map(int, numbers))


def _through_pipes(arguments: Arguments, settings: Settings) -> int:
    """From stdin, to stdout, or both: packets as soon as they are there; the voice is not searched for."""
    source, output = arguments.inputs[0], arguments.output
    if output is None or arguments.format != "codes" or (str(output) != "-" and output.suffix != ".codes"):
        raise ConfigError("codes of stdin are written to a .codes file or, with -o -, to stdout.")
    codec = settings.codec()
    codec.check(arguments.speaker)
    codec.block = arguments.block or codec.half_a_second
    if source == "-" and codec.channels > 1:
        raise ConfigError(f"what comes through a pipe is mixed to one channel, this model has {codec.channels}: name a "
                          "file.")
    if source == "-" and arguments.channel is not None:
        raise ConfigError("--channel is of recordings; what comes through a pipe is mixed to one channel: name a file.")
    if source == "-":
        with UntilInterrupt(sys.stdin.buffer) as heard:
            recording = RawReader(heard, codec.sample_rate, arguments.raw, arguments.rate, arguments.channels)
            return _streamed(codec, recording, output, arguments.speaker)
    return _streamed(codec, Recording(Path(source), codec, arguments.channel), output, arguments.speaker)


def _streamed(codec: AnyCodec, recording: RawReader | Recording, output: Path, speaker: str | None) -> int:
    encode_stream(codec, recording, sys.stdout.buffer if str(output) == "-" else output, speaker)
    if str(output) != "-":
        print(sentence(output, recording.samples, codec, speaker))
    return 0


def _pictures(arguments: Arguments, model: str) -> int:
    """Pictures to code files: whatever is of sound alone is refused."""
    if check_pipes("encode", arguments.inputs, arguments.output):
        raise ConfigError("a pipe carries sound, and this model is of pictures: name files.")
    if arguments.format in SHARDS:
        raise ConfigError(f"--format {arguments.format} is of sound, and this model of pictures: write codes, npz or "
                          "npy.")
    refuse(arguments, ("kbps", "beam", "precision", "prior", "channel", "shard_hours", "layout", "raw", "rate",
                       "channels", "block"), "is of sound, and this model of pictures")
    settings = PictureSettings(model, arguments.speaker, _levels(arguments), arguments.overwrite)
    codec = settings.codec()
    codec.check(settings.label)

    def process(source: Path, target: Path) -> str:
        return encode_picture(codec, source, target, settings.label)

    return _to_files(arguments, PICTURES, process, partial(encode_pictures, settings))


def _to_files(arguments: Arguments, suffixes: tuple[str, ...], process: Callable[..., str],
              function: Callable[[Iterable[Job]], Iterator[Done]]) -> int:
    """One file by ``process``, as it is named; several by ``function``, those that are there already passed over."""
    output, suffix = arguments.output, f".{arguments.format}"
    if output is not None and output.suffix in FORMATS:
        suffix = output.suffix
    found, failed = find(arguments.inputs, suffixes)
    if len(found) + len(failed) == 1:
        return over_files("encode", arguments.inputs, output, suffix, suffixes, process)
    check_folder_for_several(output)
    targets_of = targets(found, output, suffix)
    jobs = [Job(item.path, item.relative, targets_of[item.path][0]) for item in found]
    tally = Tally(timed=suffixes == AUDIO)
    for done in tqdm(_run(arguments, function, jobs), total=len(jobs), unit="file", disable=None):
        tally.count(done)
    print(tally.sentence(len(failed), f"to {output}" if output is not None else "beside their sources"))
    return report_failures("encode", failed + tally.failed, len(jobs) + len(failed), output)


def _to_shards(arguments: Arguments, settings: Settings) -> int:
    output = arguments.output
    assert output is not None  # see _check
    codec = settings.codec()
    codec.check(settings.speaker)
    if len(codec.header().hops) > 1 or codec.channels > 1:
        raise ConfigError("a shard holds the codes of one level, of one channel: choose it by --levels, or write code "
                          "files.")
    found, failed = find(arguments.inputs, AUDIO)
    targets(found, output, "")  # refuses two recordings of one id
    jobs = _described(arguments, found)
    with ShardWriter(output, arguments.format, arguments.shard_hours) as writer:
        there = writer.done()
        current = {job.id for job in jobs if job.id in there and is_row_current(job, there[job.id], settings)}
        tally = Tally(len(current))
        todo = [job for job in jobs if job.id not in current]
        if not settings.overwrite:
            _check_rows(output, todo, there)
        writer.remove({job.id for job in todo} & there.keys())  # first out, then in anew: never twice
        running = _run(arguments, partial(encode_jobs, settings), todo)
        for done in tqdm(running, total=len(todo), unit="file", disable=None):
            tally.count(done)
            if done.row is not None:
                writer.add(done.row)
    print(tally.sentence(len(failed), f"to shards in {output}"))
    return report_failures("encode", failed + tally.failed, len(jobs) + len(failed), output)


def _check_rows(output: Path, jobs: list[Job], there: dict[str, dict[str, Any]]) -> None:
    """OutputError where rows that are to be written anew are of other recordings."""
    others = [job for job in jobs if job.id in there and job.path.exists() and is_row_of_another(job, there[job.id])]
    if others:
        raise OutputError(f"{output} holds {len(others)} rows of other recordings under the same names, such as "
                          f"'{others[0].id}', which is not of {others[0].path}: name another output, or --overwrite.")


def _described(arguments: Arguments, found: list[Input]) -> list[Job]:
    """Jobs for shards, with speaker and text where the one input is a folder whose layout tells them."""
    root = Path(arguments.inputs[0])
    known = {}
    if len(arguments.inputs) == 1 and root.is_dir():
        known = who_says_what(root, None if arguments.layout == "auto" else arguments.layout)
    elif arguments.layout != "auto":
        raise ConfigError("--layout is of one folder: name just that as input.")
    return [Job(item.path, item.relative, None, *known.get(item.path, (None, None))) for item in found]


def _run(arguments: Arguments, function: Callable[[Iterable[Job]], Iterator[Done]], jobs: Sequence[Job]
         ) -> Iterator[Done]:
    if arguments.engine == "local":
        return run_local(function, jobs, arguments.workers or 1)
    jobs = [replace(job, path=job.path.absolute(), target=job.target and job.target.absolute()) for job in jobs]
    return run_ray(function, jobs, arguments.workers)
