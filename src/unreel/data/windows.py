"""Windows: a long video as one row for each stretch of it, and stretches of one video that are one event."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias, TypeVar, cast

from unreel.core.checks import Positive, checked
from unreel.core.errors import UsageError
from unreel.data.index import index
from unreel.data.manifest import Manifest, Source
from unreel.data.row import Row

D = TypeVar("D")
Span: TypeAlias = tuple[float, float | None] | None
"""Start and end in seconds, the end open where None; None for a whole file."""


@checked
def windows(row: Row, window: Positive, every: Positive | None = None) -> list[Row]:
    """A row's windows of ``window`` seconds, in order; one begins every ``every`` seconds, or where the last one ends.

    The last one ends where the row does. So it is up to half of ``every`` longer or shorter than the others. A row
    whose length is not known stays whole.

    Raises: UsageError for a value that is not above 0, or for windows with gaps between them.
    """
    step = window if every is None else every
    if step > window:
        raise UsageError(f"every {step:g} s with windows of {window:g} s: some seconds would be in no window")
    if row.seconds <= 0:
        return [row]
    start = row.start_s or 0.0
    end = start + row.seconds
    last = max(0, int((row.seconds - window) / step + 0.5))
    # To the nanosecond, so that windows that touch have one number for it.
    begins = [start, *(round(start + k * step, 9) for k in range(1, last + 1))]
    return [replace(row, start_s=a, end_s=round(a + window, 9)) for a in begins[:-1]] + [
        replace(row, start_s=begins[-1], end_s=end)
    ]


def windowed(data: D, window: float | None = None, every: float | None = None) -> D | Manifest:
    """The data with the windows of each row in its place, or the data where no ``window`` is asked for.

    Files are probed for their lengths, see ``index``. Images stay whole.

    Raises: UsageError as ``windows``, for ``every`` without ``window``, and for data that are no files; DataError for
        missing ones.
    """
    if window is None:
        if every is not None:
            raise UsageError("every says how often a window begins: give the seconds of a window too")
        return data
    windows(Row("-"), window, every)  # refused before any file is opened
    manifest = Manifest.open(cast(Source, data))  # which refuses what has no files
    manifest.check_files()
    if manifest.only_images:
        return manifest
    return replace(manifest, rows=tuple(w for row in index(manifest).manifest for w in windows(row, window, every)))


def apart(ranked: Iterable[tuple[str, Span]], most: int, *, taken: Iterable[tuple[str, Span]] = ()) -> list[int]:
    """Places in ``ranked``, at most ``most``: those that share no time with a better one of the same file.

    Args:
        ranked: paths and spans, the best first. A whole file has all time.
        taken: what is better than all.
    """
    kept: dict[str, list[tuple[float, float]]] = {}
    for path, span in taken:
        kept.setdefault(path, []).append(_times(span))
    found: list[int] = []
    for place, (path, span) in enumerate(ranked):
        if len(found) == most:
            break
        start, end = _times(span)
        if all(end <= a or b <= start for a, b in kept.get(path, ())):
            kept.setdefault(path, []).append((start, end))
            found.append(place)
    return found


def _times(span: Span) -> tuple[float, float]:
    start, end = (0.0, None) if span is None else span
    return start, math.inf if end is None else end
