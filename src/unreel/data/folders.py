"""A folder as a manifest: which files below it are media, what their folders say about them, and what is left out.

Links to folders are followed. A real folder is listed once, under its own name rather than a link's, so loops end.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from unreel.core.errors import DataError, UsageError
from unreel.core.text import first_few, shown
from unreel.data.frame_folders import Numbered, numbered_folders
from unreel.data.row import Row
from unreel.data.split_names import split_role
from unreel.media import VIDEO_SUFFIXES, kind_by_content, kind_of, suffix_of

Kind: TypeAlias = Literal["auto", "video", "image", "frames"]
KINDS: tuple[Kind, ...] = ("auto", "video", "image", "frames")

_SOUGHT = {"auto": ("video", "image"), "video": ("video",), "image": ("image",), "frames": ("image",)}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SHOWN = 3
# What only a folder of results holds: of a run, and of maps (`unreel explain`).
_RESULTS = ({"config.yaml", "environment.json"}, {"explain.json", "index.html"})
_IN_A_TABLE = "list the frames of each video in a table (CSV) with the columns path and frames"


class Warned(str):
    """A notice of something that is wrong with the data, which is said even where little is to be said."""

    __slots__ = ()


@dataclass
class _Found:
    """What lies below a folder, by relative path. ``real``: folders listed, as the file system calls them."""

    media: dict[str, list[str]] = field(default_factory=lambda: {"video": [], "image": [], "foreign": []})
    other: list[str] = field(default_factory=list)
    hidden: int = 0
    folders: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    nowhere: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    real: set[str] = field(default_factory=set)


def list_folder(root: str | os.PathLike[str], *, kind: str = "auto") -> tuple[list[Row], list[str]]:
    """One row per media file below a folder, sorted by path, and what to tell; see ``Manifest.from_folder``."""
    if kind not in KINDS:
        raise UsageError(f"kind must be {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}, got {kind!r}")
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"{base}: there is no such folder")
    found = _walk(base)
    if "" in found.closed:
        raise DataError(f"{base}: this folder cannot be listed; may you read it?")
    notices: list[str] = [*_faults(found)]
    if not any(found.media[name] for name in _SOUGHT[kind]):
        notices += _look_inside(base, found)
    chosen = kind if kind != "auto" else _kind_of_folder(found.media["video"], found.media["image"])
    files = found.media["image" if chosen == "frames" else chosen]
    if not files:
        what = {"auto": "video or image", "frames": "image"}.get(kind, kind)
        faults = "".join(f"; {notice}" for notice in notices)
        raise DataError(
            f"{base}: no {what} file below this folder ({len(found.other)} other files, {found.hidden} hidden ones); "
            + (_foreign(found.media["foreign"]) or f"known suffixes: {', '.join(sorted(VIDEO_SUFFIXES)[:8])} …")
            + faults
        )
    paths = files
    if chosen != "video":
        numbered = numbered_folders(base, files)
        if kind == "auto" and numbered.are_videos:
            chosen = "frames"
        if chosen == "frames":
            paths = [folder or "." for folder in numbered.folders]
        if kind == "frames" and numbered.mixed:
            raise DataError(f"{base}: {numbered.doubt} of pictures, which are no single video; {_IN_A_TABLE}")
        if kind == "auto":
            notices += _about_frames(base, numbered, chosen)
    paths = sorted(paths, key=lambda p: p.split("/"))
    rows, uneven = _labelled(paths)
    notices += [*_left_out(found, chosen, files), *uneven]
    return rows, [type(notice)(shown(notice)) for notice in notices]


def _walk(base: Path) -> _Found:
    found = _Found()
    folders: list[tuple[str, str]] = [("", os.path.realpath(base))]
    links: list[str] = []
    while folders or links:
        if not folders:  # a link may lead to a folder that is met under its own name: links come last
            links.sort(reverse=True)
            inside = links.pop()
            folders.append((inside, os.path.realpath(base / inside)))
        inside, real = folders.pop()
        if real in found.real:
            found.again.append(inside)
            continue
        found.real.add(real)
        try:
            with os.scandir(base / inside) as listing:
                entries = sorted(listing, key=lambda e: e.name)
        except OSError:
            found.closed.append(inside)
            continue
        if inside and any(marks <= {entry.name for entry in entries} for marks in _RESULTS):
            found.results.append(inside)
            continue
        found.folders.append(inside)
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith("."):
                found.hidden += 1
            elif _is_folder(entry):
                if not inside and entry.name == "sidecars" and any(Path(entry.path).glob("*.parquet")):
                    continue  # computed facts and their masks, see data/sidecars.py
                if entry.is_symlink():
                    links.append(name)
                else:
                    folders.append((name, os.path.join(real, entry.name)))
            elif _is_special(entry):
                found.special.append(name)
            elif media := kind_of(entry.path, by_name=True):
                found.media[media].append(name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                found.nowhere.append(name)
            else:
                found.other.append(name)
    return found


def _look_inside(base: Path, found: _Found) -> list[str]:
    """Sort files without a suffix by their content, as hospitals and cameras export them; and what to tell of it."""
    bare = [name for name in found.other if not suffix_of(name)]
    kinds = {name: kind for name in bare if (kind := kind_by_content(base / name))}
    for name, kind in kinds.items():
        found.media[kind].append(name)
    found.other = [name for name in found.other if name not in kinds]
    if not kinds:
        return []
    what = _count(len(bare), "file without a suffix was looked into", "files without a suffix were looked into")
    count = Counter(kinds.values())
    return [
        f"no name ends as that of a video or picture does, so {what}: {_count(count['video'], 'video', 'videos')}, "
        f"{_count(count['image'], 'picture', 'pictures')}"
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or behind a folder that may not be entered
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a socket or a device, which may be waited for for ever."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def _kind_of_folder(videos: list[str], images: list[str]) -> str:
    """Videos where there are any; but animated GIFs alone must be as many as the images beside them."""
    if all(v.lower().endswith(".gif") for v in videos) and len(videos) < len(images):
        return "image"
    return "video" if videos else "image"


# -------------------------------------------------------------------------------------------------------- what to tell


def _some(paths: Iterable[str]) -> str:
    """The first few by name."""
    return first_few(sorted(paths), _SHOWN)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _told(names: Sequence[str], one: str, many: str, how: str) -> list[str]:
    return [f"{_count(len(names), one, many)} {how}: {_some(names)}"] if names else []


def _faults(found: _Found) -> list[str]:
    closed = "could not be listed, and what is in there is left out"
    nowhere = "nowhere, and what should be there is left out"
    notices = _told(found.closed, "folder", "folders", closed)
    notices += _told(found.nowhere, "link leads", "links lead", nowhere)
    return [Warned(notice) for notice in notices]


def _left_out(found: _Found, chosen: str, files: Sequence[str]) -> list[str]:
    """What is below the folder and not in the table."""
    notices = []
    kind = "video" if chosen == "video" else "image"
    beside = found.media["image" if kind == "video" else "video"]
    if beside:
        what = _count(len(beside), *(("image file", "image files") if kind == "video" else ("video file",) * 2))
        notices.append(f"{what} beside the {kind}s left out, such as {min(beside)}")
    if found.media["foreign"]:
        notices.append(_foreign(found.media["foreign"]))
    archives = [name for name in found.other if name.lower().endswith(_ARCHIVES)]
    notices += _told(archives, "archive is", "archives are", "not looked into")
    other = sorted(set(found.other) - set(archives))
    if other:
        suffixes = Counter(suffix_of(name) or "no suffix" for name in other).most_common(_SHOWN)
        kinds = ", ".join(f"{suffix}: {count:,}" for suffix, count in suffixes)
        what = _count(len(other), "file that is no media by its name", "files that are no media by their names")
        notices.append(f"{what} ignored ({kinds}), such as {other[0]}")
    notices += _told(found.special, "pipe, socket or device", "pipes, sockets or devices", "left out")
    one, many = "folder holds results of unreel and is", "folders hold results of unreel and are"
    notices += _told(found.results, one, many, "left out")
    if found.hidden:
        notices.append(f"{_count(found.hidden, 'hidden file or folder', 'hidden files or folders')} ignored")
    through = "here under another name already, through links, and left out"
    notices += _told(found.again, "folder is", "folders are", through)
    used = {""}
    for path in files:
        while (path := os.path.dirname(path)) not in used:
            used.add(path)
    bare = [folder for folder in found.folders if folder not in used and os.path.dirname(folder) in used]
    return notices + _told(bare, "folder holds", "folders hold", f"no {kind} at all")


def _foreign(paths: list[str]) -> str:
    if not paths:
        return ""
    suffixes = sorted({os.path.splitext(p)[1].lower() for p in paths})
    what = "1 picture in a format" if len(paths) == 1 else f"{len(paths)} pictures in formats"
    return f"{what} that cannot be read ({', '.join(suffixes)}) left out, such as {min(paths)}; convert to JPEG or PNG"


def _about_frames(base: Path, numbered: Numbered, chosen: str) -> list[str]:
    """How numbered pictures were taken, and how to have it the other way."""
    if not numbered.count:
        return []
    other = "image" if chosen == "frames" else "frames"
    table = shlex.quote(str(base / "manifest.csv"))
    way = (
        f"run `unreel data index {shlex.quote(str(base))} --kind {other} --out {table}`, and the folder is read so "
        f"from then on (from Python: Manifest.from_folder(…, kind={other!r}))"
    )
    if numbered.mixed:
        way = _IN_A_TABLE
    folders = f"{len(numbered.folders):,} folders"
    where = f"all {folders}" if numbered.count == len(numbered.folders) else f"{numbered.count:,} of {folders}"
    found = f"in {where} the pictures differ in a running number only, such as {numbered.example}"
    if chosen == "frames":
        return [f"{found}: each folder is read as a video, its pictures as frames. If they are single pictures, {way}"]
    taken = f"they are taken as single pictures, because {numbered.doubt}"
    return [f"{found}: {taken}. If each folder holds frames that follow one another, {way}"]


# --------------------------------------------------------------------------------------------------- splits and labels


def _labelled(paths: list[str]) -> tuple[list[Row], list[str]]:
    """Rows whose split and label are what their folders say, where the folders say it of every file alike.

    The first folders are splits when all their names are understood, or when train and another part are among them: a
    class may be called train, but hardly train beside test. Also what to tell where folders differ in depth.
    """
    parts = [p.split("/")[:-1] for p in paths]
    depths = Counter(len(p) for p in parts)
    roles = {p[0]: split_role(p[0]) for p in parts if p}
    if 0 not in depths and (None not in roles.values() or {"train"} < {role for role in roles.values() if role}):
        deep = 2 if depths.keys() <= {1, 2} else -1
        return [
            Row(path, split=roles[p[0]] or p[0], labels={"label": p[1]} if len(p) == deep else {})
            for path, p in zip(paths, parts, strict=True)
        ], []
    if depths.keys() == {1}:
        return [Row(path, labels={"label": p[0]}) for path, p in zip(paths, parts, strict=True)], []
    notices = []
    if 1 in depths and len(depths) > 1:
        stray = min(path for path, p in zip(paths, parts, strict=True) if len(p) != 1)
        what = _count(depths[1], "file lies", "files lie")
        notices.append(
            f"{what} one folder deep and {len(paths) - depths[1]:,} elsewhere, such as {stray}: there are no labels, "
            "because folders are labels only where every file lies one folder deep"
        )
    return [Row(path) for path in paths], notices
