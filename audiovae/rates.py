"""The bit rates that a model of audio can be asked for: of a residual quantizer one for each of its codebooks."""

import math

import numpy as np

from audiovae.bottlenecks.rvq import ResidualQuantizer
from audiovae.errors import ConfigError
from audiovae.models import Autoencoder


def stages_within(model: Autoencoder, kbps: float) -> int | None:
    """How many of a residual quantizer's codes a step fit into ``kbps``, None for all; ConfigError for none."""
    offered = rates(model)
    count = sum(rate <= kbps + 1e-9 for rate in offered)
    if not count:
        raise ConfigError(f"this model has no rate of {kbps:g} kbit/s or less: its rates are "
                          f"{', '.join(f'{rate:g}' for rate in offered)} kbit/s.")
    return count if count < len(offered) else None


def rates(model: Autoencoder) -> list[float]:
    """The kbit/s a model of audio can be asked for, lowest first: of a residual quantizer one for each codebook.

    >>> from audiovae.models import AutoencoderConfig
    >>> from audiovae.shapes import DataSpec
    >>> rates(AutoencoderConfig().build(DataSpec(channels=1, dims=1, sample_rate=16000)))[:2]
    [0.45, 0.9]
    """
    steps = (model.data.sample_rate or 0) / model.hop
    sums = np.cumsum([math.log2(k) * steps / 1000 for k in model.bottleneck.num_codes]).tolist()
    return sums if isinstance(model.bottleneck, ResidualQuantizer) else sums[-1:]
