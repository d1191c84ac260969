"""What makes each continuous model what it is: bases found, noise refused, bounds kept, labels used, collapse seen."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from audiovae.alarms import EARLY, collapse_alarm
from audiovae.bottlenecks import GaussianConfig
from audiovae.config import from_dict
from audiovae.corruption import Masking, NormalNoise
from audiovae.errors import ConfigError
from audiovae.image.digits import digits
from audiovae.likelihoods import Gaussian
from audiovae.models import Autoencoder, AutoencoderConfig
from audiovae.models.autoencoder import ConditionEmbedding
from audiovae.objectives import Loss, ObjectiveConfig, importance_bound
from audiovae.shapes import Batch, Condition, DataSpec, Latent, Output
from audiovae.train import Trainee

DIGITS = DataSpec(channels=1, dims=2, labels=tuple("0123456789"), size=(8, 8), levels=17)


def trained(model: dict[str, Any], objective: dict[str, Any], data: DataSpec, x: Tensor, y: Tensor | None = None,
            steps: int = 300, lr: float = 3e-3, seed: int = 0) -> tuple[Autoencoder, Loss]:
    """A perceptron's autoencoder trained shortly on batches of x by what the loop trains with, and its last loss."""
    torch.manual_seed(seed)
    defaults = {"encoder": {"kind": "mlp", "widths": [64]}, "decoder": {"kind": "mlp", "widths": [64]}}
    net = from_dict(AutoencoderConfig, defaults | model).build(data)
    trainee = Trainee(net, from_dict(ObjectiveConfig, objective).build(None))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(steps):
        rows = torch.randint(len(x), (128,))
        loss = trainee(Batch(x[rows], Condition(y[rows] if y is not None else None), ()), step / steps)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    net.eval()
    trainee.eval()
    with torch.no_grad():
        return net, trainee(Batch(x, Condition(y), ()), 1.0)


# Autoencoders


def test_a_linear_autoencoder_finds_the_subspace_of_principal_components():
    """Baldi & Hornik 1989: the least squares of a bottleneck of D linear units are those of D components."""
    basis = torch.linalg.qr(torch.randn(10, 10))[0]
    x = (torch.randn(1000, 10) * torch.tensor([4.0, 3.0, 2.0] + [0.3] * 7)) @ basis
    x = (x - x.mean(0)).unsqueeze(1)
    model, _ = trained({"encoder": {"kind": "mlp", "widths": []}, "decoder": {"kind": "mlp", "widths": []},
                        "bottleneck": {"kind": "identity", "dim": 3}}, {}, DataSpec(1, 1, size=(10,)), x, steps=300,
                       lr=0.02)
    components = torch.linalg.svd(x.squeeze(1), full_matrices=False)[2][:3]
    with torch.no_grad():
        columns = (model.params(torch.eye(3).unsqueeze(2)) - model.params(torch.zeros(1, 3, 1))).squeeze(1)
    cosines = torch.linalg.svdvals(components @ torch.linalg.qr(columns.T)[0])
    assert float(cosines.min()) > 0.999


WIDE = {"encoder": {"kind": "mlp", "widths": [128]}, "decoder": {"kind": "mlp", "widths": [128]}}
IDENTITY = {"bottleneck": {"kind": "identity", "dim": 96}}  # more numbers than the 64 of a picture
REGULARISED = {
    "weights L1": (IDENTITY, {"weight_l1": 1e-5}),
    "weights L2": (IDENTITY, {"weight_l2": 1e-4}),
    "activation L1": ({"bottleneck": {"kind": "sparse", "dim": 96, "penalty": "l1"}}, {"sparsity": 1e-3}),
    "activation KL": ({"bottleneck": {"kind": "sparse", "dim": 96, "penalty": "kl"}}, {"sparsity": 1e-3}),
    "k-sparse": ({"bottleneck": {"kind": "sparse", "dim": 96, "penalty": "top_k", "k": 8}}, {}),
    "denoising": (IDENTITY | {"corruption": {"kind": "normal", "std": 0.5}}, {}),
    "masking": (IDENTITY | {"corruption": {"kind": "masking", "share": 0.5}}, {}),
}


def noise_and_data_errors(model: dict[str, Any], objective: dict[str, Any]) -> tuple[float, float]:
    """Squared error on noise and on unseen digits, as shares of the variance of each pixel.

    The noise has each pixel's own grey levels, and no shape.
    """
    x, held_out = digits("train")[0], digits("valid")[0]
    net, _ = trained(WIDE | model, objective, DIGITS, x, steps=400)
    shuffled = held_out.gather(0, torch.rand_like(held_out).argsort(0))  # each pixel from another picture
    variance = (held_out - held_out.mean(0)).square().mean()
    with torch.no_grad():
        noise, data = (float((net.reconstruct(v) - v).square().mean() / variance) for v in (shuffled, held_out))
    return noise, data


@pytest.fixture(scope="module")
def unregularised() -> tuple[float, float]:
    return noise_and_data_errors(IDENTITY, {})


def test_a_wide_autoencoder_left_alone_copies_even_noise_it_never_saw(unregularised):
    noise, data = unregularised
    assert data < 0.06
    assert noise < 0.3


@pytest.mark.parametrize("name", REGULARISED)
def test_a_wide_autoencoder_held_back_copies_digits_and_not_noise(name, unregularised):
    noise, data = noise_and_data_errors(*REGULARISED[name])
    assert data < 0.4
    assert noise > 0.5
    assert noise > 2 * data
    assert noise > 2 * unregularised[0]


def test_corruption_has_its_spread_or_share_and_is_of_training_only():
    x = torch.ones(50, 2, 20, 20)
    assert float((NormalNoise(0.3)(x) - x).std()) == pytest.approx(0.3, rel=0.05)
    masked = Masking(0.3)(x)
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(masked[:, 0], masked[:, 1])  # all channels of a place go together
    model = from_dict(AutoencoderConfig, WIDE | IDENTITY | {"corruption": {"kind": "normal"}}).build(DIGITS)
    x = torch.rand(2, 1, 8, 8)
    assert not torch.equal(model(x).params, model(x).params)
    model.eval()
    assert torch.equal(model(x).params, model(x).params)


@pytest.mark.parametrize("penalty", ["l1", "kl", "top_k"])
def test_a_sparse_penalty_is_its_formula_channel_by_channel(penalty):
    h = torch.randn(4, 6, 5)
    config = {"kind": "sparse", "dim": 6, "penalty": penalty, "target": 0.1, "k": 2}
    latent = from_dict(AutoencoderConfig, {"bottleneck": config}).bottleneck.build(dims=1)(h)
    numbers = h.numpy().astype(float)
    if penalty == "l1":
        expected = sum(max(v, 0.0) for v in numbers.ravel()) / 20
    elif penalty == "kl":
        activity = [(1 / (1 + np.exp(-numbers[:, j]))).mean() for j in range(6)]
        expected = sum(stats.entropy([0.1, 0.9], [a, 1 - a]) for a in activity)
    else:
        for b, t in np.ndindex(4, 5):
            largest = sorted(numbers[b, :, t])[-2:]
            assert sorted(v for v in latent.z[b, :, t].tolist() if v) == pytest.approx(sorted(largest))
        assert not latent.losses
        return
    assert float(latent.losses["sparsity"]) == pytest.approx(expected, rel=1e-5)


def test_weight_penalties_are_sums_over_matrices_without_biases():
    model = from_dict(AutoencoderConfig, WIDE | IDENTITY).build(DIGITS)
    penalty = from_dict(ObjectiveConfig, {"weight_l1": 0.3, "weight_l2": 0.2}).build(None).weight_penalty(model)
    assert penalty is not None
    matrices = [p.detach().double().numpy() for n, p in model.named_parameters() if n.endswith("weight")]
    expected = sum(0.3 * np.abs(w).sum() + 0.2 * (w**2).sum() for w in matrices)
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    assert ObjectiveConfig().build(None).weight_penalty(model) is None


# Bounds: z ~ N(0, 1), x = z + N(0, σ²), so that p(x) = N(0, 1 + σ²) and p(z|x) are known

SIGMA, X = 0.5, 1.3
EVIDENCE = float(stats.norm.logpdf(X, 0, math.sqrt(1 + SIGMA**2)))
TRUE_POSTERIOR = (X / (1 + SIGMA**2), math.log(SIGMA**2 / (1 + SIGMA**2)))
OFF = (0.5, -0.5)


def bounds_at(posterior: tuple[float, float], samples: int, examples: int = 4000, bound: str = "iwae") -> Loss:
    bottleneck = GaussianConfig(dim=1).build(dims=1)
    latent = bottleneck(torch.tensor(posterior).view(1, 2, 1).expand(examples * samples, 2, 1))
    objective = from_dict(ObjectiveConfig, {"bound": bound, "samples": samples}).build(None)
    return objective(Output((latent,), latent.z), torch.full((examples, 1, 1), X), Gaussian("fixed", SIGMA), 0.0)


def test_at_the_true_posterior_every_bound_is_the_evidence():
    for samples in (2, 10):
        loss = bounds_at(TRUE_POSTERIOR, samples)
        assert loss.iwae is not None
        assert float(loss.iwae) == pytest.approx(EVIDENCE, abs=1e-4)  # each weight is p(x): nothing is left to chance


def test_elsewhere_the_bounds_rise_from_the_elbo_to_the_evidence_with_their_samples():
    first = bounds_at(OFF, 2)
    assert first.elbo is not None
    values = [first.elbo, *(bounds_at(OFF, samples).iwae for samples in (2, 8, 64))]
    bounds = [float(v) for v in values if v is not None]
    assert bounds == sorted(bounds)
    assert EVIDENCE - 0.02 < bounds[-1] < EVIDENCE + 0.005
    (mean, log_variance), (truth, log_true) = OFF, TRUE_POSTERIOR
    spread = (math.exp(log_variance) + (mean - truth) ** 2) / math.exp(log_true)
    divergence = 0.5 * (spread - 1 + log_true - log_variance)
    assert bounds[0] == pytest.approx(EVIDENCE - divergence, abs=0.05)  # the ELBO lacks KL(q || p(z|x))


def test_the_importance_bound_is_double_precision_brute_force_however_small_the_weights():
    log_weights = 30 * torch.randn(5, 7) - 2000
    shift = [max(row) for row in log_weights.tolist()]
    expected = [m + math.log(math.fsum(math.exp(w - m) for w in row) / 7)
                for m, row in zip(shift, log_weights.tolist(), strict=True)]
    assert importance_bound(log_weights).tolist() == pytest.approx(expected, rel=1e-6)
    same = torch.full((3, 4), -1.5)
    assert importance_bound(same).tolist() == pytest.approx([-1.5] * 3)


def test_the_gradient_of_the_iwae_bound_is_autograds_of_the_loop():
    """Burda 2016, eq. 8, one example and one draw at a time, in double precision."""
    model = from_dict(AutoencoderConfig, {
        "encoder": {"kind": "mlp", "widths": [5], "activation": "tanh"}, "decoder": {"kind": "mlp", "widths": [5]},
        "bottleneck": {"kind": "gaussian", "dim": 2}}).build(DataSpec(1, 1, size=(3,)))
    x, samples = torch.randn(4, 1, 3), 3
    torch.manual_seed(7)
    output = model(x, samples=samples)
    objective = from_dict(ObjectiveConfig, {"bound": "iwae", "samples": samples}).build(None)
    total = objective(output, x, model.likelihood, 0.0).total
    slopes = torch.autograd.grad(total, list(model.parameters()))

    torch.manual_seed(7)
    noise = torch.randn(4 * samples, 2, 1)  # what the draws above were made of
    normal = torch.distributions.Normal
    bound = torch.zeros(())
    for i in range(4):
        mean, log_variance = model.encoder(x[i:i + 1]).chunk(2, dim=1)
        weights = torch.zeros(())
        for k in range(samples):
            z = mean + (0.5 * log_variance).exp() * noise[i * samples + k]
            log_weight = (normal(model.decoder(z), 1.0).log_prob(x[i]).sum() + normal(0.0, 1.0).log_prob(z).sum()
                          - normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum())
            weights = weights + log_weight.double().exp()
        bound = bound + (weights / samples).log() / 4
    expected = torch.autograd.grad(-bound / 3, list(model.parameters()))
    for ours, theirs in zip(slopes, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_iwae_wants_what_is_drawn_and_no_rate_control():
    with pytest.raises(ConfigError, match=r"leave objective.rate and distortion_weight"):
        from_dict(ObjectiveConfig, {"bound": "iwae", "rate": {"beta": 2.0}}).build(None)
    objective = from_dict(ObjectiveConfig, {"bound": "iwae", "samples": 2}).build(None)
    latent = Latent(torch.zeros(4, 1, 1), torch.zeros(4))
    with pytest.raises(ConfigError, match="wants latents that are drawn"):
        objective(Output((latent,), latent.z), torch.zeros(2, 1, 1), Gaussian(), 0.0)


# Conditions

VAE = {"bottleneck": {"kind": "gaussian", "dim": 8}, "likelihood": {"kind": "bernoulli"}}
TOLD = {"condition_dim": 10, "condition_encoder": True}


def probe(features: Tensor, y: Tensor, others: Tensor, others_y: Tensor) -> float:
    """The accuracy of a linear classifier on held-out features."""
    from sklearn.linear_model import LogisticRegression

    scale = features.std(0) + 1e-6
    classifier = LogisticRegression(max_iter=500).fit((features / scale).numpy(), y.numpy())
    return float(classifier.score((others / scale).numpy(), others_y.numpy()))


@pytest.fixture(scope="module")
def conditional() -> Autoencoder:
    return trained(VAE | TOLD, {}, DIGITS, *digits("train"), steps=600)[0]


@torch.no_grad()
def test_swapping_the_label_swaps_the_digit(conditional):
    from sklearn.linear_model import LogisticRegression

    x, y = digits("train")
    judge = LogisticRegression(max_iter=500).fit(x.flatten(1).numpy(), y.numpy())
    source, own = digits("valid")
    swapped = (own + 3) % 10
    z = conditional.bottleneck.decode(conditional.encode(source, Condition(own)))
    read = {name: judge.predict(conditional.generate(z, Condition(label)).flatten(1).numpy())
            for name, label in (("own", own), ("swapped", swapped))}
    assert (read["own"] == own.numpy()).mean() > 0.9
    assert (read["swapped"] == swapped.numpy()).mean() > 0.7
    drawn = judge.predict(conditional.sample(len(own), Condition(own)).flatten(1).numpy())
    assert (drawn == own.numpy()).mean() > 0.8


def test_what_is_told_need_not_be_in_the_latent(conditional):
    """A linear probe reads the label from a plain VAE's latent, and less of it from one told the label."""
    plain = trained(VAE, {}, DIGITS, *digits("train"), steps=600)[0]
    (x, y), (other, other_y) = digits("train"), digits("valid")
    accuracy = {}
    for name, model in (("plain", plain), ("told", conditional)):
        z, other_z = (model.bottleneck.decode(model.encode(v, Condition(label))).flatten(1).detach()
                      for v, label in ((x, y), (other, other_y)))
        accuracy[name] = probe(z, y, other_z, other_y)
    assert accuracy["plain"] > 0.75
    assert accuracy["told"] < accuracy["plain"] - 0.2


def test_any_embedding_reaches_the_decoder_and_left_out_it_is_unknown():
    data = DataSpec(1, 2, size=(8, 8), embedding=5)
    model = from_dict(AutoencoderConfig, WIDE | VAE | TOLD).build(data).eval()
    z, embedding = torch.zeros(2, 8, 1, 1), torch.randn(2, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(model.params(z, Condition(embedding=embedding)).square().sum(), embedding)
    assert bool((slope != 0).all())
    told, unknown = model.params(z, Condition(embedding=embedding.detach())), model.params(z)
    assert not torch.equal(told, unknown)
    torch.testing.assert_close(model.params(z, Condition(embedding=torch.zeros(2, 5))), unknown)


def test_dropout_hides_label_and_embedding_together_as_unknown():
    told = ConditionEmbedding(num_labels=3, embedding=4, dim=6, dropout=0.4)
    condition = Condition(torch.arange(1000) % 3, torch.randn(1000, 4))
    with torch.no_grad():
        vector = told(condition, 1000)
        unknown = told(None, 1)
        full = told.eval()(condition, 1000)
    hidden = (vector == unknown).all(1)
    assert float(hidden.float().mean()) == pytest.approx(0.4, abs=0.06)
    assert torch.equal(vector[~hidden], full[~hidden])
    torch.testing.assert_close(told(Condition(torch.tensor([-1])), 1), unknown)


# Collapse


def alarm_after(beta: float) -> str | None:
    numbers = trained(VAE, {"rate": {"kind": "constant", "beta": beta}}, DIGITS, digits("train")[0], steps=200)[1]
    return collapse_alarm(numbers.numbers(), step=200)


def test_the_alarm_sounds_for_beta_100_and_names_the_remedy_and_not_for_a_healthy_vae():
    said = alarm_after(100.0)
    assert said is not None
    assert "the latent has collapsed" in said
    assert "a lower objective.rate.beta" in said
    assert alarm_after(1.0) is None


@pytest.mark.parametrize(("numbers", "step", "words"), [
    ({"rate": 0.01, "active_units": 0.0, "beta": 1.0}, EARLY, "a weaker decoder"),
    ({"rate": 0.01, "active_units": 2.0, "beta": 0.5}, EARLY, "free_bits"),
    ({"rate": 9.0, "active_units": 0.0, "beta": 1.0}, EARLY, "0 active units"),
    ({"rate": 55.0, "perplexity": 1.01}, EARLY, "the codes have collapsed"),
    ({"rate": 2.3, "active_units_0": 0.0, "labelled_1": 0.1}, EARLY, "0 active units"),  # M2: the label has a rate too
    ({"rate": 55.0, "perplexity_0": 300.0, "perplexity_1": 1.2}, EARLY, "perplexity 1.2"),
    ({"rate": 9.0, "active_units_0": 3.0, "active_units_1": 5.0}, EARLY, None),
    ({"rate": 0.01, "active_units": 0.0, "beta": 1.0}, EARLY - 1, None),
    ({"rate": 9.0, "active_units": 3.0, "beta": 1.0}, EARLY, None),
    ({"rate": 0.0, "active_share": 0.0}, EARLY, None),  # a plain autoencoder has no rate to lose
])
def test_the_alarm_knows_a_collapse_from_its_numbers(numbers, step, words):
    said = collapse_alarm(numbers, step)
    assert (said is None) == (words is None)
    assert words is None or words in (said or "")
