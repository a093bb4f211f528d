"""What the methods of views have in common: views of ρ clips or of one image, each encoded by itself."""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal, TypeAlias

from unreel.core.errors import UsageError
from unreel.data.batch import Batch
from unreel.data.sampling import ClipSetSampler
from unreel.losses.queue import Mixed
from unreel.methods.debiasing import OBJECTS
from unreel.methods.method import Method
from unreel.methods.parts import Part
from unreel.views.batch_ops import BatchOperation, CutMix, Mixup
from unreel.views.presets import view_plan

Mix: TypeAlias = Literal["none", "mixup", "cutmix"]


class SiameseMethod(Method):
    """Base of methods that compare views of one source, each encoded by itself.

    Source: docs/methods/simclr.md, Clips; docs/methods/moco.md, Views.

    By default two images, or two frames of a video, with the views of the object-aware paper.
    """

    parts: ClassVar = {
        "clips": Part(ClipSetSampler, {"clip_frames": 1}),
        "views": Part(view_plan, {"preset": "occon"}),
        "objects": OBJECTS,
    }

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
    """Whether the first view is mixed with another sample's, and α of the Beta distribution, as batch operations."""
    operations: dict[str, BatchOperation] = {"mixup": Mixup(alpha), "cutmix": CutMix(alpha)}
    return (operations[mix],) if mix != "none" else ()
