"""Steps of a recipe: each is told, shown as the command a user would type, and passed over where it is done."""

import json
import shlex
import sys
from pathlib import Path

from audiovae.checkpoint import run_checkpoints
from audiovae.cli import main as audiovae


def finished(run: Path) -> bool:
    """Whether training has used its budget."""
    found = run_checkpoints(run)
    if not found:
        return False
    budget = json.loads((found[-1] / "config.json").read_text())["experiment"]["train"]["minutes"]
    return state(run)["minutes"] >= budget


def state(run: Path) -> dict[str, float]:
    return json.loads((run_checkpoints(run)[-1] / "state.json").read_text())


def say(number: int, sentence: str, done: bool) -> None:
    print(f"{number}. {sentence}{'  (there already)' if done else ''}", flush=True)


def run_command(*words: object) -> None:
    """Show a command and run it; end the demo with its exit code if it fails."""
    arguments = [str(word) for word in words]
    print(f"   $ audiovae {shlex.join(arguments)}", flush=True)
    if code := audiovae(arguments):
        sys.exit(code)
