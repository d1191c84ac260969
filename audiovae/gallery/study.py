"""What a tour of a latent space starts from: a trained model, data to train on and data held out, and groups of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovae.audio.io import read_audio
from audiovae.bottlenecks import Gaussian
from audiovae.checkpoint import find_checkpoint, load_model, read_description
from audiovae.config import Config, from_dict, merge
from audiovae.data import AudioSource, DataConfig, LatentsSource, Source
from audiovae.errors import AudioError, CheckpointError, ConfigError, LabelError, nearest
from audiovae.image.pictures import PartName
from audiovae.image.sets import DigitsData
from audiovae.image.source import ImageSource
from audiovae.latents import generate, locate
from audiovae.latents.coding import autoencoder
from audiovae.metrics.latents import fitted_draws
from audiovae.models import Autoencoder, Ladder, Model, SemiSupervised
from audiovae.shapes import Batch, Condition, MelSpec
from audiovae.spectrogram_data import SpectrogramSource

MOST = 10_000  # training examples, where some stand for all


@dataclass(frozen=True)
class Study:
    """A model and its data.

    train, held_out : examples, in memory.
    part : what ``held_out`` is called.
    gender : of each recording of a corpus by its name, where that is known.
    generator : of all that is drawn.

    >>> study = example_study()
    >>> study.told(study.held_out, slice(0, 2)).label
    tensor([0, 1])
    """

    model: Model
    train: Batch
    held_out: Batch
    part: str = "test"
    gender: Mapping[str, str] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @cached_property
    def inner(self) -> Autoencoder | Ladder:
        """The encoder, latent and decoder; ConfigError where the model has no continuous latent."""
        return autoencoder(self.model)

    @property
    def sample_rate(self) -> int | None:
        """Hz, of sound; None for pictures."""
        return self.model.data.sample_rate

    @property
    def mel(self) -> MelSpec | None:
        """What pictures are spectrograms of; None where they are of no sound."""
        return self.model.data.mel

    def told(self, batch: Batch, part: slice | Tensor = slice(None)) -> Condition | None:
        """What the model is told of examples; None where it is told nothing.

        A semi-supervised model is never told that a label is unknown: the likeliest stands for it.
        """
        condition = None if self.inner.embedding is None else pick(batch.condition, part)
        if isinstance(self.model, SemiSupervised):
            with torch.no_grad():
                condition = self.model.told(batch.x[part], condition)
        return condition

    @property
    def has_prior(self) -> bool:
        """Whether there is a prior to draw latents from."""
        return isinstance(self.inner.bottleneck, Gaussian)

    @property
    def has_kl(self) -> bool:
        """Whether q(z|x) is a diagonal normal and the prior N(0, 1), so that each dimension has a KL."""
        return isinstance(self.inner.bottleneck, Gaussian) and self.inner.bottleneck.closed and not self.inner.bent

    def draw(self, count: int, temperature: float = 1.0) -> Tensor:
        """Latents (count, D, *grid) from the prior; where there is none, from a normal fitted to the training data's.

        The spread of either is times ``temperature``.
        """
        if self.has_prior:
            size = tuple(self.held_out.x.shape[2:])
            return self.inner.sample_prior(count, temperature, self.generator, size).cpu()
        mean = self.places.mean(0)
        return mean + temperature * (fitted_draws(self.places, count, self.generator) - mean)

    def new(self, count: int, temperature: float = 1.0, told: Condition | None = None) -> Tensor:
        """New data (count, C, *grid) from :meth:`draw`; a ladder's own, whose statistics go with the temperature."""
        if isinstance(self.inner, Ladder):
            size = tuple(self.held_out.x.shape[2:])
            return self.inner.sample(count, told, temperature, self.generator, size).cpu()
        return generate(self.model, self.draw(count, temperature), told)

    @cached_property
    def places(self) -> Tensor:
        """Where the training data lies, without noise: z (N, D, *grid)."""
        return locate(self.model, self.train.x, self.told(self.train))

    def index(self, label: str) -> int:
        """The index of a label; LabelError with the nearest where the model is not told it."""
        labels = self.model.data.labels if self.inner.embedding is not None else ()
        if label not in labels:
            raise LabelError(f"latents: the model is told no label '{label}' ({len(labels)} labels); "
                             f"{nearest(label, labels)}".rstrip("; ") + ".")
        return labels.index(label)

    def groups(self, batch: Batch, by: str = "label") -> list[str | None]:
        """The group of each example, None where unknown: its label, its speaker's gender, or what a file says.

        ``by`` is "label", "gender", or a file of two columns with a tab between: the name of an example, recording or
        label, and its group.

        Raises LabelError where none of the examples has a group, ConfigError where the file cannot be read.
        """
        label = batch.condition.label
        index: list[int] = [-1] * len(batch.x) if label is None else label.tolist()
        found: list[str | None] = [self.model.data.labels[k] if k >= 0 else None for k in index]
        if by != "label":
            table = self.gender if by == "gender" else _read_groups(Path(by))
            found = [next((table[key] for key in (name, name.split(" @ ")[0], its or "") if key in table), None)
                     for name, its in zip(batch.names, found, strict=True)]
        if not any(found):
            raise LabelError(f"latents: no example of the data has a group by '{by}': name 'label', 'gender' (of a "
                             "corpus that tells it) or a file of names and groups.")
        return found


@dataclass(frozen=True)
class _Section(Config):
    data: DataConfig = DigitsData()


def open_study(path: Path, settings: Mapping[str, Any] | None = None, part: PartName = "test", limit: int = 1000,
               seed: int = 0, most: int | None = MOST) -> Study:
    """The study of a training run or checkpoint: its model, and the data its own configuration names.

    ``settings`` such as {"data.corpus": "..."} change that. Of data that is cut anew for every batch (crops of
    recordings) the held-out examples are those of validation, whatever ``part`` says. At most ``limit`` examples are
    held out, and ``most`` of training kept, None for all.

    Raises CheckpointError where the checkpoint does not tell its data, ConfigError on unknown settings or a model
    without a continuous latent, and as the data's reader does.
    """
    folder = find_checkpoint(path)
    model, description = load_model(folder), read_description(folder)
    autoencoder(model)
    if "data" not in description.get("experiment", {}):
        raise CheckpointError(f"model {path}: its config.json does not tell the data it was trained on: name a run "
                              "made by `audiovae train`.")
    experiment = description["experiment"]
    values = merge({"data": experiment["data"]}, settings or {})
    if set(values) - {"data"}:
        raise ConfigError(f"latents: --{min(set(values) - {'data'})}.* is no setting of the data; settings here start "
                          "with --data.")
    source: Source = from_dict(_Section, values, source=f"data of {folder}").data.build(
        experiment["train"]["seed"])  # the run's own: what was held out from it is held out here
    source.fit(model.hop)
    if (source.spec.channels, source.spec.dims) != (model.data.channels, model.data.dims) or (
            model.data.size not in (None, source.spec.size)):
        raise CheckpointError(f"model {path} is of {model.data}, but the data is {source.spec}: take data of its kind.")
    gender: dict[str, str] = {}
    if isinstance(source, ImageSource | LatentsSource):
        train, held_out = _some(source.part("train"), most, seed), _some(source.part(part), limit, seed)
    else:
        part = "valid"
        train, held_out = _joined([source.batch(step) for step in range(64)]), _joined(source.validation())
        train, held_out = _some(train, most, seed), _some(held_out, limit, seed)
        if isinstance(source, AudioSource | SpectrogramSource):
            gender = {u.id: u.gender for u in source.corpus.all if u.gender}
    return Study(model.requires_grad_(False), train, held_out, part, gender, torch.Generator().manual_seed(seed))


def recordings(study: Study, paths: Sequence[Path]) -> Batch:
    """Recordings as one batch, cut to the length of the shortest and a multiple of the hop; their labels unknown.

    Raises ConfigError for a model of pictures, AudioError as reading does or where one is shorter than a latent step.
    """
    if study.sample_rate is None:
        raise ConfigError("latents: --recordings is for a model of sound; this one is of pictures.")
    waves = [read_audio(path, study.sample_rate)[0] for path in paths]
    length = min(wave.shape[1] for wave in waves) // study.inner.hop * study.inner.hop
    if not length:
        raise AudioError(f"{paths[0]} or another is shorter than one latent step ({study.inner.hop} samples at "
                         f"{study.sample_rate} Hz).")
    x = torch.stack([wave[:, :length] for wave in waves])
    return Batch(x, Condition(torch.full((len(x),), -1)), tuple(path.stem for path in paths))


def pick(condition: Condition | None, part: slice | Tensor) -> Condition | None:
    """The condition of some of its examples."""
    if condition is None:
        return None
    label, embedding = condition.label, condition.embedding
    return Condition(label if label is None else label[part], embedding if embedding is None else embedding[part])


def marks(groups: Sequence[str | None], having: Sequence[str], without: Sequence[str]) -> Tensor:
    """1 for examples whose group is in ``having``, 0 in ``without`` (by default all other groups), else -1: (B,).

    LabelError on a group that no example is in.

    >>> marks(["a", "b", None, "c"], having=["a"], without=[])
    tensor([ 1,  0, -1,  0])
    """
    known = {group for group in groups if group is not None}
    for name in (*having, *without):
        if name not in known:
            raise LabelError(f"latents: no example in a group '{name}' ({len(known)} groups); {nearest(name, known)}.")
    others = set(without) or known - set(having)
    return torch.tensor([1 if g in having else 0 if g in others else -1 for g in groups])


def example_study() -> Study:
    """An untrained VAE and a few random pictures of three labels, for the documentation and tests."""
    from audiovae.latents.example import example_vae

    def batch(count: int) -> Batch:
        return Batch(torch.rand(count, 1, 8, 8), Condition(torch.arange(count) % 3),
                     tuple(f"picture {i}" for i in range(count)))

    return Study(example_vae().requires_grad_(False), batch(30), batch(12))


def _read_groups(path: Path) -> dict[str, str]:
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"latents: groups {path} cannot be read ({reason}).") from None
    bad = next((i for i, row in enumerate(rows, 1) if len(row) != 2), None)
    if bad is not None or not rows:
        raise ConfigError(f"latents: groups {path} wants two columns with a tab between, the name and its group; look "
                          f"at line {bad or 1}.")
    return dict(rows)


def _joined(batches: Sequence[Batch]) -> Batch:
    first = batches[0].condition
    label = torch.cat([batch.condition.label for batch in batches]) if first.label is not None else None  # type: ignore
    embedding = torch.cat([b.condition.embedding for b in batches]) if first.embedding is not None else None  # type: ignore
    return Batch(torch.cat([batch.x for batch in batches]), Condition(label, embedding),
                 tuple(name for batch in batches for name in batch.names))


def _some(batch: Batch, limit: int | None, seed: int) -> Batch:
    """At most ``limit`` examples, drawn by lot; those of one seed are always the same. All where it is None."""
    if limit is None:
        return batch
    if limit < 1:
        raise ConfigError(f"latents: --limit wants 1 example or more, got {limit}.")
    if len(batch.x) <= limit:
        return batch
    chosen = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(seed))[:limit]
    condition = pick(batch.condition, chosen)
    assert condition is not None
    return Batch(batch.x[chosen], condition, tuple(batch.names[i] for i in chosen.tolist()))
