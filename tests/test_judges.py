"""The judges of converted speech, against brute force, closed forms, and recordings whose truth is known."""

import itertools
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from audiovae.errors import AudioError, ExtraError, ShapeError
from audiovae.metrics import (
    Verifier,
    centroid,
    equal_error,
    pitch_contour,
    pitch_correlation,
    pitch_difference,
    pitch_error,
    pitch_moved,
    pitch_statistics,
    predicted_mos,
    spoken_words,
    word_error_rate,
    word_errors,
)
from audiovae.metrics.extra import extra

RATE = 16000


def edits_by_recursion(answer: tuple[str, ...], reference: tuple[str, ...]) -> int:
    """All ways to begin, tried: what the table of word_errors saves."""
    if not answer or not reference:
        return len(answer) + len(reference)
    return min(edits_by_recursion(answer[1:], reference) + 1, edits_by_recursion(answer, reference[1:]) + 1,
               edits_by_recursion(answer[1:], reference[1:]) + (answer[0] != reference[0]))


def test_word_errors_are_the_fewest_by_brute_force():
    texts = [words for size in range(4) for words in itertools.product("ab", repeat=size)]
    for answer, reference in itertools.product(texts, texts):
        assert word_errors(" ".join(answer), " ".join(reference)) == edits_by_recursion(answer, reference)


@pytest.mark.parametrize(("answer", "reference", "rate"), [
    ("a b c d", "A, b. C! d?", 0.0), ("", "one two", 1.0), ("x y z one", "one", 3.0), ("two one", "one two", 1.0),
    ("chapter 99", "Chapter ninety-nine", 0.0), ("it's", "it’s", 0.0), ("press 7 or 10", "press seven or ten", 0.0),
])
def test_word_error_rates_known_by_hand(answer, reference, rate):
    assert word_error_rate(answer, reference) == rate


def test_numbers_are_spelt_and_text_without_words_is_refused():
    assert spoken_words("20 13 0 42 1984") == ["twenty", "thirteen", "zero", "forty", "two", "1984"]
    with pytest.raises(ShapeError, match="words in it"):
        word_error_rate("hello", " ... ")


def test_the_equal_error_of_two_normals_is_its_closed_form():
    """Same ~ N(d, 1), different ~ N(0, 1): threshold d / 2, rate Φ(-d / 2); here at the quantiles of both."""
    quantiles = torch.special.ndtri((torch.arange(4000).double() + 0.5) / 4000).numpy()
    for distance in (0.5, 1.0, 3.0):
        found = equal_error(quantiles + distance, quantiles)
        assert found.rate == pytest.approx(0.5 * math.erfc(distance / 2 / math.sqrt(2)), abs=1e-3)
        assert found.threshold == pytest.approx(distance / 2, abs=5e-3)


def test_the_equal_error_is_the_best_of_all_thresholds_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        same, different = rng.integers(3, 12, 9) / 10, rng.integers(0, 9, 14) / 10  # with ties
        found = equal_error(same, different)

        def shares(threshold: float, same=same, different=different) -> tuple[float, float]:
            return float((same < threshold).mean()), float((different >= threshold).mean())

        misses, alarms = shares(found.threshold)
        assert found.rate == pytest.approx((misses + alarms) / 2)
        gaps = [abs(np.subtract(*shares(t))) for t in np.arange(-0.05, 1.3, 0.01)]
        assert abs(misses - alarms) == pytest.approx(min(gaps))


def test_voices_wholly_apart_have_no_error_and_a_threshold_between():
    found = equal_error([0.8, 0.9], [0.1, 0.4])
    assert found.rate == 0 and found.threshold == pytest.approx(0.6)
    with pytest.raises(ShapeError, match="got 2 and 0"):
        equal_error([0.8, 0.9], [])


def test_a_centroid_is_the_unit_vector_with_the_greatest_mean_cosine():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((5, 8)) + 1
    best = centroid(points)
    assert np.linalg.norm(best) == pytest.approx(1)
    others = rng.standard_normal((1000, 8))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert (points @ best).mean() > (points @ others.T).mean(0).max()


def voice(hertz: np.ndarray) -> np.ndarray:
    """Harmonics below 4 kHz on a pitch track (T,)."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, int(4000 / hertz.max()))).astype(np.float32)


def test_a_glide_is_followed_and_its_error_is_the_semitones_it_is_off():
    glide = np.geomspace(100, 200, 2 * RATE)
    found = pitch_contour(0.1 * voice(glide), RATE)
    wanted = glide[np.minimum(np.arange(len(found)) * RATE // 100, len(glide) - 1)]
    assert pitch_error(found, wanted) < 0.1
    for off in (-7.0, 0.5, 12.0):
        assert pitch_error(found, wanted * 2 ** (off / 12)) == pytest.approx(abs(off), abs=0.1)


def test_medians_of_pitch_are_as_far_apart_as_they_were_set_and_a_wild_tenth_moves_them_little():
    rng = np.random.default_rng(0)
    contour = 120 * np.exp(0.1 * rng.standard_normal(1000)) * (rng.random(1000) > 0.3)
    for semitones in (-7.0, 0.0, 3.5):
        other = np.concatenate([contour, contour]) * 2 ** (-semitones / 12)
        assert pitch_difference(contour, other) == pytest.approx(semitones)
    wild = np.where(rng.random(1000) < 0.1, 480 * (contour > 0), contour)
    assert abs(pitch_difference(wild, contour)) < 0.5 < 2 < abs(12 * np.log2(wild[wild > 0].mean() / 120))


def test_melodies_correlate_wherever_they_lie_and_not_when_shuffled():
    rng = np.random.default_rng(0)
    contour = np.exp(4.8 + 0.2 * np.sin(np.arange(300) / 20)) * (rng.random(300) > 0.3)
    assert pitch_correlation(pitch_moved(contour, mean=5.3, deviation=0.1), contour) == pytest.approx(1)
    assert pitch_correlation(np.where(contour > 0, 1e4 / np.maximum(contour, 1), 0), contour) == pytest.approx(-1)
    assert abs(pitch_correlation(rng.permutation(contour), contour)) < 0.3
    noisy = contour * np.exp(0.2 / np.sqrt(2) * rng.standard_normal(300))  # as much noise as melody
    assert pitch_correlation(noisy, contour) == pytest.approx(np.sqrt(0.5), abs=0.1)


def test_a_pitch_that_was_moved_has_the_statistics_asked_for():
    rng = np.random.default_rng(0)
    contour = np.exp(4.8 + 0.2 * rng.standard_normal(300)) * (rng.random(300) > 0.3)
    moved = pitch_moved(contour, mean=5.3, deviation=0.1)
    assert pitch_statistics(moved) == pytest.approx((5.3, 0.1))
    assert ((moved > 0) == (contour > 0)).all()
    assert np.corrcoef(np.log(moved[moved > 0]), np.log(contour[contour > 0]))[0, 1] == pytest.approx(1)
    assert pitch_moved(contour, *pitch_statistics(contour)) == pytest.approx(contour)


def test_what_has_no_pitch_is_refused():
    silent = np.zeros(100)
    for act in (lambda: pitch_statistics(silent), lambda: pitch_error(silent, silent + 100),
                lambda: pitch_difference(silent + 100, silent), lambda: pitch_correlation(silent, silent + 100),
                lambda: pitch_correlation(silent + 100, silent + 100)):
        with pytest.raises(AudioError, match="pitch"):
            act()
    with pytest.raises(ShapeError, match="100 and 200 frames"):
        pitch_error(silent, np.zeros(200))


def test_a_package_that_is_not_there_is_named_with_its_extra():
    with pytest.raises(ExtraError, match=r"pip install 'audiovae\[judges\]'"):
        extra("no_such_package", "judges")


@pytest.mark.skipif(not find_spec("resemblyzer"), reason="comes with the extra judges")
def test_the_verifier_does_not_mind_the_level_and_refuses_silence():
    judge = Verifier()
    speech = voice(np.full(2 * RATE, 120.0)) * np.clip(np.sin(np.arange(2 * RATE) * 2 * np.pi * 3 / RATE), 0, 1)
    loud, soft = (judge.embed((gain * speech).astype(np.float32), RATE) for gain in (0.1, 0.01))
    assert loud @ soft > 0.95 and np.linalg.norm(loud) == pytest.approx(1, abs=1e-5)
    with pytest.raises(AudioError, match="no speech"):
        judge.embed(np.zeros(RATE, np.float32), RATE)


@pytest.mark.skipif(not find_spec("speechmos"), reason="comes with the extra judges")
def test_the_predicted_opinion_of_noise_is_worse_than_of_less_noise():
    noise = torch.randn(2 * RATE).numpy()
    speech = 0.1 * voice(np.geomspace(100, 140, 2 * RATE))
    assert predicted_mos(speech + 0.2 * noise, RATE) < predicted_mos(speech, RATE)
    with pytest.raises(AudioError, match="silent"):
        predicted_mos(np.zeros(RATE, np.float32), RATE)
