"""Sources with their labels and groups, from files or from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.protocols.clips import ArrayClips, ClipSource, ManifestClips


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
    def of(cls, source: Source | ArrayClips, label: str | None, group: str | None) -> Labelled:
        """Read the columns asked for, or the obvious ones. Errors as ``choose_column``; DataError without labels."""
        if isinstance(source, ArrayClips):
            if source.labels is None:
                raise DataError("the arrays have no labels: give ArrayClips(labels=…)")
            nothing = [""] * len(source.labels)
            groups = source.groups if source.groups is not None else nothing
            return cls(source, "label", "", list(source.labels), list(groups), nothing, list(source.ids))
        data = Manifest.open(source)
        label = choose_column("label", label, data.label_names, required=True)
        group = choose_column("group", group, data.group_names, required=False)
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
            return ManifestClips(chosen, plan, label=self.label, group=self.group or "group", decoder=decoder)
        return ArrayClips(
            self.data.clips[list(rows)],
            labels=[self.labels[i] for i in rows],
            groups=None if self.data.groups is None else [self.groups[i] for i in rows],
            ids=[self.files[i] for i in rows],
        )


def choose_column(family: str, name: str | None, known: Sequence[str], *, required: bool) -> str:
    """The column asked for, or the obvious one; empty where there is none and none is needed."""
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
