"""Which rows are learned from: those of a split, without those held out, or too short for the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

from unreel.core.checks import Range
from unreel.core.errors import DataError
from unreel.core.progress import Progress
from unreel.core.words import plural
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.rows import RowReader
from unreel.data.split_names import count_splits, split_role, unclear_splits
from unreel.data.splits import hold_out
from unreel.media import MediaError, TooShortError


def choose_rows(manifest: Manifest, *, split: str = "auto", digest: str | None = None) -> Manifest:
    """The rows to learn from.

    Args:
        manifest: all rows.
        split: "auto" takes the training split, however it is written ("Training"), and all rows where no row has a
            split; "all"; or the names of splits, separated by commas.
        digest: written by unreel into config.yaml, so that a run is not resumed on other data.

    Raises: DataError for a split that no row is in, and where "auto" cannot tell what may be learned from.
    """
    del digest
    names = [row.split for row in manifest]
    if split == "all" or (split == "auto" and not any(names)):
        return manifest
    if split != "auto":
        wanted = [name.strip() for name in split.split(",")]
        for name in wanted:
            manifest.select(split=name)
        return manifest.select(split=wanted)
    roles = [split_role(name) for name in names]
    choice = "say what to learn from: --data.split all, or the names of splits, such as --data.split "
    if "train" in roles:
        chosen = manifest.select(split="train")
        left = [name for name, role in zip(names, roles, strict=True) if not role]
        notice = f"Not learned from, beside the training split: {count_splits(left)}." if left else ""
    elif None in roles:
        cells = [(manifest.where(i), names[i]) for i, role in enumerate(roles) if role is None]
        raise unclear_splits(cells, f"Or {choice}{cells[0][1]}")
    elif "" in roles:
        chosen = manifest.subset(i for i, role in enumerate(roles) if not role)
        notice = f"Learned from: the {len(chosen)} rows without a split ({count_splits(filter(None, names))} held out)."
    else:
        found = f"no row is in a training split; there are {count_splits(names)}"
        raise DataError(f"{found}. To learn from those, {choice}{names[0]}")
    return replace(chosen, notices=(*chosen.notices, notice)) if notice else chosen


def choose_validation(
    found: Manifest, rows: Manifest, *, validation: Annotated[float, Range(ge=0)] | str = 0, seed: int = 0
) -> tuple[Manifest, Manifest | None]:
    """The rows to train on, and those to measure on while training.

    Args:
        found: all rows of the data. rows: those chosen to learn from.
        validation: how many of ``rows`` to hold out, a share of them below 1, or the name of a split of ``found``;
            0 holds out none. Groups stay whole.
        seed: seed for the choice; the run's.
    Raises: UsageError, DataError for an amount or a split that cannot be.
    """
    if isinstance(validation, str):
        held = found.select(split=validation)
        listed = {held.sample_id(i) for i in range(len(held))}
        return rows.subset(i for i in range(len(rows)) if rows.sample_id(i) not in listed), held
    if not validation:
        return rows, None
    mask = hold_out(rows, validation, seed=seed)
    return (
        rows.subset(i for i, out in enumerate(mask) if not out),
        rows.subset(i for i, out in enumerate(mask) if out),
    )


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
