"""Codes of a corpus in shards: Parquet for `datasets` and `polars`, tar files for `webdataset`.

A shard holds the rows of many recordings, codes-00000.parquet, codes-00001.parquet and so on; columns as
in :class:`Row`. It is written under a temporary name, then renamed, so that every shard is whole. What is
done already is read from the shards themselves: there is no other list.

In a tar file (of webdataset's kind) a recording is two members: KEY.npy, the codes (Q, L), and KEY.json,
all other columns. KEY is the id with the dots of its last part as %2E, since webdataset cuts at the first.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from audiovae.codes import CodeHeader, Codes
from audiovae.errors import CodeFileError, ExtraError, OutputError
from audiovae.files import atomic_file, reason

MAX_ENTRIES = 2**28  # codes in a shard, whatever its hours: Arrow counts them in 31 bits, and they are held in memory


@dataclass(frozen=True, eq=False)
class Row:
    """The codes of one recording and what is known of it: the columns of a shard, in this order.

    Columns
    -------
    id : string; the recording's place below the input folder, without suffix. Unique.
    path : string; the same with suffix.
    speaker : string or null; who speaks, where the corpus' layout tells.
    text : string or null; what is said, where a text lies beside the recording.
    sample_rate : int32, Hz that the codes stand for.
    num_samples : int64, exact length in samples at that rate.
    hop : int32, samples per latent step.
    num_codes : list of int32, K of each of the Q quantizers.
    fingerprint : string; of the model that made the codes.
    label : string or null; the speaker of the model's training whose voice decodes them.
    channel : int32 or null; channel that was encoded, null for the mean of all.
    source_bytes, source_mtime_ns : int64; size of the recording's file and when it was last changed.
    codes : list of Q lists of L uint16; in memory an array (Q, L).

    >>> row = Row("a", "a.wav", None, None, 16000, 640, 320, (8, 8), "9f3c", None, None, 0, 0,
    ...           np.array([[1, 2], [3, 4]], np.uint16))
    >>> row.to_codes().nominal_kbps
    0.3
    """

    id: str
    path: str
    speaker: str | None
    text: str | None
    sample_rate: int
    num_samples: int
    hop: int
    num_codes: tuple[int, ...]
    fingerprint: str
    label: str | None
    channel: int | None
    source_bytes: int
    source_mtime_ns: int
    codes: np.ndarray

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate

    def facts(self) -> dict[str, Any]:
        """All columns but the codes, as JSON knows them."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(self).items() if name != "codes"}

    def header(self) -> CodeHeader:
        return CodeHeader(self.sample_rate, (self.hop,), (self.num_codes,), self.fingerprint, self.label)

    def to_codes(self) -> Codes:
        """As a Codec decodes them; ShapeError or CodeFileError where the columns do not fit each other."""
        return Codes((self.codes,), num_samples=self.num_samples, **vars(self.header()))


FACTS = tuple(field.name for field in fields(Row) if field.name != "codes")


class Format(NamedTuple):
    """How rows become a file and a file rows; ``facts`` reads all but the codes, cheaply."""

    suffix: str
    write: Callable[[Path, Sequence[Row]], None]
    rows: Callable[[Path], Iterator[Row]]
    facts: Callable[[Path], Iterator[dict[str, Any]]]


def read_shards(folder: str | Path) -> Iterator[Row]:
    """The rows of all shards in a folder, shard by shard.

    Raises CodeFileError where there is none or one is damaged, ExtraError where pyarrow is not installed.

    >>> import tempfile
    >>> row = Row("a", "a.wav", None, "Hello.", 16000, 640, 320, (8,), "9f3c", None, None, 0, 0, np.uint16([[1, 2]]))
    >>> with ShardWriter(folder := Path(tempfile.mkdtemp()), "webdataset") as writer:
    ...     writer.add(row)
    >>> [(row.id, row.text, row.codes.tolist()) for row in read_shards(folder)]
    [('a', 'Hello.', [[1, 2]])]
    """
    found = [(format, path) for format in FORMATS.values() for path in shard_paths(Path(folder), format)]
    if not found:
        raise CodeFileError(f"{folder} holds no shards: wanted codes-*.parquet or codes-*.tar.")
    for format, path in found:
        with _intact(path):
            yield from format.rows(path)


def shard_paths(folder: Path, format: Format) -> list[Path]:
    return sorted(folder.glob(f"codes-*{format.suffix}"))


class ShardWriter:
    """Add rows to the shards of a folder; one process at a time.

    Parameters
    ----------
    folder : made where it is missing.
    format : "parquet" or "webdataset".
    hours : of audio after which a shard is closed and the next begun.

    Used as a context manager; left by an error or an interrupt, it still writes the rows it was given.
    Raises OutputError where the system refuses, a shard is damaged or another process writes to the folder;
    ExtraError where pyarrow is not installed.
    """

    def __init__(self, folder: str | Path, format: str = "parquet", hours: float = 10.0):
        self.folder, self.format, self.hours = Path(folder), FORMATS[format], hours
        self._rows: list[Row] = []
        self._seconds, self._entries = 0.0, 0
        if format == "parquet":
            _pyarrow()

    def __enter__(self) -> "ShardWriter":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {reason(error)}.") from None
        self._lock = _locked(self.folder)
        for left in self.folder.glob(f".codes-*.tmp-*{self.format.suffix}"):
            left.unlink(missing_ok=True)  # of a run that was killed: nobody else is here
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.flush()
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def done(self) -> dict[str, dict[str, Any]]:
        """The facts of every row there is, by id, and ``written_ns``, when its shard was."""
        found: dict[str, dict[str, Any]] = {}
        for path in shard_paths(self.folder, self.format):
            with _intact(path):
                written = {"written_ns": path.stat().st_mtime_ns}
                found |= {facts["id"]: facts | written for facts in self.format.facts(path)}
        return found

    def remove(self, ids: set[str]) -> None:
        """Take the rows of these ids out of the shards that hold them; a shard without rows goes."""
        for path in shard_paths(self.folder, self.format) if ids else []:
            with _intact(path):
                if not any(facts["id"] in ids for facts in self.format.facts(path)):
                    continue
                kept = [row for row in self.format.rows(path) if row.id not in ids]
            if kept:
                self._write(path, kept)
            else:
                path.unlink()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._seconds += row.seconds
        self._entries += row.codes.size
        if self._seconds >= self.hours * 3600 or self._entries >= MAX_ENTRIES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as the next shard."""
        if self._rows:
            names = (self.folder / f"codes-{index:05d}{self.format.suffix}" for index in count())
            self._write(next(path for path in names if not path.exists()), self._rows)
            self._rows, self._seconds, self._entries = [], 0.0, 0

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        with atomic_file(path) as temporary:
            self.format.write(temporary, rows)


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pa, parquet = _pyarrow()
    text, whole = pa.string(), pa.int64()
    types = {"id": text, "path": text, "speaker": text, "text": text, "sample_rate": pa.int32(), "num_samples": whole,
             "hop": pa.int32(), "num_codes": pa.list_(pa.int32()), "fingerprint": text, "label": text,
             "channel": pa.int32(), "source_bytes": whole, "source_mtime_ns": whole}
    columns = {name: pa.array([row.facts()[name] for row in rows], kind) for name, kind in types.items()}
    lengths = [row.codes.shape[1] for row in rows for _ in row.codes]
    each = pa.ListArray.from_arrays(_offsets(lengths), np.concatenate([row.codes.ravel() for row in rows]))
    columns["codes"] = pa.ListArray.from_arrays(_offsets([len(row.codes) for row in rows]), each)
    parquet.write_table(pa.table(columns), path, compression="zstd", row_group_size=1024)


def _offsets(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _parquet_rows(path: Path) -> Iterator[Row]:
    _, parquet = _pyarrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(64):
            codes = batch.column("codes")
            for index, facts in enumerate(batch.select(FACTS).to_pylist()):
                yield _row(facts, np.stack([each.values.to_numpy() for each in codes[index]]))


def _parquet_facts(path: Path) -> Iterator[dict[str, Any]]:
    _, parquet = _pyarrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=FACTS):
            yield from batch.to_pylist()


def _write_tar(path: Path, rows: Sequence[Row]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows:
            np.save(codes := io.BytesIO(), row.codes, allow_pickle=False)
            folder, _, name = row.id.rpartition("/")
            key = (f"{folder}/" if folder else "") + name.replace("%", "%25").replace(".", "%2E")
            facts = json.dumps(row.facts(), ensure_ascii=False).encode()
            for suffix, data in ((".npy", codes.getvalue()), (".json", facts)):
                member = tarfile.TarInfo(key + suffix)  # no time and no owner: equal rows make equal bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _tar_rows(path: Path) -> Iterator[Row]:
    with tarfile.open(path) as tar:
        codes = np.zeros((0, 0))
        for member in tar:
            data = io.BytesIO(_content(tar, member))
            if member.name.endswith(".npy"):
                codes = np.load(data, allow_pickle=False)
            else:
                yield _row(json.load(data), codes)


def _tar_facts(path: Path) -> Iterator[dict[str, Any]]:
    with tarfile.open(path) as tar:
        yield from (json.loads(_content(tar, member)) for member in tar if member.name.endswith(".json"))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _row(facts: dict[str, Any], codes: np.ndarray) -> Row:
    values: dict[str, Any] = facts | {"num_codes": tuple(facts["num_codes"]), "codes": codes}
    return Row(**values)


FORMATS = {
    "parquet": Format(".parquet", _write_parquet, _parquet_rows, _parquet_facts),
    "webdataset": Format(".tar", _write_tar, _tar_rows, _tar_facts),
}


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Within, what is wrong with a shard is said in one line."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        if isinstance(error, OutputError):
            raise
        line = " ".join(str(error).split())[:120]
        raise CodeFileError(f"{path}: no shard of codes, or damaged ({line}); remove it to have its recordings "
                            "encoded again.") from None


def _locked(folder: Path) -> int | None:
    """Hold the folder until the descriptor is closed, or this process ends in whatever way."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(f"{folder}: another process writes shards there; wait for it, or name another "
                          "folder.") from None
    except OSError:  # a file system without locks
        pass
    return lock


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ExtraError("Parquet shards want pyarrow: pip install 'audiovae[shards]'.") from None
    return pyarrow, pyarrow.parquet
