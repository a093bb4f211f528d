"""UCF101 (Soomro, Zamir and Shah 2012): 13,320 clips of 101 actions, three splits into train and test."""

from __future__ import annotations

import os
import re
from pathlib import Path

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing

_GROUP = re.compile(r"_(g\d+)_c\d+$")


def ucf101(root: str | os.PathLike[str], *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """A folder that holds the videos and the lists of ``UCF101TrainTestSplits``, wherever below it they lie.

    Expected: ``<videos>/<Class>/v_<Class>_g08_c01.avi`` (other suffixes are taken too), and in one folder
    ``trainlist01.txt`` ("<Class>/<file> <number>", the number may be absent), ``testlist01.txt`` ("<Class>/<file>")
    and, where it is there, ``classInd.txt`` ("<number> <Class>"), against which the numbers are checked.

    Complete data has 13,320 videos and 101 classes; 9,537 train and 3,783 test in split 1 (9,586 and 3,734 in split 2,
    9,624 and 3,696 in split 3). Clips are cut from longer videos: ``group`` is the class and the number of
    the video, "ApplyEyeMakeup/g08", of which the splits keep all clips on one side (g01 to g07 test in split 1); the
    numbers mean nothing across classes.

    Args:
        root: the folder.
        split_number: 1, 2 or 3.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
    Raises: UsageError for another split; DataError for missing lists or videos, a malformed line, or a number that
        contradicts ``classInd.txt``.

    >>> from unreel.data.layouts import ucf101
    >>> manifest, missing = ucf101("UCF101", split_number=1)  # doctest: +SKIP
    >>> len(manifest.select(split="train")), len(manifest.select(split="test"))  # doctest: +SKIP
    (9537, 3783)
    """
    common.check_split_number(split_number, 3, "UCF101")
    home = Path(root)
    names = {"train": f"trainlist{split_number:02d}.txt", "test": f"testlist{split_number:02d}.txt"}
    lists = common.find_files(home, *names.values())
    numbers = _class_numbers(lists / "classInd.txt")
    notices: list[str] = []
    listed: list[tuple[str, str]] = []
    for split, name in names.items():
        listed += [(_file(*line, numbers), split) for line in common.read_list(lists / name, notices)]
    classes = {path.split("/")[0] for path, _ in listed}
    videos = common.find_videos(home, classes)
    files = common.MediaFiles(videos)
    entries = [Entry(path, files.find(path), split, path.split("/")[0], _group(path)) for path, split in listed]
    return common.assemble("UCF101", home, videos, entries, missing=missing, notices=notices)


def _class_numbers(path: Path) -> dict[str, str]:
    """Class to number, both as written; empty where the file is not there."""
    if not path.is_file():
        return {}
    numbers = {}
    for where, text in common.read_list(path):
        fields = text.split()
        if len(fields) != 2:
            raise DataError(f"{where}: expected a number and a class, found {text!r}")
        numbers[fields[1]] = fields[0]
    return numbers


def _file(where: str, text: str, numbers: dict[str, str]) -> str:
    """The path of a line, whose number, if any, is that of its class."""
    fields = text.split()
    path = fields[0].replace("\\", "/")
    if len(fields) > 2 or path.count("/") != 1:
        raise DataError(f"{where}: expected 'Class/file.avi' and perhaps the number of the class, found {text!r}")
    label = path.split("/")[0]
    if len(fields) == 2 and numbers and numbers.get(label) != fields[1]:
        raise DataError(
            f"{where}: class number {fields[1]} for {label!r}, which classInd.txt "
            + (f"gives {numbers[label]}" if label in numbers else "does not list")
        )
    return path


def _group(path: str) -> str:
    found = _GROUP.search(os.path.splitext(path)[0])
    return f"{path.split('/')[0]}/{found[1]}" if found else ""
