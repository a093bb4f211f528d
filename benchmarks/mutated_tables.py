"""Is every damaged table read as it stands, or refused by name and line?

A CSV and a Parquet table of twelve pictures are damaged at random: bytes flipped, inserted and zeroed, cut off, columns
dropped, swapped and given other types, quotes opened, cells made huge, other encodings, delimiters and line ends. What
comes back is set beside a plain reading by ``csv`` or ``pyarrow``.

    python benchmarks/mutated_tables.py --count 500 --out mutated_tables.json

Outcomes: ``right`` (the manifest says what the table says), ``refused`` (a DataError that names the file), ``refused
with line`` (one that names a line, too); and the faults ``WRONG``, ``UNNAMED``, ``UNTYPED``, ``CRASH``, ``HANG``.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutants import Kind, Mutant, main

from unreel.core.errors import DataError
from unreel.data.manifest import Manifest

NAMES = ("path", "label", "group", "split", "start_s", "end_s")
ROWS: dict[str, list[Any]] = {
    "path": [f"{i}.png" for i in range(11)] + ["a, b.png"],
    "label": ["wave", "Öffnen", "手洗い", 'say "hi"', "run", "run", "NA", "", "two\nlines", "wave", "x;y", " run "],
    "group": [f"p{i // 3}" for i in range(12)],
    "split": ["train"] * 8 + ["Test"] * 4,
    "start_s": [0.5 * i for i in range(11)] + [None],
    "end_s": [0.5 * i + 2 for i in range(11)] + [None],
    "age": list(range(12)),
}
CELLS = ["", " ", *"abc -1 1e400 nan inf None [ é 1,5".split(), "x" * 200_000, '"', "\x00", "\x1b$B", "🎈"]  # noqa: SIM905
CSV_KINDS = "flip insert zero cut drop swap cell quote encoding delimiter ends ragged".split()  # noqa: SIM905
PARQUET_KINDS = "flip insert zero cut drop swap type rename".split()  # noqa: SIM905
ENCODINGS = "utf-16 utf-16-le utf-16-be utf-32 cp1252 shift-jis utf-8-sig gb18030 utf-7".split()  # noqa: SIM905


def make(folder: Path) -> list[Path]:
    """The pictures that the tables name; empty files, as nothing here is decoded."""
    for name in ROWS["path"]:
        (folder / name).write_bytes(b"")
    return []


def _csv(columns: dict[str, list[Any]], delimiter: str = ",", newline: str = "\n") -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=newline)
    writer.writerow(columns)
    writer.writerows(zip(*(["" if v is None else v for v in values] for values in columns.values()), strict=True))
    return stream.getvalue()


def _damaged(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    content = bytearray(data)
    at = int(rng.integers(len(content)))
    if kind == "flip":
        for place in rng.integers(len(content), size=int(rng.integers(1, 9))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == "insert":
        content[at:at] = rng.integers(256, size=int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
    elif kind == "zero":
        content[at : at + 16] = bytes(16)
    else:
        del content[at:]
    return bytes(content)


def mutated_csv(number: int, seed: int = 0) -> tuple[str, bytes]:
    """The kind and the bytes of damaged CSV table ``number``."""
    rng = np.random.default_rng([seed, number, 0])
    kind = CSV_KINDS[number % len(CSV_KINDS)]
    columns = {name: list(values) for name, values in ROWS.items()}
    one, other = (str(n) for n in rng.choice(list(columns), 2, replace=False))
    if kind == "drop":
        del columns[one]
    elif kind == "swap":
        columns[one], columns[other] = columns[other], columns[one]
    elif kind == "cell":
        columns[one][int(rng.integers(12))] = str(rng.choice(CELLS))
    text = _csv(columns)
    if kind == "delimiter":
        return kind, _csv(columns, str(rng.choice([";", "\t", "|", ":"]))).encode()
    if kind == "ends":
        return kind, _csv(columns, newline=str(rng.choice(["\r\n", "\r", "\n\n"]))).encode()
    if kind == "encoding":
        return kind, text.encode(str(rng.choice(ENCODINGS)), "replace")
    if kind in ("quote", "ragged"):
        at = int(rng.integers(len(text)))
        return kind, (text[:at] + ('"' if kind == "quote" else ",") + text[at:]).encode()
    return kind, text.encode() if kind in ("drop", "swap", "cell") else _damaged(text.encode(), kind, rng)


def mutated_parquet(number: int, seed: int = 0) -> tuple[str, bytes]:
    """The kind and the bytes of damaged Parquet table ``number``; half of them have checksums, as ours have."""
    rng = np.random.default_rng([seed, number, 1])
    kind = PARQUET_KINDS[number % len(PARQUET_KINDS)]
    columns = {name: pa.array(values) for name, values in ROWS.items()}
    one, other = (str(n) for n in rng.choice(list(columns), 2, replace=False))
    if kind == "drop":
        del columns[one]
    elif kind == "swap":
        columns[one], columns[other] = columns[other], columns[one]
    elif kind == "rename":
        columns = {(other if name == one else name.title()): array for name, array in columns.items()}
    elif kind == "type":
        typed: list[Any] = [
            *([math.nan] * 12, [1.0] * 11 + [None], [True, None] * 6, [b"\xe4"] * 12, [["a"]] * 12, [{"a": 1}] * 12),
            *(
                [None] * 12,
                [2**60] * 12,
                pa.array([0] * 12, pa.timestamp("ns")),
                pa.array(["x"] * 12).dictionary_encode(),
            ),
        ]
        columns[one] = pa.array(typed[int(rng.integers(len(typed)))])
    stream = io.BytesIO()
    pq.write_table(pa.table(list(columns.values()), names=list(columns)), stream, write_page_checksum=bool(number % 2))
    data = stream.getvalue()
    return kind, _damaged(data, kind, rng) if kind in ("flip", "insert", "zero", "cut") else data


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    plain = str(value).strip()
    missing = plain.lower() in ("nan", "+nan", "-nan") or plain in ("None", "NA")
    return "" if missing else unicodedata.normalize("NFC", plain)


def _seconds(value: Any) -> float | None:
    text = _text(value)
    return float(text.replace(",", ".")) if text else None


def _plain_rows(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a table says, read without this library; raises where a cell cannot be what its column is."""
    rows = []
    for record in records:
        cells = {str(k).strip().lower(): v for k, v in record.items()}
        cells |= {k.strip(): v for k, v in record.items() if k.strip() in NAMES}  # an exact name is preferred
        path = cells.get("path", "")
        texts = [
            path if isinstance(path, str) else _text(path),
            *(_text(cells.get(n)) for n in ("label", "group", "split")),
        ]
        rows.append((*texts, *(_seconds(cells.get(n)) for n in ("start_s", "end_s"))))
    return rows


def _plain_csv(data: bytes) -> list[list[tuple[Any, ...]]]:
    readings = []
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        for delimiter in ",;\t|":
            try:
                # Bytes that are no UTF-8 may stand in columns that are not used.
                text = data.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
                lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
                full = [cells for cells in lines if any(cells)]
                readings.append(_plain_rows([dict(zip(full[0], cells, strict=True)) for cells in full[1:]]))
            except (ValueError, csv.Error, IndexError):
                continue
    return readings


def judge(path: Path) -> str:
    """The outcome of opening a table."""
    try:
        manifest = Manifest.open(path)
    except DataError as error:
        said = str(error)
        if path.name not in said:
            return f"UNNAMED: {said}"
        placed = re.search(re.escape(path.name) + r"(:\d+|, row \d+)|first in ", said)
        return "refused with line" if placed else "refused"
    own = [
        (row.path, row.labels.get("label", ""), row.groups.get("group", ""), row.split, row.start_s, row.end_s)
        for row in manifest
    ]
    csv.field_size_limit(1 << 24)
    try:
        plain = (
            _plain_csv(path.read_bytes()) if path.suffix == ".csv" else [_plain_rows(pq.read_table(path).to_pylist())]
        )
    except Exception as error:
        return f"WRONG: read although a plain reading fails: {type(error).__name__}: {error}"
    return "right" if own in plain else f"WRONG: {own} is none of {plain}"[:2000]


def mutant(_: list[Path], number: int, seed: int) -> Mutant:
    """Damaged table ``number``, CSV and Parquet in turn."""
    suffix, damage = (".csv", mutated_csv) if number % 2 == 0 else (".parquet", mutated_parquet)
    way, data = damage(number // 2, seed)
    return Mutant(suffix, way, f"t{suffix}", data)


KIND = Kind(make, mutant, judge)

if __name__ == "__main__":
    raise SystemExit(main(KIND, __doc__))
