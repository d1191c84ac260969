"""A prior as a model: what the one training loop, checkpoints and commands take, like any other of the family."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.config import Config
from audiovae.errors import ConfigError
from audiovae.likelihoods.base import Likelihood, Measure
from audiovae.nn.int8 import Int8Linear
from audiovae.priors import CausalConfig, Drawing, Prior, PriorNetworkConfig, quantized
from audiovae.priors.base import Progress
from audiovae.shapes import CodeLevel, Condition, DataSpec, Output, fixed_size

PLAIN = Drawing()


class LogProbabilities(Likelihood):
    """Parameters that are log p of each element already, as an autoregressive network gives them. A mass.

    >>> LogProbabilities().log_prob(torch.full((2, 1, 3), -1.0), torch.zeros(2, 1, 3))
    tensor([-3., -3.])
    """

    measure: Measure = "mass"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        self._agree(params, x)
        return params.flatten(1).sum(1)


class PriorModel(nn.Module):
    """p(codes | condition); no latent of its own, so its ELBO is log p (or the bound that it learns by).

    >>> from audiovae.shapes import CodeSpec
    >>> data = DataSpec(channels=1, dims=1, size=(10,), codes=CodeSpec(num_codes=(16,)))
    >>> model = PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2)).build(data)
    >>> model(torch.randint(16, (2, 1, 10))).params.shape, model.sample(3).shape
    (torch.Size([2, 1, 10]), torch.Size([3, 1, 10]))
    """

    hop = 1
    prior: Prior

    def __init__(self, prior: Prior, data: DataSpec):
        super().__init__()
        self.prior, self.data, self.likelihood = prior, data, LogProbabilities()

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        """None: it is over codes, it makes none."""
        return ()

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """Codes (B, Q, *grid) int64 to log p of each of them; ConfigError on several samples, there are no latents."""
        if samples != 1:
            raise ConfigError("a prior has no latents to draw: leave objective.samples at 1.")
        return Output((), self.prior(x, condition))

    def log_prob(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """log p(codes) (B,) in nats, exact."""
        return self.prior.log_prob(x, condition)

    @torch.no_grad()
    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """Codes (count, Q, *size) int64; ``size`` may be left out where the data is of one size."""
        generator = generator if generator is not None else torch.default_generator
        seeds = torch.randint(2**62, (count,), generator=generator)
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        return self.draw(generators, size or fixed_size("sample", self.data), condition, Drawing(temperature))

    def quantized(self) -> "PriorModel":
        """A copy with 8-bit weights, see :func:`audiovae.priors.quantized`."""
        return PriorModel(quantized(self.prior), self.data).eval()

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        whole = sum(module.whole.numel() for module in self.modules() if isinstance(module, Int8Linear))
        return whole + sum(weight.numel() * weight.element_size() for weight in self.parameters())

    def draw(self, generators: Sequence[torch.Generator], size: tuple[int, ...], condition: Condition | None = None,
             drawing: Drawing = PLAIN, prime: Tensor | None = None, progress: Progress | None = None) -> Tensor:
        """Codes (B, Q, *size), each example by its own generator; see :meth:`Prior.sample`."""
        training = self.training
        try:
            return self.eval().prior.sample(size, condition, drawing, generators, prime, progress)
        finally:
            self.train(training)


@dataclass(frozen=True)
class PriorConfig(Config):
    """A prior over the codes of a trained model (data kind "codes")."""

    kind: Literal["prior"] = "prior"
    prior: PriorNetworkConfig = CausalConfig()

    def build(self, data: DataSpec) -> PriorModel:
        if data.codes is None:
            raise ConfigError(f"model.kind \"prior\" is of codes, got {data}: set data.kind to \"codes\" and "
                              "data.model to a trained model.")
        return PriorModel(self.prior.build(data), data)
