"""What other arithmetic, and a compiler, make of the codec's speed and sound: one thread, one run.

    python benchmarks/codec_arithmetic.py recordings/*/*.wav --limit 20

Ways to run the same trained model: *float32*; *bf16*, what `--precision bf16` does; *compiled*, its encoder and decoder
by torch.compile (the first turn, which compiles, is left out); *int8*, linear layers with dynamically quantized weights
and inputs, as torch.ao has them. Layouts are no choice: the stacks are channels last as they are. For the speeds
recordings are laid end to end, whole minutes of them; all ways take turns, and the table has medians by the processor's
clock. The codes that each way finds are decoded by the same way and judged beside the recording.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from statistics import mean
from time import process_time

import torch
from quantizers import seconds
from torch import Tensor, nn

from audiovae.audio.io import read_audio
from audiovae.checkpoint import DEFAULT, load_model
from audiovae.codec import BEAM, Codec
from audiovae.metrics import pesq_wb, stoi
from audiovae.report import Table


def compiled(codec: Codec) -> Codec:
    for part in (codec.model.encoder, codec.model.decoder):
        part.compile(dynamic=True)
    return codec


def int8(codec: Codec) -> Codec:
    for part in (codec.model.encoder, codec.model.decoder):
        torch.ao.quantization.quantize_dynamic(part, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return codec


def ways(model: str, kbps: float | None, beam: int) -> dict[str, Codec]:
    loaded = load_model(model)

    def codec(**settings: str) -> Codec:
        return Codec(copy.deepcopy(loaded), kbps, beam=beam, **settings)  # type: ignore[arg-type] - each its own

    return {"float32": codec(), "bf16": codec(precision="bf16"), "compiled": compiled(codec()), "int8": int8(codec())}


def judged(codec: Codec, waves: list[Tensor], first: list[Tensor]) -> tuple[float, float, float]:
    """Share of the codes that are those of ``first``, PESQ, STOI; ``first`` is filled by the first that is judged."""
    codes = [codec.encode(wave, codec.sample_rate) for wave in waves]
    levels = [torch.from_numpy(its.levels[0]) for its in codes]
    first.extend(levels[len(first):])
    heard = [codec.decode(its) for its in codes]
    pairs = list(zip(heard, waves, strict=True))
    same = torch.cat([(a == b).flatten().float() for a, b in zip(levels, first, strict=True)]).mean()
    return (float(same), mean(float(pesq_wb(y, x, codec.sample_rate)) for y, x in pairs),
            mean(float(stoi(y, x, codec.sample_rate)) for y, x in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--kbps", type=float, default=3.0)
    parser.add_argument("--beam", type=int, default=BEAM)
    parser.add_argument("--limit", type=int, default=20, help="recordings, evenly from those given")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    codecs = ways(args.model, args.kbps, args.beam)
    rate = codecs["float32"].sample_rate
    count = min(args.limit, len(args.recordings))
    chosen = [args.recordings[i * len(args.recordings) // count] for i in range(count)]
    waves = [read_audio(path, rate)[0][0] for path in chosen]
    long = torch.cat(waves)
    long = long[: max(1, len(long) // (60 * rate)) * 60 * rate]
    codes = codecs["float32"].encode(long, rate)
    calls: list[Callable[[], object]] = []
    for codec in codecs.values():
        calls += [lambda codec=codec: codec.encode(long, rate), lambda codec=codec: codec.decode(codes)]
    taken = seconds(calls, args.repeats, process_time)
    first: list[Tensor] = []
    rows = []
    for (name, codec), encode, decode in zip(codecs.items(), taken[::2], taken[1::2], strict=True):
        same, pesq, heard = judged(codec, waves, first)
        length = len(long) / rate
        rows.append((name, f"{length / encode:.0f}", f"{length / decode:.0f}", f"{same:.1%}", f"{pesq:.3f}",
                     f"{heard:.4f}"))
    print(f"torch {torch.__version__}, one thread, processor time, {args.kbps:g} kbit/s, beam {args.beam}, "
          f"{len(waves)} recordings\n")
    titles = ("", "encode, × real time", "decode, × real time", "codes as float32's", "PESQ-wb", "STOI")
    print(Table(titles, rows).text())


if __name__ == "__main__":
    main()
