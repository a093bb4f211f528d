"""SwAV: predict from one view the cluster that another is assigned to (Caron et al., NeurIPS 2020).

No negatives: what keeps all samples from one cluster is that every prototype must serve as many of the global batch as
every other. Small crops predict, but are not assigned, so many views cost little. On video the large views are ρ clips,
and the small crops come from these clips in turn. Numbers are those of the authors' scripts and their view settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Amount, Count, Positive, Range, Share, checked
from unreel.core.distributed import all_gather_with_grad, all_reduce_mean
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.contracts import Sampler, SamplerDraw, SourceInfo
from unreel.losses.swav import sinkhorn, swapped_prediction
from unreel.methods.debiasing import HeadParts
from unreel.methods.method import LossOutput, StepsDone
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.methods.siamese import SiameseMethod
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm, out_width, projection_mlp
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan


@dataclass(frozen=True)
class ClipsInTurn:
    """A sampler with more views than clips: view i takes clip i mod n of another sampler's n."""

    clips: Sampler
    num_views: int

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """The other sampler's draw, its clips repeated."""
        drawn = self.clips.draw(key, source)
        return SamplerDraw(tuple(drawn.clips[i % len(drawn.clips)] for i in range(self.num_views)), drawn.targets)


@checked
def multi_crop(
    make: Callable[..., ViewPlan],
    num_views: int,
    *,
    small_views: Amount = 6,
    small_size: Annotated[int, Range(ge=8, unit="px")] = 96,
    small_area_min: Share = 0.05,
    small_area_max: Share = 0.14,
) -> ViewPlan:
    """Large views, and small ones after them.

    Args:
        make: what builds either kind, such as ``view_plan`` with its settings.
        num_views: large views, one for each clip.
        small_views: crops that are not assigned; 0 to 6 and more.
        small_size: their side, pixels.
        small_area_min, small_area_max: share of the frame that they cover.
    Raises: UsageError for values that cannot be.
    """
    large = make(num_views=num_views)
    if not small_views:
        return large
    area = {"crop_area_min": small_area_min, "crop_area_max": small_area_max}
    small = make(num_views=small_views, size=small_size, **area)
    return ViewPlan([*large.pipelines, *small.pipelines])


@checked
def swav_head(in_dim: int, *, hidden_dim: Amount = 2048, out_dim: Count = 128) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear, unit length; ``hidden_dim=0`` is one linear layer."""
    layers = 1 if hidden_dim else 0
    mlp = projection_mlp(in_dim, hidden_layers=layers, hidden_dim=hidden_dim or 1, out_dim=out_dim, bn_momentum=0.1)
    return nn.Sequential(*mlp, L2Norm())


@register_method("swav")
class SwAV(SiameseMethod):
    """Swapped prediction between views. Defaults are the release's for batches of thousands.

    There is a large view of each clip; all of them are assigned. The small ones take the clips in turn.

    The prototypes are rows of unit length, renormalised before each step. Logs ``agreement``, the share of samples
    whose first two views are nearest to the same prototype, and ``prototypes_used``, the share of prototypes in use: e
    to the entropy of the mean prediction, over K; near 1/K everything has become one cluster.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips, objects: see ``SiameseMethod``.
        views: at least as many as clips. The large ones, of which there are as many as clips, come first. By default
            they cover 14 % of the frame at least.
        head: from embeddings to unit rows: 2048 wide, 128 out.
        num_prototypes: K, 3,000; at least several samples of a batch (with its queue) per prototype or few.
        epsilon, iterations: settings of the assignment, see ``sinkhorn``.
        temperature: the prediction divides similarities by it.
        freeze_steps: first steps in which the prototypes stay as they are: one epoch of ImageNet, 313 steps of 4,096.
        queue_size: projections of each large view kept for the assignment, where a batch is small against K: 3,840 for
            batches of 256; 0 keeps none.
        queue_epoch: epoch from which they are collected; they take part once the queue is full. It starts with an
            epoch of which the trainer must know the number: a loader without a length stays in epoch 0.
    Raises: UsageError for values that cannot be.
    """

    parts: ClassVar = {
        **SiameseMethod.parts,
        "views": Part(multi_crop, {"preset": "occon", "crop_area_min": 0.14}, of=view_plan),
        "head": Part(swav_head),
    }
    head: nn.Module
    queue: Tensor
    queue_filled: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_prototypes: Annotated[int, Range(ge=2)] = 3000,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        temperature: Positive = 0.1,
        freeze_steps: Amount = 313,
        queue_size: Annotated[int, Range(ge=0, unit="projections")] = 0,
        queue_epoch: Amount = 15,
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts)
        self.num_large = self.sampler.num_views
        if self.views.num_views > self.num_large:
            self.sampler = ClipsInTurn(self.sampler, self.views.num_views)
        out_dim = out_width(self.head)
        self.prototypes = nn.Linear(out_dim, num_prototypes, bias=False)
        self._renormalise()
        self.register_buffer("queue", torch.zeros(self.num_large, queue_size, out_dim))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.int64))
        self._ddp_params_and_buffers_to_ignore = ["queue"]  # the same on every process by construction
        self.epsilon, self.iterations, self.temperature = epsilon, iterations, temperature
        self.freeze_steps, self.queue_epoch = freeze_steps, queue_epoch
        self._frozen = self._collecting = self._queue_takes_part = False
        self._fresh: list[Tensor] = []  # large projections of this step; gone before the next begins

    @torch.no_grad()
    def _renormalise(self) -> None:
        self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))

    def on_step_begin(self, progress: StepsDone) -> None:
        """Prototypes back to unit length; what this step freezes, collects and uses."""
        self._renormalise()
        self._fresh.clear()
        self._frozen = progress.step < self.freeze_steps
        size = self.queue.shape[1]
        self._collecting = size > 0 and progress.epoch >= self.queue_epoch
        self._queue_takes_part = self._collecting and int(self.queue_filled) >= size

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each, the large ones first."""
        z = self.projections([self.encoder.prepare(view.data) for view in batch.views])
        scores = [self.scores(view) for view in z]
        if self.training and self._collecting:
            large = torch.stack([view.detach() for view in z[: self.num_large]], 1)
            self._fresh.append(all_gather_with_grad(large))
        with torch.no_grad():
            earlier = [self.scores(kept) if self._queue_takes_part else None for kept in self.queue]
        assignments = {
            i: sinkhorn(scores[i].detach(), epsilon=self.epsilon, iterations=self.iterations, others=kept)
            for i, kept in enumerate(earlier)
        }
        loss = swapped_prediction(scores, assignments, self.temperature)
        return LossOutput(loss, self._logs(scores))

    def projections(self, clips: list[Tensor]) -> list[Tensor]:
        """Unit rows (B, D) per view; neighbours of one size go through the encoder together, all through the head."""
        embeddings: list[Tensor] = []
        first = 0
        for i in range(1, len(clips) + 1):
            if i == len(clips) or clips[i].shape != clips[first].shape:
                embeddings.append(self.encoder(torch.cat(clips[first:i])))
                first = i
        return list(self.head(torch.cat(embeddings)).chunk(len(clips)))

    def scores(self, z: Tensor) -> Tensor:
        """Unit rows (n, D) to similarities with the prototypes (n, K), never in half precision.

        An assignment divides them by ε = 0.05: bfloat16's step of 0.004 below 1 would be one of 8 % in its shares.
        """
        with torch.autocast(device_type=z.device.type, enabled=False):
            return self.prototypes(z.to(self.prototypes.weight.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _logs(self, scores: list[Tensor]) -> dict[str, Tensor]:
        agreement = (scores[0].argmax(1) == scores[1].argmax(1)).float().mean()
        mean = all_reduce_mean((scores[0].float() / self.temperature).softmax(1).mean(0))
        used = torch.special.entr(mean).sum().exp() / len(mean)
        return {"agreement": agreement, "prototypes_used": used}

    def on_gradients(self) -> None:
        """The prototypes get no update in the first steps, not even by momentum or decay."""
        if self._frozen:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """The step's projections push out the oldest; nothing moves after a skipped step."""
        if applied and self._fresh:
            size = self.queue.shape[1]
            new = torch.cat(self._fresh).transpose(0, 1).to(self.queue)  # (large views, rows, D)
            self.queue.copy_(torch.cat([self.queue, new], 1)[:, -size:])
            self.queue_filled.add_(new.shape[1]).clamp_(max=size)
        self._fresh.clear()
