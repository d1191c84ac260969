"""Ladders of latents: rates against torch's own distributions, bounds, depth, and what a run leaves behind."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from audiovae.alarms import collapse_alarm
from audiovae.bottlenecks import GaussianConfig, IAFConfig
from audiovae.checkpoint import load_model, save_model
from audiovae.config import from_dict
from audiovae.data import AudioData
from audiovae.errors import ConfigError, ShapeError
from audiovae.image.sets import ArchiveData, DigitsData
from audiovae.likelihoods import CategoricalConfig, LogisticMixtureConfig
from audiovae.likelihoods import GaussianConfig as NormalConfig
from audiovae.metrics.bounds import evidence, log_likelihood
from audiovae.models import Ladder, LadderConfig, ScaleConfig
from audiovae.models.groups import Group, Plan
from audiovae.nn.cells import BatchNorm, NVAECells, PlainCells
from audiovae.objectives import ObjectiveConfig
from audiovae.rate_control import Balanced, FreeBits
from audiovae.shapes import Condition, DataSpec, Latent
from audiovae.spectrogram_data import SpectrogramData
from audiovae.train import Experiment, TrainConfig, Trainee, train

PICTURES = DataSpec(channels=1, dims=2, size=(8, 8), levels=2, labels=("a", "b"))
WAVES = DataSpec(channels=1, dims=1, sample_rate=8000, size=(64,))
ROWS = (ScaleConfig(width=8, groups=2, latent_dim=2), ScaleConfig(width=12, groups=2, latent_dim=3))
SMALL = LadderConfig(scales=ROWS, cells=NVAECells(expansion=2))
PLAIN = replace(SMALL, cells=PlainCells(narrowing=0.5), shared=True)
WAVE = replace(SMALL, likelihood=NormalConfig())
KINDS = {"nvae": SMALL, "no norm": replace(SMALL, cells=NVAECells(expansion=2, norm="none")), "plain": PLAIN,
         "absolute": replace(SMALL, residual=False),
         "iaf": replace(SMALL, posterior=IAFConfig(layers=1, context=4, width=8)),
         "start": replace(SMALL, start="grid"), "told": replace(SMALL, condition_dim=4)}


def built(config: LadderConfig = SMALL, data: DataSpec = PICTURES, seed: int = 0) -> Ladder:
    torch.manual_seed(seed)
    return config.build(data)


def stirred(model: Ladder, by: float = 0.2) -> Ladder:
    """A model away from its beginning, so that nothing is 0 or 1 by chance."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


def pictures(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).round()


def waves(count: int = 3, samples: int = 64) -> torch.Tensor:
    return 0.3 * torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(1))


# What a group's numbers are


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_groups_rate_is_the_kl_of_two_normals_by_torch(residual, dims):
    """In z's own units, from the numbers the network gives: N(μ + σ Δμ, (σ Δσ)²), or its own mean and spread."""
    torch.manual_seed(0)
    group = Group(ScaleConfig(width=8, latent_dim=3), Plan(dims, residual=residual))
    h, feature = (torch.randn(5, 8, *(4, 6)[:dims]) for _ in range(2))
    prior = group.prior_of(h)
    latent = group.latent(feature, h, prior)
    raw = group.posterior(torch.nn.functional.silu(feature + group.told(torch.nn.functional.silu(h))))
    mean, log_variance = raw.chunk(2, dim=1)
    p = Normal(prior.mean, (0.5 * prior.log_variance).exp())
    q = Normal(p.loc + p.scale * mean, p.scale * (0.5 * log_variance).exp()) if residual else \
        Normal(mean, (0.5 * log_variance).exp())
    torch.testing.assert_close(latent.rate_map, kl_divergence(q, p), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latent.rate, kl_divergence(q, p).flatten(1).sum(1), atol=1e-4, rtol=1e-4)
    z = p.loc + p.scale * latent.z
    ratio = (q.log_prob(z) - p.log_prob(z)).flatten(1).sum(1)
    torch.testing.assert_close(latent.log_ratio, ratio, atol=1e-4, rtol=1e-4)


def test_a_closed_rate_is_the_mean_of_its_draws_and_a_lost_spread_would_be_seen():
    torch.manual_seed(0)
    group = Group(ScaleConfig(width=8, latent_dim=3), Plan(1))
    h, feature = torch.randn(1, 8, 4).expand(20000, 8, 4), torch.randn(1, 8, 4).expand(20000, 8, 4)
    with torch.no_grad():
        latent = group.latent(feature, h, group.prior_of(h))
    spread = float(latent.log_ratio.std()) / math.sqrt(20000)
    assert float(latent.log_ratio.mean()) == pytest.approx(float(latent.rate[0]), abs=5 * spread)
    noise = 0.5 * (latent.z.square() - (latent.z - latent.posterior.mean).square()).flatten(1).sum(1)  # no Δσ
    assert abs(float(noise.mean() - latent.rate[0])) > 10 * spread


@pytest.mark.parametrize("name", KINDS)
def test_ratios_of_every_kind_have_the_rate_as_their_mean(name):
    model = stirred(built(KINDS[name])).eval()
    x = pictures(1).expand(4000, 1, 8, 8)
    with torch.no_grad():
        latents = model(x).latents
    for latent in latents:
        error = (latent.log_ratio - latent.rate)
        assert abs(float(error.mean())) <= 5 * float(error.std()) / math.sqrt(4000) + 1e-5
    assert len(latents) == 4 and [z.z.shape[1] for z in latents] == [2, 2, 3, 3]


def test_one_group_is_a_one_layer_vae():
    """The top group stands on N(0, 1): ELBO = log p(x|z) - KL, with the Gaussian bottleneck's own arithmetic."""
    model = stirred(built(replace(SMALL, scales=(ScaleConfig(width=8, groups=1, latent_dim=2, stride=4),)))).eval()
    x = pictures()
    torch.manual_seed(3)
    loss = ObjectiveConfig().build(None)(model(x), x, model.likelihood, progress=1.0)
    (group,) = model.decoder.groups[0]
    h = model.decoder.start.expand(6, -1, 2, 2)
    torch.manual_seed(3)
    latent = GaussianConfig(dim=2).build(dims=2)(group.parameters_of(model.encoder(2 * x - 1)[0], h, None))
    logits = model.decoder.head(group(h, latent.z, None, None))
    log_prob = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    assert loss.elbo.item() == pytest.approx((log_prob - latent.rate).mean().item(), rel=1e-5)
    assert loss.rate.item() == pytest.approx(latent.rate.mean().item(), rel=1e-5)


def test_the_bound_of_many_latents_is_above_the_elbo_in_the_mean_and_below_what_more_give():
    model = stirred(built(), by=0.05).eval()
    x = pictures(16)
    torch.manual_seed(0)
    elbo = evidence(model, x, samples=200).elbo.mean().item()
    means = [torch.stack([log_likelihood(model, x, samples).mean() for _ in range(n)]).mean().item()
             for samples, n in ((1, 200), (10, 20), (200, 1))]
    assert means[0] == pytest.approx(elbo, abs=0.5)
    assert means[0] + 0.1 < means[1] < means[2]


def test_several_latents_are_those_of_their_own_example():
    """With K latents an example the encoder runs once; the first of each pair is the first example's."""
    model = stirred(built(KINDS["told"])).eval()
    x, condition = pictures(2), Condition(torch.tensor([0, 1]))
    out = model(x, condition, samples=3)
    assert out.params.shape == (6, 1, 8, 8)
    alone = [model(x[i:i + 1], Condition(torch.tensor([i]))).latents[-1].posterior.mean for i in (0, 1)]
    for place, of in enumerate([0, 0, 0, 1, 1, 1]):
        torch.testing.assert_close(out.latents[-1].posterior.mean[place], alone[of][0], atol=1e-5, rtol=1e-4)


# Gradients


@pytest.mark.parametrize("name", KINDS)
def test_every_group_and_weight_is_pulled_on(name):
    model = stirred(built(KINDS[name]))
    x = pictures()
    output = model(x, Condition(torch.zeros(6, dtype=torch.int64)))
    loss = ObjectiveConfig().build(None)(output, x, model.likelihood, 1.0)
    loss.total.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_each_latent_reaches_the_data():
    model = stirred(built()).eval()
    z = model.sample_prior(2).requires_grad_()
    model.generate(z).square().sum().backward()
    reached = z.grad.abs().sum((0, 2, 3)) > 0
    assert reached.all() and len(reached) == 2 * 2 * 4 + 2 * 3  # two groups of 2 at four places, two of 3 at one


def test_checkpointing_gives_the_same_gradients_and_statistics():
    x, results = pictures(), []
    for checkpoint in (False, True):
        model = stirred(built(replace(SMALL, checkpoint=checkpoint)))
        torch.manual_seed(5)
        ObjectiveConfig().build(None)(model(x), x, model.likelihood, 1.0).total.backward()
        results.append(([p.grad for p in model.parameters()], list(model.buffers())))
    for plain, again in zip(*results, strict=True):
        for a, b in zip(plain, again, strict=True):
            torch.testing.assert_close(a, b)


def test_bf16_trains():
    model, x = built(), pictures()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = Trainee(model, ObjectiveConfig().build(None))(batch_of(x), progress=0.5)
    loss.total.backward()
    assert torch.isfinite(loss.total) and all(torch.isfinite(p.grad).all() for p in model.parameters())


def batch_of(x):
    from audiovae.shapes import Batch

    return Batch(x, Condition(), tuple(map(str, range(len(x)))))


# Depth, samples and the latent seen from outside


@pytest.mark.parametrize("name", [name for name in KINDS if name != "iaf"])
def test_all_groups_together_are_one_gaussian_latent(name):
    """What is folded onto the slowest grid has the rate, and the densities, of the groups it is made of."""
    model = stirred(built(KINDS[name])).eval()
    x = pictures()
    torch.manual_seed(1)
    latent = model.latent(x)
    torch.manual_seed(1)
    latents = model(x).latents
    torch.testing.assert_close(latent.rate, sum(z.rate for z in latents))
    q = Normal(latent.posterior.mean, (0.5 * latent.posterior.log_variance).exp())
    ratio = (q.log_prob(latent.z) - Normal(0, 1).log_prob(latent.z)).flatten(1).sum(1)
    torch.testing.assert_close(latent.log_ratio, ratio, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(kl_divergence(q, Normal(0, 1)).flatten(1).sum(1), latent.rate, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_decoding_what_was_encoded_is_the_reconstruction(name):
    model = stirred(built(KINDS[name])).eval()
    x = pictures()
    torch.testing.assert_close(model.decode(model.encode(x)), model.reconstruct(x))


def test_a_reconstruction_of_no_groups_sees_no_data_and_of_more_groups_more():
    model = stirred(built()).eval()
    a, b = pictures(4, seed=1), pictures(4, seed=2)
    torch.testing.assert_close(model.reconstruct(a, groups=0), model.reconstruct(b, groups=0))
    zeros = torch.zeros(4, model.bottleneck.channels_out, 2, 2)
    torch.testing.assert_close(model.reconstruct(a, groups=0), model.generate(zeros))
    told = [(model.reconstruct(a, groups=g) - model.reconstruct(b, groups=g)).abs().sum() for g in range(5)]
    assert all(t > 0 for t in told[1:])
    torch.testing.assert_close(model.reconstruct(a, groups=4), model.reconstruct(a))
    moved = [(model.reconstruct(a, groups=g + 1) - model.reconstruct(a, groups=g)).abs().sum() for g in range(4)]
    assert all(m > 0 for m in moved)  # every group has its say
    with pytest.raises(ConfigError, match="0 to 4 groups of this ladder, got 5"):
        model.reconstruct(a, groups=5)


@pytest.mark.parametrize("name", KINDS)
def test_samples_repeat_with_their_generator_and_leave_the_model_as_it_was(name):
    model = stirred(built(KINDS[name])).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for temperature in (1.0, 0.6):
        drawn = [model.sample(3, temperature=temperature, generator=torch.Generator().manual_seed(seed))
                 for seed in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        assert drawn[0].shape == (3, 1, 8, 8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m.training for m in model.modules())


def test_samples_of_temperature_1_are_the_prior_decoded():
    """By hand: noise for each group in the order of the decoder, the top first."""
    model = stirred(built()).eval()
    dice = torch.Generator().manual_seed(4)
    units = {level: torch.randn(3, dim, side, side, generator=dice) for level, dim, side in
             ((3, 3, 2), (2, 3, 2), (1, 2, 4), (0, 2, 4))}
    params = model.decoder(3, (2, 2), None, lambda level, group, h, prior: units[level])
    drawn = model.sample(3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(drawn, params.sigmoid())


def test_batch_statistics_are_those_of_the_temperature():
    """At temperature 0 every draw is the same: what a norm takes for the mean is that of this one draw."""
    model = stirred(built()).eval()
    seen = {}
    top = model.decoder.groups[-1][-1]  # nothing above it is normalised
    norm = next(m for m in top.modules() if isinstance(m, BatchNorm))
    hook = norm.register_forward_hook(lambda m, x, y: seen.setdefault(m.training, []).append((x[0], m.mean.clone())))
    model.sample(4, temperature=0.0)
    hook.remove()
    assert len(seen[True]) == 20 and len(seen[False]) == 1
    given, mean = seen[False][0]
    torch.testing.assert_close(mean, given.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(mean, norm.mean)
    torch.testing.assert_close(model.sample(4, temperature=0.0)[0], model.sample(4, temperature=0.0)[3])


# In the company of the core


def test_rate_controls_take_a_groups_latent_as_any_other():
    model = stirred(built())
    latents = model(pictures()).latents
    free = FreeBits(nats=1000.0, per="level")(latents, 0.0)
    assert free.item() == 4000.0
    even = Balanced(until=0.5)(latents, 0.25)
    rates = torch.stack([z.rate.mean() for z in latents]).detach()
    share = (rates + 0.01) / torch.tensor([32.0, 32.0, 12.0, 12.0])
    assert even.item() == pytest.approx(0.5 * float((share / share.mean() * rates).sum()), rel=1e-5)
    assert Balanced(until=0.5)(latents, 0.6).item() == pytest.approx(rates.sum().item(), rel=1e-5)


def test_balance_presses_on_what_spends_most_for_its_size():
    """The gradient on each level's rate is beta γ; equal nats an element are pressed on alike."""
    rates = [torch.tensor([nats], requires_grad=True) for nats in (8.0, 1.0, 2.0)]
    latents = [Latent(torch.zeros(1, size, 1), rate) for size, rate in zip((8, 8, 16), rates, strict=True)]
    Balanced(until=1.0)(latents, 0.5).backward()
    slope = [rate.grad.item() for rate in rates]
    assert slope[0] > 7 * slope[1] and slope[1] == pytest.approx(slope[2], rel=0.01)
    assert sum(slope) == pytest.approx(3 * 0.5, rel=1e-5)


def test_a_silent_group_is_named_and_a_silent_ladder_has_collapsed():
    nats = {0: 5.0, 10: 0.001, 2: 0.002, 3: 0.2}

    def numbers(nats, rate):
        return {"rate": rate, **{f"kl_{k}": v for k, v in nats.items()}, **{f"active_units_{k}": 0.0 for k in nats},
                **{f"kl_per_dim_{k}": 0.0 for k in nats}}

    said = collapse_alarm(numbers(nats, 5.2), 200)
    assert said is not None and "2 of 4 groups of latents say nothing (levels 2, 10)" in said
    said = collapse_alarm(numbers({0: 0.001, 1: 0.0}, 0.001), 200)
    assert said is not None and "has collapsed" in said
    assert collapse_alarm(numbers({0: 3.0, 1: 0.2}, 3.2), 200) is None


@pytest.mark.parametrize("config", [WAVE, replace(WAVE, cells=PlainCells(), residual=False)], ids=["nvae", "plain"])
def test_waveforms_of_any_length(config):
    model = stirred(built(config, WAVES), 0.05).eval()
    for samples in (64, 32):
        x = waves(3, samples)
        assert model.reconstruct(x).shape == x.shape
        assert torch.isfinite(evidence(model, x).elbo).all()
    assert model.sample(2).shape == (2, 1, 64) and model.sample(2, size=(128,)).shape == (2, 1, 128)
    assert model.decode(model.encode(waves())).shape == (3, 1, 64)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"multiples of its hop 8.*got \(28, 28\)"):
        built(replace(SMALL, scales=3 * (ScaleConfig(width=4),), start="grid"), replace(PICTURES, size=(28, 28)))
    with pytest.raises(ShapeError, match=r"multiples of its hop 4, got \(6, 8\)"):
        built()(torch.zeros(1, 1, 6, 8))
    with pytest.raises(ConfigError, match="a group of latents in the last row"):
        built(replace(SMALL, scales=(ScaleConfig(), ScaleConfig(groups=0))))
    with pytest.raises(ConfigError, match="no labels"):
        built(replace(SMALL, condition_dim=4), replace(PICTURES, labels=()))
    with pytest.raises(ShapeError, match="D=22"):
        built().generate(torch.zeros(1, 5, 2, 2))


def test_a_label_reaches_posterior_and_prior():
    model = stirred(built(KINDS["told"])).eval()
    x = pictures(1)
    means = [model(x, Condition(torch.tensor([label]))).latents[0].posterior.mean for label in (0, 1)]
    assert not torch.allclose(*means, atol=1e-4)
    drawn = [model.sample(1, Condition(torch.tensor([label])), generator=torch.Generator().manual_seed(0))
             for label in (0, 1)]
    assert not torch.allclose(*drawn, atol=1e-4)


# Runs


def experiment(model: LadderConfig, steps: int, **loop) -> Experiment:
    return Experiment(DigitsData(batch_size=16, binarize="dynamic"), model,
                      ObjectiveConfig(spectral=0.1),
                      TrainConfig(steps=steps, schedule="constant", warmup=0, log_every=1, **loop))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_resumed_is_never_stopped(tmp_path, checkpoint):
    """Batch statistics, the spectrum's vectors and the count of steps left out go on where they were."""
    model = replace(SMALL, checkpoint=checkpoint)
    loop = {"skip_grad_norm": 0.5}
    train(experiment(model, 4, **loop), tmp_path / "whole")
    train(experiment(model, 2, **loop), tmp_path / "cut")
    train(experiment(model, 4, **loop), tmp_path / "cut", resume=True)
    whole, cut = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "cut")]
    last = [[row for row in log if row["split"] == "train"][-1] for log in logs]
    assert last[0]["total"] == last[1]["total"] and last[0]["skipped"] == last[1]["skipped"]
    assert {"kl_0", "kl_1", "kl_2", "kl_3", "weights"} <= last[0].keys()
    assert sum(last[0][f"kl_{level}"] for level in range(4)) == pytest.approx(last[0]["rate"], rel=1e-4)


def test_a_steep_step_is_left_out_and_counted(tmp_path, capsys):
    """Below every norm nothing moves, and the log says how often; above every norm nothing is left out."""
    state = train(experiment(SMALL, 3, skip_grad_norm=1e-9, ema=0.0, weight_decay=0.0), tmp_path / "held")
    assert state.skipped == 3 and "3 of 3 steps were left out: set train.skip_grad_norm" in capsys.readouterr().err
    torch.manual_seed(0)
    fresh = dict(SMALL.build(DigitsData(binarize="dynamic").build(0).spec).named_parameters())
    held = dict(load_model(tmp_path / "held").named_parameters())
    assert all(torch.equal(value, held[name]) for name, value in fresh.items())
    rows = [json.loads(line) for line in (tmp_path / "held/log.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows if row["split"] == "train"] == [1, 2, 3]
    state = train(experiment(SMALL, 3, skip_grad_norm=1e9), tmp_path / "free")
    assert state.skipped == 0 and "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["waveform", "spectrogram", "colour"])
def test_the_same_ladder_trains_on_other_data(kind, tiny_corpus, tmp_path):
    data, model = {
        "waveform": (AudioData(corpus=str(tiny_corpus), seconds=0.2, batch_size=4, validation_batches=1), WAVE),
        "spectrogram": (SpectrogramData(corpus=str(tiny_corpus), num_mels=16, frames=16, batch_size=4,
                                        validation_batches=1), WAVE),
        "colour": (ArchiveData(path=str(_colours(tmp_path)), batch_size=4),
                   replace(SMALL, likelihood=LogisticMixtureConfig(mixtures=2, coupled=True))),
    }[kind]
    state = train(Experiment(data, model, train=TrainConfig(steps=2)), tmp_path / "run")
    assert state.step == 2 and list((tmp_path / "run/samples").rglob("*.*"))
    model = load_model(tmp_path / "run")
    assert torch.isfinite(model.sample(2, temperature=0.8)).all()


def _colours(folder):
    import numpy as np

    path, dice = folder / "colours.npz", np.random.default_rng(0)
    x = dice.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(path, x_train=x[:40], y_train=np.arange(40) % 2, x_test=x[40:], y_test=np.arange(20) % 2)
    return path


def test_a_checkpoint_gives_the_model_back(tmp_path):
    config = from_dict(LadderConfig, {"scales": [{"stride": 2, "width": 8, "groups": 0},
                                                 {"stride": 2, "width": 8, "groups": 3}],
                                      "cells": {"kind": "plain"}, "likelihood": {"kind": "categorical"}})
    assert config.likelihood == CategoricalConfig()
    model = stirred(built(config))
    save_model(tmp_path, model, config)
    again = load_model(tmp_path)
    assert torch.equal(model.eval().reconstruct(pictures()), again.reconstruct(pictures()))


def test_it_trains_on_the_bound_of_many_latents():
    """The objective's own estimate of IWAE, from all groups' ratios together, is that of the measure."""
    model, x = stirred(built(PLAIN), by=0.05), pictures(4)
    objective = ObjectiveConfig(bound="iwae", samples=6).build(None)
    torch.manual_seed(2)
    loss = objective(model(x, samples=6), x, model.likelihood, progress=0.5)
    torch.manual_seed(2)
    assert loss.iwae.item() == pytest.approx(log_likelihood(model, x, 6).mean().item(), rel=1e-5)
    assert loss.total.item() == pytest.approx(-loss.iwae.item() / 64, rel=1e-5)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
