"""The manifest: the table of what to learn from, one row per source.

Columns have roles: ``path`` (relative to a root), ``start_s`` and ``end_s`` (a span of it), ``frames`` (a list of image
files), ``split``, ``label`` and ``label.<name>``, ``group`` and ``group.<name>`` (what must not straddle splits: a
person, a scene), ``file.<name>`` (mask, depth, audio …) and ``fact.<name>`` (what probing found). A folder, a CSV file,
a Parquet file and a list of paths all become the same thing.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from unreel.core.digests import fingerprint, mapping_digest, place_digest
from unreel.core.distributed import rank
from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.core.keys import Key
from unreel.core.text import first_few, is_utf8, shown
from unreel.core.words import counted
from unreel.data.columns import PATH_ALIASES, Assigned, Columns, ColumnsLike
from unreel.data.folders import Warned, list_folder
from unreel.data.row import Row, column_name
from unreel.data.split_names import SPLIT_NAMES, count_splits, splits_meant
from unreel.data.tables import (
    Table,
    is_parquet,
    place_in_table,
    read_columns,
    read_csv,
    read_parquet,
    relative_path,
    table_of,
    write_csv,
    write_parquet,
)
from unreel.media import VideoInfo, kind_by_content, kind_of

__all__ = ["PATH_ALIASES", "SPLIT_NAMES", "Columns", "Manifest", "Row", "Source"]

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = "PathLike | Sequence[PathLike] | Manifest"

_FAMILIES = ("label", "group")
_SHOWN = 5
_log = logging.getLogger("unreel.data")


@dataclass(frozen=True)
class Manifest:
    """An immutable table of sources.

    Attributes:
        root: what relative paths are relative to (absolute).
        rows: one per source.
        notices: what reading found worth telling: files ignored, labels stripped, columns not used.
        table: the file that it was read from, where it was one. columns: what became of that file's columns.
    """

    root: str
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = field(default=(), compare=False)
    table: str = field(default="", compare=False)
    columns: Assigned = field(default=Assigned(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", os.path.abspath(self.root))
        object.__setattr__(self, "rows", tuple(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    # ---------------------------------------------------------------------------------------------------- making one

    @classmethod
    def open(
        cls, source: Source, *, root: PathLike | None = None, columns: ColumnsLike = None, tell: bool = True
    ) -> Manifest:
        """A manifest from whatever people have: a folder, a CSV or Parquet file, a list of paths, or a manifest.

        A folder that holds a ``manifest.parquet`` or ``manifest.csv`` is read from that.

        Args:
            source: any of these.
            root: as ``from_csv``.
            columns: as ``from_csv``; a label or a group may be chosen of any source, and of a manifest that was read
                from a table any of its columns.
            tell: log the notices, unless it is a manifest already; the command line prints the log.

        Raises: DataError when there is nothing usable there; UsageError for something that is none of these, and for
            columns that are not there.
        """
        if isinstance(source, Manifest):
            return source._choosing(columns)
        if isinstance(source, (str, os.PathLike)):
            path, table = Path(source), table_of(source)
            if table is not None:
                read = cls.from_parquet if is_parquet(table) else cls.from_csv
                return read(table, root=root, columns=columns)._told(table, tell)
            if path.is_dir():
                return cls.from_folder(path)._choosing(columns)._told(path, tell)
            if kind_of(path, by_name=True) or kind_by_content(path):
                return cls.from_paths([path], root=root)._choosing(columns)
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder")
            raise UsageError(f"{path}: data is a folder, a .csv or .parquet manifest, a media file or a list of paths")
        if isinstance(source, Sequence):
            return cls.from_paths(source, root=root)._choosing(columns)
        raise UsageError(f"data must be a folder, a manifest or a list of paths, got {type(source).__name__}")

    def _choosing(self, columns: ColumnsLike) -> Manifest:
        """The same rows, of which a label and a group are meant; see ``open``."""
        if not isinstance(columns, Columns):
            return self
        if columns.of_tables:
            option, name = next((k, v) for k, v in vars(columns).items() if v is not None and k not in _FAMILIES)
            what = "the table has been read already" if self.table else f"{shown(self.root)} is no table"
            raise UsageError(f"--{option} {name} ({option}={name!r} in Python) names a column of a table, and {what}")
        chosen = self
        for family in _FAMILIES:
            name = getattr(columns, family)
            chosen = chosen if name is None else chosen._with(family, name)
        return chosen

    def _with(self, family: str, name: str) -> Manifest:
        """The same rows, of which this label or group, or any column of their table, is meant."""
        known = self.label_names if family == "label" else self.group_names
        key = name if name in known else name.removeprefix(f"{family}.")
        assigned, rows = self.columns, self.rows
        if key not in known:
            every = dict.fromkeys((*assigned.roles.values(), *assigned.unused))
            key = next((column for column in every if column == name), "") or next(
                (column for column in every if column.lower() == name.lower()), ""
            )
            if not key:
                if not known and not every:
                    raise DataError(f"the data has no {family} at all")
                raise unknown_name(family, name, {*known, *every})
            values = self._texts([key]).get(key)
            if values is None:
                raise DataError(f"{self.table}: the column {key!r} holds lists, which are no {family}s")
            rows = tuple(row.labelled(family, key, value) for row, value in zip(self.rows, values, strict=True))
            assigned = replace(
                assigned,
                roles={**assigned.roles, column_name(family, key): key},
                unused=tuple(n for n in assigned.unused if n != key),
                groups=() if family == "group" else tuple(n for n in assigned.groups if n != key),
            )
        return replace(self, rows=rows, columns=assigned.choosing(family, key))

    def _texts(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Columns of the table as text, a value for each row; those that hold lists are left out."""
        if not names:
            return {}
        path = self.columns.roles.get("path", "")
        found = read_columns(self.table, [*names, *filter(None, [path])])
        for row in self.rows if path in found else ():
            if found[path].get(row.line) != row.path.strip():
                raise DataError(f"{self.table} has changed since it was read: line {row.line} names another file")
        return {name: [found[name].get(row.line, "") for row in self.rows] for name in names if name in found}

    def _told(self, path: Path, tell: bool) -> Manifest:
        if tell and rank() == 0:
            for notice in self.notices:
                level = logging.WARNING if isinstance(notice, Warned) else logging.INFO
                _log.log(level, "%s: %s", path.name or path, notice, extra={"notice": notice})
        return self

    @classmethod
    def from_folder(cls, root: PathLike, *, kind: str = "auto") -> Manifest:
        """Every media file below a folder, sorted by path; links to folders are followed, each real folder once.

        Sub-folders are labels when every file lies exactly one folder deep (``cat/1.mp4``), splits when those folders
        are all called train, val or test, and splits with labels below (``train/cat/1.mp4``). ``notices`` says what is
        left out: hidden files, files that are no media, folders that cannot be listed, links that lead nowhere.

        Args:
            root: the folder.
            kind: ``video``; ``image``; ``frames``, where each folder that holds images is a video; or ``auto``: the
                videos, or the images where there is no video (animated GIFs are videos here only where the images are
                not more), or folders of frames where names and depth speak for them (``cat/video/0001.png``; see
                ``data.frame_folders``).

        Raises: DataError for a folder that is missing, cannot be listed or has no media; UsageError for another kind.
        """
        rows, notices = list_folder(root, kind=kind)
        return cls(os.fspath(root), tuple(rows), tuple(notices))

    @classmethod
    def from_paths(cls, paths: Sequence[PathLike], *, root: PathLike | None = None) -> Manifest:
        """A list of files; the root is their common folder unless given.

        Raises: DataError for an empty list or missing files.
        """
        if not paths:
            raise DataError("an empty list of paths: there is nothing to learn from")
        if root is None:
            files = [os.path.abspath(p) for p in paths]
            root = os.path.commonpath([os.path.dirname(f) for f in files])
        else:
            files = [os.path.abspath(os.path.join(root, p)) for p in paths]
        manifest = cls(os.fspath(root), tuple(Row(relative_path(f, os.fspath(root))) for f in files))
        manifest.check_files()
        return manifest

    @classmethod
    def from_csv(
        cls, path: PathLike, *, root: PathLike | None = None, columns: ColumnsLike = None, check: bool = True
    ) -> Manifest:
        """Read a table with a header, separated by commas, semicolons, tabs or "|".

        Args:
            path: the file, in UTF-8, or in UTF-16 with its mark.
            root: what its paths are relative to; its own folder unless given.
            columns: which columns are meant, where the table has other names (``Columns(path="clip",
                label="position")``); or column by role (``{"path": "clip", "group": "patient"}``).
            check: raise for files that do not exist.

        Raises: DataError, naming file and line, for a malformed table or missing files; UsageError for an unknown
            role in ``columns``.
        """
        return cls._from_table(path, read_csv(path, columns), root, check)

    @classmethod
    def from_parquet(
        cls, path: PathLike, *, root: PathLike | None = None, columns: ColumnsLike = None, check: bool = True
    ) -> Manifest:
        """Read a Parquet table; arguments and errors as ``from_csv``."""
        return cls._from_table(path, read_parquet(path, columns), root, check)

    @classmethod
    def _from_table(cls, path: PathLike, table: Table, root: PathLike | None, check: bool) -> Manifest:
        place = os.fspath(root if root is not None else Path(path).parent)
        manifest = cls(place, tuple(table.rows), tuple(table.notices), os.fspath(path), table.columns)
        if not check:
            return manifest
        if root is None and manifest.missing_files():
            found = [folder for folder in subfolders(place) if not replace(manifest, root=folder).missing_files()]
            if len(found) == 1:
                notice = f"its files lie in {shown(os.path.basename(found[0]))}/"
                return replace(manifest, root=found[0], notices=(*manifest.notices, notice))
        manifest.check_files()
        return manifest

    # ------------------------------------------------------------------------------------------------------- writing

    def to_csv(self, path: PathLike) -> Path:
        """Write the table, all or nothing. Paths are written relative to the new file's own folder."""
        return write_csv(self.rows, self.root, path)

    def to_parquet(self, path: PathLike) -> Path:
        """Write the table, all or nothing. Paths are written relative to the new file's own folder."""
        return write_parquet(self.rows, self.root, path)

    # -------------------------------------------------------------------------------------------------------- facts

    @cached_property
    def digest(self) -> str:
        """32 hex digits for the table and its files' fingerprints (``core.digests``); not for the facts.

        Reads up to 128 KiB per file the first time. The same data under another root has the same digest.
        Raises: DataError where a file cannot be read.
        """
        return self.digest_of(self.fingerprints())

    def fingerprints(self, *, full: bool = False) -> dict[str, str]:
        """The fingerprint of every file and folder that a row is made of, by its path as written.

        With ``full`` every byte of every file counts, for ``digest_of``.
        """
        names = dict.fromkeys(name for row in self.rows for name in (row.path, *row.frames) if name)
        return {name: fingerprint(os.path.join(self.root, name), self.root, full=full) for name in names}

    def digest_of(self, fingerprints: Mapping[str, str]) -> str:
        """``digest``, given the ``fingerprints``."""
        table = [
            [r.path, r.start_s, r.end_s, list(r.frames), r.split, dict(r.labels), dict(r.groups), dict(r.files)]
            for r in self.rows
        ]
        return mapping_digest([table, [fingerprints[k] for k in sorted(fingerprints)]])

    @cached_property
    def only_images(self) -> bool:
        """Whether every row is one image file, as far as names tell; only GIFs and files without suffix are opened."""
        return all(
            len(row.frames) == 1 or (not row.frames and kind_of(self.absolute(i)) in ("image", "foreign"))
            for i, row in enumerate(self.rows)
        )

    @cached_property
    def noun(self) -> str:
        """What a row is called in messages: "image", "video", or "file" where there are both."""
        if self.only_images:
            return "image" if self.rows else "video"
        mixed = any(not row.frames and kind_of(self.absolute(i)) == "image" for i, row in enumerate(self.rows))
        return "file" if mixed else "video"

    def absolute(self, i: int) -> Path:
        """Where row ``i``'s source is; for a row that only lists frames, where the first of them is."""
        return Path(self.root, self.relative(i))

    def relative(self, i: int) -> str:
        """Row ``i``'s path as written in the table; for a row that only lists frames, the first of them."""
        row = self.rows[i]
        return row.path or row.frames[0]

    def same_file(self, i: int, *others: int) -> bool:
        """Whether row ``i`` is of the same file as one of the other rows, those that there are."""
        path = self.rows[i].path
        return bool(path) and any(self.rows[k].path == path for k in others if 0 <= k < len(self))

    def where(self, i: int) -> str:
        """Where row ``i`` is written, for messages: its table and line, or its path."""
        line = self.rows[i].line
        return place_in_table(self.table, line) if self.table and line else self.relative(i)

    def frame_paths(self, i: int) -> tuple[Path, ...]:
        """Where row ``i``'s image files are; empty unless it lists them."""
        return tuple(Path(self.root, f) for f in self.rows[i].frames)

    def file(self, i: int, name: str) -> Path | None:
        """Where row ``i``'s ``file.<name>`` is, or None where it has none."""
        path = self.rows[i].files.get(name)
        return None if path is None else Path(self.root, path)

    def sample_id(self, i: int) -> int:
        """63 bits for what row ``i`` is: its relative path, span and frames. Other rows do not matter."""
        row = self.rows[i]
        return Key("sample", row.path, repr(row.start_s), repr(row.end_s), *row.frames).bits()

    def identity(self, i: int) -> str:
        """32 hex digits for what row ``i`` is on this machine: its files at their places, and its span.

        Rows have one identity where they are the same seconds of the same files, by whatever paths, links and
        manifests. Raises: DataError for a missing file.
        """
        row = self.rows[i]
        files = [place_digest(os.path.join(self.root, name)) for name in (*row.frames, row.path) if name]
        return mapping_digest([files, row.start_s or 0.0, row.end_s])

    def one_name_each(self) -> list[str]:
        """Row for row the path as written, or its frames'. A file with several names, through links, has the first."""
        first: dict[tuple[str, ...], str] = {}
        return [
            first.setdefault(
                tuple(os.path.realpath(os.path.join(self.root, name)) for name in (row.path, *row.frames) if name),
                row.path or "\n".join(row.frames),
            )
            for row in self.rows
        ]

    @property
    def label(self) -> str:
        """The label that is meant: the one asked for, else "label"."""
        return self.columns.label or "label"

    @property
    def group(self) -> str:
        """The group that is meant: the one asked for, else "group"."""
        return self.columns.group or "group"

    @cached_property
    def unused(self) -> Mapping[str, list[str]]:
        """The table's columns that play no part, with a value for each row; they are read when asked for."""
        return self._texts(self.columns.unused)

    def group_id(self, i: int, name: str | None = None) -> int:
        """63 bits for row ``i``'s group, ``group`` unless named; its sample id where it has none."""
        value = self.rows[i].groups.get(name or self.group, "")
        return Key("group", value).bits() if value else self.sample_id(i)

    def labels(self, name: str | None = None) -> list[str]:
        """One label per row, ``label`` unless named, empty where it has none. Raises DataError when no row has it."""
        name = name or self.label
        return self._values("label", name, [r.labels.get(name, "") for r in self.rows], self.label_names)

    def groups(self, name: str | None = None) -> list[str]:
        """One group per row, ``group`` unless named, empty where it has none. Raises DataError when no row has it."""
        name = name or self.group
        return self._values("group", name, [r.groups.get(name, "") for r in self.rows], self.group_names)

    def _values(self, family: str, name: str, values: list[str], known: tuple[str, ...]) -> list[str]:
        if name not in known:
            have = ", ".join(column_name(family, k) for k in known) or f"no {family} at all"
            raise DataError(f"no column {column_name(family, name)!r}; this manifest has {have}")
        return values

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels that any row has."""
        return tuple(sorted({k for r in self.rows for k in r.labels}))

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups that any row has."""
        return tuple(sorted({k for r in self.rows for k in r.groups}))

    @cached_property
    def file_names(self) -> tuple[str, ...]:
        """Names of the further files that any row has."""
        return tuple(sorted({k for r in self.rows for k in r.files}))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that any row is in."""
        return tuple(sorted({r.split for r in self.rows if r.split}))

    # ------------------------------------------------------------------------------------------------------ choosing

    def select(
        self,
        *,
        split: str | Iterable[str] | None = None,
        where: Mapping[str, str | Iterable[str]] | Callable[[Row], bool] | None = None,
    ) -> Manifest:
        """The rows of a split, and those that a condition holds for.

        Args:
            split: a split's name, or several, read as ``unreel.data.split_names.splits_meant`` says: "train" is every
                training split, in any case.
            where: values by column (``{"label": "wave", "group.scene": ["a", "b"]}``), or a function of a row.

        Raises: DataError when nothing is left, naming what there is.
        """
        rows: Iterable[Row] = self.rows
        if split is not None:
            names = {split} if isinstance(split, str) else set(split)
            known = {r.split for r in self.rows}
            meant = {own for name in names for own in splits_meant(name, known)}
            rows = [r for r in rows if r.split in meant]
            if not rows:
                asked = " or ".join(repr(n) for n in sorted(names))
                raise DataError(f"no row is in split {asked}; there are {count_splits(r.split for r in self.rows)}")
        if callable(where):
            rows = [r for r in rows if where(r)]
        elif where is not None:
            for column, value in where.items():
                allowed = {value} if isinstance(value, str) else set(value)
                rows = [r for r in rows if r.column(column) in allowed]
        kept = tuple(rows)
        if not kept:
            raise DataError(f"no row of {len(self)} fulfils {where!r}")
        return replace(self, rows=kept)

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The rows of these numbers, in this order."""
        return replace(self, rows=tuple(self.rows[int(i)] for i in indices))

    def with_splits(self, names: Sequence[str]) -> Manifest:
        """The same rows with these splits, one per row. Raises UsageError when the lengths differ."""
        if len(names) != len(self):
            raise UsageError(f"{len(names)} splits for {len(self)} rows")
        return replace(self, rows=tuple(replace(r, split=n) for r, n in zip(self.rows, names, strict=True)))

    def with_facts(self, facts: Sequence[VideoInfo | None]) -> Manifest:
        """The same rows with these facts, one per row. Raises UsageError when the lengths differ."""
        if len(facts) != len(self):
            raise UsageError(f"{len(facts)} facts for {len(self)} rows")
        return replace(self, rows=tuple(replace(r, facts=f) for r, f in zip(self.rows, facts, strict=True)))

    def missing_files(self) -> list[str]:
        """Every file a row names that does not exist, in the order of the rows."""
        return list(self._missing())

    def _missing(self) -> dict[str, int]:
        """Missing files as written, each with the first row that names it."""
        named: dict[str, tuple[str, int]] = {}
        for i, row in enumerate(self.rows):
            for name in filter(None, (row.path, *row.frames, *row.files.values())):
                named.setdefault(os.path.join(self.root, name), (name, i))
        return {name: i for full, (name, i) in named.items() if not os.path.exists(full)}

    def check_files(self) -> None:
        """Raise DataError, with the first few names, the first line and the count, where files are missing."""
        missing = self._missing()
        if not missing:
            return
        names, first = [*missing], next(iter(missing.values()))
        listed = first_few([f"'{shown(name)}'" for name in names], _SHOWN)
        where = f", first in {self.where(first)}" if self.table and self.rows[first].line else ""
        raise DataError(
            f"{len(names)} of the files of {len(self)} rows do not exist below {shown(self.root)}: {listed}{where}"
            f"{_why_missing(names, self.root)}. {self._advice(names)}"
        )

    def _advice(self, names: Sequence[str]) -> str:
        if not self.table:
            return "Correct the names (in Python, root= names the folder that they are relative to)"
        some = names[:100]
        beside = subfolders(self.root)
        places = [p for p in (*beside, os.getcwd(), *map(str, Path(self.root).parents)) if _holds(p, some) == len(some)]
        folder = shown(places[0]) if places else "FOLDER"
        looked = f"Looked in that folder and, for all files, in each of its {counted(len(beside), 'sub-folder')}. "
        best = max(beside, key=lambda p: _holds(p, some), default="")
        if not places and best and _holds(best, some):
            looked += f"{shown(os.path.basename(best))}/ holds {_holds(best, some)} of {len(some)}. "
        return (
            f"{looked if beside else ''}Write paths as seen from the table's own folder; or, where its paths are "
            f"relative to {'another folder' if not places else folder}, write a table that finds them: unreel data "
            f"index {shown(os.path.basename(self.table))} --root {folder} --out NEW.csv"
        )


def subfolders(folder: str) -> list[str]:
    """The folders in a folder, but those that are hidden, sorted."""
    try:
        return sorted(e.path for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _holds(folder: str, names: Sequence[str]) -> int:
    return sum(os.path.exists(os.path.join(folder, name)) for name in names)


def _why_missing(names: Sequence[str], root: str) -> str:
    """What is wrong with names that nearly exist."""
    links = sum(os.path.islink(os.path.join(root, name)) for name in names)
    if links:
        return f"; {links} of them {'is a link that leads' if links == 1 else 'are links that lead'} nowhere"
    if any(name != name.strip() for name in names):
        return "; some names have spaces around them"
    if not all(map(is_utf8, names)):
        return "; some names are not UTF-8, save the table as CSV UTF-8"
    for name in names[:_SHOWN]:
        if any(os.path.exists(os.path.join(root, unicodedata.normalize(form, name))) for form in ("NFC", "NFD")):
            return "; some files' names write accents otherwise (as composed or decomposed letters)"
        if "\\" in name and os.path.exists(os.path.join(root, name.replace("\\", "/"))):
            return "; some names have backslashes, write / between folders"
    return ""
