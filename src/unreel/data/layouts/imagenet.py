"""ImageNet (Deng et al. 2009; Russakovsky et al. 2015) and its shifted test sets: folders named by WordNet id."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from unreel.core.checks import checked
from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.layouts.objects import add_masks_from
from unreel.data.text import read_text
from unreel.media import IMAGE_SUFFIXES

_WNID = re.compile(r"n\d{8}")
_TRUTH = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
_NAMES = ("LOC_synset_mapping.txt", "words.txt")

Variant = Literal["original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"]
IMAGENET9_VARIANTS: tuple[str, ...] = get_args(Variant)
"""The eight variants (docs/methods/evaluation.md, Background Challenge)."""
IMAGENET9_CLASSES = ("dog", "bird", "vehicle", "reptile", "carnivore", "insect", "instrument", "primate", "fish")
"""The nine super-classes in the order of their folders' numbers (docs/methods/evaluation.md, Distribution shift)."""
_PARTS = ("train", "val")
_CLASS = re.compile(r"(\d\d)_(.+)")
_IMAGE = re.compile(r"n\d{8}_\d+")


def imagenet(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """A folder that holds ``train`` and ``val``, wherever one or two folders below it they lie; either may be absent.

    Expected: ``train/<wnid>/*.JPEG``, and ``val/<wnid>/*.JPEG`` or ``val/ILSVRC2012_val_00000001.JPEG`` with one of
    the lists of the true classes somewhere beside them: ``LOC_val_solution.csv`` ("<image>,<wnid> …"),
    ``imagenet_2012_validation_synset_labels.txt`` (a wnid per line), or the development kit's
    ``ILSVRC2012_validation_ground_truth.txt`` (a number per line) and ``meta.mat``. ``label`` is the folder or wnid;
    ``label.name`` the words for it where ``LOC_synset_mapping.txt``, ``words.txt`` or ``meta.mat`` is there.

    Complete data has 1,281,167 train and 50,000 val images of 1,000 classes. Images without a label (test) stay out.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: kept for all layouts; folders list what there is, so nothing can be missing.
    Raises: UsageError for another split; DataError where there are no images, or no list for a flat ``val``.
    """
    home = common.home_of("ImageNet", root, split_number)
    base = common.find_folder(home, lambda f: any((f / p).is_dir() for p in _PARTS), "folder with train or val in it")
    names = _class_names(home)
    entries = []
    for part in _PARTS:
        truth: dict[str, str] | None = None
        for path in sorted(common.image_files(base / part).paths) if (base / part).is_dir() else ():
            label = path.split("/")[0] if "/" in path else ""
            if not label:
                truth = _truth(home) if truth is None else truth
                stem = os.path.splitext(path)[0]
                if stem not in truth:
                    raise DataError(f"{base / part / path}: lies in no class's folder and no list gives its class")
                label = truth[stem]
            entries.append(Entry(path, f"{part}/{path}", part, label, labels={"name": names.get(label, "")}))
    return common.assemble("ImageNet", home, base, entries, missing=missing, noun="images")


def imagenet_r(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """ImageNet-R (Hendrycks et al. 2021): ``<wnid>/*.jpg``, 30,000 renditions of 200 classes, all in split ``test``.

    Arguments and errors as ``imagenet``.
    """
    return _test_folders("ImageNet-R", root, split_number, missing)


def imagenet_sketch(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """ImageNet-Sketch (Wang et al. 2019): ``<wnid>/*.JPEG``, 50,889 sketches of 1,000 classes, in split ``test``.

    Arguments and errors as ``imagenet``.
    """
    return _test_folders("ImageNet-Sketch", root, split_number, missing)


def imagenet_c(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """ImageNet-C (Hendrycks and Dietterich 2019): ``[<kind>/]<corruption>/<severity>/<wnid>/*.JPEG``, split ``test``.

    ``label.corruption`` and ``label.severity`` (1 to 5) tell the 75 to 95 versions apart; ``group`` is the image that
    they were made from. Arguments and errors as ``imagenet``.
    """
    home = common.home_of("ImageNet-C", root, split_number)
    names = _class_names(home)
    entries = []
    for path in sorted(common.image_files(home).paths):
        *_, corruption, severity, label, name = ["", "", "", *path.split("/")]
        if severity not in ("1", "2", "3", "4", "5") or not corruption or not _WNID.fullmatch(label):
            raise DataError(f"{home / path}: expected <corruption>/<severity 1 to 5>/<wnid>/ above an image")
        labels = {"corruption": corruption, "severity": severity, "name": names.get(label, "")}
        group = f"{label}/{os.path.splitext(name)[0]}"
        entries.append(Entry(path, path, "test", label, group, labels))
    return common.assemble("ImageNet-C", home, home, entries, missing=missing, noun="images")


def imagenet_stylized(root: Root, *, split_number: int = 1, missing: Missing = "error") -> LayoutResult:
    """Stylized-ImageNet (Geirhos et al. 2019): ``train/<wnid>/*`` and ``val/<wnid>/*``, as ``imagenet`` reads them."""
    return imagenet(root, split_number=split_number, missing=missing)


def _test_folders(data_set: str, root: Root, split_number: int, missing: Missing) -> LayoutResult:
    home = common.home_of(data_set, root, split_number)

    def holds(folder: Path) -> bool:
        classes = (e for e in os.scandir(folder) if e.is_dir() and _WNID.fullmatch(e.name))
        return any(common.is_media(e.name, IMAGE_SUFFIXES) for c in classes for e in os.scandir(c.path))

    base = common.find_folder(home, holds, "folder whose sub-folders are WordNet ids (n01443537) and hold images")
    names = _class_names(home)
    found = [p for p in sorted(common.image_files(base).paths) if _WNID.fullmatch(p.split("/")[0])]
    entries = [
        Entry(p, p, "test", label, labels={"name": names.get(label, "")}) for p in found for label in [p.split("/")[0]]
    ]
    return common.assemble(data_set, home, base, entries, missing=missing, noun="images")


def _beside(home: Path) -> Iterator[Path]:
    """Files below a folder, but not those among the images."""
    for inside, folders, names in os.walk(home):
        folders[:] = sorted(
            n for n in folders if n not in ("train", "val", "test") and not n.startswith(".") and not _WNID.fullmatch(n)
        )
        yield from (Path(inside, name) for name in sorted(names))


def _class_names(home: Path) -> dict[str, str]:
    """wnid to words, from whatever file gives them; empty without one."""
    found = {p.name: p for p in _beside(home)}
    for name in _NAMES:
        if name in found:
            lines = [re.split(r"[\t ]", line.text, maxsplit=1) for line in common.read_list(found[name])]
            return {fields[0]: fields[1].strip() for fields in lines if len(fields) == 2}
    if "meta.mat" in found:
        return {wnid: words for _, wnid, words in _meta(found["meta.mat"])}
    return {}


def _truth(home: Path) -> dict[str, str]:
    """Name of a val image, without its suffix, to wnid. Raises DataError where no list is there."""
    found = {p.name: p for p in _beside(home)}
    solution, synsets, numbers = (found.get(name) for name in _TRUTH)
    if solution is not None:
        lines = csv.reader(io.StringIO(read_text(solution), newline=""))
        rows = [row for row in lines if len(row) >= 2 and row[0] != "ImageId"]
        return {row[0]: row[1].split()[0] for row in rows}
    if synsets is not None:
        return {_val(i): line.text for i, line in enumerate(common.read_list(synsets), 1)}
    if numbers is not None and "meta.mat" in found:
        wnids = {number: wnid for number, wnid, _ in _meta(found["meta.mat"])}
        truth = {}
        for i, (where, text) in enumerate(common.read_list(numbers), 1):
            if not text.isdigit() or int(text) not in wnids:
                raise DataError(f"{where}: expected the number of a class in meta.mat, found {text!r}")
            truth[_val(i)] = wnids[int(text)]
        return truth
    raise DataError(
        f"{home}: the images of val lie in no folders by class; expected one of {', '.join(_TRUTH)} (this one with "
        "meta.mat) beside them"
    )


def _val(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def _meta(path: Path) -> list[tuple[int, str, str]]:
    """Number, wnid and words of each class of the development kit."""

    def read(data: Any) -> list[tuple[int, str, str]]:
        columns = [data["synsets"][name].ravel().tolist() for name in ("ILSVRC2012_ID", "WNID", "words")]
        return [(int(number), str(wnid), str(words)) for number, wnid, words in zip(*columns, strict=True)]

    return common.read_mat(path, "the development kit's table of classes", read)


@checked
def imagenet9(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    train_variant: Variant = "original",
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
    files: str | None = None,
) -> LayoutResult:
    """ImageNet-9, the Background Challenge (Xiao et al. 2021): nine classes, backgrounds kept, removed or swapped.

    A folder that holds those of the variants that are there, wherever below it: ``<variant>/{train,val}/<class>/*``.

    Expected: ``original``, ``mixed_same``, ``mixed_rand``, ``mixed_next``, ``only_fg``, ``no_fg``, ``only_bg_b`` and
    ``only_bg_t``, together or in folders of their own (``bg_challenge/``), with class folders such as "00_dog" and
    "02_wheeled vehicle". ``label`` is one of the nine words of ``IMAGENET9_CLASSES``, ``label.variant`` the variant.
    The ``val`` folders are the split ``test``; ``train`` of one variant is ``train``, of the others it stays out, since
    methods must be told which background they may learn from. ``group`` is the ImageNet image that a picture's
    foreground (or only background) comes from, equal over variants: pair by it.

    Complete data has 45,405 train images in ``original`` (9 × 5,045) and 4,050 test images in each variant.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: kept for all layouts; folders list what there is, so nothing can be missing.
        train_variant: whose ``train`` folder is the split ``train``.
        splits: ``linear`` draws 5 % of ``train`` as ``val``, for choosing the linear head (docs/methods/evaluation.md,
            Transfer sets).
        seed: of that draw.
        files: a folder; masks of the ``original`` images are written below it as ``masks/…`` (``file.mask``), where
            ``only_fg`` holds the same picture: its pixels with all three channels above 0 (docs/methods/evaluation.md,
            Localisation).
            Without it ``file.foreground`` names that picture.
    Raises: UsageError for another split or variant; DataError where no variant is there, or a class is none of nine.
    """
    home = common.home_of("ImageNet-9", root, split_number)
    entries: list[Entry] = []
    notices: list[str] = []
    parts = _variant_folders(home, notices)
    for (variant, part), folder in parts.items():
        if part == "train" and variant != train_variant:
            continue
        place = Path(os.path.relpath(folder, home)).as_posix()
        cut_out = parts.get(("only_fg", part)) if variant == "original" else None
        foregrounds = common.image_files(cut_out, home) if cut_out is not None else None
        split = "train" if part == "train" else "test"
        for path in sorted(common.image_files(folder).paths):
            found = _IMAGE.search(path.rpartition("/")[2])
            extra = {"foreground": foregrounds.find(path)} if foregrounds is not None else {}
            label, group, labels = _class_of(folder / path, path), found[0] if found else "", {"variant": variant}
            entries.append(Entry(path, f"{place}/{path}", split, label, group, labels, extra))
    result = common.assemble("ImageNet-9", home, home, entries, missing=missing, notices=notices, noun="images")
    if files is not None:
        result = add_masks_from(result, "foreground", lambda pixels: np.all(pixels > 0, axis=2), files)
    if splits == "linear":
        result = common.draw_validation(result, 5, 100, seed=seed, what="ImageNet-9")
    return result


def _variant_folders(home: Path, notices: list[str]) -> dict[tuple[str, str], Path]:
    """The folders by variant and part, in the order of ``IMAGENET9_VARIANTS``."""
    found: dict[tuple[str, str], Path] = {}
    inside = (*IMAGENET9_VARIANTS, *_PARTS)
    for folder in common.folders(home, lambda f: f == home or f.name not in inside):
        for variant, part in product(IMAGENET9_VARIANTS, _PARTS):
            path = folder / variant / part
            if path.is_dir() and found.setdefault((variant, part), path) != path:
                notices.append(f"{path} left out: {found[variant, part]} is the same part")
    if not found:
        raise DataError(f"{home}: found none of {', '.join(IMAGENET9_VARIANTS)} with train or val in it, here or below")
    return {key: found[key] for key in product(IMAGENET9_VARIANTS, _PARTS) if key in found}


def _class_of(full: Path, path: str) -> str:
    match = _CLASS.fullmatch(path.split("/")[0])
    label = dict(enumerate(IMAGENET9_CLASSES)).get(int(match[1])) if match else None
    if match is None or label is None or label not in match[2]:
        classes = ", ".join(IMAGENET9_CLASSES)
        raise DataError(f"{full}: expected it in a folder such as 00_dog; the classes are {classes}")
    return label
