"""Convolutions along time as products of rows: on a processor, a step's channels side by side.

A tensor (B, C, L) whose memory is laid out as (B, L, C) is what these take and give: a convolution is then one matrix
product for each of its taps, on views of the same rows, without a copy of them for each tap or another layout for
each layer. They work on some thousand rows at a time, so that what is between two products stays in the cache.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 4096  # rows at once, of 32 to 64 channels: 0.5 to 1 MB


def fits(x: Tensor) -> bool:
    """Whether these are for x: (B, C, L) on a processor in single or double precision, and no graph is being drawn."""
    return (x.ndim == 3 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu"))


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int, dilation: int, before: int, after: int) -> Tensor:
    """F.conv1d of x (B, C, L) with ``before`` and ``after`` zeros around it; a stride divides the kernel.

    >>> x, weight, bias = torch.randn(2, 3, 40), torch.randn(5, 3, 4), torch.randn(5)
    >>> y = convolve(x, weight, bias, stride=2, dilation=1, before=1, after=1)
    >>> torch.allclose(y, torch.conv1d(x, weight, bias, stride=2, padding=1), atol=1e-5)
    True
    """
    outputs, channels, kernel = weight.shape
    taps = weight.permute(2, 1, 0).reshape(kernel // stride, stride * channels, outputs)
    return _Taps.apply(x.transpose(1, 2).contiguous(), taps, bias, stride, dilation, before, after).transpose(1, 2)


def spread(x: Tensor, weight: Tensor, bias: Tensor, stride: int, first: int, last: int) -> Tensor:
    """F.conv_transpose1d of x (B, C, L), kernel twice the stride, less ``first`` and ``last`` entries of its ends.

    >>> x, weight, bias = torch.randn(2, 3, 40), torch.randn(3, 5, 4), torch.randn(5)
    >>> y = spread(x, weight, bias, stride=2, first=1, last=1)
    >>> torch.allclose(y, torch.conv_transpose1d(x, weight, bias, stride=2, padding=1), atol=1e-5)
    True
    """
    channels, outputs = weight.shape[:2]
    taps = weight.view(channels, outputs, 2, stride).permute(2, 0, 3, 1).flip(0)  # the second half is of the row before
    taps = taps.reshape(2, channels, stride * outputs)
    rows = _Taps.apply(x.transpose(1, 2).contiguous(), taps, bias.repeat(stride), 1, 1, 1, 1)
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
    mask : (B, 1, L), 1 where there is data and 0 in the padding after it, which every block reads, and the last one
        gives, as zeros.

    Of a block, the backward pass keeps the rectified hidden rows alone, and finds what the block read by taking from
    what it gave what it added: half of what autograd keeps, for a twelfth more products.
    """
    ends = None if mask is None else mask[:, 0].sum(-1).long().tolist()
    weights = [tensor for block in blocks for tensor in block]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights)):
        return _Chain.apply(x, ends, tuple(dilations), causal, *weights)
    return _forward(x, ends, dilations, causal, weights, None)


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


def _reads(span: slice, offset: int, stride: int, length: int) -> Iterator[tuple[slice, slice, slice]]:
    """What a tap reads of ``length`` entries for the outputs i of a span: ``stride`` from entry i stride + offset on.

    Gives outputs counted from the span's start, the entries, and those of the tap that meet them: first for all outputs
    whose entries are all there, then for those at the ends, which meet zeros too.
    """
    whole = slice(max(span.start, -(offset // stride)), min(span.stop, (length - offset) // stride))
    if whole.start < whole.stop:
        yield (_later(whole, -span.start), slice(whole.start * stride + offset, whole.stop * stride + offset),
               slice(0, stride))
    for i in {-(offset // stride) - 1, (length - offset) // stride}:
        place = i * stride + offset
        there = slice(max(place, 0), min(place + stride, length))
        if span.start <= i < span.stop and there.start < there.stop:
            yield slice(i - span.start, i - span.start + 1), there, _later(there, -place)


class _Taps(torch.autograd.Function):
    """y_i = bias + Σ_k W_k x_{i stride + k dilation stride - before}, a tap reading ``stride`` entries as one row.

    Rows (B, L, C), W (K, stride C, O) -> (B, (before + L + after) / stride - (K - 1) dilation, O); zeros lie around x.
    """

    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor, bias: Tensor, stride: int, dilation: int, before: int,
                after: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.stride, ctx.offsets = stride, [k * dilation * stride - before for k in range(len(taps))]
        size = (before + x.shape[1] + after) // stride - (len(taps) - 1) * dilation
        out = x.new_empty(len(x), size, taps.shape[2])
        for span in _spans(size, len(x)):
            part = out[:, span].copy_(bias)
            for tap, offset in zip(taps.unflatten(1, (stride, -1)), ctx.offsets, strict=True):
                for met, entries, inner in _reads(span, offset, stride, x.shape[1]):
                    read = part[:, met]
                    _add(read, x[:, entries].view(*read.shape[:2], -1), tap[inner].flatten(0, 1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        (x, taps), g = ctx.saved_tensors, gradients[0].contiguous()
        of_x, of_taps, of_bias, *_ = ctx.needs_input_grad
        gx, gtaps = torch.zeros_like(x) if of_x else None, torch.zeros_like(taps) if of_taps else None
        for span in _spans(g.shape[1], len(x)):
            part = g[:, span]
            for k, (tap, offset) in enumerate(zip(taps.unflatten(1, (ctx.stride, -1)), ctx.offsets, strict=True)):
                for met, entries, inner in _reads(span, offset, ctx.stride, x.shape[1]):
                    read = part[:, met]
                    if gx is not None:
                        _add(gx[:, entries].view(*read.shape[:2], -1), read, tap[inner].flatten(0, 1).t())
                    if gtaps is not None:
                        gtaps[k].unflatten(0, (ctx.stride, -1))[inner].flatten(0, 1).add_(
                            _gram(x[:, entries].view(*read.shape[:2], -1), read))
        return gx, gtaps, g.sum((0, 1)) if of_bias else None, None, None, None, None


def _rectified(x: Tensor, out: Tensor, span: slice, dilation: int, causal: bool) -> Tensor:
    """relu(x) that a convolution over 3 reads for a span of outputs, 2 dilation rows more, with the zeros around x."""
    start = span.start - (2 if causal else 1) * dilation
    padded = out[:, :span.stop - span.start + 2 * dilation]
    there = slice(max(start, 0), min(start + padded.shape[1], x.shape[1]))
    padded[:, :there.start - start] = 0
    padded[:, there.stop - start:] = 0
    torch.clamp_min(x[:, there], 0, out=padded[:, _later(there, -start)])
    return padded


def _matrices(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each block, the taps (3, C, H), bias (H,), matrix (H, C) and bias (C,)."""
    return [(inner.permute(2, 1, 0).contiguous(), inner_bias, outer[..., 0].t(), outer_bias)
            for inner, inner_bias, outer, outer_bias in zip(*[iter(weights)] * 4, strict=True)]


def _cut(x: Tensor, ends: Sequence[int] | None) -> None:
    """Make rows zero from the end of each example on."""
    for rows, end in zip(x, ends or (), strict=ends is not None):
        rows[end:] = 0


def _forward(x: Tensor, ends: Sequence[int] | None, dilations: Sequence[int], causal: bool, weights: Sequence[Tensor],
             kept: list[Tensor] | None) -> Tensor:
    """:func:`chain`; what the backward pass wants is put into ``kept``."""
    y = x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    (batch, size, width), spare = y.shape, y.new_empty(0)
    wide = y.new_empty(batch, size + 2 * max(dilations), width)
    for (taps, inner_bias, matrix, outer_bias), dilation in zip(_matrices(weights), dilations, strict=True):
        _cut(y, ends)
        padded = _rectified(y, wide, slice(0, size), dilation, causal)
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
    _cut(y, ends)
    return y.transpose(1, 2)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ends: Sequence[int] | None, dilations: tuple[int, ...], causal: bool,
                *weights: Tensor) -> Tensor:
        kept: list[Tensor] = []
        y = _forward(x, ends, dilations, causal, weights, kept)
        ctx.save_for_backward(y, *kept, *weights)
        ctx.ends, ctx.dilations, ctx.causal = ends, dilations, causal
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        y, *rest = ctx.saved_tensors
        count = len(ctx.dilations)
        blocks, learn = _matrices(rest[count:]), any(ctx.needs_input_grad[4:])
        x, g = (t.transpose(1, 2).clone(memory_format=torch.contiguous_format) for t in (y, gradients[0]))
        (batch, size, width), found = x.shape, []
        _cut(g, ctx.ends)
        reach = 2 * max(ctx.dilations)
        near, wide = (x.new_empty(batch, rows + reach, width) for rows in (min(size, BLOCK), size))
        for h, block, dilation in zip(rest[:count][::-1], blocks[::-1], ctx.dilations[::-1], strict=True):
            taps, _, matrix, outer_bias = block
            for span in _spans(size, batch):
                _add(x[:, span].sub_(outer_bias), h[:, span], matrix, -1)
            _cut(x, ctx.ends)
            gpadded = wide[:, :size + 2 * dilation].zero_()
            of = [torch.zeros_like(tensor) for tensor in block]
            for span in _spans(size, batch):
                up, on = g[:, span], h[:, span]
                gh = torch.bmm(up, matrix.t().expand(batch, -1, -1))
                torch.ops.aten.threshold_backward.grad_input(gh, on, 0, grad_input=gh)
                for k in range(3):
                    _add(gpadded[:, _later(span, k * dilation)], gh, taps[k].t())
                if learn:
                    padded = _rectified(x, near, span, dilation, ctx.causal)
                    for k in range(3):
                        of[0][k] += _gram(padded[:, k * dilation:k * dilation + gh.shape[1]], gh)
                    of[1] += gh.sum((0, 1))
                    of[2] += _gram(on, up)
                    of[3] += up.sum((0, 1))
            before = (2 if ctx.causal else 1) * dilation
            gmiddle = gpadded[:, before:before + size]
            for span in _spans(size, batch):
                part = gmiddle[:, span]
                g[:, span] += torch.ops.aten.threshold_backward.grad_input(part, x[:, span], 0, grad_input=part)
            _cut(g, ctx.ends)
            found = [of[0].permute(2, 1, 0), of[1], of[2].t()[..., None], of[3], *found]
        return g.transpose(1, 2), None, None, None, *(found if learn else [None] * len(rest[count:]))
