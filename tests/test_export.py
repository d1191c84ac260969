"""Exported codecs: the graphs do what the codec does, for any length, and a graph that does not is not written."""

import json
import sys

import pytest
import torch
from test_codec import RATE, build

import audiovae.export as exporting
from audiovae.blocks import blockwise
from audiovae.bottlenecks import FSQConfig, GroupedConfig, RVQConfig, VQConfig
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.codec import Codec
from audiovae.decoders import SpectralDecoderConfig
from audiovae.encoders import SpectralEncoderConfig
from audiovae.errors import ExportError, ExtraError
from audiovae.export import MatrixInverseSTFT, Parity, compare, export, load_onnx, programs
from audiovae.models import AutoencoderConfig
from audiovae.nn.conv import FiLM
from audiovae.shapes import Condition, DataSpec


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A codec with three speakers, its graphs on onnxruntime, and what their file says."""
    torch.manual_seed(0)
    model, folder = build("spectral"), tmp_path_factory.mktemp("export") / "out"
    for module in model.modules():
        if isinstance(module, FiLM):  # the identity at first: nothing of the speaker would be heard
            torch.nn.init.normal_(module.linear.weight)
    codec = Codec(model)
    parity = export(codec, folder, "onnx")
    description = json.loads((folder / "model.json").read_text())
    graphs = [load_onnx(folder / description[name]["file"]) for name in ("encoder", "decoder")]
    return codec, *graphs, description, parity


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("steps", [2, 3, 37, 400])
def test_onnxruntime_gives_the_codes_and_the_sound_of_torch(exported, batch, steps):
    codec, encode, decode, *_ = exported
    wave = torch.randn(batch, 1, steps * codec.hop)
    codes = codec.model.encode(wave, beam=codec.beam)
    assert (encode(wave) == codes).all(dim=1).float().mean() >= 0.999
    speaker = torch.tensor([1, -1, 2])[:batch]
    sound = codec.model.decode(codes, Condition(speaker))
    torch.testing.assert_close(decode(codes, speaker), sound, atol=1e-4, rtol=0)
    other = decode(codes, torch.zeros(batch, dtype=torch.int64))
    assert (other - sound).abs().max() > 1e-3, "the speaker is heard"


def test_what_is_said_beside_the_graphs_is_true(exported):
    """Blocks cut with the stated halo are the whole; the rest is the codec's own word."""
    codec, encode, decode, said, parity = exported
    wave, hop = torch.randn(1, 1, 90 * codec.hop), said["hop"]
    codes = encode(wave)
    assert codes.shape == (1, len(said["num_codes"]), 90) and codes.dtype == torch.int64
    blocks = blockwise([wave], encode, tuple(said["encoder"]["halo_steps"]), 11, hop, 1)
    assert torch.equal(torch.cat(list(blocks), -1), codes)
    speaker = torch.tensor([said["speakers"].index("carl")])
    blocks = blockwise([codes], lambda c: decode(c, speaker), tuple(said["decoder"]["halo_steps"]), 11, 1, hop)
    torch.testing.assert_close(torch.cat(list(blocks), -1), decode(codes, speaker), atol=1e-5, rtol=0)
    assert (said["sample_rate"], said["fingerprint"]) == (RATE, codec.fingerprint)
    assert said["latency_samples"] == round(codec.latency * RATE)
    assert encode(wave[..., :said["encoder"]["least"]]).shape[-1] == said["decoder"]["least"]
    assert said["parity"] == vars(parity) and parity.same_codes >= 0.999 and parity.difference <= 1e-4


BOTTLENECKS = {"cosine": VQConfig(num_codes=8, dim=4, geometry="cosine"), "fsq": FSQConfig(levels=(5, 4, 3)),
               "grouped": GroupedConfig(groups=2, each=VQConfig(num_codes=8, dim=2))}


@pytest.mark.parametrize("name", ["strided", *BOTTLENECKS])
def test_other_codecs_are_programs_too(name):
    if name in BOTTLENECKS:
        config = AutoencoderConfig(
            encoder=SpectralEncoderConfig(n_fft=96, mel_hop=32, num_mels=8, width=8, depth=1, lookahead=0),
            decoder=SpectralDecoderConfig(hop=64, n_fft=128, width=8, depth=1, lookahead=0),
            bottleneck=BOTTLENECKS[name])
        codec = Codec(config.build(DataSpec(1, 1, RATE)))
    else:
        codec = Codec(build(name, labels=()))
    halves = {key: program.module() for key, program in programs(codec).items()}
    compare(codec, halves["encoder"], halves["decoder"], lengths=(2, 40)).check()


def test_a_rate_below_the_whole_is_exported(monkeypatch):
    codec = Codec(build("spectral", labels=()), kbps=0.5)
    assert codec.num_codes == (16,)
    halves = {key: program.module() for key, program in programs(codec).items()}
    assert halves["encoder"](torch.randn(1, 1, 640)).shape == (1, 1, 10)
    compare(codec, halves["encoder"], halves["decoder"], lengths=(10,)).check()


def test_a_graph_that_differs_is_refused_and_leaves_nothing(monkeypatch, tmp_path):
    forward = MatrixInverseSTFT.forward
    monkeypatch.setattr(MatrixInverseSTFT, "forward", lambda *inputs: forward(*inputs) + 2e-4)
    with pytest.raises(ExportError, match=r"within 1e-4, got 100.00% of \d+ and 2.0e-04"):
        export(Codec(build("spectral", labels=())), tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"99\.8"):
        Parity(steps=1000, same_codes=0.998, difference=0.0).check()


def test_the_command_line_exports_and_says_how_near(tmp_path, capsys):
    config = AutoencoderConfig(
        encoder=SpectralEncoderConfig(n_fft=96, mel_hop=32, num_mels=8, width=8, depth=1),
        decoder=SpectralDecoderConfig(hop=64, n_fft=128, width=8, depth=1),
        bottleneck=RVQConfig(num_codes=8, num_quantizers=2, dim=4))
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", config.build(DataSpec(1, 1, RATE)).eval(), config)
    command = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--format", "torch"]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["decoder.pt2", "encoder.pt2", "model.json"]
    assert "of 1365 steps, waveforms within" in capsys.readouterr().out
    wave = torch.randn(1, 1, 64 * 9)
    program = torch.export.load(tmp_path / "out/encoder.pt2").module()
    assert program(wave).shape == (1, 2, 9)
    assert main(command) == 2
    assert "there already" in capsys.readouterr().err


def test_a_package_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(exporting, "programs", lambda codec: {"encoder": None, "decoder": None})
    with pytest.raises(ExtraError, match=r"audiovae\[export\]"):
        export(Codec(build("spectral")), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExtraError, match=r"audiovae\[export\]"):
        load_onnx(tmp_path / "encoder.onnx")
