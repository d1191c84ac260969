"""A trained prior with 8-bit weights: made on the spot from the float32 ones, to draw codes faster on a processor."""

from copy import deepcopy
from typing import Literal, TypeVar

from torch import nn

from audiovae.errors import ConfigError
from audiovae.nn.int8 import Int8Linear
from audiovae.priors.base import Prior
from audiovae.priors.masked import MaskedPrior
from audiovae.priors.transformer import CausalPrior

P = TypeVar("P", bound=Prior)
Weights = Literal["float32", "int8"]


def quantized(prior: P) -> P:
    """A copy of ``prior``, causal or masked, whose transformer's products are :class:`Int8Linear`; ``prior`` stays.

    Embeddings, norms and what listens to the condition stay as they are. It draws and has its log_prob as any prior,
    both of the same probabilities, and is not to be trained.

    Raises ConfigError on another prior, on a device other than the processor, and where torch has no such kernel.

    >>> from audiovae.priors import CausalConfig
    >>> from audiovae.shapes import CodeSpec, DataSpec
    >>> data = DataSpec(channels=1, dims=1, codes=CodeSpec(num_codes=(16,)))
    >>> small = quantized(CausalConfig(dim=32, depth=2, heads=2).build(data))
    >>> sum(isinstance(module, Int8Linear) for module in small.modules())
    9
    """
    if not isinstance(prior, CausalPrior | MaskedPrior):
        raise ConfigError(f"int8 weights are for causal and masked priors, got a {type(prior).__name__}: take float32 "
                          "weights.")
    linears = [module for module in prior.network.modules() if isinstance(module, nn.Linear)]
    if isinstance(prior, CausalPrior):
        linears.append(prior.head)
    made = {id(linear): Int8Linear(linear.weight) for linear in linears}  # a copy takes these where those stand
    return deepcopy(prior, made).eval().requires_grad_(False)  # type: ignore[arg-type]
