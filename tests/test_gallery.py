"""`audiovae latents`: what is shown is what was computed, and what does not apply is one line with a reason."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from audiovae.audio.corpus import Corpus
from audiovae.bottlenecks import GaussianConfig, IdentityConfig, VQConfig
from audiovae.checkpoint import load_model, save_model
from audiovae.cli import main
from audiovae.data import AudioData
from audiovae.decoders import MLPDecoderConfig, StridedDecoderConfig
from audiovae.encoders import MLPEncoderConfig, StridedEncoderConfig
from audiovae.errors import LabelError
from audiovae.gallery import attribute, diagnosis, interpolation, neighbours, open_study, samples, traversal
from audiovae.gallery.study import example_study, marks
from audiovae.image.archive import read_archive
from audiovae.image.digits import digits
from audiovae.image.sets import DigitsData
from audiovae.likelihoods import BernoulliConfig
from audiovae.models import AutoencoderConfig
from audiovae.shapes import Batch, Condition
from audiovae.train import Experiment, TrainConfig, train

TINY = AutoencoderConfig(encoder=MLPEncoderConfig(widths=(64,)), decoder=MLPDecoderConfig(widths=(64,)),
                         bottleneck=GaussianConfig(dim=3), likelihood=BernoulliConfig())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    """Runs of a moment each: a VAE, a CVAE and an autoencoder of digits, and a VAE of two voices."""
    folder = tmp_path_factory.mktemp("runs")
    models = {"vae": TINY, "cvae": replace(TINY, condition_dim=8, condition_encoder=True),
              "plain": replace(TINY, bottleneck=IdentityConfig(dim=3)),
              "codes": replace(TINY, bottleneck=VQConfig(num_codes=8, dim=3))}
    for name, model in models.items():
        steps = TrainConfig(steps=60 if name == "vae" else 2, lr=3e-3)
        train(Experiment(DigitsData(), model, train=steps), folder / name)
    sound = replace(TINY, encoder=StridedEncoderConfig(strides=(8, 8), width=8, depth=1),
                    decoder=StridedDecoderConfig(strides=(8, 8), width=8, depth=1))
    corpus = request.getfixturevalue("tiny_corpus")
    sound = replace(sound, likelihood=AutoencoderConfig().likelihood)
    train(Experiment(AudioData(corpus=str(corpus), seconds=0.2, batch_size=4), sound, train=TrainConfig(steps=2)),
          folder / "sound")
    return folder


def latents(capsys, *words):
    code = main(["latents", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("action, files", [
    ("sample", ["samples.png"]), ("interpolate", ["interpolation.png"]), ("traverse", ["traversal.png"]),
    ("attribute", ["attribute-1.png", "attribute-2.png", "attribute.json"]), ("manifold", ["manifold.png"]),
    ("nearest", ["nearest.json", "nearest.png"]), ("diagnose", ["diagnosis.json", "diagnosis.png"])])
def test_each_action_draws_and_tells_where(runs, tmp_path, capsys, action, files):
    code, said, _ = latents(capsys, action, "--model", runs / "vae", "-o", tmp_path / "out")
    assert code == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert all(name in said.splitlines()[-1] for name in files)
    for name in files:
        if name.endswith(".png"):
            assert np.ptp(imread(tmp_path / "out" / name)) > 0.5


def test_one_seed_draws_the_same_and_another_does_not(runs, tmp_path, capsys):
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        assert latents(capsys, "sample", "--model", runs / "vae", "-o", tmp_path / name, "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / name / "samples.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_page_shows_what_applies_and_says_why_the_rest_does_not(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("audiovae.report.page.DPI", 20)  # small pictures are quickly drawn
    code, said, _ = latents(capsys, "report", "--model", runs / "sound", "-o", tmp_path, "--steps", 3, "--count", 2)
    page = (tmp_path / "latents.html").read_text()
    assert code == 0 and "6 of 9 exhibits apply" in said and page.count("<audio") == 2 + 5 + 3 + 6 + 4
    for heading in ("Samples", "Interpolation", "Traversal", "Attribute vector", "Nearest training", "Diagnosis"):
        assert f"<h2>{heading}" in page
    for reason in ("restyle: restyling wants a model that is told labels", "manifold: a manifold is a plane of",
                   "depth: depths are of a ladder"):
        assert reason in page


def test_sound_is_written_as_recordings_named_by_what_they_are(runs, tmp_path, capsys, tiny_corpus):
    code, *_ = latents(capsys, "attribute", "--model", runs / "sound", "-o", tmp_path, "--with-labels", "anna")
    names = sorted(path.name for path in tmp_path.glob("*.wav"))
    assert code == 0 and names[0] == "attribute-01 -1.wav" and names[-1] == "attribute-06 +1.5.wav"
    wave, rate = soundfile.read(tmp_path / names[0])
    assert rate == Corpus.open(tiny_corpus).sample_rate and len(wave) == 3200


def test_two_recordings_are_interpolated_at_the_length_of_the_shorter(runs, tmp_path, capsys):
    for name, length in (("long", 9000), ("short", 5000)):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-0.3, 0.3, length), 16000)
    code, said, _ = latents(capsys, "interpolate", "--model", runs / "sound", "-o", tmp_path / "out", "--steps", 3,
                            "--recordings", tmp_path / "long.wav", tmp_path / "short.wav")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.wav"))
    assert code == 0 and "From long to short in 3 spherical steps" in said
    assert names[0] == "interpolation-01 long_original.wav" and names[2] == "interpolation-03 50%_of_the_way.wav"
    kept = soundfile.read(tmp_path / "out" / names[0])[0]
    assert len(kept) == 5000 // 64 * 64
    assert np.allclose(kept, soundfile.read(tmp_path / "long.wav")[0][:len(kept)], atol=1e-4)


def test_variations_become_a_data_set(runs, tmp_path, capsys):
    code, said, _ = latents(capsys, "augment", "--model", runs / "vae", "-o", tmp_path / "more.npz", "--count", 2,
                            "--limit", 40)
    assert code == 0 and "80 variations of 40 training examples" in said
    archive = read_archive(tmp_path / "more.npz")
    parts = (archive.train, archive.valid, archive.test)
    assert sum(map(len, parts)) == 80
    label = digits("train")[1][:40]
    assert sorted(int(k) for part in parts for k in part.label) == sorted(label.repeat(2).tolist())


def test_a_label_alone_and_the_settings_of_the_data(runs, tmp_path, capsys):
    code, said, _ = latents(capsys, "sample", "--model", runs / "cvae", "-o", tmp_path, "--label", "3", "--count", 5)
    assert code == 0 and "5 samples from the prior at temperature 1, all told '3'." in said
    code, said, _ = latents(capsys, "nearest", "--model", runs / "vae", "-o", tmp_path, "--data.binarize", "threshold")
    assert code == 0
    assert latents(capsys, "restyle", "--model", runs / "cvae", "-o", tmp_path)[0] == 0


@pytest.mark.parametrize("words, said", [
    (("restyle", "--model", "vae"), "wants a model that is told labels"),
    (("manifold", "--model", "plain"), "a Gaussian latent of two dimensions"),
    (("augment", "--model", "plain", "-o", "new"), "a latent with a spread"),
    (("sample", "--model", "codes"), "continuous latent, got one with VectorQuantizer"),
    (("sample", "--model", "none"), "no such folder"),
    (("sample", "--model", "cvae", "--label", "33"), "no label '33' (10 labels); nearest: 3"),
    (("sample", "--model", "vae", "--label", "3"), "no label '3' (0 labels)"),
    (("attribute", "--model", "vae", "--with-labels", "eight"), "no example in a group 'eight'"),
    (("attribute", "--model", "vae", "--by", "gender"), "no example of the data has a group by 'gender'"),
    (("attribute", "--model", "vae", "--by", "none.tsv"), "groups none.tsv cannot be read"),
    (("sample", "--model", "vae", "--count", "0"), "--count wants 1 or more, got 0"),
    (("traverse", "--model", "vae", "--steps", "1"), "--steps wants 2 or more"),
    (("sample", "--model", "vae", "--limit", "0"), "--limit wants 1 example or more"),
    (("sample", "--model", "vae", "--train.steps", "3"), "--train.* is no setting of the data"),
    (("sample", "--model", "vae", "--data.binarise", "none"), "nearest: binarize"),
    (("interpolate", "--model", "vae", "--recordings", "a.wav"), "--recordings wants two"),
    (("interpolate", "--model", "vae", "--recordings", "a.wav", "b.wav"), "this one is of pictures"),
    (("walk", "--model", "vae"), "walk")])
def test_what_cannot_be_is_one_line(runs, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(runs)
    code, _, error = latents(capsys, *words, *(() if "-o" in words else ("-o", tmp_path / "out")))
    assert code == 2 and error.startswith("audiovae: latents: ") and len(error.strip().splitlines()) == 1
    assert said in error, error
    assert not (tmp_path / "out").exists() and not (runs / "new").exists()


def test_a_checkpoint_that_tells_no_data(tmp_path, capsys):
    model = example_study().model
    save_model(tmp_path, model, replace(TINY, encoder=MLPEncoderConfig(widths=(16,)), condition_dim=4,
                                        bottleneck=GaussianConfig(dim=2), decoder=MLPDecoderConfig(widths=(16,)),
                                        likelihood=AutoencoderConfig().likelihood))
    code, _, error = latents(capsys, "sample", "--model", tmp_path)
    assert code == 2 and "does not tell the data" in error


def test_the_data_held_out_is_the_runs_own(runs):
    study = open_study(runs / "vae")
    x, label = digits("test")
    assert torch.equal(study.held_out.x, x) and torch.equal(study.held_out.condition.label, label)
    assert len(study.train.x) == 1439 and study.told(study.train) is None
    few = open_study(runs / "vae", part="valid", limit=20, seed=3)
    assert len(few.held_out.x) == 20 and few.part == "valid"
    assert all(any(torch.equal(one, other) for other in digits("valid")[0]) for one in few.held_out.x)
    assert open_study(runs / "sound").part == "valid"


def test_the_diagnosis_tells_what_the_model_does(runs):
    study = open_study(runs / "vae")
    rows = dict(next(iter(diagnosis(study).tables.values())).rows)
    model = load_model(runs / "vae")
    with torch.no_grad():
        rate = float(model(study.train.x).latents[0].rate.mean())
    mean, half = map(float, re.findall(r"[\d.]+", rows["rate, nats, of 1439 training examples"]))
    assert abs(mean - rate) < 2.5 * half + 0.1
    mutual, apart = (float(rows[name].split()[0]) for name in rows if name.startswith(("of it mutual", "and KL")))
    assert mutual + apart == pytest.approx(mean, abs=0.25)  # each is rounded to what its interval allows
    plain, = diagnosis(open_study(runs / "plain")).tables.values()
    assert not any("rate" in name for name, _ in plain.rows)


def test_information_at_its_limit_is_told_as_a_bound():
    study = example_study()
    study.model.encoder.layers[-1].weight.mul_(200)
    study.model.encoder.layers[-1].bias[2:].fill_(-14)  # log-variances: no two examples meet
    study.model.encoder.layers[-1].weight[2:].zero_()
    table, = diagnosis(study).tables.values()
    assert dict(table.rows)["of it mutual information I(x; z) (at most 3.40, for so many)"] == "3.40 or more"


def test_traversal_goes_by_kl_and_without_one_by_variance(runs):
    study = open_study(runs / "vae")
    with torch.no_grad():
        kl = study.model(study.held_out.x).latents[0].rate_map.flatten(2).sum(2).mean(0)
    figure, = traversal(study).figures.values()
    told = [float(text.get_text().split()[-2]) for text in figure.texts]
    assert told == sorted(told, reverse=True) and told == [round(float(v), 2) for v in kl.sort(descending=True).values]
    assert "the most variance" in traversal(open_study(runs / "plain")).sentence


def test_pairs_are_of_one_label_where_the_model_is_told_it(runs):
    from audiovae.gallery.walks import _pairs

    for name, alike in (("cvae", True), ("vae", False)):
        study = open_study(runs / name)
        label = study.held_out.condition.label
        pairs = _pairs(study, study.held_out, 20)
        assert len({i for pair in pairs for i in pair}) == 40
        assert all(bool(label[a] == label[b]) == alike for a, b in pairs)
    lonely = Batch(torch.rand(1, 1, 8, 8), Condition(torch.tensor([0])), ("one",))
    with pytest.raises(Exception, match="wants two examples"):
        interpolation(study, lonely)


def test_neighbours_are_the_nearest_of_the_training_data(runs):
    study = open_study(runs / "vae")
    table, = neighbours(study, count=3).tables.values()
    again = open_study(runs / "vae")
    x = again.model.generate(again.draw(3)).detach()
    for one, (_, name, distance, _ratio) in zip(x, table.rows, strict=True):
        truth = [float(((one - other) ** 2).sum()) ** 0.5 for other in study.train.x]
        assert study.train.names[truth.index(min(truth))] == name and distance == pytest.approx(min(truth), rel=1e-5)


def test_copies_are_looked_for_among_all_training_examples(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("audiovae.commands.latents.MOST", 50)
    for action, count in (("nearest", 1439), ("attribute", 50)):
        code, said, _ = latents(capsys, action, "--model", runs / "vae", "-o", tmp_path, "--count", 2, "--limit", 20)
        assert code == 0 and f"{count} training examples" in said


def test_a_copied_recording_is_found_out_though_it_comes_later(runs):
    """A decoder that says training recordings, eight frames late, is caught by its ratio near 0, and by name."""
    study = open_study(runs / "sound")
    wave = torch.nn.functional.pad(study.train.x, (4096, 4096))  # so that nothing leaves at the ends
    padded = replace(study, train=replace(study.train, x=wave),
                     held_out=replace(study.held_out, x=torch.nn.functional.pad(study.held_out.x, (4096, 4096))))
    told = [5, 2]
    padded.__dict__["inner"] = SimpleNamespace(
        embedding=None, bottleneck=study.inner.bottleneck, sample_prior=lambda *_: torch.zeros(2, 3, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[neighbours.__module__], "generate", lambda *_: wave[told].roll(8 * 256, dims=2))
        exhibit = neighbours(padded, count=2)
    table, = exhibit.tables.values()
    for (_, name, _distance, ratio), place in zip(table.rows, told, strict=True):
        assert ratio < 0.02 and name == study.train.names[place]
    assert list(exhibit.sounds)[:2] == ["sample 1", f"nearest to 1: {study.train.names[5]}"]


def test_without_a_prior_samples_come_from_the_fitted_normal_and_say_so(runs):
    study = open_study(runs / "plain")
    assert "a normal fitted to the encoded training data" in samples(study, 8).sentence
    z = study.draw(4000)
    assert torch.allclose(z.mean(0), study.places.mean(0), atol=0.15 * float(study.places.std()))
    assert torch.allclose(study.draw(5, temperature=0), study.places.mean(0).expand(5, -1, -1, -1), atol=1e-5)


def test_groups_of_a_file_and_of_the_corpus(tmp_path):
    study = example_study()
    file = tmp_path / "groups.tsv"
    file.write_text("a\tround\npicture 1\tsharp\n\nc\tsharp\n")
    assert study.groups(study.held_out, str(file))[:4] == ["round", "sharp", "sharp", "round"]
    assert study.groups(study.held_out)[:4] == ["a", "b", "c", "a"]
    spoken = replace(study, gender={"p1_001": "F", "p2_001": "M"},
                     held_out=replace(study.held_out, names=("p1_001 @ 0.50 s", "p2_001 @ 1.25 s", *"abcdefghij")))
    assert spoken.groups(spoken.held_out, "gender")[:3] == ["F", "M", None]
    file.write_text("a round\n")
    with pytest.raises(Exception, match=r"two columns with a tab between.*line 1"):
        study.groups(study.held_out, str(file))


def test_marks_of_groups():
    groups = ["a", "b", None, "c", "a"]
    assert marks(groups, ["a"], []).tolist() == [1, 0, -1, 0, 1]
    assert marks(groups, ["a"], ["c"]).tolist() == [1, -1, -1, 0, 1]
    with pytest.raises(LabelError, match=r"no example in a group 'd'.*nearest"):
        marks(groups, ["a"], ["d"])
    with pytest.raises(LabelError, match="nothing to set them against"):
        attribute(example_study(), having=["a", "b", "c"])


def test_moves_are_judged_with_intervals_over_held_out_examples():
    exhibit = attribute(example_study(), having=["a"], amounts=(-1.0, 0.0, 1.0))
    table, = exhibit.tables.values()
    assert table.columns[:2] == ("amount", "is a") and table.columns[-1] == "change in data"
    assert [row[0] for row in table.rows] == ["-1", "+0", "+1"] and table.rows[1][-1] == "0.00 ± 0.00"
    assert "a" not in table.columns and "is b, c" not in table.columns and "moves 8 held-out ones" in exhibit.sentence
