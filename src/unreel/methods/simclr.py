"""SimCLR: two views of one image agree, all other views of the batch are negatives (Chen et al., ICML 2020).

The loss is CVRL's (``losses.contrastive.nt_xent``); what differs is where the views come from: an image, or ρ clips at
independent times of a video (docs/methods/simclr.md, Clips).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import nn

from unreel.core.checks import Positive
from unreel.data.batch import Batch
from unreel.losses.contrastive import Negatives, contrast_statistics, nt_xent
from unreel.methods.debiasing import HeadParts
from unreel.methods.method import LossOutput
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.methods.siamese import SiameseMethod
from unreel.nn.encoder import Encoder
from unreel.nn.heads import projection_mlp


@register_method("simclr")
class SimCLR(SiameseMethod):
    """NT-Xent, the mean over all pairs of views.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips, views, objects: see ``SiameseMethod``.
        head: the projection head: one hidden layer as wide as ResNet-50's embedding, 128 out (Chen 2020, §4.2).
        temperature: 0.1 (Chen 2020, appendix B.9).
        negatives: "other_groups": what is of the anchor's own group (patient, scene) is not pushed away; "all": it is.
    """

    parts: ClassVar = {**SiameseMethod.parts, "head": Part(projection_mlp, {"hidden_layers": 1, "bn_momentum": 0.1})}
    head: nn.Module

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive = 0.1,
        negatives: Negatives = "all",
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts)
        self.temperature, self.negatives = temperature, negatives

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Contrast accuracy 1/B and loss log(2B − 1); B the global batch."""
        batch = settings["train"]["batch_size"]
        if settings["method"].get("negatives", "all") != "all":
            return {}
        return {"contrast_accuracy": 1 / batch, "loss": math.log(2 * batch - 1)}

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each; logs contrast accuracy and entropy of the first two views."""
        clips = torch.cat([view.data for view in batch.views])  # one pass: batch norm sees all views
        views = self.head(self.encoder(self.encoder.prepare(clips))).chunk(len(batch.views))
        groups = batch.group if self.negatives == "other_groups" else None
        losses = [nt_xent(views[i], views[j], self.temperature, groups=groups) for i, j in self.pairs(ordered=False)]
        found = contrast_statistics(views[0], views[1], temperature=self.temperature, groups=groups)
        logs = {"contrast_accuracy": found.accuracy, "contrast_entropy": found.entropy}
        return LossOutput(torch.stack(losses).mean(), logs)
