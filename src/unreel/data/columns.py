"""Which column of a table plays which role: by its name, by a usual other name, or as the caller says."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from unreel.core.errors import DataError, UsageError, nearest, unknown_name
from unreel.core.text import first_few, shown
from unreel.data.cells import is_missing, is_missing_sign, read_seconds
from unreel.data.row import SIMPLE_ROLES, column_name, is_role
from unreel.data.split_names import split_role
from unreel.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# Other people's names for ``path``; taken, with a notice, where exactly one of them is there and ``path`` is not.
PATH_ALIASES = (
    *("clip", "video", "file", "image", "img"),
    *("filename", "file_name", "filepath", "file_path", "image_path", "image_file", "image_name", "img_path"),
    *("video_path", "video_file", "video_name", "clip_path", "clip_name"),
)
# Pairs that are read as ``start_s`` and ``end_s``, with a notice, where both are there and hold seconds. Not among them
# is Kinetics' time_start, time_end: those are places in videos that its clips were cut from.
SPAN_ALIASES = (
    ("start", "end"),
    ("start", "stop"),
    ("start_time", "end_time"),
    ("start_time", "stop_time"),
    ("starttime", "endtime"),
    ("start_sec", "end_sec"),
    ("start_secs", "end_secs"),
    ("start_seconds", "end_seconds"),
    ("start_time_s", "end_time_s"),
    ("begin", "end"),
    ("begin_s", "end_s"),
    ("begin_time", "end_time"),
    ("t_start", "t_end"),
    ("tstart", "tend"),
    ("t0", "t1"),
    ("onset", "offset"),
    ("onset_s", "offset_s"),
)
# Read as ``split``, with a notice, where every value is understood.
SPLIT_ALIASES = ("subset", "partition", "set", "split_name", "data_split")

# Names that look like groups: what must not straddle splits.
_GROUP_WORDS = (
    "patient subject scene case person participant animal individual proband volunteer donor speaker signer actor "
    "identity source_group source_video original_video video_group"
)
_GROUP = re.compile(
    rf"(?:{'|'.join(_GROUP_WORDS.split())})s?(?:_?(?:id|no|nr|num|number|name|code|key|group|index))?|group_?(?:id|no|nr)"
)

_SPAN_WORDS = ("start", "end", "begin", "stop", "onset", "offset")
_MAX_SHOWN = 12


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are meant. What is ``None`` is found by its usual names.

    Args:
        path: the column of files. label, group: any column, or the name of a label or group ("motion" for the column
            "label.motion"). A group (a patient, a scene) is what must not straddle splits.
        split: the column that says which part a row is in. start, end: the columns of seconds, for spans of a file.
    """

    path: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None
    start: str | None = None
    end: str | None = None

    @classmethod
    def taken(cls, options: Mapping[str, Any]) -> tuple[Columns, dict[str, Any]]:
        """The columns that a call's options name, and the other options."""
        names = {f.name for f in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        return cls(**own), {name: value for name, value in options.items() if name not in names}

    def without(self, names: Iterable[str]) -> Columns:
        """Those but the files, splits and spans that are read from columns of these names."""
        left_out = {*names}
        kept = {k: None if v in left_out and k not in ("label", "group") else v for k, v in vars(self).items()}
        return Columns(**kept)

    @property
    def of_tables(self) -> dict[str, str]:
        """Those that only a table has: role → column."""
        roles = {"path": self.path, "split": self.split, "start_s": self.start, "end_s": self.end}
        return {role: column for role, column in roles.items() if column is not None}


ANY_COLUMNS = Columns()
# What a caller may say of columns: those that are meant, or role → column.
ColumnsLike: TypeAlias = "Columns | Mapping[str, str] | None"


@dataclass(frozen=True)
class Assigned:
    """What became of a table's columns.

    Attributes:
        roles: role → column. unused: the others. groups: those of the others that look like groups.
        label, group: the label and the group that the caller asked for, or "".
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    label: str = ""
    group: str = ""

    def choosing(self, family: str, name: str) -> Assigned:
        """The same with another label, or another group, that is meant."""
        return replace(self, label=name) if family == "label" else replace(self, group=name)


def assign_roles(
    file: str, header: Sequence[str], cells: Callable[[str], Sequence[Any]], columns: ColumnsLike, *, comma: bool
) -> tuple[Assigned, list[str]]:
    """The roles of a table's columns, and what to tell about them.

    Args:
        file: its name, for messages.
        header: the columns' names. cells: the values of one of them.
        columns: as the caller says.
        comma: whether numbers may be written "1,5".
    Raises: DataError for a column that is missing; UsageError for an unknown role, or a label or group that is no
        column.
    """
    by_lower: dict[str, list[str]] = {}
    for name in header:
        by_lower.setdefault(name.lower(), []).append(name)
    found = {lower: names[0] for lower, names in by_lower.items() if len(names) == 1}
    roles = {name: name for name in header if is_role(name)}
    roles |= {role: name for role, name in found.items() if is_role(role) and role not in roles}
    asked = columns.of_tables if isinstance(columns, Columns) else dict(columns or {})
    for role, own in asked.items():
        _check_choice(file, header, role, own)
        roles[role] = own
    chosen = {"label": "", "group": ""}
    if isinstance(columns, Columns):
        for family, wanted in (("label", columns.label), ("group", columns.group)):
            if wanted is not None:
                chosen[family], column = _any_column(file, header, found, roles, family, wanted)
                asked[column_name(family, chosen[family])] = column
        roles |= asked
    if "path" not in roles and "frames" not in roles:
        roles["path"] = _path_column(file, header, found, cells)
    taken = set(roles.values())
    if "start_s" not in roles and "end_s" not in roles:
        pairs = [(found[a], found[b]) for a, b in SPAN_ALIASES if a in found and b in found]
        for start, end in pairs[:1]:
            if not taken & {start, end} and _holds_seconds(cells(start), comma) and _holds_seconds(cells(end), comma):
                roles |= {"start_s": start, "end_s": end}
    if "split" not in roles:
        close = [found[alias] for alias in SPLIT_ALIASES if alias in found and found[alias] not in taken]
        if close and _holds_splits(cells(close[0])):
            roles["split"] = close[0]
    renamed = [
        f"{c!r} read as {r}" + " in seconds" * (r in ("start_s", "end_s"))
        for r, c in roles.items()
        if c != r and r not in asked
    ]
    told = [f"column{'s' * (len(renamed) > 1)} {shown(', '.join(renamed))}"] if renamed else []
    unused = [n for n in header if n and n not in roles.values() and not n.startswith(("__index_level_", "Unnamed:"))]
    grouped = any(role.partition(".")[0] == "group" for role in roles)
    groups = [] if grouped else [name for name in unused if looks_like_group(name, cells(name))]
    told += _of_unused(unused, groups)
    return Assigned(roles, tuple(unused), tuple(groups), **chosen), told


def _any_column(
    file: str, header: Sequence[str], found: Mapping[str, str], roles: Mapping[str, str], family: str, name: str
) -> tuple[str, str]:
    """A label or a group by its own name or its column's: what it is called, and the column."""
    own = column_name(family, name)
    column = roles.get(own) or (name if name in header else found.get(name.lower()))
    if column is None:
        names = [role.partition(".")[2] or family for role in roles if role.partition(".")[0] == family]
        error = unknown_name(family, name, {*names, *header})
        raise UsageError(f"{file}: {error}")
    role = next((r for r, c in roles.items() if c == column and r.partition(".")[0] == family), None)
    return (role.partition(".")[2] or family if role else column), column


def looks_like_group(name: str, values: Sequence[Any]) -> bool:
    """Whether a column is called as groups are, and holds some: at least two, one of them in several rows."""
    if not _GROUP.fullmatch(re.sub(r"[\s.-]+", "_", name.strip().lower())):
        return False
    counts = Counter(str(value) for value in values if not is_missing(value) and not is_missing_sign(value))
    return 1 < len(counts) < counts.total()


def _check_choice(file: str, header: Sequence[str], role: str, column: str) -> None:
    if not is_role(role):
        close = nearest(role, [*SIMPLE_ROLES, "label", "group"])
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(
            f"columns: unknown role {role!r}; {hint}roles are {', '.join(SIMPLE_ROLES)}, label, label.<name>, "
            "group, group.<name>, file.<name>"
        )
    if column not in header:
        close = nearest(column, header)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(header)}"
        raise DataError(f"{file}: no column {column!r} to be {role!r}; {hint}")


def _path_column(
    file: str, header: Sequence[str], found: Mapping[str, str], cells: Callable[[str], Sequence[Any]]
) -> str:
    close = [found[alias] for alias in PATH_ALIASES if alias in found]
    files = [name for name in close if _holds_files(cells(name))] if len(close) > 1 else []
    for names in (close, files):
        if len(names) == 1:
            return names[0]
    if any(os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES for name in header):
        raise DataError(
            f"{file}:1: the first line must name the columns, and this one names files "
            f"({shown(', '.join(header))[:80]}); put a line such as path,label above it"
        )
    close = close or [name for name in header if _holds_files(cells(name))]
    what = f"could be {' or '.join(map(repr, close))}" if close else f"its columns are {shown(', '.join(header))[:400]}"
    one = (close or list(header) or ["?"])[0]
    raise DataError(
        f"{file}: no column 'path'; {what}. Name the column of files: --path {one} (path={one!r} in Python)"
    )


def _holds_files(values: Sequence[Any]) -> bool:
    names = [value for value in values if isinstance(value, str) and value.strip()][:1000]
    return bool(names) and all(
        os.path.splitext(name.strip())[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES for name in names
    )


def _holds_seconds(values: Sequence[Any], comma: bool) -> bool:
    try:
        seconds = [read_seconds("", value, comma=comma) for value in values]
    except DataError:
        return False
    return any(s is not None for s in seconds)


def _holds_splits(values: Sequence[Any]) -> bool:
    given = [v for v in values if not is_missing(v) and not is_missing_sign(v)]
    return bool(given) and all(isinstance(v, str) and split_role(v) for v in given)


def _of_unused(unused: Sequence[str], groups: Sequence[str]) -> list[str]:
    told = []
    if groups:
        several = len(groups) > 1
        told.append(
            f"column{'s' * several} {shown(', '.join(map(repr, groups)))} look{'s' * (not several)} like "
            f"{'groups' if several else 'a group'}, which must not be on both sides of a split: --group "
            f"{shown(groups[0])} uses {'one' if several else 'it'}"
        )
    others = [name for name in unused if name not in groups]
    if others:
        spans = [n for n in others if any(word in n.lower() for word in _SPAN_WORDS)]
        hint = f"; spans are start_s and end_s, in seconds ({shown(', '.join(spans[:4]))})" if spans else ""
        names = shown(first_few(others, _MAX_SHOWN))
        told.append(f"columns not used: {names} (--label NAME or --group NAME uses one){hint}")
    return told
