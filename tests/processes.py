"""Processes of their own for tests, forked from one that has imported what commands need.

A process that starts anew spends seconds on imports, far more than most tests have it do. These are whole processes
all the same: with memory and limits of their own, at the ends of pipes, to be interrupted and killed. What only a
start from nothing shows, `test_commands.py` and `test_train.py` try once for each of the main commands.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Timer

from audiovae.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "audiovae.train", *(f"audiovae.commands.{name}" for name in (
    "convert", "decode", "encode", "evaluate", "inspect", "prepare", "train"))])


@dataclass
class Done:
    """How a process ended: its exit code, negative where a signal ended it, and what it wrote."""

    returncode: int
    output: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.output.decode()


class Process:
    """``work(*words)``, whose result is the exit code, in a process at the other ends of stdin, stdout and stderr.

    limit : bytes beyond which it can write no file, as on a full disk.
    """

    def __init__(self, work: Callable[..., int | None], *words: object, limit: int | None = None) -> None:
        (theirs, stdin), (stdout, output), (stderr, errors) = (os.pipe() for _ in range(3))
        self.stdin, self.stdout, self.stderr = (os.fdopen(*its) for its in (
            (stdin, "wb"), (stdout, "rb"), (stderr, "rb")))
        settings = Path.cwd(), dict(os.environ), limit
        self._process = FORKS.Process(target=_run, args=(_Ends(theirs, output, errors), *settings, work,
                                                         tuple(map(str, words))))
        self._process.start()
        for end in (theirs, output, errors):
            os.close(end)

    def running(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def done(self, said: bytes = b"", seconds: float = 240) -> Done:
        """Tell it ``said``, hear all that it says, and wait for its end; it is killed if it takes longer."""
        late = Timer(seconds, self._process.kill)
        late.start()
        with ThreadPoolExecutor(2) as listeners, self.stdout, self.stderr:
            output, errors = (listeners.submit(end.read) for end in (self.stdout, self.stderr))
            with suppress(BrokenPipeError):
                if said:
                    self.stdin.write(said)
                self.stdin.close()
            self._process.join()
            late.cancel()
            return Done(self._process.exitcode or 0, output.result(), errors.result().decode())


def command(*words: object) -> int:
    """The work of ``audiovae`` with these words."""
    return main(list(map(str, words)))


def run(*words: object, limit: int | None = None, said: bytes = b"") -> Done:
    """``audiovae`` with these words, to its end."""
    return Process(command, *words, limit=limit).done(said)


def script(source: str, *words: object) -> Done:
    """``python -c source words``, to its end."""
    return Process(partial(_execute, source), *words).done()


def _execute(source: str, *words: str) -> None:
    sys.argv = ["-c", *words]
    exec(source, {"__name__": "__main__"})


class _Ends:
    """The descriptors that are to be 0, 1 and 2 in the process they are sent to."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __reduce__(self) -> tuple:
        return _take, tuple(map(DupFd, self.numbers))


def _take(*ends) -> None:
    for number, end in enumerate(ends):
        os.dup2(its := end.detach(), number)
        os.close(its)


def _run(_: None, folder: Path, environment: dict[str, str], limit: int | None, work: Callable, words: tuple) -> None:
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(folder)
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in a shell's background ignores it
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(work(*words))
