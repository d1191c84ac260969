"""How fast an exported codec runs on onnxruntime and as a torch.export program, beside the codec itself.

    python benchmarks/export.py                    # about two minutes on an idle machine
    python benchmarks/export.py --recipe recipes/vctk_conversion/small.toml

One thread, random weights, which cost what trained ones do. All take turns on the same recording, so that a busy
machine slows them alike; medians. Then the codec on packets of one latent step, as a live stream has them: part by
part, each keeping its past, and with the halo of the whole computed again at every step.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import torch
from quantizers import seconds
from torch import Tensor

from audiovae.blocks import blockwise, halo, partwise
from audiovae.codec import Codec
from audiovae.config import read
from audiovae.export import export, load_onnx
from audiovae.nn.field import Part, compose
from audiovae.shapes import Condition, DataSpec
from audiovae.train import Experiment

RECIPE = Path(__file__).parents[1] / "recipes/speech_codec/speech-16k-causal.toml"
SAMPLE_RATE = 16000


def graphs(codec: Codec, folder: Path, wave: Tensor) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By runtime: encode the recording, decode its codes."""
    codes = codec.model.encode(wave, beam=codec.beam)
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "codec": (lambda: codec.model.encode(wave, beam=codec.beam), lambda: codec.model.decode(codes, Condition()))}
    speaker = (torch.tensor([-1]),) if codec.speakers else ()
    for name, format in (("torch.export", "torch"), ("onnxruntime", "onnx")):
        print(f"{name}: {export(codec, folder / format, format)}")
        if format == "onnx":
            encode, decode = (load_onnx(folder / format / f"{half}.onnx") for half in ("encoder", "decoder"))
        else:
            encode, decode = (torch.export.load(folder / format / f"{half}.pt2").module()
                              for half in ("encoder", "decoder"))
        calls[name] = (lambda e=encode: e(wave), lambda d=decode: d(codes, *speaker))
    return calls


def packets(codec: Codec, wave: Tensor) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """The same, a latent step at a time."""
    codes = codec.model.encode(wave, beam=codec.beam)

    def again(pieces: tuple[Tensor, ...], parts: list[Part], unit: int) -> Iterator[Tensor]:
        field = compose(*(field for _, field in parts))

        def whole(x: Tensor) -> Tensor:
            for process, _ in parts:
                x = process(x)
            return x

        return blockwise(pieces, whole, halo(field, unit), 1, unit, int(unit / field.stride))

    encoder, decoder = codec.model.encoder_parts(), codec.model.decoder_parts()
    return {
        "packets, part by part": (lambda: list(partwise(wave.split(codec.hop, -1), encoder, 1, codec.hop)),
                                  lambda: list(partwise(codes.split(1, -1), decoder, 1, 1))),
        "packets, halo again": (lambda: list(again(wave.split(codec.hop, -1), encoder, codec.hop)),
                                lambda: list(again(codes.split(1, -1), decoder, 1))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=20, help="of audio")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = Codec(read(Experiment, args.recipe).model.build(DataSpec(1, 1, SAMPLE_RATE)))
    wave = 0.1 * torch.randn(1, 1, args.seconds * SAMPLE_RATE // codec.hop * codec.hop)
    print(f"{args.recipe.name}, {args.seconds} s of audio, latency {1000 * codec.latency:.0f} ms; {os.cpu_count()} "
          f"cores, one thread, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        calls = graphs(codec, Path(folder), wave)
    few = wave[..., :100 * codec.hop]
    print(f"{'':24}{'encode × real time':>20}{'decode × real time':>20}")
    for group, audio in ((calls, wave), (packets(codec, few), few)):
        times = seconds([call for pair in group.values() for call in pair], args.repeats)
        rates = [audio.shape[-1] / SAMPLE_RATE / time for time in times]
        for i, name in enumerate(group):
            print(f"{name:24}{rates[2 * i]:>20.1f}{rates[2 * i + 1]:>20.1f}", flush=True)


if __name__ == "__main__":
    main()
