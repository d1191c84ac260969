"""Files cut short: what a recording's own container says of its length, against what is there.

libsndfile quietly reads the rest of a WAV (RF64 and W64 too), AIFF, AU, NIST SPHERE or Ogg file that was cut off in a
download, and lets an MP3 decoder print to the terminal. So these containers are looked at before it opens them; the
others (FLAC, CAF) it refuses by itself.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

# Programs that write to a pipe cannot go back to fill in the length: they put a huge one.
_UNKNOWN_LENGTH = 0x7FFFF000
_OGG_PAGE_MAX = 65_307  # bytes: 27 of header, 255 segment lengths, 255 segments of 255


def truncation(path: Path) -> str:
    """What is missing at the end of a file of one of these kinds; empty if nothing is, or none can know.

    An MP3 file says its length only in a Xing or Info header, which constant rate files may lack.

    >>> truncation(Path(__file__))
    ''
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and magic[8:] in (b"WAVE", b"AIFF", b"AIFC"):
            return _chunks(file, size, "<" if magic[:4] in (b"RIFF", b"RF64") else ">")
        if magic[:4] == b"riff":
            return _w64(file, size)
        if magic[:4] == b".snd":
            start, length = struct.unpack(">2I", magic[4:])
            return _lacking(start + length - size) if length < _UNKNOWN_LENGTH else ""
        if magic[:7] == b"NIST_1A":
            return _sphere(file, size)
        if magic[:4] == b"OggS":
            return _ogg(file, size)
        if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
            return _mp3(file, size)
    return ""


def _chunks(file: BinaryIO, size: int, order: str) -> str:
    """Walk the chunks (4 letters, 4 bytes of length, content padded to even) to the one of the samples."""
    at, long = 12, None
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"ds64":  # of RF64: 64 bits for lengths that 32 do not hold (EBU Tech 3306, section 3.4)
            long = int.from_bytes(file.read(16)[8:], "little")
        if name in (b"data", b"SSND"):
            if long is not None:
                return _lacking(at + 8 + (long if length == 0xFFFFFFFF else length) - size)
            return _lacking(at + 8 + length - size) if length < _UNKNOWN_LENGTH else ""
        at += 8 + length + length % 2
    return "it ends before its samples begin"


def _w64(file: BinaryIO, size: int) -> str:
    """Chunks named by 16 bytes, with 64 bits of length, their own 24 bytes counted, from places divisible by 8."""
    at = 40
    while at + 24 <= size:
        file.seek(at)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"data":
            return _lacking(at + length - size)
        at += max(24, length + -length % 8)
    return "it ends before its samples begin"


def _sphere(file: BinaryIO, size: int) -> str:
    """A header of lines: how long it is, and what a file of plain samples holds."""
    file.seek(8)
    start = file.read(8).strip()
    if not start.isdigit():
        return ""
    file.seek(0)
    lines = (line.split(maxsplit=2) for line in file.read(int(start)).decode("ascii", "replace").splitlines())
    facts = {line[0]: line[2] for line in lines if len(line) == 3}
    counts = [facts.get(name, "") for name in ("sample_count", "sample_n_bytes", "channel_count")]
    if "," in facts.get("sample_coding", "") or not all(count.isdigit() for count in counts):  # compressed, or unsaid
        return ""
    return _lacking(int(start) + math.prod(map(int, counts)) - size)


def _ogg(file: BinaryIO, size: int) -> str:
    """The last page must be whole and carry the end-of-stream mark (RFC 3533, section 6)."""
    start = max(0, size - 2 * _OGG_PAGE_MAX)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return "its last page is missing"
    page = tail[at:]
    segments = page[26] if len(page) > 26 else 255
    if len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        return "its last page is cut"
    return "" if page[5] & 4 else "its last page is missing"


def _mp3(file: BinaryIO, size: int) -> str:
    """A Xing or Info header in the first frame says how many bytes the stream has."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # four digits of 7 bits, without the tag's own header
        digits = head[6:10]
        start = 10 + sum(digit << 7 * (3 - place) for place, digit in enumerate(digits))
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return ""
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    field = at + 8 + 4 * (flags & 1)  # the count of frames, if any, comes first
    if not flags & 2 or len(frame) < field + 4:
        return ""
    return _lacking(start + int.from_bytes(frame[field : field + 4], "big") - size)


def _lacking(count: int) -> str:
    return f"{count} bytes of samples are missing" if count > 0 else ""
