"""Streams: the same codes and sound as of whole files, no later than stated, and refused where a pipe breaks off."""

import io
import math
import signal
import struct
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Process, command, run
from test_causal import ALL
from test_checkpoint import CONFIG, SPEC
from test_codec import RATE, build
from test_codes import any_codes, random_codes, same

from audiovae.audio.raw import RawReader, RawWriter
from audiovae.checkpoint import save_model
from audiovae.codec import Codec
from audiovae.codes import CodeReader, Codes, CodeWriter, file, packets
from audiovae.errors import AudioError, CodeFileError, ShapeError
from audiovae.transcode import decode_stream, encode_stream


def pieces(data: np.ndarray, cuts: int) -> list[torch.Tensor]:
    return [torch.from_numpy(part) for part in np.array_split(data, cuts)]


# Code files, read forward only.


def flushed(codes: Codes, steps: int) -> bytes:
    """The file of ``codes`` handed on after every ``steps`` of the slowest level."""
    with CodeWriter(target := io.BytesIO(), codes.header) as writer:
        for start in range(0, codes.levels[-1].shape[1], steps):
            ratio = [codes.hops[-1] // hop for hop in codes.hops]
            writer.write([c[:, start * r:(start + steps) * r] for c, r in zip(codes.levels, ratio, strict=True)])
            writer.flush()
        writer.finish(codes.num_samples)
    return target.getvalue()


@settings(max_examples=25, deadline=None)
@given(codes=any_codes(), steps=st.integers(1, 99))
def test_a_file_of_small_packets_is_as_good_as_any(tmp_path_factory, codes, steps):
    data = flushed(codes, steps)
    (path := tmp_path_factory.mktemp("s") / "a.codes").write_bytes(data)
    assert same(Codes.load(path), codes)
    with CodeReader(io.BytesIO(data)) as reader:
        blocks = list(reader)
        assert reader.num_samples == codes.num_samples
    assert all(np.array_equal(np.concatenate(parts, axis=1), level)
               for parts, level in zip(zip(*blocks, strict=True), codes.levels, strict=True))


def forward(data: bytes, truth: Codes) -> int:
    """Read to the end or the error; the packets before it, each of which must be right."""
    done, packets = 0, 0
    try:
        with CodeReader(io.BytesIO(data)) as reader:
            for (block,) in reader:
                assert np.array_equal(block, truth.levels[0][:, done:done + block.shape[1]]), "a wrong block"
                done, packets = done + block.shape[1], packets + 1
    except CodeFileError as error:
        assert "\n" not in str(error)
        return packets
    raise AssertionError("nothing was seen")


def test_every_change_truncation_and_addition_is_seen_on_the_way(monkeypatch):
    monkeypatch.setattr(packets, "STEPS", 8)
    codes = random_codes(num_samples=2300, label="p226")
    data = flushed(codes, 8)
    found = [forward(data[:length], codes) for length in range(len(data))]
    assert sorted(set(found)) == list(range(6)), "whole packets are handed out before the break is met"
    for position in range(len(data)):
        for change in (0x01, 0xFF):
            forward(data[:position] + bytes([data[position] ^ change]) + data[position + 1:], codes)
    for extra in (b"\0", data):
        forward(data + extra, codes)
    with pytest.raises(AssertionError, match="nothing was seen"):
        forward(data, codes)
    length = data.index(b"}") + 5  # of the first packet: too long to be waited for
    forward(data[:length] + struct.pack("<I", file.MAX_PACKET + 1) + data[length + 4:], codes)


# Slices and concatenations.


@settings(max_examples=40, deadline=None)
@given(codes=any_codes(), a=st.floats(0, 1), b=st.floats(0, 1))
def test_a_slice_is_its_steps_and_slices_join_to_the_whole(codes, a, b):
    first, last = sorted((int(a * codes.num_samples), int(b * codes.num_samples)))
    if first == last:
        return
    cut = codes.slice(first / codes.sample_rate, last / codes.sample_rate)
    unit = codes.hops[-1]
    assert cut.start % unit == 0 and 0 <= first - cut.start < unit
    assert cut.stop == codes.num_samples or (cut.stop % unit == 0 and 0 <= cut.stop - last < unit)
    assert cut.codes.num_samples == cut.stop - cut.start
    for part, level, hop in zip(cut.codes.levels, codes.levels, codes.hops, strict=True):
        assert np.array_equal(part, level[:, cut.start // hop:-(-cut.stop // hop)])
    rest = [codes.slice(low / codes.sample_rate, high / codes.sample_rate).codes
            for low, high in ((0, cut.start), (cut.stop, codes.num_samples)) if low < high]
    parts = [*rest[:cut.start > 0], cut.codes, *rest[cut.start > 0:]]
    assert same(Codes.concatenate(parts), codes)


def test_what_cannot_be_cut_or_joined():
    codes = random_codes(label="anna")
    for start, stop in ((-0.1, 1), (0.1, 0.1), (0.125, None), (5, 6)):
        with pytest.raises(ShapeError, match="no samples from"):
            codes.slice(start, stop)
    for start, stop in ((math.inf, None), (math.nan, None), (0, math.nan)):
        with pytest.raises(ShapeError, match="number of seconds"):
            codes.slice(start, stop)
    assert same(codes.slice(0, math.inf).codes, codes)
    assert Codes.concatenate([codes, random_codes(label="bert")]).label is None
    assert Codes.concatenate([codes, codes]).num_samples == 2048 + 2000
    with pytest.raises(CodeFileError, match="part 1 has 16000 Hz"):
        Codes.concatenate([codes, random_codes(num_codes=((16,),))])
    with pytest.raises(CodeFileError, match="not of model"):
        Codes.concatenate([codes, Codes(codes.levels, 16000, 2000, (64,), ((16, 16),), "other")])
    with pytest.raises(ShapeError, match="same sample"):
        Codes.concatenate([random_codes((8, 32), ((2,), (2,)), 40)] * 2)
    with pytest.raises(ShapeError, match="at least one"):
        Codes.concatenate([])


# Sound in and out.


@pytest.mark.parametrize("coding", ["s16le", "f32le", None])
def test_samples_are_read_and_written_as_they_are(coding):
    wave = np.random.default_rng(0).integers(-32768, 32768, 3000).astype(np.float32) / 32768
    RawWriter(target := io.BytesIO(), RATE, coding).write(torch.from_numpy(wave))
    reader = RawReader(io.BytesIO(target.getvalue()), RATE, coding)
    assert np.array_equal(torch.cat(list(reader)).numpy(), wave) and reader.samples == 3000
    with pytest.raises(AudioError, match="truncated"):
        list(RawReader(io.BytesIO(target.getvalue()[:-1]), RATE, coding))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_a_wav_is_read_as_libsndfile_reads_it(tmp_path, subtype):
    wave = np.random.default_rng(0).uniform(-1, 1, (5000, 2))
    soundfile.write(tmp_path / "a.wav", wave, 44100, subtype=subtype)
    want, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    data = (tmp_path / "a.wav").read_bytes()
    got = torch.cat(list(RawReader(io.BytesIO(data), 44100))).numpy()
    np.testing.assert_allclose(got, want.mean(1), atol=1e-7)
    picture = b"LIST" + struct.pack("<I", 150_001) + bytes(150_002)
    got = torch.cat(list(RawReader(io.BytesIO(data[:12] + picture + data[12:]), 44100))).numpy()
    np.testing.assert_allclose(got, want.mean(1), atol=1e-7)
    for bad, said in ((data[:-3], "truncated"), (data[:30], "truncated"), (b"x" + data[1:], "no wav"), (b"", "no wav")):
        with pytest.raises(AudioError, match=said):
            list(RawReader(io.BytesIO(bad), 44100))
    with pytest.raises(AudioError, match="holds no samples"):
        list(RawReader(io.BytesIO(b""), RATE, "f32le"))
    with pytest.raises(AudioError, match="NaN"):
        list(RawReader(io.BytesIO(struct.pack("<f", np.nan)), RATE, "f32le"))


# The codec as a stream.


@pytest.fixture(scope="module", params=ALL.values(), ids=ALL)
def codec(request):
    return Codec(build(request.param))


def test_small_blocks_give_the_codes_and_the_sound_of_the_whole(codec):
    wave = torch.randn(codec.hop * 130 + 17)
    codec.block = 1000
    whole = codec.encode(wave, RATE, "bert")
    sound = codec.decode(whole)
    for block in (7, 25):
        codec.block = block
        source = RawReader(io.BytesIO(wave.numpy().tobytes()), RATE, "f32le")
        encode_stream(codec, source, target := io.BytesIO(), "bert")
        target.seek(0)
        with CodeReader(target) as reader:
            packets = [levels[0] for levels in reader]
        assert len(packets) == -(-131 // block)
        assert np.array_equal(np.concatenate(packets, axis=1), whole.levels[0])
        target.seek(0)
        decode_stream(codec, target, RawWriter(out := io.BytesIO(), RATE, "f32le"))
        heard = torch.frombuffer(bytearray(out.getvalue()), dtype=torch.float32)
        torch.testing.assert_close(heard, sound, atol=1e-5, rtol=0)
    codec.block = 1000


def test_nothing_comes_later_than_stated(codec):
    for block in (1, 5, 40):
        codec.block = block
        measured_lags(codec)
    codec.block = 1000


def measured_lags(codec):
    hop = codec.hop
    encoding, decoding = codec.lags
    come = given_out = 0
    lags = []

    def feed():
        nonlocal come
        for _ in range(150):
            come += hop
            yield torch.randn(hop)
            lags.append(come - given_out)

    blocks = codec.encode_stream(feed())
    codes = []
    for block in blocks:
        given_out += block.shape[1] * hop
        codes.append(block)
    assert max(lags) <= encoding * RATE and (max(lags) > 0 or codec.block == 1)
    come = given_out = 0
    lags.clear()

    def send():
        nonlocal come
        for step in np.concatenate(codes, axis=1).T:
            come += hop
            yield step[:, None]
            lags.append(come - given_out)

    for piece in codec.decode_stream(send(), lambda: 150 * hop, "anna"):
        given_out += len(piece)
    assert max(lags) <= decoding * RATE and (max(lags) > 0 or codec.block == 1)


def test_a_part_is_bit_for_bit_that_of_the_whole(codec):
    codec.block = 20
    codes = codec.encode(torch.randn(codec.hop * 130 + 17), RATE, "bert")
    sound, rng = codec.decode(codes), np.random.default_rng(0)
    runs = []
    for _ in range(25):
        first, last = sorted(rng.integers(0, codes.num_samples + 1, 2).tolist())
        if first < last:
            part = codec.decode(codes, start=first / RATE, stop=last / RATE)
            assert torch.equal(part, sound[first:last])
            runs.append(len(part))
    assert torch.equal(codec.decode(codes, start=0.5), sound[RATE // 2:])
    with pytest.raises(ShapeError, match="no samples from 99"):
        codec.decode(codes, start=99)
    codec.block = 1000


# The command line.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, CONFIG.build(SPEC).eval(), CONFIG)
    return folder


def test_pipes_carry_codes_both_ways(model, tmp_path):
    rng = np.random.default_rng(0)
    wave = (0.3 * rng.standard_normal(RATE * 2)).clip(-1, 1).astype("<f4")
    codec = Codec.from_pretrained(model)
    whole = codec.encode(wave, RATE, "anna")
    sound = codec.decode(whole)
    process = Process(command, "encode", "-", "-o", "-", "--raw", "f32le", "--rate", RATE, "--speaker", "anna",
                      "--model", model)
    process.stdin.write(wave[:RATE].tobytes())
    process.stdin.flush()
    with CodeReader(process.stdout) as reader:
        blocks = iter(reader)
        got = [next(blocks)[0]]  # while the other half has not been sent
        process.stdin.write(wave[RATE:].tobytes())
        process.stdin.close()
        got += [levels[0] for levels in blocks]
        assert process.done().returncode == 0 and reader.num_samples == len(wave) and reader.header == whole.header
    assert np.array_equal(np.concatenate(got, axis=1), whole.levels[0])
    with CodeWriter(target := io.BytesIO(), whole.header) as writer:
        for block in got:
            writer.write((block,))
            writer.flush()
        writer.finish(len(wave))
    data = target.getvalue()
    out = run("decode", "-", "-o", "-", "--raw", "f32le", "--model", model, said=data)
    assert out.returncode == 0, out.stderr
    torch.testing.assert_close(torch.frombuffer(bytearray(out.output), dtype=torch.float32), sound, atol=1e-5, rtol=0)
    broken = run("decode", "-", "-o", "-", "--model", model, said=data[:-60])
    assert broken.returncode == 2 and broken.stderr.count("\n") == 1 and "truncated" in broken.stderr
    (tmp_path / "a.codes").write_bytes(data)
    part = run("decode", tmp_path / "a.codes", "-o", "-", "--raw", "f32le", "--from", "0.25", "--to", "1.5",
               "--model", model)
    assert np.array_equal(np.frombuffer(part.output, "<f4"), sound[2000:12000].numpy()), part.stderr


def test_ctrl_c_ends_what_is_recorded_and_all_of_it_is_kept(model, tmp_path):
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, RATE).astype("<f4")
    out = tmp_path / "a.codes"
    process = Process(command, "encode", "-", "-o", out, "--raw", "f32le", "--rate", RATE, "--speaker", "anna",
                      "--model", model)
    process.stdin.write(wave.tobytes() + b"\0")  # a recorder is stopped within a sample
    process.stdin.flush()
    for _ in range(100):
        if list(tmp_path.glob(".*")):  # it has begun to write
            break
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    done = process.done()
    assert done.returncode == 0 and done.stderr == "", done.stderr
    got = Codes.load(out)
    whole = Codec.from_pretrained(model).encode(wave[:got.num_samples], RATE, "anna")
    assert 0 < got.num_samples <= len(wave)
    assert np.array_equal(got.levels[0], whole.levels[0]) and f"{got.num_samples / RATE:.2f} s" in done.stdout


def test_what_pipes_cannot_do_is_one_line(model, tmp_path, capsys, monkeypatch):
    from audiovae.cli import main

    for words, said in (
        (("encode", "-", "-o", "-", "--raw", "s16le"), "--raw and --rate"),
        (("encode", "-", "x.wav", "-o", "-"), "one input"),
        (("encode", "-"), "-o -"),
        (("encode", "-", "-o", "-", "--block", "0"), "at least 1"),
        (("encode", "-", "-o", "-", "--channel", "1"), "--channel"),
        (("decode", "-", "-o", "-", "--from", "1"), "cannot be sought"),
        (("decode", "-"), "to stdout"),
        (("decode", "x.codes", "--raw", "s16le"), "add -o -"),
        (("encode", "-", "-o", str(tmp_path / "a.codes")), "no wav"),
        (("decode", "-", "-o", str(tmp_path / "a.wav")), "no code file"),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"neither sound nor codes")))
        assert main([*words, "--model", str(model)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0], lines
    assert not list(tmp_path.iterdir())
