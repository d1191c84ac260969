"""audiovae prepare: a folder of recordings to a training corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from audiovae.audio.prepare import PrepareConfig, prepare_corpus
from audiovae.commands.arguments import parse


@dataclass(frozen=True)
class Arguments:
    """Make a training corpus: read every recording once, bring all to one rate, pack, split, prove the split.

    Example: audiovae prepare VCTK-Corpus-0.92 -o corpora/vctk

    Understood as they were downloaded: VCTK 0.80 and 0.92, LibriSpeech, LibriTTS; and any folder of
    recordings, with a folder for each speaker or without.
    """

    source: tyro.conf.Positional[Path]
    """Folder of recordings."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the corpus; it must not exist."""
    settings: Annotated[PrepareConfig, tyro.conf.arg(name="")] = PrepareConfig()


def main(argv: list[str]) -> int:
    arguments = parse("prepare", Arguments, argv)
    print(prepare_corpus(arguments.source, arguments.output, arguments.settings))
    return 0
