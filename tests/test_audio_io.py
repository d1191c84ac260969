"""Reading and writing: every cut equals the whole, every bad file is one line, no half file stays."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processes import script

from audiovae.audio.io import AudioWriter, audio_info, read_audio, stream_audio, write_audio
from audiovae.audio.resample import resample
from audiovae.errors import AudioError, OutputError, ShapeError

RATE = 16_000


def noise(seconds: float = 0.5, channels: int = 1, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    hum = 0.3 * np.sin(2 * np.pi * 220 * t)[:, None] * np.ones(channels)
    return (hum + np.random.default_rng(0).normal(0, 0.05, (len(t), channels))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **how: str) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64"])
def test_every_format_streams_as_it_reads(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", noise(channels=2))
    whole, rate = read_audio(path)
    assert rate == RATE and whole.shape == (1, 8000) and whole.dtype == torch.float32
    truth = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    assert np.abs(whole[0].numpy() - truth).max() < 1e-6
    blocks = [*stream_audio(path, block_seconds=0.037)]
    assert len(blocks) > 10
    # The MP3 decoder rounds differently in blocks of other lengths; all others are equal bit for bit.
    torch.testing.assert_close(torch.cat(blocks), whole[0], rtol=0, atol=1e-7 if suffix == "mp3" else 0)
    right = torch.from_numpy(soundfile.read(path, dtype="float32")[0][:, 1])
    torch.testing.assert_close(read_audio(path, channel=1)[0][0], right, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 6])
def test_any_rate_and_channel_count(tmp_path, rate, channels):
    path = write(tmp_path / "x.wav", noise(0.2, channels, rate), rate)
    mix = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    truth = resample(torch.from_numpy(mix), rate, RATE)
    got = torch.cat([*stream_audio(path, RATE, block_seconds=0.01)])
    assert got.shape == truth.shape and (got - truth).abs().max() < 1e-5


def test_info_tells_silent_and_short_without_an_error(tmp_path):
    info = audio_info(write(tmp_path / "x.wav", np.zeros((3, 2), np.float32)))
    assert (info.silent, info.frames, info.channels, info.seconds) == (True, 3, 2, 3 / RATE)
    info = audio_info(write(tmp_path / "y.flac", 0.5 * np.ones((100, 1), np.float32)))
    assert not info.silent and abs(info.peak - 0.5) < 1e-4 and abs(info.rms - 0.5) < 1e-4
    assert info.format == "FLAC PCM_16"


def bad_files(folder: Path) -> dict[str, str]:
    """Each bad file by name, with what its error must say."""
    (folder / "empty.wav").write_bytes(b"")
    write(folder / "header.wav", np.zeros((0, 1), np.float32))
    (folder / "text.wav").write_text("this is no audio\n" * 50)
    (folder / "text.mp3").write_text("nor is this é\n" * 50)
    (folder / "junk.wav").write_bytes(bytes(range(256)) * 20)
    (folder / "headerless.raw").write_bytes(bytes(range(256)))
    (folder / "folder.wav").mkdir()
    for name, value in (("nan", np.nan), ("inf", -np.inf)):
        samples = noise(1.0)
        samples[12_000] = value
        write(folder / f"{name}.wav", samples, subtype="FLOAT")
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "caf", "w64", "rf64", "au", "nist"):
        whole = write(folder / f"cut.{suffix}", noise(2.0)).read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "riff.wav").write_bytes(b"RIFF\x00\x10\x00\x00WAVEfmt \x10\x00\x00\x00")
    return {
        "missing.wav": "missing",
        "empty.wav": "empty",
        "header.wav": "no samples",
        "text.wav": "holds text",
        "text.mp3": "holds text",
        "junk.wav": "not audio",
        "headerless.raw": "no header",
        "folder.wav": "a folder",
        "nan.wav": "NaN or infinite sample at 0.750 s",
        "inf.wav": "NaN or infinite sample at 0.750 s",
        "riff.wav": "truncated",
        **{f"cut.{suffix}": "truncated" for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "caf", "w64", "rf64", "au",
                                                       "nist")},
    }


def test_every_bad_file_is_an_audio_error_of_one_line(tmp_path, capfd):
    for name, says in bad_files(tmp_path).items():
        for read in (read_audio, audio_info, lambda path: [*stream_audio(path)]):
            with pytest.raises(AudioError, match=says) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert capfd.readouterr() == ("", ""), "no decoder talks to the terminal"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "rf64", "au", "nist"])
def test_every_cut_of_a_file_is_noticed(tmp_path, suffix):
    whole = write(tmp_path / f"whole.{suffix}", noise(1.0)).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for size in range(1, len(whole), max(1, len(whole) // 23)):
        path.write_bytes(whole[:size])
        with pytest.raises(AudioError):
            read_audio(path)
    path.write_bytes(whole)
    read_audio(path)


def test_a_wav_from_a_pipe_has_no_length_and_is_whole(tmp_path):
    raw = bytearray(write(tmp_path / "x.wav", noise()).read_bytes())
    for unknown in (0xFFFFFFFF, 0x7FFFF000):
        struct.pack_into("<I", raw, 40, unknown)
        (tmp_path / "pipe.wav").write_bytes(raw)
        assert read_audio(tmp_path / "pipe.wav")[0].shape == (1, 8000)


def test_a_channel_that_is_not_there(tmp_path):
    path = write(tmp_path / "x.wav", noise(channels=2))
    for channel in (2, -1):
        with pytest.raises(AudioError, match=f"no channel {channel}: wanted 0 to 1"):
            read_audio(path, channel=channel)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bits_come_back_bit_for_bit(tmp_path, suffix):
    every = np.arange(-32768, 32768, dtype=np.int16)
    write(tmp_path / "x.wav", every)
    write_audio(tmp_path / f"y.{suffix}", read_audio(tmp_path / "x.wav")[0], RATE)
    assert np.array_equal(soundfile.read(tmp_path / f"y.{suffix}", dtype="int16")[0], every)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_blocks_written_are_one_recording(tmp_path, suffix):
    x = torch.from_numpy(noise(5.0, 2, 44_100).T.copy())
    with AudioWriter(tmp_path / f"x.{suffix}", 44_100, channels=2) as out:
        for block in x.split([1, 100_000, x.shape[1] - 100_001], dim=1):
            out.write(block)
        assert not (tmp_path / f"x.{suffix}").exists()
    got, rate = soundfile.read(tmp_path / f"x.{suffix}", dtype="float32")
    assert rate == 44_100 and got.shape == (x.shape[1], 2)
    error = np.abs(got - x.numpy().T).mean()
    assert error < (1e-4 if suffix in ("wav", "flac") else 0.1)


def test_what_is_too_loud_is_clipped_and_counted(tmp_path):
    with AudioWriter(tmp_path / "x.wav", RATE) as out:
        out.write(torch.tensor([0.0, 1.0, 1.5, -1.0, -7.0]))
    assert out.clipped == 2
    assert soundfile.read(tmp_path / "x.wav", dtype="int16")[0].tolist() == [0, 32767, 32767, -32768, -32768]


def test_bad_writes_leave_nothing(tmp_path):
    with pytest.raises(OutputError, match="suffix"):
        write_audio(tmp_path / "x.xyz", torch.zeros(9), RATE)
    with pytest.raises(OutputError, match="mp3 takes 1 or 2 channels"):
        write_audio(tmp_path / "x.mp3", torch.zeros(9), 12_345)
    with pytest.raises(AudioError, match="NaN"):
        write_audio(tmp_path / "x.wav", torch.tensor([0.0, torch.nan]), RATE)
    with pytest.raises(AudioError, match="no samples"):
        write_audio(tmp_path / "x.wav", torch.zeros(0), RATE)
    with pytest.raises(ShapeError, match="C=1"), AudioWriter(tmp_path / "x.wav", RATE) as out:
        out.write(torch.zeros(2, 10))
    with pytest.raises(KeyboardInterrupt), AudioWriter(tmp_path / "x.wav", RATE) as out:
        out.write(torch.zeros(10))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="no such limits")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """The system lets no file of this process grow beyond 20,000 bytes, as a full disk would."""
    source = """
import resource, sys, torch
from audiovae.audio.io import AudioWriter
from audiovae.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path in sys.argv[1:]:
    try:
        with AudioWriter(path, 44_100) as out:
            for _ in range(20):
                out.write(torch.rand(44_100) - 0.5)
    except OutputError as error:
        print(error)
"""
    paths = [str(tmp_path / f"x.{suffix}") for suffix in ("wav", "flac", "ogg", "mp3")]
    done = script(source, *paths)
    assert done.stdout == "".join(f"{path} cannot be written: file too large.\n" for path in paths)
    assert done.stderr == "" and list(tmp_path.iterdir()) == []


def test_a_stream_needs_no_more_memory_for_a_longer_file(tmp_path):
    """The peak of memory when two minutes are read is that of ten seconds and a fifth of the rest of the file."""
    source = """
import resource, sys
from audiovae.audio.io import stream_audio
for _ in stream_audio(sys.argv[1], 16_000): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for seconds in (10, 120):
        path = write(tmp_path / f"{seconds}.wav", np.zeros((seconds * 48_000, 2), np.int16), 48_000)
        peaks.append(int(script(source, path).stdout))
    assert (peaks[1] - peaks[0]) * 1024 < 0.2 * 110 * 48_000 * 2 * 4


def test_a_rate_that_vorbis_has_not_is_refused_before_there_is_a_file(tmp_path):
    write_audio(tmp_path / "x.ogg", torch.zeros(1, 400), 200_000)
    with pytest.raises(OutputError, match="at most 200000 Hz"):
        write_audio(tmp_path / "y.ogg", torch.zeros(1, 400), 200_001)  # libsndfile would die of it
    assert [path.name for path in tmp_path.iterdir()] == ["x.ogg"]
