"""What a computation costs: seconds, and the most memory the process ever held."""

import resource
import sys
import time
from pathlib import Path

import torch


class Stopwatch:
    """Seconds of wall clock and of processor spent within ``with``; entered again, they add up.

    Work queued on a GPU is waited for. ``cpu`` counts all threads of this process.

    >>> with Stopwatch() as watch:
    ...     _ = torch.randn(100, 100).sum()
    >>> watch.seconds > 0 and watch.times_real_time(10.0) == 10.0 / watch.seconds
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu = 0.0

    def __enter__(self) -> "Stopwatch":
        _wait()
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        _wait()
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]

    def times_real_time(self, audio_seconds: float) -> float:
        """Seconds of audio done in each second of wall clock: above 1 is faster than real time."""
        return audio_seconds / self.seconds


def peak_memory() -> int:
    """The most memory in bytes that this process ever had resident; measure each case in its own process.

    >>> peak_memory() > 10_000_000
    True
    """
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent up to the moment it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
