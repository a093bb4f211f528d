"""Pace prediction: how fast does this clip play? (Wang et al., ECCV 2020; docs/methods/pace.md).

A clip of pace s takes every s-th frame; tell s. The same with rates 1, 2, 4, 8 is the rate part of PRP (Yao et al.,
CVPR 2020), with 1, 2 SpeedNet (Benaim et al., CVPR 2020): see the recipes ``prp_small`` and ``speednet_small``.

Differs from PRP: its decoder, which reconstructs the slow clip, is left out; only the rate is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Unpack

import torch

from unreel.core.checks import Amount, Count, Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.sampling import clip_indices, num_starts
from unreel.losses.contrastive import Negatives, contrast_statistics, nt_xent
from unreel.methods.debiasing import HeadParts
from unreel.methods.method import LossOutput
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Share
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead, projection_mlp
from unreel.views.presets import snippet_views

Rates = tuple[Annotated[int, Range(ge=1, unit="frames")], ...]


@checked
@dataclass(frozen=True)
class PaceSampler:
    """``num_clips`` clips of one video, each at a pace and a start of its own, both uniform.

    A clip of n frames at pace s takes frames start + s·t for t < n; a video too short for that is looped.

    Args:
        rates: the paces, in frames, distinct; their place in the list is the class.
        clip_frames: n.

    Targets: ``pace`` (num_clips,) int64, places in ``rates``.
    """

    rates: Rates = (1, 2, 3, 4)
    clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16
    _: KW_ONLY
    num_clips: Count = 1

    def __post_init__(self) -> None:
        if len(self.rates) < 2 or len(set(self.rates)) < len(self.rates):
            raise UsageError(f"rates are at least two different numbers of frames, got {list(self.rates)}")

    @property
    def stride(self) -> int:
        """What an encoder's card says."""
        return self.rates[0]

    @property
    def num_views(self) -> int:
        return self.num_clips

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """Clips and their paces; any source serves."""
        length, n = source.num_frames, self.clip_frames
        paces = [key.child("pace", i).integer(0, len(self.rates)) for i in range(self.num_clips)]
        clips = []
        for i, pace in enumerate(paces):
            rate = self.rates[pace]
            start = key.child("start", i).integer(0, num_starts(length, n, rate))
            clips.append(Request(clip_indices(start, length, n, rate)))
        return SamplerDraw(tuple(clips), {"pace": torch.tensor(paces)})


def pace_head(in_dim: int, clips: PaceSampler, *, hidden: Amount = 0, dropout: Share = 0.0) -> ConcatHead:
    """The paces told apart, behind a layer of width ``hidden``; 0 has none."""
    return ConcatHead(1, in_dim, len(clips.rates), hidden=hidden, dropout=dropout)


@register_method("pace")
class Pace(PretextTask):
    """How fast does this clip play? And, if asked, which two clips are of one video?

    Logs ``accuracy``; chance is 1/len(rates) (25 %). With the contrast also ``contrast_accuracy``, chance one over the
    videos of the global batch, and ``contrast_loss``.

    Args:
        encoder, clips, views, objects, head: see ``PretextTask``. Videos too short for a pace are looped. The colour
            jitter, which the paper has against shortcuts, and the flip are drawn for each clip: what two clips of a
            video shared would help to tell them from others.
        contrast_weight: weight of the contrast between two clips of a video, each at a pace of its own; it needs
            ``num_clips`` of 2. The paper's is 0.1, beside 1 for the pace; 0 has none.
        temperature, out_dim: temperature of the contrast, and width of its projection (with one hidden layer as wide
            as the encoder).
        negatives: of the contrast: "other_groups" leaves out clips of the anchor's own group (patient, scene).
    Raises: UsageError for a contrast of one clip per video.
    """

    target = "pace"
    parts: ClassVar = {
        "clips": Part(PaceSampler),
        **PretextTask.parts,
        "views": Part(snippet_views, {"jitter_p": 0.8, "color_per": "snippet", "flip_per": "snippet"}),
        "head": Part(pace_head),
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        contrast_weight: Annotated[float, Range(ge=0)] = 0.0,
        temperature: Annotated[float, Range(gt=0)] = 0.1,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        negatives: Negatives = "all",
        **parts: Unpack[HeadParts],
    ) -> None:
        super().__init__(encoder, **parts, bn_grouping="joint")
        if contrast_weight and self.sampler.num_views != 2:
            raise UsageError(
                f"contrast_weight {contrast_weight:g} compares two clips of a video, and there is "
                f"{self.sampler.num_views}: set clips.num_clips to 2"
            )
        width = encoder.num_features
        self.contrast_weight, self.temperature, self.negatives = contrast_weight, temperature, negatives
        self.projector = (
            projection_mlp(width, hidden_layers=1, hidden_dim=width, out_dim=out_dim, batch_norm=False)
            if contrast_weight
            else None
        )

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """One of the rates; of the contrast between clips, one over the global batch."""
        rates, batch = settings["clips"]["rates"], settings["train"]["batch_size"]
        contrast = {"contrast_accuracy": 1 / batch} if settings["method"].get("negatives", "all") == "all" else {}
        return {"accuracy": 1 / len(rates), **contrast}

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of B videos with one clip each, or two where they are contrasted."""
        clips, target = self.question(batch)
        embeddings = self.encode(clips)
        loss, logs = self.classify(embeddings, target, batch)
        if self.projector is None:
            return LossOutput(loss, logs)
        first, second = self.projector(embeddings).unbind(1)
        groups = batch.group if self.negatives == "other_groups" else None
        contrast = nt_xent(first, second, self.temperature, groups=groups)
        logs["contrast_loss"] = contrast.detach()
        found = contrast_statistics(first, second, temperature=self.temperature, groups=groups)
        logs["contrast_accuracy"] = found.accuracy
        return LossOutput(loss + self.contrast_weight * contrast, logs)
