"""A causal transformer over codes: each step told all before it, the quantizers of a step by the delay pattern.

Row q of the codes is moved q steps to the right (Copet et al. 2023, section 2.1): at place s the network gives code
(0, s), (1, s - 1), ... (Q - 1, s - Q + 1) at once, from all that stands at places before s. So a step's coarser codes
are known to its finer ones, and log p is the sum over places and rows, exactly. Pictures are read row by row.

With a bigram its logits are added to those of counted pairs: it begins where counting ends, and learns the rest.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.audio.corpus import Split
from audiovae.config import Config, Count, Decay, Whole
from audiovae.errors import ShapeError
from audiovae.nn.stepping import Caches
from audiovae.nn.transformer import Transformer
from audiovae.priors.base import ABSENT, Drawing, Prior, Progress, numbers, one_size
from audiovae.priors.bigram import Bigram
from audiovae.priors.conditions import Listener, Told, ToldConfig
from audiovae.shapes import Condition, DataSpec


def delayed(codes: Tensor, absent: int = ABSENT) -> Tensor:
    """Codes (B, Q, L) to places (B, Q, L + Q - 1), row q moved q to the right, ``absent`` where none is.

    >>> delayed(torch.tensor([[[1, 2], [3, 4]]]))
    tensor([[[ 1,  2, -1],
             [-1,  3,  4]]])
    """
    rows = codes.shape[1]
    return torch.stack([F.pad(codes[:, q], (q, rows - 1 - q), value=absent) for q in range(rows)], dim=1)


def undelayed(places: Tensor) -> Tensor:
    """The inverse of :func:`delayed`, of values of any kind (B, Q, L + Q - 1, ...) -> (B, Q, L, ...).

    >>> undelayed(delayed(torch.tensor([[[1, 2], [3, 4]]])))
    tensor([[[1, 2],
             [3, 4]]])
    """
    rows = places.shape[1]
    length = places.shape[2] - rows + 1
    return torch.stack([places[:, q, q:q + length] for q in range(rows)], dim=1)


class CodeEmbedding(nn.Module):
    """The sum of a learned vector a code, over the rows (B, Q, S) -> (B, S, D); a code of -1 has one of its own.

    >>> CodeEmbedding(rows=2, num_codes=16, dim=8)(torch.tensor([[[3, -1], [-1, 5]]])).shape
    torch.Size([1, 2, 8])
    """

    offsets: Tensor

    def __init__(self, rows: int, num_codes: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(rows * (num_codes + 1), dim)
        nn.init.normal_(self.table.weight, std=0.02)
        self.register_buffer("offsets", 1 + (num_codes + 1) * torch.arange(rows)[:, None], persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        return self.table(codes + self.offsets).sum(1)


class CausalPrior(Prior):
    """A transformer that gives every code's chances from those before it.

    Parameters
    ----------
    data : codes (B, Q, L), or (B, Q, H, W) of the one size that the data has; quantizers of one size K.
    config : widths, depth and what is listened to.

    >>> from audiovae.shapes import CodeSpec
    >>> data = DataSpec(channels=2, dims=1, codes=CodeSpec(num_codes=(16, 16)))
    >>> prior = CausalConfig(dim=32, depth=2, heads=2).build(data)
    >>> codes = torch.randint(16, (3, 2, 10))
    >>> prior(codes).shape, prior.log_prob(codes).shape
    (torch.Size([3, 2, 10]), torch.Size([3]))
    >>> prior.sample((7,), None, Drawing(), [torch.Generator().manual_seed(0)]).shape
    torch.Size([1, 2, 7])
    """

    def __init__(self, data: DataSpec, config: "CausalConfig"):
        super().__init__()
        if data.codes is None:
            raise ShapeError(f"CausalPrior is over codes, got {data}: train it with data.kind \"codes\".")
        self.codes, self.dims = data.codes, data.dims
        self.rows, self.size = len(data.codes.num_codes), one_size("CausalPrior", data.codes)
        self.embedding = CodeEmbedding(self.rows, self.size, config.dim)
        self.listener = Listener(data, config.told, config.dim)
        self.listens = self.listener.droppable
        self.network = Transformer(config.dim, config.depth, config.heads, True, config.window,
                                   self.listener.context_dim, config.dropout, config.remember)
        self.head = nn.Linear(config.dim, self.rows * self.size, bias=False)
        self.bigram = Bigram(self.rows, self.size) if config.bigram else None
        if self.bigram is not None:
            nn.init.zeros_(self.head.weight)  # nothing to add yet

    def count(self, recordings: Callable[[Split], Iterable[NDArray[np.int64]]]) -> None:
        if self.bigram is not None:
            self.bigram.fit(recordings("train"), recordings("valid"))

    def forward(self, codes: Tensor, condition: Condition | None = None) -> Tensor:
        self._check(codes, self.dims)
        grid, codes = codes.shape[2:], codes.flatten(2)
        places = delayed(codes)
        before = F.pad(places, (1, 0), value=ABSENT)[..., :-1]
        logits = self._logits(before, self._told(condition, len(codes), grid))
        wanted = places.transpose(1, 2)  # as the head gives the logits, the largest array here, which is not copied
        nats = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), ignore_index=ABSENT, reduction="none")
        return -undelayed(nats.view_as(wanted).transpose(1, 2)).unflatten(2, grid)

    @torch.inference_mode()
    def sample(self, grid: tuple[int, ...], condition: Condition | None, drawing: Drawing,
               generators: Sequence[torch.Generator], prime: Tensor | None = None,
               progress: Progress | None = None) -> Tensor:
        batch, steps = len(generators), prod(grid)
        given = self._primed(grid, batch, prime).flatten(2)
        told = [self._told(condition, batch, grid, hear) for hear in self._ears(drawing)]
        dice = delayed(numbers(generators, self.rows, steps), absent=0)
        places, there = delayed(given), delayed((given >= 0).long()) > 0
        known = int((there | (delayed(torch.zeros_like(given)) < 0)).all(1).all(0).long().cumprod(0).sum())
        caches = [self.network.caches(batch, places.shape[-1]) for _ in told]
        before = F.pad(places, (1, 0), value=ABSENT)
        wanted = ~there & (delayed(torch.zeros_like(given)) >= 0)
        done = 0
        for place in range(known, places.shape[-1]):
            heads = [self._logits(before[..., done:place + 1], t, c, done)[:, -1]
                     for t, c in zip(told, caches, strict=True)]
            drawn = drawing.draw(drawing.guided(heads[0], heads[1] if len(heads) > 1 else None), dice[..., place])
            drawn = torch.where(wanted[..., place], drawn, places[..., place])
            places[..., place], done = drawn, place + 1
            before[..., place + 1] = drawn
            if progress is not None:
                progress(1)
        return undelayed(places).unflatten(2, grid)

    def _told(self, condition: Condition | None, batch: int, grid: Sequence[int], hear: bool = True) -> Told:
        told = self.listener(condition, batch, grid, hear)
        if told.along is not None:  # row 0 has the steps where they are, the others hear of them in time
            told.along = F.pad(told.along, (0, 0, 0, self.rows - 1))
        return told

    def _logits(self, before: Tensor, told: Told, caches: Caches | None = None, start: int = 0) -> Tensor:
        """What stands before each place (B, Q, S), the first of them ``start`` -> (B, S, Q, K)."""
        x = self.embedding(before) + told.vector[:, None]
        if told.along is not None:
            x = x + told.along[:, start:start + x.shape[1]]
        x = self.network(x, told.context, caches)
        if caches is not None:
            x = x[:, -1:]
        logits = self.head(x).unflatten(-1, (self.rows, self.size))
        return logits if self.bigram is None else logits + self.bigram(before[..., -logits.shape[1]:])


@dataclass(frozen=True)
class CausalConfig(Config):
    """A causal transformer.

    dim, depth, heads : width, layers, heads.
    window : places that each sees, itself among them; 0 for all.
    bigram : whether it begins with the chances of pairs of codes, counted in what it is trained on.
    remember : False computes activations anew for their gradient: less memory, a third more time.
    """

    kind: Literal["causal"] = "causal"
    dim: Count = 256
    depth: Count = 6
    heads: Count = 4
    window: Whole = 0
    bigram: bool = False
    dropout: Decay = 0.0
    remember: bool = True
    told: ToldConfig = ToldConfig()

    def build(self, data: DataSpec) -> CausalPrior:
        return CausalPrior(data, self)
