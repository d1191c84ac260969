"""Make a corpus: read every recording once, bring all to one rate, pack them, split them, prove it.

See corpus.py for what is written, layouts.py for what is read, splits.py for how it is divided.
"""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audiovae.audio.corpus import DESCRIPTION, MANIFEST, REJECTED, SAMPLES, SPLITS, VERSION, Split, Utterance
from audiovae.audio.io import Channel, read_audio, stream_channels
from audiovae.audio.layouts import LayoutName, Listing, Microphone, Source, Speaker, list_corpora, sentence_key
from audiovae.audio.reader import SILENCE
from audiovae.audio.splits import By, Spoken, assign, check_leaks, lead, read_split_table, together
from audiovae.config import Config, to_dict
from audiovae.errors import AudioError, ConfigError, CorpusError
from audiovae.files import atomic_folder
from audiovae.parallel import in_order

ENOUGH = 60.0  # s of a voice below which the summary says that there is little to learn it from

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class PrepareConfig(Config):
    """How a folder of recordings becomes a corpus."""

    sample_rate: int = 16_000
    """Hz of the corpus; recordings of other rates are resampled."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the recordings lie: VCTK, LibriSpeech or LibriTTS, a folder a speaker, flat, or music with its tags."""
    mic: Microphone = "mic1"
    """Microphone of VCTK 0.92."""
    channel: Channel = "mix"
    """Mean of all channels, or one of them from 0."""
    channels: Literal[1, 2] = 1
    """Channels of the corpus; a recording of one channel fills both."""
    min_seconds: float = 0.3
    """Recordings shorter than this, after trimming, are rejected."""
    trim: float | None = None
    """Cut ends that stay so many dB below the loudest part."""
    loudness: float | None = None
    """Bring every recording to so many LUFS, such as -23."""
    test_by: Literal["speaker", "sentence", "given"] = "sentence"
    """What test shares with no other part: speakers, sentences, or speakers as split.txt says."""
    valid_by: By = "sentence"
    """What valid shares with no part of train."""
    test: float = 0.05
    """Fraction of the speakers or sentences kept for test; 0 for none."""
    valid: float = 0.05
    """Fraction of the rest kept for valid; 0 for none."""
    seed: int = 0
    """Another seed draws another split."""
    workers: int = 0
    """Recordings read at a time; 0 for one a core."""

    def __post_init__(self) -> None:
        if not 100 <= self.sample_rate <= 384_000:
            raise ConfigError(f"sample_rate: wanted 100 to 384000 Hz, got {self.sample_rate}.")
        if not (0 <= self.test < 1 and 0 <= self.valid < 1):
            raise ConfigError(f"test and valid: wanted fractions in [0, 1), got {self.test} and {self.valid}.")
        if self.workers < 0:
            raise ConfigError(f"workers: wanted 0, one a core, or more, got {self.workers}.")
        if self.channels == 2 and self.channel != "mix":
            raise ConfigError(f"channel: {self.channel} is one of two, but channels is 2: leave either out.")


MUSIC = PrepareConfig(sample_rate=44_100, layout="music", min_seconds=5.0, test_by="speaker", valid_by="speaker")
"""How a folder of music becomes a corpus: no artist in two parts."""


@dataclass(frozen=True)
class Part:
    """What one split holds."""

    utterances: int
    speakers: int
    hours: float


@dataclass(frozen=True)
class Summary:
    """What :func:`prepare_corpus` made; ``str`` of it is a sentence or two for the terminal, and a line a note.

    notes : what is likely to matter to whoever trains on it, a sentence each.
    """

    folder: Path
    layout: str
    sample_rate: int
    parts: dict[Split, Part]
    rejected: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = "; ".join(
            f"{name} {p.utterances} utterances of {p.speakers} speakers, {p.hours:.2f} h"
            for name, p in self.parts.items()
        )
        said = f"{self.folder}: {parts}, at {self.sample_rate} Hz (layout {self.layout})."
        if self.rejected:
            said = f"{said} {self.rejected} files rejected: see {self.folder / REJECTED}."
        return "\n".join([said, *self.notes])


def prepare_corpus(
    source: str | Path | Sequence[str | Path], out: str | Path, config: PrepareConfig | None = None
) -> Summary:
    """Make the corpus folder ``out`` from the recordings below ``source``; it appears whole or not at all.

    Several sources become one corpus; a speaker that two of them name alike is two voices.

    Recordings that cannot be used are left out and listed with their reason in ``rejected.tsv``:
    unreadable, not finite, silent, too short, twice there, or without a text where sentences are split.
    A recording whose peak would pass full scale is turned down to it, never clipped.

    Raises
    ------
    CorpusError
        When there is no recording, none can be used, or the split asked for is not possible or leaks.
    OutputError
        When ``out`` is there already or cannot be written.

    >>> from audiovae.audio.example import example_recordings
    >>> import tempfile
    >>> summary = prepare_corpus(example_recordings(), Path(tempfile.mkdtemp()) / "corpus")
    >>> summary.parts["train"].speakers, summary.rejected
    (2, 0)
    """
    config = config or PrepareConfig()
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    with atomic_folder(out) as folder:
        listing = list_corpora(sources, config.layout, config.mic)
        bands = together([s.tags.get("artist", (s.speaker,)) for s in listing.sources])
        given = None
        if config.test_by == "given":
            given = lead(read_split_table(listing.root / "split.txt"), bands)
        _assign([_spoken(s, bands) for s in listing.sources], given, config)  # fail early
        packed, rejected = _pack(listing, bands, folder / SAMPLES, config)
        utterances = _split(packed, given, config)
        lines = [utterance.to_line(config.sample_rate) for utterance in utterances]
        (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [f"{_relative(path, listing.root)}\t{reason}\n" for path, reason in sorted(rejected)]
        (folder / REJECTED).write_text("".join(rows), encoding="utf-8")
        parts: dict[Split, Part] = {split: _part(utterances, split, config.sample_rate) for split in SPLITS}
        description = {
            "version": VERSION,
            "sample_rate": config.sample_rate,
            **({"channels": config.channels} if config.channels > 1 else {}),
            "samples": sum(u.length for u in utterances),
            "utterances": len(utterances),
            "parts": {name: vars(part) for name, part in parts.items()},
            "speakers": sorted({u.speaker for u in utterances}),
            "rejected": len(rejected),
            "source": str(Path(sources[0] if len(sources) == 1 else listing.root).resolve()),
            "layout": listing.layout,
            "options": _options(config),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    notes = tuple(_notes(listing, packed, utterances, rejected, config))
    return Summary(Path(out), listing.layout, config.sample_rate, parts, len(rejected), notes)


@dataclass(frozen=True)
class _Packed:
    """An utterance that lies in the memory map, before it is known which part it belongs to."""

    utterance: Utterance
    spoken: Spoken
    source_rate: int


def _options(config: PrepareConfig) -> dict[str, Any]:
    options = to_dict(config)
    if config.channels == 1:
        del options["channels"]  # as corpora were described before there were two
    return options


def _pack(listing: Listing, bands: dict[str, str], path: Path,
          config: PrepareConfig) -> tuple[list[_Packed], list[tuple[Path, str]]]:  # fmt: skip
    """Write all usable recordings one after the other; give them and the rejected ones."""
    with_texts = {source.corpus for source in listing.sources if source.text}
    by_sentence = "sentence" in (config.test_by, config.valid_by)
    packed: list[_Packed] = []
    rejected = list(listing.rejected)
    offset = 0
    by_content: dict[bytes, str] = {}
    ids: set[str] = set()
    with open(path, "wb") as file:
        work = _in_parallel(partial(_load, config=config), listing.sources, config.workers or os.cpu_count() or 1)
        progress = tqdm(zip(listing.sources, work, strict=True), "reading", len(listing.sources), unit="file",
                        disable=None)  # fmt: skip
        for source, loaded in progress:
            if isinstance(loaded, str):
                rejected.append((source.path, loaded))
                continue
            samples, gain, rate = loaded
            content = hashlib.blake2b(samples.tobytes(), digest_size=16).digest()
            if content in by_content:
                rejected.append((source.path, f"the same samples as {by_content[content]}"))
            elif source.id in ids:
                rejected.append((source.path, f"a second recording named {source.id}"))
            elif by_sentence and source.corpus in with_texts and source.sentence is None:
                rejected.append((source.path, "no text: its sentence is unknown, and sentences are split"))
            else:
                by_content[content] = source.id
                ids.add(source.id)
                file.write(samples.tobytes())
                length = len(samples) // config.channels
                packed.append(_described(source, listing, bands, offset, length, gain, rate))
                offset += length
    if not packed:
        raise CorpusError(
            f"none of the {len(rejected)} recordings in {listing.root} can be used; "
            f"the first: {rejected[0][0].name}: {rejected[0][1]}."
        )
    return packed, rejected


def _load(source: Source, config: PrepareConfig) -> tuple[NDArray[np.int16], float, int] | str:
    """The samples of a recording, the gain in dB it was given and the rate it had, or why it is of no use.

    Two channels lie sample by sample.
    """
    try:
        if config.channels == 2:
            x = torch.cat([*stream_channels(source.path, 2, config.sample_rate)], dim=1).numpy()
        else:
            x = read_audio(source.path, config.sample_rate, config.channel)[0][0].numpy()
        if np.abs(x).max() < SILENCE:
            return "silent"
        if config.trim is not None or config.loudness is not None:
            from audiovae.audio import loudness  # librosa and torchaudio take seconds to import

            x = x if config.trim is None else loudness.trim_silence(x, config.trim)
        if x.shape[-1] < config.min_seconds * config.sample_rate:
            return f"shorter than {config.min_seconds:g} s"
        gain = 0.0 if config.loudness is None else loudness.loudness_gain(x, config.sample_rate, config.loudness)
    except AudioError as error:
        return str(error).removeprefix(f"{source.path} ").rstrip(".")
    peak = float(np.abs(x).max()) * 10 ** (gain / 20)
    if peak > 1:
        gain -= 20 * np.log10(peak)
    scaled = x * np.float32(32768 * 10 ** (gain / 20))
    rate = soundfile.info(source.path).samplerate
    return np.minimum(np.rint(scaled), 32767).astype("<i2").T.ravel(), round(float(gain), 3), rate


def _described(source: Source, listing: Listing, bands: dict[str, str], offset: int, length: int, gain: float,
               rate: int) -> _Packed:  # fmt: skip
    who = listing.speakers.get(source.speaker, Speaker())
    place = _relative(source.path, listing.root)
    utterance = Utterance(source.id, source.speaker, "train", place, offset, length, source.text,
                          who.gender, who.age, who.accent, gain, source.tags)  # fmt: skip
    return _Packed(utterance, _spoken(source, bands), rate)


def _spoken(source: Source, bands: dict[str, str]) -> Spoken:
    """Without any text, parallel recordings are known by their names: anna/12.wav and ben/12.wav."""
    return Spoken(bands[source.speaker], source.sentence or sentence_key(source.path.stem))


def _split(packed: list[_Packed], given: dict[str, Split] | None, config: PrepareConfig) -> list[Utterance]:
    spoken = [item.spoken for item in packed]
    splits = _assign(spoken, given, config)
    valid_by = "speaker" if given is not None and "valid" in given.values() else config.valid_by
    check_leaks(spoken, splits, config.test_by, valid_by)
    return [replace(item.utterance, split=split) for item, split in zip(packed, splits, strict=True)]


def _assign(spoken: list[Spoken], given: dict[str, Split] | None, config: PrepareConfig) -> list[Split]:
    return assign(spoken, config.test_by, config.valid_by, config.test, config.valid, config.seed, given)


def _in_parallel(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Results in order, a few ahead of the reader.

    Threads do: decoding, resampling and scaling all let go of Python's lock.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield from in_order(lambda item: pool.submit(function, item).result, items, 4 * workers + 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _notes(listing: Listing, packed: list[_Packed], utterances: list[Utterance], rejected: list[tuple[Path, str]],
           config: PrepareConfig) -> Iterator[str]:  # fmt: skip
    if rejected:
        kinds = Counter(re.split(r" as | named |: ", why)[0] for _, why in rejected).most_common(3)
        yield f"Rejected most: {'; '.join(f'{count} × {kind}' for kind, count in kinds)}."
    if listing.shared:
        name = listing.shared[0]
        voices = sorted({f"{name}@{s.corpus}" for s in listing.sources if s.speaker == f"{name}@{s.corpus}"})
        yield (f"Speaker names in more than one corpus: {len(listing.shared)}; each is taken for voices of its own, "
               f"such as {' and '.join(voices)}.")  # fmt: skip
    if listing.layout != "music":
        yield from _voices(utterances, config)
    if slow := [item.source_rate for item in packed if item.source_rate < config.sample_rate]:
        yield (f"Recordings made at less than {config.sample_rate} Hz: {len(slow)}, the lowest at {min(slow)} Hz, "
               f"which holds nothing above {min(slow) // 2} Hz.")  # fmt: skip


def _voices(utterances: list[Utterance], config: PrepareConfig) -> Iterator[str]:
    heard: dict[str, float] = defaultdict(float)
    for utterance in utterances:
        heard[utterance.speaker] += (utterance.split == "train") * utterance.length / config.sample_rate
    if len(heard) == 1:
        yield f"There is one speaker, {next(iter(heard))}: enough for a codec; conversion wants two or more."
    if few := {name: seconds for name, seconds in heard.items() if 0 < seconds < ENOUGH}:
        least = min(few, key=few.__getitem__)
        yield (f"Speakers with less than {ENOUGH:g} s to train on: {len(few)}, the least {least} with "
               f"{few[least]:.1f} s; expect little of their voices.")  # fmt: skip
    none = [name for name, seconds in heard.items() if not seconds]
    if none and "speaker" not in (config.test_by, config.valid_by) and config.test_by != "given":
        yield (f"Speakers with nothing left to train on: {len(none)}, such as {none[0]}; ask for smaller test and "
               "valid parts, or give more recordings.")  # fmt: skip


def _part(utterances: list[Utterance], split: Split, sample_rate: int) -> Part:
    chosen = [u for u in utterances if u.split == split]
    hours = sum(u.length for u in chosen) / sample_rate / 3600
    return Part(len(chosen), len({u.speaker for u in chosen}), round(hours, 4))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
