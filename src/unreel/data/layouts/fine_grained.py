"""Photographs of kinds that are hard to tell apart: birds (CUB-200-2011), flowers, pets and food."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root, reference
from unreel.data.layouts.objects import Objects, add_boxes, add_masks_from, image_size
from unreel.data.splits import hash_unit

# ReDO's split for segmentation: train, val, test (docs/methods/evaluation.md, Transfer sets).
_CUB_SEGMENTATION = (10_000, 788, 1_000)
_MATS = ("imagelabels.mat", "setid.mat")
_FLOWERS = {"trnid": "train", "valid": "val", "tstid": "test"}
# The largest list to train on (docs/methods/evaluation.md, Transfer sets).
_FLOWERS_SEGMENTATION = {"tstid": "train", "valid": "val", "trnid": "test"}
_PETS = {"annotations/trainval.txt": "train", "annotations/test.txt": "test"}
_SPECIES = {"1": "cat", "2": "dog"}
# Values of a trimap.
_PET, _BORDER = 1, 3


def cub(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear", "segmentation"] = "official",
    seed: int = common.SPLIT_SEED,
    files: str | None = None,
) -> LayoutResult:
    """CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 kinds of birds, with boxes and outlines.

    A folder that holds ``CUB_200_2011`` and, where it is there, ``segmentations``, which is a download of its own.

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
    home = common.home_of("CUB-200-2011", root, split_number)
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
    return _cub_segmentation(result, seed) if splits == "segmentation" else result


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


def _cub_segmentation(result: LayoutResult, seed: int) -> LayoutResult:
    manifest = result.manifest
    order = sorted(range(len(manifest)), key=lambda i: hash_unit(f"segmentation:{manifest[i].path}", seed))
    val, test = (round(len(manifest) * count / sum(_CUB_SEGMENTATION)) for count in _CUB_SEGMENTATION[1:])
    names = ["train"] * len(manifest)
    for place, i in enumerate(order[: test + val]):
        names[i] = "test" if place < test else "val"
    return LayoutResult(manifest.with_splits(names), result.missing)


def flowers102(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "segmentation"] = "official",
    files: str | None = None,
) -> LayoutResult:
    """Oxford 102 Flowers (Nilsback and Zisserman 2008): 8,189 photographs of 102 kinds, with segmented images.

    A folder that holds ``imagelabels.mat``, ``setid.mat``, ``jpg/`` and perhaps ``segmim/``, wherever below it.

    Expected: ``jpg/image_00001.jpg`` and ``segmim/segmim_00001.jpg``, numbered from 1 as the lists count. ``label`` is
    the number of the class with three digits ("001"); the data set names none. ``file.segmentation`` is the segmented
    image.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
        splits: ``official``: 1,020 train, 1,020 val, 6,149 test, as linear evaluation takes them too
            (docs/methods/evaluation.md, Transfer sets); ``segmentation``: train and test change places.
        files: a folder; masks of the flowers are written to it as ``masks/….png`` (``file.mask``): what is not
            background, which is R = 0 or G = 0 or B = 254 in the segmented image.
    Raises: UsageError for another split; DataError for missing or malformed lists, or missing images.
    """
    home = common.home_of("Flowers-102", root, split_number)
    base = common.find_files(home, *_MATS)
    labels = _numbers(base / _MATS[0], ["labels"])["labels"]
    sets = _numbers(base / _MATS[1], list(_FLOWERS))
    images, segmented = common.image_files(base / "jpg", base), common.image_files(base / "segmim", home)
    entries = []
    for name, split in (_FLOWERS_SEGMENTATION if splits == "segmentation" else _FLOWERS).items():
        for number in sets[name]:
            if not 1 <= number <= len(labels):
                raise DataError(f"setid.mat: {name} lists image {number}; imagelabels.mat has {len(labels)}")
            listed = f"image_{number:05d}.jpg"
            extra = {"segmentation": segmented.find(f"segmim_{number:05d}.jpg")}
            entries.append(Entry(listed, images.find(listed), split, f"{labels[number - 1]:03d}", files=extra))
    result = common.assemble("Flowers-102", home, base, entries, missing=missing, noun="images")
    return result if files is None else add_masks_from(result, "segmentation", _flower, files)


def _numbers(path: Path, names: list[str]) -> dict[str, list[int]]:
    def read(data: Any) -> dict[str, list[int]]:
        return {name: [int(v) for v in np.asarray(data[name]).ravel()] for name in names}

    return common.read_mat(path, f"a MATLAB file with {', '.join(names)}", read)


def _flower(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.asarray(~((red == 0) | (green == 0) | (blue == 254)))


def pets(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
    border: bool = False,
    files: str | None = None,
) -> LayoutResult:
    """Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps.

    A folder that holds ``images/`` and ``annotations/``, here or one or two folders below.

    Expected: ``annotations/trainval.txt`` and ``test.txt`` ("Abyssinian_100 1 1 1": name, class, 1 cat or 2 dog,
    breed), ``images/<name>.jpg`` and perhaps ``annotations/trimaps/<name>.png``. ``label`` is the breed, the name
    without its number; ``label.species`` cat or dog; ``file.trimap`` the trimap (1 pet, 2 background, 3 border).

    Args:
        root: the folder.
        split_number: 1, the only one: 3,680 train (listed as trainval) and 3,669 test.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
        splits: ``linear``: 740 of train become ``val`` (2,940 / 740 / 3,669, docs/methods/evaluation.md, Transfer sets;
            as large a share of fewer images).
        seed: of that draw.
        border: count the border of the trimaps as pet.
        files: a folder; masks of the pets are written to it as ``masks/….png`` (``file.mask``).
    Raises: UsageError for another split; DataError for missing lists or images, or a malformed line.
    """
    home = common.home_of("Oxford-IIIT Pets", root, split_number)
    base = common.find_files(home, *_PETS)
    images = common.image_files(base / "images", base)
    trimaps = common.image_files(base / "annotations" / "trimaps", home)
    entries = []
    for listed, split in _PETS.items():
        for where, text in common.read_list(base / listed):
            if text.startswith("#"):  # the header of the data set's full list
                continue
            cells = text.split()
            breed = cells[0].rpartition("_")[0]
            if len(cells) != 4 or cells[2] not in _SPECIES or not breed:
                raise DataError(f"{where}: expected 'Breed_1 <class> <1 or 2> <breed>', found {text!r}")
            picture, trimap = f"{cells[0]}.jpg", {"trimap": trimaps.find(f"{cells[0]}.png")}
            species = {"species": _SPECIES[cells[2]]}
            entries.append(Entry(picture, images.find(picture), split, breed, labels=species, files=trimap))
    result = common.assemble("Oxford-IIIT Pets", home, base, entries, missing=missing, noun="images")
    if files is not None:
        wanted = (_PET, _BORDER) if border else (_PET,)
        result = add_masks_from(result, "trimap", lambda pixels: np.isin(pixels[:, :, 0], wanted), files)
    if splits == "linear":
        result = common.draw_validation(result, 740, 3_680, seed=seed, what="Oxford-IIIT Pets")
    return result


def food101(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
) -> LayoutResult:
    """Food-101 (Bossard, Guillaumin and Van Gool 2014): 101,000 photographs of 101 dishes.

    A folder that holds ``images/`` and ``meta/``, here or one or two folders below.

    Expected: ``meta/train.txt`` and ``meta/test.txt`` ("apple_pie/1005649"), and ``images/<class>/<number>.jpg``.

    Args:
        root: the folder.
        split_number: 1, the only one: 75,750 train and 25,250 test.
        missing: ``error`` for listed names that do not exist, or ``skip``, which counts them.
        splits: ``linear``: 7,575 of train become ``val`` (68,175 / 7,575 / 25,250, docs/methods/evaluation.md, Transfer
            sets; a tenth of fewer images).
        seed: of that draw.
    Raises: UsageError for another split; DataError for missing lists or images, or a malformed line.
    """
    home = common.home_of("Food-101", root, split_number)
    base = common.find_files(home, "meta/train.txt", "meta/test.txt")
    images = common.image_files(base / "images", base)
    entries = []
    for split in ("train", "test"):
        for where, text in common.read_list(base / "meta" / f"{split}.txt"):
            if text.count("/") != 1:
                raise DataError(f"{where}: expected 'class/number', found {text!r}")
            entries.append(Entry(f"{text}.jpg", images.find(f"{text}.jpg"), split, text.split("/")[0]))
    result = common.assemble("Food-101", home, base, entries, missing=missing, noun="images")
    if splits == "linear":
        result = common.draw_validation(result, 7_575, 75_750, seed=seed, what="Food-101")
    return result
