"""Splits that keep groups together: by hash, stable when rows are added, and in k folds."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from unreel.core.errors import DataError, UsageError
from unreel.core.words import counted
from unreel.data.manifest import Manifest

_TWO_POW_64 = 1 << 64


def hash_unit(identity: str, seed: int | str = 0) -> float:
    """Where an identity falls on [0, 1): the first 8 bytes of SHA-256 of ``"<seed>:<identity>"``, big-endian, / 2^64.

    With the seed "usvid" these are the splits that unreel uses for ultrasound.
    """
    digest = hashlib.sha256(f"{seed}:{identity}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / _TWO_POW_64


def hash_split(
    ids: Sequence[str] | Manifest,
    fractions: Mapping[str, float],
    *,
    seed: int | str = 0,
    group: str | None = None,
) -> list[str]:
    """A split's name for every id or row, from a hash of the id alone.

    Adding or removing rows moves no other row. Rows of a manifest go by their group, or by their path where they have
    none, so that two spans of one video stay together. ``manifest.with_splits(hash_split(manifest, …))`` applies it.

    Args:
        ids: identities of what must stay together (patients, scenes …), one per row; or a manifest.
        fractions: share per split, in order, summing to 1: ``{"train": .8, "val": .1, "test": .1}``.
        seed: another seed is another, independent split.
        group: which group of the manifest counts; ``None``: the one that is meant.

    Raises: UsageError for fractions that are negative or do not sum to 1.
    """
    if (
        not fractions
        or any(f < 0 for f in fractions.values())
        or not math.isclose(sum(fractions.values()), 1, abs_tol=1e-9)
    ):
        raise UsageError(f"split fractions must be ≥ 0 and sum to 1, got {dict(fractions)}")
    names = list(fractions)
    edges = [math.fsum(list(fractions.values())[: i + 1]) for i in range(len(names))]
    last = max(i for i, name in enumerate(names) if fractions[name] > 0)  # takes what rounding leaves over
    chosen: dict[str, str] = {}
    result = []
    for identity in _identities(ids, group):
        if identity not in chosen:
            unit = hash_unit(identity, seed)
            chosen[identity] = next((n for n, edge in zip(names, edges, strict=True) if unit < edge), names[last])
        result.append(chosen[identity])
    return result


def hold_out(manifest: Manifest, amount: float, *, seed: int | str = 0, group: str | None = None) -> list[bool]:
    """Which rows to keep for validation: whole groups in an order keyed by their names, until there are enough.

    Rows without a group go by their path, so that two spans of one video stay together.

    Args:
        manifest: the rows to choose from.
        amount: how many rows, or a share of them below 1; the last group taken may bring a few more.
    Raises: UsageError for an amount that is negative or no whole number; DataError when no row would be left.
    """
    if amount < 0 or (amount >= 1 and amount != int(amount)):
        raise UsageError(f"held-out videos: expected a share below 1 or a whole number, got {amount}")
    wanted = amount if amount >= 1 else amount * len(manifest)
    identities = _identities(manifest, group)
    sizes = Counter(identities)
    chosen: set[str] = set()
    taken = 0
    for name in sorted(sizes, key=lambda g: (hash_unit(f"validation:{g}", seed), g)):
        if taken >= wanted:
            break
        chosen.add(name)
        taken += sizes[name]
    if manifest.rows and taken == len(manifest):
        raise DataError(
            f"holding out {amount:g} of {counted(len(manifest), manifest.noun)} in {counted(len(sizes), 'group')} "
            "leaves none to train on; hold out fewer"
        )
    return [name in chosen for name in identities]


def group_kfold(
    groups: Sequence[str] | Manifest,
    k: int,
    *,
    labels: Sequence[str] | str | None = None,
    group: str | None = None,
    seed: int | str | None = None,
) -> list[int]:
    """A fold 0 … k − 1 for every row; a group is in one fold, folds have nearly equal numbers of rows.

    Groups are taken from the largest to the smallest (equal ones by name, or by its hash), each to the fold with the
    fewest rows (ties: the lowest). With labels, each goes to the fold where it makes the classes' shares most equal
    over the folds, and only ties go by size: stratified as far as whole groups allow.

    Args:
        groups: one group per row, or a manifest.
        k: number of folds, from 2 to the number of groups.
        labels: one label per row, or the name of a manifest's label.
        group: which group of the manifest counts; ``None``: the one that is meant; rows without one go by their path.
        seed: the order of equal groups by a hash of their names; another seed is another order. None: by name.

    Raises: UsageError for k out of range; DataError where labels and rows differ in number.
    """
    identities = _identities(groups, group)
    if isinstance(labels, str):
        if not isinstance(groups, Manifest):
            raise UsageError("labels can be a name only where the rows come from a manifest")
        labels = groups.labels(labels)
    if labels is not None and len(labels) != len(identities):
        raise DataError(f"{len(labels)} labels for {len(identities)} rows")
    sizes = Counter(identities)
    if not 2 <= k <= len(sizes):
        raise UsageError(f"k must be from 2 to the number of groups ({len(sizes)}), got {k}")
    classes = sorted(set(labels)) if labels is not None else []
    totals = Counter(labels) if labels is not None else Counter()
    within: dict[str, Counter[str]] = {g: Counter() for g in sizes}
    for identity, label in zip(identities, labels or [], strict=False):
        within[identity][label] += 1

    rows_in = [0] * k
    labels_in: list[Counter[str]] = [Counter() for _ in range(k)]
    fold_of: dict[str, int] = {}
    drawn = {g: 0.0 if seed is None else hash_unit(f"fold:{g}", seed) for g in sizes}
    for name in sorted(sizes, key=lambda g: (-sizes[g], drawn[g], g)):

        def cost(fold: int, name: str = name) -> tuple[float, int, int]:
            # Putting c rows where s lie already raises Σ share² by ((s + c)² − s²) / total²: least where classes lack.
            uneven = math.fsum(
                ((labels_in[fold][c] + within[name][c]) ** 2 - labels_in[fold][c] ** 2) / totals[c] ** 2
                for c in classes
            )
            return round(uneven, 12), rows_in[fold], fold

        fold = min(range(k), key=cost)
        fold_of[name] = fold
        rows_in[fold] += sizes[name]
        labels_in[fold].update(within[name])
    return [fold_of[identity] for identity in identities]


def _identities(rows: Sequence[str] | Manifest, group: str | None) -> list[str]:
    if isinstance(rows, Manifest):
        group = group or rows.group
        if group != "group":
            rows.groups(group)  # an unknown name is an error; the default one may be absent
        return [
            f"group:{value}" if (value := r.groups.get(group, "")) else f"path:{r.path or '|'.join(r.frames)}"
            for r in rows
        ]
    return [str(identity) for identity in rows]
