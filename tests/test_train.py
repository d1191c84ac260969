"""The loop: resumed = never stopped, bit for bit; what ends it, and what it leaves behind."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from processes import Process, command
from safetensors.torch import load_file

from audiovae import train as training
from audiovae.checkpoint import load_model, run_checkpoints
from audiovae.config import from_dict
from audiovae.errors import CheckpointError, ConfigError, OutputError, TrainingError
from audiovae.image.source import ImageSource
from audiovae.likelihoods import GaussianConfig
from audiovae.models import SemiSupervisedConfig
from audiovae.objectives import ObjectiveConfig
from audiovae.optim import Average, clip, learning_rate
from audiovae.rate_control import Geco
from audiovae.run import State
from audiovae.shapes import Batch
from audiovae.train import Experiment, TrainConfig, train

STRIDED = {"kind": "strided", "strides": [2, 2], "width": 16, "depth": 1}


def digits(bottleneck, steps, **loop):
    """A small image model on scikit-learn's digits."""
    return from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 32},
        "model": {"encoder": STRIDED, "decoder": STRIDED, "bottleneck": bottleneck,
                  "likelihood": {"kind": "bernoulli"}, "condition_dim": 4},
        "train": {"steps": steps, "schedule": "constant", "warmup": 0, "log_every": 5, **loop}})


def speech(corpus, steps):
    """A small speech model with every random part switched on: k-means, restarts, dropouts."""
    return from_dict(Experiment, {
        "data": {"corpus": str(corpus), "seconds": 0.2, "batch_size": 4, "validation_batches": 1},
        "model": {"encoder": {"width": 16, "depth": 1}, "decoder": {"width": 16, "depth": 1}, "condition_dim": 4,
                  "bottleneck": {"kind": "rvq", "num_codes": 8, "num_quantizers": 2, "dim": 8, "quantizer_dropout": 0.5,
                                 "kmeans_after": 6}},
        "objective": {"distortion_weight": 0, "criteria": [{"kind": "log_mel"}]},
        "train": {"steps": steps, "schedule": "constant", "warmup": 0, "accumulate": 2}})


def tensors(run):
    folder = run_checkpoints(run)[-1]
    return {**load_file(folder / "training.safetensors"), **load_file(folder / "model.safetensors")}


def rows(run, split):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def assert_stop_and_go_is_one_run(make, folder):
    for name, cuts in (("whole", [16]), ("cut in k-means", [3, 16]), ("cut after", [9, 16])):
        for index, steps in enumerate(cuts):
            state = train(make(steps), folder / name, resume=index > 0)
        assert state.step == 16
    whole = tensors(folder / "whole")
    for name in ("cut in k-means", "cut after"):
        other = tensors(folder / name)
        assert whole.keys() == other.keys()
        assert [k for k in whole if not torch.equal(whole[k], other[k])] == []


@pytest.mark.parametrize("bottleneck", [
    {"kind": "gaussian", "dim": 4},
    {"kind": "vq", "num_codes": 16, "dim": 4, "kmeans_after": 6},
], ids=["vae", "vq-vae"])
def test_stop_and_go_on_is_the_run_that_never_stopped(bottleneck, tmp_path):
    assert_stop_and_go_is_one_run(lambda steps: digits(bottleneck, steps), tmp_path)


@pytest.mark.parametrize(("objective", "loop"), [
    ({"rate": {"kind": "geco", "target": 0.4, "speed": 0.5}}, {"channels_last": True}),
    ({"bound": "iwae", "samples": 3}, {"encoder_steps": 2}),
], ids=["geco, channels last", "iwae and encoder steps"])
def test_stop_and_go_on_keeps_what_the_objective_and_the_steps_have_learned(objective, loop, tmp_path):
    """The labels are dropped by lot in all of these, and K latents drawn: the dice are the step's own."""
    def make(steps):
        experiment = digits({"kind": "gaussian", "dim": 4}, steps, **loop)
        return replace(experiment, objective=from_dict(ObjectiveConfig, objective))

    assert_stop_and_go_is_one_run(make, tmp_path)
    multiplier = tensors(tmp_path / "whole").get("rate_control/log_multiplier")
    assert (multiplier is not None) == ("rate" in objective)
    assert multiplier is None or float(multiplier) != 0


def test_a_run_that_forgets_its_multiplier_is_another_run(tmp_path, monkeypatch):
    """The check above must be able to fail."""
    def make(steps):
        rate = {"rate": {"kind": "geco", "target": 0.4, "speed": 0.5}}
        return replace(digits({"kind": "gaussian", "dim": 4}, steps), objective=from_dict(ObjectiveConfig, rate))

    train(make(6), tmp_path / "whole")
    train(make(3), tmp_path / "cut")
    monkeypatch.setattr(Geco, "load_state_dict", lambda self, state: None)
    train(make(6), tmp_path / "cut", resume=True)
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert any(not torch.equal(whole[k], cut[k]) for k in whole)


def semi_supervised(steps, **loop):
    experiment = digits({"kind": "gaussian", "dim": 4}, steps, **loop)
    told = replace(experiment.model, condition_encoder=True, latent="vector")
    return replace(experiment, model=SemiSupervisedConfig(autoencoder=told),
                   data=replace(experiment.data, labelled=100, labelled_share=0.5))


FLOW = {"kind": "gaussian", "dim": 4, "posterior": {"kind": "iaf", "layers": 1, "width": 8, "context": 2}}


@pytest.mark.parametrize(("make", "inferring"), [
    (partial(digits, {"kind": "gaussian", "dim": 4}), {"encoder"}),
    (partial(digits, FLOW), {"encoder", "bottleneck.flow"}),
    (semi_supervised, {"autoencoder.encoder", "classifier"}),
], ids=["plain", "flow", "semi-supervised"])
def test_in_steps_of_the_encoder_alone_all_else_stands_still(make, inferring, tmp_path):
    """Two of three steps are the encoder's, with all that infers; the third is everyone's (He 2019, algorithm 1)."""
    weights = []
    for steps in range(1, 7):
        train(make(steps, encoder_steps=2), tmp_path / "run", resume=steps > 1)
        weights.append({k: v for k, v in tensors(tmp_path / "run").items() if k.startswith("weights/")})
    for step, (before, after) in enumerate(pairwise(weights), 1):
        moved = {k for k in after if not torch.equal(before[k], after[k])}
        parts = {next((part for part in inferring if k.startswith(f"weights/{part}.")), "another's") for k in moved}
        assert parts == (inferring | {"another's"} if step % 3 == 2 else inferring)


def test_stop_and_go_on_with_speech_and_residual_codes(tiny_corpus, tmp_path):
    assert_stop_and_go_is_one_run(lambda steps: speech(tiny_corpus, steps), tmp_path)


def test_a_run_that_forgets_its_optimizer_is_another_run(tmp_path, monkeypatch):
    """The check above must be able to fail."""
    train(digits({"kind": "gaussian", "dim": 4}, 8), tmp_path / "whole")
    train(digits({"kind": "gaussian", "dim": 4}, 4), tmp_path / "cut")
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    train(digits({"kind": "gaussian", "dim": 4}, 8), tmp_path / "cut", resume=True)
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert any(not torch.equal(whole[k], cut[k]) for k in whole)


def test_digits_are_learned_and_logged(tmp_path):
    train(digits({"kind": "gaussian", "dim": 8}, 150, lr=3e-3), tmp_path / "run")
    before, after = rows(tmp_path / "run", "train")[0], rows(tmp_path / "run", "valid")[-1]
    assert after["elbo"] > before["elbo"] + 5
    assert after["elbo"] == pytest.approx(-after["distortion"] - after["rate"], rel=1e-4)
    assert (tmp_path / "run/samples/00000150/source-above-reconstruction.png").stat().st_size > 0
    assert list((tmp_path / "run").glob("events*"))
    model = load_model(tmp_path / "run")
    assert model.data.labels == tuple("0123456789")


def test_the_last_two_checkpoints_are_kept(tmp_path):
    train(digits({"kind": "identity", "dim": 2}, 6, checkpoint_minutes=0), tmp_path / "run")
    assert [p.name for p in run_checkpoints(tmp_path / "run")] == ["checkpoint-00000005", "checkpoint-00000006"]


@pytest.mark.parametrize("bottleneck", [{"kind": "identity", "dim": 2}, {"kind": "vq", "num_codes": 8, "dim": 2}],
                         ids=["the loss", "the bottleneck"])
def test_what_is_not_finite_stops_with_step_files_and_last_checkpoint(bottleneck, tmp_path, monkeypatch):
    real = ImageSource.batch

    def poisoned(self, step, rank=0):
        batch = real(self, step, rank)
        return Batch(batch.x * float("nan"), batch.condition, batch.names) if step == 3 else batch

    monkeypatch.setattr(ImageSource, "batch", poisoned)
    experiment = digits(bottleneck, 6, checkpoint_minutes=0)
    experiment = replace(experiment, model=replace(experiment.model, likelihood=GaussianConfig()))
    with pytest.raises(TrainingError, match=r"step 3: .*finite.*digit \d+.*checkpoint-00000003"):
        train(experiment, tmp_path / "run")
    assert all(torch.isfinite(v).all() for v in tensors(tmp_path / "run").values())


def test_a_time_budget_ends_the_run_and_its_schedule(tmp_path):
    experiment = digits({"kind": "identity", "dim": 2}, None, minutes=0.05, schedule="cosine", log_every=1)
    state = train(experiment, tmp_path / "run")
    assert state.minutes >= 0.04  # the step that passed the budget is counted when it began
    steps = rows(tmp_path / "run", "train")
    assert len(steps) == state.step
    for before, row in pairwise(steps):  # the rate is that of the time when the step began
        least, most = (learning_rate("cosine", 0.0, min(1.0, r["minutes"] / 0.05)) for r in (row, before))
        assert 1.5e-3 * least - 1e-5 <= row["lr"] <= 1.5e-3 * most + 1e-5


def test_each_run_has_its_own_precision(tmp_path):
    losses = []
    for name, precision in (("first", "no"), ("second", "bf16"), ("third", "no")):
        train(digits({"kind": "gaussian", "dim": 4}, 5, precision=precision), tmp_path / name)
        losses.append(rows(tmp_path / name, "train")[-1]["total"])
    assert losses[0] == losses[2] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_training_begins_with_the_weights_of_another_run(tmp_path):
    train(digits({"kind": "gaussian", "dim": 4}, 5), tmp_path / "first")
    alike = {"lr": 1e-30, "ema": 0.0}
    told = digits({"kind": "gaussian", "dim": 4}, 1, init=str(tmp_path / "first"), **alike)
    train(told, tmp_path / "second")
    train(digits({"kind": "gaussian", "dim": 4}, 1, **alike), tmp_path / "third")
    first, second, third = (load_model(tmp_path / name).state_dict() for name in ("first", "second", "third"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    with pytest.raises(CheckpointError, match="weights are not of the model"):
        train(digits({"kind": "gaussian", "dim": 5}, 1, init=str(tmp_path / "first")), tmp_path / "other")
    assert not (tmp_path / "other").exists(), "a run that cannot begin leaves nothing behind"
    shutil.rmtree(tmp_path / "first")  # a run goes on from its own
    assert train(replace(told, train=replace(told.train, steps=2)), tmp_path / "second", resume=True).step == 2


def test_tables_of_learned_vectors_have_a_rate_of_their_own(tmp_path):
    """A first step is as long as the rate; the table has a gradient from the second on, as the decoder listens then."""
    moved = []
    for name, rates in (("still", {"lr": 1e-30}), ("alike", {}), ("tables", {"embedding_lr": 1e-2})):
        train(digits({"kind": "gaussian", "dim": 4}, 2, **{"lr": 1e-3, "ema": 0.0, "weight_decay": 0.0, **rates}),
              tmp_path / name)
        moved.append(load_model(tmp_path / name).state_dict())
    still, alike, tables = moved
    far = {name: [float((its[name] - still[name]).abs().max()) for its in (alike, tables)] for name in still
           if still[name].is_floating_point()}
    slow, fast = far.pop("embedding.table.weight")
    assert 5e-4 < slow <= 1e-3 and fast == pytest.approx(10 * slow, rel=1e-3)
    assert all(alike == tables for alike, tables in far.values()) and any(alike for alike, _ in far.values())


def test_what_cannot_start_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no budget"):
        train(digits({"kind": "identity", "dim": 2}, None), tmp_path / "run")
    for wrong in ({"steps": 0}, {"minutes": -1.0}, {"accumulate": 0}, {"lr": float("nan")}, {"log_every": 0}):
        with pytest.raises(ConfigError, match=f"train.{next(iter(wrong))}'"):
            train(digits({"kind": "identity", "dim": 2}, **({"steps": 1} | wrong)), tmp_path / "run")
    endless = replace(digits({"kind": "identity", "dim": 2}, 1), train=TrainConfig(steps=-1))
    with pytest.raises(ConfigError, match="steps wants a number above 0"):
        train(endless, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint to resume"):
        train(digits({"kind": "identity", "dim": 2}, 1), tmp_path / "run", resume=True)
    train(digits({"kind": "identity", "dim": 2}, 1), tmp_path / "run")
    with pytest.raises(OutputError, match=r"already holds a run.*--resume"):
        train(digits({"kind": "identity", "dim": 2}, 1), tmp_path / "run")
    with pytest.raises(ConfigError, match="hop"):
        config = digits({"kind": "identity", "dim": 2}, 1)
        train(from_dict(Experiment, {"data": {"kind": "digits"}, "train": {"steps": 1}, "model": {
            "encoder": STRIDED, "decoder": {**STRIDED, "strides": [2]}, "bottleneck": {"kind": "identity"}}}),
            tmp_path / "other")
        assert config


def test_control_c_saves_and_resume_goes_on(tmp_path):
    config = tmp_path / "digits.toml"
    config.write_text('[data]\nkind = "digits"\n[model.encoder]\nkind = "strided"\nstrides = [2, 2]\n'
                      '[model.decoder]\nkind = "strided"\nstrides = [2, 2]\n[model.bottleneck]\nkind = "gaussian"\n'
                      '[train]\nminutes = 5\nlog_every = 1\n')
    run = tmp_path / "run"
    process = Process(command, "train", config, "-o", run)
    for _ in range(600):
        if (run / "log.jsonl").exists() and len((run / "log.jsonl").read_text().splitlines()) > 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stopped = process.done()
    assert stopped.returncode == 130 and f"audiovae train --resume {run}" in stopped.stderr
    steps = json.loads((run_checkpoints(run)[-1] / "state.json").read_text())["step"]
    more = [sys.executable, "-m", "audiovae.cli", "train", "--resume", run, "--train.steps", str(steps + 2)]
    done = subprocess.run(more, capture_output=True, text=True, timeout=120)  # from nothing, as after a restart
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{steps + 2} steps")


def test_maps_with_their_channels_last_are_the_same_numbers(tmp_path, monkeypatch):
    """This bottleneck draws nothing, so that only the order of sums is another."""
    models, make = [], training.build

    def built(experiment):
        source, model = make(experiment)
        models.append(model)
        return source, model

    monkeypatch.setattr(training, "build", built)
    for last in (False, True):
        train(digits({"kind": "sparse", "penalty": "l1"}, 4, channels_last=last), tmp_path / str(last))
    plain, last = ([p for p in model.parameters() if p.ndim == 4 and min(p.shape) > 1] for model in models)
    assert all(p.is_contiguous() for p in plain) and len(plain) > 2
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in last)
    first, second = (tensors(tmp_path / name) for name in ("False", "True"))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first if name.startswith("weights"))


@pytest.mark.parametrize("length", [0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 3.0, float("nan"), float("inf")])
def test_gradients_are_clipped_as_torch_does(length):
    torch.manual_seed(0)
    mine, torchs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in ((5, 3), (7,), (2,))] for _ in range(2))
    raw = [torch.randn_like(p) for p in mine[:2]]  # the third has none
    norm = torch.nn.utils.get_total_norm(raw)
    for p, q, grad in zip(mine, torchs, raw, strict=False):
        p.grad, q.grad = grad * (length / norm), grad * (length / norm)
    told, expected = clip(mine, 1.0), torch.nn.utils.clip_grad_norm_(torchs, 1.0).item()
    assert told == expected or (math.isnan(told) and math.isnan(expected))
    for p, q in zip(mine[:2], torchs, strict=False):
        assert torch.equal(p.grad.nan_to_num(), q.grad.nan_to_num())
    assert mine[2].grad is None


def test_averaged_weights_follow_their_formula():
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = Average(model, 0.9), model.weight.item()
    for t in range(1, 30):
        model.weight.data.fill_(float(t % 5))
        average.update()
        decay = min(0.9, t / (t + 10))
        expected = decay * expected + (1 - decay) * (t % 5)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 29 % 5
    assert State() == State(0, 0.0, False)


def test_the_gradient_of_all_micro_batches_is_clipped_as_one(tmp_path):
    experiment = from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 2},
        "model": {"encoder": {"kind": "mlp", "widths": [8]}, "decoder": {"kind": "mlp", "widths": [8]},
                  "bottleneck": {"kind": "identity", "dim": 4}},
        "train": {"steps": 1, "schedule": "constant", "warmup": 0, "ema": 0, "accumulate": 2, "clip": 1e-4}})
    train(experiment, tmp_path)
    source, model = training.build(experiment)
    objective = experiment.objective.build(None)
    for batch in map(source.batch, (0, 1)):
        (objective(model(batch.x), batch.x, model.likelihood, 0.0).total / 2).backward()
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-4) > 1e-3
    config = experiment.train
    torch.optim.AdamW(model.parameters(), config.lr, config.betas, weight_decay=config.weight_decay, fused=True).step()
    trained = load_model(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-7)
