"""Training the prior over a model's codes: floating point that rounds as the coder will, then whole numbers.

Every step runs the very arithmetic of audiovae.codes.prior, in steps of 1/64; gradients pass through the
rounding as if it were not there. Groups of codes are neighbours in the model's own latent space.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from audiovae.audio.corpus import Corpus, Split
from audiovae.audio.waveform import channelled
from audiovae.bottlenecks.rvq import ResidualQuantizer
from audiovae.codec import Codec
from audiovae.codes import CodePrior, Codes
from audiovae.codes.prior import ABOVE, BACK, BIAS, CONTEXT, TOP, UNIT, WEIGHT, side_of
from audiovae.errors import ConfigError, CorpusError
from audiovae.report import Table
from audiovae.seeds import generator, mix

DIM, WIDTH = 32, 64  # D and H
BATCH, STEPS = 16, 128  # stretches of a training step, and their length
RATE, WARMUP = 8e-3, 50
DEPTH = 24.0  # bits by which a place without a code is less likely than others
LN2 = math.log(2)


@dataclass(frozen=True)
class Recordings:
    """Codes (Q, L) of some recordings of a corpus, and how long these are together, in s."""

    codes: tuple[np.ndarray, ...]
    samples: tuple[int, ...]


def encode_split(codec: Codec, corpus: Corpus, split: Split, hours: float, seed: int = 0) -> Recordings:
    """Codes of at most ``hours`` of a split, drawn at random; CorpusError where there are none."""
    utterances = [u for u in corpus.utterances(split) if u.length >= codec.hop]
    order = np.random.default_rng(mix(seed, 0)).permutation(len(utterances))
    lengths = np.cumsum([utterances[i].length for i in order])
    kept = order[:max(1, int((lengths <= hours * 3600 * corpus.sample_rate).sum()))]
    if corpus.sample_rate != codec.sample_rate or not len(kept):
        raise CorpusError(f"corpus {corpus.folder}: {len(utterances)} {split} utterances at {corpus.sample_rate} Hz; "
                          f"wanted some at the model's {codec.sample_rate} Hz.")
    codes = []
    for index in tqdm(kept, unit="utterance", desc=f"encoding {split}", disable=None):
        wave = channelled(corpus.audio(utterances[index]), codec.channels)
        codes.append(np.concatenate(list(codec.encode_stream([wave])), axis=1))
    return Recordings(tuple(codes), tuple(utterances[i].length for i in kept))


def train_prior(codec: Codec, codes: Sequence[np.ndarray], minutes: float = 5.0, steps: int | None = None,
                seed: int = 0) -> CodePrior:
    """A prior over the codes of ``codec``, learnt from recordings' ``codes`` (Q, L) in ``minutes`` or ``steps``.

    Stretches are cut from all recordings in a row; equal seeds and ``steps`` give equal priors on one machine.
    Raises ConfigError where the quantizers are not of one size.
    """
    network = PriorNetwork(codec, generator(seed, 1))
    row = network.places(torch.from_numpy(np.concatenate(codes, axis=1)))
    length = min(STEPS, row.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.9, 0.98))
    for step, share in _budget(minutes, steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - share)
        starts = torch.randint(row.shape[1] - length + 1, (BATCH,), generator=generator(seed, 2, step))
        loss = network(torch.stack([row[:, start:start + length] for start in starts.tolist()], dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.export(codec.fingerprint)


def _budget(minutes: float, steps: int | None) -> Iterator[tuple[int, float]]:
    """Steps, and the share of the budget that is used, with a bar."""
    step, share, start = 0, 0.0, time.monotonic()
    with tqdm(total=100, unit="%", desc="training", disable=None) as bar:
        while share < 1:
            yield step, share
            step += 1
            share = step / steps if steps else (time.monotonic() - start) / (60 * minutes)
            bar.update(min(100, int(100 * share)) - bar.n)


def measure(codec: Codec, prior: CodePrior, held_out: Recordings) -> Table:
    """Bits a code of held-out recordings, each coded alone, at a few rates: by counting and by the prior.

    Container apart; a recording takes what makes it smaller, as its file would.
    """
    count = len(prior.num_codes)
    several = isinstance(codec.model.bottleneck, ResidualQuantizer)
    header, rows = codec.header(), []
    for n in sorted({1, -(-count // 4), -(-count // 2), count} if several else {count}):
        bits = np.zeros(2)
        for codes, samples in zip(held_out.codes, held_out.samples, strict=True):
            for index, by in enumerate((None, prior)):
                one = Codes((codes[:n],), header.sample_rate, samples, header.hops, (prior.num_codes[:n],),
                            prior.model, prior=by)
                bits[index] += one.bits_per_code * codes[:n].size
        counted, learnt = bits / sum(codes[:n].size for codes in held_out.codes)
        nominal, kbps = np.log2(prior.num_codes[0]), replace(header, num_codes=(prior.num_codes[:n],)).nominal_kbps
        rows.append((f"{kbps:.2f}", n, f"{nominal:.2f}", f"{counted:.2f}", f"{learnt:.2f}",
                     f"{1 - learnt / nominal:.1%}", f"{kbps * learnt / nominal:.2f}"))
    return Table(("kbit/s", "quantizers", "log2 K", "counting", "prior", "saved", "kbit/s then"), rows)


class PriorNetwork(nn.Module):
    """What :class:`audiovae.codes.CodePrior` computes, with gradients.

    Shapes: places (Q, B, L) int64 -> -log2 p (Q, B L).
    """

    def __init__(self, codec: Codec, dice: torch.Generator):
        super().__init__()
        sizes = codec.num_codes
        if len(set(sizes)) > 1 or sizes[0] < 2:
            raise ConfigError(f"a prior wants quantizers of one size of 2 codes or more, this model has {sizes}.")
        self.count, self.size, self.side = len(sizes), sizes[0], side_of(sizes[0])
        every = torch.arange(self.size)
        vectors = []
        for stage in range(self.count):
            codes = torch.zeros(1, self.count, self.size, dtype=torch.int64)
            codes[0, stage] = every
            vectors.append(codec.model.bottleneck.decode(codes)[0].T)  # type: ignore[operator]
        x = torch.stack(vectors)  # (Q, K, d), each stage's about its own mean
        x = x - x.mean(dim=1, keepdim=True)
        self.order = torch.stack([_neighbours(stage, self.side) for stage in x])
        axes = torch.linalg.svd(x[:4].flatten(0, 1), full_matrices=False)[2][:DIM]
        start = torch.gather(x @ axes.T, 1, self.order[:, :, None].expand(-1, -1, len(axes)))
        start = start * (0.5 / start[0].std().clamp(min=1e-6))
        self.embedding = nn.Parameter(F.pad(start, (0, DIM - len(axes))))
        fan = len(CONTEXT) * DIM
        self.hidden = nn.Parameter(torch.randn(self.count, fan, WIDTH, generator=dice) / fan**0.5)
        self.hidden_bias = nn.Parameter(torch.full((self.count, WIDTH), 0.2))
        self.group = nn.Parameter(torch.zeros(self.count, WIDTH, self.side))
        self.group_bias = nn.Parameter(torch.zeros(self.count, self.side))
        self.member = nn.Parameter(torch.zeros(self.count, self.side, WIDTH, self.side))
        unused = torch.arange(self.side**2).view(self.side, self.side) >= self.size
        self.member_bias = nn.Parameter(torch.where(unused, -DEPTH, 0.0).repeat(self.count, 1, 1))
        self.group_bias.data.masked_fill_(unused.all(dim=1), -DEPTH)

    def places(self, codes: Tensor) -> Tensor:
        """Codes (Q, L) to their places."""
        return torch.gather(self.order.argsort(dim=1), 1, codes)

    def forward(self, places: Tensor) -> Tensor:
        count, batch, length = places.shape
        flat = places.reshape(count, -1)
        stage = torch.arange(count)[:, None]
        sums = F.embedding((flat + stage * self.size), _rounded(self.embedding).flatten(0, 1)).cumsum(dim=0)
        sums = F.pad(sums.view(count, batch, length, DIM), (0, 0, BACK, ABOVE, 0, 0, ABOVE, 0))
        x = torch.cat([self._context(sums, back, above, length) for back, above in CONTEXT], dim=-1).flatten(1, 2)
        x = torch.baddbmm(self.hidden_bias[:, None], x.clamp(-TOP / UNIT, TOP / UNIT), _rounded(self.hidden))
        hidden = _straight(x.clamp(0, TOP / UNIT), lambda h: torch.floor(h * UNIT) / UNIT)
        logits = torch.baddbmm(self.group_bias[:, None], hidden, _rounded(self.group))
        group, member = flat // self.side, flat % self.side
        coarse = F.cross_entropy(LN2 * logits.flatten(0, 1), group.flatten(), reduction="none")
        fine = self._members(hidden.flatten(0, 1), (group + stage * self.side).flatten(), member.flatten())
        return (coarse + fine).view(count, -1) / LN2

    def _context(self, sums: Tensor, back: int, above: int, length: int) -> Tensor:
        """C as it stands ``back`` waves and ``above`` quantizers before each cell: that is step t - back + above."""
        start = BACK - back + above
        stages = sums[ABOVE - above:ABOVE - above + self.count]
        return stages[:, :, start:start + length]

    def _members(self, hidden: Tensor, group: Tensor, member: Tensor) -> Tensor:
        """-ln p of each member within its group: one product a group, over cells sorted by group and padded."""
        order = group.argsort(stable=True)
        groups = self.count * self.side
        counts = torch.bincount(group, minlength=groups)
        room = int(counts.max())
        at = group[order] * room + torch.arange(len(order)) - (counts.cumsum(0) - counts)[group[order]]
        padded = hidden.new_zeros(groups * room, WIDTH).index_copy(0, at, hidden[order])
        logits = torch.baddbmm(self.member_bias.view(groups, 1, -1), padded.view(groups, room, WIDTH),
                               _rounded(self.member).flatten(0, 1)).flatten(0, 1)[at]
        nats = F.cross_entropy(LN2 * logits, member[order], reduction="none")
        return torch.zeros_like(nats).index_copy(0, order, nats)

    def export(self, model: str) -> CodePrior:
        """The prior in whole numbers, for codes of the ``model`` of that fingerprint."""
        tensors: dict[str, np.ndarray] = {"order": self.order.numpy().astype(np.uint16)}
        for name, value in self.named_parameters():
            unit, most, kind = (UNIT**2, BIAS, np.int32) if name.endswith("_bias") else (UNIT, WEIGHT, np.int8)
            tensors[name] = (value.detach() * unit).round().clamp(-most, most).numpy().astype(kind)
        return CodePrior(tensors, model)


def _straight(x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``rounding`` makes of ``x``, with the gradient of ``x``."""
    return x + (rounding(x) - x).detach()


def _rounded(weight: Tensor) -> Tensor:
    return _straight(weight, lambda w: (w * UNIT).round().clamp(-WEIGHT, WEIGHT) / UNIT)


def _neighbours(vectors: Tensor, side: int) -> Tensor:
    """An order of K vectors in which those of a group of ``side`` are near each other: halved along the widest axis.

    >>> _neighbours(torch.tensor([[0.0], [9.0], [1.0], [8.0]]), side=2).view(2, 2).sort().values.sort(dim=0).values
    tensor([[0, 2], [1, 3]])
    """
    def halved(index: Tensor) -> list[Tensor]:
        if len(index) <= side:
            return [index]
        x = vectors[index] - vectors[index].mean(dim=0)
        index = index[(x @ torch.linalg.svd(x, full_matrices=False)[2][0]).argsort()]
        middle = -(-len(index) // (2 * side)) * side
        return halved(index[:middle]) + halved(index[middle:])

    return torch.cat(halved(torch.arange(len(vectors))))
