"""Decoding element by element: a latent and a gated PixelCNN, which also sees the pixels already drawn.

Such a decoder can do without its latent (Bowman 2016, Chen 2017): a short reach or hidden pixels weaken it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from audiovae.errors import ConfigError
from audiovae.likelihoods import Bernoulli, Categorical, Likelihood
from audiovae.nn.pixelcnn import GatedPixelCNN
from audiovae.shapes import check


class PixelCNNDecoder(nn.Module):
    """A decoder of any kind draws a map the size of the picture; a gated PixelCNN is told it at every pixel.

    Parameters
    ----------
    inner : the decoder of the latent to the map (B, M, H, W).
    network : the PixelCNN, with ``map_dim`` M.

    Shapes: z (B, D, H / hop, W / hop), vector (B, E) or None, x (B, C, H, W) -> (B, P C, H, W).

    >>> from audiovae.decoders import StridedDecoder
    >>> inner = StridedDecoder(dims=2, channels_in=4, channels_out=6, strides=(2, 2), width=8, depth=1)
    >>> decoder = PixelCNNDecoder(inner, GatedPixelCNN(1, 17, width=8, depth=2, kernel=3, map_dim=6))
    >>> decoder(torch.zeros(2, 4, 2, 2), None, torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 17, 8, 8])
    >>> decoder.sample(torch.zeros(2, 4, 2, 2), None, Categorical(17)).shape
    torch.Size([2, 1, 8, 8])
    """

    autoregressive = True

    def __init__(self, inner: nn.Module, network: GatedPixelCNN):
        super().__init__()
        self.inner, self.network = inner, network
        self.hop: int = inner.hop  # type: ignore[assignment]

    def forward(self, z: Tensor, vector: Tensor | None, x: Tensor) -> Tensor:
        check("PixelCNNDecoder", x, self.network.channels, dims=2)
        return self.network(x, spatial=self.inner(z, vector))

    def sample(self, z: Tensor, vector: Tensor | None, likelihood: Likelihood,
               generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Data (B, C, H, W) drawn pixel by pixel, as :func:`sample_pixels` does."""
        with torch.no_grad():
            spatial = self.inner(z, vector)
        return sample_pixels(self.network, likelihood, len(z), spatial.shape[2:], temperature, generator,
                             spatial=spatial)


def sample_pixels(network: GatedPixelCNN, likelihood: Likelihood, count: int, size: tuple[int, ...],
                  temperature: float = 1.0, generator: torch.Generator | None = None, **condition: Any) -> Tensor:
    """Pictures (count, C, *size) drawn one pixel and channel after the other.

    A temperature below 1 draws the likelier values more often: it divides the logits. Raises ConfigError where
    that is asked of a likelihood that has none, or where a pixel's channels have no order.

    >>> network = GatedPixelCNN(channels=3, params_per_channel=1, width=6, depth=1, kernel=3)
    >>> sample_pixels(network, Bernoulli(), count=2, size=(4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """
    check_factorised(likelihood)
    height, width = size
    return network.sample(_draw(likelihood, temperature, generator), count, (height, width), **condition)


def check_factorised(likelihood: Likelihood) -> None:
    """Raise ConfigError on a likelihood that ties a pixel's channels together: the network does that.

    >>> check_factorised(Bernoulli())
    """
    if getattr(likelihood, "coupled", False):
        raise ConfigError(f"an autoregressive decoder wants a likelihood of every channel on its own, got a coupled "
                          f"{type(likelihood).__name__}: set coupled to false; the network sees the channels before.")


def _draw(likelihood: Likelihood, temperature: float,
          generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    if not temperature > 0:
        raise ConfigError(f"sample wants a temperature above 0, got {temperature:g}.")
    if temperature != 1 and not isinstance(likelihood, Bernoulli | Categorical):
        raise ConfigError(f"sample wants a likelihood of logits for a temperature of {temperature:g}, got "
                          f"{type(likelihood).__name__}: leave the temperature at 1.")
    return lambda params: likelihood.sample(params / temperature, generator)
