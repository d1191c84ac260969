"""The contract every bottleneck keeps, so that each fits every model, in one or two dimensions."""

import math

import torch
from torch import Tensor, nn

from audiovae.errors import ConfigError, ShapeError
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
    pseudo_inputs : K of a VampPrior; the model learns them and hands what its encoder makes of them to
        ``forward`` and ``sample_prior`` as ``components``. 0 for every other prior.
    """

    channels_in: int
    channels_out: int
    num_codes: tuple[int, ...] = ()
    dims: int = 1
    pseudo_inputs: int = 0

    def forward(self, h: Tensor) -> Latent:
        raise NotImplementedError

    def encode(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def continuous(self, h: Tensor) -> Tensor:
        """z (B, D, *grid) before it is rounded to codes, on their scale: of a discrete bottleneck alone."""
        raise NotImplementedError

    def sample_prior(self, count: int, grid: tuple[int, ...], temperature: float = 1.0,
                     generator: torch.Generator | None = None) -> Tensor:
        """z (count, D, *grid) from the prior, its spread times ``temperature``; ConfigError where there is none."""
        raise ConfigError(f"{type(self).__name__} has no prior to draw from: take a Gaussian bottleneck, or train a "
                          "prior over its codes.")

    @property
    def is_discrete(self) -> bool:
        return bool(self.num_codes)


def check_finite(owner: str, h: Tensor) -> None:
    """Raise ShapeError where ``h`` holds a NaN or an infinity: it would be coded, or learnt, without a word.

    An exported graph cannot look at values, and is not held to them.

    >>> check_finite("VectorQuantizer", torch.zeros(2, 3))
    """
    if torch.compiler.is_compiling():
        return
    if not math.isfinite(h.detach().sum()) and not torch.isfinite(h).all():  # the sum is the cheap test, and enough
        bad = int((~torch.isfinite(h)).sum())
        raise ShapeError(
            f"{owner} wants finite values, got {bad} of {h.numel()} that are NaN or infinite: "
            f"look at the input and at the encoder's weights."
        )


def check_some(owner: str, h: Tensor) -> None:
    """Raise ShapeError where there is nothing to train on; the mean of no loss is NaN.

    >>> check_some("VectorQuantizer", torch.zeros(2, 64, 10))
    """
    if h.numel() == 0:
        raise ShapeError(f"{owner} wants at least one vector to train on, got {tuple(h.shape)}.")


def check_codes(owner: str, codes: Tensor, num_codes: tuple[int, ...], dims: int) -> None:
    """Raise ShapeError unless ``codes`` are (B, n, *grid) integers with code q from 0 to num_codes[q] - 1.

    ``n`` may be below Q = len(num_codes): the first n stages.

    >>> check_codes("VectorQuantizer", torch.zeros(2, 1, 50, dtype=torch.int64), num_codes=(512,), dims=1)
    """
    quantizers = len(num_codes)
    if codes.ndim != 2 + dims or not 1 <= codes.shape[1] <= quantizers:
        grid = ", L" if dims == 1 else ", H, W"
        raise ShapeError(f"{owner} wants codes as (B, Q={quantizers}{grid}), got {tuple(codes.shape)}.")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ShapeError(f"{owner} wants integer codes, got {codes.dtype}: pass what encode gave.")
    if torch.compiler.is_compiling():
        return
    limits = torch.tensor(num_codes[: codes.shape[1]], device=codes.device).view(-1, *[1] * dims)
    if ((codes < 0) | (codes >= limits)).any():
        raise ShapeError(
            f"{owner} wants codes from 0 to {max(num_codes) - 1}, got {int(codes.min())} to "
            f"{int(codes.max())}: are they of another model?"
        )
