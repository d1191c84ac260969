"""Shards: read by the libraries they are for, right when sources change, one writer at a time; Ray writes the same."""

import json
import os
import signal
import tarfile
from functools import partial

import numpy as np
import pytest
from test_corpus_encoding import HOURS, RATE, corpus, encode, encoded, lay, model  # noqa: F401

from audiovae.audio.io import read_audio
from audiovae.codec import Codec
from audiovae.corpus_encoding import Job, Settings, encode_jobs
from audiovae.engines import run_local, run_ray
from audiovae.errors import CodeFileError, OutputError
from audiovae.shards import Row, ShardWriter, read_shards


@pytest.fixture(scope="module")
def shards(model, corpus, tmp_path_factory):  # noqa: F811
    """The corpus in three shards of each format, and the codes that each recording gets alone, by id."""
    from audiovae.cli import main

    out = tmp_path_factory.mktemp("shards")
    for name in ("parquet", "webdataset"):
        assert main(["encode", str(corpus), "-o", str(out / name), "--format", name, *HOURS,
                     "--model", str(model)]) == 0
    codec = Codec.from_pretrained(model)
    alone = {path.relative_to(corpus).with_suffix("").as_posix(): codec.encode(*read_audio(path))
             for path in corpus.rglob("*.wav")}
    return out, alone


def check(row, alone):
    """A row as plain values, against what its recording gives alone."""
    codes, number = alone[row["id"]], int(row["id"][-3:])
    assert np.array_equal(np.array(row["codes"]), codes.levels[0])
    assert row["path"] == row["id"] + ".wav" and row["speaker"] == row["id"].split("/")[0]
    assert row["text"] == (f"Sentence {number}." if number % 4 < 2 else None)
    facts = (row["sample_rate"], row["num_samples"], row["hop"], row["fingerprint"], row["label"], row["channel"])
    assert facts == (RATE, RATE, 8, codes.fingerprint, codes.label, None) and list(row["num_codes"]) == [16]


def test_polars_reads_parquet(shards):
    polars = pytest.importorskip("polars")
    out, alone = shards
    table = polars.read_parquet(out / "parquet/codes-*.parquet")
    assert table.height == 12 and table["codes"].dtype == polars.List(polars.List(polars.UInt16))
    for row in table.iter_rows(named=True):
        check(row, alone)


@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_datasets_reads_both(shards, tmp_path):
    datasets = pytest.importorskip("datasets")
    out, alone = shards
    files = sorted(map(str, (out / "parquet").glob("*.parquet")))
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(table) == 12
    for row in table:
        check(row, alone)
    files = sorted(map(str, (out / "webdataset").glob("*.tar")))
    rows = list(datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True))
    assert len(rows) == 12
    for row in rows:
        check(row["json"] | {"codes": row["npy"]}, alone)


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_tar(shards):
    webdataset = pytest.importorskip("webdataset")
    out, alone = shards
    urls = sorted(map(str, (out / "webdataset").glob("*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 12
    for sample in samples:
        assert sample["__key__"] == sample["json"]["id"]
        check(sample["json"] | {"codes": sample["npy"]}, alone)


def test_rows_come_back_as_codes(shards):
    out, alone = shards
    for name in ("parquet", "webdataset"):
        rows = list(read_shards(out / name))
        assert {row.id for row in rows} == alone.keys()
        for row in rows:
            codes = row.to_codes()
            assert codes.header == alone[row.id].header and codes.num_samples == alone[row.id].num_samples
            assert np.array_equal(codes.levels[0], alone[row.id].levels[0])


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_changed_source_replaces_its_row(format, encode, encoded, tmp_path):  # noqa: F811
    source, out = lay(tmp_path / "corpus", 7), tmp_path / "out"
    words = [source, "-o", out, "--format", format, *HOURS]
    assert encode(*words)[0] == 0
    lay(source, 1, seconds=0.5)
    lay(tmp_path / "more", 1)
    (tmp_path / "more/anna/000.wav").rename(source / "anna/v1.2 %.wav")  # an id with dots
    encoded.clear()
    assert encode(*words)[0] == 0 and sorted(encoded) == ["anna/000.wav", "anna/v1.2 %.wav"]
    rows = {row.id: row.seconds for row in read_shards(out)}
    assert len(rows) == 8 == len(list(read_shards(out)))
    assert rows["anna/000"] == 0.5 and rows["anna/v1.2 %"] == 1
    encoded.clear()
    assert encode(*words)[0] == 0 and encoded == []
    assert encode(*words, "--overwrite")[0] == 0 and len(encoded) == 8 == len(list(read_shards(out)))


def row(name):
    return Row(name, f"{name}.wav", None, None, 16000, 640, 320, (8, 8), "9f3c", None, None, 0, 0,
               np.array([[1, 2], [3, 4]], np.uint16))


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_one_writer_at_a_time_and_a_row_for_each_id(format, tmp_path):
    with ShardWriter(tmp_path, format) as first:
        first.add(row("a"))
        with pytest.raises(OutputError, match="another process"), ShardWriter(tmp_path, format):
            pass
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, format) as second:
        second.add(row("b"))
        raise KeyboardInterrupt  # what was encoded is kept
    with ShardWriter(tmp_path, format) as third:
        assert third.done().keys() == {"a", "b"}
        third.remove({"a"})
        assert third.done().keys() == {"b"} and len(list(tmp_path.iterdir())) == 1
    assert [found.id for found in read_shards(tmp_path)] == ["b"]


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_damaged_shard_is_named(format, encode, corpus, tmp_path):  # noqa: F811
    with ShardWriter(tmp_path, format) as writer:
        writer.add(row("a"))
    path, = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(CodeFileError, match="codes-00000"):
        list(read_shards(tmp_path))
    code, said = encode(corpus, "-o", tmp_path, "--format", format)
    assert code == 2 and len(said.err.splitlines()) == 1 and "codes-00000" in said.err
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_equal_rows_make_equal_tar_members(tmp_path):
    with ShardWriter(tmp_path, "webdataset") as writer:
        writer.add(row("x/a.b"))
    with tarfile.open(tmp_path / "codes-00000.tar") as tar:
        assert tar.getnames() == ["x/a%2Eb.npy", "x/a%2Eb.json"]
        assert {member.mtime for member in tar} == {0}
        assert json.load(tar.extractfile("x/a%2Eb.json"))["id"] == "x/a.b"  # pyright: ignore


@pytest.fixture
def cluster(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default they starve beside other busy processes
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the paths of its sockets have to be short
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_writes_the_same_bytes_though_a_worker_is_killed(cluster, model, corpus, tmp_path):  # noqa: F811
    def jobs(out):
        found = sorted(corpus.rglob("*.wav"))
        return [Job(path, path.relative_to(corpus), out / path.relative_to(corpus).with_suffix(".codes"))
                for path in found]

    marker = tmp_path / "killed"

    def deadly(settings, batch):
        """As encode_jobs, but the first worker of all is killed after its first recording."""
        for done in encode_jobs(settings, batch):
            yield done
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings(str(model))
    local = list(run_local(partial(encode_jobs, settings), jobs(tmp_path / "local")))
    remote = list(run_ray(partial(deadly, settings), jobs(tmp_path / "ray")))
    assert marker.exists() and [done.job.path for done in remote] == [done.job.path for done in local]
    assert sum(done.skipped for done in remote) == 1, "what the dead worker had finished is not done twice"
    for job in jobs(tmp_path / "local"):
        twin = tmp_path / "ray" / job.target.relative_to(tmp_path / "local")
        assert twin.read_bytes() == job.target.read_bytes()
    rows = [[done.row for done in run(partial(encode_jobs, settings), [Job(job.path, job.relative) for job in
             jobs(tmp_path)])] for run in (run_local, run_ray)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.facts() == theirs.facts() and np.array_equal(ours.codes, theirs.codes)
