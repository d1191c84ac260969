"""Corpora as people have them, through the command: each oddity ends in a clear line and a corpus, or in code 2."""

import json
import zlib

import numpy as np
import pytest
import soundfile
from processes import run

from audiovae.cli import main

RATE = 16_000


def record(path, seconds=1.0, rate=RATE, channels=1, text=None, text_suffix=".txt"):
    """A recording of noise, another for each path, and its text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(str(path.parts[-3:]).encode()))
    noise = 0.1 * generator.standard_normal(round(seconds * rate))
    soundfile.write(path, np.repeat(noise[:, None], channels, axis=1), rate)
    if text is not None:
        path.with_suffix(text_suffix).write_text(text, encoding="utf-8")


@pytest.fixture
def prepare(tmp_path, capsys):
    """Run the command; its exit code, what it said, the manifest's rows by id, and the reasons of what it rejected."""

    def prepare(*words, out="corpus"):
        code = main(["prepare", *map(str, words), "-o", str(tmp_path / out)])
        said, errors = capsys.readouterr()
        if code:
            assert code == 2 and said == "" and len(errors.splitlines()) == 1, errors
            assert errors.startswith("audiovae: prepare: ") and not (tmp_path / out).exists()
            return errors, {}, {}
        rows = [json.loads(line) for line in (tmp_path / out / "manifest.jsonl").read_text().splitlines()]
        lines = (tmp_path / out / "rejected.tsv").read_text().splitlines()
        return said, {row["id"]: row for row in rows}, dict(line.split("\t") for line in lines)

    return prepare


def test_a_corpus_with_one_speaker(tmp_path, prepare):
    for i in range(5):
        record(tmp_path / f"s/anna/{i}.wav")
    said, rows, _ = prepare(tmp_path / "s")
    assert "There is one speaker, anna: enough for a codec; conversion wants two or more." in said
    assert {row["split"] for row in rows.values()} == {"train", "valid", "test"}
    said, _, _ = prepare(tmp_path / "s", "--test-by", "speaker", out="other")
    assert "would take all 1 speakers: split by sentence" in said


def test_speakers_with_three_recordings(tmp_path, prepare):
    for name in ("anna", "ben", "cleo"):
        for i in range(3):
            record(tmp_path / f"s/{name}/{name}{i}.wav", seconds=0.5 + 0.1 * (name == "ben"))
    said, rows, rejected = prepare(tmp_path / "s", "--seed", "1")
    assert len(rows) == 9 and not rejected
    trained = {row["speaker"]: 0.0 for row in rows.values() if row["split"] == "train"}
    for row in rows.values():
        if row["split"] == "train":
            trained[row["speaker"]] += row["seconds"]
    least = min(trained.values())
    assert f"Speakers with less than 60 s to train on: {len(trained)}, the least " in said and f"{least:.1f} s;" in said


def test_a_speaker_whose_recordings_all_went_to_test_is_named(tmp_path, prepare):
    for i in range(8):
        record(tmp_path / f"s/anna/{i}.wav", text=f"Sentence {i}.")
    said, rows, _ = prepare(tmp_path / "s")
    held = next(row["text"] for row in rows.values() if row["split"] == "test")
    record(tmp_path / "s/ben/1.wav", text=held)
    said, rows, _ = prepare(tmp_path / "s", out="other")
    assert rows["ben/1"]["split"] == "test"
    assert "Speakers with nothing left to train on: 1, such as ben;" in said


def test_missing_transcripts(tmp_path, prepare):
    for i in range(6):
        record(tmp_path / f"s/anna/{i}.wav", text=f"Sentence {i}.")
        record(tmp_path / f"s/ben/{i}.wav", text="  \n" if i == 5 else f"Sentence {i}." if i else None)
    said, rows, rejected = prepare(tmp_path / "s")
    assert rejected.keys() == {"ben/0.wav", "ben/5.wav"} and "Rejected most: 2 × no text" in said
    assert all(row["text"] == f"Sentence {row['id'][-1]}." for row in rows.values()) and len(rows) == 10
    by_speaker = ("--test-by", "speaker", "--valid-by", "speaker", "--valid", "0")
    said, rows, rejected = prepare(tmp_path / "s", *by_speaker, out="other")
    assert not rejected and len(rows) == 12 and rows["ben/0"]["text"] is None


def test_a_speaker_name_in_two_corpora(tmp_path, prepare):
    for i in range(4):
        record(tmp_path / f"one/anna/{i}.wav", text=f"Sentence {i}.")
        record(tmp_path / f"two/anna/{i}.flac", seconds=0.9)
        record(tmp_path / f"two/ben/{i}.wav", seconds=0.8)
    said, rows, rejected = prepare(tmp_path / "one", tmp_path / "two")
    assert "in more than one corpus: 1; each is taken for voices of its own, such as anna@one and anna@two." in said
    assert {row["speaker"] for row in rows.values()} == {"anna@one", "anna@two", "ben"} and len(rows) == 12
    assert rows["anna/0@one"]["path"] == "one/anna/0.wav" and rows["anna/0@one"]["text"] == "Sentence 0."
    assert rows["anna/0@two"]["path"] == "two/anna/0.flac" and rows["ben/0"]["speaker"] == "ben"
    assert not rejected, "the second corpus has no texts at all, so none is missing"
    for again in (tmp_path / "one", tmp_path / "one/anna"):
        said, _, _ = prepare(tmp_path / "one", again, "--layout", "speakers", out="other")
        assert "hold the same recordings: name one" in said or "holds no recording" in said


def test_stereo_8_khz_silent_and_short_recordings(tmp_path, prepare):
    for i in range(4):
        record(tmp_path / f"s/anna/{i}.wav", rate=8000, channels=2)
        record(tmp_path / f"s/ben/{i}.wav", rate=44_100)
    soundfile.write(tmp_path / "s/ben/silent.wav", np.zeros(RATE), RATE)
    record(tmp_path / "s/ben/short.wav", seconds=0.299)
    record(tmp_path / "s/ben/enough.wav", seconds=0.3)
    said, rows, rejected = prepare(tmp_path / "s")
    assert "Recordings made at less than 16000 Hz: 4, the lowest at 8000 Hz, which holds nothing above 4000 Hz" in said
    assert {row["length"] for row in rows.values()} == {RATE, 4800} and rows["ben/enough"]["length"] == 4800
    assert rejected == {"ben/silent.wav": "silent", "ben/short.wav": "shorter than 0.3 s"}
    assert "1 × silent" in said and "1 × shorter than 0.3 s" in said
    for path in (tmp_path / "s").rglob("*.wav"):
        soundfile.write(path, np.zeros(RATE), RATE)
    said, _, _ = prepare(tmp_path / "s", out="none")
    assert "none of the 11 recordings in" in said and "silent" in said


def test_libritts_with_texts_and_sexes(tmp_path, prepare):
    root = tmp_path / "LibriTTS/dev-clean"
    for reader in ("84", "174"):
        for i in range(4):
            path = root / reader / "121" / f"{reader}_121_00000{i}_000000.wav"
            record(path, rate=24_000, text=f"Sentence {i} of {reader}.", text_suffix=".normalized.txt")
            path.with_suffix(".original.txt").write_text("not this one")
    table = "READER\tGENDER\tSUBSET\tNAME\n84\tF\tdev-clean\tA\n174\tM\tdev-clean\tB\n"
    (tmp_path / "LibriTTS/speakers.tsv").write_text(table)
    said, rows, rejected = prepare(root)
    assert "layout libri" in said and not rejected and len(rows) == 8
    assert rows["84_121_000001_000000"]["text"] == "Sentence 1 of 84." and rows["84_121_000001_000000"]["gender"] == "F"
    assert {(row["speaker"], row["gender"]) for row in rows.values()} == {("84", "F"), ("174", "M")}


def test_the_layout_of_speechocean_by_the_installed_command(tmp_path):
    """That of VCTK 0.80 at 16 kHz, with phones beside the texts and a split of its own."""
    root = tmp_path / "speechocean"
    for who in ("p0001", "p0003"):
        for i in range(6):
            record(root / f"wav48/{who}/{who}_00{i}.wav")
            for kind, said in (("txt", f"WE CALL IT {i}"), ("phones", "W IY0")):
                (root / kind / who).mkdir(parents=True, exist_ok=True)
                (root / kind / who / f"{who}_00{i}.txt").write_text(said)
    (root / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS  REGION\np0001  6  M  Mandarin  China\n"
                                           "p0003  7  F  Mandarin  China\n")
    (root / "split.txt").write_text("p0001 train\np0003 test\n")
    result = run("prepare", "vctk", root, "-o", tmp_path / "corpus", "--test-by", "given")
    assert result.returncode == 0 and result.stderr == "" and "layout vctk-0.80" in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "corpus/manifest.jsonl").read_text().splitlines()]
    assert all(row["text"] == f"WE CALL IT {row['id'][-1]}" for row in rows) and len(rows) == 12
    assert {(r["speaker"], r["gender"], r["age"]) for r in rows} == {("p0001", "M", 6), ("p0003", "F", 7)}
    assert {row["speaker"] for row in rows if row["split"] == "test"} == {"p0003"}
