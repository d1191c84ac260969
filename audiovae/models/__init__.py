"""Models: compositions of the core. ``ModelConfig`` is the union a recipe chooses from."""

from typing import Annotated

from pydantic import Discriminator

from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig, ConditionEmbedding
from audiovae.models.density import DensityConfig, DensityModel
from audiovae.models.prior import PriorConfig, PriorModel
from audiovae.models.semi_supervised import SemiSupervised, SemiSupervisedConfig

Model = Autoencoder | SemiSupervised | DensityModel | PriorModel
ModelConfig = Annotated[AutoencoderConfig | SemiSupervisedConfig | DensityConfig | PriorConfig, Discriminator("kind")]

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "ConditionEmbedding",
    "DensityConfig",
    "DensityModel",
    "Model",
    "ModelConfig",
    "PriorConfig",
    "PriorModel",
    "SemiSupervised",
    "SemiSupervisedConfig",
]
