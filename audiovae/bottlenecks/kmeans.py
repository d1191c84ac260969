"""k-means, so that a codebook starts on the data instead of beside it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.bottlenecks.search import nearest, sums, tally

PASSES = 10


def kmeans(
    x: Tensor, num_codes: int, generator: torch.Generator, unit: bool = False
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random rows; an empty cluster takes another random row.

    Parameters
    ----------
    x : (M, D) vectors; where M < K some codes begin as copies.
    num_codes : K.
    generator : on the CPU; the same seed gives the same codes.
    unit : keep the codes on the unit sphere (spherical k-means).

    Returns
    -------
    The codes (K, D), and the number of vectors nearest to each (K,) in the last pass.

    >>> x = torch.tensor([[0.0], [0.2], [9.0], [9.2]])
    >>> codes, counts = kmeans(x, 2, torch.Generator().manual_seed(0))
    >>> codes.flatten().sort()[0], counts
    (tensor([0.1000, 9.1000]), tensor([2., 2.]))
    """
    order = torch.randperm(len(x), generator=generator).to(x.device)
    codes = x[order[torch.arange(num_codes, device=x.device) % len(x)]]
    counts = x.new_zeros(num_codes)
    for _ in range(PASSES):
        index = nearest(x, codes)
        counts = tally(index, num_codes, x.dtype)
        means = sums(x, index, num_codes) / counts.clamp(min=1)[:, None]
        spare = torch.randint(len(x), (num_codes,), generator=generator).to(x.device)
        codes = torch.where(counts[:, None] > 0, means, x[spare])
        if unit:
            codes = F.normalize(codes, dim=1)
    return codes, counts
