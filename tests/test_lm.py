"""Codes as tokens: every pattern undone exactly, cut anywhere; batches with who speaks and what is said."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec import build
from test_codes import random_codes

from audiovae.codec import Codec
from audiovae.codes import CodeHeader, Codes
from audiovae.errors import AudioError, CodeFileError, ConfigError, ShapeError
from audiovae.lm import Utterances, Vocabulary
from audiovae.shards import Row

RECIPE = Path(__file__).parent.parent / "recipes/speech_lm/train_lm.py"


@st.composite
def cases(draw):
    sizes = tuple(draw(st.lists(st.sampled_from((1, 2, 5, 1024)), min_size=1, max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    steps = draw(st.integers(0, 12))
    codes = np.stack([rng.integers(0, k, steps) for k in sizes])
    return Vocabulary(sizes, draw(st.sampled_from(("flat", "delay")))), codes


@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_codes_come_back_from_tokens_cut_anywhere(case):
    vocabulary, codes = case
    tokens = vocabulary.tokens(codes)
    rows, steps = codes.shape
    assert tokens.min() >= 0 and tokens.max() < vocabulary.size
    assert tokens.shape == ((2 + rows * steps,) if vocabulary.pattern == "flat" else (rows, 1 + steps + rows))
    for length in range(1, tokens.shape[-1] + 1):
        whole = (length - 1) // rows if vocabulary.pattern == "flat" else max(0, length - rows)
        back = vocabulary.codes(tokens[..., :length])
        assert np.array_equal(back, codes[:, :min(whole, steps)])
    padding = np.full((*tokens.shape[:-1], 3), vocabulary.pad)
    assert np.array_equal(vocabulary.codes(torch.from_numpy(np.concatenate([tokens, padding], axis=-1))), codes)


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_the_patterns_are_what_they_say(case):
    """Against the definitions: step t of quantizer q at place 1 + t Q + q of one row, at 1 + t + q of row q."""
    vocabulary, codes = case
    tokens, (rows, steps) = vocabulary.tokens(codes), codes.shape
    for q in range(rows):
        for t in range(steps):
            if vocabulary.pattern == "flat":
                assert tokens[1 + t * rows + q] == sum(vocabulary.num_codes[:q]) + codes[q, t]
            else:
                assert tokens[q, 1 + t + q] == codes[q, t]
    specials = [vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.empty]
    most = sum(vocabulary.num_codes) if vocabulary.pattern == "flat" else max(vocabulary.num_codes)
    assert specials == [most, most + 1, most + 2, most + 3] and vocabulary.size == most + 4


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_what_is_legal_can_be_read_and_what_is_written_is_legal(case, seed):
    vocabulary, codes = case
    rows, rng = len(codes), np.random.default_rng(seed)
    tokens = np.atleast_2d(vocabulary.tokens(codes))
    first_end = 1 + codes.size if vocabulary.pattern == "flat" else 1 + codes.shape[1]
    for place in range(first_end + 1):
        legal = np.atleast_2d(vocabulary.legal(place))
        ended = [vocabulary.pattern == "delay" and q > 0 and place >= first_end + q for q in range(len(tokens))]
        assert all(legal[q, tokens[q, place]] or ended[q] for q in range(len(tokens)))
    made = [[rng.choice(np.flatnonzero(row)) for row in np.atleast_2d(vocabulary.legal(place))] for place in range(9)]
    made = np.array(made).T
    vocabulary.codes(made[0] if vocabulary.pattern == "flat" else made)
    broken = vocabulary.tokens(np.zeros((rows, 2), int))
    broken[..., 0] = vocabulary.eos
    with pytest.raises(ShapeError, match="begin with bos"):
        vocabulary.codes(broken)


def test_a_code_in_the_wrong_place_is_named():
    flat, delay = Vocabulary((4, 3)), Vocabulary((4, 3), "delay")
    with pytest.raises(ShapeError, match=r"token 2 is no code of quantizer 1 \(step 0\)"):
        flat.codes(np.array([flat.bos, 3, 2]))
    with pytest.raises(ShapeError, match="token 3 is no code of quantizer 1"):
        delay.codes(np.array([[delay.bos, 3, 1], [delay.bos, delay.empty, 3]]))
    with pytest.raises(ShapeError, match="1 times empty"):
        delay.codes(np.array([[delay.bos, 3], [delay.bos, 0]]))
    for wrong in (np.array([[4], [0]]), np.array([[0], [-1]]), np.zeros((1, 5), int), np.zeros(4, int)):
        with pytest.raises(ShapeError, match="wants codes as"):
            flat.tokens(wrong)
    with pytest.raises(ShapeError, match=r"\(Q=2, S\)"):
        delay.codes(np.zeros(4, int))
    header = CodeHeader(16000, (320,), ((4, 3),), "f")
    with pytest.raises(ShapeError, match="no whole step"):
        flat.to_codes(np.array([flat.bos, 3]), header)
    with pytest.raises(ShapeError, match="does not fit"):
        Vocabulary((4,)).to_codes(np.array([4, 1]), header)
    assert flat.to_codes(flat.tokens(np.array([[3, 1], [2, 0]])), header).num_samples == 640
    with pytest.raises(ConfigError, match="'flat' or 'delay'"):
        Vocabulary((4,), "parallel")  # type: ignore


@pytest.fixture
def folder(tmp_path):
    for name, samples, label in (("a", 700, "anna"), ("deep/b", 2000, None), ("deep/c", 64, "carl")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        random_codes(num_samples=samples, label=label, seed=samples).save(tmp_path / f"{name}.codes")
    (tmp_path / "deep/b.txt").write_text("Said so.\n")
    return tmp_path


def test_batches_hold_every_utterance_once_with_its_length_speaker_and_text(folder):
    utterances = Utterances(folder)
    vocabulary = Vocabulary(utterances.header.num_codes[0], "delay")
    said = {"anna": None, None: "Said so.", "carl": None}
    orders = set()
    for seed in (None, 0, 1, 2, 3, 4):
        seen = []
        for batch in utterances.batches(vocabulary, 2, seed):
            for row, length, speaker, text in zip(*batch, strict=True):
                assert said[speaker] == text and (row[:, length:] == vocabulary.pad).all()
                place = [u.speaker for u in utterances].index(speaker)
                assert np.array_equal(vocabulary.codes(row[:, :length]), utterances[place].codes)
                seen.append(speaker)
        assert sorted(map(str, seen)) == ["None", "anna", "carl"]
        orders.add(tuple(seen))
    assert len(orders) > 1
    for batch in utterances.batches(vocabulary, 3, seed=5, steps=8):
        assert batch.lengths.tolist() == [{"anna": 8, None: 8, "carl": 1}[s] + 3 for s in batch.speakers]


def test_rows_of_shards_bring_speaker_and_text_along(folder):
    rows = []
    for path in sorted(folder.rglob("*.codes")):
        codes, header = Codes.load(path), Codes.load(path).header
        rows.append(Row(path.stem, path.name, f"of {path.stem}", "Said so.", header.sample_rate, codes.num_samples,
                        header.hops[0], header.num_codes[0], header.fingerprint, None, None, 0, 0,
                        codes.levels[0].astype(np.uint16)))
    plain, rowed = Utterances(folder), Utterances(rows)
    assert len(plain) == len(rowed) == 3
    for ours, theirs in zip(rowed, plain, strict=True):
        assert np.array_equal(ours.codes, theirs.codes) and ours.text == "Said so." and ours.speaker.startswith("of ")


def test_a_table_goes_before_text_and_label(folder):
    (folder / "metadata.tsv").write_text('file\tspeaker\ttext\ndeep/b.codes\tbert\t"Quoted" ü\na.codes\t\tOnly text\n')
    found = [(u.speaker, u.text) for u in Utterances(folder)]
    assert found == [("anna", "Only text"), ("bert", '"Quoted" ü'), ("carl", None)]
    (folder / "metadata.tsv").write_text("name\ttext\n")
    with pytest.raises(ConfigError, match="file, speaker and text"):
        Utterances(folder)


def test_codes_of_several_models_are_no_corpus(folder):
    random_codes(num_codes=((16,),)).save(folder / "z.codes")
    with pytest.raises(CodeFileError, match="encode all at one rate"):
        list(Utterances(folder))
    with pytest.raises(CodeFileError, match="one level"):
        list(Utterances([random_codes((8, 16), ((2,), (2,)))]))
    (folder / "empty").mkdir()
    with pytest.raises(AudioError, match="no file to read"):
        Utterances(folder / "empty")
    with pytest.raises(ShapeError, match="at least one"):
        Utterances([])


def test_the_recipe_trains_and_speaks(tmp_path, monkeypatch, capsys):
    codec = Codec(build("spectral", labels=()))
    for i in range(3):
        codec.encode(torch.randn(8000), 8000).save(tmp_path / f"{i}.codes")
    monkeypatch.setattr(Codec, "from_pretrained", lambda *_: codec)
    spec = importlib.util.spec_from_file_location("train_lm", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.main([str(tmp_path), "--model", "x", "--output", str(tmp_path / "out.wav"), "--minutes", "0.001",
                 "--dim", "16", "--depth", "1", "--batch", "2", "--steps", "20"])
    assert soundfile.info(tmp_path / "out.wav").frames == 20 * 64
    assert "bits a code" in capsys.readouterr().out
    model = recipe.SpeechLM(2, 20, 16, 1, 30).eval()
    tokens = torch.randint(20, (1, 2, 9), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[..., 5] = (changed[..., 5] + 1) % 20
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :, :5], after[:, :, :5]) and not torch.allclose(before[:, :, 5:], after[:, :, 5:])
