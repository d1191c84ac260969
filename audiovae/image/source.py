"""Batches of pictures: drawn with replacement for training, one after the other for evaluation."""

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.image.pictures import Part, PartName, Pictures
from audiovae.seeds import generator
from audiovae.shapes import Batch, DataSpec, check_grid

EVALUATED_AT_ONCE = 256


@dataclass(frozen=True)
class ImageData(Config):
    """What all picture sets have in common.

    binarize : "dynamic" draws each pixel anew whenever it is shown, 1 with its grey level for chance
        (Salakhutdinov & Murray 2008, Burda et al. 2016), in validation and test always alike;
        "threshold" takes pixels of half the light and more for 1.
    validation_batches : of at most 256 pictures, evenly spread over the validation part; None for all.
    labelled : training pictures that keep their label, as many of each class, drawn by lot; None for all. All others
        are labelled -1.
    labelled_share : share of each batch drawn from those, first in it; the rest is drawn from all others.
    """

    batch_size: int = 128
    binarize: Literal["none", "dynamic", "threshold"] = "none"
    validation_batches: int | None = None
    labelled: int | None = None
    labelled_share: float = 0.5

    def read(self) -> Pictures:
        """The whole set, from wherever it is."""
        raise NotImplementedError

    def build(self, seed: int) -> "ImageSource":
        return ImageSource(self.read(), self, seed)


class ImageSource:
    """Pictures (B, C, H, W) in [0, 1] and their labels (B,) int64, -1 where unknown.

    A training batch is a pure function of (seed, step, rank); validation and test never change.

    Parameters
    ----------
    pictures : the set, kept in memory as whole levels.
    config : how it is shown.
    seed : of the training batches and of the choice of labels.

    Raises ConfigError when a number is not above 0, or the labels asked for are not there.

    >>> from audiovae.image.digits import read_digits
    >>> source = ImageSource(read_digits(), ImageData(batch_size=4, binarize="dynamic"), seed=0)
    >>> batch = source.batch(step=7)
    >>> tuple(batch.x.shape), batch.x.unique().tolist(), source.spec.levels
    ((4, 1, 8, 8), [0.0, 1.0], 2)
    >>> [len(batch.x) for batch in source.batches("test", size=100)]
    [90, 89]
    """

    _ORDER: ClassVar[tuple[PartName, ...]] = ("train", "valid", "test")

    def __init__(self, pictures: Pictures, config: ImageData, seed: int):
        for name in ("batch_size", "validation_batches"):
            value = getattr(config, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} wants a number above 0, got {value}.")
        self.config, self.seed = config, seed
        self.parts: dict[PartName, Part] = {name: getattr(pictures, name) for name in self._ORDER}
        self._levels, self._label = pictures.levels, pictures.train.label
        if config.binarize == "threshold":
            half = (pictures.levels - 1) / 2
            self._levels = 2
            self.parts = {name: replace(part, pixels=(part.pixels >= half).to(torch.uint8))
                          for name, part in self.parts.items()}
        if config.labelled is not None:
            label = keep_labels(self.parts["train"].label, len(pictures.labels), config.labelled, seed)
            self.parts["train"] = replace(self.parts["train"], label=label)
            self._known, self._unknown = (mask.nonzero().flatten() for mask in (label >= 0, label < 0))
            self._count = _labelled_count(config, len(self._unknown))
        self._shown_levels = 2 if config.binarize == "dynamic" else self._levels
        self._drawn: dict[PartName, Part] = {}
        _, channels, *size = pictures.train.pixels.shape
        embedding = pictures.train.embedding
        self.spec = DataSpec(channels=channels, dims=2, labels=pictures.labels, size=tuple(size),
                             levels=self._shown_levels, embedding=0 if embedding is None else embedding.shape[1])

    def for_judges(self) -> "ImageSource":
        """The same pictures with all their labels, in batches that no setting of training, nor its seed, changes.

        So what is judged by a network that learnt from these is judged alike, whatever it was trained with.
        """
        other = copy(self)
        other.config, other.seed = replace(self.config, batch_size=ImageData.batch_size, labelled=None), 0
        other.parts, other._drawn = dict(self.parts), {}
        other.parts["train"] = replace(self.parts["train"], label=self._label)
        return other

    def fit(self, hop: int) -> None:
        pixels = self.parts["train"].pixels
        check_grid(f"pictures ({pixels.shape[2]} x {pixels.shape[3]})", pixels, hop)

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The training batch of a step and process."""
        dice = generator(self.seed, step, rank)
        train, size = self.parts["train"], self.config.batch_size
        if self.config.labelled is None:
            pick = torch.randint(len(train), (size,), generator=dice)
        else:
            groups = (self._known, self._count), (self._unknown, size - self._count)
            pick = torch.cat([_draw(group, count, dice) for group, count in groups])
        part = train.take(pick)
        if self.config.binarize == "dynamic":  # 1 with chance k / (n - 1), at half of what torch.bernoulli costs
            x = (torch.randint(self._levels - 1, part.pixels.shape, generator=dice, dtype=torch.uint8)
                 < part.pixels).float()
        else:
            x = part.pixels.float().div(self._levels - 1)
        return Batch(x, part.condition(), part.names)

    def validation(self) -> list[Batch]:
        """The held-out batches, the same at every call."""
        return list(self.batches("valid", limit=self.config.validation_batches))

    def part(self, name: PartName) -> Batch:
        """A whole part as one batch, in its order; the same at every call."""
        return next(self.batches(name, size=len(self.parts[name])))

    def batches(self, name: PartName, size: int = EVALUATED_AT_ONCE, limit: int | None = None) -> Iterator[Batch]:
        """A part in nearly equal batches of at most ``size``, in its order; the same at every call.

        limit : at most so many full batches, evenly spread over the part.
        """
        part = self._fixed(name)
        count = len(part) if limit is None else min(len(part), limit * size)
        spread = torch.arange(count) * len(part) // count
        for index in spread.tensor_split(math.ceil(count / size)):
            some = part.take(index)
            yield Batch(some.pixels.float().div(self._shown_levels - 1), some.condition(), some.names)

    def _fixed(self, name: PartName) -> Part:
        """The part as it is shown in evaluation: of a dynamic binarisation one draw, whatever the seed."""
        part = self.parts[name]
        if self.config.binarize != "dynamic":
            return part
        if name not in self._drawn:
            dice = generator(0, self._ORDER.index(name))
            drawn = [torch.bernoulli(some.float().div(self._levels - 1), generator=dice).to(torch.uint8)
                     for some in part.pixels.split(1024)]
            self._drawn[name] = replace(part, pixels=torch.cat(drawn))
        return self._drawn[name]


def keep_labels(label: Tensor, classes: int, count: int, seed: int) -> Tensor:
    """Labels (N,) with all but ``count`` replaced by -1: as many of each class, drawn by lot.

    Raises ConfigError when ``count`` is no multiple of the classes, or a class has not enough pictures.

    >>> keep_labels(torch.tensor([0, 0, 1, 1, 1]), classes=2, count=2, seed=0).add(1).count_nonzero()
    tensor(2)
    """
    if not classes or count < 1 or count % classes:
        raise ConfigError(f"data.labelled wants a multiple of the number of classes, {classes}, got {count}.")
    kept, each = torch.full_like(label, -1), count // classes
    for k in range(classes):
        own = (label == k).nonzero().flatten()
        if len(own) < each:
            raise ConfigError(f"data.labelled={count} wants {each} pictures of each class, got {len(own)} of {k}: "
                              "ask for fewer.")
        kept[own[torch.randperm(len(own), generator=generator(seed, k))[:each]]] = k
    return kept


def _labelled_count(config: ImageData, unlabelled: int) -> int:
    """How many of a batch are labelled."""
    count = round(config.labelled_share * config.batch_size)
    if not 1 <= count <= config.batch_size:
        raise ConfigError(f"data.labelled_share={config.labelled_share:g} of {config.batch_size} is {count} pictures: "
                          "wanted at least 1, at most all.")
    if not unlabelled and count < config.batch_size:
        raise ConfigError(f"data.labelled={config.labelled} leaves no picture without a label: leave it out.")
    return count


def _draw(group: Tensor, count: int, dice: torch.Generator) -> Tensor:
    return group[torch.randint(len(group), (count,), generator=dice)] if count else group[:0]
