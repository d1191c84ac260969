"""Transformer layers: attention to the past or to all, rotary positions, and a cache to go on one step at a time.

Every layer normalises before it works (Xiong 2020; LayerNorm, one fused kernel where RMSNorm is several), turns queries
and keys by their positions (Su 2021, section 3.2), and has a gated perceptron (Shazeer 2020). What a position attends
to depends on the distance alone, so a layer that looks back over a ``window`` does not care how long a sequence is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from audiovae.errors import ConfigError
from audiovae.nn.stepping import Caches, Stepper

# keys and values of a layer (B, heads, room, width of a head), and how many of them are there
Past = tuple[Tensor, Tensor, int]


class Rotary(nn.Module):
    """Turns pairs of features by their position, each pair at its own speed, so that products know distances only.

    >>> rotary = Rotary(dim=8)
    >>> q, k = torch.randn(2, 1, 1, 1, 8)
    >>> near, far = ((turned(q, *rotary(at, at + 1)) * turned(k, *rotary(at + 3, at + 4))).sum() for at in (2, 90))
    >>> bool((near - far).abs() < 1e-4)
    True
    """

    speed: Tensor

    def __init__(self, dim: int, base: float = 10_000.0):
        super().__init__()
        self.register_buffer("speed", base ** (-torch.arange(0, dim, 2) / dim), persistent=False)

    def forward(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (L, dim) of the positions from ``start`` to ``stop``, once for all layers."""
        angle = torch.arange(start, stop, device=self.speed.device)[:, None] * self.speed
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, heads, L, dim), feature i paired with feature i + dim / 2, turned as :class:`Rotary` says."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos.to(x.dtype), x.roll(half, -1), sin.to(x.dtype))


class Attention(nn.Module):
    """Attention of several heads to the sequence itself.

    causal : whether a position sees no later one. window : positions it sees, itself among them; 0 for all.
    Shapes: x (B, L, D) -> (B, L, D). ``turns`` are what :class:`Rotary` gives for its positions.

    >>> turns = Rotary(8)(0, 5)
    >>> Attention(16, heads=2, causal=True)(torch.randn(3, 5, 16), turns).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, dim: int, heads: int, causal: bool, window: int = 0):
        super().__init__()
        self.heads, self.causal, self.window = heads, causal, window
        self.into = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], past: Past | None = None) -> Tensor:
        batch, length, dim = x.shape
        heads = self.into(x).view(batch, length, 3 * self.heads, -1).transpose(1, 2)
        both, v = heads.split((2 * self.heads, self.heads), dim=1)  # the gradient of a slice would be padded with zeros
        q, k = turned(both, *turns).chunk(2, dim=1)
        start = 0
        if past is not None:
            keys, values, start = past
            keys[:, :, start:start + length], values[:, :, start:start + length] = k, v
            k, v = keys[:, :, : start + length], values[:, :, : start + length]
        plain = self.causal and not self.window and not start
        mask = None if plain or not self.causal or (length == 1 and not self.window) \
            else self._mask(start, k.shape[2], x.device)
        # a flag where it will do: the fast kernels know "causal", not every mask
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain and length > 1)
        return self.out(h.transpose(1, 2).reshape(batch, length, dim))

    def _mask(self, start: int, length: int, device: torch.device) -> Tensor:
        """Which of ``length`` positions each from ``start`` on sees, (length - start, length) bool."""
        places = torch.arange(length, device=device)
        back = places[start:, None] - places
        seen = back >= 0
        return seen & (back < self.window) if self.window else seen


class Context(NamedTuple):
    """What is attended to besides, (B, N, D'), and which of it is there, (B, N) bool: of texts of several lengths."""

    values: Tensor
    there: Tensor


class CrossAttention(nn.Module):
    """Attention of several heads to what is there of a context, whose order it must tell by itself.

    Shapes: x (B, L, D), context (B, N, D') -> (B, L, D).

    >>> context = Context(torch.randn(3, 7, 8), torch.ones(3, 7, dtype=torch.bool))
    >>> CrossAttention(16, heads=2, context_dim=8)(torch.randn(3, 5, 16), context).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, dim: int, heads: int, context_dim: int):
        super().__init__()
        self.heads = heads
        self.query, self.into = nn.Linear(dim, dim, bias=False), nn.Linear(context_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, (k, v, there) = self._parted(self.query(x)), self.told(context)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=there).transpose(1, 2).flatten(2))

    def told(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of a context, (B, heads, N, width of a head) each, and what of it is there, (B, 1, 1, N)."""
        keys, values = self.into(context.values).chunk(2, dim=-1)
        return self._parted(keys), self._parted(values), context.there[:, None, None]

    def _parted(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GatedPerceptron(nn.Module):
    """out(silu(a) b) with a and b linear in x, as wide as to have the weights of a perceptron four times x's width."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = -(-8 * dim // 3 // 32) * 32
        self.inner, self.outer = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inner(x).chunk(2, dim=-1)
        return self.outer(F.silu(a) * b)


class TransformerLayer(nn.Module):
    """Attention to itself, to a context where there is one, and a perceptron, each added to what came in."""

    def __init__(self, dim: int, heads: int, causal: bool, window: int, context_dim: int, dropout: float):
        super().__init__()
        self.attention, self.attention_norm = Attention(dim, heads, causal, window), nn.LayerNorm(dim, bias=False)
        self.cross = CrossAttention(dim, heads, context_dim) if context_dim else None
        self.cross_norm = nn.LayerNorm(dim, bias=False) if context_dim else None
        self.perceptron, self.perceptron_norm = GatedPerceptron(dim), nn.LayerNorm(dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], context: Context | None = None,
                past: Past | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), turns, past))
        if self.cross is not None and self.cross_norm is not None and context is not None:
            x = x + self.dropout(self.cross(self.cross_norm(x), context))
        return x + self.dropout(self.perceptron(self.perceptron_norm(x)))


class Transformer(nn.Module):
    """``depth`` layers and a last norm.

    Parameters
    ----------
    dim, depth, heads : width D, layers, and heads of each.
    causal, window : see :class:`Attention`; the width is a multiple of twice the heads.
    context_dim : width of what is attended to besides, 0 for nothing.
    remember : False computes a layer's activations anew for its gradient, in place of keeping them.

    Shapes: x (B, L, D), context (B, N, D') or None -> (B, L, D).

    >>> net = Transformer(16, depth=2, heads=2, causal=True).eval()
    >>> x, caches = torch.randn(1, 6, 16), net.caches(batch=1, room=6)
    >>> steps = torch.cat([net(x[:, :4], caches=caches), net(x[:, 4:], caches=caches)], dim=1)
    >>> torch.allclose(steps, net(x), atol=1e-5)
    True
    """

    layers: Sequence[TransformerLayer]

    def __init__(self, dim: int, depth: int, heads: int, causal: bool, window: int = 0, context_dim: int = 0,
                 dropout: float = 0.0, remember: bool = True):
        super().__init__()
        if dim % (2 * heads):
            raise ConfigError(f"Transformer wants a width that is a multiple of twice its heads, got {dim}, {heads}.")
        self.dim, self.heads, self.window, self.remember = dim, heads, window, remember
        self.rotary = Rotary(dim // heads)
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            TransformerLayer(dim, heads, causal, window, context_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, bias=False)
        for layer in self.layers:  # what is added to the stream starts small, the more so the more is added
            for linear in (layer.attention.out, layer.perceptron.outer, layer.cross and layer.cross.out):
                if linear is not None:
                    nn.init.normal_(linear.weight, std=0.02 / (2 * depth) ** 0.5)

    def caches(self, batch: int, room: int) -> Caches:
        """Empty ones, for sequences of up to ``room``."""
        return Caches(len(self.layers), batch, self.heads, room, self.dim // self.heads, self.norm.weight)

    def forward(self, x: Tensor, context: Context | None = None, caches: Caches | None = None) -> Tensor:
        """With ``caches``, what goes on from the places they hold, under the same context all along."""
        if caches is not None and x.shape[1] == 1 and not self.training and not torch.is_grad_enabled():
            caches.stepper = caches.stepper or Stepper(self, caches.room, context)
            return caches.stepper(x[:, 0], caches)[:, None]
        start = caches.grow(x.shape[1]) if caches is not None else 0
        turns = self.rotary(start, start + x.shape[1])
        for index, layer in enumerate(self.layers):
            if self.remember or not torch.is_grad_enabled():
                past = (caches.keys[index], caches.values[index], start) if caches is not None else None
                x = layer(x, turns, context, past)
            else:
                x = checkpoint(layer, x, turns, context, use_reentrant=False)  # type: ignore[assignment]
        return self.norm(x)
