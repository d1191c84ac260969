"""The one-level model of the family: an encoder, a bottleneck, a decoder and a likelihood, put together.

With an identity bottleneck it is an autoencoder, with a Gaussian one a VAE (Kingma & Welling 2014), with
codes a VQ-VAE (van den Oord 2017); told a label, its decoder makes it conditional.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.bottlenecks import BottleneckConfig, RVQConfig
from audiovae.bottlenecks.base import Bottleneck
from audiovae.config import Config
from audiovae.decoders import Decoder, DecoderConfig, SpectralDecoderConfig
from audiovae.encoders import Encoder, EncoderConfig, SpectralEncoderConfig
from audiovae.errors import ConfigError
from audiovae.likelihoods import GaussianConfig, Likelihood, LikelihoodConfig
from audiovae.shapes import Condition, DataSpec, Output


class LabelEmbedding(nn.Module):
    """One vector a label and one more for "unknown", which training shows now and then.

    Shapes: label (B,) int64 with -1 for unknown -> (B, E). None means unknown for all.
    """

    def __init__(self, num_labels: int, dim: int, dropout: float = 0.0):
        super().__init__()
        self.table = nn.Embedding(num_labels + 1, dim)
        self.dropout = dropout

    def forward(self, condition: Condition | None, batch: int) -> Tensor:
        unknown = self.table.num_embeddings - 1
        label = condition.label if condition is not None else None
        if label is None:
            label = torch.full((batch,), unknown, device=self.table.weight.device)
        label = torch.where(label < 0, unknown, label)
        if self.training and self.dropout:
            label = torch.where(torch.rand(label.shape, device=label.device) < self.dropout, unknown, label)
        return self.table(label)


class Autoencoder(nn.Module):
    """encoder -> bottleneck -> decoder -> likelihood, on waveforms, spectrograms or images.

    Parameters
    ----------
    encoder, bottleneck, decoder, likelihood : the parts, sizes agreeing.
    embedding : what the decoder is told of the label, or None.
    data : what the model was built for.

    >>> config = AutoencoderConfig()
    >>> model = config.build(DataSpec(channels=1, dims=1, sample_rate=16000))
    >>> out = model(torch.zeros(2, 1, 3200))
    >>> out.latents[0].z.shape, out.params.shape
    (torch.Size([2, 64, 10]), torch.Size([2, 1, 3200]))
    """

    encoder: Encoder
    bottleneck: Bottleneck
    decoder: Decoder
    likelihood: Likelihood
    embedding: LabelEmbedding | None

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, decoder: Decoder, likelihood: Likelihood,
                 data: DataSpec, embedding: LabelEmbedding | None = None):
        super().__init__()
        if encoder.hop != decoder.hop:
            raise ConfigError(f"encoder and decoder disagree: hop {encoder.hop} and {decoder.hop}; make the "
                              "products of their strides (or mel_hop * frames and hop) equal.")
        self.encoder, self.bottleneck, self.decoder = encoder, bottleneck, decoder
        self.likelihood, self.embedding, self.data = likelihood, embedding, data

    @property
    def hop(self) -> int:
        """Data steps per latent step, on every grid axis."""
        return self.encoder.hop

    def forward(self, x: Tensor, condition: Condition | None = None) -> Output:
        latent = self.bottleneck(self.encoder(x))
        return Output((latent,), self.params(latent.z, condition))

    def params(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """The likelihood's parameters for a latent z (B, D, *grid): (B, P * C, *data grid)."""
        vector = self.embedding(condition, len(z)) if self.embedding is not None else None
        return self.decoder(z, vector)

    def encode(self, x: Tensor) -> Tensor:
        """Data (B, C, *grid) to codes (B, Q, *grid / hop) int64, or a continuous bottleneck's parameters."""
        return self.bottleneck.encode(self.encoder(x))

    def decode(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        """What :meth:`encode` gave back to data: the mean of the likelihood, (B, C, *data grid)."""
        return self.likelihood.mean(self.params(self.bottleneck.decode(codes), condition))


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """The parts of an autoencoder; ``condition_dim`` 0 leaves the decoder without a label."""

    kind: Literal["autoencoder"] = "autoencoder"
    encoder: EncoderConfig = SpectralEncoderConfig()
    bottleneck: BottleneckConfig = RVQConfig()
    decoder: DecoderConfig = SpectralDecoderConfig()
    likelihood: LikelihoodConfig = GaussianConfig()
    condition_dim: int = 0
    label_dropout: float = 0.1

    def build(self, data: DataSpec) -> Autoencoder:
        if self.condition_dim and not data.labels:
            raise ConfigError("model.condition_dim is set, but the data has no labels: set it to 0.")
        bottleneck = self.bottleneck.build(dims=data.dims)
        likelihood = self.likelihood.build()
        embedding = None
        if self.condition_dim:
            embedding = LabelEmbedding(len(data.labels), self.condition_dim, self.label_dropout)
        return Autoencoder(
            self.encoder.build(data, bottleneck.channels_in), bottleneck,
            self.decoder.build(data, bottleneck.channels_out, likelihood.params_per_channel * data.channels,
                               self.condition_dim),
            likelihood, data, embedding)
