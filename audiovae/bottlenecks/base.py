"""The contract every bottleneck keeps, so that each fits every model, in one or two dimensions."""

from torch import Tensor, nn

from audiovae.shapes import Latent


class Bottleneck(nn.Module):
    """What stands between an encoder and a decoder and decides what passes.

    ``forward(h) -> Latent`` trains, ``encode(h)`` and ``decode(codes)`` are its two halves at use:
    for a discrete bottleneck codes (B, Q, *grid) int64, for a continuous one its parameters.

    Attributes
    ----------
    channels_in : channels it wants of the encoder (2 D for a Gaussian: mean and log-variance).
    channels_out : D, channels it gives the decoder.
    num_codes : K of each of the Q quantizers; empty for a continuous bottleneck.
    dims : 1 or 2 grid axes.
    """

    channels_in: int
    channels_out: int
    num_codes: tuple[int, ...] = ()
    dims: int = 1

    def forward(self, h: Tensor) -> Latent:
        raise NotImplementedError

    def encode(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def is_discrete(self) -> bool:
        return bool(self.num_codes)
