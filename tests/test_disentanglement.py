"""Disentanglement against codes whose answer is known: perfect, mixed, rotated, incomplete, collapsed, noise."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.linalg import hadamard

from audiovae.errors import ShapeError
from audiovae.metrics import beta_vae_score, dci, factor_vae_score, mutual_information_gap

VALUES = [3, 6, 8, 16]
COUNT, WIDTH = 1500, len(VALUES)
MEASURES = [
    lambda z, v: mutual_information_gap(z, v).score,
    lambda z, v: dci(z, v, trees=5).disentanglement,
    lambda z, v: dci(z, v, trees=5).completeness,
    lambda z, v: factor_vae_score(z, v).score,
    lambda z, v: beta_vae_score(z, v).score,
]
NAMES = ["MIG", "D", "C", "FactorVAE", "betaVAE"]
measures = pytest.mark.parametrize("measure", MEASURES, ids=NAMES)


@pytest.fixture
def dice():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def factors():
    return np.random.default_rng(1).integers(0, VALUES, size=(COUNT, WIDTH))


@pytest.fixture(scope="module")
def perfect(factors):
    """Each factor in one dimension, of mean 0 and variance 1, in another order, scaled, two of them mirrored."""
    return ((factors - factors.mean(0)) / factors.std(0))[:, [2, 0, 3, 1]] * [1, -2, 0.5, -3]


@pytest.fixture(scope="module")
def rotated(perfect):
    return perfect / perfect.std(0) @ np.linalg.qr(np.random.default_rng(2).standard_normal((WIDTH, WIDTH)))[0]


@measures
def test_a_perfect_code_scores_one(measure, perfect, factors):
    assert measure(perfect, factors) > 0.98


@pytest.mark.parametrize("measure", MEASURES[:3], ids=NAMES[:3])
def test_a_rotation_hides_what_is_there(measure, rotated, perfect, factors):
    """From all dimensions together every factor can still be told, but no longer from one."""
    assert measure(rotated, factors) < measure(perfect, factors) - 0.1


@pytest.mark.parametrize("measure", MEASURES[:4], ids=NAMES[:4])
def test_an_equal_blend_is_no_better_than_noise(measure, dice):
    """Half the sum or difference of all: each dimension varies as much whichever factor is fixed."""
    factors = dice.integers(0, 8, size=(COUNT, 4))
    assert measure(factors @ (hadamard(4) / 2), factors) < (0.06 if measure in MEASURES[:3] else 1 / 4 + 0.08)


def test_a_rotation_takes_nothing_away(rotated, factors):
    assert dci(rotated, factors).informativeness > 0.7  # chance: 0.18


@pytest.mark.parametrize("measure", MEASURES[:2], ids=NAMES[:2])
def test_the_further_it_is_turned_the_less(measure, dice):
    factors = dice.integers(0, 8, size=(COUNT, 2))
    scores = []
    for angle in (0, 10, 20, 45):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        scores.append(measure(factors @ np.array([[c, s], [-s, c]]), factors))
    assert all(less < more - 0.01 for more, less in itertools.pairwise(scores))
    assert scores[-1] < 0.06


def test_noise_scores_nothing(dice, factors):
    noise = dice.standard_normal((COUNT, 6))
    assert mutual_information_gap(noise, factors).score < 0.02
    found = dci(noise, factors)
    assert found.disentanglement < 0.02 and found.completeness < 0.02
    assert abs(found.informativeness - np.mean([1 / n for n in VALUES])) < 0.03
    assert abs(found.chance - np.mean([1 / n for n in VALUES])) < 0.03
    for found in (factor_vae_score(noise, factors), beta_vae_score(noise, factors)):
        assert found.chance == 1 / WIDTH
        assert abs(found.score - found.chance) < 4 * math.sqrt(0.25 * 0.75 / 800) + 0.02


@measures
def test_a_collapsed_code_scores_nothing_and_is_no_error(measure, factors):
    assert measure(np.full((COUNT, 5), 0.3), factors) <= 1 / WIDTH + 0.05


@measures
def test_order_and_sign_of_dimensions_do_not_matter(measure, rotated, dice, factors):
    code = np.c_[rotated, 0.3 * dice.standard_normal((COUNT, 2))]
    turned = (code * [1, -1, -1, 1, -1, 1])[:, [5, 2, 0, 4, 1, 3]]
    assert measure(turned, factors) == pytest.approx(measure(code, factors), abs=0.03)


def test_what_is_written_for_a_value_does_not_matter(rotated, factors):
    """Factors are names: 0, 1, 2 or -7, 500, 3 in any order."""
    renamed = np.stack([np.random.default_rng(k).permutation(1000)[v] - 500 for k, v in enumerate(factors.T)], 1)
    for measure, within in zip(MEASURES, (1e-9, 0.03, 0.03, 0.05, 0.05), strict=True):
        assert measure(rotated, renamed) == pytest.approx(measure(rotated, factors), abs=within)


def test_mutual_information_by_counting(dice):
    """A loop over pairs, with bins found by comparing with their edges; then equation 6 as it stands."""
    codes, factors = dice.standard_normal((300, 3)), dice.integers(0, [2, 5], size=(300, 2))
    codes[:, 1] += factors[:, 0]
    codes[:, 2] += 2 * factors[:, 1]
    found = mutual_information_gap(codes, factors, bins=7)
    score = 0.0
    for k in range(2):
        told = []
        for j in range(3):
            edges = np.linspace(codes[:, j].min(), codes[:, j].max(), 8)
            z = [min(sum(x >= edge for edge in edges[1:]), 6) for x in codes[:, j]]
            both, ours, theirs = Counter(zip(z, factors[:, k], strict=True)), Counter(z), Counter(factors[:, k])
            told.append(sum(n / 300 * math.log(300 * n / (ours[a] * theirs[b])) for (a, b), n in both.items()))
        assert np.allclose(found.mutual_information[:, k], told)
        entropy = -sum(n / 300 * math.log(n / 300) for n in theirs.values())
        assert found.factor_entropy[k] == pytest.approx(entropy)
        assert found.gaps[k] == pytest.approx((sorted(told)[2] - sorted(told)[1]) / entropy)
        score += found.gaps[k] / 2
    assert found.score == pytest.approx(score)


def test_the_gap_closes_when_two_dimensions_say_the_same(perfect, factors):
    assert mutual_information_gap(np.c_[perfect, -perfect], factors).score == pytest.approx(0, abs=0.01)


def test_fewer_bins_than_values_bound_the_gap(dice):
    """Of 32 values 8 bins of four each can tell log 8 of log 32 nats at the most."""
    factors = np.stack(np.meshgrid(range(32), range(32)), -1).reshape(-1, 2)
    assert mutual_information_gap(1.0 * factors, factors, bins=8).score == pytest.approx(math.log(8) / math.log(32))
    assert mutual_information_gap(1.0 * factors, factors, bins=32).score == pytest.approx(1)


def test_one_dimension_for_two_factors_is_complete_but_not_disentangled(dice):
    factors = dice.integers(0, 4, size=(COUNT, 2))
    both = factors[:, 0] + 4 * factors[:, 1]
    found = dci(np.c_[both, dice.standard_normal(COUNT)], factors)
    assert found.disentanglement < 0.05 and found.completeness > 0.95 and found.informativeness == 1
    assert np.allclose(found.importance.sum(0), 1)


def test_two_dimensions_for_one_factor_are_disentangled_but_not_complete(dice):
    """Two of four that share a factor have 1 - log 2 / log 4 = 1/2, or more where a forest prefers one."""
    factors = dice.integers(0, 4, size=(COUNT, 2))
    found = dci(factors[:, [0, 1, 0, 1]] * [1.0, 2.0, -1.0, -2.0], factors, trees=50)
    assert found.disentanglement == 1 == found.informativeness
    assert 0.5 <= found.completeness < 0.6


def test_informativeness_is_of_examples_not_seen(dice):
    """A forest learns noise by heart: judged on what trained it, noise would score 1."""
    noise, factors = dice.standard_normal((400, 3)), dice.integers(0, 4, size=(400, 2))
    assert dci(noise, factors).informativeness < 0.4


def test_dead_dimensions_have_no_vote(perfect, factors, dice):
    still = np.c_[np.full(COUNT, 0.7), perfect, np.zeros(COUNT), 1e-4 * dice.standard_normal(COUNT)]
    assert factor_vae_score(still, factors).score == 1
    faint = perfect * [1, 1, 1e-3, 1]
    assert factor_vae_score(faint, factors).score < 0.95
    assert factor_vae_score(faint, factors, active=0).score == 1


def test_beta_vae_asks_for_less(perfect, factors):
    """A factor that is nowhere in the code is told by the others varying (Kim & Mnih 2018, section 4)."""
    code = perfect[:, :3]
    assert beta_vae_score(code, factors).score > 0.98
    assert factor_vae_score(code, factors).score < 0.9


def test_scale_does_not_matter_to_the_majority_vote(rotated, factors):
    assert factor_vae_score(rotated * [1, 20, 0.5, 7], factors) == factor_vae_score(rotated, factors)


@pytest.mark.parametrize("measure", [mutual_information_gap, dci, factor_vae_score, beta_vae_score])
@pytest.mark.parametrize(("codes", "factors", "said"), [
    (np.zeros((5, 3)), np.zeros((4, 2), int), r"same N, .* \(5, 3\) and \(4, 2\)"),
    (np.zeros((4, 1)), np.eye(4, 2, dtype=int), r"\(4, 1\)"),
    (np.zeros((4, 3)), np.arange(4)[:, None], r"\(4, 1\)"),
    (np.zeros((4, 3)), np.eye(4, 2), "integer factors, got factors of float64"),
    (np.full((4, 3), np.nan), np.eye(4, 2, dtype=int), "finite codes"),
    (np.zeros((4, 3)), np.array([[0, 1], [1, 1], [2, 1], [3, 1]]), "number 1 has one value only"),
])
def test_nonsense_is_refused(measure, codes, factors, said):
    with pytest.raises(ShapeError, match=said) as error:
        measure(codes, factors)
    assert str(error.value).startswith(measure.__name__)


@pytest.mark.parametrize(("call", "said"), [
    (lambda z, v: mutual_information_gap(z, v, bins=1), "at least 2 bins, got 1"),
    (lambda z, v: dci(z, v, trees=0), "at least 1 trees"),
    (lambda z, v: factor_vae_score(z, v, batch=1), "at least 2 batch"),
    (lambda z, v: beta_vae_score(z, v, points=3), "at least 4 points"),
])
def test_too_few_draws_are_refused(call, said, perfect, factors):
    with pytest.raises(ShapeError, match=said):
        call(perfect, factors)
