"""Decoders: a latent (B, D, *grid) and a condition vector (B, E) to a likelihood's parameters.

Each is the mirror of an encoder of the same name and knows its ``hop`` and receptive ``field``; one from a
single vector, z (B, D, 1) or (B, D, 1, 1), fills the whole example and has no field. An ``autoregressive``
decoder is also given the data, x (B, C, *grid), of which it reads only what comes before each element.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.features import InverseSTFT
from audiovae.autoregressive import PixelCNNDecoder
from audiovae.config import Config, Count, Whole
from audiovae.errors import ConfigError
from audiovae.nn.conv import SameConv, Upsample, is_causal, within
from audiovae.nn.convnext import ConvNeXtStack
from audiovae.nn.field import Field, Part, compose
from audiovae.nn.mlp import Activation, perceptron
from audiovae.nn.pixelcnn import GatedPixelCNN
from audiovae.nn.resnet import ResidualStack
from audiovae.shapes import DataSpec, check, check_size, fixed_size, grid_of
from audiovae.source_filter import SourceFilterDecoder


class StridedDecoder(nn.Module):
    """Transposed convolutions with residual stacks, dilations reversed: the mirror of StridedEncoder.

    >>> decoder = StridedDecoder(dims=2, channels_in=8, channels_out=1, strides=(2, 2), width=16)
    >>> decoder(torch.zeros(3, 8, 2, 2)).shape
    torch.Size([3, 1, 8, 8])
    """

    autoregressive = False

    def __init__(self, dims: int, channels_in: int, channels_out: int, strides: tuple[int, ...], width: int,
                 depth: int = 2, growth: int = 3, hidden: int | None = None, condition_dim: int = 0,
                 causal: bool = False):
        super().__init__()
        self.dims, self.channels_in, self.hop = dims, channels_in, prod(strides)
        self.into = SameConv(dims, channels_in, width, kernel=3, causal=causal)
        self.stacks = nn.ModuleList(
            ResidualStack(dims, width, depth, growth, hidden, reverse=True, condition_dim=condition_dim, causal=causal)
            for _ in strides)
        last = len(strides) - 1
        self.ups = nn.ModuleList(Upsample(dims, width, width if i < last else channels_out, stride, causal)
                                 for i, stride in enumerate(strides))
        layers = [self.into, *(part for pair in zip(self.stacks, self.ups, strict=True) for part in pair)]
        self.field: Field = compose(*(layer.field for layer in layers))  # type: ignore[misc]

    def forward(self, z: Tensor, vector: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        check("StridedDecoder", z, self.channels_in, self.dims, letter="D")
        steps = z.shape[-1]
        h = self.into(z if lengths is None else z * within(lengths, steps, steps)[:, None])
        for stack, up in zip(self.stacks, self.ups, strict=True):
            h = up(stack(h, vector, None if lengths is None else within(lengths, steps, h.shape[-1])[:, None]))
        return h

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """What the decoder is made of, first to last: for a stream, which runs each over what is new to it."""
        return [(self.into, self.into.field),
                *(part for stack, up in zip(self.stacks, self.ups, strict=True)
                  for part in [*stack.parts(vector), (up, up.field)])]  # type: ignore[operator]


class MLPDecoder(nn.Module):
    """A perceptron from one vector to a whole example: the mirror of MLPEncoder.

    >>> MLPDecoder(channels_in=4, channels_out=1, size=(8, 8), widths=(32,))(torch.zeros(5, 4, 1, 1)).shape
    torch.Size([5, 1, 8, 8])
    """

    hop = 1
    autoregressive = False

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, ...], widths: tuple[int, ...] = (512, 512),
                 activation: Activation = "relu", condition_dim: int = 0):
        super().__init__()
        self.channels_in, self.size = channels_in, size
        self.layers = perceptron(channels_in + condition_dim, channels_out * prod(size), widths, activation)

    def forward(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        check_size("MLPDecoder", z, self.channels_in, (1,) * len(self.size))
        h = z.flatten(1) if vector is None else torch.cat([z.flatten(1), vector], dim=1)
        return self.layers(h).view(len(z), -1, *self.size)


class VectorDecoder(nn.Module):
    """A linear map from one vector to a grid, then a decoder on that grid: the mirror of VectorEncoder.

    Shapes: z (B, D, 1) or (B, D, 1, 1) -> (B, channels_out, *size).
    """

    autoregressive = False

    def __init__(self, inner: "SpectralDecoder | StridedDecoder", channels_in: int, size: tuple[int, ...], width: int):
        super().__init__()
        self.inner, self.channels_in, self.hop = inner, channels_in, inner.hop
        self.grid = grid_of("decoder", size, inner.hop)
        self.into = nn.Linear(channels_in, width * prod(self.grid))

    def forward(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        check_size("VectorDecoder", z, self.channels_in, (1,) * len(self.grid))
        h = F.relu(self.into(z.flatten(1)))
        return self.inner(h.view(len(z), -1, *self.grid), vector)


class SpectralDecoder(nn.Module):
    """A ConvNeXt stack at the latent's rate whose head predicts magnitude and phase (Siuzdak 2023, Vocos).

    A latent step gives ``frames`` inverse Fourier frames of n_fft samples, centred on their share of its hop,
    and overlap-added. Shapes: z (B, D, L), vector (B, E) or None -> (B, 1, L * hop).

    With a ``lookahead`` the stack reads that many latent steps ahead, 0 for none, and every frame ends with its
    share of the hop. The overlap, n_fft less that share, is what samples then wait for: a frame that began with
    it instead would have to foretell sound that no encoder has heard.

    Raises ConfigError when ``frames`` does not divide the hop, or for a lookahead that the stack cannot have.

    >>> SpectralDecoder(channels_in=64, width=32, depth=1)(torch.zeros(1, 64, 50)).shape
    torch.Size([1, 1, 16000])
    """

    autoregressive = False
    MAX_LOG_MAGNITUDE = 6.0  # e^6 in one bin is far above full scale; the bound keeps early training finite

    def __init__(self, channels_in: int, hop: int = 320, n_fft: int = 640, frames: int = 1, width: int = 256,
                 depth: int = 6, kernel: int = 7, condition_dim: int = 0, lookahead: int | None = None):
        super().__init__()
        if hop % frames:
            raise ConfigError(f"SpectralDecoder wants frames that divide its hop {hop}, got {frames}.")
        self.channels_in, self.hop, self.n_fft = channels_in, hop, n_fft
        self.into = nn.Linear(channels_in, width)
        self.stack = ConvNeXtStack(1, width, depth, kernel=kernel, condition_dim=condition_dim, lookahead=lookahead)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, frames * (n_fft + 2))
        self.inverse = InverseSTFT(n_fft, hop // frames, ahead=None if lookahead is None else 0)
        self.end = Field.transposed(frames, frames).then(self.inverse.field)
        self.field = self.stack.field.then(self.end)

    def forward(self, z: Tensor, vector: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        check("SpectralDecoder", z, self.channels_in, dims=1, letter="D")
        mask = None if lengths is None else within(lengths, z.shape[-1], z.shape[-1])[..., None]
        return self._out(self.stack(self._into(z), vector, mask), lengths)

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """What the decoder is made of, first to last: for a stream, which runs each over what is new to it."""
        return [(lambda z: self._into(z).transpose(1, 2), Field()), *self.stack.parts(vector),
                (lambda h: self._out(h.transpose(1, 2)), self.end)]

    def _into(self, z: Tensor) -> Tensor:
        return self.into(z.transpose(1, 2))

    def _out(self, h: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the stack gives, (B, L, width), to samples (B, 1, L * hop)."""
        steps, h = h.shape[1], self.head(self.norm(h))
        log_magnitude, phase = h.float().view(h.shape[0], -1, self.n_fft + 2).chunk(2, dim=-1)
        # a frame beyond the end would reach back over it
        mask = None if lengths is None else within(lengths, steps, phase.shape[1])
        return self.inverse(log_magnitude.clamp(max=self.MAX_LOG_MAGNITUDE).exp_(), phase, mask)


@dataclass(frozen=True)
class StridedDecoderConfig(Config):
    kind: Literal["strided"] = "strided"
    strides: tuple[Count, ...] = (4, 4, 4)
    width: Count = 64
    depth: Count = 3
    growth: Count = 3
    hidden: Count | None = None
    lookahead: Whole | None = None

    def build(self, data: DataSpec, channels_in: int, channels_out: int, condition_dim: int) -> StridedDecoder:
        return StridedDecoder(data.dims, channels_in, channels_out, self.strides, self.width, self.depth,
                              self.growth, self.hidden, condition_dim, causal=is_causal(self.lookahead))


@dataclass(frozen=True)
class SpectralDecoderConfig(Config):
    kind: Literal["spectral"] = "spectral"
    hop: Count = 320
    n_fft: Count = 640
    frames: Count = 1
    width: Count = 256
    depth: Count = 6
    kernel: Count = 7
    lookahead: Whole | None = None

    def build(self, data: DataSpec, channels_in: int, channels_out: int, condition_dim: int) -> SpectralDecoder:
        if data.sample_rate is None or channels_out != 1:
            raise ConfigError(f"decoder 'spectral' gives one waveform, but {channels_out} parameter channels "
                              f"are wanted for {data}: take a likelihood with one parameter, or 'strided'.")
        return SpectralDecoder(channels_in, self.hop, self.n_fft, self.frames, self.width, self.depth, self.kernel,
                               condition_dim, self.lookahead)


@dataclass(frozen=True)
class SourceFilterDecoderConfig(Config):
    """Pulses at the pitch and noise, filtered as the latent says; wants ``data.kind`` "voice"."""

    kind: Literal["source_filter"] = "source_filter"
    hop: Count = 320
    n_fft: Count = 640
    frames: Count = 2
    width: Count = 256
    depth: Count = 6
    kernel: Count = 7

    def build(self, data: DataSpec, channels_in: int, channels_out: int, condition_dim: int) -> SourceFilterDecoder:
        if data.prosody != self.hop // self.frames or channels_out != 1:
            raise ConfigError(f"decoder 'source_filter' gives one waveform and is told pitch and level every "
                              f"{self.hop // self.frames} samples, but the data has them every {data.prosody} (0: "
                              f"never), and {channels_out} channels are wanted: take data.kind 'voice' of that hop "
                              "and a likelihood with one parameter.")
        return SourceFilterDecoder(channels_in, self.hop, self.n_fft, self.frames, self.width, self.depth, self.kernel,
                                   condition_dim)


@dataclass(frozen=True)
class MLPDecoderConfig(Config):
    """A perceptron from one vector to the whole example."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[Count, ...] = (512, 512)
    activation: Activation = "relu"

    def build(self, data: DataSpec, channels_in: int, channels_out: int, condition_dim: int) -> MLPDecoder:
        return MLPDecoder(channels_in, channels_out, fixed_size("decoder 'mlp'", data), self.widths, self.activation,
                          condition_dim)


@dataclass(frozen=True)
class PixelCNNDecoderConfig(Config):
    """A gated PixelCNN told a map of ``map_dim`` channels, which the ``inner`` decoder draws from the latent.

    width, depth, kernel, pixel_dropout : of the PixelCNN; a small depth or kernel, or hidden pixels, leave it
        in need of the latent.
    """

    kind: Literal["pixelcnn"] = "pixelcnn"
    inner: Annotated[StridedDecoderConfig | MLPDecoderConfig, Discriminator("kind")] = StridedDecoderConfig()
    map_dim: Count = 16
    width: Count = 48
    depth: Count = 4
    kernel: Count = 3
    pixel_dropout: float = 0.0

    def build(self, data: DataSpec, channels_in: int, channels_out: int, condition_dim: int) -> PixelCNNDecoder:
        return self.around(self.inner.build(data, channels_in, self.map_dim, condition_dim), data, channels_out)

    def around(self, inner: nn.Module, data: DataSpec, channels_out: int) -> PixelCNNDecoder:
        """The decoder with ``inner`` already built; ConfigError where the data are no pictures."""
        if data.dims != 2:
            raise ConfigError(f"decoder 'pixelcnn' wants pictures (B, C, H, W), got {data}: take 'strided'.")
        network = GatedPixelCNN(data.channels, channels_out // data.channels, self.width, self.depth, self.kernel,
                                map_dim=self.map_dim, pixel_dropout=self.pixel_dropout)
        return PixelCNNDecoder(inner, network)


def vector_decoder(config: "DecoderConfig", data: DataSpec, channels_in: int, channels_out: int,
                   condition_dim: int) -> "Decoder":
    """The decoder of ``config``, after a map from one vector to its grid if it does not read one itself."""
    if isinstance(config, MLPDecoderConfig):
        return config.build(data, channels_in, channels_out, condition_dim)
    if isinstance(config, PixelCNNDecoderConfig):
        inner = vector_decoder(config.inner, data, channels_in, config.map_dim, condition_dim)
        return config.around(inner, data, channels_out)
    if isinstance(config, SourceFilterDecoderConfig):
        raise ConfigError("decoder 'source_filter' wants a latent on a grid: set model.latent to 'grid'.")
    size = fixed_size("model.latent 'vector'", data)
    return VectorDecoder(config.build(data, config.width, channels_out, condition_dim), channels_in, size, config.width)


Decoder = SpectralDecoder | SourceFilterDecoder | StridedDecoder | MLPDecoder | VectorDecoder | PixelCNNDecoder
DecoderConfig = Annotated[SpectralDecoderConfig | SourceFilterDecoderConfig | StridedDecoderConfig | MLPDecoderConfig
                          | PixelCNNDecoderConfig, Discriminator("kind")]
