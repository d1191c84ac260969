"""Convolutions that keep the grid: output length is input length over stride, for every layer here.

A causal one, in one dimension, reads nothing after the hop that an output stands for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.errors import ConfigError
from audiovae.nn import rows
from audiovae.nn.field import Field

CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
FEW = 3  # output channels up to which a transposed convolution of pictures is quicker as a matrix product


class SameConv(nn.Module):
    """Convolution with zero padding that keeps the grid; ``kernel`` is odd.

    Shapes: (B, C, *grid) -> (B, channels_out, *grid).

    >>> SameConv(1, 2, 8, kernel=3, dilation=9)(torch.zeros(1, 2, 50)).shape
    torch.Size([1, 8, 50])
    """

    def __init__(self, dims: int, channels: int, channels_out: int, kernel: int = 1, dilation: int = 1,
                 causal: bool = False):
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"SameConv wants an odd kernel, got {kernel}.")
        padding = dilation * (kernel // 2)
        self.past, self.dilation = _past(dims, causal, 2 * padding), dilation
        self.around = (self.past, 0) if self.past else (padding, padding)
        self.conv = CONV[dims](channels, channels_out, kernel, padding=0 if causal else padding, dilation=dilation)
        self.field = Field.conv(kernel, dilation=dilation, padding=self.past or padding)

    def forward(self, x: Tensor) -> Tensor:
        if rows.fits(x):
            return rows.convolve(x, self.conv.weight, self.conv.bias, 1, self.dilation, *self.around)  # type: ignore
        return self.conv(F.pad(x, (self.past, 0)) if self.past else x)


class Downsample(nn.Module):
    """Strided convolution, kernel twice the stride (Dhariwal 2020, appendix B): grid / stride.

    >>> Downsample(1, 4, 8, stride=4)(torch.zeros(1, 4, 64)).shape
    torch.Size([1, 8, 16])
    """

    def __init__(self, dims: int, channels: int, channels_out: int, stride: int, causal: bool = False):
        super().__init__()
        _even(stride)
        self.past, self.stride = _past(dims, causal, stride), stride
        padding = 0 if causal else stride // 2
        self.around = (self.past, 0) if self.past else (padding, padding)
        self.conv = CONV[dims](channels, channels_out, 2 * stride, stride=stride, padding=padding)
        self.field = Field.conv(2 * stride, stride, padding=self.past or padding)

    def forward(self, x: Tensor) -> Tensor:
        if rows.fits(x):
            return rows.convolve(x, self.conv.weight, self.conv.bias, self.stride, 1, *self.around)  # type: ignore
        return self.conv(F.pad(x, (self.past, 0)) if self.past else x)


class Upsample(nn.Module):
    """Transposed convolution, kernel twice the stride: grid * stride; the mirror of Downsample.

    >>> Upsample(2, 8, 4, stride=2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 4, 8, 8])
    """

    def __init__(self, dims: int, channels: int, channels_out: int, stride: int, causal: bool = False):
        super().__init__()
        _even(stride)
        self.future = _past(dims, causal, stride)  # what the last input gives beyond its own hop
        padding = 0 if causal else stride // 2
        self.stride, self.ends = stride, (0, self.future) if causal else (padding, padding)
        self.conv = TRANSPOSED[dims](channels, channels_out, 2 * stride, stride=stride, padding=padding)
        self.field = Field.transposed(2 * stride, stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if rows.fits(x):
            return rows.spread(x, self.conv.weight, self.conv.bias, self.stride, *self.ends)  # type: ignore
        if _to_few(x, self.conv.weight):  # type: ignore[arg-type]
            return _ToFew.apply(x, self.conv.weight, self.conv.bias, self.stride)
        y = self.conv(x)
        return y[..., :-self.future] if self.future else y


class _ToFew(torch.autograd.Function):
    """Transposed convolution of pictures to a channel or three, as one matrix product and a sum of its patches.

    torch's own takes five times as long on a processor (32 channels to 1 of 28 x 28 pixels). Its backward pass does
    not, and is used as it is.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        batch, channels, height, width = x.shape
        patches = x.permute(0, 2, 3, 1).reshape(-1, channels) @ weight.reshape(channels, -1)  # (B H W, O kernel^2)
        patches = patches.view(batch, height * width, -1).transpose(1, 2)
        y = F.fold(patches, (stride * height, stride * width), 2 * stride, padding=stride // 2, stride=stride)
        return y.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        stride, padding = [ctx.stride] * 2, [ctx.stride // 2] * 2
        found = torch.ops.aten.convolution_backward(gradient, x, weight, [weight.shape[1]], stride, padding, [1, 1],
                                                    True, [0, 0], 1, ctx.needs_input_grad[:3])
        return *found, None


def _to_few(x: Tensor, weight: Tensor) -> bool:
    return (x.ndim == 4 and weight.shape[1] <= FEW and x.device.type == "cpu" and x.dtype is weight.dtype
            and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu"))


def within(lengths: Tensor, steps: int, size: int) -> Tensor:
    """1 where a padded batch holds data, 0 where padding: (B, size), each of ``steps`` steps being size / steps wide.

    A recording alone meets zeros beyond its end in every convolution. In a batch that holds its padding at zero
    before each of them, it meets the same.

    >>> within(torch.tensor([3, 1]), steps=3, size=6)
    tensor([[1., 1., 1., 1., 1., 1.],
            [1., 1., 0., 0., 0., 0.]])
    """
    place = torch.arange(size, device=lengths.device)
    return (place < lengths[:, None] * (size // steps)).float()


class FiLM(nn.Module):
    """Feature-wise scale and shift from a condition vector (Perez 2018); the identity at the start.

    Shapes: h (B, *grid, C) channels last, vector (B, E) -> (B, *grid, C).
    """

    def __init__(self, condition_dim: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(condition_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.linear(vector).view(h.shape[0], *[1] * (h.ndim - 2), -1).chunk(2, dim=-1)
        return torch.addcmul(h + shift, h, scale)


def _even(stride: int) -> None:
    if stride < 2 or stride % 2:
        raise ConfigError(f"strides want even numbers of at least 2, so that grids stay aligned, got {stride}.")


def is_causal(lookahead: int | None) -> bool:
    """Whether a strided stack is causal; ConfigError for a lookahead between none at all and both sides alike.

    >>> is_causal(None), is_causal(0)
    (False, True)
    """
    if lookahead:
        raise ConfigError(f"a strided stack knows lookahead 0 (causal) or none set, got {lookahead}: take 'spectral' "
                          "for steps in between.")
    return lookahead == 0


def _past(dims: int, causal: bool, size: int) -> int:
    """Entries before the first that a causal layer takes as 0; ConfigError for pictures, which have no past."""
    if causal and dims != 1:
        raise ConfigError(f"a causal convolution wants one grid axis, time, got {dims}: set lookahead to None.")
    return size if causal else 0
