"""A voice changed by a filter on the recording itself: by what a model would make of two voices, not by its sound.

The decoder says for each frame how strong the target's voice is at every frequency, and how strong the source's own is;
the ratio filters the recording, whose pitch was moved before (Kobayashi 2014, direct waveform modification). So words
and clarity are those of the recording. What is then still unlike the target is filtered towards what the decoder makes
of it, band by band: its harmonics, its breath and their fine unsteadiness stay those of a real voice.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from audiovae.audio.features import overlap_add
from audiovae.audio.pitch import Prosody
from audiovae.audio.scroll import Scroll
from audiovae.source_filter import SourceFilterDecoder

Sayer = Callable[[Tensor, int, int], Tensor]  # latents (1 or 2, D, L), first and last of their frames, to samples (T,)
SMOOTH = 150.0  # Hz, of the bell that the filter is smoothed by: wider than harmonics, narrower than formants
NEAR = 80.0  # Hz, the same where the filter goes on to what the decoder says: at the same pitch, harmonics meet
LIMIT = math.log(10)  # the most that a filter changes, or loudness after it: 20 dB
FAINT = 1e-9  # power of a band that is compared as if it were so loud
EVEN = 4  # frames on both sides over which loudness is made that of the recording


class Speaker(NamedTuple):
    """A decoder, what it is told of a voice (E,), and the melody that the voice has."""

    decoder: SourceFilterDecoder
    vector: Tensor
    melody: Prosody


class DifferentialFilter:
    """From one voice to another, for latents and the frames of a recording that they are of.

    What was said is told twice: as the recording's own voice says it, and as the target is to say it.

    Parameters
    ----------
    own, other : the recording's own voice and the target's; None for a voice that cannot be told leaves that ratio out.
    level : of the recording's frames, (N,) dB.
    wave : the recording, its pitch moved from the first melody to the second.
    sample_rate : Hz.
    spoken : what the decoder makes of the target's latents; None stops at the ratio of the voices.
    likeness : how far from there to the spectrum and the loudness of that, from 0 to 1.

    >>> from audiovae.models.example import voice_model
    >>> model, wave = voice_model(), torch.randn(3200)
    >>> flat = Prosody(np.full(20, 100, np.float32), np.ones(20, bool), np.zeros(20, np.float32))
    >>> with torch.no_grad():
    ...     vector = model.embedding.vector(wave[None, None])[0]
    ...     voice = Speaker(model.decoder, vector, flat)
    ...     same = DifferentialFilter(voice, voice, flat.level, Scroll([wave], 0), 16000)
    ...     filtered = same(torch.randn(2, model.decoder.channels_in, 10), 0, 20)
    >>> filtered.shape
    torch.Size([3200])
    """

    halo = 2 * EVEN + 5  # frames wanted on both sides beside a decoder's: for loudness, and one filter after another

    def __init__(self, own: Speaker | None, other: Speaker, level: NDArray[np.float32], wave: Scroll, sample_rate: int,
                 spoken: Sayer | None = None, likeness: float = 1.0):
        self.voices, self.stft, self.wave = None if own is None else (own, other), other.decoder.stft, wave
        self.spoken, self.likeness = spoken, likeness
        self.loud = self._even(torch.from_numpy(10 ** (level / 10)))
        bins = torch.arange(self.stft.n_fft // 2 + 1) * (sample_rate / self.stft.n_fft)
        self.bell, self.near = _bells(bins / SMOOTH), _bells(bins / NEAR)

    def __call__(self, z: Tensor, first: int, last: int) -> Tensor:
        """Latents (2, D, L), the recording's own and the target's, and the frames they are of, ``first`` to ``last``,
        to that part of the recording, (T,)."""
        frames = slice(first, last)
        said = torch.from_numpy(self.wave(first * self.stft.hop, last * self.stft.hop))
        if self.voices is not None:
            own, other = (_envelope(voice, its, frames) for voice, its in zip(self.voices, z.split(1), strict=True))
            change = ((other - own) @ self.bell).clamp(-LIMIT, LIMIT).exp()
            said = self._as_loud(self._shaped(self.stft(said[None]) * change), self.loud[frames])
        return said if self.spoken is None else self._likened(said, self.spoken(z, first, last))

    def _likened(self, wave: Tensor, spoken: Tensor) -> Tensor:
        """A waveform (T,), its loudness and the bands of its spectra brought towards those of what was spoken."""
        spectra = self.stft(torch.stack([wave, spoken]))
        found, wanted = (spectra.abs().square() @ self.near + FAINT).log()
        change = (0.5 * self.likeness * (wanted - found)).clamp(-LIMIT, LIMIT).exp()
        own, its = self._loudness(wave), self._loudness(spoken)
        return self._as_loud(self._shaped(spectra[:1] * change), own * (its / own) ** self.likeness)

    def _shaped(self, spectrum: Tensor) -> Tensor:
        """(1, N, F) to samples (T,)."""
        return overlap_add(torch.fft.irfft(spectrum, self.stft.n_fft).transpose(1, 2), self.stft.hop)[0, 0]

    def _as_loud(self, wave: Tensor, wanted: Tensor) -> Tensor:
        """A waveform brought to a loudness (N,) of its frames, so far as the limit allows."""
        change = (wanted / self._loudness(wave)).sqrt().clamp(math.exp(-LIMIT), math.exp(LIMIT))
        return wave * F.interpolate(change[None, None], len(wave), mode="linear")[0, 0]

    def _loudness(self, wave: Tensor) -> Tensor:
        return self._even(wave.view(-1, self.stft.hop).square().mean(1))

    @staticmethod
    def _even(power: Tensor) -> Tensor:
        """Power (N,) of frames averaged with their neighbours'."""
        bell = torch.hann_window(2 * EVEN + 3)[1:2 * EVEN + 2]
        return F.conv1d(power[None, None], bell[None, None], padding=EVEN)[0, 0].clamp(min=1e-12)


def _bells(bins: Tensor) -> Tensor:
    """(F, F) weights of the bins that each is averaged with, of bins in widths of the bell."""
    bell = torch.exp(-2 * (bins[:, None] - bins) ** 2)
    return bell / bell.sum(0)


def _envelope(speaker: Speaker, z: Tensor, frames: slice) -> Tensor:
    """ln of the gain of pulses and noise together, (1, N, F)."""
    voice, _, breath = speaker.decoder.gains(z, speaker.vector[None], speaker.melody.tensor()[None, :, frames])
    return torch.hypot(voice, breath).clamp(min=1e-9).log()
