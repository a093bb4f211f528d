"""``unreel search``, ``unreel cluster``, ``unreel duplicates``, ``unreel outliers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unreel.cli.common import BEST_EMBEDDING, NO_OPTIONS, USUAL_COLUMNS, WHOLE, Columns, Common, Embedding, Windows
from unreel.core.text import listed, table

if TYPE_CHECKING:
    from unreel.tasks.explore import Found

_SHOWN = 20  # rows on the terminal


def search(
    encoder: Path,
    data: Path,
    query: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    unwanted: Annotated[tuple[str, ...], Parameter(name="--not", consume_multiple=True, show_default=False)] = (),
    top: int = 5,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    windows: Windows = WHOLE,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Find the videos or images that are most like the ones you give.

    An example can be any file, whether it belongs to the data or not. It can also be a few seconds of a video:
    talk.mp4#12-16 is its seconds 12 to 16. The command keeps the embeddings, so that the next search in the same data
    is quick.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: What to search: a folder of videos or images, or a manifest (CSV or Parquet).
        query: One or more videos or images that show what you look for.
        unwanted: Videos or images that show what you do not look for. You may name several.
        top: How many to show.
        out: Also write what was found to this file: a page (.html) where clips play, or a table (.csv).
    """
    from unreel import api
    from unreel.report.found import seconds

    how = {**embedding.options_for(encoder), **asdict(windows), **columns.named()}
    hits = api.search(encoder, data, query, unwanted, top=top, out=out, progress=not common.quiet, **how)
    rows = [
        {"rank": i, "similarity": round(h.similarity, 4), "path": h.path, **({"span_s": h.span} if h.span else {})}
        for i, h in enumerate(hits, 1)
    ]
    found = [(r["rank"], r["similarity"], f"{r['path']}{seconds(h.span)}") for r, h in zip(rows, hits, strict=True)]
    plain = {"query": query[0] if len(query) == 1 else [*query], **({"not": [*unwanted]} if unwanted else {})}
    common.print({**plain, "results": rows}, _text(table(("rank", "similarity", "path"), found), out))
    return 0


def cluster(
    encoder: Path,
    data: Path,
    /,
    *,
    clusters: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    windows: Windows = WHOLE,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Sort videos or images into clusters of files that are alike.

    Clusters are numbered from 1, the largest first. The first file of each cluster is the most typical one.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        clusters: How many clusters. auto: the number that tells the files apart best (the best silhouette).
        seed: Seed for the centres that k-means starts from.
        out: Also write the clusters to this file: a page (.html) where clips play, or a table (.csv).
    """
    from unreel import api
    from unreel.core.errors import UsageError

    if clusters != "auto" and not clusters.isdecimal():
        raise UsageError(f"--clusters {clusters}: expected a number, or auto")
    number: int | Literal["auto"] = "auto" if clusters == "auto" else int(clusters)
    how = {**embedding.options_for(encoder), **asdict(windows), **columns.named()}
    found = api.cluster(encoder, data, clusters=number, seed=seed, out=out, progress=not common.quiet, **how)
    rows = [(rows[0].cluster, len(rows), rows[0].path) for rows in found.groups]
    _print(found, table(("cluster", "files", "most typical"), rows), out, common)
    return 0


def duplicates(
    encoder: Path,
    data: Path,
    /,
    *,
    above: float | None = None,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    windows: Windows = WHOLE,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Find near-duplicates: files that show the same pictures, even if re-encoded, resized, cropped a little or cut.

    The encoder proposes pairs of files. Then the command compares their pictures: what moves in videos, and the details
    in images.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        above: How well the pictures of two files must agree; 1 is complete agreement. The default is 0.85. In a test
            with copies that were made on purpose, almost all agreed by more, and no two different files did.
        out: Also write the groups to this file: a page (.html) where clips play, or a table (.csv).
    """
    from unreel import api

    how = {**embedding.options_for(encoder), **asdict(windows), **columns.named()}
    found = api.duplicates(encoder, data, above=above, out=out, progress=not common.quiet, **how)
    rows = [(row.group, round(row.similarity, 3), row.path) for row in found]
    _print(found, _first(("group", "agreement", "path"), rows, out) if rows else "", out, common)
    return 0


def outliers(
    encoder: Path,
    data: Path,
    /,
    *,
    top: int = 20,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    windows: Windows = WHOLE,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Find the videos or images that are unlike all others.

    The distance of a file is the distance to its fifth nearest file. 1 is what is usual in these data.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        top: How many to show.
        out: Also write the outliers to this file: a page (.html) where clips play, or a table (.csv).
    """
    from unreel import api

    how = {**embedding.options_for(encoder), **asdict(windows), **columns.named()}
    found = api.outliers(encoder, data, top=top, out=out, progress=not common.quiet, **how)
    rows = [(round(row.distance, 2), row.path) for row in found]
    _print(found, _first(("distance", "path"), rows, out), out, common)
    return 0


def _first(header: tuple[str, ...], rows: Sequence[tuple[object, ...]], out: Path | None) -> str:
    text = table(header, rows[:_SHOWN])
    more = f"\n… and {len(rows) - _SHOWN} more" + ("; --out FILE.csv writes them all" if out is None else "")
    return text + (more if len(rows) > _SHOWN else "")


def _print(found: Found, text: str, out: Path | None, common: Common) -> None:
    notes = listed("note: ", found.notes)
    lines = [*([text] if text else []), found.summary, *notes]
    common.print({**found.to_plain(), "written": None if out is None else str(out)}, _text("\n".join(lines), out))


def _text(text: str, out: Path | None) -> str:
    return text if out is None else f"{text}\nwrote {out}"
