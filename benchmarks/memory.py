"""The most memory that encoding and decoding a file takes, by its length, each in a process of its own.

    python benchmarks/memory.py                     # 1 min, 10 min and 3 h; about three minutes, 700 MB of disk
    python benchmarks/memory.py --minutes 1 5 --threads 2

The spectral model of recipes/vctk_conversion/small.toml with random weights, recordings of 16-bit samples
at 16 kHz. What the process held before it began (Python, torch, the model) is given too: a peak contains it.
Seconds are file to file; encoding includes the search for the voice, of 109, that suits the recording best.
The last line compares the codec's blocks with the model run once on the whole first file.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from audiovae.audio.io import AudioWriter, read_audio
from audiovae.checkpoint import save_model
from audiovae.codec import Codec
from audiovae.config import read
from audiovae.metrics import peak_memory
from audiovae.shapes import DataSpec
from audiovae.train import Experiment
from audiovae.transcode import decode_file, encode_file

SMALL = Path(__file__).parents[1] / "recipes/vctk_conversion/small.toml"
SAMPLE_RATE = 16000
SPEAKERS = tuple(f"p{225 + i}" for i in range(109))  # as many as VCTK has


@dataclass(frozen=True)
class Cost:
    """What one file took: seconds, and bytes held before it and at most."""

    seconds: float
    before: int
    peak: int


def encode(folder: Path, name: str, threads: int) -> Cost:
    return measure(folder, threads, encode_file, f"{name}.wav", f"{name}.codes")


def decode(folder: Path, name: str, threads: int) -> Cost:
    return measure(folder, threads, decode_file, f"{name}.codes", f"{name}.decoded.wav")


def measure(folder: Path, threads: int, act: Callable[[Codec, Path, Path], str], source: str, target: str) -> Cost:
    """Load the codec, forget the peak of doing so, run ``act`` from file to file; Linux only."""
    codec = _codec(folder, threads)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_memory(), time.perf_counter()
    act(codec, folder / source, folder / target)
    return Cost(time.perf_counter() - start, before, peak_memory())


def differences(folder: Path, name: str, threads: int) -> tuple[int, int, float]:
    """Codes that differ between blocks and whole, how many there are, and the largest sample difference."""
    codec = _codec(folder, threads)
    wave, rate = read_audio(folder / f"{name}.wav")
    wave = wave.flatten()[:wave.shape[-1] // codec.hop * codec.hop]
    codes = codec.encode(wave, rate, SPEAKERS[0])
    whole = codec.model.encode(wave[None, None])
    blocks = torch.from_numpy(codes.levels[0])
    sound = codec.model.decode(whole, codec.condition(SPEAKERS[0]))[0, 0]
    return int((blocks != whole[0]).sum()), blocks.numel(), float((codec.decode(codes) - sound).abs().max())


def babble(minutes: float) -> Iterator[Tensor]:
    """Noise that rises and falls a few times a second, in pieces of a second."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(round(60 * minutes)):
        loudness = torch.rand(8, generator=generator).square().repeat_interleave(SAMPLE_RATE // 8)
        yield 0.2 * loudness * torch.randn(SAMPLE_RATE, generator=generator).clamp(-4, 4)


def prepare(folder: Path, lengths: list[float]) -> None:
    torch.manual_seed(0)
    config = read(Experiment, SMALL).model
    save_model(folder, config.build(DataSpec(1, 1, SAMPLE_RATE, SPEAKERS)), config)
    for minutes in lengths:
        with AudioWriter(folder / f"{minutes:g}.wav", SAMPLE_RATE) as writer:
            for piece in babble(minutes):
                writer.write(piece)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 180])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, args.minutes)
        print(f"{'':8}{'minutes':>8}{'before MB':>11}{'peak MB':>9}{'to the first':>14}{'seconds':>10}")
        for act in (encode, decode):
            first = 0
            for minutes in args.minutes:
                cost = _in_fresh_process(act, folder, f"{minutes:g}", args.threads)
                first = first or cost.peak
                print(f"{act.__name__:8}{minutes:>8g}{cost.before / 1e6:>11.0f}{cost.peak / 1e6:>9.0f}"
                      f"{cost.peak / first:>14.2f}{cost.seconds:>10.1f}", flush=True)
        changed, total, most = _in_fresh_process(differences, folder, f"{args.minutes[0]:g}", args.threads)
    print(f"blocks against the whole: {changed} of {total} codes differ; samples differ by at most {most:.1e}")


def _codec(folder: Path, threads: int) -> Codec:
    torch.set_num_threads(threads)
    return Codec.from_pretrained(folder)


def _in_fresh_process(act, folder: Path, name: str, threads: int):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(act, folder, name, threads).result()


if __name__ == "__main__":
    main()
