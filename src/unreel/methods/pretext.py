"""What the tasks on clips have in common: encode them, and tell a class that the sampler or a keyed draw knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.errors import unknown_name
from unreel.data.batch import Batch
from unreel.data.contracts import Sampler
from unreel.methods.method import LossOutput, Method
from unreel.nn.encoder import Encoder
from unreel.nn.norm import separate_calls
from unreel.views.presets import snippet_views

BNGrouping: TypeAlias = Literal["per_call", "joint"]


class Question(NamedTuple):
    """Clips, each (B, C, T, H, W) float, and what to tell: one class per sample (B,), or per clip (B, len(clips))."""

    clips: Sequence[Tensor]
    target: Tensor


class PretextTask(Method):
    """Base of the methods whose loss is the cross-entropy of a class that nobody had to label.

    A subclass gives a sampler and a head, and says in ``question`` what is asked. Logged: ``accuracy``.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        sampler: its number of views is that of clips per video.
        head: (embeddings (B, n, D), key, ids) to scores; see ``nn.heads``.
        target: name of the sampler's target.
        clip_frames, stride, size: of the clips, for the encoder's card and the views.
        view_options: of ``snippet_views``. In validation the crop is the centre, without flip and colour jitter.
        bn_grouping: "per_call": a batch norm sees the clips at one position of the tuple by themselves, as where the
            papers' code calls its network once for each; "joint": those of all positions together.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        sampler: Sampler,
        head: nn.Module,
        target: str,
        clip_frames: int,
        stride: int,
        size: int,
        view_options: dict[str, Any],
        bn_grouping: BNGrouping = "joint",
    ) -> None:
        super().__init__()
        if bn_grouping not in get_args(BNGrouping):
            raise unknown_name("bn_grouping", bn_grouping, get_args(BNGrouping))
        self.encoder = encoder
        self.head = head
        self.sampler = sampler
        self.views = snippet_views(sampler.num_views, size=size, **view_options)
        still = {**view_options, "crop": "center", "flip_p": 0.0, "jitter_p": 0.0}
        self.validation_views = snippet_views(sampler.num_views, size=size, **still)
        encoder.input_spec = replace(encoder.input_spec, num_frames=clip_frames, stride_frames=stride, size_px=size)
        self.target, self.per_call = target, bn_grouping == "per_call"

    def question(self, batch: Batch) -> Question:
        """All views, and the sampler's target."""
        return Question([view.data for view in batch.views], batch.targets[self.target])

    def encode(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips at n positions, each (B, C, T, H, W), to embeddings (B, n, D), in one pass."""
        count = len(clips)
        prepared = self.encoder.prepare(torch.cat(list(clips)))
        if self.per_call and count > 1:
            with separate_calls(self.encoder, range(count), count):
                embeddings = self.encoder(prepared)
        else:
            embeddings = self.encoder(prepared)
        return embeddings.unflatten(0, (count, -1)).transpose(0, 1)  # type: ignore[no-any-return]

    def classify(self, embeddings: Tensor, target: Tensor, batch: Batch) -> LossOutput:
        """Embeddings (B, n, D) to the loss and the accuracy: of the tuple (B,), or of each clip by itself (B, n)."""
        key, ids = batch.key.child("dropout"), batch.sample_id
        if target.ndim == 1:
            scores = self.head(embeddings, key, ids)
        else:
            alone = [self.head(embeddings[:, i : i + 1], key.child(i), ids) for i in range(target.shape[1])]
            scores, target = torch.cat(alone), target.T.flatten()
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = functional.cross_entropy(scores, target)
        return LossOutput(loss, {"accuracy": (scores.detach().argmax(1) == target).float().mean()})

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of B videos; logs ``accuracy``."""
        clips, target = self.question(batch)
        return self.classify(self.encode(clips), target, batch)
