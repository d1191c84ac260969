"""Codes of corpora and pictures as training data, and priors through the one training loop."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.audio.corpus import Corpus
from audiovae.audio.example import example_corpus
from audiovae.bottlenecks import RVQConfig, VQConfig
from audiovae.checkpoint import fingerprint, load_model, save_model
from audiovae.cli import main
from audiovae.code_data import CodesData
from audiovae.codec import Codec
from audiovae.config import from_dict
from audiovae.decoders import SpectralDecoderConfig, StridedDecoderConfig
from audiovae.encoders import SpectralEncoderConfig, StridedEncoderConfig
from audiovae.errors import ConfigError, CorpusError
from audiovae.evaluate_priors import counted, evaluate_prior
from audiovae.image.sets import DigitsData
from audiovae.models import AutoencoderConfig, PriorConfig
from audiovae.priors import CausalConfig, letters
from audiovae.priors.bigram import SMOOTHING, Counts, best_weight
from audiovae.shapes import DataSpec
from audiovae.train import Experiment, TrainConfig, build, train


@pytest.fixture
def codec(tmp_path):
    """A small codec of the example corpus's rate, saved."""
    torch.manual_seed(0)
    config = AutoencoderConfig(
        encoder=SpectralEncoderConfig(width=16, depth=1), decoder=SpectralDecoderConfig(width=16, depth=1),
        bottleneck=RVQConfig(num_codes=32, num_quantizers=2, dim=8))
    folder = tmp_path / "codec"
    folder.mkdir()
    save_model(folder, config.build(DataSpec(channels=1, dims=1, sample_rate=16000)), config)
    return str(folder)


@pytest.fixture
def corpus(tmp_path):
    """The example corpus in a place of its own, since codes are kept beside it."""
    return str(shutil.copytree(example_corpus(), tmp_path / "corpus"))


@pytest.fixture
def pictures(tmp_path):
    """A small model of digits, saved."""
    torch.manual_seed(0)
    config = AutoencoderConfig(
        encoder=StridedEncoderConfig(strides=(2,), width=8, depth=1),
        decoder=StridedDecoderConfig(strides=(2,), width=8, depth=1), bottleneck=VQConfig(num_codes=16, dim=4))
    model = config.build(DigitsData().build(0).spec)
    folder = tmp_path / "digits"
    folder.mkdir()
    save_model(folder, model, config)
    return str(folder)


def test_stretches_are_what_the_codec_gives(codec, corpus):
    source = CodesData(model=codec, corpus=corpus, tokens=20, batch_size=4).build(seed=0)
    batch, codec = source.batch(3), Codec.from_pretrained(codec, prior=False)
    assert batch.x.shape == (4, 2, 20) and batch.x.dtype == torch.int64
    assert source.spec.codes.model == codec.fingerprint and source.spec.size == (20,)
    opened = Corpus.open(corpus)
    for row, name, label, timing in zip(batch.x, batch.names, batch.condition.label, batch.condition.timing,
                                        strict=True):
        utterance = next(u for u in opened.all if name.startswith(f"{u.id} @"))
        whole = np.concatenate(list(codec.encode_stream([torch.from_numpy(opened.audio(utterance))])), axis=1)
        start = round(float(timing[1]) * 16000 / codec.hop)
        part = whole[:, start:start + 20]
        assert (row[:, :part.shape[1]].numpy() == part).all() and (row[:, part.shape[1]:] == -1).all()
        assert opened.speakers[label] == utterance.speaker and utterance.split == "train"
        assert float(timing[0]) == pytest.approx(utterance.length / 16000)
        assert float(timing[2]) == pytest.approx(float(timing[1]) / float(timing[0]))


def test_codes_are_made_once_and_a_damaged_map_is_refused(codec, corpus, monkeypatch):
    config = CodesData(model=codec, corpus=corpus, tokens=20, batch_size=2)
    first = config.build(0).batch(0).x
    monkeypatch.setattr(Codec, "encode_blocks", None)  # whoever encodes again fails
    assert torch.equal(config.build(0).batch(0).x, first)
    file = next(Path(corpus).glob("codes-*/level-0.u16"))
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CorpusError, match="made anew"):
        config.build(0).batch(0)


def test_what_cannot_be_learnt_is_refused(codec, corpus):
    for config, error, why in (
            (CodesData(corpus=corpus), ConfigError, "data.model"),
            (CodesData(model=codec), ConfigError, "one of data.corpus and data.pictures"),
            (CodesData(model=codec, corpus=corpus, level=1), ConfigError, "1 levels"),
            (CodesData(model=codec, corpus=corpus + "x"), CorpusError, "missing")):
        with pytest.raises(error, match=why):
            config.build(0)


def test_a_prior_is_trained_by_the_loop_resumed_and_loaded(codec, corpus, tmp_path):
    experiment = Experiment(
        data=CodesData(model=codec, corpus=corpus, tokens=24, batch_size=4, validation_batches=1),
        model=PriorConfig(prior=CausalConfig(dim=32, depth=1, heads=2)),
        train=TrainConfig(steps=30, log_every=5, lr=3e-3, ema=0.9))
    train(experiment, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    nats = [row["total"] for row in rows if row["split"] == "train"]
    assert nats[-1] < nats[0] < math.log(32) + 0.2
    model = load_model(tmp_path / "run")
    source, untrained = build(experiment)
    batch = source.validation()[0]
    with torch.no_grad():
        learnt, raw = (m.eval().log_prob(batch.x, batch.condition).mean() for m in (model, untrained))
    assert learnt > raw
    assert model.data.codes.model == Codec.from_pretrained(codec, prior=False).fingerprint
    assert model.sample(2, size=(9,)).shape == (2, 2, 9)


@pytest.mark.parametrize("held", ["valid", "test"])
def test_a_prior_with_a_bigram_begins_where_counting_ends(codec, corpus, tmp_path, held):
    """Untrained, it says of every recording what the pairs counted in training say; trained, more."""
    experiment = Experiment(
        data=CodesData(model=codec, corpus=corpus, tokens=400, batch_size=4, validation_batches=1),
        model=PriorConfig(prior=CausalConfig(dim=32, depth=1, heads=2, bigram=True)),
        train=TrainConfig(steps=30, lr=3e-3, ema=0.9))
    source, model = build(experiment)
    train_part = [codes for _, codes in source.indexed("train")]
    counts = [Counts([codes[q] for codes in train_part], 32) for q in range(2)]
    weight = best_weight(counts, [codes for _, codes in source.indexed("valid")])
    with torch.no_grad():
        for _, codes in source.indexed(held):
            wanted = -sum(its.nats(row, weight) for its, row in zip(counts, codes, strict=True))
            assert float(model.eval().log_prob(torch.from_numpy(codes)[None])) == pytest.approx(wanted, rel=1e-5)
    train(experiment, tmp_path / "run")
    batch, learnt = source.batch(0), load_model(tmp_path / "run")
    assert learnt.log_prob(batch.x, batch.condition).mean() > model.log_prob(batch.x, batch.condition).mean()
    assert torch.equal(learnt.prior.bigram.table, model.prior.bigram.table)


def test_pictures_are_counted_row_after_row(pictures):
    source, model = build(Experiment(
        data=CodesData(model=pictures, pictures=DigitsData(), batch_size=8),
        model=PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2, bigram=True)), train=TrainConfig(steps=1)))
    rows = source.part("train").x.flatten(1).numpy()
    single = np.bincount(rows.ravel(), minlength=16) + 0.5
    assert model.prior.bigram.table[0].exp().numpy() == pytest.approx(single / single.sum())
    pairs, table = np.zeros((16, 16)), model.prior.bigram.table[1:].exp().numpy()
    np.add.at(pairs, (rows[:, :-1], rows[:, 1:]), 1)
    often = pairs.sum(1).argmax()  # of the commonest code, smoothing matters least
    assert table[often] == pytest.approx(pairs[often] / pairs[often].sum(), abs=0.02)


def test_codes_of_pictures_are_learnt_with_their_labels(pictures):
    source = CodesData(model=pictures, pictures=DigitsData(), batch_size=8).build(seed=0)
    part, inner = source.part("valid"), DigitsData().build(0).part("valid")
    loaded = load_model(pictures)
    assert torch.equal(part.x, loaded.encode_levels(inner.x)[0]) and torch.equal(part.condition.label,
                                                                                inner.condition.label)
    assert source.spec.size == (4, 4) and source.spec.codes.model == fingerprint(loaded)
    prior = PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2)).build(source.spec)
    assert prior.sample(3, source.batch(0).condition.first(3)).shape == (3, 1, 4, 4)
    assert prior(source.batch(0).x, source.batch(0).condition).params.shape == (8, 1, 4, 4)


def test_letters_are_code_points():
    assert letters("né").tolist() == [110, 233] and letters("").tolist() == [0]


def test_the_settings_are_read_from_toml_values():
    values = {"data": {"kind": "codes", "model": "m", "corpus": "c"},
              "model": {"kind": "prior", "prior": {"kind": "masked", "dim": 64}}}
    experiment = from_dict(Experiment, values, source="test")
    assert experiment.model.prior.dim == 64 and experiment.data.tokens == 512


def test_counting_is_what_counting_gives():
    train, held = [np.array([[0, 0, 1, 0]])], [np.array([[0, 1, 1]])]
    unigram, bigram = counted(train, held, size=2)
    p = np.array([3.5, 1.5]) / 5
    assert unigram[0] == pytest.approx(-np.log(p[[0, 1, 1]]).mean())
    pairs = {(0, 0): 1, (0, 1): 1, (1, 0): 1}
    nats = [-np.log([p[0], *((pairs.get((a, b), 0) + w * p[b]) / ((2, 1)[a] + w) for a, b in ((0, 1), (1, 1)))]).mean()
            for w in SMOOTHING]
    assert bigram[0] == pytest.approx(min(nats))


def test_a_prior_is_measured_by_the_command(codec, corpus, tmp_path, capsys):
    experiment = Experiment(data=CodesData(model=codec, corpus=corpus, tokens=16, batch_size=4, validation_batches=1),
                            model=PriorConfig(prior=CausalConfig(dim=16, depth=1, heads=2)),
                            train=TrainConfig(steps=2))
    train(experiment, tmp_path / "run")
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--split", "valid", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "bigram" in said and (tmp_path / "out" / "evaluation.html").exists()
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measures"]
    assert "3.47" in said and rows  # log 32, what knowing nothing costs
    source, model = experiment.data.build(0), load_model(tmp_path / "run")
    result = evaluate_prior(model, source, "valid")
    index, codes = next(source.indexed("valid"))
    with torch.no_grad():
        nats = sum(float(model.log_prob(b.x, b.condition).sum()) for b in source.stretches(index, 1))
    assert result.prior[0] == pytest.approx(-nats / codes.size, rel=1e-5) and result.codes[0] == codes.size
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--split", "valid", "--weights", "int8", "-o",
                 str(tmp_path / "small")]) == 0
    assert "prior, int8 weights" in capsys.readouterr().out
    small = evaluate_prior(model.quantized(), source, "valid")
    assert small.prior == pytest.approx(result.prior, rel=0.01) and (small.prior != result.prior).any()
    told = json.loads((tmp_path / "small" / "evaluation.json").read_text())["measures"][-1]
    assert told["nats a code"]["mean"] == pytest.approx(float(np.average(small.prior, weights=small.codes)))
    assert main(["evaluate", "--model", codec, "--weights", "int8", corpus]) == 2
    assert "for priors over codes" in capsys.readouterr().err
