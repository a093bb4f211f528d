"""Aligned data follow the frames: what is drawn, then moved, equals what is moved, then drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data import aligned
from unreel.data.batch import ALIGNED_KINDS, Aligned, View, ViewParams, collate
from unreel.data.batch import Sample as _Sample
from unreel.data.contracts import FrameSize
from unreel.views import geometry
from unreel.views.operations import CenterCrop, HorizontalFlip, ObjectCrop, RandomCrop, RandomResizedCrop, Resize
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

NAN = float("nan")
HEIGHT, WIDTH, FRAMES = 36, 48, 3
SIZE = FrameSize(HEIGHT, WIDTH, FRAMES)


def plain(box: tuple[float, float, float, float], size: tuple[int, int], *, flip: bool = False) -> ViewParams:
    return ViewParams(
        {
            "geometry.box": torch.tensor([box], dtype=torch.float32),
            "geometry.source_size": torch.tensor([[HEIGHT, WIDTH]]),
            "geometry.size": torch.tensor([size]),
            "geometry.flip": torch.tensor([flip]),
        }
    )


boxes = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(6, 18), st.integers(6, 16)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)


def example(kind: str) -> Tensor:
    g = torch.Generator().manual_seed(1)
    if kind == "mask":
        return torch.randint(0, 5, (FRAMES, HEIGHT, WIDTH), generator=g)
    if kind == "boxes":
        corner = torch.rand(FRAMES, 4, 2, generator=g) * torch.tensor([WIDTH - 10.0, HEIGHT - 10.0])
        return torch.cat([corner, corner + 2 + 7 * torch.rand(FRAMES, 4, 2, generator=g)], -1)
    if kind == "points":
        return torch.rand(FRAMES, 5, 2, generator=g) * torch.tensor([WIDTH, HEIGHT])
    extra = (2,) if kind == "flow" else ()
    return torch.rand(FRAMES, HEIGHT, WIDTH, *extra, generator=g)


@settings(max_examples=40, deadline=None)
@given(box=boxes, obj=boxes, size=st.tuples(st.integers(8, 60), st.integers(8, 60)), flip=st.booleans())
def test_a_moved_mask_is_the_mask_of_the_moved_frames(
    box: tuple[int, ...], obj: tuple[int, ...], size: tuple[int, int], flip: bool
) -> None:
    """Render a rectangle into frames and as a mask; crop, resize and flip both; they agree off the soft border."""
    x1, y1, x2, y2 = obj
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.int64)
    mask[:, y1:y2, x1:x2] = 1
    params = plain(box, size, flip=flip)  # type: ignore[arg-type]
    frames = (mask * 255).to(torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
    view = geometry.resized_crop(frames, params["geometry.box"], size)
    if flip:
        view = view.flip(2)
    moved = aligned.apply_to("mask", mask, params)
    assert moved.shape == (FRAMES, *size)
    assert moved.dtype == torch.int64
    value = view[..., 0]
    assert bool((moved[value == 255] == 1).all())
    assert bool((moved[value == 0] == 0).all())
    # The soft mask is resized exactly as the frames are.
    soft = aligned.apply_to("soft_mask", mask.double(), params)
    assert float((soft * 255 - value).abs().max()) <= 1.01
    # So does the rectangle's box: it bounds the mask to within the pixels it covers in part.
    moved_box = aligned.apply_to("boxes", torch.tensor([[list(map(float, obj))]]), params)[0, 0]
    if not bool(moved.any()):
        return
    ys, xs = moved[0].nonzero(as_tuple=True)
    bounds = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float32)
    assert float((bounds - moved_box).abs().max()) <= 1.0


@pytest.mark.parametrize("kind", ALIGNED_KINDS)
@settings(max_examples=10, deadline=None)
@given(box=boxes, flip=st.booleans(), zoom=st.integers(1, 3))
@example_of(box=(5, 4, 17, 13), flip=True, zoom=2)
def test_back_and_forth_is_the_identity_inside_the_crop(kind: str, box: tuple[int, ...], flip: bool, zoom: int) -> None:
    x1, y1, x2, y2 = box
    params = plain(box, (zoom * (y2 - y1), zoom * (x2 - x1)), flip=flip)  # type: ignore[arg-type]
    data = example(kind)
    there = aligned.apply_to(kind, data, params)  # type: ignore[arg-type]
    back = aligned.unapply_to(kind, there, params, fill=-7)  # type: ignore[arg-type]
    if kind in ("boxes", "points"):
        inside = ~there.isnan()
        want = data
        if kind == "boxes":  # what is left after clipping
            want = torch.minimum(torch.maximum(data, data.new_tensor([x1, y1, x1, y1])), data.new_tensor([x2, y2] * 2))
        assert torch.equal(back.isnan(), ~inside)
        torch.testing.assert_close(back[inside], want[inside], atol=1e-4, rtol=0)
        return
    window = (slice(None), slice(y1, y2), slice(x1, x2))
    outside = torch.ones(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    outside[window] = False
    assert bool((back[outside] == -7).all())
    if kind in ("mask", "depth") or zoom == 1:
        torch.testing.assert_close(back[window], data[window], atol=1e-5, rtol=0)
    else:  # bilinear there and back smooths noise but keeps its level
        torch.testing.assert_close(back[window].mean((1, 2)), data[window].mean((1, 2)), atol=0.05, rtol=0)
        ramp = torch.arange(float(WIDTH)).expand(FRAMES, HEIGHT, WIDTH)
        if kind == "soft_mask":
            again = aligned.unapply_to("soft_mask", aligned.apply_to("soft_mask", ramp, params), params)
            inner = (slice(None), slice(y1 + 1, y2 - 1), slice(x1 + 2, x2 - 2))
            torch.testing.assert_close(again[inner], ramp[inner], atol=1e-3, rtol=0)


def test_boxes_are_clipped_dropped_and_mirrored() -> None:
    data = torch.tensor([[[10.0, 10, 20, 20], [0, 0, 12, 9], [0, 0, 8, 8], [NAN] * 4, [16, 6, 99, 99], [0, 9, 8, 20]]])
    params = plain((8, 8, 24, 24), (32, 64))
    got = aligned.apply_to("boxes", data, params)
    want = torch.tensor([[[8.0, 4, 48, 24], [0, 0, 16, 2], [NAN] * 4, [NAN] * 4, [32, 0, 64, 32], [NAN] * 4]])
    torch.testing.assert_close(got, want, equal_nan=True)
    flipped = aligned.apply_to("boxes", data, plain((8, 8, 24, 24), (32, 64), flip=True))
    torch.testing.assert_close(flipped[0, 0], torch.tensor([16.0, 4, 56, 24]))
    assert bool((flipped[..., 2] > flipped[..., 0])[~flipped[..., 0].isnan()].all())


def test_points_move_with_pixel_centres() -> None:
    """A point on a pixel's centre stays on that pixel's centre when nothing is scaled, mirrored or not."""
    params = plain((8, 8, 24, 24), (16, 16), flip=True)
    points = torch.tensor([[[10.5, 12.5], [7.9, 12.0], [24.0, 24.0], [NAN, NAN]]])
    got = aligned.apply_to("points", points, params)
    want = torch.tensor([[[16 - 2.5, 4.5], [NAN, NAN], [0.0, 16.0], [NAN, NAN]]])
    torch.testing.assert_close(got, want, equal_nan=True)
    image = torch.zeros(1, HEIGHT, WIDTH)
    image[0, 12, 10] = 1
    x, y = (int(v) for v in got[0, 0])
    assert aligned.apply_to("soft_mask", image, params)[0, y, x] == 1


def test_flow_is_scaled_and_mirrored() -> None:
    """A point moved by the flow, then into the view, is the view's point moved by the view's flow."""
    flow = torch.tensor([1.5, -0.5]).expand(FRAMES, HEIGHT, WIDTH, 2)
    params = plain((4, 4, 28, 20), (32, 72), flip=True)
    moved = aligned.apply_to("flow", flow, params)
    assert moved.shape == (FRAMES, 32, 72, 2)
    torch.testing.assert_close(moved, torch.tensor([-4.5, -1.0]).expand_as(moved))
    start = torch.tensor([[[12.0, 10.0]]])
    a, b = (aligned.apply_to("points", p, params) for p in (start, start + torch.tensor([1.5, -0.5])))
    torch.testing.assert_close(a + moved[0, 0, 0], b)
    torch.testing.assert_close(aligned.unapply_to("flow", moved, params)[:, 4:20, 4:28], flow[:, 4:20, 4:28])


def test_depth_is_never_invented() -> None:
    depth = torch.where(torch.arange(WIDTH) < 20, 1.0, 9.0).expand(FRAMES, HEIGHT, WIDTH)
    got = aligned.apply_to("depth", depth, plain((3, 2, 44, 33), (17, 19)))
    assert set(got.unique().tolist()) == {1.0, 9.0}
    back = aligned.unapply_to("depth", got, plain((3, 2, 44, 33), (17, 19)))
    assert math.isnan(float(back[0, 0, 0]))


PLANS = {
    "paper": lambda c: view_plan("paper", size=24, consistent=c, jitter_p=0, gray_p=0).pipelines[0],
    "resize then crop": lambda c: [Resize((32, 43)), RandomCrop(28, consistent=c), HorizontalFlip(consistent=c)],
    "object": lambda c: [ObjectCrop(), RandomResizedCrop(24, consistent=c), HorizontalFlip(consistent=c)],
    "centre": lambda c: [Resize(short_side_px=30), CenterCrop(24), HorizontalFlip(consistent=c)],
}


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_moves_masks_as_it_moves_frames(name: str, consistent: bool) -> None:
    plan = ViewPlan([PLANS[name](consistent)])
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.int64)
    for t in range(FRAMES):
        mask[t, 8 + t : 26 + t, 10 : 30 + t] = 1
    frames = (mask * 255).to(torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
    flips = 0
    for i in range(8):
        params = plan.draw(Key(i), 0, SIZE, {"boxes": [[0.1, 0.1, 0.8, 0.9]]})
        flips += int(params["flip.apply"].sum())
        clip = plan.crop(0, frames, params)
        view = View(clip, torch.zeros(FRAMES), params)
        shown = plan.apply(collate([_Sample((view,), {}, 0, 0, 0)])).views[0].data[0, 0]
        moved = plan.align(0, Aligned("mask", mask), params).data
        # A chain of two resizes blurs the border by up to a pixel more than one sampling does.
        assert float((moved == (shown > 0.5)).float().mean()) > 0.96
        assert bool((moved[shown > 0.97] == 1).float().mean() > 0.99)
        again = aligned.unapply_to("mask", moved, params)
        for t in range(FRAMES):
            x1, y1, x2, y2 = params["geometry.box"][t if len(params["geometry.box"]) > 1 else 0].round().int().tolist()
            inside = (slice(y1 + 1, y2 - 1), slice(x1 + 1, x2 - 1))
            assert float((again[t] == mask[t])[inside].float().mean()) > 0.9
        for kind in ALIGNED_KINDS:  # the plan and the parameters' record are the same geometry
            data = example(kind)
            direct = aligned.apply_to(kind, data, params)  # type: ignore[arg-type]
            torch.testing.assert_close(plan.align(0, Aligned(kind, data), params).data, direct, equal_nan=True)  # type: ignore[arg-type]
    assert flips > 0


@pytest.mark.parametrize("op", [RandomResizedCrop((20, 26)), RandomCrop(20), CenterCrop(20), Resize((20, 26))])
def test_an_operation_alone_aligns_as_it_crops(op: RandomResizedCrop) -> None:
    soft = example("soft_mask")
    frames = (soft * 255).round().to(torch.uint8).unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
    params = ViewPlan([[op]]).draw(Key(4), 0, SIZE, {})
    box = params["geometry.box"]
    moved = aligned.apply_to("soft_mask", soft, params)
    shown = op.crop(frames, {"box": box})
    assert float((moved * 255 - shown[..., 0]).abs().max()) <= 2
    applied = geometry.resized_crop(soft.expand(3, -1, -1, -1), box, shown.shape[1:3])
    torch.testing.assert_close(applied[0], moved, atol=1e-5, rtol=0)
    # A slope comes back as it was, off the crop's border; outside of the crop nothing is known.
    slope = (torch.arange(float(WIDTH)) + 2 * torch.arange(float(HEIGHT))[:, None] + 1).expand_as(soft)
    back = aligned.unapply_to("soft_mask", aligned.apply_to("soft_mask", slope, params), params)
    x1, y1, x2, y2 = (int(v) for v in box[0])
    inner = (slice(None), slice(y1 + 3, y2 - 3), slice(x1 + 3, x2 - 3))
    torch.testing.assert_close(back[inner], slope[inner], atol=0.25, rtol=0)  # half a pixel is 0.5 or more
    known = torch.zeros_like(back, dtype=torch.bool)
    known[:, y1:y2, x1:x2] = True
    assert torch.equal(back != 0, known)


@pytest.mark.parametrize("kind", ["mask", "points"])
def test_an_image_s_data_serve_every_frame(kind: Any) -> None:
    """One row of data moves with each frame's own geometry, as it does with that frame alone."""
    plan = ViewPlan([[RandomResizedCrop(12, consistent=False), HorizontalFlip(consistent=False)]])
    params = plan.draw(Key(0), 0, SIZE, {})
    data = example(kind)[:1]
    moved = plan.align(0, Aligned(kind, data), params).data
    assert len(moved) == FRAMES
    for t in range(FRAMES):
        alone = ViewParams({k: v[t : t + 1] if len(v) == FRAMES else v for k, v in params.values.items()})
        torch.testing.assert_close(moved[t : t + 1], aligned.apply_to(kind, data, alone), equal_nan=True)
    assert not torch.equal(moved[0], moved[1])


def test_errors_say_what_does_not_fit() -> None:
    params = plain((8, 8, 24, 24), (16, 16))
    with pytest.raises(UsageError, match="is 10 × 12, its frames are 36 × 48"):
        aligned.apply_to("mask", torch.zeros(3, 10, 12, dtype=torch.int64), params)
    with pytest.raises(UsageError, match="the 4 axes of one clip"):
        aligned.apply_to("flow", torch.zeros(3, HEIGHT, WIDTH), params)
    with pytest.raises(UsageError, match="not drawn by a ViewPlan"):
        aligned.apply_to("mask", example("mask"), ViewParams())
    batch = ViewParams({k: v.unsqueeze(0) for k, v in params.values.items()})
    with pytest.raises(UsageError, match="clip by clip"):
        aligned.apply_to("mask", example("mask"), batch)
    with pytest.raises(UsageError, match="3 frames, the geometry has 2"):
        aligned.mirror(Aligned("mask", example("mask")), torch.tensor([True, False]), (HEIGHT, WIDTH))
    with pytest.raises(UsageError, match="2 frames, the geometry has 3"):
        aligned.mirror(Aligned("mask", example("mask")[:2]), torch.tensor([True, False, True]), (HEIGHT, WIDTH))
