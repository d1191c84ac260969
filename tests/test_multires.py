"""Separately trained levels: apart in every gradient, together in one run, and what the codes of each give back."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from audiovae.bottlenecks import GaussianConfig, VQConfig
from audiovae.checkpoint import load_model, run_checkpoints, write_tensors
from audiovae.config import from_dict, to_dict
from audiovae.data import AudioData
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import AutoencoderConfig, LevelConfig, MultiresConfig
from audiovae.shapes import Batch, CodeLevel, Condition, DataSpec
from audiovae.train import Experiment, Trainee, build, train

ROWS = [{"strides": [2, 2], "width": 4, "depth": 1, "num_codes": 16, "dim": 4},
        {"strides": [4, 2], "width": 6, "depth": 2, "num_codes": 8, "dim": 3, "num_quantizers": 2}]
SOUND = DataSpec(channels=1, dims=1, sample_rate=8000)


def experiment(corpus, steps, level=None, rows=ROWS, **loop) -> Experiment:
    return from_dict(Experiment, {
        "data": {"corpus": str(corpus), "seconds": 0.25, "batch_size": 4, "validation_batches": 1},
        "model": {"kind": "multires", "levels": rows},
        "objective": {"distortion_weight": 0, "commitment": 0.02, "criteria": [
            {"kind": "sample_l2"}, {"kind": "top_squares", "k": 128},
            {"kind": "jukebox_spectral", "resolutions": [{"n_fft": 64, "hop": 16}]}]},
        "train": {"steps": steps, "schedule": "constant", "warmup": 0, "log_every": 1, "level": level, **loop}})


def model(rows=ROWS, spec=SOUND):
    torch.manual_seed(0)
    return from_dict(MultiresConfig, {"levels": rows}).build(spec)


def log(run, split="train"):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def weights(run, kind="weights"):
    return {n: v for n, v in load_file(run_checkpoints(run)[-1] / "training.safetensors").items() if n.startswith(kind)}


def test_rows_are_levels_without_saying_so():
    config = from_dict(MultiresConfig, {"levels": [*ROWS, {"kind": "autoencoder", "bottleneck": {"num_codes": 3},
                                                           "encoder": {"width": 8}}]})
    assert [type(row) for row in config.levels] == [LevelConfig, LevelConfig, AutoencoderConfig]
    assert config.levels[2].bottleneck.kind == "rvq" and config.levels[2].encoder.width == 8
    assert from_dict(MultiresConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match=r"unknown key 'levels\.0\.witdh'"):
        from_dict(MultiresConfig, {"levels": [{"witdh": 3}]})


def test_the_default_is_the_papers():
    levels = MultiresConfig().levels
    assert [row.hop for row in levels] == [8, 32, 128]
    assert [(row.width, row.depth) for row in levels] == [(64, 8), (32, 4), (32, 4)]
    assert {(row.num_codes, row.dim, row.growth, row.decay) for row in levels} == {(2048, 64, 3, 0.99)}


@pytest.mark.parametrize("channels", [1, 2])
def test_any_level_decodes_by_itself(channels):
    its = model(spec=replace(SOUND, channels=channels)).eval()
    assert its.code_levels == (CodeLevel(4, (16,)), CodeLevel(8, (8, 8))) and its.hop == 8
    x = torch.randn(2, channels, 64)
    codes = its.encode_levels(x)
    assert [tuple(c.shape) for c in codes] == [(2, 1, 16), (2, 2, 8)]
    for level in (0, 1):
        alone = [None if other != level else c for other, c in enumerate(codes)]
        assert torch.equal(its.decode_levels(alone), its.levels[level].reconstruct(x))
        assert torch.equal(its.reconstruct(x, level=level), its.levels[level].reconstruct(x))
    assert torch.equal(its.decode_levels(codes), its.levels[0].reconstruct(x))  # the finest that is there
    for wrong in ([None, None], [], [*codes, codes[0]]):
        with pytest.raises(ShapeError, match="Multires wants codes of at least one of its 2 levels"):
            its.decode_levels(wrong)


def test_a_levels_loss_moves_no_other_level(tiny_corpus):
    """The gradient of the joined loss is that of each level's loss alone; no term reaches another's weights."""
    its, x = model().train(), 0.1 * torch.randn(3, 1, 512)
    trainee = Trainee(its, experiment(tiny_corpus, 1).objective.build(8000))
    frozen = {n: v.clone() for n, v in its.state_dict().items()}
    trainee(Batch(x, Condition(), ("a",) * 3), 0.0).total.backward()
    both = [p.grad.clone() for p in its.parameters()]
    alone = []
    for level in (0, 1):
        its.load_state_dict(frozen)
        its.zero_grad()
        its.take_turn(level, 0.0)
        trainee(Batch(x, Condition(), ("a",) * 3), 0.0).total.backward()
        assert all(p.grad is None for p in its.levels[1 - level].parameters())
        alone += [p.grad.clone() for p in its.levels[level].parameters()]
    assert all(torch.equal(a, b) for a, b in zip(both, alone, strict=True)) and len(both) == len(alone)


def test_levels_trained_in_one_run_are_those_trained_one_at_a_time(tiny_corpus, tmp_path):
    """Bit for bit, with clipping that bites: its norm is each level's own."""
    for name, level in (("all", None), ("0", 0), ("1", 1)):
        train(experiment(tiny_corpus, 4, level, clip=0.01), tmp_path / name)
    every = weights(tmp_path / "all")
    for level in (0, 1):
        part = {n: v for n, v in weights(tmp_path / str(level)).items() if f"/levels.{level}." in n}
        assert part and [n for n, v in part.items() if not torch.equal(v, every[n])] == []
        other = {n: v for n, v in weights(tmp_path / str(level)).items() if f"/levels.{1 - level}." in n}
        untouched = model_of(tmp_path / str(level), tiny_corpus, level)
        assert all(torch.equal(v, untouched[n.removeprefix("weights/")]) for n, v in other.items())


def model_of(run, corpus, level):
    """The weights that a run begins with."""
    return build(experiment(corpus, 4, level))[1].state_dict()


def test_the_log_names_each_levels_terms(tiny_corpus, tmp_path):
    train(experiment(tiny_corpus, 2), tmp_path / "run")
    line, held = log(tmp_path / "run")[-1], log(tmp_path / "run", "valid")[-1]
    for level in (0, 1):
        names = {f"{n}_{level}" for n in ("sample_l2", "top_squares", "jukebox_spectral", "commitment", "perplexity",
                                         "total", "distortion")}
        assert names <= line.keys() and names <= held.keys()
    assert line["total"] == pytest.approx(line["total_0"] + line["total_1"], rel=1e-4)
    found = {p.name for p in (tmp_path / "run/samples").rglob("0-*")}
    assert found == {"0-source.wav", "0-level-0.wav", "0-level-1.wav"}
    assert "elbo" not in line  # two models have no one likelihood


def test_one_level_after_the_other(tiny_corpus, tmp_path):
    train(experiment(tiny_corpus, 6, "each"), tmp_path / "run")
    lines = log(tmp_path / "run")
    assert ["total_0" in line for line in lines] == [True] * 3 + [False] * 3
    assert ["total_1" in line for line in lines] == [False] * 3 + [True] * 3
    assert {"total_0", "total_1"} <= log(tmp_path / "run", "valid")[-1].keys()
    half = experiment(tiny_corpus, 3, 0)
    train(half, tmp_path / "half")
    one, both = weights(tmp_path / "half"), weights(tmp_path / "run")
    assert all(torch.equal(v, both[n]) for n, v in one.items() if "/levels.0." in n)


def test_a_turn_has_its_own_course():
    its = model()
    assert [its.take_turn("each", p) for p in (0.0, 0.25, 0.5, 0.75)] == [0.0, 0.5, 0.0, 0.5]
    assert its.working == (1,) and its.shown == (0, 1)
    with pytest.raises(ConfigError, match=r"train\.level 2: this model has the levels 0 to 1"):
        its.take_turn(2, 0.0)


def test_a_level_is_asked_of_no_other_model(tiny_corpus, tmp_path):
    with pytest.raises(ConfigError, match="level wants a model of kind 'multires', this is 'autoencoder'"):
        train(replace(experiment(tiny_corpus, 1, 0), model=AutoencoderConfig()), tmp_path / "run")


def test_restart_brings_collapsed_codebooks_back(tiny_corpus, tmp_path):
    """All codes on one point, with the counts of a codebook in use: nothing tells they are dead but use itself."""
    rows = [row | {"decay": 0.8} for row in ROWS]
    train(experiment(tiny_corpus, 1, rows=rows), tmp_path / "run")
    path = run_checkpoints(tmp_path / "run")[-1] / "training.safetensors"
    saved = load_file(path)
    for name in [n for n in saved if n.startswith("weights/") and n.endswith(".counts")]:
        root = name.removesuffix("counts")
        saved[name] = torch.full_like(saved[name], float(saved[name].mean()))
        saved[root + "vectors"] = saved[root + "vectors"][:1].expand_as(saved[root + "vectors"]).clone()
        saved[root + "sums"] = saved[root + "vectors"] * saved[name][:, None]
    write_tensors(path, saved)
    train(experiment(tiny_corpus, 40, rows=rows), tmp_path / "run", resume=True)
    first, last = log(tmp_path / "run")[1], log(tmp_path / "run")[-1]
    its = load_model(tmp_path / "run")
    source = AudioData(corpus=str(tiny_corpus), seconds=0.25, batch_size=16).build(0)
    source.fit(its.hop)
    codes = its.encode_levels(torch.cat([source.batch(i).x for i in range(3)]))
    for level, num_codes in zip(codes, (16, 8), strict=True):
        assert all(len(stage.unique()) >= 0.9 * num_codes for stage in level.unbind(1))
    for level in (0, 1):
        assert first[f"perplexity_{level}"] < 1.1 < 4 < last[f"perplexity_{level}"]


@pytest.mark.parametrize(("rows", "told"), [
    ([], "growing hops"), (ROWS[::-1], r"growing hops, .* got \[8, 4\]"),
    ([ROWS[0], ROWS[0]], "growing hops"), ([ROWS[0], {"strides": [6]}], "multiple of the one before")])
def test_hops_that_are_no_hierarchy_are_refused(rows, told):
    with pytest.raises(ConfigError, match=told):
        model(rows)


def test_a_level_without_codes_is_refused():
    row = AutoencoderConfig(encoder=LevelConfig().encoder, decoder=LevelConfig().decoder, bottleneck=GaussianConfig())
    with pytest.raises(ConfigError, match="level 0 has Gaussian"):
        MultiresConfig(levels=(row,)).build(SOUND)


def test_a_row_passes_its_codebooks_settings_on():
    row = LevelConfig(num_codes=5, dim=3, decay=0.5, standardize=True, kmeans_after=2, dead_threshold=0.3)
    assert row.bottleneck == VQConfig(num_codes=5, dim=3, decay=0.5, standardize=True, kmeans_after=2,
                                      dead_threshold=0.3)
