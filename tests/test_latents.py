"""Walks in latent space: the ends are exact, the steps are even, what is moved moves and the rest stays."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from audiovae.audio.io import read_audio
from audiovae.bottlenecks import GaussianConfig, IdentityConfig, VQConfig
from audiovae.bottlenecks.flows import IAFConfig
from audiovae.bottlenecks.priors import MixturePriorConfig, VampPriorConfig
from audiovae.decoders import MLPDecoderConfig, StridedDecoderConfig
from audiovae.encoders import MLPEncoderConfig, StridedEncoderConfig
from audiovae.errors import ConfigError, LabelError, OutputError, ShapeError
from audiovae.image.archive import read_archive
from audiovae.image.digits import digits
from audiovae.image.folder import read_folder
from audiovae.latents import (
    attribute_vector,
    augment,
    encode,
    generate,
    interpolate,
    kl_per_dimension,
    locate,
    manifold,
    move,
    nearest,
    novelty,
    pooled,
    report_move,
    restyle,
    standard_kl,
    train_judge,
    traverse,
    write_variations,
)
from audiovae.latents.coding import draw, drawn, sampled
from audiovae.likelihoods import BernoulliConfig
from audiovae.models import AutoencoderConfig
from audiovae.shapes import Condition, DataSpec, Posterior

PICTURES = DataSpec(channels=1, dims=2, size=(8, 8), labels=tuple("0123456789"))
SOUND = DataSpec(channels=1, dims=1, sample_rate=8000)


def vector_model(dim=3, widths=(), labels=0, bottleneck=None, data=PICTURES, **options):
    torch.manual_seed(1)
    config = AutoencoderConfig(encoder=MLPEncoderConfig(widths=widths), decoder=MLPDecoderConfig(widths=widths),
                               bottleneck=bottleneck or GaussianConfig(dim=dim), condition_dim=labels, **options)
    return config.build(data).eval()


def sound_model(bottleneck):
    return AutoencoderConfig(encoder=StridedEncoderConfig(strides=(4, 2), width=8, depth=1), bottleneck=bottleneck,
                             decoder=StridedDecoderConfig(strides=(4, 2), width=8, depth=1)).build(SOUND).eval()


@pytest.fixture(scope="module")
def cvae():
    """Trained for two seconds on the digits, encoder and decoder told the label."""
    model = vector_model(4, (128,), labels=10, condition_encoder=True, label_dropout=0.0, likelihood=BernoulliConfig())
    x, label = digits("train")
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(300):
        pick = torch.randint(len(x), (128,))
        out = model(x[pick], Condition(label[pick]))
        loss = (out.latents[0].rate - model.likelihood.log_prob(out.params, x[pick])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def judge():
    x, label = digits("train")
    return train_judge(x, label, PICTURES.labels)


def angles(walk):
    """Between neighbours, in radians, one pair at a time."""
    rows = [z.double().flatten() for z in walk]
    return [math.acos(float(a @ b / a.norm() / b.norm())) for a, b in pairwise(rows)]


@pytest.mark.parametrize("kind", ["linear", "spherical"])
@pytest.mark.parametrize("shape", [(3,), (8, 5), (4, 2, 3)])
def test_the_ends_of_an_interpolation_are_exact(kind, shape):
    for _ in range(20):
        a, b = torch.randn(2, *shape) * torch.tensor([0.1, 30.0]).view(2, *[1] * len(shape))
        walk = interpolate(a, b, 7, kind)
        assert walk.shape == (7, *shape) and torch.equal(walk[0], a) and torch.equal(walk[-1], b)


def test_a_spherical_walk_turns_evenly_and_a_straight_one_does_not():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    b = 3 * b
    turned = angles(interpolate(a, b, 9, "spherical"))
    assert np.ptp(turned) < 1e-7 and sum(turned) == pytest.approx(angles([a, b])[0])
    assert np.ptp(angles(interpolate(a, b, 9, "linear"))) > 0.05
    lengths = [float(z.norm()) for z in interpolate(a, b, 9, "spherical")]
    assert np.allclose(lengths, np.linspace(lengths[0], lengths[-1], 9))


def test_a_spherical_walk_between_equal_lengths_is_shoemakes():
    a, b = (v / v.norm() * 2 for v in torch.randn(2, 50, dtype=torch.float64))
    angle = math.acos(float(a @ b) / 4)
    for t, z in zip(np.linspace(0, 1, 6), interpolate(a, b, 6, "spherical"), strict=True):
        assert torch.allclose(z, (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle))


def test_the_straight_way_leaves_the_shell_where_draws_lie():
    a, b = torch.randn(2, 4000)
    middle = {kind: float(interpolate(a, b, 3, kind)[1].norm()) / math.sqrt(4000) for kind in ("linear", "spherical")}
    assert middle["spherical"] == pytest.approx(1, abs=0.05) and middle["linear"] == pytest.approx(0.5**0.5, abs=0.05)


def test_where_a_great_circle_is_none():
    a = torch.randn(5)
    for b in (2 * a, torch.zeros(5), a.clone()):
        assert torch.allclose(interpolate(a, b, 5, "spherical"), interpolate(a, b, 5, "linear"))
    with pytest.raises(ShapeError, match="opposite"):
        interpolate(a, -a, 5, "spherical")
    for b, steps in ((torch.zeros(4), 5), (a, 1)):
        with pytest.raises(ShapeError, match="one shape and at least 2 steps"):
            interpolate(a, b, steps)


def test_a_spherical_walk_is_smooth_where_it_becomes_a_line():
    """Either side of the angle below which the line is taken, the two agree."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for angle in (0.9e-4, 1.1e-4):
        b = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        difference = interpolate(a, b, 5, "spherical") - interpolate(a, b, 5, "linear")
        assert float(difference.abs().max()) < 1e-8


def test_a_traversal_moves_one_dimension_only():
    model, z = vector_model(), torch.randn(3, 1, 1)
    weight = model.decoder.layers[0].weight  # the decoder is linear
    values = [-2.0, 0.0, 1.5]
    for value, x in zip(values, traverse(model, z, 1, values), strict=True):
        one = z.clone()
        one[1] = value
        assert torch.allclose(x, model.generate(one[None])[0], atol=1e-6)
        assert torch.allclose(x.flatten() - model.generate(z[None]).flatten(), weight[:, 1] * (value - z[1, 0, 0]),
                              atol=1e-5)
    with pytest.raises(ShapeError, match="from 0 to 2, got 3"):
        traverse(model, z, 3, values)


def test_a_traversal_of_sound_sets_every_step():
    model, z = sound_model(GaussianConfig(dim=2)), torch.randn(2, 10)
    wanted = z.clone()
    wanted[1] = 2.5
    assert torch.allclose(traverse(model, z, 1, [2.5]), model.generate(wanted[None]))


@pytest.mark.parametrize("dimensions", [(0, 1), (2, 0)])
def test_a_manifold_lies_on_the_quantiles_of_the_prior(dimensions):
    model, side = vector_model(), 5
    across, up = dimensions
    cells = iter(manifold(model, side, dimensions))
    for row in range(side):
        for column in range(side):
            z = torch.zeros(1, 3, 1, 1)
            z[0, across] = norm.ppf((column + 0.5) / side)
            z[0, up] = norm.ppf((side - row - 0.5) / side)  # upwards
            assert torch.allclose(next(cells), model.generate(z)[0], atol=1e-6)
    for wrong in ((0, 0), (0, 3), (-1, 0)):
        with pytest.raises(ShapeError, match="two different dimensions"):
            manifold(model, side, wrong)


def test_encoding_does_not_depend_on_the_batch_and_keeps_the_label(cvae):
    x, label = digits("test")
    told = Condition(label)
    whole = encode(cvae, x, told, batch=1000)
    for batch in (1, 7):
        parts = encode(cvae, x[:15], Condition(label[:15]), batch)
        assert torch.allclose(parts.mean, whole.mean[:15], atol=1e-5)
        assert torch.allclose(parts.log_variance, whole.log_variance[:15], atol=1e-5)
    other = encode(cvae, x, Condition(torch.tensor([3])))
    assert not torch.allclose(other.mean, whole.mean, atol=0.1)
    assert torch.equal(other.mean, encode(cvae, x, Condition(torch.full_like(label, 3))).mean)
    with pytest.raises(ShapeError, match="condition of 1 or 179 examples, got 2"):
        encode(cvae, x, Condition(label[:2]))


def test_points_codes_and_sound():
    x = torch.randn(2, 1, 80)
    point = encode(sound_model(IdentityConfig(dim=3)), x)
    assert point.mean.shape == (2, 3, 10) and torch.isneginf(point.log_variance).all()
    with pytest.raises(ConfigError, match="a point"):
        standard_kl(point)
    with pytest.raises(ConfigError, match="continuous latent, got one with VectorQuantizer"):
        encode(sound_model(VQConfig(num_codes=4, dim=3)), x)
    model = sound_model(IdentityConfig(dim=3))
    one_by_one = torch.cat([model.reconstruct(one[None]) for one in x])
    assert torch.allclose(generate(model, locate(model, x)), one_by_one, atol=1e-5)


def test_the_kl_is_that_of_torch_and_sums_to_the_rate():
    model, x = vector_model(), torch.rand(20, 1, 8, 8)
    q = encode(model, x)
    truth = kl_divergence(Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, 1.0))
    assert torch.allclose(standard_kl(q), truth, atol=1e-5)
    assert torch.allclose(kl_per_dimension(model, x).sum(), model(x).latents[0].rate.mean(), atol=1e-4)
    sound = sound_model(GaussianConfig(dim=3))
    wave = torch.randn(4, 1, 80)
    assert torch.allclose(kl_per_dimension(sound, wave).sum(), sound(wave).latents[0].rate.mean(), atol=1e-4)


def test_an_attribute_vector_is_a_difference_of_means():
    z, has = torch.randn(40, 3, 2), torch.rand(40) < 0.3
    truth = sum(one for one, h in zip(z, has, strict=True) if h) / int(has.sum()) - \
        sum(one for one, h in zip(z, has, strict=True) if not h) / int((~has).sum())
    assert torch.allclose(attribute_vector(z, has), truth, atol=1e-6)
    for wrong in (torch.ones(40), torch.zeros(40), has[:5]):
        with pytest.raises(ShapeError, match="some true and some false"):
            attribute_vector(z, wrong)
    with pytest.raises(ShapeError, match="to go against"):
        attribute_vector(z, has, against=[torch.ones(3)])


def test_a_vector_against_others_is_orthogonal_to_all_even_if_they_depend_on_each_other():
    z, has = torch.randn(40, 6, 1), torch.rand(40) < 0.5
    first, second = torch.randn(2, 6, 1)
    others = [first, second, first + second]
    vector = attribute_vector(z, has, others)
    assert max(abs(float((vector * other).sum())) for other in others) < 1e-5
    plain = attribute_vector(z, has)
    assert max(abs(float((plain * other).sum())) for other in others) > 0.01
    assert float((vector * plain).sum()) == pytest.approx(float(vector.norm()) ** 2, rel=1e-4)  # a projection


def test_a_planted_attribute_is_found_and_undone():
    true = torch.tensor([2.0, -1.0, 0.0, 0.5]).view(4, 1)
    has = torch.arange(4000) % 2 == 0
    z = torch.randn(4000, 4, 1) + has.view(-1, 1, 1) * true
    vector = attribute_vector(z, has)
    assert torch.allclose(vector, true, atol=4 * 2 / math.sqrt(4000))
    assert torch.allclose(move(z[0], vector, [-1, 0, 2])[0], z[0] - vector) and len(move(z[0], vector, [1])) == 1


def test_what_lasts_in_sound_moves_every_step():
    z = torch.randn(6, 3, 7)
    assert torch.allclose(pooled(z), z.mean(2, keepdim=True))
    vector = attribute_vector(pooled(z), torch.arange(6) < 3)
    moved = move(torch.randn(3, 50), vector, [0.0, 1.0])
    assert vector.shape == (3, 1) and torch.allclose(moved[1] - moved[0], vector.expand(3, 50), atol=1e-5)


def test_along_a_digits_vector_the_judge_sees_more_of_it(judge):
    model = vector_model(8, (128,), likelihood=BernoulliConfig())
    x, label = digits("train")
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(300):
        out = model(batch := x[torch.randint(len(x), (128,))])
        loss = (out.latents[0].rate - model.likelihood.log_prob(out.params, batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    held_out, its = digits("test")
    pair, fours = its.ne(4), label == 4
    vector = attribute_vector(encode(model, x).mean, fours)
    moved = report_move(model, encode(model, held_out[pair]).mean, vector, [-1.0, 0.0, 1.0, 2.0], [judge])
    chance = moved.chances["4"].mean(1)
    assert chance[0] < chance[2] and chance[1] + 0.2 < chance[2] < chance[3]
    assert float(sum(moved.chances[name] for name in PICTURES.labels).sub(1).abs().max()) < 1e-5
    assert not moved.distance[1].any() and bool((moved.distance[2] > 0).all())
    back = report_move(model, encode(model, held_out[pair]).mean, -vector, [1.0, 2.0], [judge]).chances["4"].mean(1)
    assert back[1] < chance[2]


def test_a_judge_reads_pictures_and_sound(judge):
    x, label = digits("test")
    assert judge.accuracy(x, label) > 0.9
    time = torch.arange(4000) / 8000
    pitch = torch.tensor([200.0, 1000.0]).repeat(10)
    x = torch.sin(2 * math.pi * pitch[:, None] * time)[:, None] + 0.01 * torch.randn(20, 1, 4000)
    label = torch.arange(20) % 2
    heard = train_judge(x[:10], label[:10], ("low", "high"), sample_rate=8000)
    assert heard.accuracy(x[10:], label[10:]) == 1
    partly = train_judge(x, torch.where(label == 1, 2, 0), ("low", "never", "high"), sample_rate=8000)
    assert not partly(x)[:, 1].any() and torch.allclose(partly(x).sum(1), torch.ones(20))
    with pytest.raises(ShapeError, match="two classes"):
        train_judge(x, torch.full((20,), -1), ("low", "high"), sample_rate=8000)


def test_restyled_digits_are_of_the_other_class_and_come_back(cvae, judge):
    x, label = digits("test")
    same = restyle(cvae, x, label, label)
    assert torch.allclose(same, cvae.reconstruct(x, Condition(label)), atol=1e-6)
    to = (label + 3) % 10
    other = restyle(cvae, x, label, to)
    assert judge.accuracy(other, to) > 0.9 > 0.1 > judge.accuracy(other, label)
    back = restyle(cvae, other, to, label)  # what the label does not say went over and came back
    kept = (back - x).flatten(1).square().sum(1)
    of_class = torch.stack([digits("train")[0][digits("train")[1] == k].mean(0) for k in range(10)])[label]
    assert float(kept.mean()) < 0.9 * float((of_class - x).flatten(1).square().sum(1).mean())


def test_labels_that_cannot_be_swapped(cvae):
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(LabelError, match="from 0 to 9"):
        restyle(cvae, x, 0, 10)
    with pytest.raises(LabelError, match="condition_dim"):
        restyle(vector_model(), x, 0, 1)


def test_the_nearest_is_found_by_brute_force_whatever_the_chunk():
    x, training = torch.randint(0, 3, (9, 2, 2)).float(), torch.randint(0, 3, (31, 2, 2)).float()  # many ties
    for chunk in (1, 4, 31, 100):
        distance, index = nearest(x, training, chunk)
        for one, d, i in zip(x, distance, index, strict=True):
            all_of_them = [float(((one - other) ** 2).sum()) ** 0.5 for other in training]
            assert float(d) == pytest.approx(min(all_of_them)) and int(i) == all_of_them.index(min(all_of_them))
    with pytest.raises(ShapeError, match="some to compare with"):
        nearest(x, training[:0])


def test_a_copy_is_at_distance_nought_however_far_out():
    """Products of long vectors would leave a rest: the difference comes first."""
    training = 1000 + torch.randn(50, 200)
    distance, index = nearest(training, training)
    assert not distance.any() and torch.equal(index, torch.arange(50))
    assert torch.cdist(training, training, compute_mode="use_mm_for_euclid_dist").diagonal().any()


def test_copies_are_told_from_what_is_new():
    training, held_out, fresh = torch.randn(3, 300, 5)
    found = novelty(torch.cat([training[:100], fresh[:100]]), training, held_out)
    assert not found.ratio[:100].any() and float(found.ratio[100:].mean()) == pytest.approx(1, abs=0.15)
    assert found.usual == pytest.approx(float(nearest(held_out, training)[0].mean()))
    with pytest.raises(ShapeError, match="copies only"):
        novelty(fresh, training, training[:5])


def test_variations_spread_as_the_posterior_does():
    model, x = vector_model(), torch.rand(4, 1, 8, 8)  # the decoder is linear: x = W z + b
    weight, q = model.decoder.layers[0].weight.double(), encode(model, x)
    count = 4000
    made = augment(model, x, count, temperature=0.5, generator=torch.Generator().manual_seed(0)).double().flatten(2)
    assert made.shape == (4, count, 64)
    for b in range(4):
        truth = 0.25 * (weight.square() @ q.log_variance[b].double().exp().flatten())
        assert torch.allclose(made[b].var(0), truth, rtol=6 * math.sqrt(2 / count))
        assert torch.allclose(made[b].mean(0), model.reconstruct(x)[b].double().flatten(),
                              atol=5 * float(truth.detach().max() / count) ** 0.5)
    again = augment(model, x, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again, augment(model, x, 2, generator=torch.Generator().manual_seed(3)))
    assert torch.allclose(augment(model, x, 2, temperature=0)[:, 1], model.reconstruct(x), atol=1e-6)
    for count, temperature in ((0, 1.0), (1, -1.0)):
        with pytest.raises(ConfigError, match="count of at least 1"):
            augment(model, x, count, temperature=temperature)
    with pytest.raises(ConfigError, match="a spread"):
        augment(vector_model(bottleneck=IdentityConfig(dim=3)), x, 2)


def test_variations_written_are_read_back_as_data(tmp_path):
    pictures = torch.randint(0, 256, (30, 2, 3, 8, 8)).float() / 255
    label = torch.arange(30) % 3
    assert write_variations(tmp_path / "more.npz", pictures, label) == 60
    archive = read_archive(tmp_path / "more.npz")
    parts = (archive.train, archive.valid, archive.test)
    read = {tuple(pixels.flatten().tolist()): int(k) for part in parts for pixels, k in zip(part.pixels, part.label,
                                                                                          strict=True)}
    written = {tuple(one.mul(255).round().int().flatten().tolist()): int(k)
               for group, k in zip(pictures, label, strict=True) for one in group}
    assert read == written
    assert write_variations(tmp_path / "folder", pictures, label, names=("ann", "ben", "cat")) == 60
    folder = read_folder(tmp_path / "folder", size=8)
    assert folder.labels == ("ann", "ben", "cat")
    read = {tuple(pixels.flatten().tolist()) for part in (folder.train, folder.valid, folder.test)
            for pixels in part.pixels}
    assert read == written.keys()


def test_variations_of_sound_and_what_cannot_be_written(tmp_path):
    waves = 0.5 * torch.rand(2, 3, 1, 400)
    assert write_variations(tmp_path / "sound", waves, sample_rate=8000) == 6
    read, rate = read_audio(tmp_path / "sound/00001-2.wav")
    assert rate == 8000 and torch.allclose(read, waves[1, 2], atol=1e-4)
    with pytest.raises(OutputError, match="already"):
        write_variations(tmp_path / "sound", waves, sample_rate=8000)
    with pytest.raises(OutputError, match="cannot hold sound"):
        write_variations(tmp_path / "sound.npz", waves, sample_rate=8000)
    with pytest.raises(ShapeError, match="C 1 or 3"):
        write_variations(tmp_path / "two", torch.rand(2, 3, 2, 8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["sound"]


def test_latents_come_with_what_the_models_own_prior_says_of_them():
    """A mixture and pseudo-inputs have no closed form; log q - log p at the draw, less log q, must be -log p."""
    x = torch.rand(6, 1, 8, 8)
    mixture = vector_model(bottleneck=GaussianConfig(dim=3, prior=MixturePriorConfig(components=4)))
    z, log_prior = sampled(mixture, x, batch=4)
    assert torch.allclose(log_prior, mixture.bottleneck.prior.log_prob(z), atol=1e-4)
    vamp = vector_model(bottleneck=GaussianConfig(dim=3, prior=VampPriorConfig(components=4)))
    z, log_prior = sampled(vamp, x)
    q = encode(vamp, vamp.pseudo_inputs().detach())
    each = Normal(q.mean, (q.log_variance / 2).exp()).log_prob(z[:, None]).flatten(2).sum(2)
    assert torch.allclose(log_prior, each.logsumexp(1) - math.log(4), atol=1e-4)


def test_a_posterior_bent_by_a_flow_is_walked_but_not_taken_for_a_normal():
    model, x = vector_model(bottleneck=GaussianConfig(dim=3, posterior=IAFConfig(width=8))), torch.rand(6, 1, 8, 8)
    assert torch.allclose(generate(model, locate(model, x)), model.reconstruct(x), atol=1e-6)
    assert drawn(model, x).shape == (6, 3, 1, 1) and not torch.allclose(drawn(model, x), locate(model, x))
    for refuses in (encode, sampled):
        with pytest.raises(ConfigError, match="diagonal"):
            refuses(model, x)


def test_a_point_drawn_is_the_point():
    point = Posterior(torch.randn(3, 2), torch.full((3, 2), -torch.inf))
    assert torch.equal(draw(point, temperature=2.0), point.mean)
