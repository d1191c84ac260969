"""Windows of unequal lengths through a network together, each to the very numbers it gets alone.

Two things could make them differ. The padding: it is held at zero in every layer (``lengths``). The rounding: sums
of floats depend on their order, and a matrix library may choose it by the shape it is given. So a window is padded
to one of a few widths that its own length alone decides, and a batch is trusted only once noise of its very shape
has given the same bits together as row by row; where it does not, rows are run one by one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # x, lengths or None for all of x, labels


def padded_width(steps: int, most: int) -> int:
    """The width, in latent steps, that a window of ``steps`` is padded to: four in every octave, at most ``most``.

    >>> [padded_width(steps, most=1026) for steps in (3, 9, 50, 150, 600, 1000, 1026)]
    [3, 10, 56, 160, 640, 1024, 1026]
    """
    grain = 1 << max(0, steps.bit_length() - 3)
    return max(steps, min(-(-steps // grain) * grain, most))


def groups(lengths: Sequence[int], most: int, budget: int) -> Iterator[tuple[int, list[int]]]:
    """The places of windows to run together, and their width: as many as ``budget`` steps, a power of two.

    >>> list(groups([50, 150, 51, 149, 55], most=1026, budget=320))
    [(56, [0, 2]), (56, [4]), (160, [1, 3])]
    """
    alike: dict[int, list[int]] = defaultdict(list)
    for place, steps in enumerate(lengths):
        alike[padded_width(steps, most)].append(place)
    for width, places in alike.items():
        while places:
            rows = 1 << min(len(places), max(1, budget // width)).bit_length() - 1
            yield width, places[:rows]
            places = places[rows:]


class Together:
    """Runs a network on windows, several at a time where that is exact.

    Parameters
    ----------
    network : x (B, C, W * unit_in), lengths (B,) or None where all are W, labels (B,) int64, to (B, C', W * unit_out).
    noise : a tensor of such a shape to try a batch on, dense enough that another order of sums would show.
    unit_in, unit_out : entries a latent step takes before and after.

    >>> cumulate = Together(lambda x, lengths, labels: x.cumsum(-1), torch.rand, unit_in=1, unit_out=1)
    >>> cumulate([torch.ones(1, 2), torch.ones(1, 3)], [0, 0], most=4, budget=8)
    [tensor([[1., 2.]]), tensor([[1., 2., 3.]])]
    """

    def __init__(self, network: Network, noise: Callable[..., Tensor], unit_in: int, unit_out: int):
        self.network, self.noise, self.unit_in, self.unit_out = network, noise, unit_in, unit_out
        self._exact: dict[tuple[object, ...], bool] = {}

    def __call__(self, windows: Sequence[Tensor], labels: Sequence[int], most: int, budget: int) -> list[Tensor]:
        """Windows (C, n * unit_in), of any n, to (C', n * unit_out); ``most`` and ``budget`` as in :func:`groups`."""
        results: list[Tensor] = [torch.empty(0)] * len(windows)
        sizes = [window.shape[-1] // self.unit_in for window in windows]
        for width, places in groups(sizes, most, budget):
            x = windows[0].new_zeros(len(places), len(windows[0]), width * self.unit_in)
            for row, place in zip(x, places, strict=True):
                row[:, :windows[place].shape[-1]] = windows[place]
            lengths = torch.tensor([sizes[place] for place in places])
            told = torch.tensor([labels[place] for place in places])
            run = self.network if self.exact(x.shape) else self._one_by_one
            out = run(x, None if bool((lengths == width).all()) else lengths, told)
            for place, row in zip(places, out, strict=True):
                results[place] = row[..., :sizes[place] * self.unit_out]
        return results

    def exact(self, shape: Sequence[int]) -> bool:
        """Whether a batch of ``shape`` gives each of its rows the bits it gets alone, here and with these threads."""
        if shape[0] == 1:
            return True
        key = (*shape, torch.get_num_threads())
        if key not in self._exact:
            x, labels = self.noise(*shape), torch.arange(shape[0]) % 2 - 1
            lengths = shape[-1] // self.unit_in - torch.arange(shape[0]) % 2
            same = [torch.equal(self.network(x, some, labels), self._one_by_one(x, some, labels))
                    for some in (None, lengths)]
            self._exact[key] = all(same)
        return self._exact[key]

    def _one_by_one(self, x: Tensor, lengths: Tensor | None, labels: Tensor) -> Tensor:
        rows = [slice(i, i + 1) for i in range(len(x))]
        return torch.cat([self.network(x[row].clone(), None if lengths is None else lengths[row], labels[row])
                          for row in rows])
