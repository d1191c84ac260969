"""What the commands share: reading arguments, running over many files, saying what went wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro
from tqdm import tqdm

from audiovae.errors import AudiovaeError, OutputError
from audiovae.files import Input, atomic_file, expand_inputs

T = TypeVar("T")

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64")


def parse(command: str, arguments: type[T], argv: list[str]) -> T:
    """Read ``argv`` into the dataclass ``arguments``, whose docstring is the help text."""
    return tyro.cli(arguments, prog=f"audiovae {command}", args=argv)


def outputs(found: list[Input], output: Path | None, suffix: str) -> list[Path]:
    """Where each input's result goes: ``output`` itself for one, else mirrored below the folder ``output``.

    Without ``output`` results lie beside their inputs, with the new suffix.
    """
    if output is None:
        return [item.path.with_suffix(suffix) for item in found]
    single = len(found) == 1 and found[0].relative == Path(found[0].path.name)
    if single and output.suffix and not output.is_dir():
        return [output]
    return [output / item.relative.with_suffix(suffix) for item in found]


def over_files(command: str, inputs: tuple[str, ...], output: Path | None, suffix: str,
               suffixes: tuple[str, ...], process: Callable[[Path, Path], str]) -> int:
    """Run ``process(source, target)`` on every input; a bad one is listed at the end, the rest goes on.

    ``process`` returns a sentence on what it wrote. With one input its error is the command's own; with
    several the failures are printed, written to ``failed.tsv`` in the output folder, and the exit code is 2.
    """
    found = expand_inputs(inputs, suffixes)
    targets = outputs(found, output, suffix)
    taken: dict[Path, Path] = {}
    for item, target in zip(found, targets, strict=True):
        if taken.setdefault(target, item.path) != item.path:
            raise OutputError(f"{taken[target]} and {item.path} would both be written to {target}: run them "
                              "apart or rename one.")
    failed: list[tuple[Path, str]] = []
    for item, target in tqdm(list(zip(found, targets, strict=True)), unit="file", disable=None):
        try:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{target.parent} cannot be made ({error.strerror}).") from None
            said = process(item.path, target)
        except AudiovaeError as error:
            if len(found) == 1:
                raise
            failed.append((item.path, str(error)))
        else:
            if len(found) == 1:
                print(said)
    if len(found) > 1:
        done = len(found) - len(failed)
        print(f"{done} of {len(found)} files written {'beside their sources' if output is None else f'to {output}'}.")
    if failed:
        for path, reason in failed:
            print(f"  {path}: {reason}", file=sys.stderr)
        listed = ""
        if output is not None:
            with atomic_file(output / "failed.tsv") as temporary:
                temporary.write_text("".join(f"{path}\t{reason}\n" for path, reason in failed))
            listed = f"; they are listed in {output / 'failed.tsv'}"
        print(f"audiovae: {command}: {len(failed)} of {len(found)} files failed{listed}.", file=sys.stderr)
        return 2
    return 0
