"""One codebook over many processes: statistics are summed, and rows picked, over all of their batches.

Every process calls these together, in training only. With one process they cost nothing.
"""

import torch
from torch import Tensor
from torch import distributed as dist


def _size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """``x`` summed over the processes, in place.

    >>> all_sum(torch.ones(2))
    tensor([1., 1.])
    """
    if _size() > 1:
        dist.all_reduce(x)
    return x


def span(length: int, device: torch.device) -> tuple[int, int]:
    """Where this process' ``length`` rows begin among those of all, in rank order, and how many there are.

    >>> span(10, torch.device("cpu"))
    (0, 10)
    """
    if _size() == 1:
        return 0, length
    lengths = torch.zeros(_size(), dtype=torch.int64, device=device)
    lengths[dist.get_rank()] = length
    dist.all_reduce(lengths)
    return int(lengths[: dist.get_rank()].sum()), int(lengths.sum())


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` of the x of all processes, joined in rank order; the same on each process.

    Only the rows picked travel, not the batches.

    >>> pick(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0]))
    tensor([[3.], [1.]])
    """
    if _size() == 1:
        return x[index]
    start, _ = span(len(x), x.device)
    mine = (index >= start) & (index < start + len(x))
    rows = x.new_zeros(len(index), x.shape[1])
    rows[mine] = x[index[mine] - start]
    return all_sum(rows)


def generator(step: int, stage: int = 0) -> torch.Generator:
    """Random numbers that depend on the training step and the stage only: the same on each process.

    They neither read nor move the global random state, so a resumed run draws what the first would have.

    >>> torch.equal(torch.rand(3, generator=generator(5)), torch.rand(3, generator=generator(5)))
    True
    """
    return torch.Generator().manual_seed(step * 65_537 + stage)
