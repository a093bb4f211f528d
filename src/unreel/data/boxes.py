"""Boxes of objects as shares of the image, and the text file that holds them (docs/methods/contracam.md, Boxes)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unreel.core.errors import DataError, UsageError
from unreel.core.files import write_whole
from unreel.data.manifest import Manifest
from unreel.data.text import read_text
from unreel.metrics._arrays import boxes_of

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_BOX = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{3}}")
MARGIN = 0.2
"""Share of its width and height that a box is widened by on each side (docs/methods/contracam.md, Boxes)."""
MIN_SCALE = 0.01
"""A box must cover more than this share of the image (docs/methods/contracam.md, Boxes)."""


def boxes_to_shares(
    rectangles: ArrayLike,
    size: tuple[int, int],
    *,
    margin: float = MARGIN,
    min_scale: float = MIN_SCALE,
    areas: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Rectangles in pixels as boxes x1 y1 x2 y2 in [0, 1], widened and clamped to the image; small ones left out.

    Args:
        rectangles: (N, 4) x, y, width, height in pixels; x + width is the first pixel behind the rectangle.
        size: height and width of the image in pixels.
        margin: share of the width and of the height to add on each side.
        min_scale: only areas above this share of the image are kept (strictly).
        areas: (N,) pixels that decide what is small, such as those of the objects' masks; width · height without.
    Returns: (M, 4) float64, M ≤ N, in the order given.
    Raises: UsageError for other shapes, a size below 1 or a negative margin.
    """
    found = boxes_of(rectangles, "rectangles", "(N, 4) x, y, width, height")
    height, width = size
    if height < 1 or width < 1 or not margin >= 0:
        raise UsageError(f"boxes need an image of at least 1 × 1 px and margin ≥ 0, got {size} and {margin}")
    area = found[:, 2] * found[:, 3] if areas is None else np.asarray(areas, dtype=np.float64)
    if area.shape != (len(found),):
        raise UsageError(f"areas: expected one per rectangle, {len(found)}, got shape {area.shape}")
    found = found[area > min_scale * height * width]
    more = margin * found[:, 2:]
    limits = np.array([width, height, width, height], dtype=np.float64)
    corners = np.concatenate([found[:, :2] - more, found[:, :2] + found[:, 2:] + more], axis=1)
    return np.asarray(np.clip(corners, 0.0, limits) / limits)


def write_boxes(path: str | os.PathLike[str], boxes: Mapping[str, ArrayLike]) -> Path:
    """Write a line per image, "id x1,y1,x2,y2 x1,y1,x2,y2 …" with six decimals, all or nothing.

    Args:
        path: the file.
        boxes: (N, 4) x1 y1 x2 y2 in [0, 1] by id, in the order written; N = 0 is an id alone.
    Raises: UsageError, naming the id, for boxes that are no such numbers, and for ids that could not be read back:
        empty ones, ones that begin or end with a space or hold a line break, ones that end like a box.
    """
    lines = []
    for name, rows in boxes.items():
        last = name.rpartition(" ")[2]
        if not name or name != name.strip() or len(name.splitlines()) != 1 or (last != name and _BOX.fullmatch(last)):
            raise UsageError(f"boxes: the id {name!r} could not be read back from a line of text")
        rounded = boxes_of(rows, f"boxes of {name!r}").round(6) + 0.0  # no "-0.000000"
        if (fault := _fault(rounded)) is not None:
            raise UsageError(f"boxes of {name!r}: {fault}")
        lines.append(" ".join([name, *(",".join(f"{v:.6f}" for v in row) for row in rounded.tolist())]))
    return write_whole(path, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def read_boxes(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """The (N, 4) float64 boxes x1 y1 x2 y2 of each id of a file, in its order; (0, 4) for an id alone.

    An id may hold spaces: boxes are the fields at the end of a line that are four numbers with commas.
    Raises: DataError, naming the line, for values outside [0, 1], corners in the wrong order, an id that is there
        twice, and a file that cannot be read.
    """
    file = Path(path)
    text = read_text(file)
    result: dict[str, NDArray[np.float64]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.strip().split(" ")
        at = len(fields)
        while at > 1 and (not fields[at - 1] or _BOX.fullmatch(fields[at - 1])):
            at -= 1
        name = " ".join(fields[:at])
        if not name:
            continue
        where = f"{file.name}:{number}"
        rows = [[float(v) for v in field.split(",")] for field in fields[at:] if field]
        shares = np.array(rows, dtype=np.float64).reshape(-1, 4)
        if (fault := _fault(shares)) is not None:
            raise DataError(f"{where}: {fault}")
        if name in result:
            raise DataError(f"{where}: the id {name!r} is there for the second time; expected one line per image")
        result[name] = shares
    return result


def manifest_boxes(manifest: Manifest, name: str = "boxes") -> list[NDArray[np.float64]]:
    """The (N, 4) boxes x1 y1 x2 y2 of every row, from the files of its column ``file.<name>``; each is read once.

    Ids are paths relative to the folder of their file, so that a manifest may be written elsewhere; failing that, the
    row's path as the manifest writes it.
    Raises: DataError for a row without a file, or whose path its file does not list, and as ``read_boxes``.
    """
    known: dict[Path, dict[str, NDArray[np.float64]]] = {}  # by place, and as written
    result = []
    for i in range(len(manifest)):
        file = manifest.file(i, name)
        if file is None:
            raise DataError(
                f"{manifest.relative(i)}: no file.{name} in the manifest; every row needs a file of boxes, as "
                "`unreel data prepare` writes with --set layout.files=FOLDER"
            )
        if file not in known:
            listed, folder = read_boxes(file), os.path.abspath(file.parent)
            known[file] = listed | {os.path.normpath(os.path.join(folder, k)): v for k, v in listed.items()}
        places = (os.path.abspath(manifest.absolute(i)), manifest.relative(i))
        found = next((known[file][place] for place in places if place in known[file]), None)
        if found is None:
            raise DataError(
                f"{manifest.relative(i)}: not listed in {file}; expected a line per image, an id alone where there is "
                "no box"
            )
        result.append(found)
    return result


def _fault(shares: NDArray[np.float64]) -> str | None:
    for row in shares.tolist():
        x1, y1, x2, y2 = row
        if not (all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in row) and x1 <= x2 and y1 <= y2):
            return f"expected 0 ≤ x1 ≤ x2 ≤ 1 and 0 ≤ y1 ≤ y2 ≤ 1, found {', '.join(f'{v:g}' for v in row)}"
    return None
