"""Learning from few labels: a generative model whose label is a latent too (M2, Kingma 2014, section 2.2).

A CVAE p(x|y, z), q(z|x, y) and a classifier q(y|x), trained as one. Where a label is known it is used; where
it is not, the bound is summed over all labels, each weighed by the classifier (eq. 7):

    U(x) = Σ_y q(y|x) [log p(x|y, z) - KL(q(z|x, y) || p(z))] - KL(q(y|x) || p(y)),   p(y) uniform.

So y is one more latent with a rate in nats, and the objective, the loop and the checkpoints are those of all
models. On the latents of a VAE trained before (M1) as its data, it is M1 + M2 (section 2.3).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import GaussianConfig as GaussianBottleneckConfig
from audiovae.bottlenecks.base import Bottleneck
from audiovae.config import Config, Whole
from audiovae.corruption import CorruptionConfig
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import Encoder, EncoderConfig, MLPEncoderConfig, vector_encoder
from audiovae.errors import ConfigError
from audiovae.likelihoods import Likelihood
from audiovae.models.autoencoder import Autoencoder, AutoencoderConfig
from audiovae.shapes import CodeLevel, Condition, DataSpec, Latent, Output


class SemiSupervised(nn.Module):
    """A conditional autoencoder told every label in turn, and a classifier that weighs them.

    Parameters
    ----------
    autoencoder : its encoder and decoder both told the label.
    classifier : (B, C, *size) -> logits (B, S, 1) or (B, S, 1, 1).
    corruption : noise on what the classifier reads in training, or None.
    warmup : training steps over which what examples without a label tell the classifier grows from nothing to its full
        weight. From the start, they would make of the labels whatever clusters an untrained decoder tells apart.

    >>> data = DataSpec(channels=1, dims=2, labels=("odd", "even"), size=(8, 8), levels=2)
    >>> model = SemiSupervisedConfig().build(data)
    >>> out = model(torch.rand(3, 1, 8, 8), Condition(torch.tensor([0, 1, -1])))
    >>> out.params.shape, out.weights[0].tolist()
    (torch.Size([6, 1, 8, 8]), [1.0, 0.0])
    """

    code_levels: tuple[CodeLevel, ...] = ()
    autoencoder: Autoencoder
    classifier: Encoder
    corruption: nn.Module | None
    steps: Tensor

    def __init__(self, autoencoder: Autoencoder, classifier: Encoder, corruption: nn.Module | None = None,
                 warmup: int = 0):
        super().__init__()
        self.autoencoder, self.classifier, self.data = autoencoder, classifier, autoencoder.data
        self.corruption, self.warmup = corruption, warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # of training, so far

    @property
    def encoder(self) -> Encoder:
        return self.autoencoder.encoder

    @property
    def bottleneck(self) -> Bottleneck:
        return self.autoencoder.bottleneck

    @property
    def likelihood(self) -> Likelihood:
        return self.autoencoder.likelihood

    @property
    def hop(self) -> int:
        return self.autoencoder.hop

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x), but for a constant: (B, C, *size) -> logits (B, S)."""
        return self.classifier(x).flatten(1)

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """The S decoded versions of each example, one a label, and their weights; K = S.

        Labels of -1 are unknown. ``losses``: ``classification``, the classifier's cross-entropy in nats on the
        labelled examples, averaged over the batch (eq. 9).
        """
        if samples != 1:
            raise ConfigError("the semi-supervised model sums over labels: leave objective.samples at 1.")
        count = len(self.data.labels)
        label = condition.label if condition is not None else None
        label = torch.full((len(x),), -1, device=x.device) if label is None else label
        known = label >= 0
        logits = self.classify(self.corruption(x) if self.corruption is not None and self.training else x)
        log_chance = self._warming(logits.log_softmax(1))
        weights = torch.where(known[:, None], F.one_hot(label.clamp(min=0), count), log_chance.exp())

        every = Condition(torch.arange(count, device=x.device).repeat(len(x)))
        output = self.autoencoder(x, every)
        z = output.latents[0]
        rate = (weights * z.rate.view(-1, count)).sum(1)
        cost = torch.where(known, 0.0, (weights * log_chance).sum(1)) + math.log(count)
        cross_entropy = F.cross_entropy(logits, label.clamp(min=0), reduction="none") * known
        told = Latent(z=logits, rate=cost, losses={"classification": cross_entropy.mean()}, log_ratio=cost,
                      stats={"labelled": known.float().mean()})
        summed = Latent(z=z.z, rate=rate, stats=z.stats, losses=z.losses,
                        log_ratio=None if z.log_ratio is None else rate)
        return Output((summed, told), output.params, weights)

    def _warming(self, log_chance: Tensor) -> Tensor:
        """``log_chance`` as it is; in the first steps of training less of its gradient goes back."""
        if not self.training or self.steps >= self.warmup:
            return log_chance
        share = self.steps / self.warmup
        self.steps += 1
        return share * log_chance + (1 - share) * log_chance.detach()

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The posterior's parameters of z, for the label given or, where unknown, the likeliest: (B, 2 D, ...)."""
        return self.autoencoder.encode(x, self.told(x, condition))

    def reconstruct(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Data through both halves, its label as in :meth:`encode`."""
        return self.autoencoder.reconstruct(x, self.told(x, condition))

    def decode(self, codes: Tensor, condition: Condition | None = None,
               generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Autoencoder.decode`."""
        return self.autoencoder.decode(codes, condition, generator)

    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """See :meth:`Autoencoder.sample`; labels that are not told are drawn, all alike."""
        if condition is None or condition.label is None:
            label = torch.randint(len(self.data.labels), (count,), generator=generator)
            condition = Condition(label.to(next(self.parameters()).device))
        return self.autoencoder.sample(count, condition, temperature, generator, size)

    def told(self, x: Tensor, condition: Condition | None) -> Condition:
        """The labels of data (B, C, *size): those given, and the likeliest where none is (-1)."""
        likeliest = self.classify(x).argmax(1)
        label = condition.label if condition is not None else None
        return Condition(likeliest if label is None else torch.where(label < 0, likeliest, label))


@dataclass(frozen=True)
class SemiSupervisedConfig(Config):
    """``autoencoder`` needs a condition in encoder and decoder; ``classifier`` is any encoder to one vector.

    corruption, warmup : see :class:`SemiSupervised`.
    """

    kind: Literal["semi_supervised"] = "semi_supervised"
    autoencoder: AutoencoderConfig = AutoencoderConfig(
        encoder=MLPEncoderConfig(), decoder=MLPDecoderConfig(), bottleneck=GaussianBottleneckConfig(dim=50),
        condition_dim=16, condition_encoder=True)
    classifier: EncoderConfig = MLPEncoderConfig()
    corruption: CorruptionConfig | None = None
    warmup: Whole = 0

    def build(self, data: DataSpec) -> SemiSupervised:
        if not data.labels:
            raise ConfigError("model 'semi_supervised' wants data with labels, some of which may be unknown.")
        if not (self.autoencoder.condition_dim and self.autoencoder.condition_encoder):
            raise ConfigError("model 'semi_supervised' tells encoder and decoder the label: set condition_dim and "
                              "condition_encoder of model.autoencoder.")
        if getattr(self.autoencoder.likelihood, "scale", None) == "calibrated":
            raise ConfigError("model 'semi_supervised' weighs a decoding for each label, and a calibrated scale fits "
                              "them all alike: take model.autoencoder.likelihood.scale fixed, global or predicted.")
        if self.autoencoder.label_adversary:
            raise ConfigError("model 'semi_supervised' tells the autoencoder every label of an example in turn, so "
                              "that none is its own: leave model.autoencoder.label_adversary out.")
        never_hidden = replace(self.autoencoder, label_dropout=0.0)  # the label is a latent: it is always told
        return SemiSupervised(never_hidden.build(data),
                              vector_encoder(self.classifier, data, len(data.labels), condition_dim=0),
                              self.corruption.build() if self.corruption is not None else None, self.warmup)
