"""Which rows are learned from (those of a split, without those held out, or too short), and by which columns."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

from unreel.core.checks import Range
from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.core.progress import Progress
from unreel.core.text import first_few, shown
from unreel.core.words import plural
from unreel.data.columns import Columns
from unreel.data.index import index
from unreel.data.manifest import Manifest, Source
from unreel.data.rows import RowReader
from unreel.data.split_names import count_splits, split_role, unclear_splits
from unreel.data.splits import hold_out
from unreel.media import MediaError, TooShortError

_log = logging.getLogger("unreel.data")
_SHOWN = 5


def choose_column(family: str, name: str | None, known: Sequence[str], *, required: bool) -> str:
    """The label or group asked for, or the obvious one of those known; empty where there is none and none is needed."""
    if name is not None:
        if name not in known:
            raise unknown_name(family, name, known) if known else DataError(f"the data has no {family} at all")
        return name
    if family in known:
        return family
    if len(known) == 1:
        return known[0]
    if known:
        raise UsageError(
            f"which {family}? The data has {', '.join(known)}; choose one with --{family} {known[0]} "
            f"({family}={known[0]!r} in Python)"
        )
    if required:
        raise DataError(
            f"the data has no {family}: use a manifest with a {family!r} column, "
            "or a folder with one sub-folder per class"
        )
    return ""


def choose_label(manifest: Manifest, label: str | None = None) -> Manifest:
    """The manifest with the label that is meant: the one asked for (any column), "label", or the only one there is.

    Raises: UsageError for an unknown name, or where several could be meant; DataError without labels, naming the
        columns that could be one.
    """
    if label is None and not manifest.columns.label:
        if not manifest.label_names and manifest.table:
            raise _no_label(manifest)
        label = choose_column("label", None, manifest.label_names, required=True)
    return Manifest.open(manifest, columns=Columns(label=label))


def _no_label(manifest: Manifest) -> DataError:
    """The error for a table without a label, with its columns that could be one."""
    where = os.path.basename(manifest.table)
    empty = [column for role, column in manifest.columns.roles.items() if role.partition(".")[0] == "label"]
    if empty:
        return DataError(f"{where}: no row has a label, the column {shown(empty[0])!r} is empty")
    others = {name: values for name, values in manifest.unused.items() if name not in manifest.columns.groups}
    counts = {name: len({*values} - {""}) for name, values in others.items()}
    likely = [name for name, count in counts.items() if 2 <= count <= max(2, len(manifest) // 2)]
    if not likely:
        advice = "name one with --label NAME (label=NAME in Python)"
        return DataError(f"{where}: the data has no label, as no column is called so; {advice}")
    found = first_few([f"{shown(name)} ({counts[name]} values)" for name in likely], _SHOWN)
    one = shown(likely[0])
    return DataError(
        f"{where}: the data has no label, as no column is called so. Columns that could be one: {found}. Choose with "
        f"--label {one} (label={one!r} in Python)"
    )


def choose_group(manifest: Manifest, group: str | None = None, *, splits: bool = True) -> Manifest:
    """The manifest with the group that is meant, where there is one: ``manifest.group in manifest.group_names``.

    It is the one asked for (any column), "group", the only one there is, or the only column that looks like one. Such a
    column is not taken, with a warning, where its groups are on both sides of the data's own split. ``splits``: whether
    that split counts.

    Raises: UsageError for an unknown name, or where several groups could be meant.
    """
    if group is not None or manifest.columns.group or manifest.group_names:
        if group is None and not manifest.columns.group:
            group = choose_column("group", None, manifest.group_names, required=False)
        return Manifest.open(manifest, columns=Columns(group=group))
    looks = manifest.columns.groups
    if not looks:
        return manifest
    one = shown(looks[0])
    use = f"--group {one} ({'group=' + repr(one)} in Python)"
    if len(looks) > 1:
        _warn(f"the columns {', '.join(map(shown, looks))} look like groups, and none is used: choose one with {use}")
        return manifest
    chosen = Manifest.open(manifest, columns=Columns(group=looks[0]))
    straddling = straddling_groups(chosen) if splits else []
    if straddling:
        _warn(
            f"the column {one!r} looks like a group, and {first_few(straddling, _SHOWN)} of it are on both sides of "
            f"the split: scores may be too good. {use} refuses such a split; without a split column, groups stay whole"
        )
        return manifest
    _log.info("group: %s, the only column that looks like one (--group NAME takes another)", one, extra={"notice": one})
    return chosen


def straddling_groups(manifest: Manifest) -> list[str]:
    """The groups that are in more than one split, sorted."""
    seen: dict[str, set[str]] = {}
    for row, group in zip(manifest, manifest.groups(), strict=True):
        if group and row.split:
            seen.setdefault(group, set()).add(split_role(row.split) or row.split)
    return sorted(shown(group) for group, splits in seen.items() if len(splits) > 1)


def _warn(message: str) -> None:
    _log.warning(message, extra={"notice": message})


def open_data(
    source: Source,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    start_column: str | None = None,
    end_column: str | None = None,
) -> Manifest:
    """What to learn from; columns as in ``Columns``. A column that looks like a group and is not used is a warning."""
    columns = Columns(path_column, label_column, group_column, split_column, start_column, end_column)
    return Manifest.open(source, columns=columns)


def warn_of_groups(manifest: Manifest) -> None:
    """Warn where a column looks like a group and is not used."""
    looks = manifest.columns.groups
    if not looks or manifest.group_names:
        return
    one = shown(looks[0])
    chosen = Manifest.open(manifest, columns=Columns(group=looks[0]))
    straddling = straddling_groups(chosen)
    both = f", and {first_few(straddling, _SHOWN)} of it are on both sides of the split" if straddling else ""
    _warn(
        f"the column {one!r} looks like a group, and is not used{both}: nothing keeps one {one} in one part. Use it "
        f"with --group {one} (group={one!r} in Python)"
    )


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
