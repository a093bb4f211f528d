"""Where in an image or a clip the objects are, without labels: maps, and what follows from them."""

from unreel.explain.cam import classifier_cam
from unreel.explain.contracam import CamSettings, contracam, contrastive_score
from unreel.explain.driver import (
    CamMaps,
    ClipMap,
    array_maps,
    from_bytes,
    iterate_maps,
    maps_for,
    nearest_in_time,
    provenance,
    to_bytes,
    whole_frames,
)

__all__ = [
    "CamMaps",
    "CamSettings",
    "ClipMap",
    "array_maps",
    "classifier_cam",
    "contracam",
    "contrastive_score",
    "from_bytes",
    "iterate_maps",
    "maps_for",
    "nearest_in_time",
    "provenance",
    "to_bytes",
    "whole_frames",
]
