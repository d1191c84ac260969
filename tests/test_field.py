"""Receptive fields: what a stack says it reads is what its gradient reaches."""

import pytest
import torch

from audiovae.blocks import decoder_halo, encoder_halo
from audiovae.decoders import SpectralDecoder, StridedDecoder
from audiovae.encoders import SpectralEncoder, StridedEncoder
from audiovae.nn.field import Field, compose


def always_active(module):
    """Weights made positive: no rectifier is off, so that the gradient reaches all that is read."""
    for parameter in module.parameters():
        parameter.data.abs_()
    return module.double()


def encoders():
    return {
        "strided": StridedEncoder(1, 1, 4, strides=(4, 2), width=6, depth=2, growth=3),
        "spectral": SpectralEncoder(16000, 4, n_fft=64, mel_hop=16, num_mels=8, frames=2, width=8, depth=2),
        "odd window": SpectralEncoder(16000, 4, n_fft=80, mel_hop=40, num_mels=6, frames=3, width=8, depth=1),
    }


def decoders():
    return {
        "strided": StridedDecoder(1, 4, 1, strides=(4, 2), width=6, depth=2, growth=3),
        "spectral": SpectralDecoder(4, hop=32, n_fft=64, width=8, depth=2),
        "long window": SpectralDecoder(4, hop=16, n_fft=64, width=8, depth=1),
    }


def reached(function, size, channels, position):
    """First and last input index that output ``position`` has any gradient to."""
    x = torch.rand(1, channels, size, dtype=torch.float64, requires_grad=True)
    function(x)[0, :, position].sum().backward()
    touched = x.grad.abs().sum((0, 1)).nonzero().flatten()
    return int(touched[0]), int(touched[-1])


@pytest.mark.parametrize("name", encoders())
def test_an_encoder_reads_what_its_field_says_and_no_more(name):
    encoder = always_active(encoders()[name])
    hop, position = encoder.hop, 20
    first, last = reached(encoder, 41 * hop, 1, position)
    low = position * encoder.field.stride - encoder.field.left
    high = position * encoder.field.stride + encoder.field.right
    assert low <= first and last <= high
    assert first - low <= 2 and high - last <= 2  # tight, but for window ends that are zero


@pytest.mark.parametrize("name", decoders())
def test_a_decoder_reads_what_its_field_says_and_no_more(name):
    decoder = always_active(decoders()[name])
    size = 61
    for position in (30 * decoder.hop, 30 * decoder.hop + decoder.hop // 2, 31 * decoder.hop - 1):
        first, last = reached(decoder, size, 4, position)
        low = position * decoder.field.stride - decoder.field.left
        high = position * decoder.field.stride + decoder.field.right
        assert low <= first and last <= high
    left, right = decoder_halo(decoder.field)
    firsts = [reached(decoder, size, 4, 30 * decoder.hop + i)[0] for i in (0, 1)]
    lasts = [reached(decoder, size, 4, 31 * decoder.hop - i)[1] for i in (1, 2)]
    assert 30 - min(firsts) == left and max(lasts) - 30 == right  # the halo is just what is needed


def test_halos_of_an_encoder_are_just_what_is_needed():
    encoder = always_active(encoders()["strided"])
    left, right = encoder_halo(encoder.field)
    first, last = reached(encoder, 41 * encoder.hop, 1, 20)
    assert 20 - first // encoder.hop == left and last // encoder.hop - 20 == right


def test_composition_is_that_of_index_sets():
    """o reads m in [o s2 - l2, o s2 + r2], each m reads i in [m s1 - l1, m s1 + r1]."""
    a, b = Field.conv(5, stride=2, padding=1), Field.conv(3, stride=3, dilation=2, padding=2)
    both = compose(a, b)
    for o in range(4):
        ms = [o * 3 - 2 + 2 * j for j in range(3)]
        indices = [m * 2 - 1 + j for m in ms for j in range(5)]
        assert min(indices) == o * both.stride - both.left
        assert max(indices) == o * both.stride + both.right
