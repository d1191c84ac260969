"""What every model with codes offers to those that hold codes: levels, both ways."""

import pytest
import torch

from audiovae.bottlenecks import FSQConfig, GaussianConfig, RVQConfig
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.errors import ConfigError, ShapeError
from audiovae.models import Autoencoder, AutoencoderConfig
from audiovae.shapes import CodeLevel, DataSpec


def autoencoder(bottleneck, dims=1) -> Autoencoder:
    torch.manual_seed(0)
    return AutoencoderConfig(
        encoder=StridedEncoderConfig(strides=(2, 2), width=4, depth=1), bottleneck=bottleneck,
        decoder=StridedDecoderConfig(strides=(2, 2), width=4, depth=1),
    ).build(DataSpec(channels=1, dims=dims, sample_rate=8000)).eval()


@pytest.mark.parametrize("dims", [1, 2])
def test_one_level_is_the_whole_of_an_autoencoder(dims):
    model = autoencoder(RVQConfig(num_codes=8, dim=3, num_quantizers=2), dims)
    x = torch.randn(2, 1, *[16] * dims)
    assert model.code_levels == (CodeLevel(hop=4, num_codes=(8, 8)),)
    codes, = model.encode_levels(x)
    assert codes.dtype == torch.int64 and codes.shape == (2, 2, *[4] * dims)
    assert torch.equal(codes, model.encode(x)) and torch.equal(model.decode_levels([codes]), model.reconstruct(x))


def test_codes_of_fsq_are_a_level_too():
    assert autoencoder(FSQConfig(levels=(3, 5))).code_levels == (CodeLevel(4, (15,)),)


def test_a_continuous_model_has_no_levels():
    model = autoencoder(GaussianConfig(dim=3))
    assert model.code_levels == ()
    with pytest.raises(ConfigError, match="Gaussian has no codes"):
        model.encode_levels(torch.zeros(1, 1, 16))


@pytest.mark.parametrize("levels", [[], [None], [torch.zeros(1, 1, 4, dtype=torch.int64)] * 2])
def test_other_than_its_one_level_is_refused(levels):
    with pytest.raises(ShapeError, match="wants the codes of its one level, got"):
        autoencoder(RVQConfig(num_codes=8, dim=3, num_quantizers=1)).decode_levels(levels)
