"""The prior over codes: exact whole numbers on every machine, lossless, never seeing what is not decoded yet."""

import io

import numpy as np
import pytest
import torch
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_info, threadpool_limits

from audiovae import checkpoint
from audiovae.audio.corpus import Corpus
from audiovae.audio.io import write_audio
from audiovae.bottlenecks import RVQConfig
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.codec import Codec
from audiovae.codes import CodePrior, CodeReader, Codes, CodeWriter, file, packets
from audiovae.codes.prior import CONTEXT, FILE, WIDEST, _powers, side_of
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.errors import CheckpointError, CodeFileError, ConfigError
from audiovae.models import AutoencoderConfig
from audiovae.prior_training import PriorNetwork, Recordings, encode_split, measure, train_prior
from audiovae.shapes import DataSpec

MODEL = "5a" * 8


def random_prior(num_codes=(64,) * 4, dim=5, width=7, most=40, seed=0) -> CodePrior:
    """Weights drawn anew, so that frequencies differ wildly; ``most`` 127 is the extreme."""
    rng = np.random.default_rng(seed)
    tensors = CodePrior.uniform(num_codes, MODEL, dim, width).tensors
    drawn = {name: rng.integers(-most, most + 1, value.shape).astype(value.dtype) for name, value in tensors.items()}
    drawn["order"] = np.stack([rng.permutation(size) for size in num_codes]).astype(np.uint16)
    return CodePrior(drawn, MODEL)


def random_rows(count=4, length=60, num_codes=64, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_codes, (count, length))


def codes_of(rows, prior=None, num_codes=64) -> Codes:
    return Codes((rows,), 16000, rows.shape[1] * 320, (320,), ((num_codes,) * len(rows),), MODEL, prior=prior)


def coded(prior, rows) -> np.ndarray:
    prior.encode(coder := stream.queue.RangeEncoder(), rows)
    return coder.get_compressed()


class Dice:
    """In place of a decoder: every symbol is drawn by the frequencies that the prior names."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def decode(self, family, frequencies):
        sums = frequencies.cumsum(axis=1)
        return (self.rng.random(len(sums))[:, None] * sums[:, -1:] >= sums).sum(axis=1)


def sampled(prior, length, seed=0) -> np.ndarray:
    """Codes as the prior expects them; its sizes must be squares, so that every place has a code."""
    return prior.decode(Dice(seed), len(prior.num_codes), length)


def cells(count, length):
    """(quantizer, step) in the order of coding: wave by wave."""
    return [[(q, wave - q) for q in range(count) if 0 <= wave - q < length] for wave in range(length + count - 1)]


def by_hand(prior, rows) -> np.ndarray:
    """Frequencies as the module's text defines them, cell by cell in Python's whole numbers."""
    tensors = {name: value.astype(object) for name, value in prior.tensors.items()}
    side, dim = side_of(prior.num_codes[0]), prior.tensors["embedding"].shape[2]
    places = [[int(np.flatnonzero(prior.tensors["order"][q] == k)[0]) for k in row] for q, row in enumerate(rows)]

    def total(q, t):
        zero = np.array([0] * dim, dtype=object)
        inside = q >= 0 and 0 <= t < rows.shape[1]
        return sum((tensors["embedding"][j, places[j][t]] for j in range(q + 1)), zero) if inside else zero

    def layer(x, name, *at):
        return (x @ tensors[name][at] + tensors[f"{name}_bias"][at]) // 64

    def frequencies(logits):
        return [int(_powers()[min(1280, max(logits) - value)]) for value in logits]

    found = []
    for wave in cells(*rows.shape):
        hidden = []
        for q, t in wave:
            x = np.concatenate([total(q - above, t - back + above) for back, above in CONTEXT]).clip(-255, 255)
            hidden.append(layer(x, "hidden", q).clip(0, 255))
        found += [frequencies(layer(h, "group", q)) for h, (q, _) in zip(hidden, wave, strict=True)]
        found += [frequencies(layer(h, "member", q, places[q][t] // side))
                  for h, (q, t) in zip(hidden, wave, strict=True)]
    return np.array(found)


@pytest.mark.parametrize(("num_codes", "most"), [(64, 40), (50, 127), (2, 127), (1000, 10)])
def test_frequencies_are_those_of_whole_numbers_by_hand(num_codes, most):
    prior, rows = random_prior((num_codes,) * 3, most=most), random_rows(3, 9, num_codes)
    frequencies = prior._coded(rows)[2]
    assert np.array_equal(frequencies, by_hand(prior, rows))
    assert len(np.unique(frequencies)) > 3
    assert (frequencies.sum(axis=1) == [sum(map(int, row[::-1])) for row in frequencies]).all(), "in any order"
    assert frequencies.min() >= 1


def test_the_widest_prior_of_the_largest_weights_is_still_exact():
    """The bound that float32 rests on, met by sums as large as they can be, of one sign."""
    tensors = CodePrior.uniform((4,), MODEL, WIDEST // len(CONTEXT), WIDEST).tensors
    tensors = {name: np.full_like(value, 2**17 if "bias" in name else 127) for name, value in tensors.items()}
    tensors["order"] = np.arange(4, dtype=np.uint16)[None]
    tensors["group"][:, ::3, 1] = 126
    tensors["member"][:, :, ::7, 0] = 125
    prior, rows = CodePrior(tensors, MODEL), random_rows(1, 4, 4)
    assert np.array_equal(prior._coded(rows)[2], by_hand(prior, rows))


def test_powers_are_the_largest_whole_numbers_below():
    for i, power in enumerate(map(int, _powers())):
        assert power**64 <= 2 ** (1280 - i) < (power + 1) ** 64


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from((2, 3, 16, 50, 1024)), count=st.integers(1, 5), length=st.integers(1, 70),
       seed=st.integers(0, 99))
def test_what_goes_in_comes_out_at_the_cost_that_is_told(size, count, length, seed):
    prior, rows = random_prior((size,) * 5, seed=seed), random_rows(count, length, size, seed)
    words = coded(prior, rows)
    assert np.array_equal(prior.decode(stream.queue.RangeDecoder(words), count, length), rows)
    # beside the words' own rounding: a frequency below 2^-24 of all is raised to it, and costs less than told
    assert 32 * len(words) <= prior.bits(rows) * 1.001 + 64


def test_bits_are_the_cross_entropy_of_a_source_that_the_prior_describes():
    """Codes drawn from the prior itself: coded at its entropy, and another prior does worse."""
    prior = random_prior(most=100)
    rows = sampled(prior, 500)
    assert 32 * len(coded(prior, rows)) == pytest.approx(prior.bits(rows), abs=64)
    assert prior.bits(rows) < 0.98 * random_prior(most=100, seed=1).bits(rows)


def test_a_later_code_changes_no_frequency_before_it_and_none_of_lower_quantizers():
    prior, rows = random_prior(), random_rows(4, 12)
    before = prior._coded(rows)[2]
    order = [(wave[0][0] + wave[0][1], kind, q, t) for wave in cells(4, 12) for kind in (0, 1) for q, t in wave]
    changed_some = False
    for at in np.ndindex(4, 12):
        other = rows.copy()
        other[at] = (other[at] + 23) % 64
        for (wave, kind, q, t), a, b in zip(order, before, prior._coded(other)[2], strict=True):
            known = (wave, kind) <= (sum(at), 0) or (wave == sum(at) and (q, t) != at) or q < at[0]
            assert not known or np.array_equal(a, b), (at, wave, kind, q, t)
            changed_some |= not np.array_equal(a, b)
    assert changed_some


def test_fewer_quantizers_are_predicted_as_among_all():
    prior, rows = random_prior(), random_rows()
    whole = dict(zip(_coding_order(4, 60), prior._coded(rows)[2], strict=True))
    for count in (1, 2, 3):
        part = prior._coded(rows[:count])[2]
        assert all(np.array_equal(f, whole[cell]) for cell, f in zip(_coding_order(count, 60), part, strict=True))


def _coding_order(count, length):
    return [(kind, q, t) for wave in cells(count, length) for kind in (0, 1) for q, t in wave]


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_the_file_is_the_same_however_the_codes_were_cut(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(packets, "STEPS", 32)
    prior, rows = random_prior(most=10), random_rows(4, 150)
    whole = codes_of(rows, prior)
    whole.save(tmp_path / "whole.codes")
    with CodeWriter(tmp_path / "cut.codes", whole.header, prior) as writer:
        for start in range(0, 150, cut):
            writer.write([rows[:, start:start + cut]])
        writer.finish(whole.num_samples)
    assert (tmp_path / "cut.codes").read_bytes() == (tmp_path / "whole.codes").read_bytes()
    with CodeReader(tmp_path / "cut.codes", prior) as reader:
        assert np.array_equal(np.concatenate([levels[0] for levels in reader], axis=1), rows)


def test_packets_through_a_pipe_are_coded_with_the_prior():
    """Handed on a few steps at a time and read forward only, from what says which prior it needs."""
    prior, rows = random_prior(), random_rows(length=50)
    rows = np.concatenate([sampled(prior, 40), rows], axis=1)  # likely codes, then unlikely ones
    codes = codes_of(rows, prior)
    with CodeWriter(target := io.BytesIO(), codes.header, prior) as writer:
        for part in np.array_split(rows, 9, axis=1):
            writer.write((part,))
            writer.flush()
        writer.finish(codes.num_samples)
    with CodeReader(io.BytesIO(target.getvalue()), prior) as reader:
        packets = [levels[0] for levels in reader]
    assert len(packets) == 9 and np.array_equal(np.concatenate(packets, axis=1), rows) and reader.prior is prior
    with pytest.raises(CodeFileError, match="not at hand"), CodeReader(io.BytesIO(target.getvalue())):
        pass
    assert codes.slice(0.1, 0.5).codes.prior is prior and Codes.concatenate([codes, codes]).prior is prior


def test_the_words_are_the_same_for_every_number_of_threads():
    prior, rows, words = random_prior((256,) * 4, dim=64, width=256), random_rows(4, 400, 256), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                assert {pool["num_threads"] for pool in threadpool_info()} == {threads}
                words.append(coded(prior, rows))
        finally:
            torch.set_num_threads(1)
    assert np.array_equal(*words)


def test_each_packet_takes_the_model_that_makes_it_smaller(tmp_path, monkeypatch):
    """Half of the codes are as the prior expects, half are a few that only counting can learn."""
    monkeypatch.setattr(packets, "STEPS", 256)
    prior = random_prior(most=20)
    usual, odd = sampled(prior, 512), random_rows(4, 512, 64) % 3 + 40
    rows = np.concatenate([odd, usual, odd], axis=1)
    sizes = {}
    for name, one in (("prior", prior), ("counting", None)):
        codes_of(rows, one).save(path := tmp_path / name)
        sizes[name] = path.stat().st_size
        again = Codes.load(path, prior)
        assert np.array_equal(again.levels[0], rows) and (again.prior is prior) == (name == "prior")
    with CodeReader(tmp_path / "prior", prior) as reader:
        kinds, data = [], (tmp_path / "prior").read_bytes()
        at = reader._file.tell()
        while not data[at:].startswith(file.END):
            kinds.append(data[at + 8 + 4] == packets.LEARNT)
            at += 8 + int.from_bytes(data[at:at + 4], "little")
    assert kinds == [False, False, True, True, False, False]
    learnt_alone = 32 * len(coded(prior, rows)) // 8
    assert sizes["prior"] < min(sizes["counting"], learnt_alone)
    assert codes_of(usual, prior).bits_per_code == pytest.approx(prior.bits(usual) / usual.size, abs=0.05)


def test_a_file_says_which_prior_it_needs(tmp_path, monkeypatch):
    prior, other = random_prior(most=20), random_prior(seed=1)
    codes_of(sampled(prior, 60), prior).save(path := tmp_path / "a.codes")
    with pytest.raises(CodeFileError, match=rf"{prior.fingerprint} of model {MODEL}, which is not at hand: name"):
        Codes.load(path)
    with pytest.raises(CodeFileError, match=f"not with the one given, {other.fingerprint}"):
        Codes.load(path, other)
    (tmp_path / "own" / "speech").mkdir(parents=True)
    prior.save(tmp_path / "own" / "speech" / FILE)
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path / "own")
    assert np.array_equal(Codes.load(path).levels[0], sampled(prior, 60)), "one that comes with audiovae is found"


def test_every_changed_byte_is_seen(tmp_path):
    prior = random_prior(most=20)
    codes_of(sampled(prior, 40), prior).save(path := tmp_path / "a.codes")
    data = path.read_bytes()
    for position in range(len(data)):
        for change in (0x01, 0xFF):
            path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1:])
            with pytest.raises(CodeFileError):
                Codes.load(path, prior)


def test_a_forged_packet_decodes_to_nothing():
    rng, prior = np.random.default_rng(0), random_prior((50,) * 2)
    header = codes_of(random_rows(2, 9, 50), num_codes=50).header
    for _ in range(200):
        payload = rng.integers(0, 60, dtype=np.uint32).tobytes() + b"\xff" + rng.bytes(4 * int(rng.integers(1, 9)))
        assert packets.Packets(header, prior).decode(payload) is None
        assert packets.Packets(header).decode(payload) is None, "255 is no weight"


def test_what_is_saved_is_what_is_loaded(tmp_path):
    prior = random_prior()
    prior.facts["measured"] = "5 bits"
    prior.save(path := tmp_path / FILE)
    again = CodePrior.load(path)
    assert (again.fingerprint, again.model, again.facts) == (prior.fingerprint, MODEL, {"measured": "5 bits"})
    assert np.array_equal(coded(again, random_rows()), coded(prior, random_rows()))
    assert random_prior(seed=1).fingerprint != prior.fingerprint
    assert CodePrior(prior.tensors, "other").fingerprint != prior.fingerprint


@pytest.mark.parametrize("harm", [
    lambda t: t.pop("group"), lambda t: t.update(more=t["group"]), lambda t: t.update(group=t["group"][:, :-1]),
    lambda t: t.update(group=t["group"].astype(np.float32)), lambda t: t["order"].fill(0),
    lambda t: t["member"].fill(-128), lambda t: t["hidden_bias"].fill(2**17 + 1),
    lambda t: t.update(embedding=t["order"]),
])
def test_what_is_no_prior_is_refused(tmp_path, harm):
    random_prior().save(path := tmp_path / FILE)
    tensors = load_file(path)
    harm(tensors)
    save_file(tensors, path, {"format": "1", "model": MODEL})
    with pytest.raises(CheckpointError, match=f"{FILE}: no prior over codes"):
        CodePrior.load(path)


def test_a_broken_or_newer_prior_file_is_refused(tmp_path):
    prior = random_prior()
    prior.save(path := tmp_path / FILE)
    data = path.read_bytes()
    for broken in (data[:-1], b"", b"\x80\x04.", data[:40]):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            CodePrior.load(path)
    save_file(prior.tensors, path, {"format": "2", "model": MODEL})
    with pytest.raises(CheckpointError, match="format 2"):
        CodePrior.load(path)
    with pytest.raises(CheckpointError):
        CodePrior.uniform((16,), MODEL, width=WIDEST + 1)


def test_a_prior_of_other_codes_is_refused():
    rows = random_rows(4, 20)
    for bad, num_codes in ((random_prior((64,) * 3), 64), (random_prior((32,) * 4), 64)):
        with pytest.raises(CodeFileError, match="leave it out"):
            codes_of(rows, bad, num_codes)
    with pytest.raises(CodeFileError, match="not for these of model abcd"):
        Codes((rows,), 16000, 100, (320,), ((64,) * 4,), "abcd", prior=random_prior())


CONFIG = AutoencoderConfig(
    encoder=StridedEncoderConfig(strides=(4, 4, 4), width=8, depth=1),
    decoder=StridedDecoderConfig(strides=(4, 4, 4), width=8, depth=1),
    bottleneck=RVQConfig(num_codes=30, num_quantizers=3, dim=6))


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_corpus):
    """A checkpoint whose codebooks are drawn from its own latents of the corpus, so that codes follow each other."""
    torch.manual_seed(1)
    corpus = Corpus.open(tiny_corpus)
    wave = torch.from_numpy(np.concatenate([corpus.audio(u) for u in corpus.utterances("train")]))
    model = CONFIG.build(DataSpec(1, 1, corpus.sample_rate))
    with torch.no_grad():
        for _ in range(3):
            model.train()(wave[None, None, :len(wave) // 64 * 64])
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, model.eval(), CONFIG)
    return folder


def test_the_network_that_is_trained_is_the_one_that_codes(model):
    """Its loss, rounded on the way, is the cost that the whole numbers exported from it tell: to a thousandth."""
    network = PriorNetwork(codec := Codec.from_pretrained(model), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for value in network.parameters():
            value += 0.3 * torch.randn_like(value)
        rows = torch.randint(30, (3, 50))
        told = network(network.places(rows)[:, None]).sum()
    assert network.export(codec.fingerprint).bits(rows.numpy()) == pytest.approx(float(told), rel=2e-3)


def structured(length, seed) -> np.ndarray:
    """Three quantizers of 30: a walk by -1, 0 or 1; the first again, noisy; and what the second was a step ago."""
    rng = np.random.default_rng(seed)
    first = rng.integers(-1, 2, length).cumsum()
    second = first + rng.integers(0, 2, length)
    return np.stack([first, second, np.roll(second, 1)]) % 30


def test_training_finds_what_codes_tell_of_each_other(model):
    """Much less than log2 30 = 4.91 bits, which is all that any count of single codes can reach here."""
    codec = Codec.from_pretrained(model)
    prior = train_prior(codec, [structured(20_000, 0)], steps=80)
    new = structured(4000, 1)
    assert prior.bits(new) / new.size < 3
    table = measure(codec, prior, Recordings((new[:, :2000], new[:, 2000:]), (2000 * codec.hop,) * 2))
    assert [row[1] for row in table.rows] == [1, 2, 3]
    assert float(table.rows[-1][4]) == pytest.approx(prior.bits(new) / new.size, abs=0.03)
    assert float(table.rows[-1][3]) > 4.8
    again = [train_prior(codec, [new], steps=2, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_recordings_of_a_corpus_are_encoded_up_to_the_hours_asked_for(model, tiny_corpus):
    codec, corpus = Codec.from_pretrained(model), Corpus.open(tiny_corpus)
    whole = encode_split(codec, corpus, "train", hours=1)
    assert sorted(whole.samples) == sorted(u.length for u in corpus.utterances("train"))
    half = encode_split(codec, corpus, "train", hours=sum(whole.samples) / 2 / corpus.sample_rate / 3600)
    assert 0 < len(half.codes) < len(whole.codes) and np.array_equal(half.codes[0], whole.codes[0])


def test_from_the_command_line(model, tiny_corpus, tmp_path, capsys):
    """Trained, taken up by itself, left out on demand, needed to decode, told by inspect."""
    wave = torch.sin(torch.arange(32000) / 9) * 0.3 + 0.1 * torch.randn(32000)
    write_audio(tmp_path / "in.wav", wave[None], 16000)

    def call(*words):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = call("prior", tiny_corpus, "--model", model, "--steps", 10)
    assert code == 0 and str(model / FILE) in said and "log2 K" in said
    before = (model / FILE).read_bytes()
    code, said = call("prior", tiny_corpus, "--model", model, "--steps", 20)  # files made with it would be lost
    assert code == 2 and "--replace" in said and (model / FILE).read_bytes() == before
    assert call("prior", tiny_corpus, "--model", model, "--steps", 20, "--replace")[0] == 0
    assert (model / FILE).read_bytes() != before
    prior = CodePrior.load(model / FILE)
    codec = Codec.from_pretrained(model, kbps=3)
    assert codec.prior is not None and codec.prior.fingerprint == prior.fingerprint and len(codec.num_codes) == 2
    try:
        for name, more in (("a", []), ("b", ["--no-prior"])):
            assert call("encode", tmp_path / "in.wav", "-o", tmp_path / f"{name}.codes", "--model", model, "--kbps", 3,
                        *more)[0] == 0
            assert call("decode", tmp_path / f"{name}.codes", "-o", tmp_path / f"{name}.wav", "--model", model)[0] == 0
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
        code, said = call("inspect", tmp_path / "a.codes")
        assert code == 2 and "which is not at hand" in said and said.count("\n") == 1
        code, said = call("inspect", tmp_path / "a.codes", "--model", model)
        assert code == 0 and f"of 4.91, by prior {prior.fingerprint}" in said
        assert "of 4.91, by counting" in call("inspect", tmp_path / "b.codes")[1]
        assert f"prior       {prior.fingerprint}" in call("inspect", model)[1]
        CodePrior(prior.tensors, "another").save(model / FILE)
        code, said = call("encode", tmp_path / "in.wav", "-o", tmp_path / "c.codes", "--model", model)
        assert code == 2 and "for codes of model another" in said
    finally:
        (model / FILE).unlink()


def test_quantizers_of_several_sizes_have_no_prior(model):
    codec = Codec.from_pretrained(model)
    codec.num_codes = (30, 16)
    with pytest.raises(ConfigError, match="of one size"):
        PriorNetwork(codec, torch.Generator())
