"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from unreel.core.errors import DataError
from unreel.core.files import WriteError, append, check_file, check_folder, claimed, replacing, write_whole


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = write_whole(tmp_path / "new" / "a.txt", "old")
    with replacing(target) as partial:
        assert partial.parent == target.parent
        assert partial.name.startswith(".a.txt.")
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


@pytest.mark.parametrize("durable", [False, True])
def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path: Path, durable: bool) -> None:
    target = write_whole(tmp_path / "a.bin", b"old")

    def stopped() -> None:
        with replacing(target, durable=durable) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.replace", rename)
    with replacing(tmp_path / "a.bin", durable=True) as partial:
        partial.write_bytes(b"x")
    assert done == ["file", "name", "folder"]
    write_whole(tmp_path / "a.bin", b"y")
    assert done[3:] == ["name"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as first, replacing(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the last to finish
    assert os.listdir(tmp_path) == ["a.txt"]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a.txt", "ä\r\nb\n").read_bytes() == "ä\r\nb\n".encode()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there/a.txt", "there/b.txt"):  # the first exists, the second does not yet
        link = tmp_path / f"link-{Path(name).name}"
        link.symlink_to(name)
        if name.endswith("a.txt"):
            (tmp_path / name).write_text("old")
        check_file(link)
        write_whole(link, "new")
        assert link.is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "there")) == ["a.txt", "b.txt"]


def test_only_the_disks_errors_are_turned_into_ours(tmp_path: Path) -> None:
    def during(error: Exception) -> None:
        with replacing(tmp_path / "a.bin"):
            raise error

    for error in (FileNotFoundError(errno.ENOENT, "gone", "source.mp4"), DataError("b.csv:3: no"), ValueError("bug")):
        with pytest.raises(type(error)) as caught:
            during(error)
        assert caught.value is error
    wrapped = RuntimeError("unexpected pos 704 vs 598")
    wrapped.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(WriteError, match=r"a\.bin cannot be written: no space left on device; free some space"):
        during(wrapped)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO])
def test_every_refusal_says_why_and_what_to_do(error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_whole(tmp_path / "a.txt", "good")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error), None)

    def tried() -> list[str]:
        said = []
        for ask in (check_file, check_folder, lambda path: write_whole(path, "new"), lambda path: append(path, "b")):
            with pytest.raises(WriteError) as caught:
                ask(target.parent if ask is check_folder else target)
            said.append(str(caught.value))
        return said

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        patch.setattr("builtins.open", refuse)
        said = tried()
    assert [s.split(" cannot be written: ")[0] for s in said] == [str(target), str(tmp_path), str(target), str(target)]
    assert all(os.strerror(error).lower() in s and "choose another place" in s for s in said)
    assert target.read_text() == "good"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    append(target, "first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(WriteError, match="file too large"):
            append(target, "second and too long\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "first\n"
    append(target, "third\n")
    assert target.read_text() == "first\nthird\n"


def test_asking_leaves_nothing(tmp_path: Path) -> None:
    check_file(tmp_path / "not" / "yet" / "a.txt")
    check_folder(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == []
    with claimed(tmp_path / "mine"), claimed(tmp_path / "mine", only="table.parquet"):
        assert sorted(os.listdir(tmp_path / "mine")) == [".lock", ".table.parquet.lock"]
    assert os.listdir(tmp_path / "mine") == []
