"""A small untrained model of voices, for the examples in the documentation and for tests."""

from audiovae.bottlenecks import RVQConfig
from audiovae.decoders import SourceFilterDecoderConfig
from audiovae.encoders import SpectralEncoderConfig
from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig
from audiovae.reference import ReferenceConfig
from audiovae.shapes import DataSpec


def voice_model(sample_rate: int = 16000) -> Autoencoder:
    """A model that speaks in the voice of a recording.

    >>> voice_model().hop
    320
    """
    return voice_config().build(DataSpec(channels=1, dims=1, sample_rate=sample_rate, prosody=160)).eval()


def voice_config() -> AutoencoderConfig:
    return AutoencoderConfig(
        encoder=SpectralEncoderConfig(num_mels=40, width=16, depth=1, mean_seconds=1.0, warp=0.1),
        bottleneck=RVQConfig(dim=8, num_codes=16, num_quantizers=2),
        decoder=SourceFilterDecoderConfig(width=16, depth=1), condition_dim=8,
        reference=ReferenceConfig(width=16, depth=1))
