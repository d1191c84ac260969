"""Gated PixelCNN: pictures one pixel after the other, each told all pixels before it (van den Oord 2016b).

Pixels go in reading order, and within one pixel its C channels in theirs (red, green, blue). Two stacks
of convolutions see what came before: the vertical one every row above, the horizontal one the pixels to
the left in the row; together they leave no blind spot (section 2.2). Neither multiplies a kernel with a
mask: the kernels are cut to what may be seen, and pictures are padded on the sides that those look to.
Only the matrices within one pixel, from channel to channel, are masked.

Feature i of the horizontal stack belongs to data channel i mod C.

Convolutions see as far as their reach; between them, attention can let a pixel see all before it, wherever they are
(PixelSNAIL, Chen et al. 2018, section 3).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.stepping import Caches
from audiovae.nn.transformer import Transformer
from audiovae.shapes import check


class ChannelConv(nn.Module):
    """1 x 1 convolution that tells a feature of data channel c of channels up to c; ``strict``: below c.

    Feature i belongs to channel i mod C on both sides: masks B and A (van den Oord 2016a, section 3.4).

    >>> conv = ChannelConv(3, 6, channels=3, strict=True)
    >>> conv.mask.flatten(1)[:3]
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [1., 1., 0.]])
    """

    mask: Tensor

    def __init__(self, channels_in: int, channels_out: int, channels: int, strict: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1)
        source, target = torch.arange(channels_in) % channels, torch.arange(channels_out)[:, None] % channels
        mask = source < target if strict else source <= target
        self.register_buffer("mask", mask.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.conv.weight * self.mask, self.conv.bias)


class ChannelEmbedding(nn.Module):
    """A learned vector a code, codes (B, C, H, W) -> (B, E C, H, W), feature i of channel i mod C; of -1 it is 0.

    >>> ChannelEmbedding(channels=2, num_codes=16, dim=4)(torch.zeros(3, 2, 5, 5, dtype=torch.int64)).shape
    torch.Size([3, 8, 5, 5])
    """

    offsets: Tensor

    def __init__(self, channels: int, num_codes: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(channels * num_codes, dim)
        self.register_buffer("offsets", num_codes * torch.arange(channels)[:, None, None], persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        vectors = self.table(codes.clamp(min=0) + self.offsets) * (codes >= 0)[..., None]
        return vectors.permute(0, 4, 1, 2, 3).flatten(1, 2)


class Recall(nn.Module):
    """What all pixels before a pixel have to say to it: attention in reading order, and a perceptron.

    At the place of pixel p stand the features and the values of the pixel before it, all of its channels, and what
    the rows above and the condition say at p. So nothing of p itself is there, whatever channel is told.

    >>> recall = Recall(width=8, seen=2, heads=2, dropout=0.0)
    >>> recall(torch.zeros(3, 10, 4, 5), torch.zeros(3, 16, 4, 5)).shape
    torch.Size([3, 8, 4, 5])
    """

    def __init__(self, width: int, seen: int, heads: int, dropout: float):
        super().__init__()
        self.into = nn.Linear(width + seen + 2 * width, width)
        self.network = Transformer(width, 1, heads, causal=True, dropout=dropout)
        self.out = nn.Linear(width, width)
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, before: Tensor, told: Tensor, caches: Caches | None = None) -> Tensor:
        """What stands before each place (B, width + seen, H, W), and what is told it (B, 2 width, H, W)."""
        x = self.into(torch.cat([before, told], dim=1).flatten(2).transpose(1, 2))
        x = self.out(self.network(x, caches=caches))
        return x.transpose(1, 2).unflatten(2, tuple(before.shape[2:]))


def one_later(x: Tensor) -> Tensor:
    """(B, C, H, W) moved by one place in reading order, 0 at the first.

    >>> one_later(torch.tensor([[[[1, 2], [3, 4]]]]))
    tensor([[[[0, 1],
              [2, 3]]]])
    """
    return F.pad(x.flatten(2), (1, 0))[..., :-1].unflatten(2, tuple(x.shape[2:]))


class GatedLayer(nn.Module):
    """One layer of both stacks (van den Oord 2016b, figure 2); the ``first`` must not see the pixel itself.

    Its convolutions do not pad where the past is: the caller hands them ``reach`` = kernel // 2 rows or
    columns more than it wants back, which is what lets one row or one pixel be computed alone.
    """

    def __init__(self, channels_in: int, width: int, kernel: int, channels: int, first: bool, dropout: float = 0.0):
        super().__init__()
        reach = kernel // 2
        self.first, self.seen = first, channels_in - 1 if first else width  # the first's last tells the margin apart
        rows = reach if first else reach + 1  # of the vertical stack, row r already is what rows < r say
        self.above = nn.Conv2d(channels_in, 2 * width, (rows, kernel), padding=(0, reach))
        self.left = nn.Conv2d(channels_in, 2 * width, (1, reach))
        self.now = ChannelConv(self.seen, 2 * width, channels, strict=first)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = ChannelConv(width, width, channels)
        self.dropout = nn.Dropout(dropout)
        self.recall: Recall | None = None  # what is attended to behind it, where it is told to

    def horizontal(self, left: Tensor, now: Tensor, told: Tensor) -> Tensor:
        """From pixels to the left (B, C', H, reach + W - 1), the features so far (B, C', H, W) and what the
        vertical stack and the condition say (B, 2 width, H, W)."""
        before = _convolve(left, self.left.weight, self.left.bias)
        h = self.out(self.dropout(gate(before + self.now(now[:, : self.seen]) + told)))
        return h if self.first else now + h


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution without padding; of one pixel it is a plain product, at a fifth of a small convolution's cost."""
    if x.shape[2:] == weight.shape[2:]:
        return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
    return F.conv2d(x, weight, bias)


def gate(h: Tensor) -> Tensor:
    """tanh(a) σ(b) of the two halves a, b of the channels (eq. 2): (B, 2 width, ...) -> (B, width, ...)."""
    a, b = h.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class GatedPixelCNN(nn.Module):
    """The parameters of p(x_i | all before i), for all pixels at once or while drawing one after the other.

    Parameters
    ----------
    channels : C of the data, values about [0, 1].
    params_per_channel : P of the likelihood.
    width : features of each stack, a multiple of C.
    depth, kernel : layers, and the odd side of their kernels: a pixel sees ``reach`` = depth * (kernel // 2)
        rows up, and columns to either side; a small reach leaves the rest to a latent.
    vector_dim, map_dim : E of a condition vector (B, E) and channels of a map (B, E, H, W), added in every
        gate (eq. 3 and 4); 0 for none.
    pixel_dropout : chance that training hides an input pixel, all of its channels, from those after it
        (Bowman 2016, section 3.1; Chen 2017). A hidden pixel looks like one outside of the picture.
    num_codes : K where the data is codes, int64 from 0 and -1 where there is none: they enter by a learned vector.
    attend, heads : layers from one attention over all pixels before to the next, 0 for no attention; heads of each.
    dropout : of features, in training.

    Shapes: x (B, C, H, W) -> (B, P C, H, W), first the C of the first parameter, then of the next.

    >>> network = GatedPixelCNN(channels=3, params_per_channel=2, width=12, depth=2, kernel=3)
    >>> network(torch.rand(4, 3, 8, 8)).shape, network.reach
    (torch.Size([4, 6, 8, 8]), 2)
    """

    layers: Sequence[GatedLayer]

    def __init__(self, channels: int, params_per_channel: int, width: int = 48, depth: int = 6, kernel: int = 5,
                 vector_dim: int = 0, map_dim: int = 0, pixel_dropout: float = 0.0, num_codes: int = 0,
                 attend: int = 0, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if width % channels or kernel % 2 == 0 or kernel < 3 or depth < 1:
            raise ConfigError(f"GatedPixelCNN wants a width that is a multiple of its {channels} channels, an odd "
                              f"kernel from 3 and a depth from 1, got width {width}, kernel {kernel}, depth {depth}.")
        if not 0 <= pixel_dropout < 1:
            raise ConfigError(f"GatedPixelCNN wants pixel_dropout from 0 to below 1, got {pixel_dropout:g}.")
        self.channels, self.params_per_channel, self.pixel_dropout = channels, params_per_channel, pixel_dropout
        self.margin, self.reach = kernel // 2, depth * (kernel // 2)
        self.table = ChannelEmbedding(channels, num_codes, width // channels) if num_codes else None
        seen = (width if num_codes else channels) + 1
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            GatedLayer(width if i else seen, width, kernel, channels, i == 0, dropout) for i in range(depth))
        for i in range(attend - 1, depth, attend) if attend else ():
            self.layers[i].recall = Recall(width, seen, heads, dropout)
        self.head = nn.Sequential(nn.ReLU(), ChannelConv(width, width, channels),
                                  nn.ReLU(), ChannelConv(width, params_per_channel * channels, channels))
        self.gates = 4 * width * depth  # tanh and sigmoid of both stacks
        self.from_vector = nn.Linear(vector_dim, self.gates) if vector_dim else None
        self.from_map = nn.Conv2d(map_dim, self.gates, 1) if map_dim else None

    def forward(self, x: Tensor, vector: Tensor | None = None, spatial: Tensor | None = None) -> Tensor:
        """Raise ShapeError on data of other channels, and on a condition that is missing or not foreseen."""
        if self.table is None:
            check("GatedPixelCNN", x, self.channels, dims=2)
        v = h = shown = self._shown(x)
        for layer, (vertical, horizontal) in zip(self.layers, self._conditions(x, vector, spatial), strict=True):
            rows = F.pad(v, (0, 0, self.margin, 0))
            risen = layer.above(rows[:, :, :-1] if layer.first else rows) + vertical
            left = F.pad(h, (self.margin, 0))[..., :-1]
            told = layer.link(risen) + horizontal
            h = layer.horizontal(left, h, told)
            if layer.recall is not None:
                h = h + layer.recall(one_later(torch.cat([h, shown], dim=1)), told)
            v = gate(risen)
        return self.head(h)

    @torch.no_grad()
    def sample(self, draw: Callable[[Tensor], Tensor], count: int, size: tuple[int, int],
               vector: Tensor | None = None, spatial: Tensor | None = None) -> Tensor:
        """Draw (count, C, *size) pixel by pixel; every feature of every layer is computed once a channel.

        ``draw`` takes the P parameters of one channel of one pixel (count, P, 1, 1) to its value
        (count, 1, 1, 1). The same as calling :meth:`forward` before every draw, at a share of its cost.
        """
        (height, width), margin, layers = size, self.margin, self.layers
        like = self.layers[0].above.weight
        x = like.new_zeros(count, self.channels, height, width, dtype=like.dtype if self.table is None else torch.int64)
        conditions = [[c.expand(-1, -1, height, width) for c in pair] for pair in self._conditions(x, vector, spatial)]
        # the input of every layer: of the vertical stack below a margin, of this row right of one
        above = [like.new_zeros(count, layer.above.in_channels, margin + height, width) for layer in layers]
        recalls = {depth: layer.recall for depth, layer in enumerate(layers) if layer.recall is not None}
        caches = {depth: recall.network.caches(count, height * width) for depth, recall in recalls.items()}
        last = {depth: like.new_zeros(count, layers[depth].out.conv.out_channels + layers[0].above.in_channels, 1, 1)
                for depth in recalls}  # of the pixel before, what attention goes by
        for i in range(height):
            told, row = [], [like.new_zeros(count, layer.left.in_channels, 1, margin + width) for layer in layers]
            for depth, layer in enumerate(layers):
                vertical, horizontal = (c[:, :, i : i + 1] for c in conditions[depth])
                risen = layer.above(above[depth][:, :, i : i + layer.above.kernel_size[0]]) + vertical
                told.append(layer.link(risen) + horizontal)
                if depth + 1 < len(layers):
                    above[depth + 1][:, :, margin + i] = gate(risen)[:, :, 0]
            for j in range(width):
                here = slice(margin + j, margin + j + 1)
                recalled = {depth: recall(last[depth], told[depth][..., j : j + 1], caches[depth])
                            for depth, recall in recalls.items()}
                features = {}
                for channel in range(self.channels):
                    h = row[0][..., here]
                    for depth, layer in enumerate(layers):
                        row[depth][..., here] = h
                        h = layer.horizontal(row[depth][..., j : j + margin], h, told[depth][..., j : j + 1])
                        if depth in recalled:
                            features[depth], h = h, h + recalled[depth]
                    x[:, channel, i, j] = draw(self.head(h)[:, channel :: self.channels]).flatten()
                    row[0][:, :-1, :, here] = self._values(x[..., i : i + 1, j : j + 1])  # those to come are masked
                row[0][:, -1, :, here] = 1
                last = {depth: torch.cat([features[depth], row[0][..., here]], dim=1) for depth in recalls}
            above[0][:, :, margin + i] = row[0][:, :, 0, margin:]
        return x

    def _shown(self, x: Tensor) -> Tensor:
        """What the stacks see: the values, and a last channel of ones that ends with the picture."""
        values = self._values(x)
        known = torch.ones_like(values[:, :1])
        if self.training and self.pixel_dropout:
            known = torch.bernoulli(known * (1 - self.pixel_dropout))
        return torch.cat([known * values, known], dim=1)

    def _values(self, x: Tensor) -> Tensor:
        """Values from -1 to 1, or the vectors of codes."""
        return 2 * x - 1 if self.table is None else self.table(x)

    def _conditions(self, x: Tensor, vector: Tensor | None, spatial: Tensor | None) -> list[tuple[Tensor, ...]]:
        """What is added in each layer's vertical and horizontal gate, (B or 1, 2 width, H or 1, W or 1) each."""
        for name, given, layer in (("vector", vector, self.from_vector), ("map", spatial, self.from_map)):
            if (given is None) != (layer is None):
                wanted = "no condition" if layer is None else "a condition"
                raise ShapeError(f"GatedPixelCNN wants {wanted} {name}, got {'none' if given is None else 'one'}: set "
                                 f"{name}_dim to what it is told.")
        total = x.new_zeros(1, 1, 1, 1)
        if vector is not None and self.from_vector is not None:
            total = total + self.from_vector(vector)[:, :, None, None]
        if spatial is not None and self.from_map is not None:
            total = total + self.from_map(spatial)
        layers = total.expand(-1, self.gates, -1, -1).chunk(len(self.layers), dim=1)
        return [layer.chunk(2, dim=1) for layer in layers]
