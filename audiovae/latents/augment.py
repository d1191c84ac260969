"""Augmentation: variations of a data set, each example drawn anew from around its own place in latent space."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.io import write_audio
from audiovae.errors import ConfigError, OutputError, ShapeError
from audiovae.files import atomic_file, atomic_folder
from audiovae.image.files import to_bytes, write_picture
from audiovae.latents.coding import draw, encode, generate
from audiovae.models import Model
from audiovae.shapes import Condition


def augment(model: Model, x: Tensor, count: int, condition: Condition | None = None, temperature: float = 1.0,
            generator: torch.Generator | None = None) -> Tensor:
    """``count`` variations of each example (B, C, *grid): z ~ q(z|x) decoded, (B, count, C, *grid).

    ``temperature`` scales the spread of q: 0 is the reconstruction, 1 what the model holds for the same thing.

    Raises ConfigError where the model's latent has no spread, or on a count below 1 or a temperature below 0.

    >>> from audiovae.latents.example import example_vae
    >>> augment(example_vae(), torch.rand(5, 1, 8, 8), count=3).shape
    torch.Size([5, 3, 1, 8, 8])
    """
    if count < 1 or temperature < 0:
        raise ConfigError(f"augment wants a count of at least 1 and a temperature of at least 0, got {count} and "
                          f"{temperature:g}.")
    posterior = encode(model, x, condition)
    if torch.isneginf(posterior.log_variance).any():
        raise ConfigError("augment wants a latent with a spread to draw from: take bottleneck 'gaussian'.")
    drawn = [generate(model, draw(posterior, temperature, generator), condition) for _ in range(count)]
    return torch.stack(drawn, dim=1)


def write_variations(path: Path, variations: Tensor, label: Tensor | None = None, names: Sequence[str] = (),
                     sample_rate: int | None = None) -> int:
    """Write variations (B, N, C, *grid) to an .npz archive or a new folder, whole or not at all; how many.

    An archive holds x (B N, C, H, W) uint8 and y (B N,), the N of the first example first: what data kind "npz"
    reads. A folder holds 00000-0.png (or .wav at ``sample_rate`` Hz), example and variation, in a folder for each
    label's name, as data kind "folder" and `audiovae prepare` read them; without a label (-1), in none.

    Raises OutputError where the system refuses or the folder has something in it, ShapeError on pictures that are
    neither grey nor RGB.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "more"
    >>> write_variations(folder, torch.rand(2, 3, 1, 8, 8), torch.tensor([0, 1]), names=("anna", "ben"))
    6
    >>> sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))[:2]
    ['anna/00000-0.png', 'anna/00000-1.png']
    """
    label = torch.full((len(variations),), -1) if label is None else label
    if sample_rate is None and (variations.ndim != 5 or variations.shape[2] not in (1, 3)):
        raise ShapeError(f"write_variations wants pictures (B, N, C, H, W) with C 1 or 3, got "
                         f"{tuple(variations.shape)}.")
    count = len(variations) * variations.shape[1]
    if path.suffix == ".npz":
        if sample_rate is not None:
            raise OutputError(f"{path} cannot hold sound: name a folder.")
        with atomic_file(path) as temporary:
            y = label.repeat_interleave(variations.shape[1])
            np.savez_compressed(temporary, x=to_bytes(variations.flatten(0, 1)), y=y.numpy())
        return count
    with atomic_folder(path) as temporary:
        for i, (group, k) in enumerate(zip(variations, map(int, label), strict=True)):
            folder = temporary / names[k] if k >= 0 else temporary
            folder.mkdir(exist_ok=True)
            for j, one in enumerate(group):
                if sample_rate is not None:
                    write_audio(folder / f"{i:05d}-{j}.wav", one, sample_rate)
                else:
                    write_picture(folder / f"{i:05d}-{j}.png", one)
    return count
