"""BYOL: predict the teacher's projection of the other view; no negatives (Grill et al., NeurIPS 2020).

What keeps all projections from becoming one is the predictor, the slow teacher and batch norm; the logged ``spread``
tells whether it does. On video the views are ρ clips (cvrl.md §6.5).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from unreel.core.errors import unknown_name
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.losses.byol import cosines, spread
from unreel.losses.queue import Mixed
from unreel.methods.method import LossOutput, StepsDone
from unreel.methods.registry import register_method
from unreel.methods.siamese import Mix, SiameseMethod, mixed_of, mixing, takes_siamese_options
from unreel.nn.ema import MomentumSchedule, Teacher, scheduled_momentum
from unreel.nn.encoder import Encoder
from unreel.nn.heads import normalized_mlp, projection_mlp

Variant: TypeAlias = Literal["paper", "official"]


def byol_head(variant: Variant, in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Projector or predictor: linear, batch norm, ReLU, linear; "official" ends with unit rows (object_aware.md §1.3).

    Raises: UsageError for an unknown variant.
    """
    if variant not in get_args(Variant):
        raise unknown_name("variant of BYOL", variant, get_args(Variant))
    if variant == "official":
        return normalized_mlp(in_dim, hidden_dim, out_dim)
    return projection_mlp(in_dim, hidden_layers=1, hidden_dim=hidden_dim, out_dim=out_dim, bn_momentum=0.1)


@register_method("byol")
class BYOL(SiameseMethod):
    """Both directions of every pair of views, summed over a pair and averaged over pairs: in [−4, 4].

    Of the presets of views "release" has BYOL's asymmetric blur and solarisation.

    Logs ``cosine`` of predictions and targets, and ``spread`` of the projections: 0 when they have collapsed.

    Args:
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        variant: of the heads. "paper": the projection goes to the predictor as it is (Grill 2020, §3.3); "official":
            it is normalised before, as in the object-aware code (object_aware.md §1.3).
        hidden_dim, out_dim: of projector and predictor: 4096 and 256.
        momentum: of the teacher, 0.996. momentum_schedule: "constant" (object_aware.md §1.3), or "cosine" to 1 at the
            end (Grill 2020, §3.3).
        mix: "mixup" or "cutmix" of the first view with another sample's: its cosines with both count by their shares
            (object_aware.md §4.4). mix_alpha: of the Beta distribution.
        options: of ``SiameseMethod``: clips, views, sizes, and every argument of ``unreel.views.presets.view_plan``.
    Raises: UsageError for values that cannot be.
    """

    @takes_siamese_options()
    def __init__(
        self,
        encoder: Encoder,
        *,
        variant: Variant = "paper",
        hidden_dim: Annotated[int, Range(ge=1)] = 4096,
        out_dim: Annotated[int, Range(ge=1)] = 256,
        momentum: Annotated[float, Range(ge=0, le=1)] = 0.996,
        momentum_schedule: MomentumSchedule = "constant",
        mix: Mix = "none",
        mix_alpha: Annotated[float, Range(gt=0)] = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, **options)
        self.batch_operations = mixing(mix, mix_alpha)
        scheduled_momentum(momentum, 0.0, momentum_schedule)  # an unknown schedule is refused now
        self.head = byol_head(variant, encoder.num_features, hidden_dim, out_dim)
        self.predictor: nn.Module = byol_head(variant, out_dim, hidden_dim, out_dim)
        self.teacher = Teacher(encoder, self.head)
        self.momentum, self.momentum_schedule = momentum, momentum_schedule

    def on_step_begin(self, progress: StepsDone) -> None:
        """The teacher follows, before the step's loss (object_aware.md §1.1)."""
        m = scheduled_momentum(self.momentum, progress.fraction, self.momentum_schedule)
        self.teacher.follow(self.encoder, self.head, momentum=m)

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each."""
        clips = [self.encoder.prepare(view.data) for view in batch.views]
        projections = [self.head(self.encoder(x)) for x in clips]
        predictions = [self.predictor(z) for z in projections]
        targets = [self.teacher(x) for x in clips]
        mixed = mixed_of(batch)
        similar = torch.stack(
            [_similarity(i, j, predictions[i], targets[j], mixed) for i, j in self.pairs(ordered=True)]
        ).mean()
        logs = {"cosine": similar.detach(), "spread": spread(projections[0])}
        return LossOutput(-4 * similar, logs)  # both directions of a pair, −2 · cosine each


def _similarity(i: int, j: int, p: Tensor, y: Tensor, mixed: Mixed | None) -> Tensor:
    """Mean cosine of predictions of view i and targets of view j; the first view may be of two samples by shares."""
    if mixed is None or 0 not in (i, j):
        return cosines(p, y).mean()
    # Row r of the first view is of samples r and partner[r], whichever side of the comparison it is on.
    other = cosines(p, y[mixed.partner]) if i == 0 else cosines(p[mixed.partner], y)
    share = mixed.weight.to(other)
    return (share * cosines(p, y) + (1 - share) * other).mean()
