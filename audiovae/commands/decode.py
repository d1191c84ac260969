"""audiovae decode: code files to recordings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.checkpoint import DEFAULT
from audiovae.codec import Codec
from audiovae.commands.arguments import CODES, over_files, parse
from audiovae.transcode import decode_file


@dataclass(frozen=True)
class Arguments:
    """Decode code files to recordings, exactly as long as what was encoded, in constant memory.

    Example: audiovae decode speech.codes -o speech.wav
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Code files, globs or folders."""
    model: Path = Path(DEFAULT)
    """The model that made the codes: checkpoint folder, training run, hub repository, or one of audiovae's."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Recording (.wav, .flac, .ogg, .mp3), or a folder for several (default: beside the code file)."""
    format: Literal["wav", "flac", "ogg", "mp3"] = "wav"
    """What to write when the output is a folder."""
    speaker: str | None = None
    """Decode in this training speaker's voice (default: the one in the code file)."""


def main(argv: list[str]) -> int:
    arguments = parse("decode", Arguments, argv)
    codec = Codec.from_pretrained(arguments.model)
    codec.check(arguments.speaker)

    def process(source: Path, target: Path) -> str:
        return decode_file(codec, source, target, arguments.speaker)

    return over_files("decode", arguments.inputs, arguments.output, f".{arguments.format}",
                      CODES, process)
