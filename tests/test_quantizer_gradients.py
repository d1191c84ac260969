"""What reaches the encoder and the codes, against a plain version that leaves it to autograd."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from audiovae.bottlenecks import GroupedConfig, RVQConfig, VQConfig

RVQ = RVQConfig(num_codes=8, dim=4, num_quantizers=3)
GROUPED = GroupedConfig(groups=2, each=VQConfig(num_codes=8, dim=2))


def warm(config):
    bottleneck = config.build(dims=1)
    bottleneck(torch.randn(8, bottleneck.channels_in, 16))
    return bottleneck


def plain(z_e, tables):
    """Straight-through z and the list of each stage's commitment and codebook loss, by autograd alone."""
    left, z, commitments, codebooks = z_e, 0, [], []
    for e in tables:
        code = e[torch.cdist(left.detach(), e.detach()).argmin(1)]
        commitments.append(F.mse_loss(left, code.detach()))
        codebooks.append(F.mse_loss(code, left.detach()))
        z = z + code.detach()
        left = left - code.detach()
    return z_e + (z - z_e).detach(), commitments, codebooks


@pytest.mark.parametrize("config", [VQConfig(num_codes=8, dim=4), RVQ, GROUPED])
def test_gradient_passes_straight_through(config):
    bottleneck = warm(config)
    h = torch.randn(3, 4, 5, requires_grad=True)
    gradient = torch.randn(3, 4, 5)
    bottleneck(h).z.backward(gradient)
    assert torch.equal(h.grad, gradient)


def test_standardize_and_cosine_pass_their_own_gradient():
    for config, change in (
        (VQConfig(num_codes=8, dim=4, standardize=True), lambda x: F.layer_norm(x, (4,))),
        (VQConfig(num_codes=8, dim=4, geometry="cosine"), lambda x: x / x.norm(dim=1, keepdim=True)),
    ):
        x = torch.randn(6, 4)
        h, ours = x.T[None].clone().requires_grad_(), warm(config)
        gradient = torch.randn(6, 4)
        ours(h).z.backward(gradient.T[None])
        x.requires_grad_()
        change(x).backward(gradient)
        torch.testing.assert_close(h.grad[0].T, x.grad)


def test_every_stage_pulls_on_the_encoder():
    """The commitment of stage q must reach z_e for every q (a known bug elsewhere stops at q = 0)."""
    rvq = warm(RVQ)
    tables = [book.vectors.clone() for book in rvq.books]
    h = torch.randn(5, 4, 6, requires_grad=True)
    commitment = rvq(h).losses["commitment"]
    commitment.backward()

    x = h.detach().transpose(1, 2).reshape(-1, 4).requires_grad_()
    _, stages, _ = plain(x, tables)
    pulls = [torch.autograd.grad(stage, x, retain_graph=True)[0] for stage in stages]
    torch.testing.assert_close(commitment.detach(), sum(stages).detach())
    torch.testing.assert_close(h.grad.transpose(1, 2).reshape(-1, 4), sum(pulls))
    for q, pull in enumerate(pulls):  # leaving any one stage out would be seen
        assert pull.norm() > 0.05 * pulls[0].norm(), q


def test_both_losses_of_a_loss_trained_codebook_are_those_of_autograd():
    config = replace(RVQ, codebook="loss", dead_threshold=0.0)
    rvq = warm(config)
    tables = [book.vectors.detach().clone().requires_grad_() for book in rvq.books]
    h = torch.randn(5, 4, 6, requires_grad=True)
    latent = rvq(h)
    (0.25 * latent.losses["commitment"] + latent.losses["codebook"]).backward()

    x = h.detach().transpose(1, 2).reshape(-1, 4).requires_grad_()
    _, commitments, codebooks = plain(x, tables)
    (0.25 * sum(commitments) + sum(codebooks)).backward()
    torch.testing.assert_close(h.grad.transpose(1, 2).reshape(-1, 4), x.grad)
    for book, table in zip(rvq.books, tables, strict=True):
        torch.testing.assert_close(book.vectors.grad, table.grad)


def test_a_cosine_codebook_trained_by_loss_learns_directions():
    vq = warm(VQConfig(num_codes=8, dim=4, codebook="loss", geometry="cosine"))
    latent = vq(torch.randn(4, 4, 20))
    latent.losses["codebook"].backward()
    assert latent.z.norm(dim=1).detach() == pytest.approx(1, abs=1e-5)
    along = (vq.books[0].vectors.grad * vq.books[0].vectors).sum(1)
    assert along.abs().max() < 1e-6  # the length of a code changes nothing


def test_means_over_elements_make_losses_independent_of_size():
    """The same vectors twice over, in batch or length, or in two groups, weigh the same."""
    vq = warm(VQConfig(num_codes=8, dim=4)).eval()
    h = torch.randn(2, 4, 10)
    loss = vq(h).losses["commitment"]
    torch.testing.assert_close(vq(torch.cat([h, h])).losses["commitment"], loss)
    torch.testing.assert_close(vq(torch.cat([h, h], dim=2)).losses["commitment"], loss)
    grouped = GroupedConfig(groups=2, each=vq.config).build(dims=1).eval()
    for part in grouped.parts:
        part.load_state_dict(vq.state_dict())
    torch.testing.assert_close(grouped(torch.cat([h, h], dim=1)).losses["commitment"], loss)


def test_every_parameter_has_a_gradient_while_k_means_is_awaited():
    """Data-parallel training stops at a parameter without one."""
    rvq = replace(RVQ, codebook="loss", kmeans_after=5).build(dims=1)
    latent = rvq(torch.randn(2, 4, 6, requires_grad=True))
    (latent.z.sum() + latent.losses["commitment"] + latent.losses["codebook"]).backward()
    assert all(p.grad is not None and not p.grad.any() for p in rvq.parameters())
