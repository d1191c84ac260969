"""New codes from priors: windows, levels, gaps, what was begun, and names."""

import json

import numpy as np
import pytest
import torch

from audiovae.checkpoint import save_model
from audiovae.errors import CheckpointError, ConfigError, LabelError, ShapeError
from audiovae.generate import Request, draw, open_priors, open_songs, plan, to_json
from audiovae.models import PriorConfig
from audiovae.priors import CausalConfig, Drawing, MaskedConfig, ToldConfig
from audiovae.shapes import CodeLevel, CodeSpec, DataSpec

LEVELS = (CodeLevel(10, (8, 8)), CodeLevel(40, (8,)))
TAGS = ("genre=Blues", "genre=Waltz")


def saved(folder, level, context, model="ff", kind=CausalConfig, names=True, **more):
    """An untrained prior with weights large enough to tell its inputs apart."""
    spec = LEVELS[level]
    upper = LEVELS[level + 1].num_codes if level + 1 < len(LEVELS) else ()
    codes = CodeSpec(spec.num_codes, model, level, spec.hop, 100, upper, 4 if upper else 1)
    data = DataSpec(channels=len(spec.num_codes), dims=1, size=(context,), tags=TAGS, timing=True, codes=codes)
    told = ToldConfig(names=names, upper_width=8, upper_depth=1)
    config = PriorConfig(prior=kind(dim=16, depth=1, heads=2, told=told, **more))
    torch.manual_seed(level)
    network = config.build(data)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 / value.shape[-1] ** 0.5)
    folder.mkdir(parents=True)
    save_model(folder, network, config, experiment={"data": {"model": "codec"}})
    return folder


@pytest.fixture
def priors(tmp_path):
    return open_priors([saved(tmp_path / "bottom", 0, 24), saved(tmp_path / "top", 1, 8)])


def songs_of(priors, request, given=None, **more):
    return draw(priors, request, open_songs(priors, LEVELS, request, given), **more)


def test_priors_are_ordered_and_must_belong_together(tmp_path, priors):
    assert [prior.codes.level for prior in priors] == [1, 0] and priors[0].trained_on == "codec"
    other = saved(tmp_path / "other", 0, 24, model="ee")
    with pytest.raises(CheckpointError, match="of one model"):
        open_priors([tmp_path / "top", other])
    with pytest.raises(CheckpointError, match="one for each level"):
        open_priors([tmp_path / "bottom"])
    with pytest.raises(CheckpointError, match="is no prior"):
        open_priors(["speech-16k"])


@pytest.mark.parametrize(("length", "context", "overlap", "unit"), [(100, 40, 20, 4), (37, 16, 4, 4), (5, 16, 8, 4),
                                                                    (64, 16, 15, 1), (41, 40, 20, 4)])
def test_windows_cover_all_and_each_goes_on_from_the_one_before(length, context, overlap, unit):
    windows = plan(np.ones(length, bool), context, overlap, unit)
    done = 0
    for start, stop in windows:
        assert start % unit == 0 and 0 < stop - start <= context
        assert start <= done < stop  # without a gap, and something new
        done = stop
    assert done == length


def test_a_gap_is_seen_from_both_sides():
    absent = np.zeros(100, bool)
    absent[60:66] = True
    (start, stop), = plan(absent, context=40, overlap=20, unit=4)
    assert start < 60 and stop > 66 and min(60 - start, stop - 66) >= 12
    absent[0:3] = True  # two gaps far apart are gone through from the left
    windows = plan(absent, context=40, overlap=20, unit=4)
    assert windows[0][0] == 0 and windows[-1][1] > 65


def test_songs_are_whole_and_the_same_whatever_the_batch(priors):
    wanted = songs_of(priors, Request(samples=810, count=3, batch=3, seed=5, tags=("genre=Waltz",)))
    assert {level: codes.shape for level, codes in wanted.items()} == {1: (3, 1, 21), 0: (3, 2, 84)}
    assert all((codes >= 0).all() for codes in wanted.values())
    for batch in (1, 2):
        again = songs_of(priors, Request(samples=810, count=3, batch=batch, seed=5, tags=("genre=Waltz",)))
        assert all((again[level] == wanted[level]).all() for level in wanted)
    other = songs_of(priors, Request(samples=810, count=3, seed=6, tags=("genre=Waltz",)))
    assert any((other[level] != wanted[level]).any() for level in wanted)
    assert (wanted[1][0] != wanted[1][1]).any()


def test_a_stopped_song_goes_on_to_the_same_end(priors):
    request, kept = Request(samples=810, count=2, batch=1, seed=5), []
    wanted = songs_of(priors, request, saved=lambda some: kept.append({k: v.copy() for k, v in some.items()}))
    assert len(kept) > 4
    for begun in kept[::3]:
        assert (begun[0] < 0).any() or begun is kept[-1]
        again = songs_of(priors, request, begun=begun)
        assert all((again[level] == wanted[level]).all() for level in wanted)


def test_only_what_is_absent_is_drawn(priors):
    request = Request(samples=800, seed=1)
    song = {level: codes[0] for level, codes in songs_of(priors, request).items()}
    opened = {level: codes.copy() for level, codes in song.items()}
    opened[1][:, 8:11], opened[0][:, 32:44] = -1, -1
    filled = songs_of(priors, Request(samples=800, seed=2), opened)
    for level, codes in filled.items():
        there = opened[level] >= 0
        assert (codes[0][there] == song[level][there]).all() and (codes >= 0).all()
    assert (filled[0][0] != song[0]).any()


def test_the_top_is_kept_when_lower_levels_are_drawn_anew(priors):
    song = songs_of(priors, Request(samples=800, seed=1))
    anew = songs_of(priors, Request(samples=800, seed=2), {1: song[1][0]})
    assert (anew[1] == song[1]).all() and (anew[0] != song[0]).any()


def test_what_was_asked_changes_what_is_drawn(priors):
    plain, waltz = (songs_of(priors, Request(samples=2000, seed=3, tags=tags)) for tags in ((), ("genre=Waltz",)))
    assert (plain[1] != waltz[1]).any()
    cold = songs_of(priors, Request(samples=320, seed=3, drawings={1: Drawing(temperature=0)}))
    colder = songs_of(priors, Request(samples=320, seed=4, drawings={1: Drawing(temperature=0)}))
    assert (cold[1] == colder[1]).all()


def test_a_masked_prior_fits_where_a_causal_one_does(tmp_path):
    bottom = saved(tmp_path / "bottom", 0, 24, kind=MaskedConfig, passes=3)
    priors = open_priors([bottom, saved(tmp_path / "top", 1, 8)])
    songs = songs_of(priors, Request(samples=810, count=2))
    assert all((codes >= 0).all() for codes in songs.values())


def test_progress_counts_every_step_once(priors):
    steps = []
    songs = songs_of(priors, Request(samples=810, count=3, batch=2), progress=steps.append)
    planned = sum(3 * (stop - start) for level, context, unit in ((1, 8, 1), (0, 24, 4))
                  for start, stop in plan(np.ones(songs[level].shape[2], bool), context, context // 2, unit))
    assert sum(steps) == planned


def test_names_that_nobody_knows_are_refused_with_the_nearest(priors):
    with pytest.raises(LabelError, match="genre=Waltz"):
        songs_of(priors, Request(samples=320, tags=("genre=Walz",)))
    with pytest.raises(LabelError, match="without labels"):
        songs_of(priors, Request(samples=320, label="anna"))
    with pytest.raises(ConfigError, match="without text"):
        songs_of(priors, Request(samples=320, text="la la"))
    with pytest.raises(ConfigError, match="above 0"):
        Request(samples=0)
    with pytest.raises(ShapeError, match="level 1"):
        open_songs(priors, LEVELS, Request(samples=320), {1: np.full((1, 8), 9)})


def test_what_no_prior_listens_to_is_refused(tmp_path):
    deaf = [saved(tmp_path / "bottom", 0, 24, names=False), saved(tmp_path / "top", 1, 8, names=False)]
    with pytest.raises(ConfigError, match="no prior listens to names"):
        songs_of(open_priors(deaf), Request(samples=320, tags=TAGS[:1]))
    guided = Request(samples=320, drawings={1: Drawing(guidance=3.0)})
    with pytest.raises(ConfigError, match="guidance leans towards names"):
        songs_of(open_priors(deaf), guided)
    one = open_priors([deaf[0], saved(tmp_path / "hears", 1, 8)])  # the fast codes may be told the slow ones alone
    assert songs_of(one, Request(samples=320, tags=TAGS[:1], drawings=guided.drawings))[0].shape == (1, 2, 32)


def test_what_was_asked_is_told_without_what_changes_nothing(priors):
    one, two = (to_json(Request(samples=320, batch=batch, drawings={1: Drawing(top_k=5)}), priors) for batch in (1, 2))
    assert one == two and json.loads(one)["drawings"]["1"]["top_k"] == 5
