"""Models of p(x) without a latent, behind the contract of those with one: the families a VAE is compared with.

Autoregressive: log p(x) = Σ_i log p(x_i | x_<i), exact, drawn one element after the other (van den Oord 2016b).
Flow: log p(x) by a change of variables, exact for continuous data and a bound for levels, drawn at once.
The rate is 0 and the ELBO log p(x), or its bound by dequantization, which the likelihood's ``measure`` says.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor, nn

from audiovae.autoregressive import check_factorised, sample_pixels
from audiovae.config import Config, Count
from audiovae.errors import ConfigError
from audiovae.likelihoods import CategoricalConfig, Likelihood, LikelihoodConfig
from audiovae.likelihoods.dequantized import Dequantized
from audiovae.likelihoods.flow import Coupling, Flow
from audiovae.likelihoods.noise import NoiseConfig, UniformNoiseConfig
from audiovae.models.autoencoder import ConditionEmbedding
from audiovae.nn.pixelcnn import GatedPixelCNN
from audiovae.shapes import CodeLevel, Condition, DataSpec, Output, fixed_size


class DensityModel(nn.Module):
    """p(x) by a likelihood whose parameters a PixelCNN reads from x itself, or that needs none.

    Parameters
    ----------
    network : the PixelCNN, or None for a likelihood without parameters, such as a flow.
    likelihood : of every element given those before it, or of all at once.
    data : what the model was built for.
    embedding : what the network is told of the label, or None.

    >>> data = DataSpec(channels=1, dims=2, size=(4, 4), levels=17)
    >>> model = DensityConfig(estimator=PixelCNNConfig(width=8, depth=2)).build(data)
    >>> model(torch.zeros(2, 1, 4, 4)).latents, model.sample(3).shape
    ((), torch.Size([3, 1, 4, 4]))
    """

    hop = 1
    code_levels: tuple[CodeLevel, ...] = ()
    likelihood: Likelihood
    network: GatedPixelCNN | None
    embedding: ConditionEmbedding | None

    def __init__(self, network: GatedPixelCNN | None, likelihood: Likelihood, data: DataSpec,
                 embedding: ConditionEmbedding | None = None):
        super().__init__()
        if network is not None:
            check_factorised(likelihood)
        self.network, self.likelihood, self.embedding, self.data = network, likelihood, embedding, data

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """The likelihood's parameters for data (B, C, *grid), and no latents; ConfigError on several of them."""
        if samples != 1:
            raise ConfigError("the density model has no latents to draw: leave objective.samples at 1.")
        if self.network is None:
            return Output((), x.new_zeros(len(x), 0, *x.shape[2:]))
        return Output((), self.network(x, self._vector(condition, len(x))))

    def log_prob(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """log p(x) (B,) in nats of the likelihood's ``measure``: exact, or one draw of dequantization's bound."""
        return self.likelihood.log_prob(self(x, condition).params, x)

    @torch.no_grad()
    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """New data (count, C, *size); ``temperature`` as for :func:`sample_pixels`, of a flow it is 1.

        ``size`` may be left out where the data is of one size.
        """
        size = size or fixed_size("sample", self.data)
        if self.network is not None:
            return sample_pixels(self.network, self.likelihood, count, size, temperature, generator,
                                 vector=self._vector(condition, count))
        if temperature != 1:
            raise ConfigError(f"a flow is drawn from at temperature 1, got {temperature:g}.")
        return self.likelihood.sample(torch.zeros(count, 0, *size, device=next(self.parameters()).device), generator)

    def _vector(self, condition: Condition | None, batch: int) -> Tensor | None:
        return self.embedding(condition, batch) if self.embedding is not None else None


@dataclass(frozen=True)
class PixelCNNConfig(Config):
    """A gated PixelCNN and the likelihood of each of its pixels; see :class:`GatedPixelCNN`."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    width: Count = 48
    depth: int = 6
    kernel: int = 3
    pixel_dropout: float = 0.0
    likelihood: LikelihoodConfig = CategoricalConfig()

    def build(self, data: DataSpec, condition_dim: int) -> tuple[GatedPixelCNN, Likelihood]:
        if data.dims != 2:
            raise ConfigError(f"estimator 'pixelcnn' wants pictures (B, C, H, W), got {data}: take 'flow'.")
        likelihood = self.likelihood.build(data)
        network = GatedPixelCNN(data.channels, likelihood.params_per_channel, self.width, self.depth, self.kernel,
                                vector_dim=condition_dim, pixel_dropout=self.pixel_dropout)
        return network, likelihood


@dataclass(frozen=True)
class FlowConfig(Config):
    """Coupling layers over the whole example, see :class:`Flow`; ``noise`` dequantizes data that has levels."""

    kind: Literal["flow"] = "flow"
    transforms: int = 6
    widths: tuple[int, ...] = (128, 128)
    coupling: Coupling = "affine"
    noise: NoiseConfig = UniformNoiseConfig()

    def build(self, data: DataSpec, condition_dim: int) -> tuple[None, Likelihood]:
        if condition_dim:
            raise ConfigError("estimator 'flow' takes no condition: set model.condition_dim to 0, or take 'pixelcnn'.")
        flow = Flow(data.channels, fixed_size("estimator 'flow'", data), self.transforms, self.widths, self.coupling)
        return None, flow if data.levels is None else Dequantized(flow, data.levels, self.noise.build(data))


@dataclass(frozen=True)
class DensityConfig(Config):
    """``condition_dim`` 0 leaves the model without a label; ``label_dropout`` is how often training hides it."""

    kind: Literal["density"] = "density"
    estimator: Annotated[PixelCNNConfig | FlowConfig, Discriminator("kind")] = PixelCNNConfig()
    condition_dim: int = 0
    label_dropout: float = 0.1

    def build(self, data: DataSpec) -> DensityModel:
        if self.condition_dim and not (data.labels or data.embedding):
            raise ConfigError("model.condition_dim is set, but the data has no labels: set it to 0.")
        network, likelihood = self.estimator.build(data, self.condition_dim)
        embedding = None
        if self.condition_dim:
            embedding = ConditionEmbedding(len(data.labels), data.embedding, self.condition_dim, self.label_dropout)
        return DensityModel(network, likelihood, data, embedding)
