"""Boxes and clean masks (docs/methods/contracam.md, Cleaning and Boxes), and their file, there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.explain import boxes_from_map, clean_mask, read_boxes, write_boxes
from unreel.explain.boxes import map_rectangles
from unreel.explain.objects import ObjectSettings

_SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
_ALL = (*_SIDES, (1, 1), (1, -1), (-1, 1), (-1, -1))


def _blank(*places: tuple[slice, slice], side: int = 20) -> Tensor:
    found = torch.zeros(side, side)
    for rows, columns in places:
        found[rows, columns] = 1
    return found


RING = _blank((slice(4, 12), slice(4, 14)))
RING[6:10, 6:12] = 0


def _parts(inside: NDArray[np.bool_], steps: tuple[tuple[int, int], ...]) -> Iterator[list[tuple[int, int]]]:
    """Connected components in the order of their first pixels, by flood."""
    left = {(int(y), int(x)) for y, x in np.argwhere(inside)}
    while left:
        edge = [min(left)]
        left -= set(edge)
        part = []
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            edge += near
        yield part


def _rectangle(part: list[tuple[int, int]]) -> list[int]:
    ys, xs = [y for y, _ in part], [x for _, x in part]
    return [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1]


def test_check_C5_rectangle_and_margin() -> None:
    shown = _blank((slice(4, 10), slice(6, 14)))
    assert map_rectangles(shown).tolist() == [[6, 4, 8, 6]]
    torch.testing.assert_close(boxes_from_map(shown), torch.tensor([[0.22, 0.14, 0.78, 0.56]], dtype=torch.float64))
    bare = boxes_from_map(shown[None, None].double(), margin=0)
    torch.testing.assert_close(bare, torch.tensor([[0.3, 0.2, 0.7, 0.5]], dtype=torch.float64))
    corner = _blank((slice(10, 20), slice(0, 10)))  # widened within the image
    assert boxes_from_map(corner, margin=0.5).tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_check_C5_small_blobs() -> None:
    assert boxes_from_map(_blank((slice(3, 5), slice(3, 5)))).shape == (0, 4)  # 4 of 400 is not above 1 %
    assert len(boxes_from_map(_blank((slice(3, 4), slice(3, 8))))) == 1
    both = _blank((slice(3, 5), slice(3, 5)), (slice(10, 11), slice(3, 8)))
    assert len(boxes_from_map(both)) == 1
    assert len(boxes_from_map(both, min_scale=0.0099)) == 2


def test_check_C5_diagonal_squares_are_one_box_and_two_components() -> None:
    squares = _blank((slice(4, 8), slice(4, 8)), (slice(8, 12), slice(8, 12)))
    assert map_rectangles(squares).tolist() == [[4, 4, 8, 8]]
    kept = clean_mask(squares, single=True)
    assert kept.sum() == 16
    assert kept[4:8, 4:8].all()
    assert clean_mask(squares).sum() == 32


def test_check_C5_ring() -> None:
    assert map_rectangles(RING).tolist() == [[4, 4, 10, 8]]
    assert map_rectangles(RING, contours="tree").tolist() == [[4, 4, 10, 8], [5, 5, 8, 6]]
    assert len(boxes_from_map(RING)) == 1
    assert len(boxes_from_map(RING, **ObjectSettings(variant="official").box_options())) == 2
    assert len(boxes_from_map(RING, **ObjectSettings(variant="official", largest_only=True).box_options())) == 1
    assert ObjectSettings(variant="official", contours="outer").box_options()["contours"] == "outer"
    assert ObjectSettings(margin=0).box_options() == {
        "contours": "outer", "margin": 0, "threshold": 0.5, "min_scale": 0.01, "largest_only": False
    }  # fmt: skip


def test_check_C5_zero_and_full_map() -> None:
    assert boxes_from_map(torch.zeros(20, 20)).shape == (0, 4)
    assert boxes_from_map(torch.ones(20, 20)).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert not clean_mask(torch.ones(20, 20), variant="official").any()
    assert clean_mask(torch.ones(20, 20), variant="official", single=True).all()
    assert clean_mask(torch.ones(20, 20)).all()


def test_the_threshold_is_a_share_of_the_peak_and_strict() -> None:
    soft = _blank((slice(2, 8), slice(2, 8))) * 0.4
    soft[12:18, 12:18] = 0.2
    assert map_rectangles(soft).tolist() == [[2, 2, 6, 6]]  # 0.2 is not above half of 0.4
    assert map_rectangles(soft, threshold=0.49).shape == (2, 4)
    assert map_rectangles(soft, peak=0.39).shape == (2, 4)
    assert map_rectangles(soft, peak=1.0).shape == (0, 4)
    assert boxes_from_map(soft, min_scale=0, peak=1.0).shape == (0, 4)
    largest = boxes_from_map(soft, threshold=0.49, largest_only=True)
    assert len(largest) == 1
    assert len(boxes_from_map(torch.zeros(20, 20), largest_only=True)) == 0


@pytest.mark.parametrize("density", [0.4, 0.6, 0.85])
def test_rectangles_against_a_flood(density: float) -> None:
    generator = np.random.default_rng(int(density * 100))
    for _ in range(15):
        inside = generator.random((int(generator.integers(3, 12)), int(generator.integers(3, 12)))) < density
        outer = [_rectangle(part) for part in _parts(inside, _ALL)]
        holes = []
        for part in _parts(~np.pad(inside, 1), _SIDES):
            if (0, 0) not in part:
                # The object's pixels that touch the hole.
                around = {(y + dy, x + dx) for y, x in part for dy, dx in _SIDES} - set(part)
                holes.append(_rectangle([(y - 1, x - 1) for y, x in around]))
        assert map_rectangles(inside).tolist() == outer
        found = map_rectangles(inside.astype(np.float32), contours="tree").tolist()
        assert found[: len(outer)] == outer
        assert sorted(found[len(outer) :]) == sorted(holes)


def test_check_C6_official_counts_whatever_is_not_zero_in_8_bits() -> None:
    for value, expected in ((0.0039, False), (0.004, True)):
        shown = _blank((slice(4, 10), slice(6, 14))).double() * value
        assert bool(clean_mask(shown, variant="official").any()) is expected
        assert not clean_mask(shown).any()
    levels = torch.zeros(20, 20, dtype=torch.uint8)
    levels[4:10, 4:10] = 1
    assert clean_mask(levels, variant="official").sum() == 36
    assert not clean_mask(levels).any()
    assert clean_mask(levels * 128).sum() == 36
    assert not clean_mask(levels * 127).any()


def test_cleaning_keeps_large_components_strictly() -> None:
    shown = _blank((slice(0, 2), slice(0, 2)), (slice(10, 11), slice(0, 5)), (slice(14, 20), slice(0, 6)))
    kept = clean_mask(shown, min_obj_scale=0.01)
    assert kept.sum() == 5 + 36  # of 400 pixels, 4 are not above 1 %
    assert clean_mask(shown, min_obj_scale=0.0099).sum() == 45
    assert clean_mask(shown, min_obj_scale=0.1, single=True).sum() == 0
    assert clean_mask(shown, min_obj_scale=0.1, single=True, variant="official").sum() == 36
    assert clean_mask(shown * 0.3, binarise_threshold=0.25).sum() == 45
    assert torch.equal(clean_mask(shown.bool(), min_obj_scale=0.01), kept)
    # The background is 4 % here: the release drops the first object in its place.
    crowded = torch.ones(20, 20)
    crowded[10, :16] = 0
    crowded[10, 16:] = 1
    assert clean_mask(crowded, variant="official", min_obj_scale=0.05).sum() == 0
    assert clean_mask(crowded, variant="official", min_obj_scale=0.03).sum() == 384


def test_each_image_is_cleaned_by_itself() -> None:
    first, second = _blank((slice(4, 10), slice(6, 14))), RING
    stacked = torch.stack([first, second])[:, None]
    kept = clean_mask(stacked)
    assert kept.dtype == torch.bool
    assert kept.shape == (2, 1, 20, 20)
    assert torch.equal(kept[0, 0], first.bool())
    assert torch.equal(kept[1, 0], second.bool())


def test_check_C8_boxes_survive_the_file(tmp_path: Path) -> None:
    found = boxes_from_map(torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) ** 8, min_scale=0)
    assert len(found) > 3
    path = write_boxes(tmp_path / "boxes.txt", {"a/1.png": found, "none": boxes_from_map(torch.zeros(4, 4))})
    back = read_boxes(path)
    assert list(back) == ["a/1.png", "none"]
    assert back["none"].shape == (0, 4)
    np.testing.assert_allclose(back["a/1.png"], found.numpy(), atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="one map"):
        boxes_from_map(torch.zeros(2, 20, 20))
    with pytest.raises(UsageError, match="finite"):
        boxes_from_map(torch.full((4, 4), torch.nan))
    with pytest.raises(UsageError, match="outer"):
        boxes_from_map(torch.zeros(4, 4), contours="outr")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="official"):
        clean_mask(torch.ones(4, 4), variant="oficial")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\(\.\.\., H, W\)"):
        clean_mask(torch.ones(4))
    with pytest.raises(UsageError, match="margin"):
        boxes_from_map(torch.ones(4, 4), margin=-0.1)
