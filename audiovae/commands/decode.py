"""audiovae decode: code files to recordings and pictures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.audio.io import AudioWriter
from audiovae.audio.raw import RawWriter
from audiovae.checkpoint import DEFAULT
from audiovae.commands.arguments import CODES, PICTURES, check_pipes, over_files, parse, refuse
from audiovae.errors import ConfigError
from audiovae.level_codec import AnyCodec, open_codec
from audiovae.nn.bfloat16 import Precision
from audiovae.picture_codec import decode_picture, is_of_pictures, open_picture_codec
from audiovae.transcode import decode_file, decode_stream, decode_to, sentence


@dataclass(frozen=True)
class Arguments:
    """Decode code files to recordings, exactly as long as what was encoded, in constant memory; or to pictures.

    Example: audiovae decode speech.codes -o speech.wav

    A part: audiovae decode speech.codes -o part.wav --from 12.5 --to 20

    A picture: audiovae decode digit.codes -o digit.png --model runs/vqvae2

    As they come, through pipes: audiovae decode - -o - --raw s16le | aplay -f S16_LE -r 16000
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Code files, globs or folders; - alone for stdin."""
    model: Path = Path(DEFAULT)
    """The model that made the codes: checkpoint folder, training run, hub repository, or one of audiovae's."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Recording (.wav, .flac, .ogg, .mp3) or picture (.png), a folder for several (default: beside the code file), or -
    for stdout."""
    format: Literal["wav", "flac", "ogg", "mp3", "png"] | None = None
    """What to write when the output is a folder (default: wav, of pictures png)."""
    speaker: Annotated[str | None, tyro.conf.arg(aliases=["--label"])] = None
    """Decode in this training speaker's voice, or told this label of pictures (default: the one in the code file)."""
    level: int | None = None
    """Level to decode from, of a multi-resolution model, 0 the finest (default: the finest in the code file)."""
    precision: Precision = "no"
    """bf16: linear layers multiply in bfloat16, faster on processors that do; the sound differs by less than codes do
    from what was encoded."""
    start: Annotated[float, tyro.conf.arg(name="from")] = 0.0
    """Second to decode from."""
    stop: Annotated[float | None, tyro.conf.arg(name="to")] = None
    """Second to decode to (default: the end)."""
    raw: Literal["s16le", "f32le"] | None = None
    """Stdout gets raw samples: 16-bit integers or 32-bit floats, little-endian (default: a wav)."""
    block: int | None = None
    """Latent steps at once: sound waits for as many and the model's halo (default: half a second of them from stdin,
    else 1000, as long recordings have it fastest)."""


def main(argv: list[str]) -> int:
    arguments = parse("decode", Arguments, argv)
    if is_of_pictures(arguments.model):
        return _pictures(arguments)
    if arguments.format == "png" or (arguments.output is not None and arguments.output.suffix.lower() in PICTURES):
        raise ConfigError(f"no picture comes from model {arguments.model}, which is of sound: name the model of "
                          "pictures that made the codes.")
    codec = open_codec(arguments.model, precision=arguments.precision)
    codec.check(arguments.speaker)

    if arguments.block is not None and arguments.block < 1:
        raise ConfigError("--block wants at least 1 latent step.")
    if check_pipes("decode", arguments.inputs, arguments.output):
        return through_pipes(codec, arguments)
    codec.block = arguments.block or codec.block
    if arguments.raw:
        raise ConfigError("--raw is for stdout: add -o -.")

    def process(source: Path, target: Path) -> str:
        return decode_file(codec, source, target, arguments.speaker, arguments.start, arguments.stop,
                           arguments.level)

    return over_files("decode", arguments.inputs, arguments.output, f".{arguments.format or 'wav'}",
                      CODES, process)


def _pictures(arguments: Arguments) -> int:
    """Code files to pictures: whatever is of sound alone is refused."""
    if check_pipes("decode", arguments.inputs, arguments.output):
        raise ConfigError("a pipe carries sound, and this model is of pictures: name files.")
    if arguments.format not in (None, "png"):
        raise ConfigError(f"--format {arguments.format} is of sound, and this model of pictures: write png.")
    refuse(arguments, ("precision", "start", "stop", "raw", "block"), "is of sound, and this model of pictures")
    codec = open_picture_codec(arguments.model)
    codec.check(arguments.speaker)

    def process(source: Path, target: Path) -> str:
        return decode_picture(codec, source, target, arguments.speaker, arguments.level)

    return over_files("decode", arguments.inputs, arguments.output, ".png", CODES, process)


def through_pipes(codec: AnyCodec, arguments: Arguments) -> int:
    """From stdin, to stdout, or both: sound as soon as its codes are there."""
    source, output = arguments.inputs[0], arguments.output
    if source == "-":
        codec.block = arguments.block or codec.half_a_second
        if arguments.start or arguments.stop is not None:
            raise ConfigError("--from and --to want a code file: a pipe cannot be sought in.")
        decode = lambda writer: decode_stream(codec, sys.stdin.buffer, writer, arguments.speaker,  # noqa: E731
                                              arguments.level)
    else:
        codec.block = arguments.block or codec.block
        decode = lambda writer: decode_to(codec, Path(source), writer, arguments.speaker,  # noqa: E731
                                          arguments.start, arguments.stop, arguments.level)
    if str(output) == "-":
        if codec.channels > 1:
            raise ConfigError(f"a pipe carries one channel, this model has {codec.channels}: name a file with -o.")
        decode(RawWriter(sys.stdout.buffer, codec.sample_rate, arguments.raw))
    elif output is None or arguments.raw:
        raise ConfigError("the sound of stdin's codes goes to a recording or, with -o -, to stdout; only there --raw.")
    else:
        with AudioWriter(output, codec.sample_rate, codec.channels) as writer:
            speaker = decode(writer)
        print(sentence(output, writer.frames, codec, speaker))
    return 0
