"""Latents brought to a voice's own, so that less is left in them of who spoke first.

All of a recording's together are brought to where the voice's lie (:mod:`audiovae.transport`), then each goes towards
the nearest of them. What these hold nearest to a latent says nearly the same, in the target's voice: where kNN-VC (Baas
2023, section 3) takes the mean of these neighbours for it, it goes a part of the way there.
"""

from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from audiovae.codec import BLOCK
from audiovae.errors import ConfigError, ShapeError
from audiovae.transport import Moments, Transport

NEIGHBOURS = 4
IN_MEMORY = 1 << 24  # bytes of a recording's latents, 20 minutes of them: of longer ones they lie in a temporary file
ROWS = 512  # latents compared at a time: all distances at once would be too many
LEAST = 1e-3  # of a distance: a neighbour that is the latent itself outweighs the others, and divides by no zero


def retrieved(latents: Tensor, bank: Tensor, share: float, neighbours: int = NEIGHBOURS) -> Tensor:
    """Latents (1, D, L), each moved by ``share`` of the way to the mean of those nearest to it in ``bank`` (D, N).

    Neighbours count by the inverse square of their distance. Each latent is moved by itself, so that blocks = whole.

    Raises ConfigError on a share that :func:`check_share` refuses, ShapeError on an empty bank or another D.

    >>> bank = torch.tensor([[0.0, 10.0], [0.0, 0.0]])
    >>> retrieved(torch.tensor([[[2.0], [0.0]]]), bank, share=0.5, neighbours=1)
    tensor([[[1.],
             [0.]]])
    """
    check_share(share)
    if len(latents) != 1 or latents.shape[1] != bank.shape[0] or not bank.shape[1]:
        raise ShapeError(f"retrieval wants latents (1, D, L) and a bank (D, N) of one or more, got "
                         f"{tuple(latents.shape)} and {tuple(bank.shape)}.")
    if share == 0:
        return latents
    known, moved = bank.t().contiguous(), []
    for rows in latents[0].t().split(ROWS):
        distance, which = torch.cdist(rows, known).topk(min(neighbours, len(known)), largest=False)
        weight = distance.clamp(min=LEAST) ** -2
        near = ((weight / weight.sum(1, keepdim=True))[..., None] * known[which]).sum(1)
        moved.append(torch.lerp(rows, near, share))
    return torch.cat(moved).t()[None]


def check_share(share: float, name: str = "retrieval") -> None:
    """ConfigError unless it is from 0 to 1."""
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} wants a share from 0 (none) to 1 (all the way), got {share}.")


class Kept:
    """Blocks (D, n) of float32, put side by side to (D, L), of which stretches are read: any length in constant memory.

    >>> kept = Kept(np.full((2, 3), n, np.float32) for n in range(4))
    >>> len(kept), kept[5:7]
    (12, tensor([[1., 2.],
            [1., 2.]]))
    """

    def __init__(self, blocks: Iterable[np.ndarray]):
        self.file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - it lives as long as this does
        finalize(self, self.file.close)
        self.length = self.width = 0
        for block in blocks:
            self.width, self.length = len(block), self.length + block.shape[1]
            self.file.write(np.ascontiguousarray(block.T, np.float32).tobytes())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, span: slice) -> Tensor:
        low, high, _ = span.indices(self.length)
        self.file.seek(4 * self.width * low)
        read = bytearray(self.file.read(4 * self.width * (high - low)))
        return torch.frombuffer(read, dtype=torch.float32).view(-1, self.width).t()


class Latents:
    """Latents (D, L) of a recording, a stretch at a time, brought to where those of a voice, its ``bank`` (D, N), lie.

    share : how far each is drawn towards the voice's nearest.
    loud : (L,) and (N,) bool, which of both are speech: by these they are transported before; None leaves them where
        they are.
    beside : whether the recording's own come with them, first.
    """

    def __init__(self, own: Kept, bank: Tensor, share: float, loud: tuple[Tensor, Tensor] | None,
                 beside: bool = False):
        self.own, self.bank, self.share, self.beside = own, bank, share, beside
        self.transport: Transport | None = None
        if loud is not None and loud[0].any() and loud[1].any():
            speech = (self.plain(at, at + BLOCK)[0][:, loud[0][at:at + BLOCK]] for at in range(0, len(self), BLOCK))
            self.transport = Transport.between(Moments.of(speech), Moments.of([bank[:, loud[1]]]))

    def __len__(self) -> int:
        return len(self.own)

    def __call__(self, low: int, high: int) -> Tensor:
        """Those of steps ``low`` to ``high``, (1, D, high - low), or (2, D, high - low) with the recording's own."""
        z = self.plain(low, high)
        brought = retrieved(z if self.transport is None else self.transport(z), self.bank, self.share)
        return torch.cat([z, brought]) if self.beside else brought

    def plain(self, low: int, high: int) -> Tensor:
        """Those of the recording itself, (1, D, high - low)."""
        return self.own[low:high][None]
