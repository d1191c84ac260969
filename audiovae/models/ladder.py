"""A ladder of latents: groups on several grids, each told by those above it.

    p(x, z) = p(x|z) Π_l p(z_l | z_>l)          q(z|x) = Π_l q(z_l | x, z_>l)

Vahdat & Kautz 2020 (NVAE); Child 2021 (vdvae) for the plainer one.

An encoder reads the data bottom up; the decoder goes top down, and at each group draws from the prior, or from the
posterior where there is data. ``Output.latents`` holds a latent a group, level 0 the fastest and last drawn, each with
its own rate; so bounds, rate controls and measures are those of all models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from audiovae.bottlenecks import DiagonalConfig, Gaussian, GaussianConfig
from audiovae.config import Config, Whole
from audiovae.errors import ConfigError
from audiovae.likelihoods import BernoulliConfig, Likelihood, LikelihoodConfig
from audiovae.models.autoencoder import ConditionEmbedding
from audiovae.models.groups import BottomUp, Group, Plan, PosteriorConfig, ScaleConfig, TopDown, fold, hops, unfold
from audiovae.nn.cells import BatchNorm, CellConfig, NVAECells, gathering
from audiovae.shapes import (
    CodeLevel,
    Condition,
    DataSpec,
    Latent,
    Output,
    Posterior,
    check,
    check_grid,
    fixed_size,
    grid_of,
)


class Ladder(nn.Module):
    """Encoder, groups of latents, decoder and likelihood, on waveforms, spectrograms or pictures.

    A group's latent is z in units of its prior, u = (z - μ) / σ, whose prior is N(0, 1). Seen from outside, all groups
    together are one Gaussian latent on the slowest grid, ``bottleneck``: each u folded onto it, level 0 first. That is
    what :meth:`encode`, :meth:`decode` and :meth:`generate` speak of, and what walks through the latent space walk in.

    Parameters
    ----------
    config : the rows and how they are made.
    likelihood, embedding : as of :class:`Autoencoder`.
    data : what the model was built for.

    >>> model = LadderConfig(scales=(ScaleConfig(groups=2), ScaleConfig())).build(DataSpec(1, 2, size=(8, 8), levels=2))
    >>> out = model(torch.zeros(3, 1, 8, 8))
    >>> [tuple(latent.z.shape) for latent in out.latents], tuple(out.params.shape)
    ([(3, 4, 4, 4), (3, 4, 4, 4), (3, 4, 2, 2)], (3, 1, 8, 8))
    """

    code_levels: tuple[CodeLevel, ...] = ()
    likelihood: Likelihood
    embedding: ConditionEmbedding | None

    def __init__(self, config: "LadderConfig", likelihood: Likelihood, data: DataSpec,
                 embedding: ConditionEmbedding | None = None):
        super().__init__()
        scales, dims = config.scales, data.dims
        cells = sum(scale.cells * max(scale.groups, 1) for scale in scales)
        plan = Plan(dims, config.cells, config.posterior, config.residual, config.condition_dim, config.shared,
                    depth=cells, checkpoint=config.checkpoint)
        self.likelihood, self.embedding, self.data = likelihood, embedding, data
        self.hop, self.readjust = hops(scales)[-1], config.readjust
        start = grid_of("model 'ladder'", fixed_size("model.start 'grid'", data), self.hop) \
            if config.start == "grid" else (1,) * dims
        self.encoder = BottomUp(data.channels, scales, plan)
        self.decoder = TopDown(likelihood.params_per_channel * data.channels, scales, plan, start)
        rows = [(scale, self.hop // hop) for scale, hop in zip(scales, hops(scales), strict=True)
                for _ in range(scale.groups)]
        self.ratios = [ratio for _, ratio in rows]
        self.widths = [scale.latent_dim * ratio**dims for scale, ratio in rows]
        self.bottleneck: Gaussian = GaussianConfig(dim=sum(self.widths)).build(dims)

    @property
    def bent(self) -> bool:
        """Whether a flow has bent the posteriors, so that they are no diagonal normals."""
        return any(group.bottleneck.flow is not None for row in self.decoder.groups for group in row)  # type: ignore

    @property
    def group_count(self) -> int:
        """How many groups of latents there are."""
        return len(self.ratios)

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The slowest grid, for data of ``size``."""
        return grid_of("model 'ladder'", size, self.hop)

    def forward(self, x: Tensor, condition: Condition | None = None, samples: int = 1) -> Output:
        """Data (B, C, *grid) through the model, with ``samples`` K latents drawn for each example."""
        features, vector = self._seen(x), self._vector(condition, len(x))
        if samples > 1:
            features = [feature.repeat_interleave(samples, 0) for feature in features]
            vector = vector.repeat_interleave(samples, 0) if vector is not None else None
        latents: dict[int, Latent] = {}

        def drawn(level: int, group: Group, h: Tensor, prior: Posterior | None) -> Tensor:
            latents[level] = group.latent(features[level], h, prior)
            return latents[level].z

        params = self.decoder(samples * len(x), self.grid(tuple(x.shape[2:])), vector, drawn)
        return Output(tuple(latents[level] for level in sorted(latents)), params)

    def latent(self, x: Tensor, condition: Condition | None = None) -> Latent:
        """All groups as one latent on the slowest grid, drawn from the posterior."""
        latents = self(x, condition).latents
        posterior = None
        if not self.bent:
            posterior = Posterior(*(self._folded([part[i] for part in (z.posterior for z in latents)])  # type: ignore
                                    for i in (0, 1)))
        ratio = torch.stack([z.log_ratio for z in latents]).sum(0)  # type: ignore[arg-type]
        return Latent(self._folded([z.z for z in latents]), torch.stack([z.rate for z in latents]).sum(0),
                      posterior=posterior, log_ratio=ratio)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Means, then log-variances, of all groups on the slowest grid, each told the means above it: (B, 2 D, *grid).

        Of posteriors that a flow has bent the mean is where the flow takes it.
        """
        means, log_variances = self._means(x, condition)
        return torch.cat([self._folded(means), self._folded(log_variances)], dim=1)

    def decode(self, codes: Tensor, condition: Condition | None = None,
               generator: torch.Generator | None = None) -> Tensor:
        """What :meth:`encode` gave back to data."""
        return self.generate(self.bottleneck.decode(codes), condition, generator)

    def reconstruct(self, x: Tensor, condition: Condition | None = None, groups: int | None = None) -> Tensor:
        """Data through the model by the means; below the top ``groups``, by those of the prior, which sees no data.

        ConfigError on more groups than there are.
        """
        groups = self.group_count if groups is None else groups
        if not 0 <= groups <= self.group_count:
            raise ConfigError(f"reconstruct wants 0 to {self.group_count} groups of this ladder, got {groups}.")
        means, _ = self._means(x, condition, groups)
        return self._generated(means, condition, tuple(x.shape[2:]))

    def generate(self, z: Tensor, condition: Condition | None = None,
                 generator: torch.Generator | None = None) -> Tensor:
        """Data (B, C, *data grid) from all groups on the slowest grid, z (B, D, *grid): the likelihood's mean."""
        check("Ladder", z, sum(self.widths), self.data.dims, letter="D")
        parts = [unfold(part, ratio) for part, ratio in zip(z.split(self.widths, dim=1), self.ratios, strict=True)]
        return self._generated(parts, condition, tuple(self.hop * side for side in z.shape[2:]))

    @torch.no_grad()
    def sample(self, count: int, condition: Condition | None = None, temperature: float = 1.0,
               generator: torch.Generator | None = None, size: tuple[int, ...] | None = None) -> Tensor:
        """New data (count, C, *size), the likelihood's mean; every prior's spread is times ``temperature``.

        At a temperature other than 1 batch normalisation takes the statistics of ``readjust`` such draws, since those
        of training no longer hold (Vahdat & Kautz 2020, section 4.2); the model is left as it was.
        """
        size = size or fixed_size("sample", self.data)
        vector = self._vector(condition, count)

        def prior(level: int, group: Group, h: Tensor, told: Posterior | None) -> Tensor:
            drawn = group.bottleneck.sample_prior(count, tuple(h.shape[2:]), temperature, generator)
            return drawn.to(h.device)

        def once() -> Tensor:
            return self.decoder(count, self.grid(size), vector, prior)

        if temperature == 1 or not self.readjust or not any(isinstance(m, BatchNorm) for m in self.decoder.modules()):
            return self.likelihood.mean(once().float())
        with gathering(self.decoder) as norms:
            for _ in range(self.readjust):
                once()
            for norm in norms:
                norm.eval()
            return self.likelihood.mean(once().float())

    def sample_prior(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None,
                     size: tuple[int, ...] | None = None) -> Tensor:
        """All groups (count, D, *slowest grid) from their priors, in units of these, for :meth:`generate`."""
        size = size or fixed_size("sample", self.data)
        z = self.bottleneck.sample_prior(count, self.grid(size), temperature, generator)
        return z.to(next(self.parameters()).device)

    def _seen(self, x: Tensor) -> list[Tensor]:
        check("Ladder", x, self.data.channels, self.data.dims)
        check_grid("Ladder", x, self.hop)
        x = 2 * x - 1 if self.data.levels is not None else x
        if self.data.dims == 2:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.encoder(x)

    def _means(self, x: Tensor, condition: Condition | None, groups: int | None = None
               ) -> tuple[list[Tensor], list[Tensor]]:
        """Means and log-variances of u by level, each told the means above; 0 below the top ``groups``."""
        features, vector = self._seen(x), self._vector(condition, len(x))
        lowest = 0 if groups is None else len(features) - groups
        means: dict[int, Tensor] = {}
        log_variances: dict[int, Tensor] = {}

        def mean(level: int, group: Group, h: Tensor, prior: Posterior | None) -> Tensor:
            if level < lowest:
                means[level] = h.new_zeros(len(h), group.bottleneck.channels_out, *h.shape[2:])
                log_variances[level] = means[level]
                return means[level]
            codes = group.bottleneck.encode(group.parameters_of(features[level], h, prior))
            means[level] = group.bottleneck.decode(codes)
            log_variances[level] = codes[:, group.bottleneck.channels_out:2 * group.bottleneck.channels_out]
            return means[level]

        self.decoder(len(x), self.grid(tuple(x.shape[2:])), vector, mean)
        levels = range(len(features))
        return [means[level] for level in levels], [log_variances[level] for level in levels]

    def _generated(self, units: Sequence[Tensor], condition: Condition | None, size: tuple[int, ...]) -> Tensor:
        count = len(units[0])
        params = self.decoder(count, self.grid(size), self._vector(condition, count),
                              lambda level, group, h, prior: units[level])
        return self.likelihood.mean(params.float())

    def _folded(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([fold(part, ratio) for part, ratio in zip(parts, self.ratios, strict=True)], dim=1)

    def _vector(self, condition: Condition | None, batch: int) -> Tensor | None:
        return self.embedding(condition, batch) if self.embedding is not None else None


@dataclass(frozen=True)
class LadderConfig(Config):
    """The parts of a ladder.

    scales : a row a grid, the fastest first; the last must have a group.
    cells : "nvae", or "plain" for cells without normalisation.
    shared : whether the groups of a row read one feature of the encoder (vdvae), or each its own (NVAE).
    residual : whether a posterior is told as a change of its prior (NVAE, section 3.2), or on its own.
    posterior : "diagonal", or "iaf" for one with a flow on top.
    start : "channel", a number a channel to begin with, for data of any size; "grid", one a place too.
    condition_dim : E of the condition's vector, which every group is told; 0 leaves the model without.
    label_dropout : how often training hides the condition.
    checkpoint : whether cells are computed again in the backward pass: less memory for a third more time.
    readjust : batches that batch normalisation sees before samples of a temperature other than 1; 0 leaves it.
    """

    kind: Literal["ladder"] = "ladder"
    scales: tuple[ScaleConfig, ...] = (ScaleConfig(), ScaleConfig(width=64))
    cells: CellConfig = NVAECells()
    likelihood: LikelihoodConfig = BernoulliConfig()
    shared: bool = False
    residual: bool = True
    posterior: PosteriorConfig = DiagonalConfig()
    start: Literal["channel", "grid"] = "channel"
    condition_dim: Whole = 0
    label_dropout: float = 0.1
    checkpoint: bool = False
    readjust: Whole = 20

    def build(self, data: DataSpec) -> Ladder:
        if not self.scales or not self.scales[-1].groups:
            raise ConfigError("model 'ladder' wants a group of latents in the last row of model.scales, the slowest: "
                              "set its groups to 1 or more.")
        if self.condition_dim and not (data.labels or data.embedding):
            raise ConfigError("model.condition_dim is set, but the data has no labels: set it to 0.")
        embedding = None
        if self.condition_dim:
            embedding = ConditionEmbedding(len(data.labels), data.embedding, self.condition_dim, self.label_dropout)
        model = Ladder(self, self.likelihood.build(data), data, embedding)
        return model.to(memory_format=torch.channels_last) if data.dims == 2 else model  # type: ignore[call-overload]
