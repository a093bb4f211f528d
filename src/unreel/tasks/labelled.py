"""Sources with their labels and groups, and which of them are in which part: by their own split, or by a hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Fraction, Range, checked
from unreel.core.errors import DataError, UsageError
from unreel.data.choice import choose_group, choose_label
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.data.split_names import count_splits, split_role, splits_meant, unclear_splits
from unreel.data.splits import group_kfold, hash_split
from unreel.media import Decoder
from unreel.protocols.clips import ArrayClips, ClipSource, ManifestClips

_SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """Row by row what a data set says of its sources, "" where it says nothing.

    Attributes:
        data: the sources. label, group: the columns; ``group`` is empty where there is none.
        labels, groups, splits: their values. files: what each source is read from.
    """

    data: Manifest | ArrayClips
    label: str
    group: str
    labels: list[str]
    groups: list[str]
    splits: list[str]
    files: list[str]

    @classmethod
    def of(cls, source: Source | ArrayClips, label: str | None, group: str | None, *, splits: bool = True) -> Labelled:
        """Read the columns asked for, or the obvious ones. Errors as ``choose_label`` and ``choose_group``.

        ``splits``: whether the data's own splits count.
        """
        if isinstance(source, ArrayClips):
            if source.labels is None:
                raise DataError("the arrays have no labels: give ArrayClips(labels=…)")
            nothing = [""] * len(source.labels)
            groups = source.groups if source.groups is not None else nothing
            return cls(source, "label", "", list(source.labels), list(groups), nothing, list(source.ids))
        found = Manifest.open(source, columns=Columns(label=label, group=group))
        data = choose_group(choose_label(found), splits=splits)
        label, group = data.label, data.group if data.group in data.group_names else ""
        groups = data.groups(group) if group else [""] * len(data)
        files = [row.path or "|".join(row.frames) for row in data]
        return cls(data, label, group, data.labels(label), groups, [row.split for row in data], files)

    def where(self, i: int) -> str:
        """A source's place, for messages."""
        return self.data.where(i) if isinstance(self.data, Manifest) else self.data.ids[i]

    @property
    def identities(self) -> list[str]:
        """What must stay together, per source."""
        return [g or f"file:{f}" for g, f in zip(self.groups, self.files, strict=True)]

    def clips(self, rows: Sequence[int], plan: ClipPlan, decoder: Decoder | None) -> ClipSource:
        """These sources, cut by a plan; arrays as they are."""
        if isinstance(self.data, Manifest):
            chosen = self.data.subset(rows)
            return ManifestClips(chosen, plan, label=self.label, group=self.group or None, decoder=decoder)
        return ArrayClips(
            self.data.clips[list(rows)],
            labels=[self.labels[i] for i in rows],
            groups=None if self.data.groups is None else [self.groups[i] for i in rows],
            ids=[self.files[i] for i in rows],
        )


@checked
@dataclass(frozen=True)
class SplitRule:
    """How a task's parts come about.

    Attributes:
        train, validation, test: names of the splits, read as ``data.split_names.splits_meant`` says. Without a
            ``test`` split the validation split is tested on.
        test_fraction: share for a hash split, where sources have no splits. seed: of that split.
    Raises: UsageError for a fraction out of range.
    """

    train: str = "train"
    validation: str = "val"
    test: str = "test"
    test_fraction: Fraction = 0.3
    seed: int = 0

    def told(self, splits: Sequence[str]) -> str:
        """Where the parts come from, to tell two evaluations apart."""
        drawn = f"drawn with seed {self.seed}, {self.test_fraction:g} for testing"
        return f"own ({self.train}, {self.test})" if any(splits) else drawn

    def roles(
        self,
        splits: list[str],
        usable: NDArray[np.bool_],
        identities: Sequence[str],
        *,
        where: Callable[[int], str],
        group: str = "",
        noun: str = "labelled source",
    ) -> tuple[NDArray[Any], list[str]]:
        """ "train", "val", "test" or "" (left out) per source, and what a reader should know of it.

        Args:
            splits: each source's own, "" where it has none. usable: which sources can be asked about.
            identities: what must stay together, "file:…" where nothing but the file does.
            where: a source's place, for messages. group: the column of identities. noun: what a usable source is.
        Raises: DataError for splits that are not understood, a part without a source, or an identity in two parts.
        """
        if any(splits):
            return self._own(splits, usable, where, noun)
        shares = {"train": 1 - self.test_fraction, "test": self.test_fraction}
        grouped = any(not name.startswith("file:") for name in identities)
        unit = f"group {group!r}" if group else "group" if grouped else "file"
        notes = [f"no split given: {self.test_fraction:.0%} of sources kept for testing by a hash of the {unit}"]
        return np.where(usable, np.array(hash_split(identities, shares, seed=self.seed)), ""), notes

    def _own(
        self, splits: list[str], usable: NDArray[np.bool_], where: Callable[[int], str], noun: str
    ) -> tuple[NDArray[Any], list[str]]:
        train, validation, test = self.train, self.validation, self.test
        notes: list[str] = []
        known = {s for s in splits if s}
        meant = {name: splits_meant(name, known) for name in (train, validation, test)}
        if not meant[test] or not meant[train]:
            used = {own for found in meant.values() for own in found}
            unclear = [i for i, s in enumerate(splits) if usable[i] and s not in used and split_role(s) is None]
            if unclear:
                advice = f"Name the splits {train}, {validation} and {test}, and leave the cells of other rows empty"
                raise unclear_splits([(where(i), splits[i]) for i in unclear], advice)
        advice = "Name the splits of both parts, or take the column of splits out, to have the rows split at random"
        if not meant[test]:
            if not meant[validation]:
                found = f"no split is called {test!r} or {validation!r}; there are {count_splits(splits)}"
                raise DataError(f"{found}. {advice}")
            notes.append(f"there is no split {test!r}: tested on {validation!r}, which selects nothing")
            test, validation = validation, ""
        if not meant[train]:
            raise DataError(f"no split is called {train!r}; there are {count_splits(splits)}. {advice}")
        roles = np.full(len(splits), "", dtype="U5")
        for i, split in enumerate(splits):
            if not split or not usable[i]:
                continue
            for role, name in (("train", train), ("val", validation), ("test", test)):
                if name and split in meant[name]:
                    roles[i] = role
        outside = [splits[i] for i in np.flatnonzero((roles == "") & usable)]
        if outside:
            shown = count_splits(outside)
            notes.append(f"{len(outside)} {noun}s are in none of the splits used ({shown}): left out")
        return roles, notes


@checked
@dataclass(frozen=True)
class Folds:
    """Parts that take turns: every usable source is tested once, by what was fitted on the other folds.

    Attributes:
        k: how many folds, from 2 on. seed: for the order of groups of one size, see ``data.splits.group_kfold``.
    Raises: UsageError for k out of range.
    """

    k: Annotated[int, Range(ge=2)]
    seed: int = 0

    @property
    def told(self) -> str:
        """Where the parts come from, to tell two evaluations apart."""
        return f"{self.k} folds, seed {self.seed}"

    def roles(
        self, splits: Sequence[str], usable: NDArray[np.bool_], identities: Sequence[str], labels: Sequence[str]
    ) -> tuple[list[NDArray[Any]], list[str]]:
        """For every fold "train", "test" or "" (left out) per source, and what a reader should know.

        Args: as ``SplitRule.roles``. labels: their shares are kept in every fold as far as whole groups allow.
        Raises: UsageError for more folds than groups.
        """
        used = [int(i) for i in np.flatnonzero(usable)]
        names = [identities[i] for i in used]
        groups, grouped = len(set(names)), any(not name.startswith("file:") for name in names)
        unit = "groups" if grouped else "files"
        if self.k > groups:
            raise UsageError(f"{self.k} folds need {self.k} {unit}, and the labelled data have {groups}: ask for fewer")
        folds = np.full(len(usable), -1)
        folds[used] = group_kfold(names, self.k, labels=[labels[i] for i in used], seed=self.seed)
        notes = [f"{self.k} folds of whole {unit}: each source is tested once, by what was fitted on the other folds"]
        if any(splits):
            notes.append(f"the data's own splits play no part ({count_splits([s for s in splits if s])})")
        return [np.where(folds == i, "test", np.where(usable, "train", "")) for i in range(self.k)], notes


def check_parts(roles: NDArray[Any], identities: Sequence[str], files: Sequence[str], *, noun: str) -> None:
    """Raise DataError where a group or a file is in more than one part, or a part is empty."""
    for what, names in (("group", identities), ("file", files)):
        seen: dict[str, set[str]] = {}
        for name, role in zip(names, roles, strict=True):
            if role:
                seen.setdefault(name, set()).add(str(role))
        straddling = sorted(name for name, found in seen.items() if len(found) > 1)
        if straddling:
            shown = ", ".join(f"{n} ({' and '.join(sorted(seen[n]))})" for n in straddling[:_SHOWN])
            more = f" and {len(straddling) - _SHOWN} more" if len(straddling) > _SHOWN else ""
            raise DataError(
                f"{len(straddling)} {what}s are in more than one part: {shown}{more}. Scores would be too good; "
                "give each group one split (unreel.data.splits.hash_split does), or leave the split column out"
            )
    sizes = ", ".join(f"{role} {int((roles == role).sum())}" for role in ("train", "val", "test"))
    for role in ("train", "test"):
        if not (roles == role).any():
            raise DataError(f"no {noun} is in the {role} part; parts: {sizes}")
