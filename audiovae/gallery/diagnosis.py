"""What a latent space is like, in numbers; and whether what it gives is new or copied."""

import torch
from torch import Tensor

from audiovae.bottlenecks import Gaussian
from audiovae.gallery.exhibit import Exhibit, show
from audiovae.gallery.study import Study, pick
from audiovae.latents import encode, generate, kl_per_dimension, locate, novelty
from audiovae.latents.coding import draw, drawn, sampled
from audiovae.latents.neighbours import timeless
from audiovae.metrics import Interval
from audiovae.metrics.latents import (
    active_units,
    holes,
    latent_information,
    path_smoothness,
    smoothness,
    spread,
)
from audiovae.models import Ladder
from audiovae.report import Table
from audiovae.report.pictures import draw_kl
from audiovae.report.table import Cell
from audiovae.shapes import Batch

STEP = 0.05  # of a small step, in units of the latents' spread
WALKED = 100  # pairs of examples between which data is followed, at most
INFORMED = 4000  # examples of which the information is told, at most: time goes with their square
FULL = 0.05  # nats below the limit from which on the mutual information says nothing but that it is as large
DRAWN = 1000  # latents from the prior that are looked at for holes
COMPARED = 200  # held-out pictures that say how far the nearest usually is


def diagnosis(study: Study) -> Exhibit:
    """Active units, information, holes and smoothness of the latent, on held-out data.

    >>> from audiovae.gallery.study import example_study
    >>> [row[0] for row in diagnosis(example_study()).tables["The latent space"].rows][:2]
    ['latent dimensions', 'active units (variance of the mean above 0.01)']
    """
    batch, told = study.held_out, study.told(study.held_out)
    z = locate(study.model, batch.x, told)
    active = active_units(z)
    rows: list[tuple[Cell, Cell]] = [
        ("latent dimensions", str(z.shape[1])),
        ("active units (variance of the mean above 0.01)", str(int(active.sum()))),
        *_information(study),
        ("holes: share of the prior's draws that no training example is near", str(_holes(study))),
        *_smoothness(study, z)]
    prior = "its prior" if study.has_prior else "a normal fitted to its latents"
    exhibit = Exhibit("diagnosis", "Diagnosis", f"The latent of {len(z)} held-out examples, against {prior}; "
                      f"{int(active.sum())} of {z.shape[1]} dimensions are in use.",
                      tables={"The latent space": Table(("measure", "value ± 95 % interval"), rows)})
    if study.has_kl:
        exhibit.figures["What each dimension says of an example"] = draw_kl(
            kl_per_dimension(study.model, batch.x, told))
    return exhibit


def neighbours(study: Study, count: int = 12, temperature: float = 1.0) -> Exhibit:
    """Samples above their nearest training examples: new, or copies? Sound is compared as :func:`timeless` hears it.

    >>> from audiovae.gallery.study import example_study
    >>> list(neighbours(example_study(), count=4).tables)
    ['Distance to the nearest training example, and over that of held-out ones']
    """
    told = None
    if study.inner.embedding is not None:
        told = study.told(study.train, torch.randint(len(study.train.x), (count,), generator=study.generator))
    x = generate(study.model, study.draw(count, temperature), told)
    rate, compared = study.sample_rate, (x, study.train.x, study.held_out.x[:COMPARED])
    found = novelty(*(compared if rate is None else (timeless(part, rate) for part in compared)))
    close = study.train.x[found.index]
    sentence = (f"{count} samples, and below each the nearest of {len(study.train.x)} training examples, "
                f"{float(found.ratio.mean()):.2f} times as far as that of held-out ones is (near 0: copies)")
    if rate is None:
        shown, names = [x, close], ["sample", "nearest"]
    else:
        sentence += ", by the spectra of their log-mel bands over time: a shift is no distance"
        shown = [one for pair in zip(x.split(1), close.split(1), strict=True) for one in pair]
        names = [name for i, place in enumerate(found.index.tolist(), 1)
                 for name in (f"sample {i}", f"nearest to {i}: {study.train.names[place]}")]
    exhibit = show("nearest", "Nearest training examples", f"{sentence}.", shown, names, sample_rate=rate,
                   mel=study.mel)
    rows = zip(found.index.tolist(), found.distance.tolist(), found.ratio.tolist(), strict=True)
    exhibit.tables["Distance to the nearest training example, and over that of held-out ones"] = Table(
        ("sample", "nearest", "distance", "ratio"),
        [(str(i + 1), study.train.names[place], distance, ratio) for i, (place, distance, ratio) in enumerate(rows)])
    return exhibit


def _information(study: Study) -> list[tuple[Cell, Cell]]:
    """The rate and its two parts, where the posterior is a diagonal normal; over training data, to have many.

    A ladder's is none: each of its groups is told what was drawn of those above.
    """
    if isinstance(study.inner, Ladder) or not isinstance(study.inner.bottleneck, Gaussian) or study.inner.bent:
        return []
    x, told = study.train.x[:INFORMED], study.told(study.train, slice(0, INFORMED))
    z, log_prior = sampled(study.model, x, told)
    found = latent_information(z, encode(study.model, x, told), log_prior)
    full = found.limit - found.mutual.mean < FULL  # no two of the examples are taken for each other
    return [(f"rate, nats, of {len(x)} training examples", str(found.rate)),
            (f"of it mutual information I(x; z) (at most {found.limit:.2f}, for so many)",
             f"{found.limit:.2f} or more" if full else str(found.mutual)),
            ("and KL of the aggregated posterior to the prior",
             f"{found.marginal_kl.mean:.4g} or less" if full else str(found.marginal_kl))]


def _holes(study: Study) -> Interval:
    def of(batch: Batch) -> Tensor:
        told = study.told(batch)
        if study.inner.bent:
            return drawn(study.model, batch.x, told)
        return draw(encode(study.model, batch.x, told), generator=study.generator)  # a point where there is no noise

    return holes(study.draw(DRAWN), of(study.train), of(study.held_out))


def _smoothness(study: Study, z: Tensor) -> list[tuple[Cell, Cell]]:
    """Change in data (Euclidean) as the latent goes as far as its own spread; nothing where decoding draws."""
    if study.inner.decoder.autoregressive or len(z) < 4:
        return []
    unit, told, half = spread(z), study.told(study.held_out), min(WALKED, len(z) // 2)
    near = smoothness(lambda place: generate(study.model, place, pick(told, slice(0, half))), z[:half], STEP * unit,
                      study.generator)
    if not (z[:half] != z[half:2 * half]).flatten(1).any(1).all():
        return [("smoothness", "cannot be told: some examples have the very same latent")]
    way = path_smoothness(lambda place: generate(study.model, place, pick(told, slice(0, half))), z[:half],
                          z[half:2 * half], steps=16)
    return [("change in data per spread of the latent, over a small step", f"{unit * near.mean:.3g}"),
            ("change in data per spread of the latent, on the way from example to example",
             f"{unit * way.ratio.mean:.3g}"),
            ("largest of 16 steps on that way, over the mean step", str(way.jump))]
