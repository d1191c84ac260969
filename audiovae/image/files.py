"""Picture files in and out pixel for pixel: nothing is cropped, scaled or converted."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from audiovae.errors import PictureError, ShapeError
from audiovae.files import reason

KINDS = {1: "grey", 3: "RGB"}


def read_picture(path: str | Path, channels: int) -> Tensor:
    """The pixels of a picture file, upright, as (C, H, W) uint8.

    Parameters
    ----------
    channels : 1 for grey, 3 for RGB; a palette is RGB, and an alpha channel is left out where all is opaque.

    Raises PictureError where the file is missing, empty, truncated or no picture, of another kind, of more than 8 bits,
    transparent, or of several frames.

    >>> import tempfile
    >>> write_picture(path := Path(tempfile.mkdtemp()) / "a.png", torch.rand(3, 8, 12))
    >>> read_picture(path, channels=3).shape
    torch.Size([3, 8, 12])
    """
    path = Path(path)
    if path.is_dir():
        raise PictureError(f"{path} is a folder: name a picture.")
    try:
        if not path.stat().st_size:
            raise PictureError(f"{path} is empty: it holds no picture.")
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a photo, and its preview
                raise PictureError(f"{path} has {frames} frames: save one of them as a picture.")
            upright = _plain(path, ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise PictureError(f"{path} cannot be read: no picture, or a format Pillow does not know.") from None
    except PictureError:
        raise
    except OSError as error:
        what = reason(error) if error.errno is not None else _told(error)
        raise PictureError(f"{path} cannot be read: {what}.") from None
    except (ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read: {_told(error)}.") from None
    there = len(upright.getbands())
    if there != channels:
        raise PictureError(f"{path} is {KINDS[there]}, wanted {KINDS.get(channels, channels)} as the model's pictures "
                           "are: convert it first.")
    return torch.from_numpy(np.array(upright)).view(upright.height, upright.width, -1).permute(2, 0, 1).contiguous()


def write_picture(path: Path, x: Tensor) -> None:
    """A picture (C, H, W) in [0, 1], C 1 or 3, as a .png of its very pixels; ShapeError on other channels."""
    if x.ndim != 3 or len(x) not in KINDS:
        raise ShapeError(f"write_picture wants (C, H, W) with C 1 or 3, got {tuple(x.shape)}.")
    pixels = to_bytes(x).transpose(1, 2, 0)
    Image.fromarray(pixels.squeeze(2) if len(x) == 1 else pixels).save(path)


def to_bytes(x: Tensor) -> np.ndarray:
    """[0, 1] to the nearest of 256 levels.

    >>> to_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    return x.clamp(0, 1).mul(255).round().byte().numpy()


def _plain(path: Path, image: Image.Image) -> Image.Image:
    """Grey or RGB of 8 bits, where an image is that in other words."""
    image.load()  # what is truncated must say so
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "P", "PA"):
        raise PictureError(f"{path} has pixels of mode {image.mode}: wanted grey or RGB of 8 bits; convert it first.")
    plain = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert(f"{plain}A")
        if np.array(image.getchannel("A")).min() < 255:
            raise PictureError(f"{path} is transparent in places: lay it on a ground first.")
    return image.convert(plain)


def _told(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:120]
