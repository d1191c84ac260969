"""Read every recording once and write all that can be used one after the other: the long part of making a corpus.

Beside the samples grows a journal, a line a recording that was read. A process that is killed leaves both, and the
next one goes on behind the last line; the journal has done its duty when the corpus stands.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audiovae.audio.corpus import SAMPLES, Utterance
from audiovae.audio.io import is_converted, read_audio, stream_channels
from audiovae.audio.layouts import Listing, Source, Speaker, sentence_key
from audiovae.audio.prepare_config import PrepareConfig
from audiovae.audio.reader import SILENCE
from audiovae.audio.splits import Spoken
from audiovae.errors import AudioError, CorpusError
from audiovae.files import json_lines
from audiovae.parallel import in_order

JOURNAL = "read.jsonl"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Packed:
    """An utterance that lies in the memory map, before it is known which part it belongs to."""

    utterance: Utterance
    spoken: Spoken
    source_rate: int


@dataclass(frozen=True)
class _Read:
    """What became of one recording: a line of the journal.

    stamp : of the file it was read from: place, size and time of change; a list when it comes from the journal.
    useless : why it is of no use, or "".
    content : digest of its samples.
    length, gain, rate : samples of a channel, the gain in dB it was given, and the rate in Hz it had.
    """

    stamp: tuple[str, int, int]
    useless: str = ""
    content: str = ""
    length: int = 0
    gain: float = 0.0
    rate: int = 0


def pack(listing: Listing, bands: dict[str, str], folder: Path,
         config: PrepareConfig) -> tuple[list[Packed], list[tuple[Path, str]]]:
    """Write all usable recordings to ``folder``, after those that an earlier process wrote there; give them and the
    rejected ones.

    Raises CorpusError when none can be used.
    """
    choice = _Choice(listing, bands, config)
    with open(folder / SAMPLES, "ab") as samples, open(folder / JOURNAL, "ab") as journal:
        done = _resumed(listing.sources, folder, choice, samples, journal)
        rest = listing.sources[done:]
        work = _in_parallel(partial(_load, config=config), rest, config.workers or os.cpu_count() or 1)
        progress = tqdm(zip(rest, work, strict=True), "reading", len(listing.sources), unit="file", initial=done,
                        disable=None)
        for source, (read, wave) in progress:
            if choice(source, read):
                samples.write(wave.tobytes())
                samples.flush()
            journal.write(json.dumps(asdict(read)).encode() + b"\n")
            journal.flush()
    (folder / JOURNAL).unlink()
    if not choice.packed:
        raise CorpusError(
            f"none of the {len(choice.rejected)} recordings in {listing.root} can be used; "
            f"the first: {choice.rejected[0][0].name}: {choice.rejected[0][1]}."
        )
    return choice.packed, choice.rejected


class _Choice:
    """Which recordings are taken, and where they lie: called with each in turn, it says whether this one is."""

    def __init__(self, listing: Listing, bands: dict[str, str], config: PrepareConfig):
        self.listing, self.bands, self.channels = listing, bands, config.channels
        self.with_texts = {source.corpus for source in listing.sources if source.text}
        self.by_sentence = "sentence" in (config.test_by, config.valid_by)
        self.packed: list[Packed] = []
        self.rejected = list(listing.rejected)
        self.samples = 0  # of a channel, so far
        self.by_content: dict[str, str] = {}
        self.ids: set[str] = set()

    def __call__(self, source: Source, read: _Read) -> bool:
        useless = read.useless
        if not useless and read.content in self.by_content:
            useless = f"the same samples as {self.by_content[read.content]}"
        elif not useless and source.id in self.ids:
            useless = f"a second recording named {source.id}"
        elif not useless and self.by_sentence and source.corpus in self.with_texts and source.sentence is None:
            useless = "no text: its sentence is unknown, and sentences are split"
        if useless:
            self.rejected.append((source.path, useless))
            return False
        self.by_content[read.content] = source.id
        self.ids.add(source.id)
        self.packed.append(self._described(source, read))
        self.samples += read.length
        return True

    def bytes(self, more: int = 0) -> int:
        """How many the samples take, and ``more`` of a channel."""
        return (self.samples + more) * self.channels * np.dtype(np.int16).itemsize

    def _described(self, source: Source, read: _Read) -> Packed:
        who = self.listing.speakers.get(source.speaker, Speaker())
        place = relative(source.path, self.listing.root)
        utterance = Utterance(source.id, source.speaker, "train", place, self.samples, read.length, source.text,
                              who.gender, who.age, who.accent, read.gain, source.tags)
        return Packed(utterance, spoken(source, self.bands), read.rate)


def _resumed(sources: list[Source], folder: Path, choice: _Choice, samples: BinaryIO, journal: BinaryIO) -> int:
    """How many recordings need not be read again: those of the journal whose samples are there, up to the first that
    has changed. What both files hold beyond that is cut off.
    """
    done, there = 0, os.path.getsize(folder / SAMPLES)
    for source, row in zip(sources, json_lines(folder / JOURNAL), strict=False):
        if tuple(row["stamp"]) != _stamp(source.path) or choice.bytes(row["length"]) > there:
            break
        choice(source, _Read(**row))
        done += 1
    with open(folder / JOURNAL, "rb") as written:
        journal.truncate(sum(map(len, islice(written, done))))
    samples.truncate(choice.bytes())
    return done


def _stamp(path: Path) -> tuple[str, int, int]:
    """By which a file is known to be the same; one that is gone has none, and reading it says why."""
    try:
        status = os.stat(path)
    except OSError:
        return str(path.absolute()), 0, 0
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def _load(source: Source, config: PrepareConfig) -> tuple[_Read, NDArray[np.int16]]:
    """What is to be known of a recording, and its samples; of two channels these lie sample by sample."""
    stamp, nothing = _stamp(source.path), np.empty(0, "<i2")
    try:
        if config.channels == 2:
            x = torch.cat([*stream_channels(source.path, 2, config.sample_rate)], dim=1).numpy()
        else:
            x = read_audio(source.path, config.sample_rate, config.channel)[0][0].numpy()
        if np.abs(x).max() < SILENCE:
            return _Read(stamp, "silent"), nothing
        if is_converted(source.path):
            return _Read(stamp, "a converted voice, not a recording of the speaker"), nothing
        if config.trim is not None or config.loudness is not None:
            from audiovae.audio import loudness  # librosa and torchaudio take seconds to import

            x = x if config.trim is None else loudness.trim_silence(x, config.trim)
        if x.shape[-1] < config.min_seconds * config.sample_rate:
            return _Read(stamp, f"shorter than {config.min_seconds:g} s"), nothing
        gain = 0.0 if config.loudness is None else loudness.loudness_gain(x, config.sample_rate, config.loudness)
    except AudioError as error:
        return _Read(stamp, str(error).removeprefix(f"{source.path} ").rstrip(".")), nothing
    peak = float(np.abs(x).max()) * 10 ** (gain / 20)
    if peak > 1:
        gain -= 20 * np.log10(peak)
    scaled = x * np.float32(32768 * 10 ** (gain / 20))
    wave = np.minimum(np.rint(scaled), 32767).astype("<i2").T.ravel()
    content = hashlib.blake2b(wave.tobytes(), digest_size=16).hexdigest()
    rate = soundfile.info(source.path).samplerate
    return _Read(stamp, "", content, len(wave) // config.channels, round(float(gain), 3), rate), wave


def _in_parallel(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Results in order, a few ahead of the reader.

    Threads do: decoding, resampling and scaling all let go of Python's lock.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield from in_order(lambda item: pool.submit(function, item).result, items, 4 * workers + 1)
    finally:
        pool.shutdown(cancel_futures=True)


def spoken(source: Source, bands: dict[str, str]) -> Spoken:
    """Without any text, parallel recordings are known by their names: anna/12.wav and ben/12.wav."""
    return Spoken(bands[source.speaker], source.sentence or sentence_key(source.path.stem))


def relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
