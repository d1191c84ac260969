"""A codec as two graphs that run without audiovae: ONNX for onnxruntime, or torch.export programs.

The encoder maps a waveform to codes, the decoder codes to a waveform, for any batch and length. Runtimes are poor at
Fourier transforms or lack them, so these become matrix products, laid out as the convolutions that framing is.
"""

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae import __version__
from audiovae.audio.features import STFT, InverseSTFT
from audiovae.blocks import decoder_halo, encoder_halo
from audiovae.codec import Codec
from audiovae.errors import ExportError, ExtraError
from audiovae.files import atomic_folder
from audiovae.shapes import Condition

Format = Literal["onnx", "torch"]
Graph = Callable[..., Tensor]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
LEAST = 2  # latent steps: a graph traced for any length is not one for a length of 1
CHECKED = (LEAST, 13, 150, 1200)  # latent steps of the recordings that the graphs are tried on


@dataclass(frozen=True)
class Parity:
    """How near an exported codec is to the codec.

    steps : latent steps compared.
    same_codes : share of them whose codes are all the same.
    difference : the largest between two samples decoded from the same codes.
    """

    steps: int
    same_codes: float
    difference: float

    def check(self) -> None:
        """Raise ExportError unless 99.9 % of the steps have the same codes and the waveforms agree to 1e-4."""
        if not (self.same_codes >= 0.999 and self.difference <= 1e-4):
            raise ExportError(f"export wants the same codes on 99.9 % of steps and waveforms within 1e-4, got "
                              f"{self.same_codes:.2%} of {self.steps} and {self.difference:.1e}: nothing was written.")


class MatrixSTFT(STFT):
    """The power of an STFT by a product with the windowed Fourier matrix: cosines, then sines.

    >>> x, stft = torch.randn(2, 4000), STFT(n_fft=64, hop=16)
    >>> torch.allclose(MatrixSTFT(stft).power(x), stft.power(x), atol=1e-4)
    True
    """

    matrix: Tensor

    def __init__(self, like: STFT):
        super().__init__(like.n_fft, like.hop, like.size, ahead=like.size - like.hop - like.padding)
        waves = like.window.double() * fourier(like.n_fft, like.size)
        self.register_buffer("matrix", waves.unsqueeze(1).float(), persistent=False)

    def power(self, x: Tensor) -> Tensor:
        real, imaginary = F.conv1d(self.pad(x).unsqueeze(1), self.matrix, stride=self.hop).chunk(2, dim=1)
        return (real.square() + imaginary.square()).transpose(1, 2)


class MatrixInverseSTFT(InverseSTFT):
    """The inverse by a product with the windowed Fourier matrix, a transposed convolution that overlaps and adds.

    >>> magnitude, phase = torch.rand(2, 9, 33), torch.randn(2, 9, 33)
    >>> inverse = InverseSTFT(n_fft=64, hop=32)
    >>> torch.allclose(MatrixInverseSTFT(inverse)(magnitude, phase), inverse(magnitude, phase), atol=1e-5)
    True
    """

    matrix: Tensor
    window: Tensor

    def __init__(self, like: InverseSTFT):
        super().__init__(like.n_fft, like.hop, like.ahead)
        window = torch.hann_window(like.n_fft, dtype=torch.float64)
        twice = torch.full((like.n_fft // 2 + 1, 1), 2 / like.n_fft, dtype=torch.float64)  # bins and their mirrors
        twice[0] = 1 / like.n_fft
        if like.n_fft % 2 == 0:
            twice[-1] = 1 / like.n_fft
        waves = window * fourier(like.n_fft, like.n_fft) * torch.cat([twice, twice])
        self.register_buffer("matrix", waves.unsqueeze(1).float(), persistent=False)
        self.register_buffer("window", window.float()[None, None], persistent=False)

    def forward(self, magnitude: Tensor, phase: Tensor, mask: Tensor | None = None) -> Tensor:
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=2).transpose(1, 2)
        inside = slice(self.padding, self.padding + self.hop * spectrum.shape[2])
        there = torch.ones_like(spectrum[:1, :1]) if mask is None else mask[:, None]
        kept = spectrum if mask is None else spectrum * there
        summed = F.conv_transpose1d(kept, self.matrix, stride=self.hop)[..., inside]
        windows = F.conv_transpose1d(there, self.window, stride=self.hop)[..., inside]
        return summed / (windows if mask is None else windows.clamp(min=torch.finfo(windows.dtype).tiny))


def fourier(n_fft: int, size: int) -> Tensor:
    """(2 F, size) float64: cos(2π k n / n_fft) for every bin k, then -sin.

    >>> fourier(4, 4).round().int().tolist()[:3]
    [[1, 1, 1, 1], [1, 0, -1, 0], [1, -1, 1, -1]]
    """
    bins, n = torch.arange(n_fft // 2 + 1)[:, None], torch.arange(size)
    angle = 2 * math.pi * (bins * n % n_fft).double() / n_fft
    return torch.cat([angle.cos(), -angle.sin()])


class Encoder(nn.Module):
    """A codec's waveform (B, 1, T) -> codes (B, Q, T / hop) int64, as plain operations."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.model, self.stages, self.beam = plain(codec.model, "decoder"), codec.stages, codec.beam

    def forward(self, waveform: Tensor) -> Tensor:
        return self.model.encode(waveform, stages=self.stages, beam=self.beam)


class Decoder(nn.Module):
    """A codec's codes (B, Q, L) int64 -> waveform (B, 1, L * hop), as plain operations.

    With speakers it is also told which, (B,) int64 by their order, -1 for none.
    """

    def __init__(self, codec: Codec):
        super().__init__()
        self.model = plain(codec.model, "encoder")

    def forward(self, codes: Tensor, speaker: Tensor | None = None) -> Tensor:
        return self.model.decode(codes, Condition(speaker))


def plain(model: nn.Module, without: str) -> Any:
    """A copy of a model without one of its halves, its Fourier transforms as matrices."""
    model = copy.deepcopy(model)
    delattr(model, without)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, STFT):
                setattr(module, name, MatrixSTFT(child))
            elif isinstance(child, InverseSTFT):
                setattr(module, name, MatrixInverseSTFT(child))
    return model


def export(codec: Codec, folder: Path, format: Format = "onnx") -> Parity:
    """Write ``encoder``, ``decoder`` and ``model.json`` into a new folder, once they do what the codec does.

    ``model.json`` says what the graphs take: the sample rate, multiples and least lengths, the speakers' order, and
    the halo, in latent steps, with which a long recording is cut into blocks.

    Raises
    ------
    ExportError
        Where less than 99.9 % of frames have the codec's own codes, or waveforms differ by more than 1e-4.
    ExtraError
        Without the packages of the extra ``export``, which ONNX wants.
    OutputError
        Where the folder is there already.
    """
    with atomic_folder(folder) as temporary:
        files = {name: temporary / f"{name}{SUFFIX[format]}" for name in ("encoder", "decoder")}
        write = _write_onnx if format == "onnx" else _write_torch
        encode, decode = (write(program, files[name]) for name, program in programs(codec).items())
        parity = compare(codec, encode, decode)
        parity.check()
        description = describe(codec, {name: path.name for name, path in files.items()}) | {"parity": asdict(parity)}
        (temporary / "model.json").write_text(json.dumps(description, indent=1) + "\n")
    return parity


def programs(codec: Codec) -> dict[str, torch.export.ExportedProgram]:
    """The encoder and the decoder as torch.export programs for any batch and number of latent steps."""
    batch, steps = torch.export.Dim("batch", min=1), torch.export.Dim("steps", min=LEAST)
    wave = torch.zeros(2, 1, 5 * codec.hop)
    codes = torch.zeros(2, len(codec.num_codes), 5, dtype=torch.int64)
    told = {"speaker": torch.zeros(2, dtype=torch.int64)} if codec.speakers else {}
    with torch.no_grad(), _quiet():
        return {
            "encoder": torch.export.export(Encoder(codec).eval(), (wave,), dynamic_shapes={
                "waveform": {0: batch, 2: codec.hop * steps}}),
            "decoder": torch.export.export(Decoder(codec).eval(), (codes,), told, dynamic_shapes={
                "codes": {0: batch, 2: steps}, **({"speaker": {0: batch}} if told else {})}),
        }


def compare(codec: Codec, encode: Graph, decode: Graph, lengths: tuple[int, ...] = CHECKED) -> Parity:
    """Both halves beside the codec's own on gliding tones in noise, of several lengths in latent steps."""
    generator, same, difference = torch.Generator().manual_seed(0), 0.0, 0.0
    speaker = (torch.zeros(1, dtype=torch.int64),) if codec.speakers else ()
    for steps in lengths:
        t = torch.arange(steps * codec.hop) / codec.sample_rate
        tones = sum(torch.sin(2 * math.pi * k * (120 * t + 20 * torch.sin(3 * t))) / k for k in range(1, 20))
        loudness = 0.1 * (1 + torch.sin(5 * t))
        wave = (loudness * tones + 0.01 * torch.randn(t.shape, generator=generator))[None, None]
        codes = codec.model.encode(wave, stages=codec.stages, beam=codec.beam)
        same += float((encode(wave) == codes).all(dim=1).sum())
        sound = codec.model.decode(codes, Condition(speaker[0] if speaker else None))
        difference = max(difference, float((decode(codes, *speaker) - sound).abs().max()))
    return Parity(sum(lengths), same / sum(lengths), difference)


def describe(codec: Codec, files: dict[str, str]) -> dict[str, Any]:
    """What ``model.json`` says, but for the parity."""
    told = {"speaker": "(B,) int64: index into speakers, -1 for none"} if codec.speakers else {}
    return {
        "audiovae": __version__, "fingerprint": codec.fingerprint, "sample_rate": codec.sample_rate,
        "hop": codec.hop, "num_codes": list(codec.num_codes), "speakers": list(codec.speakers),
        "latency_samples": round(codec.latency * codec.sample_rate),
        "encoder": {"file": files["encoder"], "inputs": {"waveform": "(B, 1, T) float32"},
                    "outputs": {"codes": "(B, Q, T / hop) int64"}, "multiple": codec.hop,
                    "least": LEAST * codec.hop, "halo_steps": encoder_halo(codec.fields[0])},
        "decoder": {"file": files["decoder"], "inputs": {"codes": "(B, Q, L) int64", **told},
                    "outputs": {"waveform": "(B, 1, L * hop) float32"}, "multiple": 1, "least": LEAST,
                    "halo_steps": decoder_halo(codec.fields[1])},
    }


def load_onnx(path: Path, threads: int = 1) -> Graph:
    """An ONNX file as a function of tensors on onnxruntime; ExtraError without it."""
    try:
        import onnxruntime
    except ImportError:
        raise ExtraError("ONNX wants onnxruntime: pip install 'audiovae[export]'.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, no warnings: those of torch about its own insides, which nobody here can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> Graph:
    try:
        import onnxscript  # noqa: F401  what torch.onnx is built on
    except ImportError:
        raise ExtraError("ONNX wants onnx and onnxscript: pip install 'audiovae[export]'.") from None
    names = ("waveform", "codes") if path.stem == "encoder" else ("codes", "waveform")
    inputs = [names[0], "speaker"][:len(program.graph_signature.user_inputs)]
    with _quiet():
        onnx = torch.onnx.export(program, input_names=inputs, output_names=[names[1]], dynamo=True, verbose=False)
    assert onnx is not None
    onnx.save(str(path), external_data=False)
    return load_onnx(path)


def _write_torch(program: torch.export.ExportedProgram, path: Path) -> Graph:
    with _quiet():
        torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda x, *speaker: loaded(x, **dict(zip(["speaker"], speaker, strict=False)))
