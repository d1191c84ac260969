"""audiovae export: a codec's two halves as graphs for other runtimes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from audiovae.checkpoint import save_half
from audiovae.codec import BEAM, Codec
from audiovae.commands.arguments import parse, refuse
from audiovae.errors import ConfigError
from audiovae.export import export
from audiovae.files import atomic_folder


@dataclass(frozen=True)
class Arguments:
    """Export a codec: its encoder (waveform to codes) and decoder (codes to waveform), for any batch and length.

    Example: audiovae export runs/small -o exported

    Both are tried beside the model first: the same codes on 99.9 % of frames, waveforms within 1e-4, or nothing is
    written. model.json says what they take. ONNX wants the extra `export`.

    --format half writes any model as it is, a checkpoint folder with weights of half the size and none of a run's own
    files: what to pass on. Of several, one trained on from another, it writes the mean of their weights, which may be
    better than any: audiovae export before after --format half -o mean
    """

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Checkpoint folder, training run, hub repository, or a model that comes with audiovae; several with --format half
    alone."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """A new folder."""
    format: Literal["onnx", "torch", "half"] = "onnx"
    """onnx: encoder.onnx and decoder.onnx; torch: encoder.pt2 and decoder.pt2, for torch.export.load."""
    kbps: float | None = None
    """The most kbit/s of codes, of a model that serves several rates (default: all it has)."""
    beam: int = BEAM
    """Sums of codes that the encoder keeps while it searches for those of a residual quantizer; 1 is the fastest."""


def main(argv: list[str]) -> int:
    arguments = parse("export", Arguments, argv)
    if not arguments.models:
        raise ConfigError("a model is wanted: a checkpoint folder, a training run, or one that comes with audiovae.")
    if arguments.format == "half":
        refuse(arguments, ("kbps", "beam"), "is of programs; --format half writes the whole model")
        with atomic_folder(arguments.output) as temporary:
            save_half(arguments.models, temporary)
        print(f"{arguments.output}: config.json and model.safetensors, {_megabytes(arguments.output):.1f} MB.")
        return 0
    model, *others = arguments.models
    if others:
        raise ConfigError("a program is made of one model: take --format half of several, then export that.")
    codec = Codec.from_pretrained(model, arguments.kbps, beam=arguments.beam)
    parity = export(codec, arguments.output, arguments.format)
    print(f"{arguments.output}: encoder, decoder and model.json, {_megabytes(arguments.output):.1f} MB; the same codes "
          f"on {parity.same_codes:.2%} of {parity.steps} steps, waveforms within {parity.difference:.1e}.")
    return 0


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6
