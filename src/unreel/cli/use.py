"""``unreel embed``, ``unreel evaluate``, ``unreel search``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unreel.cli.common import NO_OPTIONS, Common, table
from unreel.core.errors import UsageError


def embed(encoder: Path, data: Path, /, *, out: Path, common: Common = NO_OPTIONS) -> int:
    """Write one embedding per video.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        data: A folder of videos, or a manifest (CSV or Parquet).
        out: The file to write: .npz or .parquet.
    """
    from unreel import api

    api.check_table_suffix(out)
    embeddings = api.embed(encoder, data)
    api.write_embeddings(embeddings, out)
    count, width = embeddings.vectors.shape
    common.print(
        {"embeddings": str(out), "videos": count, "features": width},
        f"wrote {out}: {count} videos × {width} features",
    )
    return 0


def evaluate(
    encoder: Path,
    data: Path,
    /,
    *,
    protocol: Literal["linear", "knn", "retrieval"] = "linear",
    label: str = "label",
    out: Path | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Prove what an encoder is worth: scores with n, chance, a random-init control and intervals.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        data: A labelled manifest, or a folder with one sub-folder per class.
        protocol: What is done with the embeddings.
        label: The label column.
        out: Also write the scores to this .json file.
    """
    if out is not None and out.suffix.lower() != ".json":
        raise UsageError(f"--out {out}: scores are written as .json")
    from unreel import api

    report = api.evaluate(encoder, data, protocol=protocol, label=label)
    if out is not None:
        api.write_json(report.to_dict(), out)
    common.print(report.to_dict(), report.text())
    return 0


def search(encoder: Path, data: Path, query: Path, /, *, top: int = 5, common: Common = NO_OPTIONS) -> int:
    """Find the videos most like one video.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        data: The videos to search: a folder, or a manifest (CSV or Parquet).
        query: A video file.
        top: How many to show.
    """
    from unreel import api

    hits = api.search(encoder, data, query, top=top)
    rows = [{"rank": i + 1, "similarity": round(h.similarity, 4), "path": h.path} for i, h in enumerate(hits)]
    text = table(("rank", "similarity", "path"), [tuple(r.values()) for r in rows])
    common.print({"query": str(query), "results": rows}, text)
    return 0
