"""Spectra against NumPy, librosa and torch.stft; receptive fields and adjoints by gradient."""

import librosa
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from audiovae.audio.features import STFT, InverseSTFT, LogMel, mel_bands, overlap_add
from audiovae.errors import ConfigError, ShapeError

SHAPES = [(64, 16, None), (64, 20, None), (64, 10, 40), (63, 9, 33)]  # n_fft, hop, size: hop divides, or not


def one_frame(x: np.ndarray, f: int, n_fft: int, hop: int, size: int) -> np.ndarray:
    """The definition: the samples around hop f, one by one, windowed and transformed."""
    start = f * hop - (size - hop) // 2
    samples = [x[t] if 0 <= t < len(x) else 0.0 for t in range(start, start + size)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.fft.rfft(np.array(samples) * window, n_fft)


@pytest.mark.parametrize(("n_fft", "hop", "size"), SHAPES)
def test_every_frame_is_the_transform_of_the_samples_around_its_hop(n_fft, hop, size):
    x = torch.randn(2, 3, 105, dtype=torch.float64)
    stft = STFT(n_fft, hop, size).double()
    assert stft(x).shape == (2, 3, -(-105 // hop), n_fft // 2 + 1)
    for f in range(-(-105 // hop)):
        truth = one_frame(x[1, 2].numpy(), f, n_fft, hop, stft.size)
        np.testing.assert_allclose(stft(x)[1, 2, f].numpy(), truth, atol=1e-5)
        np.testing.assert_allclose(stft.power(x)[1, 2, f].numpy(), np.abs(truth) ** 2, atol=1e-5)


@pytest.mark.parametrize("ahead", [0, 5, 48])
def test_a_frame_that_is_told_so_reaches_just_as_far_ahead_of_its_hop(ahead):
    x, stft = torch.randn(100, dtype=torch.float64), STFT(64, 16, ahead=ahead).double()
    padded = F.pad(x, (48 - ahead, 64))
    for f, frame in enumerate(stft(x)):
        truth = np.fft.rfft(padded[f * 16:f * 16 + 64].numpy() * np.hanning(65)[:64])
        np.testing.assert_allclose(frame.numpy(), truth, atol=1e-5)
    assert f == 6 and stft.field.right == 15 + ahead


@pytest.mark.parametrize(("n_fft", "hop", "size"), SHAPES)
def test_gradients_of_spectrum_power_and_magnitude_are_the_numerical_ones(n_fft, hop, size):
    x = torch.randn(2, 70, dtype=torch.float64, requires_grad=True)
    stft = STFT(n_fft, hop, size).double()
    weight = torch.randn(stft.power(x).shape, dtype=torch.float64)
    assert gradcheck(lambda x: (stft.power(x) * weight).sum(), x)
    assert gradcheck(lambda x: (stft.magnitude(x) * weight).sum(), x)
    assert gradcheck(lambda x: torch.view_as_real(stft(x)), x)


def test_the_gradient_of_power_is_autograds_through_torch_stft():
    x, y = (t.requires_grad_() for t in torch.randn(1, 2, 4000).repeat(2, 1, 1))
    ours = STFT(256, 64).power(x)
    peer = torch.stft(F.pad(y, (96, 96 + 32)), 256, 64, window=torch.hann_window(256), center=False,
                      return_complex=True).abs().square().transpose(1, 2)
    weight = torch.randn(ours.shape)
    (ours * weight).sum().backward()
    (peer * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-3)


def test_silence_has_a_finite_gradient():
    x = torch.zeros(1, 1, 400, requires_grad=True)
    (STFT(64, 16).magnitude(x).sum() + LogMel(16000, 256, 64, 20)(x).sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(("n_fft", "num_mels"), [(256, 40), (512, 64), (640, 80), (1024, 80), (2048, 128)])
def test_mel_bands_are_librosas(sample_rate, n_fft, num_mels):
    truth = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=num_mels, htk=False, norm=None)
    bands = mel_bands(sample_rate, n_fft, num_mels, low=0, high=sample_rate / 2)
    np.testing.assert_allclose(bands.T, truth, atol=1e-5)


def test_log_mel_is_the_log_of_librosas_bands_over_every_frame():
    x = torch.randn(1500)
    bands = librosa.filters.mel(sr=16000, n_fft=512, n_mels=40, htk=False, norm=None)
    ours = LogMel(16000, n_fft=512, hop=128, num_mels=40)(x.view(1, 1, -1))
    assert ours.shape == (1, 40, 12)
    for f in range(12):
        power = bands @ np.abs(one_frame(x.numpy(), f, 512, 128, 512)) ** 2
        np.testing.assert_allclose(ours[0, :, f], 0.25 * np.log(power + 1e-6) + 1, atol=1e-4)


def test_ten_times_louder_is_so_many_nats_more():
    x, mel = torch.randn(1, 1, 1600), LogMel(16000, 320, 160, 20, scale=1.0, offset=0.0, floor=1e-12)
    rise = mel(10 * x) - mel(x)
    torch.testing.assert_close(rise, torch.full_like(rise, np.log(100.0)), rtol=0, atol=1e-4)


def test_a_shift_by_one_hop_shifts_the_frames_by_one():
    x, mel = torch.randn(1, 1, 1600), LogMel(16000, 320, 80, 20)
    torch.testing.assert_close(mel(x[..., 80:])[..., 2:-2], mel(x)[..., 3:-2])


@pytest.mark.parametrize(("n_fft", "hop"), [(640, 160), (64, 64), (100, 30)])
def test_a_frame_reads_its_field_and_nothing_else(n_fft, hop):
    mel = LogMel(16000, n_fft, hop, num_mels=8)
    x = torch.randn(1, 1, 20 * hop, requires_grad=True)
    mel(x)[..., 10].sum().backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero().flatten()
    left, right = mel.field.halo
    first, last = 10 * hop - left, 10 * hop + right
    assert (touched.min(), touched.max()) == (first + 1, last)  # the Hann window's first weight is 0


@pytest.mark.parametrize(("size", "hop", "length"), [(640, 320, 7), (640, 160, 1), (100, 30, 5), (96, 20, 2)])
def test_frames_transformed_back_and_overlap_added_are_the_waveform_to_its_ends(size, hop, length):
    x, margin = torch.randn(2, length * hop), (size - hop) // 2
    frames = F.pad(x, (margin, margin)).unfold(-1, size, hop)
    again = torch.fft.irfft(torch.fft.rfft(frames), size)
    torch.testing.assert_close(overlap_add(again.transpose(1, 2), hop)[:, 0], x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "hop", "ahead"), [(640, 320, 0), (640, 160, 0), (96, 20, 30)])
def test_the_way_back_is_as_exact_where_frames_are_not_centred(size, hop, ahead):
    x = torch.randn(2, 9 * hop)
    frames = F.pad(x, (size - hop - ahead, ahead)).unfold(-1, size, hop)
    torch.testing.assert_close(overlap_add(frames.transpose(1, 2), hop, ahead)[:, 0], x, rtol=0, atol=1e-5)
    spectrum = torch.fft.rfft(frames)
    again = InverseSTFT(size, hop, ahead)(spectrum.abs(), spectrum.angle())
    torch.testing.assert_close(again[:, 0, hop:-hop], x[:, hop:-hop], rtol=0, atol=1e-4)


def test_overlap_add_is_a_sum_over_frames_one_sample_at_a_time():
    frames, hop = torch.randn(1, 48, 6), 20
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(48) / 48)
    result = overlap_add(frames, hop)
    for t in range(6 * hop):
        places = [(f, t - f * hop + 14) for f in range(6) if 0 <= t - f * hop + 14 < 48]
        total = sum(window[i] * float(frames[0, i, f]) for f, i in places) / sum(window[i] for _, i in places)
        assert float(result[0, 0, t]) == pytest.approx(total, abs=1e-5)


def test_overlap_add_has_the_numerical_gradient_and_reaches_only_its_neighbours():
    frames = torch.randn(2, 24, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda frames: overlap_add(frames, 10), frames)
    (grad,) = torch.autograd.grad(overlap_add(frames, 10)[..., 20:30].sum(), frames)
    assert grad.abs().sum((0, 1)).nonzero().flatten().tolist() == [1, 2, 3]


def test_chunks_with_a_halo_are_the_whole():
    frames = torch.randn(1, 640, 40)
    whole, part = overlap_add(frames, 320), overlap_add(frames[..., 9:21], 320)
    torch.testing.assert_close(part[..., 320:-320], whole[..., 10 * 320:20 * 320])


def test_half_precision_autocast_does_not_touch_the_mel_frames():
    mel, x = LogMel(16000, 320, 160, 20), torch.randn(1, 1, 1600)
    outside = mel(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel(x), outside)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: STFT(64, 17), "size 64, hop 17"),
    (lambda: STFT(64, 128), "size 64, hop 128"),
    (lambda: STFT(64, 16, size=80), "at most n_fft=64"),
    (lambda: STFT(64, 16, ahead=49), "49 ahead"),
    (lambda: LogMel(16000, 256, 64, 128), "take fewer"),
    (lambda: LogMel(16000, high=9000.0), "8000 Hz, got 0, 9000"),
    (lambda: overlap_add(torch.zeros(1, 30, 3), 20), "at least twice the hop"),
])
def test_what_does_not_fit_is_said(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_waveform_without_samples_is_refused():
    with pytest.raises(ShapeError, match="at least one sample"):
        STFT(64, 16)(torch.zeros(1, 0))
    with pytest.raises(ShapeError, match="LogMel wants"):
        LogMel(16000)(torch.zeros(1, 2, 100))
