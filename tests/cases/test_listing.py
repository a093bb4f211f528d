"""What of a folder is learned from, and that what is left out is said, by every command."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.media import write_video
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = create_encoder("r3d_tiny", seed=0)
    net.input_spec = replace(net.input_spec, num_frames=1, stride_frames=1, size_px=16)
    return save_encoder(net, tmp_path_factory.mktemp("net") / "e.safetensors")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def pictures(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


CLASSES = [f"{label}/{name}.png" for label in ("cat", "dog") for name in ("Ada", "Ben", "Cem", "Dee")]


class Told:
    """A command's exit code, JSON, and what it said on stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        self.code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        self.plain: dict[str, Any] = json.loads(captured.out)
        self.err = captured.err


def labels(capsys: pytest.CaptureFixture[str], encoder: Path, data: Path, out: Path) -> tuple[Told, list[str]]:
    told = Told(capsys, "embed", encoder, data, "--out", out)
    assert told.code == 0
    with np.load(out) as found:
        return told, sorted(found["labels"].tolist()) if "labels" in found else []


def commands(encoder: Path, data: Path, out: Path) -> dict[str, list[object]]:
    small = ("--size", "16", "--hidden_dim", "8", "--out_dim", "4", "--train.batch_size", "4")
    return {
        "index": ["data", "index", data],
        "embed": ["embed", encoder, data, "--out", out / "e.npz"],
        "search": ["search", encoder, data, data / CLASSES[0]],
        "evaluate": ["evaluate", encoder, data, "--protocol", "knn"],
        "explain": ["explain", encoder, data, "--out", out, "--workers", "0", "--expand-resolution", "4"],
        "annotate": ["data", "annotate", "motion_energy", data, "--workers", "0"],
        "pretrain": ["pretrain", data, "--dry-run", "--train.steps", "1", "--encoder", "r3d_tiny", *small],
    }


@pytest.mark.parametrize("name", commands(Path(), Path(), Path()))
def test_every_command_says_once_what_is_left_out(
    name: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "data", *CLASSES, "owl/.hidden.png")
    (data / "cat" / "notes.txt").write_text("x")
    (data / "cat" / "a.zip").write_text("x")
    (data / "closed").mkdir()
    forbid(monkeypatch, data / "closed")
    command = commands(encoder, data, tmp_path / "out")[name]
    for quiet in ([], ["--quiet"]):
        told = Told(capsys, *command, *quiet)
        assert told.code == 0, told.err
        for words, loud in (
            ("1 folder could not be listed, and what is in there is left out: closed", True),
            ("1 archive is not looked into: cat/a.zip", False),
            ("1 file that is no media by its name ignored (.txt: 1), such as cat/notes.txt", False),
            ("1 hidden file or folder ignored", False),
            ("1 folder holds no image at all: owl", False),
        ):
            assert sum(words in notice for notice in told.plain["notices"]) == 1, words
            if name != "index":  # which shows them as what it found
                assert told.err.count(words) == (loud or not quiet), words
        assert ("warning: " in told.err) == (name != "index")


def forbid(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Make one folder unlistable, for whoever runs the tests."""
    scandir: Callable[..., Any] = os.scandir

    def refuse(path: Any = ".") -> Any:
        if os.path.realpath(path) == os.path.realpath(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_itself(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "data", *CLASSES)
    forbid(monkeypatch, data)
    told = Told(capsys, "embed", encoder, data, "--out", tmp_path / "e.npz")
    assert told.code == 1
    assert "data: this folder cannot be listed; may you read it?" in told.err


def test_links_to_folders_are_followed_and_end(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "data", *CLASSES)
    store = pictures(tmp_path / "store", "1.png", "deep/2.png")
    (data / "owl").symlink_to(store)
    (data / "ant").symlink_to(data / "dog")  # a class under a second name, which sorts first
    (store / "deep" / "round").symlink_to(data)
    (store / "self").symlink_to(store / "self")
    (store / "deep" / "2.png").rename(store / "2.png")
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert found == ["cat"] * 4 + ["dog"] * 4 + ["owl"] * 2
    (again,) = [n for n in told.plain["notices"] if "under another name already" in n]
    assert "2 folders are here" in again
    assert "ant" in again
    assert "owl/deep/round" in again
    assert "warning: data: 1 link leads nowhere, and what should be there is left out: owl/self" in told.err


def test_links_that_lead_nowhere(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data", *CLASSES)
    (data / "owl").symlink_to(tmp_path / "store that is not mounted")
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert len(found) == 8
    assert "warning: data: 1 link leads nowhere, and what should be there is left out: owl" in told.err
    (data / "cat" / "gone.png").symlink_to(tmp_path / "gone.png")  # a file that is listed and not there is an error
    told = Told(capsys, "embed", encoder, data, "--out", tmp_path / "e.npz")
    assert told.code == 1
    assert "'cat/gone.png'; 1 of them is a link that leads nowhere" in told.err
    assert "labels" not in told.plain


def test_files_by_name(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Upper case, other names of JPEG; a stray file takes the labels, which is said."""
    data = pictures(tmp_path / "data", "cat/A.PNG", "cat/b.JPG", "dog/c.jfif", "dog/d.webp")
    (data / "README").write_text("x")
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert found == ["cat", "cat", "dog", "dog"]
    assert any("(no suffix: 1), such as README" in n for n in told.plain["notices"])
    pictures(data, "contact_sheet.png")
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert found == []
    assert "4 files lie one folder deep and 1 elsewhere, such as contact_sheet.png: there are no labels" in told.err


def trees(folder: Path, pattern: str, names: str) -> Path:
    return pictures(folder, *(f"{name}/{pattern.format(i)}" for name in names.split() for i in range(1, 5)))


def number_of(capsys: pytest.CaptureFixture[str], encoder: Path, data: Path, out: Path) -> tuple[int, list[str], str]:
    told, found = labels(capsys, encoder, data, out)
    (notice,) = [n for n in told.plain["notices"] if "running number" in n]
    assert told.err.count(notice) == 1
    return told.plain["videos"], found, notice


@pytest.mark.parametrize(
    ("pattern", "names", "as_read", "other"),
    [
        ("img_{:05}.jpg", "run/v1 run/v2 wave/v3", (3, ["run", "run", "wave"]), (12, [])),
        ("{:06}.png", "v1 v2 v3", (12, ["v1"] * 4 + ["v2"] * 4 + ["v3"] * 4), (3, [])),
        ("{:04}.png", "train/cat train/dog test/cat", (12, ["cat"] * 8 + ["dog"] * 4), (3, [])),
    ],
    ids=["videos of classes", "videos or classes", "classes in parts"],
)
def test_numbered_pictures_are_read_one_way_and_the_other_way_is_named(
    pattern: str,
    names: str,
    as_read: tuple[int, list[str]],
    other: tuple[int, list[str]],
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = trees(tmp_path / "some data", pattern, names)
    count, found, notice = number_of(capsys, encoder, data, tmp_path / "e.npz")
    assert (count, found) == as_read
    command = re.search("`unreel (.*?)`", notice)
    assert command is not None
    assert main([*shlex.split(command[1]), "--quiet"]) == 0
    capsys.readouterr()
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert (told.plain["videos"], found) == other
    assert "running number" not in told.err


def test_a_poster_beside_frames_does_not_hide_them(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trees(tmp_path / "data", "0_frame{}.jpg", "run/v1 run/v2 wave/v3")
    for video in ("run/v1", "run/v2", "wave/v3"):
        pictures(data / video, "cover.jpg")
    count, _, notice = number_of(capsys, encoder, data, tmp_path / "e.npz")
    assert count == 15
    assert "such as run/v1/0_frame1.jpg" in notice
    assert "taken as single pictures, because run/v1 holds cover.jpg beside them" in notice
    assert "list the frames of each video in a table" in notice


def test_results_inside_the_data_are_no_data(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data", *CLASSES)
    run = ["pretrain", data, "--out", data / "run", "--train.steps", "1", "--encoder", "r3d_tiny"]
    run += ["--size", "16", "--hidden_dim", "8", "--out_dim", "4", "--train.batch_size", "4"]
    run += ["--train.workers", "0"]
    assert Told(capsys, *run).code == 0
    assert (data / "run" / "views.png").is_file()
    assert Told(capsys, *run).code == 0, "the same command again finds the run's own pictures no change of the data"
    maps = ["explain", encoder, data, "--out", data / "maps", "--workers", "0", "--expand-resolution", "4"]
    assert Told(capsys, *maps).code == 0
    told, found = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert found == ["cat"] * 4 + ["dog"] * 4
    assert "2 folders hold results of unreel and are left out: maps, run" in told.err
    for command in (run[:3], maps[:4]):
        told = Told(capsys, *command, data)
        assert told.code == 2
        assert "is the folder of the data" in told.err
    assert sorted(p.name for p in data.iterdir()) == ["cat", "dog", "maps", "run"]


def test_pipes_are_no_files_and_nothing_waits_for_them(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "data", *CLASSES)
    (before, _), pipes = labels(capsys, encoder, data, tmp_path / "e.npz"), ("pipe.mp4", "cat/pipe.png", "pipe.gif")
    for name in pipes:
        os.mkfifo(data / name)
    told, _ = labels(capsys, encoder, data, tmp_path / "e.npz")
    assert told.plain["videos"] == before.plain["videos"]
    assert "3 pipes, sockets or devices left out: cat/pipe.png, pipe.gif, pipe.mp4" in told.err
    (data / "m.csv").write_text("path\n" + "".join(f"{name}\n" for name in pipes))
    told = Told(capsys, "data", "index", data / "m.csv")
    assert (told.code, told.plain["readable"]) == (0, 0)
    told = Told(capsys, "pretrain", data / "m.csv", "--out", tmp_path / "run", "--encoder", "r3d_tiny")
    assert told.code == 1
    assert "pipe" in told.err
    with pytest.raises(DataError, match="a pipe, a socket or a device, and not a file"):
        _ = Manifest.open(data / "m.csv").digest


def test_a_span_outside_its_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "v.mp4", list(frames()), 10)
    (tmp_path / "m.csv").write_text("path,start_s,end_s\nv.mp4,0,1\nv.mp4,7,9\n")
    assert main(["data", "index", str(tmp_path / "m.csv")]) == 0
    assert f"m.csv:3: the span starts at 7 s, where {tmp_path / 'v.mp4'} ends at 4 s" in capsys.readouterr().out


def test_spans_have_their_own_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "v.mp4", list(frames()), 10)
    (tmp_path / "m.csv").write_text("path,start_s,end_s\nv.mp4,0,1\nv.mp4,1,1.5\nv.mp4,3,9\n")
    told = Told(capsys, "data", "index", tmp_path / "m.csv")
    assert (told.plain["sources"], told.plain["files"], told.plain["readable"]) == (3, 1, 3)
    assert (told.plain["shortest_s"], told.plain["longest_s"]) == (0.5, 1.0)
    assert told.plain["hours"] == round(2.5 / 3600, 4)
    assert main(["data", "index", str(tmp_path / "m.csv")]) == 0
    out = capsys.readouterr().out
    assert "spans     3 of 1 file, each with its own length" in out
    assert "length    0.5 to 1 s" in out


def frames() -> Iterator[np.ndarray]:
    for i in range(40):
        yield np.full((16, 16, 3), 5 * i, dtype=np.uint8)
