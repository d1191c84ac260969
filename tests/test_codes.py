"""Code files: what goes in comes out, no damage goes unseen, and the bits come near the entropy."""

import base64
import hashlib
import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiovae.codes import CodeHeader, CodeReader, Codes, CodeWriter, file, packets
from audiovae.errors import CodeFileError, OutputError, ShapeError


def random_codes(hops=(64,), num_codes=((16, 16),), num_samples=2000, label=None, seed=0) -> Codes:
    rng = np.random.default_rng(seed)
    levels = tuple(np.stack([rng.integers(0, k, -(-num_samples // hop)) for k in sizes])
                   for hop, sizes in zip(hops, num_codes, strict=True))
    return Codes(levels, 16000, num_samples, hops, num_codes, "3f" * 32, label)


def same(a: Codes, b: Codes) -> bool:
    pairs = zip(a.levels, b.levels, strict=True)
    return (a.header == b.header and a.num_samples == b.num_samples
            and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs))


def front_of(data: bytes) -> int:
    """Where the first packet of a file starts."""
    return 14 + struct.unpack_from("<I", data, 10)[0] + 4


@st.composite
def any_codes(draw) -> Codes:
    hops = [draw(st.integers(1, 40))]
    for _ in range(draw(st.integers(0, 2))):
        hops.append(hops[-1] * draw(st.integers(1, 5)))
    sizes = st.lists(st.sampled_from((1, 2, 3, 17, 1024, 65536)), min_size=1, max_size=4).map(tuple)
    return random_codes(tuple(hops), tuple(draw(sizes) for _ in hops), draw(st.integers(1, 5000)),
                        draw(st.none() | st.text(max_size=9)), draw(st.integers(0, 9)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(codes=any_codes())
def test_what_goes_in_comes_out(tmp_path, codes):
    codes.save(tmp_path / "a.codes")
    assert same(Codes.load(tmp_path / "a.codes"), codes)
    codes.export(tmp_path / "a.npz")
    assert same(Codes.load(tmp_path / "a.npz"), codes)


@pytest.mark.parametrize("cuts", [1, 7, 333, 5000])
def test_the_file_is_the_same_however_the_codes_were_cut(tmp_path, cuts):
    whole = random_codes((8, 32), ((50, 50), (1000,)), num_samples=60_000)
    whole.save(tmp_path / "whole.codes")
    with CodeWriter(tmp_path / "cut.codes", whole.header) as writer:
        for start in range(0, max(c.shape[1] for c in whole.levels), cuts):
            writer.write([c[:, start:start + cuts] for c in whole.levels])  # levels out of step, too
        writer.finish(whole.num_samples)
    assert (tmp_path / "cut.codes").read_bytes() == (tmp_path / "whole.codes").read_bytes()
    with CodeReader(tmp_path / "cut.codes") as reader:
        blocks = list(reader)
    assert len(blocks) > 3
    assert all(fast.shape[1] == 4 * slow.shape[1] for fast, slow in blocks[:-1]), "packets end together"
    for level, want in enumerate(whole.levels):
        assert np.array_equal(np.concatenate([b[level] for b in blocks], axis=1), want)


@pytest.fixture
def small(tmp_path, monkeypatch) -> tuple[Path, bytes, Codes]:
    """A file of about 400 bytes in five packets."""
    monkeypatch.setattr(packets, "STEPS", 8)
    codes = random_codes(num_samples=2300, label="p226")
    codes.save(path := tmp_path / "small.codes")
    return path, path.read_bytes(), codes


def read_until_error(path: Path, truth: Codes) -> bool:
    """Whether reading fails; whatever is yielded before must be right."""
    done = 0
    try:
        with CodeReader(path) as reader:
            for (block,) in reader:
                assert np.array_equal(block, truth.levels[0][:, done:done + block.shape[1]]), "a wrong block"
                done += block.shape[1]
    except CodeFileError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return True
    return False


def test_every_changed_byte_is_seen_before_a_wrong_code_is_handed_out(small):
    path, data, codes = small
    assert not read_until_error(path, codes)
    for position in range(len(data)):
        for change in (0x01, 0x10, 0x80, 0xFF):
            path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1:])
            assert read_until_error(path, codes), f"byte {position} changed by {change:#x}"
        with pytest.raises(CodeFileError):
            Codes.load(path)


def test_a_reader_without_checksums_would_hand_out_wrong_codes(small, monkeypatch):
    """The test above sees what it is meant to see."""
    path, data, codes = small
    for module in (file, packets):
        monkeypatch.setattr(module, "crc32", lambda *_: 0)
    codes.save(path)
    data = bytearray(path.read_bytes())
    start = front_of(data) + 8 + 4 + 2  # first word of the first packet
    data[start + 1] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="a wrong block"):
        read_until_error(path, codes)


def test_truncation_at_every_length_is_seen_on_opening(small):
    path, data, _ = small
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CodeFileError), CodeReader(path):
            pass


@pytest.mark.parametrize("extra", [b"\0", b"END.", b"x" * 100])
def test_more_than_was_written_is_seen(small, extra):
    path, data, _ = small
    path.write_bytes(data + extra)
    with pytest.raises(CodeFileError, match="added to"):
        Codes.load(path)
    path.write_bytes(data + data)
    with pytest.raises(CodeFileError):
        Codes.load(path)


def test_packets_cannot_be_lost_repeated_or_moved(small):
    """Each of these keeps every packet's own bytes; the seal is made anew, as by a careless tool."""
    path, data, codes = small
    front, at, packets = front_of(data), 0, []
    body, end = data[front:-44], data[-44:-16]
    while at < len(body):
        size = 8 + struct.unpack_from("<I", body, at)[0]
        packets.append(body[at:at + size])
        at += size
    for order in ([0, 1, 3, 4], [0, 1, 2, 2, 3, 4], [1, 0, 2, 3, 4], [4, 3, 2, 1, 0]):
        forged = data[:front] + b"".join(packets[i] for i in order) + end
        path.write_bytes(forged + hashlib.blake2b(forged, digest_size=16).digest())
        assert read_until_error(path, codes), order


def test_a_newer_version_asks_for_a_newer_audiovae(small):
    path, data, _ = small
    path.write_bytes(data[:8] + struct.pack("<H", 5) + data[10:])
    with pytest.raises(CodeFileError, match=r"version 5, this audiovae reads versions 1 to 4: install a newer"):
        Codes.load(path)


# Version 1, written when it was the newest: codes rng(3).integers(0, 16, (2, 40)) in packets of 16 steps.
VERSION_1 = base64.b64decode(
    "iUFWQ09ERQoBAGcAAAB7InNhbXBsZV9yYXRlIjoxNjAwMCwiaG9wcyI6WzY0XSwibnVtX2NvZGVzIjpbWzE2LDE2XV0sImZpbmdlcnByaW50Ijoi"
    "M2YzZjNmM2YzZjNmM2YzZiIsImxhYmVsIjoicDIyNiJ9iYAXxx4AAAA1ulayEAAAAAAA2CwjwdmB9v0l8vB7qExYzAAAQIygyzlkHgAAAAu7lzsQ"
    "AAAAAADodgG7PMECY4mAVLOrOnVGAABgxuxWmvISAAAAwrW+rQgAAAAAA9SrWsSb4BozRn7X70VORC7ECQAAAAAAACgAAAAAAAAANUUj7Cud7/uh"
    "C0Xh7Srg5kqOe6o=")


def test_files_of_version_1_are_still_read(tmp_path):
    (path := tmp_path / "old.codes").write_bytes(VERSION_1)
    old = Codes.load(path)
    assert np.array_equal(old.levels[0], np.random.default_rng(3).integers(0, 16, (2, 40)))
    assert (old.header, old.num_samples) == (CodeHeader(16000, (64,), ((16, 16),), "3f" * 8, "p226"), 2500)
    old.save(tmp_path / "new.codes")
    assert same(Codes.load(tmp_path / "new.codes"), old)
    assert (tmp_path / "new.codes").stat().st_size < len(VERSION_1) - 60, "its header is packed now"


def test_no_bytes_make_a_header_reader_stumble():
    """A header whose checksum was made anew over anything is a header, or refused in our own words."""
    rng = np.random.default_rng(0)
    good = random_codes((8, 32), ((50, 50, 7), (1000,)), label="p226").header
    assert CodeHeader.from_bytes(good.to_bytes() + b"rest") == (good, b"rest")
    packed, refused = good.to_bytes(), 0
    for trial in range(3000):
        length = int(rng.integers(0, len(packed) + 1))
        data = bytearray(packed[:length] if trial % 2 else rng.bytes(length))
        for at in rng.integers(0, max(1, len(data)), 2):
            data[at:at + 1] = rng.bytes(1)
        try:
            CodeHeader.from_bytes(bytes(data))
        except CodeFileError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("facts", [
    {"sample_rate": 0}, {"sample_rate": "16000"}, {"hops": [64, 128]}, {"hops": [0]}, {"hops": [2**20 + 1]},
    {"hops": [4, 6], "num_codes": [[16, 16], [16]]}, {"hops": [8, 4], "num_codes": [[16, 16], [16]]},
    {"hops": []}, {"hops": 64},
    {"num_codes": [[65537]]}, {"num_codes": [[]]}, {"num_codes": [[16] * 65]}, {"label": 3}, {"more": 1},
])
def test_a_header_that_cannot_be_is_refused_even_when_its_checksum_fits(small, facts):
    path, data, codes = small
    text = json.dumps(json.loads(codes.header.to_json()) | facts).encode()
    front = data[:8] + struct.pack("<HI", 1, len(text)) + text  # as JSON, which lets all be said
    path.write_bytes(front + struct.pack("<I", crc32(front)) + data[front_of(data):])
    with pytest.raises(CodeFileError):
        Codes.load(path)


@pytest.mark.parametrize("num_codes", [2, 3, 1000])
def test_a_forged_packet_decodes_to_nothing(num_codes):
    """Were the checksums made anew over any bytes, the coder would still not raise, hang or invent codes."""
    rng = np.random.default_rng(0)
    header = random_codes(num_codes=((num_codes,) * 2,)).header
    for _ in range(1000):
        words = rng.integers(0, 2**32, rng.integers(0, 20), dtype=np.uint32).tobytes()
        steps = struct.pack("<I", int(rng.integers(0, 3000)))
        assert packets.Packets(header).decode(steps + rng.bytes(2) + words + rng.bytes(4)) is None
        choices = bytes(rng.integers(0, 8, 2).tolist())
        assert packets.Packets(header).decode(steps + choices + words + rng.bytes(4)) is None
        assert packets.Packets(header).decode(rng.bytes(int(rng.integers(0, 60)))) is None


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran code')",))


def test_pickles_are_refused_and_never_run(tmp_path):
    path = tmp_path / "a.codes"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CodeFileError, match="no code file"):
        Codes.load(path)
    np.savez(tmp_path / "a.npz", header=np.array(Bomb(), dtype=object), level_0=np.zeros((1, 2)))
    with pytest.raises(CodeFileError, match="no codes of audiovae"):
        Codes.load(tmp_path / "a.npz")
    header = json.dumps(json.loads(random_codes().header.to_json()) | {"num_samples": 100})
    np.savez(tmp_path / "b.npz", header=np.array(header), level_0=np.array([[Bomb()]], dtype=object))
    with pytest.raises(CodeFileError, match="no codes of audiovae"):
        Codes.load(tmp_path / "b.npz")


def test_an_archive_that_claims_to_be_locked_is_one_line(tmp_path):
    random_codes().export(path := tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + 8] ^= 1  # the bit that says "encrypted", as a disk may flip it
    path.write_bytes(content)
    with pytest.raises(CodeFileError, match="no codes of audiovae, or damaged"):
        Codes.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"PK\3\4" + bytes(99), b"RIFF....WAVE", b"hello\n"])
def test_what_is_no_code_file_is_said_to_be_none(tmp_path, content):
    (path := tmp_path / "x").write_bytes(content)
    with pytest.raises(CodeFileError):
        Codes.load(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.codes", tmp_path):
        for read in (Codes.load, lambda p: CodeReader(p).__enter__()):
            with pytest.raises(CodeFileError, match="cannot be read"):
                read(path)


def test_arrays_for_others(tmp_path):
    codes = random_codes(num_codes=((1024, 1024),))
    codes.export(tmp_path / "a.npy")
    array = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert array.dtype == np.uint16 and np.array_equal(array, codes.levels[0])
    with pytest.raises(OutputError, match="one level"):
        random_codes((8, 16), ((2,), (2,))).export(tmp_path / "b.npy")
    with pytest.raises(OutputError, match=r"\.npz or \.npy"):
        codes.export(tmp_path / "b.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_codes_of_another_model_are_refused_naming_both():
    with pytest.raises(CodeFileError, match=r"of model 3f3f.*, not of model abcd"):
        random_codes().check_fingerprint("abcd")
    random_codes().check_fingerprint("3f" * 32)


@pytest.mark.parametrize(("levels", "said"), [
    ((np.zeros((1, 32), int),), r"\(Q=2, L\)"), ((np.zeros(32, int),), r"\(Q=2, L\)"),
    ((np.zeros((2, 32)),), "float64"), ((np.full((2, 32), 16),), "0 to K - 1"),
    ((np.full((2, 32), -1),), "0 to K - 1"), ((), "1 levels"),
])
def test_codes_that_do_not_fit_their_header(tmp_path, levels, said):
    codes = random_codes()
    with pytest.raises(ShapeError, match=said):
        Codes(levels, 16000, 2000, (64,), ((16, 16),), "")
    with pytest.raises(ShapeError, match=said), CodeWriter(tmp_path / "x", codes.header) as writer:
        writer.write(levels)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_file_does_not_appear(tmp_path):
    codes = random_codes()
    with pytest.raises(CodeFileError, match="finish"), CodeWriter(tmp_path / "x", codes.header) as writer:
        writer.write(codes.levels)
    for wrong in (0, 64 * 32 + 1):
        writer = CodeWriter(tmp_path / "x", codes.header)
        with pytest.raises(CodeFileError, match="1 to 2048"), writer:
            writer.write(codes.levels)
            writer.finish(wrong)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_length(tmp_path):
    header = CodeHeader(16000, (320,), ((1024,) * 8,), "f")
    rng = np.random.default_rng(0)

    def peak(blocks: int) -> int:
        tracemalloc.start()
        with CodeWriter(tmp_path / "x", header) as writer:
            for _ in range(blocks):
                writer.write([rng.integers(0, 1024, (8, 512))])
            writer.finish(blocks * 512 * 320)
        with CodeReader(tmp_path / "x") as reader:
            assert sum(levels[0].shape[1] for levels in reader) == blocks * 512
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)  # what is imported and cached once
    assert peak(160) < 1.2 * peak(8)


def size(tmp_path: Path, codes: Codes) -> int:
    codes.save(tmp_path / "x")
    return (tmp_path / "x").stat().st_size


def line(row: np.ndarray, num_codes: int) -> Codes:
    return Codes((row[None],), 16000, len(row), (1,), ((num_codes,),), "f")


@pytest.mark.parametrize("num_codes", [2, 100, 1024, 65536])
def test_no_source_costs_more_than_nominal(tmp_path, num_codes):
    """Uniform codes cannot be coded below log2 K; and a source that turns around misleads any count."""
    rng = np.random.default_rng(1)
    empty = size(tmp_path, line(np.zeros(1, int), num_codes))
    uniform = rng.integers(0, num_codes, 9000)
    for row in (uniform, np.r_[np.zeros(4500, int), uniform[:4500]]):
        count = -(-len(row) // packets.STEPS)
        nominal = len(row) * np.log2(num_codes) / 8
        assert size(tmp_path, line(row, num_codes)) <= 1.0002 * nominal + empty + 25 * count
    assert empty < 200


def test_skewed_codes_come_near_their_entropy(tmp_path):
    rng = np.random.default_rng(2)
    p = 1 / np.arange(1, 513) ** 1.5
    p /= p.sum()
    row = rng.choice(512, 30_000, p=p)
    entropy = -(p * np.log2(p)).sum() / 8 * len(row)  # bytes
    nominal = 9 / 8 * len(row)
    assert entropy < size(tmp_path, line(row, 512)) < 1.04 * entropy + 300 < 0.6 * nominal


def test_a_constant_costs_next_to_nothing(tmp_path):
    empty = size(tmp_path, line(np.zeros(1, int), 1024))
    assert size(tmp_path, line(np.zeros(100_000, int), 1024)) < empty + 2500, "nominal: 125,000"
    assert size(tmp_path, line(np.zeros(100_000, int), 1)) < empty + 1500


def test_rates_are_by_hand(tmp_path):
    codes = random_codes((320,), ((1024,) * 4,), num_samples=160_000)  # 50 steps a second of 40 bits
    assert codes.nominal_kbps == pytest.approx(2.0)
    codes.save(tmp_path / "x")
    assert codes.kbps == pytest.approx((tmp_path / "x").stat().st_size * 8 / 10 / 1000)
    assert 2.0 < codes.kbps < 2.2
    data = (tmp_path / "x").read_bytes()
    whole, header = len(data), int.from_bytes(data[10:14], "little")
    assert codes.packet_kbps == pytest.approx((whole - (8 + 2 + 4 + header + 4) - (4 + 8 + 8 + 4 + 16)) * 8 / 10 / 1000)
    assert random_codes((8, 32), ((16,), (256,))).nominal_kbps == pytest.approx(16 * (4 / 8 + 8 / 32))
