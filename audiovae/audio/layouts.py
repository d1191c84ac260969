"""How corpora lie on disk: each layout lists recordings with speaker, text and what is known of both.

    vctk-0.80    wav48/p225/p225_001.wav            txt/p225/p225_001.txt      speaker-info.txt
    vctk-0.92    wav48_silence_trimmed/p225/p225_001_mic1.flac (and _mic2)     the same
    libri        103/1240/103-1240-0000.flac        103-1240.trans.txt         SPEAKERS.TXT
                 103/1240/103_1240_000_00.wav       *.normalized.txt           speakers.tsv (LibriTTS)
    speakers     anna/hello.wav                     anna/hello.txt, if any: a folder a speaker, any depth below
    flat         hello.wav                          hello.txt, if any: one speaker, any depth below
    music        Ada Lark/air.ogg                   tags.csv or the files' own tags, else the folder is the artist

A speaker may lack texts (p315 of VCTK) or a microphone (p280 and p315 have no mic2).
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from audiovae.audio.io import AUDIO_SUFFIXES
from audiovae.audio.tags import TABLE, Tags, read_tag_table, read_tags
from audiovae.errors import CorpusError
from audiovae.files import below

LayoutName = Literal["vctk-0.80", "vctk-0.92", "libri", "speakers", "flat", "music"]
Microphone = Literal["mic1", "mic2"]

_LIBRI = re.compile(r"(\d+)[-_]\d+[-_][-_\d]+")


@dataclass(frozen=True)
class Speaker:
    """What a speaker table says; None where it says nothing."""

    gender: str | None = None
    age: int | None = None
    accent: str | None = None


@dataclass(frozen=True)
class Source:
    """One recording of a corpus as it was found. id : unique within the corpus. corpus : which, of several.

    tags : of music; the speaker is its first artist and the text its title.
    """

    id: str
    speaker: str
    path: Path
    text: str | None = None
    corpus: str = ""
    tags: Tags = field(default_factory=dict, hash=False)

    @property
    def sentence(self) -> str | None:
        """What two recordings of one sentence have in common: the words, without case and punctuation."""
        return sentence_key(self.text) if self.text is not None else None


@dataclass(frozen=True)
class Listing:
    """All that a layout found.

    layout : of several corpora, their layouts joined by +. rejected : files (or their places) that are of no use,
    each with its reason. shared : speakers that several corpora named alike.
    """

    layout: str
    root: Path
    sources: list[Source] = field(default_factory=list)
    speakers: dict[str, Speaker] = field(default_factory=dict)
    rejected: list[tuple[Path, str]] = field(default_factory=list)
    shared: tuple[str, ...] = ()


def list_corpus(
    folder: str | Path, layout: LayoutName | Literal["auto"] = "auto", mic: Microphone = "mic1"
) -> Listing:
    """List the recordings below ``folder``, sorted by id.

    Parameters
    ----------
    layout : "auto" looks for the signs of each; see the head of this module.
    mic : which microphone of VCTK 0.92.

    Raises
    ------
    CorpusError
        When the folder is missing, is a file, holds no recording, or the layout cannot be told.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("anna/1.wav", "ben/1.wav"):
    ...     (folder / name).parent.mkdir()
    ...     (folder / name).touch()
    >>> listing = list_corpus(folder)
    >>> listing.layout, [(source.id, source.speaker) for source in listing.sources]
    ('speakers', [('anna/1', 'anna'), ('ben/1', 'ben')])
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusError(f"corpus folder {folder} is {'a file' if folder.exists() else 'missing'}: name a folder.")
    name, root = detect_layout(folder) if layout == "auto" else (layout, _root(folder, layout))
    listing = Listing(name, root, speakers=_speakers(root))
    _LISTERS[name](listing, mic)
    if not listing.sources:
        why = f": {listing.rejected[0][1]}" if listing.rejected else ""
        raise CorpusError(f"corpus folder {folder} holds no recording in the layout {name}{why}.")
    listing.sources.sort(key=lambda source: (source.id, source.path))
    return listing


def list_corpora(
    folders: Sequence[str | Path], layout: LayoutName | Literal["auto"] = "auto", mic: Microphone = "mic1"
) -> Listing:
    """List several corpora as one, each in its own layout; see :func:`list_corpus`.

    Nobody knows whether anna of one corpus is anna of another, so they are two voices: anna@one and anna@two. An artist
    of music is the same everywhere.

    Raises
    ------
    CorpusError
        As :func:`list_corpus`, and when a folder is given twice or lies in another one.

    >>> import tempfile
    >>> parent = Path(tempfile.mkdtemp())
    >>> for name in ("one/anna/1.wav", "two/anna/1.wav", "two/ben/1.wav"):
    ...     (parent / name).parent.mkdir(parents=True)
    ...     (parent / name).touch()
    >>> [(source.id, source.speaker) for source in list_corpora([parent / "one", parent / "two"]).sources]
    [('anna/1@one', 'anna@one'), ('anna/1@two', 'anna@two'), ('ben/1', 'ben')]
    """
    if len(folders) == 1:
        return list_corpus(folders[0], layout, mic)
    listings = [list_corpus(Path(folder).resolve(), layout, mic) for folder in folders]
    for i, one in enumerate(listings):
        for two in listings[:i]:
            if one.root.is_relative_to(two.root) or two.root.is_relative_to(one.root):
                raise CorpusError(f"corpus folders {two.root} and {one.root} hold the same recordings: name one.")
    root = Path(os.path.commonpath([listing.root for listing in listings]))
    names = [listing.root.relative_to(root).as_posix().replace("/", "-") for listing in listings]
    speakers = Counter(name for listing in listings for name in {s.speaker for s in listing.sources if not s.tags})
    ids = Counter(source.id for listing in listings for source in listing.sources)
    merged = Listing("+".join(sorted({listing.layout for listing in listings})), root,
                     shared=tuple(sorted(name for name, count in speakers.items() if count > 1)))  # fmt: skip
    for name, listing in zip(names, listings, strict=True):
        for source in listing.sources:
            twice = speakers[source.speaker] > 1 and not source.tags
            speaker = f"{source.speaker}@{name}" if twice else source.speaker
            own = f"{source.id}@{name}" if ids[source.id] > 1 else source.id
            merged.sources.append(replace(source, id=own, speaker=speaker, corpus=name))
            if source.speaker in listing.speakers:
                merged.speakers[speaker] = listing.speakers[source.speaker]
        merged.rejected.extend(listing.rejected)
    merged.sources.sort(key=lambda source: (source.id, source.path))
    return merged


def find_vctk(folder: Path, layout: LayoutName) -> Path | None:
    """Where a version of VCTK begins, in a folder or up to two below; None where it does not lie there."""
    root = _root(folder, layout)
    return root if (root / _VCTK[layout]).is_dir() else None


def detect_layout(folder: Path) -> tuple[LayoutName, Path]:
    """The layout of a folder, and where it begins: VCTK may lie up to two folders below (VCTK-Corpus/).

    Raises CorpusError when there is no recording, or when recordings lie both beside and in folders.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "VCTK-Corpus" / "wav48" / "p225").mkdir(parents=True)
    >>> detect_layout(folder)[0]
    'vctk-0.80'
    """
    for name in _VCTK:
        if root := find_vctk(folder, name):
            return name, root
    files = list(_audio(folder))
    if not files:
        raise CorpusError(f"corpus folder {folder} holds no recording: wanted {', '.join(AUDIO_SUFFIXES)}.")
    if all(_LIBRI.fullmatch(path.stem) for path in files):
        return "libri", folder
    beside = [path for path in files if path.parent == folder]
    if beside and len(beside) < len(files):
        raise CorpusError(
            f"corpus folder {folder} holds recordings (such as {beside[0].name}) and folders of them: "
            "move them, or say the layout, speakers or flat."
        )
    return ("flat" if beside else "speakers"), folder


def sentence_key(text: str) -> str:
    """The words of a text in lower case without punctuation or accents.

    >>> sentence_key("Please call Stella.") == sentence_key("PLEASE CALL, STELLA")
    True
    """
    plain = unicodedata.normalize("NFKD", text.casefold()).replace("’", "'").replace("'", "")
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return " ".join(re.findall(r"\w+", plain))


_VCTK: dict[LayoutName, str] = {"vctk-0.92": "wav48_silence_trimmed", "vctk-0.80": "wav48"}


def _list_vctk_080(listing: Listing, mic: Microphone) -> None:
    for path in _audio(listing.root / "wav48"):
        speaker = path.parent.name
        text = listing.root / "txt" / speaker / f"{path.stem}.txt"
        listing.sources.append(Source(path.stem, speaker, path, read_text(text)))


def _list_vctk_092(listing: Listing, mic: Microphone) -> None:
    """Files of the other microphone are passed over; an utterance that only it has is rejected."""
    mics: dict[tuple[str, str], dict[str, Path]] = {}
    for path in _audio(listing.root / _VCTK["vctk-0.92"]):
        utterance, _, which = path.stem.rpartition("_")
        if which not in ("mic1", "mic2"):
            listing.rejected.append((path, "name does not end in _mic1 or _mic2"))
            continue
        mics.setdefault((path.parent.name, utterance), {})[which] = path
    for (speaker, utterance), found in mics.items():
        if mic not in found:
            listing.rejected.append((next(iter(found.values())), f"no {mic} recording"))
            continue
        text = listing.root / "txt" / speaker / f"{utterance}.txt"
        listing.sources.append(Source(utterance, speaker, found[mic], read_text(text)))


def _list_libri(listing: Listing, mic: Microphone) -> None:
    transcripts: dict[Path, dict[str, str]] = {}
    for path in _audio(listing.root):
        match = _LIBRI.fullmatch(path.stem)
        if match is None:
            listing.rejected.append((path, "name is not SPEAKER-CHAPTER-NUMBER"))
            continue
        if path.parent not in transcripts:
            transcripts[path.parent] = _transcripts(path.parent)
        text = transcripts[path.parent].get(path.stem) or read_text(path.with_suffix(".normalized.txt"))
        listing.sources.append(Source(path.stem, match[1], path, text))


def _list_speakers(listing: Listing, mic: Microphone) -> None:
    for path in _audio(listing.root):
        place = path.relative_to(listing.root)
        if len(place.parts) == 1:
            listing.rejected.append((path, "lies beside the speakers' folders"))
            continue
        text = read_text(path.with_suffix(".txt"))
        listing.sources.append(Source(place.with_suffix("").as_posix(), place.parts[0], path, text))


def _list_flat(listing: Listing, mic: Microphone) -> None:
    speaker = listing.root.resolve().name
    for path in _audio(listing.root):
        name = path.relative_to(listing.root).with_suffix("").as_posix()
        listing.sources.append(Source(name, speaker, path, read_text(path.with_suffix(".txt"))))


def _list_music(listing: Listing, mic: Microphone) -> None:
    table = read_tag_table(listing.root / TABLE)
    for path in _audio(listing.root):
        place = path.relative_to(listing.root)
        tags = read_tags(path) | table.pop(place.as_posix(), {})
        title = tags.pop("title", (place.stem,))[0]
        folder = place.parts[0] if len(place.parts) > 1 else listing.root.resolve().name
        tags = {"artist": (folder,)} | tags
        listing.sources.append(Source(place.with_suffix("").as_posix(), tags["artist"][0], path, title, tags=tags))
    listing.rejected.extend((listing.root / file, f"named in {TABLE}, but not there") for file in table)


_LISTERS: dict[LayoutName, Callable[[Listing, Microphone], None]] = {
    "vctk-0.80": _list_vctk_080,
    "vctk-0.92": _list_vctk_092,
    "libri": _list_libri,
    "speakers": _list_speakers,
    "flat": _list_flat,
    "music": _list_music,
}


def _audio(folder: Path) -> Iterator[Path]:
    """Recordings below a folder, sorted."""
    for path in sorted(below(folder)):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            yield path


def _root(folder: Path, layout: LayoutName) -> Path:
    if layout in _VCTK and not (folder / _VCTK[layout]).is_dir():
        for depth in ("*", "VCTK-*/*"):
            found = [path.parent for path in sorted(folder.glob(f"{depth}/{_VCTK[layout]}")) if path.is_dir()]
            if len(found) == 1:
                return found[0]
    return folder


def read_text(path: Path) -> str | None:
    """A transcript on one line; None where there is none, or nothing in it."""
    if not path.is_file():
        return None
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split()) or None


def _transcripts(folder: Path) -> dict[str, str]:
    """The texts of a LibriSpeech chapter by utterance: lines of ID TEXT in *.trans.txt."""
    lines = [line for path in folder.glob("*.trans.txt") for line in path.read_text("utf-8", "replace").splitlines()]
    return {name: text for name, _, text in (line.strip().partition(" ") for line in lines) if text}


def _speakers(root: Path) -> dict[str, Speaker]:
    """The table of speakers: VCTK's in the folder itself, Libri's there or up to two above (one subset is named)."""
    table = root / "speaker-info.txt"
    if table.is_file():
        return _vctk_speakers(table.read_text(encoding="utf-8", errors="replace"))
    for folder in (root, *root.resolve().parents[:2]):
        for name, mark in (("SPEAKERS.TXT", "|"), ("SPEAKERS.txt", "|"), ("speakers.tsv", "\t")):
            if (folder / name).is_file():
                rows = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                cells = [[cell.strip() for cell in row.split(mark)] for row in rows if not row.startswith(";")]
                return {row[0]: Speaker(gender=row[1]) for row in cells if len(row) > 1 and row[1] in ("F", "M")}
    return {}


def _vctk_speakers(table: str) -> dict[str, Speaker]:
    """Rows of ID AGE GENDER ACCENTS REGION; version 0.80 writes 225 for p225."""
    found = {}
    for cells in (line.split() for line in table.splitlines()):
        if len(cells) >= 3 and cells[0] != "ID":
            name = f"p{cells[0]}" if cells[0].isdigit() else cells[0]
            age = int(cells[1]) if cells[1].isdigit() else None
            gender = cells[2] if cells[2] in ("F", "M") else None
            found[name] = Speaker(gender, age, cells[3] if len(cells) > 3 else None)
    return found
