"""The report of a model of several levels: a table for each, and spectral convergence of the set, not a mean."""

import json
import math

import numpy as np
import pytest
import torch
from test_level_codec import APART, RATE, STACKED, build, config

from audiovae import metrics
from audiovae.audio.io import write_audio
from audiovae.checkpoint import save_model
from audiovae.cli import main
from audiovae.evaluate import WHOLE, Clip, evaluate, evaluate_each
from audiovae.level_codec import codec_of


def clips(count=3):
    torch.manual_seed(3)
    return [Clip(f"{i}", (0.1 + 0.3 * i) * torch.randn(3000 + 4000 * i), RATE) for i in range(count)]


def spectrum(wave):
    """|STFT| of n_fft 2048, hop 256, window 1536, by numpy's own transform of each frame."""
    window = np.zeros(2048)
    window[256:1792] = np.hanning(1537)[:-1]
    padded = np.pad(np.asarray(wave, np.float64), 1024, mode="reflect")
    frames = [padded[i:i + 2048] * window for i in range(0, len(padded) - 2047, 256)]
    return np.abs(np.fft.rfft(frames))


def test_the_whole_sets_convergence_is_of_energies_added_up():
    codec = codec_of(build(APART))
    levels = {f"level {n}": codec.at(n) for n in codec.levels}
    results = evaluate_each(levels, clips())
    for name, its in levels.items():
        missed = whole = 0.0
        for clip in clips():
            x, y = spectrum(clip.waveform), spectrum(its.decode(its.encode(clip.waveform, RATE)))
            missed, whole = missed + ((x - y) ** 2).sum(), whole + (x**2).sum()
        wanted = 10 * math.log10(missed / whole)
        (told,) = [row[1] for row in results[name].table().rows if row[0] == WHOLE]
        assert float(told) == pytest.approx(wanted, abs=0.1)
        mean = results[name].interval("spectral convergence, dB").mean
        assert abs(mean - wanted) > 1e-3  # another number: the loud and long count for more
    assert results["level 1"].interval("codes alone, kbit/s").mean == pytest.approx(8 * RATE / 16 / 1000)
    assert [row[0] for row in results["level 1"].codebooks().rows] == ["0", "1"]


def test_a_hierarchy_has_one_table_with_the_codebooks_of_all_levels():
    result = evaluate(codec_of(build(STACKED)), clips(1))
    assert [row[0] for row in result.codebooks().rows] == ["0 of level 0", "0 of level 1", "0 of level 2",
                                                          "1 of level 2"]


def test_channels_are_measured_one_by_one():
    codec = codec_of(build(APART, channels=2)).at(0)
    wave = torch.randn(2, 6000)
    result = evaluate(codec, [Clip("x", wave, RATE)])
    sound = codec.decode(codec.encode(wave, RATE))
    wanted = [float(metrics.si_sdr(a, b)) for a, b in zip(sound, wave, strict=True)]
    assert result.rows[0]["SI-SDR, dB"] == pytest.approx(sum(wanted) / 2)


@pytest.mark.parametrize(("table", "names"), [(APART, ["level 0", "level 1", "level 2"]), (STACKED, None)])
def test_the_command_reports_each_level(table, names, tmp_path, capsys):
    (folder := tmp_path / "model").mkdir()
    save_model(folder, build(table), config(table))
    for name in "ab":
        write_audio(tmp_path / "in" / f"{name}.wav", 0.2 * torch.randn(3000), RATE)
    more = ["--listen", "1" if names else "0"]  # figures take most of the time
    assert main(["evaluate", str(tmp_path / "in"), "--model", str(folder), "-o", str(tmp_path / "out"), *more]) == 0
    said, values = capsys.readouterr().out, json.loads((tmp_path / "out/evaluation.json").read_text())
    page = (tmp_path / "out/evaluation.html").read_text()
    assert said.count(WHOLE) == len(names or [0]) and "peak memory" in said
    if names is None:
        assert values.keys() == {"measures", "codebooks", "costs", "recordings"}
    else:
        assert list(values) == names and all(name.capitalize() in page for name in names)
        assert len(values["level 2"]["recordings"]) == 2 and page.count("<audio") == 4
