"""Varied crops are what one says they are: each part against its definition, and drawn again the same."""

from dataclasses import replace

import numpy as np
import pytest

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.corpus import Corpus
from audiovae.audio.crops import CropSampler
from audiovae.audio.example import example_corpus

RATE, SAMPLES = 16_000, 16_000
NOTHING = AugmentConfig(share=1.0, gain=0.0, equalizer=0.0, narrow=0.0, room=0.0, speed=0.0)


def varied(config: AugmentConfig, x: np.ndarray, speed: tuple[int, int] = (1, 1), seed: int = 0) -> np.ndarray:
    return config.build(RATE)(x.astype(np.float32), SAMPLES, speed, np.random.default_rng(seed))


def tone(hertz: float, samples: int = SAMPLES) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


def loudest_hertz(y: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(y * np.hanning(len(y)))).argmax()) * RATE / len(y)


def test_with_every_part_at_zero_a_crop_stays_itself():
    x = 0.1 * np.random.default_rng(1).standard_normal(SAMPLES)
    assert np.abs(varied(NOTHING, x) - x).max() < 1e-6


@pytest.mark.parametrize("speed", [(5, 6), (15, 16), (6, 5)])
def test_speed_moves_a_tone_by_its_fraction_and_keeps_its_level(speed):
    up, down = speed
    y = varied(NOTHING, tone(600, -(-SAMPLES * up // down)), speed)
    assert loudest_hertz(y) == pytest.approx(600 * up / down, abs=1.0)
    assert np.abs(y[1000:-1000]).max() == pytest.approx(0.3, rel=0.01)


def test_a_room_is_a_convolution_with_its_impulse_response():
    x = np.zeros(SAMPLES)
    x[0] = 0.5
    impulse = varied(replace(NOTHING, room=1.0), x) / 0.5
    speech = 0.05 * np.random.default_rng(2).standard_normal(SAMPLES)
    truth = np.convolve(speech, impulse)[:SAMPLES]
    y = varied(replace(NOTHING, room=1.0), speech)
    assert impulse[0] == pytest.approx(1, abs=1e-5) and np.abs(impulse[1:100]).max() > 1e-3
    assert np.abs(y - truth).max() < 1e-4


def test_a_narrow_band_ends_and_what_is_below_stays():
    noise = 0.05 * np.random.default_rng(3).standard_normal(SAMPLES)
    power, kept = (np.abs(np.fft.rfft(y)) ** 2 for y in (noise, varied(replace(NOTHING, narrow=1.0), noise, seed=5)))
    ratio = kept.reshape(-1)[:8000].reshape(80, 100).sum(1) / power[:8000].reshape(80, 100).sum(1)  # by 100 Hz
    assert ratio[:25] == pytest.approx(1, abs=0.01) and ratio[-1] < 0.01


def test_level_moves_within_what_is_allowed_and_never_clips():
    x, config = tone(300), replace(NOTHING, gain=12.0)
    peaks = [np.abs(varied(config, x, seed=s)).max() for s in range(40)]
    assert min(peaks) >= 0.3 * 10 ** (-12 / 20) - 1e-3 and max(peaks) <= 0.99 + 1e-6
    assert max(peaks) / min(peaks) > 4


def test_batches_repeat_and_leave_the_share_alone():
    corpus = Corpus.open(example_corpus())
    plain = CropSampler(corpus, "train", 4000, 64, seed=0, augment=AugmentConfig(share=0.0)).batch(3).x
    once, again, later = (CropSampler(corpus, "train", 4000, 64, seed=0, augment=AugmentConfig(share=0.5)).batch(s).x
                          for s in (3, 3, 4))
    assert once.equal(again) and not once.equal(later)
    assert plain.isfinite().all() and once.isfinite().all() and once.abs().max() <= 1
