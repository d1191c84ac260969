"""The contract: every bottleneck fits every model, in one and two dimensions."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from audiovae.bottlenecks import (
    BottleneckConfig,
    FSQConfig,
    GaussianConfig,
    GroupedConfig,
    IdentityConfig,
    RVQConfig,
    VQConfig,
)
from audiovae.config import Config, from_dict, to_dict
from audiovae.errors import ConfigError, ShapeError

VQ = VQConfig(num_codes=16, dim=6)
CONFIGS: dict[str, Any] = {
    "identity": IdentityConfig(dim=6),
    "gaussian": GaussianConfig(dim=3),
    "vq": VQ,
    "vq-cosine": replace(VQ, geometry="cosine"),
    "vq-standardize": replace(VQ, standardize=True),
    "vq-loss": replace(VQ, codebook="loss"),
    "rvq": RVQConfig(num_codes=16, dim=6, num_quantizers=3),
    "grouped": GroupedConfig(groups=2, each=VQConfig(num_codes=8, dim=3)),
    "fsq": FSQConfig(levels=(3, 4, 5, 6, 7, 8)),
}
DISCRETE = [name for name in CONFIGS if name not in ("identity", "gaussian")]


def trained(name, dims=1):
    """A bottleneck that has learnt from one batch, in evaluation, and a batch for it."""
    bottleneck = CONFIGS[name].build(dims=dims)
    h = torch.randn(4, 6, *([20] if dims == 1 else [4, 5]))
    bottleneck(h)
    return bottleneck.eval(), h


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_forward_keeps_the_contract(name, dims):
    bottleneck = CONFIGS[name].build(dims=dims)
    grid = (20,) if dims == 1 else (4, 5)
    latent = bottleneck(torch.randn(4, 6, *grid))
    assert (bottleneck.channels_in, bottleneck.dims) == (6, dims)
    assert latent.z.shape == (4, bottleneck.channels_out, *grid)
    assert latent.rate.shape == (4,)
    assert bottleneck.is_discrete == (name in DISCRETE)
    if bottleneck.is_discrete:
        assert latent.codes.dtype == torch.int64
        assert latent.codes.shape == (4, len(bottleneck.num_codes), *grid)
        nats = 20 * sum(float(torch.tensor(k).log()) for k in bottleneck.num_codes)
        assert latent.rate == pytest.approx([nats] * 4)
    assert all(value.ndim == 0 for value in (*latent.losses.values(), *latent.stats.values()))
    assert not any(value.requires_grad for value in latent.stats.values())


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", DISCRETE)
def test_decoded_codes_are_the_z_of_forward(name, dims):
    bottleneck, h = trained(name, dims)
    latent, codes = bottleneck(h), bottleneck.encode(h)
    assert torch.equal(codes, latent.codes)
    torch.testing.assert_close(bottleneck.decode(codes), latent.z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", DISCRETE)
def test_codes_are_found_for_the_latents_before_them(name, dims):
    """What a first codebook's code stands for lies nearer to its latent than what any other code stands for."""
    bottleneck, h = trained(name, dims)
    z, codes = bottleneck.continuous(h), bottleneck.encode(h)
    assert z.shape == h.shape
    first = codes[:, :1] if name == "rvq" else codes
    own = (bottleneck.decode(first) - z).square().sum(1)
    for _ in range(20):
        other = (bottleneck.decode(torch.randint(min(bottleneck.num_codes), first.shape)) - z).square().sum(1)
        assert (own <= other + 1e-6).all()
    with pytest.raises(ShapeError):
        bottleneck.continuous(torch.full_like(h, torch.nan))


@pytest.mark.parametrize("name", DISCRETE)
def test_two_dimensions_give_the_same_numbers_as_one(name):
    line, h = trained(name, dims=1)
    plane = CONFIGS[name].build(dims=2).eval()
    plane.load_state_dict(line.state_dict())
    assert torch.equal(plane.encode(h.unflatten(2, (4, 5))).flatten(2), line.encode(h))
    assert torch.equal(plane(h.unflatten(2, (4, 5))).z.flatten(2), line(h).z)


@pytest.mark.parametrize("name", DISCRETE)
def test_codes_of_a_vector_do_not_depend_on_its_neighbours(name):
    bottleneck, h = trained(name)
    codes = bottleneck.encode(h)
    order, places = torch.randperm(4), torch.randperm(20)
    assert torch.equal(bottleneck.encode(h[order][:, :, places]), codes[order][:, :, places])
    assert torch.equal(torch.cat([bottleneck.encode(one[None]) for one in h]), codes)
    assert torch.equal(torch.cat([bottleneck.encode(h[:, :, i : i + 7]) for i in (0, 7, 14)], dim=2), codes)


@pytest.mark.parametrize("shape", [(1, 6, 20), (1, 6, 1), (20, 6, 1), (3, 6, 0)])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_example_or_one_step_trains_like_any_other(name, shape):
    bottleneck, _ = trained(name)
    h = torch.randn(shape, requires_grad=True)
    if h.numel() == 0:
        with pytest.raises(ShapeError, match="at least one vector"):
            bottleneck.train()(h)
        return
    latent = bottleneck.train()(h)
    sum(latent.losses.values(), latent.z.sum()).backward()
    assert h.grad.shape == shape and h.grad.isfinite().all()


@pytest.mark.parametrize("name", DISCRETE)
def test_codes_stay_what_they_are_under_autocast(name):
    """Distances rounded to bfloat16 would choose other codes than the decoder was trained with."""
    bottleneck, h = trained(name)
    codes = bottleneck.encode(h)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = bottleneck(h)
    assert torch.equal(latent.codes, codes)
    assert latent.z.dtype == torch.float32


@pytest.mark.parametrize("name", DISCRETE)
def test_evaluation_learns_nothing(name):
    bottleneck, h = trained(name)
    before = {key: value.clone() for key, value in bottleneck.state_dict().items()}
    bottleneck(3 * h)
    assert all(torch.equal(before[key], value) for key, value in bottleneck.state_dict().items())


@pytest.mark.parametrize("name", DISCRETE)
def test_an_empty_latent_has_no_codes(name):
    bottleneck, h = trained(name)
    codes = bottleneck.encode(h[:, :, :0])
    assert codes.shape == (4, len(bottleneck.num_codes), 0)
    assert bottleneck.decode(codes).shape == (4, 6, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_shape_or_value_is_refused_in_one_line(name):
    bottleneck, h = trained(name)
    spoilt = h.clone()
    spoilt[1, 2, 3] = torch.nan
    for bad in (h[:, :5], h.transpose(1, 2), h[0], h[..., None], h.long(), spoilt, spoilt / 0):
        with pytest.raises(ShapeError) as error:
            bottleneck.encode(bad)
        assert "\n" not in str(error.value) and str(error.value).startswith(type(bottleneck).__name__)


@pytest.mark.parametrize("name", ["vq", "rvq", "grouped", "fsq"])
def test_training_on_nan_is_refused_before_it_reaches_the_codebook(name):
    bottleneck, h = trained(name)
    before = {key: value.clone() for key, value in bottleneck.state_dict().items()}
    with pytest.raises(ShapeError, match="1 of 480 that are NaN or infinite"):
        bottleneck.train()(torch.where(torch.arange(480).view(4, 6, 20) == 99, torch.inf, h))
    assert all(torch.equal(before[key], value) for key, value in bottleneck.state_dict().items())


@pytest.mark.parametrize("name", DISCRETE)
def test_codes_out_of_range_or_shape_are_refused(name):
    bottleneck, h = trained(name)
    codes = bottleneck.encode(h)
    many = torch.cat([codes, codes], dim=1)
    for bad in (codes - 1000, codes + max(bottleneck.num_codes), codes.float(), codes[0], many):
        with pytest.raises(ShapeError):
            bottleneck.decode(bad)


@dataclass(frozen=True)
class Settings(Config):
    bottleneck: BottleneckConfig = VQ


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_being_written_and_read(name):
    settings = Settings(CONFIGS[name])
    assert from_dict(Settings, to_dict(settings)) == settings


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "vq", "decay": 1.0},
        {"kind": "vq", "num_codes": 0},
        {"kind": "vq", "dead_threshold": 0.5, "restart_count": 0.2},
        {"kind": "vq", "kmeans_after": -1},
        {"kind": "rvq", "quantizer_dropout": 1.5},
        {"kind": "rvq", "unquantized": -0.1},
        {"kind": "rvq", "geometry": "cosine"},
        {"kind": "fsq", "levels": [2, 2]},
        {"kind": "grouped", "groups": 0},
        {"kind": "unheard of"},
    ],
)
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(ConfigError):
        from_dict(Settings, {"bottleneck": values})
