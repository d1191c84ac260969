"""Information against closed forms, loops, quadrature and torch; its four properties; the command ``audiovae kl``."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad
from torch.distributions import Categorical, MultivariateNormal, kl_divergence
from torch.distributions import Normal as TorchNormal

from audiovae.cli import main
from audiovae.errors import ConfigError, ShapeError
from audiovae.information import (
    DiagonalNormal,
    Discrete,
    Normal,
    cross_entropy,
    entropy,
    estimate_jensen_shannon,
    estimate_kl,
    gaussian_terms,
    jensen_shannon,
    kl,
    mutual_information,
)

seeds = st.integers(0, 10_000)
sizes = st.integers(1, 5)


def discrete(seed, size):
    """Chances of every order of magnitude; now and then a 0."""
    dice = np.random.default_rng(seed)
    p = np.exp(3 * dice.standard_normal(size))
    p[dice.integers(size)] *= dice.integers(2) if size > 1 else 1
    return Discrete(p / p.sum())


def diagonal(seed, size):
    dice = np.random.default_rng(seed)
    return DiagonalNormal(2 * dice.standard_normal(size), np.exp(dice.standard_normal(size)))


def full(seed, size):
    dice = np.random.default_rng(seed)
    factor = dice.standard_normal((size, size + 2))
    return Normal(2 * dice.standard_normal(size), factor @ factor.T / size)


KINDS = [discrete, diagonal, full]


def joined(p, q):
    """The distribution of a pair whose parts are independent."""
    if isinstance(p, Discrete):
        return Discrete(np.outer(p.p, q.p).ravel())
    if isinstance(p, DiagonalNormal):
        return DiagonalNormal([*p.mean, *q.mean], [*p.std, *q.std])
    a, b = len(p.mean), len(q.mean)
    covariance = np.block([[p.covariance, np.zeros((a, b))], [np.zeros((b, a)), q.covariance]])
    return Normal([*p.mean, *q.mean], covariance)


def moved(p, seed):
    """What p becomes under an invertible map that ``seed`` picks: outcomes are renamed, vectors mapped affinely."""
    dice = np.random.default_rng(seed)
    if isinstance(p, Discrete):
        return Discrete(p.p[dice.permutation(len(p.p))])
    size = len(p.mean)
    shift, scale = dice.standard_normal(size), np.exp(dice.standard_normal(size)) * dice.choice([-1, 1], size)
    if isinstance(p, DiagonalNormal):
        return DiagonalNormal(scale * p.mean + shift, np.abs(scale) * p.std)
    rotation = np.linalg.qr(dice.standard_normal((size, size)))[0] * scale
    return Normal(rotation @ p.mean + shift, rotation @ p.covariance @ rotation.T)


@pytest.mark.parametrize("make", KINDS)
@given(seeds, seeds, sizes)
@settings(max_examples=60, deadline=None)
def test_never_negative_and_zero_only_for_equals(make, one, other, size):
    p, q = make(one, size), make(other, size)
    assert kl(p, p) == pytest.approx(0, abs=1e-12)
    assert kl(p, q) >= 0
    if make is discrete:
        assert kl(p, q) >= 0.5 * np.abs(p.p - q.p).sum() ** 2  # Pinsker's inequality: 0 wants equal chances
    elif one != other:
        assert kl(p, q) > 1e-9


@pytest.mark.parametrize(("p", "q", "forth", "back"), [
    (Discrete([0.9, 0.1]), Discrete([0.5, 0.5]), 0.368064, 0.510826),
    (DiagonalNormal(0, 1), DiagonalNormal(0, 2), 0.318147, 0.806853),
    (DiagonalNormal(0, 1), DiagonalNormal(0, math.sqrt(2)), 0.096574, 0.153426),
    (Normal([0], [[1]]), Normal([0], [[4]]), 0.318147, 0.806853),
])
def test_the_direction_matters(p, q, forth, back):
    """The normals are the often misprinted pair; 0.443 and 0.693 are neither, whatever "2" means."""
    assert kl(p, q) == pytest.approx(forth, abs=1e-6)
    assert kl(q, p) == pytest.approx(back, abs=1e-6)


def test_where_the_misprints_come_from():
    terms = gaussian_terms(DiagonalNormal(0, 1), DiagonalNormal(0, 2))
    of_variance_2 = gaussian_terms(DiagonalNormal(0, 1), DiagonalNormal(0, math.sqrt(2)))
    assert terms.log_ratio + of_variance_2.variance_ratio == pytest.approx(0.443, abs=5e-4)
    assert terms.log_ratio == pytest.approx(0.693, abs=5e-4)


@given(seeds, seeds, sizes)
@settings(max_examples=60, deadline=None)
def test_symmetric_where_the_scales_are_equal(one, other, size):
    """Then, and in general only then, direction does not matter: the mean shift is all there is."""
    p, scale = diagonal(one, size), diagonal(other, size)
    a, b = DiagonalNormal(p.mean, scale.std), DiagonalNormal(scale.mean, scale.std)
    assert kl(a, b) == pytest.approx(kl(b, a)) == pytest.approx((((p.mean - scale.mean) / scale.std) ** 2).sum() / 2)
    if one != other:
        assert abs(kl(p, scale) - kl(scale, p)) > 1e-9


@pytest.mark.parametrize("make", KINDS)
@given(seeds, seeds, seeds, sizes)
@settings(max_examples=60, deadline=None)
def test_no_invertible_map_changes_it(make, one, other, way, size):
    p, q = make(one, size), make(other, size)
    assert kl(moved(p, way), moved(q, way)) == pytest.approx(kl(p, q), rel=1e-6, abs=1e-9)
    if make is diagonal:  # while the entropy of a density does change, with the unit
        assert entropy(DiagonalNormal(p.mean, 3 * p.std)) - entropy(p) == pytest.approx(size * math.log(3))


@pytest.mark.parametrize("make", KINDS)
@given(seeds, seeds, sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_independent_parts_add_up(make, one, other, size, more):
    p, q, r, s = make(one, size), make(other, size), make(one + 1, more), make(other + 1, more)
    assert kl(joined(p, r), joined(q, s)) == pytest.approx(kl(p, q) + kl(r, s), rel=1e-9, abs=1e-9)
    assert entropy(joined(p, r)) == pytest.approx(entropy(p) + entropy(r), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("make", KINDS)
@given(seeds, seeds, sizes)
@settings(max_examples=30, deadline=None)
def test_kl_is_cross_entropy_less_entropy(make, one, other, size):
    p, q = make(one, size), make(other, size)
    if math.isinf(kl(p, q)):
        assert math.isinf(cross_entropy(p, q))
    else:
        assert cross_entropy(p, q) - entropy(p) == pytest.approx(kl(p, q), rel=1e-6, abs=1e-9)
    assert cross_entropy(p, p) == pytest.approx(entropy(p))
    assert kl(p, q, "bits") * math.log(2) == pytest.approx(kl(p, q), rel=1e-12)


@given(seeds, seeds, sizes)
@settings(max_examples=30, deadline=None)
def test_agrees_with_torch(one, other, size):
    p, q = full(one, size), full(other, size)
    a, b = (MultivariateNormal(torch.tensor(d.mean), torch.tensor(d.covariance)) for d in (p, q))
    assert kl(p, q) == pytest.approx(float(kl_divergence(a, b)), rel=1e-6)
    assert entropy(p) == pytest.approx(float(a.entropy()), rel=1e-6)
    x = np.random.default_rng(one).standard_normal((3, 2, size))
    assert np.allclose(p.log_prob(x), a.log_prob(torch.tensor(x)), rtol=1e-6)

    p, q = diagonal(one, size), diagonal(other, size)
    a, b = (TorchNormal(torch.tensor(d.mean), torch.tensor(d.std)) for d in (p, q))
    assert kl(p, q) == pytest.approx(float(kl_divergence(a, b).sum()), rel=1e-9)
    assert entropy(p) == pytest.approx(float(a.entropy().sum()), rel=1e-9)
    assert np.allclose(p.log_prob(x), a.log_prob(torch.tensor(x)).sum(-1))
    as_full = [Normal(d.mean, np.diag(d.std**2)) for d in (p, q)]
    assert kl(p, as_full[1]) == pytest.approx(kl(p, q), rel=1e-9) == kl(as_full[0], q)

    p, q = (Discrete(np.random.default_rng(seed).dirichlet(np.ones(size + 1))) for seed in (one, other))
    a, b = (Categorical(torch.tensor(d.p)) for d in (p, q))
    assert kl(p, q) == pytest.approx(float(kl_divergence(a, b)), abs=1e-9)
    assert entropy(p) == pytest.approx(float(a.entropy()), abs=1e-9)


def test_agrees_with_quadrature():
    """In one dimension and in two with correlation, from the densities alone."""
    p, q = DiagonalNormal(6, 4), DiagonalNormal(0, 1)
    whole, _ = quad(lambda x: math.exp(p.log_prob([x])) * (p.log_prob([x]) - q.log_prob([x])), -60, 70, points=[6])
    assert kl(p, q) == pytest.approx(whole, rel=1e-8) == pytest.approx(24.113706, abs=1e-6)
    itself, _ = quad(lambda x: -math.exp(p.log_prob([x])) * p.log_prob([x]), -60, 70, points=[6])
    assert entropy(p) == pytest.approx(itself, rel=1e-8)

    p, q = Normal([0.5, -1], [[1, 0.6], [0.6, 2]]), Normal([0, 0], [[1.5, -0.2], [-0.2, 1]])
    whole, _ = dblquad(lambda y, x: math.exp(p.log_prob([x, y])) * (p.log_prob([x, y]) - q.log_prob([x, y])),
                       -8, 9, -13, 11, epsabs=1e-6, epsrel=1e-6)
    assert kl(p, q) == pytest.approx(whole, rel=1e-5)


def test_discrete_by_a_loop():
    p, q = [0.5, 0.0, 0.25, 0.25], [0.25, 0.25, 0.4, 0.1]
    assert entropy(Discrete(p), "bits") == pytest.approx(1.5)
    assert kl(Discrete(p), Discrete(q)) == pytest.approx(
        sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a))
    assert kl(Discrete(q), Discrete(p)) == math.inf == cross_entropy(Discrete(q), Discrete(p))


def test_a_mean_code_length_is_the_cross_entropy():
    """A code made for q, used on data of p, is longer by KL(p || q) bits: lengths of a prefix code, counted."""
    lengths, p = [1, 2, 3, 3], [0.4, 0.1, 0.3, 0.2]
    q = Discrete([2.0**-n for n in lengths])
    mean = sum(a * n for a, n in zip(p, lengths, strict=True))
    assert cross_entropy(Discrete(p), q, "bits") == pytest.approx(mean)
    assert mean - entropy(Discrete(p), "bits") == pytest.approx(kl(Discrete(p), q, "bits"))


@given(seeds, seeds, sizes)
@settings(max_examples=60, deadline=None)
def test_jensen_shannon_is_symmetric_and_bounded(one, other, size):
    p, q = discrete(one, size), discrete(other, size)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert -1e-12 <= jensen_shannon(p, q) <= math.log(2) + 1e-12
    mixture = Discrete((p.p + q.p) / 2)
    assert jensen_shannon(p, q) == pytest.approx(entropy(mixture) - (entropy(p) + entropy(q)) / 2, abs=1e-12)


def test_jensen_shannon_is_what_a_drawn_coin_tells():
    """The mutual information of an outcome and of which of the two it was drawn from."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.0, 0.9])
    assert jensen_shannon(Discrete(p), Discrete(q)) == pytest.approx(mutual_information(np.stack([p, q]) / 2))
    assert mutual_information(np.outer(p, q)) == pytest.approx(0, abs=1e-12)
    assert mutual_information(np.diag(p)) == pytest.approx(entropy(Discrete(p)))


def test_jensen_shannon_of_normals():
    """Within 4 standard errors of quadrature; symmetric; 0 for equals; 1 bit for what never overlaps."""
    p, q = DiagonalNormal(0, 1), DiagonalNormal(1.5, 2)

    def integrand(x):
        a, b = p.log_prob([x]), q.log_prob([x])
        m = np.logaddexp(a, b) - math.log(2)
        return (math.exp(a) * (a - m) + math.exp(b) * (b - m)) / 2

    truth, _ = quad(integrand, -30, 30, points=[0])
    for seed in range(3):
        for one, other in ((p, q), (q, p)):
            found = estimate_jensen_shannon(one, other, np.random.default_rng(seed), count=20_000)
            assert abs(found.value - truth) < 4 * found.standard_error < 0.02
    equal = estimate_jensen_shannon(full(1, 3), full(1, 3), np.random.default_rng(0))
    assert equal.value == pytest.approx(0, abs=1e-12)
    apart = estimate_jensen_shannon(full(1, 3), Normal(full(1, 3).mean + 1000, np.eye(3)), np.random.default_rng(0))
    assert apart.value == pytest.approx(math.log(2))


@pytest.mark.parametrize("make", [diagonal, full])
def test_monte_carlo_is_within_its_error(make):
    for seed in range(6):
        q = make(seed, 3)
        p = type(q)(*(0.3 * q.mean, 0.8 * (q.std if make is diagonal else q.covariance)))
        found = estimate_kl(p.sample, p.log_prob, q.log_prob, np.random.default_rng(seed), count=20_000)
        assert abs(found.value - kl(p, q)) < 4 * found.standard_error
        bits = estimate_kl(p.sample, p.log_prob, q.log_prob, np.random.default_rng(seed), count=20_000, unit="bits")
        assert bits.value * math.log(2) == pytest.approx(found.value)
        assert bits.standard_error * math.log(2) == pytest.approx(found.standard_error)


def test_the_standard_error_is_the_spread_of_repeats():
    p, q = DiagonalNormal(0, 1), DiagonalNormal(1, 1)
    normal = [estimate_kl(p.sample, p.log_prob, q.log_prob, np.random.default_rng(s), count=200) for s in range(400)]
    mixed = [estimate_jensen_shannon(p, q, np.random.default_rng(s), count=200) for s in range(400)]
    for found in (normal, mixed):
        spread = np.std([f.value for f in found], ddof=1)
        assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.15)  # 4 / sqrt(2 * 400)


def test_monte_carlo_takes_densities_and_draws_of_torch():
    p, q = TorchNormal(0.0, 1.0), TorchNormal(1.0, 2.0)
    found = estimate_kl(lambda count, dice: torch.randn(count, generator=dice), p.log_prob, q.log_prob,
                        torch.Generator().manual_seed(3))
    assert abs(found.value - float(kl_divergence(p, q))) < 4 * found.standard_error


def test_monte_carlo_where_support_is_missing():
    """A draw of p that q rules out makes the estimate infinite, with an error that is not known."""
    found = estimate_kl(lambda count, dice: dice.uniform(0, 2, count), lambda x: np.full(len(x), -math.log(2)),
                        lambda x: np.where(x < 1, 0.0, -np.inf), np.random.default_rng(0))
    assert found.value == math.inf and math.isnan(found.standard_error)
    with pytest.raises(ShapeError, match="draws are of p"):
        estimate_kl(lambda count, dice: dice.uniform(0, 2, count), lambda x: np.where(x < 1, 0.0, -np.inf),
                    lambda x: np.zeros(len(x)), np.random.default_rng(0))


@pytest.mark.parametrize(("call", "said"), [
    (lambda: Discrete([0.5, 0.6]), "sum to 1, .* 1.1"),
    (lambda: Discrete([1.5, -0.5]), "at least 0"),
    (lambda: Discrete([]), r"got \(0,\)"),
    (lambda: Discrete([[0.5, 0.5]]), r"got \(1, 2\)"),
    (lambda: Discrete([math.nan, 1]), "finite"),
    (lambda: DiagonalNormal([0, 0], [1]), "each of 2 means, got 1"),
    (lambda: DiagonalNormal(0, 0), "above 0"),
    (lambda: Normal([0, 0], [1, 1]), "covariance"),
    (lambda: Normal([0, 0], [[1]]), r"\(2, 2\), got \(1, 1\)"),
    (lambda: Normal([0, 0], [[1, 2], [2, 1]]), "positive definite .* -1"),
    (lambda: Normal([0, 0], [[0, 0], [0, 0]]), "positive definite"),
    (lambda: Normal([0, 0], [[1, 0.5], [0, 1]]), "symmetric"),
    (lambda: kl(Discrete([1]), Discrete([0.5, 0.5])), "1 outcomes and one of 2"),
    (lambda: kl(Discrete([1]), DiagonalNormal(0, 1)), "outcomes .* dimensions"),
    (lambda: cross_entropy(diagonal(0, 2), full(0, 3)), "2 dimensions and one of 3"),
    (lambda: diagonal(0, 2).log_prob(np.zeros((4, 3))), r"D=2\), got \(4, 3\)"),
    (lambda: mutual_information([[0.5, 0.2]]), "sum to 1"),
    (lambda: estimate_kl(diagonal(0, 2).sample, lambda x: x, lambda x: x, np.random.default_rng(0)), "sum over"),
    (lambda: estimate_kl(diagonal(0, 2).sample, lambda x: x, lambda x: x, np.random.default_rng(0), count=1),
     "2 draws"),
])
def test_nonsense_is_refused_in_one_line(call, said):
    with pytest.raises(ShapeError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ConfigError, match=r"no unit 'bit' .* nearest: bits"):
        kl(Discrete([1]), Discrete([1]), unit="bit")


def test_the_command_tells_the_terms_and_checks_them(capsys):
    assert main(["kl", "N(6,4^2)", "N(0,1)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "KL(N(6,4^2) || N(0,1)) = 24.11 nats = 34.79 bits"
    values = {line[2:28].strip(): float(line.split()[-2]) for line in lines[2:7]}
    assert values["log ratio of scales"] == pytest.approx(-math.log(4), abs=1e-5)
    assert (values["variance ratio"], values["mean shift"]) == (7.5, 18)
    assert values["sum"] == values["by numerical integration"] == pytest.approx(24.1137, abs=1e-4)
    assert lines[-1].endswith("2.043 nats.")


def test_the_command_takes_vectors_chances_and_bits(capsys):
    assert main(["kl", "N([0, 1], [1, 2^2])", "N([0,0],[1,1])", "--unit", "bits"]) == 0
    expected = kl(DiagonalNormal([0, 1], [1, 2]), DiagonalNormal([0, 0], [1, 1]), "bits")
    text = capsys.readouterr().out
    assert f"= {expected:.4g} bits = " in text and text.count(f"{expected:.6g} bits") == 2
    assert main(["kl", "[0.2,0.8]", "[0.5,0.5]"]) == 0
    assert "= 0.1927 nats = 0.2781 bits" in capsys.readouterr().out
    assert main(["kl", "[0.2,0.8]", "[1,0]"]) == 0
    assert "inf nats" in (text := capsys.readouterr().out) and "rules out" in text


@pytest.mark.parametrize("text", ["", "x", "N(1)", "N(0,-1)", "N(0,0)", "N([0,1],[1])", "N(a,1)", "N(0,[1)", "[]",
                                  "[1,]", "[0.5,0.6]", "N(0,1e999)", "N([0,1],[1,1])", "[0.2,0.8]", "N(0,1^3)",
                                  "N(0,-1^2)", "N([[0]],[1])"])
def test_the_command_refuses_nonsense(text, capsys):
    assert main(["kl", text, "N(0,1)"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("audiovae: kl: ") and said.count("\n") == 1
