"""Walks put on show: samples, interpolation, traversal, the manifold's plane, and one style in every class."""

import torch

from audiovae.errors import ConfigError, LabelError
from audiovae.gallery.exhibit import Exhibit, show
from audiovae.gallery.study import Study, pick
from audiovae.latents import generate, interpolate, kl_per_dimension, locate, manifold, restyle, traverse
from audiovae.latents.walks import Kind
from audiovae.shapes import Batch, Condition

LISTED = 12  # rows of pictures, or dimensions, at most


def samples(study: Study, count: int = 64, temperature: float = 1.0, label: str | None = None) -> Exhibit:
    """New data: latents from the prior, its spread times ``temperature``, decoded.

    A model that is told labels gets each in turn, or ``label`` alone. A latent without a prior is drawn from a normal
    fitted to the encoded training data, and the sentence says so.

    >>> from audiovae.gallery.study import example_study
    >>> samples(example_study(), count=6).sentence
    '6 samples from the prior at temperature 1, a label a row.'
    """
    of = "the prior" if study.has_prior else \
        "a normal fitted to the encoded training data, since this latent has no prior,"
    told, rows, each = None, -(-count // 8), ""
    if label is not None or (study.inner.embedding is not None and study.model.data.labels):
        chosen = list(range(len(study.model.data.labels)))[:count] if label is None else [study.index(label)]
        a_row = -(-count // len(chosen)) if label is None else count
        told = Condition(torch.tensor(chosen).repeat_interleave(a_row)[:count])
        rows, each = (-(-count // a_row), ", a label a row") if label is None else (rows, f", all told '{label}'")
    x = study.new(count, temperature, told)
    sentence = f"{count} samples from {of} at temperature {temperature:g}{each}."
    if study.sample_rate is not None:
        return show("samples", "Samples", sentence, x.split(1), [f"sample {i + 1}" for i in range(count)],
                    sample_rate=study.sample_rate)
    return show("samples", "Samples", sentence, x.split(-(-count // rows)), mel=study.mel)


def interpolation(study: Study, batch: Batch, pairs: int = 6, steps: int = 9, kind: Kind = "spherical") -> Exhibit:
    """From one example to the next, decoded on the way; the originals at both ends. Of sound, one pair.

    What the model is told on the way, it is told of the first of the two: a pair is of one label where the data has
    such. Where the model is not told, a pair is of two labels.

    >>> from audiovae.gallery.study import example_study
    >>> study = example_study()
    >>> list(interpolation(study, study.held_out, pairs=2).figures)
    ['From the left example to the right']
    """
    ends = _pairs(study, batch, pairs)
    told = study.told(batch)
    z = locate(study.model, batch.x, told)
    rows = []
    for a, b in ends:
        walk = generate(study.model, interpolate(z[a], z[b], steps, kind), pick(told, slice(a, a + 1)))
        rows.append(torch.cat([batch.x[a:a + 1], walk, batch.x[b:b + 1]]))
    if study.sample_rate is None:
        sentence = f"{len(ends)} pairs of examples and {steps} {kind} steps between their latents, originals outside."
        return show("interpolation", "Interpolation", sentence, rows, caption="From the left example to the right",
                    mel=study.mel)
    a, b = (batch.names[i] for i in ends[0])
    names = [f"{a}, original", *[f"{i / (steps - 1):.0%} of the way" for i in range(steps)], f"{b}, original"]
    return show("interpolation", "Interpolation", f"From {a} to {b} in {steps} {kind} steps of the latent.",
                rows[0].split(1), names, sample_rate=study.sample_rate)


def traversal(study: Study, steps: int = 9, most: int = LISTED) -> Exhibit:
    """One example with each latent dimension moved alone, those with the most KL first. Of sound, the first.

    Without a KL (a latent that is a point) they go by their variance, and over three standard deviations.

    >>> from audiovae.gallery.study import example_study
    >>> traversal(example_study()).sentence
    'The 2 of 2 latent dimensions with the most KL, each from -3 to 3.'
    """
    batch, told = study.held_out, study.told(study.held_out)
    z = locate(study.model, batch.x, told)
    mean, scale = torch.zeros(z.shape[1]), torch.ones(z.shape[1])
    if study.has_kl:
        weight, unit, what = kl_per_dimension(study.model, batch.x, told), "nats", "the most KL, each from -3 to 3"
    else:
        by_dimension = z.transpose(0, 1).flatten(1)
        mean, scale = by_dimension.mean(1), by_dimension.std(1)
        weight, unit, what = scale.square(), "variance", "the most variance, each over three deviations either way"
    order = weight.argsort(descending=True)[:most].tolist()
    steps_of = torch.linspace(-3, 3, steps)
    rows = [traverse(study.model, z[0], d, (steps_of * scale[d] + mean[d]).tolist(), study.told(batch, slice(0, 1)))
            for d in order]
    names = [f"z {d + 1}, {float(weight[d]):.2f} {unit}" for d in order]
    sentence = f"The {len(order)} of {z.shape[1]} latent dimensions with {what}."
    if study.sample_rate is not None:
        return show("traversal", "Traversal", f"Latent dimension {order[0] + 1} of {z.shape[1]}, of those with {what}.",
                    rows[0].split(1), [f"{names[0]}, at {v:+.2g}" for v in steps_of.tolist()],
                    sample_rate=study.sample_rate)
    return show("traversal", "Traversal", sentence, rows, names, mel=study.mel)


def plane(study: Study, side: int = 15) -> Exhibit:
    """The plane of the two latent dimensions with the most KL, decoded on quantiles of the prior.

    Raises ConfigError without two dimensions or their KL, for sound, or on data that is not of one size.

    >>> from audiovae.gallery.study import example_study
    >>> plane(example_study(), side=4).name
    'manifold'
    """
    if study.sample_rate is not None:
        raise ConfigError("latents: a manifold is a plane of pictures, and this model is of sound: traverse it.")
    if not study.has_kl or study.inner.bottleneck.channels_out < 2:
        raise ConfigError("latents: a manifold wants a Gaussian latent of two dimensions or more against the prior "
                          "N(0, 1).")
    kl = kl_per_dimension(study.model, study.held_out.x, study.told(study.held_out))
    across, up = kl.topk(2).indices.tolist()
    x = manifold(study.model, side, (across, up), study.told(study.held_out, slice(0, 1)))
    others = "" if len(kl) == 2 else f", the {len(kl) - 2} others at 0"
    return show("manifold", "Manifold", f"The plane of latent dimensions {across + 1} (rightwards) and {up + 1} "
                f"(upwards) on {side} quantiles of N(0, 1) each{others}.", x.split(side), mel=study.mel)


def restyled(study: Study, count: int = 8) -> Exhibit:
    """Held-out examples told as every label: the style of one, the class of another. Of sound, one example.

    LabelError where the model is not told labels.

    >>> from audiovae.gallery.study import example_study
    >>> restyled(example_study(), count=3).sentence
    '3 held-out examples, each in its own way as each of 3 labels.'
    """
    labels, label = study.model.data.labels[:LISTED], study.held_out.condition.label
    if study.inner.embedding is None or label is None or not labels:
        raise LabelError("latents: restyling wants a model that is told labels: set model.condition_dim.")
    x, own = (values[:count if study.sample_rate is None else 1] for values in (study.held_out.x, label))
    rows = [x, *(restyle(study.model, x, own, k) for k in range(len(labels)))]
    return show("restyle", "Style transfer", f"{len(x)} held-out examples, each in its own way as each of "
                f"{len(labels)} labels.", rows, ["original", *labels], sample_rate=study.sample_rate, mel=study.mel)


def _pairs(study: Study, batch: Batch, count: int) -> list[tuple[int, int]]:
    """Indices of examples to go between: each with the next of its own label where the model is told, else another."""
    label, told = batch.condition.label, study.inner.embedding is not None
    if len(batch.x) < 2:
        raise ConfigError(f"latents: interpolation wants two examples, got {len(batch.x)}.")
    pairs, free = [], list(range(len(batch.x)))
    while len(free) > 1 and len(pairs) < count:
        a = free.pop(0)
        fitting = [i for i in free if label is not None and bool(label[i] == label[a]) == told]
        b = fitting[0] if fitting else free[0]
        free.remove(b)
        pairs.append((a, b))
    return pairs
