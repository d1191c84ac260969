"""Make a corpus: read every recording once, bring all to one rate, pack them, split them, prove it.

See corpus.py for what is written, layouts.py for what is read, splits.py for how it is divided.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audiovae.audio.corpus import DESCRIPTION, MANIFEST, REJECTED, SPLITS, VERSION, Split, Utterance
from audiovae.audio.layouts import Listing, list_corpora
from audiovae.audio.packing import Packed, pack, relative, spoken
from audiovae.audio.prepare_config import PrepareConfig
from audiovae.audio.splits import Spoken, assign, check_leaks, lead, read_split_table, together
from audiovae.config import to_dict
from audiovae.files import resumable_folder

ENOUGH = 60.0  # s of a voice below which the summary says that there is little to learn it from


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

    Interrupted, or killed, and called again alike, it goes on behind the recordings that were read; a hidden folder
    beside ``out`` keeps them until then.

    Several sources become one corpus; a speaker that two of them name alike is two voices.

    Recordings that cannot be used are left out and listed with their reason in ``rejected.tsv``:
    unreadable, not finite, silent, too short, twice there, or without a text where sentences are split.
    A recording whose peak would pass full scale is turned down to it, never clipped.

    Raises
    ------
    CorpusError
        When there is no recording, none can be used, or the split asked for is not possible or leaks.
    OutputError
        When ``out`` is there already or cannot be written, or another process is at it.

    >>> from audiovae.audio.example import example_recordings
    >>> import tempfile
    >>> summary = prepare_corpus(example_recordings(), Path(tempfile.mkdtemp()) / "corpus")
    >>> summary.parts["train"].speakers, summary.rejected
    (2, 0)
    """
    config = config or PrepareConfig()
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    whatever_the_speed = to_dict(replace(config, workers=0))
    asked = json.dumps([VERSION, *(str(Path(place).resolve()) for place in sources), whatever_the_speed])
    with resumable_folder(out, asked) as folder:
        listing = list_corpora(sources, config.layout, config.mic)
        bands = together([s.tags.get("artist", (s.speaker,)) for s in listing.sources])
        given = None
        if config.test_by == "given":
            given = lead(read_split_table(listing.root / "split.txt"), bands)
        _assign([spoken(s, bands) for s in listing.sources], given, config)  # fail early
        packed, rejected = pack(listing, bands, folder, config)
        utterances = _split(packed, given, config)
        lines = [utterance.to_line(config.sample_rate) for utterance in utterances]
        (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [f"{relative(path, listing.root)}\t{reason}\n" for path, reason in sorted(rejected)]
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


def _options(config: PrepareConfig) -> dict[str, Any]:
    options = to_dict(config)
    if config.channels == 1:
        del options["channels"]  # as corpora were described before there were two
    return options


def _split(packed: list[Packed], given: dict[str, Split] | None, config: PrepareConfig) -> list[Utterance]:
    whose = [item.spoken for item in packed]
    splits = _assign(whose, given, config)
    valid_by = "speaker" if given is not None and "valid" in given.values() else config.valid_by
    check_leaks(whose, splits, config.test_by, valid_by)
    return [replace(item.utterance, split=split) for item, split in zip(packed, splits, strict=True)]


def _assign(whose: list[Spoken], given: dict[str, Split] | None, config: PrepareConfig) -> list[Split]:
    return assign(whose, config.test_by, config.valid_by, config.test, config.valid, config.seed, given)


def _notes(listing: Listing, packed: list[Packed], utterances: list[Utterance], rejected: list[tuple[Path, str]],
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
