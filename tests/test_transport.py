"""Transport between normal distributions: the closed form against what defines it."""

import pytest
import torch

from audiovae.errors import ShapeError
from audiovae.transport import DOUBT, Moments, Transport

MANY = 20_000


def drawn(seed, count=MANY, dim=4):
    """Latents (D, n) of a normal distribution of its own, every direction of which has another variance."""
    dice = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dim, dim, generator=dice) @ torch.diag(torch.linspace(0.5, 3, dim))
    return mixed @ torch.randn(dim, count, generator=dice) + 5 * torch.randn(dim, 1, generator=dice)


def test_moments_of_pieces_are_those_of_the_whole():
    x = drawn(0, 999)
    moments = Moments.of(x.split(100, dim=1))
    torch.testing.assert_close(moments.mean, x.double().mean(1))
    torch.testing.assert_close(moments.covariance, torch.cov(x.double(), correction=0))
    assert moments.count == 999 and Moments.of([x[:, :0], x]).count == 999
    with pytest.raises(ShapeError, match="at least one"):
        Moments.of([x[:, :0]])


def test_what_is_moved_has_the_targets_distribution():
    source, target = drawn(1), drawn(2)
    move = Transport.between(Moments.of([source]), Moments.of([target]))
    moved = Moments.of([move(source[None])[0]])
    torch.testing.assert_close(moved.mean, target.double().mean(1), atol=1e-3, rtol=0)
    wanted = torch.cov(target.double())
    assert (moved.covariance - wanted).norm() < 0.01 * wanted.norm()


def test_no_linear_map_between_the_two_moves_latents_less():
    """Optimal where the matrix is symmetric and positive (Brenier); turning the target's axes before costs more."""
    source, target = drawn(1), drawn(2)
    move = Transport.between(Moments.of([source]), Moments.of([target]))
    torch.testing.assert_close(move.matrix, move.matrix.t())
    assert torch.linalg.eigvalsh(move.matrix).min() > 0
    least = (move(source[None])[0] - source).square().sum(0).mean()
    s, t = torch.cov(source.double()), torch.cov(target.double())
    for seed in range(20):
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double())[0]
        other = torch.linalg.cholesky(t) @ turn @ torch.linalg.inv(torch.linalg.cholesky(s))
        x = source.double()
        moved = other @ (x - x.mean(1, keepdim=True)) + target.double().mean(1, keepdim=True)
        torch.testing.assert_close(torch.cov(moved), t)  # it goes to the same distribution
        assert (moved - x).square().sum(0).mean() > least


def test_a_distribution_is_left_where_it_is():
    x = drawn(3)
    move = Transport.between(Moments.of([x]), Moments.of([x]))
    torch.testing.assert_close(move(x[None])[0], x, atol=1e-4, rtol=1e-4)


def test_of_little_only_the_mean_is_believed():
    """One latent has no spread, and DOUBT as many as both sides share."""
    x = drawn(4, 300)
    move = Transport.between(Moments.of([x[:, :1]]), Moments.of([x]))
    assert torch.isfinite(move.matrix).all()
    spread = torch.linalg.eigvalsh(move.matrix)
    assert spread.max() < (1 + (300 + DOUBT) / DOUBT) ** 0.5 and spread.min() > 0.9
    torch.testing.assert_close(move(x[None, :, :1])[0, :, 0], x.mean(1), atol=1e-4, rtol=1e-4)
