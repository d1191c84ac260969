"""Bottlenecks: what stands between an encoder and a decoder, all behind one contract.

A config's ``kind`` names it: "identity", "sparse", "gaussian", "vq", "rvq", "grouped" or "fsq".
"""

from typing import Annotated

import pydantic

from audiovae.bottlenecks.base import Bottleneck
from audiovae.bottlenecks.flows import DiagonalConfig, IAFConfig
from audiovae.bottlenecks.fsq import FiniteScalarQuantizer, FSQConfig
from audiovae.bottlenecks.gaussian import Gaussian, GaussianConfig
from audiovae.bottlenecks.grouped import GroupedConfig, GroupedQuantizer
from audiovae.bottlenecks.identity import Identity, IdentityConfig
from audiovae.bottlenecks.priors import MixturePriorConfig, StandardPriorConfig, VampPriorConfig
from audiovae.bottlenecks.rvq import ResidualQuantizer, RVQConfig
from audiovae.bottlenecks.sparse import Sparse, SparseConfig
from audiovae.bottlenecks.vq import VectorQuantizer, VQConfig

BottleneckConfig = Annotated[
    IdentityConfig | SparseConfig | GaussianConfig | VQConfig | RVQConfig | GroupedConfig | FSQConfig,
    pydantic.Discriminator("kind"),
]

__all__ = [
    "Bottleneck",
    "BottleneckConfig",
    "DiagonalConfig",
    "FSQConfig",
    "FiniteScalarQuantizer",
    "Gaussian",
    "GaussianConfig",
    "GroupedConfig",
    "GroupedQuantizer",
    "IAFConfig",
    "Identity",
    "IdentityConfig",
    "MixturePriorConfig",
    "RVQConfig",
    "ResidualQuantizer",
    "Sparse",
    "SparseConfig",
    "StandardPriorConfig",
    "VQConfig",
    "VampPriorConfig",
    "VectorQuantizer",
]
