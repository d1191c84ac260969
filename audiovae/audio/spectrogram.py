"""Log-mel pictures of sound, and sound from them.

A picture has values in [0, 1], 0 for digital silence, with the low bands first. Long sound is a row of pictures of
one length, each seeing beyond its edges what is there, so that they join without a seam.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.audio.features import LogMel, before, mel_bands
from audiovae.errors import ConfigError, ShapeError
from audiovae.shapes import MelSpec, check

FLOOR = 1e-6
SPREADING, PHASING, MOMENTUM = 30, 32, 0.99  # iterations of each half of the inversion; of Griffin-Lim's memory


def unit_log_mel(spec: MelSpec) -> LogMel:
    """Log-mel frames scaled so that digital silence is 0 and a tone of full scale, at its band's peak, about 1.

    >>> mel = unit_log_mel(MelSpec(16000, n_fft=1024, hop=256, num_mels=64))
    >>> float(mel(torch.zeros(1, 1, 2560)).abs().max()) < 1e-6
    True
    """
    scale = 1 / _nats(spec)
    return LogMel(spec.sample_rate, spec.n_fft, spec.hop, spec.num_mels, scale=scale, offset=-scale * math.log(FLOOR),
                  floor=FLOOR)


def decibels(spec: MelSpec) -> float:
    """dB of power from 0 to 1 of a picture.

    >>> round(decibels(MelSpec(16000, n_fft=1024, hop=256, num_mels=64)), 1)
    109.9
    """
    return 10 * _nats(spec) / math.log(10)


def margin(spec: MelSpec) -> int:
    """Frames that a picture must have beside it for its own to see all they reach.

    >>> margin(MelSpec(16000, n_fft=1024, hop=256, num_mels=64))
    2
    """
    return -(-before("a log-mel picture", spec.n_fft, spec.hop) // spec.hop)


def pictures_of(wave: Tensor, spec: MelSpec, frames: int) -> Tensor:
    """A waveform (1, T) as pictures (N, 1, M, frames) in its order, the last one filled up with silence.

    >>> pictures_of(torch.zeros(1, 5000), MelSpec(16000, n_fft=512, hop=128, num_mels=32), frames=16).shape
    torch.Size([3, 1, 32, 16])
    """
    whole = F.pad(wave, (0, -wave.shape[-1] % (frames * spec.hop)))
    mel = unit_log_mel(spec)(whole[None]).clamp(0, 1)
    return mel.unfold(2, frames, frames).permute(2, 0, 1, 3).contiguous()


def joined(pictures: Tensor) -> Tensor:
    """Pictures (N, 1, M, L) that follow each other as one, (1, 1, M, N L): what :func:`pictures_of` cut."""
    return torch.cat(list(pictures), dim=-1)[None]


def sound_of(pictures: Tensor, spec: MelSpec, seed: int = 0) -> Tensor:
    """Sound whose log-mel pictures are nearly these: (B, 1, M, L) -> (B, 1, L hop), each picture by itself.

    Two things are not in a picture. How the power of a band is shared among its bins: that is found by the updates of
    Lee & Seung (2001, eq. 5), which keep it positive and err by a share of it. And phase: fast Griffin-Lim (Perraudin
    2013) seeks one from a random start, and what it does not find is heard as a metallic blur of what is not a tone,
    and as attacks that are smeared.

    The same for a seed. Raises ShapeError on pictures of other bands, ConfigError where frames overlap by less than
    half.

    >>> spec = MelSpec(16000, n_fft=512, hop=128, num_mels=32)
    >>> sound_of(torch.rand(2, 1, 32, 10), spec).shape
    torch.Size([2, 1, 1280])
    """
    from torchaudio.functional import griffinlim  # takes a second to import

    check("sound_of", pictures, channels=1, dims=2)
    if pictures.shape[2] != spec.num_mels:
        raise ShapeError(f"sound_of wants pictures of {spec.num_mels} bands, got {tuple(pictures.shape)}.")
    if spec.n_fft < 2 * spec.hop:
        raise ConfigError(f"sound of spectrograms wants frames of at least twice the hop {spec.hop}, got {spec.n_fft} "
                          "samples.")
    mel = pictures[:, 0].float().clamp(0, 1).mul(_nats(spec)).exp().sub(1).mul(FLOOR).clamp(min=0)
    power = _spread(mel.transpose(1, 2), spec).transpose(1, 2)
    aside = -(-spec.n_fft // (2 * spec.hop)) + 1  # torch's frames are centred on multiples of the hop
    start = aside * spec.hop - spec.n_fft // 2 + before("sound_of", spec.n_fft, spec.hop)
    length = pictures.shape[3] * spec.hop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wave = griffinlim(F.pad(power, (aside, aside), mode="replicate"), torch.hann_window(spec.n_fft), spec.n_fft,
                          spec.hop, spec.n_fft, power=2.0, n_iter=PHASING, momentum=MOMENTUM, length=None,
                          rand_init=True)
    return wave[:, None, start:start + length]


def _spread(mel: Tensor, spec: MelSpec) -> Tensor:
    """The power of bands (B, L, M) as that of bins (B, L, F), whose bands it is again as nearly as can be."""
    bands = _bands(spec)
    reach = bands.sum(1)
    power = (mel / bands.sum(0)) @ bands.T / reach.clamp(min=1e-9)
    for _ in range(SPREADING):
        power = power * ((mel / (power @ bands).clamp(min=1e-20)) @ bands.T / reach.clamp(min=1e-9))
    return power


@lru_cache(maxsize=4)
def _bands(spec: MelSpec) -> Tensor:
    return mel_bands(spec.sample_rate, spec.n_fft, spec.num_mels, 0.0, spec.sample_rate / 2)


def _nats(spec: MelSpec) -> float:
    """Nats of power from 0 to 1."""
    tone = 1.5 * (spec.n_fft / 4) ** 2  # power of the Hann window's three bins around a sine of amplitude 1
    return math.log(tone / FLOOR)
