"""Layouts read from small trees written after the data sets' public descriptions; no video is opened."""

import os
from pathlib import Path

import pytest

from unreel.core.errors import DataError, UsageError
from unreel.data.layouts import LAYOUTS, hmdb51, kinetics, read_layout, ucf101
from unreel.data.manifest import Manifest
from unreel.tasks import LabelTask


def touch(*paths: Path) -> None:
    """Empty files: whoever opened one as a video would fail."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def ucf(tmp_path):
    """Three splits of two classes, five groups of two clips; group g<number> tests in split <number>."""
    root, lists = tmp_path / "ucf", tmp_path / "ucf" / "ucfTrainTestlist"
    names = {
        label: [f"{label}/v_{label}_g{g:02d}_c{c:02d}.avi" for g in range(1, 6) for c in (1, 2)]
        for label in ("ApplyEyeMakeup", "YoYo")
    }
    touch(*(root / "UCF-101" / n for paths in names.values() for n in paths))
    write(lists / "classInd.txt", "1 ApplyEyeMakeup", "101 YoYo", "")
    for split in (1, 2, 3):
        test = [n for paths in names.values() for n in paths if f"_g{split:02d}_" in n]
        train = [
            f"{n} {1 if label == 'ApplyEyeMakeup' else 101}"
            for label, paths in names.items()
            for n in paths
            if n not in test
        ]
        write(lists / f"trainlist{split:02d}.txt", *train)
        write(lists / f"testlist{split:02d}.txt", *test)
    return root


@pytest.mark.parametrize("split", [1, 2, 3])
def test_ucf101_splits_labels_and_groups(ucf, split):
    manifest, missing = ucf101(ucf, split_number=split)
    assert missing == ()
    assert manifest.notices == ()
    assert len(manifest) == 20
    train, test = (manifest.select(split=name) for name in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    assert {row.groups["group"] for row in test} == {f"ApplyEyeMakeup/g{split:02d}", f"YoYo/g{split:02d}"}
    first = train[0]
    assert first.path == f"UCF-101/{first.labels['label']}/{Path(first.path).name}"
    manifest.check_files()
    LabelTask(manifest)  # no group straddles the parts
    assert read_layout("ucf101", ucf, split_number=split) == (manifest, ())


def test_ucf101_the_lists_may_lie_beside_the_classes_and_the_root_may_be_relative(ucf, monkeypatch):
    for path in (ucf / "ucfTrainTestlist").iterdir():
        path.rename(ucf / path.name)
    for path in (ucf / "UCF-101").iterdir():
        path.rename(ucf / path.name)
    monkeypatch.chdir(ucf.parent)
    manifest, _ = ucf101("ucf")
    assert manifest[0].path.startswith("ApplyEyeMakeup/v_")
    assert manifest.root == str(ucf)


def test_names_that_do_not_exist_are_an_error_or_counted(ucf):
    gone = ucf / "UCF-101" / "YoYo" / "v_YoYo_g03_c01.avi"
    gone.unlink()
    with pytest.raises(
        DataError, match=r"1 of the 20 videos listed do not exist .*v_YoYo_g03_c01\.avi.*--missing skip"
    ):
        ucf101(ucf)
    manifest, missing = ucf101(ucf, missing="skip")
    assert missing == ("YoYo/v_YoYo_g03_c01.avi",)
    assert len(manifest) == 19
    assert manifest.notices[0].startswith("1 of 20 videos listed do not exist and are left out")
    with pytest.raises(UsageError, match="missing"):
        ucf101(ucf, missing="ignore")
    for path in (ucf / "UCF-101").rglob("*.avi"):
        path.unlink()
    with pytest.raises(DataError, match="hold videos"):
        ucf101(ucf, missing="skip")


def test_p8_a_header_row_0_is_skipped_with_a_notice(ucf):
    """docs/methods/tcgl.md, Where we differ: lists written by newer pandas begin with "0", which is no file."""
    path = ucf / "ucfTrainTestlist" / "testlist01.txt"
    whole, _ = ucf101(ucf)
    path.write_text("0\n" + path.read_text())
    manifest, missing = ucf101(ucf)
    assert manifest == whole
    assert missing == ()
    assert manifest.notices == (
        "testlist01.txt:1: skipped the header row '0', which pandas wrote and which is no file name",
    )
    path.write_text("0\n")
    with pytest.raises(DataError, match="empty"):
        ucf101(ucf)


def test_ucf101_lists_without_numbers_and_transcoded_videos_are_taken(ucf):
    lists = ucf / "ucfTrainTestlist" / "trainlist01.txt"
    lists.write_text("".join(line.split()[0] + "\n" for line in lists.read_text().splitlines()))
    for path in list((ucf / "UCF-101" / "YoYo").iterdir()):
        path.rename(path.with_suffix(".mp4"))
    manifest, _ = ucf101(ucf)
    assert len(manifest) == 20
    assert manifest.notices == ("10 videos have another suffix than in the list",)
    assert {os.path.splitext(row.path)[1] for row in manifest} == {".avi", ".mp4"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("YoYo/v_YoYo_g02_c01.avi 7", "trainlist01.txt:17: class number 7 for 'YoYo', which classInd.txt gives 101"),
        ("Yoyo/v_YoYo_g02_c01.avi 1", "does not list"),
        ("v_YoYo_g02_c01.avi", "trainlist01.txt:17: expected 'Class/file.avi'"),
        ("YoYo/v YoYo g02 c01.avi 1", "expected 'Class/file.avi'"),
    ],
)
def test_ucf101_a_malformed_line_is_named(ucf, line, told):
    with (ucf / "ucfTrainTestlist" / "trainlist01.txt").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=told):
        ucf101(ucf)


def test_a_split_list_or_folder_that_is_not_there_is_named(ucf, tmp_path):
    with pytest.raises(UsageError, match="official splits 1 to 3; got 4"):
        ucf101(ucf, split_number=4)
    with pytest.raises(UsageError, match="got 0"):
        hmdb51(ucf, split_number=0)
    with pytest.raises(DataError, match=r"trainlist01\.txt and testlist01\.txt"):
        ucf101(tmp_path / "ucf" / "UCF-101")
    for layout in LAYOUTS.values():
        with pytest.raises(DataError, match="no such folder"):
            layout(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="did you mean 'ucf101'"):
        read_layout("ucf", ucf)


@pytest.fixture
def hmdb(tmp_path):
    """Two classes; "Film" is in train and in test of "wave"."""
    root = tmp_path / "hmdb"
    clips = {
        "brush_hair": {"April_09_brush_hair_u_nm_np1_ba_goo_0": 1, "April_09_brush_hair_u_nm_np1_ba_goo_1": 1,
                       "Long hair!_brush_hair_h_cm_np1_fr_med_0": 2, "Third_brush_hair_u_nm_np2_le_bad_0": 0},
        "wave": {"Film_wave_f_nm_np1_fr_med_0": 1, "Film_wave_f_nm_np1_fr_med_1": 2, "odd": 2},
    }  # fmt: skip
    for label, marks in clips.items():
        touch(*(root / "hmdb51_org" / label / f"{name}.avi" for name in marks))
        for split in (1, 2, 3):
            lines = [f"{name}.avi {mark} " for name, mark in marks.items()]
            write(root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt", *lines)
    return root


def test_hmdb51_marks_groups_and_unused_clips(hmdb):
    manifest, missing = hmdb51(hmdb)
    assert missing == ()
    assert [(row.split, row.groups.get("group")) for row in manifest] == [
        ("train", "brush_hair/April_09"),
        ("train", "brush_hair/April_09"),
        ("test", "brush_hair/Long hair!"),
        ("unused", "brush_hair/Third"),
        ("train", "wave/Film (train)"),
        ("test", "wave/Film (test)"),
        ("test", None),
    ]
    assert (
        "1 longer videos have clips in train and in test of the official split, such as wave/Film"
        in manifest.notices[0]
    )
    assert manifest[2].path == "hmdb51_org/brush_hair/Long hair!_brush_hair_h_cm_np1_fr_med_0.avi"
    assert manifest.labels() == ["brush_hair"] * 4 + ["wave"] * 3
    task = LabelTask(manifest)
    assert (task.roles == "train").sum() == 3
    assert (task.roles == "test").sum() == 3
    (hmdb / "hmdb51_org" / "brush_hair" / "Third_brush_hair_u_nm_np2_le_bad_0.avi").unlink()
    assert len(hmdb51(hmdb, split_number=3, missing="skip").missing) == 1
    write(hmdb / "testTrainMulti_7030_splits" / "wave_test_split2.txt", "Film_wave_f_nm_np1_fr_med_0.avi 3")
    with pytest.raises(DataError, match=r"wave_test_split2\.txt:1: expected a file and 0, 1 or 2"):
        hmdb51(hmdb, split_number=2)


def kinetics_table(
    path: Path, split: str, *rows: str, header: str = "label,youtube_id,time_start,time_end,split"
) -> None:
    write(path, header, *(f"{row},{split}" for row in rows))


@pytest.mark.parametrize("placed", ["flat", "classes", "splits"])
def test_kinetics_tables_and_folders(tmp_path, placed):
    kinetics_table(
        tmp_path / "annotations" / "train.csv", "train", "playing guitar,-3B32lodo2M,59,69", "yoga,abc_DEF,0,10"
    )
    kinetics_table(tmp_path / "annotations" / "val.csv", "validate", '"tap, dancing",xyz,7.0,17.0')
    write(tmp_path / "readme.csv", "a,b", "1,2")
    names = {"-3B32lodo2M_000059_000069.mp4": "playing_guitar", "abc_DEF_000000_000010.mkv": "yoga"}
    names["xyz_000007_000017.mp4"] = "tap dancing"
    for name, folder in names.items():
        part = "val" if folder.startswith("tap") else "train"
        inside = {"flat": "videos", "classes": folder, "splits": f"{part}/{folder}"}[placed]
        touch(tmp_path / inside / name)
    manifest, missing = kinetics(tmp_path)
    assert missing == ()
    assert [(row.split, row.labels["label"]) for row in manifest] == [
        ("train", "playing guitar"),
        ("train", "yoga"),
        ("val", "tap, dancing"),
    ]
    assert [Path(row.path).name for row in manifest] == list(names)
    manifest.check_files()


def test_kinetics_misses_are_counted_and_a_name_in_two_parts_is_told_apart(tmp_path):
    kinetics_table(tmp_path / "train.csv", "train", "yoga,aaa,0,10", "yoga,gone,0,10")
    kinetics_table(tmp_path / "test.csv", "test", "aaa,0,10", header="youtube_id,time_start,time_end,split")
    touch(tmp_path / "train" / "aaa_000000_000010.mp4", tmp_path / "test" / "aaa_000000_000010.mp4")
    with pytest.raises(DataError, match="1 of the 3 videos"):
        kinetics(tmp_path)
    manifest, missing = kinetics(tmp_path, missing="skip")
    assert missing == ("gone_000000_000010.mp4",)
    assert {row.split: (row.path, row.labels.get("label")) for row in manifest} == {
        "train": ("train/aaa_000000_000010.mp4", "yoga"),
        "test": ("test/aaa_000000_000010.mp4", None),
    }


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("yoga,aaa,zero,10,train", "train.csv:2: expected seconds"),
        ("yoga,aaa,0,10,holdout", "train.csv:2: expected split train, val or test, found 'holdout'"),
        ("yoga,aaa,0", "train.csv:2"),
    ],
)
def test_kinetics_a_malformed_row_is_named(tmp_path, row, told):
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split", row)
    with pytest.raises(DataError, match=told):
        kinetics(tmp_path)


def test_kinetics_needs_a_table_and_has_one_split(tmp_path):
    touch(tmp_path / "yoga" / "aaa_000000_000010.mp4")
    with pytest.raises(DataError, match="no table with the columns label, youtube_id"):
        kinetics(tmp_path)
    with pytest.raises(UsageError, match="one official split"):
        kinetics(tmp_path, split_number=2)
    kinetics_table(tmp_path / "a.csv", "train", "yoga,aaa,0,10", "tap,aaa,0,10")
    with pytest.raises(DataError, match=r"a\.csv:3: .* is 'tap' here and 'yoga' in a row before"):
        kinetics(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_p8_a_written_manifest_reads_back_as_it_was(ucf, tmp_path, suffix):
    """No row is a header and no header a row, wherever the table is written."""
    manifest, _ = ucf101(ucf)
    path = tmp_path / "elsewhere" / f"m{suffix}"
    path.parent.mkdir()
    manifest.to_csv(path) if suffix == ".csv" else manifest.to_parquet(path)
    again = Manifest.open(path)
    assert len(again) == 20
    assert [(r.split, r.labels, r.groups) for r in again] == [(r.split, r.labels, r.groups) for r in manifest]
    assert [again.absolute(i).resolve() for i in range(20)] == [manifest.absolute(i) for i in range(20)]
    assert again.notices == ()
