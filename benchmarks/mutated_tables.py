"""Is every damaged table read as it stands, or refused by name and line?

A CSV and a Parquet table of twelve pictures are damaged at random: bytes flipped, inserted and zeroed, cut off, columns
dropped, swapped and given other types, quotes opened, cells made huge, other encodings, delimiters and line ends. Each
is opened in a process of its own kind, so that a crash or a hang costs one table. What comes back is set beside a plain
reading by ``csv`` or ``pyarrow``.

    python benchmarks/mutated_tables.py --count 500 --out mutated_tables.json

Outcomes: ``right`` (the manifest says what the table says), ``refused`` (a DataError that names the file; those that
also name a line are counted again as ``refused with line``); and what must not be: ``wrong``, ``unnamed``, ``untyped``,
``crash``, ``hang``. The exit code is 1 where any of these is.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import multiprocessing
import re
import tempfile
import unicodedata
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unreel.core.errors import DataError
from unreel.data.manifest import Manifest

NAMES = ("path", "label", "group", "split", "start_s", "end_s")
BAD = ("wrong", "unnamed", "untyped", "crash", "hang")
ROWS: dict[str, list[Any]] = {
    "path": [f"{i}.png" for i in range(11)] + ["a, b.png"],
    "label": ["wave", "Öffnen", "手洗い", 'say "hi"', "run", "run", "NA", "", "two\nlines", "wave", "x;y", " run "],
    "group": [f"p{i // 3}" for i in range(12)],
    "split": ["train"] * 8 + ["Test"] * 4,
    "start_s": [0.5 * i for i in range(11)] + [None],
    "end_s": [0.5 * i + 2 for i in range(11)] + [None],
    "age": list(range(12)),
}
CELLS = [
    "",
    " ",
    "abc",
    "-1",
    "1e400",
    "nan",
    "inf",
    "None",
    "[",
    "é",
    "1,5",
    "x" * 200_000,
    '"',
    "\x00",
    "\x1b$B",
    "🎈",
]
CSV_KINDS = (
    "flip",
    "insert",
    "zero",
    "cut",
    "drop",
    "swap",
    "cell",
    "quote",
    "encoding",
    "delimiter",
    "ends",
    "ragged",
)
PARQUET_KINDS = ("flip", "insert", "zero", "cut", "drop", "swap", "type", "rename")


def tables(folder: Path) -> None:
    """The pictures that the tables name; empty files, as nothing here is decoded."""
    for name in ROWS["path"]:
        (folder / name).write_bytes(b"")


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
        encodings = [
            "utf-16",
            "utf-16-le",
            "utf-16-be",
            "utf-32",
            "cp1252",
            "shift-jis",
            "utf-8-sig",
            "gb18030",
            "utf-7",
        ]
        return kind, text.encode(str(rng.choice(encodings)), "replace")
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


def judge(path: Path) -> tuple[str, str]:
    """The outcome of opening a table, and what was said."""
    try:
        manifest = Manifest.open(path)
    except DataError as error:
        said = str(error)
        return ("refused" if path.name in said else "unnamed"), said
    except Exception as error:  # whatever else it is, is a finding
        return "untyped", f"{type(error).__name__}: {error}"
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
        return "wrong", f"read although a plain reading fails: {type(error).__name__}: {error}"
    return ("right", "") if own in plain else ("wrong", f"{own} is none of {plain}"[:2000])


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def run(count: int, seed: int, timeout_s: float) -> list[dict[str, str]]:
    """Outcomes of ``count`` tables, CSV and Parquet in turn."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables(folder)
        pool = _pool()
        for number in range(count):
            suffix, make = (".csv", mutated_csv) if number % 2 == 0 else (".parquet", mutated_parquet)
            kind, data = make(number // 2, seed)
            path = folder / f"t{suffix}"
            path.write_bytes(data)
            try:
                outcome, said = pool.submit(judge, path).result(timeout_s)
            except (BrokenProcessPool, TimeoutError) as error:
                outcome, said = ("hang" if isinstance(error, TimeoutError) else "crash"), ""
                for process in (pool._processes or {}).values():
                    process.kill()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool()
            found.append({"table": f"{number // 2}{suffix}", "kind": kind, "outcome": outcome, "said": said})
        pool.shutdown()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = run(options.count, options.seed, options.timeout)
    counts = Counter(one["outcome"] for one in found)
    placed = re.compile(r"t\.csv:\d+|t\.parquet, row \d+|first in t")
    counts["refused with line"] = sum(one["outcome"] == "refused" and bool(placed.search(one["said"])) for one in found)
    by_kind = Counter(f"{one['table'].rpartition('.')[2]} {one['kind']}: {one['outcome']}" for one in found)
    result = {
        "count": options.count,
        "seed": options.seed,
        "outcomes": counts,
        "by_kind": dict(sorted(by_kind.items())),
    }
    for one in found:
        if one["outcome"] in BAD:
            print(f"{one['table']} ({one['kind']}): {one['outcome']}: {one['said'][:600]}")
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps({**result, "tables": found}, indent=1) + "\n", encoding="utf-8")
    return int(any(counts[name] for name in BAD))


if __name__ == "__main__":
    raise SystemExit(main())
