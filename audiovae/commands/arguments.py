"""What the commands share: reading arguments, running over many files, saying what went wrong."""

import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TypeVar

import tyro
from tqdm import tqdm

from audiovae.audio.io import AUDIO_SUFFIXES
from audiovae.errors import AudiovaeError, ConfigError, OutputError
from audiovae.files import Input, atomic_file, expand_inputs

T = TypeVar("T")

AUDIO = AUDIO_SUFFIXES
CODES = (".codes", ".npz")


def parse(command: str, arguments: type[T], argv: list[str]) -> T:
    """Read ``argv`` into the dataclass ``arguments``, whose docstring is the help text.

    Raises ConfigError, in one line, where the command line does not fit.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(arguments, prog=f"audiovae {command}", args=argv)
    except SystemExit as end:
        if not end.code:
            raise  # --help
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())  # without colours
    boxed = [line.strip("│ ") for line in plain.splitlines() if line.startswith("│")]
    reason = " ".join(" ".join(boxed or plain.split()).split()).split(" For full helptext")[0]
    raise ConfigError(f"{reason}; see `audiovae {command} --help`.")


def outputs(found: list[Input], output: Path | None, suffix: str, tag: str = "") -> list[Path]:
    """Where each input's result goes: ``output`` itself for one, else mirrored below the folder ``output``.

    Without ``output`` results lie beside their inputs. A ``tag`` is put between name and suffix, and
    says that there are several results an input, so that ``output`` is a folder.
    """
    names = [item.relative.with_name(item.relative.stem + tag + suffix) for item in found]
    if output is None:
        return [item.path.with_name(name.name) for item, name in zip(found, names, strict=True)]
    single = len(found) == 1 and found[0].relative == Path(found[0].path.name)
    if single and not tag and output.suffix and not output.is_dir():
        return [output]
    return [output / name for name in names]


def over_files(command: str, inputs: tuple[str, ...], output: Path | None, suffix: str,
               suffixes: tuple[str, ...], process: Callable[[Path, Path], str], tag: str = "") -> int:
    """Run ``process(source, target)`` on every input; a bad one is listed at the end, the rest goes on.

    ``process`` returns a sentence on what it wrote. With one input its error is the command's own; with
    several the failures are printed, written to ``failed.tsv`` in the output folder, and the exit code is 2.
    """
    found = expand_inputs(inputs, suffixes)
    targets = outputs(found, output, suffix, tag)
    target_of = {item.path: target for item, target in zip(found, targets, strict=True)}
    source_of = {target: path for path, target in target_of.items()}
    for path, target in target_of.items():
        if source_of[target] != path:
            raise OutputError(f"{path} and {source_of[target]} would both be written to {target}: run them "
                              "apart or rename one.")
    said, failed = attempt(found, lambda item: process(item.path, target_of[item.path]))
    if len(found) == 1:
        print(said[0])
    else:
        where = f"to {output}" if output is not None else "beside their sources"
        print(f"{len(said)} of {len(found)} files written {where}.")
    return report_failures(command, failed, len(found), output)


def attempt(found: list[Input], work: Callable[[Input], T]) -> tuple[list[T], list[tuple[Path, str]]]:
    """What ``work`` gives for each input, and the inputs it failed on with the reason; a bar shows progress.

    With one input its error is raised.
    """
    done: list[T] = []
    failed: list[tuple[Path, str]] = []
    for item in tqdm(found, unit="file", disable=None):
        try:
            done.append(work(item))
        except AudiovaeError as error:
            if len(found) == 1:
                raise
            failed.append((item.path, str(error)))
    return done, failed


def report_failures(command: str, failed: list[tuple[Path, str]], total: int, output: Path | None) -> int:
    """List what failed on stderr and, where there is an output folder, in ``failed.tsv``; the exit code."""
    if not failed:
        return 0
    for path, reason in failed:
        print(f"  {path}: {reason}", file=sys.stderr)
    listed = ""
    if output is not None:
        with atomic_file(output / "failed.tsv") as temporary:
            temporary.write_text("".join(f"{path}\t{reason}\n" for path, reason in failed))
        listed = f"; they are listed in {output / 'failed.tsv'}"
    print(f"audiovae: {command}: {len(failed)} of {total} files failed{listed}.", file=sys.stderr)
    return 2
