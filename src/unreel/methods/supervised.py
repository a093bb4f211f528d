"""Learning from labels: every layer, one random clip per video.

Source: docs/methods/evaluation.md, TCGL's fine-tuning and CVRL's fine-tuning.

Not a pretext task: the upper reference beside the methods without labels. From a pre-trained encoder it is fine-tuning
(``unreel.tasks.finetune`` tests what it leads to), from fresh weights it is "supervised from scratch".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Frames, Positive, Range, Share, checked
from unreel.core.errors import UsageError
from unreel.data.batch import Batch
from unreel.data.contracts import SupportsViews
from unreel.data.sampling import UniformSampler
from unreel.methods.debiasing import OBJECTS, ViewParts
from unreel.methods.method import DataFacts, LossOutput, Method
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.heads import LinearHead, keyed_dropout
from unreel.views.operation import Operation
from unreel.views.operations import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from unreel.views.plan import ViewPlan

Cropping: TypeAlias = Literal["place", "box"]
Frozen: TypeAlias = Literal["none", "norms", "trunk"]

# The short side of a frame over the side of the crop: TCGL's 128 over 112 (docs/methods/tcgl.md, Views).
_ROOM = 128 / 112
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@checked
def usual_clip(encoder: Encoder, *, clip_frames: Frames | None = None, stride: Frames | None = None) -> UniformSampler:
    """One random clip; short videos are looped.

    Args:
        encoder: whose clips are meant by None.
        clip_frames, stride: frames per clip and frames between them; None: as the encoder was trained.
    """
    spec = encoder.input_spec
    return UniformSampler(clip_frames=clip_frames or spec.num_frames, stride=stride or spec.stride_frames)


@checked
def labelled_views(
    encoder: Encoder,
    *,
    size: Annotated[int, Range(ge=8, unit="px")] | None = None,
    crop: Cropping = "place",
    resize: tuple[int, int] | None = None,
    crop_area_min: Annotated[float, Range(gt=0, le=1)] = 0.3,
    crop_aspect_min: Positive = 0.5,
    crop_aspect_max: Positive = 2.0,
    flip_p: Share = 0.0,
) -> ViewPlan:
    """One view that keeps the label.

    Args:
        encoder: whose size is meant by None.
        size: side of the square view, pixels; None: as the encoder was trained.
        crop: "place" resizes the frame and cuts at a random place (TCGL), "box" cuts a random box and resizes that
            (CVRL).
        resize: (high, wide) of the frame before "place", its aspect not kept; None: the short side to size · 128/112.
        crop_area_min, crop_aspect_min, crop_aspect_max: of "box" (docs/methods/evaluation.md, CVRL's linear probe).
        flip_p: probability of a mirror image.
    Raises: UsageError for an unknown crop, or one that does not fit.
    """
    size = size or encoder.input_spec.size_px
    if resize is not None and size > min(resize):
        raise UsageError(f"a crop of {size} px does not fit the resized frame of {resize} (high, wide)")
    whole = Resize(resize) if resize is not None else Resize(short_side_px=round(size * _ROOM))
    box = RandomResizedCrop(size, (crop_area_min, 1.0), (crop_aspect_min, crop_aspect_max))
    cut: list[Operation] = [box] if crop == "box" else [whole, RandomCrop(size)]
    return ViewPlan([[*cut, *([HorizontalFlip(flip_p)] if flip_p else [])]])


@register_method("supervised")
class Supervised(Method):
    """Tell the classes of a label column: one linear layer on the embedding, cross-entropy.

    Logs ``accuracy``. In validation a frame is resized alike and its centre is cut, without a flip.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips: one random clip, as the encoder was trained.
        views: a random place and no flip, of the size that the encoder was trained on.
        objects: object-aware views, off: what labels gain from them; an object before another background keeps its
            label.
        classes: names of the classes in the order of the outputs; a run takes those of its data, sorted.
        label: the label column.
        dropout: before the linear layer.
        label_smoothing: share of the target that is spread over all classes.
        freeze: "norms" keeps statistics and parameters of the encoder's norms, "trunk" the whole encoder.
    Raises: UsageError for values that cannot be, and without two classes.
    """

    parts: ClassVar = {"clips": Part(usual_clip), "views": Part(labelled_views), "objects": OBJECTS}

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: tuple[str, ...] = (),
        label: str = "label",
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        freeze: Frozen = "none",
        **parts: Unpack[ViewParts],
    ) -> None:
        if len(set(classes)) < 2 or len(set(classes)) != len(classes):
            raise UsageError(f"supervised learning needs two or more different classes, got {list(classes)[:8]}")
        super().__init__(encoder, **parts)
        self.head = LinearHead(encoder.num_features, len(classes))
        self.classes, self.label = tuple(classes), label
        self.target_columns = {label: self.classes}
        self.dropout, self.label_smoothing, self.freeze = dropout, label_smoothing, freeze
        self.requires_grad_(True)  # an encoder may come frozen from where it was used
        for part in self.frozen():
            part.requires_grad_(False)
        self.train()

    def views_of_validation(self, views: SupportsViews) -> SupportsViews | None:
        """The frame resized alike, and its centre, where the views are a plan for squares."""
        if not isinstance(views, ViewPlan) or views.size is None:
            return None
        first = views.pipelines[0][0]
        still = first if isinstance(first, Resize) else Resize(short_side_px=views.size)
        return ViewPlan([[still, CenterCrop(views.size)]])

    def frozen(self) -> Sequence[nn.Module]:
        """The parts of the encoder that stay as they are."""
        if self.freeze == "trunk":
            return [self.encoder]
        return [m for m in self.encoder.modules() if self.freeze == "norms" and isinstance(m, _NORMS)]

    def train(self, mode: bool = True) -> Supervised:
        """Training mode, but for what is frozen: its statistics stay."""
        super().train(mode)
        for part in self.frozen():
            part.eval()
        return self

    def logits(self, batch: Batch) -> Tensor:
        """(B, classes) for the batch's one view."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.freeze != "trunk"):
            embeddings = self.encoder(self.encoder.prepare(batch.views[0].data))
        p = self.dropout if self.training else 0.0
        scores: Tensor = self.head(keyed_dropout(embeddings, batch.key.child("dropout"), batch.sample_id, p))
        return scores

    @classmethod
    def from_data(cls, facts: DataFacts, settings: Mapping[str, Any]) -> dict[str, object]:
        """The classes, sorted, where they are not given."""
        if settings["classes"]:
            return {}
        return {"classes": sorted(set(facts.manifest.labels(settings["label"])) - {""})}

    def forward(self, batch: Batch) -> LossOutput:
        """Cross-entropy of ``batch.targets[label]`` (B,) int64."""
        scores, target = self.logits(batch), batch.targets[self.label]
        loss = functional.cross_entropy(scores, target, label_smoothing=self.label_smoothing)
        return LossOutput(loss, {"accuracy": (scores.argmax(1) == target).float().mean().detach()})
