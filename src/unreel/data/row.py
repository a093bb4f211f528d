"""A row of a manifest, and the roles that a table's columns may have."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from unreel.core.errors import DataError, UsageError
from unreel.core.text import shown
from unreel.media import VideoInfo

SIMPLE_ROLES = ("path", "start_s", "end_s", "frames", "split")
FACTS = {f.name: str(f.type) for f in fields(VideoInfo)}

_FAMILIES = ("label", "group", "file", "fact")


@dataclass(frozen=True)
class Row:
    """One source. Values of labels, groups, files and split are stripped; empty ones are absent.

    Accents of labels, groups and split are held in one way (NFC), so that what looks equal is equal; bytes of a
    folder's name that are no UTF-8 are spelt out ("\\xe9").

    ``path`` is relative to the manifest's root, with forward slashes; it may be empty where ``frames`` lists image
    files (relative too). ``start_s`` and ``end_s`` are seconds from the source's first frame. ``facts`` is what
    probing found, or None. ``line`` is where the row stands in its table, 1 for the first line; 0 where there is none.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    frames: tuple[str, ...] = ()
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    facts: VideoInfo | None = None
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.path and not self.frames:
            raise DataError("a row needs a path or a list of frames")
        for name in ("start_s", "end_s"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise DataError(f"{name} must be seconds from the start of the source, got {value}")
        if self.end_s is not None and self.end_s <= (self.start_s or 0.0):
            raise DataError(f"the span ends at {self.end_s:g} s, not after its start at {self.start_s or 0:g} s")
        object.__setattr__(self, "frames", tuple(self.frames))
        object.__setattr__(self, "split", _composed(self.split.strip()))
        for name in ("labels", "groups", "files"):
            values = {k: v.strip() for k, v in getattr(self, name).items() if v.strip()}
            if name != "files":
                values = {k: _composed(v) for k, v in values.items()}
            object.__setattr__(self, name, values)

    def labelled(self, family: str, name: str, value: str) -> Row:
        """The row with one more label, or one more group."""
        if family == "label":
            return replace(self, labels={**self.labels, name: value})
        return replace(self, groups={**self.groups, name: value})

    @property
    def seconds(self) -> float:
        """How long the source or its span lasts, as far as facts tell; 0 without them."""
        if self.facts is None:
            return 0.0
        whole = self.facts.duration_s
        return max(0.0, (whole if self.end_s is None else min(self.end_s, whole)) - (self.start_s or 0.0))

    def column(self, name: str) -> str:
        """The text of a column such as ``split``, ``label`` or ``group.patient``; empty where absent."""
        if name in ("path", "split"):
            return str(getattr(self, name))
        family, _, key = name.partition(".")
        holder = {"label": self.labels, "group": self.groups, "file": self.files}.get(family)
        if holder is None:
            raise UsageError(f"no column {name!r}; columns are path, split, label[.name], group[.name], file.name")
        return holder.get(key or family, "")


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", shown(text))


def column_name(family: str, name: str) -> str:
    """The column of a label or group: ``label`` for the one without a name of its own, else ``label.<name>``."""
    return family if name == family else f"{family}.{name}"


def is_role(name: str) -> bool:
    """Whether a column of this name has a meaning."""
    family, dot, key = name.partition(".")
    if name in SIMPLE_ROLES or name in ("label", "group"):
        return True
    if family == "fact":
        return key in FACTS
    return family in _FAMILIES and bool(dot) and bool(key) and key != family
