"""The one-level model of the family: an encoder, a bottleneck, a decoder and a likelihood, put together.

With an identity bottleneck it is an autoencoder, with a Gaussian one a VAE (Kingma & Welling 2014), with
codes a VQ-VAE (van den Oord 2017); told a label, its decoder makes it conditional (CVAE, Sohn 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.autoregressive import check_factorised
from audiovae.bottlenecks import BottleneckConfig, Gaussian, RVQConfig
from audiovae.bottlenecks.base import Bottleneck
from audiovae.bottlenecks.priors import PseudoInputs
from audiovae.bottlenecks.rvq import searched
from audiovae.config import Config, Whole
from audiovae.corruption import CorruptionConfig
from audiovae.decoders import Decoder, DecoderConfig, SpectralDecoderConfig, vector_decoder
from audiovae.encoders import Encoder, EncoderConfig, SpectralEncoderConfig, repeated, vector_encoder
from audiovae.errors import ConfigError, ShapeError
from audiovae.label_adversary import LabelAdversary, LabelAdversaryConfig
from audiovae.likelihoods import GaussianConfig, Likelihood, LikelihoodConfig
from audiovae.nn.field import Field, Part
from audiovae.reference import ReferenceConfig, ReferenceEncoder
from audiovae.shapes import CodeLevel, Condition, DataSpec, Latent, Output, fixed_size, grid_of, only_level
from audiovae.source_filter import SourceFilterDecoder


class ConditionEmbedding(nn.Module):
    """A condition as one vector: a learned one a label, plus a linear map of the embedding that comes with it.

    One more vector stands for "unknown", which training shows now and then in place of either.
    Shapes: label (B,) int64 with -1 for unknown, embedding (B, E') -> (B, E). None means unknown for all.

    >>> told = ConditionEmbedding(num_labels=10, embedding=0, dim=4)
    >>> told(Condition(torch.tensor([3, -1])), batch=2).shape
    torch.Size([2, 4])
    """

    def __init__(self, num_labels: int, embedding: int, dim: int, dropout: float = 0.0):
        super().__init__()
        self.table = nn.Embedding(num_labels + 1, dim)
        self.linear = nn.Linear(embedding, dim, bias=False) if embedding else None
        self.dropout = dropout

    def forward(self, condition: Condition | None, batch: int) -> Tensor:
        condition = condition or Condition()
        unknown, label = self.table.num_embeddings - 1, condition.label
        if label is None:
            label = torch.full((batch,), unknown, device=self.table.weight.device)
        dropped = torch.zeros_like(label, dtype=torch.bool)
        if self.training and self.dropout:
            dropped = torch.rand(label.shape, device=label.device) < self.dropout
        vector = self.table(torch.where((label < 0) | dropped, unknown, label))
        if self.linear is not None and condition.embedding is not None:
            vector = vector + self.linear(condition.embedding) * ~dropped[:, None]
        return vector


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
    embedding: ConditionEmbedding | ReferenceEncoder | None
    corruption: nn.Module | None
    label_adversary: LabelAdversary | None

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, decoder: Decoder, likelihood: Likelihood,
                 data: DataSpec, embedding: ConditionEmbedding | ReferenceEncoder | None = None,
                 told_encoder: bool = False, corruption: nn.Module | None = None, vector: bool = False,
                 label_adversary: LabelAdversary | None = None):
        super().__init__()
        if encoder.hop != decoder.hop and not vector:
            raise ConfigError(f"encoder and decoder disagree: hop {encoder.hop} and {decoder.hop}; make the "
                              "products of their strides (or mel_hop * frames and hop) equal.")
        if decoder.autoregressive:
            check_factorised(likelihood)
        self.encoder, self.bottleneck, self.decoder = encoder, bottleneck, decoder
        self.likelihood, self.embedding, self.data = likelihood, embedding, data
        self.told_encoder, self.corruption, self.vector = told_encoder, corruption, vector
        self.label_adversary = label_adversary
        self.pseudo_inputs = PseudoInputs(bottleneck.pseudo_inputs, data) if bottleneck.pseudo_inputs else None

    @property
    def hop(self) -> int:
        """Data steps per latent step, on every grid axis; of a vector latent, what sides are multiples of."""
        return lcm(self.encoder.hop, self.decoder.hop)

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The latent's grid for data of ``size``: (L,) or (H, W), all 1 where the latent is one vector."""
        return (1,) * len(size) if self.vector else grid_of("model", size, self.hop)

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """Data (B, C, *grid) through the model, with ``samples`` K latents drawn for each example.

        A told encoder also takes conditions of B K rows, K for each example in turn: one latent is drawn for each.
        """
        seen = self._seen(x, condition)
        vector = self._vector(condition, len(x))
        h = self.encoder(seen, vector if self.told_encoder else None)
        if samples > 1:
            h = h.repeat_interleave(samples, 0)
            vector = vector.repeat_interleave(samples, 0) if vector is not None else None
        latent = self.bottleneck(h, **self._components())
        if self.training and self.label_adversary is not None:
            nats, told = self.label_adversary(latent.z, repeated(_heard(condition, x), len(h)))
            latent.losses["label_adversary"], latent.stats["label_told"] = nats, told.detach()
        read = repeated(x, len(h)) if self.decoder.autoregressive else None
        return Output((latent,), self._decoded(latent.z, vector, condition, read))

    @property
    def bent(self) -> bool:
        """Whether a flow has bent the posterior, so that it is no diagonal normal."""
        return isinstance(self.bottleneck, Gaussian) and self.bottleneck.flow is not None

    def latent(self, x: Tensor, condition: Condition | None = None) -> Latent:
        """What the bottleneck makes of data (B, C, *grid)."""
        return self(x, condition).latents[0]

    def params(self, z: Tensor, condition: Condition | None = None, x: Tensor | None = None) -> Tensor:
        """The likelihood's parameters for a latent z (B, D, *grid): (B, P * C, *data grid).

        An autoregressive decoder also wants the data x (B, C, *data grid) that they are for.
        """
        return self._decoded(z, self._vector(condition, z.shape[0]), condition, x)

    def encode(self, x: Tensor, condition: Condition | None = None, stages: int | None = None, beam: int = 1) -> Tensor:
        """Data (B, C, *grid) to codes (B, Q, *grid / hop) int64, or a continuous bottleneck's parameters.

        ``stages`` asks a residual quantizer for its first codes only, ``beam`` how widely it searches for them; the
        code of a single codebook is the nearest anyway.
        """
        return self.quantize(self.hidden(x, condition), stages, beam)

    def hidden(self, x: Tensor, condition: Condition | None = None, lengths: Tensor | None = None) -> Tensor:
        """Data to h (B, D, *grid), which the bottleneck makes its codes of; ``lengths`` as :meth:`decode` takes it."""
        vector = self._vector(condition, x.shape[0]) if self.told_encoder else None
        return self.encoder(x, vector, **_padding(lengths))

    def quantize(self, h: Tensor, stages: int | None = None, beam: int = 1) -> Tensor:
        """The second half of :meth:`encode`: h (B, D, *grid) to codes (B, Q, *grid)."""
        return searched(self.bottleneck, h, stages, beam)

    def decode(self, codes: Tensor, condition: Condition | None = None,
               generator: torch.Generator | None = None, lengths: Tensor | None = None) -> Tensor:
        """What :meth:`encode` gave back to data, as :meth:`generate` does.

        ``lengths`` (B,) int64 are the latent steps of each of a batch padded along time: what lies beyond is held at
        zero in every layer, so that each gives what it would give alone.
        """
        return self.generate(self.bottleneck.decode(codes), condition, generator, lengths)

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        """The levels of its codes, level 0 the fastest: one of a discrete bottleneck, none of a continuous one."""
        return (CodeLevel(self.hop, self.bottleneck.num_codes),) if self.bottleneck.is_discrete else ()

    def encode_levels(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Data (B, C, *grid) to codes (B, Q, *grid / hop) int64 of every level; ConfigError of a continuous model."""
        if not self.bottleneck.is_discrete:
            raise ConfigError(f"{type(self.bottleneck).__name__} has no codes: take a bottleneck that has, as 'vq'.")
        return (self.encode(x, condition),)

    def decode_levels(self, codes: Sequence[Tensor | None], condition: Condition | None = None) -> Tensor:
        """What :meth:`encode_levels` gave back to data; ShapeError unless it has one entry, which is there."""
        return self.decode(only_level("Autoencoder", codes), condition)

    def encoder_parts(self) -> list[Part]:
        """:meth:`hidden` as functions one after the other, each with its field: what a stream runs through."""
        return self.encoder.parts(self._vector(None, 1) if self.told_encoder else None)  # type: ignore[union-attr]

    def decoder_parts(self, condition: Condition | None = None) -> list[Part]:
        """:meth:`decode` as functions one after the other, each with its field: what a stream runs through."""
        parts = self.decoder.parts(self._vector(condition, 1))  # type: ignore[union-attr]
        return [(self.bottleneck.decode, Field()), *parts, (self.likelihood.mean, Field())]

    def reconstruct(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Data (B, C, *grid) through both halves: what the model makes of it."""
        return self.decode(self.encode(x, condition), condition)

    def generate(self, z: Tensor, condition: Condition | None = None, generator: torch.Generator | None = None,
                 lengths: Tensor | None = None) -> Tensor:
        """Data (B, C, *data grid) from a latent: the likelihood's mean; drawn, where the decoder is autoregressive."""
        if self.decoder.autoregressive:
            return self.decoder.sample(z, self._vector(condition, z.shape[0]), self.likelihood, generator)  # type: ignore
        told = (condition,) if isinstance(self.decoder, SourceFilterDecoder) else ()
        return self.likelihood.mean(self.decoder(z, self._vector(condition, z.shape[0]), *told, **_padding(lengths)))

    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """New data (count, C, *size): z from the prior, its spread times ``temperature``, through the decoder.

        ``size`` may be left out where the data is of one size. ConfigError where the bottleneck has no prior.
        """
        z = self.sample_prior(count, temperature, generator, size)
        return self.generate(z, condition, generator)

    def sample_prior(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None,
                     size: tuple[int, ...] | None = None) -> Tensor:
        """z (count, D, *grid) from the bottleneck's prior, as :meth:`sample` takes it."""
        size = size or fixed_size("sample", self.data)
        z = self.bottleneck.sample_prior(count, self.grid(size), temperature, generator, **self._components())
        return z.to(next(self.parameters()).device)

    def _seen(self, x: Tensor, condition: Condition | None) -> Tensor:
        """What the encoder is given in place of data: corrupted in training, or as it would be said otherwise."""
        if not self.training:
            return x
        if condition is not None and condition.other is not None:
            x = self._disguised(x, condition.other)
        return self.corruption(x) if self.corruption is not None else x

    @torch.no_grad()
    def _disguised(self, x: Tensor, other: Condition) -> Tensor:
        """Data (B, C, *grid) whose first examples are as the model says them by ``other``."""
        assert other.prosody is not None
        count = len(other.prosody)
        return torch.cat([self.decode(self.encode(x[:count]), other), x[count:]])

    def _components(self) -> dict[str, Tensor]:
        """What a VampPrior is told: what the encoder makes of the pseudo-inputs, their condition unknown."""
        if self.pseudo_inputs is None:
            return {}
        inputs = self.pseudo_inputs()
        return {"components": self.encoder(inputs, self._vector(None, len(inputs)) if self.told_encoder else None)}

    def _vector(self, condition: Condition | None, batch: int) -> Tensor | None:
        return self.embedding(condition, batch) if self.embedding is not None else None

    def _decoded(self, z: Tensor, vector: Tensor | None, condition: Condition | None, x: Tensor | None) -> Tensor:
        if isinstance(self.decoder, SourceFilterDecoder):
            return self.decoder(z, vector, condition)
        if not self.decoder.autoregressive:
            return self.decoder(z, vector)
        if x is None:
            raise ShapeError("an autoregressive decoder wants the data that its parameters are for, got none: "
                             "pass x, or call generate.")
        return self.decoder(z, vector, x)


def _heard(condition: Condition | None, x: Tensor) -> Tensor:
    """The labels (B,) of what the encoder hears of x (B, ...), -1 where unknown; of the disguised, the others'."""
    unknown = torch.full((len(x),), -1, device=x.device)
    label = unknown if condition is None or condition.label is None else condition.label
    if condition is None or condition.other is None:
        return label
    assert condition.other.label is not None
    return torch.cat([condition.other.label, label[len(condition.other.label):]])


def _padding(lengths: Tensor | None) -> dict[str, Tensor]:
    """What only networks on a grid take, so that the others need not know of it."""
    return {} if lengths is None else {"lengths": lengths}


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """The parts of an autoencoder.

    latent : "grid", a latent every hop; "vector", one for the whole example, which is then of one size. A
        perceptron (kind "mlp") on either side means "vector".
    condition_dim : E of the condition's vector; 0 leaves the model without label or embedding.
    reference : an encoder of recordings that gives the condition's vector, in place of labels.
    condition_encoder : whether the encoder is told the condition as the decoder is.
    label_dropout : how often training hides the condition, so that the model can do without.
    corruption : noise on what the encoder reads in training (a denoising autoencoder).
    label_adversary : a classifier of the label from the latent, which the encoder is trained against, so that the
        latent tells less of it; ``objective.label_adversary`` is its weight.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    encoder: EncoderConfig = SpectralEncoderConfig()
    bottleneck: BottleneckConfig = RVQConfig()
    decoder: DecoderConfig = SpectralDecoderConfig()
    likelihood: LikelihoodConfig = GaussianConfig()
    latent: Literal["grid", "vector"] = "grid"
    condition_dim: Whole = 0
    reference: ReferenceConfig | None = None
    condition_encoder: bool = False
    label_dropout: float = 0.1
    corruption: CorruptionConfig | None = None
    label_adversary: LabelAdversaryConfig | None = None

    def build(self, data: DataSpec) -> Autoencoder:
        if self.reference and not self.condition_dim:
            raise ConfigError("model.reference gives a vector of model.condition_dim numbers: set that above 0.")
        if self.condition_dim and not (data.labels or data.embedding or self.reference):
            raise ConfigError("model.condition_dim is set, but the data has no labels: set it to 0.")
        if self.condition_encoder and not self.condition_dim:
            raise ConfigError("model.condition_encoder is set, but there is no condition: set model.condition_dim.")
        bottleneck = self.bottleneck.build(dims=data.dims)
        likelihood = self.likelihood.build(data)
        embedding = None
        if self.reference:
            embedding = self.reference.build(data, self.condition_dim)
        elif self.condition_dim:
            embedding = ConditionEmbedding(len(data.labels), data.embedding, self.condition_dim, self.label_dropout)
        vector = self.latent == "vector" or "mlp" in (self.encoder.kind, self.decoder.kind)
        told = self.condition_dim if self.condition_encoder else 0
        params = likelihood.params_per_channel * data.channels
        if vector:
            encoder = vector_encoder(self.encoder, data, bottleneck.channels_in, told)
            decoder = vector_decoder(self.decoder, data, bottleneck.channels_out, params, self.condition_dim)
        else:
            encoder = self.encoder.build(data, bottleneck.channels_in, told)
            decoder = self.decoder.build(data, bottleneck.channels_out, params, self.condition_dim)
        corruption = self.corruption.build() if self.corruption is not None else None
        adversary = self.label_adversary.build(data, bottleneck.channels_out) if self.label_adversary else None
        return Autoencoder(encoder, bottleneck, decoder, likelihood, data, embedding, self.condition_encoder,
                           corruption, vector, adversary)
