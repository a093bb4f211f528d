"""The index: facts for what can be read, faults for what cannot, and no second opening."""

from __future__ import annotations

import builtins
import io
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.decoder_suite import numbered_frames

from unreel.data.index import cache_folder, index
from unreel.data.manifest import Manifest, Row
from unreel.media import ReadTimeoutError, VideoInfo, probe, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for i in range(6):
        write_video(root / f"{'ab'[i % 2]}" / f"{i}.mp4", numbered_frames(6 + i, seed=i), 25)
    (root / "a" / "broken.mp4").write_bytes(b"not a video at all")
    (root / "b" / "empty.mp4").touch()
    return root


def _count_probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []

    def counted(path: Any) -> Any:
        opened.append(os.fspath(path))
        return probe(path)

    monkeypatch.setattr("unreel.data.index.probe", counted)
    return opened


def test_facts_and_faults(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(folder)
    seen: list[tuple[int, int]] = []
    found, faults = index(manifest, progress=lambda done, total: seen.append((done, total)), cache=tmp_path / "c")
    assert [r.path for r in found] == [r.path for r in manifest]
    for i, row in enumerate(found):
        if row.facts is not None:
            assert row.facts == probe(manifest.absolute(i))
    assert {(f.path, f.cause) for f in faults} == {
        ("a/broken.mp4", "UnreadableError"),
        ("b/empty.mp4", "TruncatedError"),
    }
    assert all(found[f.row].facts is None and f.path in f.message for f in faults)
    assert sorted(seen) == [(i + 1, 8) for i in range(8)]
    assert found.digest == manifest.digest


@pytest.mark.parametrize("workers", [1, 4])
def test_second_time_opens_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    manifest = Manifest.from_folder(folder)
    cache = tmp_path / "cache"
    opened = _count_probes(monkeypatch)
    first = index(manifest, workers=workers, cache=cache)
    assert len(opened) == 8
    del opened[:]
    assert index(manifest, workers=workers, cache=cache) == first
    faulty = {"broken.mp4", "empty.mp4"}  # no fault outlives a better reader
    assert {Path(name).name for name in opened} == faulty
    # a file that changed is probed again, one that only looks changed as well, and the others are not
    write_video(folder / "a" / "broken.mp4", numbered_frames(5), 25)
    os.utime(folder / "a" / "0.mp4", (1, 1))
    del opened[:]
    repaired = index(manifest, workers=workers, cache=cache)
    assert {Path(name).name for name in opened} == {"0.mp4", *faulty}
    assert [f.path for f in repaired.faults] == ["b/empty.mp4"]


def test_facts_never_go_from_one_file_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One name, size, beginning, end, and one time of change: wherever they lie, and one in the other's place."""
    facts = {b"a": 1, b"b": 2}

    def fake(path: Any) -> VideoInfo:
        return VideoInfo(facts[Path(path).read_bytes()[70_000:70_001]], 1, 1, 1.0, 1.0, "raw")

    def write(folder: str, middle: bytes) -> Path:
        file = tmp_path / folder / "0.mp4"
        file.parent.mkdir(exist_ok=True)
        before = file.stat().st_ctime_ns if file.exists() else 0
        while not file.exists() or file.stat().st_ctime_ns == before:  # until the system's clock has moved on
            file.write_bytes(b"x" * 70_000 + middle + b"x" * 70_000)
            os.utime(file, (1, 1))
        return file.parent

    def width(folder: Path) -> int:
        (row,) = index(Manifest.from_folder(folder), cache=tmp_path / "cache").manifest
        assert row.facts is not None
        return row.facts.width

    monkeypatch.setattr("unreel.data.index.probe", fake)
    assert [width(write(folder, middle)) for folder, middle in (("one", b"a"), ("two", b"b"))] == [1, 2]
    assert width(write("one", b"b")) == 2
    (tmp_path / "link").symlink_to(tmp_path / "two")
    (tmp_path / "one" / "0.mp4").unlink()
    assert width(tmp_path / "link") == 2


def test_spans_share_a_probe_and_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Row("a/0.mp4", 0.0, 0.1), Row("a/0.mp4", 0.1, 0.2), Row("a/0.mp4", 9.0, 10.0))
    opened = _count_probes(monkeypatch)
    found, faults = index(Manifest(str(folder), rows), cache=None)
    assert len(opened) == 1
    assert [r.facts is not None for r in found] == [True, True, False]
    assert [(f.row, f.cause) for f in faults] == [(2, "TooShortError")]


def test_what_may_pass_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest(str(folder), (Row("late.mp4"),))
    assert index(manifest, cache=tmp_path / "c").faults[0].cause == "MissingFileError"
    write_video(folder / "late.mp4", numbered_frames(5), 25)
    assert index(manifest, cache=tmp_path / "c").faults == []


def test_a_timeout_is_not_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(path: Any) -> Any:
        raise ReadTimeoutError(path, "slow storage today")

    manifest = Manifest(str(folder), (Row("a/0.mp4"),))
    monkeypatch.setattr("unreel.data.index.probe", too_slow)
    assert index(manifest, cache=tmp_path / "c").faults[0].cause == "ReadTimeoutError"
    monkeypatch.undo()
    assert index(manifest, cache=tmp_path / "c").faults == []


def test_lists_of_frames(tmp_path: Path) -> None:
    from PIL import Image

    for i, frame in enumerate(numbered_frames(3)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    found, faults = index(Manifest(str(tmp_path), (Row("", frames=("0.png", "1.png", "2.png")),)), cache=None)
    assert not faults
    assert found[0].facts is not None
    assert found[0].facts.num_frames == 3


def test_a_broken_or_forbidden_cache_only_costs_time(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(folder)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    plain = index(manifest, cache=None)
    assert index(manifest, cache=blocked) == plain
    rotten = tmp_path / "rotten"
    index(manifest, cache=rotten)
    for file in rotten.iterdir():
        file.write_bytes(b"no database" * 100)
    assert index(manifest, cache=rotten) == plain


def test_where_facts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", "/x/y")
    assert cache_folder() == Path("/x/y")
    monkeypatch.delenv("UNREEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/z")
    assert cache_folder() == Path("/z/unreel")


def test_a_cached_index_opens_no_file_and_its_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 100,000 files known already cost (in seconds: benchmarks/quick.py): a stat of each."""
    source = write_video(tmp_path / "v" / "0.mp4", numbered_frames(3, height=16), 25)
    for i in range(1, 30):
        os.link(source, tmp_path / "v" / f"{i}.mp4")
    manifest = Manifest.from_folder(tmp_path / "v")
    first = index(manifest, cache=tmp_path / "c")
    calls: dict[str, list[str]] = {"open": [], "connect": [], "stat": []}

    def counted(kind: str, call: Any) -> Any:
        def count(path: Any, *rest: Any, **options: Any) -> Any:
            calls[kind].append(str(path))
            return call(path, *rest, **options)

        return count

    for owner, name, kind in (
        *((builtins, "open", "open"), (io, "open", "open"), (os, "open", "open"), (os, "stat", "stat")),
        (sqlite3, "connect", "connect"),
    ):
        monkeypatch.setattr(owner, name, counted(kind, getattr(owner, name)))
    assert index(manifest, cache=tmp_path / "c") == first
    monkeypatch.undo()
    assert [path for path in calls["open"] if path.endswith(".mp4")] == []
    assert len(calls["connect"]) == 1
    assert len([path for path in calls["stat"] if path.endswith(".mp4")]) == 30
