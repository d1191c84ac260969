"""A small untrained VAE of pictures, for the examples in the documentation and for tests."""

from audiovae.bottlenecks import GaussianConfig
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import MLPEncoderConfig
from audiovae.models import Autoencoder, AutoencoderConfig
from audiovae.shapes import DataSpec


def example_vae(dim: int = 2) -> Autoencoder:
    """One of 8 x 8 pictures with ``dim`` latents, its decoder told one of three labels.

    >>> import torch
    >>> example_vae().sample(5).shape
    torch.Size([5, 1, 8, 8])
    """
    config = AutoencoderConfig(encoder=MLPEncoderConfig(widths=(16,)), bottleneck=GaussianConfig(dim=dim),
                               decoder=MLPDecoderConfig(widths=(16,)), condition_dim=4)
    return config.build(DataSpec(channels=1, dims=2, size=(8, 8), labels=("a", "b", "c"))).eval()
