"""Convolutions as products of rows: what torch's own give, forwards and backwards, whatever the lengths."""

import pytest
import torch
from torch.nn import functional as F

from audiovae.nn import rows
from audiovae.nn.conv import Downsample, SameConv, Upsample
from audiovae.nn.resnet import ResidualStack


@pytest.fixture(autouse=True)
def blocks_shorter_than_the_data(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 8)
    torch.manual_seed(0)


def data(channels, length, batch=2):
    return torch.randn(batch, channels, length, dtype=torch.float64, requires_grad=True)


def gradients(y, of, g):
    return torch.autograd.grad(y, of, g)


def stacked(stack, x, mask=None):
    """The stack by torch's convolutions, one after the other."""
    for block in stack.blocks:
        x = x if mask is None else x * mask
        inner, dilation, causal = block.inner.conv, block.inner.dilation, block.inner.past > 0
        read = F.pad(F.relu(x), (2 * dilation, 0) if causal else (dilation, dilation))
        x = x + block.outer.conv(F.relu(F.conv1d(read, inner.weight, inner.bias, dilation=dilation)))
    return x if mask is None else x * mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("make", [
    lambda causal: SameConv(1, 3, 5, kernel=3, dilation=9, causal=causal), lambda causal: SameConv(1, 3, 5),
    lambda causal: Downsample(1, 3, 5, 4, causal), lambda causal: Upsample(1, 3, 5, 4, causal),
    lambda causal: Upsample(1, 3, 1, 2, causal)])
@pytest.mark.parametrize("length", [4, 28, 44])
def test_a_layer_is_torchs_own_with_its_gradients(make, causal, length, monkeypatch):
    layer, x = make(causal).double(), data(3, length)
    ours, of = layer(x), [x, *layer.parameters()]
    monkeypatch.setattr(rows, "fits", lambda x: False)
    theirs, g = layer(x), torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, of, g), gradients(theirs, of, g))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "batch", "growth"), [(13, 2, 3), (1, 1, 2), (7, 3, 11), (40, 1, 1), (3, 20, 2)])
def test_a_stack_is_torchs_own_with_its_gradients(length, batch, growth, causal, masked):
    """Odd lengths, dilations beyond the block and the data, more examples than a block holds."""
    stack, x = ResidualStack(1, 5, 3, growth, hidden=4, causal=causal).double(), data(5, length, batch)
    there = torch.randint(1, length + 1, (batch, 1, 1))
    mask = (torch.arange(length) < there).double() if masked else None
    ours, theirs, of = stack(x, mask=mask), stacked(stack, x, mask), [x, *stack.parameters()]
    g = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, of, g), gradients(theirs, of, g))
    with torch.no_grad():
        torch.testing.assert_close(stack(x, mask=mask), theirs)


def test_the_gradients_are_those_of_finite_differences():
    stack, x = ResidualStack(1, 3, 2, 3).double(), data(3, 11)
    assert torch.autograd.gradcheck(stack, (x,))
    x, weight, bias = data(2, 12), data(2, 4, batch=3), torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *told: rows.convolve(*told, 2, 1, 1, 1), (x, weight, bias))


def test_taps_in_a_wrong_order_are_caught():
    stack, x = ResidualStack(1, 5, 2, 3).double(), data(5, 30)
    wrong = [(inner.flip(2), *rest) for inner, *rest in (block.weights for block in stack.blocks)]
    y = rows.chain(x, wrong, (1, 3), causal=False)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(y, stacked(stack, x))


def test_the_data_given_are_left_as_they_were():
    stack, x = ResidualStack(1, 4, 2, 3), torch.randn(2, 20, 4).transpose(1, 2)  # rows already
    before = x.clone()
    y = stack(x)
    kept = y.detach().clone()
    y.sum().backward()
    assert torch.equal(x, before) and torch.equal(y, kept)


def test_weights_that_do_not_learn_get_no_gradient_and_the_data_theirs():
    stack, x = ResidualStack(1, 4, 2, 3).double().requires_grad_(False), data(4, 20)
    g = torch.randn_like(x)
    torch.testing.assert_close(gradients(stack(x), x, g), gradients(stacked(stack, x), x, g))


def test_a_stack_keeps_one_tensor_a_block_and_what_it_gave():
    kept = []
    stack, x = ResidualStack(1, 4, 6, 2), torch.randn(1, 4, 100)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        stack(x)
    assert kept.count(x.numel()) == 7


def test_half_precision_and_pictures_take_torchs_own():
    assert rows.fits(torch.zeros(1, 2, 3)) and not rows.fits(torch.zeros(1, 2, 3, 3))
    assert not rows.fits(torch.zeros(1, 2, 3, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not rows.fits(torch.zeros(1, 2, 3))
        assert ResidualStack(1, 4, 2, 3)(torch.zeros(1, 4, 9)).shape == (1, 4, 9)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("channels", "outputs", "stride", "grid"),
                         [(5, 1, 2, (3, 4)), (4, 3, 2, (6, 6)), (3, 2, 4, (1, 5))])
def test_pictures_of_few_channels_are_spread_as_torch_does_with_first_and_second_derivatives(channels, outputs, stride,
                                                                                              grid, last):
    layer, x = Upsample(2, channels, outputs, stride).double(), torch.randn(2, channels, *grid, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    ours, theirs, of = layer(x), layer.conv(x), [x, *layer.parameters()]
    assert ours.grad_fn.name() != theirs.grad_fn.name()
    g = torch.randn_like(ours, requires_grad=True)
    first = [torch.autograd.grad(y, of, g, create_graph=True) for y in (ours, theirs)]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*first)
    torch.testing.assert_close(*(torch.autograd.grad(sum(part.square().sum() for part in found), [x, layer.conv.weight,
                                                                                                    g])
                                 for found in first))
