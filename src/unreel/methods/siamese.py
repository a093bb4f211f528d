"""What the methods of views have in common: views of ρ clips or of one image, each encoded by itself."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias, get_args

from unreel.core.errors import UsageError, unknown_name
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.data.sampling import ClipSetSampler, IntervalKind
from unreel.losses.queue import Mixed
from unreel.methods.method import Method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.views.batch_ops import BatchOperation, CutMix, Mixup
from unreel.views.plan import ViewPlan
from unreel.views.presets import ViewPreset, view_plan

Mix: TypeAlias = Literal["none", "mixup", "cutmix"]


class SiameseMethod(Method):
    """Base of methods that compare views of one source, each encoded by itself (object_aware.md §1, cvrl.md §6.5).

    A subclass takes these settings, too, by ``takes_siamese_options``.

    Args:
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        clip_frames, stride: frames per clip and frames between them; 1 is an image.
        rho: clips per video, see ``ClipSetSampler`` (1 gives two views of one clip); there are max(2, ρ) views.
        interval: distribution of the time between clips, see ``IntervalDistribution``; "independent" starts.
        views: a preset of ``unreel.views.presets``. size: side of the square views, pixels.
        consistent: one draw for all frames of a clip.
        view_options: every other argument of ``unreel.views.presets.view_plan``.
    Raises: UsageError for values that cannot be.
    """

    views: ViewPlan

    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 1,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        rho: Annotated[int, Range(ge=1)] = 2,
        interval: IntervalKind = "independent",
        views: ViewPreset = "occon",
        size: Annotated[int, Range(ge=8, unit="px")] = 224,
        consistent: bool = True,
        **view_options: Any,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.sampler = ClipSetSampler(rho, clip_frames=clip_frames, stride=stride, interval=interval)
        self.size = size
        self._plan = functools.partial(
            view_plan, views, **{**view_options, "size": size, "num_views": max(2, rho), "consistent": consistent}
        )
        self.views = self.plan()
        encoder.input_spec = replace(encoder.input_spec, num_frames=clip_frames, stride_frames=stride, size_px=size)

    def plan(self, **changes: Any) -> ViewPlan:
        """Views as this method's settings have them, but for ``changes``, arguments of ``view_plan``."""
        return self._plan(**changes)

    def pairs(self, *, ordered: bool) -> list[tuple[int, int]]:
        """Pairs of views: each once, the earlier view first, or both ways round."""
        count = self.views.num_views
        both = itertools.permutations(range(count), 2) if ordered else itertools.combinations(range(count), 2)
        return list(both)


def mixed_of(batch: Batch) -> Mixed | None:
    """What Mixup or CutMix did to the first view of this batch; None when neither ran.

    Raises: UsageError when both did.
    """
    found = [
        Mixed(batch.targets[f"{name}.weight"], batch.targets[f"{name}.partner"])
        for name in ("mixup", "cutmix")
        if f"{name}.weight" in batch.targets
    ]
    if len(found) > 1:
        raise UsageError("the first view was mixed twice (Mixup and CutMix); the loss knows one partner: use one")
    return found[0] if found else None


def mixing(mix: Mix, alpha: float) -> tuple[BatchOperation, ...]:
    """Whether the first view is mixed with another sample's, and α of the Beta distribution, as batch operations.

    Raises: UsageError for an unknown mix.
    """
    if mix not in get_args(Mix):
        raise unknown_name("mix", mix, get_args(Mix))
    operations: dict[str, BatchOperation] = {"mixup": Mixup(alpha), "cutmix": CutMix(alpha)}
    return (operations[mix],) if mix != "none" else ()


takes_siamese_options = functools.partial(
    takes_view_options, "preset", "size", "num_views", "consistent", base=SiameseMethod.__init__
)
"""Decorator for a subclass's ``__init__(self, encoder, …, **options)``, whose options go to ``SiameseMethod``'s.

Its arguments: those of ``view_plan`` that the subclass names or decides itself.
"""
