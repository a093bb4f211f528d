"""One reading of split names: what is learned from, what is tested on, and what a name that says nothing costs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.data.split_names import split_role, splits_meant
from unreel.media import encode_image
from unreel.recipes.build import choose_rows, choose_validation
from unreel.tasks import GalleryTask, LabelTask

DRY = [
    *("--dry-run", "--encoder.name", "resnet_18", "--encoder.width", "4", "--train.batch_size", "2"),
    *("--size", "32", "--train.device", "cpu", "--train.steps", "2", "--train.workers", "0"),
]
PICTURE = encode_image(np.zeros((8, 8, 3), np.uint8))


def table(folder: Path, splits: Sequence[str], labels: Sequence[str] | None = None, name: str = "t.csv") -> Path:
    """A table of as many pictures as there are splits, labelled a and b in turn; row ``i`` is ``i.png``."""
    labels = labels or ["ab"[i % 2] for i in range(len(splits))]
    for i in range(len(splits)):
        (folder / f"{i}.png").write_bytes(PICTURE)
    with (folder / name).open("w", newline="") as file:
        rows = [(f"{i}.png", s, label) for i, (s, label) in enumerate(zip(splits, labels, strict=True))]
        csv.writer(file).writerows([("path", "split", "label"), *rows])
    return folder / name


def learned(path: Path, split: str = "auto") -> list[str]:
    return [row.path.removesuffix(".png") for row in choose_rows(Manifest.open(path), split=split)]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("training", "validation"),
        ("Train", "TEST"),
        (" train ", "Validation set"),
        ("TRAINING_SET", "dev"),
        ("train2017", "val2017"),
        ("trainval", "test"),
        ("train", "holdout"),
        ("train", "eval"),
    ],
)
def test_nothing_held_out_is_learned_from(tmp_path: Path, train: str, held_out: str) -> None:
    assert learned(table(tmp_path, [train, held_out, train, held_out])) == ["0", "2"]


@pytest.mark.parametrize(
    "splits",
    [
        ("fold0", "fold1", "fold2"),
        ("0", "1", "2"),
        ("unlabeled", "test", "test"),
        ("train1", "train2", "test"),
        ("pretrain", "val", ""),
        ("eval", "eval", ""),
    ],
)
def test_a_name_that_decides_and_is_not_understood_is_refused(tmp_path: Path, splits: Sequence[str]) -> None:
    path = table(tmp_path, splits)
    with pytest.raises(
        DataError, match=rf"^t\.csv:2: the split '{splits[0]}' is not understood.*training.*data\.split"
    ):
        learned(path)
    assert learned(path, splits[0].upper()) == [str(i) for i, s in enumerate(splits) if s == splits[0]]
    assert learned(path, "all") == ["0", "1", "2"]


def test_what_is_left_out_or_guessed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(table(tmp_path, ["Train", "", "train", "extra", "test"])), *DRY]) == 0
    assert "beside the training split: extra 1, without a split 1" in capsys.readouterr().out
    assert main(["pretrain", str(table(tmp_path, ["", "Test", "", ""])), *DRY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["videos"], found["notes"]) == (3, ["Learned from: the 3 rows without a split (Test 1 held out)."])
    assert main(["pretrain", str(table(tmp_path, ["fold0", "fold1"])), *DRY]) == 1
    assert "unreel: t.csv:2: the split 'fold0' is not understood" in capsys.readouterr().err


def test_only_held_out_rows(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no row is in a training split; there are dev 1, test 1\. .*--data\.split all"
    ):
        learned(table(tmp_path, ["test", "dev"]))


def test_names_that_are_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, ["Train", "train", "dev", "validation", "Fold1"])
    assert learned(path, "training,FOLD1") == ["0", "1", "4"]
    assert learned(path, "dev") == ["2"]
    assert learned(path, "val") == ["2", "3"]
    with pytest.raises(DataError, match="no row is in split 'tset'; there are Fold1 1, Train 1"):
        learned(path, "train, tset")
    manifest = Manifest.open(path)
    assert [row.path for row in manifest.select(split="train")] == ["0.png", "1.png"]
    _, held = choose_validation(manifest, manifest, validation="VAL")
    assert held is not None
    assert [row.path for row in held] == ["2.png", "3.png"]


@pytest.mark.parametrize(("test", "role"), [("Validation", "val"), ("TESTING", "test"), ("dev set", "val")])
def test_training_and_evaluation_read_alike(tmp_path: Path, test: str, role: str) -> None:
    path = table(tmp_path, ["Training"] * 4 + [test] * 4)
    task = LabelTask(path)
    assert task.roles.tolist() == ["train"] * 4 + ["test"] * 4
    assert learned(path) == ["0", "1", "2", "3"]
    assert any("tested on 'val'" in note for note in task.notes) == (role == "val")
    assert GalleryTask(path, path).queries.used == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "splits", [["train"] * 3 + ["hidden_test"] * 3, ["train", "val"] * 2 + ["hidden_test"] * 2, ["0"] * 3 + ["1"] * 3]
)
def test_evaluation_does_not_guess(tmp_path: Path, splits: list[str]) -> None:
    path = table(tmp_path, splits)
    with pytest.raises(DataError, match=r"^t\.csv:\d: the split '(hidden_test|0)' is not understood"):
        LabelTask(path)
    # rows without a label are in no part, whatever their split is called
    if "val" in splits:
        unlabelled = table(tmp_path, splits, ["a", "b", "b", "a", "", ""], "u.csv")
        assert LabelTask(unlabelled).roles.tolist() == ["train", "test", "train", "test", "", ""]


def test_a_gallery_of_folds_is_refused(tmp_path: Path) -> None:
    folds, plain = table(tmp_path, ["fold0", "fold1"]), table(tmp_path, ["train", "test"], name="p.csv")
    with pytest.raises(DataError, match=r"t\.csv:2: the split 'fold0'"):
        GalleryTask(plain, folds)
    with pytest.raises(DataError, match=r"t\.csv:2: the split 'fold0'"):
        GalleryTask(folds, plain)


@pytest.mark.parametrize(
    ("names", "splits", "labels"),
    [
        (("train/a/0", "test/1"), {"train", "test"}, {"a"}),
        (("train2017/0", "val2017/1"), {"train", "val"}, set()),
        (("Training/0", "unlabeled/1", "test/2"), {"train", "unlabeled", "test"}, set()),
        (("train/a/x/0", "test/a/x/1"), {"train", "test"}, set()),
        (("train/0", "bus/1"), set(), {"train", "bus"}),  # a class may be called train
        (("a/0", "b/1"), set(), {"a", "b"}),
        (("train/0", "1"), set(), set()),
    ],
)
def test_folders(tmp_path: Path, names: Sequence[str], splits: set[str], labels: set[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(PICTURE)
    manifest = Manifest.from_folder(tmp_path)
    assert {row.split for row in manifest} - {""} == splits
    assert {row.labels.get("label", "") for row in manifest} - {""} == labels


def test_every_name_has_one_role() -> None:
    assert [split_role(n) for n in ("TRAIN", "Dev", "test-set", "", "  ")] == ["train", "val", "test", "", ""]
    assert {split_role(n) for n in ("eval", "holdout", "fold0", "0", "unlabeled", "pretrain", "set", "2017")} == {None}
    assert splits_meant("valid", ["dev", "test"]) == {"dev"}
    assert splits_meant("", ["", "test"]) == {""}


def test_the_case(shared_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(shared_cases / "split_names", tmp_path / "case")
    for name in ("training_validation.csv", "train_test.csv"):
        assert sorted({row.path[-5] for row in choose_rows(Manifest.open(folder / name))}) == list("0123")
        assert LabelTask(folder / name).roles.tolist().count("test") == 4
