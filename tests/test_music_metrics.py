"""Measures of music against closed truths, and of code sequences against brute force and known sources."""

import re

import numpy as np
import pytest
import torch

from audiovae.errors import AudioError, ConfigError, ShapeError
from audiovae.metrics import (
    Copy,
    SequenceClassifier,
    chroma,
    chroma_similarity,
    longest_copy,
    rhythm_similarity,
    self_similarity,
    timbre_distance,
)
from audiovae.report import draw_self_similarity

RATE = 16_000
TRIAD = (261.63, 329.63, 392.0)


def chord(semitones: int = 0, seconds: float = 1.0, tones=TRIAD, partials: int = 4) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    hertz = [tone * 2 ** (semitones / 12) * k for tone in tones for k in range(1, partials + 1)]
    return 0.05 * sum((2 * torch.pi * h * time).sin() / (1 + i % partials) for i, h in enumerate(hertz))


def song(semitones: int = 0) -> torch.Tensor:
    """Four chords, with a stroke at the beginning of each."""
    wave = torch.cat([chord(semitones + step) for step in (0, 5, 7, 0)])
    wave[::RATE] += 0.5
    return wave


@pytest.mark.parametrize("semitones", range(1, 12))
def test_a_transposed_chord_is_rotated_chroma(semitones):
    low, high = (chroma(chord(s, partials=1), RATE)[:, 4:-4].mean(axis=1) for s in (0, semitones))
    assert set(np.argsort(low)[-3:]) == {0, 4, 7}, "C, E, G"
    assert set(np.argsort(high)[-3:]) == {(tone + semitones) % 12 for tone in (0, 4, 7)}
    assert np.abs(np.roll(low, semitones) - high).max() < 0.35


def test_what_is_the_same_is_one_and_what_is_changed_is_told_apart():
    wave = song()
    assert chroma_similarity(wave, wave, RATE) == pytest.approx(1, abs=1e-6)
    assert rhythm_similarity(wave, wave, RATE) == pytest.approx(1, abs=1e-6)
    assert timbre_distance(wave, wave, RATE) == 0
    quiet = 0.25 * wave
    assert chroma_similarity(quiet, wave, RATE) > 0.999
    assert rhythm_similarity(quiet, wave, RATE) > 0.999
    assert timbre_distance(quiet, wave, RATE) < 0.1, "a level is no timbre"
    assert chroma_similarity(song(6), wave, RATE) < 0.6 < chroma_similarity(song(12), wave, RATE)


def test_harmony_rhythm_and_timbre_are_told_one_by_one():
    wave = song()
    late = torch.cat([wave[:RATE // 2], wave[:-RATE // 2]])
    assert rhythm_similarity(late, wave, RATE) < 0.3
    dull = torch.cat([chord(step, partials=1) for step in (0, 5, 7, 0)])
    bright = torch.cat([chord(step, partials=8) for step in (0, 5, 7, 0)])
    assert timbre_distance(bright, dull, RATE) > 3 * timbre_distance(1.2 * dull, dull, RATE) + 3
    assert chroma_similarity(bright, dull, RATE) > 0.8


def test_noise_has_no_rhythm_in_common():
    one, two = torch.randn(2, 4 * RATE, generator=torch.Generator().manual_seed(0))
    assert abs(rhythm_similarity(one, two, RATE)) < 0.2


@pytest.mark.parametrize("measure", [chroma_similarity, rhythm_similarity, timbre_distance])
def test_pairs_that_cannot_be_compared_are_named(measure):
    with pytest.raises(ShapeError, match=f"{measure.__name__} wants two recordings"):
        measure(torch.ones(9000), torch.ones(9001), RATE)
    with pytest.raises(AudioError, match="silent"):
        measure(torch.ones(9000), torch.zeros(9000), RATE)
    with pytest.raises(ShapeError, match=r"with T >= 8192, got \(4000,\)"):
        measure(torch.ones(4000), torch.ones(4000), RATE)
    with pytest.raises(ShapeError, match="finite"):
        measure(torch.full((9000,), torch.nan), torch.ones(9000), RATE)


def test_a_piece_is_like_itself_where_it_repeats():
    """A B A: the first part is like the last and unlike the middle; the picture is as long as the piece."""
    b = chord(6, 4.0, tones=(261.63, 311.13))
    matrix = self_similarity(torch.cat([chord(seconds=4), b, chord(seconds=4)]), RATE, size=12)
    assert matrix.shape == (12, 12) and np.allclose(matrix, matrix.T) and np.allclose(matrix.diagonal(), 1)
    assert matrix[1, 10] > 0.9 and matrix[1, 6] < 0
    axes = draw_self_similarity(matrix, seconds=12.0).axes[0]
    assert axes.get_xlim() == (0, 12.0)
    with pytest.raises(AudioError):
        self_similarity(torch.zeros(RATE), RATE)
    with pytest.raises(ShapeError):
        draw_self_similarity(np.zeros((2, 3)), 1.0)


def brute(sequence: np.ndarray, training: list[np.ndarray]) -> int:
    """The length of the longest common run, by trying every pair of places."""
    best = 0
    for other in training:
        for i in range(len(sequence)):
            for j in range(len(other)):
                n = 0
                while i + n < len(sequence) and j + n < len(other) and sequence[i + n] == other[j + n]:
                    n += 1
                best = max(best, n)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_the_longest_copy_is_that_of_brute_force(seed):
    dice = np.random.default_rng(seed)
    kinds = int(dice.integers(1, 5))
    training = [dice.integers(kinds, size=dice.integers(0, 40)) for _ in range(dice.integers(0, 4))]
    sequence = dice.integers(kinds, size=dice.integers(1, 40))
    found = longest_copy(sequence, training)
    assert found.length == brute(sequence, training)
    if found.length:
        run = sequence[found.start:found.start + found.length]
        assert np.array_equal(run, training[found.source][found.place:found.place + found.length])
        assert len(run) == found.length
    else:
        assert found == Copy(0, -1, -1, -1)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 1000])
def test_a_planted_run_is_found_and_no_run_goes_across_two_songs(length):
    dice = np.random.default_rng(length)
    training = [dice.integers(0, 1 << 40, size=3000) for _ in range(3)]
    sequence = dice.integers(1 << 41, 1 << 42, size=2000)
    sequence[500:500 + length] = training[1][700:700 + length]
    assert longest_copy(sequence, training) == Copy(length, 500, 1, 700)
    across = np.concatenate([training[0][-30:], training[1][:20]])
    assert longest_copy(across, training) == Copy(30, 0, 0, 2970)


def test_a_step_of_several_codes_is_copied_as_a_whole():
    training = [np.array([[1, 2, 3, 4], [5, 6, 7, 8]])]
    assert longest_copy(np.array([[2, 3, 4], [6, 7, 0]]), training) == Copy(2, 0, 0, 1)
    with pytest.raises(ShapeError, match=re.escape("integers (L,) or (Q=1, L)")):
        longest_copy(np.array([1, 2]), training)


def chains(moves: np.ndarray, count: int, dice: np.random.Generator, length: int = 150) -> list[np.ndarray]:
    """Sequences by a transition matrix."""
    found = []
    for _ in range(count):
        codes = [int(dice.integers(len(moves)))]
        while len(codes) < length:
            codes.append(int(dice.choice(len(moves), p=moves[codes[-1]])))
        found.append(np.array(codes))
    return found


def test_genres_that_differ_in_pairs_alone_are_told_by_pairs_alone():
    """Two sources, both uniform over codes, one going up and one going down; codes alone are a coin."""
    dice = np.random.default_rng(0)
    step = 0.6 * np.roll(np.eye(6), 1, axis=1) + 0.4 / 6
    data = {name: chains(moves, 40, dice) for name, moves in (("up", step), ("down", step.T))}
    train = [(codes, name) for name, found in data.items() for codes in found[:20]]
    test = [(codes, name) for name, found in data.items() for codes in found[20:]]
    scores = [SequenceClassifier((6,), grams).fit(*zip(*train, strict=True)).accuracy(*zip(*test, strict=True))
              for grams in (1, 2)]
    assert scores[0] < 0.75 and scores[1] == 1.0


def test_the_classifier_reads_each_quantizer_by_itself_and_passes_over_what_it_never_saw():
    one, two = np.array([[0, 0, 0], [1, 1, 1]]), np.array([[1, 1, 1], [0, 0, 0]])
    judge = SequenceClassifier((2, 3)).fit([one, two, one, two], ["a", "b", "a", "b"])
    assert judge.predict([two, one, np.array([[0, 0], [2, 1]])]) == ["b", "a", "a"]
    with pytest.raises(ShapeError, match="below"):
        judge.predict([np.array([[0, 2], [0, 0]])])
    with pytest.raises(ConfigError, match="call fit first"):
        SequenceClassifier((2,)).predict([np.array([0])])
    with pytest.raises(ConfigError, match="two of them"):
        SequenceClassifier((2,)).fit([np.array([0])], ["a"])
