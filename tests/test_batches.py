"""Batches of unequal lengths: each recording gets the very codes, each code the very samples, that it gets alone."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_causal import ALL
from test_codec import RATE, build

from audiovae.batches import Together
from audiovae.blocks import decoder_halo, encoder_halo
from audiovae.codec import Codec
from audiovae.errors import AudioError, ShapeError
from audiovae.shapes import Condition

HOP, BLOCK = 64, 20


@pytest.fixture(scope="module", params=ALL.values(), ids=ALL)
def codec(request):
    codec = Codec(build(request.param))
    codec.block = BLOCK
    return codec


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(lengths=st.lists(st.integers(HOP, 3 * BLOCK * HOP) | st.integers(HOP, 9 * HOP), min_size=1, max_size=9),
       seed=st.integers(0, 99))
def test_a_batch_is_its_recordings_one_by_one(codec, lengths, seed):
    rng = torch.Generator().manual_seed(seed)
    padded = torch.randn(len(lengths), max(lengths), generator=rng)  # no zeros beyond an end: they must not matter
    waves = [row[:n] for row, n in zip(padded, lengths, strict=True)]
    alone = [codec.encode(wave, RATE, "bert") for wave in waves]
    for batch in (codec.encode_batch(waves, RATE, "bert"), codec.encode_batch(padded, RATE, "bert", lengths)):
        for ours, its in zip(batch, alone, strict=True):
            assert np.array_equal(ours.levels[0], its.levels[0]) and ours.header == its.header
            assert ours.num_samples == its.num_samples
    for sound, codes in zip(codec.decode_batch(alone), alone, strict=True):
        assert torch.equal(sound, codec.decode(codes))


@pytest.mark.parametrize("known", [True, False])
def test_padding_is_held_at_zero_in_every_layer(codec, known):
    """In a much wider batch, by the model alone; told no lengths, what looks ahead gives something else at the end."""
    model, lengths = codec.model, torch.tensor([3, 11, 40])
    x, codes = torch.zeros(3, 1, 40 * HOP), torch.randint(16, (3, 2, 40))
    for row, n in zip(x, lengths, strict=True):
        row[:, :n * HOP] = torch.randn(1, n * HOP)
    h = model.hidden(x, None, lengths if known else None)
    told = Condition(torch.tensor([0, 1, -1]))
    sound = model.decode(codes, told, lengths=lengths if known else None)
    worst = [0.0, 0.0]
    for i, n in enumerate(lengths.tolist()):
        alone = model.hidden(x[i:i + 1, :, :n * HOP])
        heard = model.decode(codes[i:i + 1, :, :n], Condition(told.label[i:i + 1]))
        worst[0] = max(worst[0], float((h[i:i + 1, :, :n] - alone).abs().max()))
        worst[1] = max(worst[1], float((sound[i:i + 1, :, :n * HOP] - heard).abs().max()))
    ahead = encoder_halo(codec.fields[0])[1], decoder_halo(codec.fields[1])[1]
    for difference, steps in zip(worst, ahead, strict=True):
        assert difference < 1e-5 if known or not steps else difference > 1e-3, worst


def test_where_rounding_depends_on_the_batch_rows_are_run_one_by_one(monkeypatch):
    """A network whose sums come out otherwise in a batch, by as little as a float can tell."""
    def network(x, lengths, labels):
        return x * (1 + 2e-7 * (len(x) > 1))

    windows = [torch.randn(1, 8) for _ in range(4)]
    for trusted in (False, True):
        together = Together(network, torch.randn, 1, 1)
        if trusted:
            monkeypatch.setattr(Together, "exact", lambda *_: True)
        results = together(windows, [0] * 4, most=8, budget=64)
        assert all(torch.equal(a, b) for a, b in zip(results, windows, strict=True)) != trusted


def test_short_windows_do_run_together(codec):
    """Exactness must not come from never running a batch at all."""
    seen = []
    network = codec._encoding.network
    together = Together(lambda x, *more: seen.append(len(x)) or network(x, *more), codec._encoding.noise, HOP, 1)
    together([torch.randn(1, 5 * HOP)] * 4, [-1] * 4, most=40, budget=20)
    assert max(seen) == 4


def test_what_does_not_fit_is_refused(codec):
    waves = torch.randn(2, 900)
    for lengths in ([900], [900, 0], [900, 901]):
        with pytest.raises(ShapeError, match="length of 1 to T"):
            codec.encode_batch(waves, RATE, "anna", lengths)
    with pytest.raises(AudioError, match="shorter than one latent step"):
        codec.encode_batch(waves, RATE, "anna", [900, 63])
    assert codec.encode_batch([], RATE) == [] and codec.decode_batch([]) == []
