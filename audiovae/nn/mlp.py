"""Perceptrons: linear layers with an activation between them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh", "gelu", "softplus", "linear", "glu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus, "linear": nn.Identity, "glu": nn.GLU}


def perceptron(inputs: int, outputs: int, widths: Sequence[int], activation: Activation = "relu") -> nn.Sequential:
    """Linear layers ``inputs`` -> each of ``widths`` -> ``outputs``; the last has no activation.

    With "glu" each hidden unit has a second one behind a sigmoid that it is multiplied by (Dauphin 2017, eq. 1), so
    its layer has twice the weights.

    >>> import torch
    >>> perceptron(8, 2, widths=(16, 16))(torch.zeros(3, 8)).shape
    torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise([inputs, *widths, outputs])):
        doubled = 2 if activation == "glu" and i < len(widths) else 1
        layers += [ACTIVATIONS[activation]()] * (i > 0) + [nn.Linear(before, after * doubled)]
    return nn.Sequential(*layers)
