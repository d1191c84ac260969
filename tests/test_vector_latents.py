"""One vector for a whole example: shapes, sizes, saving and drawing, for every pair of encoder and decoder."""

import pytest
import torch

from audiovae.checkpoint import load_model, save_model
from audiovae.config import from_dict
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import Autoencoder, AutoencoderConfig
from audiovae.nn.mlp import perceptron
from audiovae.shapes import Condition, DataSpec

PARTS = {"mlp": {"kind": "mlp", "widths": [16]},
         "strided": {"kind": "strided", "strides": [2, 2], "width": 8, "depth": 1}}
PAIRS = [(encoder, decoder) for encoder in PARTS for decoder in PARTS]


def config_of(encoder="strided", decoder="strided", **others) -> AutoencoderConfig:
    return from_dict(AutoencoderConfig, {
        "encoder": PARTS[encoder], "decoder": PARTS[decoder], "bottleneck": {"kind": "gaussian", "dim": 3},
        "likelihood": {"kind": "bernoulli"}, "latent": "vector"} | others)


def pictures(size=(8, 8), **others) -> DataSpec:
    return DataSpec(channels=2, dims=len(size), size=size, **others)


def small(encoder="strided", decoder="strided", size=(8, 8), **others) -> Autoencoder:
    return config_of(encoder, decoder, **others).build(pictures(size))


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@pytest.mark.parametrize("size", [(16,), (8, 8), (4, 12)])
def test_any_encoder_meets_any_decoder_in_one_vector(encoder, decoder, size):
    model, x, ones = small(encoder, decoder, size), torch.rand(5, 2, *size), (1,) * len(size)
    output = model(x)
    assert output.latents[0].z.shape == (5, 3, *ones)
    assert output.params.shape == model.reconstruct(x).shape == x.shape
    assert model.encode(x).shape == (5, 6, *ones)
    assert model.sample(4).shape == (4, 2, *size)
    assert model.grid(size) == ones


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_datum_reaches_the_vector_and_the_vector_every_datum(encoder, decoder):
    model, x = small(encoder, decoder, (4, 8)).double(), torch.rand(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model.encode(x).square().sum(), x)
    assert bool((slope != 0).all())
    z = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    moved = model.params(z) - model.params(z + 1)
    assert bool((moved != 0).all())


def test_a_perceptron_makes_the_latent_a_vector_without_being_told():
    assert small("mlp", "strided", latent="grid").vector
    assert small("strided", "mlp", latent="grid").vector
    assert not small("strided", "strided", latent="grid").vector


def test_a_perceptron_is_its_matrices_in_a_row():
    layers = perceptron(5, 2, widths=(4, 3), activation="tanh").double()
    x = torch.randn(7, 5, dtype=torch.float64)
    weights = [(layer.weight, layer.bias) for layer in layers if isinstance(layer, torch.nn.Linear)]
    h = x
    for i, (w, b) in enumerate(weights):
        h = (h if i == 0 else h.tanh()) @ w.T + b
    torch.testing.assert_close(layers(x), h)
    assert len(weights) == 3
    assert len(perceptron(5, 2, widths=())) == 1


def test_strides_of_encoder_and_decoder_need_not_agree():
    model = config_of(decoder="strided", encoder="strided").build(pictures())
    other = from_dict(AutoencoderConfig, {
        "encoder": PARTS["strided"], "decoder": PARTS["strided"] | {"strides": [2]}, "latent": "vector",
        "bottleneck": {"kind": "gaussian", "dim": 3}}).build(pictures((12, 12)))
    assert (model.hop, other.hop) == (4, 4)
    assert other(torch.rand(2, 2, 12, 12)).params.shape == (2, 2, 12, 12)


@pytest.mark.parametrize(("act", "error", "words"), [
    (lambda: small(size=(8, 10)), ConfigError, r"multiples of its hop 4, got \(8, 10\): change the strides"),
    (lambda: small("mlp", "strided", size=(6, 8)), ConfigError, "decoder wants sides that are multiples of its hop 4"),
    (lambda: config_of().build(DataSpec(2, 2)), ConfigError, r"data of one size.*take a latent on a grid"),
    (lambda: config_of("mlp").build(DataSpec(2, 2)), ConfigError, r"encoder 'mlp' wants data of one size"),
    (lambda: small()(torch.rand(1, 2, 12, 12)), ShapeError, r"wants examples of \(8, 8\), got \(12, 12\)"),
    (lambda: small("mlp")(torch.rand(1, 2, 4, 16)), ShapeError, r"wants examples of \(8, 8\), got \(4, 16\)"),
    (lambda: small()(torch.rand(1, 3, 8, 8)), ShapeError, r"\(B, C=2, H, W\)"),
    (lambda: small().params(torch.zeros(1, 3, 2, 2)), ShapeError, r"wants examples of \(1, 1\), got \(2, 2\)"),
    (lambda: small(latent="grid").sample(1, size=(9, 8)), ConfigError, "multiples of its hop 4"),
    (lambda: config_of(latent="grid").build(DataSpec(2, 2)).sample(1), ConfigError, "sample wants data of one size"),
])
def test_sizes_that_do_not_fit_are_refused_with_what_to_do(act, error, words):
    with pytest.raises(error, match=words):
        act()


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_a_model_loaded_gives_the_numbers_of_the_model_saved(encoder, decoder, tmp_path):
    config, data = config_of(encoder, decoder, condition_dim=2), pictures(labels=("a", "b"))
    model, x, told = config.build(data).eval(), torch.rand(3, 2, 8, 8), Condition(torch.tensor([0, 1, -1]))
    save_model(tmp_path, model, config)
    other = load_model(tmp_path)
    assert isinstance(other, Autoencoder)
    assert other.data == data
    assert torch.equal(model.encode(x, told), other.encode(x, told))
    assert torch.equal(model.reconstruct(x, told), other.reconstruct(x, told))


def test_temperature_0_is_what_the_decoder_makes_of_the_origin():
    model = small().eval()
    at_origin = model.generate(torch.zeros(2, 3, 1, 1))
    assert torch.equal(model.sample(2, temperature=0.0), at_origin)
    assert not torch.equal(model.sample(2, temperature=1.0), at_origin)


def test_temperature_is_the_spread_of_the_prior():
    model = small()
    one, half = (model.sample_prior(1000, t, torch.Generator().manual_seed(3)) for t in (1.0, 0.5))
    torch.testing.assert_close(half, one / 2)
    assert float(one.std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("latent", ["grid", "vector"])
def test_a_generator_repeats_the_samples_and_leaves_the_global_dice_alone(latent):
    model, state = small(latent=latent).eval(), torch.get_rng_state()
    first, again, other = (model.sample(3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_k_latents_of_an_example_stand_together_and_differ():
    model, x = small(), torch.rand(3, 2, 8, 8)
    output = model(x, samples=4)
    z, posterior = output.latents[0].z.view(3, 4, 3), output.latents[0].posterior
    assert posterior is not None
    mean = posterior.mean.view(3, 4, 3)
    assert torch.equal(mean, mean[:, :1].expand_as(mean))  # one posterior
    assert len(z.reshape(-1, 3).unique(dim=0)) == 12  # all drawn anew
    torch.testing.assert_close(mean[:, 0].flatten(), model.bottleneck.decode(model.encode(x)).flatten())
    assert output.params.shape == (12, 2, 8, 8)
