"""Feature networks with weights from elsewhere: VGG-16 and the Inception network of FID.

They come with ``pip install 'audiovae[images]'``. Their weights are read from disk, where PyTorch keeps them
($TORCH_HOME/hub/checkpoints, ~/.cache/torch without that variable), and never downloaded.
"""

import importlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.errors import CheckpointError, ConfigError, ExtraError, ShapeError
from audiovae.image.features import FeatureNetwork

VGG_FILE = "vgg16-397923af.pth"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class VGG(FeatureNetwork):
    """VGG-16 without its classifier (Simonyan 2015), trained on ImageNet: for comparing pictures, not for scores.

    Its layers are the last activations at each of five sizes, as Zhang 2018 takes them. Grey pictures are shown
    as three equal channels.

    Shapes: (B, 1 or 3, H, W) in [0, 1], sides of at least 16.

    Raises ConfigError where the weights are not on disk, CheckpointError where they are others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self):
        super().__init__("ImageNet VGG-16", num_features=512)
        vgg = _module("torchvision.models.vgg")
        weights = _read(VGG_FILE, "network 'vgg'")
        with torch.device("meta"):  # no memory or time for random weights, nor for the classifier
            self.stack = vgg.vgg16().features
        try:
            self.stack.load_state_dict({k.removeprefix("features."): v for k, v in weights.items()
                                        if k.startswith("features.")}, assign=True)
        except RuntimeError as error:
            raise _other(VGG_FILE, error) from None
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.frozen()

    def layers(self, x: Tensor) -> list[Tensor]:
        x = _colour("VGG", x, at_least=16)
        h, found = (x - self.mean) / self.deviation, []
        for layer in self.stack:
            if isinstance(layer, torch.nn.MaxPool2d):
                found.append(h)
                if len(found) == 5:
                    break
            h = F.relu(h) if isinstance(layer, torch.nn.ReLU) else layer(h)  # theirs overwrites what we keep
        return found

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise ConfigError("network 'vgg' is without its classifier: for scores take 'classifier' or 'inception'.")


class Inception(FeatureNetwork):
    """The Inception v3 that FID, KID and Inception Score are defined by, in torch-fidelity's port of its weights.

    Pictures are rounded to 256 levels and brought to 299 x 299 as its first implementation did. It has no
    gradient: for scores only. Shapes: (B, 1 or 3, H, W) in [0, 1].

    Raises ExtraError without torch-fidelity, ConfigError where the weights are not on disk, CheckpointError where
    they are others.
    """

    standard = True

    def __init__(self):
        super().__init__("ImageNet Inception v3", num_features=2048)
        fidelity = _module("torch_fidelity.feature_extractor_inceptionv3")
        _read(INCEPTION_FILE, "network 'inception'")  # torch-fidelity would run whatever a pickle holds
        try:
            self.network = fidelity.FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(_path(INCEPTION_FILE)))
        except RuntimeError as error:
            raise _other(INCEPTION_FILE, error) from None
        self.frozen()

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (_colour("Inception", x, at_least=1).clamp(0, 1) * 255).round().to(torch.uint8)
        features, logits = self.network(pixels)
        return features, logits


def _colour(owner: str, x: Tensor, at_least: int) -> Tensor:
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < at_least:
        raise ShapeError(f"{owner} wants pictures (B, 1 or 3, H, W) with sides of at least {at_least}, got "
                         f"{tuple(x.shape)}: enlarge them, or take network 'classifier'.")
    return x.expand(-1, 3, -1, -1)


def _path(file: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def _read(file: str, owner: str) -> dict[str, Tensor]:
    path = _path(file)
    if not path.is_file():
        raise ConfigError(f"{owner} wants its weights at {path}: put them there (set TORCH_HOME for another place), "
                          "or take network 'classifier'.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise _other(file, error) from None


def _other(file: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:150]
    return CheckpointError(f"{_path(file)} does not hold the weights of that name ({reason}): fetch it again.")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ExtraError(f"{package} cannot be imported ({error}): pip install 'audiovae[images]'.") from None
