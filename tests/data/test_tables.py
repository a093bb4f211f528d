"""People's own tables: columns that the caller names, groups that are recognised, files that lie in a sub-folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.choice import choose_group, choose_label, straddling_groups, warn_of_groups
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest
from unreel.data.splits import hold_out
from unreel.tasks import LabelTask

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


# ------------------------------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize(
    "name",
    ["patient", "Patient ID", "subject_id", "subjectid", "scene", "case_no", "animals", "source_group", "group_id"],
)
def test_a_column_that_looks_like_a_group_is_used_and_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, header=("clip", name, "label", "severity", "from"))
    found = Manifest.open(file)
    assert (found.columns.groups, found.group_names) == ((name,), ())  # reading alone changes nothing: draws stay
    assert found.digest == Manifest.from_csv(file, columns={"label": "label"}).digest
    with caplog.at_level("INFO"):
        chosen = choose_group(found)
    assert (chosen.group, chosen.groups()) == (name, ["p1", "p1", "p2"])
    assert f"group: {name}, the only column that looks like one" in caplog.text
    assert choose_group(found, "severity").groups() == ["0.0", "1.0", "1.0"]


@pytest.mark.parametrize(
    ("name", "values"),
    [("patients_age", "112"), ("impatient", "112"), ("patient", "111"), ("patient", "123"), ("operator", "112")],
)
def test_other_columns_are_no_groups(tmp_path: Path, name: str, values: str) -> None:
    rows = [(f"{i}.mp4", value) for i, value in enumerate(values)]
    found = Manifest.open(write(tmp_path, rows, ("path", name)))
    assert found.columns.groups == ()
    assert choose_group(found).group_names == ()


def test_several_columns_that_look_like_groups_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, header=("clip", "patient", "label", "scene", "from"))
    assert choose_group(Manifest.open(file)).group_names == ()
    assert "the columns patient, scene look like groups, and none is used" in caplog.text
    assert "--group patient (group='patient' in Python)" in caplog.text
    own = write(tmp_path, header=("clip", "patient", "label", "group", "from"))
    assert choose_group(Manifest.open(own)).groups() == ["0.0", "1.0", "1.0"]  # its own name comes first


def test_a_group_on_both_sides_of_a_split_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        (f"{i}.mp4", f"p{i // 2}", "ab"[i % 2], split) for i, split in enumerate(("train", "Test", "test", "testing"))
    ]
    file = write(tmp_path, rows, ("path", "patient", "label", "split"))
    found = Manifest.open(file)
    assert choose_group(found).group_names == ()
    assert "'patient' looks like a group, and p0 of it are on both sides of the split" in caplog.text
    assert straddling_groups(Manifest.open(file, columns=Columns(group="patient"))) == ["p0"]
    assert choose_group(found, splits=False).groups() == ["p0", "p0", "p1", "p1"]  # folds do not ask the split
    caplog.clear()
    warn_of_groups(found)
    assert "is not used, and p0 of it are on both sides of the split" in caplog.text
    with pytest.raises(DataError, match="1 groups are in more than one part: p0"):
        LabelTask(found, group="patient")
    assert LabelTask(found).group == ""


def test_the_group_that_is_meant_decides_what_is_held_out_and_what_a_batch_compares(tmp_path: Path) -> None:
    rows = [(f"{i}.mp4", f"p{i // 4}", "x") for i in range(16)]
    file = write(tmp_path, rows, ("path", "patient", "label"))
    meant = Manifest.open(file, columns=Columns(group="patient"))
    held = hold_out(meant, 0.25, seed=1)
    assert sum(held) == 4
    assert len({group for group, out in zip(meant.groups(), held, strict=True) if out}) == 1
    assert len({meant.group_id(i) for i in range(16)}) == 4
    plain = Manifest.open(file)
    assert len({plain.group_id(i) for i in range(16)}) == 16
    assert hold_out(plain, 0.25, seed=1) == hold_out(Manifest(plain.root, plain.rows), 0.25, seed=1)


# ------------------------------------------------------------------------------------------------------------ labels


def test_a_label_is_not_guessed(tmp_path: Path) -> None:
    rows = [(f"{i}.mp4", f"p{i // 2}", f"{i / 7:.3f}", "ab "[i % 2], "0.0" if i < 4 else "") for i in range(8)]
    file = write(tmp_path, rows, ("file", "patient", "weight", "view", "stage"))
    with pytest.raises(
        DataError, match=r"t\.csv: the data has no label.* could be one: view \(2 values\)\. .*--label view"
    ):
        choose_label(Manifest.open(file))
    assert choose_label(Manifest.open(file), "stage").labels() == ["0.0"] * 4 + [""] * 4
    two = write(tmp_path, rows, ("file", "label.a", "label.b", "c", "d"))
    with pytest.raises(UsageError, match=r"which label\? The data has a, b"):
        choose_label(Manifest.open(two))
    assert choose_label(Manifest.open(two, columns=Columns(label="b"))).label == "b"  # what was said stays said


def test_an_empty_label_is_said(tmp_path: Path) -> None:
    file = write(tmp_path, [("a.mp4", "", "x"), ("b.mp4", " ", "y")], ("path", "label", "other"))
    with pytest.raises(DataError, match="no row has a label, the column 'label' is empty"):
        choose_label(Manifest.open(file))


# ------------------------------------------------------------------------------------------------------------- files


def test_files_in_the_one_sub_folder_that_holds_them_all(tmp_path: Path) -> None:
    for folder, names in (("clips", "abc"), ("others", "ab"), (".hidden", "abc")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    found = Manifest.open(tmp_path / "t.csv")
    assert found.root == str(tmp_path / "clips")
    assert "its files lie in clips/" in found.notices
    (tmp_path / "others" / "c.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"each of its 2 sub-folders\. .*--root .*clips --out NEW\.csv"):
        Manifest.open(tmp_path / "t.csv")
    for folder in ("clips", "others"):
        (tmp_path / folder / "c.mp4").unlink()
    with pytest.raises(DataError, match=r"clips/ holds 2 of 3\. .*--root FOLDER --out NEW\.csv"):
        Manifest.open(tmp_path / "t.csv")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of the files of 3 rows do not exist"):  # files beside the table stay there
        Manifest.open(tmp_path / "t.csv")


def test_of_several_usual_names_the_one_that_holds_files(tmp_path: Path) -> None:
    file = write(tmp_path, [("a.mp4", "7"), ("b.mp4", "8")], ("filename", "video"))
    assert [row.path for row in Manifest.open(file)] == ["a.mp4", "b.mp4"]
    other = write(tmp_path, [("a.mp4", "7"), ("b.mp4", "8")], ("recording", "n"))
    with pytest.raises(DataError, match=r"could be 'recording'\. Name the column of files: --path recording"):
        Manifest.open(other)
    assert len(Manifest.open(other, columns=Columns(path="recording"))) == 2


# --------------------------------------------------------------------------------------------- the collections as found


@pytest.mark.parametrize(
    ("name", "label", "group", "classes"),
    [
        ("fight_surv", None, "source_group", {"fight", "noFight"}),
        ("covid_blues", "b_lines", "patient", {"yes", "no"}),
        ("covid_blues", "severity", "patient", {"0.0", "1.0", "2.0", "3.0"}),
        ("pocus_lung", None, "patient_group", {"pneumonia", "regular", "covid"}),
        ("pocus_lung", "probe", "patient_group", {"convex", "linear"}),
    ],
)
def test_a_collection_s_own_table_works_as_it_is(
    shared_data: Path, name: str, label: str | None, group: str, classes: set[str]
) -> None:
    table = shared_data / name / "labels.csv"
    if not table.is_file():
        pytest.skip(f"{name} is not here")
    task = LabelTask(table, label=label)
    assert task.group == group
    assert task.label == (label or "label")
    assert {*task.classes} >= classes
    assert {value.strip() for value in task.classes} == {*task.classes}
    folds = LabelTask(table, label=label, folds=3)
    assert len(folds.folds) == 3
