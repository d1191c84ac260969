"""Cut anywhere = whole, for any function that looks no further than its halo."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from audiovae.blocks import blockwise, decoder_halo, encoder_halo, partwise
from audiovae.decoders import SpectralDecoder, StridedDecoder
from audiovae.encoders import SpectralEncoder, StridedEncoder
from audiovae.nn.field import Field


def smooth(x):
    return F.conv1d(x.view(1, 1, -1), torch.tensor([[[1.0, 2, 3, 4, 5, 6]]]), padding=0)


def filtered(x):
    """Each output reads 3 before and 2 after; zeros beyond the ends, as convolutions pad."""
    return smooth(F.pad(x, (3, 2))).flatten()


def cuts(length, generator):
    """Random pieces of a length, empty ones among them."""
    ends = sorted(torch.randint(0, length + 1, (7,), generator=generator).tolist())
    return [b - a for a, b in zip([0, *ends], [*ends, length], strict=True)]


@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 100])
@pytest.mark.parametrize("block", [1, 4, 7, 200])
def test_any_cut_gives_the_whole(length, block):
    x = torch.randn(length)
    for seed in range(5):
        pieces = x.split(cuts(length, torch.Generator().manual_seed(seed)))
        result = torch.cat(list(blockwise(pieces, filtered, (3, 2), block, 1, 1)))
        torch.testing.assert_close(result, filtered(x))


def test_a_halo_one_step_too_small_fails_the_same_check():
    x = torch.randn(100)
    for halo in ((2, 2), (3, 1)):
        result = torch.cat(list(blockwise([x], filtered, halo, 7, 1, 1)))
        assert not torch.allclose(result, filtered(x), atol=1e-3)


def test_the_pieces_change_nothing_to_the_last_bit():
    encoder = StridedEncoder(1, 1, 4, strides=(4, 2), width=6)
    x = torch.randn(1, 1, 8 * 301)
    halo = encoder_halo(encoder.field)
    run = lambda pieces: torch.cat(list(blockwise(pieces, encoder, halo, 32, 8, 1)), -1)  # noqa: E731
    whole = run([x])
    for seed in range(4):
        pieces = x.split(cuts(x.shape[-1], torch.Generator().manual_seed(seed)), dim=-1)
        assert torch.equal(run(pieces), whole)


@pytest.mark.parametrize("encoder", [
    StridedEncoder(1, 1, 4, strides=(4, 2), width=6),
    SpectralEncoder(16000, 4, n_fft=64, mel_hop=16, num_mels=8, frames=2, width=8, depth=2),
], ids=["strided", "spectral"])
def test_encoders_in_blocks_equal_the_whole(encoder):
    x = torch.randn(1, 1, 97 * encoder.hop)
    result = torch.cat(list(blockwise([x], encoder, encoder_halo(encoder.field), 10, encoder.hop, 1)), -1)
    torch.testing.assert_close(result, encoder(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", [
    StridedDecoder(1, 4, 1, strides=(4, 2), width=6),
    SpectralDecoder(4, hop=32, n_fft=64, width=8, depth=2),
    SpectralDecoder(4, hop=16, n_fft=64, width=8, depth=1),
], ids=["strided", "spectral", "overlap of four"])
def test_decoders_in_blocks_equal_the_whole(decoder):
    z = torch.randn(1, 4, 97)
    result = torch.cat(list(blockwise([z], decoder, decoder_halo(decoder.field), 10, 1, decoder.hop)), -1)
    torch.testing.assert_close(result, decoder(z), atol=1e-5, rtol=1e-5)


PARTWISE = {
    "strided encoder": (StridedEncoder(1, 1, 4, strides=(4, 2), width=6), 8, 1),
    "spectral encoder": (SpectralEncoder(16000, 4, n_fft=64, mel_hop=16, num_mels=8, width=8, depth=2), 32, 1),
    "strided decoder": (StridedDecoder(1, 4, 1, strides=(4, 2), width=6), 1, 4),
    "spectral decoder": (SpectralDecoder(4, hop=32, n_fft=64, width=8, depth=2, frames=2), 1, 4),
}


@pytest.mark.parametrize("name", PARTWISE)
@pytest.mark.parametrize("block", [1, 3, 100])
def test_part_by_part_is_the_whole(name, block):
    network, unit, channels = PARTWISE[name]
    x = torch.randn(1, channels, 41 * unit)
    pieces = x.split(cuts(x.shape[-1], torch.Generator().manual_seed(block)), dim=-1)
    result = torch.cat(list(partwise(pieces, network.parts(), block, unit)), -1)
    torch.testing.assert_close(result, network(x), atol=1e-5, rtol=1e-5)


def test_a_part_whose_field_is_too_small_fails_the_same_check():
    network, unit, channels = PARTWISE["spectral decoder"]
    x = torch.randn(1, channels, 41)
    parts = network.parts()
    parts[1] = (parts[1][0], replace(parts[1][1], left=parts[1][1].left - 1))
    result = torch.cat(list(partwise([x], parts, 1, unit)), -1)
    assert not torch.allclose(result, network(x), atol=1e-4)


def test_no_part_sees_more_than_its_own_halo_beside_what_is_new():
    seen = {}

    def part(number):
        def process(x):
            seen[number] = max(seen.get(number, 0), x.shape[-1])
            return filtered(x)
        return process, Field.conv(kernel=6, padding=3)

    x = torch.randn(100)
    result = torch.cat(list(partwise(x.split(1), [part(i) for i in range(5)], 1, 1)))
    for _ in range(5):
        x = filtered(x)
    torch.testing.assert_close(result, x)
    assert seen == dict.fromkeys(range(5), 6)


def test_only_the_halo_and_a_block_are_held():
    seen = []
    process = lambda x: seen.append(x.shape[-1]) or x  # noqa: E731
    for _ in blockwise((torch.zeros(3) for _ in range(1000)), process, (3, 2), 10, 1, 1):
        pass
    assert max(seen) == 15


def test_entries_that_do_not_fill_a_step_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        list(blockwise([torch.zeros(9)], lambda x: x, (0, 0), 4, 4, 4))
