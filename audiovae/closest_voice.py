"""Whose voice a recording's codes are best decoded in, by trying all."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.features import LogMel
from audiovae.shapes import Condition


def closest_voice(wave: Tensor, sample_rate: int, count: int, say: Callable[[Condition], Tensor]) -> int:
    """Which of ``count`` labels, told to ``say``, makes its sound (1, C, T) most like ``wave``: analysis by synthesis.

    The least mean distance of log-mel spectra.
    """
    mel = LogMel(sample_rate, n_fft=1024, hop=256, num_mels=80)
    wanted = mel(wave.mean(1, keepdim=True))
    distance = [float((mel(say(Condition(torch.tensor([index]))).mean(1, keepdim=True)) - wanted).abs().mean())
                for index in range(count)]
    return int(np.argmin(distance))
