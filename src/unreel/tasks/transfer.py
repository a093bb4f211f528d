"""Where the object-aware paper's encoders are sent for linear evaluation: data sets, splits, sizes, seed.

Each is read by its layout, ``unreel data prepare LAYOUT ROOT --out MANIFEST`` with the options given here as
``--layout.NAME VALUE``, and scored by ``unreel evaluate RUN MANIFEST --profile paper-occon``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from unreel.core.errors import unknown_name
from unreel.data.layouts import read_layout
from unreel.data.layouts.common import SPLIT_SEED, Missing
from unreel.data.manifest import Manifest


class Sizes(NamedTuple):
    """Samples per part; ``None``: not fixed by the paper (a part of training is kept for choosing, or data differ)."""

    train: int | None
    val: int | None
    test: int | None


@dataclass(frozen=True)
class TransferSet:
    """One set of docs/methods/evaluation.md, Transfer sets: its layout, the layout's options, complete sizes."""

    layout: str
    sizes: Sizes
    num_classes: int
    options: Mapping[str, object] = field(default_factory=dict)
    writes_files: bool = False

    def command(self, root: str, out: str, files: str = "FOLDER") -> str:
        """The command that writes the manifest.

        >>> TRANSFER_SETS["pets"].command("pets", "pets.csv")
        'unreel data prepare pets pets --out pets.csv --layout.splits linear --layout.seed 42'
        """
        options = {**self.options, **({"files": files} if self.writes_files else {})}
        given = " ".join(
            f"--layout.{name} {str(value).lower() if value is True else value}" for name, value in options.items()
        )
        return f"unreel data prepare {self.layout} {root} --out {out} {given}".rstrip()


_LINEAR: Mapping[str, object] = {"splits": "linear", "seed": SPLIT_SEED}

TRANSFER_SETS: dict[str, TransferSet] = {
    # Objects of at least 1 % of the image, 20 % margin, shorter side 256; 10,000 of train are val, val2017 is test.
    # How many objects train and test hold follows from the annotations.
    "coco_objects": TransferSet("coco", Sizes(None, 10_000, None), 80, {"objects": True, **_LINEAR}, True),
    "cifar10": TransferSet("cifar10", Sizes(50_000, None, 10_000), 10, writes_files=True),
    "cifar100": TransferSet("cifar100", Sizes(50_000, None, 10_000), 100, writes_files=True),
    "cub": TransferSet("cub", Sizes(4_994, 1_000, 5_794), 200, _LINEAR),
    "flowers": TransferSet("flowers102", Sizes(1_020, 1_020, 6_149), 102, {"splits": "official"}),
    "food": TransferSet("food101", Sizes(68_175, 7_575, 25_250), 101, _LINEAR),
    "pets": TransferSet("pets", Sizes(2_940, 740, 3_669), 37, _LINEAR),
    # 5 % of the 45,405 training images are val; each of the eight variants has 4,050 test images: score it with the
    # task "background".
    "imagenet9": TransferSet("imagenet9", Sizes(43_135, 2_270, None), 9, _LINEAR),
}
"""The transfer sets by name. CIFAR has no validation part: the protocol keeps a share of training for choosing.

Source: docs/methods/evaluation.md, Transfer sets.
"""


def transfer_set(
    name: str, root: str | os.PathLike[str], *, files: str | os.PathLike[str] | None = None, missing: Missing = "error"
) -> Manifest:
    """The manifest of a transfer set, with notices where its sizes are not those of complete data.

    Args:
        name: one of ``TRANSFER_SETS``.
        root: the folder that holds its images and lists.
        files: the folder for images that must be written (objects of COCO, CIFAR).
        missing: what to do about listed files that do not exist.
    Raises: UsageError for an unknown name; others as its layout.
    """
    if name not in TRANSFER_SETS:
        raise unknown_name("transfer set", name, TRANSFER_SETS)
    wanted = TRANSFER_SETS[name]
    options: dict[str, Any] = {**wanted.options, **({} if files is None else {"files": os.fspath(files)})}
    manifest = read_layout(wanted.layout, root, missing=missing, **options).manifest
    return replace(manifest, notices=(*manifest.notices, *size_notes(name, manifest)))


def size_notes(name: str, manifest: Manifest) -> tuple[str, ...]:
    """How a manifest's parts differ from complete data; empty if they do not."""
    counts = Counter(row.split for row in manifest)
    wrong = [
        f"{part} {counts[part]} instead of {size}"
        for part, size in TRANSFER_SETS[name].sizes._asdict().items()
        if size is not None and counts[part] != size
    ]
    return (f"{name} is not complete: {', '.join(wrong)}",) if wrong else ()
