"""What is known of music besides its sound: artist, genre and title, from a table or from the recordings themselves.

A table is ``tags.csv`` in the folder of the music, its first line the names of its columns:

    file,artist,genre,title
    suites/air.ogg,Ada Lark;Bo Finch,Orchestral;Slow,Air

``file`` is relative to the folder. Every column but ``file`` and ``title`` is a field of tags, whatever its name, and
its values are apart by semicolons. What the table leaves empty is asked of the recording.
"""

import csv
from pathlib import Path

import soundfile

from audiovae.errors import CorpusError

TABLE = "tags.csv"
FIELDS = ("artist", "genre")  # those that recordings have, too
Tags = dict[str, tuple[str, ...]]
# What programs write where they know nothing.
_UNKNOWN = {"", "unknown", "<unknown>", "(none)", "none", "unknown artist", "various artists", "other"}


def read_tags(path: Path) -> Tags:
    """Artist, genre and title as a recording's own metadata tells them; {} where it tells nothing or cannot be read.

    Ogg, Opus, FLAC, MP3 (ID3) and WAV are read, by libsndfile.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.flac"
    >>> with soundfile.SoundFile(path, "w", 8000, 1) as file:
    ...     file.artist, file.genre = "Ada Lark", "Folk; Slow"
    ...     file.write([0.0] * 100)
    >>> read_tags(path)
    {'artist': ('Ada Lark',), 'genre': ('Folk', 'Slow')}
    """
    try:
        with soundfile.SoundFile(path) as file:
            told = file.copy_metadata()
    except (OSError, soundfile.LibsndfileError):  # whoever reads its samples says what is wrong with it
        return {}
    found = {name: split_values(told.get(name, "")) for name in FIELDS}
    title = " ".join(told.get("title", "").split())
    found["title"] = (title,) if title.casefold() not in _UNKNOWN else ()
    return {name: values for name, values in found.items() if values}


def split_values(text: str) -> tuple[str, ...]:
    """The values of a field, in their order and each once; what stands for unknown is none.

    >>> split_values("Folk; Slow;folk ;Folk;<Unknown>")
    ('Folk', 'Slow', 'folk')
    """
    values = (" ".join(value.split()) for value in text.split(";"))
    return tuple(dict.fromkeys(value for value in values if value.casefold() not in _UNKNOWN))


def read_tag_table(path: Path) -> dict[str, Tags]:
    """The rows of a table of tags by file; {} where there is no such table.

    Raises
    ------
    CorpusError
        When it has no column ``file``, a row of another length, or a file twice.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tags.csv"
    >>> _ = path.write_text("file,artist,mood,title\\na.ogg,Ada Lark,calm;slow,Air\\n")
    >>> read_tag_table(path)
    {'a.ogg': {'artist': ('Ada Lark',), 'mood': ('calm', 'slow'), 'title': ('Air',)}}
    """
    if not path.is_file():
        return {}
    table: dict[str, Tags] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read ({error}): write it as comma-separated text in UTF-8.") from None
    names = [name.strip().casefold() for name in rows[0]] if rows else []
    if "file" not in names or len(set(names)) < len(names) or "" in names:
        raise CorpusError(f"{path}: wanted a first line such as file,artist,genre,title, got '{','.join(names)}'.")
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(names):
            raise CorpusError(f"{path}, line {number}: wanted {len(names)} cells, got {len(row)}: put a cell that "
                              "holds a comma in quotes.")
        cells = dict(zip(names, row, strict=True))
        file, title = Path(cells.pop("file").strip()).as_posix(), " ".join(cells.pop("title", "").split())
        if file in table:
            raise CorpusError(f"{path}, line {number}: {file} is there twice: leave one.")
        tags = {name: split_values(cell) for name, cell in cells.items()} | ({"title": (title,)} if title else {})
        table[file] = {name: values for name, values in tags.items() if values}
    return table
