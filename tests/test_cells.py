"""Residual cells by their definitions, batch statistics by hand, spectral norms against an exact decomposition."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiovae.nn.cells import (
    BatchNorm,
    DecoderCell,
    EncoderCell,
    NVAECells,
    PlainCell,
    PlainCells,
    SqueezeExcite,
    checkpointed,
    gathering,
)
from audiovae.nn.spectral import SpectralPenalty

GRID = {1: (12,), 2: (6, 4)}
CELLS = [NVAECells(expansion=2), NVAECells(expansion=2, norm="none"), PlainCells(narrowing=0.5)]


def picture(dims: int, channels: int = 8, count: int = 4) -> torch.Tensor:
    return torch.randn(count, channels, *GRID[dims], generator=torch.Generator().manual_seed(dims))


@pytest.mark.parametrize("dims", [1, 2])
def test_batch_norm_is_that_of_the_definition_and_its_statistics_are_running_means(dims):
    norm, x = BatchNorm(8, momentum=0.25), 3 * picture(dims) + 1
    axes = (0, *range(2, 2 + dims))
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    shape = (1, 8, *[1] * dims)
    torch.testing.assert_close(norm(x), (x - mean.view(shape)) / (variance.view(shape) + norm.EPSILON).sqrt())
    unbiased = x.var(axes, correction=1)
    torch.testing.assert_close(norm.mean, 0.25 * mean)
    torch.testing.assert_close(norm.variance, 0.75 + 0.25 * unbiased)
    torch.testing.assert_close(norm.eval()(x), (x - norm.mean.view(shape)) / (norm.variance.view(shape) + 1e-5).sqrt())


def test_squeeze_and_excitation_is_a_gate_read_from_the_means():
    layer, x = SqueezeExcite(32, ratio=4), picture(2, 32)
    hidden = F.relu(x.mean((2, 3)) @ layer.squeeze.weight.T + layer.squeeze.bias)
    gate = torch.sigmoid(hidden @ layer.excite.weight.T + layer.excite.bias)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_a_decoder_cell_is_the_figure_step_by_step():
    """NVAE, figure 3a, written out with torch's own layers sharing the weights."""
    torch.manual_seed(0)
    cell, x = DecoderCell(2, 8, NVAECells(expansion=3)), picture(2)
    norm1, wide, norm2, _, look, norm3, _, narrow, norm4, gate = cell.layers

    def normal(norm, h):
        return F.batch_norm(h, None, None, norm.weight, norm.bias, training=True)

    h = F.conv2d(normal(norm1, x), wide.conv.weight, wide.conv.bias)
    h = F.silu(normal(norm2, h))
    h = F.conv2d(h, look.weight, look.bias, padding=2, groups=24)
    h = F.conv2d(F.silu(normal(norm3, h)), narrow.conv.weight, narrow.conv.bias)
    torch.testing.assert_close(cell(x), x + 0.1 * gate(normal(norm4, h)))


def test_an_encoder_cell_is_the_figure_step_by_step():
    cell, x = EncoderCell(2, 8, NVAECells()), picture(2)
    norm1, _, conv1, norm2, _, conv2, gate = cell.layers
    h = x
    for norm, conv in ((norm1, conv1), (norm2, conv2)):
        h = F.silu(F.batch_norm(h, None, None, norm.weight, norm.bias, training=True))
        h = F.conv2d(h, conv.conv.weight, conv.conv.bias, padding=1)
    torch.testing.assert_close(cell(x), x + 0.1 * gate(h))


@pytest.mark.parametrize("cells", CELLS, ids=lambda c: f"{c.kind}-{getattr(c, 'norm', '')}")
def test_one_and_two_dimensions_agree(cells):
    """A picture of one row is a waveform, to a kernel whose middle row is the one-dimensional one and the rest 0."""
    for side in ("encoder", "decoder"):
        line, plane = (cells.build(side, dims, 8, 1) for dims in (1, 2))
        with torch.no_grad():
            for a, b in zip(line.parameters(), plane.parameters(), strict=True):
                if b.ndim == 4:
                    b.zero_()
                    b[:, :, b.shape[2] // 2] = a
                else:
                    b.copy_(a)
        x = picture(1)
        torch.testing.assert_close(plane(x.unsqueeze(2)).squeeze(2), line(x), atol=1e-5, rtol=1e-5)


def test_a_deep_plain_stack_begins_near_the_identity():
    """Last layers begin at 1 / sqrt(depth), so that what 64 cells add does not grow with their number."""
    x = picture(1, 16, 32)

    def change(cells: int, depth: int) -> float:
        torch.manual_seed(0)
        h = x
        with torch.no_grad():
            for _ in range(cells):
                h = PlainCell(1, 16, PlainCells(), depth)(h)
        return float((h - x).std())

    assert change(64, depth=64) < 3 * change(1, depth=1)
    assert change(64, depth=1) > 4 * change(64, depth=64)


@pytest.mark.parametrize("cells", CELLS, ids=lambda c: f"{c.kind}-{getattr(c, 'norm', '')}")
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_checkpointing_changes_neither_gradients_nor_statistics(cells, side):
    torch.manual_seed(0)
    cell, x = cells.build(side, 2, 8, 1), picture(2)
    start = {name: value.clone() for name, value in cell.state_dict().items()}
    results = []
    for call in (cell, lambda h: checkpointed(cell, h)):
        cell.load_state_dict(start)
        cell.zero_grad()
        given = x.clone().requires_grad_()
        call(given).square().sum().backward()
        buffers = {name: value.clone() for name, value in cell.named_buffers()}
        results.append(([given.grad, *(p.grad.clone() for p in cell.parameters())], buffers))
    for a, b in zip(*(grads for grads, _ in results), strict=True):
        torch.testing.assert_close(a, b)
    assert results[0][1].keys() == results[1][1].keys()
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_torchs_own_checkpoint_would_count_a_batch_twice():
    """What the flag in BatchNorm is for: without it the statistics of the test above differ."""
    cell, x = EncoderCell(2, 8, NVAECells()), picture(2).requires_grad_()
    norm = cell.layers[0]
    torch.utils.checkpoint.checkpoint(cell, x, use_reentrant=False).sum().backward()
    once = 0.05 * x.detach().mean((0, 2, 3))
    assert not torch.allclose(norm.mean, once)


def test_gathered_statistics_are_those_of_all_batches_and_leave_no_trace():
    cell = EncoderCell(1, 8, NVAECells()).eval()
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    batches = [picture(1) * scale for scale in (1.0, 2.0, 5.0)]
    with gathering(cell) as norms:
        for batch in batches:
            cell(batch)
        torch.testing.assert_close(norms[0].mean, torch.stack([b.mean((0, 2)) for b in batches]).mean(0))
    assert all(torch.equal(value, before[name]) for name, value in cell.state_dict().items())
    assert not any(norm.training for norm in norms)


# Spectral regularisation


def exact(model: nn.Module) -> float:
    total = 0.0
    for m in model.modules():
        if isinstance(m, nn.Conv1d | nn.Conv2d):
            total += float(torch.linalg.svdvals(m.weight.detach().flatten(1))[0])
        if isinstance(m, nn.ConvTranspose1d | nn.ConvTranspose2d):
            total += float(torch.linalg.svdvals(m.weight.detach().transpose(0, 1).flatten(1))[0])
        if isinstance(m, BatchNorm):
            total += float(m.weight.detach().abs().max())
    return total


@pytest.mark.parametrize("dims", [1, 2])
def test_the_penalty_is_the_exact_sum_of_largest_singular_values(dims):
    torch.manual_seed(1)
    kind = nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose2d
    model = nn.Sequential(DecoderCell(dims, 8, NVAECells(expansion=2)), EncoderCell(dims, 8, NVAECells()),
                          kind(8, 4, 2, stride=2))
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
            norm.weight.normal_()
    assert SpectralPenalty(model, iterations=300)(model).item() == pytest.approx(exact(model), rel=1e-3)


def test_one_iteration_a_step_stays_warm_as_weights_move():
    torch.manual_seed(2)
    layer = nn.Conv2d(6, 10, 3)
    penalty = SpectralPenalty(layer)
    for _ in range(60):
        penalty(layer)
        with torch.no_grad():
            layer.weight.add_(0.002 * torch.randn_like(layer.weight))
    assert penalty(layer).item() == pytest.approx(exact(layer), rel=0.02)
    cold = SpectralPenalty(layer)
    cold.calls += 1  # a copy that begins anew at each step, from one iteration
    assert cold(layer).item() < 0.98 * exact(layer)


def test_the_penaltys_gradient_is_that_of_the_largest_singular_value():
    torch.manual_seed(3)
    layer = nn.Conv1d(3, 5, 4)
    SpectralPenalty(layer, iterations=300)(layer).backward()
    left, _, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    torch.testing.assert_close(layer.weight.grad.flatten(1), left[:, :1] @ right[:1], atol=1e-4, rtol=1e-3)


def test_evaluation_leaves_the_vectors_alone():
    layer = nn.Conv1d(3, 5, 4)
    penalty = SpectralPenalty(layer).eval()
    before = {name: value.clone() for name, value in penalty.state_dict().items()}
    penalty(layer)
    assert all(torch.equal(value, before[name]) for name, value in penalty.state_dict().items())
