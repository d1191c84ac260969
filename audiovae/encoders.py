"""Encoders: data (B, C, *grid) to what a bottleneck wants, (B, channels_out, *grid / hop).

Each knows its ``hop`` (data steps per latent step, on every axis) and its receptive ``field``.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

from pydantic import Discriminator
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.features import LogMel
from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.nn.conv import Downsample, SameConv
from audiovae.nn.convnext import ConvNeXtStack
from audiovae.nn.field import Field, compose
from audiovae.nn.resnet import ResidualStack
from audiovae.shapes import DataSpec, check, check_grid


class StridedEncoder(nn.Module):
    """Strided convolutions with residual stacks, for waveforms, spectrograms and images.

    Dhariwal 2020, section 3: each stride is followed by ``depth`` residual blocks of dilation growth^d.

    Parameters
    ----------
    channels, channels_out : C of the data, and what the bottleneck wants.
    strides : even strides, first to last; their product is the hop.
    width, depth, growth : channels, blocks per stride, base of the dilations.

    Raises ShapeError when a grid axis is not a multiple of the hop.

    >>> encoder = StridedEncoder(dims=1, channels=1, channels_out=64, strides=(4, 2), width=32)
    >>> encoder(torch.zeros(1, 1, 800)).shape, encoder.hop
    (torch.Size([1, 64, 100]), 8)
    """

    def __init__(self, dims: int, channels: int, channels_out: int, strides: tuple[int, ...], width: int,
                 depth: int = 2, growth: int = 3, hidden: int | None = None):
        super().__init__()
        self.dims, self.channels, self.hop = dims, channels, prod(strides)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [Downsample(dims, width if i else channels, width, stride),
                       ResidualStack(dims, width, depth, growth, hidden)]
        layers.append(SameConv(dims, width, channels_out, kernel=3))
        self.layers = nn.Sequential(*layers)
        self.field: Field = compose(*(layer.field for layer in layers))  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        check("StridedEncoder", x, self.channels, self.dims)
        check_grid("StridedEncoder", x, self.hop)
        return self.layers(x)


class SpectralEncoder(nn.Module):
    """A waveform's log-mel frames, a few stacked to one latent step, through a ConvNeXt stack.

    Parameters
    ----------
    frames : log-mel frames to a latent step; hop = ``mel_hop`` * ``frames``.
    mean_seconds : if not 0, every mel band is read relative to its mean over this stretch around it, which
        takes the average timbre of voice and room off. A mean over a stretch, unlike one over the whole
        recording (instance normalisation), keeps the receptive field finite: chunked = whole.

    Shapes: x (B, 1, T) -> (B, channels_out, T / hop).

    >>> encoder = SpectralEncoder(16000, channels_out=64, width=32, depth=1)
    >>> encoder(torch.zeros(1, 1, 16000)).shape, encoder.hop
    (torch.Size([1, 64, 50]), 320)
    """

    def __init__(self, sample_rate: int, channels_out: int, n_fft: int = 640, mel_hop: int = 160,
                 num_mels: int = 80, frames: int = 2, width: int = 256, depth: int = 4, kernel: int = 7,
                 mean_seconds: float = 0.0):
        super().__init__()
        self.hop, self.frames = mel_hop * frames, frames
        self.mel = LogMel(sample_rate, n_fft=n_fft, hop=mel_hop, num_mels=num_mels)
        self.reach = round(mean_seconds * sample_rate / mel_hop / 2)  # frames on either side
        self.into = nn.Linear(num_mels * frames, width)
        self.stack = ConvNeXtStack(1, width, depth, kernel=kernel)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels_out)
        self.field = compose(self.mel.field, Field.conv(2 * self.reach + 1, padding=self.reach),
                             Field.conv(frames, stride=frames), self.stack.field)

    def forward(self, x: Tensor) -> Tensor:
        check("SpectralEncoder", x, channels=1, dims=1)
        check_grid("SpectralEncoder", x, self.hop)
        mel = self.mel(x)
        if self.reach:
            mel = mel - F.avg_pool1d(mel, 2 * self.reach + 1, 1, self.reach, count_include_pad=False)
        h = mel.transpose(1, 2)
        h = self.into(h.reshape(len(h), -1, self.into.in_features))
        return self.out(self.norm(self.stack(h))).transpose(1, 2)


@dataclass(frozen=True)
class StridedEncoderConfig(Config):
    kind: Literal["strided"] = "strided"
    strides: tuple[int, ...] = (4, 4, 4)
    width: int = 64
    depth: int = 3
    growth: int = 3

    def build(self, data: DataSpec, channels_out: int) -> StridedEncoder:
        return StridedEncoder(data.dims, data.channels, channels_out, self.strides, self.width, self.depth,
                              self.growth)


@dataclass(frozen=True)
class SpectralEncoderConfig(Config):
    kind: Literal["spectral"] = "spectral"
    n_fft: int = 640
    mel_hop: int = 160
    num_mels: int = 80
    frames: int = 2
    width: int = 256
    depth: int = 4
    kernel: int = 7
    mean_seconds: float = 0.0

    def build(self, data: DataSpec, channels_out: int) -> SpectralEncoder:
        if data.sample_rate is None or data.channels != 1:
            raise ConfigError(f"encoder 'spectral' wants mono audio, got {data}: take encoder 'strided'.")
        return SpectralEncoder(data.sample_rate, channels_out, self.n_fft, self.mel_hop, self.num_mels,
                               self.frames, self.width, self.depth, self.kernel, self.mean_seconds)


Encoder = SpectralEncoder | StridedEncoder
EncoderConfig = Annotated[SpectralEncoderConfig | StridedEncoderConfig, Discriminator("kind")]
