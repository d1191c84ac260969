"""Models: compositions of the core. ``ModelConfig`` is the union a recipe chooses from."""

from typing import Annotated

from pydantic import Discriminator

from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig, ConditionEmbedding
from audiovae.models.density import DensityConfig, DensityModel
from audiovae.models.hierarchical import Hierarchical, HierarchicalConfig
from audiovae.models.ladder import Ladder, LadderConfig, ScaleConfig
from audiovae.models.levels import LevelConfig
from audiovae.models.multires import Multires, MultiresConfig
from audiovae.models.prior import PriorConfig, PriorModel
from audiovae.models.semi_supervised import SemiSupervised, SemiSupervisedConfig

Model = Autoencoder | SemiSupervised | DensityModel | Multires | Hierarchical | Ladder | PriorModel
ModelConfig = Annotated[AutoencoderConfig | SemiSupervisedConfig | DensityConfig | MultiresConfig | HierarchicalConfig
                        | LadderConfig | PriorConfig, Discriminator("kind")]

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "ConditionEmbedding",
    "DensityConfig",
    "DensityModel",
    "Hierarchical",
    "HierarchicalConfig",
    "Ladder",
    "LadderConfig",
    "LevelConfig",
    "Model",
    "ModelConfig",
    "Multires",
    "MultiresConfig",
    "PriorConfig",
    "PriorModel",
    "ScaleConfig",
    "SemiSupervised",
    "SemiSupervisedConfig",
]
