"""Nearest training examples of a sample: is it new, or a copy?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from audiovae.audio.features import LogMel
from audiovae.errors import ShapeError

CHUNK = 2000  # training examples compared at a time
HEARD = 64  # recordings turned into spectra at a time


def nearest(x: Tensor, training: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The nearest of ``training`` (N, ...) to each of ``x`` (B, ...): Euclidean distance (B,) and index (B,) int64.

    Exact: differences are taken before they are squared, so that a copy is at distance 0. The first of several
    that are as near. Memory grows with ``chunk``, not with N.

    Raises ShapeError when the examples differ in shape, or there is none to compare with.

    >>> nearest(torch.tensor([[0.9], [4.0]]), torch.tensor([[0.0], [1.0], [4.0]]))
    (tensor([0.1000, 0.0000]), tensor([1, 2]))
    """
    if x.shape[1:] != training.shape[1:] or not len(training):
        raise ShapeError(f"nearest wants examples of one shape and some to compare with, got {tuple(x.shape)} and "
                         f"{tuple(training.shape)}.")
    flat = x.flatten(1)
    distance, index = torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(training), chunk):
        part = training[start:start + chunk].flatten(1)
        found = torch.cdist(flat, part, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        closer = found.values < distance
        distance = torch.where(closer, found.values, distance)
        index = torch.where(closer, found.indices + start, index)
    return distance, index


def timeless(x: Tensor, sample_rate: int) -> Tensor:
    """What sound (B, C, T) at ``sample_rate`` Hz is like, whenever it sounds: (B, M, F), for :func:`nearest`.

    The magnitudes of each log-mel band's spectrum over time. A shift by a few frames turns only their phases, so that
    a copy a little later is still a copy; what leaves at one end or comes in at the other does count.

    >>> wave = torch.zeros(2, 1, 8192)
    >>> wave[0, :, 3000:4000] = wave[1, :, 4024:5024] = torch.randn(1000)                       # 4 frames later
    >>> a, b = timeless(wave, 16000)
    >>> bool((a - b).norm() < 1e-3 * a.norm())
    True
    """
    mel = LogMel(sample_rate, n_fft=1024, hop=256, num_mels=40)
    return torch.cat([torch.fft.rfft(mel(part.mean(1, keepdim=True)), dim=2).abs() for part in x.split(HEARD)])


@dataclass(frozen=True)
class Novelty:
    """How far samples are from the training data, measured by how far held-out data is.

    distance, index : (B,) to the nearest training example, and which it is.
    usual : mean distance of held-out examples to their nearest training example.
    ratio : (B,) distance / usual. Near 1: as new as data that was held out; near 0: a copy.
    """

    distance: Tensor
    index: Tensor
    usual: float

    @property
    def ratio(self) -> Tensor:
        return self.distance / self.usual


def novelty(samples: Tensor, training: Tensor, held_out: Tensor) -> Novelty:
    """The nearest training example of each sample (B, ...), and how much nearer it is than to held-out data.

    A model that blurs makes samples that are near to all, so a ratio somewhat below 1 is no copy yet: look at the
    pairs. ShapeError when all that was held out is in the training data.

    >>> found = novelty(torch.tensor([[1.0], [9.0]]), training=torch.tensor([[1.0], [5.0]]),
    ...                 held_out=torch.tensor([[3.0]]))
    >>> found.ratio
    tensor([0., 2.])
    """
    usual = float(nearest(held_out, training)[0].mean())
    if usual == 0:
        raise ShapeError("novelty wants held-out examples that are not in the training data, got copies only.")
    return Novelty(*nearest(samples, training), usual)
