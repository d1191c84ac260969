"""Outputs appear whole or not at all; inputs are found and bad ones named."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiovae.errors import AudioError, OutputError
from audiovae.files import atomic_file, atomic_folder, below, expand_inputs, resumable_folder


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_takes_its_name_only_when_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "x.wav"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".wav" and temporary.parent == target.parent
        temporary.write_text("new")
        assert not target.exists()
    assert left(tmp_path) == ["deep", "deep/er", "deep/er/x.wav"] and target.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old" and left(tmp_path) == ["x.txt"]
    with pytest.raises(failure), atomic_file(tmp_path / "a/b/x") as temporary:
        raise failure
    assert left(tmp_path) == ["x.txt"], "the folders made for it are gone too"


def test_a_link_keeps_pointing_at_the_replaced_file(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_what_the_system_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    bad = [tmp_path / "file" / "x", tmp_path, Path("/dev/null"), tmp_path / ("n" * 300), Path("/proc/x/y")]
    for path in bad:
        with pytest.raises(OutputError, match="cannot be written") as caught, atomic_file(path) as temporary:
            temporary.write_text("x")
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert left(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="no space left"), atomic_file(tmp_path / "x") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 100_000)
    with pytest.raises(OutputError, match="no space left"), atomic_folder(tmp_path / "y") as temporary:
        (temporary / "part").symlink_to("/dev/full")
        (temporary / "part").write_bytes(b"x" * 100_000)
    assert left(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"), atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("x")


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", "/somewhere/input.wav")
    with pytest.raises(PermissionError) as caught, atomic_file(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_a_kill_leaves_no_file_of_that_name(tmp_path):
    script = ("import os, signal, sys; from audiovae.files import atomic_file\n"
              "with atomic_file(sys.argv[1]) as t: t.write_text('x'); os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.wav")], check=False)
    assert not (tmp_path / "x.wav").exists()


def test_two_at_work_on_one_folder_is_one_too_many(tmp_path):
    with resumable_folder(tmp_path / "out", "a") as first:
        (first / "one").write_text("")
        with pytest.raises(OutputError, match="another process"), resumable_folder(tmp_path / "out", "a"):
            pass
        assert (first / "one").exists()
    assert left(tmp_path) == ["out", "out/one"]


def test_a_failure_leaves_nothing_to_go_on_with(tmp_path):
    with pytest.raises(OutputError, match="no space left"), resumable_folder(tmp_path / "deep/out", "a") as folder:
        (folder / "part").symlink_to("/dev/full")
        (folder / "part").write_bytes(b"x" * 100_000)
    assert left(tmp_path) == []


def test_a_folder_appears_whole_and_is_replaced_whole(tmp_path):
    out = tmp_path / "out"
    for text in ("one", "two"):
        with atomic_folder(out, replace=True) as temporary:
            (temporary / text).write_text(text)
    assert left(tmp_path) == ["out", "out/two"]
    with pytest.raises(OutputError, match="is there already"), atomic_folder(out):
        pass
    with pytest.raises(RuntimeError), atomic_folder(out, replace=True) as temporary:
        (temporary / "three").write_text("")
        raise RuntimeError
    assert left(tmp_path) == ["out", "out/two"]
    out2 = tmp_path / "empty"
    out2.mkdir()
    with atomic_folder(out2) as temporary:
        (temporary / "x").write_text("")
    assert left(out2) == ["x"]
    with pytest.raises(OutputError, match="it is a file"), atomic_folder(out2 / "x"):
        pass


def test_inputs_by_file_glob_and_folder(tmp_path, monkeypatch):
    for name in ("b/2.wav", "b/c/1.FLAC", "b/notes.txt", "a.wav", "take[1].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def found(*names: str) -> list[str]:
        return [item.relative.as_posix() for item in expand_inputs(names, (".wav", ".flac"))]

    assert found("b") == ["2.wav", "c/1.FLAC"]
    assert found("b/*.wav", "a.wav", "a.wav", "./a.wav") == ["2.wav", "a.wav"]
    assert found("b/**/*") == ["2.wav", "c/1.FLAC"]
    assert found("*/*.wav") == ["b/2.wav"], "a glob mirrors from its first wildcard on"
    assert found("take[1].wav") == ["take[1].wav"], "a file of that name is no glob"
    assert found("b/notes.txt") == ["notes.txt"], "named outright: its suffix is the caller's choice"


def test_every_name_of_a_file_is_an_input_and_hidden_ones_are_none(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "blob.wav").touch()
    (tmp_path / "x.wav").symlink_to(tmp_path / "blob.wav")
    (tmp_path / "d" / "y.wav").symlink_to(tmp_path / "blob.wav")
    (tmp_path / ".half.tmp-1.wav").touch()
    found = expand_inputs([tmp_path], (".wav",))
    assert [item.relative.as_posix() for item in found] == ["blob.wav", "d/y.wav", "x.wav"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "a.wav").touch()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(AudioError, match="cannot be read: permission denied"):
        expand_inputs([tmp_path], (".wav",))


def test_inputs_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="missing"):
        expand_inputs([tmp_path / "no.wav"], (".wav",))
    for name in ("empty", "*.wav"):
        with pytest.raises(AudioError, match="holds no file to read: wanted"):
            expand_inputs([tmp_path / name], (".wav",))


def test_linked_folders_are_entered_and_loops_of_links_end(tmp_path):
    (far := tmp_path / "far" / "anna").mkdir(parents=True)
    (far / "a.wav").touch()
    (near := tmp_path / "near").mkdir()
    (near / "b.wav").touch()
    (near / "linked").symlink_to(far.parent)
    (near / "itself").symlink_to(near)
    (far / "back").symlink_to(near)
    assert sorted(path.relative_to(near).as_posix() for path in below(near)) == ["b.wav", "linked/anna/a.wav"]
    (near / "m").mkdir()
    (near / "m/c.wav").touch()
    for name in ("k", "n"):
        (near / name).symlink_to(near / "m")
    assert sorted(path.name for path in below(near)) == ["a.wav", "b.wav", "c.wav"], "by whatever way, once"
