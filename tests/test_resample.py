"""Resampling equals torchaudio's, for any cut of the input, in constant memory."""

import numpy as np
import pytest
import torch
import torchaudio.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from audiovae.audio.resample import Resampler, resample, resampled_length
from audiovae.errors import AudioError

PAIRS = [(44100, 16000), (48000, 16000), (192000, 16000), (8000, 16000), (22050, 16000), (16000, 44100)]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_equals_torchaudio(source, target):
    x = torch.rand(3, 5001, generator=torch.Generator().manual_seed(0)) * 2 - 1
    truth = F.resample(x.double(), source, target)
    assert resample(x, source, target).shape == truth.shape
    assert (resample(x, source, target) - truth).abs().max() < 1e-5


@pytest.mark.parametrize(("source", "target"), PAIRS)
@given(cuts=st.lists(st.integers(0, 4000), max_size=8), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_any_cut_gives_the_whole(source, target, cuts, seed):
    x = np.random.default_rng(seed).uniform(-1, 1, 4000).astype(np.float32)
    resampler = Resampler(source, target)
    parts = [resampler.push(part) for part in np.split(x, sorted(cuts))]
    got = np.concatenate([*parts, resampler.flush()])
    assert len(got) == resampled_length(len(x), source, target)
    assert np.abs(got - resample(torch.from_numpy(x), source, target).numpy()).max() < 1e-6
    again = np.concatenate([resampler.push(x), resampler.flush()])
    assert np.abs(again - got).max() < 1e-6, "a flushed resampler starts anew"


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_short_inputs_have_the_stated_length(length):
    for source, target in PAIRS:
        got = resample(torch.ones(length), source, target)
        assert got.shape == (resampled_length(length, source, target),)
        if length:
            assert (got - F.resample(torch.ones(1, length).double(), source, target)).abs().max() < 1e-5


def test_rates_without_a_common_divisor_need_little_memory():
    """A bank with one kernel a phase would hold 16,000 x 44,101 numbers here."""
    resampler = Resampler(44_101, 16_000)
    assert resampler.kernel.size < 1_000_000
    t = np.arange(44_101) / 44_101
    tone = np.concatenate([resampler.push(np.sin(2 * np.pi * 440 * t).astype(np.float32)), resampler.flush()])
    truth = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(tone - truth)[100:-100].max() < 2e-3


def test_what_the_lower_rate_cannot_hold_is_gone():
    t = torch.arange(48_000) / 48_000
    assert resample(torch.sin(2 * torch.pi * 10_000 * t), 48_000, 16_000)[200:-200].abs().max() < 1e-2
    kept = resample(torch.sin(2 * torch.pi * 5_000 * t), 48_000, 16_000)[200:-200].abs().max()
    assert abs(kept - 1) < 1e-2


def test_a_stream_holds_no_more_than_the_kernel_reaches():
    resampler = Resampler(192_000, 16_000)
    for _ in range(50):
        resampler.push(np.zeros(10_000, np.float32))
        assert len(resampler._buffer) < 200


def test_the_length_is_exact_where_a_float_would_round():
    assert resampled_length(3 * 3600 * 44_100 + 1, 44_100, 16_000) == 3 * 3600 * 16_000 + 1


def test_rates_must_be_positive():
    for source, target in [(0, 16_000), (16_000, 0), (-1, -1)]:
        with pytest.raises(AudioError, match="positive"):
            resample(torch.zeros(3), source, target)
