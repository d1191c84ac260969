"""What the README says runs: its Python as it stands, its commands by their names and options."""

import io
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_checkpoint import CONFIG, SPEC

from audiovae.checkpoint import save_model
from audiovae.cli import COMMANDS, main
from audiovae.config import _known_names
from audiovae.train import Experiment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "recipes").rglob("README.md"))]


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.M | re.S)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/small")
    folder.mkdir(parents=True)
    save_model(folder, CONFIG.build(replace(SPEC)).eval(), CONFIG)
    soundfile.write("speech.wav", 0.1 * np.random.default_rng(0).standard_normal((44100, 2)), 44100)
    found = blocks(ROOT / "README.md", "python")
    assert found
    for code in found:
        exec(compile(code, "README.md", "exec"), {})
    assert Path("other.wav").stat().st_size > 1000


@cache
def told(name):
    """What ``audiovae name --help`` says."""
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        main([name, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_named_in_the_readme_exist(path):
    lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("audiovae ")]
    for _, name, *words in commands:
        assert name in COMMANDS
        text = told(name)
        for word in words:
            if re.match(r"--[a-z_-]+\.", word):  # a setting; help shows no parts of a table that is left out
                *way, key = word[2:].replace("-", "_").split(".")
                assert key in _known_names(Experiment, way), f"{name} has no setting {word}"
            elif re.match(r"--?[a-z]", word):
                assert word in text, f"{name} has no option {word}"
