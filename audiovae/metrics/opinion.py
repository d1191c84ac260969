"""What listeners would say of the sound, by a network that was taught their answers: DNSMOS (Reddy et al. 2022)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.resample import resample
from audiovae.errors import AudioError
from audiovae.metrics.extra import extra

RATE = 16000  # Hz


def predicted_mos(waveform: Tensor | NDArray[np.float32], sample_rate: int) -> float:
    """Overall quality of speech (T,) from 1 to 5 as DNSMOS P.835 predicts it, without a reference; higher is better.

    What is shorter than 9 s is repeated to fill them. Clean recordings of speech get 3 to 3.5. Raises ExtraError
    without the package ``speechmos`` (``pip install 'audiovae[judges]'``), AudioError on silence.
    """
    package = extra("speechmos.dnsmos", "judges")
    wave = resample(torch.as_tensor(waveform).float()[None], sample_rate, RATE)[0].numpy()
    peak = float(np.abs(wave).max(initial=0.0))
    if not peak:
        raise AudioError("predicted_mos wants a recording with sound in it, got a silent one: leave it out.")
    return float(package.run(wave / max(peak, 1.0), RATE)["ovrl_mos"])
