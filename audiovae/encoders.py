"""Encoders: data (B, C, *grid) to what a bottleneck wants, (B, channels_out, *grid / hop).

Each knows its ``hop`` (data steps per latent step, on every axis) and its receptive ``field``. Of a batch that is
padded along time, those on a grid take ``lengths`` (B,), in latent steps: each gets what it would get alone. An
encoder to one vector for the whole example gives a grid of 1 in every axis, and has no field: it reads all there is.
A conditional encoder, q(z|x, y), is told a vector (B, E) too; or (B K, E), K for each example in turn, and gives as
many rows.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal, cast

import torch
from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.features import LogMel
from audiovae.config import Config, Count, Weight, Whole
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.conv import Downsample, SameConv, is_causal, within
from audiovae.nn.convnext import ConvNeXtStack
from audiovae.nn.field import Field, Part, compose
from audiovae.nn.mlp import Activation, perceptron
from audiovae.nn.resnet import ResidualStack
from audiovae.shapes import DataSpec, check, check_grid, check_size, fixed_size, grid_of


class StridedEncoder(nn.Module):
    """Strided convolutions with residual stacks, for waveforms, spectrograms and images.

    Dhariwal 2020, section 3: each stride is followed by ``depth`` residual blocks of dilation growth^d.

    Parameters
    ----------
    channels, channels_out : C of the data, and what the bottleneck wants.
    strides : even strides, first to last; their product is the hop.
    width, depth, growth : channels, blocks per stride, base of the dilations.
    causal : whether a latent step reads nothing after its own hop.

    Raises ShapeError when a grid axis is not a multiple of the hop.

    >>> encoder = StridedEncoder(dims=1, channels=1, channels_out=64, strides=(4, 2), width=32)
    >>> encoder(torch.zeros(1, 1, 800)).shape, encoder.hop
    (torch.Size([1, 64, 100]), 8)
    """

    def __init__(self, dims: int, channels: int, channels_out: int, strides: tuple[int, ...], width: int,
                 depth: int = 2, growth: int = 3, hidden: int | None = None, condition_dim: int = 0,
                 causal: bool = False):
        super().__init__()
        self.dims, self.channels, self.hop = dims, channels, prod(strides)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [Downsample(dims, width if i else channels, width, stride, causal),
                       ResidualStack(dims, width, depth, growth, hidden, condition_dim=condition_dim, causal=causal)]
        layers.append(SameConv(dims, width, channels_out, kernel=3, causal=causal))
        self.layers = nn.Sequential(*layers)
        self.field: Field = compose(*(layer.field for layer in layers))  # type: ignore[misc]

    def forward(self, x: Tensor, vector: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        check("StridedEncoder", x, self.channels, self.dims)
        check_grid("StridedEncoder", x, self.hop)
        steps = x.shape[-1] // self.hop
        x = x if vector is None else repeated(x, len(vector))
        x = x if lengths is None else x * within(lengths, steps, x.shape[-1])[:, None]
        for layer in self.layers:
            if isinstance(layer, ResidualStack):
                x = layer(x, vector, None if lengths is None else within(lengths, steps, x.shape[-1])[:, None])
            else:
                x = layer(x)
        return x

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """What the encoder is made of, first to last: for a stream, which runs each over what is new to it."""
        parts: list[Part] = []
        for layer in self.layers:
            parts += layer.parts(vector) if isinstance(layer, ResidualStack) else [(layer, layer.field)]  # type: ignore
        return parts


class SpectralEncoder(nn.Module):
    """A waveform's log-mel frames, a few stacked to one latent step, through a ConvNeXt stack.

    Parameters
    ----------
    frames : log-mel frames to a latent step; hop = ``mel_hop`` * ``frames``.
    mean_seconds : if not 0, every mel band is read relative to its mean over this stretch around it, which
        takes the average timbre of voice and room off. A mean over a stretch, unlike one over the whole
        recording (instance normalisation), keeps the receptive field finite: chunked = whole.
    warp : in training each example's mel bands are moved up or down by up to this share, so that what the voice's
        formants tell of who speaks does not help.
    lookahead : latent steps that the stack may look ahead, its frames ending with their hop; 0 reads nothing
        after the step's own hop. None: as far ahead as behind, frames centred.

    Shapes: x (B, 1, T) -> (B, channels_out, T / hop).

    Raises ConfigError for a lookahead that the stack cannot have, or beside ``mean_seconds``.

    >>> encoder = SpectralEncoder(16000, channels_out=64, width=32, depth=1)
    >>> encoder(torch.zeros(1, 1, 16000)).shape, encoder.hop
    (torch.Size([1, 64, 50]), 320)
    """

    def __init__(self, sample_rate: int, channels_out: int, n_fft: int = 640, mel_hop: int = 160,
                 num_mels: int = 80, frames: int = 2, width: int = 256, depth: int = 4, kernel: int = 7,
                 mean_seconds: float = 0.0, condition_dim: int = 0, lookahead: int | None = None, warp: float = 0.0):
        super().__init__()
        if mean_seconds and lookahead is not None:
            raise ConfigError("SpectralEncoder takes a mean over seconds on both sides, or a lookahead, not both: "
                              "set mean_seconds to 0.")
        self.hop, self.frames, self.warp = mel_hop * frames, frames, warp
        self.mel = LogMel(sample_rate, n_fft=n_fft, hop=mel_hop, num_mels=num_mels,
                          ahead=None if lookahead is None else 0)
        self.reach = round(mean_seconds * sample_rate / mel_hop / 2)  # frames on either side
        self.into = nn.Linear(num_mels * frames, width)
        self.stack = ConvNeXtStack(1, width, depth, kernel=kernel, condition_dim=condition_dim, lookahead=lookahead)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels_out)
        self.front = compose(self.mel.field, Field.conv(2 * self.reach + 1, padding=self.reach),
                             Field.conv(frames, stride=frames))
        self.field = self.front.then(self.stack.field)

    def forward(self, x: Tensor, vector: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        check("SpectralEncoder", x, channels=1, dims=1)
        check_grid("SpectralEncoder", x, self.hop)
        steps = x.shape[-1] // self.hop
        mask = None if lengths is None else within(lengths, steps, steps)[..., None]
        h = self._into(x, lengths)
        return self._out(self.stack(h if vector is None else repeated(h, len(vector)), vector, mask))

    def parts(self, vector: Tensor | None = None) -> list[Part]:
        """What the encoder is made of, first to last: for a stream, which runs each over what is new to it."""
        return [(lambda x: self._into(x).transpose(1, 2), self.front), *self.stack.parts(vector),
                (lambda h: self._out(h.transpose(1, 2)), Field())]

    def _into(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Samples (B, 1, T) to what the stack reads, (B, L, width)."""
        mel = self.mel(x)
        if self.reach:
            size, steps = mel.shape[-1], x.shape[-1] // self.hop
            there = mel.new_ones(1, size) if lengths is None else within(lengths, steps, size)
            mel = mel - self._mean(mel * there[:, None]) / self._mean(there[:, None])
        h = mel.transpose(1, 2)
        if self.warp and self.training:
            h = h @ warping(1 + self.warp * (2 * torch.rand(len(h), device=h.device) - 1), h.shape[2])
        return self.into(h.reshape(h.shape[0], -1, self.into.in_features))

    def _out(self, h: Tensor) -> Tensor:
        return self.out(self.norm(h)).transpose(1, 2)

    def _mean(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, 2 * self.reach + 1, 1, self.reach)


def repeated(x: Tensor, rows: int) -> Tensor:
    """Each of the B rows of x so many times in turn that there are ``rows``; ShapeError if B is no part of it.

    >>> repeated(torch.tensor([1, 2]), 4)
    tensor([1, 1, 2, 2])
    """
    times, rest = divmod(rows, len(x))
    if rest or not times:
        raise ShapeError(f"an encoder of {len(x)} examples wants as many vectors for each, got {rows} in all: tell "
                         "each example the same number.")
    return x if times == 1 else x.repeat_interleave(times, 0)


def warping(factors: Tensor, bands: int) -> Tensor:
    """Matrices (B, M, M) that move what is in band m * factor of a row of M = ``bands`` to band m, between bands by
    straight lines.

    >>> torch.arange(4.0) @ warping(torch.tensor([0.5]), bands=4)
    tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
    """
    at = (factors[:, None] * torch.arange(bands, device=factors.device)).clamp(max=bands - 1)
    return (1 - (torch.arange(bands, device=factors.device)[:, None] - at[:, None]).abs()).clamp(min=0)


class MLPEncoder(nn.Module):
    """A perceptron that reads a whole example at once: (B, C, *size) -> (B, channels_out, 1) or (.., 1, 1).

    Parameters
    ----------
    channels, size, channels_out : C and the grid of the data, and what the bottleneck wants.
    widths : of the hidden layers, first to last; () is a linear map.
    condition_dim : E of the vector that it reads beside the data.

    >>> MLPEncoder(1, (8, 8), channels_out=4, widths=(32,))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 4, 1, 1])
    """

    hop = 1

    def __init__(self, channels: int, size: tuple[int, ...], channels_out: int, widths: tuple[int, ...] = (512, 512),
                 activation: Activation = "relu", condition_dim: int = 0):
        super().__init__()
        self.channels, self.size = channels, size
        self.layers = perceptron(channels * prod(size) + condition_dim, channels_out, widths, activation)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        check_size("MLPEncoder", x, self.channels, self.size)
        h = x.flatten(1)
        if vector is None:
            h = self.layers(h)
        else:  # the first layer is linear: what it makes of the data is the same for all that an example is told
            first = cast(nn.Linear, self.layers[0])
            of_data, of_vector = first.weight.split([h.shape[1], vector.shape[1]], dim=1)
            h = repeated(F.linear(h, of_data, first.bias), len(vector)) + F.linear(vector, of_vector)
            h = self.layers[1:](h)
        return h.view(len(h), -1, *[1] * len(self.size))


class VectorEncoder(nn.Module):
    """An encoder on a grid, then a linear map from all of its grid to one vector.

    Shapes: (B, C, *size) -> (B, channels_out, 1) or (B, channels_out, 1, 1).
    """

    def __init__(self, inner: "SpectralEncoder | StridedEncoder", channels: int, size: tuple[int, ...], width: int,
                 channels_out: int):
        super().__init__()
        self.inner, self.channels, self.size, self.hop = inner, channels, size, inner.hop
        self.out = nn.Linear(width * prod(grid_of("encoder", size, inner.hop)), channels_out)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        check_size("VectorEncoder", x, self.channels, self.size)
        h = F.relu(self.inner(x, vector))
        return self.out(h.flatten(1)).view(len(h), -1, *[1] * len(self.size))


@dataclass(frozen=True)
class StridedEncoderConfig(Config):
    kind: Literal["strided"] = "strided"
    strides: tuple[Count, ...] = (4, 4, 4)
    width: Count = 64
    depth: Count = 3
    growth: Count = 3
    hidden: Count | None = None
    lookahead: Whole | None = None

    def build(self, data: DataSpec, channels_out: int, condition_dim: int = 0) -> StridedEncoder:
        return StridedEncoder(data.dims, data.channels, channels_out, self.strides, self.width, self.depth,
                              self.growth, self.hidden, condition_dim, causal=is_causal(self.lookahead))


@dataclass(frozen=True)
class SpectralEncoderConfig(Config):
    kind: Literal["spectral"] = "spectral"
    n_fft: Count = 640
    mel_hop: Count = 160
    num_mels: Count = 80
    frames: Count = 2
    width: Count = 256
    depth: Count = 4
    kernel: Count = 7
    mean_seconds: Weight = 0.0
    lookahead: Whole | None = None
    warp: Weight = 0.0

    def build(self, data: DataSpec, channels_out: int, condition_dim: int = 0) -> SpectralEncoder:
        if data.sample_rate is None or data.channels != 1:
            raise ConfigError(f"encoder 'spectral' wants mono audio, got {data}: take encoder 'strided'.")
        return SpectralEncoder(data.sample_rate, channels_out, self.n_fft, self.mel_hop, self.num_mels,
                               self.frames, self.width, self.depth, self.kernel, self.mean_seconds, condition_dim,
                               self.lookahead, self.warp)


@dataclass(frozen=True)
class MLPEncoderConfig(Config):
    """A perceptron over the whole example; its latent is always one vector."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[Count, ...] = (512, 512)
    activation: Activation = "relu"

    def build(self, data: DataSpec, channels_out: int, condition_dim: int = 0) -> MLPEncoder:
        return MLPEncoder(data.channels, fixed_size("encoder 'mlp'", data), channels_out, self.widths,
                          self.activation, condition_dim)


def vector_encoder(config: "EncoderConfig", data: DataSpec, channels_out: int, condition_dim: int) -> "Encoder":
    """The encoder of ``config``, followed by a map to one vector if it does not give one itself."""
    if isinstance(config, MLPEncoderConfig):
        return config.build(data, channels_out, condition_dim)
    size = fixed_size("model.latent 'vector'", data)
    inner = config.build(data, config.width, condition_dim)
    return VectorEncoder(inner, data.channels, size, config.width, channels_out)


Encoder = SpectralEncoder | StridedEncoder | MLPEncoder | VectorEncoder
EncoderConfig = Annotated[SpectralEncoderConfig | StridedEncoderConfig | MLPEncoderConfig, Discriminator("kind")]
