"""Pictures in one NumPy archive: x_train, y_train, x_test, y_test, or all in x and y; e_train, e with embeddings."""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.errors import CorpusError
from audiovae.image.pictures import Part, Pictures, numbered, three_parts

Arrays = dict[str, NDArray]
MOST_LABELS = 1 << 20  # kinds of pictures: a greater label is a slip, and every kind gets a name
DAMAGED = (ValueError, AttributeError, TypeError, EOFError, SyntaxError, RuntimeError, MemoryError, zlib.error,
           tokenize.TokenError, zipfile.BadZipFile)  # what reading one that is damaged may raise


def read_archive(path: str | Path) -> Pictures:
    """Read an .npz file of uint8 pictures, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3.

    Keys x_train and x_test, or x alone, of which a tenth is then drawn by lot for the test part; x_valid, or else a
    tenth of train, at most 5,000, drawn by lot. The labels y_train, y_valid, y_test, y are whole numbers from 0, -1
    where unknown, and may all be missing; so may e_train, e_valid, e_test, e, embeddings (N, E) of any kind that a
    conditional model is told. Pictures without a value above 1 are taken as binary: two levels.

    Raises
    ------
    CorpusError
        When the file is missing or no archive of plain numbers, or its keys, types or shapes are others; the message
        says what was found.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "few.npz"
    >>> np.savez(file, x=np.full((50, 8, 6), 7, np.uint8), y=np.arange(50) % 5)
    >>> pictures = read_archive(file)
    >>> tuple(pictures.train.pixels.shape), pictures.labels
    ((41, 1, 8, 6), ('0', '1', '2', '3', '4'))
    """
    path = Path(path)
    arrays = _load(path)
    found = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in arrays.items()) or "nothing"
    parts = [part for part in ("train", "valid", "test") if f"x_{part}" in arrays]
    if "train" not in parts and (parts or "x" not in arrays):
        raise CorpusError(f"archive {path} wants the keys x_train and x_test, or x; found {found}.")
    whole = {part: _part(path, arrays, f"_{part}", part) for part in parts} or {
        "train": _part(path, arrays, "", "picture")}
    if "valid" in whole and "test" in whole:
        chosen = whole["train"], whole["valid"], whole["test"]
    elif "valid" in whole:
        raise CorpusError(f"archive {path} has x_valid but no x_test; found {found}.")
    else:
        chosen = three_parts(whole["train"], whole.get("test"))
    top = max(int(part.pixels.max()) for part in chosen)
    classes = max(int(part.label.max()) for part in chosen) + 1
    return Pictures(*chosen, levels=2 if top <= 1 else 256, labels=tuple(str(i) for i in range(classes)))


def _load(path: Path) -> Arrays:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
        if strange := [key for key, value in found.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"{strange[0]} is no array")
        return found
    except OSError as error:
        raise CorpusError(f"archive {path} cannot be read ({error.strerror or error}): name an .npz file.") from None
    except DAMAGED as error:
        raise CorpusError(f"archive {path} is no .npz file of plain numbers ({error}): save uint8 pictures with "
                          "numpy.savez.") from None


def _part(path: Path, arrays: Arrays, ending: str, noun: str) -> Part:
    x, y, e = (f"{letter}{ending}" for letter in "xye")
    pixels, count, embedding = _pixels(path, x, arrays[x]), len(arrays[x]), arrays.get(e)
    if embedding is not None and (embedding.dtype.kind != "f" or embedding.shape[:1] != (count,)
                                  or embedding.ndim != 2 or not np.isfinite(embedding).all()):
        raise CorpusError(f"archive {path}: {e} wants finite embeddings ({count}, E), got {embedding.dtype} "
                          f"{embedding.shape}.")
    label = arrays.get(y, np.full(count, -1))
    if label.shape != (count,) or label.dtype.kind not in "iu" or label.min(initial=0) < -1 \
            or label.max(initial=0) >= MOST_LABELS:
        raise CorpusError(f"archive {path}: {y} wants {count} whole numbers from 0 (-1 where unknown) to "
                          f"{MOST_LABELS - 1}, got {label.dtype} {label.shape} up to {label.max(initial=0)}.")
    return Part(pixels, torch.from_numpy(label.astype(np.int64)), numbered(noun, range(count)),
                torch.from_numpy(embedding.astype(np.float32)) if embedding is not None else None)


def _pixels(path: Path, key: str, x: NDArray) -> Tensor:
    """(N, C, H, W) uint8 of any of the accepted layouts."""
    if x.dtype == np.bool_:
        x = x.astype(np.uint8)
    if x.dtype != np.uint8:
        hint = "it has values that are not finite" if x.dtype.kind == "f" and not np.isfinite(x).all() else \
            "scale to 0..255 and round"
        raise CorpusError(f"archive {path}: {key} wants uint8 levels, got {x.dtype} {x.shape}: {hint}.")
    first, last = x.ndim == 4 and x.shape[1] in (1, 3), x.ndim == 4 and x.shape[3] in (1, 3)
    if x.ndim == 3:
        x = x[:, None]
    elif last and not first:
        x = x.transpose(0, 3, 1, 2)
    elif not first or last:
        raise CorpusError(f"archive {path}: {key} wants (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, got "
                          f"{x.shape}{': which axis is the colour cannot be told' if first else ''}.")
    if 0 in x.shape:
        raise CorpusError(f"archive {path}: {key} is empty, {x.shape}.")
    return torch.from_numpy(np.ascontiguousarray(x))
