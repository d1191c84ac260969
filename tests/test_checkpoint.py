"""Checkpoints: what is saved is what is loaded; anything else is refused in one line."""

import json
import pickle

import pytest
import torch

from audiovae.bottlenecks import RVQConfig, VQConfig
from audiovae.checkpoint import fingerprint, load_model, save_model
from audiovae.cli import main
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import SpectralEncoderConfig, StridedEncoderConfig
from audiovae.errors import CheckpointError
from audiovae.models import AutoencoderConfig
from audiovae.shapes import Condition, DataSpec

CONFIG = AutoencoderConfig(
    encoder=StridedEncoderConfig(strides=(4, 2), width=8, depth=1),
    decoder=StridedDecoderConfig(strides=(4, 2), width=8, depth=1),
    bottleneck=VQConfig(num_codes=16, dim=4), condition_dim=3)
SPEC = DataSpec(channels=1, dims=1, sample_rate=8000, labels=("anna", "bert"))


@pytest.fixture
def saved(tmp_path):
    model = CONFIG.build(SPEC).eval()
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(folder, model, CONFIG)
    return model, folder


def test_what_is_saved_is_what_is_loaded(saved):
    model, folder = saved
    again = load_model(folder)
    x, condition = torch.randn(1, 1, 80), Condition(torch.tensor([1]))
    assert again.data == SPEC and not again.training
    assert torch.equal(again(x, condition).params, model(x, condition).params)
    assert fingerprint(again) == fingerprint(model)


def test_weights_can_be_read_by_whom_other_files_can(saved, tmp_path):
    (tmp_path / "plain").write_text("")
    assert (saved[1] / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_any_weight_changes_the_fingerprint(saved):
    model, _ = saved
    before = fingerprint(model)
    for value in model.state_dict().values():
        if value.numel():
            kept = value.clone()
            value.view(-1)[0] = value.view(-1)[0] + 1
            assert fingerprint(model) != before
            value.copy_(kept)
    assert fingerprint(model) == before


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("model.pt", "model.safetensors", "model"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(CheckpointError, match="pickle"):
            load_model(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="pickle"):
        load_model(tmp_path / "model.ckpt")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickle"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_the_place_of_weights_is_refused(saved):
    _, folder = saved
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(saved, keep):
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(("change", "said"), [
    (lambda d: d.update(format=99), "upgrade audiovae"),
    (lambda d: d.pop("model"), "lacks"),
    (lambda d: d["model"].update(surprise=1), "surprise"),
    (lambda d: d["model"]["bottleneck"].update(num_codes=17), "do not fit"),
    (lambda d: d["data"].update(labels=["anna"]), "do not fit"),
])
def test_a_config_that_does_not_fit(saved, change, said):
    _, folder = saved
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError):
            load_model(path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(tmp_path)


def test_half_precision_weights_load_in_single(saved):
    from safetensors.torch import load_file, save_file

    model, folder = saved
    path = folder / "model.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
    again = load_model(folder)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    x = torch.randn(1, 1, 80)
    torch.testing.assert_close(again.encoder(x), model.encoder(x), atol=5e-3, rtol=5e-2)


def test_a_model_of_half_size_does_what_it_did_and_names_no_place(tmp_path):
    torch.manual_seed(0)
    config = AutoencoderConfig(encoder=StridedEncoderConfig(strides=(4,), width=8, depth=1),
                               decoder=StridedDecoderConfig(strides=(4,), width=8, depth=1))
    model = config.build(DataSpec(channels=1, dims=1, sample_rate=16000, labels=("anna", "ben"))).eval()
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run", model, config, experiment={"data": {"corpus": "/home/anna/corpus"}})
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "half"), "--format", "half"]) == 0
    assert {p.name for p in (tmp_path / "half").iterdir()} == {"config.json", "model.safetensors"}
    assert "anna" not in (tmp_path / "half/config.json").read_text()
    for option in (("--kbps", "1"), ("--beam", "4")):
        assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "other"), "--format", "half", *option]) == 2
    assert not (tmp_path / "other").exists()
    x, again = 0.1 * torch.randn(1, 1, 400), load_model(tmp_path / "half")
    h, other = model.encoder(x), again.encoder(x)
    assert (h - other).norm() < 1e-2 * h.norm() and not h.equal(other)


def test_of_several_models_of_one_kind_the_mean_of_their_weights_is_written(tmp_path, capsys):
    """One named twice counts twice; whole numbers are the first one's; two kinds are refused, programs of two too."""
    def saved(name: str, steps: int = 1, **settings: object) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir()
        config = AutoencoderConfig(bottleneck=RVQConfig(num_codes=4, dim=3, num_quantizers=1), **settings)
        model = config.build(DataSpec(channels=1, dims=1, sample_rate=16000))
        for _ in range(steps):
            model.train()(torch.randn(2, 1, 6400))
        save_model(tmp_path / name, model, config)
        return model.state_dict()

    one, other = saved("one"), saved("other", steps=2)
    saved("apart", encoder=SpectralEncoderConfig(depth=1))
    names = {name: str(tmp_path / name) for name in ("one", "other", "apart", "mean")}
    half = ["-o", names["mean"], "--format", "half"]
    assert main(["export", names["other"], names["one"], names["one"], *half]) == 0
    for name, value in load_model(tmp_path / "mean").state_dict().items():
        wanted = (2 * one[name] + other[name]) / 3 if value.is_floating_point() else other[name]
        torch.testing.assert_close(value, wanted, atol=1e-4, rtol=1e-3)
    half[1] = str(tmp_path / "nothing")
    for wrong, said in (([names["one"], names["apart"], *half], "model.encoder.depth is 1, there 4"),
                        (half, "a model is wanted"),
                        ([names["one"], names["other"], "-o", half[1]], "made of one model")):
        assert main(["export", *wrong]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "nothing").exists()


def test_a_weight_beyond_half_precision_is_refused(tmp_path, capsys):
    config = AutoencoderConfig()
    model = config.build(DataSpec(channels=1, dims=1, sample_rate=16000))
    next(model.parameters()).data.fill_(1e5)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run", model, config)
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "half"), "--format", "half"]) == 2
    assert "is beyond half precision" in capsys.readouterr().err and not (tmp_path / "half").exists()
