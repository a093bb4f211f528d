"""What layouts write for a data set whose objects lie in no file of their own: boxes, masks, crops."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError
from unreel.core.files import write_whole
from unreel.data.boxes import boxes_to_shares, write_boxes
from unreel.data.layouts.common import LayoutResult, reference
from unreel.media import ImageDecoder, encode_image

Mask = Callable[[], NDArray[np.bool_]]


class Objects(NamedTuple):
    """The annotated objects of one image.

    ``rectangles`` (N, 4) float64 x, y, width, height in pixels; ``names`` N classes; ``size`` height and width of the
    image in pixels; ``areas`` (N,) pixels of the objects, or None for width · height; ``left_out`` how many objects
    (difficult ones, crowds) are not among them.
    """

    rectangles: NDArray[np.float64]
    names: tuple[str, ...]
    size: tuple[int, int]
    areas: NDArray[np.float64] | None = None
    left_out: int = 0

    @property
    def labels(self) -> dict[str, str]:
        """``label`` where all objects are of one class, ``categories`` joined by "|", and the number of ``objects``."""
        classes = sorted(set(self.names))
        single = {"label": classes[0]} if len(classes) == 1 else {}
        return {**single, "categories": "|".join(classes), "objects": str(len(self.names))}


def files_folder(files: str | os.PathLike[str] | None, what: str) -> Path:
    """The folder to write to. Raises UsageError where none is given."""
    if files is None:
        raise UsageError(f"{what} are written as files: name a folder for them (files, --set layout.files=FOLDER)")
    return Path(files)


def add_boxes(result: LayoutResult, objects: Mapping[str, Objects], files: Path) -> LayoutResult:
    """Write ``boxes.txt`` and ``objects.txt``, a line per row, and name them in ``file.boxes`` and ``file.objects``.

    ``file.boxes`` holds the ground truth to train with: objects of more than 1 % of the image, with 20 % margin on
    each side (docs/methods/contracam.md, Boxes); ``file.objects`` holds every object as annotated, to compare with.
    Read both by ``unreel.data.boxes.manifest_boxes``.

    Args:
        result: rows to add to.
        objects: by the path of the row; rows that are not there get no files.
        files: the folder to write to.
    """
    manifest = result.manifest
    every = {row.path: objects[row.path] for row in manifest if row.path in objects}
    here = os.path.abspath(files)
    names = {p: Path(os.path.relpath(os.path.join(manifest.root, p), here)).as_posix() for p in every}
    columns = {
        "boxes": {names[p]: boxes_to_shares(o.rectangles, o.size, areas=o.areas) for p, o in every.items()},
        "objects": {names[p]: boxes_to_shares(o.rectangles, o.size, margin=0, min_scale=0) for p, o in every.items()},
    }
    written = {n: reference(manifest.root, write_boxes(files / f"{n}.txt", rows)) for n, rows in columns.items()}
    told = [*manifest.notices]
    left_out = sum(o.left_out for o in every.values())
    if left_out:
        told.append(f"{left_out} difficult or crowd objects are not among the boxes")
    rows = tuple(replace(row, files={**row.files, **written}) if row.path in objects else row for row in manifest)
    return LayoutResult(replace(manifest, rows=rows, notices=tuple(told)), result.missing)


def add_masks(result: LayoutResult, masks: Mapping[str, Mask], files: Path) -> LayoutResult:
    """Write ``masks/<path>.png``, 255 where the object is and 0 elsewhere, and name it in the row's ``file.mask``.

    Args:
        result: rows to add to.
        masks: (H, W) bool by the path of the row, computed when written; existing files are kept.
        files: the folder to write to.
    """
    rows = []
    for row in result.manifest:
        if row.path in masks:
            target = files / "masks" / f"{os.path.splitext(row.path)[0]}.png"
            if not target.exists():
                gray = masks[row.path]().astype(np.uint8) * np.uint8(255)
                write_image(target, np.repeat(gray[:, :, None], 3, axis=2))
            row = replace(row, files={**row.files, "mask": reference(result.manifest.root, target)})
        rows.append(row)
    return LayoutResult(replace(result.manifest, rows=tuple(rows)), result.missing)


def add_masks_from(
    result: LayoutResult, column: str, shows: Callable[[NDArray[np.uint8]], NDArray[np.bool_]], files: str | Path
) -> LayoutResult:
    """``add_masks`` for rows with a ``file.<column>``, a picture: where ``shows`` says so of its (H, W, 3) pixels."""

    def read(path: Path) -> NDArray[np.bool_]:
        return np.asarray(shows(read_image(path)))

    manifest = result.manifest
    pictures = {row.path: Path(manifest.root, row.files[column]) for row in manifest if column in row.files}
    return add_masks(result, {row: partial(read, path) for row, path in pictures.items()}, Path(files))


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """An (H, W, 3) uint8 image as PNG, or as JPEG of the best quality by its suffix; all or nothing."""
    png = path.suffix == ".png"
    write_whole(path, encode_image(pixels, format="png") if png else encode_image(pixels, format="jpeg", quality=2))


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB. Raises MediaError."""
    return np.asarray(ImageDecoder().read(path, indices=np.zeros(1, dtype=np.int64)).pixels[0])


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels. Raises MediaError."""
    info = ImageDecoder().probe(path)
    return info.height, info.width


def polygon_mask(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: pixels whose centre lies inside any of the polygons, each [x0, y0, x1, y1 …] in pixels.

    Within a polygon, inside is an odd number of crossings. COCO's own tool draws outlines five times as fine and
    rounds, so pixels that an outline cuts may differ.
    """
    height, width = size
    union = np.zeros((height, width), dtype=bool)
    centres = np.arange(height) + 0.5
    for flat in polygons:
        points = np.asarray(flat, dtype=np.float64).reshape(-1, 2)
        x1, y1 = points[:, :1], points[:, 1:]
        x2, y2 = np.roll(x1, -1, axis=0), np.roll(y1, -1, axis=0)
        edge, row = np.nonzero((y1 <= centres) != (y2 <= centres))
        share = (centres[row] - y1[edge, 0]) / (y2 - y1)[edge, 0]
        crossing = x1[edge, 0] + share * (x2 - x1)[edge, 0]
        # The first pixel whose centre lies right of the crossing.
        column = np.clip(np.floor(crossing + 0.5), 0, width).astype(np.int64)
        flips = np.zeros((height, width + 1), dtype=np.int64)
        np.add.at(flips, (row, column), 1)
        union |= (np.cumsum(flips, axis=1)[:, :width] & 1).astype(bool)
    return union


def run_length_mask(counts: str | Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool from COCO's run lengths, column by column and beginning with background, as numbers or as text.

    Raises: DataError where the runs do not add up to the image.
    """
    height, width = size
    runs = np.asarray(_decode(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"run lengths of {int(runs.sum())} pixels; the mask is {height} × {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.asarray(np.repeat(values, runs).reshape(width, height).T)


def _decode(text: str) -> list[int]:
    """COCO's text form: five bits a character from the lowest, the third run on as a difference to two before."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def read_voc_objects(path: Path, *, one_based: bool = True, difficult: bool = False) -> Objects:
    """The objects of one annotation file of Pascal VOC's kind.

    Args:
        path: the .xml file.
        one_based: corners count from 1 and both belong to the object, as VOC's own; else they are plain coordinates.
        difficult: keep objects marked as difficult.
    Raises: DataError, naming the file, where it is not such a file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can grow without bound; no annotation has any
        raise DataError(f"{path}: declares a document type; expected a plain VOC annotation")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not readable as XML ({error})") from None
    height, width = (int(_number(root, f"size/{name}", path)) for name in ("height", "width"))
    if min(height, width) < 1:
        raise DataError(f"{path}: gives the image {width} × {height} px")
    kept, names, left_out = [], [], 0
    for item in root.findall("object"):
        if not difficult and (item.findtext("difficult") or "0").strip() == "1":
            left_out += 1
            continue
        name = (item.findtext("name") or "").strip()
        x1, y1, x2, y2 = (_number(item, f"bndbox/{n}", path) for n in ("xmin", "ymin", "xmax", "ymax"))
        if not name or x2 < x1 or y2 < y1:
            raise DataError(f"{path}: an object {name!r} with the corners {x1:g}, {y1:g} and {x2:g}, {y2:g}")
        first = 1.0 if one_based else 0.0
        kept.append([x1 - first, y1 - first, x2 - x1 + first, y2 - y1 + first])
        names.append(name)
    rectangles = np.array(kept, dtype=np.float64).reshape(-1, 4)
    return Objects(rectangles, tuple(names), (height, width), left_out=left_out)


def _number(item: Any, name: str, path: Path) -> float:
    text = item.findtext(name)
    try:
        return float(text)
    except (TypeError, ValueError):
        raise DataError(f"{path}: expected a number in <{name}>, found {text!r}") from None
