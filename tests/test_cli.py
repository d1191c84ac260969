"""The ends of the command line: wrong usage, several inputs of which some are bad, pipes and full disks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from processes import Process, command, run
from test_checkpoint import CONFIG, SPEC

from audiovae.checkpoint import save_model
from audiovae.cli import COMMANDS, main

COMMAND = Path(sys.executable).with_name("audiovae")
DIGITS = """
data = { kind = "digits" }
train = { steps = 3, log_every = 1 }
[model]
encoder = { kind = "strided", strides = [2, 2], width = 32, depth = 1 }
decoder = { kind = "strided", strides = [2, 2], width = 32, depth = 1 }
bottleneck = { kind = "gaussian", dim = 4 }
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to be in: a model, good recordings a.wav and b.wav, a silent one and one that is NaN."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    save_model(Path("model"), CONFIG.build(SPEC).eval(), CONFIG)
    tone = 0.3 * np.sin(np.arange(4000) / 7)
    for name, wave in (("a", tone), ("b", -tone), ("silent", 0 * tone), ("nan", tone + np.nan)):
        soundfile.write(f"{name}.wav", wave, SPEC.sample_rate, subtype="FLOAT")
    return tmp_path


@pytest.fixture
def cli(capsys):
    """Run a command line in this process; its exit code, stdout, and lines on stderr."""
    def call(line):
        code = main([word.replace("∅", "") for word in line.split()])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err.splitlines()
    return call


def names(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if "model" not in path.parts)


@pytest.mark.parametrize(("line", "said"), [
    ("encode a.wav --model nowhere", ["nowhere", "speech-16k"]),
    ("encode a.wav --modle model", ["--model", "--modle"]),
    ("encode a.wav --model", ["--model"]),
    ("encode a.wav --model model --chanel 0", ["--chanel", "--channel"]),
    ("encode a.wav --model model --format wav", ["'wav'", "'codes', 'npz', 'npy'"]),
    ("encode a.wav --model model --channel x", ["--channel", "'x'"]),
    ("encode a.wav --model model --channel 1", ["no channel 1"]),
    ("encode a.wav --model model --channel -1", ["--channel", "-1"]),
    ("encode a.wav b.wav --model model --format parquet", ["--format parquet", "-o"]),
    ("encode a.wav b.wav --model model --format parquet -o a.wav", ["--format parquet", "folder"]),
    ("encode a.wav b.wav --model model --workers 0", ["--workers", "0"]),
    ("encode a.wav b.wav --model model --format parquet -o x --shard-hours 0", ["--shard-hours", "0"]),
    ("encode a.wav b.wav --model model --format parquet -o x --layout flat", ["--layout", "folder"]),
    ("encode a.wav --model model --speaker ana", ["'ana'", "nearest: anna"]),
    ("encode a.wav --model model -o a.foo", [".codes, .npz or .npy", "'.foo'"]),
    ("encode a.wav b.wav --model model -o both.codes", ["both.codes", "name a folder"]),
    ("encode a.wav b.wav --model model -o silent.wav", ["silent.wav", "name a folder"]),
    ("decode a.wav -o x.wav --model model", ["a.wav", "no code file"]),
    ("convert a.wav --model model", ["--to"]),
    ("convert a.wav --to --model model", ["--to", "speaker"]),
    ("convert a.wav --to anna bert --model model -o x.flac", ["x.flac", "name a folder"]),
    ("evaluate a.wav --model model --limit ten", ["--limit", "'ten'"]),
    ("evaluate a.wav --model model --limit -1", ["--limit", "-1"]),
    ("evaluate a.wav --model model --threads 0", ["--threads", "0"]),
    ("evaluate a.wav --model model -o b.wav", ["b.wav", "name a folder"]),
    ("prepare .", ["--output"]),
    ("prepare . -o corpus --smaple-rate 8000", ["--smaple-rate", "--sample-rate"]),
    ("train", ["TOML", "--resume"]),
    ("train --resum run", ["--resum", "--resume"]),
    ("train --resume run", ["run holds no checkpoint"]),
    ("inspect model/model.safetensors", ["model.safetensors", "folder"]),
    ("encod", ["nearest: encode"]),
])
def test_wrong_usage_is_one_line_that_names_what_is_meant(line, said, work, cli):
    before = names()
    code, _, errors = cli(line)
    assert code == 2 and len(errors) == 1, errors
    assert errors[0].startswith("audiovae: ") and all(word in errors[0] for word in said), errors
    assert not any(mark in errors[0] for mark in ("──", "----", "│", "\x1b", "|  ")), "the frame of a box"
    assert names() == before


@pytest.mark.parametrize("command", ["encode", "decode", "convert --to anna", "evaluate", "inspect"])
@pytest.mark.parametrize("nothing", ["", "∅"], ids=["none", "an empty name"])  # `"$UNSET"` is no folder to search
def test_no_input_is_no_success(command, nothing, work, cli):
    model = "" if command == "inspect" else "--model model"
    name, _, rest = command.partition(" ")
    code, _, errors = cli(f"{name} {nothing} {rest} {model}")
    assert code == 2 and len(errors) == 1 and "no input" in errors[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_only_options_it_has(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = capsys.readouterr().out
    example = " ".join(text.split("Example: ")[1].split("\n\n")[0].split())
    assert end.value.code == 0 and example.startswith(f"audiovae {command}")
    options = [word for word in example.split() if word.startswith("--")]
    assert [word for word in options if text.count(word) < 2] == [], "in the example, but not explained below it"


def test_a_folder_goes_to_a_folder_though_one_recording_is_in_it_and_the_name_has_a_dot(work, cli):
    Path("one").mkdir()
    shutil.copy("a.wav", "one/a.wav")
    assert cli("encode one --model model -o codes.v2")[0] == 0 and names("codes.v2") == ["a.codes"]
    assert cli("decode codes.v2 --model model --speaker anna -o out.v2")[0] == 0 and names("out.v2") == ["a.wav"]
    assert cli("encode one --model model -o one.codes")[0] == 0 and Path("one.codes").is_file()
    code, _, errors = cli("encode a.wav --model model -o a.codex")
    assert code == 2 and "not as '.codex'" in errors[0]


def test_one_that_is_missing_does_not_stop_the_others(work, cli):
    code, said, errors = cli("encode none.wav a.wav nan.wav nothing*.wav b.wav --model model -o out")
    assert code == 2 and said.startswith("2 files encoded to out, 0 skipped (there already), 3 failed; ")
    assert names("out") == ["a.codes", "b.codes", "failed.tsv"]
    listed = [line.split("\t") for line in Path("out/failed.tsv").read_text().splitlines()]
    assert [name for name, _ in listed] == ["none.wav", "nothing*.wav", "nan.wav"]
    assert len(errors) == 4 and errors[-1].startswith("audiovae: encode: 3 of 5 files failed")
    assert [line.count("nan.wav") for line in errors] == [0, 0, 1, 0]
    assert cli("encode a.wav b.wav --model model -o out")[0] == 0
    assert names("out") == ["a.codes", "b.codes"], "the list of the run before is gone"


def test_inspect_tells_the_good_and_lists_the_bad(work, cli):
    code, said, errors = cli("inspect silent.wav none.wav model model/model.safetensors nan.wav")
    assert code == 2 and errors[-1] == "audiovae: inspect: 3 of 5 files failed."
    assert "(silent)" in said and "StridedEncoder" in said and "nan.wav" not in said


def test_what_fails_for_several_voices_is_listed_once(work, cli):
    code, said, errors = cli("convert a.wav nan.wav --to anna bert anna --model model -o out")
    assert code == 2 and said == "1 of 2 files written, each 2 times, to out.\n" and len(errors) == 2
    assert names("out") == ["a-to-anna.wav", "a-to-bert.wav", "failed.tsv"]


def test_evaluate_with_nothing_left_lists_why(work, cli):
    soundfile.write("short.wav", np.ones(7) / 2, SPEC.sample_rate)
    code, said, errors = cli("evaluate nan.wav silent.wav short.wav --model model")
    assert code == 2 and said == ""
    for word, line in zip(("NaN", "silent", "shorter", "3 of 3"), errors, strict=True):
        assert word in line


def test_the_original_is_never_written_over(work, cli):
    """`decode a.codes` would by default write a.wav, which is what it was encoded from."""
    original = Path("a.wav").read_bytes()
    assert cli("encode a.wav --model model")[0] == 0
    for line in ("decode a.codes --model model", "encode a.wav -o a.wav --model model",
                 "convert a.wav --to anna -o a.wav --model model",
                 "convert a.wav --to anna -o ./model/../a.wav --model model"):
        code, _, errors = cli(line)
        assert code == 2 and len(errors) == 1 and "a.wav" in errors[0]
        assert Path("a.wav").read_bytes() == original
    Path("link.wav").symlink_to("a.wav")
    assert cli("convert a.wav --to anna -o link.wav --model model")[0] == 2
    assert Path("a.wav").read_bytes() == original
    assert cli("decode a.codes -o a.wav --model model")[0] == 0
    assert Path("a.wav").read_bytes() != original, "but where it is named it is replaced"


def test_training_on_a_full_disk_leaves_no_half_of_a_checkpoint(tmp_path):
    config = tmp_path / "digits.toml"
    config.write_text(DIGITS)
    result = run("train", config, "-o", tmp_path / "run", limit=20000)  # the log fits, the weights do not
    assert result.returncode == 2
    assert result.stderr == f"audiovae: train: {tmp_path}/run/checkpoint-00000003 cannot be written: file too large.\n"
    assert not [path for path in (tmp_path / "run").iterdir() if "checkpoint" in path.name]


def test_evaluate_on_a_full_disk_says_so(work):
    result = run("evaluate", "a.wav", "--model", "model", "-o", "out", limit=100)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and not Path("out").exists()
    assert result.stderr.startswith("audiovae: evaluate: out/evaluation.json cannot be written: file too large")


def test_a_reader_that_leaves_and_an_output_that_is_full():
    def installed(*words, stdout):
        return subprocess.run([COMMAND, *words], text=True, timeout=120, stdout=stdout, stderr=subprocess.PIPE)

    read, write = os.pipe()
    os.close(read)
    left = installed("--help", stdout=write)
    os.close(write)
    assert (left.returncode, left.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        result = installed("--help", stdout=full)
    assert (result.returncode, result.stderr) == (2, "audiovae: output: no space left on device.\n")


def test_interrupted_nothing_is_left(work):
    minute = np.random.default_rng(0).standard_normal(SPEC.sample_rate * 60) / 9
    soundfile.write("long.wav", np.tile(minute, 120), 8000, subtype="PCM_U8")  # long enough to be met at work
    before = names()
    process = Process(command, "encode", "long.wav", "a.wav", "-o", "out", "--model", "model")
    for _ in range(12_000):
        if Path("out").exists():  # it has begun to write
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stopped = process.done()
    assert stopped.returncode == 130 and stopped.stderr.splitlines()[-1] == "audiovae: encode: interrupted."
    assert names() == before
