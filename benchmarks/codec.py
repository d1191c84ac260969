"""How fast recordings become codes and codes recordings, beside the bare matrix products of the same model.

    python benchmarks/codec.py                     # one and two threads, about three minutes
    python benchmarks/codec.py --threads 1 --repeats 5

A minute of audio at 16 kHz, random weights, which cost what trained ones do. The floor is every matrix
product that encoding or decoding asks for, convolutions unrolled to one each, timed alone on buffers that
are there already: no halo, no activation, no Fourier transform, no copy. Depthwise convolutions, which are
no matrix product, are left out of it. Codec and floor take turns, so that a busy machine slows both alike;
the table gives medians, and the share of the time that the floor explains.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from quantizers import seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audiovae.bottlenecks import VQConfig
from audiovae.codec import BEAM, Codec
from audiovae.config import read
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.models import AutoencoderConfig, ModelConfig
from audiovae.shapes import DataSpec
from audiovae.train import Experiment

RECIPES = Path(__file__).parents[1] / "recipes"
SAMPLE_RATE, SECONDS = 16000, 60
SPEAKERS = tuple(f"p{225 + i}" for i in range(109))  # as many as VCTK has

Product = tuple[int, int, int]  # rows, inner, columns


def codecs() -> dict[str, Codec]:
    """Log-mel frames at a low rate, small and as the speech codec, and Jukebox's strided convolutions at hop 64.

    The speech codec at all its 6 kbit/s and at half, each by the codec's beam and by the nearest codes alone.
    """
    models: dict[str, ModelConfig] = {
        "spectral": read(Experiment, RECIPES / "vctk_conversion/small.toml").model,
        "speech-16k": read(Experiment, RECIPES / "speech_codec/speech-16k.toml").model,
        "strided": AutoencoderConfig(encoder=StridedEncoderConfig(), decoder=StridedDecoderConfig(),
                                     bottleneck=VQConfig(num_codes=2048, dim=64)),
    }
    spec = DataSpec(channels=1, dims=1, sample_rate=SAMPLE_RATE, labels=SPEAKERS)
    torch.manual_seed(0)
    found = {name: Codec(config.build(spec)) for name, config in models.items()}
    speech = found["speech-16k"].model
    return found | {f"{name}, beam {beam}": Codec(speech, kbps, beam=beam)
                    for name, kbps, beam in (("6 kbit/s", 6, 1), ("3 kbit/s", 3, BEAM), ("3 kbit/s", 3, 1))}


class Products(TorchDispatchMode):
    """Within, every matrix product is noted by its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.counts[left.shape[0], left.shape[1], right.shape[1]] += 1
        elif name in ("bmm", "baddbmm", "baddbmm_"):
            left, right = args[-2:]
            self.counts[left.shape[1], left.shape[2], right.shape[2]] += len(left)
        elif name == "convolution":
            self._convolution(args[0], args[1], result, transposed=args[6], groups=args[8])
        return result

    def _convolution(self, x: Tensor, weight: Tensor, y: Tensor, transposed: bool, groups: int) -> None:
        if weight.shape[1] == 1 and groups > 1:
            return  # depthwise
        places = x if transposed else y  # each place of the smaller grid meets the whole kernel
        channels, kernel = weight.shape[0] // groups, weight[0].numel()
        inner, columns = (channels, kernel) if transposed else (kernel, channels)
        self.counts[len(places) * prod(places.shape[2:]), inner, columns] += groups


def products(call: Callable[[], object]) -> Counter[Product]:
    with Products() as found:
        call()
    return found.counts


def floor(counts: Counter[Product], times: int) -> Callable[[], None]:
    """The products alone, ``times`` over."""
    work = [(torch.randn(rows, inner), torch.randn(columns, inner).t(), torch.empty(rows, columns), count)
            for (rows, inner, columns), count in counts.items()]

    def run() -> None:
        for _ in range(times):
            for left, right, out, count in work:
                for _ in range(count):
                    torch.mm(left, right, out=out)

    return run


def work(codec: Codec, wave: Tensor) -> tuple[list[Callable[[], None]], list[float]]:
    """Encode, its floor, decode, its floor; and the million multiply-adds of both in a second of audio."""
    speaker = codec.speakers[0] if codec.speakers else None
    codes = codec.encode(wave, SAMPLE_RATE, speaker)
    block = codec.block * codec.hop
    latents = torch.from_numpy(codes.levels[0])[None, :, :codec.block]
    asked = [products(lambda: codec.model.encode(wave[None, None, :block], stages=codec.stages, beam=codec.beam)),
             products(lambda: codec.model.decode(latents, codec.condition(speaker)))]
    floors = [floor(counts, len(wave) // block) for counts in asked]
    adds = [sum(prod(sizes) * n for sizes, n in counts.items()) * SAMPLE_RATE / block / 1e6 for counts in asked]

    def encode() -> None:
        codec.encode(wave, SAMPLE_RATE, speaker)

    def decode() -> None:
        codec.decode(codes)

    return [encode, floors[0], decode, floors[1]], adds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of audio, a multiple of the codec's blocks")
    args = parser.parse_args()
    wave = 0.1 * torch.randn(args.seconds * SAMPLE_RATE)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}; {args.seconds} s of audio at {SAMPLE_RATE} Hz")
    print(f"{'':18}{'threads':>8}{'encode × real time':>20}{'decode × real time':>20}{'share of products':>20}"
          f"{'M multiply-adds / s of audio':>31}")
    for name, codec in codecs().items():
        calls, macs = work(codec, wave)
        for threads in args.threads:
            torch.set_num_threads(threads)
            encode, encode_floor, decode, decode_floor = seconds(calls, args.repeats)
            print(f"{name:18}{threads:>8}{args.seconds / encode:>20.0f}{args.seconds / decode:>20.0f}"
                  f"{f'{encode_floor / encode:.2f}, {decode_floor / decode:.2f}':>20}"
                  f"{f'{macs[0]:.0f}, {macs[1]:.0f}':>31}", flush=True)


if __name__ == "__main__":
    main()
