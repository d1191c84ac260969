"""A trained prior with 8-bit weights: made on the spot from the float32 ones, to draw codes faster on a processor."""

from copy import deepcopy
from typing import Literal, TypeVar

import torch
from torch import nn

from audiovae.errors import ConfigError
from audiovae.nn.int8 import Int8Linear, check_int8
from audiovae.priors.base import Prior
from audiovae.priors.masked import MaskedPrior
from audiovae.priors.transformer import CausalPrior

P = TypeVar("P", bound=Prior)
Weights = Literal["float32", "int8"]
KINDS = ("causal", "masked")


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
        raise refusal(type(prior).__name__)
    linears = [module for module in prior.network.modules() if isinstance(module, nn.Linear)]
    if isinstance(prior, CausalPrior):
        linears.append(prior.head)
    made = {id(linear): Int8Linear(linear.weight) for linear in linears}  # a copy takes these where those stand
    return deepcopy(prior, made).eval().requires_grad_(False)  # type: ignore[arg-type]


def check_quantizable(kind: str, name: str) -> None:
    """ConfigError, as :func:`quantized` would raise, on the ``kind`` of a prior's configuration; it is ``name``."""
    if kind not in KINDS:
        raise refusal(f"prior of kind '{kind}', {name}")
    check_int8(torch.device("cpu"))


def refusal(what: str) -> ConfigError:
    return ConfigError(f"int8 weights are for priors of the kinds {' and '.join(KINDS)}, got a {what}: take float32 "
                       "weights.")
