"""Spectrograms as pictures that are heard: sound from them, codes of them, priors, and a recording drawn anew."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.audio import spectrogram
from audiovae.audio.corpus import Corpus
from audiovae.audio.io import audio_info, read_audio, write_audio
from audiovae.audio.spectrogram import decibels, joined, pictures_of, sound_of, unit_log_mel
from audiovae.checkpoint import load_model
from audiovae.cli import main
from audiovae.code_data import CodesData
from audiovae.codes import Codes
from audiovae.errors import ConfigError, ShapeError
from audiovae.generate import Request, open_priors
from audiovae.picture_samples import open_decoder
from audiovae.shapes import MelSpec
from audiovae.spectrogram_data import SpectrogramData
from audiovae.spectrogram_samples import distances, upsampled

SPEC = MelSpec(16_000, n_fft=512, hop=128, num_mels=32)
RECIPES = Path(__file__).parent.parent / "recipes/spectrogram_hierarchies"
TILE = 16 * 128  # samples


def apart(a, b):
    """The mean difference of two pictures in dB."""
    return float((a - b).abs().mean()) * decibels(SPEC)


def voice(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    return torch.from_numpy(corpus.audio(corpus.utterances("valid")[0]))[None]


# sound of pictures

def tone(hertz):
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(16_000) / 16_000)[None]


@pytest.mark.parametrize("kind", ["tone", "voice", "noise"])
def test_sound_of_a_picture_has_nearly_that_picture_again(kind, tiny_corpus, monkeypatch):
    wave = {"tone": tone(700), "voice": voice(tiny_corpus), "noise": 0.1 * torch.randn(1, 16_000)}[kind]
    x = joined(pictures_of(wave, SPEC, frames=16))
    again = unit_log_mel(SPEC)(sound_of(x, SPEC))[:, None]
    assert again.shape == x.shape and apart(again, x) < 2
    assert torch.equal(sound_of(x, SPEC, seed=3), sound_of(x, SPEC, seed=3))
    monkeypatch.setattr(spectrogram, "PHASING", 0)  # phase at random: it is the search that brings them together
    assert apart(unit_log_mel(SPEC)(sound_of(x, SPEC))[:, None], x) > 2.5


def test_the_bands_of_what_is_spread_over_bins_are_those_given():
    mel = torch.rand(2, 5, SPEC.num_mels).exp() * torch.logspace(-6, 4, SPEC.num_mels)
    power = spectrogram._spread(mel, SPEC)
    bands = spectrogram.mel_bands(16_000, 512, 32, 0, 8000)
    assert float(power.min()) >= 0
    assert float(((power @ bands) / mel).log().abs().mean()) < 0.05


def test_sound_keeps_its_pitch_its_place_and_its_level():
    wave = torch.cat([torch.zeros(1, 6000), tone(700)[:, :10_000]], dim=1)
    x = pictures_of(wave, SPEC, frames=16)
    sound = sound_of(joined(x), SPEC)[0, 0]
    assert len(sound) == len(x) * TILE and float(sound[:5000].abs().max()) < 1e-3
    assert float(sound[7000:15_000].pow(2).mean().sqrt()) == pytest.approx(0.5 / math.sqrt(2), rel=0.1)
    spectrum = torch.fft.rfft(sound[7000:15_000]).abs()
    assert abs(int(spectrum.argmax()) * 16_000 / 8000 - 700) < 32  # a bin of the transform


def test_silence_is_silent_and_other_bands_are_refused():
    assert not sound_of(torch.zeros(2, 1, 32, 7), SPEC).any()
    assert sound_of(torch.rand(1, 1, 32, 1), SPEC).shape == (1, 1, 128)
    with pytest.raises(ShapeError, match="32 bands"):
        sound_of(torch.zeros(1, 1, 16, 8), SPEC)
    with pytest.raises(ConfigError, match="twice the hop"):
        sound_of(torch.zeros(1, 1, 32, 8), MelSpec(16_000, 512, 512, 32))


# a corpus in order

def test_recordings_in_order_are_cut_from_their_whole_spectrogram(tiny_corpus):
    source = SpectrogramData(corpus=str(tiny_corpus), num_mels=32, frames=16, hop=128, n_fft=512).build(0)
    batches = list(source.batches("valid", size=5))
    x, names = torch.cat([b.x for b in batches]), [name for b in batches for name in b.names]
    corpus, place = Corpus.open(tiny_corpus), 0
    for utterance in corpus.utterances("valid"):
        whole = pictures_of(torch.from_numpy(corpus.audio(utterance))[None], SPEC, 16)
        torch.testing.assert_close(x[place:place + len(whole)], whole, atol=1e-5, rtol=0)
        assert names[place:place + len(whole)] == [f"{utterance.id} @ {n * TILE / 16_000:.2f} s"
                                                   for n in range(len(whole))]
        place += len(whole)
    assert place == len(x) and max(len(b.x) for b in batches) <= 5
    few = SpectrogramData(corpus=str(tiny_corpus), num_mels=32, frames=16, hop=128, n_fft=512, most=4).build(0)
    some = torch.cat([b.x for b in few.batches("valid")])
    assert torch.equal(some, x[torch.arange(4) * len(x) // 4])
    assert len(next(source.batches("valid", size=3, limit=1)).x) == 3


def test_a_crop_sees_beyond_its_edges(tiny_corpus):
    source = SpectrogramData(corpus=str(tiny_corpus), num_mels=32, frames=16, hop=128, n_fft=512, batch_size=6).build(0)
    corpus, batch = Corpus.open(tiny_corpus), source.batch(2)
    alone = 0
    for x, name in zip(batch.x, batch.names, strict=True):
        key, start = name.removesuffix(" s").split(" @ ")
        wave = torch.from_numpy(next(corpus.audio(u) for u in corpus.all if u.id == key))
        told = round(float(start) * 16_000)  # to a hundredth of a second
        near = range(max(told - 90, 0), told + 90)
        padded = torch.nn.functional.pad(wave, (512, TILE + 512))
        errors = [(unit_log_mel(SPEC)(padded[None, None, s:s + TILE + 1024])[0, :, 4:20].clamp(0, 1) - x[0]).abs().max()
                  for s in near]
        assert min(errors) < 1e-4
        start = near[int(torch.stack(errors).argmin())]
        cut = unit_log_mel(SPEC)(padded[None, None, start + 512:start + 512 + TILE])[0].clamp(0, 1)
        alone = max(alone, float((cut - x[0]).abs().max()))
    assert alone > 1e-3  # what a crop by itself would have shown at its edges


# priors and the commands

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The recipes through the command: a hierarchy and its two priors, a ladder; two steps each on a tiny corpus."""
    from audiovae.audio.example import example_corpus

    folder = tmp_path_factory.mktemp("runs")
    size = {"num_mels": 16, "frames": 16, "hop": 128, "n_fft": 512}
    corpus = {"corpus": str(example_corpus())}

    def trained(name, data, *more):
        words = [word for key, value in data.items() for word in (f"--data.{key}", str(value))]
        assert main(["train", str(RECIPES / f"{name}.toml"), "-o", str(folder / name), "--train.steps", "2",
                     "--data.batch_size", "4", "--data.validation_batches", "1", *words, *more]) == 0

    trained("vqvae2", size | corpus)
    inner = {f"pictures.{key}": value for key, value in (size | corpus | {"most": 12}).items()}
    narrow = ["--model.prior.width", "16", "--model.prior.depth", "1"]
    for name in ("prior_top", "prior_bottom"):
        trained(name, {"model": str(folder / "vqvae2"), **inner}, *narrow)
    trained("ladder", size | {"frames": 64, "num_mels": 64} | corpus)
    return folder


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A second of stereo at another rate."""
    time = torch.arange(44_100) / 44_100
    wave = torch.stack([0.3 * torch.sin(2 * math.pi * 440 * time), 0.3 * torch.sin(2 * math.pi * 660 * time)])
    write_audio(path := tmp_path_factory.mktemp("songs") / "song.wav", wave, 44_100)
    return path


def sample(runs, *words, priors=("prior_bottom", "prior_top")):
    return main(["sample", *(str(runs / name) for name in priors), *map(str, words)])


@torch.no_grad()
def test_codes_of_spectrograms_are_the_models_own_in_order(runs, tiny_corpus):
    pictures = SpectrogramData(corpus=str(tiny_corpus), num_mels=16, frames=16, hop=128, n_fft=512)
    part = CodesData(model=str(runs / "vqvae2"), pictures=pictures).build(0).part("valid")
    batches = list(pictures.build(0).batches("valid"))
    codes = load_model(runs / "vqvae2").encode_levels(torch.cat([b.x for b in batches]))
    assert torch.equal(part.x, codes[0]) and torch.equal(part.condition.upper, codes[1])
    assert part.names == tuple(name for b in batches for name in b.names)
    other = SpectrogramData(corpus=str(tiny_corpus), num_mels=16, frames=16, hop=64, n_fft=512)
    with pytest.raises(ConfigError, match="hop=64"):
        CodesData(model=str(runs / "vqvae2"), pictures=other).build(0)


def test_a_prior_over_them_is_measured(runs, capsys):
    assert main(["evaluate", "--model", str(runs / "prior_top"), "--split", "valid", "--limit", "3"]) == 0
    assert "nats a code" in capsys.readouterr().out


def test_new_spectrograms_are_heard(runs, tmp_path, capsys):
    assert sample(runs, "-o", tmp_path / "new", "--count", 3, "--label", "anna") == 0
    assert "3 pictures of 'anna'" in capsys.readouterr().out
    assert {f"{n:04d}.{kind}" for n in range(3) for kind in ("wav", "png")} <= {
        path.name for path in (tmp_path / "new").iterdir()}
    info = audio_info(tmp_path / "new/0002.wav")
    assert info.sample_rate == 16_000 and info.frames == TILE
    maps = [Codes.load(tmp_path / f"new/{n:04d}.codes").maps for n in range(3)]
    levels = [torch.from_numpy(np.stack(level)) for level in zip(*maps, strict=True)]
    x = load_model(runs / "vqvae2").decode_levels(levels)
    sound = sound_of(x.detach(), MelSpec(16_000, 512, 128, 16))[1, 0].clamp(-1, 1)
    torch.testing.assert_close(read_audio(tmp_path / "new/0001.wav")[0][0], sound, atol=1e-4, rtol=0)
    assert (tmp_path / "new/pictures.html").read_text().count("<audio") >= 3


def test_a_recording_is_drawn_anew_below_its_top(runs, song, tmp_path, capsys):
    words = ("--upsample", song, "--count", 2, "--temperature", 0.9, "--top-k", 8, "--seed", 5)
    assert sample(runs, "-o", tmp_path / "a", *words) == 0
    said = capsys.readouterr().out
    assert "1.0 s of song.wav as 8 pictures: level 1 kept, level 0 at temperature 0.9, top_k 8 drawn anew 2" in said
    assert "6 sounds written" in said and "top alone" in said
    names = ["recording", "spectrogram", "all_codes", "top_alone", "drawn_anew_1", "drawn_anew_2"]
    files = [f"upsampled-{n:02d} {name}.wav" for n, name in enumerate(names, 1)]
    assert {*files, "upsampled.html", "upsampled.json"} <= {path.name for path in (tmp_path / "a").iterdir()}
    page = (tmp_path / "a/upsampled.html").read_text()
    assert page.count("<audio") == 6 and "drawn anew 2" in page and page.count("<img") >= 2
    for name in files:
        info = audio_info(tmp_path / "a" / name)
        assert info.sample_rate == 16_000 and info.frames == 16_000 and info.channels == 1
    torch.testing.assert_close(read_audio(tmp_path / "a" / files[0])[0], read_audio(song, 16_000)[0], atol=1e-4, rtol=0)
    first, second = (read_audio(tmp_path / "a" / name)[0] for name in files[4:])
    assert not torch.equal(first, second)
    rows = json.loads((tmp_path / "a/upsampled.json").read_text())
    assert rows[0]["picture, dB"] == 0 and rows[1]["picture, dB"] > 0 and len(rows) == 5
    assert sample(runs, "-o", tmp_path / "b", *words) == 0
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@torch.no_grad()
def test_what_is_kept_and_what_is_told_of_it_are_the_models(runs, song):
    priors = open_priors([runs / "prior_top", runs / "prior_bottom"])
    model, spec = open_decoder(runs / "vqvae2", priors), MelSpec(16_000, 512, 128, 16)
    wave = read_audio(song, 16_000)[0]
    versions = upsampled(priors, model, wave, Request(1, count=1, seed=1))
    x = pictures_of(wave, spec, 16)
    bottom, top = model.encode_levels(x)
    assert torch.equal(versions["spectrogram"].pictures, x)
    torch.testing.assert_close(versions["all codes"].pictures, model.reconstruct(x))
    torch.testing.assert_close(versions["top alone"].pictures, model.reveal([None, top]))
    drawn = versions["drawn anew 1"].pictures
    assert not torch.allclose(drawn, versions["all codes"].pictures)
    likeliest = upsampled(priors, model, wave[:, :TILE], Request(1, seed=1))  # a picture by itself is the same
    torch.testing.assert_close(likeliest["drawn anew 1"].pictures[0], drawn[0], atol=0.05, rtol=0)
    row = dict(zip(("picture", "sound"), distances(versions, spec).rows[1][1:], strict=True))
    wanted = float((joined(versions["all codes"].pictures)[..., :125].clamp(0, 1) - joined(x)[..., :125]).abs().mean())
    assert row["picture"] == pytest.approx(wanted * decibels(spec), rel=1e-4) and bottom.shape[1:] == (1, 4, 4)


@pytest.mark.parametrize(("what", "said"), [
    ("missing", "is missing"), ("text", "not audio"), ("silent", "silent"), ("short", "shorter than one picture"),
    ("alone", "name a prior for a level below"), ("minutes", "--minutes wants more than 0"),
    ("prime", "--prime is not for"), ("there", "is there already")])
def test_what_cannot_be_drawn_anew_is_refused(runs, song, tmp_path, capsys, what, said):
    path, priors, more, out = song, ("prior_top", "prior_bottom"), (), tmp_path / "new"
    if what in ("missing", "text", "silent", "short"):
        path = tmp_path / "it.wav"
    if what == "text":
        path.write_text("la la la")
    if what in ("silent", "short"):
        write_audio(path, torch.full((1, 16_000 if what == "silent" else 2000), 0 if what == "silent" else 0.5), 16_000)
    if what == "alone":
        priors = ("prior_top",)
    if what == "there":
        out.mkdir()
        (out / "mine").write_text("")
    more = {"minutes": ("--minutes", "0"), "prime": ("--prime", song)}.get(what, ())
    assert sample(runs, "-o", out, "--upsample", path, *more, priors=priors) == 2
    told = capsys.readouterr().err
    assert said in told and told.strip().count("\n") == 0
    assert what == "there" or not out.exists()


def test_a_ladder_and_a_hierarchy_of_spectrograms_are_heard_at_every_depth(runs, tmp_path, capsys):
    assert main(["latents", "depth", "--model", str(runs / "ladder"), "-o", str(tmp_path / "depth"), "--limit", "8",
                 "--count", "2"]) == 0
    sounds = sorted((tmp_path / "depth").glob("*.wav"))
    assert len(sounds) > 2 and audio_info(sounds[0]).frames == 2 * 64 * 128
    assert main(["evaluate", "--model", str(runs / "vqvae2"), "--split", "valid", "-o", str(tmp_path / "page"),
                 "--limit", "4", "--generate", "0", "--samples", "0"]) == 0
    page = (tmp_path / "page/evaluation.html").read_text()
    assert page.count("<audio") == 5 and "levels 1 and up" in page
