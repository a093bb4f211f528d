"""SimCLR: two views of one image agree, all other views of the batch are negatives (Chen et al., ICML 2020).

The loss is CVRL's (``losses.contrastive.nt_xent``); what differs is where the views come from: an image, or ρ clips at
independent times of a video (cvrl.md §6.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch

from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.losses.contrastive import contrast_statistics, nt_xent
from unreel.methods.method import LossOutput
from unreel.methods.registry import register_method
from unreel.methods.siamese import SiameseMethod, takes_siamese_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import projection_mlp


@register_method("simclr")
class SimCLR(SiameseMethod):
    """NT-Xent, the mean over all pairs of views.

    Args:
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        hidden_layers, hidden_dim, out_dim: the projection head: one hidden layer as wide as ResNet-50's embedding, 128
            out (Chen 2020, §4.2).
        bn_momentum: of the head's batch norms.
        temperature: 0.1 (Chen 2020, appendix B.9; cvrl.md §6.5).
        options: of ``SiameseMethod``: clips, views, sizes, and every argument of ``unreel.views.presets.view_plan``.
    Raises: UsageError for values that cannot be.
    """

    @takes_siamese_options()
    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden_layers: Annotated[int, Range(ge=0)] = 1,
        hidden_dim: Annotated[int, Range(ge=1)] = 2048,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.1,
        temperature: Annotated[float, Range(gt=0)] = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(encoder, **options)
        self.head = projection_mlp(
            encoder.num_features,
            hidden_layers=hidden_layers,
            hidden_dim=hidden_dim,
            out_dim=out_dim,
            bn_momentum=bn_momentum,
        )
        self.temperature = temperature

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Contrast accuracy 1/B and loss log(2B − 1); B the global batch."""
        batch = settings["train"]["batch_size"]
        return {"contrast_accuracy": 1 / batch, "loss": math.log(2 * batch - 1)}

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each; logs contrast accuracy and entropy of the first two views."""
        clips = torch.cat([view.data for view in batch.views])  # one pass: batch norm sees all views
        views = self.head(self.encoder(self.encoder.prepare(clips))).chunk(len(batch.views))
        losses = [nt_xent(views[i], views[j], self.temperature) for i, j in self.pairs(ordered=False)]
        found = contrast_statistics(views[0], views[1], temperature=self.temperature)
        logs = {"contrast_accuracy": found.accuracy, "contrast_entropy": found.entropy}
        return LossOutput(torch.stack(losses).mean(), logs)
