"""Decoding as a voice speaks: a source of pulses and noise, and a filter that the latent shapes, frame by frame.

Where a decoder must invent a waveform, this one is given the pitch; what is left to it are two filters, so pitch can be
moved exactly and nothing of it need be in the latent (Fant 1960; Wang 2019, neural source-filter).
"""

import torch
from torch import Tensor, nn

from audiovae.audio.features import STFT, overlap_add, polar
from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.convnext import ConvNeXtStack
from audiovae.nn.field import Field
from audiovae.shapes import Condition, check


class SourceFilterDecoder(nn.Module):
    """A ConvNeXt stack whose head filters pulses and noise: a complex gain for each bin of the one, a real of the
    other.

    Parameters
    ----------
    hop, frames : samples to a latent step, and frames to it, by which the prosody is told as well.
    n_fft : samples of a frame.
    condition_dim : E of the vector that says whose voice it is.

    Shapes: z (B, D, L), vector (B, E), condition.prosody (B, 3, L * frames) as ``audio.pitch.told`` gives it,
    condition.excitation (B, 2, L * hop) as ``audio.excitation.Excitation`` does -> (B, 1, L * hop).

    Raises ConfigError when ``frames`` does not divide the hop, ShapeError without prosody and excitation of that size.

    >>> decoder = SourceFilterDecoder(channels_in=64, width=32, depth=1)
    >>> told = Condition(prosody=torch.zeros(1, 3, 100), excitation=torch.randn(1, 2, 16000))
    >>> decoder(torch.zeros(1, 64, 50), None, told).shape
    torch.Size([1, 1, 16000])
    """

    autoregressive = False
    MAX_LOG_GAIN = 6.0
    QUIET = -4.0  # ln gain to begin with: of speech, not of a source of variance 1

    def __init__(self, channels_in: int, hop: int = 320, n_fft: int = 640, frames: int = 2, width: int = 256,
                 depth: int = 6, kernel: int = 7, condition_dim: int = 0):
        super().__init__()
        if hop % frames:
            raise ConfigError(f"SourceFilterDecoder wants frames that divide its hop {hop}, got {frames}.")
        self.channels_in, self.hop, self.frames, self.n_fft = channels_in, hop, frames, n_fft
        self.stft = STFT(n_fft, hop // frames)
        self.into = nn.Linear(channels_in + 3 * frames, width)
        self.stack = ConvNeXtStack(1, width, depth, kernel=kernel, condition_dim=condition_dim)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, frames * 3 * (n_fft // 2 + 1))
        filtered = self.stft.field.then(Field.transposed(n_fft, hop // frames, self.stft.padding))
        stacked = self.stack.field.then(Field.transposed(frames, frames)).then(
            Field.transposed(n_fft, hop // frames, self.stft.padding))
        self.field = Field(stacked.stride, max(stacked.left, filtered.left / hop),
                           max(stacked.right, filtered.right / hop))

    def forward(self, z: Tensor, vector: Tensor | None, condition: Condition | None) -> Tensor:
        check("SourceFilterDecoder", z, self.channels_in, dims=1, letter="D")
        batch, _, steps = z.shape
        prosody, excitation = (None, None) if condition is None else (condition.prosody, condition.excitation)
        wanted = (batch, 3, steps * self.frames), (batch, 2, steps * self.hop)
        if prosody is None or excitation is None or (prosody.shape, excitation.shape) != wanted:
            raise ShapeError(f"SourceFilterDecoder wants prosody {wanted[0]} and excitation {wanted[1]}, got "
                             f"{None if prosody is None else tuple(prosody.shape)} and "
                             f"{None if excitation is None else tuple(excitation.shape)}.")
        voice, turn, breath = self.gains(z, vector, prosody)
        pulses, noise = self.stft(excitation.float()).unbind(1)
        spectrum = pulses * polar(voice, turn) + noise * breath
        frames = torch.fft.irfft(spectrum, self.n_fft)
        return overlap_add(frames.transpose(1, 2), self.stft.hop)

    def gains(self, z: Tensor, vector: Tensor | None, prosody: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The filters: gain and phase (radians) of the pulses, gain of the noise, (B, N, F) each for N frames."""
        batch, _, steps = z.shape
        melody = prosody.transpose(1, 2).reshape(batch, steps, 3 * self.frames)
        h = self.stack(self.into(torch.cat([z.transpose(1, 2), melody], dim=2)), vector)
        gains = self.head(self.norm(h)).float().view(batch, steps * self.frames, 3, -1)
        voice, turn, breath = gains.unbind(2)
        return self._gain(voice), turn, self._gain(breath)

    def _gain(self, log: Tensor) -> Tensor:
        return (log + self.QUIET).clamp(max=self.MAX_LOG_GAIN).exp()
