"""A melody moved: where the pitch goes, what stays where it was, and nothing that depends on how the sound is cut."""

import numpy as np
import pytest
import torch
from test_pitch import HOP, RATE, sung

from audiovae.audio.features import LogMel
from audiovae.audio.pitch import Prosody, prosody
from audiovae.audio.psola import _read, repitched
from audiovae.audio.scroll import Scroll


def moved(wave, factor, cut=5000):
    wave = torch.as_tensor(wave)
    found = prosody(wave, RATE, HOP)
    return torch.cat(list(repitched(wave.split(cut), found, factor * found.pitch, RATE, HOP)))


def words(seed=0):
    """A gliding buzz, silence, noise, and the buzz again."""
    generator = np.random.default_rng(seed)
    noise = 0.05 * generator.standard_normal(RATE // 2).astype(np.float32)
    return np.concatenate([sung(np.geomspace(90, 150, RATE)), np.zeros(RATE // 3, np.float32), noise,
                           sung(np.geomspace(210, 140, RATE))])


@pytest.mark.parametrize("factor", [0.6, 0.84, 1.19, 1.7])
def test_the_pitch_moves_and_loudness_stays(factor):
    wave = sung(np.geomspace(110, 170, 2 * RATE))
    inner = slice(10, -10)
    higher = moved(wave, factor)
    found = prosody(higher, RATE, HOP)
    cents = 1200 * np.abs(np.log2(found.pitch / (factor * prosody(wave, RATE, HOP).pitch)))[inner]
    assert found.voiced[inner].all() and np.median(cents) < 5 and cents.max() < 30
    assert abs(10 * np.log10(float((higher ** 2).mean()) / (wave ** 2).mean())) < 0.5


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_formants_stay(factor):
    """The envelope is nearer to the source's than that of the source played at another speed, by far."""
    wave = torch.from_numpy(sung(np.full(2 * RATE, 100.0)))
    mel = LogMel(RATE, n_fft=1024, hop=256, num_mels=24, scale=4.343)

    def envelope(x):
        return mel(x[None, None])[0, :, 10:-10].mean(1)

    faster = np.interp(np.arange(0, 2 * RATE - 2, factor), np.arange(2 * RATE), wave.numpy()).astype(np.float32)
    off, off_if_stretched = ((envelope(x) - envelope(wave))[2:16].abs().mean()
                             for x in (moved(wave, factor), torch.from_numpy(faster)))
    assert off < 2 and off < off_if_stretched / 2


def test_the_same_melody_gives_the_recording_back():
    wave = torch.from_numpy(words())
    assert torch.equal(moved(wave, 1.0), wave)


def test_what_has_no_pitch_passes_as_it_is():
    noise = 0.1 * torch.randn(RATE + 33)
    for wave in (noise, torch.zeros(500), noise[:1]):
        silent = Prosody(np.full(200, 120, np.float32), np.zeros(200, bool), np.zeros(200, np.float32))
        assert torch.equal(torch.cat(list(repitched([wave], silent, 2 * silent.pitch, RATE, HOP))), wave)
    spoken = torch.from_numpy(words())
    between = slice(RATE + 800, RATE + RATE // 3 + RATE // 2 - 1200)  # silence and noise, away from the voice
    torch.testing.assert_close(moved(spoken, 1.5)[between], spoken[between])


@pytest.mark.parametrize("cut", [1, 777, 20000])
def test_a_stream_is_the_whole_however_it_is_cut(cut, monkeypatch):
    whole = moved(words(), 1.3, cut=1 << 20)
    monkeypatch.setattr("audiovae.audio.scroll.AHEAD", 1)
    assert torch.equal(moved(words(), 1.3, cut), whole)


def test_memory_does_not_grow(monkeypatch):
    held = []
    take = Scroll._take
    monkeypatch.setattr(Scroll, "_take", lambda self, *its: (take(self, *its), held.append(len(self.held)))[0])
    wave = sung(np.full(RATE, 120.0))
    found = prosody(np.tile(wave, 12), RATE, HOP)
    pieces = (torch.from_numpy(wave) for _ in range(12))
    assert sum(map(len, repitched(pieces, found, 1.2 * found.pitch, RATE, HOP))) == 12 * RATE
    assert max(held) < 4 * RATE


def test_between_samples():
    time = np.arange(400) / RATE
    tone = torch.from_numpy(np.sin(2 * np.pi * 3000 * time).astype(np.float32))
    for place in (0.25, -3.5, 7.984375):
        wanted = np.sin(2 * np.pi * 3000 * (time[100:200] + place / RATE))
        np.testing.assert_allclose(_read(Scroll([tone], 50), 100, 200, place), wanted, atol=2e-3)


def test_a_scroll_reads_any_place_forwards():
    wave = torch.arange(1.0, 100.0)
    scroll = Scroll(wave.split(7), behind=5)
    padded = np.concatenate([np.zeros(5), wave.numpy(), np.zeros(60)]).astype(np.float32)
    for first, last in ((-5, 3), (2, 40), (36, 41), (38, 99), (95, 150)):
        np.testing.assert_array_equal(scroll(first, last), padded[first + 5:last + 5])
    assert scroll.end == 99 and scroll.ended(99) and not scroll.ended(98)
    scroll(300, 301)
    with pytest.raises(IndexError, match="keeps"):
        scroll(10, 20)
