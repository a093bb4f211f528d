"""Food-101 (Bossard, Guillaumin and Van Gool 2014): 101,000 photographs of 101 dishes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing


def food101(
    root: str | os.PathLike[str],
    *,
    split_number: int = 1,
    missing: Missing = "error",
    splits: Literal["official", "linear"] = "official",
    seed: int = common.SPLIT_SEED,
) -> LayoutResult:
    """A folder that holds ``images/`` and ``meta/``, here or one or two folders below.

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
    common.check_split_number(split_number, 1, "Food-101")
    home = Path(root)
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
