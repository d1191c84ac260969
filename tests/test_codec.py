"""The codec: chunked = whole, batch = one by one, the exact length, and nothing from another model."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from processes import script

from audiovae.bottlenecks import RVQConfig
from audiovae.codec import Codec
from audiovae.decoders import SpectralDecoderConfig, StridedDecoderConfig
from audiovae.encoders import SpectralEncoderConfig, StridedEncoderConfig
from audiovae.errors import AudioError, CheckpointError, CodeFileError, ConfigError, LabelError, ShapeError
from audiovae.models import AutoencoderConfig
from audiovae.shapes import Condition, DataSpec

RATE = 8000
PARTS = {
    "spectral": (SpectralEncoderConfig(n_fft=128, mel_hop=32, num_mels=12, width=16, depth=2),
                 SpectralDecoderConfig(hop=64, n_fft=128, width=16, depth=2)),
    "mean taken off": (SpectralEncoderConfig(n_fft=128, mel_hop=32, num_mels=12, width=16, depth=1, mean_seconds=0.5),
                       SpectralDecoderConfig(hop=64, n_fft=256, width=16, depth=1)),
    "strided": (StridedEncoderConfig(strides=(4, 4, 4), width=8, depth=2),
                StridedDecoderConfig(strides=(4, 4, 4), width=8, depth=2)),
}


def build(name, labels=("anna", "bert", "carl")):
    """A random model whose codebooks are drawn from its own latents, so that many codes are used."""
    torch.manual_seed(1)
    encoder, decoder = PARTS[name] if isinstance(name, str) else name
    model = AutoencoderConfig(encoder=encoder, decoder=decoder, condition_dim=4 if labels else 0,
                              bottleneck=RVQConfig(num_codes=16, num_quantizers=2, dim=6)).build(
        DataSpec(1, 1, RATE, labels))
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(4, 1, 64 * 50))
    return model.eval()


@pytest.fixture(params=PARTS)
def codec(request):
    codec = Codec(build(request.param))
    codec.block = 20  # many blocks in a short recording
    return codec


@pytest.fixture
def small():
    return Codec(build("spectral"))


def test_cut_anywhere_gives_the_codes_and_the_sound_of_the_whole(codec):
    wave = torch.randn(codec.hop * 137)
    whole = codec.model.encode(wave[None, None], beam=codec.beam)[0]
    sound = codec.model.decode(whole[None], Condition(torch.tensor([1])))[0, 0]
    assert len(whole.unique()) > 8
    first = None
    for ends in ([], [1], [codec.hop * 20, codec.hop * 40], [333, 334, 5000], list(range(0, len(wave), 700))):
        pieces = [wave[a:b] for a, b in pairwise([0, *ends, len(wave)])]
        blocks = list(codec.encode_stream(pieces))
        assert np.array_equal(np.concatenate(blocks, axis=1), whole.numpy())
        parts = np.array_split(whole.numpy(), len(ends) + 1, axis=1)
        decoded = torch.cat(list(codec.decode_stream(parts, lambda: len(wave), "bert")))
        torch.testing.assert_close(decoded, sound, atol=1e-5, rtol=0)
        first = decoded if first is None else first
        assert torch.equal(decoded, first), "of the same blocks, whatever the cut: equal to the last bit"


def test_in_bfloat16_too_the_parts_of_a_recording_are_those_of_the_whole(small):
    """In bfloat16 indeed, near single precision, of the same fingerprint, cut anywhere and in any batch."""
    lean = Codec(small.model, precision="bf16")
    assert all(weight.dtype == torch.float32 for weight in small.model.parameters()), "a copy is rounded"
    kinds = {name: weight.dtype for name, weight in lean.model.named_parameters()}
    assert {kinds[name] for name in kinds if "expand.weight" in name or "project.weight" in name} == {torch.bfloat16}
    assert {kinds[name] for name in kinds if "depthwise" in name or "norm" in name} == {torch.float32}
    lean.block = small.block = 20
    wave = torch.randn(small.hop * 137)
    codes, near = small.encode(wave, RATE), lean.encode(wave, RATE)
    assert codes.fingerprint == near.fingerprint and np.mean(codes.levels[0] == near.levels[0]) > 0.7
    sound, again = small.decode(codes, "bert"), lean.decode(codes, "bert")
    assert 0 < (sound - again).norm() < 0.02 * sound.norm()
    pieces = list(lean.encode_stream(wave.split(700)))
    assert np.array_equal(np.concatenate(pieces, axis=1), near.levels[0])
    assert torch.equal(lean.decode(codes, "bert", 0.3, 0.7), again[round(0.3 * RATE):round(0.7 * RATE)])
    for its, alone in zip(lean.encode_batch([wave, wave[:5000]], RATE), (near, lean.encode(wave[:5000], RATE)),
                          strict=True):
        assert np.array_equal(its.levels[0], alone.levels[0])


def test_bfloat16_is_refused_where_nothing_would_gain():
    """Of convolutions, told a speaker or not, and where only one of encoder and decoder has what gains."""
    spectral, strided = PARTS["spectral"], PARTS["strided"]
    for parts, labels, which in ((strided, (), "encoder"), (strided, ("anna", "bert"), "encoder"),
                                 ((strided[0], spectral[1]), (), "encoder"),
                                 ((spectral[0], strided[1]), (), "decoder")):
        with pytest.raises(ConfigError, match=f"this model's {which} has none: leave it at 'no'"):
            Codec(build(parts, labels), precision="bf16")
    with pytest.raises(ConfigError, match="a precision is no or bf16, got 'fp16'"):
        Codec(build("spectral"), precision="fp16")


def test_a_batch_is_its_recordings_one_by_one(codec):
    waves = torch.randn(5, 1, codec.hop * 30)
    with torch.no_grad():
        batch = codec.model.encode(waves, beam=codec.beam)
        sounds = codec.model.decode(batch)
    for wave, codes, sound in zip(waves, batch, sounds, strict=True):
        assert torch.equal(codec.model.encode(wave[None], beam=codec.beam)[0], codes)
        torch.testing.assert_close(codec.model.decode(codes[None])[0], sound, atol=1e-5, rtol=0)


def test_decoded_is_exactly_as_long_as_encoded(codec):
    for rest in range(codec.hop):
        wave = torch.randn(codec.hop * 21 + rest)
        codes = codec.encode(wave, RATE, "anna")
        assert codes.levels[0].shape == (2, -(-len(wave) // codec.hop))
        assert codec.decode(codes).shape == wave.shape


def test_a_halo_that_is_too_short_is_seen(codec, monkeypatch):
    """The check of cuts above must be able to fail."""
    wave = torch.randn(codec.hop * 137)
    whole = codec.decode(codec.encode(wave, RATE, "anna"))
    codec.block = 1000
    uncut = codec.decode(codec.encode(wave, RATE, "anna"))
    torch.testing.assert_close(whole, uncut, atol=1e-5, rtol=0)
    codec.block = 20
    monkeypatch.setattr("audiovae.codec.decoder_halo", lambda field: (0, 0))
    assert (codec.decode(codec.encode(wave, RATE, "anna")) - uncut).abs().max() > 1e-3


def test_no_recording_depends_on_those_before_it(codec):
    waves = [torch.randn(codec.hop * n) for n in (30, 7, 55)]
    alone = [Codec(codec.model).encode(wave, RATE, "carl").levels[0] for wave in waves]
    for wave, codes in zip(waves, alone, strict=True):
        assert np.array_equal(codec.encode(wave, RATE, "carl").levels[0], codes)


def test_codes_survive_their_file(small, tmp_path):
    codes = small.encode(torch.randn(6000), RATE)
    codes.save(tmp_path / "a.codes")
    again = type(codes).load(tmp_path / "a.codes")
    assert torch.equal(small.decode(again), small.decode(codes))


def test_rates_channels_and_types(small):
    wave = np.random.default_rng(0).standard_normal((2, 44100))
    codes = small.encode(wave, 44100, "anna")
    assert codes.num_samples == RATE
    assert np.array_equal(small.encode(torch.from_numpy(wave.mean(0)), 44100, "anna").levels[0], codes.levels[0])


def test_the_closest_speaker_is_found(small, monkeypatch):
    """Voices that differ by construction: each a tone of its own over breath, whatever the codes say."""
    t = torch.arange(RATE * 8) / RATE
    tones = torch.stack([0.3 * torch.sin(2 * torch.pi * pitch * t) for pitch in (200.0, 700.0, 1800.0)])
    tones += 0.02 * torch.randn(RATE * 8)
    monkeypatch.setattr(small.model, "params",
                        lambda z, condition: tones[condition.label, None, :z.shape[-1] * small.hop])
    for speaker, tone in zip(small.speakers, tones, strict=True):
        wave = torch.cat([torch.zeros(RATE), 0.9 * tone[:RATE * 5] + 0.002 * torch.randn(RATE * 5)])
        assert small.closest_speaker(wave) == speaker
        assert small.encode(wave, RATE).label == speaker
        assert small.encode(wave, RATE, "anna").label == "anna", "what is stated is not searched for"
    assert small.closest_speaker(tones[1, :100]) == "bert", "shorter than what is listened to"


def test_codes_of_another_model_are_refused(small):
    codes = small.encode(torch.randn(4000), RATE, "anna")
    with pytest.raises(CodeFileError, match="not of model"):
        Codec(build("strided")).decode(codes)


def test_bad_input_is_a_typed_error(small):
    with pytest.raises(AudioError, match="NaN"):
        small.encode(torch.full((4000,), float("nan")), RATE)
    with pytest.raises(AudioError, match="shorter than one latent step"):
        small.encode(torch.randn(63), RATE)
    with pytest.raises(ShapeError, match="floating point"):
        small.encode(torch.zeros(4000, dtype=torch.int16), RATE)
    for shape in ((0,), (4000, 2), (1, 2, 4000)):
        with pytest.raises(ShapeError):
            small.encode(torch.zeros(shape), RATE)
    with pytest.raises(LabelError, match="nearest: anna"):
        small.encode(torch.randn(4000), RATE, speaker="ana")
    with pytest.raises(LabelError, match="not told who speaks"):
        Codec(build("strided", labels=())).encode(torch.randn(4000), RATE, "anna")


def test_a_model_without_codes_is_no_codec():
    from audiovae.bottlenecks import GaussianConfig

    encoder, decoder = PARTS["strided"]
    model = AutoencoderConfig(encoder=encoder, decoder=decoder, bottleneck=GaussianConfig(dim=4)).build(
        DataSpec(1, 1, RATE))
    with pytest.raises(CheckpointError, match="discrete bottleneck"):
        Codec(model)


MEMORY = """
import sys, numpy as np, soundfile, torch
from pathlib import Path
from audiovae.audio.io import AudioWriter
from audiovae.codec import Codec
from audiovae.metrics import peak_memory
from audiovae.transcode import decode_file, encode_file
sys.path.insert(0, "tests")
from test_codec import RATE, build
folder, minutes = Path(sys.argv[1]), int(sys.argv[2])
with AudioWriter(folder / "in.wav", RATE) as writer:
    for i in range(minutes * 6):
        writer.write(0.1 * torch.randn(10 * RATE))
codec = Codec(build("spectral"))
encode_file(codec, folder / "in.wav", folder / "a.codes", "anna")
decode_file(codec, folder / "a.codes", folder / "out.wav")
assert soundfile.info(folder / "out.wav").frames == minutes * 60 * RATE
print(peak_memory())
"""


def test_a_long_recording_needs_no_more_memory_than_a_short_one(tmp_path):
    def peak(minutes):
        return int(script(MEMORY, tmp_path, minutes).stdout)

    assert peak(15) - peak(1) < 0.5 * 14 * 60 * RATE * 4  # half of what the rest of the recording takes
