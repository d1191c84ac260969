"""A latent that is trained not to tell the label: the turned gradient, what is left to a probe, and what is loaded."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from audiovae.bottlenecks import GaussianConfig, IdentityConfig
from audiovae.checkpoint import load_model, load_weights, save_half, save_model
from audiovae.config import from_dict
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import MLPEncoderConfig
from audiovae.errors import CheckpointError, ConfigError, ShapeError
from audiovae.label_adversary import LabelAdversary, LabelAdversaryConfig
from audiovae.models import AutoencoderConfig, MultiresConfig, SemiSupervisedConfig
from audiovae.objectives import ObjectiveConfig
from audiovae.shapes import Condition, DataSpec

LABELS = 4
LABEL_ADVERSARY = LabelAdversaryConfig(width=32)
SPEC = DataSpec(channels=1, dims=1, size=(6,), labels=tuple("abcd"))


def config(adversary=LABEL_ADVERSARY):
    return AutoencoderConfig(encoder=MLPEncoderConfig(widths=(32,)), bottleneck=IdentityConfig(dim=4),
                             decoder=MLPDecoderConfig(widths=(32,)), condition_dim=8, label_dropout=0.0,
                             label_adversary=adversary)


def examples(count, seed):
    """Two numbers that are told of nothing else, and four that say the label."""
    dice = torch.Generator().manual_seed(seed)
    label = torch.randint(LABELS, (count,), generator=dice)
    content = torch.randn(count, 2, generator=dice)
    told = F.one_hot(label, LABELS) + 0.1 * torch.randn(count, LABELS, generator=dice)
    return torch.cat([content, told], 1)[:, None], label


def trained(weight, steps=1500):
    torch.manual_seed(0)
    model = config().build(SPEC).train()
    objective = ObjectiveConfig(label_adversary=weight).build(sample_rate=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        x, label = examples(64, seed=step)
        loss = objective(model(x, Condition(label)), x, model.likelihood, progress=0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return model.eval()


def probed(model):
    """Share of new labels that a linear classifier tells from latents, and how far content is off."""
    with torch.no_grad():
        (x, label), (y, unseen) = examples(2000, seed=10**6), examples(2000, seed=10**6 + 1)
        learnt, asked = (model.latent(data, Condition(its)).z.flatten(1) for data, its in ((x, label), (y, unseen)))
        given_back = model.reconstruct(y, Condition(unseen))
    share = LogisticRegression(max_iter=1000).fit(learnt, label).score(asked, unseen)
    return share, float((given_back - y)[..., :2].square().mean())


def test_what_the_label_says_leaves_the_latent_and_what_it_does_not_say_stays():
    share, _ = probed(trained(weight=0.0))
    assert share > 0.9
    share, error = probed(trained(weight=1.0))
    assert share < 0.4 and error < 0.01  # chance is 0.25, and content has a variance of 1


def test_the_classifier_goes_down_and_the_latent_up():
    torch.manual_seed(0)
    adversary, label = LabelAdversary(3, LABELS, width=8), torch.arange(5) % LABELS
    z = torch.randn(5, 3, 7, requires_grad=True)
    nats, told = adversary(z, label)
    nats.backward()
    turned, learnt = z.grad.clone(), [p.grad.clone() for p in adversary.parameters()]
    adversary.zero_grad()
    plain = z.detach().clone().requires_grad_()
    h = adversary.layers(plain.transpose(1, 2))
    logits = adversary.out(torch.cat([h.mean(1), h.var(1, correction=0).sqrt()], 1))
    F.cross_entropy(logits, label).backward()
    torch.testing.assert_close(turned, -plain.grad)
    for one, other in zip(learnt, adversary.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)
    assert float(told) == float((logits.argmax(1) == label).float().mean())


def test_unknown_labels_are_left_out():
    adversary, z = LabelAdversary(3, LABELS, width=8), torch.randn(4, 3, 5, 6)
    some, _ = adversary(z, torch.tensor([2, -1, 0, -1]))
    both, _ = adversary(z[[0, 2]], torch.tensor([2, 0]))
    torch.testing.assert_close(some, both)
    assert [number.item() for number in adversary(z, torch.full((4,), -1))] == [0, 0]
    with pytest.raises(ShapeError, match="4 examples"):
        adversary(z, torch.zeros(3, dtype=torch.long))


def test_training_alone_meets_it_and_each_latent_of_an_example_has_its_label():
    model, (x, label) = config().build(SPEC), examples(3, seed=0)
    assert model.eval()(x, Condition(label)).latents[0].losses == {}
    latent = model.train()(x, Condition(label), samples=2).latents[0]
    again, _ = model.label_adversary(latent.z, label.repeat_interleave(2))
    torch.testing.assert_close(latent.losses["label_adversary"], again)
    assert model(x).latents[0].losses["label_adversary"].item() == 0  # nothing known


def test_what_is_heard_in_another_voice_has_its_label(monkeypatch):
    model, (x, label) = config().build(SPEC).train(), examples(3, seed=0)
    monkeypatch.setattr(model, "_disguised", lambda x, other: x)
    latent = model(x, Condition(label, other=Condition((label[:1] + 1) % LABELS))).latents[0]
    again, _ = model.label_adversary(latent.z, torch.cat([(label[:1] + 1) % LABELS, label[1:]]))
    torch.testing.assert_close(latent.losses["label_adversary"], again)


def test_data_of_one_label():
    with pytest.raises(ConfigError, match="two labels"):
        config().build(DataSpec(channels=1, dims=1, size=(6,), labels=("a",)))


def test_a_model_that_sums_over_labels_refuses_it():
    told = replace(config(), bottleneck=GaussianConfig(dim=4), condition_encoder=True)
    SemiSupervisedConfig(autoencoder=replace(told, label_adversary=None)).build(SPEC)
    with pytest.raises(ConfigError, match="every label"):
        SemiSupervisedConfig(autoencoder=told).build(SPEC)


def test_weights_begin_a_training_with_and_without_it(tmp_path):
    torch.manual_seed(0)
    own = {}
    for name, adversary in (("with", LabelAdversaryConfig(width=32)), ("without", None)):
        own[name] = config(adversary).build(SPEC)
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, own[name], config(adversary))
    for name, adversary in (("with", None), ("without", LabelAdversaryConfig(width=32)),
                            ("with", LabelAdversaryConfig(width=16))):
        model = config(adversary).build(SPEC)
        anew = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("label_adversary.")}
        load_weights(model, tmp_path / name)
        for key, value in model.state_dict().items():
            assert torch.equal(value, anew[key] if key in anew else own[name].state_dict()[key])
    with pytest.raises(CheckpointError, match="not of the model"):
        load_weights(replace(config(), condition_dim=4).build(SPEC), tmp_path / "with")


def test_levels_to_pass_on_are_without_it(tmp_path):
    row = {"kind": "autoencoder", "encoder": {"kind": "strided", "strides": [2], "width": 8, "depth": 1},
           "decoder": {"kind": "strided", "strides": [2], "width": 8, "depth": 1},
           "bottleneck": {"kind": "vq", "num_codes": 8, "dim": 4}, "label_adversary": {"width": 8}}
    described = from_dict(MultiresConfig, {"kind": "multires", "levels": [row]})
    for name in ("run", "half"):
        (tmp_path / name).mkdir()
    model = described.build(DataSpec(channels=1, dims=1, sample_rate=16000, labels=tuple("ab")))
    out = model.train()(torch.randn(2, 1, 16), Condition(torch.tensor([0, 1])))
    assert "label_adversary" in out.latents[0].losses
    save_model(tmp_path / "run", model, described)
    save_half(tmp_path / "run", tmp_path / "half")
    assert not [name for name in load_model(tmp_path / "half").state_dict() if "label_adversary" in name]


def test_weights_to_pass_on_are_without_it(tmp_path):
    for name in ("run", "half"):
        (tmp_path / name).mkdir()
    model = config().build(SPEC)
    save_model(tmp_path / "run", model, config())
    save_half(tmp_path / "run", tmp_path / "half")
    passed_on, (x, label) = load_model(tmp_path / "half"), examples(3, seed=0)
    assert passed_on.label_adversary is None
    given, wanted = (its.eval().reconstruct(x, Condition(label)) for its in (passed_on, model))
    torch.testing.assert_close(given, wanted, atol=1e-2, rtol=0)
