"""Nearest codes and sums per code, the two kernels every codebook is made of.

Both stay inside the processor's cache: scores exist for a block of rows at a time, never as an N x K
matrix, and no one-hot matrix is built.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

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
    num_codes = len(codebook)
    mean = codebook.mean(0)
    centred = codebook - mean
    bias = centred.square().sum(1).mul_(-0.5)
    if torch.compiler.is_compiling():  # an exported graph: its runtime plans memory itself
        return torch.addmm(bias, x - mean, centred.t()).argmax(1)
    runs = min(max(num_codes // RUN_WIDTH, 1), RUNS)
    width = -(-num_codes // runs)
    if padding := runs * width - num_codes:
        centred, bias = F.pad(centred, (0, 0, 0, padding)), F.pad(bias, (0, padding), value=-torch.inf)
    budget = BLOCK_SCORES * torch.get_num_threads() if x.device.type == "cpu" else BLOCK_SCORES_ELSEWHERE
    block = max(min(budget // (runs * width), len(x)), 1)
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    scores, parts, transposed = x.new_empty(block, runs * width), x.new_empty(block, x.shape[1]), centred.t()
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), block):
            rows = x[start : start + block]
            part = torch.sub(rows, mean, out=parts[: len(rows)])
            row = torch.addmm(bias, part, transposed, out=scores[: len(rows)])
            codes[start : start + block] = row.max(1)[1] if runs == 1 else _argmax(row.view(-1, runs, width))
    return codes


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
