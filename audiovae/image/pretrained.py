"""Feature networks with weights from elsewhere: VGG-16 and the Inception network of FID.

They come with ``pip install 'audiovae[images]'``. Their weights are read from disk, where PyTorch keeps them
($TORCH_HOME/hub/checkpoints, ~/.cache/torch without that variable), and never downloaded. Where one is not at hand,
a classifier of the data takes its place, and every score and report names the one it used.
"""

import importlib
import importlib.util
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.errors import CheckpointError, ConfigError, ExtraError, ShapeError
from audiovae.image.features import FeatureNetwork, LabelledBatches, classifier_of
from audiovae.image.source import ImageSource
from audiovae.shapes import DataSpec

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


def comparing_network(wanted: Literal["auto", "classifier", "vgg"], source: LabelledBatches | None,
                      steps: int = 200) -> FeatureNetwork:
    """The network that data is compared in: "auto" is VGG where its weights are on disk and the data is pictures that
    it takes, else a classifier of the data, trained for so many ``steps``.

    Raises ConfigError where a classifier is wanted and there is no source, or it has no labels, and as :class:`VGG`.

    >>> from audiovae.image.sets import DigitsData
    >>> comparing_network("auto", DigitsData().build(seed=0), steps=2).title           # 8 x 8 is too small for VGG
    'digits classifier, 64 features'
    """
    at_hand = source is not None and _at_hand(source.spec, VGG_FILE, "torchvision", at_least=16)
    if wanted == "vgg" or (wanted == "auto" and at_hand):
        return VGG()
    if source is None:
        raise ConfigError(f"network '{wanted}' wants the training data: build it with its source, or take network "
                          "'vgg'.")
    return classifier_of(source, steps=steps)


def scoring_network(wanted: Literal["auto", "classifier", "inception"], source: LabelledBatches) -> FeatureNetwork:
    """The network that generated pictures are scored in: "auto" is Inception where its weights are on disk, else a
    classifier of the data, the same however many of it a run takes at a time and how many labels it is shown.

    Raises ConfigError where a classifier is wanted of data without labels, and as :class:`Inception`.
    """
    if wanted == "inception" or (wanted == "auto" and _at_hand(source.spec, INCEPTION_FILE, "torch_fidelity")):
        return Inception()
    return classifier_of(source.for_judges() if isinstance(source, ImageSource) else source)


def _at_hand(data: DataSpec, file: str, package: str, at_least: int = 1) -> bool:
    """Whether a network's weights and package are there, and the data is pictures that it takes."""
    takes = data.dims == 2 and data.channels in (1, 3) and min(data.size or (0,)) >= at_least
    return takes and _path(file).is_file() and importlib.util.find_spec(package) is not None


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
