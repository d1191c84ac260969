"""The demo corpus of music is the same at every run, its pieces have a form, and its genres can be told apart."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.audio.corpus import SPLITS, Corpus
from audiovae.audio.features import LogMel
from audiovae.audio.prepare import prepare_corpus
from audiovae.audio.prepare_config import MUSIC

pytest.importorskip("symusic")
if find_spec("pretty_midi") is None:
    pytest.skip("no soundfont: pip install 'audiovae[music]'", allow_module_level=True)
SCRIPT = Path(__file__).parent.parent / "data" / "demo_music.py"
sys.path.insert(0, str(SCRIPT.parent))
import demo_music  # noqa: E402
from composer import BEAT, DRUMS, GENRES, MAJOR, MINOR, artists, compose, shortened  # noqa: E402
from demo_music import NAMES, CorpusError, Player  # noqa: E402

RATE = 16_000


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
                          check=False, timeout=240)


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "a"
    done = run(out, "--hours", 0.01, "--rate", RATE)
    assert done.returncode == 0 and "25 pieces by 25 artists in 5 genres" in done.stdout and done.stderr == ""
    return out


@pytest.fixture(scope="module")
def corpus(music) -> Corpus:
    prepare_corpus(music, music.parent / "corpus", replace(MUSIC, sample_rate=RATE, test_by="given"))
    return Corpus.open(music.parent / "corpus")


def everyone(seed: int = 0):
    return [a for i, g in enumerate(GENRES) for a in artists(g, NAMES[:5], np.random.default_rng([seed, i]))]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_runs_give_the_same_bytes_and_another_seed_others(music):
    run(music.parent / "b", "--hours", 0.01, "--rate", RATE)
    first = files(music)
    assert first == files(music.parent / "b") and len(first) == 27
    with_seed = compose(everyone(1)[0], "x", np.random.default_rng(1))
    assert with_seed == compose(everyone(1)[0], "x", np.random.default_rng(1))
    assert with_seed != compose(everyone(1)[0], "x", np.random.default_rng(2))


@pytest.mark.parametrize("seed", range(3))
def test_pieces_have_a_form_and_end_at_home(seed):
    for artist in everyone(seed):
        piece = compose(artist, "x", np.random.default_rng(seed))
        assert 20 <= piece.seconds <= 60
        melody = sorted((n for n in piece.parts[artist.lead]), key=lambda n: n.start)
        if artist.lead in (artist.fill, artist.bass, 48):  # the accompaniment is among its notes
            continue
        bar = artist.genre.beats * BEAT
        forms = {(piece.length - 4 * BEAT) // (bars * bar): bars for bars in (4, 8)}
        count, bars = next((count, bars) for count, bars in forms.items() if count in (4, 6))
        form = [[(n.start - k * bars * bar, n.pitch) for n in melody if k <= n.start / (bars * bar) < k + 1]
                for k in range(count)]
        assert form[0] == form[1] != form[2] == (form[4] if count == 6 else form[2]) and form[-1][:-1] == form[0][:-1]
        tonic = min(piece.parts[artist.fill][-4:], key=lambda n: n.pitch).pitch
        assert (form[-1][-1][1] - tonic) % 12 == 0, "the last A comes home"
        if artist.genre.scale is None:
            scale = {(tonic + d) % 12 for d in (MINOR if artist.minor else MAJOR)}
            assert np.mean([n.pitch % 12 in scale for n in melody]) > 0.8, "in its key but for leading tones"


def test_a_piece_is_played_in_tune():
    """The strongest partial of a lone held note is its pitch: the synthesizer is told notes, tempo and rate rightly."""
    artist = everyone()[0]
    piece = shortened(compose(artist, "x", np.random.default_rng(0)), 4)
    note = replace(piece.parts[artist.lead][0], start=0, length=4 * BEAT, pitch=69)
    wave = Player(RATE).play(replace(piece, parts={73: [note]}, minute=60))
    assert len(wave) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    spectrum = np.abs(np.fft.rfft(wave[RATE:2 * RATE] * np.hanning(RATE)))
    assert spectrum.argmax() == pytest.approx(440, abs=5)


def test_a_synthesizer_that_hangs_or_dies_is_started_again(monkeypatch):
    piece = shortened(compose(everyone()[0], "Paper Road", np.random.default_rng(0)), 4)
    player = Player(RATE)
    usual, start = player.play(piece), player._start

    def start_and_wait():
        start()
        player.patience = 60

    monkeypatch.setattr(player, "_start", start_and_wait)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(player._process.pid, number)
        player.patience = 1
        assert np.array_equal(player.play(piece), usual)
    monkeypatch.setattr(demo_music, "TRIES", 1)
    os.kill(player._process.pid, signal.SIGSTOP)
    player.patience = 0.1
    with pytest.raises(CorpusError, match="asked 1 times and did not play 'Paper Road'"):
        player.play(piece)


def test_no_artist_is_in_two_parts_and_every_genre_in_all(corpus):
    parts = {split: corpus.utterances(split) for split in SPLITS}
    names = {split: {u.speaker for u in found} for split, found in parts.items()}
    assert [len(names[s]) for s in SPLITS] == [15, 5, 5] and len(set.union(*names.values())) == 25
    assert all(len({u.tags["genre"] for u in found}) == 5 for found in parts.values())
    assert set(corpus.tags) == {"artist", "genre", "mode"} and set(corpus.tags["mode"]) == {"major", "minor"}


def test_genres_can_be_told_by_ear_on_artists_never_heard(corpus):
    """The nearest genre by mean and spread of log-mel bands, over those of the artists trained on; chance is 0.2."""
    mel = LogMel(RATE, 1024, 512, 32)

    def heard(u):
        frames = mel(torch.from_numpy(corpus.audio(u))[None, None])[0].numpy()
        return np.concatenate([frames.mean(axis=1), 3 * frames.std(axis=1)])

    train = [(u.tags["genre"], heard(u)) for u in corpus.utterances("train")]
    genres = sorted({g for g, _ in train})
    centres = np.stack([np.mean([x for g, x in train if g == genre], axis=0) for genre in genres])
    unseen = [*corpus.utterances("valid"), *corpus.utterances("test")]
    found = [genres[int(((centres - heard(u)) ** 2).sum(axis=1).argmin())] for u in unseen]
    assert np.mean([g == u.tags["genre"] for g, u in zip(found, unseen, strict=True)]) >= 0.6


def test_genres_differ_in_tempo_and_drums():
    by_genre = {}
    for artist in everyone():
        piece = compose(artist, "x", np.random.default_rng(0))
        strokes = len(piece.parts.get(DRUMS, [])) / piece.seconds
        by_genre.setdefault(artist.genre.name, []).append((piece.minute, strokes))
    minute, strokes = ({name: np.mean([p[k] for p in pieces]) for name, pieces in by_genre.items()} for k in (0, 1))
    assert minute["Ballad"] < 90 < 110 < minute["Electronic"] < minute["Waltz"]
    assert strokes["Chorale"] == 0 < strokes["Ballad"] < 1 < 4 < min(strokes["Electronic"], strokes["Boogie"])


@pytest.mark.parametrize("words, why", [(("--hours", 0), "--hours: wanted"), (("--rate", 8000), "--rate: wanted")])
def test_bad_wishes_are_one_clear_line(tmp_path, words, why):
    done = run(tmp_path / "c", *words)
    assert done.returncode == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()
