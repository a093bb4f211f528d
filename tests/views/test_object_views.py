"""Object crops and masks that follow (docs/methods/object_views.md, Object-aware crop), on sampled views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Aligned, Batch, Sample, View, collate
from unreel.data.contracts import FrameSize
from unreel.data.objects import ClipBoxes, ObjectBoxes
from unreel.views.operations import ObjectCrop, Resize
from unreel.views.plan import ViewPlan
from unreel.views.presets import snippet_views, view_plan

HEIGHT, WIDTH = 40, 60
SIZE = FrameSize(HEIGHT, WIDTH, 3)
BOX = [0.25, 0.3, 0.7, 0.8]  # 15, 12, 42, 32 in pixels
SETTINGS: dict[str, Any] = {"size": 16, "crop_area_min": 0.08, "crop_sampler": "torchvision"}


def sampled(plan: ViewPlan, frames: Tensor, number: int, sidecars: dict[str, object], **aligned: Aligned) -> Sample:
    """One sample: the same frames (T, H, W, 3) for every view."""
    views = []
    for i in range(plan.num_views):
        params = plan.draw(Key(0, 0, number), i, SIZE._replace(num_frames=len(frames)), sidecars)
        carried = {n: plan.align(i, a, params) for n, a in aligned.items()}
        views.append(View(plan.crop(i, frames, params), torch.zeros(len(frames)), params, carried))
    return Sample(tuple(views), {}, number, number, number)


def red_outside() -> Tensor:
    frames = torch.zeros(3, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    frames[..., 0] = 255
    frames[:, 12:32, 15:42] = torch.tensor([0, 200, 50], dtype=torch.uint8)
    return frames


@pytest.mark.parametrize("plan", [view_plan("crop_only", **SETTINGS), snippet_views(2, size=16, resize=(20, 24))])
def test_check_C8_no_pixel_from_outside_of_the_box(plan: ViewPlan) -> None:
    plan = plan.after(ObjectCrop(), shared=True)
    for number in range(40):
        sample = sampled(plan, red_outside(), number, {"boxes": [BOX]})
        for view in sample.views:
            assert int(view.data[..., 0].max()) == 0
            assert int(view.data[..., 1].min()) == 200
    # The margin lets some of it in, and the whole frame shows it.
    wide = view_plan("crop_only", **SETTINGS).after(ObjectCrop(margin=0.2))
    box = wide.draw(Key(0), 0, SIZE, {"boxes": [BOX]})["object.box"]
    assert box.tolist() == [[round((0.25 - 0.09) * 60), round(0.2 * 40), round(0.79 * 60), round(0.9 * 40)]]
    assert int(sampled(wide, red_outside(), 0, {"boxes": []}).views[0].data[..., 0].max()) == 255


def test_check_C8_without_boxes_all_is_as_without_the_crop() -> None:
    plain = view_plan("occon", size=16)
    with_crop = plain.after(ObjectCrop(), shared=True)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    for nothing in (None, [], [[0.5, 0.5, 0.504, 0.9]], ObjectBoxes(np.zeros((0, 4)))):
        for number in range(5):
            a = sampled(plain, frames, number, {})
            b = sampled(with_crop, frames, number, {"boxes": nothing})
            for one, two in zip(a.views, b.views, strict=True):
                assert torch.equal(one.data, two.data)
                assert all(torch.equal(v, two.params.values[k]) for k, v in one.params.values.items())
            left, right = plain.apply(collate([a])), with_crop.apply(collate([b]))
            assert all(torch.equal(x.data, y.data) for x, y in zip(left.views, right.views, strict=True))


def test_check_C8_two_boxes_half_and_half_and_both_views_the_same() -> None:
    plan = ViewPlan([[Resize(8)]] * 2)
    boxes = {"boxes": [BOX, [0.0, 0.0, 0.2, 0.2]]}
    shared, apart = plan.after(ObjectCrop(), shared=True), plan.after(ObjectCrop())
    counts, differ = [0, 0], 0
    for number in range(2000):
        key = Key(1, number)
        picks = [int(shared.draw(key, view, SIZE, boxes)["object.index"]) for view in (0, 1)]
        assert picks[0] == picks[1]
        counts[picks[0]] += 1
        first, second = (int(apart.draw(key, view, SIZE, boxes)["object.index"]) for view in (0, 1))
        differ += first != second
    assert counts[0] / 2000 == pytest.approx(0.5, abs=0.05)
    assert differ / 2000 == pytest.approx(0.5, abs=0.05)  # drawn for each view, the ablation


def test_boxes_are_rounded_half_to_even_and_clamped() -> None:
    def drawn(box: list[float], **options: Any) -> list[list[float]]:
        return ObjectCrop(**options).draw(Key(0), FrameSize(10, 10, 1), {"boxes": [box]})["box"].tolist()  # type: ignore[no-any-return]

    assert drawn([0.05, 0.15, 0.65, 0.75]) == [[0, 2, 6, 8]]  # 0.5 → 0, 1.5 → 2, 6.5 → 6, 7.5 → 8
    assert drawn([0.1, 0.1, 0.9, 0.9], margin=0.5) == [[0, 0, 10, 10]]
    assert drawn([0.4, 0.4, 0.44, 0.9]) == [[0, 0, 10, 10]]  # no column is left: the whole frame
    with pytest.raises(UsageError, match="margin must be ≥ 0"):
        ObjectCrop(margin=-0.1)


def test_small_objects_do_not_count_and_the_largest_is_of_the_whole_video() -> None:
    crop = ObjectCrop(min_area=0.01)
    boxes = [[0.0, 0.0, 0.1, 0.1 - 1e-9], [0.2, 0.2, 0.6, 0.6]]
    assert {int(crop.draw(Key(i), SIZE, {"boxes": boxes})["index"]) for i in range(30)} == {1}
    alone = crop.draw(Key(0), SIZE, {"boxes": boxes[:1]})
    assert (int(alone["index"]), alone["box"].tolist()) == (-1, [[0, 0, 60, 40]])
    # In this clip the second object is the larger; over the video it is the first.
    here, whole = np.array([[0.0, 0.0, 0.2, 0.2], BOX]), np.array([[0.0, 0.0, 0.9, 0.9], BOX])
    found = ObjectCrop(pick="largest").draw(Key(0), SIZE, {"boxes": ClipBoxes(here, whole)})
    assert (int(found["index"]), found["box"].tolist()) == (0, [[0, 0, 12, 8]])


@pytest.mark.parametrize("preset", ["occon", "release", "paper"])
def test_check_C11_the_mask_follows_crop_and_flip(preset: Any) -> None:
    """An image whose mask equals its red channel keeps that through object crop, crop and flip."""
    plan = view_plan(preset, size=16, jitter_p=0, gray_p=0, blur_p=0, solarize_p=0).after(ObjectCrop(), shared=True)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    smooth = 127 + 60 * torch.sin(rows / 9) + 60 * torch.cos(columns / 7)
    frames = torch.stack([smooth + 5 * t for t in range(3)]).to(torch.uint8)[..., None].expand(3, HEIGHT, WIDTH, 3)
    mask = Aligned("soft_mask", frames[..., 0].float() / 255)
    samples = [sampled(plan, frames.contiguous(), i, {"boxes": [BOX] if i % 2 else []}, mask=mask) for i in range(12)]
    batch: Batch = plan.apply(collate(samples))
    flips = torch.cat([v.params["geometry.flip"][:, 0] for v in batch.views])
    assert 0 < int(flips.sum()) < len(flips)
    for view in batch.views:
        moved = view.aligned["mask"].data
        assert moved.shape == (12, 3, 16, 16)
        # uint8 frames are rounded after the resize, the mask is not.
        assert float((view.data[:, 0] - moved).abs().max()) < 1.5 / 255


def test_check_C17_crop_boxes_are_equal_over_the_frames_and_a_static_clip_stays_static() -> None:
    plan = view_plan("paper", **SETTINGS).after(ObjectCrop(), shared=True)
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8).expand(4, -1, -1, -1)
    times = [np.arange(4) / 10, np.arange(8, 12) / 10]
    boxes = np.array([[0.1 + 0.02 * t, 0.2, 0.5 + 0.02 * t, 0.7] for t in range(12)])
    objects = ObjectBoxes.of({"tube_times_s": [np.arange(12) / 10], "tube_boxes": [boxes]})
    views = []
    for view in (0, 1):
        params = plan.draw(Key(3), view, SIZE._replace(num_frames=4), {"boxes": objects.of_clips(times, view)})
        assert params["object.box"].shape == (1, 4)  # one for all frames of the clip
        views.append(View(plan.crop(view, still.contiguous(), params), torch.zeros(4), params))
    first, second = (v.params["object.box"][0].tolist() for v in views)
    assert first == [6, 8, round(0.56 * 60), 28]
    assert second == [round(0.26 * 60), 8, round(0.72 * 60), 28]  # the same tubelet, where it is by then
    batch = plan.apply(collate([Sample(tuple(views), {}, 0, 0, 0)]))
    for view_ in batch.views:
        assert all(torch.equal(view_.data[:, :, 0], view_.data[:, :, t]) for t in range(1, 4))


def test_late_plans_move_pixels_first_and_finish_with_the_same_result() -> None:
    plan = view_plan("release", size=16)
    late = ViewPlan(plan.pipelines, late=True)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    batch = collate([sampled(plan, frames, i, {}) for i in range(6)])
    want = plan.apply(batch)
    moved = late.apply(batch)
    before = [v.data.clone() for v in moved.views]
    got = late.finish(moved)
    assert all(torch.equal(a.data, b.data) for a, b in zip(want.views, got.views, strict=True))
    assert all(torch.equal(v.data, b) for v, b in zip(moved.views, before, strict=True))
    flipped = batch.views[0].params["flip.apply"][:, 0]
    raw = batch.views[0].data.permute(0, 4, 1, 2, 3).float() / 255
    raw[flipped] = raw[flipped].flip(-1)
    torch.testing.assert_close(moved.views[0].data, raw)
    assert late.after(ObjectCrop()).late
    done = plan.finish(want)  # nothing is left to do
    assert all(torch.equal(a.data, b.data) for a, b in zip(want.views, done.views, strict=True))
