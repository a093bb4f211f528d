"""What the layouts share: finding videos, reading split lists, and what to do about names that do not exist."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from unreel.core.checks import checked
from unreel.core.errors import DataError, UsageError
from unreel.core.text import first_few
from unreel.data.manifest import Manifest, Row
from unreel.data.splits import hold_out
from unreel.data.text import read_text
from unreel.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES

Root: TypeAlias = str | os.PathLike[str]
T = TypeVar("T")
Missing: TypeAlias = Literal["error", "skip"]
SPLIT_SEED = 42
"""Seed of the validation parts that the object-aware paper draws (docs/methods/evaluation.md, Transfer sets)."""


class LayoutResult(NamedTuple):
    """A data set as a manifest, whose ``notices`` say what was found, and the listed names that do not exist."""

    manifest: Manifest
    missing: tuple[str, ...]


class Layout(Protocol):
    """Reads a data set from the folder it lies in."""

    def __call__(self, root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
        """The manifest of one official split.

        Raises: UsageError for a split that does not exist; DataError where files or lists are missing or malformed.
        """


class ListLine(NamedTuple):
    """One line of a split list: where it stands ("trainlist01.txt:17") and its text."""

    where: str
    text: str


def read_list(path: Path, notices: list[str] | None = None) -> list[ListLine]:
    """The lines of a text list, without empty ones.

    A first line that is a bare "0" is the header that pandas gives a column without a name; helpers of order-prediction
    code write split lists with it (docs/methods/tcgl.md, Where we differ). It is skipped, and ``notices`` says so.
    Raises: DataError where the file cannot be read or holds nothing.
    """
    text = read_text(path)
    lines = [
        ListLine(f"{path.name}:{number}", line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    notices = [] if notices is None else notices
    if lines and lines[0].text.strip("\"',; ") == "0":
        notices.append(f"{lines[0].where}: skipped the header row '0', which pandas wrote and which is no file name")
        lines = lines[1:]
    if not lines:
        raise DataError(f"{path}: the list is empty")
    return lines


def read_splits(folder: Path, parts: Iterable[str], noun: str, name: Callable[[str], str] = str) -> dict[str, str]:
    """What the lists ``<part>.txt`` that are there name, each with its part; ``name`` reads a line.

    Raises: DataError where a second list puts a ``noun`` into another part.
    """
    found: dict[str, str] = {}
    for part in parts:
        for where, text in read_list(folder / f"{part}.txt") if (folder / f"{part}.txt").is_file() else ():
            before = found.setdefault(name(text), part)
            if before != part:
                raise DataError(f"{where}: {name(text)!r} is in {before}.txt too; {noun} is in one split")
    return found


def home_of(data_set: str, root: Root, split_number: int, available: int = 1) -> Path:
    """The folder of a data set, as a path.

    Raises: UsageError where the data set has no split of this number; DataError where there is no such folder.
    """
    if not 1 <= split_number <= available:
        have = "one official split, number 1" if available == 1 else f"official splits 1 to {available}"
        raise UsageError(f"{data_set} has {have}; got {split_number}")
    if not os.path.isdir(root):
        raise DataError(f"{Path(root)}: there is no such folder")
    return Path(root)


def folders(root: Path, enter: Callable[[Path], bool] = lambda _: True) -> Iterator[Path]:
    """``root``, its sub-folders and theirs, level by level in order of name; ``enter`` says into which to look."""
    level = [root]
    for _ in range(3):
        yield from level
        entries = (e for f in level if enter(f) for e in sorted(os.scandir(f), key=lambda e: e.name))
        level = [Path(e.path) for e in entries if e.is_dir()]


def find_folder(root: Path, holds: Callable[[Path], bool], what: str) -> Path:
    """The first of ``folders`` that ``holds`` says yes to. Raises DataError where there is none."""
    found = next(filter(holds, folders(root)), None)
    if found is None:
        raise DataError(f"{root}: found no {what}, neither here nor one or two folders below")
    return found


def find_files(root: Path, *names: str) -> Path:
    """The first of ``folders`` that holds files of all these names. Raises DataError where there is none."""
    return find_folder(root, lambda f: all((f / name).is_file() for name in names), " and ".join(names))


def reference(root: Root, path: Path) -> str:
    """How a row of a manifest at ``root`` names a file: relative where it lies below, else its absolute path."""
    full, home = os.path.abspath(path), os.path.abspath(root)
    inside = os.path.commonpath([full, home]) == home
    return Path(os.path.relpath(full, home)).as_posix() if inside else full


def is_media(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a file name has one of the suffixes, and is not that of a hidden file."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def find_videos(root: Path, classes: Iterable[str]) -> Path:
    """The folder with sub-folders named like classes that hold videos. Raises DataError where there is none."""
    names = sorted(classes)

    def holds(folder: Path) -> bool:
        found = (folder / name for name in names if (folder / name).is_dir())
        return any(is_media(entry.name, VIDEO_SUFFIXES) for inside in found for entry in os.scandir(inside))

    return find_folder(
        root, holds, f"folder whose sub-folders are called like the classes ({names[0]}) and hold videos"
    )


class MediaFiles:
    """Every file below a folder that has one of the suffixes (of videos), by its path without the suffix.

    ``find`` names files as ``reference`` does from ``seen_from``, or from the folder itself.
    """

    def __init__(self, folder: Path, suffixes: frozenset[str] = VIDEO_SUFFIXES, seen_from: Path | None = None) -> None:
        self.place = Path(reference(seen_from or folder, folder))
        self.suffixes = suffixes
        self.paths: set[str] = set()
        self.by_stem: dict[str, str] = {}
        for inside, folders, names in os.walk(folder):
            folders[:] = sorted(n for n in folders if not n.startswith("."))
            below = os.path.relpath(inside, folder)
            for name in sorted(n for n in names if is_media(n, suffixes)):
                path = Path(below, name).as_posix()
                self.paths.add(path)
                self.by_stem.setdefault(os.path.splitext(path)[0], path)

    def find(self, listed: str) -> str | None:
        """The file that a list means: of that path, else of that path with another suffix; ``None`` without either."""
        stem, suffix = os.path.splitext(listed)
        known = self.by_stem.get(stem if suffix.lower() in self.suffixes else listed)
        found = listed if listed in self.paths else known
        return None if found is None else (self.place / found).as_posix()


def image_files(folder: Path, seen_from: Path | None = None) -> MediaFiles:
    """Every image below a folder."""
    return MediaFiles(folder, IMAGE_SUFFIXES, seen_from)


def read_mat(path: Path, what: str, read: Callable[[Any], T]) -> T:
    """What ``read`` finds in the variables of a MATLAB file. Raises DataError, with ``what`` it should be, else."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return read(loadmat(path, squeeze_me=True))
    except (OSError, ValueError, TypeError, KeyError, IndexError, MatReadError) as error:
        raise DataError(f"{path}: expected {what} ({error})") from None


@dataclass(frozen=True)
class Entry:
    """One line of a data set's lists: the listed name, the file found for it or ``None``, and what the row says.

    ``labels`` are further ones, by name, or "label" itself where objects tell it; ``files`` further files, relative to
    the data set's root, or None without one.
    """

    listed: str
    file: str | None
    split: str
    label: str
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | None] = field(default_factory=dict)


@checked
def assemble(
    data_set: str,
    root: Path,
    folder: Path,
    entries: Sequence[Entry],
    *,
    missing: Missing,
    notices: Iterable[str] = (),
    noun: str = "videos",
) -> LayoutResult:
    """Rows of the files that exist, their paths relative to ``root``, files lying below ``folder``.

    ``noun`` is what errors and notices call the files.

    Raises: DataError for names that do not exist, unless ``missing`` is "skip", and where none exists; UsageError for
        another ``missing``.
    """
    if not entries:
        raise DataError(f"{data_set}: found no {noun} below {folder}")
    absent = tuple(e.listed for e in entries if e.file is None)
    shown = first_few(absent)
    if len(absent) == len(entries):
        raise DataError(f"{data_set}: none of the {len(entries)} {noun} listed exists below {folder}: {shown}")
    if absent and missing == "error":
        raise DataError(
            f"{data_set}: {len(absent)} of the {len(entries)} {noun} listed do not exist below {folder}: {shown}. "
            "Complete the data, or leave them out with missing='skip' (--missing skip)"
        )
    told = list(notices)
    if absent:
        told.append(f"{len(absent)} of {len(entries)} {noun} listed do not exist and are left out: {shown}")
    suffixes = [[os.path.splitext(name)[1] for name in (e.listed, e.file)] for e in entries if e.file is not None]
    moved = sum(listed not in ("", own) for listed, own in suffixes)
    if moved:
        told.append(f"{moved} {noun} have another suffix than in the list")
    place = "" if folder == root else Path(os.path.relpath(folder, root)).as_posix() + "/"
    rows = tuple(
        Row(
            place + e.file,
            split=e.split,
            labels={"label": e.label, **e.labels},
            groups={"group": e.group},
            files={name: file for name, file in e.files.items() if file is not None},
        )
        for e in entries
        if e.file is not None
    )
    return LayoutResult(replace(Manifest(os.fspath(root), rows), notices=tuple(told)), absent)


def draw_validation(result: LayoutResult, part: int, whole: int, *, seed: int, what: str) -> LayoutResult:
    """Move ``part`` of every ``whole`` training rows to the split ``val``, drawn by hash of group or path and seed.

    On complete data of ``whole`` training rows these are exactly ``part``. Other rows do not decide on which side one
    falls, but how many there are does.
    """
    manifest = result.manifest
    rows = [i for i, row in enumerate(manifest) if row.split == "train"]
    if not rows:
        raise DataError(f"{what}: no training row to draw validation rows from")
    count = max(1, round(len(rows) * part / whole))
    chosen = {i for i, out in zip(rows, hold_out(manifest.subset(rows), count, seed=seed), strict=True) if out}
    told = f"{len(chosen)} of {len(rows)} training rows drawn as val with seed {seed}"
    moved = manifest.with_splits(["val" if i in chosen else row.split for i, row in enumerate(manifest)])
    return LayoutResult(replace(moved, notices=(*manifest.notices, told)), result.missing)
