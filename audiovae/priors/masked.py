"""A transformer that sees both ways and fills in what is hidden: many codes at a time, in tens of passes.

Quantizer after quantizer, coarse to fine (Borsos et al. 2023, SoundStorm), and within one, hidden codes a set at a
time (Chang et al. 2022, MaskGIT, section 3). What is given before stays where it is: that makes it an infiller.

Two ways to choose the sets. In a fixed random order, the sets are known beforehand and the codes of one are drawn
on their own given all before: log p of the whole is then exact, a sum over sets. By confidence, those that the network
is surest of are kept and the others drawn again: better to listen to, without a known log p.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, prod
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.config import Config, Count, Decay, Weight
from audiovae.errors import ShapeError
from audiovae.nn.transformer import Transformer
from audiovae.priors.base import ABSENT, Drawing, Prior, Progress, numbers, one_size
from audiovae.priors.conditions import Listener, Told, ToldConfig
from audiovae.priors.transformer import CodeEmbedding
from audiovae.seeds import generator
from audiovae.shapes import Condition, DataSpec


def set_sizes(count: int, passes: int) -> list[int]:
    """How many of ``count`` codes each of ``passes`` draws, few first: by the cosine of MaskGIT, 0 for none left.

    >>> set_sizes(100, 4), sum(set_sizes(7, 16))
    ([8, 21, 33, 38], 7)
    """
    left = [round(count * cos(pi / 2 * i / passes)) for i in range(passes)] + [0]
    left[0] = count
    return [a - b for a, b in itertools.pairwise(left)]


class MaskedPrior(Prior):
    """The chances of hidden codes, given those that are not.

    Parameters
    ----------
    data : codes (B, Q, L), or (B, Q, H, W) of one size; quantizers of one size K.
    config : widths, depth, passes a quantizer.

    >>> from audiovae.shapes import CodeSpec
    >>> data = DataSpec(channels=2, dims=1, codes=CodeSpec(num_codes=(16, 16)))
    >>> prior = MaskedConfig(dim=32, depth=2, heads=2).build(data)
    >>> prime = torch.full((1, 2, 10), -1)
    >>> prime[..., :4] = 7
    >>> filled = prior.sample((10,), None, Drawing(), [torch.Generator().manual_seed(0)], prime)
    >>> bool((filled[..., :4] == 7).all() and (filled >= 0).all())
    True
    """

    def __init__(self, data: DataSpec, config: "MaskedConfig"):
        super().__init__()
        if data.codes is None:
            raise ShapeError(f"MaskedPrior is over codes, got {data}: train it with data.kind \"codes\".")
        self.codes, self.dims, self.config = data.codes, data.dims, config
        self.rows, self.size = len(data.codes.num_codes), one_size("MaskedPrior", data.codes)
        self.embedding = CodeEmbedding(self.rows, self.size, config.dim)
        self.listener = Listener(data, config.told, config.dim)
        self.listens = self.listener.droppable
        self.network = Transformer(config.dim, config.depth, config.heads, False,
                                   context_dim=self.listener.context_dim, dropout=config.dropout)
        self.stage = nn.Embedding(self.rows, config.dim)
        self.heads = nn.Parameter(torch.randn(self.rows, config.dim, self.size) / config.dim**0.5)

    def forward(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        """An unbiased estimate of a bound: one quantizer and one count of hidden codes by lot for each example.

        With n codes of Q rows each, hidden ones weigh Q n / (their number) (Hoogeboom 2022, eq. 8).
        """
        self._check(codes, self.dims)
        grid, flat = codes.shape[2:], codes.flatten(2)
        batch, _, length = flat.shape
        row = torch.randint(self.rows, (batch,), device=flat.device)
        there = flat.gather(1, row[:, None, None].expand(-1, 1, length))[:, 0] >= 0
        count = there.sum(1)
        hidden = 1 + (torch.rand(batch, device=flat.device) * count).long().clamp(max=count - 1)
        rank = torch.rand(batch, length, device=flat.device).masked_fill(~there, 2.0).argsort(1).argsort(1)
        hide = (rank < hidden[:, None]) & there
        chances = self._log_chances(self._seen(flat, row, hide), row, self.listener(condition, batch, grid))
        own = flat.gather(1, row[:, None, None].expand(-1, 1, length))[:, 0].clamp(min=0)
        weight = hide * (self.rows * count / hidden.clamp(min=1))[:, None]
        nats = chances.gather(2, own[..., None])[..., 0] * weight
        out = torch.zeros(flat.shape, dtype=nats.dtype, device=flat.device)
        return out.scatter(1, row[:, None, None].expand(-1, 1, length), nats[:, None]).unflatten(2, grid)

    @torch.no_grad()
    def log_prob(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        """log p (B,) in nats of the fixed order: what :meth:`sample` draws with ``confidence`` false.

        Codes that are absent, past a recording's end, are told as such and not counted.
        """
        self._check(codes, self.dims)
        grid, flat = codes.shape[2:], codes.flatten(2)
        told, total = self.listener(condition, len(flat), grid), torch.zeros(len(flat))
        for q, known, new in self._sets(flat.shape[2]):
            row = torch.full((len(flat),), q)
            chances = self._log_chances(self._seen(flat, row, ~known.expand(len(flat), -1)), row, told)
            nats = chances.gather(2, flat[:, q, :, None].clamp(min=0))[..., 0] * (flat[:, q] >= 0)
            total = total + nats[:, new].sum(1)
        return total

    @torch.no_grad()
    def sample(self, grid: tuple[int, ...], condition: Condition | None, drawing: Drawing,
               generators: Sequence[torch.Generator], prime: Tensor | None = None,
               progress: Progress | None = None) -> Tensor:
        batch, length = len(generators), prod(grid)
        codes = self._primed(grid, batch, prime).flatten(2)
        told = [self.listener(condition, batch, grid, hear) for hear in self._ears(drawing)]
        if self.config.confidence:
            for q in range(self.rows):
                self._fill(codes, q, told, drawing, generators, progress)
        else:
            given = codes >= 0
            for q, known, new in self._sets(length):
                row = torch.full((batch,), q)
                hide = ~known.expand(batch, -1) & ~given[:, q]
                drawn = drawing.draw(self._logits(codes, row, hide, told, drawing), numbers(generators, length))
                codes[:, q] = torch.where(new & ~given[:, q], drawn, codes[:, q])
                if progress is not None:
                    progress(int(new.sum()))
        return codes.unflatten(2, grid)

    def _fill(self, codes: Tensor, q: int, told: list[Told], drawing: Drawing,
              generators: Sequence[torch.Generator], progress: Progress | None) -> None:
        """Draw what is absent of row q: at every pass the surest stay, by log p with Gumbel noise that fades away."""
        row, wanted = torch.full((len(codes),), q), codes[:, q] < 0
        sizes = [set_sizes(int(count), self.config.passes) for count in wanted.sum(1)]
        for index in range(self.config.passes):
            hide = codes[:, q] < 0
            if hide.any() and any(size[index] for size in sizes):
                logits = self._logits(codes, row, hide, told, drawing)
                dice = numbers(generators, 2, codes.shape[2])
                drawn = drawing.draw(logits, dice[:, 0])
                sure = logits.log_softmax(-1).gather(2, drawn[..., None])[..., 0]
                fade = self.config.choice_temperature * (1 - (index + 1) / self.config.passes)
                sure = sure - fade * (-dice[:, 1].clamp(1e-9, 1 - 1e-7).log()).log()
                rank = sure.masked_fill(~hide, -torch.inf).argsort(1, descending=True).argsort(1)
                keep = hide & (rank < torch.tensor([size[index] for size in sizes])[:, None])
                codes[:, q] = torch.where(keep, drawn, codes[:, q])
            if progress is not None:
                progress(ceil(codes.shape[2] / self.config.passes))

    def _sets(self, length: int) -> list[tuple[int, Tensor, Tensor]]:
        """The fixed order: (quantizer, which of its codes are known (L,), which are drawn now (L,))."""
        sets = []
        for q in range(self.rows):
            order, start = torch.randperm(length, generator=generator(length, q)), 0
            for size in set_sizes(length, self.config.passes):
                if size:
                    known, new = torch.zeros(2, length, dtype=torch.bool)
                    known[order[:start]], new[order[start:start + size]] = True, True
                    sets.append((q, known, new))
                start += size
        return sets

    def _seen(self, codes: Tensor, row: Tensor, hide: Tensor) -> Tensor:
        """Codes (B, Q, L) as the network may see them: row's hidden ones, and all of the rows after it, absent."""
        stages = torch.arange(self.rows, device=codes.device)[:, None]
        after, now = stages > row[:, None, None], stages == row[:, None, None]
        return codes.masked_fill(after | (now & hide[:, None]), ABSENT)

    def _logits(self, codes: Tensor, row: Tensor, hide: Tensor, told: list[Told], drawing: Drawing) -> Tensor:
        seen = self._seen(codes, row, hide)
        heads = [self._log_chances(seen, row, t) for t in told]
        return drawing.guided(heads[0], heads[1] if len(heads) > 1 else None)

    def _log_chances(self, seen: Tensor, row: Tensor, told: Told) -> Tensor:
        """(B, L, K) log p of the codes of each example's row."""
        x = self.embedding(seen) + (told.vector + self.stage(row))[:, None]
        if told.along is not None:
            x = x + told.along
        return (self.network(x, told.context) @ self.heads[row]).log_softmax(-1)


@dataclass(frozen=True)
class MaskedConfig(Config):
    """A masked transformer.

    passes : sets of codes a quantizer, each one run of the network.
    confidence : whether :meth:`MaskedPrior.sample` keeps the surest codes, or follows the fixed order of its log_prob.
    choice_temperature : of the noise in who is surest, at the first pass; it fades to nothing.
    """

    kind: Literal["masked"] = "masked"
    dim: Count = 256
    depth: Count = 6
    heads: Count = 4
    dropout: Decay = 0.0
    passes: Count = 16
    confidence: bool = True
    choice_temperature: Weight = 4.0
    told: ToldConfig = ToldConfig()

    def build(self, data: DataSpec) -> MaskedPrior:
        return MaskedPrior(data, self)
