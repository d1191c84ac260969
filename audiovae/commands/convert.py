"""audiovae convert: say it in another voice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.codec import Codec
from audiovae.commands.arguments import AUDIO, over_files, parse
from audiovae.convert import check_target, convert_file
from audiovae.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Convert recordings to the voices of speakers the model was trained on.

    Example: audiovae convert in.wav --to p226 -o out.wav --model runs/vctk

    Several targets write one file each: audiovae convert in.wav --to p226 p302 -o out/ --model runs/vctk.
    Use a person's voice only with their consent.
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Recordings, globs or folders."""
    model: Path
    """Checkpoint folder, training run or hub repository; its decoder must be told the speaker."""
    to: tuple[str, ...]
    """Target speakers by name; `audiovae inspect MODEL` lists them."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Recording, or a folder for several recordings or targets (default: beside the source)."""
    format: Literal["wav", "flac", "ogg", "mp3"] = "wav"
    """What to write when the output is a folder."""
    channel: int | None = None
    """Channel to convert, from 0 (default: the mean of all)."""


def main(argv: list[str]) -> int:
    arguments = parse("convert", Arguments, argv)
    if not arguments.to:
        raise ConfigError("--to names no speaker; `audiovae inspect MODEL` lists them.")
    codec = Codec.from_pretrained(arguments.model)
    for target in arguments.to:
        check_target(codec, target)
    speakers = tuple(dict.fromkeys(arguments.to))
    several = len(speakers) > 1 or arguments.output is None

    def process(source: Path, *targets: Path) -> str:
        return "\n".join(convert_file(codec, source, target, speaker, arguments.channel)
                         for speaker, target in zip(speakers, targets, strict=True))

    return over_files("convert", arguments.inputs, arguments.output, f".{arguments.format}", AUDIO, process,
                      tags=tuple(f"-to-{speaker}" for speaker in speakers) if several else ("",))
