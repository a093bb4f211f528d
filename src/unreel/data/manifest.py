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
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.core.text import first_few, is_utf8, shown
from unreel.data.columns import PATH_ALIASES
from unreel.data.folders import Warned, list_folder
from unreel.data.row import Row, column_name
from unreel.data.split_names import SPLIT_NAMES, count_splits, splits_meant
from unreel.data.tables import (
    PARQUET_SUFFIXES,
    Table,
    place_in_table,
    read_csv,
    read_parquet,
    relative_path,
    write_csv,
    write_parquet,
)
from unreel.media import VideoInfo, kind_by_content, kind_of

__all__ = ["PATH_ALIASES", "SPLIT_NAMES", "Manifest", "Row", "Source"]

PathLike: TypeAlias = str | os.PathLike[str]
Roles: TypeAlias = Mapping[str, str]
Source: TypeAlias = "PathLike | Sequence[PathLike] | Manifest"

_SHOWN = 5
_log = logging.getLogger("unreel.data")


@dataclass(frozen=True)
class Manifest:
    """An immutable table of sources.

    Attributes:
        root: what relative paths are relative to (absolute).
        rows: one per source.
        notices: what reading found worth telling: files ignored, labels stripped, columns not used.
        table: the file that it was read from, where it was one.
    """

    root: str
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = field(default=(), compare=False)
    table: str = field(default="", compare=False)

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
        cls, source: Source, *, root: PathLike | None = None, columns: Roles | None = None, tell: bool = True
    ) -> Manifest:
        """A manifest from whatever people have: a folder, a CSV or Parquet file, a list of paths, or a manifest.

        A folder that holds a ``manifest.parquet`` or ``manifest.csv`` is read from that.

        Args:
            source: any of these.
            root, columns: as ``from_csv``.
            tell: log the notices, unless it is a manifest already; the command line prints the log.

        Raises: DataError when there is nothing usable there; UsageError for something that is none of these.
        """
        if isinstance(source, Manifest):
            return source
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if path.is_dir():
                for name in ("manifest.parquet", "manifest.csv"):
                    if (path / name).is_file():
                        return cls.open(path / name, root=root, columns=columns, tell=tell)
                return cls.from_folder(path)._told(path, tell)
            suffix = path.suffix.lower()
            if suffix in PARQUET_SUFFIXES:
                return cls.from_parquet(path, root=root, columns=columns)._told(path, tell)
            if suffix in (".csv", ".tsv", ".txt"):
                return cls.from_csv(path, root=root, columns=columns)._told(path, tell)
            if kind_of(path, by_name=True) or kind_by_content(path):
                return cls.from_paths([path], root=root)
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder")
            raise UsageError(f"{path}: data is a folder, a .csv or .parquet manifest, a media file or a list of paths")
        if isinstance(source, Sequence):
            return cls.from_paths(source, root=root)
        raise UsageError(f"data must be a folder, a manifest or a list of paths, got {type(source).__name__}")

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
        cls, path: PathLike, *, root: PathLike | None = None, columns: Roles | None = None, check: bool = True
    ) -> Manifest:
        """Read a table with a header, separated by commas, semicolons, tabs or "|".

        Args:
            path: the file, in UTF-8, or in UTF-16 with its mark.
            root: what its paths are relative to; its own folder unless given.
            columns: role to column, where the table has other names: ``{"path": "clip", "group": "patient"}``.
            check: raise for files that do not exist.

        Raises: DataError, naming file and line, for a malformed table or missing files; UsageError for an unknown
            role in ``columns``.
        """
        return cls._from_table(path, read_csv(path, columns), root, check)

    @classmethod
    def from_parquet(
        cls, path: PathLike, *, root: PathLike | None = None, columns: Roles | None = None, check: bool = True
    ) -> Manifest:
        """Read a Parquet table; arguments and errors as ``from_csv``."""
        return cls._from_table(path, read_parquet(path, columns), root, check)

    @classmethod
    def _from_table(cls, path: PathLike, table: Table, root: PathLike | None, check: bool) -> Manifest:
        rows, notices = table
        place = os.fspath(root if root is not None else Path(path).parent)
        manifest = cls(place, tuple(rows), tuple(notices), os.fspath(path))
        if check:
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

    def group_id(self, i: int, name: str = "group") -> int:
        """63 bits for row ``i``'s group; its sample id where it has none."""
        value = self.rows[i].groups.get(name, "")
        return Key("group", value).bits() if value else self.sample_id(i)

    def labels(self, name: str = "label") -> list[str]:
        """One label per row, empty where it has none. Raises DataError when no row has that label."""
        return self._values("label", name, [r.labels.get(name, "") for r in self.rows], self.label_names)

    def groups(self, name: str = "group") -> list[str]:
        """One group per row, empty where it has none. Raises DataError when no row has that group."""
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
        places = [Path.cwd(), *Path(self.root).parents]
        found = next((p for p in places if all(os.path.exists(p / name) for name in names[:100])), None)
        folder = "FOLDER" if found is None else shown(str(found))
        return (
            f"Correct the table; or, where its paths are relative to {'another folder' if found is None else folder}, "
            f"write one that finds them: unreel data index {shown(os.path.basename(self.table))} --root {folder} --out "
            "NEW.csv"
        )


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
