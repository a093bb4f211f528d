"""``unreel embed``, ``unreel evaluate``, ``unreel search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from unreel.cli.common import NO_OPTIONS, Common, table
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.errors import UsageError

Protocols: TypeAlias = Annotated[
    tuple[Literal["linear", "knn", "retrieval", "svm", "finetune"], ...], Parameter(consume_multiple=True)
]


def embed(
    encoder: Path,
    data: Path,
    /,
    *,
    out: Path,
    label: str = "label",
    pooling: str = "encoder",
    common: Common = NO_OPTIONS,
) -> int:
    """Write one embedding per video.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        data: A folder of videos, or a manifest (CSV or Parquet).
        out: The file to write: .npz or .parquet.
        label: The label column to write beside the vectors, where there are several.
        pooling: How the last map becomes a vector: encoder (its own way), gap, or windows such as max-1x2x2.
    """
    from unreel import api

    api.check_table_suffix(out)
    embeddings = api.embed(encoder, data, label=label, pooling=pooling, progress=not common.quiet)
    api.write_embeddings(embeddings, out)
    count, width = embeddings.vectors.shape
    unreadable = [{"path": fault.path, "message": fault.message} for fault in embeddings.faults]
    text = [f"wrote {out}: {count} videos × {width} features"]
    text += [f"left out: {fault.message}" for fault in embeddings.faults[:10]]
    if len(unreadable) > 10:
        text.append(f"left out: … and {len(unreadable) - 10} more")
    plain = {"embeddings": str(out), "videos": count, "features": width, "unreadable": unreadable}
    common.print(plain, "\n".join(text))
    return 0


def evaluate(
    encoder: Path,
    data: Path,
    /,
    *,
    protocol: Protocols | None = None,
    gallery: Path | None = None,
    label: str | None = None,
    group: str | None = None,
    profile: str = "standard",
    pooling: str | None = None,
    frame_statistics: bool = False,
    seed: int = 0,
    out: Path | None = None,
    work: Path | None = None,
    settings: Overrides = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Prove what an encoder is worth: scores with n, chance, a random-init control and intervals.

    Scores of a run's encoder are also kept in the run's folder, for its report. Every protocol's settings can be
    changed: --protocol finetune --finetune.epochs 50.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        data: A labelled manifest, or a folder with one sub-folder per class.
        protocol: What is done with the embeddings, or finetune, which trains all layers; several may be named. By
            default the profile's first, in standard linear; retrieval with a gallery.
        gallery: Another data set to look up the data's test part in, labels matched by name.
        label: The label column, where there are several.
        group: The column of what must not straddle splits (patient, scene), where there are several.
        profile: A named set of protocols with their test clips and pooling: standard, paper-cvrl, paper-tcgl.
        pooling: How the last map becomes a vector: encoder (its own way), gap, or windows such as max-1x2x2; by
            default the profile's.
        frame_statistics: Also score plain statistics of the pixels, a control that needs no network.
        seed: Of the control's weights, the split (where the data has none) and the resampling.
        out: Also write the scores to this .json file.
        work: Where fine-tuning keeps its checkpoints, so that the same command goes on where one was interrupted; by
            default a folder in the run's.
    """
    if out is not None and out.suffix.lower() != ".json":
        raise UsageError(f"--out {out}: scores are written as .json")
    from unreel import api

    baselines = ("random-init", "frame-statistics") if frame_statistics else ("random-init",)
    is_run = (encoder / "config.yaml").is_file()
    found = api.evaluate(
        encoder,
        data,
        protocol=protocol,
        gallery=gallery,
        label=label,
        group=group,
        profile=profile,
        pooling=pooling,
        baselines=baselines,
        settings=to_sections(settings),
        work=work if work is not None or not is_run else encoder / "finetune",
        seed=seed,
        progress=not common.quiet,
    )
    if out is not None:
        found.to_json(out)
    if is_run:
        found.to_json(encoder)
    common.print(found.to_dict(), found.text())
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

    hits = api.search(encoder, data, query, top=top, progress=not common.quiet)
    rows = [{"rank": i + 1, "similarity": round(h.similarity, 4), "path": h.path} for i, h in enumerate(hits)]
    text = table(("rank", "similarity", "path"), [tuple(r.values()) for r in rows])
    common.print({"query": str(query), "results": rows}, text)
    return 0
