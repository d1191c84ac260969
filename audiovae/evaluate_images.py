"""What a model makes of pictures it has not seen, in numbers: its bounds of log p(x), its latent, what it generates.

A mean over pictures comes with its 95 % interval, and bits per dimension with what they are bits of. Nothing is
drawn but from the seed given, so that a second evaluation is the first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from audiovae import metrics
from audiovae.data import Binarize, bits_of
from audiovae.gallery.study import pick
from audiovae.image.features import FeatureNetwork
from audiovae.metrics import Interval
from audiovae.metrics.bounds import evidence_of, log_likelihood
from audiovae.metrics.generation import generation_scores
from audiovae.metrics.groups import SILENT, GroupUse, group_table, silent
from audiovae.metrics.latents import active_units
from audiovae.models import Autoencoder, Model, SemiSupervised
from audiovae.objectives import has_rate
from audiovae.report import Table
from audiovae.shapes import Batch, Condition, Output

BATCH = 256


@dataclass
class PictureEvaluation:
    """Measures of each picture by name and unit, and what the latent did over all of them.

    values : measure -> one number a picture.
    kl : (D,) nats each latent dimension says of a picture; None where it has no closed form.
    means : (N, D, *grid), the posterior means; None where there are none.
    groups : what each group of a ladder's latents did, level 0 first; empty for one latent.
    counts : for each quantizer how often each of its K codes was used, (K,) int64; stages : its name.
    scores : of generated pictures, name -> value; empty where none were asked for.
    notes : what was left out, and why.
    what : the examples are, in words.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    kl: Tensor | None = None
    means: Tensor | None = None
    groups: list[GroupUse] = field(default_factory=list)
    counts: tuple[np.ndarray, ...] = ()
    stages: tuple[str, ...] = ()
    scores: list[tuple[str, Interval]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    what: str = "pictures"

    def interval(self, measure: str) -> Interval:
        """Mean and 95 % interval of a measure over the pictures."""
        return metrics.mean_interval(self.values[measure])

    @property
    def active_units(self) -> int | None:
        """Latent dimensions whose posterior mean varies with the picture; None where there are no such means."""
        if self.groups:
            return sum(use.active for use in self.groups)
        return None if self.means is None else int(active_units(self.means).sum())

    def table(self) -> Table:
        """Every measure with its mean over pictures and how many it is over."""
        rows = [(name, str(self.interval(name)), len(values)) for name, values in self.values.items()]
        return Table(("measure", "mean ± 95 % interval", self.what), rows)

    def latent(self) -> Table:
        """How much of the latent is used: its active units, or the use of each quantizer's codes."""
        rows: list[tuple[str, float | int]] = []
        if self.groups:
            rows += [("groups of latents", len(self.groups)),
                     ("latent dimensions", sum(len(use.first) for use in self.groups)),
                     ("active units", sum(use.active for use in self.groups))]
        elif self.means is not None and self.active_units is not None:
            rows += [("latent dimensions", self.means.shape[1]), ("active units", self.active_units)]
        if self.kl is not None:
            rows += [("dimensions with a KL above 0.1 nats", int((self.kl > 0.1).sum()))]
        for stage, count in zip(self.stages, self.counts, strict=True):
            rows += [(f"{stage}: codes", len(count)), (f"{stage}: share used", metrics.usage(count)),
                     (f"{stage}: perplexity", metrics.perplexity(count))]
        return Table(("latent", "value"), rows)

    def each_group(self) -> Table:
        """What each group of a ladder's latents says; no rows for one latent."""
        return group_table(self.groups)

    def generated(self) -> Table:
        """The scores of generated pictures, each named with the network whose features it is in."""
        return Table(("generated pictures", "value ± 95 % interval"), [(n, str(v)) for n, v in self.scores])


def evaluate_pictures(model: Model, batch: Batch, binarize: Binarize = "none", samples: int = 0, seed: int = 0,
                      done: Callable[[int], object] = lambda count: None) -> PictureEvaluation:
    """Measure a model on pictures x (N, C, H, W) in [0, 1], told their labels where it takes them.

    Parameters
    ----------
    binarize : how the pictures were made binary, which the bits per dimension must say.
    samples : K of the importance-weighted likelihood; 0 leaves it out.
    done : called with the number of pictures that are done.

    >>> from audiovae.latents.example import example_vae
    >>> batch = Batch(torch.rand(20, 1, 8, 8), Condition(), tuple("ab" * 10))
    >>> result = evaluate_pictures(example_vae(), batch, samples=5)
    >>> [name for name in result.values][:3]
    ['ELBO, nats', 'distortion -log p(x|z), nats', 'rate KL(q(z|x) || p(z)), nats']
    """
    result, maps, means = PictureEvaluation(), [], []
    result.what = "pictures" if model.data.sample_rate is None else "crops"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(batch.x), BATCH):
            x = batch.x[start:start + BATCH]
            condition = told(model, pick(batch.condition, slice(start, start + BATCH)))
            output = model(x, condition)
            if start == 0:
                result.notes = _notes(model, output, samples)
            for name, values in _of_each(model, x, condition, output, binarize, samples).items():
                result.values.setdefault(name, []).extend(values.double().tolist())
            if isinstance(model, SemiSupervised):
                known = batch.condition.label[start:start + BATCH] if batch.condition.label is not None else None
                wrong = _wrong(model, x, known)
                result.values.setdefault("classification error, share", []).extend(wrong.double().tolist())
            if model.code_levels:
                result.counts = _added(result.counts, output, model)
                result.stages = _stages(model)
            elif len(output.latents) > 1 and output.weights is None:
                result.groups = result.groups or [GroupUse() for _ in output.latents]
                for use, latent in zip(result.groups, output.latents, strict=True):
                    use.add(latent)
            for latent in () if result.groups else output.latents[:1]:
                maps += [latent.rate_map.flatten(2).sum(2)] if latent.rate_map is not None else []
                means += [latent.posterior.mean] if latent.posterior is not None else []
            done(len(x))
    result.values = {name: values for name, values in result.values.items() if values}
    result.kl = torch.cat(maps).mean(0) if maps else None
    result.means = torch.cat(means) if means else None
    if result.groups and all(use.nats_of_dimensions.ndim for use in result.groups):
        result.kl = torch.cat([use.nats_of_dimensions for use in result.groups])
    if unused := silent(result.groups):
        result.notes.append(f"{len(unused)} of {len(result.groups)} groups of latents are not in use (below {SILENT:g} "
                            f"nats an example): levels {', '.join(map(str, unused))}.")
    return result


def score_generated(model: Model, network: FeatureNetwork, real: Batch, count: int, seed: int = 0
                    ) -> list[tuple[str, Interval]]:
    """Scores of ``count`` pictures from the model's prior against ``real`` ones, in the features of ``network``.

    A generated picture is the likelihood's mean, where the decoder is not autoregressive; a model that is told
    labels is told those of the real pictures. Raises ConfigError where there is no prior to draw from, ShapeError
    on fewer than 100 generated or 20 real pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    fakes = []
    with torch.no_grad():
        for start in range(0, count, BATCH):
            index = torch.arange(start, min(start + BATCH, count)) % len(real.x)
            condition = told(model, pick(real.condition, index))
            fakes.append(model.sample(len(index), condition, generator=generator))
    return generation_scores(real.x, torch.cat(fakes).clamp(0, 1), network).rows()


def is_told(model: Model) -> bool:
    """Whether a model takes labels; one that sums over labels finds them itself, and draws them when it samples."""
    return not isinstance(model, SemiSupervised) and getattr(model, "embedding", None) is not None


def told(model: Model, condition: Condition | None) -> Condition | None:
    """The condition, for a model that takes one."""
    return condition if is_told(model) else None


def _of_each(model: Model, x: Tensor, condition: Condition | None, output: Output, binarize: Binarize, samples: int
             ) -> dict[str, Tensor]:
    """Every measure of a batch by name, (B,) each."""
    evidence = evidence_of(model.likelihood, output, x)
    to_bits = 1 / (x[0].numel() * math.log(2))
    bits = bits_of(model, model.data, binarize)
    if not output.latents:
        exact = model.likelihood.measure in ("mass", "density")
        return {"log p(x), nats" if exact else "bound of log p(x), nats": evidence.elbo,
                f"bits per dimension ({bits})": -evidence.elbo * to_bits}
    values = {"distortion -log p(x|z), nats": evidence.distortion}
    if all(map(has_rate, output.latents)):
        rate = "rate KL(q(z|x) || p(z)), nats" if _has_density(output) else "rate, length of the codes, nats"
        values = {"ELBO, nats": evidence.elbo, **values, rate: evidence.rate,
                  f"bits per dimension from the ELBO ({bits})": -evidence.elbo * to_bits}
    if samples and _has_density(output):
        nll = -log_likelihood(model, x, samples, condition)
        values |= {f"NLL, IWAE-{samples}, nats": nll,
                   f"bits per dimension from IWAE-{samples} ({bits})": nll * to_bits}
    if not _draws(model):
        error = (model.reconstruct(x, condition) - x).square().flatten(1).mean(1)  # type: ignore[union-attr]
        values |= {"reconstruction MSE": error, "reconstruction PSNR, dB": -10 * error.log10()}
    return values


def _notes(model: Model, output: Output, samples: int) -> list[str]:
    notes = []
    if output.latents and not all(map(has_rate, output.latents)):
        notes.append("No ELBO: the bottleneck has no rate.")
    if output.latents and samples and not _has_density(output):
        notes.append("No likelihood by importance weights: the latent has no density to weigh it by.")
    if output.latents and _draws(model):
        notes.append("No reconstruction error: an autoregressive decoder draws, it gives no mean.")
    if is_told(model):
        notes.append("Measured with each example's own label told, so of p(x | label): a model that is not told it is "
                     "measured by p(x), and has as much more to say as the label is worth.")
    return notes


def _has_density(output: Output) -> bool:
    return all(latent.log_ratio is not None for latent in output.latents)


def _draws(model: Model) -> bool:
    inner = model.autoencoder if isinstance(model, SemiSupervised) else model
    return isinstance(inner, Autoencoder) and inner.decoder.autoregressive


def _wrong(model: SemiSupervised, x: Tensor, label: Tensor | None) -> Tensor:
    """1 where the classifier is wrong, of those whose label is known."""
    if label is None:
        return x.new_zeros(0)
    known = label >= 0
    return (model.classify(x[known]).argmax(1) != label[known]).float()


def _added(counts: tuple[np.ndarray, ...], output: Output, model: Model) -> tuple[np.ndarray, ...]:
    """Counts with those of the codes (B, Q, *grid) of every level added."""
    more = tuple(count for latent, level in zip(output.latents, model.code_levels, strict=True)
                 if latent.codes is not None for count in metrics.code_counts(
                     latent.codes.transpose(0, 1).flatten(1).cpu().numpy(), level.num_codes))
    return tuple(a + b for a, b in zip(counts, more, strict=True)) if counts else more


def _stages(model: Model) -> tuple[str, ...]:
    """The quantizers of all levels by name."""
    several = len(model.code_levels) > 1
    return tuple(f"level {level}, quantizer {stage + 1}" if several else f"quantizer {stage + 1}"
                 for level, its in enumerate(model.code_levels) for stage in range(len(its.num_codes)))
