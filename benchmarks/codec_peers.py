"""How fast ours, EnCodec, DAC and Mimi encode and decode, in one run on one thread.

    pip install 'audiovae[benchmark]'
    python benchmarks/codec_peers.py
    python benchmarks/codec_peers.py --repeats 1 --peer-seconds 2 --peers EnCodec-24k

Random weights, which cost what trained ones do: ours as recipes/speech_codec/speech-16k.toml has it, with all its
codebooks and the codec's beam unless told otherwise (`--kbps 3 --beam 1`; the peers take nearest codes, a beam of 1);
the peers as `transformers` builds them from the settings of their published models. Each gets noise at its own rate.
With `--precision bf16` ours multiplies in bfloat16 as `audiovae encode --precision bf16` does, and the peers by
torch.autocast, which is what they have for it.
All take turns, and what counts is the processor's time: on an idle machine one thread's is the clock's, on a busy one
it leaves out the waiting. Medians. The share of products is explained in codec.py.
"""

import argparse
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, get_args

import torch
from codec import SAMPLE_RATE, codecs, work
from quantizers import seconds
from torch import Tensor

from audiovae.codec import BEAM, Codec
from audiovae.nn.bfloat16 import Precision
from audiovae.report import Table

Pair = tuple[Callable[[], object], Callable[[], object]]  # encode, decode
MODEL = "speech-16k"


def encodec(duration: float) -> tuple[str, Pair]:
    """24 kHz, hop 320: 8 codebooks of 1024 at 75 Hz."""
    from transformers import EncodecConfig, EncodecModel

    model, wave = EncodecModel(EncodecConfig()).eval(), noise(duration, 24000)
    codes: Any = model.encode(wave, bandwidth=6.0)
    return "6 kbit/s", (lambda: model.encode(wave, bandwidth=6.0),
                        lambda: model.decode(codes.audio_codes, codes.audio_scales))


def dac(duration: float) -> tuple[str, Pair]:
    """16 kHz, hop 320: 12 codebooks of 1024 at 50 Hz."""
    from transformers import DacConfig, DacModel

    model = DacModel(DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12)).eval()
    wave = noise(duration, 16000)
    codes: Any = model.encode(wave)
    return "6 kbit/s", (lambda: model.encode(wave), lambda: model.decode(audio_codes=codes.audio_codes))


def mimi(duration: float) -> tuple[str, Pair]:
    """24 kHz, hop 1920: 8 codebooks of 2048 at 12.5 Hz."""
    from transformers import MimiConfig, MimiModel

    model, wave = MimiModel(MimiConfig()).eval(), noise(duration, 24000)
    codes: Any = model.encode(wave, num_quantizers=8)
    return "1.1 kbit/s", (lambda: model.encode(wave, num_quantizers=8), lambda: model.decode(codes.audio_codes))


PEERS = {"EnCodec-24k": encodec, "DAC-16k": dac, "Mimi": mimi}


def noise(duration: float, sample_rate: int) -> Tensor:
    return 0.1 * torch.randn(1, 1, round(duration * sample_rate))


def under_autocast(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20, help="of audio for ours, a multiple of its blocks")
    parser.add_argument("--kbps", type=float, help="of ours (default: all it has)")
    parser.add_argument("--beam", type=int, default=BEAM, help="of ours")
    parser.add_argument("--precision", choices=get_args(Precision), default="no", help="of all")
    parser.add_argument("--peer-seconds", type=float, default=4, help="of audio for the others, which are slower")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    args = parser.parse_args()
    if args.peers and importlib.util.find_spec("transformers") is None:
        print("transformers is not installed (pip install 'audiovae[benchmark]'): the peers are left out")
        args.peers = []
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    codec = Codec(codecs()[MODEL].model, args.kbps, beam=args.beam, precision=args.precision)
    calls, _ = work(codec, noise(args.seconds, SAMPLE_RATE)[0, 0])
    built = {name: PEERS[name](args.peer_seconds) for name in args.peers}
    lean = args.precision == "bf16"
    every = [*calls, *(under_autocast(call) if lean else call for _, pair in built.values() for call in pair)]
    encode, encode_floor, decode, decode_floor, *theirs = seconds(every, args.repeats, time.process_time)
    speeds = args.seconds / encode, args.seconds / decode
    name = f"audiovae {MODEL}, beam {args.beam}" + lean * ", bf16"
    rows: list[tuple[Any, ...]] = [(name, f"{codec.header().nominal_kbps:g} kbit/s", f"{speeds[0]:.0f}",
                                    f"{speeds[1]:.0f}", None, None)]
    for (name, (rate, _)), *pair in zip(built.items(), theirs[::2], theirs[1::2], strict=True):
        own = [args.peer_seconds / taken for taken in pair]
        rows.append((name, rate, *(f"{speed:.1f}" for speed in own),
                     *(f"{ours / speed:.0f} ×" for ours, speed in zip(speeds, own, strict=True))))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, one thread, processor time\n")
    print(Table(("model", "rate", "encode, × real time", "decode, × real time", "ours to it, encode", "decode"),
                rows).text())
    if lean:  # the products alone are timed in single precision
        return
    print(f"\nof our time, matrix products: {encode_floor / encode:.0%} of encoding, {decode_floor / decode:.0%} of "
          "decoding")


if __name__ == "__main__":
    main()
