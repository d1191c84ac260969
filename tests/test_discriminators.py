"""The adversary: its losses by formula, whom each gradient reaches, and that both sides play."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from audiovae.checkpoint import run_checkpoints
from audiovae.config import from_dict, merge, to_dict
from audiovae.criteria import Resolution
from audiovae.data import DigitsData
from audiovae.decoders import vector_decoder
from audiovae.discriminators import (
    Adversary,
    PatchConfig,
    PatchDiscriminator,
    STFTConfig,
    STFTDiscriminator,
    Verdict,
    last_layer,
)
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import AutoencoderConfig
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import DataSpec
from audiovae.train import Experiment, train

STRIDED = {"kind": "strided", "strides": [2, 2], "width": 16, "depth": 1}
PICTURES = DataSpec(channels=1, dims=2, size=(8, 8))


WAVEFORMS = DataSpec(channels=1, dims=1, sample_rate=8000)
RESOLUTIONS = (Resolution(256, 64), Resolution(64, 16))


def small(dims=2, matching=0.0):
    return PatchConfig(width=8, depth=2, matching=matching).build(DataSpec(channels=1, dims=dims))


def spectral(matching=0.0):
    return STFTConfig(resolutions=RESOLUTIONS, width=4, matching=matching).build(WAVEFORMS)


PLAYERS = [pytest.param(lambda matching=0.0: small(1, matching), (1, 64), id="patch, 1"),
           pytest.param(lambda matching=0.0: small(2, matching), (1, 8, 8), id="patch, 2"),
           pytest.param(spectral, (1, 640), id="STFT")]


class Linear(nn.Module):
    """A discriminator whose scores are known: the mean of each example times ``scale``; its feature, the example."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return Verdict((self.scale * x.flatten(1).mean(1),), (self.scale * x,))


def test_both_losses_are_their_formulas():
    adversary = Adversary(Linear(2.0), weight=1.0)
    real = torch.tensor([0.1, 0.9]).view(2, 1, 1).expand(2, 1, 4)     # scores 0.2, 1.8
    fake = torch.tensor([-0.8, 0.3]).view(2, 1, 1).expand(2, 1, 4)    # scores -1.6, 0.6
    hinge = ((1 - 0.2) + 0) / 2, (0 + (1 + 0.6)) / 2
    assert adversary(real, fake).item() == pytest.approx(sum(hinge) / 2)
    assert list(adversary.terms(real, fake)) == ["adversarial"]
    assert adversary.terms(real, fake)["adversarial"].item() == pytest.approx(-(-1.6 + 0.6) / 2)
    matched = Adversary(Linear(2.0), weight=1.0, matching=1.0).terms(real, fake)["feature_matching"]
    assert matched.item() == pytest.approx((0.9 + 0.6) / (0.1 + 0.9))  # |-0.8 - 0.1| and |0.3 - 0.9|; no scale is left


@pytest.mark.parametrize(("player", "shape"), PLAYERS)
def test_features_match_only_where_the_data_do(player, shape):
    """Exactly 0 for equal inputs, although spectral normalisation moves with every look at the weights."""
    adversary, real = player(matching=1.0), torch.rand(2, *shape)
    assert adversary.terms(real, real.clone())["feature_matching"].item() == 0
    assert adversary.terms(real, real + 0.1 * torch.randn_like(real))["feature_matching"].item() > 0.01


@pytest.mark.parametrize(("player", "shape"), PLAYERS)
def test_each_gradient_reaches_one_side_only(player, shape):
    adversary, real = player(matching=1.0), torch.rand(3, *shape)
    estimate = torch.rand_like(real).requires_grad_()
    sum(adversary.terms(real, estimate).values()).backward()
    assert estimate.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    estimate.grad = None
    adversary(real, estimate).backward()
    assert estimate.grad is None
    assert all(p.grad.abs().sum() > 0 for p in adversary.parameters() if p.ndim > 1)  # of a bias, both sides cancel


def test_the_terms_gradient_is_that_of_the_discriminator_as_it_is():
    """Detaching its weights must not change what the model is told."""
    adversary = small().eval()
    estimate = torch.rand(2, 1, 8, 8, requires_grad=True)
    told, = torch.autograd.grad(adversary.terms(estimate, estimate)["adversarial"], estimate)
    direct, = torch.autograd.grad(-adversary.discriminator(estimate).scores[0].mean(), estimate)
    torch.testing.assert_close(told, direct)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_score_depends_on_its_patch_alone(dims):
    """By gradient: every input in the field of one score and none outside, in batches of any company."""
    judge = PatchDiscriminator(dims, channels=1, width=8, depth=2).eval()
    x = torch.randn(2, 1, *(64,) * dims, requires_grad=True)
    scores = judge(x).scores[0]
    assert scores.shape == (2, 1, *(16,) * dims)
    middle = 8
    grad, = torch.autograd.grad(scores[(0, 0, *(middle,) * dims)], x)
    assert grad[1].abs().sum() == 0
    seen = grad[0, 0].abs() if dims == 1 else grad[0, 0].abs().sum(0)
    left, right = judge.field.halo
    reach = seen.nonzero().flatten()
    assert (int(reach[0]), int(reach[-1])) == (4 * middle - left, 4 * middle + right)


def test_a_score_of_a_spectrum_depends_on_its_stretch_alone():
    """By gradient at each resolution: all of the field of a score in samples (but for its end, where the window is 0)
    and nothing outside."""
    judge = STFTDiscriminator(1, RESOLUTIONS, width=4).double().eval()
    x = torch.randn(2, 1, 12000, dtype=torch.float64, requires_grad=True)
    for (n_fft, hop), scores, field in zip([(256, 64), (64, 16)], judge(x).scores, judge.fields, strict=True):
        frames = -(-12000 // hop)
        assert scores.shape == (2, 1, -(-frames // 2), -(-(n_fft // 2 + 1) // 8))
        middle = frames // 4
        grad, = torch.autograd.grad(scores[0, 0, middle].sum(), x, retain_graph=True)
        assert grad[1].abs().sum() == 0
        reach, (left, right) = grad[0, 0].nonzero().flatten(), field.halo
        assert (int(reach[0]) - 1, int(reach[-1])) == (2 * hop * middle - left, 2 * hop * middle + right)


def test_spectra_are_levels_in_units_of_20_dB():
    """By 40 dB apart where one wave is 100 times the other; noise of deviation 1 is at 2 on average, silence at -2."""
    judge = STFTDiscriminator(1, RESOLUTIONS)
    x = torch.randn(1, 1, 4096)
    noise, loud = (judge.spectrum(gain * x, judge.stfts[0])[..., 2:-2, 4:-4] for gain in (1.0, 100.0))
    torch.testing.assert_close(loud, noise + 2, atol=1e-3, rtol=0)
    assert float((10 ** (2 * (noise - 2))).mean()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(judge.spectrum(0 * x, judge.stfts[0]), torch.full((1, 1, 64, 129), -2.0))


def test_no_layer_stretches_more_than_its_norm_allows():
    """Spectral normalisation: after some passes the largest singular value of each weight is 1."""
    judge = PatchDiscriminator(2, channels=1, width=8, depth=2)
    for p in judge.parameters():
        p.data *= 5
    for _ in range(50):
        judge(torch.zeros(1, 1, 8, 8))
    judge.eval()
    for layer in (*judge.downs, judge.inner.conv, judge.head.conv):
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_the_balance_is_the_ratio_of_gradient_norms_at_the_last_layer():
    adversary, x = Adversary(Linear(3.0), weight=0.7), torch.rand(5, 6)
    last = nn.Parameter(torch.randn(4, 6))

    def gradient(of):
        last.grad = None
        of((x @ last.T).unsqueeze(1)).backward()
        return last.grad.clone()

    def loss(estimate):
        return estimate.square().mean()

    ours, theirs = gradient(loss), gradient(lambda e: -3 * e.mean())
    estimate = (x @ last.T).unsqueeze(1)
    joined, log = adversary.weighed(loss(estimate), estimate, estimate, last)
    ratio = ours.norm() / (theirs.norm() + 1e-6)
    assert float(log["adversarial_balance"]) == pytest.approx(float(ratio), rel=1e-5)
    last.grad = None
    joined.backward()
    assert float(last.grad.norm()) == pytest.approx(0.7 * float(ours.norm()), rel=1e-4)  # pulls weight times as hard


def test_a_discriminator_that_says_nothing_has_a_bounded_weight():
    adversary = Adversary(Linear(0.0), weight=1.0)
    last = torch.randn(4, 6, requires_grad=True)
    estimate = (torch.rand(5, 6) @ last.T).unsqueeze(1)
    joined, log = adversary.weighed(100 * estimate.square().mean(), estimate, estimate, last)
    assert float(log["adversarial_balance"]) == 1e4 and float(joined.detach()) == 0


@pytest.mark.parametrize(("kind", "shape"), [
    ({"kind": "mlp", "widths": [16]}, (64, 16)),
    ({"kind": "strided", "strides": [2, 2], "width": 8, "depth": 1}, (8, 1, 4, 4))])
def test_the_last_layer_is_the_one_that_makes_the_picture(kind, shape):
    config = from_dict(AutoencoderConfig, {"decoder": kind}).decoder
    decoder = vector_decoder(config, PICTURES, channels_in=3, channels_out=1, condition_dim=0)
    last = last_layer(decoder)
    assert last.shape == shape
    z = torch.randn(2, 3, 1, 1)
    before = decoder(z)
    with torch.no_grad():
        last.zero_()
        assert not torch.equal(decoder(z), before)
        assert decoder(z).sub(decoder(2 * z)).abs().max() == 0  # nothing of the latent gets by it


def test_twenty_steps_of_the_game():
    """The discriminator learns to tell; the model's weights are moved by its term, and by the term alone here."""
    torch.manual_seed(1)
    source = DigitsData(batch_size=32).build(seed=0)
    model = from_dict(AutoencoderConfig, {"encoder": STRIDED, "decoder": STRIDED, "likelihood": {"kind": "bernoulli"},
                                          "bottleneck": {"kind": "gaussian", "dim": 4}}).build(source.spec)
    objective = ObjectiveConfig().build(None)
    adversary = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    against = torch.optim.AdamW(adversary.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses, fooled = [], []
    for step in range(20):
        batch = source.batch(step)
        output = model(batch.x, batch.condition)
        total = objective(output, batch.x, model.likelihood, 0.0).total
        estimate = model.likelihood.mean(output.params)
        joined, terms = adversary.weighed(total, batch.x, estimate, last_layer(model.decoder))
        (total + joined).backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = adversary(batch.x, estimate)
        loss.backward()
        against.step()
        against.zero_grad()
        losses.append(loss.item())
        fooled.append(terms["adversarial"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert fooled[-1] > fooled[0]  # the model's term grows as the discriminator learns

    batch = source.batch(99)  # a step of the term alone lowers it: its gradient reaches the decoder
    adversary.eval()
    only = torch.optim.SGD(model.decoder.parameters(), lr=1e-2)

    def term():
        torch.manual_seed(0)
        estimate = model.likelihood.mean(model(batch.x, batch.condition).params)
        return adversary.terms(batch.x, estimate)["adversarial"]

    before = term()
    before.backward()
    only.step()
    assert term().item() < before.item()


def test_what_does_not_fit_says_so():
    with pytest.raises(ShapeError, match=r"smaller adversary\.depth"):
        PatchDiscriminator(2, channels=1, width=8, depth=4)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ShapeError, match="C=3"):
        PatchDiscriminator(2, channels=3, width=8)(torch.zeros(1, 1, 8, 8))
    for wrong in ({"depth": 0}, {"width": 0}, {"lr": 0.0}, {"starts": -1}, {"matching": -1}):
        with pytest.raises(ConfigError, match=f"adversary.{next(iter(wrong))}"):
            from_dict(Experiment, {"adversary": {"kind": "patch", **wrong}})
    with pytest.raises(ConfigError, match="wants waveforms"):
        STFTConfig().build(PICTURES)
    with pytest.raises(ConfigError, match="at least one resolution"):
        STFTConfig(resolutions=()).build(WAVEFORMS)
    with pytest.raises(ConfigError, match="no part in the reconstruction"):
        estimate, other = torch.rand(2, 1, 8, 8, requires_grad=True), nn.Parameter(torch.ones(2, 2))
        small().weighed(F.mse_loss(estimate, torch.zeros_like(estimate)), estimate, estimate, other)


def game(steps, **adversary):
    return from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 16},
        "model": {"encoder": STRIDED, "decoder": STRIDED, "bottleneck": {"kind": "gaussian", "dim": 4},
                  "likelihood": {"kind": "bernoulli"}},
        "adversary": {"kind": "patch", "width": 8, "starts": 4, "matching": 1, **adversary},
        "train": {"steps": steps, "schedule": "constant", "warmup": 0, "log_every": 1, "accumulate": 2}})


def tensors(run):
    folder = run_checkpoints(run)[-1]
    return {**load_file(folder / "training.safetensors"), **load_file(folder / "model.safetensors")}


def test_stop_and_go_on_is_the_game_that_never_stopped(tmp_path):
    """Cut before the adversary has its say, and after."""
    for name, cuts in (("whole", [10]), ("before", [3, 10]), ("after", [7, 10])):
        for index, steps in enumerate(cuts):
            train(game(steps), tmp_path / name, resume=index > 0)
    whole = tensors(tmp_path / "whole")
    assert any(key.startswith("adversary/") for key in whole)
    assert any(key.startswith("adversary_optimizer/") for key in whole)
    for name in ("before", "after"):
        other = tensors(tmp_path / name)
        assert whole.keys() == other.keys()
        assert [k for k in whole if not torch.equal(whole[k], other[k])] == []


def test_a_run_goes_on_against_an_adversary_it_did_not_have(tmp_path, capsys):
    """All else is as it was: without a say, the newcomer leaves the run the one that never met it."""
    alone = replace(game(6), adversary=None)
    train(alone, tmp_path / "alone")
    train(replace(alone, train=replace(alone.train, steps=3)), tmp_path / "met")
    capsys.readouterr()
    train(game(6, starts=100), tmp_path / "met", resume=True)
    assert "has no adversary: it begins untrained" in capsys.readouterr().err
    before, after = tensors(tmp_path / "alone"), tensors(tmp_path / "met")
    assert [k for k in before if not torch.equal(before[k], after[k])] == []
    assert any(key.startswith("adversary/") for key in after)
    train(game(7, starts=6), tmp_path / "met", resume=True)
    assert not capsys.readouterr().err
    assert "discriminator" in json.loads((tmp_path / "met/log.jsonl").read_text().splitlines()[-2])


def test_the_adversary_of_a_resumed_run_is_named_on_the_command_line(tmp_path):
    values = to_dict(replace(game(3), adversary=None))
    told = merge(values, {"adversary.kind": "multi_resolution_stft", "adversary.lr": "1e-3"})
    assert from_dict(Experiment, told).adversary == STFTConfig(lr=1e-3)


def test_a_codec_plays_against_its_spectra(tmp_path, tiny_corpus):
    """Stopped after the first steps of the game and gone on with: the run that never stopped."""
    def codec(steps):
        return from_dict(Experiment, {
            "data": {"corpus": str(tiny_corpus), "batch_size": 2, "seconds": 0.4, "validation_batches": 1},
            "model": {"encoder": {"width": 16, "depth": 1}, "decoder": {"width": 16, "depth": 1},
                      "bottleneck": {"kind": "rvq", "num_codes": 16, "dim": 8, "num_quantizers": 2}},
            "objective": {"distortion_weight": 0, "criteria": [{"kind": "log_mel"}]},
            "adversary": {"kind": "multi_resolution_stft", "starts": 1, "width": 4},
            "train": {"steps": steps, "schedule": "constant", "warmup": 0, "log_every": 1}})

    train(codec(4), tmp_path / "whole")
    for steps in (2, 4):
        train(codec(steps), tmp_path / "cut", resume=steps > 2)
    whole, cut = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in whole)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert ["feature_matching" in row for row in rows if row["split"] == "train"] == [False, True, True, True]


def test_the_loop_plays_from_the_step_it_says_and_reports_no_bound(tmp_path):
    train(game(8), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    played = ["discriminator" in row for row in rows if row["split"] == "train"]
    assert played == [False] * 4 + [True] * 4
    assert not any({"elbo", "bits_per_dimension"} & row.keys() for row in rows)
    last = rows[-2]
    assert last["adversarial_balance"] > 0 and last["lr"] == 1.5e-3


def test_the_adversary_changes_the_model_but_not_the_steps_before_it(tmp_path):
    for name, steps, starts in (("none", 6, 100), ("late", 6, 5), ("early", 4, 4)):
        train(game(steps, starts=starts), tmp_path / name)
    none, late, early = (tensors(tmp_path / name) for name in ("none", "late", "early"))
    train(game(4, starts=100), tmp_path / "none at 4")
    before = tensors(tmp_path / "none at 4")
    weights = [key for key in none if key.startswith("weights/")]
    assert all(torch.equal(before[key], early[key]) for key in weights)
    assert any(not torch.equal(none[key], late[key]) for key in weights)


def test_an_adversary_wants_a_reconstruction_of_one_pass(tmp_path):
    experiment = from_dict(Experiment, {"data": {"kind": "digits"}, "model": {"kind": "density"},
                                        "adversary": {"kind": "patch"}, "train": {"steps": 1}})
    with pytest.raises(ConfigError, match="in one pass"):
        train(experiment, tmp_path / "run")
    several = from_dict(Experiment, {"data": {"kind": "digits"}, "adversary": {"kind": "patch"}, "train": {"steps": 1},
                                     "objective": {"samples": 2}, "model": {
        "encoder": {"kind": "mlp"}, "decoder": {"kind": "mlp"}, "bottleneck": {"kind": "gaussian", "dim": 2}}})
    with pytest.raises(ConfigError, match=r"one reconstruction an example: set objective\.samples to 1"):
        train(several, tmp_path / "run")
