"""Linear maps in bfloat16: half the bytes, and on processors that multiply in it about twice the speed."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from audiovae.errors import ConfigError

Precision = Literal["no", "bf16"]


def in_bfloat16(networks: Iterable[nn.Module]) -> None:
    """Let the linear layers of ``networks`` keep their weights, and take what they are given, in bfloat16.

    Sums and what they give are in single precision, as is all else. It is for use, not for training: the weights are
    rounded for good, to 8 bits of mantissa.

    Raises ConfigError where there is no linear layer: convolutions stay as they are.

    >>> network = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))
    >>> in_bfloat16([network])
    >>> network[0].weight.dtype, network(torch.randn(2, 8)).dtype
    (torch.bfloat16, torch.float32)
    """
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ConfigError("precision 'bf16' is for linear layers, and this model's encoder and decoder have none: "
                          "leave it at 'no'.")
    for layer in layers:
        layer.to(torch.bfloat16)
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16),))
        layer.register_forward_hook(lambda _, inputs, output: output.float())
