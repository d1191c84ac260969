"""Feature networks: what pictures are compared in, where pixels say too little; each has a name that scores print.

A small classifier is trained on the spot on the data's own labels. Pretrained networks are in
:mod:`audiovae.image.pretrained`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.conv import CONV
from audiovae.shapes import Batch, DataSpec, check


class Features(NamedTuple):
    """What a network makes of N examples: vectors (N, F) and log-probabilities of its classes (N, K), float64."""

    vectors: Tensor
    log_probs: Tensor


class FeatureNetwork(nn.Module):
    """The contract: frozen, the same in training and evaluation, with a gradient to its input.

    name : what it is and what it was trained on, such as "digits classifier".
    num_features : F.
    standard : whether its scores may bear the field's own names, FID and KID.
    """

    standard = False

    def __init__(self, name: str, num_features: int):
        super().__init__()
        self.name, self.num_features = name, num_features

    @property
    def title(self) -> str:
        return f"{self.name}, {self.num_features} features"

    def layers(self, x: Tensor) -> list[Tensor]:
        """The activations of several layers, each (B, C_l, *grid_l), the finest first."""
        raise NotImplementedError

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The feature vectors (B, F) and the logits of the classes (B, K)."""
        raise NotImplementedError

    def frozen(self) -> "FeatureNetwork":
        """Itself, with weights that no gradient changes."""
        return self.requires_grad_(False).eval()

    @torch.no_grad()
    def extract(self, x: Tensor, batch_size: int = 256) -> Features:
        """Features of data (N, C, *grid), computed ``batch_size`` at a time and gathered on the CPU."""
        device = next(self.parameters()).device
        parts = [self.heads(part.to(device)) for part in x.split(batch_size)]
        vectors, logits = (torch.cat(list(part)).double().cpu() for part in zip(*parts, strict=True))
        return Features(vectors, logits.log_softmax(1))


class Classifier(FeatureNetwork):
    """Three stages of convolutions on waveforms or pictures, halving the grid between; its mean over the grid is F.

    Group normalisation, so that no example's features depend on the batch it comes in. The input is brought to
    mean 0 and deviation 1 by two numbers of the training data.

    Shapes: (B, C, *grid) -> layers at grid, grid / 2, grid / 4; features (B, F), logits (B, K).

    >>> network = Classifier("noise classifier", dims=2, channels=1, num_labels=10)
    >>> [tuple(layer.shape) for layer in network.layers(torch.zeros(2, 1, 8, 8))]
    [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    >>> network.title
    'noise classifier, 64 features'
    """

    WIDTHS = (16, 32, 64)
    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, dims: int, channels: int, num_labels: int):
        super().__init__(name, num_features=self.WIDTHS[-1])
        self.dims, self.channels = dims, channels
        sizes = [channels, *self.WIDTHS]
        self.stages = nn.ModuleList(
            nn.Sequential(CONV[dims](before, width, 3, stride=1 if stage == 0 else 2, padding=1),
                          nn.GroupNorm(8, width), nn.ReLU(),
                          CONV[dims](width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU())
            for stage, (before, width) in enumerate(zip(sizes, self.WIDTHS, strict=False)))
        self.head = nn.Linear(self.num_features, num_labels)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def layers(self, x: Tensor) -> list[Tensor]:
        check(f"Classifier ({self.name})", x, self.channels, self.dims)
        h, found = (x - self.mean) / self.deviation, []
        for stage in self.stages:
            h = stage(h)
            found.append(h)
        return found

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(x)[-1].flatten(2).mean(2)
        return features, self.head(features)


class LabelledBatches(Protocol):
    """What :func:`classifier_of` asks of a source of data; every source of :mod:`audiovae.data` gives it."""

    spec: DataSpec

    def batch(self, step: int, rank: int = 0) -> Batch: ...


def train_classifier(x: Tensor, y: Tensor, name: str = "data", seed: int = 0, steps: int = 200,
                     batch_size: int = 64) -> Classifier:
    """A classifier of the data (N, C, *grid) by its labels (N,) int64, the same for the same seed.

    300 steps take about 3 s on one CPU core for 8 x 8 pictures. The caller's random numbers are not touched.

    Raises ShapeError unless there is a label of at least 0 for each example.

    >>> x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 2
    >>> network = train_classifier(x + 3 * y.view(-1, 1, 1, 1), y, name="shifted noise", steps=20)
    >>> network.name, network.heads(x[:2])[1].shape
    ('shifted noise classifier', torch.Size([2, 2]))
    """
    if len(x) != len(y) or not len(x) or int(y.min()) < 0:
        raise ShapeError(f"train_classifier wants one label of at least 0 an example, got {len(x)} examples and "
                         f"{len(y)} labels: leave out what has none.")
    network = _untrained(name, x[0].shape, int(y.max()) + 1, seed)
    return _fit(network, _drawn(x, y, seed, steps, batch_size), steps)


def classifier_of(source: LabelledBatches, seed: int = 0, steps: int = 200) -> Classifier:
    """A classifier trained on the first batches of a source of training data, as :func:`train_classifier` does.

    It is named by the kind of data, where the source tells. Examples without a label are left out. Raises ConfigError
    where there are no labels.
    """
    name = getattr(getattr(source, "config", None), "kind", "data")
    batches = ((batch.x[known], label[known]) for batch in map(source.batch, range(steps))
               if (label := batch.condition.label) is not None and bool((known := label >= 0).any()))
    if len(source.spec.labels) < 2:
        raise ConfigError("a classifier of the data wants labels of at least 2 kinds, and the data has "
                          f"{len(source.spec.labels)}: take network 'vgg', or data with labels.")
    first = source.batch(0).x
    return _fit(_untrained(name, first[0].shape, len(source.spec.labels), seed), batches, steps)


def _untrained(name: str, shape: torch.Size, num_labels: int, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(f"{name} classifier", len(shape) - 1, shape[0], num_labels)


def _fit(network: Classifier, batches: Iterable[tuple[Tensor, Tensor]], steps: int) -> Classifier:
    """Adam with a rate that falls to 0 along half a cosine; the first batch sets mean and deviation."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step, (x, y) in enumerate(batches):
        if step == 0:
            network.mean.fill_(x.mean())
            network.deviation.fill_(x.std().clamp(min=1e-6))
        F.cross_entropy(network.heads(x)[1], y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    network.frozen()
    return network


def _drawn(x: Tensor, y: Tensor, seed: int, steps: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randint(len(x), (batch_size,), generator=generator)
        yield x[pick], y[pick]
