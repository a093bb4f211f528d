"""From a soft map to clean masks and boxes.

Source: docs/methods/contracam.md, Cleaning and Boxes; Mo et al. 2021, arXiv 2108.00049.

Boxes are shares of the image, x1 y1 x2 y2 in [0, 1], margin included: the form that ``ObjectCrop`` reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from unreel.core.checks import checked
from unreel.core.errors import UsageError
from unreel.data.boxes import MARGIN, MIN_SCALE, boxes_to_shares, read_boxes, write_boxes
from unreel.explain.contracam import Variant
from unreel.metrics.localization import Contours, outline_boxes

__all__ = ["Contours", "boxes_from_map", "clean_mask", "map_rectangles", "read_boxes", "write_boxes"]

_SIDES_ONLY = ndimage.generate_binary_structure(2, 1)


def _array(values: Any, what: str) -> NDArray[Any]:
    data = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise UsageError(f"{what}: has values that are not finite; expected a map in [0, 1]")
    return data


def _frame(values: Any, what: str) -> NDArray[Any]:
    data = _array(values, what)
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    if data.ndim != 2 or 0 in data.shape:
        raise UsageError(
            f"{what}: expected one map (H, W), got {data.shape}; call it for each image, or each frame of a clip with "
            "peak=, the clip's maximum"
        )
    return data


def map_rectangles(
    map: Tensor | NDArray[Any], *, threshold: float = 0.5, contours: Contours = "outer", peak: float | None = None
) -> NDArray[np.int64]:
    """Bounding rectangles of what a map shows: (N, 4) x, y, width, height in pixels, neither widened nor sorted out.

    Args:
        map: (H, W), or with leading axes of length 1; ≥ 0.
        threshold: pixels above this share of ``peak`` belong to objects (strictly); touching ones, diagonally too,
            to the same.
        contours: "outer", one rectangle per object; "tree" adds the inner outline of every hole, as the release does
            with a full contour tree.
        peak: None is the map's maximum; a clip's maximum for its frames.
    Raises: UsageError for other shapes, values that are not finite, an unknown ``contours``.
    """
    values = _frame(map, "map")
    top = float(values.max()) if peak is None else float(peak)
    inside = values > threshold * top if top > 0 else np.zeros(values.shape, dtype=bool)
    return outline_boxes(inside, contours=contours)


def boxes_from_map(
    map: Tensor | NDArray[Any],
    *,
    threshold: float = 0.5,
    min_scale: float = MIN_SCALE,
    margin: float = MARGIN,
    largest_only: bool = False,
    contours: Contours = "outer",
    peak: float | None = None,
) -> Tensor:
    """Boxes of the objects that a map shows. Objects that touch are one; a zero map has none.

    Args:
        map: (H, W), or with leading axes of length 1; ≥ 0.
        threshold: pixels above this share of the maximum are object (strictly).
        min_scale: a box's area must exceed this share of the image's, before it is widened.
        margin: share of its width and height that a box is widened by on each side, within the image.
        largest_only: keep the box of the largest area only.
        contours: "outer" or the release's "tree", see ``map_rectangles``.
        peak: what ``threshold`` is a share of; None is the map's maximum.
    Returns: (N, 4) float64 x1 y1 x2 y2 in [0, 1], in the order of the objects' first pixels.
    Raises: UsageError as ``map_rectangles``, and for a negative margin.
    """
    values = _frame(map, "map")
    found = map_rectangles(values, threshold=threshold, contours=contours, peak=peak)
    if largest_only and len(found):
        found = found[[int(np.argmax(found[:, 2] * found[:, 3]))]]
    height, width = values.shape
    return torch.from_numpy(boxes_to_shares(found, (height, width), margin=margin, min_scale=min_scale))


@checked
def clean_mask(
    mask: Tensor | NDArray[Any],
    *,
    variant: Variant = "paper",
    binarise_threshold: float = 0.5,
    min_obj_scale: float = 0.001,
    single: bool = False,
) -> Tensor:
    """A binary mask without specks: the large 4-connected components of a soft mask.

    ``official`` computes what the release does: every pixel that is not zero in 8 bits belongs to an object, whatever
    ``binarise_threshold`` is; the first area above the limit is dropped, which is the background, or an object where
    the background is small; and ``single`` heeds no limit.

    Args:
        mask: (..., H, W) in [0, 1], bool, or uint8 levels; each image or frame is cleaned by itself.
        variant: "paper" or "official".
        binarise_threshold: values above it are object (strictly).
        min_obj_scale: components must cover more than this share of the image: 0.001 in the evaluation of masks, 0.01
            before boxes are made.
        single: keep the largest component only.
    Returns: bool, of the mask's shape, on its device.
    Raises: UsageError for an unknown variant, fewer than two axes, values that are not finite.
    """
    data = _array(mask, "mask")
    if data.ndim < 2:
        raise UsageError(f"mask: expected (..., H, W), got {data.shape}")
    if variant == "official":
        levels = data if data.dtype == np.uint8 else (data * data.dtype.type(255)).astype(np.uint8)
        inside = levels > 0
    else:
        inside = data > (binarise_threshold * 255 if data.dtype == np.uint8 else binarise_threshold)
    kept = np.zeros(data.shape, dtype=bool)
    for place in np.ndindex(data.shape[:-2]):
        kept[place] = _large_parts(inside[place], min_obj_scale, single=single, official=variant == "official")
    return torch.from_numpy(kept).to(mask.device if isinstance(mask, Tensor) else "cpu")


def _large_parts(inside: NDArray[np.bool_], min_scale: float, *, single: bool, official: bool) -> NDArray[np.bool_]:
    labels, count = ndimage.label(inside, structure=_SIDES_ONLY)
    if not count:
        return np.zeros_like(inside)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    large = np.flatnonzero(areas > min_scale * inside.size)
    if official:
        chosen = np.array([1 + int(np.argmax(areas[1:]))]) if single else large[1:]
    else:
        chosen = large[large > 0]
        if single and len(chosen):
            chosen = chosen[[int(np.argmax(areas[chosen]))]]
    return np.isin(labels, chosen)
