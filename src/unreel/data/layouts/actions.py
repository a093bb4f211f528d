"""Videos of actions: UCF101, HMDB51 and Kinetics."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.split_names import split_role
from unreel.data.text import read_text

_GROUP = re.compile(r"_(g\d+)_c\d+$")
# The mark behind each name in HMDB51's lists.
_MARKS = {"0": "unused", "1": "train", "2": "test"}
# "<video>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>", as HMDB51's page describes its names.
_ATTRIBUTES = r"_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$"
_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def ucf101(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """UCF101 (Soomro, Zamir and Shah 2012): 13,320 clips of 101 actions, three splits into train and test.

    A folder that holds the videos and the lists of ``UCF101TrainTestSplits``, wherever below it they lie.

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
    home = common.home_of("UCF101", root, split_number, available=3)
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
    entries = [Entry(path, files.find(path), split, path.split("/")[0], _ucf_group(path)) for path, split in listed]
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


def _ucf_group(path: str) -> str:
    found = _GROUP.search(os.path.splitext(path)[0])
    return f"{path.split('/')[0]}/{found[1]}" if found else ""


def hmdb51(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """HMDB51 (Kuehne et al. 2011): clips of 51 actions, three splits of 70 train and 30 test clips per class.

    A folder that holds the videos and the lists of ``test_train_splits``, wherever below it they lie.

    Expected: ``<videos>/<class>/<file>.avi`` (other suffixes are taken too), and in one folder a
    ``<class>_test_split1.txt`` per class with lines "<file> 0", "1" (train) or "2" (test). Clips marked 0 are in
    neither part; they come along in a split called ``unused``.

    Complete data has 51 classes; 3,570 train and 1,530 test videos in each split, the others unused. ``group`` is
    the class and the longer video that a clip was cut from, read from its name. Where a split has clips of one such
    video on both sides, the two sides count as two groups, since the split is the official one, and a notice says how
    many there are.

    Args:
        root: the folder.
        split_number: 1, 2 or 3.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
    Raises: UsageError for another split; DataError for missing lists or videos, or a malformed line.

    >>> from unreel.data.layouts import hmdb51
    >>> manifest, missing = hmdb51("HMDB51", split_number=1)  # doctest: +SKIP
    >>> len(manifest.select(split="train")), len(manifest.select(split="test"))  # doctest: +SKIP
    (3570, 1530)
    """
    home = common.home_of("HMDB51", root, split_number, available=3)
    ending = f"_test_split{split_number}.txt"

    def lists_in(folder: Path) -> list[Path]:
        return sorted(folder.glob(f"*{ending}"))

    lists = lists_in(common.find_folder(home, lambda f: bool(lists_in(f)), f"<class>{ending}"))
    notices: list[str] = []
    listed: list[tuple[str, str, str]] = []
    for path in lists:
        label = path.name.removesuffix(ending)
        for where, text in common.read_list(path, notices):
            name, _, mark = text.rpartition(" ")
            if not name or mark not in _MARKS:
                raise DataError(f"{where}: expected a file and 0, 1 or 2, found {text!r}")
            listed.append((label, name.strip(), _MARKS[mark]))
    classes = {label for label, _, _ in listed}
    videos = common.find_videos(home, classes)
    files = common.MediaFiles(videos)
    entries = []
    for label, name, split in listed:
        path_in = f"{label}/{name}"
        entries.append(Entry(path_in, files.find(path_in), split, label, _hmdb_group(label, name)))
    return common.assemble("HMDB51", home, videos, _one_side(entries, notices), missing=missing, notices=notices)


def _hmdb_group(label: str, name: str) -> str:
    found = re.fullmatch(rf"(.+)_{re.escape(label)}{_ATTRIBUTES}", os.path.splitext(name)[0])
    return f"{label}/{found[1]}" if found else ""


def _one_side(entries: list[Entry], notices: list[str]) -> list[Entry]:
    """Groups that straddle train and test become one group per side; says how many."""
    sides: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.group and entry.split != "unused":
            sides[entry.group].add(entry.split)
    straddling = {group for group, splits in sides.items() if len(splits) > 1}
    if straddling:
        notices.append(
            f"{len(straddling)} longer videos have clips in train and in test of the official split, such as "
            f"{min(straddling)}: counted as a group on each side"
        )
    return [
        replace(entry, group=f"{entry.group} ({entry.split})") if entry.group in straddling else entry
        for entry in entries
    ]


def kinetics(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """Kinetics (Kay et al. 2017 and later): ten-second clips of internet videos, listed in one table per split.

    A folder that holds the videos and the annotation tables of Kinetics-400, -600 or -700, wherever below it.

    Expected: tables (.csv) with the columns ``label, youtube_id, time_start, time_end, split``, and videos named
    ``<youtube_id>_<start>_<end>.mp4`` with six digits per second ("-3B32lodo2M_000059_000069.mp4"), in one folder, in
    one per class, or in one per split; other suffixes are taken too. Of a name that is there more than once, the file
    below a folder named like the split is taken. Labels are the table's, whatever the folders are called. Rows without
    a label, as in some test tables, come along without one.

    Kinetics-400 lists about 240,000 train and 20,000 val videos of 400 classes; many are no longer to be had, so
    ``missing="skip"`` is the usual choice. There is no ``group``: each clip comes from a video of its own.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
    Raises: UsageError for another split; DataError for missing tables or videos, or a malformed row.

    >>> from unreel.data.layouts import kinetics
    >>> manifest, missing = kinetics("kinetics400", missing="skip")  # doctest: +SKIP
    """
    home = common.home_of("Kinetics", root, split_number)
    places: dict[str, list[str]] = defaultdict(list)
    for stem, file in common.MediaFiles(home).by_stem.items():
        places[stem.rpartition("/")[2]].append(file)
    entries: dict[tuple[str, str], Entry] = {}
    tables = 0
    for path in sorted(home.rglob("*.csv")):
        rows = _rows(path)
        tables += rows is not None
        for where, label, name, split in rows or ():
            earlier = entries.get((name, split))
            if earlier is not None and earlier.label != label:
                raise DataError(f"{where}: {name} is {label!r} here and {earlier.label!r} in a row before")
            entries[name, split] = Entry(f"{name}.mp4", _choose(places.get(name, []), split), split, label)
    if not tables:
        raise DataError(f"{home}: found no table with the columns {', '.join(_COLUMNS)} here or below")
    if not entries:
        raise DataError(f"{home}: the annotation tables have headers but no rows")
    return common.assemble("Kinetics", home, home, list(entries.values()), missing=missing)


def _choose(files: list[str], split: str) -> str | None:
    """The file of a name: one below a folder named like its split before any other."""
    inside = [f for f in files if any(split_role(part) == split for part in f.split("/")[:-1])]
    return next(iter([*inside, *files]), None)


def _rows(path: Path) -> list[tuple[str, str, str, str]] | None:
    """(where, label, name, split) of each row; ``None`` for a table that is not an annotation."""
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = [name.strip() for name in reader.fieldnames or ()]
    if not set(_COLUMNS) - {"label"} <= set(header):
        return None
    reader.fieldnames = header
    rows = []
    for cells in reader:
        where = f"{path.name}:{reader.line_num}"
        split = split_role(cells["split"] or "")
        if not split:
            raise DataError(f"{where}: expected split train, val or test, found {cells['split']!r}")
        try:
            start, end = (round(float(cells[name])) for name in ("time_start", "time_end"))
        except (TypeError, ValueError):
            raise DataError(
                f"{where}: expected seconds, found time_start {cells['time_start']!r}, time_end {cells['time_end']!r}"
            ) from None
        name = f"{(cells['youtube_id'] or '').strip()}_{start:06d}_{end:06d}"
        rows.append((where, (cells.get("label") or "").strip(), name, split))
    return rows
