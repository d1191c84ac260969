"""Finite scalar quantization: codes and levels are two names of one thing."""

import itertools
import math

import pytest
import torch

from audiovae.bottlenecks import FSQConfig

LEVELS = (3, 4, 5, 8)
COUNT = math.prod(LEVELS)


def test_codes_and_values_are_a_bijection():
    fsq = FSQConfig(levels=LEVELS).build(dims=1)
    z = fsq.decode(torch.arange(COUNT).view(1, 1, -1))[0]
    assert len(z.unique(dim=1)[0]) == COUNT
    for values, levels in zip(z, LEVELS, strict=True):
        steps = values.unique()
        assert len(steps) == levels
        torch.testing.assert_close(steps.diff(), torch.full((levels - 1,), 1 / (levels // 2)))


def test_a_code_is_the_mixed_radix_number_of_its_levels():
    fsq = FSQConfig(levels=LEVELS).build(dims=1)
    z = fsq.decode(torch.arange(COUNT).view(1, 1, -1))[0].T
    digits = itertools.product(*(range(levels) for levels in reversed(LEVELS)))  # the last counts fastest
    for row, digit in zip(z, digits, strict=True):
        expected = [(d - n // 2) / (n // 2) for d, n in zip(reversed(digit), LEVELS, strict=True)]
        assert row.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("levels", range(3, 12))
def test_every_level_is_reached_and_only_those(levels):
    fsq = FSQConfig(levels=(levels,)).build(dims=1)
    codes = fsq(torch.linspace(-20, 20, 4001).view(1, 1, -1)).codes.flatten()
    assert codes.unique().tolist() == list(range(levels))
    assert (codes.diff() >= 0).all()


def test_zero_stays_zero_for_odd_and_even_levels():
    fsq = FSQConfig(levels=LEVELS).build(dims=1)
    assert fsq(torch.zeros(1, 4, 1)).z.flatten().tolist() == [0, 0, 0, 0]


def test_gradient_is_that_of_the_bound_as_if_nothing_were_rounded():
    for levels in (5, 8):
        h = torch.randn(2, 1, 50, requires_grad=True)
        FSQConfig(levels=(levels,)).build(dims=1)(h).z.sum().backward()
        x = h.detach().double()
        reach, offset = (levels - 1) * 1.001 / 2, 0.5 * (levels % 2 == 0)
        slope = reach * (1 - torch.tanh(x + math.atanh(offset / reach)) ** 2) / (levels // 2)
        torch.testing.assert_close(h.grad, slope.float())
