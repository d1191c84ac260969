"""Scores of generated examples against closed forms, brute force, and what they must notice."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch

from audiovae.errors import ShapeError
from audiovae.image.digits import digits
from audiovae.image.features import FeatureNetwork, train_classifier
from audiovae.metrics.generation import (
    GenerationScores,
    density_coverage,
    extrapolated_frechet_distance,
    frechet_distance,
    generation_scores,
    inception_score,
    kernel_distance,
    precision_recall,
)
from audiovae.report.table import Table


class Pixels(FeatureNetwork):
    """Features that need no training: an example's own numbers, and a linear classifier of them."""

    def __init__(self):
        super().__init__("pixels", 64)
        self.head = torch.nn.Linear(64, 10)

    def heads(self, x):
        return x.flatten(1), self.head(x.flatten(1))


def standardised(x):
    """A linear image of x with mean 0 and covariance I, exactly."""
    x = x.double() - x.double().mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def gaussian(mean, root, count=300):
    """Examples whose fitted normal has this mean and covariance root rootᵀ, to rounding."""
    return mean + standardised(torch.randn(count, len(mean))) @ root.T


def test_frechet_distance_is_the_closed_form_of_two_normals():
    means = torch.randn(2, 6, dtype=torch.float64)
    roots = torch.randn(2, 6, 6, dtype=torch.float64)
    real, fake = (gaussian(m, r) for m, r in zip(means, roots, strict=True))
    s, c = ((r @ r.T).numpy() for r in roots)
    expected = float((means[0] - means[1]).square().sum()) + np.trace(s + c - 2 * scipy.linalg.sqrtm(s @ c).real)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_diagonal_normals_is_that_of_their_deviations():
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 0.1, 0.5]).double()
    zero = torch.zeros(3).double()
    got = frechet_distance(gaussian(zero, a.diag()), gaussian(zero + 1, b.diag()))
    assert got == pytest.approx(3 + float((a - b).square().sum()), rel=1e-9)


@pytest.mark.parametrize("count", [200, 12], ids=["many", "fewer than features"])
def test_equal_sets_are_at_distance_0(count):
    x = torch.randn(count, 20)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-5)


def test_extrapolation_removes_what_few_examples_add():
    """Two draws of one normal are 0 apart: the plain distance is not, and halves as N doubles; its limit is near 0."""
    real = gaussian(torch.zeros(8).double(), torch.eye(8).double(), count=2000)
    plain = [np.mean([frechet_distance(real, torch.randn(n, 8)) for _ in range(20)]) for n in (250, 500, 1000)]
    for few, many in pairwise(plain):
        assert few / many == pytest.approx(2, rel=0.3)
    limits = [extrapolated_frechet_distance(real, torch.randn(500, 8)) for _ in range(6)]
    assert abs(np.mean([limit.mean for limit in limits])) < plain[1] / 3
    assert sum(abs(limit.mean) <= limit.half_width for limit in limits) >= 4


def test_kernel_distance_is_its_sum_over_pairs():
    real, fake = torch.randn(8, 3).double(), torch.randn(8, 3).double() + 0.5

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    def pairs(a, b, same):
        return np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if not same or i != j])

    expected = pairs(real, real, True) + pairs(fake, fake, True) - 2 * pairs(real, fake, False)
    assert kernel_distance(real, fake, blocks=1).mean == pytest.approx(expected, rel=1e-10)
    biased = pairs(real, real, False) + pairs(fake, fake, False) - 2 * pairs(real, fake, False)
    assert biased != pytest.approx(expected, rel=0.1)  # what forgets to leave the diagonal out is seen


def test_kernel_distance_is_unbiased_and_its_interval_honest():
    draws = [kernel_distance(torch.randn(60, 4), torch.randn(60, 4)) for _ in range(200)]
    means = np.array([draw.mean for draw in draws])
    assert abs(means.mean()) < 4 * means.std() / math.sqrt(len(means))
    assert (means < 0).mean() > 0.2
    held = np.mean([abs(draw.mean) <= draw.half_width for draw in draws])
    assert 0.88 <= held <= 1


def test_inception_score_of_sure_and_even_answers_is_the_number_of_classes():
    sure = torch.eye(7).repeat(20, 1).log()
    assert inception_score(sure).mean == pytest.approx(7, rel=1e-9)
    assert inception_score(torch.full((50, 7), 1 / 7).log()).mean == pytest.approx(1, rel=1e-6)
    assert inception_score(sure[:1].repeat(50, 1)).mean == pytest.approx(1, rel=1e-9)  # sure, but of one class


def test_inception_score_is_its_formula():
    p = torch.rand(30, 5).double().softmax(1).numpy()
    marginal = p.mean(0)
    expected = math.exp(np.mean([sum(q * math.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in p]))
    assert inception_score(torch.from_numpy(p).log()).mean == pytest.approx(expected, rel=1e-9)


def radius(x, i, k):
    return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]


@pytest.mark.parametrize("k", [1, 3])
def test_manifold_scores_are_loops_over_points(k):
    real, fake = torch.randn(40, 3).tolist(), (torch.randn(25, 3) * 1.3 + 0.5).tolist()
    balls = [[math.dist(x, y) <= radius(real, i, k) for y in fake] for i, x in enumerate(real)]
    mirrored = [[math.dist(x, y) <= radius(fake, i, k) for y in real] for i, x in enumerate(fake)]
    precision = sum(any(row[j] for row in balls) for j in range(25)) / 25
    recall = sum(any(row[j] for row in mirrored) for j in range(40)) / 40
    density = sum(map(sum, balls)) / (k * 25)
    coverage = sum(map(any, balls)) / 40
    both = torch.tensor(real), torch.tensor(fake)
    got = *precision_recall(*both, k=k), *density_coverage(*both, k=k)
    assert [value.mean for value in got] == pytest.approx([precision, recall, density, coverage])


def test_a_manifold_that_counts_the_point_itself_as_a_neighbour_would_be_seen():
    """With balls of the (k-1)-th neighbour every score falls: the loops above can fail."""
    real, fake = torch.randn(60, 3), torch.randn(60, 3)
    for score in (precision_recall, density_coverage):
        assert all(small.mean < right.mean
                   for small, right in zip(score(real, fake, k=2), score(real, fake, k=3), strict=True))


def test_what_each_score_is_for():
    """One mode of two is precise, not covered; noise around both is covered, not precise."""
    def modes(count):
        return torch.randn(count, 2) + 20 * (torch.arange(count) % 2)[:, None]

    real, half, noisy = modes(400), modes(800)[::2], 8 * torch.randn(400, 2) + modes(400)
    precision, recall = precision_recall(real, half)
    density, coverage = density_coverage(real, half)
    assert precision.mean > 0.9 and density.mean > 0.8 and recall.mean < 0.6 and coverage.mean < 0.6
    precision, recall = precision_recall(real, noisy)
    assert precision.mean < 0.4 and recall.mean > 0.9


def test_equal_distributions_have_the_density_and_coverage_the_paper_derives():
    results = [density_coverage(torch.randn(300, 4), torch.randn(300, 4), k=5) for _ in range(10)]
    density, coverage = (np.mean([r[i].mean for r in results]) for i in (0, 1))
    assert density == pytest.approx(1, abs=0.06)
    # Naeem 2020, lemma 2, for N = M: 1 - Π (M - i) / (2 M - i) over the k
    assert coverage == pytest.approx(1 - math.prod((300 - i) / (600 - i) for i in range(1, 6)), abs=0.02)


def test_all_scores_say_which_network_they_are_of():
    x, _ = digits("train")
    scores = generation_scores(x[:300], x[300:600], Pixels())
    text = Table(GenerationScores.COLUMNS, scores.rows()).text()
    assert text.count("(pixels, 64 features)") == 8 and "FID" not in text and "KID" not in text
    assert "Fréchet distance at 300 against 300" in text
    assert scores.precision.mean > 0.5 and scores.coverage.mean > 0.5
    worse = generation_scores(x[:300], torch.rand(300, 1, 8, 8), Pixels())
    assert worse.frechet.mean > 3 * scores.frechet.mean and worse.kernel.mean > 10 * abs(scores.kernel.mean)
    assert worse.precision.mean < 0.1 and worse.coverage.mean < 0.1


def test_a_classifier_is_trained_in_seconds_and_always_the_same():
    x, y = digits("train")
    state = torch.get_rng_state()
    one, two = (train_classifier(x, y, "digits", steps=40) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    test, label = digits("test")
    features = one.extract(test)
    assert float((features.log_probs.argmax(1) == label).double().mean()) > 0.85
    assert features.vectors.shape == (len(test), one.num_features) and features.vectors.dtype == torch.float64
    torch.testing.assert_close(one.extract(test, batch_size=7).vectors, features.vectors, atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in one.parameters())


def test_what_cannot_be_scored_says_so():
    x = torch.randn(50, 4)
    for call in (lambda: frechet_distance(x, x[:, :3]), lambda: frechet_distance(x, x[:1]),
                 lambda: kernel_distance(x, x[:12]), lambda: extrapolated_frechet_distance(x, x),
                 lambda: precision_recall(x[:3], x), lambda: inception_score(x[:5]),
                 lambda: train_classifier(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, -1, 0]))):
        with pytest.raises(ShapeError, match="want"):
            call()
