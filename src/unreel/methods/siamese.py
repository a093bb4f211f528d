"""What SimCLR, MoCo and BYOL have in common: views of ρ clips or of one image, and optional mixing of the first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from unreel.core.errors import UsageError, unknown_name
from unreel.data.batch import Batch
from unreel.data.sampling import ClipSetSampler, IntervalKind
from unreel.losses.queue import Mixed
from unreel.methods.method import Method
from unreel.nn.encoder import Encoder
from unreel.views.batch_ops import BatchOperation, CutMix, Mixup
from unreel.views.presets import ViewPreset, view_plan

Mix: TypeAlias = Literal["none", "mixup", "cutmix"]


class SiameseMethod(Method):
    """Base of methods that compare views of one source, each encoded by itself.

    Args:
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        clip_frames, stride: frames per clip and frames between them; 1 is an image.
        rho: clips per video, see ``ClipSetSampler``; there are max(2, ρ) views. interval: their distances in time.
        views, size, consistent, view_options: see ``unreel.views.presets.view_plan``.
        mix, mix_alpha: whether the first view is mixed with another sample's, and α of the Beta distribution.
    Raises: UsageError for values that cannot be.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: int,
        stride: int,
        rho: int,
        interval: IntervalKind,
        views: ViewPreset,
        size: int,
        consistent: bool,
        view_options: Mapping[str, Any],
        mix: Mix = "none",
        mix_alpha: float = 1.0,
    ) -> None:
        super().__init__()
        if mix not in get_args(Mix):
            raise unknown_name("mix", mix, get_args(Mix))
        self.encoder = encoder
        self.sampler = ClipSetSampler(rho, clip_frames=clip_frames, stride=stride, interval=interval)
        self.views = view_plan(views, size=size, num_views=max(2, rho), consistent=consistent, **view_options)
        encoder.input_spec = replace(encoder.input_spec, num_frames=clip_frames, stride_frames=stride, size_px=size)
        operations: dict[str, BatchOperation] = {"mixup": Mixup(mix_alpha), "cutmix": CutMix(mix_alpha)}
        self.batch_operations = (operations[mix],) if mix != "none" else ()

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
