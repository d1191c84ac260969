"""The models that come with the package: there at once, offline, small, and good for what they say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiovae import Codec
from audiovae.audio.resample import resample
from audiovae.checkpoint import PRETRAINED, bundled
from audiovae.cli import main
from audiovae.codes import Codes
from audiovae.metrics import stoi

pytest.importorskip("espeakng_loader")
SCRIPT = Path(__file__).parent.parent / "data" / "demo_corpus.py"
MOST_BYTES = 15e6


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A sentence of a voice that no training saw, as no part of the demo's was."""
    out = tmp_path_factory.mktemp("speech") / "a"
    subprocess.run([sys.executable, str(SCRIPT), str(out), "--sentences", "2"], check=True, capture_output=True)
    return sorted(out.rglob("*.wav"))[0]


@pytest.fixture(scope="module")
def wave(recording) -> Tensor:
    samples, rate = soundfile.read(recording, dtype="float32")
    return resample(torch.from_numpy(samples), rate, 16_000)


def test_every_model_is_small_and_says_what_it_is():
    assert "speech-16k" in bundled()
    for name in bundled():
        folder = PRETRAINED / name
        assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
        card = (folder / "README.md").read_text()
        assert all(f"## {part}" in card for part in ("Data", "Training", "Measured", "Licence"))
        assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".safetensors"}, "no pickle"
        assert "experiment" not in json.loads((folder / "config.json").read_text()), "no path of a machine"


def test_a_recording_is_coded_and_decoded_without_naming_a_model(recording, wave, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["encode", str(recording), "-o", str(tmp_path / "a.codes"), "--kbps", "3"]) == 0
    assert main(["decode", str(tmp_path / "a.codes"), "-o", str(tmp_path / "a.wav")]) == 0
    decoded, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    codec = Codec.from_pretrained(kbps=3)
    codes = codec.encode(wave, 16_000)
    assert rate == 16_000 and len(decoded) == codes.num_samples == len(wave)
    assert np.abs(decoded - codec.decode(codes).numpy()).max() < 1e-3, "to 16 bits"


def test_a_wider_search_is_nearer_at_the_same_size(wave, recording, tmp_path):
    """In the latent, and to the command as to the codec; a beam of 1 is the nearest code of each stage."""
    model, distance, codes = Codec.from_pretrained().model, {}, {}
    h = model.hidden(wave[: len(wave) // 320 * 320][None, None])
    for beam in (1, 4):
        codes[beam] = Codec.from_pretrained(kbps=3, beam=beam).encode(wave, 16_000).levels[0]
        z = model.bottleneck.decode(torch.from_numpy(codes[beam])[None])[..., : h.shape[-1]]
        distance[beam] = float((z - torch.nn.functional.layer_norm(h.mT, h.shape[1:2]).mT).square().mean())
        target = tmp_path / f"{beam}.npy"
        assert main(["encode", str(recording), "-o", str(target), "--kbps", "3", "--beam", str(beam)]) == 0
        assert (np.load(target) == codes[beam]).mean() > 0.99
    assert distance[4] < 0.95 * distance[1] and codes[4].shape == codes[1].shape
    assert main(["encode", str(recording), "-o", str(tmp_path / "c.codes"), "--beam", "0"]) == 2


def test_bfloat16_gives_other_codes_as_good(recording, wave, tmp_path):
    """To the commands too: most are the same, and words come through as well."""
    paths = {precision: tmp_path / f"{precision}.codes" for precision in ("no", "bf16")}
    for precision, path in paths.items():
        assert main(["encode", str(recording), "-o", str(path), "--kbps", "3", "--precision", precision]) == 0
        assert main(["decode", str(path), "--precision", precision]) == 0
    prior = Codec.from_pretrained().prior
    same = np.mean(Codes.load(paths["no"], prior).levels[0] == Codes.load(paths["bf16"], prior).levels[0])
    assert 0.6 < same < 1
    heard = {precision: torch.from_numpy(soundfile.read(path.with_suffix(".wav"), dtype="float32")[0])
             for precision, path in paths.items()}
    judged = [float(stoi(heard[precision], wave, 16_000)) for precision in paths]
    assert not torch.equal(heard["no"], heard["bf16"]) and abs(judged[0] - judged[1]) < 0.02


def test_words_come_through_and_more_bits_are_nearer(wave):
    """STOI, of which 1 is the original: rises with the rate, and falls to nothing when the codes are mixed up."""
    def intelligibility(kbps: float) -> float:
        codec = Codec.from_pretrained(kbps=kbps)
        return float(stoi(codec.decode(codec.encode(wave, 16_000)), wave, 16_000))

    low, high = intelligibility(0.5), intelligibility(6)
    assert low < high and high > 0.85
    codec = Codec.from_pretrained()
    codes = codec.encode(wave, 16_000)
    order = np.random.default_rng(0).permutation(codes.levels[0].shape[1])
    mixed = codec.decode(replace(codes, levels=(codes.levels[0][:, order],)))
    assert float(stoi(mixed, wave, 16_000)) < 0.4
