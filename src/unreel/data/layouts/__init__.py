"""Known data sets as they lie on disk: for each, a function from a folder to a manifest. No video is opened.

Layouts of images with objects write boxes, masks or crops where asked (``files``); see ``layouts.objects``.
"""

from __future__ import annotations

import os

from unreel.core.errors import unknown_name
from unreel.core.settings import validate
from unreel.data.layouts.actions import hmdb51, kinetics, ucf101
from unreel.data.layouts.cifar import cifar10, cifar100
from unreel.data.layouts.coco import coco
from unreel.data.layouts.common import Layout, LayoutResult, Missing
from unreel.data.layouts.davis import davis
from unreel.data.layouts.fine_grained import cub, flowers102, food101, pets
from unreel.data.layouts.imagenet import imagenet, imagenet9, imagenet_c, imagenet_r, imagenet_sketch, imagenet_stylized
from unreel.data.layouts.voc import voc

_VIDEOS = (ucf101, hmdb51, kinetics, davis)
_IMAGENETS = (imagenet, imagenet_r, imagenet_sketch, imagenet_c, imagenet_stylized, imagenet9)
_IMAGES = (coco, voc, cub, flowers102, pets, food101, cifar10, cifar100)
LAYOUTS: dict[str, Layout] = {layout.__name__: layout for layout in (*_VIDEOS, *_IMAGENETS, *_IMAGES)}
"""Every layout by name."""


def read_layout(
    name: str, root: str | os.PathLike[str], *, split_number: int = 1, missing: Missing = "error", **options: object
) -> LayoutResult:
    """Read a data set by the name of its layout, with options of that layout's own.

    Raises: UsageError, with the nearest names, for an unknown layout or option; others as the layout's function.
    """
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    layout = LAYOUTS[name]
    return layout(root, split_number=split_number, missing=missing, **validate(layout, options, "layout"))
