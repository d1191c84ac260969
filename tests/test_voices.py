"""Voices heard in recordings: the decoder's reach, chunks and wholes, what a reference changes, enrolment, files."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from processes import run
from safetensors import safe_open
from test_commands import refused
from test_pitch import HOP, RATE, sung

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.corpus import Corpus
from audiovae.audio.excitation import Excitation
from audiovae.audio.features import STFT, overlap_add
from audiovae.audio.io import CONVERTED
from audiovae.audio.pitch import Prosody, level, prosody
from audiovae.audio.scroll import Scroll
from audiovae.checkpoint import save_model, write_tensors
from audiovae.cli import main
from audiovae.codec import Codec
from audiovae.commands.targets import files_of
from audiovae.convert import Converter, moved
from audiovae.criteria import LogMelL1
from audiovae.decoders import SourceFilterDecoderConfig, vector_decoder
from audiovae.differential import DifferentialFilter, Speaker
from audiovae.encoders import SpectralEncoder, warping
from audiovae.enrolment import enroll
from audiovae.equalisation import equalised, long_term_spectrum
from audiovae.errors import CheckpointError, ConfigError, ShapeError, VoiceError
from audiovae.models import AutoencoderConfig
from audiovae.models.example import voice_config, voice_model
from audiovae.retrieval import Kept, Latents, retrieved
from audiovae.shapes import Condition, DataSpec
from audiovae.source_filter import SourceFilterDecoder
from audiovae.train import Experiment, TrainConfig, train
from audiovae.transport import Moments
from audiovae.voice_data import VoiceData, VoiceSampler
from audiovae.voices import Voice, hear, load_voice


def speech(low, high, seconds=3.0, seed=0):
    """Words of a buzz with pauses between, (T,)."""
    pitch = np.geomspace(low, high, round(seconds * RATE))
    loud = np.sin(2 * np.pi * 1.5 * np.arange(len(pitch)) / RATE) > -0.5
    return torch.from_numpy(sung(pitch, seed) * loud.astype(np.float32))


@pytest.fixture(scope="module")
def converter():
    torch.manual_seed(0)
    model = voice_model()
    for parameter in model.parameters():  # untrained conditioning is the identity: here it must be heard
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1 / parameter.shape[1] ** 0.5)
    return Converter(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, converter):
    path = tmp_path_factory.mktemp("voice-model")
    save_model(path, converter.model, voice_config())
    return path


def inputs(length, decoder):
    z = torch.randn(1, decoder.channels_in, length)
    told = Condition(prosody=torch.randn(1, 3, 2 * length), excitation=torch.randn(1, 2, length * decoder.hop))
    return z, told


def test_the_decoder_reads_what_its_field_says():
    decoder = SourceFilterDecoder(channels_in=4, width=8, depth=1, kernel=3)
    z, told = inputs(30, decoder)
    for leaf in (z, told.prosody, told.excitation):
        leaf.requires_grad_(True)
    start = 15 * decoder.hop
    out = decoder(z, None, told)[0, 0, start:start + decoder.hop]
    (out * torch.randn_like(out)).sum().backward()
    first = int(np.floor(15 - decoder.field.left))
    last = int(np.floor((start + decoder.hop - 1) / decoder.hop + decoder.field.right))
    for leaf, unit in ((z, 1), (told.prosody, 2), (told.excitation, decoder.hop)):
        used = leaf.grad.abs().sum((0, 1)).nonzero().flatten() // unit
        assert first <= used.min() and used.max() <= last
    assert z.grad.abs().sum((0, 1)).nonzero().flatten().min() <= first + 1  # and the field is no wider than it need be


def test_a_decoder_without_its_prosody_says_so():
    decoder = SourceFilterDecoder(channels_in=4, width=8, depth=1)
    z, told = inputs(5, decoder)
    with pytest.raises(ShapeError, match="prosody"):
        decoder(z, None, None)
    with pytest.raises(ShapeError, match="excitation"):
        decoder(z[..., :4], None, told)
    with pytest.raises(ConfigError, match="voice"):
        AutoencoderConfig(decoder=SourceFilterDecoderConfig()).build(DataSpec(1, 1, sample_rate=RATE))
    with pytest.raises(ConfigError, match="grid"):
        vector_decoder(SourceFilterDecoderConfig(), DataSpec(1, 1, RATE, size=(3200,), prosody=HOP), 4, 1, 0)


def test_pitch_moves_with_what_the_decoder_is_told():
    decoder = SourceFilterDecoder(channels_in=4, width=8, depth=1)
    for parameter in decoder.head.parameters():  # filters that let everything pass
        torch.nn.init.zeros_(parameter)
    z = torch.zeros(1, 4, 100)
    for hertz in (100.0, 200.0):  # whole samples: pulses this bright are not alike half a sample off
        pitch = np.full(200, hertz, np.float32)
        told = Prosody(pitch, np.ones(200, bool), np.full(200, -20, np.float32)).tensor()[None]
        with torch.no_grad():
            pulses = Excitation(pitch, RATE, HOP)(0, 200) * torch.tensor([[1.0], [0.01]])  # hardly any noise
            said = decoder(z, None, Condition(prosody=told, excitation=pulses[None]))
        found = prosody(said[0, 0], RATE, HOP)
        assert abs(np.median(found.pitch) / hertz - 1) < 0.02


@pytest.mark.parametrize("mode, passes, likeness", [("codes", 2, 1.0), ("latents", 1, 1.0), ("clear", 1, 1.0),
                                                    ("clear", 1, 0.0)])
def test_chunks_are_the_whole(converter, monkeypatch, mode, passes, likeness):
    source, voice = speech(100, 160, 6.0), converter.hear([speech(180, 240)])
    whole = converter.convert(source, RATE, voice, mode=mode, passes=passes, likeness=likeness)
    monkeypatch.setattr("audiovae.convert.BLOCK", 23)
    monkeypatch.setattr(converter.codec, "block", 31)
    parts = torch.cat(list(converter.stream(source.split(999), source.split(5001), lambda: len(source), voice,
                                            mode=mode, passes=passes, likeness=likeness)))
    assert len(parts) == len(source)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_what_was_said_is_coded_and_said_again(converter, monkeypatch):
    source, voice = speech(100, 160), converter.hear([speech(180, 240)])
    once, thrice = (converter.convert(source, RATE, voice, mode="codes", passes=passes) for passes in (1, 3))
    coded, real = [], converter.codec.encode_stream

    def watched(pieces, read):
        coded.append(torch.cat(list(pieces)))
        return real([coded[-1]], read)

    monkeypatch.setattr(converter.codec, "encode_stream", watched)
    twice = converter.convert(source, RATE, voice, mode="codes", passes=2)
    assert len(coded) == 2 and torch.equal(coded[0], source)
    torch.testing.assert_close(coded[1][:len(once)], once)
    again = torch.cat(list(converter.stream([source], [source], lambda: len(source), voice, mode="codes", passes=3)))
    assert torch.equal(again, thrice) and torch.equal(coded[4][:len(twice)], twice)
    assert not torch.allclose(once, twice, atol=1e-3) and not torch.allclose(twice, thrice, atol=1e-3)


def test_latents_go_a_part_of_the_way_to_their_neighbours():
    latents, bank = torch.randn(1, 4, 700), torch.randn(4, 90)
    moved = retrieved(latents, bank, share=0.3, neighbours=3)
    for step in (0, 311, 699):  # by brute force
        x = latents[0, :, step]
        distance = (bank - x[:, None]).norm(dim=0)
        near = sorted(range(90), key=lambda n: float(distance[n]))[:3]
        weight = torch.tensor([float(distance[n]) ** -2 for n in near])
        mean = (bank[:, near] * weight).sum(1) / weight.sum()
        torch.testing.assert_close(moved[0, :, step], 0.7 * x + 0.3 * mean, atol=1e-4, rtol=1e-4)
    assert torch.equal(retrieved(latents, bank, share=0.0), latents)
    torch.testing.assert_close(retrieved(bank[None], bank, share=1.0), bank[None], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(retrieved(latents[..., 100:200], bank, 0.3, 3), moved[..., 100:200])
    torch.testing.assert_close(retrieved(latents, bank[:, :1], share=1.0), bank[None, :, :1].expand(1, 4, 700))
    with pytest.raises(ConfigError, match="from 0"):
        retrieved(latents, bank, share=1.5)
    for wrong in (bank[:3], bank[:, :0]):
        with pytest.raises(ShapeError, match="bank"):
            retrieved(latents, wrong, share=0.5)


def test_retrieval_draws_on_the_recordings_of_the_voice(converter):
    source, one, other = speech(90, 250, seed=7), speech(180, 240, seed=2), speech(180, 240, 5.0, seed=3)
    voice = converter.hear([one, other])  # some of what the source says is not said there
    hidden = [converter.model.hidden(wave[None, None])[0] for wave in (one, other)]
    torch.testing.assert_close(voice.hidden.float(), torch.cat(hidden, dim=1), atol=1e-4, rtol=1e-3)
    none, half, whole = (converter.convert(source, RATE, voice, mode="codes", retrieval=share, transport=False)
                         for share in (0.0, 0.5, 1.0))
    assert not torch.allclose(none, half, atol=1e-3) and not torch.allclose(half, whole, atol=1e-3)
    own = converter.hear([source])
    mute = replace(voice, hidden=own.hidden, loud=own.loud)  # all that is said lies there: nothing moves
    for transport in (False, True):
        same = converter.convert(source, RATE, mute, mode="codes", retrieval=1.0, transport=transport)
        torch.testing.assert_close(same, none, atol=1e-4, rtol=0)
    clear = [converter.convert(source, RATE, its, mode="clear", retrieval=1.0) for its in (voice, mute)]
    assert not torch.allclose(*clear, atol=1e-3)
    with pytest.raises(ConfigError, match="retrieval"):
        converter.convert(source, RATE, voice, retrieval=-0.1)


def test_a_voice_is_heard_and_changes_the_result(converter):
    source = speech(100, 160)
    low, high = converter.hear([speech(80, 110)]), converter.hear([speech(200, 300, seed=1)])
    assert abs(low.hertz - 94) < 8 and abs(high.hertz - 245) < 15
    one, other = (converter.convert(source, RATE, voice, melody="source") for voice in (low, high))
    assert (one - other).abs().max() > 1e-3
    assert torch.equal(one, converter.convert(source, RATE, low, melody="source"))


def test_a_recording_filtered_to_its_own_voice_is_itself(converter):
    source = speech(100, 160)
    own, other = converter.hear([source]), converter.hear([speech(200, 300, seed=1)])
    same, changed = (converter.convert(source, RATE, voice, melody="source", mode="clear", likeness=0.0)
                     for voice in (own, other))
    inner = slice(1000, -1000)  # frames lie less thickly at the ends
    torch.testing.assert_close(same[inner], source[inner], atol=1e-4, rtol=0)
    assert (changed - source)[inner].abs().max() > 0.02 and (same - source).abs().max() < 0.1 * source.abs().max()


def test_a_clear_conversion_has_the_targets_pitch_and_the_sources_loudness(converter):
    source, voice = speech(100, 130), enroll(converter.model, [speech(160, 190)], steps=2)
    wave = converter.convert(source, RATE, voice, mode="clear", likeness=0.0)
    assert abs(12 * np.log2(np.exp(prosody(wave, RATE, HOP).statistics()[0]) / voice.hertz)) < 0.5
    tenths = (x.view(-1, 1600).square().mean(1) for x in (source, wave))  # of a second
    loud, said = (10 * power.clamp(min=1e-6).log10() for power in tenths)
    assert (loud - said).abs().median() < 0.5 and (loud - said)[loud > -25].abs().max() < 3


class Told:
    """A decoder that is the same filter (F,) whatever it is told."""

    stft = STFT(640, HOP)

    def __init__(self, gain):
        self.gain = gain

    def gains(self, z, vector, prosody):
        gain = self.gain.expand(1, prosody.shape[2], -1)
        return 0.6 * gain, None, 0.8 * gain


def test_a_filter_is_the_ratio_of_two_voices():
    """On noise: what comes out has the asked spectrum, and no more of it than the limit."""
    ramp = torch.linspace(-1, 1, 321)
    noise, frames = 0.1 * torch.randn(3 * RATE), 3 * RATE // HOP
    flat = Prosody(np.full(frames, 100, np.float32), np.ones(frames, bool), prosody(noise, RATE, HOP).level)
    for change, wanted in ((ramp, ramp), (50 * torch.sign(ramp), 2.3026 * torch.sign(ramp))):
        own = torch.rand(321).add(0.5)
        voices = (Speaker(Told(its), torch.zeros(1), flat) for its in (own, own * change.exp()))
        filtered = DifferentialFilter(*voices, flat.level, Scroll([noise], 0), RATE)(
            torch.zeros(2, 1, frames // 2), 0, frames)
        ratio = 0.5 * (Told.stft.power(filtered).mean(0) / Told.stft.power(noise).mean(0)).log()
        off = (ratio - wanted)[[*range(10, 150), *range(170, 310)]]
        assert (off - off.mean()).abs().max() < 0.15  # but for a gain, which keeps the loudness
        assert abs(10 * torch.log10(filtered.square().mean() / noise.square().mean())) < 0.3


@pytest.mark.parametrize("likeness, told", [(0.5, True), (1.0, True), (1.0, False)])
def test_what_is_filtered_on_has_the_spectrum_and_the_loudness_of_what_is_spoken(likeness, told):
    """Noise towards another noise, louder by turns and where the first is faint: by as much of the way as asked."""
    frames = 300
    tilt = torch.linspace(-0.8, 0.8, 321)
    loud = torch.sin(torch.arange(frames) / 20).exp().repeat_interleave(HOP)
    noise, other = 0.1 * torch.randn(2, frames * HOP)
    tilted = overlap_add(torch.fft.irfft(Told.stft(other[None]) * tilt.exp(), 640).transpose(1, 2), HOP)[0, 0]
    flat = Prosody(np.full(frames, 100, np.float32), np.ones(frames, bool), prosody(noise, RATE, HOP).level)
    same = Speaker(Told(torch.ones(321)), torch.zeros(1), flat)
    filtered = DifferentialFilter(same if told else None, same, flat.level, Scroll([noise], 0), RATE,
                                  lambda z, first, last: (loud * tilted)[first * HOP:last * HOP], likeness)(
                                      torch.zeros(2, 1, frames // 2), 0, frames)
    near = slice(10, -10)

    def bands(wave):  # ln amplitude, 20 frames by 20 bins
        return 0.5 * Told.stft.power(wave)[near, :320].view(14, 20, 16, 20).mean((1, 3)).log()

    found, before, wanted = bands(filtered), bands(noise), bands(loud * tilted)
    assert (wanted - before).abs().max() > 1.2
    assert (found - torch.lerp(before, wanted, likeness)).abs().max() < 0.2
    if likeness == 1:  # but it is the one noise, not the other
        phase = [torch.angle(Told.stft(its)[near, 20:-20]) for its in (filtered, noise, loud * tilted)]
        assert torch.cos(phase[0] - phase[1]).mean() > 0.9 > 0.1 > torch.cos(phase[0] - phase[2]).mean()


def apart(one, other):
    """How far two waveforms lie apart in ln power, less what each bin is on average."""
    bands = [Told.stft.power(wave).clamp(min=1e-8).log() for wave in (one, other)]
    return float((bands[0] - bands[0].mean(0) - bands[1] + bands[1].mean(0)).abs().mean())


def test_latents_are_rounded_to_codes_where_that_is_asked_for(converter):
    source, voice = speech(100, 160), converter.hear([speech(180, 240)])
    said = {mode: converter.convert(source, RATE, voice, mode=mode, transport=False) for mode in ("latents", "codes")}
    all_codes = Converter(converter.model, kbps=100.0)
    assert torch.equal(all_codes.convert(source, RATE, voice, mode="codes", transport=False), said["codes"])
    model, found = converter.model, prosody(source, RATE, HOP)
    sung = moved(found, voice, "target")
    told = Condition(embedding=voice.vector[None], prosody=sung.tensor()[None],
                     excitation=Excitation(sung.pitch, RATE, HOP)(0, len(sung.pitch))[None])
    h = model.hidden(source[None, None])
    alike = {"latents": model.generate(model.bottleneck.continuous(h), told),
             "codes": model.decode(model.quantize(h, beam=converter.codec.beam), told)}
    for mode, wave in alike.items():  # but for a long-term spectrum and a loudness
        near = {name: apart(wave[0, 0], its) for name, its in said.items()}
        assert near[mode] == min(near.values()) < 0.5 * max(near.values())
    clear = converter.convert(source, RATE, voice), all_codes.convert(source, RATE, voice)
    assert not torch.allclose(*clear, atol=1e-3)
    with pytest.raises(ConfigError, match="leave kbps out"):
        all_codes.convert(source, RATE, voice, mode="latents")


def test_likeness_leads_from_the_ratio_of_voices_to_what_the_decoder_says(converter):
    source, voice = speech(100, 160), converter.hear([speech(180, 240)])
    said = converter.convert(source, RATE, voice, mode="latents")
    assert torch.equal(converter.convert(source, RATE, voice), converter.convert(source, RATE, voice, mode="clear"))
    none, half, whole = (converter.convert(source, RATE, voice, mode="clear", likeness=its) for its in (0.0, 0.5, 1.0))

    def far(wave):
        bands = [Told.stft.power(its)[:, :320].view(-1, 40, 8).mean(2).clamp(min=1e-6).log() for its in (wave, said)]
        return float((bands[0] - bands[1]).abs().mean())

    assert far(whole) < 0.9 * far(half) < 0.81 * far(none)  # a made voice has silence where latents say noise
    with pytest.raises(ConfigError, match="likeness wants a share from 0"):
        converter.convert(source, RATE, voice, mode="clear", likeness=1.5)


def test_a_reference_is_weighed_by_what_it_says(converter):
    reference = converter.model.embedding
    voice = speech(100, 140)[None, None]
    alone = reference.vector(voice)
    assert torch.equal(reference(Condition(embedding=alone), 1), alone)
    with pytest.raises(ShapeError, match="recording"):
        reference(None, 1)


def test_transport_brings_what_is_said_to_where_the_voice_lies(converter):
    source, voice = speech(90, 250, seed=7), converter.hear([speech(180, 240, seed=2), speech(170, 230, 5.0, seed=3)])
    read = converter.model.bottleneck.continuous
    own, bank = read(converter.model.hidden(source[None, None]))[0], read(voice.hidden[None].float())[0]
    own, loud = Kept([own.numpy()]), (torch.ones(own.shape[1], dtype=torch.bool), voice.loud)
    plain, brought = (Latents(own, bank, 0.0, its) for its in (None, loud))
    wanted = Moments.of([brought.bank[:, voice.loud]])
    far, near = (Moments.of([its(0, len(its))[0]]) for its in (plain, brought))
    assert (near.mean - wanted.mean).norm() < 0.01 * (far.mean - wanted.mean).norm()
    assert (near.covariance - wanted.covariance).norm() < 0.5 * (far.covariance - wanted.covariance).norm()
    torch.testing.assert_close(brought(20, 60), brought(0, len(brought))[..., 20:60])
    both = Latents(own, bank, 0.0, loud, beside=True)
    assert torch.equal(both(20, 60), torch.cat([plain(20, 60), brought(20, 60)]))
    said = [converter.convert(source, RATE, voice, retrieval=0.0, transport=its) for its in (False, True)]
    assert not torch.allclose(*said, atol=1e-3)


@pytest.mark.parametrize("room", [1 << 24, 100])
def test_latents_are_kept_as_they_are_in_memory_or_in_a_file(monkeypatch, room):
    monkeypatch.setattr("audiovae.retrieval.IN_MEMORY", room)
    whole = torch.randn(4, 50)
    kept = Kept(part.numpy() for part in whole.split((7, 1, 30, 12), dim=1))
    assert len(kept) == 50 and torch.equal(kept[0:50], whole) and torch.equal(kept[6:9], whole[:, 6:9])
    assert torch.equal(kept[45:60], whole[:, 45:]) and torch.equal(kept[0:1], whole[:, :1])


def test_pauses_are_not_transported_by():
    """What is said is brought to the same place, whether or not a pause follows."""
    own, bank, pause = torch.randn(4, 90), 2 + 3 * torch.randn(4, 70), torch.zeros(4, 100)
    loud, quiet, there = (torch.full((n,), its) for n, its in ((90, True), (100, False), (70, True)))
    alone = Latents(Kept([own.numpy()]), bank, 0.0, (loud, there))(0, 90)
    followed = Latents(Kept([own.numpy(), pause.numpy()]), bank, 0.0, (torch.cat([loud, quiet]), there))
    torch.testing.assert_close(followed(0, 90), alone)
    assert not torch.allclose(alone, own[None], atol=0.1)
    silent = Latents(Kept([pause.numpy()]), bank, 0.0, (quiet, there))
    assert torch.equal(silent(0, 100), silent.plain(0, 100))


def test_melodies():
    frames = np.array([100, 120, 140, 100], np.float32)
    source = Prosody(frames, np.array([True, True, True, False]), np.zeros(4, np.float32))
    assert moved(source, None, "source") is source
    np.testing.assert_allclose(moved(source, None, -12.0).pitch, frames / 2, rtol=1e-5)
    target = Voice(torch.zeros(1), torch.zeros(1), np.log(200), source.statistics()[1], 5.0, "", torch.zeros(1, 1),
                   torch.ones(1) > 0)
    sung_so = moved(source, target, "target")
    logs = np.log(sung_so.pitch[:3])
    assert abs(logs.mean() - np.log(200)) < 1e-3 and abs(logs.std() - target.spread) < 1e-3
    unvoiced = Prosody(np.zeros(4, np.float32), np.zeros(4, bool), np.zeros(4, np.float32))
    assert moved(unvoiced, target, "target") is unvoiced


@pytest.mark.parametrize("wave, said", [
    (torch.zeros(3 * RATE), "no sound"), (speech(100, 120, 0.3), "too little"),
    (0.1 * torch.randn(3 * RATE), "too little")], ids=["silence", "a syllable", "noise"])
def test_what_holds_no_voice_is_refused(converter, wave, said):
    with pytest.raises(VoiceError, match=said):
        converter.hear([wave])


def test_a_recording_without_speech_has_no_voice_to_be_filtered_from(converter):
    voice, noise = converter.hear([speech(100, 140)]), 0.1 * torch.randn(2 * RATE)
    with pytest.raises(VoiceError, match=r"in 2\.0 s of the recording, .* mode latents"):
        converter.convert(noise, RATE, voice, mode="clear", likeness=0.9)
    for mode in ("codes", "clear"):
        assert len(converter.convert(noise, RATE, voice, mode=mode)) == len(noise)


def test_a_voice_is_kept_in_a_file(converter, tmp_path):
    voice = enroll(converter.model, [speech(100, 140)], steps=2)
    voice.save(tmp_path / "a.voice")
    again = Voice.load(tmp_path / "a.voice")
    assert again.vector.equal(voice.vector) and again.seconds == voice.seconds and again.pitch == voice.pitch
    source = speech(150, 200)
    torch.testing.assert_close(converter.convert(source, RATE, again), converter.convert(source, RATE, voice),
                               atol=1e-3, rtol=0)
    data = (tmp_path / "a.voice").read_bytes()
    for broken in (data[:100], b"", data[:-50], b"RIFF" + data[4:]):
        (tmp_path / "b.voice").write_bytes(broken)
        with pytest.raises(VoiceError, match="whole voice file"):
            Voice.load(tmp_path / "b.voice")
    torch.manual_seed(5)
    with pytest.raises(VoiceError, match="another model"):
        Converter(voice_model()).convert(source, RATE, voice)


def test_enrolment_comes_nearer_and_changes_nothing_else(converter):
    model, wave = converter.model, speech(100, 140)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source, plain = speech(150, 200), converter.hear([speech(200, 300, seed=1)])
    other = converter.convert(source, RATE, plain)
    voice = enroll(model, [wave, speech(110, 130, 2.0)], steps=40)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(converter.convert(source, RATE, plain), other)
    mel = LogMelL1(RATE)
    distance = [float(mel(converter.convert(wave, RATE, its)[None, None], wave[None, None]))
                for its in (converter.hear([wave]), voice)]
    assert distance[1] < 0.97 * distance[0]
    same = enroll(model, [wave], steps=2, seed=3)
    again = enroll(model, [wave], steps=2, seed=3)
    assert all(torch.equal(value, again.weights[name]) for name, value in same.weights.items())


def test_a_codec_codes_but_does_not_speak(converter):
    codec = Codec(converter.model)
    codes = codec.encode(speech(100, 120), RATE)
    assert codes.levels[0].shape[0] == 2 and codec.speakers == ()
    with pytest.raises(ShapeError, match="ReferenceEncoder"):
        codec.decode(codes)
    with pytest.raises(CheckpointError, match="reference encoder"):
        Converter(AutoencoderConfig().build(DataSpec(1, 1, sample_rate=RATE)))


def test_warping_moves_bands():
    bands = torch.eye(10)[None, 4:5]  # a peak in band 4
    for factor, wanted in ((1.0, 4), (0.8, 5), (1.25, 3.2)):
        row = (bands @ warping(torch.tensor([factor]), 10))[0, 0]
        assert abs(float((row * torch.arange(10)).sum() / row.sum()) - wanted) < 0.3
    encoder = SpectralEncoder(RATE, 8, width=8, depth=1, warp=0.2)
    x = torch.randn(2, 1, 3200)
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


def test_batches_of_voices(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    sampler = VoiceSampler(corpus, "train", 3200, 4000, HOP, 4, seed=0)
    batch = sampler.batch(3)
    again = VoiceSampler(corpus, "train", 3200, 4000, HOP, 4, seed=0).batch(3)
    assert torch.equal(batch.x, again.x) and torch.equal(batch.condition.reference, again.condition.reference)
    assert batch.condition.prosody.shape == (4, 3, 20) and batch.condition.excitation.shape == (4, 2, 3200)
    hertz = 150 * (batch.condition.prosody[:, 0] / 2).exp()
    wanted = torch.tensor([{"anna": 220.0, "ben": 110.0}[corpus.speakers[i]] for i in batch.condition.label])
    assert ((hertz.median(1).values / wanted - 1).abs() < 0.02).all()
    torch.testing.assert_close(level(batch.x[0, 0], HOP) / 20 + 1.5, batch.condition.prosody[0, 2])


def test_crop_and_reference_are_varied_alike(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    faster = AugmentConfig(share=1.0, speed=1.0, equalizer=0.0, narrow=0.0, room=0.0, gain=0.0)
    sampler = VoiceSampler(corpus, "train", 4800, 6400, HOP, 8, seed=1, augment=faster)
    checked = 0
    for step in range(3):
        batch = sampler.batch(step)
        for row in range(8):
            told = float(150 * (batch.condition.prosody[row, 0].median() / 2).exp())
            reference = prosody(batch.condition.reference[row, 0], RATE, HOP)
            crop = prosody(batch.x[row, 0], RATE, HOP)
            if reference.voiced.mean() > 0.5 and crop.voiced.mean() > 0.5:
                for found in (reference, crop):
                    assert abs(np.median(found.pitch[found.voiced]) / told - 1) < 0.04
                checked += 1
    assert checked > 12


def test_some_of_a_batch_come_with_the_voice_of_the_next(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    sampler = VoiceSampler(corpus, "train", 3200, 4000, HOP, 4, seed=0, disguised=2, disguised_from=3)
    plain = VoiceSampler(corpus, "train", 3200, 4000, HOP, 4, seed=0).batch(3)
    assert sampler.batch(2).condition.other is None
    batch = sampler.batch(3)
    assert torch.equal(batch.x, plain.x) and torch.equal(batch.condition.excitation, plain.condition.excitation)
    other = batch.condition.to(torch.device("cpu")).other
    assert torch.equal(other.reference, plain.condition.reference[1:3])
    assert torch.equal(other.prosody[:, 1:], plain.condition.prosody[:2, 1:])  # voicing and level stay the crop's
    middle, wanted = (its[:, 0].median(1).values for its in (other.prosody, plain.condition.prosody[1:3]))
    torch.testing.assert_close(middle, wanted, atol=0.05, rtol=0)
    spectrum = torch.fft.rfft(other.excitation[:, 0], 6400).abs().square()
    alike = torch.fft.irfft(spectrum)[:, 40:200].argmax(1) + 40  # and that is the pitch of its pulses
    torch.testing.assert_close(RATE / alike, 150 * (middle / 2).exp(), atol=0, rtol=0.04)
    assert len(batch.condition.first(1).other.reference) == 1


def test_the_encoder_hears_the_first_of_a_batch_in_another_voice(tiny_corpus, monkeypatch):
    model = voice_model().train()
    model.encoder.warp = 0.0
    batch = VoiceSampler(Corpus.open(tiny_corpus), "train", 3200, 4000, HOP, 4, seed=0, disguised=2).batch(0)
    heard = []
    monkeypatch.setattr(model.encoder, "forward", lambda x, *rest: heard.append(x) or type(model.encoder).forward(
        model.encoder, x, *rest))
    said = model.decode(model.encode(batch.x[:2]), batch.condition.other)  # before a step moves the codebooks
    heard.clear()
    model(batch.x, batch.condition)
    assert torch.equal(heard[1][2:], batch.x[2:]) and not heard[1].requires_grad
    torch.testing.assert_close(heard[1][:2], said)
    assert not torch.allclose(said, batch.x[:2], atol=1e-3)
    heard.clear()
    model.eval()(batch.x, batch.condition)
    assert [x is batch.x for x in heard] == [True]


def test_the_only_utterance_of_a_speaker_is_its_own_reference(tiny_corpus, monkeypatch):
    corpus = Corpus.open(tiny_corpus)
    sampler = VoiceSampler(corpus, "train", 1600, 1600, HOP, 2, seed=0)
    monkeypatch.setattr(sampler, "by_speaker", {u.speaker: [0] for u in corpus.all})
    length = sampler.utterances[0].length
    assert sampler._other(0, 100, np.random.default_rng(0)) == (0, length - 1600)
    assert sampler._other(0, length - 100, np.random.default_rng(0)) == (0, 0)


def test_a_voice_model_trains_and_converts(tiny_corpus, tmp_path, capsys):
    data = VoiceData(corpus=str(tiny_corpus), seconds=0.4, reference_seconds=0.5, batch_size=2, validation_batches=1,
                     disguised=0.5, disguised_from=1)
    recipe = Experiment(data=data, model=voice_config(), train=TrainConfig(steps=3))
    train(recipe, tmp_path / "run")
    soundfile.write(tmp_path / "stereo.wav", np.repeat(speech(100, 140)[::2].numpy()[:, None], 2, 1), 8000)
    model = ["--model", str(tmp_path / "run")]
    assert main(["convert", str(tmp_path / "stereo.wav"), "--to", "anna", "-o", str(tmp_path / "x.wav"), *model]) == 0
    assert "220 Hz" in capsys.readouterr().out  # the speaker was found in the corpus of the run
    with soundfile.SoundFile(tmp_path / "x.wav") as file:
        assert (file.samplerate, file.channels, file.frames) == (RATE, 1, 3 * RATE) and file.comment == CONVERTED
    for wrong, why in ((["--passes", "0"], "passes wants at least 1"), (["--passes", "2", "--mode", "clear"], "once")):
        assert main(["convert", str(tmp_path / "stereo.wav"), "--to", "anna", *wrong, *model]) == 2
        assert why in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "stereo.wav"), "--to", "bertha", "-o", str(tmp_path / "y.wav"), *model]) == 2
    assert "ben" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "stereo.wav"), "-o", str(tmp_path / "measured"), *model]) == 0
    assert (tmp_path / "measured/evaluation.html").exists()
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    assert main(["evaluate", str(tmp_path / "noise.wav"), *model]) == 2
    assert "too little" in capsys.readouterr().err


def test_the_commands(folder, tmp_path, capsys):
    def say(*words):
        code = main([*map(str, words), "--model", str(folder)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    for name, wave in (("source", speech(100, 140)), ("target", speech(180, 240)), ("silent", torch.zeros(RATE)),
                       ("short", speech(100, 110, 0.3)), ("noise", 0.1 * torch.randn(2 * RATE))):
        soundfile.write(tmp_path / f"{name}.wav", wave.numpy(), RATE)
    (tmp_path / "voices").mkdir()
    soundfile.write(tmp_path / "voices/a.flac", speech(80, 100).numpy(), RATE)
    source, out = tmp_path / "source.wav", tmp_path / "out"

    code, said, errors = say("enroll", tmp_path / "target.wav", "-o", tmp_path / "me.voice", "--steps", 2)
    assert code == 0 and "2 steps" in said, errors
    code, said, errors = say("convert", source, "--to", *(tmp_path / n for n in ("me.voice", "voices", "target.wav")),
                             "-o", out, "--rate", 22050, "--format", "flac", "--pitch", "-2")
    assert code == 0 and said.count(" in the voice of ") == 3, errors
    assert sorted(p.name for p in out.iterdir()) == [f"source-to-{n}.flac" for n in ("me", "target", "voices")]
    assert soundfile.info(out / "source-to-me.flac").samplerate == 22050
    clear = "--to", tmp_path / "me.voice", "-o", tmp_path / "x.wav", "--mode", "clear"
    code, said, errors = say("convert", source, *clear)
    assert code == 0 and soundfile.info(tmp_path / "x.wav").frames == 3 * RATE, errors
    (tmp_path / "x.wav").unlink()

    (tmp_path / "sources").mkdir()
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"sources/{name}.wav", speech(100, 140).numpy(), RATE)
    assert say("convert", tmp_path / "sources", "--to", tmp_path / "me.voice")[0] == 0
    (tmp_path / "sources/one.wav").unlink()
    (tmp_path / "sources/two.wav").rename(tmp_path / "sources/three.wav")
    code, said, errors = say("convert", tmp_path / "sources", "--to", tmp_path / "me.voice")  # goes on with what is new
    assert code == 0, errors
    assert sorted(p.name for p in (tmp_path / "sources").iterdir()) == [
        "one-to-me.wav", "three-to-me.wav", "three.wav", "two-to-me.wav"]
    (tmp_path / "sources/three.wav").unlink()
    code, said, errors = say("convert", tmp_path / "sources", "--to", tmp_path / "voices")
    assert code == 2 and "its own work" in errors, errors
    code, said, errors = say("convert", tmp_path / "sources/one-to-me.wav", "--to", tmp_path / "voices", "-o",
                             tmp_path / "x.wav")  # named itself, it is taken
    assert code == 0, errors
    (tmp_path / "x.wav").unlink()

    shutil.copy(tmp_path / "sources/one-to-me.wav", tmp_path / "voices")
    assert files_of(str(tmp_path / "voices")) == [tmp_path / "voices/a.flac"]
    (tmp_path / "both").mkdir()
    for name in ("a", "a-to-me"):
        shutil.copy(source, tmp_path / f"both/{name}.wav")
    code, said, errors = say("convert", tmp_path / "both", "--to", tmp_path / "me.voice", tmp_path / "voices", "-o",
                             tmp_path / "both")  # what the first is to be written to is read as the second
    assert code == 2 and "what is read itself" in errors and "1 of 2 files written, each 2 times," in said
    assert (tmp_path / "both/a-to-me.wav").read_bytes() == source.read_bytes()
    shutil.copy(source, os.fsencode(tmp_path / "both") + b"/\xff.wav")
    code, said, errors = say("convert", tmp_path / "sources", tmp_path / "missing.wav", "--to", tmp_path / "me.voice",
                             "-o", tmp_path / "not.wav")
    assert code == 2 and "missing.wav is missing" in errors and not (tmp_path / "not.wav").exists()
    code, said, errors = say("convert", tmp_path / "both", "--to", tmp_path / "me.voice", "-o", tmp_path / "not")
    assert code == 2 and "not UTF-8" in errors

    for words, wanted in (
            (("convert", source, "--to", tmp_path / "sources"), "nothing but converted voices"),
            (("convert", source, "missing.wav", "--to", tmp_path / "voices"), "one file"),
            (("convert", source, "--to", tmp_path / "silent.wav"), "no sound"),
            (("convert", source, "--to", tmp_path / "short.wav"), "too little"),
            (("convert", source, "--to", tmp_path / "noise.wav"), "too little"),
            (("convert", source, "--to", "nobody"), "--corpus"),
            (("convert", source, "--to", tmp_path / "voices", "--pitch", "high"), "--pitch"),
            (("convert", source, "--to", tmp_path / "voices", "--kbps", "0.1"), "no rate"),
            (("convert", tmp_path / "silent.wav", "--to", tmp_path / "voices"), "silent"),
            (("enroll", tmp_path / "silent.wav"), "no sound")):
        target = tmp_path / ("x.voice" if words[0] == "enroll" else "x.wav")
        code, said, errors = say(*words, "-o", target)
        assert code == 2 and wanted in errors and errors.count("\n") == 1, errors
        assert not target.exists()
    full = ("enroll", tmp_path / "target.wav", "-o", tmp_path / "x.voice", "--steps", 1, "--model", folder)
    refused(run(*full, limit=4096), "x.voice")  # bytes that a file may have: a disk that is full
    assert not list(tmp_path.glob("*x.voice*"))
    assert say("enroll", tmp_path / "target.wav", "-o", tmp_path / "x.wav")[0] == 2
    assert say("enroll", tmp_path / "target.wav", "-o", tmp_path / "x.voice", "--steps", "0")[0] == 2


def test_what_is_said_anew_is_as_loud_as_the_source(converter):
    source, voice = speech(100, 160, 4.0), converter.hear([0.02 * speech(180, 240)])
    for gain in (1.0, 0.1, 0.01):
        said = converter.convert(gain * source, RATE, voice)
        assert abs(10 * torch.log10(said.square().mean() / (gain * source).square().mean())) < 2  # it hums on in pauses
    late = torch.cat([torch.zeros(30 * RATE), source])  # it is told by where somebody speaks
    said = converter.convert(late, RATE, voice)[30 * RATE:]
    assert abs(10 * torch.log10(said.square().mean() / source.square().mean())) < 2


def test_a_voice_file_of_another_kind_says_what_to_do(converter, tmp_path):
    voice = enroll(converter.model, [speech(160, 190)], steps=1)
    assert voice.seconds == 3.0
    for change, why in (({"format": 3}, "older audiovae: enroll it again"), ({"format": 99}, "newer audiovae")):
        voice.save(tmp_path / "a.voice")
        with safe_open(tmp_path / "a.voice", "pt") as file:
            told = json.loads(file.metadata()["voice"]) | change
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        write_tensors(tmp_path / "a.voice", tensors, {"voice": json.dumps(told)})
        with pytest.raises(VoiceError, match=why):
            load_voice(converter.model, tmp_path / "a.voice")
    some = dict(list(voice.weights.items())[1:])
    replace(voice, weights=some).save(tmp_path / "b.voice")
    with pytest.raises(VoiceError, match="lacks some"):
        load_voice(converter.model, tmp_path / "b.voice")
    with pytest.raises(VoiceError, match="is missing"):
        load_voice(converter.model, tmp_path / "c.voice")
    voice.save(tmp_path / "d.voice")
    assert torch.equal(load_voice(converter.model, tmp_path / "d.voice").hidden, voice.hidden)


def test_settings_are_refused_once_and_no_recording_of_the_target_is_lost(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("in/a.wav", "in/b.wav", "mine.wav"):
        soundfile.write(tmp_path / name, speech(100, 140, 2.0).numpy(), RATE)
    mine = (tmp_path / "mine.wav").read_bytes()
    common = ["convert", str(tmp_path / "in"), "--model", str(folder), "-o", str(tmp_path / "out")]
    for words, why in ((["--pitch", "high"], "--pitch"), (["--rate", "0"], "--rate"), (["--rate", "9" * 10], "--rate"),
                       (["--retrieval", "2"], "retrieval")):
        assert main([*common, "--to", str(tmp_path / "mine.wav"), *words]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1
    assert main([*common, "--to", ""]) == 2 and "without a name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["convert", str(tmp_path / "in/a.wav"), "--model", str(folder), "--to", str(tmp_path / "mine.wav"),
                 "-o", str(tmp_path / "mine.wav")]) == 2
    assert "what is read itself" in capsys.readouterr().err and (tmp_path / "mine.wav").read_bytes() == mine
    assert main(["enroll", str(tmp_path / "mine.wav"), "--model", str(folder), "-o", str(tmp_path / "x.voice"),
                 "--seed", "-1"]) == 2 and "--seed" in capsys.readouterr().err


def test_hearing_reads_several_recordings(converter):
    voice = hear(converter.model, [speech(100, 120, 2.0), speech(100, 120, 3.0)])
    assert voice.seconds == 5.0 and voice.weights is None


def test_a_decoder_is_brought_to_a_spectrum():
    decoder = SourceFilterDecoder(channels_in=4, width=8, depth=1)
    z, told = inputs(200, decoder)
    with torch.no_grad():
        said = decoder(z, None, told)[0, 0]
        change = torch.linspace(1, -2, 321) + torch.cos(torch.arange(321) / 30)
        wanted = long_term_spectrum(said, decoder.stft)[0] + change
        brought = equalised(decoder, said, wanted, RATE)(z, None, told)[0, 0]
        again = decoder(z, None, told)[0, 0]
    before, after = (long_term_spectrum(wave, decoder.stft)[0] - wanted for wave in (said, brought))
    assert after.abs().mean() < 0.4 < 0.8 < before.abs().mean()
    assert torch.equal(again, said), "the decoder itself is as it was"
