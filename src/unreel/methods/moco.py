"""MoCo: a query finds its key among a queue of keys of earlier batches (He et al., CVPR 2020; v2: arXiv 2003.04297).

Queries come from the encoder that is trained, keys from a teacher that follows it slowly, so that keys of many steps
ago still fit. Negatives are thus no matter of batch size. Keys are encoded with batch norm over all processes, which
takes the place of shuffling the batch between them: no process can tell its own rows by their statistics
(docs/methods/moco.md, Training). On video the views are ρ clips (docs/methods/simclr.md, Clips).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Unpack

import torch
from torch import Tensor, nn

from unreel.core.checks import Count, Positive, Range, Share, checked
from unreel.core.distributed import all_gather_with_grad
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.losses.contrastive import Negatives, same_group
from unreel.losses.queue import MixWeighting, mixed_queue_info_nce, queue_accuracy, queue_info_nce
from unreel.methods.debiasing import HeadParts
from unreel.methods.method import LossOutput, StepsDone
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.methods.siamese import Mix, SiameseMethod, mixed_of, mixing
from unreel.nn.ema import MomentumSchedule, Teacher, scheduled_momentum
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm, normalized_mlp, out_width, unit_linear

Version: TypeAlias = Literal["v1", "v2", "occon"]

# He 2020, §3.3, whose head is one layer; Chen 2020 (MoCo v2), table 1; docs/methods/moco.md, Head and queue.
_TEMPERATURE_V1, _TEMPERATURE = 0.07, 0.2


@checked
def moco_head(
    in_dim: Count, *, version: Version = "v2", hidden_dim: Count | None = None, out_dim: Count = 128
) -> nn.Sequential:
    """Embeddings (B, in_dim) to unit rows (B, out_dim).

    Args:
        in_dim: width of the embedding.
        version: "v1" one linear layer; "v2" linear, ReLU, linear; "occon" linear without bias, batch norm, ReLU,
            linear, as the object-aware code has it.
        hidden_dim: None: as wide as the embedding (docs/methods/moco.md, Head and queue).
        out_dim: of keys.
    Raises: UsageError for an unknown version.
    """
    hidden_dim = hidden_dim or in_dim
    if version == "occon":
        return normalized_mlp(in_dim, hidden_dim, out_dim)
    if version == "v1":
        return unit_linear(in_dim, out_dim=out_dim)
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim), L2Norm())


@register_method("moco")
class MoCo(SiameseMethod):
    """Queries against a queue, the mean over all pairs of views.

    Defaults are MoCo v2's, with the views of the object-aware paper.

    The queue is part of the state (``queue`` (K, D), ``queue_pointer``), and starts with keyed random unit vectors.
    The keys of a step enter it after the step, those of all processes and of all accumulated batches, unless the step
    was skipped; it wraps around, whatever the batch. Logs ``contrast_accuracy``: queries that are nearer to their own
    key than to all of the queue.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips, views, objects: see ``SiameseMethod``.
        head: from embeddings to keys: v2's, as wide as the embedding, 128 out.
        queue_size: K, keys; 65,536.
        momentum: the teacher's, 0.999. momentum_schedule: "constant", or "cosine" to 1 at the end.
        temperature: None: 0.07 where the head is one linear layer, as v1's, and 0.2 where it is more.
        symmetric: each pair of views both ways round. Otherwise the earlier view is the query.
        mix: "mixup" or "cutmix" of the first view with another sample's, which makes the batch's other keys negatives,
            too (docs/methods/object_views.md, Mixup and CutMix). mix_alpha: of the Beta distribution.
        mix_weighting: "official" averages before weighing, as the released code, see ``mixed_queue_info_nce``.
        negatives: "other_groups": keys of the query's own group (patient, scene) are not pushed away; "all": they are.
            The queue's groups are then part of the state, ``queue_groups`` (K,).
    Raises: UsageError for values that cannot be, such as mixing with ``symmetric``.
    """

    parts: ClassVar = {**SiameseMethod.parts, "head": Part(moco_head)}
    head: nn.Module
    queue: Tensor
    queue_pointer: Tensor
    queue_groups: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        queue_size: Annotated[int, Range(ge=1, unit="keys")] = 65_536,
        momentum: Share = 0.999,
        momentum_schedule: MomentumSchedule = "constant",
        temperature: Positive | None = None,
        symmetric: bool = False,
        mix: Mix = "none",
        mix_alpha: Positive = 1.0,
        mix_weighting: MixWeighting = "paper",
        negatives: Negatives = "all",
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts)
        self.batch_operations = (*self.batch_operations, *mixing(mix, mix_alpha))
        if symmetric and mix != "none":
            raise UsageError(f"mix: {mix} makes queries of two images, keys are of one: set symmetric to false")
        self.teacher = Teacher(encoder, self.head)
        start = torch.randn(queue_size, out_width(self.head), generator=Key("moco", "queue").torch(), device="cpu")
        self.register_buffer("queue", nn.functional.normalize(start, dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))
        # −1 is nobody's group: the random vectors are negatives of all.
        groups = torch.full((queue_size,), -1) if negatives == "other_groups" else None
        self.register_buffer("queue_groups", groups)
        # The same on every process by construction: DDP need not send 34 MB at each step.
        self._ddp_params_and_buffers_to_ignore = ["queue", "queue_groups"]
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        layers = sum(isinstance(module, nn.Linear) for module in self.head.modules())
        self.temperature = temperature or (_TEMPERATURE_V1 if layers == 1 else _TEMPERATURE)
        self.symmetric, self.mix_weighting = symmetric, mix_weighting
        self._fresh: list[tuple[Tensor, Tensor]] = []  # keys of this step and their groups; gone before the next begins

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """A query's own key against the queue, whatever the batch (docs/methods/moco.md, Head and queue)."""
        keys, mixed = settings["method"]["queue_size"], settings["method"]["mix"] != "none"
        if settings["method"].get("negatives", "all") != "all":
            return {}
        return {"contrast_accuracy": 1 / (1 + keys), **({} if mixed else {"loss": math.log(1 + keys)})}

    def on_step_begin(self, progress: StepsDone) -> None:
        """The teacher follows, before the step's loss (docs/methods/moco.md, Training)."""
        self._fresh.clear()
        m = scheduled_momentum(self.momentum, progress.fraction, self.momentum_schedule)
        self.teacher.follow(self.encoder, self.head, momentum=m)

    def forward(self, batch: Batch) -> LossOutput:
        pairs = self.pairs(ordered=self.symmetric)
        clips = [self.encoder.prepare(view.data) for view in batch.views]
        keys = {j: self.teacher(clips[j]) for j in sorted({j for _, j in pairs})}
        queries = {i: self.head(self.encoder(clips[i])) for i in sorted({i for i, _ in pairs})}
        if self.training:
            groups = all_gather_with_grad(batch.group)
            self._fresh += [(all_gather_with_grad(key), groups) for key in keys.values()]
        mixed = mixed_of(batch)
        if mixed is not None and 0 in keys:
            raise UsageError("the first view is mixed, and a key as well: set symmetric to false, or mix nothing")
        kin, batch_too = None, None  # keys of the query's own group: those of the queue; those of the batch as well
        if self.queue_groups is not None:
            kin = batch.group[:, None] == self.queue_groups
            batch_too = torch.cat([same_group(batch.group), kin], 1)
        losses = [
            queue_info_nce(queries[i], keys[j], self.queue, self.temperature, exclude=kin)
            if mixed is None or i != 0
            else mixed_queue_info_nce(
                queries[i],
                keys[j],
                self.queue,
                mixed,
                self.temperature,
                weighting=self.mix_weighting,
                exclude=batch_too,
            )
            for i, j in pairs
        ]
        first = pairs[0]
        accuracy = queue_accuracy(queries[first[0]], keys[first[1]], self.queue, kin)
        return LossOutput(torch.stack(losses).mean(), {"contrast_accuracy": accuracy})

    @torch.no_grad()
    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """The step's keys take the place of the oldest; nothing moves after a skipped step."""
        if applied and self._fresh:
            self.enqueue(*(torch.cat(parts) for parts in zip(*self._fresh, strict=True)))
        self._fresh.clear()

    @torch.no_grad()
    def enqueue(self, keys: Tensor, groups: Tensor) -> None:
        """Write keys (n, D) of groups (n,) at the pointer, wrapping around; of more than K the last K stay."""
        size = len(self.queue)
        first = self.queue_pointer + max(0, len(keys) - size)
        kept = keys[-size:].to(self.queue)
        # Indices on the device: nobody waits for the pointer.
        places = (first + torch.arange(len(kept), device=self.queue.device)) % size
        self.queue[places] = kept
        if self.queue_groups is not None:
            self.queue_groups[places] = groups[-size:]
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % size)
