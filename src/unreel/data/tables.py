"""Tables of sources in files: reading and writing CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unreel.core.errors import DataError
from unreel.core.files import replacing, write_whole
from unreel.core.text import is_utf8, shown
from unreel.core.words import counted
from unreel.data import text as texts
from unreel.data.cells import (
    DOUBTFUL,
    is_missing,
    is_missing_sign,
    literal,
    read_fact,
    read_name,
    read_names,
    read_seconds,
    read_text,
)
from unreel.data.columns import Assigned, ColumnsLike, assign_roles
from unreel.data.row import FACTS, SIMPLE_ROLES, Row, column_name
from unreel.media import VideoInfo

PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", *PARQUET_SUFFIXES)

_FACTS_NEEDED = frozenset(("width", "height", "num_frames", "duration_s", "fps", "codec"))
_MAX_CELL = 1 << 24


class Table(NamedTuple):
    """A table's rows, what reading found worth telling, and what became of its columns."""

    rows: list[Row]
    notices: list[str]
    columns: Assigned


class _Columns(NamedTuple):
    """A table as read: its columns' names, the line of every row, and a column's cells by its name."""

    file: Path
    header: list[str]
    lines: Sequence[int]
    cells: Callable[[str], Sequence[Any]]
    comma: bool = False


def read_csv(path: str | os.PathLike[str], columns: ColumnsLike = None) -> Table:
    """The rows of a CSV file and what to tell; see ``Manifest.from_csv``."""
    return _read(_csv(Path(path)), columns)


def read_parquet(path: str | os.PathLike[str], columns: ColumnsLike = None) -> Table:
    """The rows of a Parquet file and what to tell; see ``Manifest.from_csv``."""
    return _read(_parquet(Path(path)), columns)


def table_of(source: object) -> Path | None:
    """The table that a source is read from: a file, or the manifest in a folder; ``None`` where it is none."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    if path.is_dir():
        return next((path / name for name in ("manifest.parquet", "manifest.csv") if (path / name).is_file()), None)
    return path if path.suffix.lower() in TABLE_SUFFIXES else None


def header_of(source: object) -> list[str]:
    """The names of the columns of the table that a source is read from; none where it is no table that can be read."""
    table = table_of(source)
    try:
        return [] if table is None else (_parquet if is_parquet(table) else _csv)(table).header
    except DataError:
        return []


def is_parquet(path: Path) -> bool:
    """Whether a table is read as Parquet, by its name."""
    return path.suffix.lower() in PARQUET_SUFFIXES


def read_columns(path: str | os.PathLike[str], names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Columns of a table as text: column → line → value, "" where it is missing. Lists and structs are left out."""
    file = Path(path)
    table = _parquet(file) if is_parquet(file) else _csv(file)
    found = {}
    for name in names:
        values = ("" if is_missing(cell) or is_missing_sign(cell) else cell for cell in table.cells(name))
        try:
            plain = [read_text(name, value).strip() for value in values]
        except DataError:
            continue
        found[name] = dict(zip(table.lines, plain, strict=True))
    return found


def _csv(file: Path) -> _Columns:
    text = texts.read_text(file)
    if not text.strip():
        raise DataError(f"{file}: the table is empty; its first line must name the columns")
    first_line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    declared = re.fullmatch(r"sep=([,;\t|:])", first_line.strip(), re.IGNORECASE)  # Excel's own first line
    delimiter = declared[1] if declared else max(",;\t|", key=first_line.count)
    header: list[str] = []
    lines: list[int] = []
    rows: list[list[str]] = []
    limit = csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last = 0
    try:
        for cells in reader:
            last, began = reader.line_num, last + 1
            if not any(cells) or (declared and not header and cells[0].strip().lower() == "sep="):
                continue
            if not header:
                header = [c.strip() for c in cells]
                continue
            if len(cells) != len(header):
                what = "a comma in the path? quote it" if len(cells) > len(header) else "a value left out?"
                raise DataError(
                    f"{file.name}:{began}: expected {counted(len(header), 'field')}, found {len(cells)} ({what})"
                )
            lines.append(began)
            rows.append(cells)
    except csv.Error as error:
        what = {
            "unexpected end of data": "a quote that opens here is never closed",
            f"'{delimiter}' expected after '\"'": 'a cell goes on after its closing quote; write "" for a quote inside',
        }.get(str(error), str(error))
        raise DataError(f"{file.name}:{last + 1}: {what}") from None
    finally:
        csv.field_size_limit(limit)
    by_name = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows and len({*header}) == len(header) else {}
    return _Columns(file, header, lines, by_name.__getitem__, comma=delimiter != ",")


def _parquet(file: Path) -> _Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    failures = (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError, KeyError)
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read()
        table.validate(full=True)
        header = list(table.column_names)
    except failures as error:
        raise DataError(f"{file}: not a readable Parquet file ({_first_line(error)})") from None

    def cells(name: str) -> list[Any]:
        try:
            return list(table.column(name).to_pylist())
        except failures as error:
            raise DataError(f"{file}: the column {name!r} cannot be read ({_first_line(error)})") from None

    return _Columns(file, header, range(1, len(table) + 1), cells)


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
    arrays = {column: _arrow_array(pa, column, [record.get(column) for record in records]) for column in columns}
    with replacing(target) as partial:
        pq.write_table(pa.table(arrays), partial, write_page_checksum=True)
    return target


def place_in_table(table: str | os.PathLike[str], line: int) -> str:
    """A row's place, for messages: "train.csv:17", or "train.parquet, row 16", where the first row is 0."""
    file = Path(table)
    return f"{file.name}:{line}" if file.suffix.lower() not in PARQUET_SUFFIXES else f"{file.name}, row {line - 1}"


def relative_path(path: str, root: str) -> str:
    """``path`` as seen from ``root``, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _read(table: _Columns, columns: ColumnsLike) -> Table:
    name = table.file.name
    repeated = [column for column, count in Counter(table.header).items() if count > 1]
    if repeated:
        raise DataError(f"{name}: column {shown(repeated[0])!r} is there twice")
    if not table.lines:
        raise DataError(f"{name}: the table has a header but no rows")
    assigned, notices = assign_roles(name, table.header, table.cells, columns, comma=table.comma)
    roles = assigned.roles
    cells = {role: table.cells(column) for role, column in roles.items()}
    notices += _clean(cells, roles)
    rows: list[Row] = []
    for i, line in enumerate(table.lines):
        try:
            rows.append(_row({role: values[i] for role, values in cells.items()}, roles, line, table.comma))
        except DataError as error:
            raise DataError(f"{place_in_table(table.file, line)}: {error}") from None
    return Table(rows, notices, assigned)


def _clean(cells: dict[str, Sequence[Any]], roles: Mapping[str, str]) -> list[str]:
    """Empty the cells that say that a value is missing, and tell it; count stray spaces and doubtful signs."""
    notices: list[str] = []
    stripped = 0
    for role, values in cells.items():
        family = role.partition(".")[0]
        if role in ("path", "frames"):
            continue
        signs = Counter(value.strip() for value in values if is_missing_sign(value))
        if signs:
            cells[role] = [None if is_missing_sign(value) else value for value in values]
            notices.append(f"{shown(roles[role])}: {_counted(signs)} read as missing, as an empty cell is")
        if family in ("label", "group"):
            given = [value for value in values if isinstance(value, str) and not is_missing_sign(value)]
            stripped += sum(value != value.strip() for value in given)
            doubtful = Counter(value.strip() for value in given if value.strip() in DOUBTFUL)
            if doubtful:
                what = "a class" if family == "label" else "a group"
                advice = "leave the cells empty where the value is missing"
                notices.append(f"{shown(roles[role])}: {_counted(doubtful)} read as {what}; {advice}")
    if stripped:
        notices.append(f"{stripped} labels or groups stripped of stray spaces")
    return notices


def _counted(signs: Counter[str]) -> str:
    return ", ".join(f"{sign!r} in {count} row{'s' * (count > 1)}" for sign, count in signs.most_common(5))


def _row(values: Mapping[str, Any], roles: Mapping[str, str], line: int, comma: bool) -> Row:
    families: dict[str, dict[str, str]] = {"label": {}, "group": {}, "file": {}}
    facts: dict[str, Any] = {}
    for role, value in values.items():
        family, _, key = role.partition(".")
        if role in SIMPLE_ROLES or is_missing(value):
            continue
        if family == "fact":
            facts[key] = read_fact(key, value)
        else:
            read = read_name if family == "file" else read_text
            families[family][key or family] = read(roles[role], value)
    split = values.get("split")
    spans = {
        role: read_seconds(roles[role], values[role], comma=comma) for role in ("start_s", "end_s") if role in values
    }
    return Row(
        path=read_name("path", values.get("path")),
        **spans,
        frames=read_names(values.get("frames")),
        split="" if is_missing(split) else read_text(roles["split"], split),
        labels=families["label"],
        groups=families["group"],
        files=families["file"],
        facts=VideoInfo(**facts) if facts.keys() >= _FACTS_NEEDED else None,
        line=line,
    )


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
            record["split"] = literal(row.split)
        record |= {column_name("label", k): literal(v) for k, v in row.labels.items()}
        record |= {column_name("group", k): literal(v) for k, v in row.groups.items()}
        record |= {f"file.{k}": literal(place(v)) for k, v in row.files.items()}
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


def _arrow_array(pa: Any, column: str, values: list[Any]) -> Any:
    """A column of the type that its role has; names that are no UTF-8 make it one of bytes."""
    if column in ("start_s", "end_s"):
        return pa.array(values, pa.float64())
    if column.startswith("fact."):
        kind = FACTS[column.removeprefix("fact.")]
        return pa.array(
            values, {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}[kind]
        )
    names = [value for cell in values if cell for value in (cell if isinstance(cell, list) else [cell])]
    if all(map(is_utf8, names)):
        kind = pa.string()
    else:
        kind = pa.binary()
        values = [[os.fsencode(v) for v in c] if isinstance(c, list) else c and os.fsencode(c) for c in values]
    return pa.array(values, pa.list_(kind) if column == "frames" else kind)
