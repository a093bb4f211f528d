"""Masks, boxes and soft maps against the truth: worked values, slow loops as oracles."""

import numpy as np
import pytest
import torch

from unreel.core.errors import UsageError
from unreel.metrics import localization as loc


def slow_iou(a, b, plus):
    w = min(a[2], b[2]) - max(a[0], b[0]) + plus
    h = min(a[3], b[3]) - max(a[1], b[1]) + plus
    common = max(w, 0) * max(h, 0)
    area = [(c[2] - c[0] + plus) * (c[3] - c[1] + plus) for c in (a, b)]
    return common / (sum(area) - common)


def random_boxes(rng, n, side=30):
    corners = rng.integers(0, side, (n, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1) + 1], 1).astype(float)


def test_check_C15_masks() -> None:
    empty = np.zeros((4, 4))
    truth, prediction = np.zeros((4, 4)), np.zeros((4, 4))
    truth[0, :4], prediction[0, 2:], prediction[1, :2] = 1, 1, 1
    assert loc.mask_iou(empty, empty) == 1
    assert loc.mask_iou(prediction, truth) == pytest.approx(1 / 3)
    assert loc.mask_iou(empty, truth) == 0
    assert loc.mask_iou(truth, empty) == 0
    both = loc.mask_miou(np.stack([empty, prediction]), np.stack([empty, truth]))
    assert both == pytest.approx((1 + 1 / 3) / 2)


def test_masks_of_any_kind_are_cut_strictly_at_the_threshold() -> None:
    values = np.array([[0.5, 0.51], [0.0, 1.0]])
    assert loc.mask_iou(values, np.array([[False, True], [False, True]])) == 1
    assert loc.mask_iou((values * 255).astype(np.uint8), values > 0.5) == 1  # 127 is not above 127.5, 130 is
    assert loc.mask_iou((values > 0.5).astype(np.uint8), torch.tensor(values)) == 1
    assert loc.mask_iou(torch.ones(2, 3, 1, 4, 4), torch.ones(2, 3, 1, 4, 4)).shape == (2, 3, 1)
    with pytest.raises(UsageError, match="resize one first"):
        loc.mask_iou(np.ones((4, 4)), np.ones((1, 4, 4)))
    with pytest.raises(UsageError, match="not finite"):
        loc.mask_iou(np.full((4, 4), np.nan), np.ones((4, 4)))


def test_mask_iou_is_the_slow_count() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 7, 6)), rng.random((5, 7, 6))
    for i, found in enumerate(loc.mask_iou(a, b)):
        p = {(r, c) for r in range(7) for c in range(6) if a[i, r, c] > 0.5}
        t = {(r, c) for r in range(7) for c in range(6) if b[i, r, c] > 0.5}
        assert found == len(p & t) / len(p | t)


@pytest.mark.parametrize("plus", [0, 1])
def test_box_iou_is_the_slow_loop(plus: int) -> None:
    rng = np.random.default_rng(plus)
    a, b = random_boxes(rng, 6), random_boxes(rng, 5)
    found = loc.box_iou(a, b, inclusive=bool(plus))
    expected = [[slow_iou(x, y, plus) for y in b] for x in a]
    np.testing.assert_allclose(found, expected)
    assert loc.box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]) == 0
    assert loc.box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]], inclusive=True) == 1
    assert loc.box_iou([], b).shape == (0, 5)


def test_check_C15_box_miou() -> None:
    perfect, missed, far = [0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9], [0.4, 0.4, 0.5, 0.5]
    assert loc.box_miou([[perfect]], [[perfect, missed]]) == pytest.approx(0.5)
    # Images without a true box do not count; no prediction is 0; a second, useless prediction costs nothing.
    found = loc.box_scores([[perfect, far], [], [far]], [[perfect], [missed], []])
    np.testing.assert_allclose(found, [1, 0, np.nan])
    assert loc.box_miou([[perfect, far], [], [far]], [[perfect], [missed], []]) == pytest.approx(0.5)
    # Images weigh the same, however many boxes they have.
    assert loc.box_miou([[perfect], []], [[perfect] * 3, [missed]]) == pytest.approx(0.5)


def test_box_scores_are_the_slow_loop() -> None:
    rng = np.random.default_rng(3)
    found, truth = [random_boxes(rng, n) for n in (3, 1, 4)], [random_boxes(rng, n) for n in (2, 3, 1)]
    expected = [
        sum(max(slow_iou(p, t, 0) for p in f) for t in ts) / len(ts) for f, ts in zip(found, truth, strict=True)
    ]
    np.testing.assert_allclose(loc.box_scores(found, truth), expected)


def test_corloc_counts_images_at_half_overlap() -> None:
    half, less = [[0, 0, 2, 1]], [[0, 0, 2.01, 1]]
    truth = [[[0, 0, 1, 1]]] * 2
    np.testing.assert_array_equal(loc.localized([half, less], truth), [1, 0])
    assert loc.corloc([half, less, []], [*truth, [[0, 0, 1, 1]]]) == pytest.approx(1 / 3)
    assert loc.corloc([half, half], [truth[0], []]) == 1
    with pytest.raises(UsageError, match="true box"):
        loc.corloc([half], [[]])


def block(rows, columns, size=20, value=1.0):
    image = np.zeros((size, size))
    image[rows[0] : rows[1], columns[0] : columns[1]] = value
    return image


def test_check_C15_max_box_acc() -> None:
    perfect = loc.max_box_acc_v2(block((4, 10), (6, 14))[None], [[[6, 4, 14, 10]]])
    assert perfect.value == 1
    np.testing.assert_array_equal(perfect.accuracies, [1, 1, 1])
    # With the +1 convention: 9 × 9 against 9 × 15 pixels, IoU 0.6.
    partial = loc.max_box_acc_v2(block((2, 10), (2, 10))[None], [[[2, 2, 10, 16]]])
    np.testing.assert_array_equal(partial.accuracies, [1, 1, 0])
    assert partial.value == pytest.approx((1 + 1 + 0) / 3)
    np.testing.assert_array_equal(partial.correct, [[1, 1, 0]])


def test_one_threshold_serves_all_images() -> None:
    """Each image has its box at a threshold of its own; no threshold has both."""
    low = block((2, 8), (2, 8), value=0.4)  # its object is faint …
    low[15, 15] = 1  # … and a speck is loud
    wide = block((0, 19), (0, 19), value=0.4)  # its surroundings are as faint, the object is loud
    wide[5:11, 5:11] = 1
    truth = [[[2, 2, 8, 8]], [[5, 5, 11, 11]]]
    found = loc.max_box_acc_v2(np.stack([low, wide]), truth, deltas=(0.7,))
    assert found.value == 0.5
    each = [loc.max_box_acc_v2(m[None], [t], deltas=(0.7,)) for m, t in zip((low, wide), truth, strict=True)]
    assert [e.value for e in each] == [1, 1]
    assert each[0].thresholds == 0
    assert each[1].thresholds == pytest.approx(0.4)  # int(0.4 · 255) = 102 is the surroundings' level: no longer above


def test_levels_lie_above_the_threshold_and_an_iou_may_be_met_exactly() -> None:
    levels = np.full((1, 20, 20), 254, np.uint8)
    levels[0, 4:10, 6:14] = 255
    found = loc.max_box_acc_v2(levels, [[[6, 4, 14, 10]]])
    assert found.value == 1
    assert found.thresholds.min() >= 254 / 255
    half = loc.max_box_acc_v2(block((2, 6), (2, 6))[None], [[[2, 2, 6, 11]]], deltas=(0.5,))  # 5 × 5 of 5 × 10
    assert half.value == 1
    np.testing.assert_array_equal(half.correct, [[1]])


def slow_max_box_acc(maps, boxes, deltas, thresholds, tree=True):
    """Straight from the definition: every threshold, components by flooding."""

    def flood(inside, diagonal):
        height, width = inside.shape
        seen, parts = np.zeros_like(inside), []
        steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * diagonal
        for start in zip(*np.nonzero(inside), strict=True):
            if seen[start]:
                continue
            seen[start], stack, part = True, [start], []
            while stack:
                r, c = stack.pop()
                part.append((r, c))
                for dr, dc in steps:
                    p = (r + dr, c + dc)
                    if 0 <= p[0] < height and 0 <= p[1] < width and inside[p] and not seen[p]:
                        seen[p] = True
                        stack.append(p)
            parts.append(np.array(part))
        return parts

    right = np.zeros((len(thresholds), len(deltas)))
    for image, truth in zip(maps, boxes, strict=True):
        levels = (image * 255).astype(np.uint8)
        height, width = levels.shape
        for k, t in enumerate(thresholds):
            inside = levels > int(t * levels.max())
            spans = [(p.min(0), p.max(0) + 1) for p in flood(inside, True)]
            if tree:
                for hole in flood(~inside, False):
                    if hole.min() > 0 and (hole.max(0) < [height - 1, width - 1]).all():
                        spans.append((hole.min(0) - 1, hole.max(0) + 2))
            found = [(a[1], a[0], min(b[1], width - 1), min(b[0], height - 1)) for a, b in spans]
            best = max((slow_iou(f, g, 1) for f in found for g in truth), default=0)
            right[k] += [best >= d for d in deltas]
    return (right.max(0) / len(maps)).mean()


@pytest.mark.parametrize("contours", ["tree", "outer"])
def test_max_box_acc_is_the_slow_loop(contours: str) -> None:
    rng = np.random.default_rng(4)
    maps = rng.random((4, 9, 8)) ** 2
    maps[0] = np.round(maps[0], 1)
    maps[3, 2:7, 2:7] = 1  # a ring: its hole has an outline of its own
    maps[3, 3:6, 3:6] = 0
    boxes = [random_boxes(rng, n, side=8) for n in (1, 2, 1)] + [np.array([[2.0, 2, 7, 7]])]
    deltas = (0.2, 0.4, 0.5)
    found = loc.max_box_acc_v2(maps, boxes, deltas=deltas, num_thresholds=40, contours=contours)
    thresholds = np.arange(40) / 40
    assert 0 < found.value < 1
    assert found.value == pytest.approx(slow_max_box_acc(maps, boxes, deltas, thresholds, contours == "tree"))


def test_contours_of_holes_count_in_tree_alone() -> None:
    ring = block((2, 16), (2, 16))
    ring[6:10, 6:10] = 0
    truth = [[[5, 5, 11, 11]]]
    assert loc.max_box_acc_v2(ring[None], truth).value == 1
    assert loc.max_box_acc_v2(ring[None], truth, contours="outer").value == 0


def test_boxes_end_inside_the_image_and_eight_bits_are_enough() -> None:
    full = loc.map_boxes(np.full((6, 8), 9, np.uint8), 0)
    np.testing.assert_array_equal(full, [[0, 0, 7, 5]])
    image = block((4, 10), (6, 14))
    float_value = loc.max_box_acc_v2(torch.tensor(image)[None, None], [[[6, 4, 14, 10]]])
    byte_value = loc.max_box_acc_v2((image * 255).astype(np.uint8)[None], [[[6, 4, 14, 10]]])
    assert float_value.value == byte_value.value == 1
    assert loc.max_box_acc_v2(np.zeros((1, 6, 6)), [[[0, 0, 3, 3]]]).value == 0


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="without an object"):
        loc.max_box_acc_v2(np.ones((1, 4, 4)), [[]])
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        loc.max_box_acc_v2(2 * np.ones((1, 4, 4)), [[[0, 0, 1, 1]]])
    with pytest.raises(UsageError, match="contours"):
        loc.max_box_acc_v2(np.ones((1, 4, 4)), [[[0, 0, 1, 1]]], contours="inner")
    with pytest.raises(UsageError, match="as many"):
        loc.box_scores([[]], [])
    with pytest.raises(UsageError, match="x1 ≤ x2"):
        loc.box_iou([[2, 0, 1, 1]], [[0, 0, 1, 1]])
