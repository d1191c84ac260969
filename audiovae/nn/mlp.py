"""Perceptrons: linear layers with an activation between them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh", "gelu", "softplus", "linear"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus, "linear": nn.Identity}


def perceptron(inputs: int, outputs: int, widths: Sequence[int], activation: Activation = "relu") -> nn.Sequential:
    """Linear layers ``inputs`` -> each of ``widths`` -> ``outputs``; the last has no activation.

    >>> import torch
    >>> perceptron(8, 2, widths=(16, 16))(torch.zeros(3, 8)).shape
    torch.Size([3, 2])
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise([inputs, *widths, outputs])):
        layers += [ACTIVATIONS[activation]()] * (i > 0) + [nn.Linear(before, after)]
    return nn.Sequential(*layers)
