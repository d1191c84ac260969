"""Codes as training data: a corpus or pictures, through a trained model once, and kept.

    corpus/codes-FINGERPRINT/level-0.u16     codes (L in all, Q) of every utterance in a row, level by level

Batches are stretches of recordings, aligned with the level above and told where in the whole they lie.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Discriminator
from torch import Tensor
from tqdm import tqdm

from audiovae.audio.corpus import Corpus, Split, Utterance
from audiovae.audio.waveform import channelled
from audiovae.checkpoint import fingerprint, load_model
from audiovae.config import Config, Count, Whole
from audiovae.errors import ConfigError, CorpusError
from audiovae.files import atomic_folder
from audiovae.image.pictures import PartName
from audiovae.image.sets import PictureConfig
from audiovae.level_codec import AnyCodec, open_codec
from audiovae.models import Model
from audiovae.priors import ABSENT, letters
from audiovae.seeds import generator
from audiovae.shapes import Batch, CodeSpec, Condition, DataSpec
from audiovae.spectrogram_data import SpectrogramData

LIMIT = 2**16  # codes are kept in 16 bits


class CorpusCodes:
    """The codes of every utterance of a corpus, level by level, in memory maps beside it; made when missing.

    Of two channels a model of one gets the mean. Raises CorpusError where the corpus is of another rate than the model,
    ConfigError where the model has no codes.

    lengths : (utterances, levels) steps; a code of level l + 1 stands for a whole number of those of level l.
    """

    def __init__(self, corpus: Corpus, codec: AnyCodec):
        self.corpus, self.codec = corpus, codec
        if corpus.sample_rate != codec.sample_rate:
            raise CorpusError(f"corpus {corpus.folder} has {corpus.sample_rate} Hz, the model wants "
                              f"{codec.sample_rate} Hz: prepare the corpus at that rate.")
        if any(size > LIMIT for level in codec.code_levels for size in level.num_codes):
            raise ConfigError(f"codes are kept in 16 bits, this model has codebooks of more than {LIMIT}.")
        self.levels = codec.code_levels
        samples = np.array([u.length for u in corpus.all])
        self.lengths = np.stack([-(-samples // level.hop) for level in self.levels], axis=1)
        self.starts = np.cumsum(self.lengths, axis=0) - self.lengths
        self.folder = corpus.folder / f"codes-{codec.fingerprint}"  # of whichever beam made them: any is its codes
        if not self.folder.exists():
            self._make()

    def _make(self) -> None:
        with atomic_folder(self.folder) as folder, ExitStack() as stack:
            files = [stack.enter_context((folder / f"level-{i}.u16").open("wb")) for i in range(len(self.levels))]
            for utterance in tqdm(self.corpus.all, unit="recording", desc="encoding", disable=None):
                wave = channelled(self.corpus.audio(utterance), self.codec.channels)
                left = [-(-utterance.length // level.hop) for level in self.levels]  # a hierarchy's may end later
                for block in self.codec.encode_blocks([wave]):
                    for place, (file, codes) in enumerate(zip(files, block, strict=True)):
                        file.write(codes[:, : left[place]].T.astype("<u2").tobytes())
                        left[place] -= min(left[place], codes.shape[1])

    def maps(self) -> list[NDArray[np.uint16]]:
        """A map (L in all, Q) a level; CorpusError where one is cut short."""
        found = []
        for index, level in enumerate(self.levels):
            path, total = self.folder / f"level-{index}.u16", int(self.lengths[:, index].sum())
            if not path.exists() or path.stat().st_size != 2 * total * len(level.num_codes):
                raise CorpusError(f"{path} does not hold the {total} codes of its corpus: delete the folder "
                                  f"{self.folder}, and they are made anew.")
            found.append(np.memmap(path, "<u2", "r", shape=(total, len(level.num_codes))))
        return found

    def codes(self, utterance: int, level: int, start: int, count: int) -> NDArray[np.int64]:
        """Steps of one recording (Q, count) from ``start`` on, -1 behind its end."""
        out = np.full((len(self.levels[level].num_codes), count), ABSENT, np.int64)
        there = min(count, int(self.lengths[utterance, level]) - start)
        if there > 0:
            first = self.starts[utterance, level] + start
            out[:, :there] = self._maps[level][first:first + there].T
        return out

    @cached_property
    def _maps(self) -> list[NDArray[np.uint16]]:
        return self.maps()


class AudioCodes:
    """Stretches of ``tokens`` steps of one level's codes, with those of the level above, names, timing and text.

    A recording is drawn in proportion to its length; a stretch begins with a code of the level above.
    """

    def __init__(self, config: "CodesData", seed: int):
        self.config, self.seed = config, seed
        self.corpus = Corpus.open(config.corpus)
        codec = open_codec(config.model, prior=False)
        self.all = CorpusCodes(self.corpus, codec)
        level = chosen_level(config, codec.model)
        self.above = level + 1 if level + 1 < len(self.all.levels) else None
        hop, num_codes = self.all.levels[level]
        above = self.all.levels[self.above] if self.above is not None else None
        self.ratio = above.hop // hop if above is not None else 1
        self.tokens = -(-config.tokens // self.ratio) * self.ratio
        self.names = self.corpus.tag_names
        self._speakers = {name: index for index, name in enumerate(self.corpus.speakers)}
        self.spec = DataSpec(
            channels=len(num_codes), dims=1, size=(self.tokens,), labels=() if self.names else self.corpus.speakers,
            tags=self.names, timing=True, text=config.text,
            codes=CodeSpec(num_codes, codec.fingerprint, level, hop, codec.sample_rate,
                           above.num_codes if above is not None else (), self.ratio))
        self.level = level
        self._split: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for split in ("train", "valid"):
            if not len(self._drawable(split)[0]):
                raise CorpusError(f"corpus {self.corpus.folder} has no {split} recordings: prepare it with a {split} "
                                  "part.")

    def fit(self, hop: int) -> None:
        """A prior has a hop of one step."""

    def batch(self, step: int, rank: int = 0) -> Batch:
        return self._batch("train", self.config.batch_size, np.random.default_rng([self.seed % 2**63, step, rank]))

    def validation(self) -> list[Batch]:
        return [self._batch("valid", self.config.batch_size, np.random.default_rng([0, index]))
                for index in range(self.config.validation_batches)]

    def indexed(self, split: Split) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Every recording of a split by its place in the corpus, and its codes (Q, L)."""
        for index in self._drawable(split)[0].tolist():
            yield index, self.all.codes(index, self.level, 0, int(self.all.lengths[index, self.level]))

    def whole(self, split: Split) -> Iterator[tuple[Utterance, NDArray[np.int64]]]:
        """Every recording of a split and its codes (Q, L)."""
        return ((self.corpus.all[index], codes) for index, codes in self.indexed(split))

    def stretches(self, index: int, size: int) -> Iterator[Batch]:
        """All of one recording, one stretch after the other, ``size`` of them a batch."""
        starts = range(0, int(self.all.lengths[index, self.level]), self.tokens)
        for first in range(0, len(starts), size):
            yield stacked([self.example(index, start) for start in starts[first:first + size]])

    def example(self, index: int, start: int) -> Batch:
        """A batch of one: the stretch of recording ``index`` from step ``start`` on."""
        utterance, level = self.corpus.all[index], self.all.levels[self.level]
        x = torch.from_numpy(self.all.codes(index, self.level, start, self.tokens))[None]
        upper = None
        if self.above is not None:
            upper = torch.from_numpy(self.all.codes(index, self.above, start // self.ratio,
                                                    self.tokens // self.ratio))[None]
        rate = self.corpus.sample_rate
        timing = torch.tensor([[utterance.length / rate, start * level.hop / rate,
                                start * level.hop / utterance.length]], dtype=torch.float32)
        tags = torch.from_numpy(self.corpus.borne(utterance))[None] if self.names else None
        label = None if self.names else torch.tensor([self._speakers.get(utterance.speaker, -1)])
        text = letters(utterance.text or "")[None] if self.config.text else None
        condition = Condition(label=label, tags=tags, timing=timing, text=text, upper=upper)
        return Batch(x, condition, (f"{utterance.id} @ {start * level.hop / rate:.2f} s",))

    def _batch(self, split: Split, size: int, dice: np.random.Generator) -> Batch:
        which, ends = self._drawable(split)
        examples = []
        for index in which[np.searchsorted(ends, dice.integers(ends[-1], size=size), side="right")]:
            room = max(int(self.all.lengths[index, self.level]) - self.tokens, 0)
            examples.append(self.example(int(index), int(dice.integers(-(-room // self.ratio) + 1)) * self.ratio))
        return stacked(examples)

    def _drawable(self, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The recordings of a split, and where each ends when their steps are counted in a row."""
        if split not in self._split:
            which = np.array([i for i, u in enumerate(self.corpus.all) if u.split == split], np.int64)
            self._split[split] = which, np.cumsum(self.all.lengths[which, self.level])
        return self._split[split]


class PictureCodes:
    """The codes of pictures at one level, with those of the level above and the pictures' labels."""

    def __init__(self, config: "CodesData", seed: int):
        assert config.pictures is not None
        self.config, self.seed = config, seed
        self.inner = config.pictures.build(seed)
        self.model = load_model(config.model).eval().requires_grad_(False)
        self.level = chosen_level(config, self.model)
        levels = self.model.code_levels
        ours, theirs = ((spec.channels, spec.size, spec.mel) for spec in (self.model.data, self.inner.spec))
        if ours != theirs:
            raise ConfigError(f"data.model {config.model} was trained on {self.model.data}, but data.pictures has "
                              f"{self.inner.spec}.")
        hop, num_codes = levels[self.level]
        above = levels[self.level + 1] if self.level + 1 < len(levels) else None
        ratio = above.hop // hop if above is not None else 1
        size = tuple(side // hop for side in self.inner.spec.size)  # type: ignore[union-attr]
        self.spec = DataSpec(channels=len(num_codes), dims=2, size=size, labels=self.inner.spec.labels,
                             codes=CodeSpec(num_codes, fingerprint(self.model), self.level, hop, None,
                                            above.num_codes if above is not None else (), ratio))
        self._parts: dict[str, Batch] = {}

    def fit(self, hop: int) -> None:
        """A prior has a hop of one step."""

    def batch(self, step: int, rank: int = 0) -> Batch:
        part = self.part("train")
        pick = torch.randint(len(part.x), (self.config.batch_size,), generator=generator(self.seed, step, rank))
        return _picked(part, pick)

    def validation(self) -> list[Batch]:
        part = self.part("valid")
        count = min(len(part.x), self.config.validation_batches * self.config.batch_size)
        every = torch.arange(count) * len(part.x) // count  # what follows each other is alike
        return [_picked(part, some) for some in every.split(self.config.batch_size)]

    def indexed(self, name: PartName) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Every picture of a part by its place, and its codes (Q, H W), row after row."""
        return enumerate(self.part(name).x.flatten(2).numpy())

    def picked(self, name: PartName, pick: Tensor) -> Batch:
        """Some examples of a part."""
        return _picked(self.part(name), pick)

    @torch.no_grad()
    def part(self, name: PartName) -> Batch:
        """All of a part, encoded once."""
        if name not in self._parts:
            batches = []
            for batch in tqdm(self.inner.batches(name), desc=f"encoding {name}", unit="batch", disable=None):
                codes = self.model.encode_levels(batch.x, batch.condition)  # type: ignore[operator] - see chosen_level
                upper = codes[self.level + 1] if self.level + 1 < len(codes) else None
                batches.append(Batch(codes[self.level], Condition(batch.condition.label, upper=upper), batch.names))
            self._parts[name] = stacked(batches)
        return self._parts[name]


def chosen_level(config: "CodesData", model: Model) -> int:
    """``config.level``, checked; ConfigError where the model has no such level of codes."""
    levels = len(model.code_levels)
    if config.level >= levels:
        raise ConfigError(f"data.level {config.level}: the model {config.model} has {levels} levels of codes, from 0.")
    return config.level


def stacked(batches: list[Batch]) -> Batch:
    """Several as one; texts are padded with 0."""
    def joined(name: str) -> Tensor | None:
        values = [getattr(batch.condition, name) for batch in batches]
        if any(value is None for value in values):
            return None
        if name == "text":
            longest = max(value.shape[1] for value in values)
            values = [torch.nn.functional.pad(value, (0, longest - value.shape[1])) for value in values]
        return torch.cat(values)

    told = Condition(label=joined("label"), tags=joined("tags"), timing=joined("timing"), text=joined("text"),
                     upper=joined("upper"))
    return Batch(torch.cat([b.x for b in batches]), told, tuple(n for b in batches for n in b.names))


def _picked(part: Batch, pick: Tensor) -> Batch:
    told = part.condition
    condition = Condition(label=None if told.label is None else told.label[pick],
                          upper=None if told.upper is None else told.upper[pick])
    return Batch(part.x[pick], condition, tuple(part.names[i] for i in pick.tolist()))


Seen = Annotated[PictureConfig | SpectrogramData, Discriminator("kind")]


@dataclass(frozen=True)
class CodesData(Config):
    """Codes of a trained ``model`` (a checkpoint, a run or a name), of a ``corpus`` or of ``pictures``.

    pictures : a set of them, or a corpus seen as spectrograms.
    level : of the codes, 0 the fastest; a level that has one above is told it.
    tokens : steps of a stretch, rounded up to whole steps of the level above.
    text : whether a recording's text is told too.
    """

    kind: Literal["codes"] = "codes"
    model: str = ""
    corpus: str = ""
    pictures: Seen | None = None
    level: Whole = 0
    tokens: Count = 512
    batch_size: Count = 16
    validation_batches: Count = 8
    text: bool = False

    def build(self, seed: int) -> AudioCodes | PictureCodes:
        if not self.model:
            raise ConfigError("data.model is not set: name the trained model whose codes are to be learnt.")
        if bool(self.corpus) == (self.pictures is not None):
            raise ConfigError("data.kind \"codes\" wants one of data.corpus and data.pictures: set one.")
        if self.corpus and not Path(self.corpus).exists():
            raise CorpusError(f"corpus {self.corpus} is missing: name a folder made by `audiovae prepare`.")
        return AudioCodes(self, seed) if self.corpus else PictureCodes(self, seed)
