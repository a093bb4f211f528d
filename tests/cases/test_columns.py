"""Columns by their usual names, and what every command says of those that it does not use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.media import encode_image, write_video
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder
from unreel.recipes.build import prepare
from unreel.train.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 2 s at 10 fps, two pictures, and an encoder."""
    path = tmp_path_factory.mktemp("columns")
    write_video(path / "v.mp4", np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), np.uint8), fps=10)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
        (path / f"{i}.png").write_bytes(encode_image(pixels))
    save_encoder(create_encoder("resnet_18", width=4, seed=0), path / "e.safetensors")
    return path


def table(folder: Path, header: str, *rows: str, name: str = "t.csv") -> Path:
    (folder / name).write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "names",
    [
        *("start_s,end_s", "start,end", "Start,End", "start_time,end_time", "start,stop", "begin,end", "t_start,t_end"),
        *("onset,offset", "start_sec,end_sec", "START_S, End_S", "start_seconds,end_seconds", "t0,t1"),
    ],
)
def test_spans_by_their_usual_names(folder: Path, names: str) -> None:
    path = table(folder, f"path,{names},label", "v.mp4,0.5,1.25,a", "v.mp4,,,b")
    manifest = Manifest.open(path)
    assert [(r.start_s, r.end_s) for r in manifest] == [(0.5, 1.25), (None, None)]
    assert any("read as start_s in seconds" in n for n in manifest.notices) == (names != "start_s,end_s")
    assert not any("not used" in n for n in manifest.notices)


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        ("start_frame,end_frame", "5,12"),
        ("start_ms,end_ms", "500,1200"),
        ("time_start,time_end", "10,20"),  # Kinetics' places in the videos that its clips were cut from
        ("start,end", "2024-05-01,2024-05-02"),
        ("start,end", "left,right"),
        ("onset,peak", "1,2"),
    ],
)
def test_columns_that_hold_no_span_are_named(folder: Path, names: str, cells: str) -> None:
    manifest = Manifest.open(table(folder, f"path,{names}", f"v.mp4,{cells}"))
    assert (manifest[0].start_s, manifest[0].end_s) == (None, None)
    (notice,) = manifest.notices
    assert notice.startswith(f"columns not used: {names.replace(',', ', ')}")
    assert "spans are start_s and end_s, in seconds" in notice


def test_a_span_by_another_name_is_checked_as_one(folder: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv:3: the span ends at 1 s, not after its start at 2 s"):
        Manifest.open(table(folder, "path,start,end", "v.mp4,0,1", "v.mp4,2,1"))
    own = Manifest.open(table(folder, "path,start_s,end_s,start,end", "v.mp4,0,1,5,9"))  # its own names come first
    assert (own[0].start_s, own[0].end_s) == (0, 1)
    assert "not used: start, end" in own.notices[0]


@pytest.mark.parametrize(("values", "split"), [(("Training", "test"), "Training"), (("train", "fold3"), "")])
def test_another_name_for_split(folder: Path, values: tuple[str, str], split: str) -> None:
    manifest = Manifest.open(table(folder, "path,subset", f"0.png,{values[0]}", f"1.png,{values[1]}"))
    assert manifest[0].split == split
    assert any(("'subset' read as split" if split else "not used: subset") in n for n in manifest.notices)


def test_names_in_any_case(folder: Path) -> None:
    manifest = Manifest.open(table(folder, " Path ,LABEL,Split,Label.Verb", "0.png,a,train,go"))
    assert (manifest[0].path, manifest[0].split, dict(manifest[0].labels)) == (
        "0.png",
        "train",
        {"label": "a", "verb": "go"},
    )
    exact = Manifest.open(table(folder, "path,label,Label", "0.png,a,b"))
    assert exact.labels() == ["a"]
    assert "not used: Label" in exact.notices[0]


def test_every_command_says_it_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    rows = [f"{i}.png,{'ab'[i % 2]},{('train', 'test')[i // 2]},x" for i in range(4)]
    path, encoder = str(table(folder, "file,label,split,age", *rows)), str(folder / "e.safetensors")
    dry = (
        "--dry-run",
        "--encoder",
        "resnet_18",
        "--encoder.width",
        "4",
        "--size",
        "32",
        "--train.batch_size",
        "2",
    )
    commands = [
        ("embed", encoder, path, "--out", str(tmp_path / "v.npz")),
        ("evaluate", encoder, path, "--protocol", "knn"),
        ("search", encoder, path, str(folder / "0.png")),
        ("explain", encoder, path, "--out", str(tmp_path / "looks"), "--iterations", "1", "--workers", "0"),
        ("pretrain", path, *dry, "--train.device", "cpu"),
        ("data", "index", path),
    ]
    for command in commands:
        assert main([*command]) == 0
        captured = capsys.readouterr()
        for said in ("column 'file' read as path", "columns not used: age (--label NAME"):
            assert (captured.out + captured.err).count(said) == 1, command
        assert main([*command, "--quiet", "--json"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        json.loads(captured.out)


def test_a_table_that_lies_elsewhere(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path, "path,label", "0.png,a", "1.png,b")
    assert main(["data", "index", str(path)]) == 1
    error = capsys.readouterr().err
    assert "2 of the files of 2 rows do not exist" in error
    assert "'0.png', '1.png', first in t.csv:2" in error
    assert "unreel data index t.csv --root FOLDER --out NEW.csv" in error
    (tmp_path / "new").mkdir()
    assert main(["data", "index", str(path), "--root", str(folder), "--out", str(tmp_path / "new" / "m.csv")]) == 0
    moved = Manifest.open(tmp_path / "new" / "m.csv")
    assert [os.path.realpath(moved.absolute(i)) for i in range(2)] == [
        os.path.realpath(folder / f"{i}.png") for i in (0, 1)
    ]
    capsys.readouterr()
    assert main(["data", "index", str(folder), "--root", str(folder)]) == 2
    assert "it goes with a table" in capsys.readouterr().err


def test_the_folder_that_paths_are_relative_to_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    path = table(tmp_path / "lists", "path", "a.png")
    monkeypatch.chdir(tmp_path / "lists")
    assert main(["data", "index", str(path)]) == 1
    assert f"--root {tmp_path} --out" in capsys.readouterr().err


def test_every_command_takes_the_columns_of_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    rows = [f"{i}.png,{'ab'[i % 2]} ,p{i},{('train', 'test')[i // 2]}" for i in range(4)]
    path, encoder = str(table(folder, "still,kind,who,use", *rows)), str(folder / "e.safetensors")
    columns = ("--path", "still", "--label", "kind", "--group", "who", "--split", "use")
    small = ("--encoder", "resnet_18", "--encoder.width", "4", "--size", "32", "--train.batch_size", "2")
    run, vectors = tmp_path / "run", tmp_path / "v.npz"
    commands = [
        ("embed", encoder, path, "--out", str(vectors)),
        ("evaluate", encoder, path, "--protocol", "knn"),
        ("search", encoder, path, str(folder / "0.png")),
        ("predict", encoder, path, "--labels", path, "--protocol", "knn", "--head", str(tmp_path / "h.safetensors")),
        ("explain", encoder, path, "--out", str(tmp_path / "looks"), "--iterations", "1", "--workers", "0"),
        ("data", "annotate", "masks", path, "--encoder", encoder, "--workers", "0"),
        ("data", "index", path, "--out", str(tmp_path / "m.csv")),
        ("pretrain", path, *small, "--train.device", "cpu", "--train.workers", "0", "--steps", "1", "--out", str(run)),
    ]
    for command in commands:
        assert main([*command]) == 1, command  # without the option nothing says where the files are
        assert "--path still" in capsys.readouterr().err
        assert main([*command, *columns]) == 0, command
        assert "not used" not in capsys.readouterr().err
    with np.load(vectors) as found:
        assert (found["labels"].tolist(), found["groups"].tolist()) == (["a", "b"] * 2, ["p0", "p1", "p2", "p3"])
    written = Manifest.open(tmp_path / "m.csv")
    assert (written.label_names, written.group_names, written.splits) == (("kind",), ("who",), ("test", "train"))
    config = Run(run).config["data"]
    assert [config[f"{name}_column"] for name in ("path", "label", "group", "split", "start")] == [
        *("still", "kind", "who", "use", None),
    ]
    again = (
        "pretrain",
        path,
        *small,
        "--train.device",
        "cpu",
        "--train.workers",
        "0",
        "--steps",
        "1",
        "--out",
        str(run),
    )
    assert main([*again, *columns]) == 0  # finished: the same command finds the same run
    assert main([*again, *columns[:4], "--group", "use", "--split", "use"]) == 2
    assert "data.group_column was who, is use" in capsys.readouterr().err


def test_the_splits_to_learn_from_are_named_as_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{i}.png,{('Train', 'fold1')[i // 2]}" for i in range(4)]
    path = str(table(folder, "file,use", *rows))
    for given, expected in (("use", ("auto", "use")), ("all", ("all", "none")), ("fold1", ("fold1", "none"))):
        assert main(["pretrain", path, "--split", given, "--list-settings", "--json"]) == 0
        values = {r["setting"]: r["value"] for r in json.loads(capsys.readouterr().out)["settings"]}
        assert (values["data.split"], values["data.split_column"]) == expected


def test_the_label_of_supervised_learning_is_any_column(folder: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(4)]
    prepared = prepare(
        "supervised",
        table(folder, "file,kind", *rows),
        recipe="supervised_images",
        encoder="resnet_18",
        call={"label": "kind", "width": 4, "steps": 1, "batch_size": 2, "device": "cpu"},
    )
    assert prepared.method.target_columns == {"kind": ("a", "b")}


def test_a_column_that_looks_like_a_group_is_a_warning_in_pretrain(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{i}.png,p{i % 3}" for i in range(4)]
    path = str(table(folder, "file,patient", *rows))
    words = (
        "pretrain",
        path,
        "--encoder",
        "resnet_18",
        "--encoder.width",
        "4",
        "--size",
        "32",
        "--train.batch_size",
        "2",
    )
    assert main([*words, "--dry-run", "--train.device", "cpu"]) == 0
    assert "warning: the column 'patient' looks like a group, and is not used" in capsys.readouterr().err
    assert main([*words, "--dry-run", "--train.device", "cpu", "--group", "patient"]) == 0
    assert "looks like a group" not in capsys.readouterr().err
