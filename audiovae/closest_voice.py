"""Whose voice a recording's codes are best decoded in, by trying all."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovae.audio.features import LogMel
from audiovae.audio.waveform import loudest
from audiovae.shapes import Condition

Said = TypeVar("Said")


def closest_voice(wave: Tensor, sample_rate: int, hop: int, speakers: Sequence[str], read: Callable[[Tensor], Said],
                  say: Callable[[Said, Condition], Tensor], seconds: float) -> str:
    """The one of ``speakers`` in whose voice the loudest ``seconds`` of a waveform (C, T) sound most like it.

    Analysis by synthesis: what ``read`` makes of them, (1, C, T') of whole hops, is said in each voice, and the least
    mean distance of log-mel spectra wins.
    """
    wave = loudest(wave, round(seconds * sample_rate) // hop * hop)
    wave = F.pad(wave, (0, -wave.shape[-1] % hop))[None]
    said, mel = read(wave), LogMel(sample_rate, n_fft=1024, hop=256, num_mels=80)
    wanted = mel(wave.mean(1, keepdim=True))
    voices = (say(said, Condition(torch.tensor([index]))) for index in range(len(speakers)))
    distance = [float((mel(voice.mean(1, keepdim=True)) - wanted).abs().mean()) for voice in voices]
    return speakers[int(np.argmin(distance))]
