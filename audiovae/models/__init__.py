"""Models: compositions of the core. ``ModelConfig`` is the union a recipe chooses from."""

from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig

ModelConfig = AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig", "ModelConfig"]
