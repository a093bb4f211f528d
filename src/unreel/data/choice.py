"""Which rows are learned from, and which are held out while training goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from unreel.core.checks import Range
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.data.split_names import count_splits, split_role, unclear_splits
from unreel.data.splits import hold_out


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
