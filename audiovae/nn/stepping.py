"""A transformer one place after another: what its layers remember, and the shortest way through them.

At one place a product with a matrix takes as long as reading it, and modules, views and copies between the products
come to a quarter of that again. A :class:`Stepper` has them laid out beforehand: the same numbers, to rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.errors import ShapeError

if TYPE_CHECKING:
    from audiovae.nn.transformer import Context, CrossAttention, Transformer

Map = Callable[[Tensor], Tensor]


class Caches:
    """Keys and values that all layers have made so far, (layers, B, heads, room, width of a head), from the left.

    >>> caches = Caches(layers=2, batch=1, heads=2, room=4, dim=3, like=torch.zeros(1))
    >>> caches.grow(3), caches.length, caches.keys.shape
    (0, 3, torch.Size([2, 1, 2, 4, 3]))
    """

    stepper: "Stepper | None" = None

    def __init__(self, layers: int, batch: int, heads: int, room: int, dim: int, like: Tensor):
        self.keys, self.values = (like.new_zeros(layers, batch, heads, room, dim) for _ in range(2))
        self.length, self.room = 0, room

    def grow(self, count: int) -> int:
        """Take room for ``count`` more positions, and give the first of them; ShapeError where there is none."""
        start = self.length
        if start + count > self.room:
            raise ShapeError(f"Caches want at most {self.room} positions, got {start + count}: give them more room.")
        self.length = start + count
        return start


class Stepper:
    """The layers of a causal ``net`` on the place that ``caches`` have next, (B, D) -> (B, D), without dropout.

    room, context : as the caches have it; what is attended to besides, the same at every place.

    >>> from audiovae.nn.transformer import Transformer
    >>> net = Transformer(16, depth=2, heads=2, causal=True).eval().requires_grad_(False)
    >>> x, caches, step = torch.randn(1, 6, 16), net.caches(batch=1, room=6), Stepper(net, 6, None)
    >>> torch.allclose(torch.stack([step(place, caches) for place in x.unbind(1)], dim=1), net(x), atol=1e-5)
    True
    """

    def __init__(self, net: "Transformer", room: int, context: "Context | None"):
        self.heads, self.window = net.heads, net.window
        cos, sin = net.rotary(0, room)
        self.cos = torch.stack([cos, cos, torch.ones_like(cos)])[:, :, None]  # values are not turned
        self.sin = torch.stack([sin, sin, torch.zeros_like(sin)])[:, :, None]
        self.layers = [(normed(layer.attention_norm, layer.attention.into), mapped(layer.attention.out),
                        None if layer.cross is None or layer.cross_norm is None or context is None else
                        crossed(layer.cross_norm, layer.cross, context),
                        normed(layer.perceptron_norm, layer.perceptron.inner), mapped(layer.perceptron.outer))
                       for layer in net.layers]
        self.last = mapped(net.norm)

    def __call__(self, x: Tensor, caches: Caches) -> Tensor:
        batch, half, place = x.shape[0], self.cos.shape[-1] // 2, caches.grow(1)
        first = max(0, place + 1 - self.window) if self.window else 0
        cos, sin = self.cos.select(1, place), self.sin.select(1, place)
        rooms = (*(its.select(3, place).unbind() for its in (caches.keys, caches.values)),
                 *(its.narrow(3, first, place + 1 - first).unbind() for its in (caches.keys, caches.values)))
        for (into, out, cross, inner, outer), new_key, new_value, keys, values in zip(self.layers, *rooms, strict=True):
            heads = into(x).view(batch, 3, self.heads, -1)
            query, key, value = torch.addcmul(heads * cos, heads.roll(half, -1), sin).unbind(1)
            new_key.copy_(key)
            new_value.copy_(value)
            x = x + out(F.scaled_dot_product_attention(query.unsqueeze(2), keys, values).reshape(batch, -1))
            if cross is not None:
                x = x + cross(x)
            a, b = inner(x).chunk(2, -1)
            x = x + outer(F.silu(a).mul_(b))
        return self.last(x)


def mapped(module: nn.Module) -> Map:
    """What a module does, without its way there where that is known."""
    if type(module) is nn.Linear:
        return partial(F.linear, weight=module.weight, bias=module.bias)
    if type(module) is nn.LayerNorm:
        return partial(torch.layer_norm, normalized_shape=module.normalized_shape, weight=module.weight,
                       bias=module.bias, eps=module.eps)
    return module.forward


def normed(norm: nn.Module, linear: nn.Module) -> Map:
    before, after = mapped(norm), mapped(linear)
    return lambda x: after(before(x))


def crossed(norm: nn.Module, cross: "CrossAttention", context: "Context") -> Map:
    """Attention to a context whose keys and values are made once."""
    query, out, (keys, values, there) = normed(norm, cross.query), mapped(cross.out), cross.told(context)

    def act(x: Tensor) -> Tensor:
        heads = query(x).view(len(x), cross.heads, 1, -1)
        return out(F.scaled_dot_product_attention(heads, keys, values, attn_mask=there).reshape(len(x), -1))

    return act
