"""The perceptual criterion: its formula by loops, where its gradient goes, and that it sees blur."""

import math

import pytest
import torch
from torch.nn import functional as F

from audiovae.config import from_dict
from audiovae.criteria import Perceptual, SampleL2
from audiovae.criteria_config import PerceptualConfig
from audiovae.data import DigitsData
from audiovae.errors import ConfigError, ShapeError
from audiovae.image.digits import digits
from audiovae.image.features import classifier_of, train_classifier
from audiovae.likelihoods import Bernoulli
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import Batch, Condition, DataSpec, Latent, Output


@pytest.fixture(scope="module")
def criterion():
    return Perceptual(train_classifier(*digits("train"), "digits", steps=60))


@pytest.fixture(scope="module")
def pictures():
    return digits("test")[0]


def test_it_is_its_formula_place_by_place(criterion, pictures):
    estimate, target = pictures[:2] * 0.7 + 0.1, pictures[:2]
    sides = zip(criterion.network.layers(estimate), criterion.network.layers(target), strict=True)
    expected = []
    for ours, theirs in sides:
        distances = []
        for a, b in zip(ours, theirs, strict=True):
            for row in range(a.shape[1]):
                for column in range(a.shape[2]):
                    u, v = a[:, row, column].tolist(), b[:, row, column].tolist()
                    lengths = math.hypot(*u) or 1.0, math.hypot(*v) or 1.0
                    distances.append(sum((p / lengths[0] - q / lengths[1]) ** 2 for p, q in zip(u, v, strict=True)))
        expected.append(sum(distances) / len(distances))
    assert len(expected) == 3
    assert float(criterion(estimate, target)) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_equal_pictures_cost_nothing_and_black_ones_no_nan(criterion, pictures):
    assert float(criterion(pictures, pictures.clone())) == 0
    black = torch.zeros(2, 1, 8, 8, requires_grad=True)
    criterion(black, pictures[:2]).backward()
    assert black.grad.isfinite().all()


def test_the_gradient_reaches_the_estimate_and_neither_network_nor_target(criterion, pictures):
    estimate, target = (pictures[:4] * 0.9).requires_grad_(), pictures[:4].clone().requires_grad_()
    criterion.train()  # as the training loop says to all it holds
    criterion(estimate, target).backward()
    assert estimate.grad.abs().sum(dim=(1, 2, 3)).min() > 0 and target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in criterion.parameters())


def test_one_pictures_distance_does_not_depend_on_the_batch(criterion, pictures):
    estimate = pictures[:6].roll(1, dims=3)
    alone = [float(criterion(estimate[i:i + 1], pictures[i:i + 1])) for i in range(6)]
    assert float(criterion(estimate, pictures[:6])) == pytest.approx(sum(alone) / 6, rel=1e-4)


def test_blur_costs_more_than_other_changes_of_the_same_squared_error(criterion, pictures):
    """What squared error cannot tell apart, it orders: a blurred digit before a lit, a dimmed and a sharpened one."""
    window = torch.tensor([1.0, 2.0, 1.0])
    kernel = (window[:, None] * window / 16)[None, None]
    change = F.conv2d(pictures, kernel, padding=1) - pictures
    size = change.flatten(1).norm(dim=1)

    def cost(other):
        scaled = other * (size / other.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
        assert float(SampleL2()(pictures + scaled, pictures)) == pytest.approx(float(change.square().mean()), rel=1e-4)
        return float(criterion(pictures + scaled, pictures))

    blur = cost(change)
    others = {"lit": torch.ones_like(pictures), "dimmed": -pictures, "sharpened": -change, "contrast": pictures}
    for name, other in others.items():
        assert blur > 1.5 * cost(other), name


def test_the_objective_trains_its_network_on_the_source_and_adds_its_term():
    source = DigitsData(batch_size=32).build(seed=0)
    config = from_dict(ObjectiveConfig, {"criteria": [{"kind": "perceptual", "weight": 2.0, "steps": 5}]})
    objective, again = (config.build(None, source) for _ in range(2))
    ours, theirs = (o.criteria["perceptual"].network for o in (objective, again))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    x = source.batch(0).x
    params = torch.zeros_like(x).requires_grad_()
    latent = Latent(z=torch.zeros(32, 1, 1, 1), rate=torch.zeros(32), rate_map=torch.zeros(32, 1, 1, 1))
    loss = objective(Output((latent,), params), x, Bernoulli(), progress=0.0)
    term = float(Perceptual(ours)(params.sigmoid(), x).detach())
    assert float(loss.terms["perceptual"]) == pytest.approx(term, rel=1e-5)
    assert float(loss.total.detach()) == pytest.approx(float(loss.distortion) / 64 + 2 * term, rel=1e-5)
    assert loss.elbo is None  # a likelihood helped by a criterion bounds nothing


class Labelled:
    """Waveforms of two kinds, slow and fast; only every second has its label."""

    spec = DataSpec(channels=1, dims=1, labels=("slow", "fast"))

    def batch(self, step, rank=0):
        label = torch.arange(16) % 2
        wave = ((1 + 4 * label)[:, None] * torch.arange(64) / 8).sin()[:, None]
        return Batch(wave, Condition(torch.where(torch.arange(16) % 4 < 2, label, -1)), ("wave",) * 16)


def test_a_classifier_learns_waveforms_with_labels_missing():
    network = classifier_of(Labelled(), steps=30)
    assert network.heads(Labelled().batch(0).x)[1].argmax(1).tolist() == [0, 1] * 8
    x = Labelled().batch(0).x
    assert float(Perceptual(network)(x + 0.1, x)) > 0


def test_what_does_not_fit_says_so(criterion):
    with pytest.raises(ConfigError, match="wants the training data"):
        PerceptualConfig().build(None)
    unlabelled = Labelled()
    unlabelled.spec = DataSpec(channels=1, dims=1)
    with pytest.raises(ConfigError, match="labels of at least 2 kinds"):
        classifier_of(unlabelled)
    with pytest.raises(ShapeError, match="C=1"):
        criterion(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ShapeError, match="target's shape"):
        criterion(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))
