"""How fast a recording is said in another voice, by its parts, what enrolment takes, and the memory of a long file.

    python benchmarks/conversion.py                    # one and two threads, two minutes
    python benchmarks/conversion.py --minutes 1 60     # and the most memory that files of these lengths take

The model of recipes/vctk_conversion/voice.toml with random weights, which cost what trained ones do, on a made voice at
16 kHz. Medians of three turns; seconds of audio over seconds of work. With one thread all is held on one core.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from audiovae.audio.io import AudioWriter
from audiovae.audio.pitch import prosody
from audiovae.config import read
from audiovae.convert import Converter
from audiovae.enrolment import STEPS, enroll
from audiovae.metrics import peak_memory
from audiovae.shapes import DataSpec
from audiovae.train import Experiment

RECIPE = Path(__file__).parents[1] / "recipes/vctk_conversion/voice.toml"
RATE, SECONDS, TURNS, PRACTISED = 16000, 60, 3, 30


def converter() -> Converter:
    torch.manual_seed(0)
    return Converter(read(Experiment, RECIPE).model.build(DataSpec(1, 1, RATE, prosody=160)))


def voice(seconds: float, hertz: float) -> NDArray[np.float32]:
    """A buzz with pauses."""
    turns = np.cumsum(hertz * (1 + 0.1 * np.sin(np.arange(round(seconds * RATE)) / RATE))) / RATE
    wave = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 12))
    return (0.05 * wave * (np.sin(turns / 30) > -0.5)).astype(np.float32)


def timed(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def memory(minutes: float) -> tuple[float, float, float]:
    """MB held before a file of this length, at most while it is converted, and seconds; Linux only."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        source, model = Path(folder) / "a.wav", converter()
        with AudioWriter(source, RATE) as writer:
            minute = voice(60, 120)
            for _ in range(round(minutes)):
                writer.write(minute)
        target = model.hear([voice(10, 200)])
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak_memory(), time.perf_counter()
        model.convert_file(source, Path(folder) / "b.wav", target, "b")
        return before / 1e6, peak_memory() / 1e6, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--minutes", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}; {SECONDS} s of audio at {RATE} Hz, × real time")
    print(f"{'threads':>8}{'pitch':>8}{'encode':>8}{'clear':>8}{'said once':>12}{'said twice':>12}"
          f"{f'enrolment, s for {STEPS} steps':>34}")
    cores = os.sched_getaffinity(0)
    model, source = converter(), torch.from_numpy(voice(SECONDS, 120))
    target, practised = model.hear([source[:10 * RATE]]), torch.from_numpy(voice(PRACTISED, 200))
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, {min(cores)} if threads == 1 else cores)
        parts = [timed(lambda: prosody(source, RATE, model.frame)), timed(lambda: model.codec.encode(source, RATE)),
                 timed(lambda: model.convert(source, RATE, target, mode="clear")),
                 *(timed(lambda n=n: model.convert(source, RATE, target, mode="latents", passes=n)) for n in (1, 2))]
        start = time.perf_counter()
        enroll(model.model, [practised])
        enrolment = time.perf_counter() - start
        print(f"{threads:>8}" + "".join(f"{SECONDS / part:>{width}.0f}" for part, width in zip(parts, (8, 8, 8, 12, 12),
              strict=True)) + f"{enrolment:>34.0f}", flush=True)
    for minutes in arguments.minutes:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            before, peak, seconds = pool.submit(memory, minutes).result()
        print(f"{minutes} min: {before:.0f} MB before, {peak:.0f} MB at most, {60 * minutes / seconds:.0f} × real time",
              flush=True)


if __name__ == "__main__":
    main()
