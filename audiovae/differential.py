"""A voice changed by a filter on the recording itself: by what a model would make of two voices, not by its sound.

The decoder says for each frame how strong the target's voice is at every frequency, and how strong the source's own is;
the ratio filters the recording, whose pitch was moved before (Kobayashi 2014, direct waveform modification). So words
and clarity are those of the recording.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.audio.features import overlap_add
from audiovae.audio.pitch import Prosody
from audiovae.audio.scroll import Scroll
from audiovae.source_filter import SourceFilterDecoder

SMOOTH = 150.0  # Hz, of the bell that the filter is smoothed by: wider than harmonics, narrower than formants
LIMIT = math.log(10)  # the most that a filter changes, or loudness after it: 20 dB
EVEN = 4  # frames on both sides over which loudness is made that of the recording


class DifferentialFilter:
    """From one voice to another, for latents and the frames of a recording that they are of.

    What was said is told twice: as the recording's own voice says it, and as the target is to say it.

    Parameters
    ----------
    decoders, vectors, melodies : of the recording's own voice and of the target's: the decoder, what it is told of the
        voice (E,), and the melody.
    wave : the recording, its pitch moved from the first melody to the second.
    sample_rate : Hz.

    >>> import numpy as np
    >>> from audiovae.models.example import voice_model
    >>> model, wave = voice_model(), torch.randn(3200)
    >>> flat = Prosody(np.full(20, 100, np.float32), np.ones(20, bool), np.zeros(20, np.float32))
    >>> with torch.no_grad():
    ...     vector = model.embedding.vector(wave[None, None])[0]
    ...     same = DifferentialFilter((model.decoder,) * 2, (vector,) * 2, (flat,) * 2, Scroll([wave], 0), 16000)
    ...     filtered = same(torch.randn(2, model.decoder.channels_in, 10), 0, 20)
    >>> filtered.shape
    torch.Size([3200])
    """

    halo = EVEN + 1  # frames that are wanted on both sides beside what a decoder wants

    def __init__(self, decoders: tuple[SourceFilterDecoder, SourceFilterDecoder], vectors: tuple[Tensor, Tensor],
                 melodies: tuple[Prosody, Prosody], wave: Scroll, sample_rate: int):
        self.decoders, self.vectors, self.wave = decoders, vectors, wave
        self.melodies = melodies[0].tensor()[None], melodies[1].tensor()[None]
        self.loud = self._even(torch.from_numpy(10 ** (melodies[0].level / 10)))
        bins = torch.arange(decoders[0].n_fft // 2 + 1) * (sample_rate / decoders[0].n_fft / SMOOTH)
        bell = torch.exp(-2 * (bins[:, None] - bins) ** 2)
        self.bell = bell / bell.sum(0)

    def __call__(self, z: Tensor, first: int, last: int) -> Tensor:
        """Latents (2, D, L), the recording's own and the target's, and the frames they are of, ``first`` to ``last``,
        to that part of the recording, (T,)."""
        stft, frames = self.decoders[0].stft, slice(first, last)
        own, other = (_envelope(decoder, its, vector, melody[..., frames]) for decoder, its, vector, melody in
                      zip(self.decoders, z.split(1), self.vectors, self.melodies, strict=True))
        change = ((other - own) @ self.bell).clamp(-LIMIT, LIMIT).exp()
        wave = torch.from_numpy(self.wave(first * stft.hop, last * stft.hop))
        changed = torch.fft.irfft(stft(wave[None]) * change, stft.n_fft)
        said = overlap_add(changed.transpose(1, 2), stft.hop)[0, 0]
        loud = self._even(said.view(-1, stft.hop).square().mean(1))
        even = (self.loud[frames] / loud.clamp(min=1e-12)).sqrt().clamp(math.exp(-LIMIT), math.exp(LIMIT))
        return said * F.interpolate(even[None, None], len(said), mode="linear")[0, 0]

    @staticmethod
    def _even(power: Tensor) -> Tensor:
        bell = torch.hann_window(2 * EVEN + 3)[1:2 * EVEN + 2]
        return F.conv1d(power[None, None], bell[None, None], padding=EVEN)[0, 0]


def _envelope(decoder: SourceFilterDecoder, z: Tensor, vector: Tensor, prosody: Tensor) -> Tensor:
    """ln of the gain of pulses and noise together, (1, N, F)."""
    voice, _, breath = decoder.gains(z, vector[None], prosody)
    return torch.hypot(voice, breath).clamp(min=1e-9).log()
