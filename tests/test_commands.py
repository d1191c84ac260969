"""The installed command: what it does, and one clear line with exit code 2 for whatever is wrong."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processes import run
from test_checkpoint import CONFIG, SPEC

from audiovae.checkpoint import save_model
from audiovae.cli import COMMANDS

COMMAND = Path(sys.executable).with_name("audiovae")
RATE, HOP = SPEC.sample_rate, 8


def installed(*words):
    """The command as it is started from a shell: nothing is imported yet."""
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120)


def refused(result, *said):
    """Exit code 2 and one line that names the command and says what is wanted."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("audiovae: "), result.stderr
    for part in said:
        assert part in lines[0]


def tone(seconds=0.5, rate=RATE, channels=1):
    t = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.3 * np.sin(2 * np.pi * 200 * t)[:, None], channels, axis=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, CONFIG.build(SPEC).eval(), CONFIG)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with good recordings of many kinds below good/, and bad ones below bad/."""
    root = tmp_path_factory.mktemp("mixed")
    good, bad = root / "good" / "deep", root / "bad"
    good.mkdir(parents=True)
    bad.mkdir()
    for name, rate, channels in (("a.wav", RATE, 1), ("six.wav", 48000, 6), ("high.flac", 192000, 2),
                                 ("music.mp3", 44100, 2), ("speech.ogg", 22050, 1)):
        soundfile.write(good / name, tone(rate=rate, channels=channels), rate)
    shutil.move(good / "a.wav", good.parent / "a.wav")
    (bad / "empty.wav").write_bytes(b"")
    (bad / "text.wav").write_text("This is no recording, though it is named like one.\n" * 20)
    soundfile.write(bad / "nothing.wav", np.zeros((0, 1)), RATE)
    soundfile.write(bad / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(bad / "short.wav", tone()[:HOP - 1], RATE)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        wave = tone()
        wave[100] = value
        soundfile.write(bad / name, wave, RATE, subtype="FLOAT")
    soundfile.write(bad / "cut.wav", tone(2), RATE)
    data = (bad / "cut.wav").read_bytes()
    (bad / "cut.wav").write_bytes(data[:len(data) // 2])
    return root


def test_help_and_version_are_there():
    top = installed("--help")
    assert top.returncode == 0 and all(name in top.stdout for name in COMMANDS) and "example" in top.stdout
    assert installed("--version").stdout.startswith("audiovae 0.")
    result = installed("encode", "--help")  # that of every command: test_cli.py
    assert result.returncode == 0 and "Example: audiovae encode" in result.stdout


def test_the_front_door_imports_nothing_heavy():
    code = ("import sys; from audiovae.cli import main; main(['--help']);"
            "assert not {'torch', 'numpy'} & set(sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_from_recording_to_codes_and_back_over_a_tree(model, mixed, tmp_path):
    result = installed("encode", mixed / "good", "-o", tmp_path / "codes", "--model", model)
    assert result.returncode == 0, result.stderr
    found = sorted(str(p.relative_to(tmp_path / "codes")) for p in (tmp_path / "codes").rglob("*.codes"))
    assert found == ["a.codes", "deep/high.codes", "deep/music.codes", "deep/six.codes", "deep/speech.codes"]
    told = installed("inspect", tmp_path / "codes", model, mixed / "good/a.wav")
    assert told.returncode == 0 and "codes of 0.50 s at 8000 Hz" in told.stdout and "parameters" in told.stdout
    result = installed("decode", tmp_path / "codes", "-o", tmp_path / "out", "--model", model, "--speaker", "bert")
    assert result.returncode == 0, result.stderr
    assert soundfile.info(tmp_path / "out/a.wav").frames == 4000
    assert soundfile.info(tmp_path / "out/deep/high.wav").frames == 4000
    voices = installed("convert", mixed / "good/a.wav", "--to", "anna", "bert", "-o", tmp_path / "said",
                       "--model", model)
    assert voices.returncode == 0, voices.stderr
    assert sorted(p.name for p in (tmp_path / "said").iterdir()) == ["a-to-anna.wav", "a-to-bert.wav"]
    exported = run("encode", mixed / "good/a.wav", "-o", tmp_path / "a.npz", "--model", model)
    assert exported.returncode == 0 and np.load(tmp_path / "a.npz")["level_0"].shape == (1, 500)


def test_a_batch_goes_on_past_what_is_bad_and_lists_it(model, mixed, tmp_path):
    result = run("encode", mixed / "good/a.wav", mixed / "bad", "-o", tmp_path / "codes", "--model", model)
    assert result.returncode == 2
    assert [p.name for p in (tmp_path / "codes").rglob("*.codes")] == ["a.codes"]
    assert sorted(p.name for p in (tmp_path / "codes").iterdir()) == ["a.codes", "failed.tsv"]
    listed = dict(line.split("\t") for line in (tmp_path / "codes/failed.tsv").read_text().splitlines())
    reasons = {Path(path).name: reason for path, reason in listed.items()}
    expected = {"cut.wav": "truncated", "empty.wav": "empty", "inf.wav": "infinite", "nan.wav": "NaN",
                "nothing.wav": "no samples", "short.wav": "shorter than one latent step", "silent.wav": "silent",
                "text.wav": "text"}
    assert reasons.keys() == expected.keys()
    for name, word in expected.items():
        assert word in reasons[name], reasons[name]
    assert "Traceback" not in result.stderr and "8 of 9 files failed" in result.stderr.splitlines()[-1]


def test_one_bad_input_is_one_line(model, mixed, tmp_path):
    refused(run("encode", tmp_path / "none.wav", "--model", model), "encode", "none.wav", "missing")
    (tmp_path / "folder").mkdir()
    refused(run("convert", tmp_path / "folder", "--to", "anna", "--model", model), "folder", "no file to read")
    refused(run("encode", mixed / "bad/nan.wav", "-o", tmp_path / "x.codes", "--model", model), "nan.wav")
    refused(run("convert", mixed / "bad/silent.wav", "--to", "anna", "-o", tmp_path / "x.wav", "--model", model),
            "silent")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_unknown_names_come_with_the_nearest(model, mixed, tmp_path):
    refused(run("convert", mixed / "good/a.wav", "--to", "berta", "--model", model), "'berta'", "nearest: bert")
    refused(run("encod"), "nearest: encode")
    refused(run("encode", mixed / "good/a.wav", "--modle", model, "--model", model), "--modle", "--model")
    refused(run("convert", mixed / "good/a.wav", "--to", "bert"), "--corpus")
    refused(run("convert", mixed / "good/a.wav", "--to", "bert", "--mode", "clear", "--model", model), "--mode", "name")
    config = tmp_path / "run.toml"
    config.write_text("[train]\nstepz = 3\n")
    refused(run("train", config), "'train.stepz'", "nearest: steps")
    config.write_text("[train]\nsteps = 3\n")
    refused(run("train", config, "--model.bottleneck.num-code", "8"), "'model.bottleneck.num_code'", "num_codes")
    refused(run("train", config, "-o", tmp_path / "run"), "data.corpus is not set")


def test_models_that_are_none(model, mixed, tmp_path):
    source = mixed / "good/a.wav"
    refused(run("encode", source, "--model", tmp_path / "none"), "no such folder")

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Bomb()))
    refused(run("encode", source, "--model", tmp_path / "model.pt"), "pickle", "refused")
    wrong = shutil.copytree(model, tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(run("encode", source, "--model", wrong), "safetensors")
    assert not (tmp_path / "ran").exists()


def test_code_files_that_are_damaged_or_of_another_model(model, mixed, tmp_path):
    codes, out = tmp_path / "a.codes", tmp_path / "out.wav"
    assert run("encode", mixed / "good/a.wav", "-o", codes, "--model", model).returncode == 0
    data = codes.read_bytes()
    codes.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    refused(run("decode", codes, "-o", out, "--model", model), "a.codes")
    codes.write_bytes(data[:-10])
    refused(run("decode", codes, "-o", out, "--model", model), "a.codes")
    codes.write_bytes(data)
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(1)
    save_model(other, CONFIG.build(SPEC), CONFIG)
    refused(run("decode", codes, "-o", out, "--model", other), "not of model")
    assert not out.exists()


def test_outputs_that_cannot_be_written(model, mixed, tmp_path):
    source = mixed / "good/a.wav"
    (tmp_path / "file").write_text("in the way")
    refused(run("encode", source, "-o", tmp_path / "file/a.codes", "--model", model), "cannot be")
    refused(run("decode", tmp_path / "file", "--model", model), "decode", "truncated")
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 20 * RATE)  # its codes take more than the limit
    soundfile.write(tmp_path / "long.wav", noise, RATE)
    for command, name in (("encode", "a.codes"), ("convert", "a.wav")):
        more = ("--to", "anna") if command == "convert" else ()
        full = run(command, tmp_path / "long.wav", *more, "-o", tmp_path / "full" / name, "--model", model, limit=100)
        refused(full, "cannot be written")
        assert not (tmp_path / "full").exists()
    refused(run("prepare", mixed / "good", "-o", tmp_path / "corpus", "--sample-rate", "96000",
                "--layout", "flat", "--test", "0", "--valid", "0", limit=4096), "cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "long.wav"]


def test_evaluate_measures_and_names_what_it_could_not(model, mixed, tmp_path):
    result = installed("evaluate", mixed / "good/a.wav", mixed / "bad/silent.wav", mixed / "good/deep/music.mp3",
                       "--model", model, "-o", tmp_path / "evaluation")
    assert result.returncode == 2 and "1 of 3 files failed" in result.stderr
    for words in ("SI-SDR, dB", "PESQ-wb", "perplexity", "× real time"):
        assert words in result.stdout
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == [
        "evaluation.html", "evaluation.json", "failed.tsv"]


def test_prepare_lists_what_it_rejects(mixed, tmp_path):
    result = installed("prepare", mixed, "-o", tmp_path / "corpus", "--layout", "flat", "--test", "0", "--valid", "0")
    assert result.returncode == 0, result.stderr
    rejected = (tmp_path / "corpus/rejected.tsv").read_text()
    assert all(name in rejected for name in ("nan.wav", "silent.wav", "empty.wav", "text.wav", "cut.wav"))
    told = run("inspect", tmp_path / "corpus")
    assert told.returncode == 0 and "corpus at 16000 Hz" in told.stdout
    refused(run("prepare", mixed, "-o", tmp_path / "corpus", "--layout", "flat"), "already")
