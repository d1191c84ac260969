"""Priors over codes, all of one contract. ``PriorNetworkConfig`` is the union a recipe chooses from."""

from typing import Annotated

from pydantic import Discriminator

from audiovae.priors.base import ABSENT, Drawing, Prior
from audiovae.priors.conditions import ToldConfig, letters
from audiovae.priors.masked import MaskedConfig, MaskedPrior
from audiovae.priors.pixelcnn import PixelCNNPrior, PixelCNNPriorConfig
from audiovae.priors.quantization import Weights, check_quantizable, quantized
from audiovae.priors.transformer import CausalConfig, CausalPrior

PriorNetworkConfig = Annotated[CausalConfig | MaskedConfig | PixelCNNPriorConfig, Discriminator("kind")]

__all__ = [
    "ABSENT",
    "CausalConfig",
    "CausalPrior",
    "Drawing",
    "MaskedConfig",
    "MaskedPrior",
    "PixelCNNPrior",
    "PixelCNNPriorConfig",
    "Prior",
    "PriorNetworkConfig",
    "ToldConfig",
    "Weights",
    "check_quantizable",
    "letters",
    "quantized",
]
