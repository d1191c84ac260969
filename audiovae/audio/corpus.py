"""A prepared corpus: every utterance in one memory map of 16-bit samples, told by a readable manifest.

    corpus.json      rate, version, counts, hours, options, channels where there are two
    manifest.jsonl   one utterance a line, in the order of the samples
    audio.i16        all samples, little endian, 32768 = full scale; of two channels, a sample of each in turn
    rejected.tsv     files that were left out, and why

Training draws crops straight from the map: no file is decoded, and memory is the system's page cache.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audiovae.errors import ConfigError, CorpusError

VERSION = 1
DESCRIPTION, MANIFEST, SAMPLES, REJECTED = "corpus.json", "manifest.jsonl", "audio.i16", "rejected.tsv"

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus.

    path : source file, relative to the folder the corpus was made from.
    offset, length : its place in the memory map, in samples of each channel. gain : dB its level was changed by.
    text, gender, age, accent : None where unknown; of music, the text is the title.
    tags : names by field, such as {"artist": ("Bach",), "genre": ("Chorale", "Baroque")}; of music, the speaker is the
        first artist.
    """

    id: str
    speaker: str
    split: Split
    path: str
    offset: int
    length: int
    text: str | None = None
    gender: str | None = None
    age: int | None = None
    accent: str | None = None
    gain: float = 0.0
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def to_line(self, sample_rate: int) -> str:
        """One line of the manifest; the duration in seconds is written for readers only."""
        fields = asdict(self) | {"seconds": round(self.length / sample_rate, 3)}
        if not self.tags:
            del fields["tags"]
        return json.dumps(fields, ensure_ascii=False)


class Corpus:
    """A corpus folder, open for reading; see :func:`audiovae.audio.prepare.prepare_corpus`.

    Attributes
    ----------
    folder : Path.
    sample_rate : Hz. channels : C, 1 or 2.
    description : what corpus.json holds.
    all : every utterance, in the order of the memory map.

    >>> from audiovae.audio.example import example_corpus
    >>> corpus = Corpus.open(example_corpus())
    >>> corpus.sample_rate, corpus.speakers
    (16000, ('anna', 'ben'))
    >>> corpus.audio(corpus.utterances("valid")[0]).dtype
    dtype('float32')
    """

    def __init__(self, folder: Path, description: dict[str, Any], utterances: tuple[Utterance, ...]):
        self.folder, self.description, self.all = folder, description, utterances
        self.sample_rate = int(description["sample_rate"])
        self.channels = int(description.get("channels", 1))

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """Open a corpus folder and check that its parts fit each other.

        Raises
        ------
        CorpusError
            When it is missing, no corpus, of another version, or its samples or manifest are cut short.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if description["version"] != VERSION:
                raise CorpusError(
                    f"corpus {folder} has version {description['version']}, wanted {VERSION}: prepare it again."
                )
            lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
            utterances = tuple(_parse(line) for line in lines)
            size = (folder / SAMPLES).stat().st_size / int(description.get("channels", 1))
        except OSError as error:
            raise CorpusError(
                f"corpus {folder} cannot be opened ({error.strerror}: {Path(str(error.filename)).name}): "
                "name a folder made by `audiovae prepare`."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, CorpusError):
                raise
            raise CorpusError(f"corpus {folder} is damaged ({error!r}): prepare it again.") from None
        samples = int(description["samples"])
        if size != 2 * samples or len(utterances) != description["utterances"]:
            raise CorpusError(
                f"corpus {folder} is damaged: wanted {samples} samples in {description['utterances']} utterances, "
                f"got {size / 2:g} in {len(utterances)}: prepare it again."
            )
        if any(u.length <= 0 or u.offset < 0 or u.offset + u.length > samples for u in utterances):
            raise CorpusError(f"corpus {folder} is damaged: an utterance lies outside its samples; prepare it again.")
        return cls(folder, description, utterances)

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers that have data to train on, sorted: a label is an index into them."""
        return tuple(sorted({u.speaker for u in self.all if u.split == "train"}))

    @cached_property
    def tags(self) -> dict[str, tuple[str, ...]]:
        """Of each field of tags, the names that have data to train on, sorted; {} where there are no tags."""
        found: dict[str, set[str]] = {}
        for utterance in self.utterances("train"):
            for name, values in utterance.tags.items():
                found.setdefault(name, set()).update(values)
        return {name: tuple(sorted(found[name])) for name in sorted(found)}

    @cached_property
    def tag_names(self) -> tuple[str, ...]:
        """:attr:`tags` in one row, such as ("artist=Bach", "genre=Chorale"): the vocabulary a model is told of."""
        return tuple(f"{name}={value}" for name, values in self.tags.items() for value in values)

    def borne(self, utterance: Utterance) -> NDArray[np.float32]:
        """1 for each of :attr:`tag_names` that an utterance bears, else 0: (V,)."""
        own = {f"{name}={value}" for name, values in utterance.tags.items() for value in values}
        return np.array([name in own for name in self.tag_names], np.float32)

    @cached_property
    def samples(self) -> NDArray[np.int16]:
        """The memory map (T,) int16, read only; (T, 2) of two channels."""
        flat = np.asarray(np.memmap(self.folder / SAMPLES, dtype="<i2", mode="r"))
        return flat if self.channels == 1 else flat.reshape(-1, self.channels)

    def utterances(self, split: Split) -> tuple[Utterance, ...]:
        """The utterances of ``train``, ``valid`` or ``test``; CorpusError on another name."""
        if split not in SPLITS:
            raise CorpusError(f"no split '{split}': wanted one of {', '.join(SPLITS)}.")
        return tuple(u for u in self.all if u.split == split)

    def audio(self, utterance: Utterance) -> NDArray[np.float32]:
        """The samples (T,) of one utterance, in [-1, 1); (2, T) of two channels."""
        cut = self.samples[utterance.offset : utterance.offset + utterance.length].T
        return cut.astype(np.float32, order="C") / np.float32(32768)

    def mixed(self, utterance: Utterance) -> NDArray[np.float32]:
        """The samples (T,) of one utterance, the mean of its channels."""
        wave = self.audio(utterance)
        return wave if wave.ndim == 1 else wave.mean(axis=0)

    def mono(self, owner: str) -> "Corpus":
        """This corpus; ConfigError, in the name of ``owner``, where it has more than one channel."""
        if self.channels != 1:
            raise ConfigError(f"{owner} wants a corpus of one channel, {self.folder} has {self.channels}: "
                              "prepare it with --channels 1.")
        return self

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Corpus.open, (self.folder,)  # a worker process opens its own map


def _parse(line: str) -> Utterance:
    fields = json.loads(line)
    fields.pop("seconds")
    tags = {name: tuple(values) for name, values in fields.pop("tags", {}).items()}
    utterance = Utterance(**fields, tags=tags)
    if utterance.split not in SPLITS:
        raise ValueError(f"utterance {utterance.id} is in split '{utterance.split}'")
    return utterance
