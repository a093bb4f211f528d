"""``unreel explain``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from unreel.cli.common import BEST, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Computing
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.text import listed
from unreel.core.words import counted


@Parameter(name="*")
@dataclass(frozen=True)
class Maps:
    """How maps are found."""

    iterations: int = 10
    "How often to repeat the search. Each time, everything found so far is masked out."
    expand_resolution: Literal[1, 2, 4] = 2
    "How many times finer the last feature map gets, by smaller strides."
    variant: Literal["paper", "official"] = "paper"
    "paper is the paper's formula. official is what the released code computes."
    crf: bool = False
    "Snap the maps to the edges of the picture. This takes a few seconds per frame of 224 pixels."
    boxes: bool = False
    "Also find boxes, draw them, and write them to boxes.txt. In videos they are linked through time."


USUAL_MAPS = Maps()


def explain(
    encoder: Path,
    data: Path,
    /,
    *,
    out: Path,
    maps: Maps = USUAL_MAPS,
    clips: int | None = None,
    limit: int = 64,
    batch_size: int | None = None,
    seed: int = 0,
    columns: Columns = USUAL_COLUMNS,
    settings: Overrides = (),
    computing: Computing = BEST,
    common: Common = NO_OPTIONS,
) -> int:
    """Show on a page where an encoder looks: maps over images and videos, found without labels (ContraCAM).

    You can set everything else by its name: --cam.mask_colour blur, --objects.margin 0.1, --crf.bilateral_srgb 8.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0. Only a run has projections; of the others, the embeddings are compared instead.
        data: A folder of images or videos, or a manifest (CSV or Parquet).
        out: Folder for the page (index.html), overlays, maps and boxes.
        clips: How many clips per video. The default is enough to see most of it.
        limit: How many images or videos to show, drawn at random. 0 shows all.
        batch_size: How many images or clips are compared with each other. The default is 256 images or 64 clips.
        seed: Seed for the choice of what to show, and of what is compared with what.
    """
    from unreel import api

    found = api.explain(
        encoder,
        data,
        out=out,
        iterations=maps.iterations,
        expand_resolution=maps.expand_resolution,
        variant=maps.variant,
        crf=maps.crf,
        boxes=maps.boxes,
        clips=clips,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        settings=to_sections(settings, "cam", "crf", "objects"),
        **columns.named(),
        **computing.options(),
    )
    unreadable = [{"path": fault.path, "message": fault.message} for fault in found.faults]
    video = any(item.video for item in found.items)
    what = "videos" if video else "images"
    lines = [f"{counted(len(found.items), what.removesuffix('s'))} explained; look at {found.page}"]
    lines += listed("left out: ", [fault.message for fault in found.faults])
    plain: dict[str, Any] = {"page": str(found.page), what: len(found.items), "unreadable": unreadable}
    if maps.boxes:
        count = sum(len(item.tubelets if video else item.boxes) for item in found.items)
        lines.insert(1, f"{count} {'tubelets' if video else 'boxes'}: {out / 'boxes.txt'}")
        plain["boxes"] = count
    common.print(plain, "\n".join(lines))
    return 0
