"""Encoding a corpus: killed and started again nothing is lost and nothing done twice, whatever the format."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from processes import Process, command
from test_checkpoint import CONFIG, SPEC

from audiovae import corpus_encoding
from audiovae.audio.io import read_audio
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.codec import Codec
from audiovae.codes import CodePrior, Codes, CodeWriter
from audiovae.codes.prior import FILE
from audiovae.corpus_encoding import Settings, is_encoded
from audiovae.engines import run_local
from audiovae.errors import EngineError
from audiovae.parallel import ahead, in_order
from audiovae.shards import read_shards

RATE = SPEC.sample_rate
HOURS = ("--shard-hours", str(5 / 3600))  # five recordings of a second


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, CONFIG.build(SPEC).eval(), CONFIG)
    return folder


def lay(folder, count, seconds=1.0):
    """Recordings in folders of two speakers, every other one with its text."""
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / ("anna", "ben")[index % 2] / f"{index:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.uniform(-0.5, 0.5, round(seconds * RATE)), RATE)
        if index % 4 < 2:
            path.with_suffix(".txt").write_text(f"Sentence {index}.\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("lain") / "corpus", 12)


@pytest.fixture
def encode(model, capsys):
    """Run `audiovae encode` in this process; its exit code and the words it said."""
    def call(*words):
        code = main(["encode", *map(str, words), "--model", str(model), "--speaker", "anna"])
        return code, capsys.readouterr()
    return call


@pytest.fixture
def encoded(monkeypatch):
    """The recordings that this process encodes, in order."""
    names, encode_one = [], corpus_encoding._encode

    def noted(task, pieces):
        done = encode_one(task, pieces)
        if not done.skipped:
            names.append(done.job.relative.as_posix())
        return done

    monkeypatch.setattr(corpus_encoding, "_encode", noted)
    return names


def killed(words, until):
    """Start `audiovae encode`, and kill it without mercy once ``until`` gives true."""
    process = Process(command, "encode", *words)
    for _ in range(60_000):
        if until() or not process.running():
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    done = process.done()
    assert done.returncode == -signal.SIGKILL, done


def versions(folder, pattern):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob(pattern)}


def test_killed_and_started_again_every_file_is_encoded_once(model, encode, encoded, tmp_path):
    count = 120
    source, out = lay(tmp_path / "corpus", count), tmp_path / "out"
    killed([source, "-o", out, "--model", model, "--speaker", "anna"], lambda: any(out.rglob("[!.]*.codes")))
    before = versions(out, "[!.]*.codes")
    assert 0 < len(before) < count
    half = out / "anna/.000.tmp-0badf00d.codes"
    half.write_bytes(b"\x89AVCODE\nhalf")
    code, said = encode(source, "-o", out)
    after = versions(out, "[!.]*.codes")
    assert code == 0 and len(after) == count
    assert f"{count - len(before)} files encoded to {out}, {len(before)} skipped" in said.out
    assert all(after[path] == version for path, version in before.items()), "none is written twice"
    there = {path.relative_to(out).with_suffix(".wav").as_posix() for path in before}
    assert len(encoded) == len(set(encoded)) and set(encoded).isdisjoint(there)
    assert len(encoded) + len(there) == count
    alone = Codec.from_pretrained(model)
    for path in (out / "anna/000.codes", out / "ben/119.codes"):
        wave, rate = read_audio(source / path.relative_to(out).with_suffix(".wav"))
        assert np.array_equal(Codes.load(path).levels[0], alone.encode(wave, rate, "anna").levels[0])


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_killed_amid_shards_no_row_is_lost_or_double(format, model, encode, encoded, tmp_path):
    count = 60
    source, out = lay(tmp_path / "corpus", count), tmp_path / "out"
    words = [source, "-o", out, "--format", format, *HOURS]
    killed([*words, "--model", model, "--speaker", "anna"], lambda: any(out.glob("codes-00001.*")))
    before = versions(out, "codes-*")
    kept = [row.id for row in read_shards(out)]
    assert len(kept) == 5 * len(before) and 0 < len(kept) < count
    suffix = next(iter(before)).suffix
    (out / f".codes-00099.tmp-0badf00d{suffix}").write_bytes(b"half")
    code, said = encode(*words)
    rows = [row.id for row in read_shards(out)]
    assert code == 0 and f"{count - len(kept)} files encoded to shards in {out}, {len(kept)} skipped" in said.out
    assert len(rows) == count == len(set(rows))
    assert len(encoded) == count - len(kept) and {name.removesuffix(".wav") for name in encoded}.isdisjoint(kept)
    assert {path: version for path, version in versions(out, "codes-*").items() if path in before} == before
    assert not list(out.glob(".*"))


def test_bad_files_are_listed_and_tried_again(encode, tmp_path):
    source = lay(tmp_path / "corpus", 3)
    soundfile.write(source / "ben/silent.wav", np.zeros(RATE), RATE)
    (source / "anna/text.wav").write_text("no recording")
    for format in ("codes", "parquet"):
        out = tmp_path / format
        for done in ("3 files encoded", "0 files encoded"):
            code, said = encode(source, "-o", out, "--format", format)
            assert code == 2 and done in said.out and "2 failed" in said.out
            listed = [Path(line.split("\t")[0]).name for line in (out / "failed.tsv").read_text().splitlines()]
            assert listed == ["text.wav", "silent.wav"]
    soundfile.write(source / "ben/silent.wav", np.ones(RATE) / 2, RATE)
    (source / "anna/text.wav").unlink()
    code, said = encode(source, "-o", tmp_path / "codes")
    assert code == 0 and "1 files encoded" in said.out and not (tmp_path / "codes/failed.tsv").exists()


def test_what_is_no_longer_right_is_encoded_anew(encode, encoded, model, tmp_path):
    source, out = lay(tmp_path / "corpus", 5), tmp_path / "out"
    codes = [out / "anna/000.codes", out / "ben/001.codes", out / "anna/002.codes"]

    def again(*words):
        encoded.clear()
        assert encode(source, "-o", out, *words)[0] == 0
        return encoded

    assert len(again()) == 5 and again() == []
    codes[0].write_bytes(codes[0].read_bytes()[:-1])
    codes[1].unlink()
    soundfile.write(source / "anna/002.wav", np.ones(RATE // 2) / 2, RATE)
    assert again() == ["anna/000.wav", "anna/002.wav", "ben/001.wav"]
    assert Codes.load(codes[2]).seconds == 0.5 and again() == []
    assert len(again("--overwrite")) == 5
    assert main(["encode", str(source), "-o", str(out), "--model", str(model), "--speaker", "bert"]) == 0
    assert len(again()) == 5, "codes that are for another voice"
    assert [len(again("--format", "npz")), len(again("--format", "npz"))] == [5, 0]
    assert [len(again("--format", "npy")), len(again("--format", "npy"))] == [5, 5], "it does not say what made it"


@pytest.mark.parametrize("format", ["codes", "npz", "parquet", "webdataset"])
def test_another_folder_of_the_same_names_is_not_taken_for_the_first(format, encode, tmp_path):
    first, second, out = lay(tmp_path / "a", 2), lay(tmp_path / "b", 2, seconds=0.5), tmp_path / "out"
    how = ("-o", out, "--format", format)
    assert encode(first, *how)[0] == 0
    before = versions(out, "[!.]*.*")
    code, said = encode(second, *how)
    assert (code == 2 and "another recording" in said.err) or "other recordings" in said.err
    assert {path: its for path, its in versions(out, "[!.]*.*").items() if path.name != "failed.tsv"} == before
    code, said = encode(second, *how, "--overwrite")
    assert code == 0 and "2 files encoded" in said.out


def test_several_are_not_encoded_to_one_file(encode, corpus, tmp_path):
    code, said = encode(corpus / "anna/000.wav", tmp_path / "missing.wav", "-o", tmp_path / "x.codes")
    assert code == 2 and "is one file, but several" in said.err and not list(tmp_path.iterdir())


def test_a_file_is_as_large_as_inspect_and_evaluate_say(model, corpus, tmp_path, capsys):
    """With the prior that lies beside the model, and for inspect however it was cut into packets."""
    shutil.copytree(model, mine := tmp_path / "model")
    codec = Codec.from_pretrained(mine)
    CodePrior.uniform(codec.num_codes, codec.fingerprint).save(mine / FILE)
    source, target = corpus / "anna/000.wav", tmp_path / "x.codes"
    assert main(["encode", str(source), "-o", str(target), "--model", str(mine), "--speaker", "anna"]) == 0
    kbps = 8 * target.stat().st_size / 1000  # of a second
    assert main(["evaluate", str(source), "--model", str(mine), "-o", str(tmp_path)]) == 0
    row, = json.loads((tmp_path / "evaluation.json").read_text())["recordings"]
    codes = Codes.load(target, CodePrior.load(mine / FILE))
    without = replace(codes, prior=None).kbps
    assert abs(row["code file, kbit/s"] - kbps) < 0.1 * abs(without - kbps), "or the speaker's name is another"
    with CodeWriter(target, codes.header) as writer:
        for step in range(codes.levels[0].shape[1]):
            writer.write([codes.levels[0][:, step:step + 1]])
            writer.flush()
        writer.finish(codes.num_samples)
    assert 8 * target.stat().st_size / 1000 > 2 * kbps
    capsys.readouterr()
    assert main(["inspect", str(target)]) == 0
    assert f"{8 * target.stat().st_size / 1000:.2f} kbit/s as stored" in capsys.readouterr().out


def test_evaluate_draws_as_many_of_a_folder_as_it_is_asked_for(model, corpus, tmp_path):
    drawn = []
    for seed in ("0", "0", "1"):
        assert main(["evaluate", str(corpus), "--model", str(model), "--limit", "2", "--seed", seed, "-o",
                     str(tmp_path)]) == 0
        drawn.append([row["name"] for row in json.loads((tmp_path / "evaluation.json").read_text())["recordings"]])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 2


def test_codes_of_another_model_are_not_taken_for_ours(model, tmp_path, corpus):
    source, target = corpus / "anna/000.wav", tmp_path / "x.codes"
    Codec.from_pretrained(model).encode(read_audio(source)[0], RATE, "anna").save(target)
    assert is_encoded(source, target, Settings(str(model)))
    other = tmp_path / "other"
    other.mkdir()
    save_model(other, CONFIG.build(SPEC), CONFIG)
    assert not is_encoded(source, target, Settings(str(other)))
    assert not is_encoded(source, target, Settings(str(model), speaker="bert"))
    assert not is_encoded(source, target, Settings(str(model), overwrite=True))
    os.utime(target, (0, 0))
    assert not is_encoded(source, target, Settings(str(model)))


def test_codes_by_a_prior_that_lies_beside_the_model_are_taken_for_ours(model, corpus, encoded, tmp_path, capsys):
    shutil.copytree(model, mine := tmp_path / "model")
    codec = Codec.from_pretrained(mine)
    CodePrior.uniform(codec.num_codes, codec.fingerprint).save(mine / FILE)
    words = ["encode", str(corpus), "-o", str(tmp_path / "out"), "--model", str(mine), "--speaker", "anna"]
    assert main(words) == 0 and len(encoded) == 12
    assert main(words) == 0 and len(encoded) == 12, "all of them are there"
    assert "0 files encoded" in capsys.readouterr().out


def test_a_recording_that_changes_while_it_is_read_fails(encode, tmp_path, monkeypatch):
    source = lay(tmp_path / "corpus", 2)
    stream = corpus_encoding.Recording.__iter__

    def grows(recording):
        yield from stream(recording)
        if recording.path.name == "000.wav":
            os.utime(recording.path, (0, 0))

    monkeypatch.setattr(corpus_encoding.Recording, "__iter__", grows)
    code, said = encode(source, "-o", tmp_path / "out")
    assert code == 2 and "changed while it was read" in said.err and "1 files encoded" in said.out
    assert [path.name for path in (tmp_path / "out").rglob("*.codes")] == ["001.codes"]


def test_two_processes_write_the_same_bytes(encode, corpus, tmp_path):
    for workers in (1, 2):
        words = [corpus, "-o", tmp_path / f"{workers}", "--workers", workers, "--format", "webdataset", *HOURS]
        assert encode(*words)[0] == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12")
    assert one == two and sorted(one) == ["codes-00000.tar", "codes-00001.tar", "codes-00002.tar"]


def test_a_worker_that_dies_is_told_in_one_line():
    with pytest.raises(EngineError, match="run the command again"):
        list(run_local(_die, range(4), workers=2))


def _die(items):
    os.kill(os.getpid(), signal.SIGKILL)
    return items


def test_ahead_is_so_far_ahead_and_no_farther():
    made = []
    groups = ((name, (made.append(i) or i for i in range(100))) for name in "ab")
    for _, items in ahead(groups, limit=3):
        for used, item in enumerate(items):
            assert item == used
            time.sleep(0.0005)
            assert len(made) % 100 - used <= 3 + 2 or len(made) >= 100  # in the queue, in its hand, in ours
    assert len(made) == 200


def test_ahead_passes_over_what_is_left_and_ends_when_left():
    taken = []
    groups = ((name, iter(range(1000))) for name in "abc")
    for name, items in ahead(groups, limit=2):
        taken.append((name, next(items)))
    assert taken == [("a", 0), ("b", 0), ("c", 0)]
    made = []
    endless = ahead(((0, (made.append(i) or i for i in range(10**9))) for _ in range(1)), limit=2)
    next(endless)
    endless.close()
    count = len(made)
    time.sleep(0.01)
    assert len(made) == count < 10

    def broken():
        yield "a", [1]
        raise ValueError("no more groups")

    with pytest.raises(ValueError, match="no more groups"):
        [list(items) for _, items in ahead(broken())]


def test_in_order_never_has_more_under_way_than_its_window():
    waiting = set()

    def start(item):
        waiting.add(item)
        assert len(waiting) <= 3
        return lambda: waiting.remove(item) or item

    assert list(in_order(start, range(10), 3)) == list(range(10))
