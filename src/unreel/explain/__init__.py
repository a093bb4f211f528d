"""Where in an image or a clip the objects are, without labels: maps, and what follows from them."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from unreel.explain.boxes import boxes_from_map, clean_mask, read_boxes, write_boxes
from unreel.explain.contracam import CamSettings, contracam, contrastive_score
from unreel.explain.crf import CrfSettings, dense_crf
from unreel.explain.driver import (
    ClipMap,
    MapMaker,
    to_bytes,
    whole_frames,
)
from unreel.explain.tubelets import Tubelet, link_boxes

__all__ = [
    "CamSettings",
    "ClipMap",
    "CrfSettings",
    "MapMaker",
    "Tubelet",
    "boxes_from_map",
    "clean_mask",
    "contracam",
    "contrastive_score",
    "dense_crf",
    "link_boxes",
    "read_boxes",
    "to_bytes",
    "whole_frames",
    "write_boxes",
]


class _Package(ModuleType):
    """The package, which is also called like the command of its name: ``unreel.explain(encoder, data, out=…)``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See ``unreel.recipes.maps.explain``, which stands above this package and is found by its name."""
        return import_module("unreel.recipes.maps").explain(*args, **options)


sys.modules[__name__].__class__ = _Package
