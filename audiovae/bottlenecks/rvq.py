"""Residual vector quantization: Q codebooks, each coding what the ones before left over.

Zeghidour et al. 2021 (SoundStream), section III-C; one stage is the VQ of van den Oord et al. 2017.
"""

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import ranks
from audiovae.bottlenecks.base import Bottleneck, check_codes, check_finite, check_some
from audiovae.bottlenecks.codebook import Codebook, CodebookConfig
from audiovae.bottlenecks.gradients import CodebookLoss, StraightThrough
from audiovae.bottlenecks.search import beam_search, nearest, tally, usage
from audiovae.errors import ConfigError
from audiovae.shapes import Latent, Scalars, check, rows, unrows

COLLECT_PER_CODE = 32  # vectors k-means sees for each code, at most


@dataclass(frozen=True)
class RVQConfig(CodebookConfig):
    """Settings of :class:`ResidualQuantizer`; each of the Q codebooks has ``num_codes`` codes.

    quantizer_dropout : share of training examples whose number of stages is drawn uniformly from 1 to Q.
    unquantized : share of training examples whose z is z_e itself, so that a decoder learns to read both (as in Moshi's
        codec, Défossez et al. 2024).
    beam : sums kept while codes are searched for in ``forward``, see
        :func:`audiovae.bottlenecks.search.beam_search`; with 1 each stage's code is the nearest.

    >>> RVQConfig(num_codes=1024, num_quantizers=4).build(dims=1).num_codes
    (1024, 1024, 1024, 1024)
    """

    kind: Literal["rvq"] = "rvq"
    num_quantizers: int = 8
    quantizer_dropout: float = 0.0
    unquantized: float = 0.0
    beam: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.quantizer_dropout, self.unquantized)
        if min(self.num_quantizers, self.beam) < 1 or min(shares) < 0 or max(shares) > 1:
            raise ConfigError(
                f"RVQConfig wants num_quantizers and beam of 1 or more and quantizer_dropout and unquantized in "
                f"[0, 1], got {self.num_quantizers}, {self.beam} and {shares}."
            )

    def build(self, dims: int) -> "ResidualQuantizer":
        return ResidualQuantizer(
            self, self.num_quantizers, dims, self.quantizer_dropout, beam=self.beam, unquantized=self.unquantized
        )


class ResidualQuantizer(Bottleneck):
    """Q nearest-code stages; stage q codes r_q = z_e - Σ_{j<q} sg(e_j), and z is the sum of the codes.

    The gradient of z is that of z_e (straight through). ``losses["commitment"]`` is Σ_q of the mean over
    elements of ||r_q - sg(e_q)||²: every stage pulls on z_e. ``losses["codebook"]``, there for a
    loss-trained codebook, is the same with sg on the other side. There is no cosine geometry here: residuals
    have no common length.

    With quantizer dropout the first n stages of an example count: later ones add nothing to z, losses or
    rate, while ``codes`` holds all Q and every codebook still learns from every residual. The rate is
    L · n · log K nats. An example passed unquantized differs in z alone. Vectors in training before k-means
    pass unquantized: then ``stats["bypass"]`` is 1.

    Parameters
    ----------
    config : codebooks, see :class:`CodebookConfig`.
    num_quantizers : Q.
    dims : 1 or 2 grid axes.
    quantizer_dropout : share of examples cut to a random number of stages in training.
    beam : how widely ``forward`` searches for codes, those of an example's first n stages together.
    unquantized : share of examples whose z is z_e in training.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid), codes (B, Q, *grid) int64, rate (B,) nats.

    Raises
    ------
    ShapeError
        On another shape, or values that are not finite.

    >>> rvq = RVQConfig(num_codes=16, dim=4, num_quantizers=3).build(dims=1)
    >>> latent = rvq(torch.randn(2, 4, 50))
    >>> latent.codes.shape
    torch.Size([2, 3, 50])
    >>> rvq.decode(latent.codes[:, :2]).shape
    torch.Size([2, 4, 50])
    """

    step: Tensor
    collected: Tensor

    def __init__(
        self,
        config: CodebookConfig,
        num_quantizers: int,
        dims: int = 1,
        quantizer_dropout: float = 0.0,
        unit: bool = False,
        beam: int = 1,
        unquantized: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.channels_in = self.channels_out = config.dim
        self.num_codes = (config.num_codes,) * num_quantizers
        self.dims = dims
        self.unit = unit
        self.quantizer_dropout, self.beam, self.unquantized = quantizer_dropout, beam, unquantized
        self.books = nn.ModuleList(Codebook(config, unit) for _ in self.num_codes)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("collected", torch.empty(0, config.dim))

    def forward(self, h: Tensor) -> Latent:
        z_e = self._prepare(h)
        check_some(type(self).__name__, h)
        bypass = self.training and self._warm_up(z_e.detach())
        latent = self._quantize(h, z_e, self._draw_kept(h), learn=self.training and not bypass)
        if bypass:
            latent.z = unrows(z_e, h)
            latent.losses = {name: 0.0 * loss for name, loss in latent.losses.items()}
        elif self.training and self.unquantized:
            passed = self._drawn(h, self.unquantized, stage=len(self.books) + 1)[0]
            latent.z = torch.where(passed.view(-1, *[1] * (self.dims + 1)), unrows(z_e, h), latent.z)
        latent.stats["bypass"] = z_e.new_tensor(float(bypass))
        if self.training:
            self.step += 1
        return latent

    @torch.no_grad()
    def encode(self, h: Tensor, stages: int | None = None, beam: int = 1) -> Tensor:
        """(B, D, *grid) -> codes (B, Q, *grid) int64, or those of the first ``stages`` alone.

        With a ``beam`` of several the codes of all stages together are nearer to h than each stage's nearest, which
        costs about as many times the search: see :func:`audiovae.bottlenecks.search.beam_search`.
        """
        left = self._prepare(h)
        tables = self._tables()[:stages]
        if beam > 1 and len(tables) > 1:
            return unrows(beam_search(left, tables, beam).t(), h)
        codes = []
        for table in tables:
            codes.append(nearest(left, table))
            left = left - F.embedding(codes[-1], table)
        return unrows(torch.stack(codes, dim=1), h)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, n, *grid) of the first n of Q stages -> z (B, D, *grid).

        Raises
        ------
        ShapeError
            Where the codes are not integers from 0 to K - 1 of that shape.
        """
        check_codes(type(self).__name__, codes, self.num_codes, self.dims)
        stages = zip(codes.unbind(1), self._tables(), strict=False)  # codes may end early
        return reduce(torch.add, (F.embedding(*stage) for stage in stages)).movedim(-1, 1)

    @torch.no_grad()
    def continuous(self, h: Tensor) -> Tensor:
        return unrows(self._prepare(h), h)

    def _tables(self) -> list[Tensor]:
        return [book.table() for book in self._books()]

    def _books(self) -> list[Codebook]:
        return cast(list[Codebook], list(self.books))

    def _prepare(self, h: Tensor) -> Tensor:
        """Rows (N, D) in the codebooks' own precision, whatever autocast says, on the scale asked for."""
        owner = type(self).__name__
        check(owner, h, self.channels_in, self.dims, letter="D")
        check_finite(owner, h)
        x = rows(h.to(self.collected.dtype)).contiguous()  # one example alone would be a transposed view
        x = F.layer_norm(x, x.shape[1:]) if self.config.standardize else x
        return F.normalize(x, dim=1) if self.unit else x

    def _quantize(self, h: Tensor, z_e: Tensor, kept: Tensor | None, learn: bool) -> Latent:
        """All stages without a graph, then one node for z and the commitment, one a stage for the codes."""
        left, step = z_e.detach(), int(self.step)
        z = pull = commitment = left.new_zeros(())
        codes, codebook_losses, stats = [], [], []
        searched = self._search(left, kept)
        for stage, book in enumerate(self._books()):
            table = book.table()
            index = nearest(left, table) if searched is None else self._completed(searched[stage], left, table)
            code = F.embedding(index, table.detach())
            rest = left - code
            missed = rest
            if kept is not None:
                mask = (kept > stage).to(rest.dtype).repeat_interleave(len(rest) // len(kept))[:, None]
                code, missed = code * mask, rest * mask
            loss = torch.dot(missed.view(-1), missed.view(-1)) / missed.numel()
            parts = (code, missed, loss)
            z, pull, commitment = parts if stage == 0 else (z.add_(code), pull + missed, commitment + loss)
            if self.config.codebook == "loss":
                codebook_losses.append(CodebookLoss.apply(table, index, missed, loss))
            counts = book.update(left, index, step, stage) if learn else tally(index, len(table))
            stats.append(usage(counts, len(table)))
            codes.append(index)
            left = rest
        z, commitment = StraightThrough.apply(z_e, z, pull, commitment)  # type: ignore[misc]
        losses = {"commitment": commitment}
        if codebook_losses:
            losses["codebook"] = reduce(torch.add, codebook_losses)
        return Latent(
            z=unrows(z, h),
            rate=self._rate(h, kept),
            codes=unrows(torch.stack(codes, dim=1), h),
            losses=losses,
            stats=Scalars.mean(stats),
        )

    def _search(self, x: Tensor, kept: Tensor | None) -> Tensor | None:
        """Codes (Q, N) by the beam, -1 in the stages that an example does not keep; None without one."""
        if self.beam == 1 or len(self.books) == 1:
            return None
        tables = self._tables()
        if kept is None:
            return beam_search(x, tables, self.beam)
        codes = torch.full((len(tables), len(x)), -1, device=x.device)
        for count in kept.unique().tolist():
            its = (kept == count).repeat_interleave(len(x) // len(kept))
            codes[:count, its] = beam_search(x[its], tables[:count], self.beam)
        return codes

    @staticmethod
    def _completed(index: Tensor, left: Tensor, table: Tensor) -> Tensor:
        """Codes (N,) with the nearest where there is none yet."""
        missing = index < 0
        return index.masked_scatter(missing, nearest(left[missing], table)) if missing.any() else index

    def _rate(self, h: Tensor, kept: Tensor | None) -> Tensor:
        stages = h.new_full((len(h),), len(self.books)) if kept is None else kept
        return stages.to(self.collected.dtype) * (h[0, 0].numel() * math.log(self.config.num_codes))

    def _draw_kept(self, h: Tensor) -> Tensor | None:
        """How many stages each example (B,) keeps, drawn for the examples of all processes at once."""
        if not self.training or self.quantizer_dropout == 0:
            return None
        cut, drawn = self._drawn(h, self.quantizer_dropout, stage=len(self.books))
        return torch.where(cut, drawn, len(self.books))

    def _drawn(self, h: Tensor, share: float, stage: int) -> tuple[Tensor, Tensor]:
        """Which examples (B,) are of a ``share`` of them, and for each a number of stages from 1 to Q."""
        first, total = ranks.span(len(h), h.device)
        generator = ranks.generator(int(self.step), stage)
        chosen = torch.rand(total, generator=generator) < share
        counts = torch.randint(1, len(self.books) + 1, (total,), generator=generator)
        return chosen[first : first + len(h)].to(h.device), counts[first : first + len(h)].to(h.device)

    @torch.no_grad()
    def _warm_up(self, x: Tensor) -> bool:
        """Collect vectors or, when it is time, start the codebooks on them; True while z must pass as is."""
        step, after = int(self.step), self.config.kmeans_after
        if step > after:
            return False
        wanted = COLLECT_PER_CODE * self.config.num_codes
        if after == 0:
            self._start(self._sample(x, wanted, step), x, step)
        elif step < after:
            self.collected = torch.cat([self.collected, self._sample(x, -(-wanted // after), step)])
        else:
            self._start(self.collected, x, step)
            self.collected = x.new_empty(0, x.shape[1])
        return step < after

    def _sample(self, x: Tensor, wanted: int, step: int) -> Tensor:
        _, total = ranks.span(len(x), x.device)
        order = torch.randperm(total, generator=ranks.generator(step))
        return ranks.pick(x, order[:wanted].to(x.device))

    def _start(self, sample: Tensor, x: Tensor, step: int) -> None:
        _, total = ranks.span(len(x), x.device)
        for stage, book in enumerate(self._books()):
            book.start(sample, total, step, stage)
            table = book.table()
            sample = sample - F.embedding(nearest(sample, table), table)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Vectors collected before k-means are as many as the saved step had: make room for them."""
        saved = state_dict.get(f"{prefix}collected")
        if saved is not None:
            self.collected = self.collected.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def searched(bottleneck: Bottleneck, h: Tensor, stages: int | None = None, beam: int = 1) -> Tensor:
    """h (B, D, *grid) to the codes of any bottleneck: of a residual quantizer as told, others have nothing to search.

    Raises ConfigError where ``stages`` are asked of another.

    >>> searched(RVQConfig(num_codes=8, dim=4, num_quantizers=3).build(dims=1), torch.randn(1, 4, 5), stages=2).shape
    torch.Size([1, 2, 5])
    """
    if isinstance(bottleneck, ResidualQuantizer):
        return bottleneck.encode(h, stages, beam)
    if stages is not None:
        raise ConfigError(f"{type(bottleneck).__name__} has no stages to choose from: leave stages out.")
    return bottleneck.encode(h)
