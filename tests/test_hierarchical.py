"""VQ-VAE-2 against a re-statement by loops, its fields against gradients, and what each level is told."""

import json

import pytest
import torch
from sklearn.datasets import load_digits

from audiovae.blocks import halo
from audiovae.cli import main
from audiovae.config import from_dict
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import HierarchicalConfig
from audiovae.shapes import CodeLevel, Condition, DataSpec, Latent
from audiovae.train import Experiment, train

ROW = {"width": 4, "depth": 1, "num_codes": 8, "dim": 3}
TWO = [{"strides": [2, 2], **ROW}, {"strides": [2], **ROW}]
THREE = [{"strides": [2], **ROW}, {"strides": [4], **ROW, "num_quantizers": 2}, {"strides": [2, 2], **ROW}]


def model(levels, dims=1, **more):
    torch.manual_seed(0)
    size = None if dims == 1 else (32, 32)
    spec = DataSpec(channels=1, dims=dims, sample_rate=8000 if dims == 1 else None, size=size,
                    labels=("a", "b") if more else ())
    return from_dict(HierarchicalConfig, {"levels": levels, **more}).build(spec).eval()


def conv(x, layer, stride=1, padding=0, dilation=1):
    """A convolution in one dimension as the sum that defines it; x is a list of channels of numbers."""
    weight, bias = layer.conv.weight.tolist(), layer.conv.bias.tolist()
    kernel, length = len(weight[0][0]), len(x[0])
    at = lambda c, i: x[c][i] if 0 <= i < length else 0.0  # noqa: E731
    steps = (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return [[bias[o] + sum(weight[o][c][j] * at(c, n * stride - padding + j * dilation)
                           for c in range(len(x)) for j in range(kernel))
             for n in range(steps)] for o in range(len(weight))]


def transposed(x, layer, stride, padding):
    """Every input spread over the outputs it reaches."""
    weight, bias = layer.conv.weight.tolist(), layer.conv.bias.tolist()
    kernel, length = len(weight[0][0]), len(x[0]) * stride
    out = [[b] * length for b in bias]
    for c, row in enumerate(x):
        for n, value in enumerate(row):
            for j in range(kernel):
                if 0 <= (to := n * stride + j - padding) < length:
                    for o in range(len(out)):
                        out[o][to] += value * weight[c][o][j]
    return out


def relu(x):
    return [[max(v, 0.0) for v in row] for row in x]


def added(x, y):
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(x, y, strict=True)]


def block(x, stack):
    its, = stack.blocks
    return added(x, conv(relu(conv(relu(x), its.inner, padding=1)), its.outer))


def test_two_levels_by_hand():
    """Razavi 2019, algorithm 1, in loops over numbers: codes of both levels, and what is decoded."""
    its = model([{"strides": [2], **ROW}, {"strides": [2], **ROW}])
    x = torch.randn(1, 1, 12)
    hidden, h = [], x[0].tolist()
    for encoder in its.encoder:
        down, stack, out = encoder.layers
        h = relu(conv(block(conv(h, down, stride=2, padding=1), stack), out, padding=1))
        hidden.append(h)
    codes, latents, context = {}, {}, None
    for level in (1, 0):
        h = conv(hidden[level] + (context or []), its.into[level])
        table = its.bottlenecks[level].books[0].table().tolist()
        distance = [[sum((row[n] - v) ** 2 for row, v in zip(h, code, strict=True)) for code in table]
                    for n in range(len(h[0]))]
        codes[level] = [row.index(min(row)) for row in distance]
        latents[level] = [[table[k][d] for k in codes[level]] for d in range(3)]
        decoder = its.decoders[level]
        h = conv(latents[level] + (context or []), decoder.into, padding=1)
        h = transposed(block(h, decoder.stacks[0]), decoder.ups[0], stride=2, padding=1)
        context = relu(h) if level else h
    ours = its.encode_levels(x)
    assert [level.flatten().tolist() for level in ours] == [codes[0], codes[1]]
    torch.testing.assert_close(its.decode_levels(ours)[0], torch.tensor(context), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(its(x).params[0], torch.tensor(context), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("levels", "dims", "hops"), [
    (TWO, 1, (4, 8)), (TWO, 2, (4, 8)), (THREE, 1, (2, 8, 32)), (THREE, 2, (2, 8, 32)), (TWO[:1], 1, (4,))])
def test_any_number_of_levels_in_one_and_two_dimensions(levels, dims, hops):
    its = model(levels, dims)
    x = torch.rand(2, 1, *[64 if dims == 1 else 32] * dims)
    assert tuple(level.hop for level in its.code_levels) == hops and its.hop == hops[-1]
    assert its.code_levels[-1] == CodeLevel(hops[-1], (8,))
    codes, output = its.encode_levels(x), its(x)
    for level, hop in zip(codes, hops, strict=True):
        assert level.dtype == torch.int64 and level.shape[2:] == torch.Size([side // hop for side in x.shape[2:]])
    assert all(torch.equal(a, b.codes) for a, b in zip(codes, output.latents, strict=True))
    torch.testing.assert_close(its.decode_levels(codes), output.params)
    torch.testing.assert_close(its.reconstruct(x), output.params)


def test_the_top_tells_the_bottom_and_is_not_told():
    """Another top codebook changes the bottom's codes; another bottom codebook does not change the top's."""
    its, x = model(TWO), torch.randn(4, 1, 512)
    bottom, top = its.encode_levels(x)
    its.bottlenecks[0].books[0].vectors.neg_()
    assert torch.equal(its.encode_levels(x)[1], top)
    its.bottlenecks[0].books[0].vectors.neg_()
    its.bottlenecks[1].books[0].vectors.mul_(50)
    assert not torch.equal(its.encode_levels(x)[0], bottom)


def test_every_level_is_read_by_the_decoder_and_trained_by_it():
    its, x = model(THREE).train(), torch.randn(2, 1, 64)
    output = its(x)
    output.params.square().sum().backward()
    assert [name for name, p in its.named_parameters() if p.grad is None or not p.grad.any()] == []
    its.eval()
    codes = its.encode_levels(x)
    for level in range(3):
        other = [(c + (number == level)) % 8 for number, c in enumerate(codes)]
        assert not torch.allclose(its.decode_levels(other), its.decode_levels(codes))


@pytest.mark.parametrize("levels", [TWO, THREE])
def test_a_code_reads_no_further_than_its_field(levels):
    """By gradient, quantizers taken out of the way: what reaches h of a level, and what a level's latent reaches."""
    its = model(levels)
    for p in its.parameters():
        p.data = p.data.abs() + 0.01  # no relu is shut, no path cancels another
    unit, seen = its.hop, []
    for bottleneck in its.bottlenecks:
        bottleneck.forward = lambda h: seen.insert(0, h.clone()) or _passed(h)
    x = torch.rand(1, 1, unit * 9, requires_grad=True)
    read, shown = its.fields
    output = its(x)
    for h, level, field in zip(seen, its.code_levels, read, strict=True):
        middle = h.shape[-1] // 2
        reached = torch.autograd.grad(h[0, :, middle].sum(), x, retain_graph=True)[0][0, 0].nonzero().flatten()
        low, high = middle * level.hop - float(field.left), middle * level.hop + float(field.right)
        assert reached.min() >= low and reached.max() <= high
        assert reached.min() <= max(low, 0) + unit and reached.max() >= min(high, x.shape[-1] - 1) - unit
    middle = output.params.shape[-1] // 2
    latents = [z.z for z in output.latents]
    grads = torch.autograd.grad(output.params[0, 0, middle], latents)
    for grad, field in zip(grads, shown, strict=True):
        at = float(middle * field.stride)
        reached = grad[0].abs().sum(0).nonzero().flatten()
        assert reached.min() >= at - float(field.left) and reached.max() <= at + float(field.right)


def _passed(h):
    return Latent(h, h.new_zeros(len(h)))


def test_blocks_with_a_halo_are_the_whole():
    its = model(THREE)
    x, unit = torch.randn(1, 1, 32 * 12), 32
    whole = its.encode_levels(x)
    left, right = (max(sides) for sides in zip(*(halo(field, unit) for field in its.fields[0]), strict=True))
    start, stop = 5, 7
    low, high = max(0, start - left), min(12, stop + right)
    part = its.encode_levels(x[..., low * unit:high * unit])
    for a, b, level in zip(whole, part, its.code_levels, strict=True):
        n = unit // level.hop
        assert torch.equal(a[..., start * n:stop * n], b[..., (start - low) * n:(stop - low) * n])
    short = its.encode_levels(x[..., start * unit:stop * unit])  # without a halo it is not: the test can fail
    assert any(not torch.equal(a[..., start * unit // level.hop:stop * unit // level.hop], b)
               for a, b, level in zip(whole, short, its.code_levels, strict=True))


def test_a_missing_level_is_refused_and_revealed_by_name():
    its = model(TWO, dims=2).train()
    x = torch.rand(4, 1, 32, 32)
    for _ in range(3):
        its(x)
    its.eval()
    bottom, top = its.encode_levels(x)
    for levels in ([None, top], [bottom, None], [bottom]):
        with pytest.raises(ShapeError, match="Hierarchical wants codes of all its 2 levels"):
            its.decode_levels(levels)
    assert torch.equal(its.reveal([bottom, top]), its.decode_levels([bottom, top]))
    shown = its.reveal([None, top])
    assert shown.shape == x.shape and not torch.allclose(shown, its.reveal([bottom, top]))
    # the mean stands for every bottom code: no bottom code changes it, and the mean is that of the codes in use
    book = its.bottlenecks[0].books[0]
    mean = sum(float(c) * v for c, v in zip(book.counts, book.vectors, strict=True)) / float(book.counts.sum())
    z = mean.view(1, 3, 1, 1).expand(4, 3, 8, 8)
    torch.testing.assert_close(shown, its._shown([z, its.bottlenecks[1].decode(top)], None))
    with pytest.raises(ShapeError, match="not for all"):
        its.reveal([None, None])


def test_a_label_reaches_the_decoder():
    its = model(TWO, dims=2, condition_dim=4)
    for stack in its.decoders:
        for p in stack.parameters():
            p.data.add_(0.1)
    x = torch.rand(1, 1, 32, 32)
    codes = its.encode_levels(x)
    one, two = (its.decode_levels(codes, Condition(torch.tensor([label]))) for label in (0, 1))
    assert not torch.allclose(one, two)


def test_joint_training_learns_digits(tmp_path):
    """Less than half of the mean picture's error in a few seconds, every level's terms in the log."""
    rows = [{"strides": [2], "width": 24, "depth": 1, "growth": 1, "num_codes": 64, "dim": 8},
            {"strides": [2], "width": 24, "depth": 1, "growth": 1, "num_codes": 64, "dim": 8}]
    config = from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 64}, "model": {"kind": "hierarchical", "levels": rows},
        "objective": {"distortion_weight": 0, "criteria": [{"kind": "sample_l2"}]},
        "train": {"steps": 80, "lr": 5e-3, "log_every": 50}})
    state = train(config, tmp_path / "run")
    held = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert state.step == 80 and {"perplexity_0", "perplexity_1"} <= held.keys()
    pixels = load_digits().data / 16
    assert held["sample_l2"] < ((pixels - pixels.mean(0)) ** 2).mean() / 2


@pytest.mark.parametrize("levels", [[], [TWO[0] | {"lookahead": 0}]])
def test_rows_that_cannot_be_are_refused(levels):
    with pytest.raises(ConfigError, match=r"at least one row in model\.levels, each without lookahead"):
        model(levels)


def test_codes_have_no_prior_to_draw_from():
    with pytest.raises(ConfigError, match="has no prior to draw from"):
        model(TWO).sample(1)
    with pytest.raises(ShapeError, match="multiples of its hop 8"):
        model(TWO).encode_levels(torch.zeros(1, 1, 12))


def test_the_report_of_pictures_tells_every_level(tmp_path, capsys):
    rows = [{"strides": [2], **ROW}, {"strides": [2], **ROW}]
    config = from_dict(Experiment, {
        "data": {"kind": "digits", "batch_size": 8}, "model": {"kind": "hierarchical", "levels": rows},
        "train": {"steps": 1}})
    train(config, tmp_path / "run")
    command = ["evaluate", "--model", str(tmp_path / "run"), "--limit", "20", "--generate", "0", "-o", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert all(f"level {level}, quantizer 1: perplexity" in said for level in (0, 1))
    values = json.loads((tmp_path / "evaluation.json").read_text())["compression"]
    assert [row["what"] for row in values] == ["values", "level 1", "level 0", "all levels"]
    assert "from the top level alone" in (tmp_path / "evaluation.html").read_text()
