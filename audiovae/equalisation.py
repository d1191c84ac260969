"""The long-term spectrum of a voice, and a decoder brought to it: what a reference encoder misses of a timbre is added.

Both are means over loud frames, so what is said averages out. A source-filter decoder takes the difference into the
bias of its filters, which costs nothing and holds wherever the recording is cut.
"""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.audio.features import STFT
from audiovae.source_filter import SourceFilterDecoder

LOUD = 30.0  # dB under the loudest frame: softer ones are pauses
SMOOTH = 150.0  # Hz on either side that a band of the difference is averaged over: formants yes, harmonics no
MOST = 2.3  # ln gain, 20 dB, that is added or taken at most
DOUBT = 50.0  # frames of speech for which half of the difference is believed


def is_loud(level: Tensor) -> Tensor:
    """Which frames, by their levels (N,) in dB, are no pauses.

    >>> is_loud(torch.tensor([-20.0, -60.0, -30.0])).tolist()
    [True, False, True]
    """
    return level > level.max() - LOUD


def long_term_spectrum(wave: Tensor, stft: STFT) -> tuple[Tensor, int]:
    """Mean ln power (F,) of a waveform's (T,) loud frames, and how many they are.

    >>> spectrum, frames = long_term_spectrum(torch.randn(16000), STFT(640, 160))
    >>> spectrum.shape, frames
    (torch.Size([321]), 100)
    """
    power = stft.power(wave)
    level = 10 * power.sum(1).clamp(min=1e-12).log10()
    loud = power[is_loud(level)]
    return (loud + 1e-8).log().mean(0), len(loud)


def equalised(decoder: SourceFilterDecoder, said: Tensor, wanted: Tensor, sample_rate: int) -> SourceFilterDecoder:
    """A copy of a decoder that spoke ``said`` (T,), brought to the long-term spectrum ``wanted`` (F,)."""
    found, frames = long_term_spectrum(said, decoder.stft)
    width = round(SMOOTH * decoder.n_fft / sample_rate)
    window = torch.hann_window(2 * width + 3)[1:-1]
    padded = F.pad((wanted - found)[None, None] / 2, (width, width), mode="replicate")
    change = F.conv1d(padded, (window / window.sum())[None, None])[0, 0].clamp(-MOST, MOST)
    decoder = copy.deepcopy(decoder)
    bias = decoder.head.bias.data.view(decoder.frames, 3, -1)
    bias[:, [0, 2]] += change * (frames / (frames + DOUBT))
    return decoder
