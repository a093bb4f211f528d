"""View plans: the contract, and equality with a clip-by-clip, operation-by-operation loop."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch, Sample, View, ViewParams, collate
from unreel.data.contracts import FrameSize, SupportsViews
from unreel.views import color, geometry, operations
from unreel.views.operations import (
    JITTER_OPERATIONS,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    ObjectCrop,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Solarize,
)
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

FRAMES, HEIGHT, WIDTH = 4, 40, 52
SIZE = FrameSize(HEIGHT, WIDTH, FRAMES)
BOXES = {"boxes": [[0.1, 0.2, 0.6, 0.9], [0.3, 0.1, 0.9, 0.8]]}


def video(seed: int = 0, *, frames: int = FRAMES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)


def sample(plan: ViewPlan, index: int, *, frames: Tensor | None = None, sidecars: Mapping[str, object] = {}) -> Sample:
    pixels = video(index) if frames is None else frames
    views = []
    for view in range(plan.num_views):
        params = plan.draw(Key(0, 0, index), view, SIZE._replace(num_frames=len(pixels)), sidecars)
        views.append(View(plan.crop(view, pixels, params), torch.zeros(len(pixels), dtype=torch.float64), params))
    return Sample(tuple(views), {}, index, index, index)


def batch_of(plan: ViewPlan, count: int, **options: object) -> Batch:
    return collate([sample(plan, i, **options) for i in range(count)])  # type: ignore[arg-type]


def slow_clip(plan: ViewPlan, view: int, clip: Tensor, params: ViewParams) -> Tensor:
    """One clip of (T, h, w, C) uint8 through one operation after the other, with the public functions."""
    x = clip.permute(3, 0, 1, 2).to(torch.get_default_dtype()) / 255
    for op in plan.pipelines[view]:
        values = params.operation(op.name)
        if isinstance(op, HorizontalFlip):
            x = x.flip(-1) if values["apply"].item() else x
        elif isinstance(op, ColorJitter) and values["apply"].item():
            for i in values["order"][0].tolist():
                name = JITTER_OPERATIONS[i]
                x = getattr(color, name)(x, values[name].item())
        elif isinstance(op, Grayscale) and values["apply"].item():
            x = color.grayscale(x)
        elif isinstance(op, GaussianBlur) and values["apply"].item():
            x = geometry.gaussian_blur(x, values["sigma"].item(), op.radius, op.padding)
        elif isinstance(op, Solarize) and values["apply"].item():
            x = color.solarize(x, op.threshold)
    return x


STRONG = ViewPlan(
    [
        [
            RandomResizedCrop(24, consistent=consistent),
            HorizontalFlip(consistent=consistent),
            ColorJitter(0.9, consistent=consistent),
            Grayscale(0.4, consistent=consistent),
            GaussianBlur(0.6, radius=3, padding="reflect", consistent=consistent),
            Solarize(0.4, consistent=consistent),
        ]
        for consistent in (True, False)
    ]
)


def test_a_plan_is_what_the_data_folder_asks_for() -> None:
    plan = view_plan("release", size=24)
    assert isinstance(plan, SupportsViews)
    again = pickle.loads(pickle.dumps(plan))
    one, two = batch_of(plan, 3), batch_of(again, 3)
    assert again == plan
    assert repr(again) == repr(plan)
    for a, b in zip(plan.apply(one).views, again.apply(two).views, strict=True):
        assert torch.equal(a.data, b.data)


def test_plans_are_compared_and_shown_by_every_value() -> None:
    """Any value of any operation, its place, what is shared and when it runs make another plan, and another text."""
    plans = [ViewPlan([[]]), ViewPlan([[], []]), ViewPlan([[]], late=True)]
    plans += [ViewPlan([[op]], shared=s) for op in (HorizontalFlip(0.3), CenterCrop(8)) for s in ([], [op.name])]
    plans += [ViewPlan([[HorizontalFlip(), Grayscale()]]), ViewPlan([[Grayscale(), HorizontalFlip()]])]
    knobs: dict[str, object] = {
        "size": 31,
        "area": (0.5, 0.6),
        "aspect": (0.7, 0.8),
        "sampler": "torchvision",
        "sigma": (0.3, 0.4),
        "radius": 7,
        "padding": "edge",
        "contrast_pivot": "frame",
        "saturation_mode": "blend",
        "pick": "largest",
        "name": "another",
        "sidecar": "masks",
        "short_side_px": 31,
    }
    for op in (RandomResizedCrop(), Resize(32), CenterCrop(), RandomCrop(), ObjectCrop(), *STRONG.pipelines[0][1:]):
        plans.append(ViewPlan([[op]]))
        for field in fields(op):  # type: ignore[arg-type]
            now = getattr(op, field.name)
            other = not now if isinstance(now, bool) else 0.11 if isinstance(now, float) else knobs[field.name]
            also = {"size": None} if field.name == "short_side_px" else {}
            plans.append(ViewPlan([[replace(op, **{field.name: other, **also})]]))  # type: ignore[type-var]
    assert len(set(plans)) == len({repr(plan) for plan in plans}) == len(plans)
    for i, plan in enumerate(plans):
        twin = pickle.loads(pickle.dumps(plan))
        assert [twin == other for other in plans] == [i == j for j in range(len(plans))]
        assert (repr(twin), hash(twin)) == (repr(plan), hash(plan))
    assert plans[0] != "ViewPlan()"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_equals_one_operation_after_the_other_clip_by_clip(dtype: torch.dtype) -> None:
    """Grouping by order, gathering, in-place passes: none of it may show."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        batch = batch_of(STRONG, 24)
        clips = STRONG.apply(batch).views[0].data
        params = batch.views[0].params
        assert 0 < int(params["solarize.apply"].sum()) < 24
        for i, sampled in enumerate(batch.views[0].data):
            one = ViewParams({k: v[i] for k, v in params.values.items()})
            torch.testing.assert_close(clips[i], slow_clip(STRONG, 0, sampled, one), atol=3e-6, rtol=0)
        assert clips.dtype == dtype
    finally:
        torch.set_default_dtype(old)


@pytest.mark.parametrize("pivot", ["clip", "frame", "gray"])
def test_blocks_of_frames_do_not_show(pivot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large clips are worked on a few frames at a time, small ones in gathered groups: the same pixels either way."""
    plan = ViewPlan([[RandomResizedCrop(24), HorizontalFlip(), ColorJitter(1.0, contrast_pivot=pivot), Grayscale()]])  # type: ignore[arg-type]
    batch = batch_of(plan, 12)
    whole = plan.apply(batch).views[0].data
    for pixels, elements in ((1, 1), (600, 1), (1 << 20, 1 << 30)):
        monkeypatch.setattr(operations, "_FRAME_BLOCK_PIXELS", pixels)
        monkeypatch.setattr(operations, "_GATHER_ELEMENTS", elements)
        torch.testing.assert_close(plan.apply(batch).views[0].data, whole, atol=2e-6, rtol=0)


def test_every_draw_has_its_own_key() -> None:
    """view, then operation: renaming an operation moves its draw, and nothing is drawn twice from one address."""
    plan = view_plan("release", size=24)
    for op in plan.pipelines[1]:
        want = op.draw(Key(6, 1, op.name), SIZE, {})
        got = plan.draw(Key(6), 1, SIZE, {}).operation(op.name)
        assert all(torch.equal(got[k], v) for k, v in want.items())
    agree = {(a, b): 0 for a in ("flip", "gray") for b in ("gray", "blur") if a != b}
    halves = ViewPlan([[HorizontalFlip(), Grayscale(0.5), GaussianBlur(0.5)]])
    for i in range(200):
        values = halves.draw(Key(i), 0, SIZE, {})
        for a, b in agree:
            agree[a, b] += bool(values[f"{a}.apply"] == values[f"{b}.apply"])
    assert all(60 < n < 140 for n in agree.values()), agree


def test_per_frame_draws_treat_every_frame_as_a_clip() -> None:
    batch = batch_of(STRONG, 6)
    clips = STRONG.apply(batch).views[1].data
    params = batch.views[1].params
    for i in range(6):
        for t in range(FRAMES):
            one = ViewParams({k: v[i, t : t + 1] for k, v in params.values.items() if v.shape[1] == FRAMES})
            want = slow_clip(STRONG, 1, batch.views[1].data[i, t : t + 1], one)
            torch.testing.assert_close(clips[i, :, t : t + 1], want, atol=3e-6, rtol=0)


def test_a_batch_equals_its_clips_one_by_one() -> None:
    batch = STRONG.apply(batch_of(STRONG, 7))
    for i in range(7):
        alone = STRONG.apply(collate([sample(STRONG, i)]))
        for a, b in zip(batch.views, alone.views, strict=True):
            torch.testing.assert_close(a.data[i], b.data[0], atol=2e-6, rtol=0)


def test_apply_leaves_its_batch_alone() -> None:
    batch = batch_of(STRONG, 5)
    clips = [v.data.clone() for v in batch.views]
    values = [{k: v.clone() for k, v in view.params.values.items()} for view in batch.views]
    out = STRONG.apply(batch)
    for view, before, drawn in zip(batch.views, clips, values, strict=True):
        assert torch.equal(view.data, before)
        assert all(torch.equal(view.params.values[k], v) for k, v in drawn.items())
    assert [v.params for v in out.views] == [v.params for v in batch.views]
    for op in STRONG.pipelines[0][1:]:
        x = torch.rand(5, 3, FRAMES, 24, 24)
        before = x.clone()
        op.apply(x, batch.views[0].params.operation(op.name))
        assert torch.equal(x, before)
    with pytest.raises(UsageError, match="applied once"):
        STRONG.apply(out)


@pytest.mark.parametrize("preset", ["paper", "release", "crop_only", "none"])
def test_check_17_still_clips_stay_still(preset: str) -> None:
    """Check 17: identical frames stay identical in consistent mode, and not otherwise; the views of a pair differ."""
    still = video(3, frames=1).expand(FRAMES, -1, -1, -1)
    plan = view_plan(preset, size=20)  # type: ignore[arg-type]
    views = plan.apply(batch_of(plan, 8, frames=still)).views
    for view in views:
        assert torch.equal(view.data, view.data[:, :, :1].expand_as(view.data))
    if preset == "none":
        assert torch.equal(views[0].data, views[1].data)
        return
    for i in range(8):
        assert not torch.equal(views[0].data[i], views[1].data[i])
    loose = view_plan(preset, size=20, consistent=False)  # type: ignore[arg-type]
    for view in loose.apply(batch_of(loose, 8, frames=still)).views:
        for clip in view.data:
            assert not torch.equal(clip, clip[:, :1].expand_as(clip))


def test_operations_come_and_go_without_changing_a_draw() -> None:
    full = view_plan("release", size=24)
    names = {op.name for op in full.pipelines[1]} - {"crop"}
    reference = full.draw(Key(1, 2, 3), 1, SIZE, {}).values
    for gone in sorted(names):
        less = ViewPlan([[op for op in p if op.name != gone] for p in full.pipelines])
        values = less.draw(Key(1, 2, 3), 1, SIZE, {}).values
        assert set(reference) - set(values) == {k for k in reference if k.startswith(gone + ".")}
        for name, value in values.items():
            assert torch.equal(value, reference[name]) or (gone, name) == ("flip", "geometry.flip")
    other = full.draw(Key(1, 2, 3), 0, SIZE, {}).values
    assert not torch.equal(other["crop.box"], reference["crop.box"])


def test_shared_operations_are_drawn_once_for_all_views() -> None:
    pipeline = [ObjectCrop(), RandomResizedCrop(16), HorizontalFlip(), ColorJitter()]
    plan = ViewPlan([pipeline, pipeline], shared=("object", "flip"))
    alone = ViewPlan([pipeline, pipeline])
    same_object = 0
    for i in range(20):
        one, two = (plan.draw(Key(i), v, SIZE, BOXES) for v in range(2))
        assert one.shared == {"object", "flip"}
        assert torch.equal(one["object.box"], two["object.box"])
        assert torch.equal(one["flip.apply"], two["flip.apply"])
        assert not torch.equal(one["crop.box"], two["crop.box"])
        assert not torch.equal(one["jitter.hue"], two["jitter.hue"])
        # Sharing an operation changes no other one's draw.
        assert torch.equal(one["jitter.hue"], alone.draw(Key(i), 0, SIZE, BOXES)["jitter.hue"])
        same_object += torch.equal(*(alone.draw(Key(i), v, SIZE, BOXES)["object.index"] for v in range(2)))
    assert 0 < same_object < 20


def test_geometry_is_recorded_in_source_pixels() -> None:
    """Boxes compose through a chain: what the record says is what the view shows."""
    ramp_x = torch.arange(WIDTH, dtype=torch.uint8).view(1, 1, WIDTH, 1).expand(FRAMES, HEIGHT, WIDTH, 3) * 4
    ramp_y = torch.arange(HEIGHT, dtype=torch.uint8).view(1, HEIGHT, 1, 1).expand(FRAMES, HEIGHT, WIDTH, 3) * 4
    chains = (
        [RandomResizedCrop((18, 24))],
        [Resize((64, 86)), RandomCrop((24, 20))],
        [ObjectCrop(), RandomResizedCrop((18, 24))],
        [Resize(short_side_px=30), CenterCrop(24)],
        [RandomResizedCrop((18, 24), consistent=False)],
    )
    for chain in chains:
        plan = ViewPlan([[*chain, HorizontalFlip()]])
        for i in range(6):
            params = plan.draw(Key(i), 0, SIZE, BOXES)
            assert params["geometry.source_size"].tolist() == [[HEIGHT, WIDTH]]
            x, y = (plan.crop(0, r, params)[..., 0].double() / 4 + 0.5 for r in (ramp_x, ramp_y))
            assert params["geometry.size"].tolist() == [list(x.shape[1:])]
            assert torch.equal(params["geometry.flip"], params["flip.apply"])
            for t, (x1, y1, x2, y2) in enumerate(params["geometry.box"].tolist()):
                assert float(x[t].mean()) == pytest.approx((x1 + x2) / 2, abs=0.6)
                assert float(y[t].mean()) == pytest.approx((y1 + y2) / 2, abs=0.6)
                slope = float(x[t, 0, -5] - x[t, 0, 4]) / (x.shape[2] - 9)
                assert slope == pytest.approx((x2 - x1) / x.shape[2], rel=0.1)


def test_crop_hands_over_fixed_size_contiguous_bytes() -> None:
    plan = view_plan("paper", size=24)
    for i in range(5):
        params = plan.draw(Key(i), 0, SIZE, {})
        out = plan.crop(0, video(i), params)
        assert out.shape == (FRAMES, 24, 24, 3)
        assert out.dtype == torch.uint8
        assert out.is_contiguous()
    bare = ViewPlan([[HorizontalFlip()]])
    turned = torch.zeros(FRAMES, WIDTH, HEIGHT, 3, dtype=torch.uint8).transpose(1, 2)
    assert bare.crop(0, turned, bare.draw(Key(0), 0, SIZE, {})).is_contiguous()
    with pytest.raises(UsageError, match="frames are 41 × 52, but the crop was drawn for 40 × 52"):
        plan.crop(0, torch.zeros(4, 41, WIDTH, 3, dtype=torch.uint8), params)


def test_views_may_differ_in_size_and_a_plan_may_have_one() -> None:
    plan = ViewPlan([[RandomResizedCrop(24)], [RandomResizedCrop((10, 12)), HorizontalFlip(1.0)]])
    out = plan.apply(batch_of(plan, 3))
    assert [tuple(v.data.shape) for v in out.views] == [(3, 3, 4, 24, 24), (3, 3, 4, 10, 12)]
    single = view_plan("paper", size=24, num_views=1)
    assert len(single.apply(batch_of(single, 2)).views) == 1
    with pytest.raises(UsageError, match="the batch has 1 views, the plan 2"):
        plan.apply(batch_of(single, 2))


@dataclass(frozen=True)
class Negative:
    """An operation written against the protocol alone."""

    name: str = "negative"
    consistent: bool = True

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        return {"gain": torch.ones(1)}

    def apply(self, clips: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return 1 - clips * params["gain"].view(-1, 1, 1, 1, 1).to(clips)


def test_an_operation_of_one_s_own() -> None:
    plan = ViewPlan([[Resize(16), Negative()]])
    batch = batch_of(plan, 2)
    out = plan.apply(batch).views[0].data
    torch.testing.assert_close(out, 1 - batch.views[0].data.permute(0, 4, 1, 2, 3) / 255.0)


def test_wrong_pipelines_are_refused() -> None:
    with pytest.raises(UsageError, match="'flip' is used twice"):
        ViewPlan([[HorizontalFlip(), HorizontalFlip(0.1)]])
    with pytest.raises(UsageError, match="'crop' works on decoded frames and must come before 'flip'"):
        ViewPlan([[HorizontalFlip(), RandomResizedCrop(8)]])
    with pytest.raises(UsageError, match="draws per frame and must be the last"):
        ViewPlan([[RandomResizedCrop(8, consistent=False), CenterCrop(4)]])
    with pytest.raises(UsageError, match="view 1 has no operation 'flip'"):
        ViewPlan([[HorizontalFlip()], [Grayscale()]], shared=["flip"])
    with pytest.raises(UsageError, match="at least one pipeline"):
        ViewPlan([])


def _compiled_equals_eager(count: int, **options: object) -> None:
    eager, fast = (
        ViewPlan([[RandomResizedCrop(40), ColorJitter(1.0, compiled=c, **options)]])  # type: ignore[arg-type]
        for c in (False, True)
    )
    batch = batch_of(eager, count)
    a, b = (plan.apply(batch).views[0].data for plan in (eager, fast))
    assert float((a - b).abs().max()) <= 1e-5


@pytest.mark.parametrize("pivot", ["clip", "frame", "gray"])
@pytest.mark.parametrize("consistent", [True, False])
def test_the_compiler_s_expressions_are_the_eager_ones(
    consistent: bool, pivot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = color.CompiledKernels(color._scale_shift, color._turn_hsv)
    monkeypatch.setattr(color, "compiled_kernels", lambda: kernels)
    _compiled_equals_eager(12, contrast_pivot=pivot, consistent=consistent)
    _compiled_equals_eager(4, contrast_pivot=pivot, hue=0.0)
    _compiled_equals_eager(4, contrast_pivot=pivot, saturation_mode="blend")
    monkeypatch.setattr(operations, "_FRAME_BLOCK_PIXELS", 1600)
    _compiled_equals_eager(12, contrast_pivot=pivot, consistent=consistent)
    grey = torch.rand(3, 1, 2, 8, 8)
    params = {k: v.unsqueeze(0).expand(3, *v.shape) for k, v in ColorJitter(1.0).draw(Key(0), SIZE, {}).items()}
    one, two = (ColorJitter(1.0, compiled=c).apply(grey, params) for c in (True, False))
    assert torch.equal(one, two)


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    """Real compilation, some 15 seconds."""
    _compiled_equals_eager(6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_pixels_of_the_cpu() -> None:
    batch = batch_of(STRONG, 12)
    for a, b in zip(STRONG.apply(batch).views, STRONG.apply(batch.to("cuda")).views, strict=True):
        assert b.data.is_cuda
        torch.testing.assert_close(b.data.cpu(), a.data, atol=1e-5, rtol=0)
