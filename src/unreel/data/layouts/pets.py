"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing
from unreel.data.layouts.objects import add_masks_from

_LISTS = {"annotations/trainval.txt": "train", "annotations/test.txt": "test"}
_SPECIES = {"1": "cat", "2": "dog"}
# Values of a trimap.
_PET, _BORDER = 1, 3


def pets(
    root: str | os.PathLike[str],
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
    border: bool = False,
    files: str | None = None,
) -> LayoutResult:
    """A folder that holds ``images/`` and ``annotations/``, here or one or two folders below.

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
    common.check_split_number(split_number, 1, "Oxford-IIIT Pets")
    home = Path(root)
    base = common.find_files(home, *_LISTS)
    images = common.image_files(base / "images", base)
    trimaps = common.image_files(base / "annotations" / "trimaps", home)
    entries = []
    for listed, split in _LISTS.items():
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
