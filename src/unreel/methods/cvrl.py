"""CVRL: spatiotemporal contrastive video representation learning (Qian et al., CVPR 2021; arXiv 2008.03800v4).

From one video draw two clips, an interval apart that is more often short than long; augment each with one draw for all
of its frames; encode both with the same network; pull the two together and push all others of the batch away. The head
is thrown away afterwards (cvrl.md §0).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch

from unreel.core.errors import UsageError
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.data.sampling import IntervalKind, PairSampler
from unreel.losses.contrastive import Reduction, contrast_statistics, nt_xent
from unreel.methods.method import LossOutput, Method
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import projection_mlp
from unreel.views.presets import ViewPreset, view_plan


@register_method("cvrl")
class CVRL(Method):
    """Two clips of a video agree, clips of different videos do not. Defaults are the paper's.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        clip_frames, stride: frames per clip and frames between them (16 at 2 span 31; §1).
        interval, power, fixed_frames, interval_scale: distribution of the time between the clips, see
            ``IntervalDistribution``; P(t) ∝ c − t by default (§3, a).
        swap: put the two clips in random order; matters where the views differ (``views="release"``).
        views: "paper" (crop, flip, jitter, grey: Algorithm 1) or another preset of ``unreel.views.presets``.
        size: side of the square clips, pixels.
        consistent: one draw per clip; False draws per frame, the ablation that hurts (§4).
        hidden_layers, hidden_dim, out_dim: the projection head: three hidden layers of 2048, 128 out (§2).
        batch_norm, bias: whether the head has batch norms, and biases in its linear layers (§8.3).
        bn_momentum, bn_eps: of the head's batch norms; decay 0.997 and 1e-5 (§2).
        temperature: of the loss.
        reduction: "mean" (the paper), or "sum_of_views" (the release: twice the mean; the learning rate is tied to it).
        same_view_negatives: False drops the other videos' clips of the anchor's own view.
        normalize: False compares projections as they are.
        gather: negatives from all processes ("global") or this one ("local").
        grad_scale: factor on the gradient of the loss, not on its value. The release, taken literally, multiplies the
            gradient by the number of replicas (§2, replica scaling trap).
        view_options: every other argument of ``unreel.views.presets.view_plan``.

    Raises: UsageError for values that cannot be.
    """

    @takes_view_options("preset", "size", "num_views", "consistent")
    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 2,
        interval: IntervalKind = "decreasing",
        power: Annotated[float, Range(gt=0)] = 1.0,
        fixed_frames: Annotated[int, Range(ge=0, unit="frames")] = 0,
        interval_scale: Annotated[float, Range(gt=0)] = 0.25,
        swap: bool = True,
        views: ViewPreset = "paper",
        size: Annotated[int, Range(ge=8, unit="px")] = 224,
        consistent: bool = True,
        hidden_layers: Annotated[int, Range(ge=0)] = 3,
        hidden_dim: Annotated[int, Range(ge=1)] = 2048,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        batch_norm: bool = True,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.003,
        bn_eps: Annotated[float, Range(gt=0)] = 1e-5,
        bias: bool = True,
        temperature: Annotated[float, Range(gt=0)] = 0.1,
        reduction: Reduction = "mean",
        same_view_negatives: bool = True,
        normalize: bool = True,
        gather: Literal["global", "local"] = "global",
        grad_scale: Annotated[float, Range(gt=0)] = 1.0,
        **view_options: Any,
    ) -> None:
        super().__init__()
        if gather not in ("global", "local"):
            raise UsageError(f"gather must be global or local, got {gather!r}")
        self.encoder = encoder
        self.head = projection_mlp(
            encoder.num_features,
            hidden_layers=hidden_layers,
            hidden_dim=hidden_dim,
            out_dim=out_dim,
            batch_norm=batch_norm,
            bn_momentum=bn_momentum,
            bn_eps=bn_eps,
            bias=bias,
        )
        self.sampler = PairSampler(
            clip_frames,
            stride,
            interval=interval,
            power=power,
            fixed_frames=fixed_frames,
            scale=interval_scale,
            swap=swap,
        )
        self.views = view_plan(views, size=size, consistent=consistent, **view_options)
        encoder.input_spec = replace(encoder.input_spec, num_frames=clip_frames, stride_frames=stride, size_px=size)
        self.temperature, self.reduction, self.normalize = temperature, reduction, normalize
        self.same_view_negatives, self.gather, self.grad_scale = same_view_negatives, gather == "global", grad_scale

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B videos with two views each; logs contrast accuracy and entropy (§2)."""
        first, second = batch.views
        # All first views, then all second views, in one pass: batch norm sees both (§2).
        clips = torch.cat([first.data, second.data])
        projections = self.head(self.encoder(self.encoder.prepare(clips)))
        a, b = projections.chunk(2)
        loss = nt_xent(
            a,
            b,
            temperature=self.temperature,
            reduction=self.reduction,
            same_view_negatives=self.same_view_negatives,
            normalize=self.normalize,
            gather=self.gather,
        )
        found = contrast_statistics(a, b, temperature=self.temperature, normalize=self.normalize, gather=self.gather)
        logs = {"contrast_accuracy": found.accuracy, "contrast_entropy": found.entropy}
        if self.grad_scale != 1:
            loss = loss.detach() + self.grad_scale * (loss - loss.detach())  # the logged value stays the loss
        return LossOutput(loss, logs)
