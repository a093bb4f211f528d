"""Pace prediction: how fast does this clip play? (Wang et al., ECCV 2020; tcgl.md §8, recalled).

A clip of pace s takes every s-th frame; tell s. The same with rates 1, 2, 4, 8 is the rate part of PRP (Yao et al.,
CVPR 2020), with 1, 2 SpeedNet (Benaim et al., CVPR 2020): see the recipes ``prp_small`` and ``speednet_small``.

Differs from PRP: its decoder, which reconstructs the slow clip, is left out; only the rate is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.sampling import clip_indices, num_starts
from unreel.losses.contrastive import contrast_statistics, nt_xent
from unreel.methods.method import LossOutput
from unreel.methods.pretext import PretextTask
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead, projection_mlp
from unreel.views.presets import snippet_views

Rates = tuple[Annotated[int, Range(ge=1, unit="frames")], ...]


class PaceSampler:
    """``num_clips`` clips of one video, each at a pace and a start of its own, both uniform.

    A clip of n frames at pace s takes frames start + s·t for t < n; a video too short for that is looped.

    Args:
        rates: the paces, in frames, distinct; their place in the list is the class.
        clip_frames: n.

    Targets: ``pace`` (num_clips,) int64, places in ``rates``.
    """

    def __init__(
        self,
        rates: Rates = (1, 2, 3, 4),
        clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16,
        *,
        num_clips: Annotated[int, Range(ge=1)] = 1,
    ) -> None:
        if len(rates) < 2 or len(set(rates)) < len(rates) or min(rates) < 1:
            raise UsageError(f"rates are at least two different numbers of frames, from 1 on, got {list(rates)}")
        if clip_frames < 2 or num_clips < 1:
            raise UsageError(f"a pace needs clips of 2 frames and 1 clip per draw, got {clip_frames} and {num_clips}")
        self.rates, self.clip_frames, self.num_clips = tuple(rates), clip_frames, num_clips

    @property
    def num_views(self) -> int:
        """One view per clip."""
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

    def __repr__(self) -> str:
        return f"PaceSampler({self.rates}, {self.clip_frames}, num_clips={self.num_clips})"


@register_method("pace")
class Pace(PretextTask):
    """How fast does this clip play? And, if asked, which two clips are of one video?

    Logs ``accuracy``; chance is 1/len(rates) (25 %). With the contrast also ``contrast_accuracy``, chance one over the
    videos of the global batch, and ``contrast_loss``.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it, at the first rate.
        rates: paces in frames; 1, 2, 3, 4 in the paper.
        clip_frames: frames per clip. Videos too short for a pace are looped.
        contrast_weight: of the contrast between two clips of a video, each at a pace of its own; 0 leaves the second
            clip out. The paper's is 0.1, beside 1 for the pace.
        temperature, out_dim: of the contrast, and width of its projection (one hidden layer as wide as the encoder).
        size: side of the square clips, pixels.
        head_dim: width of a hidden layer before the classes; 0 has none. dropout: before the last layer.
        jitter_p: of the colour jitter, drawn for each clip: the paper has it against shortcuts.
        view_options: every other argument of ``unreel.views.presets.snippet_views``.
    """

    @takes_view_options("num_views", "size", "jitter_p", "color_per", "flip_per", "crop_per", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        rates: Rates = (1, 2, 3, 4),
        clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16,
        contrast_weight: Annotated[float, Range(ge=0)] = 0.0,
        temperature: Annotated[float, Range(gt=0)] = 0.1,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=0)] = 0,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        jitter_p: Annotated[float, Range(ge=0, le=1)] = 0.8,
        **view_options: Any,
    ) -> None:
        width = encoder.num_features
        super().__init__(
            encoder,
            sampler=PaceSampler(rates, clip_frames, num_clips=2 if contrast_weight else 1),
            head=ConcatHead(1, width, len(rates), hidden=head_dim, dropout=dropout),
            target="pace",
            clip_frames=clip_frames,
            stride=rates[0],
            size=size,
            # What two clips of a video shared would help to tell them from others.
            view_options={**view_options, "jitter_p": jitter_p, "color_per": "snippet", "flip_per": "snippet"},
        )
        self.contrast_weight, self.temperature = contrast_weight, temperature
        self.projector = (
            projection_mlp(width, hidden_layers=1, hidden_dim=width, out_dim=out_dim, batch_norm=False)
            if contrast_weight
            else None
        )

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Of the contrast between clips: one over the global batch."""
        return {"contrast_accuracy": 1 / settings["train"]["batch_size"]}

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of B videos with one clip each, or two where they are contrasted."""
        clips, target = self.question(batch)
        embeddings = self.encode(clips)
        loss, logs = self.classify(embeddings, target, batch)
        if self.projector is None:
            return LossOutput(loss, logs)
        first, second = self.projector(embeddings).unbind(1)
        contrast = nt_xent(first, second, self.temperature)
        logs["contrast_loss"] = contrast.detach()
        logs["contrast_accuracy"] = contrast_statistics(first, second, temperature=self.temperature).accuracy
        return LossOutput(loss + self.contrast_weight * contrast, logs)
