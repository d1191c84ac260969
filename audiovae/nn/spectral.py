"""Spectral regularisation: the largest singular value of each layer, followed by power iteration as it trains.

Yoshida & Miyato 2017; in a hierarchy of latents it keeps the KL from running away (Vahdat & Kautz 2020, section 3.2).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.nn.cells import BatchNorm

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
FIRST = 10  # iterations on the first call, from a vector drawn by lot


class SpectralPenalty(nn.Module):
    """Σ s(W) over a model's convolutions and Σ max |γ| over its batch normalisations, of which that is the same.

    s(W) is the largest singular value of the kernel as a matrix (channels out, channels in times kernel). All kernels
    of one shape are multiplied together; the left singular vectors are buffers, warm from step to step.

    >>> layer = nn.Conv1d(3, 5, kernel_size=7)
    >>> penalty = SpectralPenalty(layer, iterations=50)
    >>> exact = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    >>> torch.allclose(penalty(layer), exact, rtol=1e-4)
    True
    """

    def __init__(self, model: nn.Module, iterations: int = 1):
        super().__init__()
        self.iterations = iterations
        dice = torch.Generator().manual_seed(0)
        for shape, kernels in _by_shape(model).items():
            left = torch.randn(len(kernels), shape[0], 1, generator=dice).to(kernels[0].device)
            self.register_buffer(_name(shape), F.normalize(left, dim=1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module) -> Tensor:
        """The sum, with its gradient, for the model that this was built for."""
        largest = []
        again = FIRST if self.calls == 0 else 0
        for shape, kernels in _by_shape(model).items():
            matrices = torch.stack(kernels)
            left = getattr(self, _name(shape))
            with torch.no_grad():
                for _ in range(max(self.iterations, again)):
                    right = F.normalize(matrices.transpose(1, 2) @ left, dim=1)
                    left = F.normalize(matrices @ right, dim=1)
                if self.training:
                    getattr(self, _name(shape)).copy_(left)
            largest.append((left.transpose(1, 2) @ matrices @ right).sum())
        if self.training:
            self.calls += 1
        largest += [m.weight.abs().max() for m in model.modules() if isinstance(m, BatchNorm)]
        return torch.stack(largest).sum()


def _by_shape(model: nn.Module) -> dict[tuple[int, int], list[Tensor]]:
    """Kernels as matrices, those of one shape together, in the model's order."""
    found: dict[tuple[int, int], list[Tensor]] = {}
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS + TRANSPOSED):
            weight = module.weight.transpose(0, 1) if isinstance(module, TRANSPOSED) else module.weight
            matrix = weight.flatten(1)
            found.setdefault((matrix.shape[0], matrix.shape[1]), []).append(matrix)
    return found


def _name(shape: tuple[int, int]) -> str:
    return f"left_{shape[0]}_{shape[1]}"
