"""PixelCNN priors over grids of codes: exact probabilities, no view of the future, drawing in parts = by the whole."""

import itertools

import pytest
import torch

from audiovae.config import from_dict
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import PriorConfig
from audiovae.priors import Drawing, PixelCNNPriorConfig, ToldConfig
from audiovae.shapes import CodeSpec, Condition, DataSpec


def spec(rows=1, size=3, grid=(2, 3), upper=(), **more):
    codes = CodeSpec(num_codes=(size,) * rows, upper=upper, ratio=2 if upper else 1)
    return DataSpec(channels=rows, dims=2, size=grid, codes=codes, **more)


def prior(data, attend=1, **more):
    """One with weights large enough that codes depend on each other visibly."""
    torch.manual_seed(0)
    rows = data.channels
    built = PixelCNNPriorConfig(width=8 * rows, depth=2, attend=attend, heads=2, **more).build(data).eval()
    with torch.no_grad():
        for value in built.parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 / value[0].numel() ** 0.5)
    return built


def dice(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def every(rows, size, grid):
    """All codes (N, rows, *grid)."""
    places = rows * grid[0] * grid[1]
    return torch.tensor(list(itertools.product(range(size), repeat=places))).view(-1, rows, *grid)


def joint(network, codes, condition=None):
    with torch.no_grad():
        return float(network.log_prob(codes, condition).double().logsumexp(0).exp())


@pytest.mark.parametrize("attend", [0, 1, 2])
@pytest.mark.parametrize(("rows", "size", "grid"), [(1, 2, (3, 3)), (1, 3, (2, 3)), (2, 2, (2, 2)), (3, 2, (1, 3))])
def test_probabilities_of_all_grids_sum_to_one(attend, rows, size, grid):
    network, codes = prior(spec(rows, size, grid), attend), every(rows, size, grid)
    with torch.no_grad():
        chances = network.log_prob(codes).exp()
    assert chances.std() > 0.1 * chances.mean()  # not merely uniform
    assert joint(network, codes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("attend", [0, 1])
def test_they_sum_to_one_whatever_is_told(attend):
    grid = (2, 4)
    network, codes = prior(spec(1, 2, grid, upper=(5,), labels=("a", "b")), attend), every(1, 2, grid)
    sums = {}
    for label, upper in itertools.product((0, 1, -1), ([[0, 3]], [[4, 1]])):
        told = Condition(label=torch.full((len(codes),), label), upper=torch.tensor(upper).expand(len(codes), 1, 1, 2))
        sums[label, str(upper)] = joint(network, codes, told)
        assert sums[label, str(upper)] == pytest.approx(1, abs=1e-5)
    chances = [network.log_prob(codes[:1], Condition(torch.tensor([k]), upper=torch.tensor([[upper]])))
               for k, upper in itertools.product((0, 1, -1), ([[0, 3]], [[4, 1]]))]
    assert len({round(chance.item(), 4) for chance in chances}) == 6  # all of it is heard


def lets_the_code_itself_through(network):
    network.layers[0].now.mask.fill_(1.0)


def attends_to_what_comes(network):
    network.layers[0].recall.network.layers[0].attention.causal = False


def is_told_of_itself(network):
    inner = network.layers[0].recall.forward
    network.layers[0].recall.forward = lambda before, told: inner(  # the features and the value at p, not those before
        torch.cat([before.flatten(2)[..., 1:], before.flatten(2)[..., :1]], 2).view_as(before), told)


@pytest.mark.parametrize("broken", [lets_the_code_itself_through, attends_to_what_comes, is_told_of_itself])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_broken_mask_fails_the_sum(broken, rows):
    network = prior(spec(rows, 2, (2, 2)))
    broken(network.network)
    assert abs(joint(network, every(rows, 2, (2, 2))) - 1) > 1e-3


@pytest.mark.parametrize("attend", [0, 1])
@pytest.mark.parametrize("rows", [1, 2])
def test_no_code_is_told_one_that_comes_later(attend, rows):
    """Gradients of each log-probability reach the vectors of earlier codes alone; with attention, of all of them."""
    grid = (4, 5)
    network = prior(spec(rows, 4, grid), attend).double()
    codes, given = torch.randint(4, (6, rows, *grid)), []  # several, for units that rest
    network.network.table.register_forward_hook(lambda module, args, out: given.append(out) or out.retain_grad())
    log = network(codes)
    places = list(itertools.product(range(grid[0]), range(grid[1]), range(rows)))
    for n, (i, j, q) in enumerate(places):
        given[0].grad = None
        log[:, q, i, j].sum().backward(retain_graph=True)
        by_code = (given[0].grad.unflatten(1, (-1, rows)) != 0).any(0).any(0)
        reached = [bool(by_code[p, k, m]) for k, m, p in places]
        assert not any(reached[n:])
        if attend:
            assert all(reached[:n])
    if not attend:  # the first code lies beyond the reach of the last
        assert not reached[0]


@pytest.mark.parametrize("attend", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 2])
def test_drawing_one_by_one_is_drawing_by_the_whole(attend, rows):
    """A full pass before every draw, with the same dice, gives the same codes."""
    grid, size = (4, 4), 5
    network = prior(spec(rows, size, grid, upper=(3,), labels=("a", "b")), attend)
    told = Condition(torch.tensor([0, 1, -1]), upper=torch.randint(3, (3, 1, 2, 2)))
    fast = network.sample(grid, told, Drawing(), dice(3))
    numbers = torch.stack([torch.rand(rows, *grid, generator=g) for g in dice(3)])
    slow = torch.zeros(3, rows, *grid, dtype=torch.int64)
    for i, j, q in itertools.product(range(grid[0]), range(grid[1]), range(rows)):
        with torch.no_grad():
            logits = network.network(slow, spatial=network._told(told, 3, grid)).unflatten(1, (size, rows))
        slow[:, q, i, j] = Drawing().draw(logits[:, :, q, i, j], numbers[:, q, i, j])
    assert torch.equal(fast, slow)
    assert len(fast.unique()) > 2


def test_samples_come_as_often_as_log_prob_says():
    network, codes = prior(spec(2, 2, (1, 2))), every(2, 2, (1, 2))
    with torch.no_grad():
        wanted = network.log_prob(codes).exp()
    drawn = network.sample((1, 2), None, Drawing(), dice(4000))
    got = torch.bincount((drawn.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / 4000
    assert (got - wanted).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_guidance_leans_to_what_is_told_and_each_example_has_its_own_dice():
    network = prior(spec(1, 6, (3, 4), labels=("a", "b")))
    told = Condition(torch.tensor([0, 1, 1]))
    strong, plain, deaf = (network.sample((3, 4), told, Drawing(guidance=g), dice(3)) for g in (4, 1, 0))
    assert torch.equal(deaf, network.sample((3, 4), None, Drawing(), dice(3)))
    assert not torch.equal(strong, plain)
    alone = [network.sample((3, 4), Condition(told.label[n:n + 1]), Drawing(guidance=4), [dice(3)[n]])
             for n in range(3)]
    assert torch.equal(torch.cat(alone), strong)
    likeliest = network.sample((3, 4), told, Drawing(temperature=0), dice(3))
    assert torch.equal(likeliest[1], likeliest[2])  # no dice left


def test_a_prime_stays_and_changes_what_follows():
    network = prior(spec(1, 6, (3, 4)))
    prime = torch.full((1, 1, 3, 4), -1)
    prime[:, :, 0] = torch.tensor([3, 1, 4, 1])
    other = prime.clone()
    other[:, :, 0] = torch.tensor([2, 0, 5, 5])
    steps = []
    one, two = (network.sample((3, 4), None, Drawing(), dice(1), p, steps.append) for p in (prime, other))
    assert torch.equal(one[:, :, 0], prime[:, :, 0]) and (one >= 0).all() and sum(steps) == 24
    assert not torch.equal(one[:, :, 1:], two[:, :, 1:])


def test_attention_learns_what_lies_beyond_the_reach_of_convolutions():
    """The last code repeats the first, four places away: a convolution of reach 1 cannot know, attention can."""
    nats = {}
    for attend in (0, 1):
        torch.manual_seed(0)
        network = PixelCNNPriorConfig(width=32, depth=1, attend=attend, heads=2).build(spec(1, 4, (1, 5)))
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(50):
            codes = torch.randint(4, (32, 1, 1, 5))
            codes[..., -1] = codes[..., 0]
            last = -network(codes)[..., -1].mean()
            optimizer.zero_grad()
            last.backward()
            optimizer.step()
        nats[attend] = last.item()
    assert nats[0] > 1.3 and nats[1] < 0.1  # log 4 = 1.39


def test_lower_precision_and_dropout_train():
    model = from_dict(PriorConfig, {"prior": {"kind": "pixelcnn", "width": 16, "depth": 2, "attend": 1, "heads": 2,
                                              "dropout": 0.5, "pixel_dropout": 0.2}}).build(spec(2, 5, (4, 4)))
    codes = torch.randint(5, (3, 2, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = -model(codes).params.mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.numel())
    assert not torch.equal(model(codes).params, model(codes).params)
    assert torch.equal(model.eval()(codes).params, model(codes).params)
    codes[0, :, 3] = -1  # what is not there costs nothing
    assert (model(codes).params[0, :, 3] == 0).all()


def test_what_does_not_fit_is_refused():
    config = PixelCNNPriorConfig(width=8, depth=1, attend=0)
    with pytest.raises(ConfigError, match="one size"):
        config.build(DataSpec(2, 2, size=(2, 2), codes=CodeSpec(num_codes=(4, 5))))
    with pytest.raises(ConfigError, match="causal"):
        config.build(DataSpec(1, 1, size=(8,), codes=CodeSpec(num_codes=(4,))))
    with pytest.raises(ConfigError, match="text"):
        config.build(spec(text=True))
    with pytest.raises(ConfigError, match="multiple of its 3 channels"):
        config.build(spec(3))
    network = prior(spec(1, 4, (2, 4), upper=(3,)), told=ToldConfig(upper_depth=1))
    with pytest.raises(ShapeError, match="level above"):
        network(torch.zeros(1, 1, 2, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"for \(2, 4\) steps"):
        network(torch.zeros(1, 1, 2, 4, dtype=torch.int64), Condition(upper=torch.zeros(1, 1, 2, 2, dtype=torch.int64)))
    with pytest.raises(ShapeError, match="another model"):
        network(torch.full((1, 1, 2, 4), 4))
    with pytest.raises(ShapeError, match="prime"):
        prior(spec()).sample((2, 3), None, Drawing(), dice(1), torch.zeros(1, 1, 3, 2, dtype=torch.int64))
