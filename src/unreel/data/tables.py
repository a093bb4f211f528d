"""Tables of sources in files: reading and writing CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from unreel.core.errors import DataError, UsageError, nearest
from unreel.core.files import replacing, write_whole
from unreel.data.row import FACTS, SIMPLE_ROLES, Row, column_name, is_role
from unreel.media import VideoInfo

# Rows, and what reading found worth telling.
Table: TypeAlias = tuple[list[Row], list[str]]

PARQUET_SUFFIXES = (".parquet", ".pq")
# Other people's names for ``path``; taken, with a notice, where exactly one of them is there and ``path`` is not.
PATH_ALIASES = ("clip", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path")


def read_csv(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> Table:
    """The rows of a CSV file and what to tell; see ``Manifest.from_csv``."""
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
    lines: list[tuple[int, Mapping[str, Any]]] = []
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
            lines.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{file.name}:{reader.line_num}: {error}") from None
    return _rows(file, header or [], lines, columns or {})


def read_parquet(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> Table:
    """The rows of a Parquet file and what to tell; see ``Manifest.from_csv``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None
    lines = list(enumerate(table.to_pylist(), 1))
    return _rows(file, list(table.column_names), lines, columns or {})


def write_csv(rows: Sequence[Row], root: str, path: str | os.PathLike[str]) -> Path:
    """Write rows whose paths are relative to ``root``; see ``Manifest.to_csv``."""
    target = Path(path)
    columns, records = _records(rows, root, target.parent)
    lines = [",".join(map(_quoted, columns))]
    lines += [",".join(_quoted(_cell(record.get(c))) for c in columns) or '""' for record in records]
    write_whole(target, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    return target


def write_parquet(rows: Sequence[Row], root: str, path: str | os.PathLike[str]) -> Path:
    """Write rows whose paths are relative to ``root``; see ``Manifest.to_parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(path)
    columns, records = _records(rows, root, target.parent)
    schema = pa.schema([(c, _arrow_type(pa, c)) for c in columns])
    with replacing(target) as partial:
        pq.write_table(pa.Table.from_pylist([dict(r) for r in records], schema=schema), partial)
    return target


def place_in_table(table: str | os.PathLike[str], line: int) -> str:
    """A row's place, for messages: "train.csv:17", or "train.parquet, row 16", where the first row is 0."""
    file = Path(table)
    return f"{file.name}:{line}" if file.suffix.lower() not in PARQUET_SUFFIXES else f"{file.name}, row {line - 1}"


def relative_path(path: str, root: str) -> str:
    """``path`` as seen from ``root``, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def _text(file: Path) -> str:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        return stream.read()


def _rows(
    file: Path, header: list[str], lines: Iterable[tuple[int, Mapping[str, Any]]], columns: Mapping[str, str]
) -> Table:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"{file.name}: column {repeated[0]!r} is there twice")
    roles, notices = _roles(file.name, header, columns)
    rows: list[Row] = []
    stripped = 0
    for line, cells in lines:
        values = {role: cells[column] for role, column in roles.items()}
        stripped += sum(
            isinstance(v, str) and v != v.strip() for r, v in values.items() if r.split(".")[0] in ("label", "group")
        )
        try:
            rows.append(_row(values, line))
        except (DataError, ValueError) as error:
            raise DataError(f"{place_in_table(file, line)}: {error}") from None
    if not rows:
        raise DataError(f"{file.name}: the table has a header but no rows")
    if stripped:
        notices.append(f"{stripped} labels or groups stripped of stray spaces")
    return rows, notices


def _roles(file: str, header: list[str], columns: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Which column plays which role, and what to tell about it."""
    notices: list[str] = []
    roles = {name: name for name in header if is_role(name)}
    for role, column in columns.items():
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


def _row(values: Mapping[str, Any], line: int) -> Row:
    families: dict[str, dict[str, str]] = {"label": {}, "group": {}, "file": {}}
    facts: dict[str, Any] = {}
    for role, value in values.items():
        family, _, key = role.partition(".")
        if value is None or value == "" or role in SIMPLE_ROLES:
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
        line=line,
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
    kind = FACTS[name]
    if kind == "bool":
        return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1")
    return {"int": int, "float": float, "str": str}[kind](value)


def _records(rows: Sequence[Row], root: str, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names in their fixed order, and one dict per row without the absent values."""
    home = os.path.abspath(folder)
    moved = home != root

    def place(path: str) -> str:
        if not path or not moved or os.path.isabs(path):
            return path
        full = os.path.join(root, path)
        if os.path.dirname(os.path.commonpath([full, home])) == os.path.commonpath([full, home]):
            return full  # nothing but the file system's root in common: a relative path would say no more
        return relative_path(full, home)

    records: list[dict[str, Any]] = []
    for row in rows:
        record: dict[str, Any] = {"path": place(row.path)}
        record |= {k: v for k in ("start_s", "end_s") if (v := getattr(row, k)) is not None}
        if row.frames:
            record["frames"] = [place(f) for f in row.frames]
        if row.split:
            record["split"] = row.split
        record |= {column_name("label", k): v for k, v in row.labels.items()}
        record |= {column_name("group", k): v for k, v in row.groups.items()}
        record |= {f"file.{k}": place(v) for k, v in row.files.items()}
        if row.facts is not None:
            record |= {f"fact.{k}": getattr(row.facts, k) for k in FACTS}
        records.append(record)
    used = {"path"}.union(*(r.keys() for r in records)) if records else {"path"}
    order = {name: i for i, name in enumerate((*SIMPLE_ROLES, "label", "label.", "group", "group.", "file.", "fact."))}
    fact_order = {f"fact.{name}": i for i, name in enumerate(FACTS)}

    def rank(name: str) -> tuple[int, int, str]:
        family = name.partition(".")[0]
        return order.get(name, order.get(f"{family}.", 99)), fact_order.get(name, 0), name

    return sorted(used, key=rank), records


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
        kind = FACTS[column.removeprefix("fact.")]
        return {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}[kind]
    return pa.string()
