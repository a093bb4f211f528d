"""Objects through time: boxes of single frames, linked (docs/methods/contracam.md, Video).

A tubelet is what one object occupies in consecutive frames. Linking is greedy: of all pairs of a tubelet's newest box
and a box of the next frame, the one that overlaps most goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unreel.core.checks import Amount, Range, checked
from unreel.metrics.localization import box_iou

MIN_IOU = 0.3
"""Boxes of consecutive frames that overlap by this much show one object (docs/methods/contracam.md, Video)."""
MAX_GAP = 2
"""An object may be missing from this many frames; its boxes there are interpolated."""


@dataclass(frozen=True)
class Tubelet:
    """One object's boxes in the frames ``first`` to ``last``, without a hole.

    Attributes:
        first: its first frame.
        boxes: (F, 4) float64 x1 y1 x2 y2.
        found: (F,) bool; False where the box was interpolated.
    """

    first: int
    boxes: NDArray[np.float64]
    found: NDArray[np.bool_]

    @property
    def last(self) -> int:
        return self.first + len(self.boxes) - 1


@checked
def link_boxes(
    frames: Sequence[ArrayLike],
    *,
    min_iou: Annotated[float, Range(gt=0, le=1)] = MIN_IOU,
    max_gap: Amount = MAX_GAP,
    min_frames: int = 1,
) -> tuple[Tubelet, ...]:
    """Link the boxes of consecutive frames to tubelets.

    Args:
        frames: (N_t, 4) boxes x1 y1 x2 y2 of each frame.
        min_iou: least overlap of a box with the tubelet's newest one; in (0, 1].
        max_gap: frames that an object may be missing from; they are interpolated.
        min_frames: tubelets found in fewer frames are left out.
    Returns: in the order of their first frames, within one frame in that of its boxes. Every box is in one tubelet.
    Raises: UsageError for a threshold outside (0, 1], a negative gap, and corners not finite or in the wrong order.
    """
    chains: list[list[tuple[int, NDArray[np.float64]]]] = []
    for t, given in enumerate(frames):
        boxes = np.asarray(given, dtype=np.float64).reshape(-1, 4)
        open_chains = [chain for chain in chains if t - chain[-1][0] <= max_gap + 1]
        overlap = box_iou([chain[-1][1] for chain in open_chains], boxes)
        linked = np.zeros(len(boxes), dtype=bool)
        # The largest overlap first; of equals the older tubelet, then the earlier box.
        for place in np.argsort(-overlap, axis=None, kind="stable"):
            chain, box = divmod(int(place), len(boxes))
            if overlap[chain, box] < min_iou:
                break
            if not linked[box] and open_chains[chain][-1][0] < t:
                open_chains[chain].append((t, boxes[box]))
                linked[box] = True
        chains += [[(t, box)] for box in boxes[~linked]]
    return tuple(_filled(chain) for chain in chains if len(chain) >= min_frames)


def _filled(chain: list[tuple[int, NDArray[np.float64]]]) -> Tubelet:
    times = np.array([t for t, _ in chain])
    corners = np.stack([box for _, box in chain])
    frames = np.arange(times[0], times[-1] + 1)
    boxes = np.stack([np.interp(frames, times, corner) for corner in corners.T], 1)
    return Tubelet(int(times[0]), boxes, np.isin(frames, times))
