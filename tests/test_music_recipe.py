"""recipes/music: what measure.py says of priors whose truth is known, on tiny music."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.audio.io import write_audio
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.code_data import CodesData
from audiovae.errors import CorpusError
from audiovae.models import LevelConfig, MultiresConfig, PriorConfig
from audiovae.priors import CausalConfig, ToldConfig
from audiovae.shapes import DataSpec
from audiovae.train import Experiment, TrainConfig, train

RATE = 8000
PATH = Path(__file__).parent.parent / "recipes/music/measure.py"


@pytest.fixture(scope="module")
def measure():
    spec = importlib.util.spec_from_file_location("measure", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    """Six artists of two genres, high and low tones of 6 s; a codec and two priors of two steps."""
    folder, dice = tmp_path_factory.mktemp("music"), np.random.default_rng(0)
    table, split = ["file,artist,genre,title"], []
    for artist in range(6):
        genre, base = ("Low", 200) if artist % 2 else ("High", 1500)
        split.append(f"artist{artist}\t{('train', 'train', 'train', 'train', 'valid', 'test')[artist]}")
        for song in range(2):
            notes = base * 2 ** (dice.integers(0, 12, 24) / 12)
            wave = np.concatenate([0.3 * np.sin(2 * np.pi * f * np.arange(RATE // 4) / RATE) for f in notes])
            sound = torch.from_numpy(wave.astype(np.float32))[None]
            write_audio(folder / f"music/artist{artist}/{song}.wav", sound, RATE)
            table.append(f"artist{artist}/{song}.wav,artist{artist},{genre},Song {song}")
    (folder / "music/tags.csv").write_text("\n".join(table) + "\n")
    (folder / "music/split.txt").write_text("\n".join(split) + "\n")
    assert main(["prepare", "music", str(folder / "music"), "-o", str(folder / "corpus"), "--rate", str(RATE),
                 "--test-by", "given"]) == 0
    torch.manual_seed(0)
    rows = tuple(LevelConfig(strides=(8,) * 2 + (4,) * n, num_codes=16, dim=8, width=8, depth=1) for n in (0, 1))
    config = MultiresConfig(levels=rows)
    (folder / "codec").mkdir()
    save_model(folder / "codec", config.build(DataSpec(channels=1, dims=1, sample_rate=RATE)), config)
    for level, name in enumerate(("bottom", "top")):
        train(Experiment(
            data=CodesData(model=str(folder / "codec"), corpus=str(folder / "corpus"), level=level, tokens=32,
                           batch_size=2, validation_batches=1),
            model=PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2, told=ToldConfig(upper_width=8,
                                                                                         upper_depth=1))),
            train=TrainConfig(steps=2)), folder / name)
    return folder / "top", folder / "bottom"


def test_all_tables_are_there_and_say_what_they_must(measure, priors):
    tables = dict(measure.measure(priors, songs=2, pieces=2, seconds=2.0))
    assert list(tables) == ["nats a code, level 1", "nats a code, level 0", "genres", "novelty", "levels"]
    genres = {row[0]: row[1:] for row in tables["genres"].rows}
    assert genres["chance"][0] == 0.5 and genres["new, told the genre"][1] == 4
    assert 0 <= genres["real, artists never heard"][0] <= 1
    kept, stranger = tables["levels"].rows
    assert kept[0].startswith("level 1 kept") and stranger[0] == "another piece"


def test_what_is_copied_is_found(measure, priors):
    music = measure.Music.open(priors)
    train = [codes for _, codes in music.sources[1].whole("train")]
    table = measure.novelty(music, [train[0][:, :30]])
    hop = music.codec.code_levels[1].hop
    assert table.rows[0][2] == pytest.approx(30 * hop / RATE)  # all of it


def test_keeping_every_level_changes_nothing(measure, priors, monkeypatch):
    """Where the lower level is not drawn anew but kept, a piece is like itself."""
    music = measure.Music.open(priors)
    source = music.sources[0]

    def same(request, given=None, levels=None):
        index = [i for i, u in enumerate(source.corpus.all) if u.split == "test"][request.seed]
        steps = {level: source.all.codes(index, level, 0, -(-request.samples // music.codec.code_levels[1].hop)
                                         * music.codec.code_levels[1].hop // music.codec.code_levels[level].hop)
                 for level in (0, 1)}
        return {level: codes[None] for level, codes in steps.items()}

    monkeypatch.setattr(music, "new", same)
    with pytest.raises(CorpusError, match="2 --pieces or more"):  # "another" would be the piece itself
        measure.levels(music, 1, 2.0)
    kept, _ = measure.levels(music, 2, 2.0).rows
    assert kept[1].mean == pytest.approx(1, abs=0.02) and kept[3].mean == pytest.approx(0, abs=0.5)
