"""COCO instances (Lin et al. 2014): images with outlined objects, listed in one JSON file per split."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.data.boxes import MARGIN, MIN_SCALE, boxes_to_shares
from unreel.data.dataset import resize_frames
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.layouts.objects import (
    Objects,
    add_boxes,
    add_masks,
    files_folder,
    polygon_mask,
    read_image,
    run_length_mask,
    write_image,
)

_CROP_PX = 256


class _Table(NamedTuple):
    """One annotation file: images in order, their annotations by id, names of the categories, and the split."""

    path: Path
    split: str
    images: Sequence[Mapping[str, Any]]
    annotations: Mapping[int, list[Mapping[str, Any]]]
    categories: Mapping[int, str]


def coco(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    annotations: str = "instances_*.json",
    objects: bool = False,
    crowd: bool = False,
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
    files: str | None = None,
    masks: bool = False,
) -> LayoutResult:
    """A folder that holds the images and the annotation files, wherever below it.

    Expected: ``annotations/instances_train2017.json`` and ``…_val2017.json`` with the lists ``images``,
    ``annotations`` and ``categories``, and images named as ``file_name`` says, in folders named like the splits
    (``train2017``) or any other. The split is the word train, val or test in the name of the annotation file.

    A row is an image: ``label.categories`` are its classes joined by "|", ``label.objects`` their number, ``label``
    the class where there is one only. With ``objects=True`` a row is an object, cut out and written as a file, with
    ``label``, ``label.area`` (of its outline, in pixels), ``label.crowd`` (0 or 1), ``label.annotation`` (its id) and
    ``group`` the image: boxes of at least 1 % of the image with 20 % margin on each side, shorter side 256 px
    (docs/methods/evaluation.md, Transfer sets).

    Complete data has 118,287 train and 5,000 val images of 80 classes.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
        annotations: name of the annotation files, ``*`` for anything; one file per split.
        objects: rows are objects, which needs ``files``.
        crowd: count regions marked as crowds among the objects; they are in masks in any case.
        splits: ``linear``: val2017 becomes ``test``, and 10,000 of the training rows become ``val`` (10,000 / 118,287
            of fewer than 118,287 rows), objects of one image together (docs/methods/evaluation.md, Transfer sets).
        seed: of that draw.
        files: a folder to write to: ``boxes.txt`` and ``objects.txt`` (columns ``file.boxes``, ``file.objects``; see
            ``layouts.objects.add_boxes``), masks, crops.
        masks: also write the union of each image's outlines as ``masks/….png`` (``file.mask``), which takes long.
    Raises: UsageError for another split or without ``files`` where they are needed; DataError for missing or
        malformed annotations, two of one split, or missing images.
    """
    home = common.home_of("COCO", root, split_number)
    if objects or masks:
        files_folder(files, "crops and masks")
    tables = _tables(home, annotations)
    images = common.image_files(home)
    places: dict[str, list[str]] = defaultdict(list)
    for known in sorted(images.paths):
        places[known.rpartition("/")[2]].append(known)
    entries, outlines = [], {}
    cuts: dict[str, tuple[Objects, list[Mapping[str, Any]]]] = {}
    for table in tables:
        for image in table.images:
            here = [_checked(table, a) for a in table.annotations.get(int(image["id"]), [])]
            kept = [a for a in here if crowd or not a.get("iscrowd")]
            size = (int(image["height"]), int(image["width"]))
            inside = Objects(
                np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 4),
                tuple(table.categories[int(a["category_id"])] for a in kept),
                size,
                np.array([float(a.get("area", a["bbox"][2] * a["bbox"][3])) for a in kept]),
                len(here) - len(kept),
            )
            path = _choose(images, places, str(image["file_name"]), table)
            entries.append(Entry(str(image["file_name"]), path, table.split, "", labels=inside.labels))
            if path is not None:
                outlines[path] = partial(_union, table.path, here, size)
                cuts[path] = (inside, kept)
    result = common.assemble("COCO", home, home, entries, missing=missing, noun="images")
    if objects:
        result = _crops(result, home, cuts, files_folder(files, "crops"))
    elif files is not None:
        result = add_boxes(result, {path: inside for path, (inside, _) in cuts.items()}, Path(files))
        if masks:
            result = add_masks(result, outlines, Path(files))
    if splits == "linear":
        if any(row.split == "val" for row in result.manifest):
            names = ["test" if row.split == "val" else row.split for row in result.manifest]
            result = LayoutResult(result.manifest.with_splits(names), result.missing)
        whole = max(118_287, sum(row.split == "train" for row in result.manifest))
        result = common.draw_validation(result, 10_000, whole, seed=seed, what="COCO")
    return result


def _tables(home: Path, pattern: str) -> list[_Table]:
    paths = sorted(p for p in home.rglob(pattern) if p.suffix == ".json")
    if not paths:
        raise DataError(f"{home}: found no annotation file {pattern}, here or below")
    tables: list[_Table] = []
    for path in paths:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            grouped: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
            for annotation in data["annotations"]:
                grouped[int(annotation["image_id"])].append(annotation)
            categories = {int(c["id"]): str(c["name"]) for c in data["categories"]}
            images = [{k: image[k] for k in ("id", "file_name", "height", "width")} for image in data["images"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: expected COCO's lists images, annotations and categories ({type(error).__name__}: {error})"
            ) from None
        split = next((s for s in ("train", "val", "test") if s in path.stem.lower()), "")
        other = next((t.path for t in tables if t.split == split), None)
        if other is not None:
            raise DataError(
                f"{other.name} and {path.name} are both of split {split!r}; name one (annotations, "
                "--set layout.annotations=NAME)"
            )
        tables.append(_Table(path, split, images, grouped, categories))
    return tables


def _checked(table: _Table, annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    box = annotation.get("bbox")
    known = annotation.get("category_id") in table.categories
    if not known or not isinstance(box, list) or len(box) != 4:
        raise DataError(
            f"{table.path.name}: annotation {annotation.get('id')} has category {annotation.get('category_id')!r} and "
            f"box {box!r}; expected a listed category and x, y, width, height"
        )
    return annotation


def _choose(images: common.MediaFiles, places: Mapping[str, list[str]], listed: str, table: _Table) -> str | None:
    """The file of a name: at that path, in a folder named like the split, or the only one of its name."""
    if listed in images.paths:
        return listed
    named = places.get(listed.rpartition("/")[2], [])
    own = [p for p in named if table.split and any(table.split in part for part in p.lower().split("/")[:-1])]
    return next(iter([*own, *(named if len(named) == 1 else [])]), None)


def _union(path: Path, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=bool)
    for annotation in annotations:
        outline = annotation.get("segmentation") or []
        try:
            if isinstance(outline, dict):
                mask |= run_length_mask(outline["counts"], size)
            else:
                mask |= polygon_mask(outline, size)
        except (DataError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path.name}: annotation {annotation.get('id')}: {error}") from None
    return mask


def _crops(
    result: LayoutResult,
    home: Path,
    cuts: Mapping[str, tuple[Objects, list[Mapping[str, Any]]]],
    files: Path,
) -> LayoutResult:
    """Objects cut out as JPEG files of the best quality, as a manifest rooted at ``files``; existing ones are kept."""
    entries = []
    for row in result.manifest:
        inside, annotations = cuts[row.path]
        pixels: torch.Tensor | None = None
        for name, rectangle, annotation in zip(inside.names, inside.rectangles, annotations, strict=True):
            # At least 1 %, where boxes to train with are strictly above it.
            scale = float(np.nextafter(MIN_SCALE, 0))
            shares = boxes_to_shares(rectangle[None], inside.size, margin=MARGIN, min_scale=scale)
            if not len(shares):
                continue
            target = f"crops/{row.split or 'all'}/{name}/{int(annotation['id'])}.jpg"
            if not (files / target).exists():
                if pixels is None:
                    pixels = torch.from_numpy(read_image(home / row.path))
                write_image(files / target, _cut(pixels, shares[0]))
            labels = {
                "area": f"{float(annotation.get('area', rectangle[2] * rectangle[3])):g}",
                "crowd": str(int(bool(annotation.get("iscrowd")))),
                "annotation": str(int(annotation["id"])),
            }
            entries.append(Entry(target, target, row.split, name, f"{row.split}/{row.path}", labels))
    made = common.assemble(
        "COCO", files, files, entries, missing="error", notices=result.manifest.notices, noun="objects large enough"
    )
    return LayoutResult(made.manifest, result.missing)


def _cut(pixels: torch.Tensor, share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The box of (H, W, 3) uint8 pixels, rounded to whole pixels, its shorter side resized to 256."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(v) for v in (share * [width, height, width, height]).tolist())
    crop = pixels[None, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    scale = _CROP_PX / min(crop.shape[1:3])
    resized = resize_frames(crop, *(max(1, round(side * scale)) for side in crop.shape[1:3]))
    return np.asarray(resized[0].contiguous().numpy())
