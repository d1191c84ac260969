"""Priors with 8-bit weights: products against their closed form, exact rows, nats a code, and the commands."""

import copy
import pickle

import pytest
import torch

from audiovae.errors import ConfigError
from audiovae.nn.int8 import KERNEL, MOST, Int8Linear
from audiovae.priors import CausalConfig, Drawing, MaskedConfig, PixelCNNPriorConfig, check_quantizable, quantized
from audiovae.shapes import CodeSpec, DataSpec


def closed_form(linear, x):
    """y in double, from the definition: whole activations by each row's range, whole weights, their scales."""
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    step = ((high.double() - low.double()) / 255).clamp(min=1e-30)[:, None]
    zero = (-low.double()[:, None] / step).round()
    k = ((x.double() / step).round() + zero).clamp(0, 255)
    return step * ((k - zero) @ linear.whole.double().T) * linear.scale.double(), step


def weights(outputs, inputs):
    """Rows of very different sizes, as trained ones are."""
    return torch.randn(outputs, inputs) * torch.logspace(-2, 1, outputs)[:, None]


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 48), (7, 50), (96, 512), (1, 16)])
def test_a_product_is_that_of_whole_numbers(outputs, inputs):
    torch.manual_seed(0)
    linear = Int8Linear(weights(outputs, inputs))
    x = torch.randn(9, inputs) * torch.logspace(-4, 4, 9)[:, None]
    x[3], x[4], x[5] = 0, x[4].abs(), -x[5].abs()  # nothing, and nothing on one side
    y, (truth, step) = linear(x).double(), closed_form(linear, x)
    assert bool((y[3] == 0).all())
    bound = step * MOST * linear.scale  # one activation that fell on the other side of a half
    assert bool(((y - truth).abs() <= bound + 1e-5 * truth.abs()).all())
    assert ((y - truth).abs() > 1e-5 * truth.abs() + 1e-6 * bound).double().mean() < 0.1  # and few did


def test_the_largest_numbers_do_not_overflow_on_their_way():
    """Sums of pairs of 8-bit products are held in 16 bits by some processors: twice the weights would be cut off."""
    x = torch.where(torch.arange(512) % 3 == 0, -1e-3, 1.0)[None]
    linear = Int8Linear(torch.tensor([[1.0], [-1.0]]).expand(2, 512))
    truth, _ = closed_form(linear, x)
    torch.testing.assert_close(linear(x), truth.float(), rtol=1e-4, atol=0)


def test_an_error_is_within_what_rounding_can_do():
    torch.manual_seed(0)
    w, x = weights(40, 96), torch.randn(20, 96)
    linear, (_, step) = Int8Linear(w), closed_form(Int8Linear(w), x)
    bound = x.abs().sum(1, keepdim=True) * linear.scale / 2 + step / 2 * linear.weight.abs().sum(1)
    error = (linear(x) - x @ w.T).abs()
    assert bool((error <= 1.01 * bound).all()) and error.max() > 0
    assert bool(((linear.weight - w).abs() <= 1.001 * linear.scale[:, None] / 2).all())


def test_every_output_has_its_own_scale_and_every_row():
    torch.manual_seed(0)
    w, x = torch.randn(12, 32), torch.randn(5, 32)
    larger, more = w.clone(), x.clone()
    larger[3], more[2] = 1000 * larger[3], 1000 * more[2]
    y = Int8Linear(w)(x)
    others = torch.arange(12) != 3
    assert torch.equal(Int8Linear(larger)(x)[:, others], y[:, others])
    assert torch.equal(Int8Linear(w)(more)[torch.arange(5) != 2], y[torch.arange(5) != 2])
    assert torch.equal(torch.cat([Int8Linear(w)(row) for row in x.split(1)]), y)
    assert torch.equal(Int8Linear(w)(x.view(1, 5, 32)), y[None])


def test_a_copy_computes_the_same_after_the_first_is_gone():
    torch.manual_seed(0)
    x, linear = torch.randn(2, 24), Int8Linear(torch.randn(8, 24))
    wanted, copies = linear(x), [copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))]
    del linear
    for other in copies:
        torch.testing.assert_close(other(x), wanted)


def prior(config=CausalConfig, rows=2, size=6, **more):
    torch.manual_seed(0)
    data = DataSpec(channels=rows, dims=1, size=(12,), codes=CodeSpec(num_codes=(size,) * rows))
    built = config(dim=40, depth=2, heads=2, **more).build(data).eval()
    with torch.no_grad():
        for value in built.parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 / value.shape[-1] ** 0.5)
    return built


def dice(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("config", [CausalConfig, MaskedConfig])
def test_a_song_is_the_same_whatever_is_drawn_beside_it(config):
    small = quantized(prior(config))
    prime = torch.full((4, 2, 12), -1)
    prime[..., :3] = torch.randint(6, (4, 2, 3))
    for given in (None, prime):
        together = small.sample((12,), None, Drawing(), dice(4), given)
        alone = [small.sample((12,), None, Drawing(), [die], None if given is None else given[n:n + 1])
                 for n, die in enumerate(dice(4))]
        assert torch.equal(together, torch.cat(alone))


@torch.inference_mode()
def test_steps_of_a_batch_are_those_of_one_bit_for_bit():
    small = quantized(prior())
    codes, told = torch.randint(6, (3, 2, 8)), small.listener(None, 1, (8,))

    def steps(rows):
        caches = small.network.caches(len(rows), 8)
        return torch.cat([small._logits(rows[..., i:i + 1], told, caches, i) for i in range(8)], dim=1)

    assert torch.equal(steps(codes)[1:2], steps(codes[1:2]))
    float_steps = prior()._logits(codes, told)
    assert (steps(codes) - small._logits(codes, told)).abs().mean() < 0.1 * (steps(codes) - float_steps).abs().mean()


@pytest.mark.parametrize("bigram", [False, True])
@torch.no_grad()
def test_probabilities_still_sum_to_one(bigram):
    whole = prior(rows=1, size=3, bigram=bigram)
    if bigram:
        whole.count(lambda split: [torch.randint(3, (1, 40), generator=torch.Generator().manual_seed(0)).numpy()])
    small = quantized(whole)
    assert not bigram or torch.equal(small.bigram.table, whole.bigram.table)
    codes = torch.cartesian_prod(*[torch.arange(3)] * 4)[:, None]
    assert float(small.log_prob(codes).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_learnt_prior_loses_less_than_a_hundredth_of_its_nats():
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(8, 8, generator=generator).pow(6).add(0.003)

    def draw(count, length):
        codes = torch.randint(8, (count, 1), generator=generator)
        for _ in range(length - 1):
            codes = torch.cat([codes, torch.multinomial(chances[codes[:, -1]], 1, generator=generator)], dim=1)
        return codes[:, None]

    torch.manual_seed(0)
    network = CausalConfig(dim=32, depth=2, heads=2).build(DataSpec(1, 1, codes=CodeSpec(num_codes=(8,))))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        (-network(draw(16, 32)).mean()).backward()
        optimizer.step()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    held, small = draw(32, 32), quantized(network.eval())
    with torch.no_grad():
        nats, fewer_bits = -float(network(held).mean()), -float(small(held).mean())
    assert nats < 0.8 * float(torch.tensor(8.0).log())  # something was learnt
    assert fewer_bits == pytest.approx(nats, rel=0.01) and fewer_bits != nats
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_cannot_have_int8_weights_is_refused(monkeypatch):
    grid = DataSpec(1, 2, size=(4, 4), codes=CodeSpec(num_codes=(4,)))
    with pytest.raises(ConfigError, match="causal and masked, got a PixelCNNPrior"):
        quantized(PixelCNNPriorConfig(width=8, depth=1, attend=0).build(grid))
    with pytest.raises(ConfigError, match="'pixelcnn', runs/top"):
        check_quantizable("pixelcnn", "runs/top")
    with pytest.raises(ConfigError, match="for the processor, the model is on meta"):
        Int8Linear(torch.zeros(4, 4, device="meta"))
    monkeypatch.delattr(torch, KERNEL)
    for act in (lambda: quantized(prior()), lambda: check_quantizable("causal", "runs/top")):
        with pytest.raises(ConfigError, match="does not have on this machine: take float32"):
            act()
