"""audiovae prepare: folders of recordings to a training corpus, VCTK fetched first where asked."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.audio.layouts import find_vctk
from audiovae.audio.prepare import prepare_corpus
from audiovae.audio.prepare_config import MUSIC, PrepareConfig
from audiovae.audio.vctk import RELEASES, VctkName, download_vctk
from audiovae.commands.arguments import parse
from audiovae.errors import ConfigError, CorpusError
from audiovae.files import check_folder

Corpus = Literal["vctk", VctkName]
CORPORA: dict[str, tuple[VctkName, ...]] = {"vctk": tuple(RELEASES), **{name: (name,) for name in RELEASES}}


@dataclass(frozen=True)
class Arguments:
    """Make a training corpus: read every recording once, bring all to one rate, pack, split, prove the split.

    Example: audiovae prepare vctk data -o corpora/vctk --download

    Understood as they were downloaded: VCTK 0.80 and 0.92, LibriSpeech, LibriTTS; and any folder of
    recordings, with a folder for each speaker or without. Of music, artist, genre and title are kept, and no artist
    is in two parts: audiovae prepare music FOLDER -o corpora/music --rate 44100 --channels 2

    Interrupted or killed, and started again with the same words, it goes on where it was.
    """

    source: tyro.conf.Positional[tuple[str, ...]]
    """Folders of recordings, which become one corpus. Before them may stand what they hold: vctk (either version),
    vctk-0.92, vctk-0.80 or music (44100 Hz, 5 s and more, split by artist, where nothing else is said); a folder of
    such a name is written ./vctk."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the corpus; it must not exist."""
    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Fetch VCTK (11.7 GB; 0.92 unless vctk-0.80 is said) to the folder first, and unpack it there, unless it is there.
    Stopped and started again it goes on."""
    url: str | None = None
    """Mirror of the zip archive to download."""
    checksum: str | None = None
    """md5:... or sha256:... of a mirror's archive that is packed otherwise than the published one."""
    rate: int | None = None
    """Short for --sample-rate."""
    settings: Annotated[PrepareConfig, tyro.conf.arg(name="")] = PrepareConfig()


@dataclass(frozen=True)
class MusicArguments(Arguments):
    settings: Annotated[PrepareConfig, tyro.conf.arg(name="")] = MUSIC


def main(argv: list[str]) -> int:
    arguments = parse("prepare", Arguments, argv)
    words = list(arguments.source)
    if words[:1] == ["music"] and len(words) > 1:
        words.pop(0)
        arguments = parse("prepare", MusicArguments, argv)
    settings = arguments.settings
    if arguments.rate is not None:
        settings = replace(settings, sample_rate=arguments.rate)
    corpus = words.pop(0) if len(words) > 1 and words[0] in CORPORA else None
    if not words or "" in words:
        raise ConfigError("no input: name a folder of recordings.")
    folders = [Path(word) for word in words]
    if arguments.download:
        if corpus is None or len(folders) != 1:
            raise ConfigError("--download wants a corpus and one folder, as in `audiovae prepare vctk data -o corpus "
                              "--download`.")  # fmt: skip
        check_folder(arguments.output)
        version = CORPORA[corpus][0]
        folders = [download_vctk(folders[0], version, arguments.url, arguments.checksum)]
        settings = replace(settings, layout=version)
    elif arguments.url or arguments.checksum:
        raise ConfigError("--url and --checksum say what to download: add --download.")
    elif corpus is not None:
        settings = replace(settings, layout=_version(corpus, folders))
    try:
        print(prepare_corpus(folders, arguments.output, settings))
    except KeyboardInterrupt:
        print(f"Interrupted; what was read is kept, hidden, beside {arguments.output}: give the same command to go on.",
              file=sys.stderr)
        return 130
    return 0


def _version(corpus: str, folders: list[Path]) -> VctkName:
    """Which version of VCTK the folders hold."""
    for version in CORPORA[corpus]:
        if all(find_vctk(folder, version) for folder in folders):
            return version
    raise CorpusError(f"no {corpus} in {', '.join(map(str, folders))}: wanted the folder that it was unpacked to, "
                      "with wav48_silence_trimmed (0.92) or wav48 (0.80), or add --download.")  # fmt: skip
