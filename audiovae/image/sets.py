"""The picture sets a configuration can name, each by its ``kind``; what they share is in :class:`ImageData`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Discriminator

from audiovae.errors import ConfigError
from audiovae.image.archive import read_archive
from audiovae.image.digits import read_digits
from audiovae.image.folder import read_folder
from audiovae.image.pictures import Pictures
from audiovae.image.shapes import draw_shapes
from audiovae.image.source import ImageData
from audiovae.image.torchvision_sets import read_celeba, read_cifar10, read_fashion_mnist, read_mnist


@dataclass(frozen=True)
class DigitsData(ImageData):
    """The digits of scikit-learn, inside its wheel."""

    kind: Literal["digits"] = "digits"

    def read(self) -> Pictures:
        return read_digits()


@dataclass(frozen=True)
class _TorchvisionData(ImageData):
    """root : the folder that holds the set; download : fetch it there when it is missing."""

    root: str = ""
    download: bool = False


@dataclass(frozen=True)
class MNISTData(_TorchvisionData):
    """MNIST below ``root``, as torchvision keeps it; ``download`` fetches it there."""

    kind: Literal["mnist"] = "mnist"

    def read(self) -> Pictures:
        return read_mnist(_given(self.root, "root"), self.download)


@dataclass(frozen=True)
class FashionMNISTData(_TorchvisionData):
    """Fashion-MNIST below ``root``, as torchvision keeps it; ``download`` fetches it there."""

    kind: Literal["fashion_mnist"] = "fashion_mnist"

    def read(self) -> Pictures:
        return read_fashion_mnist(_given(self.root, "root"), self.download)


@dataclass(frozen=True)
class CIFAR10Data(_TorchvisionData):
    """CIFAR-10 below ``root``, as torchvision keeps it; ``download`` fetches it there."""

    kind: Literal["cifar10"] = "cifar10"

    def read(self) -> Pictures:
        return read_cifar10(_given(self.root, "root"), self.download)


@dataclass(frozen=True)
class CelebAData(_TorchvisionData):
    """CelebA below ``root``, as torchvision keeps it, at ``size`` pixels; ``attribute`` is what is labelled."""

    kind: Literal["celeba"] = "celeba"
    size: int = 64
    attribute: str = "Smiling"
    validation_batches: int | None = 20

    def read(self) -> Pictures:
        return read_celeba(_given(self.root, "root"), self.download, self.size, self.attribute)


@dataclass(frozen=True)
class ArchiveData(ImageData):
    """An .npz file of uint8 pictures: x_train, y_train, x_test, y_test, or x and y."""

    kind: Literal["npz"] = "npz"
    path: str = ""

    def read(self) -> Pictures:
        return read_archive(_given(self.path, "path"))


@dataclass(frozen=True)
class FolderData(ImageData):
    """Any folder of pictures, brought to ``size`` pixels, grey or colour; folders in it are the labels."""

    kind: Literal["folder"] = "folder"
    path: str = ""
    size: int = 64
    channels: int = 3

    def read(self) -> Pictures:
        if self.size < 1:
            raise ConfigError(f"data.size wants a number above 0, got {self.size}.")
        if self.channels not in (1, 3):
            raise ConfigError(f"data.channels wants 1 (grey) or 3 (RGB), got {self.channels}.")
        return read_folder(_given(self.path, "path"), self.size, self.channels)


@dataclass(frozen=True)
class ShapesData(ImageData):
    """Squares, ellipses and hearts of known factors, ``count`` of them for training."""

    kind: Literal["shapes"] = "shapes"
    count: int = 30_000
    side: int = 64

    def read(self) -> Pictures:
        if self.side not in (32, 64):
            raise ConfigError(f"data.side wants 32 or 64, got {self.side}.")
        return draw_shapes(self.count, self.side)


def _given(path: str, name: str) -> str:
    if not path:
        raise ConfigError(f"data.{name} is not set: name what holds the pictures.")
    return path


PictureConfig = Annotated[
    DigitsData | MNISTData | FashionMNISTData | CIFAR10Data | CelebAData | ArchiveData | FolderData | ShapesData,
    Discriminator("kind"),
]
