"""Train, valid and test: drawn by speaker or by sentence, and proved not to leak.

First the test part is drawn from all, then the valid part from what is left, each by its own rule. By
speaker, a part shares no speaker with the rest; by sentence, no sentence. Test by speaker and valid by
sentence suits conversion: known voices say new sentences in valid, voices in test are new.

A speaker or sentence is drawn when a hash of its name and the seed falls below the fraction, so that
files added later move nobody. Only if that draws none is the one with the smallest hash taken.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiovae.audio.corpus import Split
from audiovae.errors import CorpusError

By = Literal["speaker", "sentence"]
_NAMES: dict[str, Split] = {"train": "train", "test": "test", "valid": "valid", "validation": "valid", "dev": "valid"}


@dataclass(frozen=True)
class Spoken:
    """What a split looks at: who says what. sentence : a key equal for equal sentences."""

    speaker: str
    sentence: str


def assign(
    items: Sequence[Spoken],
    test_by: By | Literal["given"],
    valid_by: By,
    test: float,
    valid: float,
    seed: int,
    given: dict[str, Split] | None = None,
) -> list[Split]:
    """The split of each item.

    Parameters
    ----------
    test_by : rule of the test part; "given" takes it by speaker from ``given``.
    valid_by : rule of the valid part; not used where ``given`` names valid speakers.
    test, valid : fractions of the speakers or sentences, 0 for no such part.

    Raises
    ------
    CorpusError
        When a part would take all there is, as with one speaker, or ``given`` lacks a speaker.

    >>> items = [Spoken(f"p{i}", f"sentence {j}") for i in range(4) for j in range(50)]
    >>> splits = assign(items, "speaker", "sentence", test=0.25, valid=0.1, seed=0)
    >>> check_leaks(items, splits, "speaker", "sentence")
    >>> sorted(set(splits))
    ['test', 'train', 'valid']
    """
    if test_by == "given":
        given = given or {}
        splits = _as_given(items, given)
        if "valid" in given.values():
            return splits
    else:
        drawn = _draw({_key(item, test_by) for item in items}, "test", test_by, test, seed)
        splits: list[Split] = ["test" if _key(item, test_by) in drawn else "train" for item in items]
    rest = {_key(item, valid_by) for item, split in zip(items, splits, strict=True) if split == "train"}
    # By sentence, the test part of other speakers may say what valid says: the speakers keep them apart.
    drawn = _draw(rest, "valid", valid_by, valid, seed)
    return [
        "valid" if split == "train" and _key(item, valid_by) in drawn else split
        for item, split in zip(items, splits, strict=True)
    ]


def check_leaks(
    items: Sequence[Spoken], splits: Sequence[Split], test_by: By | Literal["given"], valid_by: By
) -> None:
    """Prove that test shares nothing with train and valid, nor valid with train, each by its own rule.

    Raises
    ------
    CorpusError
        With the first speaker or sentence found on both sides.

    >>> check_leaks([Spoken("anna", "hello"), Spoken("anna", "bye")], ["train", "test"], "speaker", "sentence")
    Traceback (most recent call last):
    audiovae.errors.CorpusError: the split leaks: speaker 'anna' is in test and in train.
    """

    def keys(part: Split, by: By) -> set[str]:
        return {_key(item, by) for item, split in zip(items, splits, strict=True) if split == part}

    rules: list[tuple[Split, tuple[Split, ...], By]] = [
        ("test", ("train", "valid"), "speaker" if test_by == "given" else test_by),
        ("valid", ("train",), valid_by),
    ]
    for part, others, by in rules:
        for other in others:
            if both := sorted(keys(part, by) & keys(other, by)):
                raise CorpusError(f"the split leaks: {by} '{both[0]}' is in {part} and in {other}.")


def together(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Of each name, the first in order of all that share a group with it, however far round: artists who play together.

    >>> together([("Ada",), ("Cy", "Bo"), ("Dee", "Cy")])
    {'Ada': 'Ada', 'Cy': 'Bo', 'Bo': 'Bo', 'Dee': 'Bo'}
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    for group in groups:
        tops = [top(name) for name in group]
        for name in tops:
            above[name] = min(tops)
    return {name: top(name) for name in above}


def lead(given: dict[str, Split], leaders: dict[str, str]) -> dict[str, Split]:
    """A given split by the ``leaders`` of :func:`together`; CorpusError where those who play together are apart.

    >>> lead({"Ada": "train", "Cy": "test"}, {"Ada": "Ada", "Cy": "Bo", "Bo": "Bo"})
    {'Ada': 'train', 'Bo': 'test'}
    """
    found: dict[str, Split] = {}
    for name, part in given.items():
        leader = leaders.get(name, name)
        if found.setdefault(leader, part) != part:
            raise CorpusError(f"the given split has '{name}' in {part} and another artist, who plays along, in "
                              f"{found[leader]}: put both into one part.")
    return found


def read_split_table(path: Path) -> dict[str, Split]:
    """Read split.txt, lines of SPEAKER PART with PART train, valid (validation, dev) or test.

    A tab between the two allows a name with spaces.

    Raises
    ------
    CorpusError
        When it is missing or a line reads otherwise.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "split.txt"
    >>> _ = path.write_text("p225 train\\np226 test\\n")
    >>> read_split_table(path)
    {'p225': 'train', 'p226': 'test'}
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror}): the given split needs it; or split by speaker or sentence."
        ) from None
    table: dict[str, Split] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        speaker, *part = (cell.strip() for cell in line.split("\t")) if "\t" in line else line.split()
        if len(part) != 1 or part[0].lower() not in _NAMES:
            raise CorpusError(f"{path}, line {number}: wanted SPEAKER train, valid or test, got '{line.strip()}'.")
        table[speaker] = _NAMES[part[0].lower()]
    return table


def _as_given(items: Sequence[Spoken], given: dict[str, Split]) -> list[Split]:
    if unknown := sorted({item.speaker for item in items} - set(given)):
        raise CorpusError(f"the given split lacks {len(unknown)} speakers, such as '{unknown[0]}': add them.")
    return [given[item.speaker] for item in items]


def _draw(keys: Iterable[str], part: str, by: By, fraction: float, seed: int) -> set[str]:
    score = {key: _uniform(f"{seed}/{part}/{by}/{key}") for key in keys}
    if fraction <= 0:
        return set()
    drawn = {key for key, value in score.items() if value < fraction} or {min(score, key=score.__getitem__)}
    if len(drawn) == len(score):
        other = "sentence" if by == "speaker" else "speaker"
        raise CorpusError(
            f"the {part} part by {by} would take all {len(score)} {by}s: split by {other}, "
            f"ask for a smaller part than {fraction:g}, or for none (0)."
        )
    return drawn


def _uniform(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _key(item: Spoken, by: By) -> str:
    return item.speaker if by == "speaker" else item.sentence
