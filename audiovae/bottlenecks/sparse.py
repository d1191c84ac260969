"""A latent of which few channels are active at once: the sparse autoencoder, often wider than its data."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from audiovae.bottlenecks.base import Bottleneck, check_finite, check_some
from audiovae.config import Config, Count
from audiovae.errors import ConfigError
from audiovae.shapes import Latent, Scalars, check


@dataclass(frozen=True)
class SparseConfig(Config):
    """Settings of :class:`Sparse`; dim is D, the latent's channels.

    penalty : "l1", "kl" or "top_k".
    target : the activity each channel is drawn to, in (0, 1); of "kl" only.
    k : channels left at each place of the grid; of "top_k" only.
    """

    kind: Literal["sparse"] = "sparse"
    dim: Count = 64
    penalty: Literal["l1", "kl", "top_k"] = "l1"
    target: float = 0.05
    k: int = 8

    def build(self, dims: int) -> "Sparse":
        return Sparse(self, dims)


class Sparse(Bottleneck):
    """Passes an activation of the latent, and penalises or cuts what is active. Its rate is undefined: 0.

    "l1": relu, and the loss ``sparsity`` is Σ_j |z_j|, averaged over examples and the grid. "kl": sigmoid, and
    the loss is Σ_j KL(target || mean activity of j) (Ng 2011, section 3). "top_k": the k largest channels of
    each latent vector pass, the others are 0, and there is no loss (Makhzani & Frey 2013, section 2.1).
    ``stats``: ``active_share``, the share of z above 0.01 in size.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid), rate (B,).

    >>> latent = SparseConfig(dim=8, penalty="top_k", k=2).build(dims=1)(torch.randn(4, 8, 10))
    >>> (latent.z != 0).sum(1).unique()
    tensor([2])
    """

    ACTIVE = 0.01

    def __init__(self, config: SparseConfig, dims: int = 1) -> None:
        super().__init__()
        if config.penalty == "kl" and not 0 < config.target < 1:
            raise ConfigError(f"Sparse wants a target between 0 and 1, got {config.target:g}.")
        if config.penalty == "top_k" and not 1 <= config.k <= config.dim:
            raise ConfigError(f"Sparse wants k from 1 to dim={config.dim}, got {config.k}.")
        self.channels_in = self.channels_out = config.dim
        self.dims, self.config = dims, config

    def forward(self, h: Tensor) -> Latent:
        z = self._activate(h)
        check_some("Sparse", h)
        losses = {}
        if self.config.penalty == "l1":
            losses["sparsity"] = z.sum(1).mean()
        elif self.config.penalty == "kl":
            activity = z.transpose(0, 1).flatten(1).mean(1).clamp(1e-6, 1 - 1e-6)
            target = torch.full_like(activity, self.config.target)
            losses["sparsity"] = (F.binary_cross_entropy(activity, target, reduction="sum")
                                  - F.binary_cross_entropy(target, target, reduction="sum"))
        stats = Scalars(active_share=lambda: (z.abs() > self.ACTIVE).float().mean())
        return Latent(z=z, rate=h.new_zeros(len(h)), losses=losses, stats=stats)

    def encode(self, h: Tensor) -> Tensor:
        """The activated latent, refused with a ShapeError where it is not finite."""
        check_finite("Sparse", h)
        return self._activate(h)

    def decode(self, codes: Tensor) -> Tensor:
        """What :meth:`encode` gave."""
        check("Sparse", codes, self.channels_out, self.dims, letter="D")
        return codes

    def _activate(self, h: Tensor) -> Tensor:
        check("Sparse", h, self.channels_in, self.dims, letter="D")
        if self.config.penalty == "l1":
            return h.relu()
        if self.config.penalty == "kl":
            return h.sigmoid()
        kept = h.topk(self.config.k, dim=1).indices
        return torch.zeros_like(h).scatter(1, kept, h.gather(1, kept))
