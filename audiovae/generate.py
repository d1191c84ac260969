"""New codes from priors, level after level, the slowest first: songs, what goes on from one, and what fills a gap.

A level longer than its prior's context is drawn in windows that overlap: the end of one is the beginning of the next,
which goes on from it (Dhariwal 2020, section 4.3). Every draw is a function of (seed, song, level, window), so a song
is the same whatever is drawn beside it, and one that was stopped goes on to the same end. What is drawn beside given
codes depends on these too: else a song that was drawn, and is given again with the same seed, would come back alike.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audiovae.checkpoint import find_checkpoint, load_model, read_description
from audiovae.config import from_dict
from audiovae.errors import CheckpointError, ConfigError, LabelError, ShapeError, nearest
from audiovae.models import PriorModel
from audiovae.priors import ABSENT, Drawing, ToldConfig, Weights, check_quantizable, letters
from audiovae.seeds import generator
from audiovae.shapes import CodeLevel, CodeSpec, Condition, DataSpec

Steps = NDArray[np.int64]
SMALL = 40_000_000  # bytes of weights
LONGEST = 1440.0  # minutes, a day: more is a slip


@dataclass(frozen=True)
class PriorFile:
    """A trained prior on disk: where, what it is over, the model its run took the codes from, its kind, and what of its
    data's names and text it listens to."""

    path: Path
    data: DataSpec
    trained_on: str | None
    kind: str
    told: ToldConfig = ToldConfig()

    @property
    def codes(self) -> CodeSpec:
        assert self.data.codes is not None
        return self.data.codes

    @property
    def context(self) -> int:
        """Steps that it was trained on at once."""
        assert self.data.size is not None
        return self.data.size[0]

    def load(self, weights: Weights = "float32") -> PriorModel:
        """The model, of these weights; ConfigError where it cannot have them."""
        model = load_model(self.path)
        assert isinstance(model, PriorModel)
        return model.quantized() if weights == "int8" else model


def open_priors(paths: Sequence[Path]) -> list[PriorFile]:
    """Priors of one model's codes, the slowest level first; weights stay on disk until their turn.

    Raises CheckpointError unless they are priors over codes of one model, one for each level from the slowest down.
    """
    found = []
    for path in paths:
        folder = find_checkpoint(path)
        description = read_description(folder)
        if description.get("model", {}).get("kind") != "prior":
            kind = description.get("model", {}).get("kind")
            raise CheckpointError(f"{path} is no prior but a model of kind '{kind}': name a run whose model.kind is "
                                  "\"prior\".")
        source, model = str(folder / "config.json"), description["model"]["prior"]
        found.append(PriorFile(folder, from_dict(DataSpec, description["data"], source=source),
                               description.get("experiment", {}).get("data", {}).get("model"), model["kind"],
                               from_dict(ToldConfig, model.get("told", {}), source=source)))
    found.sort(key=lambda prior: -prior.codes.level)
    for prior in found[1:]:
        if prior.codes.model != found[0].codes.model:
            raise CheckpointError(f"prior {prior.path} is over codes of model {prior.codes.model}, prior "
                                  f"{found[0].path} over those of {found[0].codes.model}: take priors of one model.")
    levels = [prior.codes.level for prior in found]
    if found and (found[0].codes.upper or levels != list(range(levels[0], levels[0] - len(levels), -1))):
        raise CheckpointError(f"priors of the levels {', '.join(map(str, levels))}: wanted one for each level, "
                              "from the slowest, which is told nothing from above, down without a gap.")
    return found


def check_model(priors: Sequence[PriorFile], name: str | Path, fingerprint: str) -> None:
    """CheckpointError, naming both, unless ``name``, the model of that fingerprint, made the codes of all priors."""
    for prior in priors:
        if prior.codes.model != fingerprint:
            raise CheckpointError(f"prior {prior.path} is over the codes of model {prior.codes.model}, but {name} is "
                                  f"model {fingerprint}: name the right one with --codec.")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    samples : of a song, at the codec's rate.
    count, batch : songs, and how many of them are drawn together.
    tags, label, text : names such as "genre=Waltz", a label, and words; each None or () where nothing is said.
    drawings : by level.
    overlap : of a window with the next, as a share of it.
    weights : the numbers that priors compute with; others draw other songs.
    given : a digest of the codes that are not to be drawn, where there are some.
    """

    samples: int
    count: int = 1
    batch: int = 4
    seed: int = 0
    tags: tuple[str, ...] = ()
    label: str | None = None
    text: str | None = None
    drawings: dict[int, Drawing] = field(default_factory=dict)
    overlap: float = 0.5
    weights: Weights = "float32"
    given: str = ""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.count < 1 or self.batch < 1 or not 0 < self.overlap < 1:
            raise ConfigError("a song wants a length, a count and a batch above 0 and an overlap between 0 and 1, got "
                              f"{self.samples} samples, {self.count}, {self.batch} and {self.overlap:g}.")


def plan(absent: NDArray[np.bool_], context: int, overlap: int, unit: int) -> list[tuple[int, int]]:
    """Windows [start, stop) of up to ``context`` steps that fill all that is ``absent`` (L,), each begun on a ``unit``.

    A gap that fits is put in the middle of one window, so that both of its sides are seen; what is open to the end is
    gone through from the left.

    >>> plan(np.ones(100, bool), context=40, overlap=20, unit=4)
    [(0, 40), (20, 60), (40, 80), (60, 100)]
    >>> gap = np.zeros(100, bool)
    >>> gap[50:60] = True
    >>> plan(gap, context=40, overlap=20, unit=4), plan(np.zeros(9, bool), 4, 2, 1)
    ([(32, 72)], [])
    """
    length, where = len(absent), np.flatnonzero(absent)
    if not len(where):
        return []
    first, last = int(where[0]), int(where[-1])
    end = -(-length // unit) * unit
    if last < length - 1 and last - first < context // 2:
        start = max(0, min((first + last + 1 - context) // 2, end - context)) // unit * unit
        return [(start, min(start + context, length))]
    windows, start = [], max(0, min(first - overlap, end - context)) // unit * unit
    stride = max(unit, (context - overlap) // unit * unit)
    while True:
        windows.append((start, min(start + context, length)))
        if windows[-1][1] > last:
            return windows
        start = min(start + stride, max(0, end - context) // unit * unit)


def open_songs(priors: Sequence[PriorFile], levels: Sequence[CodeLevel], request: Request,
               given: dict[int, Steps] | None = None) -> dict[int, Steps]:
    """Room for the songs' codes (count, Q, L) by level, filled with what is ``given`` (Q, n) and -1 elsewhere.

    Raises ShapeError where what is given is not of these levels.
    """
    top = levels[priors[0].codes.level].hop
    steps, songs = ceil(request.samples / top), {}
    for level in (prior.codes.level for prior in priors):  # what is given of others, nothing is to be drawn for
        hop, num_codes = levels[level]
        codes = np.full((request.count, len(num_codes), steps * top // hop), ABSENT, np.int64)
        if given and level in given:
            part = given[level][:, : codes.shape[2]]
            if part.shape[0] != len(num_codes) or part.max(initial=0) >= max(num_codes):
                raise ShapeError(f"level {level} has {len(num_codes)} codes a step below {max(num_codes)}, what is "
                                 f"given has {part.shape[0]} up to {part.max(initial=0)}.")
            codes[:, :, : part.shape[1]] = part
        songs[level] = codes
    return songs


def work(priors: Sequence[PriorFile], request: Request,
         songs: dict[int, Steps]) -> Iterator[tuple[PriorFile, int, int, int]]:
    """The windows to be drawn, in order: (prior, first song of the batch, start, stop)."""
    for prior in priors:
        level = prior.codes.level
        absent = np.asarray((songs[level] < 0).any(axis=(0, 1)))
        overlap = round(request.overlap * prior.context)
        for first in range(0, request.count, request.batch):
            for start, stop in plan(absent, prior.context, overlap, prior.codes.ratio):
                yield prior, first, start, stop


def draw(priors: Sequence[PriorFile], request: Request, songs: dict[int, Steps],
         begun: dict[int, Steps] | None = None, progress: Callable[[int], object] | None = None,
         saved: Callable[[dict[int, Steps]], object] | None = None,
         finished: Callable[[int, dict[int, Steps]], object] | None = None) -> dict[int, Steps]:
    """Fill ``songs`` and give them back; one prior at a time is in memory.

    begun : what an earlier run had drawn of the same songs, gone on from. progress : told steps drawn. saved : called
    after every window. finished : called with a level once it is whole.

    Raises LabelError on a name that a prior does not know, ConfigError on weights that it cannot have and where nothing
    is left to be drawn.
    """
    check_request(priors, request)
    check_work(priors, request, songs)
    plans = list(work(priors, request, songs))
    songs = {level: codes.copy() for level, codes in (begun or songs).items()}
    for prior in priors:
        model, level = None, prior.codes.level
        for _, first, start, stop in (row for row in plans if row[0] is prior):
            last = min(first + request.batch, request.count)
            part = songs[level][first:last, :, start:stop]
            if (part >= 0).all():  # drawn before
                if progress:
                    progress((last - first) * (stop - start))
                continue
            model = model or prior.load(request.weights)
            condition = conditioned(prior, request, songs, (first, last), (start, stop))
            own = (int(request.given, 16),) if request.given else ()
            dice = [generator(request.seed, song, level, start, *own) for song in range(first, last)]
            told = Counter(last - first, stop - start, progress)
            with fitting_threads(model):
                drawn = model.draw(dice, (stop - start,), condition, request.drawings.get(level, Drawing()),
                                   torch.from_numpy(part), told)
            told.end()
            songs[level][first:last, :, start:stop] = drawn.numpy()
            if saved:
                saved(songs)
        if finished:
            finished(level, songs)
    return songs


@contextmanager
def fitting_threads(model: PriorModel) -> Iterator[None]:
    """One thread for a small network: its products are so short that a second thread only waits, and on a busy machine
    a song takes many times as long."""
    before = torch.get_num_threads()
    if model.nbytes < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Counter:
    """Passes steps of ``count`` songs on to a progress bar, up to ``steps`` of each, and what is left at its end."""

    def __init__(self, count: int, steps: int, report: Callable[[int], object] | None):
        self.count, self.left, self.report = count, steps, report

    def __call__(self, steps: int) -> None:
        steps = min(steps, self.left)
        self.left -= steps
        if self.report:
            self.report(self.count * steps)

    def end(self) -> None:
        self(self.left)


def conditioned(prior: PriorFile, request: Request, songs: dict[int, Steps],
                batch: tuple[int, int], window: tuple[int, int]) -> Condition:
    """What a prior is told of a window of some songs."""
    (first, last), (start, stop), spec, data = batch, window, prior.codes, prior.data
    count, rate = last - first, spec.sample_rate or 1
    total, offset = request.samples / rate, start * spec.hop / rate
    upper = None
    if spec.upper:
        above = songs[spec.level + 1][first:last, :, start // spec.ratio: -(-stop // spec.ratio)]
        upper = torch.from_numpy(above)
    tags = None
    if data.tags and request.tags:
        tags = torch.tensor([[float(name in request.tags) for name in data.tags]]).expand(count, -1)
    label = torch.full((count,), data.labels.index(request.label)) if data.labels and request.label else None
    text = letters(request.text)[None].expand(count, -1) if data.text and request.text else None
    timing = torch.tensor([[total, offset, min(offset / total, 1.0)]]).expand(count, -1) if data.timing else None
    return Condition(label=label, tags=tags, timing=timing, text=text, upper=upper)


def check_request(priors: Sequence[PriorFile], request: Request) -> None:
    """LabelError or ConfigError on what one of ``priors`` cannot be asked, told before any is loaded."""
    for prior in priors:
        check_names(prior, request)
        check_weights(prior, request)
    names = any(prior.told.names and (prior.data.labels or prior.data.tags) for prior in priors)
    text = any(prior.told.text and prior.data.text for prior in priors)
    for asked, heard, part in ((request.tags or request.label is not None, names, "names"),
                               (request.text, text, "text")):
        if asked and not heard:
            raise ConfigError(f"no prior listens to {part} (model.prior.told.{part} is false): leave them out, or "
                              "train one that does.")
    if any(drawing.guidance != 1 for drawing in request.drawings.values()) and not (names or text):
        raise ConfigError("--guidance leans towards names and text that were asked for, and no prior listens to any: "
                          "leave it at 1.")


def check_minutes(minutes: float) -> None:
    """ConfigError on minutes of sound that are none, or more than a day."""
    if not 0 < minutes <= LONGEST:
        raise ConfigError(f"--minutes wants more than 0 and at most {LONGEST:g}, got {minutes:g}.")


def check_work(priors: Sequence[PriorFile], request: Request, songs: dict[int, Steps]) -> None:
    """ConfigError where no code of ``songs`` is left to be drawn."""
    if next(work(priors, request, songs), None) is None:
        raise ConfigError(f"nothing to draw: what is given fills all that {', '.join(str(p.path) for p in priors)} "
                          f"{'are' if len(priors) > 1 else 'is'} over, up to the length asked for.")


def check_names(prior: PriorFile, request: Request) -> None:
    """LabelError, with the nearest names, on a tag or label that a prior was not trained with; text likewise."""
    for name in request.tags:
        if name not in prior.data.tags:
            told = nearest(name, prior.data.tags) if prior.data.tags else "it was trained without names"
            raise LabelError(f"prior {prior.path} knows no '{name}'; {told}.")
    if request.label is not None and request.label not in prior.data.labels:
        told = nearest(request.label, prior.data.labels) if prior.data.labels else "it was trained without labels"
        raise LabelError(f"prior {prior.path} knows no '{request.label}'; {told}.")
    if request.text and not prior.data.text:
        raise ConfigError(f"prior {prior.path} was trained without text: leave it out, or train with data.text.")


def check_weights(prior: PriorFile, request: Request) -> None:
    """ConfigError on int8 weights of a prior that cannot have them."""
    if request.weights == "int8":
        check_quantizable(prior.kind, str(prior.path))


def digest(songs: dict[int, Steps]) -> str:
    """What tells songs with other codes in them apart."""
    whole = blake2b(digest_size=8)
    for level, codes in sorted(songs.items()):
        whole.update(f"{level} {codes.shape}".encode() + codes.tobytes())
    return whole.hexdigest()


def to_json(request: Request, priors: Sequence[PriorFile]) -> str:
    """What was asked, of which priors: what a song's tags say, and what going on must agree with."""
    values = {**vars(request), "drawings": {str(level): vars(drawing) for level, drawing in
                                            sorted(request.drawings.items())},
              "model": priors[0].codes.model, "priors": ["/".join(prior.path.parts[-2:]) for prior in priors]}
    values.pop("batch")  # changes nothing
    return json.dumps(values, sort_keys=True)


