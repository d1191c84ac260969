"""Files from the web: fetched with resume and checksum, archives unpacked where nothing can escape.

What has come lies in NAME.part until it is whole and proved. The next call asks only for the rest, by an HTTP
range; a server that knows no ranges sends all again.
"""

import hashlib
import os
import shutil
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

import requests
from tqdm import tqdm

from audiovae.errors import ConfigError, DownloadError, OutputError
from audiovae.files import atomic_folder, reason

TIMEOUT = (30, 60)  # s: to be connected, and between two pieces of the body
PIECE = 1 << 16  # bytes; what is lost of a body that breaks off


def fetch(url: str, path: str | Path, checksum: str | None = None) -> Path:
    """Bring ``url`` to the file ``path``, going on where an earlier call stopped; a bar shows progress.

    A connection that breaks is taken up again for as long as each attempt brings something.

    Parameters
    ----------
    checksum : "md5:..." or "sha256:..." (any algorithm of hashlib), or None to take what comes. A file that
        fails it is removed, one that lay at ``path`` before excepted.

    Raises
    ------
    ConfigError
        When ``checksum`` is of no known form.
    DownloadError
        When the server cannot be reached, refuses, breaks off, or sends another file than was published.
    OutputError
        When the disk is full or cannot be written; what has come is kept.
    """
    path = Path(path)
    _check_form(checksum)
    if path.exists():
        if said := _differs(path, checksum):
            raise DownloadError(f"{path} is not the file wanted: {said}; remove it, and it is fetched again.")
        return path
    part = path.with_name(path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive_all(url, part)
        if said := _differs(part, checksum):
            part.unlink()
            raise DownloadError(f"{url} sent another file than was published: {said}; it was removed. "
                                "Try again, or another --url.")  # fmt: skip
        os.replace(part, path)
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched: {_cause(error)}.") from None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{part} cannot be written: {reason(error)}; what has come is kept.") from error
    return path


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """Unpack a zip archive to the new folder ``folder``, whole or not at all; each file's own checksum is tested.

    Raises
    ------
    DownloadError
        When the archive is damaged or no zip, or a name in it would lead out of the folder.
    OutputError
        When there is no room for it, or ``folder`` is there already.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "voices.zip"
    >>> with zipfile.ZipFile(path, "w") as made:
    ...     made.writestr("txt/p225/p225_001.txt", "Please call Stella.")
    >>> (unpack(path, path.with_suffix("")) / "txt/p225/p225_001.txt").read_text()
    'Please call Stella.'
    """
    folder = Path(folder)
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            for member in members:
                place = PureWindowsPath(member.filename)  # knows both kinds of slash, and drives
                if place.anchor or ".." in place.parts:
                    raise DownloadError(f"{archive} is not unpacked: '{member.filename}' in it would lie outside.")
            _check_room(folder, sum(member.file_size for member in members))
            with atomic_folder(folder) as temporary:
                for member in tqdm(members, "unpacking", unit="file", disable=None):
                    zipped.extract(member, temporary)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        said = str(error).rstrip(".") or "it ends too early"
        raise DownloadError(f"{archive} cannot be unpacked: {said}; remove it, and it is fetched again.") from None
    return folder


def _receive_all(url: str, part: Path) -> None:
    while True:
        before = _size(part)
        try:
            if _receive(url, part):
                return
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
            have = _size(part)
            if have <= before:
                kept = f"; {have / 1e6:.1f} MB are kept in {part}, and the same command goes on there" if have else ""
                raise DownloadError(f"{url} cannot be fetched: {_cause(error)}{kept}.") from None


def _receive(url: str, part: Path) -> bool:
    """Ask once for what ``part`` lacks; False where it must be asked anew from the start."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = answer.headers.get("Content-Range", "")
        if have and answer.status_code == 416:  # no byte beyond: all is there, or it was another file
            if span == f"bytes */{have}":
                return True
            part.unlink()
            return False
        if answer.status_code not in (200, 206):
            raise DownloadError(f"{url} cannot be fetched: the server says {answer.status_code} {answer.reason}; "
                                "check the address, or name another by --url.")  # fmt: skip
        if answer.status_code == 206 and not span.startswith(f"bytes {have}-"):
            raise DownloadError(f"{url} cannot be fetched: asked for bytes from {have}, got '{span}'; "
                                f"remove {part} to start anew.")  # fmt: skip
        start = have if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        _check_room(part, int(length) - (have - start) if length else 0)
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=part.stem, initial=start, total=start + int(length) if length else None, unit="B",
                 unit_scale=True, disable=None) as bar,
        ):  # fmt: skip
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_room(path: Path, wanted: int) -> None:
    """Say at once that a disk is too small, and not after hours."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if wanted > free:
        raise OutputError(f"{path} cannot be written: it needs {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
                          "free; make room and run the same command again.")  # fmt: skip


def _check_form(checksum: str | None) -> None:
    if checksum is None:
        return
    kind, _, digest = checksum.partition(":")
    known = kind in hashlib.algorithms_guaranteed and not kind.startswith("shake")
    if not known or len(digest) != 2 * hashlib.new(kind).digest_size:
        raise ConfigError(f"checksum: wanted md5: or sha256: and its hexadecimal digits, got '{checksum}'.")


def _differs(path: Path, checksum: str | None) -> str | None:
    """What is wrong with the checksum of a file, or None."""
    if checksum is None:
        return None
    kind, _, wanted = checksum.partition(":")
    found = hashlib.new(kind, usedforsecurity=False)
    with (
        open(path, "rb") as file,
        tqdm(desc=f"checking {kind}", total=_size(path), unit="B", unit_scale=True, disable=None) as bar,
    ):
        while piece := file.read(1 << 20):
            found.update(piece)
            bar.update(len(piece))
    return None if found.hexdigest() == wanted.lower() else f"its {kind} is {found.hexdigest()}, wanted {wanted}"


def _cause(error: BaseException) -> str:
    """What lies at the bottom of an error of the network, in a few words."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) and inner not in chain:
        chain.append(inner)
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return reason(link)
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer in {TIMEOUT[1]} s"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return "the connection broke off"
    return str(error).rstrip(".")
