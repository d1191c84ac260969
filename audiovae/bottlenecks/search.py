"""Nearest codes and sums per code, the two kernels every codebook is made of.

Both stay inside the processor's cache: scores exist for a block of rows at a time, never as an N x K
matrix, and no one-hot matrix is built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.errors import ConfigError
from audiovae.shapes import Scalars

# Scores alive at once on each thread: 4 MiB, which stay in cache. A quarter would do on a quiet machine, but
# threads meet several times a block, and on a busy one each meeting waits for a thread that was sent away.
BLOCK_SCORES = 1 << 20
BLOCK_SCORES_ELSEWHERE = 1 << 26  # accelerators want few, large kernels
RUNS, RUN_WIDTH = 16, 32  # a row of scores is first reduced over at most 16 runs of at least 32 codes


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest code of each row: argmin_k ||x_n - e_k||².

    ||x - e||² falls as x·e - ||e||²/2 rises; both are taken about the codebook's mean, so that a common
    offset costs no precision. The largest score of a row is found in two passes: a vectorised maximum
    over runs of codes, and a search among the few that remain, because an argmax over all K costs more
    than the matrix product does.

    Parameters
    ----------
    x : (N, D).
    codebook : (K, D).

    Returns
    -------
    (N,) int64; of codes equally near, always the same one.

    >>> nearest(torch.tensor([[0.9, 0.2], [-3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    tensor([1, 2])
    """
    x, codebook = x.detach(), codebook.detach()
    table = _table(codebook)
    if torch.compiler.is_compiling():  # an exported graph: its runtime plans memory itself
        return torch.addmm(table.bias, x - table.mean, table.codes.t()).argmax(1)
    block = _block(x, table.runs * table.width)
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    scores, parts = x.new_empty(block, table.runs * table.width), x.new_empty(block, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), block):
            rows = x[start : start + block]
            part = torch.sub(rows, table.mean, out=parts[: len(rows)])
            row = torch.addmm(table.bias, part, table.codes.t(), out=scores[: len(rows)])
            best = row.max(1)[1] if table.runs == 1 else _argmax(row.view(-1, table.runs, table.width))
            codes[start : start + block] = best
    return codes


def beam_search(x: Tensor, codebooks: Sequence[Tensor], beam: int) -> Tensor:
    """A code of each codebook whose sum is near each row: at every stage the ``beam`` nearest sums so far are kept.

    The greedy choice takes the nearest code of one codebook after the other, and what an early one leaves may suit
    the later ones badly. Here each kept sum is tried with every code of the next codebook, and the nearest of all
    these are kept: the M-algorithm of LeBlanc et al. 1993, "Efficient search and design procedures for robust
    multi-stage VQ of LPC parameters". With ``beam`` 1 it is the greedy choice.

    Parameters
    ----------
    x : (N, D).
    codebooks : Q of (K, D).
    beam : sums kept for each row, 1 or more.

    Returns
    -------
    (Q, N) int64.

    >>> codebooks = [torch.tensor([[1.0], [-0.6]]), torch.tensor([[0.0], [1.0]])]
    >>> [beam_search(torch.tensor([[0.4]]), codebooks, beam).flatten().tolist() for beam in (1, 2)]
    [[0, 0], [1, 1]]
    """
    x = x.detach()
    tables = [_table(codebook.detach()) for codebook in codebooks]
    if torch.compiler.is_compiling():
        return _beam_search(x, codebooks, tables, beam)
    width = max(table.runs * table.width for table in tables)
    block = _block(x, beam * width)
    scores = x.new_empty(block * beam * width)
    with torch.autocast(x.device.type, enabled=False):
        return torch.cat([_beam_search(rows, codebooks, tables, beam, scores) for rows in x.split(block)], dim=1)


def checked_beam(beam: int) -> int:
    """``beam`` itself; ConfigError where it is no width of a search.

    >>> checked_beam(0)
    Traceback (most recent call last):
    audiovae.errors.ConfigError: a search for codes wants a beam of 1 or more, got 0.
    """
    if beam < 1:
        raise ConfigError(f"a search for codes wants a beam of 1 or more, got {beam}.")
    return beam


def _beam_search(x: Tensor, codebooks: Sequence[Tensor], tables: "Sequence[_Table]", beam: int,
                 buffer: Tensor | None = None) -> Tensor:
    left = x[:, None]  # (N, P, D): what each of P kept sums still misses
    codes: list[Tensor] = []  # (N, P) of each codebook so far
    for codebook, table in zip(codebooks, tables, strict=True):
        paths, runs, width = left.shape[1], table.runs, table.width
        about = (left - table.mean).flatten(0, 1)
        out = None if buffer is None else buffer[: len(about) * runs * width].view(-1, runs * width)
        scores = torch.addmm(table.bias, about, table.codes.t(), out=out).view(-1, paths * runs, width)
        missed = about.square().sum(1).mul_(0.5).view(-1, paths)  # `nearest` need not: it is the same for every code
        largest = scores.amax(2).view(-1, paths, runs).sub_(missed[:, :, None]).flatten(1)
        run = largest.topk(min(beam, paths * runs))[1]  # no other run can hold one of the best
        rivals = scores.gather(1, run[:, :, None].expand(-1, -1, width)).sub_(missed.gather(1, run // runs)[:, :, None])
        place = rivals.flatten(1).topk(min(beam, paths * len(codebook)))[1]
        run = run.gather(1, place // width)
        path, code = run // runs, run % runs * width + place % width
        left = left.gather(1, path[:, :, None].expand(-1, -1, x.shape[1])) - F.embedding(code, codebook)
        codes = [*(its.gather(1, path) for its in codes), code]
    return torch.stack([its[:, 0] for its in codes])


@dataclass(frozen=True)
class _Table:
    """A codebook about its mean, made up to ``runs`` runs of ``width`` codes by some that are never nearest.

    mean : (D,); codes : (runs * width, D), the codes less the mean; bias : (runs * width,), -||code||²/2.
    """

    mean: Tensor
    codes: Tensor
    bias: Tensor
    runs: int
    width: int


def _table(codebook: Tensor) -> _Table:
    runs = min(max(len(codebook) // RUN_WIDTH, 1), RUNS)
    mean, width = codebook.mean(0), -(-len(codebook) // runs)
    codes, padding = codebook - mean, runs * width - len(codebook)
    bias = codes.square().sum(1).mul_(-0.5)
    if padding:
        codes, bias = F.pad(codes, (0, 0, 0, padding)), F.pad(bias, (0, padding), value=-torch.inf)
    return _Table(mean, codes, bias, runs, width)


def _block(x: Tensor, scores: int) -> int:
    """How many rows of ``x`` at once, of so many scores each."""
    budget = BLOCK_SCORES * torch.get_num_threads() if x.device.type == "cpu" else BLOCK_SCORES_ELSEWHERE
    return max(min(budget // scores, len(x)), 1)


def _argmax(scores: Tensor) -> Tensor:
    """(N, R, W) -> (N,), the place of the largest of the R·W scores of each row."""
    column = scores.amax(1).max(1)[1]
    rivals = scores.gather(2, column[:, None, None].expand(-1, scores.shape[1], 1))
    return rivals.squeeze(2).max(1)[1].mul_(scores.shape[2]).add_(column)


def tally(codes: Tensor, num_codes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """How often each code occurs, (N,) -> (K,).

    >>> tally(torch.tensor([2, 0, 2]), num_codes=4)
    tensor([1., 0., 2., 0.])
    """
    ones = torch.ones(codes.shape, dtype=dtype, device=codes.device)
    return ones.new_zeros(num_codes).index_add_(0, codes, ones)


def sums(x: Tensor, codes: Tensor, num_codes: int) -> Tensor:
    """The sum of the rows of each code, (N, D) and (N,) -> (K, D).

    >>> sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 1]), num_codes=2)
    tensor([[0., 0.], [4., 6.]])
    """
    return x.new_zeros(num_codes, x.shape[1]).index_add_(0, codes, x)


def usage(counts: Tensor | Callable[[], Tensor], num_codes: int) -> Scalars:
    """Perplexity exp(H) of the codes of a batch, and the share of the K codes it used.

    Counts that cost something come as a function, called once and only when either is asked for.

    >>> dict(usage(torch.tensor([4.0, 4.0, 0.0, 0.0]), num_codes=4))
    {'perplexity': tensor(2.), 'usage': tensor(0.5000)}
    """
    found = (lambda: counts) if isinstance(counts, Tensor) else cache(counts)
    return Scalars(perplexity=lambda: torch.special.entr(found() / found().sum()).sum().exp(),
                   usage=lambda: (found() > 0).sum() / num_codes)
