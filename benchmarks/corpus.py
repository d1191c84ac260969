"""How many hours of audio a minute a corpus is encoded at, beside a plain loop over its files.

    python benchmarks/corpus.py RECORDINGS --model runs/small --workers 1 2

The plain loop reads a file whole, encodes it and saves its codes, then takes the next; one thread each. The
others are what `audiovae encode` does, code files and Parquet shards. All take turns; the table gives the best
of the repeats, from the first file to the last: the model is loaded before, workers start within. Where other
programs run, look at the CPU time, of this process alone, rather than at the hours a minute.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from audiovae.audio.io import AUDIO_SUFFIXES, read_audio
from audiovae.corpus_encoding import Job, Settings, encode_jobs
from audiovae.engines import run_local
from audiovae.files import expand_inputs
from audiovae.shards import ShardWriter


def plain(settings: Settings, jobs: list[Job], workers: int) -> float:
    seconds, codec = 0.0, settings.codec()
    for job in jobs:
        wave, rate = read_audio(job.path)
        codes = codec.encode(wave, rate)
        assert job.target is not None
        codes.save(job.target)
        seconds += codes.seconds
    return seconds


def files(settings: Settings, jobs: list[Job], workers: int) -> float:
    return sum(done.seconds for done in run_local(partial(encode_jobs, settings), jobs, workers))


def shards(settings: Settings, jobs: list[Job], workers: int) -> float:
    rows = [Job(job.path, job.relative) for job in jobs]
    seconds = 0.0
    with TemporaryDirectory() as out, ShardWriter(out) as writer:
        for done in run_local(partial(encode_jobs, settings), rows, workers):
            seconds += done.seconds
            if done.row is not None:
                writer.add(done.row)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--files", type=int, help="take every nth recording, so that about so many are left")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = expand_inputs(args.recordings, AUDIO_SUFFIXES)
    found = found[::max(1, len(found) // (args.files or len(found)))]
    settings = Settings(args.model, overwrite=True)
    settings.codec().encode(torch.randn(16000), 16000)  # the first call of all takes longer
    ways = [("plain loop", plain, 1), *((name, way, n) for n in args.workers
                                        for name, way in (("code files", files), ("Parquet shards", shards)))]
    best = {(name, n): (float("inf"), 0.0, 0.0) for name, _, n in ways}
    for _ in range(args.repeats):
        for name, way, workers in ways:
            with TemporaryDirectory() as out:
                jobs = [Job(item.path, item.relative, Path(out, f"{i}.codes")) for i, item in enumerate(found)]
                begun, cpu = time.perf_counter(), time.process_time()
                seconds = way(settings, jobs, workers)
                took = time.perf_counter() - begun, time.process_time() - cpu, seconds
            best[name, workers] = min(best[name, workers], took)
    print(f"{len(found)} recordings, {seconds / 3600:.2f} h, torch {torch.__version__}")
    print(f"{'':16}{'processes':>10}{'hours a minute':>16}{'CPU s of this process':>24}")
    for (name, workers), (wall, cpu, seconds) in best.items():
        print(f"{name:16}{workers:>10}{seconds / 60 / wall:>16.2f}{cpu:>24.2f}")


if __name__ == "__main__":
    main()
