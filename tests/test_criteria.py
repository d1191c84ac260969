"""Criteria against their formulas in NumPy, frame by frame, and what each must not notice."""

from dataclasses import dataclass
from itertools import count

import librosa
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from audiovae.config import from_dict
from audiovae.criteria import (
    RESOLUTIONS,
    ComplexSTFT,
    FrameRate,
    JukeboxSpectral,
    LogMelL1,
    MelLoudness,
    MelResolution,
    MultiResolutionSTFT,
    Resolution,
    SampleL1,
    SampleL2,
    TopSquares,
)
from audiovae.criteria_config import (
    ComplexSTFTConfig,
    CriterionConfig,
    FrameRateConfig,
    JukeboxSpectralConfig,
    LogMelConfig,
    MelLoudnessConfig,
    MultiResolutionSTFTConfig,
    SampleL1Config,
    SampleL2Config,
    TopSquaresConfig,
)
from audiovae.errors import ConfigError, ShapeError

CONFIGS = [LogMelConfig(), MelLoudnessConfig(), MultiResolutionSTFTConfig(), JukeboxSpectralConfig(),
           ComplexSTFTConfig(), FrameRateConfig(), TopSquaresConfig(), SampleL1Config(), SampleL2Config()]
CRITERIA = {config.kind: config.build(16000) for config in CONFIGS}
SPECTRAL = ["log_mel", "mel_loudness", "multi_resolution_stft", "jukebox_spectral", "complex_stft"]
MAGNITUDE = SPECTRAL[:4]


def spectrum(x: torch.Tensor, n_fft: int, hop: int, size: int | None = None) -> np.ndarray:
    """(T,) -> (L, F): every frame cut out around its hop, windowed, transformed."""
    size = n_fft if size is None else size
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    padded = np.pad(x.double().numpy(), size)
    frames = []
    for f in count():
        if f * hop >= len(x):
            return np.array(frames)
        start = f * hop - (size - hop) // 2 + size
        frames.append(np.fft.rfft(padded[start:start + size] * window, n_fft))


def pair(batch: int = 2, channels: int = 1, length: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randn(batch, channels, length)
    return 0.7 * target + 0.3 * torch.randn_like(target), target


def test_jukebox_spectral_is_its_formula():
    estimate, target = pair()
    terms = []
    for n_fft, hop, size in ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240)):
        spectra = [[np.abs(spectrum(x[0], n_fft, hop, size)) for x in batch] for batch in (estimate, target)]
        distances = [np.sqrt(((a - b) ** 2).sum()) for a, b in zip(*spectra, strict=True)]
        terms.append(np.mean(distances) / np.mean([np.sqrt((b**2).sum()) for b in spectra[1]]))
    assert float(CRITERIA["jukebox_spectral"](estimate, target)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_multi_resolution_stft_is_its_formula():
    estimate, target = pair(batch=1)
    terms = []
    for n_fft, hop, size in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
        a, b = (np.sqrt(np.abs(spectrum(x[0, 0], n_fft, hop, size)) ** 2 + 1e-7) for x in (estimate, target))
        terms.append(np.linalg.norm(a - b) / np.linalg.norm(b) + np.abs(np.log(a) - np.log(b)).mean())
    assert float(CRITERIA["multi_resolution_stft"](estimate, target)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_complex_stft_is_its_formula_with_each_signal_transformed_by_itself():
    estimate, target = pair(batch=1)
    terms = []
    for r in RESOLUTIONS:
        assert r.size is not None
        a, b = (spectrum(x[0, 0], r.n_fft, r.hop, r.size) for x in (estimate, target))
        terms.append(np.abs(a - b).mean() / np.sqrt(3 / 8 * r.size))  # Σ of a Hann window's squares
    assert float(CRITERIA["complex_stft"](estimate, target)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_log_mel_is_its_formula_over_librosas_bands():
    estimate, target = pair(batch=1)
    terms = []
    for n_fft, hop, num_mels in ((256, 64, 40), (512, 128, 64), (1024, 256, 80)):
        bands = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=num_mels, htk=False, norm=None).T
        a, b = (np.log(np.abs(spectrum(x[0, 0], n_fft, hop)) ** 2 @ bands + 1e-6) for x in (estimate, target))
        terms.append(np.abs(a - b).mean())
    assert float(CRITERIA["log_mel"](estimate, target)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_mel_loudness_is_its_formula_and_forgives_faint_frames():
    estimate, target = pair()
    terms = []
    for n_fft, hop, num_mels in ((256, 64, 40), (512, 128, 64), (1024, 256, 80)):
        bands = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=num_mels, htk=False, norm=None).T
        for a, b in zip(estimate, target, strict=True):
            a, b = ((np.abs(spectrum(x[0], n_fft, hop)) ** 2 @ bands + 1e-6) ** 0.3 for x in (a, b))
            terms.append(np.abs(a - b).mean() / b.mean())
    assert float(CRITERIA["mel_loudness"](estimate, target)) == pytest.approx(np.mean(terms), rel=1e-4)
    faint = torch.where(torch.arange(3000) < 1500, 1.0, 0.01) * target
    doubled = {where: torch.where((torch.arange(3000) < 1500) == (where == "loud"), 2.0, 1.0) * faint
               for where in ("loud", "faint")}
    cost = {(kind, where): float(CRITERIA[kind](x, faint))
            for kind in ("log_mel", "mel_loudness") for where, x in doubled.items()}
    assert cost["log_mel", "faint"] > 0.6 * cost["log_mel", "loud"]
    assert cost["mel_loudness", "faint"] < 0.2 * cost["mel_loudness", "loud"]


def test_sample_terms_are_their_formulas_by_sorting():
    estimate, target = pair(batch=3, channels=2)
    error = (estimate - target).double().numpy().reshape(3, -1)
    largest = np.sort(error**2, axis=1)[:, -2048:]
    for kind, truth in (("top_squares", largest.mean()), ("sample_l1", np.abs(error).mean()),
                        ("sample_l2", (error**2).mean())):
        assert float(CRITERIA[kind](estimate, target)) == pytest.approx(truth, rel=1e-5), kind


@pytest.mark.parametrize("criterion", [
    LogMelL1(16000, (MelResolution(32, 8, 3),)), MelLoudness(16000, (MelResolution(32, 8, 3),)),
    MultiResolutionSTFT((Resolution(32, 8, 24),)),
    JukeboxSpectral((Resolution(32, 8, 24),)), ComplexSTFT((Resolution(32, 8, 24),)), FrameRate(8, 4), TopSquares(k=20),
    SampleL1(), SampleL2()], ids=lambda criterion: type(criterion).__name__)
def test_gradients_are_the_numerical_ones(criterion):
    target = torch.randn(2, 2, 50, dtype=torch.float64)
    estimate = torch.randn(2, 2, 50, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda estimate: criterion.double()(estimate, target), estimate, fast_mode=True)


@pytest.mark.parametrize("kind", CRITERIA)
def test_equal_data_costs_nothing_and_other_data_something(kind):
    estimate, target = pair()
    assert float(CRITERIA[kind](target, target)) == pytest.approx(0.0, abs=1e-6)
    assert float(CRITERIA[kind](estimate, target)) > 0.01


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
def test_silence_gives_a_finite_loss_and_gradient(kind, silent):
    estimate, target = (0.1 * x for x in pair())
    estimate = estimate * (silent == "target")
    target = target * (silent == "estimate")
    estimate.requires_grad_()
    loss = CRITERIA[kind](estimate, target)
    loss.backward()
    assert estimate.grad is not None
    assert bool(loss.detach().isfinite())
    assert bool(estimate.grad.isfinite().all())
    assert float(loss.detach()) < 1000  # silence divides by nothing small


@pytest.mark.parametrize("kind", ["log_mel", "mel_loudness", "multi_resolution_stft", "jukebox_spectral"])
def test_relative_criteria_do_not_notice_the_volume(kind):
    estimate, target = pair()
    torch.testing.assert_close(CRITERIA[kind](0.2 * estimate, 0.2 * target), CRITERIA[kind](estimate, target),
                               rtol=2e-3, atol=0)  # the floor of power is in units of the data


@pytest.mark.parametrize(("kind", "power"), [("complex_stft", 1), ("sample_l1", 1), ("sample_l2", 2),
                                             ("top_squares", 2)])
def test_absolute_criteria_scale_with_the_volume(kind, power):
    estimate, target = pair()
    torch.testing.assert_close(CRITERIA[kind](3 * estimate, 3 * target),
                               3**power * CRITERIA[kind](estimate, target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", SPECTRAL)
def test_magnitudes_are_deaf_to_a_sign_and_the_complex_spectrum_is_not(kind):
    _, target = pair()
    flipped = float(CRITERIA[kind](-target, target))
    assert flipped == 0.0 if kind in MAGNITUDE else flipped > 1.0


@pytest.mark.parametrize("kind", SPECTRAL)
def test_a_shift_of_both_by_whole_hops_changes_nothing(kind):
    shift = 19200  # a multiple of every hop: 50, 120, 240 and 64, 128, 256
    inside = [torch.nn.functional.pad(x, (2400, shift + 2400)) for x in pair(batch=1, length=4800)]
    moved = [x.roll(shift, dims=-1) for x in inside]
    torch.testing.assert_close(CRITERIA[kind](*moved), CRITERIA[kind](*inside), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", CRITERIA)
def test_a_batch_twice_over_costs_the_same_and_so_do_channels_as_examples(kind):
    estimate, target = pair(batch=2)
    once = CRITERIA[kind](estimate, target)
    torch.testing.assert_close(CRITERIA[kind](estimate.repeat(2, 1, 1), target.repeat(2, 1, 1)), once)
    stereo = estimate.repeat(1, 2, 1), target.repeat(1, 2, 1)
    if kind != "top_squares":  # the same k of twice as many numbers
        torch.testing.assert_close(CRITERIA[kind](*stereo), once)


@pytest.mark.parametrize("kind", MAGNITUDE)
def test_the_targets_spectra_keep_no_graph(kind):
    estimate, target = pair()
    target.requires_grad_()
    estimate.requires_grad_()
    CRITERIA[kind](estimate, target).backward()
    assert target.grad is None


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_the_union_of_configs_is_the_registry(config):
    @dataclass(frozen=True)
    class Holder:
        criterion: CriterionConfig

    assert from_dict(Holder, {"criterion": {"kind": config.kind}}).criterion == config
    if config.kind in (*SPECTRAL, "frame_rate"):
        with pytest.raises(ConfigError, match=f"criterion '{config.kind}' wants audio"):
            config.build(None)
    else:
        assert float(config.build(None)(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32))) == 1.0


def test_the_frame_rate_is_heard_at_its_depth_and_other_rates_are_not():
    """Noise whose energy sways as 1 + 0.3 cos + 0.1 cos of twice the rate; the series is NumPy's."""
    _, target = pair(length=64000)
    n = torch.arange(64000)
    sway = 1 + 0.3 * torch.cos(2 * np.pi * n / 320 + 0.4) + 0.1 * torch.cos(4 * np.pi * n / 320)
    criterion = FrameRate(320, harmonics=3)
    assert float(criterion(target * sway.sqrt(), target)) == pytest.approx(np.hypot(0.3, 0.1), abs=0.02)
    for other in (280, 400, 317):
        sway = 1 + 0.3 * torch.cos(2 * np.pi * n / other)
        assert float(criterion(target * sway.sqrt(), target)) < 0.05, other
    frames = (target.reshape(-1, 320).double() ** 2).numpy()
    series = np.fft.rfft((frames / (frames.mean(1, keepdims=True) + 1e-5)).mean(0))[1:4] * 2 / 320
    truth = np.concatenate([series.real, -series.imag])
    np.testing.assert_allclose(criterion.depths(target).numpy(), truth, atol=1e-5)


def test_what_does_not_fit_is_said():
    with pytest.raises(ShapeError, match="period or more, 320 samples, got 300"):
        FrameRate(320)(torch.zeros(1, 1, 300), torch.zeros(1, 1, 300))
    with pytest.raises(ConfigError, match="5 of a period of 8"):
        FrameRateConfig(period=8, harmonics=5).build(16000)
    with pytest.raises(ShapeError, match=r"SampleL1 wants an estimate of its target's shape \(2, 1, 9\)"):
        SampleL1()(torch.zeros(2, 1, 8), torch.zeros(2, 1, 9))
    with pytest.raises(ShapeError, match="smaller k"):
        TopSquares(k=10)(torch.zeros(2, 1, 8), torch.zeros(2, 1, 8))
