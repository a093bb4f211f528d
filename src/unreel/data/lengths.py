"""Rows that are too short for a sampler are known, and left out, before a run starts."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from unreel.core.progress import Progress
from unreel.core.words import plural
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.rows import RowReader
from unreel.media import MediaError, TooShortError


class LongEnough(NamedTuple):
    """The rows with enough frames, with their probed facts, and how many others there were."""

    manifest: Manifest
    short: int


def long_enough(manifest: Manifest, min_frames: int, *, workers: int = 2) -> LongEnough:
    """Leave out the rows whose span has fewer than ``min_frames`` frames; nothing is decoded.

    Rows that cannot be probed stay: their faults are met, replaced and listed in training.

    Args:
        manifest: the rows; with ``min_frames`` 1 it comes back as it is, unprobed.
        min_frames: such as ``data.contracts.min_frames(sampler)``.
        workers: files probed at a time.
    """
    if min_frames <= 1:
        return LongEnough(manifest, 0)
    with Progress("index", len(manifest), unit=plural(manifest.noun)) as bar:
        indexed = index(manifest, workers=workers, progress=bar).manifest
    reader = RowReader(indexed)

    def enough(row: int) -> bool:
        try:
            return reader.facts(row).num_frames >= min_frames
        except TooShortError:
            return False
        except MediaError:
            return True

    rows = tuple(entry for row, entry in enumerate(indexed.rows) if enough(row))
    return LongEnough(replace(indexed, rows=rows), len(indexed) - len(rows))
