"""Rate controls that aim at something: a rate, a distortion, independent dimensions; by loops and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from audiovae.bottlenecks import GaussianConfig
from audiovae.config import from_dict
from audiovae.errors import ConfigError
from audiovae.rate_control import Geco, RateControl, Target, TotalCorrelation, total_correlation
from audiovae.rate_control_config import CapacityConfig, ConstantRateConfig, GecoConfig, RateControlConfig
from audiovae.shapes import Latent, Posterior


def drawn(mean: Tensor, log_variance: Tensor) -> Latent:
    """A latent drawn from N(mean, exp(log_variance)), each (B, D, *grid), with its KL in closed form."""
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return Latent(z, kl.flatten(1).sum(1), rate_map=kl, posterior=Posterior(mean, log_variance))


def spending(nats: float) -> Latent:
    return Latent(torch.zeros(1, 2, 1), torch.tensor([nats], requires_grad=True))


def log_normal(z: float, mean: float, log_variance: float) -> float:
    return -0.5 * ((z - mean) ** 2 / math.exp(log_variance) + log_variance + math.log(2 * math.pi))


def log_mean(values: list[float]) -> float:
    return math.log(math.fsum(math.exp(v) for v in values) / len(values))


# Total correlation


def test_total_correlation_is_its_sums_one_pair_at_a_time():
    """Chen 2018, section 3.2, with N = M: q(z_i) is the mean of the batch's posteriors, each dimension also alone."""
    latent = drawn(torch.randn(6, 2, 2), 0.5 * torch.randn(6, 2, 2))
    assert latent.posterior is not None
    z, mean, log_variance = (t.flatten(1).tolist() for t in (latent.z, *latent.posterior))
    total = 0.0
    for i in range(6):
        joint = log_mean([sum(log_normal(*numbers) for numbers in zip(z[i], mean[j], log_variance[j], strict=True))
                          for j in range(6)])
        alone = sum(log_mean([log_normal(z[i][d], mean[j][d], log_variance[j][d]) for j in range(6)]) for d in range(4))
        total += (joint - alone) / 6
    assert float(total_correlation(latent)) == pytest.approx(total, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_total_correlation_of_a_correlated_aggregate_is_the_normals_as_the_batch_grows(correlation):
    """Means correlated by ρ and unit posteriors give z of correlation ρ v / (v + 1): TC = -½ ln(1 - that²)."""
    variance = 3.0
    shape = torch.tensor([[1.0, correlation], [correlation, 1.0]]) * variance
    exact = -0.5 * math.log(1 - (correlation * variance / (variance + 1)) ** 2)
    errors = []
    for size, repeats in ((64, 24), (1024, 4)):
        values = []
        for _ in range(repeats):
            mean = (torch.randn(size, 2) @ torch.linalg.cholesky(shape).T).unsqueeze(2)
            values.append(float(total_correlation(drawn(mean, torch.zeros_like(mean)))))
        errors.append(abs(sum(values) / repeats - exact))
    assert errors[1] < 0.03
    assert errors[1] < errors[0] + 0.01


def test_rate_is_mutual_information_and_total_correlation_and_what_each_dimension_spends():
    """KL(q(z|x) || p) = I(x; z) + TC + Σ_j KL(q(z_j) || p(z_j)), with one estimate of q(z) in all three (eq. 2)."""
    latent = drawn(torch.randn(512, 3, 1), torch.full((512, 3, 1), -1.0))
    assert latent.posterior is not None
    mean, log_variance = (part.flatten(1) for part in latent.posterior)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z, count = latent.z.flatten(1), math.log(512)
    pairs = q.log_prob(z[:, None])
    marginal = pairs.logsumexp(1) - count  # (B, D): log q(z_j)
    own, joint = q.log_prob(z).sum(1), pairs.sum(2).logsumexp(1) - count
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    information, dimensions = (own - joint).mean(), (marginal - prior).sum(1).mean()
    drawn_rate = own - prior.sum(1)
    torch.testing.assert_close(information + total_correlation(latent) + dimensions, drawn_rate.mean(),
                               rtol=1e-4, atol=1e-4)
    spread = (drawn_rate - latent.rate).std() / 512**0.5
    assert abs(drawn_rate.mean() - latent.rate.mean()) < 4 * spread


def test_beta_1_of_total_correlation_is_the_vae_to_the_bit():
    h = torch.randn(8, 4, 1, requires_grad=True)
    slopes = []
    for control in (TotalCorrelation(beta=1.0), RateControl(beta=1.0)):
        torch.manual_seed(1)
        penalty = control([GaussianConfig(dim=2).build(dims=1)(h)], progress=0.5)
        slopes.append((penalty.detach(), *torch.autograd.grad(penalty, h)))
    assert all(map(torch.equal, *slopes))


def test_the_weight_is_on_the_dependence_alone():
    latent = drawn(torch.randn(16, 3, 1), torch.zeros(16, 3, 1))
    expected = latent.rate.mean() + 5 * total_correlation(latent)
    torch.testing.assert_close(TotalCorrelation(beta=6.0)([latent], progress=0.0), expected)


def test_pressing_on_total_correlation_turns_a_code_straight():
    """Data of two independent causes, seen turned by 45°: the penalty finds the axes of independence again."""
    causes = torch.randn(256, 2) * torch.tensor([3.0, 1.0])
    angle = nn.Parameter(torch.tensor(math.pi / 4 + 0.2))
    optimizer = torch.optim.Adam([angle], lr=0.05)
    for _ in range(50):
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        mean = (causes @ turn.T).unsqueeze(2)
        loss = total_correlation(drawn(mean, torch.full_like(mean, -1.0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(math.sin(2 * float(angle.detach()))) < 0.2  # a multiple of a right angle


def test_total_correlation_wants_a_diagonal_normal():
    with pytest.raises(ConfigError, match=r"drawn from a diagonal normal.*take kind 'constant'"):
        TotalCorrelation(beta=2.0)([spending(3.0)], progress=0.0)


# A rate to keep


def test_capacitys_gradient_turns_at_c_and_has_the_size_of_gamma():
    control = Target(nats=20.0, gamma=7.0)
    for nats, slope in ((19.0, -7.0), (21.0, 7.0)):
        latent = spending(nats)
        penalty = control([latent], progress=0.0)
        assert float(penalty.detach()) == pytest.approx(7.0)
        assert torch.autograd.grad(penalty, latent.rate)[0].tolist() == [slope]


def test_capacity_rises_linearly_then_stays():
    control = CapacityConfig(nats=30.0, until=0.5).build()
    assert [control.capacity(p) for p in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 6, 15, 30, 30, 30])
    assert {ConstantRateConfig(nats=9.0).build().capacity(p) for p in (0.0, 0.5, 1.0)} == {9.0}


class LinearVAE(nn.Module):
    """x = A z + noise of σ = 0.3, with a linear encoder and decoder: as small as a VAE can be."""

    SIGMA, DATA, LATENT = 0.3, 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(self.DATA, 2 * self.LATENT), nn.Linear(self.LATENT, self.DATA)
        self.bottleneck = GaussianConfig(dim=self.LATENT).build(dims=1)
        self.mixing = torch.randn(self.LATENT, self.DATA)

    def forward(self, batch: int = 128) -> tuple[Tensor, Latent]:
        x = torch.randn(batch, self.LATENT) @ self.mixing + self.SIGMA * torch.randn(batch, self.DATA)
        latent = self.bottleneck(self.encoder(x).unsqueeze(2))
        mean = self.decoder(latent.z.squeeze(2))
        error = torch.distributions.Normal(mean, self.SIGMA, validate_args=False).log_prob(x)
        return -error.sum(1).mean(), latent


def trained(control: RateControl, steps: int = 500) -> tuple[float, float]:
    """Distortion and rate, nats per example, averaged over the last tenth of a short training."""
    torch.manual_seed(0)
    model, seen = LinearVAE(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        distortion, latent = model()
        total = control.total(distortion, [latent], step / steps, LinearVAE.DATA)
        optimizer.zero_grad()
        (total / LinearVAE.DATA).backward()
        optimizer.step()
        seen.append((float(distortion.detach()), float(latent.rate.mean().detach())))
    last = torch.tensor(seen[-steps // 10:]).mean(0)
    return float(last[0]), float(last[1])


@pytest.mark.parametrize("nats", [2.0, 4.0])
def test_a_constant_rate_is_reached_and_kept(nats):
    assert trained(ConstantRateConfig(nats=nats, gamma=10.0).build())[1] == pytest.approx(nats, rel=0.1)


def test_capacity_ends_at_its_last_value():
    assert trained(CapacityConfig(nats=3.0, gamma=10.0, until=0.5).build())[1] == pytest.approx(3.0, rel=0.1)


# A distortion to reach


def geco_after(errors: list[float], target: float = 0.5, speed: float = 0.5) -> Geco:
    control = Geco(target, speed)
    for error in errors:
        control.total(torch.tensor(10 * (target + error)), [spending(1.0)], progress=0.0, dims=10)
    return control


def test_the_multiplier_is_the_exponential_of_the_averaged_errors():
    """Rezende & Viola 2018, algorithm 1: C ← α C + (1 - α) error, λ ← λ exp(speed C)."""
    errors, average, log_multiplier = [0.5, -0.2, 1.0, 0.1], 0.0, 0.0
    for t, error in enumerate(errors, 1):
        decay = min(0.99, 1 - 1 / t)  # the plain mean until it is long enough
        average = decay * average + (1 - decay) * error
        log_multiplier += 0.5 * average
    assert float(geco_after(errors).log_multiplier) == pytest.approx(log_multiplier, rel=1e-5)


def test_too_much_distortion_makes_the_rate_matter_less():
    weights = [geco_after([error] * 3).weight(0.0) for error in (1.0, 0.0, -1.0)]
    assert weights[1] == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]


def test_what_is_minimised_has_the_minimum_of_the_lagrangian():
    """The slopes on distortion and rate stand as λ to 1 and sum to 1, however large λ is."""
    control = geco_after([1.0] * 4).eval()
    distortion, latent = torch.tensor(3.0, requires_grad=True), spending(2.0)
    slopes = torch.autograd.grad(control.total(distortion, [latent], 0.0, dims=10), (distortion, latent.rate))
    assert float(slopes[0] / slopes[1]) == pytest.approx(1 / control.weight(0.0), rel=1e-5)
    assert float(slopes[0] + slopes[1]) == pytest.approx(1.0)


def test_evaluation_leaves_the_multiplier_alone():
    control = geco_after([1.0]).eval()
    before = [value.clone() for value in control.buffers()]
    control.total(torch.tensor(99.0), [spending(1.0)], progress=0.0, dims=10)
    assert all(map(torch.equal, before, control.buffers()))


def test_the_multiplier_stays_within_its_limit():
    control = geco_after([100.0] * 20)
    assert float(control.log_multiplier) == Geco.LIMIT
    assert math.isfinite(float(control.total(torch.tensor(1e4), [spending(1.0)], 0.0, dims=10).detach()))


def test_geco_reaches_its_distortion_and_spends_less_for_more_of_it():
    """The rate falls as the target is relaxed; a target that the plain VAE beats is met at less rate than its own."""
    plain = trained(RateControl())
    targets = [plain[0] / LinearVAE.DATA + slack for slack in (0.2, 0.5)]
    reached = [trained(GecoConfig(target=target, speed=0.1).build(), steps=1200) for target in targets]
    for target, (distortion, _) in zip(targets, reached, strict=True):
        assert distortion / LinearVAE.DATA == pytest.approx(target, abs=0.06)
    rates = [plain[1], *(rate for _, rate in reached)]
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_geco_goes_on_from_what_it_saved():
    first = geco_after([0.5, -0.1, 0.7])
    second = Geco(first.target, first.speed)
    second.load_state_dict(first.state_dict())
    for control in (first, second):
        control.total(torch.tensor(8.0), [spending(1.0)], progress=0.0, dims=10)
    assert all(map(torch.equal, first.buffers(), second.buffers()))


@pytest.mark.parametrize("kind", ["free_bits", "total_correlation"])
def test_a_model_without_a_latent_has_no_rate_to_control(kind):
    control = from_dict(RateControlConfig, {"kind": kind, "beta": 2.0}).build()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="wants a model with a latent"):
        control([], progress=0.0)


@pytest.mark.parametrize(("values", "words"), [
    ({"kind": "geco", "speed": 0.0}, "speed above 0"),
    ({"kind": "constant_rate", "nats": -1.0}, "rate of at least 0 nats"),
    ({"kind": "capacity", "until": 1.5}, "until from 0 to 1"),
])
def test_what_cannot_be_aimed_at_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(RateControlConfig, values).build()  # type: ignore[arg-type]
