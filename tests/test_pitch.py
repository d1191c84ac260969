"""Pitch, voicing and level against sounds whose melody is known; pulses against the sum they stand for."""

import numpy as np
import pytest
import torch

from audiovae.audio.excitation import NOISE, Excitation
from audiovae.audio.pitch import TROUGH, Prosody, lagged, period, prosody, prosody_of_stream, told
from audiovae.errors import AudioError

RATE, HOP = 16000, 160


def sung(pitch, seed=0):
    """A buzz with two formants whose pitch is given at every sample."""
    phase = np.cumsum(pitch) / RATE
    wave = np.zeros(len(pitch))
    for k in range(1, 40):
        hertz = k * pitch
        gain = 1 / (1 + ((hertz - 600) / 200) ** 2) + 0.5 / (1 + ((hertz - 1800) / 300) ** 2)
        wave += np.where(hertz < RATE / 2, gain * np.cos(2 * np.pi * k * phase), 0)
    noise = np.random.default_rng(seed).standard_normal(len(pitch))
    return (0.1 * wave + 0.001 * noise).astype(np.float32)


@pytest.mark.parametrize("low, high", [(75, 110), (110, 180), (180, 260), (250, 420)])
def test_a_gliding_pitch_is_followed(low, high):
    pitch = np.geomspace(low, high, 2 * RATE)
    found = prosody(sung(pitch), RATE, HOP)
    wanted = pitch.reshape(-1, HOP).mean(1)
    assert len(found.pitch) == len(wanted)
    inner = slice(5, -5)
    assert found.voiced[inner].mean() > 0.97
    cents = 1200 * np.abs(np.log2(found.pitch[inner] / wanted[inner]))
    assert np.median(cents) < 10 and np.quantile(cents, 0.99) < 60


def test_the_rumble_of_a_room_between_words_has_no_pitch(monkeypatch):
    """Noise of 60 to 130 Hz, 25 dB under two words, is much like itself a little later."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(3 * RATE))
    hertz = np.fft.rfftfreq(3 * RATE, 1 / RATE)
    rumble = np.fft.irfft(spectrum * ((hertz > 60) & (hertz < 130)))
    words = np.zeros(3 * RATE)
    words[RATE // 2:RATE], words[2 * RATE:5 * RATE // 2] = (sung(np.full(RATE // 2, pitch)) for pitch in (120.0, 110.0))
    noisy = (words + 0.056 * words[RATE // 2:RATE].std() / rumble.std() * rumble).astype(np.float32)
    said = words.reshape(-1, HOP).any(1)
    found = prosody(noisy, RATE, HOP)
    assert found.voiced[said].mean() > 0.95 and found.voiced[~said].mean() < 0.1
    monkeypatch.setattr("audiovae.audio.pitch.ROOM", -100.0)
    assert prosody(noisy, RATE, HOP).voiced[~said].mean() > 0.2, "or this test could not fail"


def test_lagged_differences_are_the_sums_they_stand_for():
    size, lags = 200, 70
    rows = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    difference, alike = (found.double().numpy() for found in lagged(torch.from_numpy(rows), lags))
    for row, normalised, correlation in zip(rows.astype(float), difference, alike, strict=True):
        early = row[:size - lags]
        late = [row[lag:lag + len(early)] for lag in range(lags + 1)]
        sums = np.array([np.square(early - it).sum() for it in late])
        wanted = [1.0] + [sums[lag] / np.mean(sums[1:lag + 1]) for lag in range(1, lags + 1)]
        np.testing.assert_allclose(normalised, wanted, atol=1e-4)
        cosines = [early @ it / np.sqrt((early @ early) * (it @ it)) for it in late]
        np.testing.assert_allclose(correlation, cosines, atol=1e-5)


def test_the_first_low_minimum_is_the_period_and_not_a_lower_one_later():
    lag = torch.arange(101.0)
    first, later = 0.5 * TROUGH + (lag - 30.25) ** 2 / 100, (lag - 60.5) ** 2 / 100
    difference = torch.minimum(torch.minimum(first, later), torch.tensor(1.0))[None]
    assert float(period(difference, 10, 99)) == pytest.approx(30.25, abs=1e-3)
    assert float(period(difference, 40, 99)) == pytest.approx(60.5, abs=1e-3)
    assert float(period(difference + 2 * TROUGH, 10, 99)) == pytest.approx(60.5, abs=1e-3), "none is low: the least"


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert prosody(noise, RATE, HOP).voiced.mean() < 0.05
    silence = prosody(np.zeros(RATE, np.float32), RATE, HOP)
    assert not silence.voiced.any() and (silence.level == -120).all()
    with pytest.raises(AudioError, match="no voiced speech"):
        silence.statistics()


def test_gaps_are_filled_from_both_sides():
    pitch = np.concatenate([np.full(RATE // 2, 120.0), np.full(RATE // 2, 120.0), np.full(RATE // 2, 180.0)])
    wave = sung(pitch)
    wave[RATE // 2:RATE] = 0
    found = prosody(wave, RATE, HOP)
    gap = found.pitch[55:95]
    assert not found.voiced[55:95].any() and (np.diff(gap) >= -1e-3).all() and 118 < gap[0] < gap[-1] < 182


def test_level_is_the_mean_square_of_the_frame():
    wave = np.repeat(np.array([0.5, 0.05], np.float32), HOP * 20)
    level = prosody(wave, RATE, HOP).level
    np.testing.assert_allclose(level[[3, 30]], [20 * np.log10(0.5), 20 * np.log10(0.05)], atol=1e-3)


@pytest.mark.parametrize("cut", [1, 700, 12345])
def test_a_stream_is_the_whole_however_it_is_cut(cut, monkeypatch):
    monkeypatch.setattr("audiovae.audio.pitch.BLOCK", 37)
    wave = torch.from_numpy(sung(np.geomspace(90, 200, RATE + 77)))
    whole, parts = prosody(wave, RATE, HOP), prosody_of_stream(wave.split(cut), RATE, HOP)
    monkeypatch.undo()
    once = prosody(wave, RATE, HOP)
    for found in (parts, once):
        np.testing.assert_array_equal(found.voiced, whole.voiced)
        np.testing.assert_allclose(found.pitch, whole.pitch, rtol=1e-4)
        np.testing.assert_allclose(found.level, whole.level, atol=1e-3)


def test_nothing_is_refused():
    with pytest.raises(AudioError, match="empty"):
        prosody_of_stream([], RATE, HOP)


def test_what_a_decoder_is_told():
    pitch, voiced = torch.tensor([150.0, 300, 0]), torch.tensor([True, True, False])
    wanted = torch.tensor([[0, 2 * np.log(2), 0], [1, 1, 0], [0, 1.5, -1]], dtype=torch.float32)
    torch.testing.assert_close(told(pitch, voiced, torch.tensor([-30.0, 0, -50])), wanted)
    found = Prosody(np.array([150.0], np.float32), np.array([True]), np.array([-30.0], np.float32))
    assert found.padded(3).tensor().shape == (3, 3)


def test_pulses_are_the_sum_of_all_harmonics():
    pitch = np.full(20, 212.3)
    wave = Excitation(pitch, RATE, HOP, phase=0.3)(0, 20)[0].double()
    turns = 0.3 + torch.arange(20 * HOP, dtype=torch.float64) * (212.3 / RATE)
    count = RATE / 2 / 212.3
    wanted = sum((2 * np.pi * k * turns).cos() for k in range(1, int(count) + 1))
    wanted = wanted + (count - int(count)) * (2 * np.pi * (int(count) + 1) * turns).cos()
    torch.testing.assert_close(wave, wanted * np.sqrt(2 / count), atol=2e-2, rtol=0)


def test_any_part_of_an_excitation_is_that_of_the_whole():
    pitch = np.geomspace(80, 300, 1500)  # 15 s: the noise comes round
    excitation = Excitation(pitch, RATE, HOP)
    whole = excitation(0, 1500)
    assert torch.equal(excitation(700, 950), whole[:, 700 * HOP:950 * HOP])
    assert torch.equal(whole[1, :1000], whole[1, NOISE:NOISE + 1000])
    jumps = whole[0].diff().abs()
    border = torch.arange(HOP, 1500 * HOP, HOP) - 1
    assert jumps[border].mean() < 1.1 * jumps.mean()  # frames join without a click


def test_a_recording_without_pitch_still_has_pulses():
    assert Excitation(np.zeros(5), RATE, HOP)(0, 5).isfinite().all()
