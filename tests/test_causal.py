"""Causal codecs: the latency they state is the truth, by gradient, and packets give what the whole gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_codec import PARTS, RATE, build
from test_field import always_active

from audiovae.bottlenecks import RVQConfig
from audiovae.codec import Codec
from audiovae.config import from_dict, to_dict
from audiovae.decoders import SpectralDecoder, StridedDecoderConfig
from audiovae.encoders import SpectralEncoder, SpectralEncoderConfig, StridedEncoderConfig
from audiovae.errors import ConfigError
from audiovae.models import AutoencoderConfig
from audiovae.nn.field import compose
from audiovae.shapes import DataSpec

SPECTRAL, STRIDED = PARTS["spectral"], PARTS["strided"]
HOP = 64
CAUSAL = {
    "spectral": tuple(replace(part, lookahead=0) for part in SPECTRAL),
    "two frames a step": (replace(SPECTRAL[0], lookahead=0), replace(SPECTRAL[1], lookahead=0, frames=2)),
    "some lookahead": (replace(SPECTRAL[0], lookahead=4), replace(SPECTRAL[1], lookahead=1)),
    "causal decoder alone": (SPECTRAL[0], replace(SPECTRAL[1], lookahead=0)),
    "strided": tuple(replace(part, lookahead=0) for part in STRIDED),
}
ALL = {**CAUSAL, **{f"{name}, both sides": parts for name, parts in PARTS.items()}}


@pytest.fixture(params=ALL)
def codec(request, monkeypatch):
    monkeypatch.setitem(PARTS, "tried", ALL[request.param])
    return Codec(build("tried"))


def named(name, monkeypatch):
    monkeypatch.setitem(PARTS, "tried", ALL[name])
    return Codec(build("tried"))


def waits(codec):
    """For each output sample of one hop: how many input samples from it on it depends on, by gradient."""
    encoder, decoder = always_active(codec.model.encoder), always_active(codec.model.decoder)
    left, right = (reach // HOP + 2 for reach in compose(*codec.fields).halo)
    x = torch.rand(1, 1, (left + 1 + right) * HOP, dtype=torch.float64, requires_grad=True)
    y = decoder(encoder(x))
    found = []
    for position in range(left * HOP, (left + 1) * HOP):
        (gradient,) = torch.autograd.grad(y[0, 0, position], x, retain_graph=True)
        found.append(int(gradient[0, 0].nonzero()[-1]) + 1 - position)
    return found


def test_no_output_sample_depends_on_input_later_than_the_latency_and_one_does_up_to_it(codec):
    latency = round(codec.latency * RATE)
    found = waits(codec)
    assert max(found) <= latency
    assert latency - max(found) <= 2, "tight, but for window ends that are 0"


def test_latency_in_closed_form(monkeypatch):
    """A step of input, and what its last frame overlaps with the next step."""
    assert named("strided", monkeypatch).latency == HOP / RATE
    assert named("spectral", monkeypatch).latency == (HOP + 64) / RATE
    assert named("two frames a step", monkeypatch).latency == (HOP + 96) / RATE
    assert named("some lookahead", monkeypatch).latency == (HOP + 64 + 5 * HOP) / RATE


def test_a_causal_codec_with_frames_that_are_centred_is_caught(monkeypatch):
    """The gradient test must be able to fail."""
    codec = named("spectral", monkeypatch)
    latency = round(codec.latency * RATE)
    stft = codec.model.encoder.mel.stft
    stft.padding = (stft.size - stft.hop) // 2
    assert max(waits(codec)) > latency


def test_packets_of_one_step_are_the_whole(codec):
    wave = torch.randn(HOP * 60 + 11)
    whole = codec.encode(wave, RATE, "bert")
    sound = codec.decode(whole)
    codec.block = 1
    for size in (HOP, 50, 200):
        packets = list(codec.encode_stream(wave.split(size)))
        assert {packet.shape for packet in packets} == {(2, 1)}
        assert np.array_equal(np.concatenate(packets, axis=1), whole.levels[0])
    pieces = list(codec.decode_stream(packets, lambda: len(wave), "bert"))
    torch.testing.assert_close(torch.cat(pieces), sound, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["spectral", "some lookahead"])
def test_a_packet_is_given_as_soon_as_the_latency_allows(name, monkeypatch):
    codec = named(name, monkeypatch)
    codec.block, fed, done = 1, 0, 0
    wave = torch.randn(HOP * 40)

    def microphone():
        nonlocal fed
        for packet in wave.split(HOP):
            fed += HOP
            yield packet

    for piece in codec.decode_stream(codec.encode_stream(microphone()), lambda: len(wave)):
        if fed < len(wave):
            assert fed - done == round(codec.latency * RATE)
        done += len(piece)
    assert done == len(wave)


def test_weights_fit_whichever_way_the_stack_looks():
    """Only the padding differs; and a model saved before there was a choice still means both sides."""
    both, causal = (AutoencoderConfig(encoder=encoder, decoder=decoder, bottleneck=RVQConfig(dim=4))
                    for encoder, decoder in (SPECTRAL, CAUSAL["spectral"]))
    spec = DataSpec(1, 1, RATE)
    causal.build(spec).load_state_dict(both.build(spec).state_dict())
    saved = to_dict(both)
    del saved["encoder"]["lookahead"], saved["decoder"]["lookahead"]
    assert from_dict(AutoencoderConfig, saved) == both


@pytest.mark.parametrize(("make", "words"), [
    (lambda: SpectralEncoder(RATE, 4, n_fft=128, mel_hop=32, num_mels=8, depth=2, lookahead=7), "0 to 6 steps"),
    (lambda: SpectralDecoder(4, hop=64, n_fft=128, depth=1, lookahead=-1), "0 to 3 steps"),
    (lambda: SpectralEncoder(RATE, 4, mean_seconds=0.5, lookahead=0), "mean_seconds"),
    (lambda: StridedEncoderConfig(lookahead=2).build(DataSpec(1, 1, RATE), 4), "lookahead 0"),
    (lambda: StridedDecoderConfig(lookahead=0).build(DataSpec(1, 2), 4, 1, 0), "one grid axis"),
    (lambda: from_dict(SpectralEncoderConfig, {"lookahead": -1}), "lookahead"),
    (lambda: SpectralDecoder(4, hop=128, n_fft=64, lookahead=0), "hold their hop"),
])
def test_a_lookahead_that_cannot_be_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
