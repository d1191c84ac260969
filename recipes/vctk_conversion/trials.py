"""Who is to say what in whose voice: the list of conversions that systems are compared on.

    python recipes/vctk_conversion/trials.py recordings/ --split split.txt --people speaker-info.txt -o trials

Sources and unseen targets are speakers marked test in the split, seen targets those marked train. Sexes are balanced,
and the same folder gives the same list. In the output folder, trials.jsonl has a line for each; a system writes what it
converts to SYSTEM/TRIAL.wav beside it.
"""

import json
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from audiovae.audio.io import AUDIO_SUFFIXES, audio_info, read_audio, write_audio
from audiovae.audio.pitch import prosody
from audiovae.audio.reader import AudioInfo
from audiovae.audio.splits import read_split_table
from audiovae.errors import AudiovaeError, ConfigError, CorpusError
from audiovae.files import atomic_file

RATE = 16000  # Hz
REFERENCES, KEPT = 5, 10  # recordings of a target to convert by, and others to judge by
LONGEST, SHORTEST = 15.0, 1.5  # s of a recording of a target
VOICED = 0.3  # s with a pitch in it, at least
FRAME = RATE // 100
ADULT = 18  # years


@dataclass(frozen=True)
class Trial:
    """One conversion asked for.

    name : of the file it is written to. condition : "seen" or "unseen", the target in training.
    references : recordings of the target to convert by; kept, source_kept : others, of target and source, to judge by.
    Sexes are "F", "M" or "?".
    """

    name: str
    condition: str
    source: str
    source_speaker: str
    source_sex: str
    target: str
    target_sex: str
    references: list[str]
    kept: list[str]
    source_kept: list[str]


@dataclass(frozen=True)
class Person:
    name: str
    sex: str
    age: int | None
    recordings: tuple[Path, ...]


def read_trials(folder: Path) -> list[Trial]:
    """The list of a folder, in its order. CorpusError where it is missing or a line is not a trial."""
    path = folder / "trials.jsonl"
    try:
        trials = [Trial(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): make it by trials.py.") from None
    except (TypeError, json.JSONDecodeError) as error:
        raise CorpusError(f"{path} is no list of trials ({error}): make it by trials.py.") from None
    if not trials or len({trial.name for trial in trials}) < len(trials):
        raise CorpusError(f"{path} wants at least one trial, and each name once.")
    return trials


def first(trials: Sequence[Trial], count: int | None) -> list[Trial]:
    """The first ``count`` of each condition, all where it is None; ConfigError where that is none."""
    if count is not None and count < 1:
        raise ConfigError(f"wanted one trial of each condition at least, got {count}.")
    conditions = dict.fromkeys(trial.condition for trial in trials)
    return [trial for name in conditions for trial in [one for one in trials if one.condition == name][:count]]


def read_people(paths: tuple[Path, ...]) -> dict[str, tuple[str, int | None]]:
    """Sex and age by speaker, from tables such as VCTK's speaker-info.txt and LibriSpeech's SPEAKERS.TXT.

    A line is a name, then fields between blanks or bars, one of which is F or M; the age is the second if it is a
    number. Lines without a sex are passed over.
    """
    found: dict[str, tuple[str, int | None]] = {}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise CorpusError(f"{path} cannot be read ({error}): name a table of speakers.") from None
        for line in lines:
            fields = [field.strip() for field in line.split("|")] if "|" in line else line.split()
            sex = next((field for field in fields[1:] if field in ("F", "M")), None)
            if sex:
                found[fields[0]] = sex, int(fields[1]) if fields[1].isdigit() else None
    return found


def people(folder: Path, patterns: tuple[str, ...], known: dict[str, tuple[str, int | None]]) -> list[Person]:
    """The speakers' folders that match, the first pattern's first, within one in an order drawn by their names.

    A speaker is looked up by name, or by its number alone: p225 of VCTK is 225 in its table.
    """
    found = {}
    for pattern in patterns:
        for place in sorted(folder.glob(pattern), key=lambda path: blake2b(path.name.encode()).digest()):
            name = place.name
            sex, age = known.get(name) or known.get(name.lstrip(string.ascii_letters)) or ("?", None)
            recordings = tuple(recordings_in(place))
            if recordings and (age is None or age >= ADULT):
                found.setdefault(name, Person(name, sex, age, recordings))
    return list(found.values())


def recordings_in(folder: Path) -> list[Path]:
    """A speaker's, each sentence once, in order."""
    return one_microphone(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)


def one_microphone(recordings: Iterable[Path]) -> list[Path]:
    """In order, each sentence once: of VCTK 0.92's microphones, NAME_mic1 and NAME_mic2, the first that is there."""
    by_sentence: dict[Path, Path] = {}
    for path in sorted(recordings):
        by_sentence.setdefault(path.with_name(path.stem.removesuffix("_mic1").removesuffix("_mic2")), path)
    return list(by_sentence.values())


def alternating(group: list[Person]) -> Iterator[Person]:
    """Women and men in turn without end, beginning anew when one sex is through; all in turn where one is lacking."""
    women, men = ([person for person in group if person.sex == sex] for sex in "FM")
    if not women or not men:
        return cycle(group)
    return (person for pair in zip(cycle(women), cycle(men), strict=False) for person in pair)


def in_pairs(group: list[Person]) -> Iterator[Person]:
    """Two women, two men in turn, so that beside :func:`alternating` every pair of sexes comes equally often."""
    turn = alternating(group)
    while True:
        four = list(islice(turn, 4))
        yield from (four[0], four[2], four[1], four[3])


def shared(person: Person) -> tuple[list[str], list[str]] | None:
    """Recordings of a target to convert by and to judge by, about equally long; None where there are too few."""
    usable = sorted(clear(person.recordings), key=lambda info: -info.seconds)
    references = usable[:2 * REFERENCES:2]
    kept = [info for info in usable if info not in references][:KEPT]
    if len(references) < REFERENCES or len(kept) < REFERENCES:
        return None
    return [str(info.path.resolve()) for info in references], [str(info.path.resolve()) for info in kept]


def clear(recordings: Iterable[Path]) -> Iterator[AudioInfo]:
    """Those of a length that says something of a voice, and in which somebody speaks, each looked at when it is due."""
    infos = (audio_info(path) for path in recordings)
    return (info for info in infos if SHORTEST <= info.seconds <= LONGEST and voiced(info.path) >= VOICED)


def voiced(path: Path) -> float:
    """Seconds of a recording that have a pitch: a prompt of silence has none, whatever its noise."""
    wave, _ = read_audio(path, RATE)
    return float(prosody(wave[0], RATE, FRAME).voiced.sum()) * FRAME / RATE


def spoken(person: Person, out: Path) -> tuple[str, list[str]]:
    """A recording of a source to convert and others to judge by; an only one is cut in two where it is quietest."""
    if person.recordings[1:]:
        source, *others = (str(path.resolve()) for path in person.recordings)
        return source, others[:KEPT]
    wave, _ = read_audio(person.recordings[0], RATE)
    power = np.convolve(wave[0].numpy() ** 2, np.ones(RATE // 10), mode="same")
    third = len(power) // 3
    cut = third + int(power[third:2 * third].argmin())
    places = [(out / "sources" / f"{person.name}{part}.wav").resolve() for part in ("", "-kept")]
    for place, part in zip(places, (wave[:, :cut], wave[:, cut:]), strict=True):
        write_audio(place, part, RATE)
    return str(places[0]), [str(places[1])]


@dataclass(frozen=True)
class Arguments:
    """Write the list of conversions that systems are compared on.

    Example: python recipes/vctk_conversion/trials.py recordings --split split.txt --sources 'ls*' -o runs/judge
    """

    recordings: tyro.conf.Positional[Path]
    """A folder with a folder of recordings for each speaker."""
    split: Path
    """Lines of SPEAKER PART, part train, valid or test."""
    people: tuple[Path, ...] = ()
    """Tables of speakers with their sexes and ages; children are left out."""
    sources: tuple[str, ...] = ("*",)
    """Folders of speakers to convert from, as globs."""
    targets: tuple[str, ...] = ("*",)
    """Folders of speakers to convert to, as globs; the first pattern's come first."""
    pairs: int = 20
    """Of each condition."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/judge")
    """Folder of the list."""


def make(arguments: Arguments) -> list[Trial]:
    """The list of trials. CorpusError where a condition has no source or no target."""
    split, known = read_split_table(arguments.split), read_people(arguments.people)
    sources = [person for person in people(arguments.recordings, arguments.sources, known)
               if split.get(person.name) == "test"]
    trials = []
    for condition, part in (("seen", "train"), ("unseen", "test")):
        usable = {person.name: (person, its) for person in people(arguments.recordings, arguments.targets, known)
                  if split.get(person.name) == part and (its := shared(person))}
        targets = [person for person, _ in usable.values()]
        if not sources or not targets:
            raise CorpusError(f"{len(sources)} sources are marked test, and {len(targets)} targets marked {part} have "
                              f"{2 * REFERENCES} recordings of {SHORTEST:g} to {LONGEST:g} s: wanted one of each.")
        for source, target in islice(zip(alternating(sources), in_pairs(targets), strict=False), arguments.pairs):
            if source.name == target.name:
                continue
            wave, source_kept = spoken(source, arguments.output)
            name = f"{condition}-{len(trials):03d}-{source.name}-{target.name}"
            trials.append(Trial(name, condition, wave, source.name, source.sex, target.name, target.sex,
                                *usable[target.name][1], source_kept))
    return trials


def ended(owner: str, work: Callable[[], int | None]) -> int:
    """Do the work of a script; its exit code, and a line on stderr where it was refused or interrupted."""
    try:
        return work() or 0
    except AudiovaeError as error:
        print(f"{owner}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; give the same command to go on.", file=sys.stderr)
        return 130


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    return ended("trials", lambda: write_trials(arguments.output, make(arguments)))


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """The list of a folder, whole or not at all, as :func:`read_trials` reads it."""
    path = folder / "trials.jsonl"
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in trials), encoding="utf-8")
    print(f"{path}: {len(trials)} conversions, {len({t.source_speaker for t in trials})} sources, "
          f"{len({t.target for t in trials})} targets.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
