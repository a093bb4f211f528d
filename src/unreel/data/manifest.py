"""The manifest: the table of what to learn from, one row per source.

Columns have roles: ``path`` (relative to a root), ``start_s`` and ``end_s`` (a span of it), ``frames`` (a list of image
files), ``split``, ``label`` and ``label.<name>``, ``group`` and ``group.<name>`` (what must not straddle splits: a
person, a scene), ``file.<name>`` (mask, depth, audio …) and ``fact.<name>`` (what probing found). A folder, a CSV file,
a Parquet file and a list of paths all become the same thing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from unreel.core.digests import file_digest, mapping_digest
from unreel.core.errors import DataError, UsageError, nearest
from unreel.core.files import replacing, write_whole
from unreel.core.keys import Key
from unreel.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoInfo

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = "PathLike | Sequence[PathLike] | Manifest"

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Other people's names for ``path``; taken, with a notice, where exactly one of them is there and ``path`` is not.
PATH_ALIASES = ("clip", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path")

_SIMPLE = ("path", "start_s", "end_s", "frames", "split")
_FAMILIES = ("label", "group", "file", "fact")
_FACTS = {f.name: f.type for f in fields(VideoInfo)}
_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One source. Values of labels, groups, files and split are stripped; empty ones are absent.

    ``path`` is relative to the manifest's root, with forward slashes; it may be empty where ``frames`` lists image
    files (relative too). ``start_s`` and ``end_s`` are seconds from the source's first frame. ``facts`` is what
    probing found, or None.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    frames: tuple[str, ...] = ()
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    facts: VideoInfo | None = None

    def __post_init__(self) -> None:
        if not self.path and not self.frames:
            raise DataError("a row needs a path or a list of frames")
        for name in ("start_s", "end_s"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise DataError(f"{name} must be seconds from the start of the source, got {value}")
        if self.end_s is not None and self.end_s <= (self.start_s or 0.0):
            raise DataError(f"the span ends at {self.end_s:g} s, not after its start at {self.start_s or 0:g} s")
        object.__setattr__(self, "frames", tuple(self.frames))
        object.__setattr__(self, "split", self.split.strip())
        for name in ("labels", "groups", "files"):
            values = {k: v.strip() for k, v in getattr(self, name).items() if v.strip()}
            object.__setattr__(self, name, values)

    def column(self, name: str) -> str:
        """The text of a column such as ``split``, ``label`` or ``group.patient``; empty where absent."""
        if name in ("path", "split"):
            return str(getattr(self, name))
        family, _, key = name.partition(".")
        holder = {"label": self.labels, "group": self.groups, "file": self.files}.get(family)
        if holder is None:
            raise UsageError(f"no column {name!r}; columns are path, split, label[.name], group[.name], file.name")
        return holder.get(key or family, "")


class Leak(NamedTuple):
    """A group that straddles splits, and in which ones."""

    group: str
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """An immutable table of sources.

    Attributes:
        root: what relative paths are relative to (absolute).
        rows: one per source.
        notices: what reading found worth telling: files ignored, labels stripped, columns not used.
    """

    root: str
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = field(default=(), compare=False)

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
        cls, source: Source, *, root: PathLike | None = None, columns: Mapping[str, str] | None = None
    ) -> Manifest:
        """A manifest from whatever people have: a folder, a CSV or Parquet file, a list of paths, or a manifest.

        A folder that holds a ``manifest.parquet`` or ``manifest.csv`` is read from that.

        Raises: DataError when there is nothing usable there; UsageError for something that is none of these.
        """
        if isinstance(source, Manifest):
            return source
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if path.is_dir():
                for name in ("manifest.parquet", "manifest.csv"):
                    if (path / name).is_file():
                        return cls.open(path / name, root=root, columns=columns)
                return cls.from_folder(path)
            suffix = path.suffix.lower()
            if suffix in (".parquet", ".pq"):
                return cls.from_parquet(path, root=root, columns=columns)
            if suffix in (".csv", ".tsv", ".txt"):
                return cls.from_csv(path, root=root, columns=columns)
            if suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                return cls.from_paths([path], root=root)
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder")
            raise UsageError(f"{path}: data is a folder, a .csv or .parquet manifest, a media file or a list of paths")
        if isinstance(source, Sequence):
            return cls.from_paths(source, root=root)
        raise UsageError(f"data must be a folder, a manifest or a list of paths, got {type(source).__name__}")

    @classmethod
    def from_folder(cls, root: PathLike, *, kind: str = "auto") -> Manifest:
        """Every media file below a folder, sorted by path.

        Sub-folders are labels when every file lies exactly one folder deep (``cat/1.mp4``), splits when those folders
        are all called train, val or test, and splits with labels below (``train/cat/1.mp4``). Hidden files, and files
        that are no media, are left out and counted in ``notices``.

        Args:
            root: the folder.
            kind: ``video``, ``image``, or ``auto``: the videos, or the images where there is no video.

        Raises: DataError for a missing folder or one without media; UsageError for an unknown kind.
        """
        if kind not in ("auto", "video", "image"):
            raise UsageError(f"kind must be 'auto', 'video' or 'image', got {kind!r}")
        base = Path(root)
        if not base.is_dir():
            raise DataError(f"{base}: there is no such folder")
        found: dict[str, list[str]] = {"video": [], "image": []}
        other, hidden = 0, 0
        for folder, folders, names in os.walk(base):
            hidden += sum(n.startswith(".") for n in names)
            folders[:] = sorted(n for n in folders if not n.startswith("."))
            inside = Path(folder).relative_to(base)
            if not inside.parts and "sidecars" in folders and any(Path(folder, "sidecars").glob("*.parquet")):
                folders.remove("sidecars")  # computed facts and their masks, see data/sidecars.py
            for name in names:
                if name.startswith("."):
                    continue
                suffix = os.path.splitext(name)[1].lower()
                media = "video" if suffix in VIDEO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else ""
                if media:
                    found[media].append((inside / name).as_posix())
                else:
                    other += 1
        chosen = kind if kind != "auto" else ("video" if found["video"] else "image")
        paths = sorted(found[chosen], key=lambda p: p.split("/"))
        if not paths:
            what = "video or image" if kind == "auto" else kind
            raise DataError(
                f"{base}: no {what} file below this folder ({other} other files, {hidden} hidden ones); "
                f"known suffixes: {', '.join(sorted(VIDEO_SUFFIXES)[:8])} …"
            )
        notices = []
        left_out = len(found["image"]) if chosen == "video" else len(found["video"])
        if left_out:
            notices.append(
                f"{left_out} {'image' if chosen == 'video' else 'video'} files beside the {chosen}s left out"
            )
        if other:
            notices.append(f"{other} files that are no media ignored")
        if hidden:
            notices.append(f"{hidden} hidden files ignored")
        return cls(os.fspath(base), tuple(_labelled(paths)), tuple(notices))

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
        manifest = cls(os.fspath(root), tuple(Row(_relative(f, os.fspath(root))) for f in files))
        manifest.check_files()
        return manifest

    @classmethod
    def from_csv(
        cls,
        path: PathLike,
        *,
        root: PathLike | None = None,
        columns: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Manifest:
        """Read a table with a header, separated by commas, semicolons or tabs.

        Args:
            path: the file, in UTF-8.
            root: what its paths are relative to; its own folder unless given.
            columns: role to column, where the table has other names: ``{"path": "clip", "group": "patient"}``.
            check: raise for files that do not exist.

        Raises: DataError, naming file and line, for a malformed table or missing files; UsageError for an unknown
            role in ``columns``.
        """
        file = Path(path)
        try:
            text = _text(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
        if not text.strip():
            raise DataError(f"{file}: the table is empty; its first line must name the columns")
        first_line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
        delimiter = max(",;\t", key=first_line.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines: list[tuple[str, Mapping[str, Any]]] = []
        header: list[str] | None = None
        try:
            for cells in reader:
                if not cells:
                    continue
                if header is None:
                    header = [c.strip() for c in cells]
                    continue
                if len(cells) != len(header):
                    what = "a comma in the path? quote it" if len(cells) > len(header) else "a value left out?"
                    raise DataError(
                        f"{file.name}:{reader.line_num}: expected {len(header)} fields, found {len(cells)} ({what})"
                    )
                lines.append((f"{file.name}:{reader.line_num}", dict(zip(header, cells, strict=True))))
        except csv.Error as error:
            raise DataError(f"{file.name}:{reader.line_num}: {error}") from None
        return cls._from_table(file, header or [], lines, root, columns, check)

    @classmethod
    def from_parquet(
        cls,
        path: PathLike,
        *,
        root: PathLike | None = None,
        columns: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Manifest:
        """Read a Parquet table; arguments and errors as ``from_csv``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = Path(path)
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file}: not a readable Parquet file ({error})") from None
        lines = [(f"{file.name}, row {i}", cells) for i, cells in enumerate(table.to_pylist())]
        return cls._from_table(file, list(table.column_names), lines, root, columns, check)

    @classmethod
    def _from_table(
        cls,
        file: Path,
        header: list[str],
        lines: Iterable[tuple[str, Mapping[str, Any]]],
        root: PathLike | None,
        columns: Mapping[str, str] | None,
        check: bool,
    ) -> Manifest:
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            raise DataError(f"{file.name}: column {repeated[0]!r} is there twice")
        roles, notices = _roles(file.name, header, columns or {})
        rows: list[Row] = []
        stripped = 0
        for where, cells in lines:
            values = {role: cells[column] for role, column in roles.items()}
            stripped += sum(
                isinstance(v, str) and v != v.strip()
                for r, v in values.items()
                if r.split(".")[0] in ("label", "group")
            )
            try:
                rows.append(_row(values))
            except (DataError, ValueError) as error:
                raise DataError(f"{where}: {error}") from None
        if not rows:
            raise DataError(f"{file.name}: the table has a header but no rows")
        if stripped:
            notices.append(f"{stripped} labels or groups stripped of stray spaces")
        manifest = cls(os.fspath(root) if root is not None else os.fspath(file.parent), tuple(rows), tuple(notices))
        if check:
            manifest.check_files()
        return manifest

    # ------------------------------------------------------------------------------------------------------- writing

    def to_csv(self, path: PathLike) -> Path:
        """Write the table, all or nothing. Paths are written relative to the new file's own folder."""
        target = Path(path)
        columns, records = self._records(target.parent)
        lines = [",".join(map(_quoted, columns))]
        lines += [",".join(_quoted(_cell(record.get(c))) for c in columns) or '""' for record in records]
        write_whole(target, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
        return target

    def to_parquet(self, path: PathLike) -> Path:
        """Write the table, all or nothing. Paths are written relative to the new file's own folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = Path(path)
        columns, records = self._records(target.parent)
        schema = pa.schema([(c, _arrow_type(pa, c)) for c in columns])
        with replacing(target) as partial:
            pq.write_table(pa.Table.from_pylist([dict(r) for r in records], schema=schema), partial)
        return target

    def _records(self, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
        """Column names in their fixed order, and one dict per row without the absent values."""
        home = os.path.abspath(folder)
        moved = home != self.root

        def place(path: str) -> str:
            if not path or not moved or os.path.isabs(path):
                return path
            full = os.path.join(self.root, path)
            if os.path.dirname(os.path.commonpath([full, home])) == os.path.commonpath([full, home]):
                return full  # nothing but the file system's root in common: a relative path would say no more
            return _relative(full, home)

        records: list[dict[str, Any]] = []
        for row in self.rows:
            record: dict[str, Any] = {"path": place(row.path)}
            record |= {k: v for k in ("start_s", "end_s") if (v := getattr(row, k)) is not None}
            if row.frames:
                record["frames"] = [place(f) for f in row.frames]
            if row.split:
                record["split"] = row.split
            record |= {_column("label", k): v for k, v in row.labels.items()}
            record |= {_column("group", k): v for k, v in row.groups.items()}
            record |= {f"file.{k}": place(v) for k, v in row.files.items()}
            if row.facts is not None:
                record |= {f"fact.{k}": getattr(row.facts, k) for k in _FACTS}
            records.append(record)
        used = {"path"}.union(*(r.keys() for r in records)) if records else {"path"}
        order = {name: i for i, name in enumerate((*_SIMPLE, "label", "label.", "group", "group.", "file.", "fact."))}
        fact_order = {f"fact.{name}": i for i, name in enumerate(_FACTS)}

        def rank(name: str) -> tuple[int, int, str]:
            family = name.partition(".")[0]
            return order.get(name, order.get(f"{family}.", 99)), fact_order.get(name, 0), name

        return sorted(used, key=rank), records

    # -------------------------------------------------------------------------------------------------------- facts

    @cached_property
    def digest(self) -> str:
        """32 hex digits for the table and its files (relative path, size, head and tail of each); not for the facts.

        Reads up to 128 KiB per file the first time. The same data under another root has the same digest.
        Raises: DataError where a file cannot be read.
        """
        return self.compute_digest()

    def compute_digest(self, *, full: bool = False) -> str:
        """``digest``; with ``full`` every byte of every file counts."""
        seen: dict[str, str] = {}
        for row in self.rows:
            for name in (row.path, *row.frames):
                if name and name not in seen:
                    seen[name] = _content_digest(os.path.join(self.root, name), self.root, full)
        table = [
            [r.path, r.start_s, r.end_s, list(r.frames), r.split, dict(r.labels), dict(r.groups), dict(r.files)]
            for r in self.rows
        ]
        return mapping_digest([table, [seen[k] for k in sorted(seen)]])

    @property
    def only_images(self) -> bool:
        """Whether every row is one image file, as far as names tell; nothing is opened."""
        return all(
            len(row.frames) == 1 or (not row.frames and Path(row.path).suffix.lower() in IMAGE_SUFFIXES)
            for row in self.rows
        )

    def absolute(self, i: int) -> Path:
        """Where row ``i``'s source is; for a row that only lists frames, where the first of them is."""
        return Path(self.root, self.relative(i))

    def relative(self, i: int) -> str:
        """Row ``i``'s path as written in the table; for a row that only lists frames, the first of them."""
        row = self.rows[i]
        return row.path or row.frames[0]

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
            have = ", ".join(_column(family, k) for k in known) or f"no {family} at all"
            raise DataError(f"no column {_column(family, name)!r}; this manifest has {have}")
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
            split: a split's name, or several.
            where: values by column (``{"label": "wave", "group.scene": ["a", "b"]}``), or a function of a row.

        Raises: DataError when nothing is left, naming what there is.
        """
        rows: Iterable[Row] = self.rows
        if split is not None:
            names = {split} if isinstance(split, str) else set(split)
            rows = [r for r in rows if r.split in names]
            if not rows:
                asked = " or ".join(repr(n) for n in sorted(names))
                have = Counter(r.split or "(none)" for r in self.rows)
                raise DataError(
                    f"no row is in split {asked}; there are {', '.join(f'{k}: {v}' for k, v in sorted(have.items()))}"
                )
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
        named: dict[str, str] = {}
        for row in self.rows:
            if row.path:
                named.setdefault(os.path.join(self.root, row.path), row.path)
            for name in (*row.frames, *row.files.values()):
                named.setdefault(os.path.join(self.root, name), name)
        return [shown for full, shown in named.items() if not os.path.exists(full)]

    def check_files(self) -> None:
        """Raise DataError, with the first few names and the count, where files are missing."""
        missing = self.missing_files()
        if missing:
            names = ", ".join(repr(m) for m in missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
            stray = [m for m in missing if m != m.strip()]
            hint = "; some names have spaces around them" if stray else ""
            raise DataError(
                f"{len(missing)} of the files of {len(self)} rows do not exist below {self.root}: {names}{hint}. "
                "Correct the table, or give the folder that its paths are relative to (root)"
            )


def split_leaks(manifest: Manifest, group: str | None = "group") -> list[Leak]:
    """Groups with rows in more than one split; with ``group=None``, files in more than one split.

    Rows without a group or without a split do not count. Raises: DataError when the manifest has no such group.
    """
    values = [r.path or "\n".join(r.frames) for r in manifest.rows] if group is None else manifest.groups(group)
    seen: dict[str, set[str]] = {}
    for row, value in zip(manifest.rows, values, strict=True):
        if value and row.split:
            seen.setdefault(value, set()).add(row.split)
    return [Leak(value, tuple(sorted(splits))) for value, splits in sorted(seen.items()) if len(splits) > 1]


# ---------------------------------------------------------------------------------------------------------------- parts


def _text(file: Path) -> str:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        return stream.read()


def _labelled(paths: list[str]) -> list[Row]:
    parts = [p.split("/")[:-1] for p in paths]
    depths = {len(p) for p in parts}
    if depths == {1}:
        if all(p[0].lower() in SPLIT_NAMES for p in parts):
            return [Row(path, split=SPLIT_NAMES[p[0].lower()]) for path, p in zip(paths, parts, strict=True)]
        return [Row(path, labels={"label": p[0]}) for path, p in zip(paths, parts, strict=True)]
    if depths == {2} and all(p[0].lower() in SPLIT_NAMES for p in parts):
        return [
            Row(path, split=SPLIT_NAMES[p[0].lower()], labels={"label": p[1]})
            for path, p in zip(paths, parts, strict=True)
        ]
    return [Row(path) for path in paths]


def _column(family: str, name: str) -> str:
    return family if name == family else f"{family}.{name}"


def _is_role(name: str) -> bool:
    family, dot, key = name.partition(".")
    if name in _SIMPLE or name in ("label", "group"):
        return True
    if family == "fact":
        return key in _FACTS
    return family in _FAMILIES and bool(dot) and bool(key) and key != family


def _roles(file: str, header: list[str], columns: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Which column plays which role, and what to tell about it."""
    notices: list[str] = []
    roles = {name: name for name in header if _is_role(name)}
    for role, column in columns.items():
        if not _is_role(role):
            close = nearest(role, [*_SIMPLE, "label", "group"])
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"columns: unknown role {role!r}; {hint}roles are {', '.join(_SIMPLE)}, label, label.<name>, group, "
                "group.<name>, file.<name>"
            )
        if column not in header:
            close = nearest(column, header)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(header)}"
            raise DataError(f"{file}: no column {column!r} to be {role!r}; {hint}")
        roles[role] = column
    if "path" not in roles and "frames" not in roles:
        by_lower = {name.lower(): name for name in header}
        found = [by_lower[alias] for alias in PATH_ALIASES if alias in by_lower]
        if len(found) != 1:
            what = f"could be {' or '.join(map(repr, found))}" if found else f"its columns are {', '.join(header)}"
            raise DataError(
                f"{file}: no column 'path'; {what}. Name it: columns={{'path': {(found or header or ['?'])[0]!r}}}"
            )
        roles["path"] = found[0]
        notices.append(f"column {found[0]!r} read as path")
    unused = [name for name in header if name and name not in roles.values()]
    if unused:
        notices.append(
            f"columns not used: {', '.join(unused)} (give them a role, e.g. columns={{'group': {unused[0]!r}}})"
        )
    return roles, notices


def _row(values: Mapping[str, Any]) -> Row:
    families: dict[str, dict[str, str]] = {"label": {}, "group": {}, "file": {}}
    facts: dict[str, Any] = {}
    for role, value in values.items():
        family, _, key = role.partition(".")
        if value is None or value == "" or role in _SIMPLE:
            continue
        if family == "fact":
            facts[key] = _fact(key, value)
        else:
            families[family][key or family] = str(value)
    return Row(
        path=str(values.get("path") or ""),
        start_s=_seconds("start_s", values.get("start_s")),
        end_s=_seconds("end_s", values.get("end_s")),
        frames=_frames(values.get("frames")),
        split=str(values.get("split") or ""),
        labels=families["label"],
        groups=families["group"],
        files=families["file"],
        facts=VideoInfo(**facts)
        if {"width", "height", "num_frames", "duration_s", "fps", "codec"} <= facts.keys()
        else None,
    )


def _seconds(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except ValueError:
        raise DataError(f"{name} must be a number of seconds, found {value!r}") from None


def _frames(value: Any) -> tuple[str, ...]:
    """A list, a JSON list, or names separated by "|"."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if not isinstance(value, str):
        return tuple(str(v) for v in value)
    if value.lstrip().startswith("["):
        try:
            names = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"frames is not a JSON list ({error})") from None
        return tuple(str(v) for v in names)
    return tuple(value.split("|"))


def _fact(name: str, value: Any) -> Any:
    kind = str(_FACTS[name])
    if kind == "bool":
        return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1")
    return {"int": int, "float": float, "str": str}[kind](value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def _quoted(cell: str) -> str:
    """RFC 4180; the csv module leaves a lone carriage return bare unless lines end in one."""
    plain = cell == cell.strip() and not any(c in cell for c in '",;\r\n\t')
    return cell if plain else '"' + cell.replace('"', '""') + '"'


def _arrow_type(pa: Any, column: str) -> Any:
    if column == "frames":
        return pa.list_(pa.string())
    if column in ("start_s", "end_s"):
        return pa.float64()
    if column.startswith("fact."):
        kind = str(_FACTS[column.removeprefix("fact.")])
        return {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}[kind]
    return pa.string()


def _relative(path: str, root: str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _content_digest(path: str, root: str, full: bool) -> str:
    if os.path.isdir(path):  # a folder of frames: its files, by name
        inside = sorted(e.path for e in os.scandir(path) if e.is_file() and not e.name.startswith("."))
        return mapping_digest([file_digest(f, relative_to=root, full=full) for f in inside])
    return file_digest(path, relative_to=root, full=full)
