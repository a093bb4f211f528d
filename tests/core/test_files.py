"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from unreel.core.files import replacing, write_whole


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
