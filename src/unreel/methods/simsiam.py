"""SimSiam: predict the other view's projection, and stop the gradient there (Chen and He, CVPR 2021).

BYOL without its teacher: one network makes predictions and targets, and no gradient flows into a target. What keeps all
projections from becoming one is the stopped gradient together with the predictor; the logged ``spread`` tells whether
it does. docs/methods/simsiam.md has the numbers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from unreel.core.checks import Count, checked
from unreel.data.batch import Batch
from unreel.losses.byol import cosines, spread
from unreel.methods.method import LossOutput
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.methods.siamese import SiameseMethod
from unreel.nn.heads import out_width, projection_mlp


@checked
def simsiam_head(
    in_dim: Count, *, hidden_layers: Count = 2, hidden_dim: Count = 2048, out_dim: Count = 2048
) -> nn.Sequential:
    """``hidden_layers`` × (linear, batch norm, ReLU), then linear and batch norm: (B, in_dim) to (B, out_dim).

    Three linear layers of 2048, batch norm behind the last one too (Chen and He 2021, §3); two layers for CIFAR-10
    (Chen 2021, §4.6).
    """
    mlp = projection_mlp(in_dim, hidden_layers=hidden_layers, hidden_dim=hidden_dim, out_dim=out_dim, bn_momentum=0.1)
    return nn.Sequential(*mlp, nn.BatchNorm1d(out_dim))


@checked
def simsiam_predictor(head: nn.Module, *, bottleneck: Count = 512) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear, from projections to themselves; a quarter as wide inside (Chen 2021, §3)."""
    width = out_width(head)
    return projection_mlp(width, hidden_layers=1, hidden_dim=bottleneck, out_dim=width, bn_momentum=0.1)


@register_method("simsiam")
class SimSiam(SiameseMethod):
    """Minus the cosine of prediction and projection, over both directions of every pair of views: in [−1, 1] (eq. 2).

    Logs ``cosine``, and ``spread`` of the projections: 0 when they have collapsed.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips, views, objects: see ``SiameseMethod``; the views are MoCo v2's, as in the paper.
        head: the projector. predictor: from projections to projections.
    """

    parts: ClassVar = {
        **SiameseMethod.parts,
        "views": Part(SiameseMethod.parts["views"].builder, {"preset": "mocov2"}),
        "head": Part(simsiam_head),
        "predictor": Part(simsiam_predictor),
    }
    head: nn.Module
    predictor: nn.Module

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each."""
        projections = [self.head(self.encoder(self.encoder.prepare(view.data))) for view in batch.views]
        predictions = [self.predictor(z) for z in projections]
        similar = torch.stack([cosines(predictions[i], projections[j]).mean() for i, j in self.pairs(ordered=True)])
        return LossOutput(-similar.mean(), {"cosine": similar.detach().mean(), "spread": spread(projections[0])})
