"""People's own tables: columns that the caller names, groups that are recognised, files that lie in a sub-folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest

ROWS = [
    ("a.mp4", "p1", "left", "0.0", "1.5"),
    ("b.mp4", "p1", "right", "1.0", "2"),
    ("c.mp4", "p2", "left ", "1.0", ""),
]
HEADER = ("clip", "patient", "position", "severity", "from")


def write(folder: Path, rows: list[tuple[str, ...]] = ROWS, header: tuple[str, ...] = HEADER) -> Path:
    for name, *_ in rows:
        (folder / name).write_bytes(b"")
    file = folder / "t.csv"
    file.write_text("\n".join(",".join(line) for line in (header, *rows)) + "\n")
    return file


def test_any_column_has_the_role_that_the_caller_names(tmp_path: Path) -> None:
    file = write(tmp_path)
    columns = Columns(path="clip", label="position", group="patient", split="severity", start="from")
    found = Manifest.open(file, columns=columns)
    assert (found.label, found.group) == ("position", "patient")
    assert found.labels() == ["left", "right", "left"]
    assert found.groups() == ["p1", "p1", "p2"]
    assert [(row.split, row.start_s) for row in found] == [("0.0", 1.5), ("1.0", 2), ("1.0", None)]
    assert (found.columns.unused, found.columns.groups) == ((), ())
    twice = Manifest.open(file, columns=Columns(label="Patient", group="patient"))  # in any case, in two roles
    assert (twice.labels(), twice.groups()) == (["p1", "p1", "p2"],) * 2


def test_a_column_may_be_chosen_after_the_table_was_read(tmp_path: Path) -> None:
    file = write(tmp_path)
    pq.write_table(pa.table({h: [r[i] for r in ROWS] for i, h in enumerate(HEADER)}), tmp_path / "t.parquet")
    for table in (file, tmp_path / "t.parquet"):
        whole = Manifest.open(table)
        assert dict(whole.unused)["severity"] == (["0.0", "1.0", "1.0"])
        part = Manifest.open(whole.subset([2, 0]), columns=Columns(label="severity", group="patient"))
        assert (part.labels(), part.groups()) == (["1.0", "0.0"], ["p2", "p1"])
        assert part.columns.unused == ("position", "from")
        assert [part.group_id(i) for i in (0, 1)] == [Key("group", "p2").bits(), Key("group", "p1").bits()]
    whole = Manifest.open(file)
    file.write_text(file.read_text().replace("a.mp4", "c.mp4"))
    with pytest.raises(DataError, match="has changed since it was read: line 2 names another file"):
        Manifest.open(whole, columns=Columns(label="severity"))


def test_columns_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path)
    for columns, message in (
        (Columns(label="positon"), r"t\.csv: unknown label 'positon'; did you mean 'position'"),
        (Columns(group="patience"), r"t\.csv: unknown group 'patience'; did you mean 'patient'"),
    ):
        with pytest.raises(UsageError, match=message):
            Manifest.open(file, columns=columns)
        with pytest.raises(UsageError, match=message.partition(": ")[2]):
            Manifest.open(Manifest.open(file), columns=columns)
    with pytest.raises(DataError, match="no column 'clp' to be 'path'; did you mean 'clip'"):
        Manifest.open(file, columns=Columns(path="clp"))
    for source in (tmp_path, [tmp_path / "a.mp4"]):
        with pytest.raises(UsageError, match=r"--path clip .*names a column of a table, and .* is no table"):
            Manifest.open(source, columns=Columns(path="clip"))
    with pytest.raises(UsageError, match="the table has been read already"):
        Manifest.open(Manifest.open(file), columns=Columns(split="severity"))
