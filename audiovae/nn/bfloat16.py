"""Linear maps in bfloat16: half the bytes, and on processors that multiply in it about twice the speed."""

import copy
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from audiovae.errors import ConfigError
from audiovae.nn.conv import FiLM

Precision = Literal["no", "bf16"]
Network = TypeVar("Network", bound=nn.Module)


def in_precision(precision: Precision, network: Network, parts: tuple[str, ...]) -> Network:
    """``network`` itself for "no"; for "bf16" a copy, for use, whose ``parts`` have linear layers in bfloat16.

    They keep their weights and take what they are given in it, sum in single precision, and what they give is rounded
    to it once more; all else stays in single precision. What a condition does (FiLM) is too little work to be worth it.

    Raises ConfigError where a part has no such layer, as convolutions stay as they are, and on another precision.

    >>> network = nn.ModuleDict({"head": nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))})
    >>> lean = in_precision("bf16", network, ("head",))
    >>> lean["head"][0].weight.dtype, lean["head"](torch.randn(2, 8)).dtype, network["head"][0].weight.dtype
    (torch.bfloat16, torch.float32, torch.float32)
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"a precision is {' or '.join(get_args(Precision))}, got '{precision}'.")
    if precision == "no":
        return network
    network = copy.deepcopy(network)
    for name in parts:
        modules = list(network.get_submodule(name).modules())
        told = {layer for module in modules if isinstance(module, FiLM) for layer in module.modules()}
        layers = [layer for layer in modules if isinstance(layer, nn.Linear) and layer not in told]
        if not layers:
            raise ConfigError(f"precision 'bf16' is for linear layers, and this model's {name} has none: leave it at "
                              "'no'.")
        for layer in layers:
            layer.to(torch.bfloat16)
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16),))
            layer.register_forward_hook(lambda _, inputs, output: output.float())
    return network
