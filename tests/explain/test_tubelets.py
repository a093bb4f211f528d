"""Boxes linked through time (docs/methods/contracam.md, Video)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.explain import Tubelet, boxes_from_map, link_boxes


def _moving(frames: int = 6, *, gone: tuple[int, ...] = (), step: int = 2) -> Tensor:
    """A 6 × 6 square that moves right, on 20 × 32."""
    clip = torch.zeros(frames, 20, 32)
    for t in range(frames):
        if t not in gone:
            clip[t, 7:13, 2 + step * t : 8 + step * t] = 1
    return clip


def _box(x: float, y: float = 0.0, side: float = 10.0) -> list[float]:
    return [x, y, x + side, y + side]


def _linked(clip: Tensor, **options: float) -> tuple[Tubelet, ...]:
    return link_boxes([boxes_from_map(frame, **options).numpy() for frame in clip])


def test_one_moving_object_is_one_tubelet() -> None:
    clip = _moving()
    (tube,) = _linked(clip, margin=0)
    assert (tube.first, tube.last) == (0, 5)
    assert tube.found.all()
    for t in range(6):
        np.testing.assert_allclose(tube.boxes[t], boxes_from_map(clip[t], margin=0)[0].numpy())


def test_gaps_are_filled_by_interpolation_up_to_two_frames() -> None:
    for missing in ((2,), (2, 3)):
        (tube,) = _linked(_moving(8, gone=missing, step=1), margin=0.2)
        (whole,) = _linked(_moving(8, step=1), margin=0.2)
        np.testing.assert_allclose(tube.boxes, whole.boxes)
        assert tube.found.tolist() == [t not in missing for t in range(8)]
    still = [[_box(0)], [], [], [], [_box(0)]]
    assert [(t.first, t.last) for t in link_boxes(still)] == [(0, 0), (4, 4)]
    assert [(t.first, t.last) for t in link_boxes(still, max_gap=3)] == [(0, 4)]
    assert link_boxes(still, min_frames=2) == ()


def test_links_need_the_overlap() -> None:
    """IoU of 10 × 10 boxes d apart: (10 − d)/(10 + d); 0.3 is met at d = 70/13."""
    for shift, tubes in ((5.38, 1), (5.39, 2)):
        assert len(link_boxes([[_box(0)], [_box(shift)]])) == tubes
    assert len(link_boxes([[_box(0)], [_box(5.39)]], min_iou=0.29)) == 1
    assert len(link_boxes([[[0, 0, 10, 1]], [[0, 0, 3, 1]]])) == 1  # 3/10 to the bit is enough


def test_the_best_pair_is_linked_first() -> None:
    frames = [[_box(0), _box(3)], [_box(4)]]  # both overlap enough, the second more
    tubes = link_boxes(frames)
    assert [len(t.boxes) for t in tubes] == [1, 2]
    np.testing.assert_allclose(tubes[1].boxes[:, 0], [3, 4])
    # One box is never in two tubelets, and a tubelet takes one box per frame.
    crowd = link_boxes([[_box(0)], [_box(0), _box(1)], [_box(0), _box(1)]])
    assert [(t.first, t.last) for t in crowd] == [(0, 2), (1, 2)]
    np.testing.assert_allclose([t.boxes[-1, 0] for t in crowd], [0, 1])


def test_two_objects_keep_apart() -> None:
    apart = [[_box(0 + t), _box(40 - t, 20)] for t in range(5)]
    swapped = [rows[::-1] if t % 2 else rows for t, rows in enumerate(apart)]
    for frames in (apart, swapped):
        tubes = link_boxes(frames)
        assert [t.boxes[:, 0].tolist() for t in tubes] == [[0, 1, 2, 3, 4], [40, 39, 38, 37, 36]]


def test_refusals() -> None:
    assert link_boxes([]) == ()
    with pytest.raises(UsageError, match="min_iou"):
        link_boxes([], min_iou=0)
    with pytest.raises(UsageError, match="max_gap"):
        link_boxes([], max_gap=-1)
    with pytest.raises(UsageError, match="corners"):
        link_boxes([[_box(0)], [[10, 0, 0, 10]]])
