"""A corpus of music: its tags, its channels, and how a folder of it becomes one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiovae.audio.augment import AugmentConfig
from audiovae.audio.corpus import Corpus, Utterance
from audiovae.audio.prepare import prepare_corpus
from audiovae.audio.prepare_config import MUSIC
from audiovae.audio.tags import read_tag_table, read_tags
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.code_data import CodesData
from audiovae.codec import Codec
from audiovae.data import AudioData
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.errors import ConfigError, CorpusError
from audiovae.models import AutoencoderConfig
from audiovae.prior_training import encode_split
from audiovae.shapes import DataSpec
from audiovae.spectrogram_data import SpectrogramData
from audiovae.voice_data import VoiceData

RATE = 8000


def test_tags_are_read_as_they_were_written_and_speech_has_none(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    assert corpus.tags == {} and all(not u.tags for u in corpus.all)
    assert all("tags" not in json.loads(line) for line in (tiny_corpus / "manifest.jsonl").read_text().splitlines())
    told = Utterance("a", "Ada", "train", "a.wav", 0, 8, tags={"artist": ("Ada", "Bo"), "genre": ("Ambient",)})
    unseen = Utterance("b", "Cy", "test", "b.wav", 8, 8, tags={"artist": ("Cy",), "mood": ("calm",)})
    (tmp_path / "audio.i16").write_bytes(bytes(32))
    (tmp_path / "corpus.json").write_text(json.dumps({"version": 1, "sample_rate": 8, "samples": 16, "utterances": 2}))
    (tmp_path / "manifest.jsonl").write_text("".join(u.to_line(8) + "\n" for u in (told, unseen)))
    corpus = Corpus.open(tmp_path)
    assert corpus.all == (told, unseen)
    assert corpus.tags == {"artist": ("Ada", "Bo"), "genre": ("Ambient",)}, "only what can be learnt"
    assert hash(corpus.all[0]) == hash(told)


def note(hertz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def song(path: Path, wave: np.ndarray, rate: int = RATE, **tags: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", rate, 1 if wave.ndim == 1 else wave.shape[1]) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(wave)


def prepare(folder: Path, out: Path, **settings) -> Corpus:
    config = replace(MUSIC, sample_rate=RATE, min_seconds=0.3, **settings)
    prepare_corpus(folder, out, config)
    return Corpus.open(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight artists, two songs each, in as many formats; of two of them one song is played by both."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(8):
        for j, suffix in enumerate((".ogg", ".flac", ".wav", ".mp3")[i % 3:i % 3 + 2]):
            pair = np.stack([note(110 * 2 ** (i / 4)), 0.5 * note(330 * 2 ** (j + i / 4))], axis=1)
            song(folder / f"a{i}" / f"{j}{suffix}", pair)
    song(folder / "a0/both.flac", note(777.0), artist="a0; a1")
    return folder


def test_tags_come_from_the_table_then_the_file_then_the_folder(tmp_path):
    song(tmp_path / "one/told.flac", note(300), artist="Ada Lark", genre="Folk;Slow", title="Air")
    song(tmp_path / "one/told.ogg", note(400), artist="Ada Lark", genre="(None)")
    song(tmp_path / "one/told.mp3", note(450), artist="Bo", title="Reel")
    song(tmp_path / "two/bare.wav", note(500))
    song(tmp_path / "beside.wav", note(600))
    (tmp_path / "tags.csv").write_text(
        'file,genre,title,mood\none/told.flac,,"Air, again",calm\ntwo/bare.wav,Jig,,\ngone.wav,Jig,,\n')
    corpus = prepare(tmp_path, tmp_path / "c", test=0, valid=0)
    told = {u.id: (u.speaker, u.text, u.tags) for u in corpus.all if not u.path.endswith((".ogg", ".mp3"))}
    assert told == {
        "one/told": ("Ada Lark", "Air, again", {"artist": ("Ada Lark",), "genre": ("Folk", "Slow"), "mood": ("calm",)}),
        "two/bare": ("two", "bare", {"artist": ("two",), "genre": ("Jig",)}),
        "beside": (tmp_path.name, "beside", {"artist": (tmp_path.name,)}),
    }
    assert "gone.wav\tnamed in tags.csv, but not there" in (corpus.folder / "rejected.tsv").read_text()
    assert corpus.tags["genre"] == ("Folk", "Jig", "Slow")
    assert corpus.tag_names[0] == "artist=Ada Lark" and corpus.tag_names[-1] == "mood=calm"
    assert read_tags(tmp_path / "one/told.ogg") == {"artist": ("Ada Lark",)}
    assert read_tags(tmp_path / "one/told.mp3") == {"artist": ("Bo",), "title": ("Reel",)}


@pytest.mark.parametrize("text, why", [
    ("name,artist\n", "wanted a first line such as file,artist,genre,title"),
    ("file,artist\na.ogg,b,c\n", "line 2: wanted 2 cells, got 3"),
    ("file,artist\na.ogg,b\n./a.ogg,c\n", "line 3: a.ogg is there twice"),
])
def test_bad_tables_of_tags_are_named(tmp_path, text, why):
    (tmp_path / "tags.csv").write_text(text)
    with pytest.raises(CorpusError, match=re.escape(why)):
        read_tag_table(tmp_path / "tags.csv")


@pytest.mark.parametrize("seed", range(6))
def test_no_artist_is_in_two_parts_even_by_way_of_another(folder, tmp_path, seed):
    corpus = prepare(folder, tmp_path / "c", seed=seed, test=0.3, valid=0.3)
    parts = {s: {a for u in corpus.utterances(s) for a in u.tags["artist"]} for s in ("train", "valid", "test")}
    assert all(parts.values()) and sum(map(len, parts.values())) == 8, "each artist is in one part"
    assert any({"a0", "a1"} <= names for names in parts.values())


def test_a_split_that_is_given_is_followed_or_refused(folder, tmp_path):
    names = {f"a{i}": ("train", "train", "valid", "test")[i % 4] for i in range(8)}
    split = folder / "split.txt"
    try:
        split.write_text("".join(f"{name}\t{part}\n" for name, part in names.items()))
        corpus = prepare(folder, tmp_path / "c", test_by="given")
        assert {u.speaker: u.split for u in corpus.all} == names
        split.write_text("".join(f"{name} {'test' if name == 'a1' else part}\n" for name, part in names.items()))
        with pytest.raises(CorpusError, match="'a1' in test and another artist, who plays along, in train"):
            prepare(folder, tmp_path / "d", test_by="given")
    finally:
        split.unlink()


def test_two_channels_lie_sample_by_sample_and_come_back_bit_for_bit(tmp_path):
    dice = np.random.default_rng(0)
    pair, single = dice.integers(-32768, 32768, (4000, 2)).astype(np.int16), (1000 * note(90)).astype(np.int16)
    song(tmp_path / "s/x/pair.wav", pair)
    song(tmp_path / "s/y/single.wav", single)
    song(tmp_path / "s/z/many.wav", dice.integers(-9, 9, (4000, 3)).astype(np.int16))
    corpus = prepare(tmp_path / "s", tmp_path / "c", channels=2, test=0, valid=0)
    assert np.array_equal(corpus.samples[:4000], pair), "the map is (T, 2)"
    one, two = corpus.all
    assert (one.length, two.offset, corpus.audio(one).shape) == (4000, 4000, (2, 4000))
    assert np.array_equal(corpus.audio(one), pair.T / np.float32(32768))
    assert np.array_equal(corpus.audio(two), np.stack([single, single]) / np.float32(32768))
    assert np.allclose(corpus.mixed(one), pair.mean(axis=1) / 32768, atol=1e-6)
    assert "3 channels: wanted 1 or 2" in (corpus.folder / "rejected.tsv").read_text()
    with open(corpus.folder / "audio.i16", "r+b") as file:
        file.truncate(100)
    with pytest.raises(CorpusError, match="damaged"):
        Corpus.open(corpus.folder)


def test_crops_of_music_know_their_channels_tags_and_place(folder, tmp_path):
    corpus = prepare(folder, tmp_path / "c", channels=2, test=0.3, valid=0.3)
    source = AudioData(corpus=str(tmp_path / "c"), seconds=0.1, batch_size=32).build(seed=0)
    batch = source.batch(3)
    assert batch.x.shape == (32, 2, 800) and source.spec.channels == 2
    assert source.spec.tags == corpus.tag_names and batch.condition.tags.shape == (32, len(corpus.tag_names))
    by_id = {u.id: u for u in corpus.all}
    for x, name, tags, timing in zip(batch.x, batch.names, batch.condition.tags, batch.condition.timing, strict=True):
        song = by_id[name.partition(" @ ")[0]]
        held = {corpus.tag_names[i] for i in tags.nonzero().flatten()}
        assert held == {f"artist={a}" for a in song.tags["artist"]}
        length, offset, elapsed = timing.tolist()
        assert length == pytest.approx(song.length / RATE) and elapsed == pytest.approx(offset / length)
        start = round(offset * RATE)
        assert np.array_equal(x.numpy(), corpus.audio(song)[:, start:start + 800])
    unseen = source.validation()[0].condition
    assert not unseen.tags.any() and (unseen.label == -1).all() and unseen.timing.shape == (32, 3)
    moved = batch.condition.first(2).to(torch.device("cpu"))
    assert torch.equal(moved.tags, batch.condition.tags[:2]) and moved.timing.shape == (2, 3)


def test_speech_is_cropped_without_tags(tiny_corpus):
    source = AudioData(corpus=str(tiny_corpus), seconds=0.1).build(seed=0)
    condition = source.batch(0).condition
    assert condition.tags is None and condition.timing is None and source.spec.tags == ()


def test_variation_treats_both_channels_alike():
    augment = AugmentConfig(share=1.0).build(RATE)
    pair = np.stack([note(440), note(440)])
    for seed in range(4):
        speed = augment.stretch(np.random.default_rng(seed))
        source = pair[:, :augment.source(2000, speed)]
        one = augment(source[0], 2000, speed, np.random.default_rng(seed))
        two = augment(source, 2000, speed, np.random.default_rng(seed))
        assert np.allclose(two, one, atol=1e-6) and two.shape == (2, 2000)


@pytest.mark.parametrize("data", [VoiceData, SpectrogramData])
def test_what_takes_one_channel_refuses_two(folder, tmp_path, data):
    prepare(folder, tmp_path / "c", channels=2)
    with pytest.raises(ConfigError, match=r"wants a corpus of one channel, .* has 2: prepare it with --channels 1"):
        data(corpus=str(tmp_path / "c")).build(seed=0)


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "c"
    assert main(["prepare", "music", str(folder), "-o", str(out), "--rate", "8000", "--channels", "2",
                 "--min-seconds", "0.3"]) == 0
    assert "layout music" in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "8000 Hz in 2 channels" in said and "artist      a0" in said
    (tmp_path / "empty").mkdir()
    assert main(["prepare", "music", str(tmp_path / "empty"), "-o", str(tmp_path / "d")]) == 2
    assert "holds no recording" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 2])
def test_a_model_of_either_channels_codes_and_judges_music_in_stereo(folder, tmp_path, channels, capsys):
    """A model of one hears the mean of two, one of two hears both."""
    corpus = prepare(folder, tmp_path / "c", channels=2, test=0.3, valid=0.3)
    torch.manual_seed(0)
    config = AutoencoderConfig(encoder=StridedEncoderConfig(strides=(4, 4), width=8, depth=1),
                               decoder=StridedDecoderConfig(strides=(4, 4), width=8, depth=1))
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", config.build(DataSpec(channels=channels, dims=1, sample_rate=RATE)), config)
    source = CodesData(model=str(tmp_path / "model"), corpus=str(tmp_path / "c"), tokens=8, batch_size=2).build(seed=0)
    codec = Codec.from_pretrained(str(tmp_path / "model"), prior=False)
    for index, codes in source.indexed("train"):
        both = torch.from_numpy(corpus.audio(corpus.all[index]))
        wave = both if channels == 2 else both.mean(0)
        assert (codec.encode(wave, RATE).levels[0] == codes).all()
    assert len(encode_split(codec, corpus, "train", hours=1).codes) == len(list(source.indexed("train")))
    call = ["evaluate", str(tmp_path / "c"), "--model", str(tmp_path / "model"), "--limit", "1", "-o", str(tmp_path)]
    assert main([*call, "--split", "train"]) == 0, capsys.readouterr().err
