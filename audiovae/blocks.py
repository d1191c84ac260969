"""Long data in blocks with a halo: what comes out is what the whole would give, in constant memory.

A block is a fixed number of latent steps, counted from the start of the recording whatever the pieces
the data arrives in, so the result does not depend on where the input was cut, to the last bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from audiovae.nn.field import Field, Part


def halo(field: Field, unit: int) -> tuple[int, int]:
    """Latent steps to be seen before and after a block of them, by a field over data of ``unit`` entries a step.

    >>> halo(Field.conv(kernel=8, stride=4, padding=2), unit=4), halo(Field.transposed(8, stride=4, padding=2), unit=1)
    ((1, 1), (1, 1))
    """
    return math.ceil(math.floor(field.left) / unit), math.floor((unit - field.stride + field.right) / unit)


def encoder_halo(field: Field) -> tuple[int, int]:
    """Latent steps an encoder must see before and after a block, by its field in samples.

    >>> encoder_halo(Field.conv(kernel=8, stride=4, padding=2))
    (1, 1)
    """
    return halo(field, int(field.stride))


def decoder_halo(field: Field) -> tuple[int, int]:
    """Latent steps a decoder must see before and after a block, by its field in latent steps.

    >>> decoder_halo(Field.transposed(kernel=8, stride=4, padding=2))
    (1, 1)
    """
    return halo(field, 1)


def windows(start: int, end: int, last: int, halo: tuple[int, int], block: int) -> Iterator[tuple[int, int, int, int]]:
    """Blocks of latent steps ``start`` to ``end``, each with the window that gives it: (start, stop, low, high).

    ``last`` is where the data ends, as far as it is known.

    >>> list(windows(0, 10, 10, halo=(1, 2), block=4))
    [(0, 4, 0, 6), (4, 8, 3, 10), (8, 10, 7, 10)]
    """
    for first in range(start, end, block):
        stop = min(first + block, end)
        yield first, stop, max(0, first - halo[0]), min(stop + halo[1], last)


def padded(pieces: Iterable[Tensor], channels: int, hop: int) -> Iterator[Tensor]:
    """The pieces (..., n), then the zeros (channels, m) that complete the last latent step of ``hop`` entries.

    >>> [piece.shape[-1] for piece in padded([torch.ones(5), torch.ones(4)], channels=1, hop=4)]
    [5, 4, 3]
    """
    total = 0
    for piece in pieces:
        total += piece.shape[-1]
        yield piece
    if total % hop:
        yield torch.zeros(channels, hop - total % hop)


def blockwise(pieces: Iterable[Tensor], process: Callable[[Tensor], Tensor], halo: tuple[int, int],
              block: int, unit_in: int, unit_out: int, lead: int = 0) -> Iterator[Tensor]:
    """Apply ``process`` to a stream cut along its last axis, block by block.

    Parameters
    ----------
    pieces : tensors (..., n) of any lengths n, together a multiple of ``unit_in``.
    process : maps (..., k * unit_in) to (..., k * unit_out) and looks no further than ``halo``.
    halo, block : in latent steps.
    unit_in, unit_out : entries a latent step takes before and after ``process``.
    lead : latent steps of a first, shorter block, where the others are to end later by as many.

    >>> pieces = [torch.arange(3.0), torch.arange(3.0, 10.0)]
    >>> torch.cat(list(blockwise(pieces, lambda x: 2 * x, (1, 1), block=4, unit_in=1, unit_out=1)))
    tensor([ 0.,  2.,  4.,  6.,  8., 10., 12., 14., 16., 18.])
    """
    left, right = halo
    held: list[Tensor] = []  # what has come and is still needed; starts at latent step `first`
    first = done = steps = 0  # steps: whole latent steps that have come

    def emit(end: int, last: int) -> Iterator[Tensor]:
        nonlocal first, done, held
        for start, stop, low, high in windows(done, end, last, halo, block):
            buffer = held[0] if len(held) == 1 else torch.cat(held, dim=-1)
            window = buffer[..., (low - first) * unit_in:(high - first) * unit_in]
            yield process(window)[..., (start - low) * unit_out:(stop - low) * unit_out]
            done = stop
            keep = max(0, done - left)
            held, first = [buffer[..., (keep - first) * unit_in:]], keep

    entries = 0
    for piece in pieces:
        held.append(piece)
        entries += piece.shape[-1]
        steps = entries // unit_in
        ready = (steps - right - lead) // block * block + lead  # only whole blocks whose halo is there
        if lead and not done and ready >= lead:
            yield from emit(lead, steps)
        if ready > done:
            yield from emit(ready, steps)
    if entries % unit_in:
        raise ValueError(f"blockwise wants a multiple of {unit_in} entries, got {entries}")
    yield from emit(steps, steps)


def partwise(pieces: Iterable[Tensor], parts: Iterable[Part], block: int, unit: int) -> Iterator[Tensor]:
    """:func:`blockwise` for each part of a network in turn, instead of for the whole of it.

    What a part still needs of its past is kept, not computed again from the data: for blocks shorter than the
    halo of the whole, down to a single latent step, most of the work is saved.

    Parameters
    ----------
    pieces : tensors (..., n) of any lengths n, together a multiple of ``unit``.
    parts : functions of (..., n), first to last, with their fields.
    block, unit : latent steps at once, and the entries of a latent step in the pieces.

    >>> from torch.nn.functional import pad
    >>> difference = lambda x: x - pad(x, (1, 0))[..., :-1]
    >>> parts = [(difference, Field.conv(kernel=2, padding=1))] * 2
    >>> torch.cat(list(partwise([torch.tensor([1.0, 4.0, 9.0, 16.0])], parts, block=1, unit=1)))
    tensor([1., 2., 2., 2.])
    """
    stream, parts = iter(pieces), list(parts)
    later = part_halo(parts, unit)[1]  # what the parts still to come wait for: their blocks end as much earlier
    for process, field in parts:
        sides, unit_out = halo(field, unit), int(unit / field.stride)
        later -= sides[1]
        stream = blockwise(stream, process, sides, block, unit, unit_out, later % block)
        unit = unit_out
    return stream


def part_halo(parts: Iterable[Part], unit: int) -> tuple[int, int]:
    """Latent steps that :func:`partwise` sees before and after a block: the sums of those of every part.

    >>> part_halo([(torch.relu, Field.conv(8, stride=4, padding=2)), (torch.relu, Field.conv(3, padding=1))], unit=4)
    (2, 2)
    """
    left = right = 0
    for _, field in parts:
        sides = halo(field, unit)
        left, right, unit = left + sides[0], right + sides[1], int(unit / field.stride)
    return left, right
