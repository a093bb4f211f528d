"""Oxford 102 Flowers (Nilsback and Zisserman 2008): 8,189 photographs of 102 kinds, with segmented images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing
from unreel.data.layouts.objects import add_masks_from

_LISTS = ("imagelabels.mat", "setid.mat")
_OFFICIAL = {"trnid": "train", "valid": "val", "tstid": "test"}
# The largest list to train on (docs/methods/evaluation.md, Transfer sets).
_SEGMENTATION = {"tstid": "train", "valid": "val", "trnid": "test"}


def flowers102(
    root: str | os.PathLike[str],
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "segmentation"] = "official",
    files: str | None = None,
) -> LayoutResult:
    """A folder that holds ``imagelabels.mat``, ``setid.mat``, ``jpg/`` and perhaps ``segmim/``, wherever below it.

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
    common.check_split_number(split_number, 1, "Flowers-102")
    home = Path(root)
    base = common.find_files(home, *_LISTS)
    labels = _numbers(base / _LISTS[0], ["labels"])["labels"]
    sets = _numbers(base / _LISTS[1], list(_OFFICIAL))
    images, segmented = common.image_files(base / "jpg", base), common.image_files(base / "segmim", home)
    entries = []
    for name, split in (_SEGMENTATION if splits == "segmentation" else _OFFICIAL).items():
        for number in sets[name]:
            if not 1 <= number <= len(labels):
                raise DataError(f"setid.mat: {name} lists image {number}; imagelabels.mat has {len(labels)}")
            listed = f"image_{number:05d}.jpg"
            extra = {"segmentation": segmented.find(f"segmim_{number:05d}.jpg")}
            entries.append(Entry(listed, images.find(listed), split, f"{labels[number - 1]:03d}", files=extra))
    result = common.assemble("Flowers-102", home, base, entries, missing=missing, noun="images")
    return result if files is None else add_masks_from(result, "segmentation", _flower, files)


def _numbers(path: Path, names: list[str]) -> dict[str, list[int]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data = loadmat(path)
        return {name: [int(v) for v in np.asarray(data[name]).ravel()] for name in names}
    except (OSError, ValueError, TypeError, KeyError, MatReadError) as error:
        raise DataError(f"{path}: expected a MATLAB file with {', '.join(names)} ({error})") from None


def _flower(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.asarray(~((red == 0) | (green == 0) | (blue == 254)))
