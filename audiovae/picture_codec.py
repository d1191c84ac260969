"""What a user of codes of pictures holds: a picture in, codes of every level out, and back.

Pictures go one by one, so that no code depends on what is encoded beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovae.checkpoint import find_checkpoint, fingerprint, load_model, read_description
from audiovae.codes import Canvas, CodeHeader, Codes
from audiovae.errors import CheckpointError, CodeFileError, ConfigError, LabelError, OutputError, PictureError, nearest
from audiovae.files import atomic_file
from audiovae.image.files import KINDS, read_picture, write_picture
from audiovae.level_codec import chosen_levels
from audiovae.models import Hierarchical, Model, Multires
from audiovae.shapes import CodeLevel, Condition

Grid = tuple[int, int]


class PictureCodec:
    """A trained model of pictures with codes, of one level or several.

    Parameters
    ----------
    levels : those to encode; None for all. A hierarchy shows upper levels alone with the mean of the codes below them.

    Raises CheckpointError where the model has no codes of pictures, ConfigError where it lacks a level.

    >>> from audiovae.models import HierarchicalConfig, LevelConfig
    >>> from audiovae.shapes import DataSpec
    >>> rows = tuple(LevelConfig(strides=(2,), width=4, depth=1) for _ in range(2))
    >>> codec = PictureCodec(HierarchicalConfig(levels=rows).build(DataSpec(channels=1, dims=2, levels=256)))
    >>> codes = codec.encode(torch.rand(1, 8, 12))
    >>> codes.canvas.grids, codec.decode(codes).shape
    (((4, 6), (2, 3)), torch.Size([1, 8, 12]))
    """

    prior = None  # code files of pictures are coded by counting
    sample_rate = 0

    def __init__(self, model: Model, levels: Sequence[int] | None = None):
        spec = model.data
        if spec.dims != 2 or spec.sample_rate is not None or spec.channels not in KINDS or not model.code_levels:
            part = getattr(model, "bottleneck", model)
            raise CheckpointError("PictureCodec wants a model of grey or RGB pictures with codes (bottleneck vq, rvq, "
                                  f"fsq or grouped), this one is of {spec.channels} channels on {spec.dims} axes with "
                                  f"{type(part).__name__}.")
        self.model = model.eval().requires_grad_(False)
        self.hops = tuple(level.hop for level in model.code_levels)
        self.levels = tuple(range(len(self.hops)) if levels is None else chosen_levels(model, levels))
        if len(self.levels) < len(self.hops) > len(set(self.hops)):
            raise ConfigError(f"this model has levels of one hop, {self.hops}, which only together can be told apart: "
                              "leave --levels at all.")
        self.channels = spec.channels
        self.labels = labels_of(model)
        self.fingerprint = fingerprint(model)

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        """Hop and codebooks of each level that it writes, the fastest first."""
        return tuple(self.model.code_levels[level] for level in self.levels)

    def check(self, label: str | None) -> str | None:
        """The name itself if this model knows it; LabelError with the nearest names if not."""
        if label is None or label in self.labels:
            return label
        raise LabelError(f"no label '{label}' in this model"
                         f"{f'; {nearest(label, self.labels)}.' if self.labels else ', which is told none.'}")

    def header(self, size: Grid, label: str | None = None) -> CodeHeader:
        """All that decoding the codes of a picture of ``size`` needs to know."""
        grids = grids_of(self.model, size)
        return CodeHeader(0, tuple(level.hop for level in self.code_levels),
                          tuple(level.num_codes for level in self.code_levels), self.fingerprint, self.check(label),
                          self.channels, Canvas(size, tuple(grids[level] for level in self.levels),
                                                self.model.data.levels or 256))

    def open(self, path: str | Path) -> Tensor:
        """A picture file as the model was shown pictures, (C, H, W) in [0, 1], each pixel at the nearest of its values.

        Raises PictureError where it cannot be read, is of other channels, or of a size that the model does not take.
        """
        pixels, last = read_picture(path, self.channels), (self.model.data.levels or 256) - 1
        try:
            self.check_size((pixels.shape[1], pixels.shape[2]))
        except PictureError as error:
            raise PictureError(f"{path} is {error}") from None
        return ((2 * last * pixels.int() + 255) // 510).float() / last

    def check_size(self, size: Grid) -> None:
        """Raise PictureError unless the model takes pictures of ``size`` (H, W)."""
        if not self._takes(size):
            wanted = (f"pictures of {in_sides(self.model.data.size or ())}" if getattr(self.model, "vector", False) else
                      f"sides that are multiples of its hop {self.model.hop}")
            raise PictureError(f"a picture of {in_sides(size)} (height x width), which does not fit the model: it "
                               f"wants {wanted}; crop or scale it.")

    @torch.no_grad()
    def encode(self, x: Tensor, label: str | None = None) -> Codes:
        """A picture (C, H, W) in [0, 1] to Codes, which keep the ``label`` that their decoder is to be told.

        Raises PictureError on other channels or another size, LabelError on an unknown label.
        """
        if x.ndim != 3 or len(x) != self.channels:
            raise PictureError(f"PictureCodec.encode wants a picture (C={self.channels}, H, W), got {tuple(x.shape)}.")
        self.check_size((x.shape[1], x.shape[2]))
        levels = self.model.encode_levels(x[None], self._condition(label))  # type: ignore[union-attr]
        return self.codes({level: levels[level][0] for level in self.levels}, (x.shape[1], x.shape[2]), label)

    def codes(self, maps: Mapping[int, Tensor], size: Grid, label: str | None = None) -> Codes:
        """Codes (Q, H, W) of the codec's levels as those of a picture of ``size``."""
        levels = tuple(maps[level].flatten(1).cpu().numpy() for level in self.levels)
        return Codes(levels, num_samples=size[0] * size[1], **vars(self.header(size, label)))

    def decode(self, codes: Codes, label: str | None = None, level: int | None = None) -> Tensor:
        """Codes to the picture (C, H, W): the reconstruction; a decoder that draws does so by the same dice each time.

        ``level`` is the one to decode from, of a multi-resolution model: None for the fastest that is there. Raises
        CodeFileError if another model made the codes, LabelError on an unknown label, ConfigError on a level that is
        not there or cannot be chosen.
        """
        codes.check_fingerprint(self.fingerprint)
        numbers = self._numbers(codes)
        there = {number: torch.from_numpy(its)[None] for number, its in zip(numbers, codes.maps, strict=True)}
        if level is not None and isinstance(self.model, Hierarchical):
            raise ConfigError("a hierarchy is decoded from all levels that are in the file: leave --level out, and "
                              "choose by --levels what to encode.")
        if level is not None and level not in there:
            raise ConfigError(f"no level {level} in these codes, which hold {', '.join(map(str, there))}: choose one "
                              "of those, or encode with it.")
        if level is not None:
            there = {level: there[level]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return decode_codes(self.model, there, self._condition(label or codes.label))[0]

    def _takes(self, size: Grid) -> bool:
        if getattr(self.model, "vector", False):
            return size == self.model.data.size
        return not any(side % self.model.hop for side in size)

    def _condition(self, label: str | None) -> Condition:
        """What the model is told for a label; None is "unknown"."""
        name = self.check(label)
        return Condition(torch.tensor([-1 if name is None else self.labels.index(name)]))

    def _numbers(self, codes: Codes) -> list[int]:
        """Which levels of the model codes hold; CodeFileError where the model makes no such codes."""
        canvas, known = codes.canvas, self.model.code_levels
        held = [CodeLevel(*its) for its in zip(codes.hops, codes.num_codes, strict=True)]
        numbers = list(range(len(held))) if held == list(known) else [known.index(its) for its in held if its in known]
        fit = (canvas is not None and self._takes(canvas.size) and codes.channels == self.channels
               and len(numbers) == len(held)
               and [*canvas.grids] == [grids_of(self.model, canvas.size)[number] for number in numbers])
        if not fit:
            raise CodeFileError(f"codes with hops {codes.hops}, num_codes {codes.num_codes} and {canvas} are none that "
                                f"this model makes, whose levels are {known}: encode the picture again.")
        return numbers


def labels_of(model: Model) -> tuple[str, ...]:
    """The labels that a model can be told; none where it is told none."""
    inner = model.each[0] if isinstance(model, Multires) else getattr(model, "autoencoder", model)
    return model.data.labels if getattr(inner, "embedding", None) is not None else ()


def grids_of(model: Model, size: Sequence[int]) -> list[Grid]:
    """(H, W) of the codes of each level of a picture of ``size``: (1, 1) where a latent is one vector.

    >>> from audiovae.models import HierarchicalConfig
    >>> from audiovae.shapes import DataSpec
    >>> grids_of(HierarchicalConfig().build(DataSpec(channels=3, dims=2)), (256, 256))
    [(64, 64), (32, 32)]
    """
    if getattr(model, "vector", False):
        return [(1, 1)] * len(model.code_levels)
    return [(size[0] // level.hop, size[1] // level.hop) for level in model.code_levels]


@torch.no_grad()
def decode_codes(model: Model, codes: Mapping[int, Tensor], condition: Condition | None = None) -> Tensor:
    """Codes (B, Q, H, W) of some levels to pictures; in place of a hierarchy's other levels stands their mean."""
    given = [codes.get(level) for level in range(len(model.code_levels))]
    lacking = any(level is None for level in given)
    decoded = model.reveal if isinstance(model, Hierarchical) and lacking else model.decode_levels
    return decoded(given, condition)  # type: ignore[operator,union-attr]


def is_of_pictures(model: str | Path) -> bool:
    """Whether the model that ``model`` names is of pictures, and not of sound; it is not loaded for that."""
    data: dict[str, Any] = read_description(find_checkpoint(model)).get("data", {})
    return data.get("dims") == 2 and data.get("sample_rate") is None


def open_picture_codec(path: str | Path, levels: Sequence[int] | None = None) -> PictureCodec:
    """The codec of the model that ``path`` names as :func:`audiovae.checkpoint.load_model` takes it."""
    return PictureCodec(load_model(path), levels)


def encode_picture(codec: PictureCodec, source: Path, target: Path, label: str | None = None) -> str:
    """Encode a picture to a code file (.codes, .npz or .npy by suffix); a sentence on what was written."""
    if target.suffix not in (".codes", ".npz", ".npy"):
        raise OutputError(f"{target}: codes are written as .codes, .npz or .npy, not as '{target.suffix}'.")
    codes = codec.encode(codec.open(source), label)
    codes.save(target) if target.suffix == ".codes" else codes.export(target)
    return f"{target}: {_summary(codes)}."


def decode_picture(codec: PictureCodec, source: Path, target: Path, label: str | None = None,
                   level: int | None = None) -> str:
    """Decode a code file (.codes or .npz) to a .png; a sentence on what was written."""
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: pictures are written as .png, not as '{target.suffix}'.")
    codes = Codes.load(source)
    picture = codec.decode(codes, label, level)
    with atomic_file(target) as temporary:
        write_picture(temporary, picture)
    return f"{target}: {_summary(codes)}."


def _summary(codes: Codes) -> str:
    assert codes.canvas is not None
    grids = " and ".join(in_sides(grid) for grid in codes.canvas.grids)
    return f"{in_sides(codes.canvas.size)} pixels, codes of {grids}"


def in_sides(sides: Sequence[int]) -> str:
    """Height and width in words.

    >>> in_sides((8, 12))
    '8 x 12'
    """
    return " x ".join(map(str, sides))
