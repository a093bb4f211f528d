"""Where in an image or a clip the objects are, without labels: maps, and what follows from them."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from unreel.explain.boxes import boxes_from_map, clean_mask, read_boxes, write_boxes
from unreel.explain.cam import classifier_cam
from unreel.explain.contracam import CamSettings, contracam, contrastive_score
from unreel.explain.crf import CrfSettings, dense_crf
from unreel.explain.driver import (
    CamMaps,
    ClipMap,
    array_maps,
    iterate_maps,
    maps_for,
    provenance,
    to_bytes,
    whole_frames,
)
from unreel.explain.tubelets import Tubelet, link_boxes, tubelets_from_map

__all__ = [
    "CamMaps",
    "CamSettings",
    "ClipMap",
    "CrfSettings",
    "Tubelet",
    "array_maps",
    "boxes_from_map",
    "classifier_cam",
    "clean_mask",
    "contracam",
    "contrastive_score",
    "dense_crf",
    "iterate_maps",
    "link_boxes",
    "maps_for",
    "provenance",
    "read_boxes",
    "to_bytes",
    "tubelets_from_map",
    "whole_frames",
    "write_boxes",
]


class _Package(ModuleType):
    """The package, which is also called like the command of its name: ``unreel.explain(encoder, data, out=…)``."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See ``unreel.recipes.maps.explain``, which stands above this package and is found by its name."""
        return import_module("unreel.recipes.maps").explain(*args, **options)


sys.modules[__name__].__class__ = _Package
