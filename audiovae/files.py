"""Files in and out: outputs that appear whole or not at all, inputs named by file, glob or folder."""

import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from audiovae.errors import AudioError, OutputError

# What a failed write() says; such an error names no file. EDQUOT is not known to Windows.
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes the name, on any failure it is removed.

    Missing parent folders are made, and removed again on failure. The suffix is kept, since writers
    choose their format by it. A symbolic link is followed, so that its target is replaced and not the link.

    Raises
    ------
    OutputError
        When the system refuses: full disk, read-only folder, no permission, a folder or device of that name.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_file(folder / "codes.bin") as temporary:
    ...     _ = temporary.write_bytes(b"1234")
    >>> [entry.name for entry in folder.iterdir()]
    ['codes.bin']
    """
    target = _target(path)
    if os.path.exists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "a device"
        raise OutputError(f"{path} cannot be written: it is {kind}; name a file.")
    with _replacing(path, target, commit=os.replace, remove=os.unlink) as temporary:
        yield temporary
        _sync(temporary)


@contextmanager
def atomic_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Give a temporary empty folder beside ``path``; on success it takes the name, else it is removed.

    With ``replace`` a folder of that name is moved away first and removed once the new one stands.

    Raises
    ------
    OutputError
        When ``path`` is there already (without ``replace``, or as a file), or when the system refuses.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "corpus"
    >>> with atomic_folder(out) as temporary:
    ...     _ = (temporary / "manifest.jsonl").write_text("")
    >>> [entry.name for entry in out.iterdir()]
    ['manifest.jsonl']
    """
    target = check_folder(path, replace)
    with _replacing(path, target, commit=_swap, remove=shutil.rmtree) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def resumable_folder(path: str | Path, settings: str) -> Iterator[Path]:
    """Give a hidden folder beside ``path`` for long work; on success it takes the name, on a failure it is removed.

    A process that is killed or interrupted leaves it, and whoever asks with the same ``settings`` is given it as it
    was left; with others an empty one.

    Raises
    ------
    OutputError
        As :func:`atomic_folder`, and where another process is at work on it.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "corpus"
    >>> with suppress(KeyboardInterrupt), resumable_folder(out, "16 kHz") as folder:
    ...     _ = (folder / "half").write_text("")
    ...     raise KeyboardInterrupt
    >>> with resumable_folder(out, "16 kHz") as folder:
    ...     print([entry.name for entry in folder.iterdir()])
    ['half']
    """
    target = check_folder(path)
    hold = target.with_name(f".{target.name}.partial")
    lock = FileLock(hold / "lock")

    def remove(_: Path) -> None:
        if lock.is_locked:  # else it is another's
            shutil.rmtree(hold)

    try:
        with _replacing(path, target, _swap, remove, hold / "work", kept_after=(KeyboardInterrupt,)) as folder:
            hold.mkdir(exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise OutputError(f"{path} cannot be written: another process is at work on it.") from None
            told = hold / "settings"
            if not told.exists() or told.read_text() != settings:
                shutil.rmtree(folder, ignore_errors=True)
                told.write_text(settings)
            folder.mkdir(exist_ok=True)
            yield folder
        shutil.rmtree(hold, ignore_errors=True)
    finally:
        lock.release()


def check_folder(path: str | Path, replace: bool = False) -> Path:
    """The place of a folder that :func:`atomic_folder` may write; OutputError, before long work, where it may not."""
    target = _target(path)
    if os.path.exists(target) and not os.path.isdir(target):
        raise OutputError(f"{path} cannot be written: it is a file; name a folder.")
    if not replace and os.path.isdir(target) and any(target.iterdir()):
        raise OutputError(f"{path} is there already: remove it or name another folder.")
    return target


def printable(path: str | Path) -> str:
    """A name as it can be printed: itself, unless it is not UTF-8, in which names are kept.

    >>> printable(os.fsdecode(b"x\\xff.wav"))
    'x\ufffd.wav'
    """
    return os.fsencode(path).decode("utf-8", "replace")


def check_file(path: str | Path) -> Path:
    """The place of a file that :func:`atomic_file` may write; OutputError, before long work, where it may not."""
    target = _target(path)
    if target.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; name a file.")
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir():
        raise OutputError(f"{path} cannot be written: {above} is a file.")
    return target


@dataclass(frozen=True)
class Input:
    """One file to work on, and its place below the folder or glob that named it (to mirror the tree).

    found : whether it was found there, and not named itself.
    """

    path: Path
    relative: Path
    found: bool = False


def expand_inputs(inputs: Iterable[str | Path], suffixes: Iterable[str]) -> list[Input]:
    """List the files that ``inputs`` name: each a file, a glob or a folder (searched below, sorted).

    A file named outright is taken whatever its suffix; globs and folders give only files whose suffix
    is in ``suffixes`` (".wav", lower case). A file named twice is listed once.

    Raises
    ------
    AudioError
        When one of the inputs is missing, or is a glob or folder without such a file.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a").mkdir()
    >>> _ = (folder / "a" / "x.wav").write_bytes(b"")
    >>> [str(found.relative) for found in expand_inputs([folder], {".wav"})]
    ['a/x.wav']
    """
    suffixes = tuple(sorted(suffixes))
    found: dict[Path, Input] = {}
    for name in inputs:
        for item in _expand(name, suffixes):
            found.setdefault(item.path.absolute(), item)
    return list(found.values())


def _target(path: str | Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}.") from None


@contextmanager
def _replacing(shown: str | Path, target: Path, commit: Callable[[Path, Path], None], remove: Callable[[Path], None],
               temporary: Path | None = None, kept_after: tuple[type[BaseException], ...] = ()) -> Iterator[Path]:
    """The life of a temporary name: parents made, body run, name taken; or all of it taken back.

    kept_after : what may end the body without its work being removed.
    """
    hidden = f".{target.stem[:40]}.tmp-{secrets.token_hex(4)}{target.suffix[:20]}"
    temporary = temporary or target.with_name(hidden)
    made = [parent for parent in target.parents if not os.path.exists(parent)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        commit(temporary, target)
    except BaseException as error:
        if isinstance(error, kept_after):
            raise
        with suppress(OSError):  # there is none when the body did not come so far
            remove(temporary)
        with suppress(OSError):  # innermost first; one that others have filled meanwhile stays
            for parent in made:
                parent.rmdir()
        if isinstance(error, OSError) and _is_ours(error, temporary, made):
            raise OutputError(f"{shown} cannot be written: {reason(error)}.") from error
        raise


def _swap(new: Path, target: Path) -> None:
    """Put the folder ``new`` in the place of ``target``; the old one stays should that fail."""
    old = new.with_name(new.name + ".old")
    if os.path.exists(target):
        os.rename(target, old)
    try:
        os.rename(new, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(error: OSError, temporary: Path, made: list[Path]) -> bool:
    """Whether an error is about the output, and not about some input that was read meanwhile."""
    if error.filename is None:  # an OutputError has no number either, and passes as it is
        return error.errno in _FULL
    named = Path(os.fsdecode(error.filename))
    return named in (temporary, temporary.parent, *made) or temporary in named.parents


def reason(error: OSError) -> str:
    """What the system says of an error, as the end of a sentence.

    >>> reason(OSError(28, "No space left on device"))
    'no space left on device'
    """
    return (error.strerror or str(error)).lower()


def _sync(path: Path) -> None:
    """Force the data out, so that a disk that is full only at the last moment still tells."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, a line of JSON each; a last one that was cut off when its writer was killed is left out.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = log.write_text('{"step": 1}\\n{"st')
    >>> json_lines(log)
    [{'step': 1}]
    """
    lines = path.read_text().splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        return [json.loads(line) for line in lines[:-1]]


def below(folder: str | Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, linked folders entered too, each real folder once: no loop is endless.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.wav").touch()
    >>> [path.name for path in below(folder)]
    ['a.wav']
    """
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in files if not name.startswith("."))  # half-written, or of macOS


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # where there is no folder, nothing lies below it
        raise error


def _expand(name: str | Path, suffixes: tuple[str, ...]) -> list[Input]:
    path = Path(name)
    try:
        if path.is_dir():
            root, candidates = path, below(path)
        elif path.exists():
            return [Input(path, Path(path.name))]
        elif glob.has_magic(str(name)):
            root, candidates = _root(path), map(Path, glob.glob(str(name), recursive=True))
        else:
            raise AudioError(f"{name} is missing: check the path.")
        files = sorted(p for p in candidates if p.suffix.lower() in suffixes and p.is_file())
    except OSError as error:
        raise AudioError(f"{error.filename or name} cannot be read: {reason(error)}.") from None
    if not files:
        raise AudioError(f"{name} holds no file to read: wanted {', '.join(suffixes)}.")
    return [Input(file, file.relative_to(root), found=True) for file in files]


def _root(pattern: Path) -> Path:
    """The part of a glob before its first wildcard."""
    plain: list[str] = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)
