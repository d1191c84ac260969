"""M2 by its own sum over labels, written as a loop, and by what a few labels buy it on two made-up shapes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from audiovae.checkpoint import load_model
from audiovae.commands.evaluate_images import held_out
from audiovae.config import from_dict
from audiovae.corruption import Masking
from audiovae.errors import ConfigError, ShapeError
from audiovae.gallery import Study
from audiovae.models import ModelConfig, SemiSupervised
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import Batch, Condition, DataSpec
from audiovae.train import Experiment, train

SMALL = {"kind": "mlp", "widths": [16]}


def small_model(side: int = 4, **autoencoder) -> SemiSupervised:
    told = {"encoder": SMALL, "decoder": SMALL, "condition_dim": 4, "condition_encoder": True, "label_dropout": 0.0,
            "bottleneck": {"kind": "gaussian", "dim": 2}, "likelihood": {"kind": "bernoulli"}} | autoencoder
    config = from_dict(ModelConfig, {"kind": "semi_supervised", "autoencoder": told, "classifier": SMALL})
    return config.build(DataSpec(channels=1, dims=2, labels=("a", "b", "c"), size=(side, side), levels=2))


def bound_by_loop(model: SemiSupervised, x: Tensor, label: int) -> float:
    """Kingma 2014, eq. 6 for a known label and eq. 7 for an unknown one; p(y) = 1/3, one example at a time."""

    def labelled(y: int) -> float:
        torch.manual_seed(y)
        output = model.autoencoder(x[None], Condition(torch.tensor([y])))
        log_prob = float(model.likelihood.log_prob(output.params, x[None]))
        return log_prob - float(output.latents[0].rate) - math.log(3)

    if label >= 0:
        return labelled(label)
    q = model.classify(x[None])[0].softmax(0).tolist()
    return sum(q[y] * (labelled(y) - math.log(q[y])) for y in range(3))


@torch.no_grad()
def test_the_bound_is_the_sum_over_labels(monkeypatch):
    model, x = small_model().double().eval(), torch.bernoulli(torch.full((4, 1, 4, 4), 0.5)).double()
    label = torch.tensor([2, -1, 0, -1])
    noise = []
    for y in range(3):  # the noise that the loop's seeds give each label
        torch.manual_seed(y)
        noise.append(torch.randn(1, 2, 1, 1, dtype=torch.float32))
    monkeypatch.setattr(torch, "randn_like", lambda mean: torch.cat(noise * 4).to(mean.dtype))
    output = model(x, Condition(label))
    loss = ObjectiveConfig(classification=0.0).build(None)(output, x, model.likelihood, 0.0)
    monkeypatch.undo()
    expected = sum(bound_by_loop(model, x[i], int(label[i])) for i in range(4)) / 4
    assert float(loss.elbo) == pytest.approx(expected, rel=1e-5)


STRIDED = {"kind": "strided", "strides": [2], "width": 8}


@pytest.mark.parametrize("encoder", [SMALL, SMALL | {"activation": "glu"}, STRIDED])
@torch.no_grad()
def test_an_encoder_told_several_labels_is_the_encoder_told_each(encoder):
    model, x, told = small_model(encoder=encoder).autoencoder.encoder, torch.rand(2, 1, 4, 4), torch.randn(6, 4)
    one_by_one = torch.cat([model(x[i // 3:i // 3 + 1], told[i:i + 1]) for i in range(6)])
    torch.testing.assert_close(model(x, told), one_by_one)
    with pytest.raises(ShapeError, match="2 examples wants"):
        model(x, told[:5])


def test_the_label_is_never_hidden():
    assert small_model(label_dropout=0.5).autoencoder.embedding.dropout == 0


def test_what_examples_without_a_label_tell_the_classifier_grows():
    def steepness(steps: int) -> Tensor:
        torch.manual_seed(0)
        model, x = small_model(), torch.rand(4, 1, 4, 4)
        model.warmup, model.steps = 10, torch.tensor(steps)
        ObjectiveConfig().build(None)(model(x), x, model.likelihood, 0.0).total.backward()
        assert int(model.steps) == min(steps + 1, 10)
        return next(model.classifier.parameters()).grad

    full = steepness(10)
    assert full.abs().max() > 0
    torch.testing.assert_close(steepness(0), torch.zeros_like(full))
    torch.testing.assert_close(steepness(3), 0.3 * full)


def test_only_the_classifier_reads_noise_and_only_in_training():
    model, x = small_model(), torch.rand(4, 1, 4, 4)
    model.corruption = Masking(share=1.0)
    blank = model.classify(torch.zeros_like(x))
    torch.testing.assert_close(model(x).latents[1].z, blank)
    torch.testing.assert_close(model.eval()(x).latents[1].z, model.classify(x))


def test_only_labelled_examples_teach_the_classifier_by_their_labels():
    model, x = small_model(), torch.rand(4, 1, 4, 4)
    unknown = model(x, Condition(torch.full((4,), -1))).latents[1]
    assert float(unknown.losses["classification"].detach()) == 0 and float(unknown.stats["labelled"]) == 0
    told = model(x, Condition(torch.tensor([1, -1, -1, -1]))).latents[1]
    one = -model.classify(x)[0].log_softmax(0)[1] / 4
    torch.testing.assert_close(told.losses["classification"], one)


def test_unlabelled_examples_sharpen_the_classifier():
    """Three clusters of noisy pictures, four labels each: where the clusters lie, the others tell better."""
    prototypes = torch.bernoulli(torch.full((3, 1, 8, 8), 0.5), generator=torch.Generator().manual_seed(3))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        label = torch.arange(count) % 3
        flips = torch.rand(count, 1, 8, 8) < 0.3
        return (prototypes[label] - flips.float()).abs(), label

    (few, few_label), (many, _), (test, truth) = draw(12), draw(600), draw(900)

    def error(share_unlabelled: bool) -> float:
        torch.manual_seed(0)
        model = small_model(side=8, bottleneck={"kind": "gaussian", "dim": 1})
        objective = ObjectiveConfig(classification=1.0).build(None)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for step in range(400):
            x, label = few.repeat(5, 1, 1, 1), few_label.repeat(5)
            if share_unlabelled:
                rest = many[torch.randint(600, (60,))]
                x, label = torch.cat([x, rest]), torch.cat([label, torch.full((60,), -1)])
            loss = objective(model(x, Condition(label)), x, model.likelihood, step / 400)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        return float((model.classify(test).argmax(1) != truth).float().mean())

    assert error(True) < 0.6 * error(False)


def test_latent_tools_are_told_the_likeliest_label_where_there_is_none():
    model = small_model().requires_grad_(False)
    batch = Batch(torch.rand(6, 1, 4, 4).round(), Condition(torch.tensor([2, -1, 0, -1, -1, 1])), tuple("abcdef"))
    study = Study(model, batch, batch)
    told, likeliest = study.told(batch).label, model.classify(batch.x).argmax(1)
    assert torch.equal(told, torch.where(batch.condition.label < 0, likeliest, batch.condition.label))
    assert torch.equal(study.told(batch, torch.tensor([4, 0])).label, told[[4, 0]])


def test_what_cannot_be_semi_supervised_is_said():
    with pytest.raises(ConfigError, match="data with labels"):
        from_dict(ModelConfig, {"kind": "semi_supervised"}).build(DataSpec(1, 2, size=(4, 4)))
    with pytest.raises(ConfigError, match="set condition_dim and condition_encoder"):
        small_model(condition_encoder=False)
    with pytest.raises(ConfigError, match=r"leave objective\.samples at 1"):
        small_model()(torch.rand(1, 1, 8, 8), samples=2)


def test_what_does_not_weigh_labels_is_refused_and_what_has_no_rate_has_no_bound():
    x, sparse = torch.zeros(2, 1, 4, 4), small_model(bottleneck={"kind": "identity", "dim": 2})
    loss = ObjectiveConfig().build(None)(sparse(x), x, sparse.likelihood, 0.0)
    assert loss.dims is None, "z is given, not drawn: no bound"
    model, objective = small_model(), from_dict(ObjectiveConfig, {"criteria": [{"kind": "sample_l2"}]}).build(None)
    with pytest.raises(ConfigError, match="one for each label"):
        objective(model(x), x, model.likelihood, 0.0)
    with pytest.raises(ConfigError, match="calibrated scale fits them all alike"):
        small_model(likelihood={"kind": "gaussian", "scale": "calibrated"})


def test_latents_of_a_trained_model_are_data_of_their_own(tmp_path):
    """M1 + M2: the second model learns from the first one's draws, and is judged on its means."""
    autoencoder = {"encoder": SMALL, "decoder": SMALL, "bottleneck": {"kind": "gaussian", "dim": 5},
                   "likelihood": {"kind": "categorical"}}
    first = {"data": {"kind": "digits"}, "model": autoencoder, "train": {"steps": 3}}
    train(from_dict(Experiment, first), tmp_path / "m1")
    data = {"kind": "latents", "model": str(tmp_path / "m1"), "data": {"kind": "digits", "labelled": 10}}
    told = {"encoder": SMALL, "decoder": SMALL, "condition_dim": 4, "condition_encoder": True,
            "bottleneck": {"kind": "gaussian", "dim": 2}}
    second = from_dict(Experiment, {"data": data, "train": {"steps": 3}, "model": {
        "kind": "semi_supervised", "autoencoder": told, "classifier": SMALL}})
    train(second, tmp_path / "m2")
    assert load_model(tmp_path / "m2").data.size == (5,)

    other = replace(second.data, data=replace(second.data.data, binarize="threshold"))
    with pytest.raises(ConfigError, match="was trained on"):
        other.build(seed=0)
    source = second.data.build(seed=0)
    pictures, m1 = source.inner.part("test"), load_model(tmp_path / "m1")
    mean, log_variance = m1.encode(pictures.x).chunk(2, dim=1)
    torch.testing.assert_close(source.part("test").x, mean[:, None, :, 0, 0])
    assert torch.equal(source.batch(3).x, source.batch(3).x)
    assert not torch.equal(source.batch(3).x, source.batch(4).x)
    assert (source.batch(3).condition.label >= 0).sum() == 64  # half of the batch
    shown, seen = source.batch(3), source.inner.batch(3)
    mean, log_variance = m1.encode(seen.x).chunk(2, dim=1)
    standard = ((shown.x[:, 0] - mean[..., 0, 0]) / (log_variance[..., 0, 0] / 2).exp()).detach()
    assert abs(float(standard.mean())) < 0.15 and abs(float(standard.std()) - 1) < 0.1
    means = replace(second.data, temperature=0.0).build(seed=0)
    torch.testing.assert_close(means.batch(3).x[:, 0], mean[..., 0, 0])
    for part in ("train", "valid", "test"):  # what is measured is the part that was asked for
        assert torch.equal(held_out(source, part, 0, 0).x, source.part(part).x)
    bent = {**autoencoder, "bottleneck": {"kind": "gaussian", "dim": 5, "posterior": {"kind": "iaf"}}}
    train(from_dict(Experiment, {**first, "model": bent}), tmp_path / "bent")
    with pytest.raises(ConfigError, match="temperature to 0"):
        replace(second.data, model=str(tmp_path / "bent")).build(seed=0)
