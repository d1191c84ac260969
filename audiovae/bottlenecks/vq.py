"""Vector quantization: each latent vector is replaced by the nearest of K codes.

van den Oord et al. 2017, section 3.1 (gradients) and appendix A.1 (moving averages).
"""

from dataclasses import dataclass
from typing import Literal

from audiovae.bottlenecks.codebook import CodebookConfig
from audiovae.bottlenecks.rvq import ResidualQuantizer


@dataclass(frozen=True)
class VQConfig(CodebookConfig):
    """Settings of :class:`VectorQuantizer`.

    geometry : "euclidean", or "cosine": latent vectors and codes are put on the unit sphere first, and z
        lies there too (Yu et al. 2022, ViT-VQGAN, section 3.2).

    >>> VQConfig(num_codes=256).build(dims=2).num_codes
    (256,)
    """

    kind: Literal["vq"] = "vq"
    geometry: Literal["euclidean", "cosine"] = "euclidean"

    def build(self, dims: int) -> "VectorQuantizer":
        return VectorQuantizer(self, dims)


class VectorQuantizer(ResidualQuantizer):
    """z = e_k with k = argmin_j ||z_e - e_j||², gradient copied straight through: a single residual stage.

    ``losses["commitment"]`` is the mean over elements of ||z_e - sg(e_k)||², and ``losses["codebook"]``,
    there for a loss-trained codebook, that of ||sg(z_e) - e_k||². The rate is L log K nats.

    Parameters
    ----------
    config : see :class:`VQConfig` and :class:`~audiovae.bottlenecks.codebook.CodebookConfig`.
    dims : 1 or 2 grid axes.

    Shapes: (B, D, *grid) -> Latent with z (B, D, *grid), codes (B, 1, *grid) int64, rate (B,) nats.

    Raises
    ------
    ShapeError
        On another shape, or values that are not finite.

    >>> import torch
    >>> vq = VQConfig(num_codes=512, dim=64).build(dims=1)
    >>> latent = vq(torch.randn(2, 64, 10))
    >>> latent.z.shape, latent.codes.shape
    (torch.Size([2, 64, 10]), torch.Size([2, 1, 10]))
    """

    def __init__(self, config: VQConfig, dims: int = 1) -> None:
        super().__init__(config, num_quantizers=1, dims=dims, unit=config.geometry == "cosine")
