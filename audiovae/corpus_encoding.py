"""Encoding of many recordings: what is there already is passed over, reading overlaps encoding.

The one function for every engine is :func:`encode_jobs`: given the same jobs it writes the same bytes,
wherever and however often it runs.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from audiovae.audio.layouts import LayoutName, list_corpus, read_text
from audiovae.audio.reader import length_said
from audiovae.codec import BEAM
from audiovae.codes import CodeHeader, CodeReader, Codes
from audiovae.errors import AudioError, AudiovaeError, CodeFileError, CorpusError, OutputError
from audiovae.files import reason
from audiovae.level_codec import AnyCodec, open_codec
from audiovae.nn.bfloat16 import Precision
from audiovae.parallel import ahead
from audiovae.shards import Row
from audiovae.transcode import Recording, encode_pieces, write_codes

TENTH = 0.1  # s by which a head and what is decoded may differ: not every format knows its length to the sample


@dataclass(frozen=True)
class Settings:
    """What decides the codes of a recording, besides itself: all that another process must be told.

    overwrite : encode what is there already once more.
    prior : write code files with the prior that lies beside the model, where there is one.
    block : latent steps at once, None for the codec's own choice; the codes are the same.
    levels : those to encode, of a model of several; None for all.
    beam, precision : how widely codes are searched for, and in what the model multiplies, see
        :class:`audiovae.codec.Codec`; codes that are there already may be of any.
    """

    model: str
    kbps: float | None = None
    speaker: str | None = None
    channel: int | None = None
    overwrite: bool = False
    prior: bool = True
    block: int | None = None
    levels: tuple[int, ...] | None = None
    beam: int = BEAM
    precision: Precision = "no"

    def codec(self) -> AnyCodec:
        """The model, loaded once in each process."""
        return _codec(self.model, self.kbps, self.prior, self.block, self.levels, self.beam, self.precision)

    def fit(self, header: CodeHeader) -> bool:
        """Whether codes are of this model, at this rate, for this voice if one was told."""
        wanted = self.codec().header(self.speaker)
        same = [(h.sample_rate, h.channels, h.hops, h.num_codes, h.fingerprint) for h in (header, wanted)]
        return same[0] == same[1] and self.speaker in (None, header.label)


@cache
def _codec(model: str, kbps: float | None, prior: bool, block: int | None, levels: tuple[int, ...] | None,
           beam: int, precision: Precision) -> AnyCodec:
    codec = open_codec(model, kbps, prior, levels, beam, precision)
    codec.block = block or codec.block
    return codec


@dataclass(frozen=True)
class Job:
    """One recording to encode; without a ``target`` a row for a shard is wanted.

    relative : its place below the input folder. who, text : who says what, where that is known.
    """

    path: Path
    relative: Path
    target: Path | None = None
    who: str | None = None
    text: str | None = None

    @property
    def id(self) -> str:
        return self.relative.with_suffix("").as_posix()


@dataclass(frozen=True)
class Done:
    """What became of a job: ``seconds`` encoded, or ``skipped``, or the reason of its failure."""

    job: Job
    seconds: float = 0.0
    skipped: bool = False
    failed: str | None = None
    row: Row | None = None


def encode_jobs(settings: Settings, jobs: Iterable[Job]) -> Iterator[Done]:
    """Encode recordings one by one while the next are read; one that is bad does not stop the others.

    Code files that :func:`is_encoded` are skipped, unless ``settings.overwrite``.
    """
    tasks = (_Task(settings, job) for job in jobs)
    for task, pieces in ahead((task, task) for task in tasks):
        try:
            yield _encode(task, pieces)
        except AudiovaeError as error:
            yield Done(task.job, failed=str(error))


class _Task:
    """A job on its way: iterated, in the background, it gives the pieces of its recording, or none to be skipped."""

    def __init__(self, settings: Settings, job: Job):
        self.settings, self.job, self.codec = settings, job, settings.codec()
        self.recording = Recording(job.path, self.codec, settings.channel)
        self.version = (0, 0)

    def __iter__(self) -> Iterator[Tensor]:
        self.version = source_version(self.job.path)
        if self.job.target is not None and is_encoded(self.job.path, self.job.target, self.settings):
            return
        yield from self.recording
        if source_version(self.job.path) != self.version:
            raise AudioError(f"{self.job.path} was changed while it was read: encode it again.")


def _encode(task: _Task, pieces: Iterator[Tensor]) -> Done:
    job, codec, recording, speaker = task.job, task.codec, task.recording, task.settings.speaker
    first = next(pieces, None)
    if first is None:
        return Done(job, skipped=True)
    pieces = chain([first], pieces)
    row = None
    if job.target is not None:
        write_codes(codec, recording, pieces, job.target, speaker)
    else:
        label, blocks = encode_pieces(codec, pieces, speaker)
        row = _row(task, codec.codes(blocks, lambda: recording.samples, label))
    return Done(job, recording.samples / codec.sample_rate, row=row)


def _row(task: _Task, codes: Codes) -> Row:
    job, header = task.job, codes.header
    text = job.text or read_text(job.path.with_suffix(".txt"))
    return Row(job.id, job.relative.as_posix(), job.who, text, header.sample_rate, codes.num_samples, header.hops[0],
               header.num_codes[0], header.fingerprint, header.label, task.settings.channel, *task.version,
               codes.levels[0].astype(np.uint16))


def source_version(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: what tells a changed recording from the same."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {reason(error)}.") from None
    return status.st_size, status.st_mtime_ns


class Wanted(Protocol):
    """What tells whether a code file is the one wanted: the settings of recordings, or of pictures."""

    @property
    def overwrite(self) -> bool: ...

    def codec(self) -> Any: ...

    def fit(self, header: CodeHeader) -> bool: ...


def is_encoded(source: Path, target: Path, settings: Wanted) -> bool:
    """Whether ``target`` holds, whole, what these settings make of ``source``, which is not newer.

    A .npy does not say what made it, and no code file which channel. Raises OutputError where target is source, and
    where it is of a recording that lasts longer or less long: of one of the same name in another folder.
    """
    try:
        if target.samefile(source):
            raise OutputError(f"{target} is the source itself: name another output.")
        if settings.overwrite or target.stat().st_mtime_ns <= source.stat().st_mtime_ns:
            return False
        if target.suffix == ".codes":
            with CodeReader(target, settings.codec().prior) as reader:
                return settings.fit(reader.header) and _lasts(source, target, reader.num_samples, reader.header)
        if target.suffix != ".npz":
            return False
        codes = Codes.load(target)
        return settings.fit(codes.header) and _lasts(source, target, codes.num_samples, codes.header)
    except OutputError:
        raise
    except (OSError, CodeFileError):
        return False


def _lasts(source: Path, target: Path, num_samples: int, header: CodeHeader) -> bool:
    """True where a recording may have so many samples, or it is a picture; OutputError where it has not."""
    if header.canvas is not None:
        return True
    its, seconds = num_samples / header.sample_rate, length_said(source)
    if seconds is not None and abs(seconds - its) > TENTH:
        raise OutputError(f"{target} holds the codes of another recording, of {its:.2f} s, where {source} lasts "
                          f"{seconds:.2f} s: name another output, or --overwrite.")
    return True


def is_row_of_another(job: Job, facts: dict[str, Any]) -> bool:
    """Whether a row is of another recording than ``job``'s, which has not changed since the row was written."""
    size, changed = source_version(job.path)
    return (facts["source_bytes"], facts["source_mtime_ns"]) != (size, changed) and changed < facts["written_ns"]


def is_row_current(job: Job, facts: dict[str, Any], settings: Settings) -> bool:
    """Whether a row of a shard holds what these settings make of a recording that has not changed since."""
    try:
        header = CodeHeader(facts["sample_rate"], (facts["hop"],), (tuple(facts["num_codes"]),), facts["fingerprint"],
                            facts["label"])
        same = (facts["source_bytes"], facts["source_mtime_ns"]) == source_version(job.path)
    except (AudioError, CodeFileError):
        return False
    return not settings.overwrite and same and facts["channel"] == settings.channel and settings.fit(header)


def who_says_what(folder: Path, layout: LayoutName | None = None) -> dict[Path, tuple[str | None, str | None]]:
    """Speaker and text of each recording below ``folder``, as far as its layout tells (see audio/layouts.py).

    Where no layout fits and none is asked for, nothing is known; the one name of a flat folder is no speaker.
    """
    try:
        listing = list_corpus(folder, layout or "auto")
    except CorpusError:
        if layout is not None:
            raise
        return {}
    named = listing.layout != "flat"
    return {source.path: (source.speaker if named else None, source.text) for source in listing.sources}
