"""Arrow of time: does this clip run forward or backward? (Wei et al., CVPR 2018; docs/methods/arrow_of_time.md).

Differs from the paper: frames in place of optical flow, on any encoder.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar

import torch

from unreel.core.checks import Amount, Fraction, Frames, Range, checked
from unreel.core.keys import Key
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import clip_span, require_frames, snippet_frames
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Share
from unreel.methods.registry import register_method
from unreel.nn.heads import ConcatHead


@checked
@dataclass(frozen=True)
class ReverseSampler:
    """One clip at a uniform place, played backward with probability ``reverse_p``.

    Nothing is looped: where a looped video starts again, it jumps, and a jump has no direction.

    Targets: ``reversed`` () int64, 1 or 0.
    """

    num_views = 1

    clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16
    _: KW_ONLY
    stride: Frames = 1
    reverse_p: Fraction = 0.5

    @property
    def min_frames(self) -> int:
        """The clip's span."""
        return clip_span(self.clip_frames, self.stride)

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """One clip. Raises UsageError for a source shorter than ``min_frames``, the clip's span."""
        require_frames(source, self.min_frames, f"clips of {self.clip_frames} frames at stride {self.stride}")
        start = key.child("start").integer(0, source.num_frames - self.min_frames + 1)
        frames = start + snippet_frames(self.clip_frames, self.stride)
        backward = key.child("reverse").bernoulli(self.reverse_p)
        clip = Request(frames[::-1].copy() if backward else frames)
        return SamplerDraw((clip,), {"reversed": torch.tensor(int(backward))})


def direction_head(in_dim: int, *, hidden: Amount = 0, dropout: Share = 0.0) -> ConcatHead:
    """Forward or backward, behind a layer of width ``hidden``; 0 has none."""
    return ConcatHead(1, in_dim, 2, hidden=hidden, dropout=dropout)


@register_method("arrow_of_time")
class ArrowOfTime(PretextTask):
    """Forward or backward?

    Logs ``accuracy``; chance is 50 % at the default ``reverse_p``.

    Args:
        encoder, clips, views, objects, head, bn_grouping: see ``PretextTask``; one clip is one call. Videos shorter
            than a clip are left out.
    """

    target = "reversed"
    guess = staticmethod(lambda clips: max(clips["reverse_p"], 1 - clips["reverse_p"]))
    parts: ClassVar = {"clips": Part(ReverseSampler), **PretextTask.parts, "head": Part(direction_head)}
