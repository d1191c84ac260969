"""What the commands share: reading arguments, running over many files, saying what went wrong."""

import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tqdm import tqdm

from audiovae.audio.io import AUDIO_SUFFIXES
from audiovae.errors import AudioError, AudiovaeError, ConfigError, OutputError
from audiovae.files import Input, atomic_file, expand_inputs, printable
from audiovae.image.folder import SUFFIXES

NAMES = {"start": "from", "stop": "to"}  # of options that are called otherwise where they are read
T = TypeVar("T")
Failures = list[tuple[Path, str]]

AUDIO = AUDIO_SUFFIXES
PICTURES = tuple(sorted(SUFFIXES))
CODES = (".codes", ".npz")
WRITTEN = (*AUDIO, *PICTURES, *CODES, ".npy")


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
    raise ConfigError(f"{_one_line(said.getvalue())}; see `audiovae {command} --help`.")


def refuse(arguments: Any, names: Iterable[str], why: str) -> None:
    """Raise ConfigError where one of the options ``names`` is not at its default.

    >>> from audiovae.shapes import CodeSpec
    >>> refuse(CodeSpec((8,), hop=4), ["model", "hop"], "is of no use here")
    Traceback (most recent call last):
    audiovae.errors.ConfigError: --hop is of no use here: leave it out.
    """
    usual = {field.name: field.default for field in fields(arguments)}
    for name in names:
        if getattr(arguments, name) != usual[name]:
            raise ConfigError(f"--{NAMES.get(name, name).replace('_', '-')} {why}: leave it out.")


def split_settings(argv: list[str]) -> tuple[list[str], dict[str, str | list[str]]]:
    """Part --section.key settings (with one or more values) from the command's own arguments.

    >>> split_settings(["run.toml", "--train.steps", "5", "-o", "runs/a"])
    (['run.toml', '-o', 'runs/a'], {'train.steps': '5'})
    """
    known: list[str] = []
    settings: dict[str, list[str]] = {}
    target = known
    for word in argv:
        if word.startswith("--") and "." in word.split("=")[0]:
            key, equals, value = word[2:].partition("=")
            target = settings.setdefault(key.replace("-", "_"), [])
            if equals:
                target.append(value)
                target = known
        elif word.startswith("-") and not _number(word):
            known.append(word)
            target = known
        else:
            target.append(word)
    for key, values in settings.items():
        if not values:
            raise ConfigError(f"--{key} wants a value.")
    return known, {key: values[0] if len(values) == 1 else values for key, values in settings.items()}


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _one_line(boxed: str) -> str:
    """What tyro says in a box, without its frame, title, colours and the help it quotes."""
    lines = [line.strip("│| ") for line in re.sub(r"\x1b\[[0-9;]*m", "", boxed).splitlines()]
    text = "\n".join(line for line in lines if not re.match(r"[╭╰]|\+-", line))
    parts = [" ".join(part.split()) for part in re.split(r"^[─-]{5,}$", text, flags=re.M)]
    dropped = re.compile(r"[A-Za-z ]*$|Argument helptext|For full helptext")  # the first of these is a title
    return "; ".join(part.rstrip(".") for part in parts if not dropped.match(part))


def find(inputs: tuple[str, ...], suffixes: tuple[str, ...],
         whole: Callable[[Path], bool] = lambda path: False) -> tuple[list[Input], Failures]:
    """The files that ``inputs`` name, each once, and the inputs that name none, with the reason.

    A folder that is ``whole``, such as a corpus, is taken as it is. Raises ConfigError where nothing is
    named, and the reason itself where it is the only input.
    """
    if not inputs or "" in inputs:
        raise ConfigError("no input: name files, globs or folders (an empty name is none).")
    found: dict[Path, Input] = {}
    failed: Failures = []
    for name in inputs:
        try:
            for item in [Input(Path(name), Path(name))] if whole(Path(name)) else expand_inputs([name], suffixes):
                found.setdefault(item.path.absolute(), item)
        except AudioError as error:
            if len(inputs) == 1:
                raise
            failed.append((Path(name), str(error)))
    return list(found.values()), failed


def check_pipes(command: str, inputs: tuple[str, ...], output: Path | None) -> bool:
    """Whether stdin or stdout, named -, is asked for; ConfigError where it stands beside other inputs."""
    if "-" not in inputs and str(output) != "-":
        return False
    if len(inputs) != 1:
        raise ConfigError(f"{command} takes one input where - stands for stdin or stdout, got {len(inputs)}.")
    return True


def outputs(found: list[Input], output: Path | None, suffix: str, tag: str = "") -> list[Path]:
    """Where each input's result goes: ``output`` itself for one, else mirrored below the folder ``output``.

    Of one that was found in a folder, a name such as codes.v2 is a folder's.

    Without ``output`` results lie beside their inputs. A ``tag`` is put between name and suffix, and
    says that there are several results an input, so that ``output`` is a folder.
    """
    names = [item.relative.with_name(item.relative.stem + tag + suffix) for item in found]
    if output is None:
        return [item.path.with_name(name.name) for item, name in zip(found, names, strict=True)]
    single = len(found) == 1 and found[0].relative == Path(found[0].path.name) and not tag
    if single and (output.suffix in WRITTEN or (output.suffix and not found[0].found)) and not output.is_dir():
        return [output]
    check_folder_for_several(output)
    return [output / name for name in names]


def targets(found: list[Input], output: Path | None, suffix: str,
            tags: tuple[str, ...] = ("",)) -> dict[Path, tuple[Path, ...]]:
    """The :func:`outputs` of each input, one for each of ``tags``; OutputError where two inputs would share one."""
    columns = [outputs(found, output, suffix, tag) for tag in tags]
    targets_of = {item.path: row for item, row in zip(found, zip(*columns, strict=True), strict=True)}
    source_of = {row[0]: path for path, row in targets_of.items()}
    for path, row in targets_of.items():
        if source_of[row[0]] != path:
            raise OutputError(f"{path} and {source_of[row[0]]} would both be written to {row[0]}: run them "
                              "apart or rename one.")
    return targets_of


def over_files(command: str, inputs: tuple[str, ...], output: Path | None, suffix: str,
               suffixes: tuple[str, ...], process: Callable[..., str], tags: tuple[str, ...] = ("",),
               kept: tuple[Path, ...] = (), own: Callable[[Path], bool] = lambda path: False) -> int:
    """Run ``process(source, *targets)``, a target for each of ``tags``, on every input; bad ones are listed at the end.

    ``process`` returns a sentence on what it wrote. Nothing is written over the inputs, nor over ``kept``; a file in a
    folder that is the command's ``own`` work is no input. With one input its error is the command's own; with several
    the failures are printed, written to ``failed.tsv`` in the output folder, and the exit code is 2.
    """
    named, failed = find(inputs, suffixes)
    found = [item for item in named if not (item.found and own(item.path))]
    if not found and not failed:
        raise ConfigError(f"{command} found nothing but its own work, such as {named[0].path}: name a file to have it "
                          "taken all the same.")
    if len(found) + len(failed) > 1:
        check_folder_for_several(output)
    targets_of = targets(found, output, suffix, tags) if found else {}
    read = {place for path in (*(item.path for item in found), *kept) if (place := _place(path))}

    def work(item: Input) -> str:
        for target in targets_of[item.path]:
            _keep(read, target, named=output is not None)
        return process(item.path, *targets_of[item.path])

    alone = len(found) + len(failed) == 1
    said, bad = attempt(found, work, alone)
    if alone and said:
        print(said[0])
    else:
        where = f"to {output}" if output is not None else "beside their sources"
        passed = len(named) - len(found)
        before = f"; {passed} left out, the work of {command} before" if passed else ""
        each = f", each {len(tags)} times," if len(tags) > 1 else ""
        print(f"{len(said)} of {len(found) + len(failed)} files written{each} {where}{before}.")
    return report_failures(command, failed + bad, len(found) + len(failed), None if _one_file(output) else output)


def _one_file(output: Path | None) -> bool:
    return output is not None and (output.is_file() or (output.suffix in WRITTEN and not output.is_dir()))


def check_folder_for_several(output: Path | None) -> None:
    """OutputError where ``output`` is named as one file."""
    if _one_file(output):
        raise OutputError(f"{output} is one file, but several are to be written: name a folder.")


def _place(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _keep(read: set[tuple[int, int]], target: Path, named: bool) -> None:
    """Refuse to write over what is read, or over a recording or picture that nobody named: the original, perhaps."""
    if _place(target) in read:
        raise OutputError(f"{target} is what is read itself: name another output.")
    if not named and target.suffix in (*AUDIO, *PICTURES) and target.exists():
        raise OutputError(f"{target} is there already: name it with -o to have it replaced.")


def attempt(found: list[Input], work: Callable[[Input], T], alone: bool) -> tuple[list[T], Failures]:
    """What ``work`` gives for each input, and the inputs it failed on with the reason; a bar shows progress.

    With an input that is ``alone`` its error is raised.
    """
    done: list[T] = []
    failed: Failures = []
    for item in tqdm(found, unit="file", disable=None):
        try:
            done.append(work(item))
        except AudiovaeError as error:
            if alone:
                raise
            failed.append((item.path, str(error)))
    return done, failed


def report_failures(command: str, failed: Failures, total: int, output: Path | None) -> int:
    """List what failed on stderr and, where there is an output folder, in ``failed.tsv``; the exit code.

    Where nothing failed, the list that an earlier run left is removed.
    """
    if not failed:
        if output is not None:
            with suppress(OSError):  # no folder, or none that can be changed: then no list of ours
                (output / "failed.tsv").unlink()
        return 0
    for path, reason in failed:
        name = printable(path)
        print(f"  {reason}" if name in reason else f"  {name}: {reason}", file=sys.stderr)
    listed = ""
    if output is not None:
        with atomic_file(output / "failed.tsv") as temporary:
            temporary.write_text("".join(f"{path}\t{reason}\n" for path, reason in failed), errors="backslashreplace")
        listed = f"; they are listed in {output / 'failed.tsv'}"
    print(f"audiovae: {command}: {len(failed)} of {total} files failed{listed}.", file=sys.stderr)
    return 2
