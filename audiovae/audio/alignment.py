"""Where each phone of a transcript lies in its recording: the best monotonic path through a chain of states.

Every phone is a short chain of states, each a mixture of diagonal Gaussians over cepstra. They start flat, every
recording cut into equal parts, then paths and Gaussians are found in turn (Viterbi training; Rabiner 1989, section
III and VI.A). Nothing is needed but recordings and their phones, in order.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovae.audio.features import LogMel
from audiovae.errors import ShapeError

RATE = 16000  # Hz, of the waveforms that :func:`cepstra` takes
HOP = 160  # samples a frame: 10 ms
MELS, CEPSTRA = 40, 13
FLOOR = 0.05  # least variance of a Gaussian, of features whose variance is 1
FEW = 20  # frames below which a Gaussian is not fitted anew
TOGETHER = 1 << 16  # frames, padding included, that one pass aligns at once


def align(scores: Tensor, optional: Tensor, frames: Tensor, states: Tensor) -> Tensor:
    """The best path of each of a batch through its chain of states, by Viterbi's algorithm.

    A path stays in its state or goes on to the next with every frame; a state that is ``optional`` may be passed
    over. It begins in the first state and ends in the last, or beside it where that is optional. Of all such paths
    it is one whose sum of scores is the greatest.

    Shapes: scores (B, L, S), optional (B, S) bool, frames and states (B,) -> the state of each frame, (B, L) int64.
    Beyond its ``frames`` a row keeps its last state. No two neighbouring states may be optional.

    Raises ShapeError where a chain has more states that must be visited than there are frames.

    >>> scores = torch.tensor([[[0., -9., -9.], [-1., -2., -9.], [-9., -9., 0.]]])
    >>> align(scores, torch.tensor([[False, True, False]]), torch.tensor([3]), torch.tensor([3]))
    tensor([[0, 0, 2]])
    """
    batch, length, count = scores.shape
    inside = torch.arange(count) < states[:, None]
    needed = (inside & ~optional).sum(1)
    if bool((needed > frames).any()):
        row = int((needed - frames).argmax())
        raise ShapeError(f"align wants a frame for each state that must be visited, got {int(frames[row])} frames "
                         f"for {int(needed[row])} states in row {row}: leave that recording out.")
    skipped = F.pad(optional[:, :-1], (1, 0))  # whether the state before may be passed over
    best = scores.new_full((batch, count + 2), -math.inf)  # two states that cannot be, before the first
    here = best[:, 2:]
    here[:, 0] = scores[:, 0, 0]
    if count > 1:
        here[:, 1] = torch.where(skipped[:, 1], scores[:, 0, 1], -math.inf)
    barred = torch.where(skipped, 0.0, -math.inf).to(scores.dtype)
    back = torch.zeros(length, batch, count, dtype=torch.uint8)
    for t in range(1, length):
        came = torch.stack((here, best[:, 1:-1], best[:, :-2] + barred))
        value, step = came.max(0)
        going = (t < frames)[:, None]
        back[t] = step.to(torch.uint8) * going
        here.copy_(torch.where(going, value + scores[:, t], here))
    rows = torch.arange(batch)
    last = states - 1
    before = (last - 1).clamp(min=0)
    early = optional[rows, last] & (here[rows, before] > here[rows, last])
    path = torch.empty(batch, length, dtype=torch.int64)
    path[:, -1] = torch.where(early, before, last)
    for t in range(length - 1, 0, -1):
        path[:, t - 1] = path[:, t] - back[t, rows, path[:, t]]
    return path


def cepstra(wave: Tensor) -> Tensor:
    """A waveform (T,) at 16 kHz to features (L, 39), one frame each 10 ms: cepstra and their first two differences.

    Each has mean 0 and variance 1 over the recording, which takes off much of the voice, the room and the level.

    >>> cepstra(torch.randn(16000)).shape
    torch.Size([100, 39])
    """
    mel, basis = _front_end()
    still = mel(wave[None, None])[0].T @ basis
    slope = _differences(still)
    features = torch.cat((still, slope, _differences(slope)), 1)
    features = features - features.mean(0)
    return features / features.square().mean(0).sqrt().clamp(min=1e-5)


@cache
def _front_end() -> tuple[LogMel, Tensor]:
    """Log-mel frames in nats, and the cosines (M, C) that make cepstra of them."""
    mel = LogMel(RATE, n_fft=400, hop=HOP, num_mels=MELS, scale=1.0, offset=0.0)
    middle = (torch.arange(MELS) + 0.5) * math.pi / MELS
    return mel, torch.cos(middle[:, None] * torch.arange(CEPSTRA)) / math.sqrt(MELS)


def _differences(x: Tensor) -> Tensor:
    """The slope of a line through five frames, at each."""
    padded = F.pad(x.T[None], (2, 2), mode="replicate")[0].T
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


@dataclass(frozen=True)
class Chain:
    """The phones of a recording in order, (N,) int64, and which of them may be absent, (N,) bool."""

    phones: Tensor
    optional: Tensor


class PhoneModel:
    """Gaussians of phones, learnt from recordings and the phones said in them, that tell which is where.

    Parameters
    ----------
    num_phones : P; phones are numbers below it, ``silence`` one of them.
    silence : the phone of a single state, and whose first Gaussian is of each recording's most quiet frames.
    states : of every other phone, so the least frames that one lasts.

    Features are (L, D) of mean 0 and variance 1, the first of D the loudness, as :func:`cepstra` gives them.

    >>> features, chain = torch.randn(50, 2), Chain(torch.tensor([0, 1, 2]), torch.tensor([True, False, False]))
    >>> model = PhoneModel(num_phones=3)
    >>> model.fit([features], [chain])
    >>> model.align([features], [chain])[0].shape
    torch.Size([50])
    """

    def __init__(self, num_phones: int, silence: int = 0, states: int = 3):
        self.silence, self.states = silence, states
        self.phone_of = torch.arange(num_phones).repeat_interleave(states)  # of each unit
        self.mean = self.variance = self.weight = torch.empty(0)

    def fit(self, features: Sequence[Tensor], chains: Sequence[Chain], rounds: Sequence[int] = (6, 3, 3),
            watch: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
        """Learn from recordings: ``rounds`` with one Gaussian a state, then with two, then four and so on.

        ``watch`` is given the rounds and may show how they go by. Raises ShapeError where a recording has not enough
        frames for its phones (see :meth:`fits`).
        """
        paths = [self._flat(x, chain) for x, chain in zip(features, chains, strict=True)]
        frames, units = torch.cat(list(features)), len(self.phone_of)
        dim = frames.shape[1]
        self.mean, self.variance = torch.zeros(units, 1, dim), torch.ones(units, 1, dim)
        self.weight = torch.ones(units, 1)
        self._estimate(frames, torch.cat(paths))
        splits = {sum(rounds[:n]) for n in range(1, len(rounds))}
        for number in watch(range(sum(rounds))):
            if number in splits:
                spread = 0.2 * self.variance.sqrt()
                self.mean = torch.cat((self.mean - spread, self.mean + spread), 1)
                self.variance, self.weight = self.variance.repeat(1, 2, 1), self.weight.repeat(1, 2) / 2
            self._estimate(frames, torch.cat(self._paths(features, chains)))

    def align(self, features: Sequence[Tensor], chains: Sequence[Chain]) -> list[Tensor]:
        """The phone of every frame of each recording, (L,) int64. Raises ShapeError as :meth:`fit` does."""
        return [self.phone_of[path] for path in self._paths(features, chains)]

    def fits(self, features: Tensor, chain: Chain) -> bool:
        """Whether a recording has a frame for every state of the phones that must be in it."""
        units, optional = self._units(chain)
        return len(features) >= int((~optional).sum()) > 0 and len(units) > 0

    def scores(self, features: Tensor) -> Tensor:
        """ln p of features (L, D) for each unit, (L, U): a state of a phone, ``phone_of`` which."""
        return self._components(features).logsumexp(2)

    def _components(self, features: Tensor) -> Tensor:
        """(L, D) -> ln p of each component with its weight, (L, U, M), in two products of matrices."""
        precision = (1 / self.variance).flatten(0, 1)
        mean = self.mean.flatten(0, 1)
        constant = self.weight.log().flatten() - 0.5 * (
            precision * mean.square() - precision.log() + math.log(2 * math.pi)).sum(1)
        out = torch.addmm(constant, features, (precision * mean).T)
        return out.addmm_(features.square(), precision.T, alpha=-0.5).view(-1, *self.weight.shape)

    def _units(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """The states of a chain, as units and whether each may be passed over."""
        counts = torch.where(chain.phones == self.silence, 1, self.states)
        first = (chain.phones * self.states - counts.cumsum(0) + counts).repeat_interleave(counts)
        return first + torch.arange(len(first)), chain.optional.repeat_interleave(counts)

    def _flat(self, features: Tensor, chain: Chain) -> Tensor:
        """The units of frames when every state lasts as long, but silence lies where it is most quiet."""
        units, optional = self._units(chain)
        if not self.fits(features, chain):
            raise ShapeError(f"PhoneModel wants a frame for each state that must be visited, got {len(features)} for "
                             f"{int((~optional).sum())}: leave that recording out.")
        quiet = torch.zeros(len(features), dtype=torch.bool)
        if bool((units == self.silence * self.states).any()):
            low, high = features[:, 0].quantile(torch.tensor([0.05, 0.95]))
            quiet = features[:, 0] < low + (high - low) / 3
        units = units[units != self.silence * self.states]
        path = torch.full((len(features),), self.silence * self.states)
        loud = int((~quiet).sum())
        if len(units):
            path[~quiet] = units[torch.arange(loud) * len(units) // max(1, loud)]
        return path

    def _paths(self, features: Sequence[Tensor], chains: Sequence[Chain]) -> list[Tensor]:
        """The unit of every frame of each recording: recordings of like length together."""
        paths: list[Tensor] = [torch.empty(0)] * len(features)
        for batch in _batches([len(x) for x in features]):
            made = [self._units(chains[n]) for n in batch]
            frames, states = (torch.tensor([len(x) for x in its]) for its in
                              ([features[n] for n in batch], [units for units, _ in made]))
            scores = torch.zeros(len(batch), int(frames.max()), int(states.max()))
            optional = torch.zeros(len(batch), int(states.max()), dtype=torch.bool)
            for row, (n, (units, may)) in enumerate(zip(batch, made, strict=True)):
                scores[row, :len(features[n]), :len(units)] = self.scores(features[n])[:, units]
                optional[row, :len(units)] = may
            for n, path, (units, _) in zip(batch, align(scores, optional, frames, states), made, strict=True):
                paths[n] = units[path[:len(features[n])]]
        return paths

    def _estimate(self, frames: Tensor, path: Tensor) -> None:
        """Each Gaussian anew from the frames of its state to which it is the likeliest; from few frames, none."""
        units, many, dim = self.mean.shape
        count = torch.zeros(units * many, dtype=torch.float64)
        first, second = torch.zeros(2, units * many, dim, dtype=torch.float64)
        for x, its in zip(frames.split(TOGETHER), path.split(TOGETHER), strict=True):
            which = its * many + self._components(x)[torch.arange(len(x)), its].argmax(1)
            count += torch.bincount(which, minlength=len(count))
            first.index_add_(0, which, x.double())
            second.index_add_(0, which, x.double().square())
        first, second = (total / count.clamp(min=1)[:, None] for total in (first, second))
        spread = (second - first.square()).clamp(min=FLOOR).float().view_as(self.variance)
        enough = (count >= FEW).view(units, many, 1)
        self.mean = torch.where(enough, first.float().view_as(self.mean), self.mean)
        self.variance = torch.where(enough, spread, self.variance)
        share = count.view(units, many) + 1
        self.weight = (share / share.sum(1, keepdim=True)).float()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of items of like length, as many together as pad to no more than TOGETHER frames."""
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[n] > TOGETHER:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
