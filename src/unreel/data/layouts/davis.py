"""DAVIS (Perazzi et al. 2016; Pont-Tuset et al. 2017): sequences as folders of frames, with a mask for every frame."""

from __future__ import annotations

import os
from pathlib import Path

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root, reference
from unreel.media import IMAGE_SUFFIXES

_PARTS = ("train", "val", "test")


def davis(
    root: Root,
    *,
    split_number: int = 1,
    missing: Missing = "error",
    year: str = "",
    resolution: str = "480p",
) -> LayoutResult:
    """A folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``, here or one or two folders below.

    Expected: ``JPEGImages/480p/<sequence>/00000.jpg``, ``Annotations/480p/<sequence>/00000.png`` (0 background), and
    ``ImageSets/480p/{train,val}.txt`` ("/JPEGImages/480p/<sequence>/00000.jpg /Annotations/…", 2016) or
    ``ImageSets/2017/{train,val}.txt`` (a sequence per line). A row is a sequence: ``path`` its folder of frames,
    ``file.mask`` its folder of masks, ``label`` its name. DAVIS 2016 has 30 train and 20 val sequences, 2017 60 and 30.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``error`` for listed sequences that do not exist, or ``skip``, which counts them.
        year: the folder of lists, "2016" or "2017"; without it that of the resolution, 2017's or 2016's, the first
            that is there.
        resolution: the folder of frames and masks.
    Raises: UsageError for another split; DataError for missing lists or sequences, and for a sequence with masks for
        only a part of its frames.
    """
    home = common.home_of("DAVIS", root, split_number)
    base = common.find_folder(
        home,
        lambda f: (f / "JPEGImages" / resolution).is_dir() and (f / "ImageSets").is_dir(),
        f"ImageSets and JPEGImages/{resolution}",
    )
    wanted = [year] if year else [resolution, "2017", "2016"]
    lists = next((base / "ImageSets" / n for n in wanted if (base / "ImageSets" / n).is_dir()), None)
    if lists is None:
        raise DataError(f"{base / 'ImageSets'}: expected a folder {' or '.join(wanted)} with train.txt or val.txt")
    sequences = common.read_splits(lists, _PARTS, "a sequence", _sequence)
    if not sequences:
        raise DataError(f"{lists}: expected train.txt or val.txt")
    entries = []
    for name, part in sequences.items():
        frames, masks = (base / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
        shown, outlined = _stems(frames), _stems(masks)
        if outlined and (lacking := sorted(shown - outlined)) and len(outlined) > 1:
            raise DataError(f"{masks}: no mask for {len(lacking)} of {len(shown)} frames, such as {lacking[0]}")
        # Test sequences of 2017 come with the first frame's mask only, or none.
        extra = {"mask": reference(home, masks)} if outlined and not shown - outlined else {}
        entries.append(Entry(name, reference(home, frames) if shown else None, part, name, files=extra))
    return common.assemble("DAVIS", home, home, entries, missing=missing, noun="sequences")


def _sequence(line: str) -> str:
    fields = line.split()[0].split("/")
    return fields[-2] if len(fields) > 1 else fields[0]


def _stems(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {os.path.splitext(e.name)[0] for e in os.scandir(folder) if common.is_media(e.name, IMAGE_SUFFIXES)}
