"""Who is speaking, judged by a speaker verifier, and how far that judge can be trusted.

Similarities are cosines of embeddings (Wan et al. 2018, generalised end-to-end loss; the network and its weights are
those of the package Resemblyzer: ``pip install 'audiovae[judges]'``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.resample import resample
from audiovae.errors import AudioError, ShapeError
from audiovae.metrics.extra import extra

RATE = 16000  # Hz, what the network was trained on


class Verifier:
    """Embeddings of utterances: vectors of length 1, the nearer the more alike the voices.

    Silence is left out and the level evened before. Raises ExtraError without the package.

    >>> from importlib.util import find_spec
    >>> if find_spec("resemblyzer"):
    ...     time = torch.arange(32000) / 16000
    ...     buzz = sum((6.2832 * 120 * k * time).sin() / k for k in range(1, 30))
    ...     buzz = buzz * (6.2832 * 3 * time).sin().clamp(min=0)
    ...     assert Verifier().embed(0.1 * buzz, 16000).shape == (256,)
    """

    def __init__(self) -> None:
        self._package = extra("resemblyzer", "judges")
        self._network = self._package.VoiceEncoder("cpu", verbose=False)

    def embed(self, waveform: Tensor | NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
        """The embedding (256,) of a waveform (T,). AudioError where it holds no speech."""
        wave = resample(torch.as_tensor(waveform).float()[None], sample_rate, RATE)[0].numpy()
        speech = self._package.preprocess_wav(wave) if wave.any() else wave[:0]
        if not len(speech):
            raise AudioError(f"the verifier found no speech in {len(wave) / RATE:.2f} s: leave the recording out.")
        return self._network.embed_utterance(speech)


def centroid(embeddings: Sequence[NDArray[np.floating]] | NDArray[np.floating]) -> NDArray[np.floating]:
    """The mean (D,) of embeddings (N, D), brought back to length 1: what a voice is compared with.

    >>> centroid([np.array([1.0, 0.0]), np.array([0.0, 1.0])]).round(3)
    array([0.707, 0.707])
    """
    mean = np.mean(np.asarray(embeddings), axis=0)
    return mean / np.linalg.norm(mean)


@dataclass(frozen=True)
class EqualError:
    """rate : share of same pairs refused, and of different pairs accepted, at ``threshold``."""

    rate: float
    threshold: float


def equal_error(same: Iterable[float], different: Iterable[float]) -> EqualError:
    """The threshold at which a verifier errs as often one way as the other, and how often that is.

    A score at or above the threshold is accepted. Of all thresholds between scores the one is taken whose two shares of
    errors lie nearest to each other; the rate is their mean.

    Raises ShapeError without a score on either side.

    >>> equal_error(same=[0.9, 0.8, 0.7, 0.4], different=[0.5, 0.3, 0.2, 0.1])
    EqualError(rate=0.25, threshold=0.45)
    """
    accepted, refused = (np.sort(np.fromiter(scores, float)) for scores in (same, different))
    if not len(accepted) or not len(refused):
        raise ShapeError(f"equal_error wants scores of same and of different speakers, got {len(accepted)} and "
                         f"{len(refused)}.")
    scores = np.unique(np.concatenate([accepted, refused]))
    between = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2, scores[-1:] + 1e-9])
    misses = np.searchsorted(accepted, between) / len(accepted)
    alarms = 1 - np.searchsorted(refused, between) / len(refused)
    best = np.flatnonzero(np.abs(misses - alarms) == np.abs(misses - alarms).min())
    middle = best[len(best) // 2]  # of a gap between the two sides, its middle
    return EqualError(float(misses[middle] + alarms[middle]) / 2, float(between[middle]))
