"""One place at a time: the numbers of the whole, whatever is attended to, and what keeps to the ordinary way."""

import pytest
import torch

from audiovae.errors import ShapeError
from audiovae.nn.stepping import Stepper
from audiovae.nn.transformer import Context, Transformer


def network(window=0, context_dim=0, depth=3):
    """Layers that add as much as they are given, so that each of their parts is seen."""
    torch.manual_seed(0)
    net = Transformer(32, depth, heads=2, causal=True, window=window, context_dim=context_dim).eval()
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.7) if value.ndim == 1 else torch.nn.init.normal_(
            value, std=1 / value.shape[1] ** 0.5)
    return net


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("context_dim", [0, 8])
@pytest.mark.parametrize("first", [1, 5])
@torch.no_grad()
def test_steps_equal_the_whole(window, context_dim, first):
    net, x = network(window, context_dim), torch.randn(2, 11, 32)
    context = Context(torch.randn(2, 7, 8), torch.tensor([[True] * 7, [True] * 3 + [False] * 4]))
    context = context if context_dim else None
    caches = net.caches(batch=2, room=11)
    parts = [net(part, context, caches) for part in x.split([first] + [1] * (11 - first), dim=1)]
    assert caches.stepper is not None and caches.length == 11
    torch.testing.assert_close(torch.cat(parts, dim=1), net(x, context), atol=1e-5, rtol=0)


@pytest.mark.parametrize("harm", ["turn", "window", "context", "cache"])
@torch.no_grad()
def test_a_stepper_that_goes_wrong_is_caught(harm):
    net, x, context = network(4, 8), torch.randn(1, 9, 32), Context(torch.randn(1, 7, 8), torch.arange(7)[None] < 5)
    caches, step = net.caches(batch=1, room=9), Stepper(net, 9, context)
    if harm == "turn":
        step.cos, step.sin = step.cos.roll(1, 1), step.sin.roll(1, 1)
    elif harm == "window":
        step.window = 3
    elif harm == "context":
        step = Stepper(net, 9, Context(context.values, torch.ones(1, 7, dtype=torch.bool)))  # hears all
    parts = []
    for place in x.unbind(1):
        parts.append(step(place, caches))
        if harm == "cache":
            caches.values[:, :, :, 0] = 0
    assert (torch.stack(parts, dim=1) - net(x, context)).abs().max() > 1e-3


def test_what_is_to_learn_goes_the_ordinary_way():
    net, x = network(), torch.randn(1, 1, 32)
    caches = net.caches(1, 1)
    assert net(x, caches=caches).requires_grad and caches.stepper is None


@torch.no_grad()
def test_there_is_no_more_than_the_room_that_was_asked_for():
    net, x = network(), torch.randn(1, 1, 32)
    caches = net.caches(1, 2)
    net(x, caches=caches), net(x, caches=caches)
    with pytest.raises(ShapeError, match="at most 2 positions, got 3"):
        net(x, caches=caches)
