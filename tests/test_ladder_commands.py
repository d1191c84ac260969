"""A ladder through the commands, with no flags of its own: trained, measured and shown, on pictures and on sound."""

import json
from dataclasses import replace

import pytest
import torch
from test_ladder import PLAIN, SMALL, WAVE, built, pictures, stirred

from audiovae.checkpoint import load_model
from audiovae.cli import main
from audiovae.data import AudioData
from audiovae.evaluate_images import evaluate_pictures
from audiovae.gallery import depths, open_study, samples
from audiovae.gallery.study import Study
from audiovae.image.sets import DigitsData
from audiovae.latents import kl_per_dimension
from audiovae.metrics.groups import silent
from audiovae.shapes import Batch, Condition
from audiovae.train import Experiment, TrainConfig, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("ladders")
    train(Experiment(DigitsData(binarize="dynamic"), PLAIN, train=TrainConfig(steps=20, lr=3e-3)), folder / "pictures")
    corpus = str(request.getfixturevalue("tiny_corpus"))
    train(Experiment(AudioData(corpus=corpus, seconds=0.2, batch_size=4), WAVE, train=TrainConfig(steps=2)),
          folder / "sound")
    return folder


def test_pictures_are_measured_with_a_row_a_group(runs, tmp_path, capsys):
    assert main(["evaluate", "--model", str(runs / "pictures"), "-o", str(tmp_path), "--samples", "4", "--limit", "40",
                 "--generate", "0"]) == 0
    said, values = capsys.readouterr().out, json.loads((tmp_path / "evaluation.json").read_text())
    rates = [row["KL, nats"] for row in values["groups"]]
    rate = next(v["mean"] for name, v in values["measures"].items() if name.startswith("rate"))
    assert len(rates) == 4 and sum(rates) == pytest.approx(rate, rel=1e-4)
    assert "group (level)" in said and "NLL, IWAE-4, nats" in said
    page = (tmp_path / "evaluation.html").read_text()
    assert "each group of latents" in page and "top group" in page and "Interpolation" in page


def test_sound_without_codes_is_measured_on_its_own_data(runs, tmp_path, capsys):
    words = ["evaluate", "--model", str(runs / "sound"), "-o", str(tmp_path), "--samples", "2", "--limit", "3"]
    assert main(words) == 0
    assert "3 crops measured" in capsys.readouterr().out
    page = (tmp_path / "evaluation.html").read_text()
    assert "<audio" in page and "top group" in page


@pytest.mark.parametrize("action", ["sample", "nearest", "diagnose", "depth"])
def test_its_latents_are_shown(runs, tmp_path, action, capsys):
    assert main(["latents", action, "--model", str(runs / "pictures"), "-o", str(tmp_path), "--limit", "40"]) == 0
    assert "Written to" in capsys.readouterr().out and any(tmp_path.iterdir())


def test_its_sound_is_heard(runs, tmp_path):
    assert main(["latents", "depth", "--model", str(runs / "sound"), "-o", str(tmp_path), "--limit", "8"]) == 0
    assert len(list(tmp_path.glob("*.wav"))) > 2


def test_a_depth_is_the_models_own_reconstruction(runs):
    study = open_study(runs / "sound", {}, "valid", 4, seed=0)
    exhibit = depths(study)
    model = load_model(runs / "sound")
    told = study.told(study.held_out, slice(0, 1))
    wave = model.reconstruct(study.held_out.x[:1], told, groups=2)[0].mean(0)
    torch.testing.assert_close(exhibit.sounds["top 2 of 4"], wave)


def test_samples_of_a_temperature_are_the_models_own():
    """The gallery leaves the statistics of batch normalisation to the model, which takes them at the temperature."""
    model = stirred(built(SMALL)).eval()
    batch = Batch(pictures(16), Condition(), tuple(map(str, range(16))))
    study = Study(model, batch, batch, generator=torch.Generator().manual_seed(3))
    drawn = study.new(4, temperature=0.5)
    torch.testing.assert_close(drawn, model.sample(4, temperature=0.5, generator=torch.Generator().manual_seed(3)))
    assert samples(study, 8, 0.5).sentence.startswith("8 samples from the prior")


def test_a_group_that_says_nothing_is_named():
    """Level 1's posterior is made its prior by hand: no nats, and all others have some."""
    model = stirred(built(replace(SMALL, cells=PLAIN.cells))).eval()
    group = model.decoder.groups[0][1]
    with torch.no_grad():
        group.posterior.conv.weight.zero_(), group.posterior.conv.bias.zero_()
    result = evaluate_pictures(model, Batch(pictures(20), Condition(), tuple(map(str, range(20)))))
    assert silent(result.groups) == [1]
    assert any("1 of 4 groups of latents are not in use" in note and "levels 1." in note for note in result.notes)
    each = kl_per_dimension(model, pictures(20))  # two dimensions a group at four places each: level 0, then 1
    assert torch.equal(each[8:16], torch.zeros(8)) and (each[:8] > 0).all() and (each[16:] > 0).all()
