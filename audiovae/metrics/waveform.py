"""Distances between a waveform and its reconstruction, one number for each recording.

All take (estimate, reference), both (T,) or (B, T) of one length and aligned, and give () or (B,).
"""

import math

import torch
from torch import Tensor

from audiovae.audio.features import STFT, LogMel
from audiovae.errors import AudioError, ShapeError

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window; Yamamoto 2020, table 2


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB; higher is better, no scale or offset changes it.

    10 log10(‖a s‖² / ‖a s - ŝ‖²), a = <ŝ, s> / ‖s‖², both without their means (Le Roux et al. 2019, eq. 5).
    Infinite for a perfect estimate, minus infinite for one without any of the reference in it.

    Raises ShapeError on two shapes or on samples that are not finite, AudioError on a silent reference.

    >>> s = torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> n = torch.tensor([1.0, 1.0, -1.0, -1.0])            # as strong as s, and at a right angle to it
    >>> si_sdr(3 * (s + 0.1 * n), s)
    tensor(20.0000, dtype=torch.float64)
    """
    check_pair("si_sdr", estimate, reference)
    estimate, reference = (x.double() - x.double().mean(-1, keepdim=True) for x in (estimate, reference))
    energy = reference.square().sum(-1, keepdim=True)
    if (energy == 0).any():
        raise AudioError("si_sdr wants a reference with sound in it, got a silent one: leave it out.")
    target = (estimate * reference).sum(-1, keepdim=True) / energy * reference
    return 10 * (target.square().sum(-1) / (estimate - target).square().sum(-1)).log10()


def log_mel_distance(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of log-mel power in dB, over 80 bands and frames of about 64 ms.

    Power below -60 dB counts as -60 dB, so silence is compared with silence and not with rounding.

    >>> log_mel_distance(torch.ones(16000), torch.ones(16000), sample_rate=16000)
    tensor(0.)
    """
    check_pair("log_mel_distance", estimate, reference)
    n_fft = 2 ** round(math.log2(0.064 * sample_rate))
    mel = LogMel(sample_rate, n_fft, n_fft // 4, num_mels=80, scale=10 / math.log(10), offset=0.0, floor=1e-6)
    mel = mel.to(reference.device)
    return (mel(_channel(estimate)) - mel(_channel(reference))).abs().mean((-2, -1)).view(reference.shape[:-1])


def stft_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """Multi-resolution STFT distance, no unit: spectral convergence plus mean |Δ ln magnitude|.

    Averaged over three resolutions (Yamamoto et al. 2020, eq. 4-6); power below 1e-7 counts as 1e-7.

    >>> stft_distance(torch.ones(4000), torch.ones(4000))
    tensor(0.)
    """
    check_pair("stft_distance", estimate, reference)
    total = torch.zeros(reference.shape[:-1], device=reference.device)
    for n_fft, hop, size in RESOLUTIONS:
        stft = STFT(n_fft, hop, size).to(reference.device)
        x, y = (stft.power(wave.float()).clamp(min=1e-7).sqrt() for wave in (estimate, reference))
        total += _norm(x - y) / _norm(y) + (x.log() - y.log()).abs().mean((-2, -1))
    return total / len(RESOLUTIONS)


def spectral_convergence(estimate: Tensor, reference: Tensor) -> Tensor:
    """Spectral convergence in dB, 20 log10(‖|X̂| - |X|‖ / ‖|X|‖) over the whole recording; lower is better.

    The transform of Jukebox (Dhariwal et al. 2020): n_fft 2048, hop 256, window 1536. A mean over recordings
    weighs each alike whatever its length. Raises AudioError on a silent reference.

    >>> noise = torch.randn(8000)
    >>> spectral_convergence(0.9 * noise, noise)             # a tenth of the magnitude is missing
    tensor(-20.0000)
    """
    check_pair("spectral_convergence", estimate, reference)
    missed, whole = spectral_energies(estimate, reference)
    if (whole == 0).any():
        raise AudioError("spectral_convergence wants a reference with sound in it, got a silent one: leave it out.")
    return 10 * (missed / whole).log10()


def spectral_energies(estimate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """‖|X̂| - |X|‖² and ‖|X|‖² of :func:`spectral_convergence`, () or (B,).

    Added up over recordings before they are divided, they give that of a whole set, as Jukebox reports it, which no
    mean of decibels does.

    >>> noise = torch.randn(8000)
    >>> missed, whole = spectral_energies(0.9 * noise, noise)
    >>> f"{missed / whole:.2f}"
    '0.01'
    """
    check_pair("spectral_energies", estimate, reference)
    stft = STFT(2048, 256, 1536).to(reference.device)
    x, y = (stft.power(wave.float()).sqrt() for wave in (estimate, reference))
    return _norm(x - y).square(), _norm(y).square()


def check_pair(owner: str, estimate: Tensor, reference: Tensor) -> None:
    """Raise ShapeError unless both are finite (T,) or (B, T) of one shape, T > 0."""
    if estimate.shape != reference.shape or reference.ndim not in (1, 2) or not reference.shape[-1]:
        raise ShapeError(f"{owner} wants two waveforms (T,) or (B, T) of one shape, got {tuple(estimate.shape)} and "
                         f"{tuple(reference.shape)}: crop both to one length.")
    for name, wave in (("an estimate", estimate), ("a reference", reference)):
        if not wave.is_floating_point() or not torch.isfinite(wave).all():
            raise ShapeError(f"{owner} wants finite floating point samples, got {name} of {wave.dtype} with "
                             f"{int((~torch.isfinite(wave)).sum())} that are not finite.")


def _channel(wave: Tensor) -> Tensor:
    return wave.float().reshape(-1, 1, wave.shape[-1])


def _norm(spectrum: Tensor) -> Tensor:
    return spectrum.square().sum((-2, -1)).sqrt()
