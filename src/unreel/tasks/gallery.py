"""Across data sets: what is asked comes from one data set, what it is looked up in from another."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.core.text import first_few
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.data.split_names import split_role, unclear_splits
from unreel.media import Decoder
from unreel.protocols.clips import ArrayClips, ClipSource, JoinedClips
from unreel.protocols.features import Embeddings
from unreel.protocols.samples import FeatureSet, check_unique
from unreel.tasks.classification import ScoresLabels
from unreel.tasks.labelled import Labelled
from unreel.tasks.task import TASKS, Parts, source_name

_PREFIX = "gallery:"


@dataclass(frozen=True)
class _Side:
    """The labelled sources of one part of a data set, by their positions in it."""

    known: Labelled
    part: str
    used: list[int]
    unlabelled: int

    @classmethod
    def of(cls, known: Labelled, wanted: tuple[str, ...]) -> _Side:
        """The rows of the first split of ``wanted`` and those after it that belong with it; all rows without a split.

        Raises: DataError where no row has a label, and where only splits whose names are not understood could be meant.
        """
        labels, roles = known.labels, [split_role(split) for split in known.splits]
        chosen = [name for name in wanted if name in roles]
        unclear = [i for i, role in enumerate(roles) if role is None and labels[i] and not chosen]
        if unclear:
            advice = f"Name the split to take {' or '.join(wanted)}, or leave the split column out to take all rows"
            raise unclear_splits([(known.where(i), known.splits[i]) for i in unclear], advice)
        inside = [i for i, role in enumerate(roles) if not chosen or role in chosen]
        used = [i for i in inside if labels[i]]
        if not used:
            what = " and ".join(chosen) or "all"
            raise DataError(f"no source of {_name(known.data)} ({what}) has a {known.label!r} label")
        part = f"the {' and '.join(chosen)} part" if chosen else "all"
        return cls(known, part, used, len(inside) - len(used))

    @property
    def labels(self) -> list[str]:
        return [self.known.labels[i] for i in self.used]

    @property
    def groups(self) -> list[str]:
        return [self.known.groups[i] for i in self.used]


def _name(data: Manifest | ArrayClips) -> str:
    return "the arrays" if isinstance(data, ArrayClips) else os.path.basename(data.root)


@TASKS.register("gallery")
class GalleryTask(ScoresLabels):
    """Queries from one data set, a gallery from another; labels are matched by their names.

    Queries are the test part of the data (its validation part where it has no test part), or all of it where it has
    neither; the gallery is the train and validation part of the other data set, or all of it where it has neither.
    Protocols that fit something fit it on the gallery. A query of a class that the gallery lacks stays, and counts as
    missed. A file that is on both sides never finds itself; groups are compared only where both sides come from one
    folder, since elsewhere equal names mean nothing.

    Args:
        queries, gallery: manifests, what makes one, or ``ArrayClips``.
        label, group: which columns, of both.
    Raises: UsageError for an ambiguous column; DataError where a side has no labelled source, or the sides share no
        label.
    """

    def __init__(
        self,
        queries: Source | ArrayClips,
        gallery: Source | ArrayClips,
        *,
        label: str | None = None,
        group: str | None = None,
    ) -> None:
        self.sources = (source_name(queries), source_name(gallery))
        # Where there is no test part, the validation part stands in, as in LabelTask; train and validation go together.
        known = Labelled.of(queries, label, group)
        self.queries = _Side.of(known, ("test",))
        if self.queries.part == "all":
            self.queries = _Side.of(known, ("val",))
        self.gallery = _Side.of(Labelled.of(gallery, label, group), ("train", "val"))
        asked, held = set(self.queries.labels), set(self.gallery.labels)
        common = asked & held
        if not common:
            some = [first_few(sorted(names), 3) for names in (asked, held)]
            raise DataError(f"queries and gallery share no label: {some[0]} against {some[1]}")
        count = Counter(label in common for label in self.queries.labels)
        notes = [
            f"queries: {len(self.queries.used)} of {_name(self.queries.known.data)} ({self.queries.part}); "
            f"gallery: {len(self.gallery.used)} of {_name(self.gallery.known.data)} ({self.gallery.part})"
        ]
        if count[False]:
            notes.append(
                f"{len(common)} of the queries' {len(asked)} classes are in the gallery: "
                f"{count[False]} queries of the others count as missed"
            )
        for side, what in ((self.queries, "queries"), (self.gallery, "gallery sources")):
            if side.unlabelled:
                notes.append(f"{side.unlabelled} {what} have no {side.known.label!r} label and are left out")
        self.notes = tuple(notes)

    @property
    def name(self) -> str:
        return self.queries.known.label

    @property
    def about(self) -> dict[str, str]:
        """What tells this task from others in a run's folder."""
        parts = f"{self.queries.part} against {self.gallery.part}"
        return {"data": self.sources[0], "gallery": self.sources[1], "label": self.name, "split": parts}

    def clips(self, plan: ClipPlan, *, decoder: Decoder | None = None) -> ClipSource:
        """Queries, then the gallery, cut by a plan; ids of the gallery begin with "gallery:"."""
        sides = [side.known.clips(side.used, plan, decoder) for side in (self.queries, self.gallery)]
        return JoinedClips(sides, prefixes=("", _PREFIX))

    def parts(self, embeddings: Embeddings) -> Parts:
        """The gallery as training part, the queries as test part. Raises DataError where a side is empty."""
        num_queries = len(self.queries.used)
        asked = embeddings.rows < num_queries
        for mask, what in ((asked, "query"), (~asked, "gallery source")):
            if not mask.any():
                raise DataError(f"no {what} could be read")
        vectors = embeddings.views
        labels = np.array([*self.queries.labels, *self.gallery.labels])[embeddings.rows]
        groups = np.array([*self.queries.groups, *self.gallery.groups])[embeddings.rows]
        ids = embeddings.ids.astype(object)
        # A source on both sides goes by one name, by which retrieval leaves it out.
        own = dict(zip(embeddings.sources[asked].tolist(), ids[asked].tolist(), strict=True))
        for i in np.flatnonzero(~asked):
            ids[i] = own.pop(str(embeddings.sources[i]), ids[i])
        a, b = self.queries.known.data, self.gallery.known.data
        one_folder = a is b or (isinstance(a, Manifest) and isinstance(b, Manifest) and a.root == b.root)
        prefix = "" if one_folder else _PREFIX
        identities: NDArray[Any] = np.array(
            [
                (group if query else prefix + group) if group else f"file:{name}"
                for group, name, query in zip(groups.tolist(), ids.tolist(), asked.tolist(), strict=True)
            ]
        )
        names = ids.astype(str)
        for mask in (asked, ~asked):
            check_unique(names[mask])

        def side(mask: NDArray[np.bool_]) -> FeatureSet:
            return FeatureSet(vectors[mask], labels[mask], identities[mask], names[mask])

        return Parts(side(~asked), None, side(asked))
