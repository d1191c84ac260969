"""Networks from disk: loaded from where PyTorch keeps them, refused when missing, damaged or not mere weights."""

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from audiovae.checkpoint import find_checkpoint, read_description
from audiovae.commands.evaluate_images import trained_by
from audiovae.config import from_dict
from audiovae.criteria_config import PerceptualConfig
from audiovae.errors import CheckpointError, ConfigError, ShapeError
from audiovae.image.pretrained import INCEPTION_FILE, VGG, VGG_FILE, Inception, comparing_network, scoring_network
from audiovae.image.sets import DigitsData
from audiovae.metrics.generation import generation_scores
from audiovae.shapes import Batch, Condition, DataSpec
from audiovae.train import Experiment, train

pytest.importorskip("torchvision")


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def vgg_weights():
    """Random weights by the names and shapes of VGG-16's thirteen convolutions."""
    sizes = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    weights = {}
    for place, before, after in zip(places, sizes, sizes[1:], strict=False):
        weights[f"features.{place}.weight"] = torch.randn(after, before, 3, 3) * (2 / (9 * before)) ** 0.5
        weights[f"features.{place}.bias"] = torch.zeros(after)
    return weights


def test_vgg_gives_the_last_activation_of_each_size(checkpoints):
    weights = vgg_weights()
    torch.save(weights, checkpoints / VGG_FILE)
    network = PerceptualConfig(network="vgg").build(None).network
    x = torch.rand(1, 1, 16, 16)
    h, expected = (x.expand(1, 3, 16, 16) - network.mean) / network.deviation, []
    names = [name for name in weights if name.endswith("weight")]
    for stage in ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)):
        h = F.max_pool2d(h, 2) if expected else h
        for index in stage:
            h = F.conv2d(h, weights[names[index]], padding=1).relu()
        expected.append(h)
    layers = network.layers(x)
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    for ours, theirs in zip(layers, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ShapeError, match="at least 16"):
        network.layers(torch.rand(1, 1, 8, 8))
    with pytest.raises(ConfigError, match="for scores take"):
        network.heads(x)


def test_inception_alone_bears_the_names_fid_and_kid(checkpoints, monkeypatch):
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:  # its random initial weights stand for the true ones
        patch.setattr(extractor, "load_state_dict", lambda self, state: None)
        torch.save({}, checkpoints / "none")
        random = extractor("inception", ["2048"], feature_extractor_weights_path=str(checkpoints / "none"))
    torch.save(random.state_dict(), checkpoints / INCEPTION_FILE)
    network = Inception()
    x = torch.rand(2, 1, 8, 8)
    vectors, logits = network.heads(x)
    assert vectors.shape == (2, 2048) and logits.shape == (2, 1008)
    levels = (x.expand(2, 3, 8, 8) * 255).round().to(torch.uint8)
    torch.testing.assert_close(vectors, random(levels)[0])
    monkeypatch.setattr(network, "heads", lambda x: (x.flatten(1), x.flatten(1)))  # 200 pictures would take minutes
    rows = dict(generation_scores(torch.rand(100, 1, 4, 4), torch.rand(100, 1, 4, 4), network).rows())
    assert "FID at 100 against 100 (ImageNet Inception v3, 2048 features)" in rows
    assert "KID (ImageNet Inception v3, 2048 features)" in rows


def pictures(side: int) -> Any:
    """A source of noise in two classes."""
    label = torch.arange(8) % 2
    return SimpleNamespace(spec=DataSpec(channels=1, dims=2, labels=("a", "b"), size=(side, side)),
                           config=SimpleNamespace(kind="noise"),
                           batch=lambda step: Batch(torch.rand(8, 1, side, side), Condition(label), ("x",) * 8))


def test_what_is_on_disk_is_taken_and_a_classifier_of_the_data_otherwise(checkpoints, monkeypatch):
    large, small, none = pictures(16), pictures(8), DataSpec(channels=1, dims=2, size=(16, 16))
    assert comparing_network("auto", large, steps=1).name == "noise classifier"
    torch.save(vgg_weights(), checkpoints / VGG_FILE)
    assert comparing_network("auto", large, steps=1).name == "ImageNet VGG-16"
    assert comparing_network("classifier", large, steps=1).name == "noise classifier"
    assert comparing_network("auto", small, steps=1).name == "noise classifier"  # VGG halves a side four times
    unlabelled: Any = SimpleNamespace(spec=none, batch=large.batch)
    assert comparing_network("auto", unlabelled, steps=1).name == "ImageNet VGG-16"

    monkeypatch.setattr("audiovae.image.pretrained.Inception", lambda: SimpleNamespace(name="Inception"))
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)
    assert scoring_network("auto", small).name == "noise classifier"
    (checkpoints / INCEPTION_FILE).write_bytes(b"")
    assert scoring_network("auto", small).name == "Inception"
    assert scoring_network("classifier", small).name == "noise classifier"


def test_pictures_are_scored_alike_whatever_a_run_was_trained_with(checkpoints):
    """The same judge for another batch, seed and few labels; another one for black and white pictures."""
    plain, other, binary = (DigitsData(**settings).build(seed) for settings, seed in (
        ({}, 0), ({"batch_size": 16, "labelled": 100, "labelled_share": 0.5}, 3), ({"binarize": "threshold"}, 0)))
    held_out = plain.part("test").x
    judges = [scoring_network("auto", source).extract(held_out).vectors for source in (plain, other, binary)]
    assert torch.equal(judges[0], judges[1]) and not torch.allclose(judges[0], judges[2])
    assert int((other.part("train").condition.label >= 0).sum()) == 100, "what training sees is as it was"


def test_a_checkpoint_names_the_network_it_was_trained_by_and_goes_on_with_no_other(tmp_path):
    mlp = {"kind": "mlp", "widths": [8]}
    experiment = from_dict(Experiment, {
        "data": {"kind": "digits"}, "train": {"steps": 1},
        "model": {"encoder": mlp, "decoder": mlp, "bottleneck": {"kind": "gaussian", "dim": 2}},
        "objective": {"criteria": [{"kind": "perceptual", "steps": 1, "weight": 0.5}]}})
    train(experiment, tmp_path)
    title = "digits classifier, 64 features"
    assert read_description(find_checkpoint(tmp_path))["networks"] == {"perceptual": title}
    note, = trained_by(tmp_path)
    assert f"the criterion perceptual (weight 0.5, in the features of the {title}) beside the likelihood" in note
    train(experiment, tmp_path, resume=True)

    file = find_checkpoint(tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"networks": {"perceptual": "ImageNet VGG-16"}}))
    with pytest.raises(CheckpointError, match="compared in the ImageNet VGG-16, here it is the digits classifier"):
        train(experiment, tmp_path, resume=True)


@pytest.mark.parametrize(("network", "file"), [(VGG, VGG_FILE), (Inception, INCEPTION_FILE)])
def test_missing_or_wrong_weights_say_where_they_should_lie(network, file, checkpoints):
    if network is Inception:
        pytest.importorskip("torch_fidelity")
    with pytest.raises(ConfigError, match=f"wants its weights at {checkpoints / file}"):
        network()
    (checkpoints / file).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="fetch it again"):
        network()
    torch.save({"features.0.weight": torch.zeros(1)}, checkpoints / file)
    with pytest.raises(CheckpointError, match="fetch it again"):
        network()


class Hostile:
    def __reduce__(self):
        return (open, ("/dev/null",))


@pytest.mark.parametrize(("network", "file"), [(VGG, VGG_FILE), (Inception, INCEPTION_FILE)])
def test_a_file_that_would_run_code_is_refused(network, file, checkpoints):
    if network is Inception:
        pytest.importorskip("torch_fidelity")
    torch.save({"features.0.weight": Hostile()}, checkpoints / file)
    with pytest.raises(CheckpointError, match="fetch it again"):
        network()
    assert pickle.dumps(Hostile())  # the file above was a real pickle of it
