"""VCTK comes down whole or not at all: goes on where it stopped, believes no byte unproved, escapes no folder."""

import contextlib
import hashlib
import io
import json
import re
import signal
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from processes import Process, command, run
from test_commands import refused

from audiovae.audio.vctk import RELEASES, download_vctk
from audiovae.cli import main
from audiovae.download import PIECE, fetch, unpack
from audiovae.errors import ConfigError, DownloadError, OutputError

NAME = "VCTK-Corpus-0.92.zip"
BODY = np.random.default_rng(0).bytes(10 * PIECE + 123)
BODY_MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


class Server:
    """A web server on loopback that can do wrong. asked : the Range of each request it got, None for all."""

    def __init__(self, body=BODY, ranges=True, status=None, cut=(), hold=None, shift=0):
        self.body, self.ranges, self.status, self.cut, self.hold = body, ranges, status, list(cut), hold
        self.shift, self.asked, self.sent = shift, [], 0
        self.go_on = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, format, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/{NAME}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.status:
            return request.send_error(self.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start >= len(self.body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.body)}")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start + self.shift}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        end = self.cut.pop(0) if self.cut else len(self.body)
        with contextlib.suppress(ConnectionError):
            request.wfile.write(self.body[start : self.hold or end])
            if self.hold:
                request.wfile.flush()
                self.go_on.wait(60)
        self.sent += max((self.hold or end) - start, 0)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.go_on.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_whole_file(tmp_path):
    with Server() as server:
        assert fetch(server.url, tmp_path / "new" / NAME, BODY_MD5) == tmp_path / "new" / NAME
        assert (tmp_path / "new" / NAME).read_bytes() == BODY and tree(tmp_path) == ["new", f"new/{NAME}"]
        fetch(server.url, tmp_path / "new" / NAME, BODY_MD5)
    assert server.asked == [None], "what is there is not asked for again"


@pytest.mark.parametrize("have", [1, PIECE, len(BODY) - 1])
def test_what_is_there_is_not_asked_for_again(have, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:have])
    with Server() as server:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert server.asked == [f"bytes={have}-"] and server.sent == len(BODY) - have
    assert (tmp_path / NAME).read_bytes() == BODY and tree(tmp_path) == [NAME]


def test_a_part_that_was_whole_already(tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    with Server() as server:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert server.asked == [f"bytes={len(BODY)}-"] and (tmp_path / NAME).read_bytes() == BODY


def test_a_part_of_a_longer_file_is_begun_anew(tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY + b"more")
    with Server() as server:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert server.asked == [f"bytes={len(BODY) + 4}-", None] and (tmp_path / NAME).read_bytes() == BODY


def test_a_server_that_knows_no_ranges_sends_all_again(tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 5000)
    with Server(ranges=False) as server:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert server.asked == ["bytes=5000-"] and (tmp_path / NAME).read_bytes() == BODY


def test_a_range_that_was_not_asked_for_is_not_joined(tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:5000])
    with Server(shift=7) as server, pytest.raises(DownloadError, match="asked for bytes from 5000, got"):
        fetch(server.url, tmp_path / NAME)
    assert (tmp_path / f"{NAME}.part").read_bytes() == BODY[:5000]


def test_a_connection_that_breaks_is_taken_up_while_it_brings_something(tmp_path):
    with Server(cut=[3 * PIECE, 7 * PIECE]) as server:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert server.asked[0] is None and len(server.asked) == 3 and server.sent < len(BODY) + 3 * PIECE


def test_a_truncated_body_is_no_file(tmp_path):
    kept = r"broke off; 0\.3 MB are kept"
    with Server(cut=[4 * PIECE] * 9) as server, pytest.raises(DownloadError, match=kept) as said:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert "\n" not in str(said.value) and tree(tmp_path) == [f"{NAME}.part"]
    assert (tmp_path / f"{NAME}.part").read_bytes() == BODY[: 4 * PIECE]


def test_another_file_than_was_published_is_not_taken(tmp_path):
    wrong = bytearray(BODY)
    wrong[1234] ^= 1
    with Server(bytes(wrong)) as server, pytest.raises(DownloadError, match=r"its md5 is [0-9a-f]{32}, wanted") as said:
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert "it was removed" in str(said.value) and tree(tmp_path) == []
    (tmp_path / NAME).write_bytes(bytes(wrong))
    with pytest.raises(DownloadError, match="is not the file wanted"):
        fetch(server.url, tmp_path / NAME, BODY_MD5)
    assert (tmp_path / NAME).read_bytes() == wrong, "a file of the user's own stays"


def test_checksums_of_no_known_form_are_refused_before_anything_is_asked(tmp_path):
    for wrong in ("abc", "md5:abc", "crc:" + "0" * 8, "shake_128:" + "0" * 32):
        with pytest.raises(ConfigError, match="wanted md5: or sha256:"):
            fetch("http://127.0.0.1:1/x", tmp_path / NAME, wrong)
    for release in RELEASES.values():
        assert release.checksum is None or re.fullmatch("md5:[0-9a-f]{32}", release.checksum)


@pytest.mark.parametrize(("url", "says"), [
    ("http://127.0.0.1:1/x.zip", "connection refused"), ("nowhere", "Invalid URL"), ("ftp://127.0.0.1/x", "adapters"),
])  # fmt: skip
def test_a_server_that_is_not_there(url, says, tmp_path):
    with pytest.raises(DownloadError, match=says) as said:
        fetch(url, tmp_path / NAME)
    assert "\n" not in str(said.value) and len(str(said.value)) < 200 and tree(tmp_path) == []


def test_a_disk_too_small_is_told_before_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with Server() as server, pytest.raises(OutputError, match="GB are free; make room"):
        fetch(server.url, tmp_path / NAME)
    assert tree(tmp_path) == []


def archive(path, names):
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "x")
    return path


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt"])
def test_no_archive_writes_outside_its_folder(name, tmp_path):
    with pytest.raises(DownloadError, match="would lie outside"):
        unpack(archive(tmp_path / "a.zip", ["good.txt", name]), tmp_path / "in" / "a")
    assert tree(tmp_path) == ["a.zip"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    whole = archive(tmp_path / "a.zip", ["one.txt", "two.txt"]).read_bytes()
    for damaged in (whole[:-30], b"<html>sign in</html>", b"", whole.replace(b"one.txtx", b"one.txty")):
        (tmp_path / "a.zip").write_bytes(damaged)
        with pytest.raises(DownloadError, match="cannot be unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "a")
        assert tree(tmp_path) == ["a.zip"]


def vctk_092(count=6):
    """A small archive of the kind that is published: mic1 and mic2 in flac, texts but for p315, a speaker table."""
    generator, data = np.random.default_rng(1), io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F  English  Surrey\n"
                      "p226  22  M  English  Surrey\np315  18  M  American  New England (Text unavailable)\n")
        for speaker in ("p225", "p226", "p315"):
            for i in range(1, count + 1):
                for mic in ("mic1", "mic2")[: 1 if speaker == "p315" else 2]:
                    sound = io.BytesIO()
                    soundfile.write(sound, 0.1 * generator.standard_normal(24_000), 48_000, format="FLAC")
                    made.writestr(f"wav48_silence_trimmed/{speaker}/{speaker}_{i:03}_{mic}.flac", sound.getvalue())
                if speaker != "p315":
                    made.writestr(f"txt/{speaker}/{speaker}_{i:03}.txt", f"Sentence {i} of a story.\n")
    return data.getvalue()


@pytest.fixture(scope="module")
def made():
    return vctk_092()


def md5(data):
    return "md5:" + hashlib.md5(data).hexdigest()


def wanted(server, tmp_path, data, *more):
    return ("prepare", "vctk", tmp_path / "data", "-o", tmp_path / "corpus", "--download", "--url", server.url,
            "--checksum", md5(data), *more)


def test_the_command_fetches_unpacks_and_prepares(made, tmp_path):
    with Server(made) as server:
        result = run(*wanted(server, tmp_path, made))
        assert result.returncode == 0 and result.stderr == "", "quiet where there is no terminal"
        rows = [json.loads(line) for line in (tmp_path / "corpus/manifest.jsonl").read_text().splitlines()]
        assert {row["id"]: (row["text"], row["gender"], row["age"], row["accent"]) for row in rows} == {
            f"{who}_{i:03}": (f"Sentence {i} of a story.", sex, age, "English")
            for who, sex, age in (("p225", "F", 23), ("p226", "M", 22)) for i in range(1, 7)
        }
        assert "layout vctk-0.92" in result.stdout and "6 × no text" in result.stdout
        assert all("mic1" in row["path"] and row["length"] == 8000 for row in rows)
        again = [*map(str, wanted(server, tmp_path, made)), "-o", str(tmp_path / "second"), "--mic", "mic2"]
        assert main(again) == 0 and server.asked == [None], "what is unpacked is not fetched again"
    assert main(["prepare", "vctk", str(tmp_path / "data"), "-o", str(tmp_path / "third")]) == 0
    assert (tmp_path / "third/audio.i16").read_bytes() == (tmp_path / "corpus/audio.i16").read_bytes()


def arrived(part):
    """Wait until some of a download is on disk."""
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > PIECE) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_the_command_stopped_in_the_middle_goes_on(made, tmp_path):
    part = tmp_path / "data" / f"{NAME}.part"
    half = len(made) // 2
    with Server(made, hold=half) as server:
        process = Process(command, *wanted(server, tmp_path, made))
        arrived(part)
        process.send_signal(signal.SIGINT)
        stopped = process.done()
        assert stopped.returncode == 130 and stopped.stderr == "audiovae: prepare: interrupted.\n"
    have = part.stat().st_size
    assert PIECE < have <= half and part.read_bytes() == made[:have] and not (tmp_path / "corpus").exists()
    with Server(made) as server:
        result = run(*wanted(server, tmp_path, made))
    assert result.returncode == 0, result.stderr
    assert server.asked == [f"bytes={have}-"] and server.sent == len(made) - have


def test_what_the_command_refuses_is_one_line(made, tmp_path, capsys):
    def no(*words):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith("audiovae: prepare: ")
        return said[0]

    with Server(made) as server:
        published = ("prepare", "vctk", tmp_path / "data", "-o", tmp_path / "corpus", "--download", "--url", server.url)
        said = no(*published)
        assert "sent another file than was published" in said and "8a6ba2946b36fcbef0212cad601f4bfa" in said
        assert tree(tmp_path) == ["data"], "a mirror's archive must be the published one, too"
        refused(run(*wanted(server, tmp_path, made), limit=2 * PIECE), "cannot be written: file too large", "kept")
        assert (tmp_path / "data" / f"{NAME}.part").stat().st_size == 2 * PIECE
        (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus/mine.txt").touch()
        before = list(server.asked)
        assert "is there already" in no(*wanted(server, tmp_path, made))
        assert server.asked == before, "told before hours of download, not after"
    new = ("-o", tmp_path / "new")
    with Server(status=404) as server:
        assert "404 Not Found; check the address, or name another by --url" in no(*wanted(server, tmp_path, made), *new)
    assert "--download wants a corpus and one folder" in no("prepare", tmp_path, *new, "--download")
    assert "add --download" in no("prepare", tmp_path, *new, "--url", "http://x")
    assert "no vctk in" in no("prepare", "vctk", tmp_path, *new)
    assert "no input" in no("prepare", *new)
    assert not (tmp_path / "new").exists()


def test_the_older_version_lies_a_folder_deeper(tmp_path, monkeypatch):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("VCTK-Corpus/wav48/p225/p225_001.wav", b"")
        made.writestr("VCTK-Corpus/txt/p225/p225_001.txt", "Please call Stella.")
    with Server(data.getvalue()) as server:
        found = download_vctk(tmp_path, "vctk-0.80", server.url)
        assert found == download_vctk(tmp_path, "vctk-0.80", server.url) == tmp_path / "VCTK-Corpus-0.80/VCTK-Corpus"
    assert server.asked == [None] and (found / "txt/p225/p225_001.txt").exists()


def test_a_process_that_is_killed_leaves_what_it_has(made, tmp_path):
    """Without a chance to clean up: SIGKILL."""
    part = tmp_path / "data" / f"{NAME}.part"
    with Server(made, hold=3 * PIECE) as server:
        process = Process(fetch, server.url, part.with_suffix(""))
        arrived(part)
        process.send_signal(signal.SIGKILL)
        assert process.done().returncode == -signal.SIGKILL
    have = part.stat().st_size
    with Server(made) as server:
        fetch(server.url, part.with_suffix(""), md5(made))
    assert server.asked == [f"bytes={have}-"]
