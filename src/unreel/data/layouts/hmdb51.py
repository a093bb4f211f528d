"""HMDB51 (Kuehne et al. 2011): clips of 51 actions, three splits of 70 train and 30 test clips per class."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing

# The mark behind each name in the lists.
_SPLITS = {"0": "unused", "1": "train", "2": "test"}
# "<video>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>", as the data set's page describes its names.
_ATTRIBUTES = r"_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$"


def hmdb51(root: str | os.PathLike[str], *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """A folder that holds the videos and the lists of ``test_train_splits``, wherever below it they lie.

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
    common.check_split_number(split_number, 3, "HMDB51")
    home = Path(root)
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
            if not name or mark not in _SPLITS:
                raise DataError(f"{where}: expected a file and 0, 1 or 2, found {text!r}")
            listed.append((label, name.strip(), _SPLITS[mark]))
    classes = {label for label, _, _ in listed}
    videos = common.find_videos(home, classes)
    files = common.MediaFiles(videos)
    entries = []
    for label, name, split in listed:
        path_in = f"{label}/{name}"
        entries.append(Entry(path_in, files.find(path_in), split, label, _group(label, name)))
    return common.assemble("HMDB51", home, videos, _one_side(entries, notices), missing=missing, notices=notices)


def _group(label: str, name: str) -> str:
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
