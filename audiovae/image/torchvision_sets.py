"""Standard picture sets through torchvision's readers: MNIST, Fashion-MNIST, CIFAR-10 and CelebA.

They come with ``pip install 'audiovae[images]'``. A set lies below ``root`` as torchvision keeps it
(MNIST/raw, FashionMNIST/raw, cifar-10-batches-py, celeba), or is downloaded there on request. The test part is
the set's own; but for CelebA, which has its own, validation is 5,000 pictures of train, drawn by lot, always the same.
CIFAR-10's files are pickles: torchvision opens them only once their checksums are those of the true ones.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from audiovae.errors import CorpusError, ExtraError, nearest
from audiovae.image.folder import open_picture
from audiovae.image.pictures import Part, Pictures, numbered, three_parts

T = TypeVar("T")
_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_mnist(root: str | Path, download: bool = False) -> Pictures:
    """MNIST (LeCun 1998): 28 x 28 grey digits; 55,000 for training, 5,000 and 10,000 held out.

    Raises ExtraError without torchvision, CorpusError when the files are missing or damaged.
    """
    return _with_own_test("MNIST", root, download, _DIGITS)


def read_fashion_mnist(root: str | Path, download: bool = False) -> Pictures:
    """Fashion-MNIST (Xiao et al. 2017): ten kinds of clothes, else as MNIST; raises the same."""
    return _with_own_test("FashionMNIST", root, download, _CLOTHES)


def read_cifar10(root: str | Path, download: bool = False) -> Pictures:
    """CIFAR-10 (Krizhevsky 2009): 32 x 32 colour; 45,000 for training, 5,000 and 10,000 held out.

    Raises ExtraError without torchvision, CorpusError when the files are missing or damaged.
    """
    return _with_own_test("CIFAR10", root, download, None)


def read_celeba(root: str | Path, download: bool = False, size: int = 64, attribute: str = "Smiling") -> Pictures:
    """CelebA (Liu et al. 2015): 202,599 aligned faces, the middle 148 x 148 of each at ``size`` x ``size``.

    Its own parts: 162,770 for training, 19,867 and 19,962 held out. The labels are those of one of its 40
    attributes. 64 x 64 takes 2.5 GB of memory and some minutes to read.

    Raises ExtraError without torchvision, CorpusError when files are missing or damaged or no such attribute is known.
    """
    parts = []
    for name in ("train", "valid", "test"):
        found = _open("CelebA", root, split=name, download=download)
        known = [a for a in found.attr_names if a]
        if attribute not in known:
            raise CorpusError(f"CelebA has no attribute '{attribute}'; {nearest(attribute, known)}.")
        files = [Path(found.root) / found.base_folder / "img_align_celeba" / file for file in found.filename]
        pixels = torch.stack([open_picture(file, size, channels=3, crop=148) for file in files])
        parts.append(Part(pixels, found.attr[:, known.index(attribute)].long(), tuple(found.filename)))
    return Pictures(*parts, labels=(f"not {attribute}", attribute))


def _with_own_test(name: str, root: str | Path, download: bool, labels: tuple[str, ...] | None) -> Pictures:
    found = {part: _open(name, root, train=part == "train", download=download) for part in ("train", "test")}
    train, test = (_part(name, part, _pixels(one.data), one.targets) for part, one in found.items())
    return Pictures(*three_parts(train, test), labels=labels or tuple(found["train"].classes))


def _part(name: str, part: str, pixels: Tensor, targets: Any) -> Part:
    return Part(pixels, torch.as_tensor(targets).long(), numbered(f"{name} {part}", range(len(pixels))))


def _pixels(data: Any) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    x = torch.as_tensor(data)
    return x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()


def _open(name: str, root: str | Path, **options: Any) -> Any:
    """One of torchvision's sets, its complaints in our words."""
    try:
        reader: Callable[..., Any] = getattr(importlib.import_module("torchvision.datasets"), name)
    except ImportError as error:
        raise ExtraError(f"torchvision cannot be imported ({error}): pip install 'audiovae[images]'.") from None
    try:
        return reader(str(root), **options)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"{name} cannot be read from {root} ({reason}): name the folder that holds it in data.root, "
                          "or set data.download = true.") from None
