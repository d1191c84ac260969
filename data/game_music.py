"""Lay out the music of seven free games for `audiovae prepare music`: 14.6 hours, from packages of Debian 12.

    apt-get download warzone2100-music ufoai-music wesnoth-1.16-music hedgewars-data nexuiz-music singularity-music \\
        hyperrogue-music
    for deb in *.deb; do dpkg-deb -x $deb ${deb%%_*}; done
    python data/game_music.py . music

writes music/PACKAGE/TRACK (links to the packages' files; those inside a .pk3 are unpacked), tags.csv and split.txt.
An artist is who the file's own tags or the package's copyright file name, else the package. The genre is one coarse
label a package, by its description: nobody listened to each track. Test is two packages, with no artist in common with
the rest; valid is three artists of three packages.
"""

import argparse
import csv
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import soundfile

from audiovae.audio.tags import read_tags
from audiovae.errors import AudiovaeError, CorpusError
from audiovae.files import atomic_folder

LEAST = 20.0  # s: shorter ones are jingles
GENRES = {  # by package
    "warzone2100-music": "Electronic;Ambient",
    "ufoai-music": "Mixed",
    "wesnoth-1.16-music": "Orchestral",
    "hedgewars-data": "Mixed",
    "nexuiz-music": "Electronic",
    "singularity-music": "Electronic;Ambient",
    "hyperrogue-music": "Mixed",
}
PLACES = ("Data/Music", "hyperrogue/music", "singularity/music", "warzone2100/music", "core/music")
# Where tags are missing, or name one artist in several ways: the beginning of a file's name, or the tag.
NAMES = {
    "David": "David Reeves", "Marine": "Marine Baklund", "Psymong": "Psymong", "Crystan": "Christian Hoffmann",
    "TheThings": "Slippycurb", "azrael": "azrael1322", "van_": "Manuel Marino", "karlmacklin": "Karl Macklin",
    "hr-domina": "Lincoln Domina", "hr3-": "Shawn Parrotte",
}  # fmt: skip
ALIASES = {"Gerd (elysis) Raudenbusch": "elysis", "www.elysis.de": "elysis",
           "Joseph G. Toscano (Zhaytee)": "Joseph G. Toscano"}  # fmt: skip
TEST = ("singularity-music", "hyperrogue-music")
VALID = ("Doug Kaufman", "blkrbt", "Marine Baklund")


def tracks(package: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Name and file of each track of an unpacked package; the bytes of one that lies in an archive."""
    for archive in sorted(package.rglob("*.pk3")):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                if name.endswith(".ogg"):
                    yield Path(name).name, opened.read(name)
    for place in PLACES:
        for folder in sorted(package.glob(f"usr/**/{place}")):
            for path in sorted([*folder.rglob("*.ogg"), *folder.rglob("*.opus")]):
                parts = path.relative_to(folder).parts
                yield "-".join(part.removesuffix("_soundtrack") for part in parts if part != "albums"), path


def artist(name: str, package: str, told: tuple[str, ...]) -> str:
    """Whose a track is."""
    for beginning, known in NAMES.items():
        if name.startswith(beginning):
            return known
    return ALIASES.get(told[0], told[0]) if told else package


def collect(packages: Path, out: Path) -> float:
    """Write the folder ``out``, whole or not at all; the hours in it. CorpusError where a package is not there."""
    hours, rows, parts = 0.0, [], {}
    with atomic_folder(out) as folder:
        for package, genre in GENRES.items():
            (folder / package).mkdir()
            before = len(rows)
            for name, source in tracks(packages / package):
                with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                    seconds = file.frames / file.samplerate
                if seconds < LEAST:
                    continue
                place = folder / package / name
                if isinstance(source, bytes):
                    place.write_bytes(source)
                else:
                    os.link(source, place)
                tags = read_tags(place)
                who = artist(name, package, tags.get("artist", ()))
                title = tags["title"][0] if "title" in tags and not name.startswith("hr3-") else ""  # all have one's
                rows.append([f"{package}/{name}", who, genre, "" if re.match(r"\d+ - Track", title) else title])
                parts[who] = "test" if package in TEST else "valid" if who in VALID else "train"
                hours += seconds / 3600
            if len(rows) == before:
                raise CorpusError(f"{packages / package} holds no music: download and unpack the package first.")
        with open(folder / "tags.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "artist", "genre", "title"], *rows])
        (folder / "split.txt").write_text("".join(f"{who}\t{part}\n" for who, part in sorted(parts.items())),
                                          encoding="utf-8")
    return hours


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Lay out the music of free games for `audiovae prepare music`.")
    parser.add_argument("packages", type=Path, help="folder of the unpacked packages, each under its name")
    parser.add_argument("out", type=Path, help="folder to make, on the same disk: tracks are hard links")
    arguments = parser.parse_args(argv)
    try:
        hours = collect(arguments.packages, arguments.out)
    except AudiovaeError as error:
        print(f"game_music: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {hours:.2f} hours of music.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
