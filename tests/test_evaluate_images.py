"""What is said of a model of pictures: each number against its definition, and the command from end to end."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from audiovae.bottlenecks import GaussianConfig as GaussianBottleneckConfig
from audiovae.bottlenecks import VQConfig
from audiovae.cli import main
from audiovae.commands.evaluate_images import chosen, numbers
from audiovae.data import bits_of
from audiovae.decoders import MLPDecoderConfig
from audiovae.encoders import MLPEncoderConfig
from audiovae.evaluate_images import evaluate_pictures, score_generated
from audiovae.image.features import train_classifier
from audiovae.likelihoods import BernoulliConfig, CategoricalConfig, DequantizedConfig, GaussianConfig
from audiovae.metrics import Interval
from audiovae.metrics.bounds import evidence
from audiovae.models import AutoencoderConfig, DensityConfig, SemiSupervisedConfig
from audiovae.report import draw_kl, draw_pictures, draw_rate_distortion
from audiovae.shapes import Batch, Condition, DataSpec

DATA = DataSpec(channels=1, dims=2, labels=("a", "b"), size=(8, 8), levels=17)
SMALL = AutoencoderConfig(encoder=MLPEncoderConfig(widths=(16,)), decoder=MLPDecoderConfig(widths=(16,)),
                          bottleneck=GaussianBottleneckConfig(dim=3), likelihood=CategoricalConfig())
TOML = """
[data]
kind = "digits"
[model]
encoder = { kind = "mlp", widths = [32] }
decoder = { kind = "mlp", widths = [32] }
bottleneck = { kind = "gaussian", dim = 3 }
likelihood = { kind = "categorical" }
[train]
steps = 12
lr = 3e-3
"""


def pictures(count: int = 300) -> Batch:
    x = torch.randint(17, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
    return Batch(x, Condition(torch.arange(count) % 2), tuple(map(str, range(count))))


def by_start(values: dict[str, list[float]], start: str) -> Tensor:
    (name,) = [name for name in values if name.startswith(start)]
    return torch.tensor(values[name])


def test_the_numbers_are_what_they_say():
    model, batch = SMALL.build(DATA).eval(), pictures()
    result = evaluate_pictures(model, batch, samples=3, seed=5)
    values = result.values
    assert all(len(column) == 300 for column in values.values())
    elbo, distortion, rate = (by_start(values, name) for name in ("ELBO", "distortion", "rate"))
    torch.testing.assert_close(elbo, -(distortion + rate), rtol=1e-5, atol=1e-4)
    bits = by_start(values, "bits per dimension from the ELBO (mass of 17 levels)")
    torch.testing.assert_close(bits, -elbo / (64 * math.log(2)), rtol=1e-5, atol=1e-5)
    error = torch.stack([((model.reconstruct(x[None]) - x) ** 2).mean() for x in batch.x]).detach()
    torch.testing.assert_close(by_start(values, "reconstruction MSE"), error, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_start(values, "reconstruction PSNR"), -10 * error.log10(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rate, evidence(model, batch.x).rate, rtol=1e-4, atol=1e-5)  # a closed form: no chance
    assert result.kl is not None
    assert float(result.kl.sum()) == pytest.approx(float(rate.mean()), rel=1e-4)
    assert by_start(values, "NLL, IWAE-3").mean() < -elbo.mean() + 0.5
    assert result.table().rows[0][1] == str(result.interval("ELBO, nats"))


def test_the_seed_alone_decides_and_the_callers_random_numbers_are_left():
    model, batch = SMALL.build(DATA).eval(), pictures(20)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = evaluate_pictures(model, batch, samples=2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert evaluate_pictures(model, batch, samples=2, seed=1).values == first.values
    assert evaluate_pictures(model, batch, samples=2, seed=2).values != first.values


def test_a_few_examples_keep_all_that_is_told_of_them():
    batch = replace(pictures(9), condition=Condition(torch.arange(9) % 2, embedding=torch.randn(9, 3)))
    few = chosen(batch, torch.tensor([7, 2]))
    assert torch.equal(few.condition.embedding, batch.condition.embedding[[7, 2]]) and few.names == ("7", "2")
    assert torch.equal(few.condition.label, torch.tensor([1, 0]))


def test_json_has_no_number_that_is_none():
    assert json.dumps(numbers(Interval(1.0, math.nan, 1)), allow_nan=False) == (
        '{"mean": 1.0, "half_width": null, "count": 1}')


def test_active_units_are_those_that_see_the_picture():
    model = SMALL.build(DATA).eval()
    last = model.encoder.layers[-1]
    with torch.no_grad():
        last.weight[1].zero_()  # the mean of the second dimension: the same for every picture
        last.weight[0] *= 20
        last.weight[2] *= 20
    result = evaluate_pictures(model, pictures())
    assert result.active_units == 2
    assert dict(result.latent().rows)["active units"] == 2


def test_bits_say_what_they_are_of():
    def of(likelihood, levels=17, binarize="none"):
        data = replace(DATA, levels=levels)
        return bits_of(replace(SMALL, likelihood=likelihood).build(data), data, binarize)

    assert of(CategoricalConfig()) == "mass of 17 levels"
    assert of(CategoricalConfig(), 2, "dynamic") == "mass of 2 levels, pixels drawn 0 or 1 by grey level"
    assert of(BernoulliConfig(), 2, "threshold") == "mass of 2 levels, pixels rounded to 0 or 1"
    assert "in the mean over draws" in of(BernoulliConfig(), 17)
    assert of(GaussianConfig(), 256) == "density, not comparable across units"
    assert of(DequantizedConfig(), 256) == "uniform dequantization of 256 levels"


def test_codes_are_counted_and_have_a_length_but_no_density():
    model, batch = replace(SMALL, bottleneck=VQConfig(num_codes=4, dim=3)).build(DATA).eval(), pictures()
    result = evaluate_pictures(model, batch, samples=5)
    share = np.bincount(model.encode(batch.x).flatten().numpy(), minlength=4) / 300
    (counts,) = result.counts
    assert (counts / 300).tolist() == share.tolist()
    entropy = -sum(p * math.log(p) for p in share if p)
    assert dict(result.latent().rows)["quantizer 1: perplexity"] == pytest.approx(math.exp(entropy))
    assert by_start(result.values, "rate, length of the codes").tolist() == pytest.approx([math.log(4)] * 300)
    assert not any("IWAE" in name for name in result.values)
    assert "importance weights" in result.notes[0]


def test_models_without_latent_and_with_summed_labels_are_measured_too():
    result = evaluate_pictures(DensityConfig().build(DATA).eval(), pictures(10))
    assert list(result.values) == ["log p(x), nats", "bits per dimension (mass of 17 levels)"]
    inner = replace(SMALL, condition_dim=4, condition_encoder=True)
    model = SemiSupervisedConfig(autoencoder=inner, classifier=MLPEncoderConfig(widths=(8,))).build(DATA).eval()
    batch = pictures(40)
    label = torch.where(torch.arange(40) < 30, torch.arange(40) % 2, -1)
    result = evaluate_pictures(model, replace(batch, condition=Condition(label)), samples=2)
    wrong = model.classify(batch.x[:30]).argmax(1) != label[:30]
    assert by_start(result.values, "classification error").tolist() == wrong.float().tolist()
    assert len(by_start(result.values, "NLL")) == 40
    assert torch.equal(by_start(result.values, "rate"), by_start(
        evaluate_pictures(model, replace(batch, condition=Condition(1 - label.clamp(min=0)))).values, "rate"))


def test_generated_pictures_are_scored_by_the_network_named():
    """Real pictures against real ones are nearer than an untrained model's are; the labels told are the real ones'."""
    batch = pictures(200)
    x = batch.x * batch.condition.label.view(-1, 1, 1, 1)
    real = replace(batch, x=x)
    network = train_classifier(x, batch.condition.label, "made-up", steps=20)
    model = replace(SMALL, condition_dim=4).build(DATA).eval()
    told = []
    sample = model.sample

    def spy(count, condition=None, **rest):
        told.append(condition.label)
        return sample(count, condition, **rest)

    model.sample = spy  # type: ignore[method-assign]
    scores = dict(score_generated(model, network, real, count=300))
    assert torch.cat(told).tolist() == [i % 200 % 2 for i in range(300)]
    assert all("made-up classifier" in name for name in scores)

    class Copies:
        embedding = None

        def sample(self, count, condition, generator):
            return x[torch.randint(200, (count,), generator=generator)]

    copied = dict(score_generated(Copies(), network, real, count=300))  # type: ignore[arg-type]
    first = next(iter(scores))
    assert copied[first].mean < 0.1 * scores[first].mean


def test_a_run_is_trained_measured_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no Inception here, whatever this machine holds
    (tmp_path / "small.toml").write_text(TOML)
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", str(tmp_path / "small.toml"), "-o", str(run)]) == 0
    words = ["evaluate", "--model", str(run), "-o", str(out), "--limit", "40", "--samples", "4", "--generate", "100"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "NLL, IWAE-4, nats" in said and "mass of 17 levels" in said and "digits classifier" in said
    values = json.loads((out / "evaluation.json").read_text())
    assert values["measures"]["ELBO, nats"]["count"] == 40 and len(values["kl_per_dimension"]) == 3
    page = (out / "evaluation.html").read_text()
    for part in ("Reconstructions", "samples from the prior", "spherical steps", "latent dimensions with the most KL",
                 "quantiles of N(0, 1)", "The course of training"):
        assert part in page
    for wrong, part in ((["somewhere"], "leave out somewhere"), (["--train.lr", "1"], "settings of --data only"),
                        (["--data.binarize", "threshold"], "was trained on pictures of"),
                        (["--samples", "-1"], "0 or more")):
        assert main(["evaluate", "--model", str(run), *wrong]) == 2
        assert part in capsys.readouterr().err
    for wrong, part in ((["sample", str(run), "--temperature", "nan"], "--temperature wants 0 or more"),
                        (["sample", str(run), "--codec", "none"], "--codec is not for pictures"),
                        (["train", "--resume", str(run)], "leave the TOML file and --output out"),
                        (["latents", "traverse", "--model", str(run), "--temperature", "0.2"], "action traverse")):
        assert main([*wrong, "-o", str(tmp_path / "none")]) == 2
        assert part in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(("call", "part"), [
    (lambda: draw_pictures([]), "rows of pictures"),
    (lambda: draw_pictures([torch.zeros(2, 2, 8, 8)]), "C 1 or 3"),
    (lambda: draw_pictures([torch.zeros(2, 1, 8, 8)], ["a", "b"]), "a name for each of 1 rows"),
    (lambda: draw_rate_distortion([1.0], [], []), "a rate and a distortion for each"),
])
def test_drawings_refuse_what_they_cannot_draw(call, part):
    with pytest.raises(ValueError, match=part):
        call()


def test_pictures_keep_their_places_and_values():
    """The third picture of the second row is drawn there, and where a row is shorter nothing is."""
    rows = [torch.zeros(3, 1, 2, 2), torch.zeros(4, 3, 2, 2)]
    rows[1][2] = torch.tensor([0.25, 0.5, 3.0]).view(3, 1, 1)
    (axes,) = draw_pictures(rows).axes
    canvas = np.asarray(axes.images[0].get_array())
    assert canvas[3:5, 6:8].tolist() == np.broadcast_to([0.25, 0.5, 1.0, 1.0], (2, 2, 4)).tolist()
    assert canvas[0:2, 9:11].sum() == 0 and canvas[2].sum() == 0
    heights = [bar.get_height() for bar in draw_kl(torch.tensor([0.5, 2.0, 1.0])).axes[0].patches]
    assert heights == [2.0, 1.0, 0.5]
