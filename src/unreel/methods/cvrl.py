"""CVRL: spatiotemporal contrastive video representation learning (Qian et al., CVPR 2021; arXiv 2008.03800v4).

From one video draw two clips, an interval apart that is more often short than long; augment each with one draw for all
of its frames; encode both with the same network; pull the two together and push all others of the batch away. The head
is thrown away afterwards (docs/methods/cvrl.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Unpack

import torch
from torch import nn

from unreel.core.checks import Positive
from unreel.data.batch import Batch
from unreel.data.sampling import PairSampler
from unreel.losses.contrastive import Negatives, Reduction, contrast_statistics, nt_xent
from unreel.methods.debiasing import OBJECTS, HeadParts
from unreel.methods.method import LossOutput, Method
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.heads import projection_mlp
from unreel.views.presets import view_plan


@register_method("cvrl")
class CVRL(Method):
    """Two clips of a video agree, clips of different videos do not. Defaults are the paper's.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method is given.
        clips: two clips of 16 frames at stride 2, an interval apart with P(t) ∝ c − t.
        views: crop, flip, jitter, grey (Algorithm 1), drawn once per clip.
        objects: object-aware views; off.
        head: the projection head: three hidden layers of 2048, 128 out.
        temperature: the loss divides similarities by it.
        reduction: "mean" (the paper), or "sum_of_views" (the release: twice the mean; the learning rate is tied to it).
        negatives: "other_groups": what is of the anchor's own group (patient, scene) is not pushed away; "all": it is.
        same_view_negatives: False drops the other videos' clips of the anchor's own view.
        normalize: False compares projections as they are.
        gather: negatives from all processes ("global") or this one ("local").
        grad_scale: factor on the gradient of the loss, not on its value. The release, taken literally, multiplies the
            gradient by the number of replicas (docs/methods/cvrl.md, Head and loss).

    Raises: UsageError for values that cannot be.
    """

    parts: ClassVar = {
        "clips": Part(PairSampler),
        "views": Part(view_plan),
        "objects": OBJECTS,
        "head": Part(projection_mlp),
    }
    head: nn.Module

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Positive = 0.1,
        reduction: Reduction = "mean",
        negatives: Negatives = "all",
        same_view_negatives: bool = True,
        normalize: bool = True,
        gather: Literal["global", "local"] = "global",
        grad_scale: Positive = 1.0,
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts)
        self.temperature, self.reduction, self.normalize = temperature, reduction, normalize
        self.negatives = negatives
        self.same_view_negatives, self.gather, self.grad_scale = same_view_negatives, gather == "global", grad_scale

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Contrast accuracy 1/B, and the loss log(2B − 1) where it is the plain one; B the global batch."""
        own, batch = settings["method"], settings["train"]["batch_size"]
        if own["gather"] != "global" or own.get("negatives", "all") != "all":
            return {}
        plain = own["reduction"] == "mean" and own["same_view_negatives"] and own["grad_scale"] == 1
        return {"contrast_accuracy": 1 / batch, **({"loss": math.log(2 * batch - 1)} if plain else {})}

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B videos with two views each; logs contrast accuracy and entropy."""
        first, second = batch.views
        # All first views, then all second views, in one pass: batch norm sees both.
        clips = torch.cat([first.data, second.data])
        projections = self.head(self.encoder(self.encoder.prepare(clips)))
        a, b = projections.chunk(2)
        how: dict[str, Any] = {"temperature": self.temperature, "normalize": self.normalize, "gather": self.gather}
        how["groups"] = batch.group if self.negatives == "other_groups" else None
        loss = nt_xent(a, b, reduction=self.reduction, same_view_negatives=self.same_view_negatives, **how)
        found = contrast_statistics(a, b, **how)
        logs = {"contrast_accuracy": found.accuracy, "contrast_entropy": found.entropy}
        if self.grad_scale != 1:
            loss = loss.detach() + self.grad_scale * (loss - loss.detach())  # the logged value stays the loss
        return LossOutput(loss, logs)
