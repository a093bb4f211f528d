"""ImageNet-9, the Background Challenge (Xiao et al. 2021): nine classes, backgrounds kept, removed or swapped."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from unreel.core.checks import checked
from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.layouts.objects import add_masks_from

Variant = Literal["original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"]
VARIANTS: tuple[str, ...] = get_args(Variant)
"""The eight variants (docs/methods/evaluation.md, Background Challenge)."""
CLASSES = ("dog", "bird", "vehicle", "reptile", "carnivore", "insect", "instrument", "primate", "fish")
"""The nine super-classes in the order of their folders' numbers (docs/methods/evaluation.md, Distribution shift)."""
_PARTS = ("train", "val")
_CLASS = re.compile(r"(\d\d)_(.+)")
_IMAGE = re.compile(r"n\d{8}_\d+")


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
    """A folder that holds those of the variants that are there, wherever below it: ``<variant>/{train,val}/<class>/*``.

    Expected: ``original``, ``mixed_same``, ``mixed_rand``, ``mixed_next``, ``only_fg``, ``no_fg``, ``only_bg_b`` and
    ``only_bg_t``, together or in folders of their own (``bg_challenge/``), with class folders such as "00_dog" and
    "02_wheeled vehicle". ``label`` is one of the nine words of ``CLASSES``, ``label.variant`` the variant. The
    ``val`` folders are the split ``test``; ``train`` of one variant is ``train``, of the others it stays out, since
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
    parts = _parts(home, notices)
    foregrounds = {
        part: common.image_files(folder, home) for (variant, part), folder in parts.items() if variant == "only_fg"
    }
    for (variant, part), folder in parts.items():
        if part == "train" and variant != train_variant:
            continue
        place = Path(os.path.relpath(folder, home)).as_posix()
        for path in sorted(common.image_files(folder).paths):
            found = _IMAGE.search(path.rpartition("/")[2])
            cut = foregrounds[part].find(path) if variant == "original" and part in foregrounds else None
            label = _label(folder / path, path)
            split = "train" if part == "train" else "test"
            group = found[0] if found else ""
            entries.append(
                Entry(path, f"{place}/{path}", split, label, group, {"variant": variant}, {"foreground": cut})
            )
    result = common.assemble("ImageNet-9", home, home, entries, missing=missing, notices=notices, noun="images")
    if files is not None:
        result = add_masks_from(result, "foreground", lambda pixels: np.all(pixels > 0, axis=2), files)
    if splits == "linear":
        result = common.draw_validation(result, 5, 100, seed=seed, what="ImageNet-9")
    return result


def _parts(home: Path, notices: list[str]) -> dict[tuple[str, str], Path]:
    """The folders by variant and part, in the order of ``VARIANTS``."""
    found: dict[tuple[str, str], Path] = {}
    inside = (*VARIANTS, *_PARTS)
    for folder in common.folders(home, lambda f: f == home or f.name not in inside):
        for variant, part in product(VARIANTS, _PARTS):
            path = folder / variant / part
            if path.is_dir() and found.setdefault((variant, part), path) != path:
                notices.append(f"{path} left out: {found[variant, part]} is the same part")
    if not found:
        raise DataError(f"{home}: found none of {', '.join(VARIANTS)} with train or val in it, here or below")
    return {key: found[key] for key in product(VARIANTS, _PARTS) if key in found}


def _label(full: Path, path: str) -> str:
    match = _CLASS.fullmatch(path.split("/")[0])
    number = int(match[1]) if match else len(CLASSES)
    if number >= len(CLASSES) or match is None or CLASSES[number] not in match[2]:
        raise DataError(f"{full}: expected it in a folder such as 00_dog; the classes are {', '.join(CLASSES)}")
    return CLASSES[number]
