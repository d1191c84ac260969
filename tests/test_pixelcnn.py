"""Gated PixelCNN: who sees whom, by gradients; a joint that sums to 1; drawing in parts = drawing by the whole."""

import itertools
import math

import pytest
import torch

from audiovae.autoregressive import sample_pixels
from audiovae.config import from_dict
from audiovae.errors import ConfigError, ShapeError
from audiovae.likelihoods import Bernoulli, Categorical, Gaussian
from audiovae.models import AutoencoderConfig
from audiovae.nn.pixelcnn import ChannelConv, GatedPixelCNN
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import DataSpec


def reached(network, x, **condition):
    """seen[o, i]: whether output o of (C, H, W), any of its parameters, has a gradient to input i of (C, H, W)."""
    count = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, **condition), x)
    by_channel = jacobian.view(network.params_per_channel, count, count)
    return (by_channel != 0).any(0)


def before(channels, height, width, reach):
    """The same by the definition, one pair at a time: earlier in order, and no further than the reach."""
    places = list(itertools.product(range(channels), range(height), range(width)))
    seen = torch.zeros(len(places), len(places), dtype=torch.bool)
    for (o, (c, i, j)), (p, (d, k, m)) in itertools.product(enumerate(places), repeat=2):
        earlier = (k, m, d) < (i, j, c)
        seen[o, p] = earlier and i - k <= reach and abs(j - m) <= reach
    return seen


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (2, 3), (2, 5), (5, 3)])
def test_every_pixel_sees_all_before_it_within_reach_and_nothing_else(channels, depth, kernel):
    """No blind spot, no future, no channel after its own; the reach is what the network says."""
    network = GatedPixelCNN(channels, params_per_channel=2, width=6 * channels, depth=depth, kernel=kernel).double()
    x = torch.rand(1, channels, 5, 6, dtype=torch.float64)
    assert torch.equal(reached(network, x), before(channels, 5, 6, network.reach))


def test_a_mask_that_lets_the_pixel_itself_through_is_seen():
    network = GatedPixelCNN(channels=2, params_per_channel=1, width=8, depth=2, kernel=3)
    network.layers[0].now.mask.fill_(1.0)
    assert not torch.equal(reached(network, torch.rand(1, 2, 3, 3)), before(2, 3, 3, network.reach))


def all_pictures(channels, height, width, levels):
    values = itertools.product(range(levels), repeat=channels * height * width)
    return torch.tensor(list(values), dtype=torch.float64).view(-1, channels, height, width) / (levels - 1)


@pytest.mark.parametrize(("channels", "size", "likelihood"), [
    (1, (2, 3), Bernoulli()), (3, (1, 2), Bernoulli()), (1, (2, 2), Categorical(3)), (2, (1, 2), Categorical(3))])
def test_the_joint_of_all_pictures_is_1(channels, size, likelihood):
    network = GatedPixelCNN(channels, likelihood.params_per_channel, width=12, depth=2, kernel=3).double()
    with torch.no_grad():
        for parameter in network.parameters():  # far from uniform, where a leak would hardly show
            parameter.mul_(3)
        x = all_pictures(channels, *size, getattr(likelihood, "levels", 2))
        log_prob = likelihood.log_prob(network(x), x)
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    assert log_prob.std() > 0.1
    network.layers[0].now.mask.fill_(1.0)
    with torch.no_grad():
        assert abs(likelihood.log_prob(network(x), x).logsumexp(0).item()) > 1e-3


@pytest.mark.parametrize(("channels", "likelihood"), [(1, Bernoulli()), (3, Bernoulli()), (3, Categorical(4))])
def test_drawing_pixel_by_pixel_is_drawing_by_the_whole(channels, likelihood):
    """The parameters of every draw are those of a full pass over what has been drawn, and so is the picture."""
    network = GatedPixelCNN(channels, likelihood.params_per_channel, width=12, depth=3, kernel=5,
                            vector_dim=2, map_dim=3)
    vector, spatial, size = torch.randn(4, 2), torch.randn(4, 3, 5, 6), (5, 6)
    params = []

    def draw(p):
        params.append(p)
        return likelihood.sample(p, generator)

    generator = torch.Generator().manual_seed(7)
    fast = network.sample(draw, 4, size, vector, spatial)
    generator.manual_seed(7)
    slow, used = torch.zeros(4, channels, *size), iter(params)
    with torch.no_grad():
        for i, j, c in itertools.product(range(size[0]), range(size[1]), range(channels)):
            whole = network(slow, vector, spatial).unflatten(1, (-1, channels))[:, :, c, i : i + 1, j : j + 1]
            torch.testing.assert_close(next(used), whole, rtol=1e-5, atol=1e-5)
            slow[:, c, i, j] = likelihood.sample(whole, generator).flatten()
    assert torch.equal(fast, slow)
    assert fast.std() > 0.1


def test_drawn_pictures_are_as_frequent_as_the_network_says():
    network = GatedPixelCNN(channels=1, params_per_channel=1, width=8, depth=2, kernel=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
        pictures = all_pictures(1, 2, 2, 2).float()
        chance = Bernoulli().log_prob(network(pictures), pictures).exp()
    count = 20000
    drawn = network.sample(Bernoulli().sample, count, (2, 2))
    index = (drawn.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1).long()
    share = torch.bincount(index, minlength=16) / count
    error = (chance * (1 - chance) / count).sqrt()
    assert ((share - chance).abs() < 4.5 * error).all()


def test_conditions_reach_every_pixel():
    network = GatedPixelCNN(channels=1, params_per_channel=1, width=8, depth=2, kernel=3, vector_dim=2, map_dim=3)
    x, spatial = torch.rand(1, 1, 4, 4), torch.randn(1, 3, 4, 4)
    by_vector = torch.autograd.functional.jacobian(lambda v: network(x, v, spatial), torch.randn(1, 2))
    assert (by_vector.view(16, 2) != 0).all()
    by_map = torch.autograd.functional.jacobian(lambda m: network(x, torch.zeros(1, 2), m), spatial)
    by_map = by_map.view(16, 3, 16) != 0
    assert all(by_map[i, :, i].all() for i in range(16))  # each pixel is told its own place of the map


def test_hidden_pixels_look_like_those_outside_and_only_in_training():
    network = GatedPixelCNN(channels=2, params_per_channel=1, width=8, depth=2, kernel=3, pixel_dropout=0.9)
    x = torch.rand(64, 2, 8, 8)
    shown = network.train()._shown(x)
    hidden = shown[:, -1] == 0
    assert hidden.float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert (shown[:, :2].movedim(1, -1)[hidden] == 0).all()  # as zero padding is, the last channel too
    assert torch.equal(shown[:, :2].movedim(1, -1)[~hidden], (2 * x - 1).movedim(1, -1)[~hidden])
    assert (network.eval()._shown(x)[:, -1] == 1).all()


def test_a_short_reach_cannot_learn_what_lies_beyond_it():
    """Pictures whose last row repeats the first: seen with reach 3, invisible with reach 1."""
    bits = {}
    for depth in (1, 3):
        torch.manual_seed(0)
        network = GatedPixelCNN(1, 1, width=16, depth=depth, kernel=3)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(200):
            x = torch.bernoulli(torch.full((64, 1, 4, 4), 0.5))
            x[:, :, 1:3], x[:, :, 3] = 0.5, x[:, :, 0]
            nats = -torch.distributions.Bernoulli(logits=network(x)).log_prob(x.round())[:, :, [0, 3]].sum((1, 2, 3))
            nats.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        bits[depth] = nats.mean().item() / math.log(2)
    assert bits[1] == pytest.approx(8, abs=0.3)
    assert bits[3] < 5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="multiple of its 3 channels"):
        GatedPixelCNN(channels=3, params_per_channel=1, width=16)
    with pytest.raises(ConfigError, match="pixel_dropout"):
        GatedPixelCNN(channels=1, params_per_channel=1, pixel_dropout=1.0)
    network = GatedPixelCNN(channels=1, params_per_channel=1, width=4, depth=1, kernel=3, vector_dim=2)
    with pytest.raises(ShapeError, match=r"\(B, C=1, H, W\)"):
        network(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ShapeError, match="wants a condition vector"):
        network(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ShapeError, match="wants no condition map"):
        network(torch.zeros(2, 1, 4, 4), torch.zeros(2, 2), torch.zeros(2, 1, 4, 4))


def test_channel_masks_are_those_of_the_paper():
    """Mask A: red sees nothing, green red, blue both; mask B each its own colour too."""
    groups = ChannelConv(3, 3, channels=3, strict=True), ChannelConv(3, 3, channels=3)
    assert torch.equal(groups[0].mask[..., 0, 0], torch.ones(3, 3).tril(-1))
    assert torch.equal(groups[1].mask[..., 0, 0], torch.ones(3, 3).tril())


def autoencoder(**model):
    part = {"kind": "strided", "strides": [2, 2], "width": 8, "depth": 1}
    decoder = {"kind": "pixelcnn", "inner": part, "map_dim": 4, "width": 12, "depth": 2, "kernel": 3}
    return from_dict(AutoencoderConfig, {"encoder": part, "decoder": decoder, **model})


GAUSSIAN, PICTURES = {"kind": "gaussian", "dim": 3}, DataSpec(channels=3, dims=2, size=(8, 8), levels=4)


@pytest.mark.parametrize("latent", ["grid", "vector"])
def test_a_decoder_sees_its_latent_everywhere_and_of_the_data_only_what_is_before(latent):
    config = autoencoder(bottleneck=GAUSSIAN, likelihood={"kind": "bernoulli"}, latent=latent)
    model = config.build(PICTURES).double()
    z = torch.randn(1, 3, *model.grid((8, 8)), dtype=torch.float64)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    seen = torch.autograd.functional.jacobian(lambda x: model.params(z, None, x), x).view(192, 192) != 0
    assert seen.any() and not (seen & ~before(3, 8, 8, model.decoder.network.reach)).any()
    told = torch.autograd.functional.jacobian(lambda z: model.params(z, None, x), z).view(192, -1) != 0
    assert told.any(1).all()


def test_a_decoder_of_pixels_is_trained_and_drawn_from_like_any_other():
    model = autoencoder(bottleneck=GAUSSIAN, likelihood={"kind": "categorical"}, latent="vector").build(PICTURES)
    x = torch.randint(4, (5, 3, 8, 8)) / 3
    loss = ObjectiveConfig(samples=2, bound="iwae").build(None)(model(x, samples=2), x, model.likelihood, 0.0)
    loss.total.backward()
    assert all(p.grad is not None for p in model.parameters())
    drawn = [model.sample(4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert set((drawn[0] * 3).unique().tolist()) == {0, 1, 2, 3}
    assert model.decode(model.encode(x)).shape == x.shape


def test_a_low_temperature_draws_the_likeliest_value():
    network = GatedPixelCNN(channels=1, params_per_channel=4, width=8, depth=1, kernel=3)
    x = sample_pixels(network, Categorical(4), count=3, size=(4, 4), temperature=1e-4)
    with torch.no_grad():
        assert torch.equal(x[:, 0], network(x).argmax(1) / 3)


def test_decoders_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="pictures"):
        autoencoder(bottleneck=GAUSSIAN).build(DataSpec(channels=1, dims=1, sample_rate=16000))
    coupled = {"kind": "logistic_mixture", "coupled": True, "mixtures": 2}  # its mixture would see the future
    with pytest.raises(ConfigError, match="coupled"):
        autoencoder(bottleneck=GAUSSIAN, likelihood=coupled).build(PICTURES)
    network = GatedPixelCNN(channels=1, params_per_channel=1, width=4, depth=1, kernel=3)
    with pytest.raises(ConfigError, match="temperature"):
        sample_pixels(network, Gaussian(), count=1, size=(2, 2), temperature=0.5)
    with pytest.raises(ConfigError, match="above 0"):
        sample_pixels(network, Bernoulli(), count=1, size=(2, 2), temperature=0.0)
