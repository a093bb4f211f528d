"""Folders of single frames: told from folders of pictures by their names, their depth, and their sizes."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from unreel.data.split_names import split_role
from unreel.media import MediaError, probe

_NUMBER = re.compile(r"\d+")
# Fewer pictures are a pair, or views of one thing, as soon as a video.
_FEWEST = 3
# Pictures that are opened, to see whether they are of one size: so many folders, so many of each.
_LOOK_FOLDERS, _LOOK_FILES = 16, 3


@dataclass(frozen=True)
class Numbered:
    """The folders that directly hold images, and what speaks for their being videos.

    Attributes:
        folders: by relative path, with their images.
        count: in how many of them the images differ in a running number only.
        are_videos: whether all of them are taken to be videos.
        example: a picture with such a number. doubt: what speaks against, for people.
        mixed: whether several series lie in one folder, which make no video.
    """

    folders: Mapping[str, Sequence[str]]
    count: int
    are_videos: bool
    example: str = ""
    doubt: str = ""
    mixed: bool = False


def numbered_folders(base: Path, images: Sequence[str]) -> Numbered:
    """What the folders of these images are.

    Frames of a video differ in a counter only, which runs on without a gap, in every folder, and they are of one size.
    Pictures of a class may be named so as well. So depth decides: ``class/video/0001.png`` are videos, and
    ``class/0001.png`` are pictures with labels, also below ``train`` and ``test`` and below a folder around it all.

    Args:
        base: what paths are relative to.
        images: relative paths.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path in images:
        folders[os.path.dirname(path)].append(path)
    series = {folder: _series([os.path.basename(p) for p in paths]) for folder, paths in folders.items()}
    counted = [folder for folder, (number, _) in series.items() if number]
    if 2 * len(counted) < len(folders) or counted == [""]:
        return Numbered(folders, 0, False)
    example = next(
        path for path in sorted(folders[min(counted)]) if os.path.basename(path) not in series[min(counted)][1]
    )
    mixed = min((folder for folder in counted if series[folder][0] > 1 or series[folder][1]), default=None)
    if mixed is None:
        doubt = _doubt(base, folders, counted)
    else:
        number, loose = series[mixed]
        doubt = f"{mixed or base.name} holds " + (f"{min(loose)} beside them" if loose else f"{number} series")
    return Numbered(folders, len(counted), not doubt, example, doubt, mixed is not None)


def _doubt(base: Path, folders: Mapping[str, Sequence[str]], counted: Sequence[str]) -> str:
    """Why these are not taken as videos; empty where they are."""
    if len(counted) < len(folders):
        return f"they do not in others, such as {min(folders.keys() - set(counted)) or base.name}"
    parts = [folder.split("/") for folder in folders]
    around = 0  # folders around all others
    while len({p[around] for p in parts}) == 1 and all(len(p) > around + 1 for p in parts):
        around += 1
    inner = [p[around:] for p in parts]
    if all(split_role(p[0]) for p in inner):
        inner = [p[1:] for p in inner]
    if min(map(len, inner)) < 2:
        return "folders this deep may be classes"
    if len({p[-1] for p in inner}) < 2:
        return f"all folders are called {inner[0][-1]}"
    for folder in _spread(sorted(folders), _LOOK_FOLDERS):
        sizes = {}
        for path in _spread(sorted(folders[folder]), _LOOK_FILES):
            try:
                facts = probe(base / path)
            except MediaError:  # said when it is read
                continue
            sizes[facts.width, facts.height] = path
        if len(sizes) > 1:
            return f"they are of several sizes, such as {' and '.join(sizes.values())}"
    return ""


def _spread(names: Sequence[str], most: int) -> Sequence[str]:
    """At most so many of these, evenly, the first and the last among them."""
    return [names[i * (len(names) - 1) // (most - 1)] for i in range(most)] if len(names) > most else names


def _series(names: Sequence[str]) -> tuple[int, set[str]]:
    """How many series most of these names are, in each of which one number changes in equal steps; and the few others.

    (0, nothing) where others are more than one in ten, and more than one: a poster beside frames does not hide them.
    """
    series: dict[str, list[str]] = defaultdict(list)
    for name in names:
        series[_NUMBER.sub("#", name)].append(name)
    loose = {name for group in series.values() if not _is_counted(group) for name in group}
    if len(loose) > max(1, len(names) // 10):
        return 0, set()
    return sum(map(_is_counted, series.values())), loose


def _is_counted(names: Sequence[str]) -> bool:
    if len(names) < _FEWEST:
        return False
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    changing = [column for column in columns if len(set(column)) > 1]
    if len(changing) != 1:
        return False
    numbers = sorted(map(int, changing[0]))
    return len({b - a for a, b in pairwise(numbers)}) == 1 and numbers[0] != numbers[-1]
