"""Models of a listener for speech, PESQ and STOI; both come with ``pip install 'audiovae[metrics]'``."""

import math
import warnings

import torch
from torch import Tensor

from audiovae.audio.resample import resample
from audiovae.errors import AudioError
from audiovae.metrics.extra import extra
from audiovae.metrics.waveform import check_pair

PESQ_RATES = {"wb": 16000, "nb": 8000}  # Hz, of the wide-band and the narrow-band form


def pesq_wb(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Wide-band PESQ as MOS-LQO, 1.02 to 4.64, higher is better (ITU-T P.862.2); resampled to 16 kHz.

    Shapes: (T,) or (B, T) -> () or (B,).

    Raises
    ------
    ExtraError
        Without the package ``pesq``.
    AudioError
        On a recording it cannot judge: shorter than a quarter of a second, or without speech.

    >>> import math
    >>> time = torch.arange(16000) / 16000
    >>> speech = (2 * math.pi * 150 * time).sin() * (2 * math.pi * 3 * time).sin().clamp(min=0)
    >>> bool(pesq_wb(speech, speech, 16000) > 4.6)
    True
    """
    return _pesq("wb", estimate, reference, sample_rate)


def pesq_nb(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Narrow-band PESQ as MOS-LQO, 1.02 to 4.55, for telephone speech (ITU-T P.862.1); resampled to 8 kHz.

    What it hears ends at 4 kHz: not to be compared with the wide-band form. Shapes and errors are those of
    :func:`pesq_wb`.

    >>> time = torch.arange(8000) / 8000
    >>> speech = (6.2832 * 150 * time).sin() * (6.2832 * 3 * time).sin().clamp(min=0)
    >>> bool(pesq_nb(speech, speech, 8000) > 4.5)
    True
    """
    return _pesq("nb", estimate, reference, sample_rate)


def _pesq(band: str, estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    owner, rate = f"pesq_{band}", PESQ_RATES[band]
    check_pair(owner, estimate, reference)
    pesq = extra("pesq", "metrics")
    scores = []
    for x, y in _pairs(owner, estimate, reference, sample_rate, rate):
        try:
            scores.append(pesq.pesq(rate, y, x, band))
        except (pesq.PesqError, ValueError) as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            raise AudioError(f"{owner} cannot judge this recording of {len(y) / rate:.2f} s "
                             f"({' '.join(reason.split())}): leave it out.") from None
        if not math.isfinite(scores[-1]):
            raise AudioError(f"{owner} cannot judge this recording (its score is not a number): leave it out.")
    return torch.tensor(scores, dtype=torch.float64).view(reference.shape[:-1])


def stoi(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """Short-time objective intelligibility, about 0 to 1, higher is better (Taal et al. 2011); not extended.

    Shapes: (T,) or (B, T) -> () or (B,).

    Raises
    ------
    ExtraError
        Without the package ``pystoi``.
    AudioError
        On a recording it cannot judge: less than 0.4 s that are not silent.

    >>> noise = torch.randn(16000)
    >>> round(float(stoi(noise, noise, 16000)), 3)
    1.0
    """
    check_pair("stoi", estimate, reference)
    pystoi = extra("pystoi", "metrics")
    scores = []
    for x, y in _pairs("stoi", estimate, reference, sample_rate, sample_rate):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns and returns 1e-5 where there is too little speech
            try:
                scores.append(pystoi.stoi(y, x, sample_rate, extended=False))
            except (Warning, ValueError) as error:
                raise AudioError(f"stoi cannot judge this recording of {len(y) / sample_rate:.2f} s "
                                 f"({' '.join(str(error).split())}): leave it out.") from None
    return torch.tensor(scores, dtype=torch.float64).view(reference.shape[:-1])


def _pairs(owner: str, estimate: Tensor, reference: Tensor, source: int, target: int):
    """The recordings one by one, as float64 arrays at ``target`` Hz."""
    if not reference.any(-1).all():
        raise AudioError(f"{owner} wants a reference with sound in it, got a silent one: leave it out.")
    waves = (resample(wave.cpu().reshape(-1, wave.shape[-1]), source, target) for wave in (estimate, reference))
    return zip(*(wave.double().numpy() for wave in waves), strict=True)
