"""audiovae sample as a user runs it: songs, primes, gaps, upsampling, Ctrl-C and --resume, and what is refused."""

import json

import numpy as np
import pytest
import soundfile
import torch

from audiovae import generate, songs
from audiovae.audio.io import read_audio, write_audio
from audiovae.bottlenecks import VQConfig
from audiovae.checkpoint import fingerprint, load_model, save_model
from audiovae.cli import main
from audiovae.codes import Codes
from audiovae.codes.prior import FILE, CodePrior
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.models import AutoencoderConfig, HierarchicalConfig, LevelConfig, MultiresConfig, PriorConfig
from audiovae.priors import CausalConfig, ToldConfig
from audiovae.shapes import CodeSpec, DataSpec

RATE = 8000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A codec of hops 64 and 256 and a prior for each level: untrained, but whole."""
    folder = tmp_path_factory.mktemp("models")
    rows = tuple(LevelConfig(strides=(4,) * n, num_codes=16, dim=8, width=8, depth=1) for n in (3, 4))
    return save(folder, MultiresConfig(levels=rows))


def save(folder, config):
    torch.manual_seed(0)
    (folder / "codec").mkdir()
    save_model(folder / "codec", config.build(DataSpec(channels=1, dims=1, sample_rate=RATE)), config)
    model = fingerprint(load_model(folder / "codec"))
    for level, name in enumerate(("bottom", "top")):
        upper = (16,) if level == 0 else ()
        spec = CodeSpec((16,), model, level, (64, 256)[level], RATE, upper, 4 if upper else 1)
        data = DataSpec(channels=1, dims=1, size=((64, 16)[level],), tags=("genre=Blues", "genre=Waltz"), timing=True,
                        codes=spec)
        prior = PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2, told=ToldConfig(upper_width=8, upper_depth=1)))
        (folder / name).mkdir()
        save_model(folder / name, prior.build(data), prior,
                   experiment={"data": {"model": str(folder / "codec")}})
    return folder


@pytest.fixture(autouse=True)
def drawn(request, monkeypatch):
    """Only the test of the page has its figures drawn: that takes longer than the songs."""
    if request.function is not test_a_song_is_written_with_codes_a_page_and_what_was_asked:
        monkeypatch.setattr("audiovae.report.page._draw", lambda figure, ink: ink.encode())


def sample(trained, *words, priors=("top", "bottom")):
    return main(["sample", *(str(trained / name) for name in priors), *map(str, words)])


def test_a_song_is_written_with_codes_a_page_and_what_was_asked(trained, tmp_path, capsys):
    out = tmp_path / "new" / "song.flac"
    assert sample(trained, "-o", out, "--minutes", 0.01, "--tags", "genre=Waltz", "--seed", 3, "--temperature", 0.9,
                  1.1) == 0
    wave, rate = read_audio(out)
    assert rate == RATE and wave.shape == (1, round(0.6 * RATE)) and str(out) in capsys.readouterr().out
    with soundfile.SoundFile(out) as file:
        asked = json.loads(file.comment)
    assert asked["seed"] == 3 and asked["tags"] == ["genre=Waltz"]
    assert asked["drawings"]["1"]["temperature"] == 0.9 and asked["drawings"]["0"]["temperature"] == 1.1
    codes = Codes.load(tmp_path / "new" / "song.codes")
    assert codes.hops == (64, 256) and codes.num_samples == wave.shape[1]
    page = (tmp_path / "new" / "song.html").read_text()
    assert page.count("<audio") == 2 and "genre=Waltz" in page
    assert sorted(p.name for p in out.parent.iterdir()) == ["song.codes", "song.flac", "song.html"]
    assert main(["decode", str(tmp_path / "new" / "song.codes"), "-o", str(tmp_path / "again.wav"), "--model",
                 str(trained / "codec")]) == 0
    again = read_audio(tmp_path / "again.wav")[0]
    assert torch.allclose(again / again.abs().max(), wave / wave.abs().max(), atol=1e-3)


def test_variations_are_the_same_alone_and_together(trained, tmp_path):
    assert sample(trained, "-o", tmp_path / "a", "--minutes", 0.005, "--count", 2, "--batch", 2) == 0
    assert sample(trained, "-o", tmp_path / "b", "--minutes", 0.005, "--count", 2, "--batch", 1) == 0
    for name in ("song-1.wav", "song-2.wav"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "song-1.codes").read_bytes() != (tmp_path / "a" / "song-2.codes").read_bytes()


def test_ctrl_c_keeps_what_is_drawn_and_resume_goes_on(trained, tmp_path, capsys, monkeypatch):
    words = ("--minutes", 0.02, "--seed", 4)
    assert sample(trained, "-o", tmp_path / "whole.wav", *words) == 0
    saves, real = [], songs.keep

    def stop(*arguments):
        real(*arguments)
        saves.append(1)
        if len(saves) == 6:  # of 4 windows of the slow level and 4 of the other
            raise KeyboardInterrupt

    monkeypatch.setattr("audiovae.commands.sample.keep", stop)
    assert sample(trained, "-o", tmp_path / "song.wav", *words) == 130
    monkeypatch.undo()
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "song.level-1.wav").exists() and not (tmp_path / "song.wav").exists()
    assert sample(trained, "-o", tmp_path / "song.wav", *words) == 2
    assert "unfinished" in capsys.readouterr().err
    assert sample(trained, "-o", tmp_path / "song.wav", "--minutes", 0.02, "--seed", 5, "--resume") == 2
    assert "another seed" in capsys.readouterr().err
    assert sample(trained, "-o", tmp_path / "song.wav", *words, "--resume") == 0
    assert (tmp_path / "song.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert not list(tmp_path.glob("*partial*")) and not list(tmp_path.glob("song.level*"))


def test_a_song_goes_on_from_a_recording(trained, tmp_path):
    wave = 0.3 * torch.sin(torch.arange(RATE) * 0.3)[None]
    write_audio(tmp_path / "mine.wav", wave, RATE)
    assert sample(trained, "-o", tmp_path / "on.wav", "--prime", tmp_path / "mine.wav", "--prime-seconds", 0.5,
                  "--minutes", 0.02) == 0
    primed, _ = songs.given_codes(songs_codec(trained), tmp_path / "mine.wav", 0.5)
    codes = Codes.load(tmp_path / "on.codes")
    for level in (0, 1):
        assert (codes.levels[level][:, : primed[level].shape[1]] == primed[level]).all()
    assert codes.num_samples == round(1.2 * RATE)


def songs_codec(trained):
    from audiovae.level_codec import open_codec

    return open_codec(trained / "codec", prior=False)


def test_a_gap_is_filled_and_lower_levels_are_drawn_anew(trained, tmp_path):
    assert sample(trained, "-o", tmp_path / "a.wav", "--minutes", 0.02) == 0
    before = Codes.load(tmp_path / "a.codes")
    assert sample(trained, "-o", tmp_path / "b.wav", "--prime", tmp_path / "a.codes", "--infill", "0.4:0.6",
                  "--seed", 9) == 0
    after = Codes.load(tmp_path / "b.codes")
    assert after.num_samples == before.num_samples == read_audio(tmp_path / "b.wav")[0].shape[1]
    first, last = int(0.4 * RATE) // 256, -(-int(0.6 * RATE) // 256)
    same = (after.levels[1] == before.levels[1])[0]
    assert same[:first].all() and same[last:].all() and not same.all()
    assert sample(trained, "-o", tmp_path / "c.wav", "--upsample", tmp_path / "a.codes", "--seed", 9) == 0
    anew = Codes.load(tmp_path / "c.codes")
    assert (anew.levels[1] == before.levels[1]).all() and (anew.levels[0] != before.levels[0]).any()


def test_codes_that_their_models_own_prior_made_small_are_gone_on_from(tmp_path):
    size = {"strides": (4, 4, 4), "width": 8, "depth": 1}
    config = AutoencoderConfig(encoder=StridedEncoderConfig(**size), bottleneck=VQConfig(num_codes=16, dim=8),
                               decoder=StridedDecoderConfig(**size))
    codec = tmp_path / "codec"
    codec.mkdir()
    save_model(codec, config.build(DataSpec(channels=1, dims=1, sample_rate=RATE)), config)
    model = fingerprint(load_model(codec))
    CodePrior.uniform((16,), model).save(codec / FILE)
    prior = PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2))
    data = DataSpec(channels=1, dims=1, size=(64,), codes=CodeSpec((16,), model, 0, 64, RATE))
    (tmp_path / "top").mkdir()
    save_model(tmp_path / "top", prior.build(data), prior, experiment={"data": {"model": str(codec)}})
    write_audio(tmp_path / "a.wav", 0.1 * torch.randn(1, 4000), RATE)
    assert main(["encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.codes"), "--model", str(codec)]) == 0
    assert sample(tmp_path, "-o", tmp_path / "b.wav", "--prime", tmp_path / "a.codes", "--minutes", 0.02,
                  priors=("top",)) == 0
    before = Codes.load(tmp_path / "a.codes", CodePrior.load(codec / FILE)).levels[0]
    assert (Codes.load(tmp_path / "b.codes").levels[0][:, :before.shape[1]] == before).all()


def test_what_is_drawn_anew_with_the_same_seed_is_new(trained, tmp_path, capsys):
    assert sample(trained, "-o", tmp_path / "a.wav", "--minutes", 0.02) == 0
    before = Codes.load(tmp_path / "a.codes")
    for name, words in (("b", ("--upsample", tmp_path / "a.codes")),
                        ("c", ("--prime", tmp_path / "a.codes", "--infill", "0.4:0.6"))):
        assert sample(trained, "-o", tmp_path / f"{name}.wav", *words) == 0
        after = Codes.load(tmp_path / f"{name}.codes")
        assert (after.levels[0] != before.levels[0]).any()
    capsys.readouterr()
    for words, priors in ((("--upsample", tmp_path / "a.codes"), ("top",)),
                          (("--prime", tmp_path / "a.codes", "--infill", "1.0:1.1", "--minutes", 0.01),
                           ("top", "bottom"))):
        assert sample(trained, "-o", tmp_path / "d.wav", *words, priors=priors) == 2
        assert "nothing to draw" in capsys.readouterr().err
    assert not list(tmp_path.glob("d*"))


def test_a_hierarchy_is_not_drawn_from_its_slowest_level_alone(tmp_path, capsys):
    rows = tuple(LevelConfig(strides=strides, num_codes=16, dim=8, width=8, depth=1) for strides in ((4, 4, 4), (4,)))
    save(tmp_path, HierarchicalConfig(levels=rows))
    assert sample(tmp_path, "-o", tmp_path / "new/x.wav", "--minutes", 0.005, priors=("top",)) == 2
    assert "all its 2 levels" in capsys.readouterr().err
    assert sample(tmp_path, "-o", tmp_path / "new/x.wav", "--minutes", 0.005) == 0
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".wav", ".codes", ".html"}


@pytest.mark.parametrize(("words", "why"), [
    (("--tags", "genre=Walz"), "genre=Waltz"),
    (("--minutes", "-1"), "--minutes"),
    (("--infill", "0:1"), "--prime"),
    (("--temperature", "1", "1", "1"), "one for each of 2 levels"),
    (("-o", "song.mp3"), ".wav or .flac"),
    (("--count", "0"), "above 0"),
    (("--resume",), "nothing to go on with"),
    (("--label", "anna"), "without labels"),
    (("--temperature", "-1"), "temperature"),
    (("--top-k", "-1"), "top_k"),
    (("--top-p", "0"), "top_p"),
    (("--guidance", "nan"), "guidance"),
    (("--minutes", "inf"), "--minutes"),
    (("--prime-seconds", "1"), "--prime"),
])
def test_what_cannot_be_is_one_line(trained, tmp_path, capsys, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    assert sample(trained, "--minutes", 0.005, *words) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_written_over_codes_or_a_page(trained, tmp_path, capsys):
    assert sample(trained, "-o", tmp_path / "a.wav", "--minutes", 0.005) == 0
    (tmp_path / "a.wav").unlink()
    before = (tmp_path / "a.codes").read_bytes()
    for name in ("a.codes", "a.html"):
        assert sample(trained, "-o", tmp_path / "a.wav", "--minutes", 0.005, "--seed", 2) == 2
        assert f"{name} is there already" in capsys.readouterr().err
        assert name != "a.codes" or (tmp_path / name).read_bytes() == before
        (tmp_path / name).unlink()


def test_going_on_wants_the_same_prime_and_works_from_the_first_moment(trained, tmp_path, capsys, monkeypatch):
    for name, length in (("one", RATE), ("other", RATE // 2)):
        write_audio(tmp_path / f"{name}.wav", 0.3 * torch.sin(torch.arange(length) * 0.3)[None], RATE)
    words = ("-o", tmp_path / "song.wav", "--minutes", 0.02, "--prime")

    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("audiovae.commands.sample.draw", stop)
    assert sample(trained, *words, tmp_path / "one.wav") == 130
    monkeypatch.undo()
    assert sample(trained, *words, tmp_path / "other.wav", "--resume") == 2
    assert "another given" in capsys.readouterr().err
    (tmp_path / "song.wav").touch()  # stopped while its page was drawn
    assert sample(trained, *words, tmp_path / "one.wav", "--resume") == 0
    assert sample(trained, "-o", tmp_path / "whole.wav", *words[2:], tmp_path / "one.wav") == 0
    assert (tmp_path / "song.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "x.partial.npz").write_bytes(b"PK")
    assert sample(trained, "-o", tmp_path / "x.wav", "--minutes", 0.005, "--resume") == 2
    assert "damaged" in capsys.readouterr().err


def test_a_prime_for_the_slowest_level_alone(trained, tmp_path):
    write_audio(tmp_path / "mine.wav", 0.3 * torch.sin(torch.arange(RATE) * 0.3)[None], RATE)
    assert sample(trained, "-o", tmp_path / "top.wav", "--prime", tmp_path / "mine.wav", "--minutes", 0.02,
                  priors=("top",)) == 0
    primed, _ = songs.given_codes(songs_codec(trained), tmp_path / "mine.wav")
    codes = Codes.load(tmp_path / "top.codes")
    assert codes.hops == (256,) and (codes.levels[0][:, :primed[1].shape[1]] == primed[1]).all()


@pytest.mark.parametrize("seconds", ["0", "-0.5", "nan", "inf"])
def test_seconds_of_a_prime_are_above_0(trained, tmp_path, capsys, seconds):
    write_audio(tmp_path / "mine.wav", 0.3 * torch.sin(torch.arange(RATE) * 0.3)[None], RATE)
    assert sample(trained, "-o", tmp_path / "x.wav", "--prime", tmp_path / "mine.wav", "--prime-seconds", seconds) == 2
    assert "--prime-seconds" in capsys.readouterr().err


def test_a_prime_too_short_or_of_another_model_is_refused(trained, tmp_path, capsys):
    write_audio(tmp_path / "short.wav", torch.full((1, 50), 0.1), RATE)
    assert sample(trained, "--prime", tmp_path / "short.wav", "-o", tmp_path / "x.wav") == 2
    assert "less than one step" in capsys.readouterr().err
    assert sample(trained, "-o", tmp_path / "a.wav", "--minutes", 0.02) == 0
    capsys.readouterr()
    assert sample(trained, "--prime", tmp_path / "a.codes", "--infill", "1:9", "-o", tmp_path / "x.wav") == 2
    assert "not within the song" in capsys.readouterr().err
    other = Codes((np.zeros((1, 20), int),), RATE, 1280, (64,), ((16,),), "ffff")
    other.save(tmp_path / "other.codes")
    assert sample(trained, "--prime", tmp_path / "other.codes", "-o", tmp_path / "x.wav") == 2
    assert "ffff" in capsys.readouterr().err


def test_a_prior_of_another_codebook_is_refused_by_both_names(trained, tmp_path, capsys):
    rows = (LevelConfig(strides=(4, 4, 4), num_codes=16, dim=8, width=8, depth=1),
            LevelConfig(strides=(4, 4, 4, 4), num_codes=16, dim=8, width=8, depth=1))
    config = MultiresConfig(levels=rows)
    torch.manual_seed(1)
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", config.build(DataSpec(channels=1, dims=1, sample_rate=RATE)), config)
    assert sample(trained, "--codec", tmp_path / "other", "-o", tmp_path / "x.wav") == 2
    said = capsys.readouterr().err
    assert fingerprint(load_model(tmp_path / "other")) in said and fingerprint(load_model(trained / "codec")) in said


def test_a_disk_that_fills_loses_nothing_that_was_drawn(trained, tmp_path, capsys, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device", "song.wav")

    monkeypatch.setattr("audiovae.songs.AudioWriter", full)
    assert sample(trained, "-o", tmp_path / "song.wav", "--minutes", 0.005, priors=("top",)) == 2
    assert "no space left" in capsys.readouterr().err.lower()
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(generate.PriorFile, "load", lambda self: calls.append(self))
    assert sample(trained, "-o", tmp_path / "song.wav", "--minutes", 0.005, "--resume", priors=("top",)) == 0
    assert not calls and (tmp_path / "song.wav").exists()


def test_one_prior_alone_makes_a_song_from_its_level(trained, tmp_path):
    assert sample(trained, "-o", tmp_path / "top.wav", "--minutes", 0.005, priors=("top",)) == 0
    assert read_audio(tmp_path / "top.wav")[0].shape == (1, 2400)


def test_int8_weights_draw_the_same_songs_in_any_batch_and_are_told_in_their_tags(trained, tmp_path, capsys):
    words = ("--minutes", 0.005, "--count", 2, "--weights", "int8")
    assert sample(trained, "-o", tmp_path / "a", *words, "--batch", 2) == 0
    assert sample(trained, "-o", tmp_path / "b", *words, "--batch", 1) == 0
    for name in ("song-1.codes", "song-2.wav"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with soundfile.SoundFile(tmp_path / "a" / "song-1.wav") as file:
        assert json.loads(file.comment)["weights"] == "int8"
    assert "int8" in (tmp_path / "a" / "song.html").read_text()
    assert sample(trained, "-o", tmp_path / "c", *words[:-1], "int4") == 2
    assert "int8" in capsys.readouterr().err


def test_int8_weights_are_what_a_loaded_prior_computes_with(trained):
    file, = generate.open_priors([trained / "top"])
    model, small = file.load(), file.load("int8")
    codes = torch.randint(16, (3, 1, 16))
    with torch.no_grad():
        wanted, got = model.log_prob(codes), small.log_prob(codes)
    assert not torch.equal(got, wanted) and torch.allclose(got, wanted, rtol=0.01)
    assert small.nbytes < model.nbytes
