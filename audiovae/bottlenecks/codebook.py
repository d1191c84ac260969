"""A codebook: K vectors, how they learn from what is assigned to them, and how dead ones are revived."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import ranks
from audiovae.bottlenecks.kmeans import kmeans
from audiovae.bottlenecks.search import sums, tally
from audiovae.config import Config
from audiovae.errors import ConfigError

SMOOTHING = 1e-5  # of a count, so that a code nobody chose does not divide by zero


@dataclass(frozen=True)
class CodebookConfig(Config):
    """What every bottleneck with a learned codebook can be told.

    num_codes : K.
    dim : D, width of one code.
    codebook : "ema" moves codes to the running mean of their vectors; "loss" trains them by gradient.
    decay : EMA factor of counts and sums per step.
    standardize : zero mean and unit variance over D before quantization, so that one scale fits all.
    kmeans_after : training steps that pass z unquantized while vectors are collected; then k-means sets
        the codes. 0 is k-means on the first batch.
    dead_threshold : a code is dead below this share of the count N/K it would have if all were equal.
    restart_count : a revived code begins with this share of N/K, so that it lives long enough to be chosen.
    """

    num_codes: int = 512
    dim: int = 64
    codebook: Literal["ema", "loss"] = "ema"
    decay: float = 0.99
    standardize: bool = False
    kmeans_after: int = 0
    dead_threshold: float = 0.1
    restart_count: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.num_codes < 1 or self.dim < 1:
            raise ConfigError(f"{name} wants num_codes, dim >= 1, got {self.num_codes}, {self.dim}.")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"{name} wants a decay in [0, 1), got {self.decay}.")
        if self.kmeans_after < 0:
            raise ConfigError(f"{name} wants kmeans_after of 0 or more steps, got {self.kmeans_after}.")
        if not 0 <= self.dead_threshold < self.restart_count:
            raise ConfigError(
                f"{name} wants 0 <= dead_threshold < restart_count, got {self.dead_threshold} and "
                f"{self.restart_count}: a revived code would be dead at once."
            )


class Codebook(nn.Module):
    """K codes of width D with the running counts and sums of what was assigned to them.

    N_k <- γ N_k + (1 - γ) n_k,  m_k <- γ m_k + (1 - γ) Σ x,  e_k = m_k / N_k (van den Oord 2017, A.1, with
    the counts smoothed as (N_k + ε) / (N + K ε) · N). All of it is saved with the model.

    Parameters
    ----------
    config : see :class:`CodebookConfig`.
    unit : codes are read on the unit sphere, where the nearest by angle is the nearest by distance.

    Shapes: vectors (K, D), counts (K,), sums (K, D); rows x (N, D).

    >>> book = Codebook(CodebookConfig(num_codes=2, dim=1, decay=0.5))
    >>> book.start(torch.tensor([[0.0], [1.0]]), rows_per_step=2, step=0, stage=0)
    >>> counts = book.update(torch.tensor([[0.0], [2.0]]), book.vectors.sort(0)[1][:, 0], step=1, stage=0)
    >>> counts, book.table().sort(0)[0].flatten()
    (tensor([1., 1.]), tensor([0.0000, 1.5000]))
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, config: CodebookConfig, unit: bool = False) -> None:
        super().__init__()
        self.config = config
        self.unit = unit
        vectors = torch.randn(config.num_codes, config.dim)
        self.register_buffer("counts", torch.zeros(config.num_codes))
        if config.codebook == "loss":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
            self.register_buffer("sums", torch.zeros_like(vectors))

    def table(self) -> Tensor:
        """The codes (K, D) as they are compared and looked up."""
        return F.normalize(self.vectors, dim=1) if self.unit else self.vectors

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor, step: int, stage: int) -> Tensor:
        """Learn from rows and the codes they chose, on all processes; the counts (K,) of this batch."""
        keep = self.config.decay
        counts = ranks.all_sum(tally(codes, self.config.num_codes, x.dtype))
        self.counts.lerp_(counts, 1 - keep)
        if self.config.codebook == "ema":
            self.sums.lerp_(ranks.all_sum(sums(x, codes, self.config.num_codes)), 1 - keep)
            total = self.counts.sum()
            smooth = (self.counts + SMOOTHING) / (total + len(counts) * SMOOTHING) * total
            self.vectors.copy_(self.sums / smooth[:, None])
        self._revive(x, counts.mean(), step, stage)
        return counts

    @torch.no_grad()
    def start(self, x: Tensor, rows_per_step: int, step: int, stage: int) -> None:
        """Set the codes by k-means on the rows x (M, D), as if a step had ``rows_per_step`` of them."""
        generator = ranks.generator(step, stage)
        vectors, counts = kmeans(x, self.config.num_codes, generator, self.unit)
        self.vectors.copy_(vectors)
        self.counts.copy_(counts * (rows_per_step / len(x)))
        if self.config.codebook == "ema":
            self.sums.copy_(vectors * self.counts[:, None])

    def _revive(self, x: Tensor, fair: Tensor, step: int, stage: int) -> None:
        """Put each dead code on a random row, with a count and a sum that keep it there.

        ``fair`` is N/K, so that what is dead does not depend on the batch's size. With the old sum left in
        place the next update would pull the code straight back to where nobody chose it.
        """
        dead = self.counts < self.config.dead_threshold * fair
        revived = int(dead.sum())
        if not revived:
            return
        _, total = ranks.span(len(x), x.device)
        order = torch.randperm(total, generator=ranks.generator(step, stage))
        index = order[torch.arange(revived) % total]  # no row twice unless there are fewer rows than codes
        rows = ranks.pick(x, index.to(x.device))
        count = self.config.restart_count * fair
        self.counts[dead] = count
        self.vectors[dead] = rows
        if self.config.codebook == "ema":
            self.sums[dead] = rows * count
