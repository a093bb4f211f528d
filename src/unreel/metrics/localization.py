"""Where is the object? Masks, boxes and soft maps against the truth (docs/methods/evaluation.md, Localisation).

Each score that is a mean over images has a per-image form, which intervals and paired comparisons read. Images without
an answer (a box score without a true box) are NaN there and left out of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unreel.core.checks import Count, checked
from unreel.core.errors import UsageError
from unreel.metrics._arrays import boxes_of, to_numpy

Contours: TypeAlias = Literal["tree", "outer"]

DELTAS = (0.3, 0.5, 0.7)
"""IoU that MaxBoxAccV2 asks for in turn (Choe et al. 2020, arXiv 2007.04178, §3.3)."""
NUM_THRESHOLDS = 1000
"""Thresholds 0, 0.001, …, 0.999 of a map's maximum (docs/methods/evaluation.md, Localisation)."""
CORLOC_IOU = 0.5
"""Overlap at which Pascal VOC's kit calls a box found (Everingham et al. 2010, §4.2)."""

_DIAGONAL_TOO = np.ones((3, 3), dtype=bool)
# From a hole's rectangle (x, y, width, height) to that of the pixels around it.
_AROUND = np.array([-1, -1, 2, 2])


# --- masks ------------------------------------------------------------------------------------------------------


def _foreground(values: object, name: str, threshold: float) -> NDArray[np.bool_]:
    array = to_numpy(values)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise UsageError(f"{name}: expected masks (..., H, W), got shape {array.shape}")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{name}: some values are not finite")
    limit = threshold * 255 if array.dtype == np.uint8 and array.max(initial=0) > 1 else threshold
    found: NDArray[np.bool_] = array > limit
    return found


def mask_iou(prediction: object, target: object, *, threshold: float = 0.5) -> NDArray[np.float64]:
    """Intersection over union of the foregrounds, image by image; two empty masks agree: 1.

    Args:
        prediction, target: (..., H, W), bool, floats in [0, 1], or uint8 (levels up to 255, or zeros and ones); of
            one shape. A clip's frames are images.
        threshold: values above it are foreground (strictly), in both.
    Returns: float64 of the leading shape.
    Raises: UsageError for shapes that differ, and for values that are not finite.
    """
    a, b = _foreground(prediction, "prediction", threshold), _foreground(target, "target", threshold)
    if a.shape != b.shape:
        raise UsageError(f"masks are compared pixel by pixel: prediction {a.shape}, target {b.shape}; resize one first")
    common = np.asarray((a & b).sum((-2, -1)), dtype=np.float64)
    union = np.asarray((a | b).sum((-2, -1)), dtype=np.float64)
    return np.where(union > 0, common / np.where(union > 0, union, 1), 1.0)


def mask_miou(prediction: object, target: object, *, threshold: float = 0.5) -> float:
    """Mean over images of ``mask_iou``. Raises UsageError also where there is no image."""
    found = mask_iou(prediction, target, threshold=threshold)
    if not found.size:
        raise UsageError("mask mIoU of no image at all")
    return float(found.mean())


# --- outlines ---------------------------------------------------------------------------------------------------


@checked
def outline_boxes(inside: NDArray[np.bool_], *, contours: Contours = "outer") -> NDArray[np.int64]:
    """Rectangles around the parts of a binary image: (N, 4) x, y, width, height in pixels, by their first pixels.

    Args:
        inside: (H, W); pixels that touch, diagonally too, are one part.
        contours: "outer", a rectangle per part; "tree" adds the inner outline of every hole, which runs over the
            pixels around it, one beyond the hole on each side.
    Raises: UsageError for an unknown ``contours``.
    """
    found = _extents(ndimage.label(inside, _DIAGONAL_TOO)[0])
    if contours == "tree":
        holes = _extents(ndimage.label(ndimage.binary_fill_holes(inside) & ~inside)[0])
        found = np.concatenate([found, holes + _AROUND])
    return found


def _extents(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    places = cast("list[tuple[slice, slice]]", ndimage.find_objects(labels))
    rows = [[x.start, y.start, x.stop - x.start, y.stop - y.start] for y, x in places]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


# --- boxes ------------------------------------------------------------------------------------------------------


def _boxes(values: object, name: str) -> NDArray[np.float64]:
    array = boxes_of(values, name)
    if not np.isfinite(array).all() or (array[:, 2:] < array[:, :2]).any():
        raise UsageError(f"{name}: expected finite corners with x1 ≤ x2 and y1 ≤ y2")
    return array


def box_iou(a: object, b: object, *, inclusive: bool = False) -> NDArray[np.float64]:
    """Intersection over union of every box of ``a`` with every box of ``b``: (N, M); two boxes without area: 0.

    Args:
        a, b: (N, 4) and (M, 4), x1 y1 x2 y2 in one unit (shares or pixels).
        inclusive: both corners are pixels of the box, so that sides are x2 − x1 + 1: the "+1 convention" of weakly
            supervised localisation. For pixels only.
    Raises: UsageError for other shapes, corners in the wrong order or not finite.
    """
    first, second = _boxes(a, "a")[:, None], _boxes(b, "b")[None]
    more = 1.0 if inclusive else 0.0

    def area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = np.maximum(boxes[..., 2:] - boxes[..., :2] + more, 0)
        product: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
        return product

    corners = [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])]
    common = area(np.concatenate(corners, axis=-1))
    union = area(first) + area(second) - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0.0)


def _best_ious(predictions: Sequence[object], targets: Sequence[object]) -> list[NDArray[np.float64]]:
    """Per image, of each of its true boxes the best IoU among the predicted ones; −inf without any."""
    if len(predictions) != len(targets):
        raise UsageError(f"boxes: {len(predictions)} images predicted, {len(targets)} with the truth; expected as many")
    if not len(targets):
        raise UsageError("boxes of no image at all")
    return [
        box_iou(_boxes(p, f"prediction {i}"), _boxes(t, f"target {i}")).max(0, initial=-np.inf)
        for i, (p, t) in enumerate(zip(predictions, targets, strict=True))
    ]


def box_scores(predictions: Sequence[object], targets: Sequence[object]) -> NDArray[np.float64]:
    """Per image the mean over its true boxes of the best IoU among the predicted ones; 0 without a prediction.

    Args:
        predictions, targets: a (N, 4) array x1 y1 x2 y2 per image, N ≥ 0, in one unit.
    Returns: (images,) float64, NaN where there is no true box.
    Raises: UsageError for lists of different lengths, and as ``box_iou``.
    """
    return np.array([best.clip(0).mean() if best.size else np.nan for best in _best_ious(predictions, targets)])


def box_miou(predictions: Sequence[object], targets: Sequence[object]) -> float:
    """Mean of ``box_scores`` over the images with a true box. Raises UsageError also where none has one."""
    return _mean_known(box_scores(predictions, targets))


def localized(
    predictions: Sequence[object], targets: Sequence[object], *, iou: float = CORLOC_IOU
) -> NDArray[np.float64]:
    """1.0 where some predicted box reaches ``iou`` with some true one, else 0.0; NaN without a true box: (images,).

    CorLoc counts one box per image: predict one, such as ``boxes_from_map(…, largest_only=True)``.
    Raises: UsageError as ``box_scores``.
    """
    return np.array([float(best.max() >= iou) if best.size else np.nan for best in _best_ious(predictions, targets)])


def corloc(predictions: Sequence[object], targets: Sequence[object], *, iou: float = CORLOC_IOU) -> float:
    """Share of the images with a true box where an object is found (``localized``)."""
    return _mean_known(localized(predictions, targets, iou=iou))


def _mean_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    if not known.size:
        raise UsageError(f"boxes: none of {len(values)} images has a true box to compare with")
    return float(known.mean())


# --- soft maps --------------------------------------------------------------------------------------------------


class MaxBoxAcc(NamedTuple):
    """MaxBoxAccV2, a share in [0, 1], and what it is made of.

    ``accuracies`` (D,) are the maxima over thresholds, one per IoU of ``deltas``; ``thresholds`` (D,) where they are
    reached first, as shares of a map's maximum; ``correct`` (images, D) is 1.0 where an image counts at that threshold.
    """

    value: float
    accuracies: NDArray[np.float64]
    deltas: tuple[float, ...]
    thresholds: NDArray[np.float64]
    correct: NDArray[np.float64]


def map_boxes(levels: NDArray[np.uint8], level: int, *, contours: Contours = "tree") -> NDArray[np.float64]:
    """Boxes x0 y0 x1 y1 in pixels around the parts of an 8-bit map (H, W) above ``level``.

    x1 and y1 are the first pixel behind the part, but at most W − 1 and H − 1, as the WSOL protocol has it, whose
    "all contours" is ``tree``; see ``outline_boxes``.
    """
    found = outline_boxes(levels > level, contours=contours)
    height, width = levels.shape
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return np.minimum(corners.astype(np.float64), [width, height, width - 1, height - 1])


@checked
def max_box_acc_v2(
    maps: object,
    boxes: Sequence[object],
    *,
    deltas: Sequence[float] = DELTAS,
    num_thresholds: Count = NUM_THRESHOLDS,
    contours: Contours = "tree",
) -> MaxBoxAcc:
    """MaxBoxAccV2 of soft maps (Choe et al. 2020, arXiv 2007.04178): one threshold for all images, the best one.

    An image counts at a threshold and an IoU where some box of some part of its map above the threshold reaches that
    IoU with some true box. Of the share that counts, the maximum over thresholds is taken for each IoU, then the mean
    over IoUs. Maps become 8-bit by truncation; a part is what is above int(threshold · maximum); sides of boxes are
    x1 − x0 + 1. A map of zeros has no part.

    Args:
        maps: (images, H, W) or (images, 1, H, W), floats in [0, 1] or uint8.
        boxes: a (N, 4) array x0 y0 x1 y1 per image in pixels of the map, N ≥ 1; x1 is the first pixel behind.
        deltas: the IoUs.
        num_thresholds: thresholds i / num_thresholds from 0 on.
        contours: "tree", all outlines as the protocol, or "outer" without those of holes.
    Raises: UsageError for other shapes or ranges, an image without a true box, no image.
    """
    stack = _levels(maps)
    if len(stack) != len(boxes):
        raise UsageError(f"{len(stack)} maps but boxes of {len(boxes)} images")
    if not deltas:
        raise UsageError("deltas: expected at least one IoU")
    shares = np.arange(num_thresholds) / num_thresholds
    wanted = np.array(deltas, dtype=np.float64)
    counts = np.zeros((num_thresholds, len(wanted)), dtype=np.int64)
    best = np.zeros((len(stack), num_thresholds))
    for i, (levels, truth) in enumerate(zip(stack, boxes, strict=True)):
        targets = _boxes(truth, f"boxes of image {i}")
        if not len(targets):
            raise UsageError(f"boxes of image {i}: none; leave images without an object out")
        # Thresholds between the same two values of the map give the same parts: each is looked at once.
        asked = (shares * int(levels.max())).astype(np.int64)
        values = np.unique(levels)
        step = np.searchsorted(values, asked, side="right")
        at = np.unique(step)
        reached = np.zeros(len(values) + 1)
        for place in at[at < len(values)]:
            found = map_boxes(levels, int(values[place]) - 1, contours=contours)
            reached[place] = box_iou(found, targets, inclusive=True).max()
        best[i] = reached[step]
        counts += best[i][:, None] >= wanted
    accuracies = counts.max(0) / len(stack)
    first = counts.argmax(0)
    correct = (best[:, first] >= wanted).astype(np.float64)
    return MaxBoxAcc(float(accuracies.mean()), accuracies, tuple(deltas), shares[first], correct)


def _levels(maps: object) -> NDArray[np.uint8]:
    stack: NDArray[Any] = to_numpy(maps)
    if stack.ndim == 4 and stack.shape[1] == 1:
        stack = stack[:, 0]
    if stack.ndim != 3 or 0 in stack.shape:
        raise UsageError(f"maps: expected (images, H, W) with images ≥ 1, got shape {stack.shape}")
    if stack.dtype == np.uint8:
        return stack
    if not (np.isfinite(stack).all() and stack.min() >= 0 and stack.max() <= 1):
        raise UsageError("maps: expected uint8, or values in [0, 1]")
    # In the map's own precision, as the protocol multiplies.
    levels: NDArray[np.uint8] = (stack * 255).astype(np.uint8)
    return levels
