"""Pascal VOC (Everingham et al. 2010), and data sets annotated like it: one XML file of boxes per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.layouts.objects import Objects, add_boxes, add_masks_from, read_voc_objects

_PARTS = ("train", "val", "test")
_NOTES = ("Annotations", "annotations")
# The colour of index 255 in VOC's palette: outlines and what nobody decided on.
_VOID = (224, 224, 192)


def voc(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    year: str = "",
    one_based: bool = True,
    difficult: bool = False,
    files: str | None = None,
) -> LayoutResult:
    """A folder that holds one or more data sets of VOC's kind: ``VOCdevkit/VOC2007`` and ``VOC2012``, or another name.

    Expected, in one folder each: ``Annotations/<name>.xml``, ``JPEGImages/<name>.jpg`` (``annotations`` and ``images``
    are taken too), perhaps ``ImageSets/Main/{train,val,test,trainval}.txt`` with a name per line, and
    ``SegmentationObject/<name>.png``. Without lists every annotated image comes along, in no split.

    ``label.categories`` are an image's classes joined by "|", ``label.objects`` the number of its objects, ``label``
    the class where there is one only. VOC2007 has 2,501 train, 2,510 val and 4,952 test images, VOC2012 5,717 train
    and 5,823 val.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed images that do not exist, or ``skip``, which counts them.
        year: only folders whose name holds this, "2007"; all of them without.
        one_based: corners count from 1 and both belong to the object, as in VOC; False for plain coordinates.
        difficult: keep objects marked as difficult.
        files: a folder to write to: ``boxes.txt`` and ``objects.txt`` (columns ``file.boxes``, ``file.objects``; see
            ``layouts.objects.add_boxes``), and the union of the outlines as ``masks/….png`` (``file.mask``) where
            ``SegmentationObject`` has them.
    Raises: UsageError for another split; DataError for missing or malformed annotations, lists or images.
    """
    home = common.home_of("VOC", root, split_number)
    entries: list[Entry] = []
    found: dict[str, Objects] = {}
    for base in _bases(home, year):
        notes = _inside(base, _NOTES)
        pictures = common.image_files(_inside(base, ("JPEGImages", "images", "Images")) or base, home)
        outlines = common.image_files(base / "SegmentationObject", home)
        assert notes is not None  # what made it a base
        for name, split in _listed(base, notes).items():
            file = notes / f"{name}.xml"
            row = pictures.find(f"{name}.jpg")
            # Test lists may name images whose annotations are kept back.
            objects = read_voc_objects(file, one_based=one_based, difficult=difficult) if file.is_file() else None
            labels = objects.labels if objects is not None else {}
            extra = {"segmentation": outlines.find(f"{name}.png")}
            entries.append(Entry(f"{base.name}/{name}", row, split, "", labels=labels, files=extra))
            if row is not None and objects is not None:
                found[row] = objects
    result = common.assemble("VOC", home, home, entries, missing=missing, noun="images")
    if files is None:
        return result
    return add_masks_from(add_boxes(result, found, Path(files)), "segmentation", _outlined, files)


def _inside(base: Path, names: tuple[str, ...]) -> Path | None:
    return next((base / n for n in names if (base / n).is_dir()), None)


def _bases(home: Path, year: str) -> list[Path]:
    """The folders with annotations, here or up to two below."""

    def annotated(folder: Path) -> bool:
        notes = _inside(folder, _NOTES)
        return notes is not None and next(notes.glob("*.xml"), None) is not None

    found = [f for f in common.folders(home, enter=lambda f: not annotated(f)) if annotated(f)]
    chosen = [f for f in found if year in f.name]
    if not chosen:
        have = f"; found {', '.join(f.name for f in found)}" if found else ""
        raise DataError(f"{home}: no folder {f'of {year} ' if year else ''}with Annotations/*.xml here or below{have}")
    return chosen


def _listed(base: Path, notes: Path) -> dict[str, str]:
    """Name to split, in the order of the lists."""
    folder = base / "ImageSets" / "Main"
    names = common.read_splits(folder, _PARTS, "an image")
    if (folder / "trainval.txt").is_file():  # of use only where the parts it joins are not listed themselves
        names = {**names, **{n: names.get(n, "train") for _, n in common.read_list(folder / "trainval.txt")}}
    return names or {p.stem: "" for p in sorted(notes.glob("*.xml"))}


def _outlined(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(pixels.any(axis=2) & (pixels != np.array(_VOID)).any(axis=2))
