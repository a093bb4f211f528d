"""Which column of a table plays which role: by its name, by a usual other name, or as the caller says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unreel.core.errors import DataError, UsageError, nearest
from unreel.core.text import first_few, shown
from unreel.data.cells import is_missing, is_missing_sign, read_seconds
from unreel.data.row import SIMPLE_ROLES, is_role
from unreel.data.split_names import split_role
from unreel.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# Other people's names for ``path``; taken, with a notice, where exactly one of them is there and ``path`` is not.
PATH_ALIASES = ("clip", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path")
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

_SPAN_WORDS = ("start", "end", "begin", "stop", "onset", "offset")
_MAX_SHOWN = 12


def assign_roles(
    file: str, header: Sequence[str], cells: Callable[[str], Sequence[Any]], columns: Mapping[str, str], *, comma: bool
) -> tuple[dict[str, str], list[str]]:
    """Role → column, and what to tell about it.

    Args:
        file: its name, for messages.
        header: the columns' names. cells: the values of one of them.
        columns: role → column, as the caller says.
        comma: whether numbers may be written "1,5".
    Raises: DataError for a column that is missing; UsageError for an unknown role.
    """
    by_lower: dict[str, list[str]] = {}
    for name in header:
        by_lower.setdefault(name.lower(), []).append(name)
    found = {lower: names[0] for lower, names in by_lower.items() if len(names) == 1}
    roles = {name: name for name in header if is_role(name)}
    roles |= {role: name for role, name in found.items() if is_role(role) and role not in roles}
    for role, column in columns.items():
        _check_choice(file, header, role, column)
        roles[role] = column
    if "path" not in roles and "frames" not in roles:
        roles["path"] = _path_column(file, header, found)
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
        if c != r and r not in columns
    ]
    told = [f"column{'s' * (len(renamed) > 1)} {shown(', '.join(renamed))}"] if renamed else []
    return roles, told + _unused(header, roles)


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


def _path_column(file: str, header: Sequence[str], found: Mapping[str, str]) -> str:
    close = [found[alias] for alias in PATH_ALIASES if alias in found]
    if len(close) == 1:
        return close[0]
    if any(os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES for name in header):
        raise DataError(
            f"{file}:1: the first line must name the columns, and this one names files "
            f"({shown(', '.join(header))[:80]}); put a line such as path,label above it"
        )
    what = f"could be {' or '.join(map(repr, close))}" if close else f"its columns are {shown(', '.join(header))[:400]}"
    one = (close or list(header) or ["?"])[0]
    raise DataError(
        f"{file}: no column 'path'; {what}. Call the column of files path (in Python also columns={{'path': {one!r}}})"
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


def _unused(header: Sequence[str], roles: Mapping[str, str]) -> list[str]:
    unused = [n for n in header if n and n not in roles.values() and not n.startswith(("__index_level_", "Unnamed:"))]
    if not unused:
        return []
    names = shown(first_few(unused, _MAX_SHOWN))
    spans = [n for n in unused if any(word in n.lower() for word in _SPAN_WORDS)]
    hint = f"; spans are start_s and end_s, in seconds ({shown(', '.join(spans[:4]))})" if spans else ""
    return [
        f"columns not used: {names} (to use one, call it label.{shown(unused[0])} or group.{shown(unused[0])}){hint}"
    ]
