"""BYOL: predict the teacher's projection of the other view; no negatives (Grill et al., NeurIPS 2020).

What keeps all projections from becoming one is the predictor, the slow teacher and batch norm; the logged ``spread``
tells whether it does. On video the views are ρ clips (docs/methods/simclr.md, Clips).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from unreel.core.checks import Count, Positive, Share, checked
from unreel.data.batch import Batch
from unreel.losses.byol import cosines, spread
from unreel.losses.queue import Mixed
from unreel.methods.debiasing import HeadParts
from unreel.methods.method import LossOutput, StepsDone
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.methods.siamese import Mix, SiameseMethod, mixed_of, mixing
from unreel.nn.ema import MomentumSchedule, Teacher, scheduled_momentum
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm, normalized_mlp, out_width, projection_mlp


@checked
def byol_head(
    in_dim: Count, *, variant: Literal["paper", "official"] = "paper", hidden_dim: Count = 4096, out_dim: Count = 256
) -> nn.Sequential:
    """BYOL's projector: linear, batch norm, ReLU, linear.

    Args:
        in_dim: width of the embedding.
        variant: "paper": the projection goes to the predictor as it is (Grill 2020, §3.3); "official": it is
            normalised before, as in the object-aware code (docs/methods/byol.md, Heads and loss).
        hidden_dim, out_dim: of projector and predictor.
    Raises: UsageError for an unknown variant.
    """
    if variant == "official":
        return normalized_mlp(in_dim, hidden_dim, out_dim)
    return projection_mlp(in_dim, hidden_layers=1, hidden_dim=hidden_dim, out_dim=out_dim, bn_momentum=0.1)


def byol_predictor(head: nn.Module) -> nn.Sequential:
    """A projector like ``head``, from its projections to themselves."""
    width = out_width(head)
    hidden = next(module.out_features for module in head.modules() if isinstance(module, nn.Linear))
    unit = any(isinstance(module, L2Norm) for module in head.modules())
    return byol_head(width, variant="official" if unit else "paper", hidden_dim=hidden, out_dim=width)


@register_method("byol")
class BYOL(SiameseMethod):
    """Both directions of every pair of views, summed over a pair and averaged over pairs: in [−4, 4].

    Of the presets of views "release" has BYOL's asymmetric blur and solarisation.

    Logs ``cosine`` of predictions and targets, and ``spread`` of the projections: 0 when they have collapsed.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips, views, objects: see ``SiameseMethod``.
        head: the projector: 4096 wide, 256 out.
        predictor: from projections to projections; None: as the projector.
        momentum: the teacher's, 0.996. momentum_schedule: "constant" (docs/methods/byol.md, Heads and loss), or
            "cosine" to 1 at the end (Grill 2020, §3.3).
        mix: "mixup" or "cutmix" of the first view with another sample's: its cosines with both count by their shares
            (docs/methods/object_views.md, Mixup and CutMix). mix_alpha: of the Beta distribution.
    Raises: UsageError for values that cannot be.
    """

    parts: ClassVar = {**SiameseMethod.parts, "head": Part(byol_head), "predictor": Part(byol_predictor)}
    head: nn.Module
    predictor: nn.Module

    def __init__(
        self,
        encoder: Encoder,
        *,
        predictor: nn.Module | None = None,
        momentum: Share = 0.996,
        momentum_schedule: MomentumSchedule = "constant",
        mix: Mix = "none",
        mix_alpha: Positive = 1.0,
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts, predictor=predictor)
        self.batch_operations = (*self.batch_operations, *mixing(mix, mix_alpha))
        self.teacher = Teacher(encoder, self.head)
        self.momentum, self.momentum_schedule = momentum, momentum_schedule

    def on_step_begin(self, progress: StepsDone) -> None:
        """The teacher follows, before the step's loss (docs/methods/moco.md, Training)."""
        m = scheduled_momentum(self.momentum, progress.fraction, self.momentum_schedule)
        self.teacher.follow(self.encoder, self.head, momentum=m)

    def forward(self, batch: Batch) -> LossOutput:
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
