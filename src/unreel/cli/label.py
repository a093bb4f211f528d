"""``unreel label``."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unreel.cli.common import BEST_EMBEDDING, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Embedding
from unreel.core.errors import DataError, UsageError
from unreel.core.text import table
from unreel.core.words import counted

if TYPE_CHECKING:
    from unreel.data.manifest import Manifest
    from unreel.tasks.suggest import Proposal


def label(
    encoder: Path,
    data: Path,
    /,
    *,
    labels: Path = Path("labels.csv"),
    count: int = 10,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Propose the videos or images whose labels would teach most, and take the labels.

    Without labels, the proposals represent as much of the data as they can. With labels, they also represent the files
    whose label a head (a small classifier, fitted on these labels) is unsure of. The command never proposes two
    near-duplicates. In a terminal, type a label after each path. An empty line skips the file, and Ctrl-D ends. Each
    label is saved at once. "unreel serve" does the same on a live page.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        labels: The table of labels, with the columns path and label. It is read if it exists, and new labels are added
            to it.
        count: How many to propose.
        out: Do not ask in the terminal. Write a page (.html) instead, on which the proposals play. There you type
            labels and save them as labels.csv.
    """
    embedding.check()
    from unreel import api
    from unreel.core.files import check_file
    from unreel.data.columns import Columns as Chosen
    from unreel.data.manifest import Manifest

    if out is not None and out.suffix.lower() != ".html":
        raise UsageError(f"--out {out}: the page is written as .html")
    check_file(labels if out is None else out)
    given = _read(labels)
    how = {**embedding.options(), "progress": not common.quiet}
    files = Manifest.open(data, columns=Chosen(**columns.named()))
    found = api.suggest(encoder, files, labels=labels if given else None, count=count, **how)
    rows = [(p.path, p.guess, round(p.probability, 3) if p.guess else "") for p in found]
    text = table(("path", "guess", "probability"), rows)
    if out is not None:
        _write_page(found, files, out, given)
        text = f"{text}\nwrote {out}: open it, type the labels, and save labels.csv"
    elif sys.stdin.isatty() and not common.json:
        taken = _ask([p.path for p in found], given, labels)
        text = f"wrote {labels}: {counted(taken, 'new label')}" if taken else ""
    common.print({"proposals": [p._asdict() for p in found], "page": None if out is None else str(out)}, text)
    return 0


def _read(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [["path", "label"]]
    if header[:2] != ["path", "label"]:
        raise DataError(f"{file}: expected a table that begins with the columns path and label, found {header[:2]}")
    return [(row[0], row[1]) for row in rows if len(row) > 1]


def _write_page(proposals: Sequence[Proposal], manifest: Manifest, out: Path, given: list[tuple[str, str]]) -> None:
    """A page on which proposals play, and labels are typed and saved, after those that are ``given``."""
    from unreel.report.pages import clip_of, write_page

    items = [
        clip_of(manifest.absolute(p.row), name="", title=p.path, note=f"{p.guess}?" if p.guess else "")
        for p in proposals
    ]
    known = sorted({name for _, name in given})
    write_page(out, "label.html.jinja", title="What is to be labelled next", items=items, known=known, given=given)


def _ask(paths: list[str], given: list[tuple[str, str]], file: Path) -> int:
    """Take a label per line, and keep each at once."""
    from unreel.core.files import write_whole

    taken = 0
    for path in paths:
        try:
            said = input(f"{path}: ").strip()
        except EOFError:
            break
        if not said:
            continue
        given.append((path, said))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "label"), *given])
        write_whole(file, text.getvalue())
        taken += 1
    return taken
