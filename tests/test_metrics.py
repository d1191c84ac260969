"""Measures against closed forms and against plain numpy, one frame at a time."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy import stats

from audiovae import metrics
from audiovae.errors import AudioError, ExtraError, ShapeError
from audiovae.metrics import (
    Interval,
    Stopwatch,
    code_counts,
    cost,
    log_mel_distance,
    mean_interval,
    perplexity,
    pesq_wb,
    si_sdr,
    spectral_convergence,
    stft_distance,
    stoi,
    usage,
)

PAIRWISE = [si_sdr, stft_distance, spectral_convergence,
            lambda x, y: log_mel_distance(x, y, 16000), lambda x, y: pesq_wb(x, y, 16000),
            lambda x, y: stoi(x, y, 16000)]
NAMES = ["si_sdr", "stft_distance", "spectral_convergence", "log_mel_distance", "pesq_wb", "stoi"]


def voice(seconds: float = 1.5, rate: int = 16000, pitch: float = 140.0) -> torch.Tensor:
    """A harmonic tone that comes and goes four times a second."""
    t = torch.arange(round(seconds * rate)) / rate
    tone = sum((2 * math.pi * pitch * k * t).sin() / k for k in range(1, 20))
    return 0.2 * tone * (0.5 - 0.5 * (2 * math.pi * 4 * t).cos())


def magnitudes(x: np.ndarray, n_fft: int, hop: int, size: int) -> np.ndarray:
    """|X| frame by frame: each window is centred on its hop, zeros outside the waveform."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = []
    for start in range(0, len(x), hop):
        first = start + hop // 2 - size // 2
        frame = np.array([x[i] if 0 <= i < len(x) else 0.0 for i in range(first, first + size)])
        frames.append(np.abs(np.fft.rfft(frame * window, n_fft)))
    return np.array(frames)


@pytest.mark.parametrize("ratio", [-20.0, 0.0, 13.0, 60.0])
def test_si_sdr_of_a_known_ratio(ratio):
    """Noise at a right angle to the signal and of known energy: the ratio is what was put in."""
    s, n = torch.randn(2, 4000, dtype=torch.float64)
    s, n = s - s.mean(), n - n.mean()
    n -= (n @ s) / (s @ s) * s
    n *= s.norm() / n.norm() * 10 ** (-ratio / 20)
    assert si_sdr(s + n, s).item() == pytest.approx(ratio, abs=1e-6)
    for scale, offset in ((0.01, 0.0), (-5.0, 0.3), (2.0, -1.0)):
        assert si_sdr(scale * (s + n) + offset, s).item() == pytest.approx(ratio, abs=1e-6)
    assert si_sdr(s + n, 7 * s - 2).item() == pytest.approx(ratio, abs=1e-6)


def test_si_sdr_at_its_ends():
    s = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert si_sdr(2 * s, s).item() == math.inf
    assert si_sdr(torch.tensor([1.0, 1.0, -1.0, -1.0]), s).item() == -math.inf
    with pytest.raises(AudioError, match="silent"):
        si_sdr(s, torch.full((4,), 0.5))


def test_log_mel_distance_of_a_gain_is_the_gain():
    """Twice the amplitude is 6.02 dB in every band that stands above the floor."""
    noise = 100 * torch.randn(16000)
    assert log_mel_distance(2 * noise, noise, 16000).item() == pytest.approx(20 * math.log10(2), abs=1e-3)
    silence = torch.zeros(16000)
    assert log_mel_distance(silence, 1e-6 * torch.randn(16000), 16000).item() < 0.1, "below the floor"


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_log_mel_distance_at_any_rate(rate):
    noise = 100 * torch.randn(rate // 4)
    assert log_mel_distance(2 * noise, noise, rate).item() == pytest.approx(20 * math.log10(2), abs=1e-2)


def test_spectral_distances_frame_by_frame():
    x, y = 0.3 * torch.randn(2, 1500, dtype=torch.float64)
    a, b = magnitudes(x.numpy(), 2048, 256, 1536), magnitudes(y.numpy(), 2048, 256, 1536)
    want = 20 * np.log10(np.linalg.norm(a - b) / np.linalg.norm(b))
    assert spectral_convergence(x, y).item() == pytest.approx(want, abs=1e-3)
    want = 0.0
    for n_fft, hop, size in ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)):
        a, b = magnitudes(x.numpy(), n_fft, hop, size), magnitudes(y.numpy(), n_fft, hop, size)
        want += np.linalg.norm(a - b) / np.linalg.norm(b) / 3
        a, b = np.maximum(a, math.sqrt(1e-7)), np.maximum(b, math.sqrt(1e-7))
        want += np.abs(np.log(a) - np.log(b)).mean() / 3
    assert stft_distance(x, y).item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("measure", PAIRWISE, ids=NAMES)
def test_a_batch_is_one_by_one_and_worse_is_worse(measure):
    clean = torch.stack([voice(), voice(pitch=220.0)])
    noise = torch.randn(2, clean.shape[1])
    little, much = clean + 0.003 * noise, clean + 0.1 * noise
    together = measure(little, clean)
    assert together.shape == (2,)
    for i in range(2):
        alone = measure(little[i], clean[i])
        assert alone.shape == () and alone.item() == pytest.approx(together[i].item(), abs=1e-4)
    sign = 1 if measure in (PAIRWISE[0], *PAIRWISE[4:]) else -1
    assert (sign * together > sign * measure(much, clean)).all()


@pytest.mark.parametrize("measure", PAIRWISE, ids=NAMES)
def test_what_cannot_be_compared_is_refused(measure):
    x = voice()
    for wrong in (x[:-1], x[None], x[None, None]):
        with pytest.raises(ShapeError, match="one shape"):
            measure(wrong, x)
    with pytest.raises(ShapeError, match="one shape"):
        measure(x[:0], x[:0])
    with pytest.raises(ShapeError, match="2 that are not finite"):
        measure(x, torch.cat([x[:-2], torch.tensor([math.nan, math.inf])]))
    with pytest.raises(ShapeError, match="int16"):
        measure(x, (x * 1000).to(torch.int16))


def test_listeners_at_another_rate_and_at_their_limits():
    high = voice(rate=48000)
    assert pesq_wb(high, high, 48000).item() == pytest.approx(4.644, abs=0.01), "the scale's upper end"
    assert stoi(high, high, 48000).item() == pytest.approx(1.0, abs=1e-6)
    short = voice(0.2)
    for listener in (pesq_wb, stoi):
        for wave in (short, torch.zeros(16000)):
            with pytest.raises(AudioError, match="leave it out") as caught:
                listener(wave, wave, 16000)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "listener"), [("pesq", pesq_wb), ("pystoi", stoi)])
def test_a_listener_that_is_not_installed_says_how_to_get_it(monkeypatch, name, listener):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=r"pip install 'audiovae\[metrics\]'"):
        listener(voice(), voice(), 16000)


def test_usage_and_perplexity_by_hand():
    codes = np.stack([np.repeat(np.arange(16), 10), np.zeros(160, int)])
    first, second = code_counts(codes, (32, 32))
    assert first.tolist() == [10] * 16 + [0] * 16 and second.tolist() == [160] + [0] * 31
    assert usage(first) == 0.5 and perplexity(first) == pytest.approx(16)
    assert usage(second) == 1 / 32 and perplexity(second) == pytest.approx(1)
    counts = np.array([3, 0, 9, 1])
    assert perplexity(counts) == pytest.approx(math.exp(stats.entropy(counts)))
    halves = [code_counts(part, (32, 32)) for part in (codes[:, :70], codes[:, 70:])]
    assert np.array_equal(halves[0][0] + halves[1][0], first), "counts add up"


@pytest.mark.parametrize("codes", [np.zeros((1, 4)), np.zeros(4, int), np.full((1, 4), 8), np.full((1, 4), -1)])
def test_wrong_codes_are_not_counted(codes):
    with pytest.raises(ShapeError, match="code_counts"):
        code_counts(codes, (8,))
    with pytest.raises(ShapeError, match="at least one"):
        perplexity(np.zeros(8, int))


def test_the_interval_is_scipys_and_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, 25)
    low, high = stats.t.interval(0.95, 24, loc=values.mean(), scale=stats.sem(values))
    got = mean_interval(values)
    assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx((low, high))
    hits = [abs(got.mean - 3) < got.half_width for got in (mean_interval(rng.normal(3, 2, 5)) for _ in range(1000))]
    assert 0.93 < np.mean(hits) < 0.97


def test_intervals_without_a_width():
    assert mean_interval([4.0]).count == 1 and math.isnan(mean_interval([4.0]).half_width)
    assert mean_interval([1.0, math.inf]).mean == math.inf
    assert math.isnan(mean_interval([-math.inf, math.inf]).mean)
    with pytest.raises(ShapeError, match="at least one"):
        mean_interval([])


@pytest.mark.parametrize(("interval", "text"), [
    (Interval(12.3456, 0.4321, 9), "12.3 ± 0.4"), (Interval(123.4, 12.3, 9), "123 ± 12"),
    (Interval(0.00123, 0.0000456, 9), "0.00123 ± 0.00005"), (Interval(2.0, 0.0, 9), "2.00 ± 0.00"),
    (Interval(2.34567, math.nan, 1), "2.35"), (Interval(-8.0, 1.5, 3), "-8.0 ± 1.5"),
])
def test_an_interval_shows_as_many_digits_as_its_width_allows(interval, text):
    assert str(interval) == text


def test_a_stopwatch_adds_up():
    watch = Stopwatch()
    for _ in range(2):
        with watch:
            time.sleep(0.05)
    assert 0.1 <= watch.seconds < 0.5 and watch.cpu < 0.05
    assert watch.times_real_time(1.0) == pytest.approx(1 / watch.seconds)


def test_peak_memory_sees_what_was_freed():
    script = ("import runpy, sys; peak_memory = runpy.run_path(sys.argv[1])['peak_memory']; before = peak_memory();"
              "x = b'x' * 2**27; x = None; print(peak_memory() - before)")
    done = subprocess.run([sys.executable, "-c", script, cost.__file__], capture_output=True, text=True, check=True)
    assert 0.9 * 2**27 < int(done.stdout) < 1.3 * 2**27


def test_every_measure_is_exported():
    assert all(hasattr(metrics, name) for name in metrics.__all__)
