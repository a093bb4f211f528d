"""CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 kinds of birds, with boxes and outlines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, reference
from unreel.data.layouts.objects import Objects, add_boxes, add_masks_from, image_size
from unreel.data.splits import hash_unit

# ReDO's split for segmentation: train, val, test (docs/methods/evaluation.md, Transfer sets).
_SEGMENTATION = (10_000, 788, 1_000)


def cub(
    root: str | os.PathLike[str],
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear", "segmentation"] = "official",
    seed: int = common.SPLIT_SEED,
    files: str | None = None,
) -> LayoutResult:
    """A folder that holds ``CUB_200_2011`` and, where it is there, ``segmentations``, which is a download of its own.

    Expected, in one folder: ``images.txt`` ("<number> <class>/<file>"), ``train_test_split.txt`` ("<number> 1" for
    train, 0 for test), ``images/``, perhaps ``bounding_boxes.txt`` ("<number> <x> <y> <width> <height>" in pixels) and
    ``segmentations/``; that last folder may lie elsewhere below the root. ``label`` is the class without its number.
    ``file.segmentation`` is the outline, whose gray is the share of people who called the pixel bird.

    Args:
        root: the folder.
        split_number: 1, the only official one: 5,994 train and 5,794 test.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
        splits: ``official``; ``linear``, where 1,000 of train become ``val`` (4,994 / 1,000 / 5,794,
            docs/methods/evaluation.md, Transfer sets); ``segmentation``: all images drawn anew as 10,000 / 788 / 1,000,
            the sizes of ReDO's, whose own list is not part of the data set. Fewer images are shared out
            likewise.
        seed: of those draws.
        files: a folder to write to: ``boxes.txt`` and ``objects.txt`` (columns ``file.boxes``, ``file.objects``; see
            ``layouts.objects.add_boxes``), and masks of the birds as ``masks/….png`` (``file.mask``), the pixels above
            half of white. Opens every image for its size.
    Raises: UsageError for another split; DataError for missing lists or images, or a malformed line.
    """
    common.check_split_number(split_number, 1, "CUB-200-2011")
    home = Path(root)
    base = common.find_files(home, "images.txt", "train_test_split.txt")
    names = _table(base / "images.txt", 1)
    marks = _table(base / "train_test_split.txt", 1)
    boxes = _table(base / "bounding_boxes.txt", 4) if (base / "bounding_boxes.txt").is_file() else {}
    images = common.image_files(base / "images", base)
    beside = (base / "segmentations").is_dir()
    outlines = common.image_files((base if beside else home) / "segmentations", home)
    entries, rectangles = [], {}
    for number, (name,) in names.items():
        mark = marks.get(number, [""])[0]
        if mark not in ("0", "1"):
            raise DataError(f"train_test_split.txt: image {number} is marked {mark!r}; expected 1 (train) or 0 (test)")
        path = images.find(name)
        outline = outlines.find(f"{os.path.splitext(name)[0]}.png")
        label = name.split("/")[0].partition(".")[2] or name.split("/")[0]
        split = "train" if mark == "1" else "test"
        entries.append(Entry(name, path, split, label, files={"segmentation": outline}))
        if path is not None and number in boxes:
            rectangles[reference(home, base / path)] = _box(number, boxes[number])
    result = common.assemble("CUB-200-2011", home, base, entries, missing=missing, noun="images")
    if files is not None:
        kept = {row.path for row in result.manifest}
        found = {
            path: Objects(np.array([box]), ("bird",), image_size(home / path))
            for path, box in rectangles.items()
            if path in kept
        }
        result = add_boxes(result, found, Path(files))
        result = add_masks_from(result, "segmentation", lambda pixels: pixels[:, :, 0] > 127, files)
    if splits == "linear":
        return common.draw_validation(result, 1_000, 5_994, seed=seed, what="CUB-200-2011")
    return _segmentation(result, seed) if splits == "segmentation" else result


def _table(path: Path, fields: int) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for where, text in common.read_list(path):
        cells = text.split()
        if len(cells) != fields + 1 or not cells[0].isdigit() or cells[0] in rows:
            raise DataError(f"{where}: expected a number of its own and {fields} values, found {text!r}")
        rows[cells[0]] = cells[1:]
    return rows


def _box(number: str, cells: list[str]) -> list[float]:
    try:
        return [float(c) for c in cells]
    except ValueError:
        raise DataError(f"bounding_boxes.txt: image {number}: expected four numbers, found {' '.join(cells)}") from None


def _segmentation(result: LayoutResult, seed: int) -> LayoutResult:
    manifest = result.manifest
    order = sorted(range(len(manifest)), key=lambda i: hash_unit(f"segmentation:{manifest[i].path}", seed))
    test, val = (round(len(manifest) * count / sum(_SEGMENTATION)) for count in (_SEGMENTATION[2], _SEGMENTATION[1]))
    names = ["train"] * len(manifest)
    for place, i in enumerate(order[: test + val]):
        names[i] = "test" if place < test else "val"
    return LayoutResult(manifest.with_splits(names), result.missing)
