"""Priors over codes: exact probabilities, no view of the future, the same codes however they are drawn."""

import itertools
import math

import pytest
import torch

from audiovae.errors import ConfigError, ShapeError
from audiovae.nn.transformer import Transformer
from audiovae.priors import CausalConfig, Drawing, MaskedConfig, ToldConfig
from audiovae.priors.transformer import delayed, undelayed
from audiovae.shapes import CodeSpec, Condition, DataSpec


def spec(rows=1, size=3, dims=1, grid=None, **more):
    upper = more.pop("upper", ())
    codes = CodeSpec(num_codes=(size,) * rows, upper=upper, ratio=2 if upper else 1)
    return DataSpec(channels=rows, dims=dims, size=grid, codes=codes, **more)


def causal(data, **more):
    torch.manual_seed(0)
    return sharp(CausalConfig(dim=16, depth=2, heads=2, **more).build(data).eval())


def paired(data, **more):
    """A causal one that begins with counted pairs, and has learnt more."""
    prior = causal(data, bigram=True, **more)
    prior.bigram.table.copy_(2 * torch.randn(prior.bigram.table.shape)).sub_(prior.bigram.table.logsumexp(1, True))
    return prior


def masked(data, **more):
    torch.manual_seed(0)
    return sharp(MaskedConfig(dim=16, depth=2, heads=2, passes=3, **more).build(data).eval())


def sharp(prior):
    """Weights large enough that codes depend on each other visibly."""
    with torch.no_grad():
        for value in prior.parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 / value.shape[-1] ** 0.5)
    return prior


def dice(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def every(rows, size, length):
    """All codes (N, rows, length)."""
    return torch.tensor(list(itertools.product(range(size), repeat=rows * length))).view(-1, rows, length)


@pytest.mark.parametrize("make", [causal, paired, lambda data: masked(data, confidence=False)],
                         ids=["causal", "paired", "masked"])
@pytest.mark.parametrize(("rows", "size", "length"), [(1, 3, 4), (2, 2, 3), (3, 2, 2)])
def test_probabilities_of_all_codes_sum_to_one(make, rows, size, length):
    with torch.no_grad():
        chances = make(spec(rows, size)).log_prob(every(rows, size, length)).exp()
    assert chances.std() > 0.1 * chances.mean()  # not merely uniform
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_probabilities_of_all_pictures_sum_to_one():
    codes = every(1, 2, 6).view(-1, 1, 2, 3)
    for prior in (causal(spec(1, 2, dims=2, grid=(2, 3))), masked(spec(1, 2, dims=2, grid=(2, 3)))):
        assert float(prior.log_prob(codes).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", [causal, masked])
@torch.no_grad()
def test_what_lies_past_a_recordings_end_is_not_counted(make):
    codes = torch.nn.functional.pad(every(2, 2, 3), (0, 2), value=-1)
    log_prob = make(spec(2, 2)).log_prob(codes)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-5) and len(log_prob.unique()) > 32


@pytest.mark.parametrize("make", [causal, paired, lambda data: masked(data, confidence=False)],
                         ids=["causal", "paired", "masked"])
def test_samples_come_as_often_as_log_prob_says(make):
    prior, codes = make(spec(2, 2)), every(2, 2, 2)
    wanted = prior.log_prob(codes).exp()
    drawn = prior.sample((2,), None, Drawing(), dice(4000))
    places = (drawn.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    got = torch.bincount(places, minlength=16) / 4000
    assert (got - wanted).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_no_code_is_told_one_that_comes_later():
    """Gradients of each log-probability reach the embeddings of earlier places alone."""
    prior = causal(spec(2, 4))
    codes = torch.randint(4, (1, 2, 6))
    given = []
    prior.embedding.register_forward_hook(lambda module, args, out: given.append(out) or out.retain_grad())
    log = prior(codes)
    for q, t in itertools.product(range(2), range(6)):
        given[0].grad = None
        log[0, q, t].backward(retain_graph=True)
        reached = given[0].grad[0].abs().sum(1) > 0
        assert not reached[t + q + 1:].any()  # input s holds what stands before place s
        assert t + q == 0 or reached[t + q]


@torch.no_grad()
def test_a_layer_that_sees_the_future_is_caught():
    broken = causal(spec(1, 3))
    for layer in broken.network.layers:
        layer.attention.causal = False
    assert abs(float(broken.log_prob(every(1, 3, 4)).exp().sum()) - 1) > 0.01


@pytest.mark.parametrize(("make", "window"), [(causal, 0), (causal, 3), (paired, 0)])
def test_drawing_step_by_step_is_the_forward_pass(make, window):
    """Every draw was the one that the whole sequence's chances and the same die give."""
    prior = make(spec(2, 5), window=window)
    codes = prior.sample((9,), None, Drawing(), dice(3))
    places = delayed(codes)
    before = torch.nn.functional.pad(places, (1, 0), value=-1)[..., :-1]
    logits = prior._logits(before, prior.listener(None, 3, (9,)))
    chances = undelayed(logits.transpose(1, 2))
    numbers = torch.stack([torch.rand(2, 9, generator=g) for g in dice(3)])
    assert torch.equal(Drawing().draw(chances, numbers), codes)


@pytest.mark.parametrize("window", [0, 4])
def test_cached_steps_equal_the_whole(window):
    net = Transformer(32, depth=3, heads=2, causal=True, window=window).eval()
    x, caches = torch.randn(2, 12, 32), net.caches(2, 12)
    steps = torch.cat([net(part, caches=caches) for part in x.split([5, 1, 1, 3, 1, 1], dim=1)], dim=1)
    assert torch.allclose(steps, net(x), atol=1e-5)


def test_a_window_hides_what_is_far_back():
    net = Transformer(16, depth=1, heads=2, causal=True, window=3).eval()
    x = torch.randn(1, 8, 16, requires_grad=True)
    net(x)[0, 7].pow(3).sum().backward()
    assert (x.grad[0].abs().sum(1) > 0).tolist() == [False] * 5 + [True] * 3


def test_activations_made_anew_give_the_same_gradient():
    gradients = []
    for remember in (True, False):
        torch.manual_seed(0)
        net = Transformer(16, depth=2, heads=2, causal=True, remember=remember)
        net(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        gradients.append(net.layers[0].perceptron.inner.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("make", [causal, masked], ids=["causal", "masked"])
def test_a_song_does_not_depend_on_the_others_of_its_batch(make):
    prior = make(spec(2, 6))
    together = prior.sample((8,), None, Drawing(), dice(3))
    alone = torch.cat([prior.sample((8,), None, Drawing(), [g]) for g in dice(3)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("make", [causal, masked], ids=["causal", "masked"])
def test_a_prime_stays_and_changes_what_follows(make):
    prior = make(spec(2, 6))
    prime = torch.full((1, 2, 8), -1)
    prime[..., :4] = torch.randint(6, (2, 4), generator=torch.Generator().manual_seed(5))
    other = prime.clone()
    other[..., :4] = (other[..., :4] + 1) % 6
    one, two = (prior.sample((8,), None, Drawing(), dice(1), p) for p in (prime, other))
    assert torch.equal(one[..., :4], prime[..., :4]) and (one >= 0).all()
    assert not torch.equal(one[..., 4:], two[..., 4:])


def test_the_causal_prior_goes_on_from_its_own_beginning_alike():
    prior = causal(spec(2, 6))
    whole = prior.sample((8,), None, Drawing(temperature=0), dice(1))
    prime = whole.clone()
    prime[..., 5:] = -1
    assert torch.equal(prior.sample((8,), None, Drawing(temperature=0), dice(1), prime), whole)


def test_the_masked_prior_fills_a_gap_by_both_sides():
    prior = masked(spec(1, 6))
    prime = torch.randint(6, (1, 1, 9), generator=torch.Generator().manual_seed(1))
    prime[..., 3:6] = -1
    later = prime.clone()
    later[..., 6:] = (later[..., 6:] + 1) % 6
    one, two = (torch.cat([prior.sample((9,), None, Drawing(), dice(1, s), p) for s in range(8)]) for p in
                (prime, later))
    assert torch.equal(one[0, 0, :3], prime[0, 0, :3]) and torch.equal(one[0, 0, 6:], prime[0, 0, 6:])
    assert not torch.equal(one[..., 3:6], two[..., 3:6])


@torch.no_grad()
def test_learning_by_hiding_has_the_bound_in_expectation():
    """The mean over draws of the training estimate is the mean over orders of the exact sum, for one row."""
    torch.manual_seed(1)
    prior, codes = masked(spec(1, 3)), torch.tensor([[[0, 2, 1]]])

    def chance(known, at):
        seen = torch.tensor([[[c if i in known else -1 for i, c in enumerate([0, 2, 1])]]])
        told = prior.listener(None, 1, (3,))
        return float(prior._log_chances(seen, torch.tensor([0]), told)[0, at, codes[0, 0, at]])

    orders = list(itertools.permutations(range(3)))
    exact = sum(chance(order[:i], at) for order in orders for i, at in enumerate(order)) / len(orders)
    with torch.no_grad():
        draws = prior(codes.expand(6000, -1, -1)).flatten(1).sum(1)
    assert float(draws.mean()) == pytest.approx(exact, abs=4 * float(draws.std()) / 6000**0.5)


@torch.no_grad()
def test_absent_codes_cost_nothing():
    prior = causal(spec(2, 4))
    codes = torch.randint(4, (1, 2, 5))
    longer = torch.nn.functional.pad(codes, (0, 3), value=-1)
    assert float(prior.log_prob(longer)) == pytest.approx(float(prior.log_prob(codes)), abs=1e-4)


def test_upper_codes_are_heard_where_they_are():
    prior = causal(spec(1, 4, upper=(5,)), told=ToldConfig(upper_depth=1, upper_width=8))
    codes = torch.zeros(1, 1, 8, dtype=torch.int64)
    upper = torch.zeros(1, 1, 4, dtype=torch.int64)
    other = upper.clone()
    other[..., 3] = 2
    a, b = (prior(codes, Condition(upper=u)) for u in (upper, other))
    assert torch.allclose(a[..., :4], b[..., :4]) and not torch.allclose(a[..., 6:], b[..., 6:])
    with pytest.raises(ShapeError, match="level above"):
        prior(codes)
    with pytest.raises(ShapeError, match="for \\(8,\\) steps"):
        prior(codes, Condition(upper=upper[..., :3]))


def test_names_timing_and_text_are_heard_and_guidance_leans_to_them():
    data = spec(1, 4, tags=("genre=A", "genre=B"), timing=True, text=True)
    prior = causal(data)
    codes = torch.randint(4, (1, 1, 6))
    plain = prior(codes)
    for told in (Condition(tags=torch.tensor([[1.0, 0.0]])), Condition(timing=torch.tensor([[60.0, 5.0, 0.1]])),
                 Condition(text=torch.tensor([[104, 105]]))):
        assert not torch.allclose(prior(codes, told), plain)
    told = Condition(tags=torch.tensor([[0.0, 1.0]]))
    wanted = prior.sample((6,), told, Drawing(guidance=0), dice(4))
    untold = prior.sample((6,), None, Drawing(), dice(4))
    assert torch.equal(wanted, untold)  # guidance 0 does not listen
    assert torch.equal(prior.sample((6,), None, Drawing(guidance=3), dice(4)), untold)  # nothing was said


@pytest.mark.parametrize("make", [causal, masked])
def test_a_text_is_heard_as_it_is_alone_whatever_longer_one_it_is_batched_with(make):
    prior = make(spec(1, 4, text=True))
    codes = torch.randint(4, (3, 1, 6))
    texts = [torch.tensor([[104, 105]]), torch.tensor([[108, 97, 108, 97, 108, 97]]), torch.tensor([[0]])]
    padded = torch.cat([torch.nn.functional.pad(text, (0, 6 - text.shape[1])) for text in texts])
    together = prior.log_prob(codes, Condition(text=padded))
    alone = torch.cat([prior.log_prob(codes[i:i + 1], Condition(text=texts[i])) for i in range(3)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together[2:], prior.log_prob(codes[2:]), msg="no text is none said")
    assert not torch.allclose(together, prior.log_prob(codes, Condition(text=padded.flip(1))))


def test_training_forgets_the_condition_as_often_as_it_was_asked():
    data = spec(1, 4, tags=("genre=A", "genre=B"))
    listener = causal(data, told=ToldConfig(dropout=0.3)).listener.train()
    told = Condition(tags=torch.tensor([[1.0, 0.0]]).expand(2000, -1))
    untold = listener(None, 1, (4,)).vector
    share = (listener(told, 2000, (4,)).vector == untold).all(1).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.05)


def test_drawing_keeps_what_it_says():
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    numbers = torch.linspace(0, 0.999, 500)
    assert Drawing(top_k=1).draw(logits.expand(500, -1), numbers).unique().tolist() == [0]
    assert Drawing(top_p=0.6).log_chances(logits).exp()[3] == 0
    assert Drawing(top_p=0.5).log_chances(logits).exp().tolist() == [1, 0, 0, 0]
    drawn = Drawing().draw(logits.expand(500, -1), numbers)
    assert (torch.bincount(drawn) / 500).tolist() == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=0.01)
    cold = Drawing(temperature=0.5).log_chances(logits).exp()
    assert float(cold[0]) == pytest.approx(0.25 / (0.25 + 0.04 + 0.04 + 0.01), abs=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="one size"):
        CausalConfig(dim=8, depth=1, heads=1).build(DataSpec(2, 1, codes=CodeSpec(num_codes=(4, 5))))
    with pytest.raises(ConfigError, match="top_p"):
        Drawing(top_p=1.5)
    prior = causal(spec(2, 4))
    with pytest.raises(ShapeError, match="Q=2"):
        prior(torch.zeros(1, 1, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="another model"):
        prior(torch.full((1, 2, 4), 4))
    with pytest.raises(ShapeError, match="prime"):
        prior.sample((4,), None, Drawing(), dice(1), torch.zeros(1, 2, 3, dtype=torch.int64))


def test_a_learnt_prior_reaches_the_entropy_of_its_source():
    """A Markov source of known transition chances: nats per code come within 2 % of its entropy."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(6, 6, generator=generator).pow(4).add(0.01)
    chances = chances / chances.sum(1, keepdim=True)
    state = torch.linalg.matrix_power(chances, 200)[0]
    entropy = -float((state[:, None] * chances * chances.log()).sum())

    def draw(count, length):
        codes = torch.multinomial(state, count, replacement=True, generator=generator)[:, None]
        for _ in range(length - 1):
            codes = torch.cat([codes, torch.multinomial(chances[codes[:, -1]], 1, generator=generator)], dim=1)
        return codes[:, None]

    prior = CausalConfig(dim=32, depth=1, heads=2).build(spec(1, 6))
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 200)
        loss = -prior(draw(24, 32)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        nats = -float(prior(draw(256, 64))[..., 1:].mean())
    assert nats == pytest.approx(entropy, rel=0.02) and entropy < 0.85 * math.log(6)
