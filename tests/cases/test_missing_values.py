"""A value that is missing is missing however a table writes it: never a class, a group or a time."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest, Row
from unreel.media import encode_image
from unreel.tasks import LabelTask

SIGNS = ("nan", "NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "null", "NULL", "None")
PICTURE = encode_image(np.zeros((8, 8, 3), np.uint8))


def pictures(folder: Path, count: int) -> list[str]:
    for i in range(count):
        (folder / f"{i}.png").write_bytes(PICTURE)
    return [f"{i}.png" for i in range(count)]


def csv_of(folder: Path, columns: dict[str, list[str]]) -> Path:
    names = pictures(folder, len(next(iter(columns.values()))))
    lines = [",".join(("path", *columns)), *(",".join(cells) for cells in zip(names, *columns.values(), strict=True))]
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


def parquet_of(folder: Path, columns: dict[str, Any]) -> Path:
    arrays = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    names = pictures(folder, len(next(iter(arrays.values()))))
    pq.write_table(pa.table({"path": names, **arrays}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("sign", ["", " ", *SIGNS])
def test_a_text_for_missing(tmp_path: Path, sign: str) -> None:
    columns = {c: ["1", f" {sign} "] for c in ("label", "label.age", "group", "split", "start_s", "end_s", "file.mask")}
    columns["split"] = ["train", sign]
    columns["start_s"] = ["0", sign]
    columns["file.mask"] = ["1.png", sign]
    first, second = Manifest.from_csv(csv_of(tmp_path, columns))
    assert first == Row("0.png", 0.0, 1.0, (), "train", {"label": "1", "age": "1"}, {"group": "1"}, {"mask": "1.png"})
    assert second == Row("1.png")


def test_it_is_said_by_the_command_that_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(tmp_path, {"label": ["nan", "a", "NA", "nan", "-", "None", "none", "NAB"], "start_s": ["nan"] * 8})
    assert main(["data", "index", str(path), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == {"label": 4}  # a, -, none, NAB
    assert (
        "label: 'nan' in 2 rows, 'NA' in 1 row, 'None' in 1 row read as missing, as an empty cell is"
        in found["notices"]
    )
    assert any("label: '-' in 1 row, 'none' in 1 row read as a class" in notice for notice in found["notices"])
    assert any(notice.startswith("start_s: 'nan' in 8 rows read as missing") for notice in found["notices"])


def test_a_file_may_be_called_so_and_a_class_stays_what_it_is(tmp_path: Path) -> None:
    """What this library writes it reads back, also the folder that is called nan."""
    rows = tuple(
        Row(f"{n}.png", split=n, labels={"label": n, "nan": n}, groups={"group": n}) for n in ("nan", "NA", "None")
    )
    manifest = Manifest(str(tmp_path), rows)
    assert Manifest.from_csv(manifest.to_csv(tmp_path / "m.csv"), check=False) == manifest
    assert Manifest.from_parquet(manifest.to_parquet(tmp_path / "m.parquet"), check=False) == manifest


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["a", None, "nan"], ["a", "", ""]),
        ([1.0, 2.0, NAN], ["1", "2", ""]),  # whole numbers that a gap has made floats
        (pa.array([1, 2, None], pa.int64()), ["1", "2", ""]),
        (pa.array([0.5, NAN, None], pa.float64()), ["0.5", "", ""]),
        (pa.array([0.5, NAN, None], pa.float16()), ["0.5", "", ""]),
        ([True, False, None], ["True", "False", ""]),
        (pa.array(["x", None, "y"]).dictionary_encode(), ["x", "", "y"]),
        (pa.array(["x", None, "é"], pa.large_string()), ["x", "", "é"]),
        (pa.array([b"x", None, "é".encode()]), ["x", "", "é"]),
        ([Decimal("1.50"), None, Decimal("2.00")], ["1.50", "", "2.00"]),
        ([datetime.date(2024, 5, 1), None, None], ["2024-05-01", "", ""]),
        (pa.array([datetime.datetime(2024, 5, 1, 12), None, None], pa.timestamp("s")), ["2024-05-01 12:00:00", "", ""]),
        (pa.array([None, "a", None], pa.string()), ["", "a", ""]),
    ],
)
def test_typed_labels(tmp_path: Path, values: Any, labels: list[str]) -> None:
    assert Manifest.open(parquet_of(tmp_path, {"label": values})).labels() == labels


def test_typed_spans_and_splits(tmp_path: Path) -> None:
    seconds = [NAN, None, 1.5, 0.0]
    ends = pa.array([None, datetime.timedelta(seconds=2), datetime.timedelta(seconds=3), None], pa.duration("ms"))
    path = parquet_of(tmp_path, {"start_s": seconds, "end_s": ends, "split": [None, "train", "", "nan"]})
    rows = Manifest.open(path)
    assert [(r.start_s, r.end_s, r.split) for r in rows] == [
        (None, None, ""),
        (None, 2.0, "train"),
        (1.5, 3.0, ""),
        (0.0, None, ""),
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", [["a"], ["b"]], r"t\.parquet, row 0: label must be text, a number or a date, found a list"),
        ("group", [{"a": 1}, None], r"row 0: group must be text, a number or a date, found a struct"),
        ("label", [b"ok", b"H\xe4nde"], r"row 1: label holds 'H\\xe4nde': the byte 0xe4 is not UTF-8"),
        ("start_s", ["soon", "1"], r"row 0: start_s must be a number of seconds, found 'soon'"),
        ("start_s", [True, False], r"row 0: start_s must be a number of seconds, found True"),
        ("end_s", [datetime.date(2024, 1, 1), None], r"row 0: end_s must be a number of seconds"),
        ("frames", [["0.png", None], None], r"row 0: frames has an empty name"),
        ("frames", [3, 4], r"row 0: frames must be a list of names, found a int"),
        ("fact.width", ["wide", "1"], r"row 0: fact\.width must be int, found 'wide'"),
    ],
)
def test_what_no_cell_may_hold(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Manifest.open(parquet_of(tmp_path, {column: values}))


def test_a_path_that_is_missing_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["0.png", None], "label": ["a", "b"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet, row 1: a row needs a path"):
        Manifest.open(tmp_path / "t.parquet")


def test_the_case(shared_cases: Path) -> None:
    for name, classes in (("nan_label.csv", ["a", "b"]), ("nan_label.parquet", ["0", "1"])):
        task = LabelTask(Manifest.open(shared_cases / "missing_values" / name))
        assert task.classes == classes
        assert len(task.used) == 6
        assert task.notes[0] == "2 of 8 sources have no 'label' label and are left out"
