"""Pages and tables of what was found in a folder: by search, in clusters, as near-duplicates, as odd ones out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unreel.core.errors import UsageError
from unreel.core.files import check_file, write_whole
from unreel.core.text import shown
from unreel.core.words import counted
from unreel.protocols.retrieval import Example, Hit
from unreel.report.pages import Clip, clip_of, write_page
from unreel.tasks.explore import Found, Row, as_csv

# Clips of one group, and of one page: each costs a decoding and some 20 kB.
_OF_A_GROUP = 12
_OF_A_PAGE = 240


@dataclass(frozen=True)
class Section:
    """A part of a page: clips under a heading."""

    title: str
    note: str
    clips: Sequence[Clip]


def check_found(out: str | os.PathLike[str]) -> None:
    """Raise UsageError unless results can be written to a file of this name; WriteError where it cannot be written."""
    if Path(out).suffix.lower() not in (".html", ".csv"):
        raise UsageError(f"{os.fspath(out)}: results are written as a page (.html) or a table (.csv)")
    check_file(out)


def write_search(
    hits: Sequence[Hit], wanted: Sequence[Example], unwanted: Sequence[Example], out: str | os.PathLike[str]
) -> Path:
    """Write what a search found, below what was searched with; a page or, as .csv, a table."""
    if Path(out).suffix.lower() == ".csv":
        return write_whole(out, as_csv(hits))
    root = _common([hit.path for hit in hits])
    sections = [
        Section(title, "", [clip_of(e.path, e.span, name=f"{shown(e.path.name)}{seconds(e.span)}") for e in examples])
        for title, examples in (("Searched for", wanted), ("Not like", unwanted))
        if examples
    ]
    shown_hits = hits[:_OF_A_PAGE]
    clips = [_clip(hit, root, title=f"{i}", value=f"{hit.similarity:.3f}") for i, hit in enumerate(shown_hits, 1)]
    note = "The number is the cosine of two embeddings: 1 is the same."
    sections.append(Section(f"Found: {counted(len(hits), 'file')}", note, clips))
    return write_page(out, "found.html.jinja", title="Search", summary=f"in {root}", sections=sections, notes=())


def write_found(found: Found, out: str | os.PathLike[str]) -> Path:
    """Write clusters, near-duplicates or outliers as a page or, as .csv, a table."""
    if Path(out).suffix.lower() == ".csv":
        return write_whole(out, as_csv(found.rows))
    root = _common([row.path for row in found.rows])
    groups, room, sections = found.groups, _OF_A_PAGE, []
    for number, rows in enumerate(groups, 1):
        most = _OF_A_PAGE if found.kind == "outliers" else min(_OF_A_GROUP, room)
        clips = [_clip(row, root, value=_value(row)) for row in rows[:most]]
        room -= len(clips)
        title = {
            "clusters": f"Cluster {number}: {counted(len(rows), 'file')}",
            "duplicates": f"Group {number}: {counted(len(rows), 'file')}",
            "outliers": "The oddest first",
        }[found.kind]
        left = len(rows) - len(clips)
        sections.append(Section(title, f"and {left} more, in the table" if left else "", clips))
    title = {"clusters": "Clusters", "duplicates": "Near-duplicates", "outliers": "Outliers"}[found.kind]
    about = {"summary": found.summary, "sections": sections, "notes": found.notes}
    return write_page(out, "found.html.jinja", title=title, **about)


def seconds(span: tuple[float, float | None] | None) -> str:
    """A span of a file, for people; several of one file may be found."""
    return "" if span is None else f", {span[0]:g} s to {'the end' if span[1] is None else f'{span[1]:g} s'}"


def _clip(row: Row, root: str, **said: Any) -> Clip:
    return clip_of(row.path, row.span, name=f"{shown(os.path.relpath(row.path, root))}{seconds(row.span)}", **said)


def _value(row: Any) -> str:
    return f"{row.distance:.1f} × the usual distance" if hasattr(row, "distance") else f"{row.similarity:.3f}"


def _common(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else "."
