"""Convolutions along time as products of rows: on a processor, a step's channels side by side.

A tensor (B, C, L) whose memory is laid out as (B, L, C) is what these take and give: a convolution is then one matrix
product for each of its taps, on views of the same rows, without a copy of them for each tap or another layout for
each layer. They work on some thousand rows at a time, so that what is between two products stays in the cache.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

BLOCK = 4096  # rows at once, of 32 to 64 channels: 0.5 to 1 MB


def fits(x: Tensor) -> bool:
    """Whether these are for x: (B, C, L) on a processor in single or double precision, and no graph is being drawn."""
    return (x.ndim == 3 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu"))


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int, dilation: int, before: int, after: int) -> Tensor:
    """F.conv1d of x (B, C, L) with ``before`` and ``after`` zeros around it; a stride divides the kernel.

    >>> x, weight, bias = torch.randn(2, 3, 40), torch.randn(5, 3, 4), torch.randn(5)
    >>> y = convolve(x, weight, bias, stride=2, dilation=1, before=1, after=1)
    >>> torch.allclose(y, F.conv1d(x, weight, bias, stride=2, padding=1), atol=1e-5)
    True
    """
    padded = F.pad(x.transpose(1, 2), (0, 0, before, after))
    outputs, channels, kernel = weight.shape
    padded = padded.reshape(len(x), -1, stride * channels)  # what one stride reads is one row
    taps = weight.permute(2, 1, 0).reshape(kernel // stride, stride * channels, outputs)
    return _Taps.apply(padded, taps, bias, dilation).transpose(1, 2)


def spread(x: Tensor, weight: Tensor, bias: Tensor, stride: int, first: int, last: int) -> Tensor:
    """F.conv_transpose1d of x (B, C, L), kernel twice the stride, less ``first`` and ``last`` entries of its ends.

    >>> x, weight, bias = torch.randn(2, 3, 40), torch.randn(3, 5, 4), torch.randn(5)
    >>> y = spread(x, weight, bias, stride=2, first=1, last=1)
    >>> torch.allclose(y, F.conv_transpose1d(x, weight, bias, stride=2, padding=1), atol=1e-5)
    True
    """
    padded = F.pad(x.transpose(1, 2), (0, 0, 1, 1))
    channels, outputs = weight.shape[:2]
    taps = weight.view(channels, outputs, 2, stride).permute(2, 0, 3, 1).flip(0)  # the second half is of the row before
    rows = _Taps.apply(padded, taps.reshape(2, channels, stride * outputs), bias.repeat(stride), 1)
    rows = rows.view(len(x), -1, outputs)
    return rows[:, first:rows.shape[1] - last].transpose(1, 2)


def chain(x: Tensor, blocks: Sequence[tuple[Tensor, ...]], dilations: Sequence[int], causal: bool,
          mask: Tensor | None = None) -> Tensor:
    """Residual blocks x + conv1(relu(conv3(relu(x)))) one after the other, the inner of them dilated.

    Parameters
    ----------
    x : (B, C, L).
    blocks : of each, weight (H, C, 3) and bias of the inner convolution, weight (C, H, 1) and bias of the outer.
    causal : whether an entry reads only what is before it, rather than both sides.
    mask : (B, 1, L) by which what each block reads is multiplied.

    Of a block, the backward pass keeps the rectified hidden rows alone, and finds what the block read by taking from
    what it gave what it added: half of what autograd keeps, for a twelfth more products.
    """
    told = None if mask is None else mask.transpose(1, 2)
    weights = [tensor for block in blocks for tensor in block]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights)):
        return _Chain.apply(x, told, tuple(dilations), causal, *weights)
    return _forward(x, told, dilations, causal, weights, None)


def _spans(length: int, batch: int) -> Iterator[slice]:
    step = max(1, BLOCK // batch)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _later(span: slice, steps: int) -> slice:
    return slice(span.start + steps, span.stop + steps)


def _add(out: Tensor, rows: Tensor, matrix: Tensor, sign: int = 1) -> None:
    """out (B, L, O) += rows (B, L, I) @ matrix (I, O)."""
    out.baddbmm_(rows, matrix.expand(len(rows), -1, -1), alpha=sign)


def _gram(left: Tensor, right: Tensor) -> Tensor:
    """(B, L, I), (B, L, O) -> (I, O), summed over B and L."""
    return torch.bmm(left.transpose(1, 2), right).sum(0)


class _Taps(torch.autograd.Function):
    """y_i = bias + Σ_k x_{i + k dilation} W_k: rows (B, N, I), W (K, I, O) -> (B, N - (K - 1) dilation, O)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, taps: Tensor, bias: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.dilation = dilation  # type: ignore[attr-defined]
        out = x.new_empty(len(x), x.shape[1] - (len(taps) - 1) * dilation, taps.shape[2])
        for span in _spans(out.shape[1], len(x)):
            part = out[:, span].copy_(bias)
            for k, tap in enumerate(taps):
                _add(part, x[:, _later(span, k * dilation)], tap)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        (x, taps), g = ctx.saved_tensors, gradients[0].contiguous()
        of_x, of_taps, of_bias, _ = ctx.needs_input_grad
        gx, gtaps = torch.zeros_like(x) if of_x else None, torch.zeros_like(taps) if of_taps else None
        for span in _spans(g.shape[1], len(x)):
            part = g[:, span]
            for k, tap in enumerate(taps):
                read = _later(span, k * ctx.dilation)
                if gx is not None:
                    _add(gx[:, read], part, tap.t())
                if gtaps is not None:
                    gtaps[k] += _gram(x[:, read], part)
        return gx, gtaps, g.sum((0, 1)) if of_bias else None, None


def _rectified(x: Tensor, out: Tensor, dilation: int, causal: bool) -> tuple[Tensor, Tensor]:
    """relu(x) between the zeros that a convolution over 3 wants, (B, L + 2 dilation, C), and the middle of that."""
    before, size = (2 if causal else 1) * dilation, x.shape[1]
    padded = out[:, :size + 2 * dilation]
    padded[:, :before] = 0
    padded[:, before + size:] = 0
    return padded, torch.clamp_min(x, 0, out=padded[:, before:before + size])


def _matrices(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each block, the taps (3, C, H), bias (H,), matrix (H, C) and bias (C,)."""
    return [(inner.permute(2, 1, 0).contiguous(), inner_bias, outer[..., 0].t(), outer_bias)
            for inner, inner_bias, outer, outer_bias in zip(*[iter(weights)] * 4, strict=True)]


def _forward(x: Tensor, mask: Tensor | None, dilations: Sequence[int], causal: bool, weights: Sequence[Tensor],
             kept: list[Tensor] | None) -> Tensor:
    """:func:`chain`; what the backward pass wants is put into ``kept``."""
    y = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    (batch, size, width), spare = y.shape, y.new_empty(0)
    wide = y.new_empty(batch, size + 2 * max(dilations), width)
    for (taps, inner_bias, matrix, outer_bias), dilation in zip(_matrices(weights), dilations, strict=True):
        if mask is not None:
            y.mul_(mask)
        padded, _ = _rectified(y, wide, dilation, causal)
        if kept is not None:
            spare = y.new_empty(batch, size, len(inner_bias))
            kept.append(spare)
        elif spare.shape[-1] != len(inner_bias):
            spare = y.new_empty(batch, min(size, BLOCK), len(inner_bias))
        for span in _spans(size, batch):
            h = (spare[:, span] if kept is not None else spare[:, :span.stop - span.start]).copy_(inner_bias)
            for k in range(3):
                _add(h, padded[:, _later(span, k * dilation)], taps[k])
            _add(y[:, span].add_(outer_bias), h.relu_(), matrix)
    return y.transpose(1, 2)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor | None, dilations: tuple[int, ...], causal: bool,
                *weights: Tensor) -> Tensor:
        kept: list[Tensor] = []
        y = _forward(x, mask, dilations, causal, weights, kept)
        ctx.save_for_backward(y, mask, *kept, *weights)
        ctx.dilations, ctx.causal = dilations, causal
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        y, mask, *rest = ctx.saved_tensors
        count = len(ctx.dilations)
        blocks, learn = _matrices(rest[count:]), any(ctx.needs_input_grad[4:])
        x, g = (t.transpose(1, 2).clone(memory_format=torch.contiguous_format) for t in (y, gradients[0]))
        (batch, size, width), found = x.shape, []
        wide, gwide = (x.new_empty(batch, size + 2 * max(ctx.dilations), width) for _ in range(2))
        for h, block, dilation in zip(rest[:count][::-1], blocks[::-1], ctx.dilations[::-1], strict=True):
            taps, _, matrix, outer_bias = block
            for span in _spans(size, batch):
                _add(x[:, span].sub_(outer_bias), h[:, span], matrix, -1)
            if mask is not None:
                x.mul_(mask)
            padded, middle = _rectified(x, wide, dilation, ctx.causal)
            gpadded = gwide[:, :padded.shape[1]].zero_()
            of = [torch.zeros_like(tensor) for tensor in block]
            for span in _spans(size, batch):
                up, on = g[:, span], h[:, span]
                gh = torch.bmm(up, matrix.t().expand(batch, -1, -1))
                torch.ops.aten.threshold_backward.grad_input(gh, on, 0, grad_input=gh)
                for k in range(3):
                    _add(gpadded[:, _later(span, k * dilation)], gh, taps[k].t())
                if learn:
                    for k in range(3):
                        of[0][k] += _gram(padded[:, _later(span, k * dilation)], gh)
                    of[1] += gh.sum((0, 1))
                    of[2] += _gram(on, up)
                    of[3] += up.sum((0, 1))
            before = (2 if ctx.causal else 1) * dilation
            gmiddle = gpadded[:, before:before + size]
            for span in _spans(size, batch):
                part = gmiddle[:, span]
                g[:, span] += torch.ops.aten.threshold_backward.grad_input(part, middle[:, span], 0, grad_input=part)
            if mask is not None:
                g.mul_(mask)
            found = [of[0].permute(2, 1, 0), of[1], of[2].t()[..., None], of[3], *found]
        return g.transpose(1, 2), None, None, None, *(found if learn else [None] * len(rest[count:]))
