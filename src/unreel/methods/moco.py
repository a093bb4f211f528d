"""MoCo: a query finds its key among a queue of keys of earlier batches (He et al., CVPR 2020; v2: arXiv 2003.04297).

Queries come from the encoder that is trained, keys from a teacher that follows it slowly, so that keys of many steps
ago still fit. Negatives are thus no matter of batch size. Keys are encoded with batch norm over all processes, which
takes the place of shuffling the batch between them: no process can tell its own rows by their statistics
(object_aware.md §1.1). On video the views are ρ clips (cvrl.md §6.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from unreel.core.distributed import all_gather_with_grad
from unreel.core.errors import UsageError, unknown_name
from unreel.core.keys import Key
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.losses.queue import MixWeighting, mixed_queue_info_nce, queue_accuracy, queue_info_nce
from unreel.methods.method import LossOutput, StepsDone
from unreel.methods.registry import register_method
from unreel.methods.siamese import Mix, SiameseMethod, mixed_of, mixing, takes_siamese_options
from unreel.nn.ema import MomentumSchedule, Teacher, scheduled_momentum
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm, normalized_mlp

Version: TypeAlias = Literal["v1", "v2", "occon"]

# He 2020, §3.3; Chen 2020 (MoCo v2), table 1; object_aware.md §1.2.
_TEMPERATURE: dict[str, float] = {"v1": 0.07, "v2": 0.2, "occon": 0.2}


def moco_head(version: Version, in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Embeddings (B, in_dim) to unit rows (B, out_dim).

    "v1" one linear layer; "v2" linear, ReLU, linear; "occon" linear without bias, batch norm, ReLU, linear, as the
    object-aware code has it (object_aware.md §1.1). Raises UsageError for an unknown version.
    """
    if version not in get_args(Version):
        raise unknown_name("version of MoCo", version, get_args(Version))
    if version == "occon":
        return normalized_mlp(in_dim, hidden_dim, out_dim)
    if version == "v1":
        return nn.Sequential(nn.Linear(in_dim, out_dim), L2Norm())
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
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        version: of the head and the temperature: "v1", "v2", or "occon", v2 with the head of the object-aware code.
        hidden_dim: of the head; None: as wide as the embedding (object_aware.md §1.2). out_dim: of keys, 128.
        queue_size: K, keys; 65,536.
        momentum: of the teacher, 0.999. momentum_schedule: "constant", or "cosine" to 1 at the end.
        temperature: None: 0.07 in v1, 0.2 in v2.
        symmetric: each pair of views both ways round. Otherwise the earlier view is the query.
        mix: "mixup" or "cutmix" of the first view with another sample's, which makes the batch's other keys negatives,
            too (object_aware.md §4.4). mix_alpha: of the Beta distribution.
        mix_weighting: "official" averages before weighing, as the released code, see ``mixed_queue_info_nce``.
        options: of ``SiameseMethod``: clips, views, sizes, and every argument of ``unreel.views.presets.view_plan``.
    Raises: UsageError for values that cannot be, such as mixing with ``symmetric``.
    """

    queue: Tensor
    queue_pointer: Tensor

    @takes_siamese_options()
    def __init__(
        self,
        encoder: Encoder,
        *,
        version: Version = "v2",
        hidden_dim: Annotated[int, Range(ge=1)] | None = None,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        queue_size: Annotated[int, Range(ge=1, unit="keys")] = 65_536,
        momentum: Annotated[float, Range(ge=0, le=1)] = 0.999,
        momentum_schedule: MomentumSchedule = "constant",
        temperature: Annotated[float, Range(gt=0)] | None = None,
        symmetric: bool = False,
        mix: Mix = "none",
        mix_alpha: Annotated[float, Range(gt=0)] = 1.0,
        mix_weighting: MixWeighting = "paper",
        **options: Any,
    ) -> None:
        super().__init__(encoder, **options)
        self.batch_operations = mixing(mix, mix_alpha)
        if mix_weighting not in get_args(MixWeighting):
            raise unknown_name("mix_weighting", mix_weighting, get_args(MixWeighting))
        if symmetric and mix != "none":
            raise UsageError(f"mix: {mix} makes queries of two images, keys are of one: set symmetric to false")
        scheduled_momentum(momentum, 0.0, momentum_schedule)  # an unknown schedule is refused now
        self.head = moco_head(version, encoder.num_features, hidden_dim or encoder.num_features, out_dim)
        self.teacher = Teacher(encoder, self.head)
        start = torch.randn(queue_size, out_dim, generator=Key("moco", "queue").torch(), device="cpu")
        self.register_buffer("queue", nn.functional.normalize(start, dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))
        # The same on every process by construction: DDP need not send 34 MB at each step.
        self._ddp_params_and_buffers_to_ignore = ["queue"]
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        self.temperature = _TEMPERATURE[version] if temperature is None else temperature
        self.symmetric, self.mix_weighting = symmetric, mix_weighting
        self._fresh: list[Tensor] = []  # keys of this step; gone before the next begins

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """A query's own key against the queue, whatever the batch (object_aware.md §1.2)."""
        keys, mixed = settings["method"]["queue_size"], settings["method"]["mix"] != "none"
        return {"contrast_accuracy": 1 / (1 + keys), **({} if mixed else {"loss": math.log(1 + keys)})}

    def on_step_begin(self, progress: StepsDone) -> None:
        """The teacher follows, before the step's loss (object_aware.md §1.1)."""
        self._fresh.clear()
        m = scheduled_momentum(self.momentum, progress.fraction, self.momentum_schedule)
        self.teacher.follow(self.encoder, self.head, momentum=m)

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources with V views each."""
        pairs = self.pairs(ordered=self.symmetric)
        clips = [self.encoder.prepare(view.data) for view in batch.views]
        keys = {j: self.teacher(clips[j]) for j in sorted({j for _, j in pairs})}
        queries = {i: self.head(self.encoder(clips[i])) for i in sorted({i for i, _ in pairs})}
        if self.training:
            self._fresh += [all_gather_with_grad(key) for key in keys.values()]
        mixed = mixed_of(batch)
        if mixed is not None and 0 in keys:
            raise UsageError("the first view is mixed, and a key as well: set symmetric to false, or mix nothing")
        losses = [
            queue_info_nce(queries[i], keys[j], self.queue, self.temperature)
            if mixed is None or i != 0
            else mixed_queue_info_nce(
                queries[i], keys[j], self.queue, mixed, self.temperature, weighting=self.mix_weighting
            )
            for i, j in pairs
        ]
        first = pairs[0]
        accuracy = queue_accuracy(queries[first[0]], keys[first[1]], self.queue)
        return LossOutput(torch.stack(losses).mean(), {"contrast_accuracy": accuracy})

    @torch.no_grad()
    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """The step's keys take the place of the oldest; nothing moves after a skipped step."""
        if applied and self._fresh:
            self.enqueue(torch.cat(self._fresh))
        self._fresh.clear()

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write keys (n, D) at the pointer, wrapping around; of more than K the last K stay."""
        size = len(self.queue)
        first = self.queue_pointer + max(0, len(keys) - size)
        kept = keys[-size:].to(self.queue)
        # Indices on the device: nobody waits for the pointer.
        self.queue[(first + torch.arange(len(kept), device=self.queue.device)) % size] = kept
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % size)
