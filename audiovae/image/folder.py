"""A folder of picture files, of any size and format that Pillow reads; folders in it are the labels."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from audiovae.errors import CorpusError
from audiovae.files import below
from audiovae.image.pictures import Part, Pictures, three_parts

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


def read_folder(path: str | Path, size: int, channels: int = 3) -> Pictures:
    """Read every picture below a folder, its middle square at ``size`` x ``size``.

    With folders train/ and test/ in it these are the parts; else a tenth is drawn by lot for the test part. A tenth
    of train, but not more than 5,000, drawn by lot, is for validation. What lies directly in folders named
    anna/ and ben/ is labelled so; what lies in none of them has no label (-1).

    Parameters
    ----------
    channels : 1 for grey, 3 for colour; a picture of the other kind is converted.

    Raises
    ------
    CorpusError
        When the folder is missing, or holds no picture, none that can be read, or too few to split.

    Warns once, with their count, of files that cannot be read; they are left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for i in range(40):
    ...     Image.new("L", (12, 9), color=i).save(folder / f"{i:02d}.png")
    >>> pictures = read_folder(folder, size=8, channels=1)
    >>> tuple(pictures.train.pixels.shape), len(pictures.valid), len(pictures.test)
    ((33, 1, 8, 8), 3, 4)
    """
    path = Path(path)
    if not path.is_dir():
        raise CorpusError(f"picture folder {path} is {'a file' if path.exists() else 'missing'}: name a folder.")
    split = (path / "train").is_dir() and (path / "test").is_dir()
    roots = [path / "train", path / "test"] if split else [path]
    files = [_files(root) for root in roots]
    labels = tuple(sorted({file.relative_to(root).parts[0] for root, group in zip(roots, files, strict=True)
                           for file in group if file.parent != root}))
    parts = [_read(root, group, size, channels, labels) for root, group in zip(roots, files, strict=True)]
    return Pictures(*three_parts(*parts), labels=labels)


def open_picture(path: Path, size: int, channels: int, crop: int | None = None) -> Tensor:
    """The middle square of a picture (or its middle ``crop`` x ``crop`` pixels), as (C, size, size) uint8.

    Raises OSError, ValueError or SyntaxError on what Pillow cannot read.
    """
    with Image.open(path) as image:
        if image.mode[0] in "IF":  # convert would cut off all above 255
            raise ValueError(f"pixels of mode {image.mode}, wanted 8 bits")
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if crop is not None:
        left, top = (upright.width - crop) // 2, (upright.height - crop) // 2
        upright = upright.crop((left, top, left + crop, top + crop))
    square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).view(size, size, channels).permute(2, 0, 1).contiguous()


def _files(root: Path) -> list[Path]:
    found = sorted(file for file in below(root) if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise CorpusError(f"picture folder {root} holds no picture ({', '.join(sorted(SUFFIXES))}): name another.")
    return found


def _read(root: Path, files: list[Path], size: int, channels: int, labels: tuple[str, ...]) -> Part:
    pixels, label, names, bad = [], [], [], []
    for file in files:
        try:
            pixels.append(open_picture(file, size, channels))
        except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"{file.relative_to(root)}: {' '.join(str(error).split())}")
            continue
        label.append(labels.index(file.relative_to(root).parts[0]) if file.parent != root else -1)
        names.append(str(file.relative_to(root)))
    if not pixels:
        raise CorpusError(f"picture folder {root}: none of {len(files)} files can be read (first {bad[0]}).")
    if bad:
        warnings.warn(f"picture folder {root}: {len(bad)} of {len(files)} files cannot be read and are left out "
                      f"(first {bad[0]}).", stacklevel=3)
    return Part(torch.stack(pixels), torch.tensor(label), tuple(names))
