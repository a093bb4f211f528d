"""Kinetics (Kay et al. 2017 and later): ten-second clips of internet videos, listed in one table per split."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from pathlib import Path

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing
from unreel.data.split_names import split_role
from unreel.data.text import read_text

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def kinetics(root: str | os.PathLike[str], *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """A folder that holds the videos and the annotation tables of Kinetics-400, -600 or -700, wherever below it.

    Expected: tables (.csv) with the columns ``label, youtube_id, time_start, time_end, split``, and videos named
    ``<youtube_id>_<start>_<end>.mp4`` with six digits per second ("-3B32lodo2M_000059_000069.mp4"), in one folder, in
    one per class, or in one per split; other suffixes are taken too. Of a name that is there more than once, the file
    below a folder named like the split is taken. Labels are the table's, whatever the folders are called. Rows without
    a label, as in some test tables, come along without one.

    Kinetics-400 lists about 240,000 train and 20,000 val videos of 400 classes; many are no longer to be had, so
    ``missing="skip"`` is the usual choice. There is no ``group``: each clip comes from a video of its own.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
    Raises: UsageError for another split; DataError for missing tables or videos, or a malformed row.

    >>> from unreel.data.layouts import kinetics
    >>> manifest, missing = kinetics("kinetics400", missing="skip")  # doctest: +SKIP
    """
    common.check_split_number(split_number, 1, "Kinetics")
    home = common.existing_folder(root)
    places: dict[str, list[str]] = defaultdict(list)
    for stem, file in common.MediaFiles(home).by_stem.items():
        places[stem.rpartition("/")[2]].append(file)
    entries: dict[tuple[str, str], Entry] = {}
    tables = 0
    for path in sorted(home.rglob("*.csv")):
        rows = _rows(path)
        tables += rows is not None
        for where, label, name, split in rows or ():
            earlier = entries.get((name, split))
            if earlier is not None and earlier.label != label:
                raise DataError(f"{where}: {name} is {label!r} here and {earlier.label!r} in a row before")
            entries[name, split] = Entry(f"{name}.mp4", _choose(places.get(name, []), split), split, label)
    if not tables:
        raise DataError(f"{home}: found no table with the columns {', '.join(_COLUMNS)} here or below")
    if not entries:
        raise DataError(f"{home}: the annotation tables have headers but no rows")
    return common.assemble("Kinetics", home, home, list(entries.values()), missing=missing)


def _choose(files: list[str], split: str) -> str | None:
    """The file of a name: one below a folder named like its split before any other."""
    inside = [f for f in files if any(split_role(part) == split for part in f.split("/")[:-1])]
    return next(iter([*inside, *files]), None)


def _rows(path: Path) -> list[tuple[str, str, str, str]] | None:
    """(where, label, name, split) of each row; ``None`` for a table that is not an annotation."""
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = [name.strip() for name in reader.fieldnames or ()]
    if not set(_COLUMNS) - {"label"} <= set(header):
        return None
    reader.fieldnames = header
    rows = []
    for cells in reader:
        where = f"{path.name}:{reader.line_num}"
        split = split_role(cells["split"] or "")
        if not split:
            raise DataError(f"{where}: expected split train, val or test, found {cells['split']!r}")
        try:
            start, end = (round(float(cells[name])) for name in ("time_start", "time_end"))
        except (TypeError, ValueError):
            raise DataError(
                f"{where}: expected seconds, found time_start {cells['time_start']!r}, time_end {cells['time_end']!r}"
            ) from None
        name = f"{(cells['youtube_id'] or '').strip()}_{start:06d}_{end:06d}"
        rows.append((where, (cells.get("label") or "").strip(), name, split))
    return rows
