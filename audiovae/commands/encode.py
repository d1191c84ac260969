"""audiovae encode: recordings to code files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.checkpoint import DEFAULT
from audiovae.codec import Codec
from audiovae.commands.arguments import AUDIO, over_files, parse
from audiovae.errors import ConfigError
from audiovae.transcode import encode_file

FORMATS = (".codes", ".npz", ".npy")


@dataclass(frozen=True)
class Arguments:
    """Encode recordings of any format, rate and length to discrete codes, in constant memory.

    Example: audiovae encode speech.mp3 -o speech.codes --kbps 3

    A folder is mirrored: audiovae encode recordings/ -o codes/ --model runs/small
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Recordings, globs or folders."""
    model: Path = Path(DEFAULT)
    """Checkpoint folder, training run, hub repository, or a model that comes with audiovae."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Code file (.codes, .npz or .npy), or a folder for several (default: beside the recording)."""
    format: Literal["codes", "npz", "npy"] = "codes"
    """What to write when the output is a folder."""
    kbps: float | None = None
    """The most kbit/s of codes, of a model that serves several rates (default: all it has)."""
    prior: bool = True
    """Code with the prior that lies beside the model, where there is one; decoding then needs it too."""
    speaker: str | None = None
    """Training speaker whose voice decodes it (default: the one that sounds most like the recording)."""
    channel: int | None = None
    """Channel to encode, from 0 (default: the mean of all)."""


def main(argv: list[str]) -> int:
    arguments = parse("encode", Arguments, argv)
    suffix = f".{arguments.format}"
    if arguments.output is not None and arguments.output.suffix in FORMATS:
        suffix = arguments.output.suffix
    codec = Codec.from_pretrained(arguments.model, arguments.kbps, arguments.prior)
    codec.check(arguments.speaker)
    if arguments.channel is not None and arguments.channel < 0:
        raise ConfigError(f"--channel counts from 0, got {arguments.channel}.")

    def process(source: Path, target: Path) -> str:
        return encode_file(codec, source, target, arguments.speaker, arguments.channel)

    return over_files("encode", arguments.inputs, arguments.output, suffix, AUDIO, process)
