"""What the tasks on clips have in common: encode them, and tell a class that the sampler or a keyed draw knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Range
from unreel.core.modules import wide
from unreel.data.batch import Batch
from unreel.data.contracts import SupportsViews
from unreel.methods.debiasing import OBJECTS, HeadParts
from unreel.methods.method import LossOutput, Method
from unreel.methods.parts import Part
from unreel.nn.encoder import Encoder
from unreel.nn.norm import separate_calls
from unreel.views.plan import ViewPlan
from unreel.views.presets import snippet_views

BNGrouping: TypeAlias = Literal["per_call", "joint"]
Share: TypeAlias = Annotated[float, Range(ge=0, lt=1)]


class Question(NamedTuple):
    """Clips, each (B, C, T, H, W) float, and what to tell: one class per sample (B,), or per clip (B, len(clips))."""

    clips: Sequence[Tensor]
    target: Tensor


class PretextTask(Method):
    """Base of the methods whose loss is the cross-entropy of a class that nobody had to label.

    A subclass declares its parts, names the sampler's target, and says in ``question`` what is asked. Logged:
    ``accuracy``. In validation the crop is the centre, without flip and colour jitter.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method is given.
        clips: its number of views is that of clips per video.
        views: drawn per clip, see ``snippet_views``.
        objects: object-aware views; off.
        head: (embeddings (B, n, D), key, ids) to scores; see ``nn.heads``.
        bn_grouping: "per_call": a batch norm sees the clips at one position of the tuple by themselves, as where the
            papers' code calls its network once for each; "joint": those of all positions together.
    """

    target: ClassVar[str]
    """Name of the sampler's target."""

    parts: ClassVar = {"views": Part(snippet_views), "objects": OBJECTS}
    head: nn.Module

    def __init__(self, encoder: Encoder, *, bn_grouping: BNGrouping = "per_call", **parts: Unpack[HeadParts]) -> None:
        super().__init__(encoder, **parts)
        self.per_call = bn_grouping == "per_call"

    @staticmethod
    def guess(clips: Mapping[str, Any]) -> float | None:
        """The accuracy of whoever always gives the most frequent answer, where the settings of ``clips`` tell it."""
        return None

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Accuracy as ``guess`` says."""
        level = cls.guess(settings["clips"])
        return {} if level is None else {"accuracy": level}

    def views_of_validation(self, views: Any) -> SupportsViews | None:
        """The centre, without flip and colour jitter."""
        return views.steady(("flip", "jitter")) if isinstance(views, ViewPlan) else None

    def question(self, batch: Batch) -> Question:
        return Question([view.data for view in batch.views], batch.targets[self.target])

    def encode(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips at n positions, each (B, C, T, H, W), to embeddings (B, n, D), in one pass."""
        count = len(clips)
        prepared = self.encoder.prepare(torch.cat(list(clips)))
        with separate_calls(self.encoder, range(count), count) if self.per_call and count > 1 else nullcontext():
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
        scores = wide(scores)
        loss = functional.cross_entropy(scores, target)
        return LossOutput(loss, {"accuracy": (scores.detach().argmax(1) == target).float().mean()})

    def forward(self, batch: Batch) -> LossOutput:
        clips, target = self.question(batch)
        return self.classify(self.encode(clips), target, batch)
