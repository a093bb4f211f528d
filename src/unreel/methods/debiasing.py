"""Object-aware views as switches of any method that takes view options (object_aware.md §3, §4, §8).

``object_crop`` shows objects instead of scenes, ``bg_mixup`` puts them before other backgrounds. Where the objects are
is computed before the run by another encoder (``cam``), or given with the data (``gt``, the upper bound).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from unreel.core.errors import UsageError, unknown_name
from unreel.core.settings import Range
from unreel.methods.method import Method
from unreel.views.bg_mixup import BGMixup, Fill, FinishViews, MaskMode, Motion, Variant
from unreel.views.operations import ObjectCrop
from unreel.views.plan import ViewPlan

ObjectSource: TypeAlias = Literal["none", "cam", "gt"]
ObjectPick: TypeAlias = Literal["uniform", "largest", "per_view"]

_BOXES = {"cam": "boxes", "gt": "file.boxes"}
_MASKS = {"cam": "masks", "gt": "file.mask"}


def debias(
    method: Method,
    *,
    object_crop: ObjectSource = "none",
    object_pick: ObjectPick = "uniform",
    object_margin: Annotated[float, Range(ge=0)] = 0.0,
    object_area_min: Annotated[float, Range(ge=0, le=1)] = 0.0,
    bg_mixup: ObjectSource = "none",
    bg_variant: Variant = "paper",
    bg_probability: Annotated[float, Range(ge=0, le=1)] = 0.4,
    bg_threshold: Annotated[float, Range(gt=0, le=1)] = 0.2,
    bg_memory: Annotated[int, Range(ge=0, unit="clips")] = 50,
    bg_mask: MaskMode = "soft",
    bg_views: Literal["first", "all"] = "first",
    bg_stage: Literal["after", "before"] = "after",
    bg_fill: Fill = "strip",
    bg_motion: Motion = "moving",
    bg_block: Annotated[int, Range(ge=1, unit="clips")] = 64,
) -> None:
    """Give a method object-aware views; in place. Defaults, where a switch is on, are the paper's.

    Args:
        method: its ``views`` are a ``ViewPlan``.
        object_crop: cut every view out of an object's box: "cam" (the sidecar "boxes") or "gt" (``file.boxes``).
        object_pick: "uniform" among a source's objects, one for all views; "largest"; "per_view" draws for each view.
        object_margin, object_area_min: widens boxes by this share of their size on each side; those that cover no more
            than this share of the frame do not count. Off: what writes boxes has done both, with 0.2 and 0.01 (§2.9).
        bg_mixup: put the object before another sample's background: "cam" (masks of ``unreel data annotate masks``) or
            "gt" (``file.mask``).
        bg_variant, bg_probability, bg_threshold, bg_memory, bg_mask, bg_fill, bg_motion, bg_block: of ``BGMixup``.
        bg_views: "first", as in the paper, or "all".
        bg_stage: mix "after" colours and blur, so that a background keeps its own, or "before". (Validation while
            training sees no mixing, and with ``validation_draws: fresh`` no colours of "before".)
    Raises: UsageError for unknown names, or a method whose views are something else.
    """
    for name, value, known in (
        ("object_crop", object_crop, get_args(ObjectSource)),
        ("object_pick", object_pick, get_args(ObjectPick)),
        ("bg_mixup", bg_mixup, get_args(ObjectSource)),
        ("bg_views", bg_views, ("first", "all")),
        ("bg_stage", bg_stage, ("after", "before")),
    ):
        if value not in known:
            raise unknown_name(name, value, known)
    if object_crop == "none" and bg_mixup == "none":
        return
    plan = method.views
    if not isinstance(plan, ViewPlan):
        raise UsageError(f"object_crop and bg_mixup need views of a ViewPlan, {type(method).__name__} has {plan!r}")
    if object_crop != "none":
        crop = ObjectCrop(
            _BOXES[object_crop],
            "largest" if object_pick == "largest" else "uniform",
            margin=object_margin,
            min_area=object_area_min,
        )
        shared = object_pick != "per_view"
        plan = method.views = plan.after(crop, shared=shared)
        if isinstance(method.validation_views, ViewPlan):
            method.validation_views = method.validation_views.after(crop, shared=shared)
        method.sidecars = (*method.sidecars, _BOXES[object_crop])
    if bg_mixup == "none":
        return
    mixup = BGMixup(
        probability=bg_probability,
        threshold=bg_threshold,
        memory=bg_memory,
        variant=bg_variant,
        mask_mode=bg_mask,
        views=(0,) if bg_views == "first" else None,
        fill=bg_fill,
        motion=bg_motion,
        block=bg_block,
    )
    method.aligned = (*method.aligned, _MASKS[bg_mixup])
    first: tuple[BGMixup | FinishViews, ...] = (mixup,)
    if bg_stage == "before":
        method.validation_views = method.validation_views or plan
        method.views = ViewPlan(plan.pipelines, shared=plan.shared, late=True)
        first = (mixup, FinishViews(method.views.finish))
    method.batch_operations = (*first, *method.batch_operations)
