"""Object-aware views as a part of any method whose views are a plan.

Source: docs/methods/object_views.md, Object-aware crop and BG-Mixup; docs/methods/contracam.md, Video.

``object_crop`` shows objects instead of scenes, ``bg_mixup`` puts them before other backgrounds. Where the objects are
is computed before the run by another encoder (``cam``), or given with the data (``gt``, the upper bound).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypedDict

from torch import nn

from unreel.core.checks import NotNegative, Range, Share, checked
from unreel.core.errors import UsageError
from unreel.data.contracts import Sampler, SupportsViews
from unreel.methods.method import Method
from unreel.methods.parts import Part
from unreel.views.bg_mixup import BGMixup, Fill, FinishViews, MaskMode, Motion, Variant
from unreel.views.operations import ObjectCrop
from unreel.views.plan import ViewPlan

ObjectSource: TypeAlias = Literal["none", "cam", "gt"]

_BOXES = {"cam": "boxes", "gt": "file.boxes"}
_MASKS = {"cam": "masks", "gt": "file.mask"}


@checked
@dataclass(frozen=True)
class ObjectViews:
    """Object-aware views of a method. Defaults, where a switch is on, are the paper's.

    Args:
        object_crop: cut every view out of an object's box: "cam" (the sidecar "boxes") or "gt" (``file.boxes``).
        object_pick: "uniform" among a source's objects, one for all views; "largest"; "per_view" draws for each view.
        object_margin, object_area_min: widens boxes by this share of their size on each side; those that cover no more
            than this share of the frame do not count. Off: what writes boxes has done both, with 0.2 and 0.01.
        bg_mixup: put the object before another sample's background: "cam" (masks of ``unreel data annotate masks``) or
            "gt" (``file.mask``).
        bg_variant, bg_probability, bg_threshold, bg_memory, bg_mask, bg_fill, bg_motion, bg_block: of ``BGMixup``.
        bg_views: "first", as in the paper, or "all".
        bg_stage: mix "after" colours and blur, so that a background keeps its own, or "before". (Validation while
            training sees no mixing, and with ``validation_draws: fresh`` no colours of "before".)
    Raises: UsageError for unknown names.
    """

    object_crop: ObjectSource = "none"
    object_pick: Literal["uniform", "largest", "per_view"] = "uniform"
    object_margin: NotNegative = 0.0
    object_area_min: Share = 0.0
    bg_mixup: ObjectSource = "none"
    bg_variant: Variant = "paper"
    bg_probability: Share = 0.4
    bg_threshold: Annotated[float, Range(gt=0, le=1)] = 0.2
    bg_memory: Annotated[int, Range(ge=0, unit="clips")] = 50
    bg_mask: MaskMode = "soft"
    bg_views: Literal["first", "all"] = "first"
    bg_stage: Literal["after", "before"] = "after"
    bg_fill: Fill = "strip"
    bg_motion: Motion = "moving"
    bg_block: Annotated[int, Range(ge=1, unit="clips")] = 64

    def change(self, method: Method) -> None:
        """Give a method these views, in place. Raises UsageError where its ``views`` are no ``ViewPlan``."""
        if self.object_crop == "none" and self.bg_mixup == "none":
            return
        plan = method.views
        if not isinstance(plan, ViewPlan):
            raise UsageError(f"object_crop and bg_mixup need views of a ViewPlan, {type(method).__name__} has {plan!r}")
        if self.object_crop != "none":
            crop = ObjectCrop(
                _BOXES[self.object_crop],
                "largest" if self.object_pick == "largest" else "uniform",
                margin=self.object_margin,
                min_area=self.object_area_min,
            )
            shared = self.object_pick != "per_view"
            plan = method.views = plan.after(crop, shared=shared)
            if isinstance(method.validation_views, ViewPlan):
                method.validation_views = method.validation_views.after(crop, shared=shared)
            method.sidecars = (*method.sidecars, _BOXES[self.object_crop])
        if self.bg_mixup == "none":
            return
        mixup = BGMixup(
            probability=self.bg_probability,
            threshold=self.bg_threshold,
            memory=self.bg_memory,
            variant=self.bg_variant,
            mask_mode=self.bg_mask,
            views=(0,) if self.bg_views == "first" else None,
            fill=self.bg_fill,
            motion=self.bg_motion,
            block=self.bg_block,
        )
        method.aligned = (*method.aligned, _MASKS[self.bg_mixup])
        first: tuple[BGMixup | FinishViews, ...] = (mixup,)
        if self.bg_stage == "before":
            method.validation_views = method.validation_views or plan
            method.views = ViewPlan(plan.pipelines, shared=plan.shared, late=True)
            first = (mixup, FinishViews(method.views.finish))
        method.batch_operations = (*first, *method.batch_operations)


OBJECTS = Part(ObjectViews)
"""The part ``objects`` of every method whose views are a ``ViewPlan``."""


class ViewParts(TypedDict, total=False):
    """The parts of every method whose views are a ``ViewPlan``, as its constructor takes them; None: the default."""

    clips: Sampler | None
    views: SupportsViews | None
    objects: ObjectViews | None


class HeadParts(ViewParts, total=False):
    """The same, of a method that has a head, too."""

    head: nn.Module | None
