"""Corruption of what an encoder reads in training: a denoising autoencoder gives back the clean data.

Vincent 2008, section 2.3.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn

from audiovae.config import Config
from audiovae.errors import ConfigError


class NormalNoise(nn.Module):
    """x + noise of standard deviation ``std``, in the data's units.

    >>> NormalNoise(0.1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, std: float):
        super().__init__()
        if not std >= 0:
            raise ConfigError(f"NormalNoise wants a standard deviation of at least 0, got {std:g}.")
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, torch.randn_like(x), alpha=self.std)


class Masking(nn.Module):
    """x with each element of its grid, over all channels, set to 0 with the chance ``share``.

    >>> Masking(share=1.0)(torch.ones(2, 1, 8, 8)).sum()
    tensor(0.)
    """

    def __init__(self, share: float):
        super().__init__()
        if not 0 <= share <= 1:
            raise ConfigError(f"Masking wants a share from 0 to 1, got {share:g}.")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x[:, :1]) >= self.share)


@dataclass(frozen=True)
class NormalNoiseConfig(Config):
    kind: Literal["normal"] = "normal"
    std: float = 0.1

    def build(self) -> NormalNoise:
        return NormalNoise(self.std)


@dataclass(frozen=True)
class MaskingConfig(Config):
    kind: Literal["masking"] = "masking"
    share: float = 0.3

    def build(self) -> Masking:
        return Masking(self.share)


CorruptionConfig = Annotated[NormalNoiseConfig | MaskingConfig, Discriminator("kind")]
