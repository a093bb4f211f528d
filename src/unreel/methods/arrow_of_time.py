"""Arrow of time: does this clip run forward or backward? (Wei et al., CVPR 2018; tcgl.md §8).

Differs from the paper: frames in place of optical flow, on any encoder.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.core.settings import Range
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import clip_span, require_frames, snippet_frames
from unreel.methods.pretext import PretextTask
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead
from unreel.views.presets import snippet_views


class ReverseSampler:
    """One clip at a uniform place, played backward with probability ``reverse_p``.

    Nothing is looped: where a looped video starts again, it jumps, and a jump has no direction.

    Targets: ``reversed`` () int64, 1 or 0.
    """

    num_views = 1

    def __init__(
        self,
        clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16,
        *,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        reverse_p: Annotated[float, Range(gt=0, lt=1)] = 0.5,
    ) -> None:
        self.min_frames = clip_span(clip_frames, stride)
        if clip_frames < 2 or not 0 < reverse_p < 1:
            raise UsageError(
                f"a direction needs clips of at least 2 frames and reverse_p in (0, 1), got {clip_frames}, {reverse_p}"
            )
        self.clip_frames, self.stride, self.reverse_p = clip_frames, stride, reverse_p

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """One clip. Raises UsageError for a source shorter than ``min_frames``, the clip's span."""
        require_frames(source, self.min_frames, f"clips of {self.clip_frames} frames at stride {self.stride}")
        start = key.child("start").integer(0, source.num_frames - self.min_frames + 1)
        frames = start + snippet_frames(self.clip_frames, self.stride)
        backward = key.child("reverse").bernoulli(self.reverse_p)
        clip = Request(frames[::-1].copy() if backward else frames)
        return SamplerDraw((clip,), {"reversed": torch.tensor(int(backward))})

    def __repr__(self) -> str:
        return f"ReverseSampler({self.clip_frames}, stride={self.stride}, reverse_p={self.reverse_p})"


@register_method("arrow_of_time")
class ArrowOfTime(PretextTask):
    """Forward or backward?

    Logs ``accuracy``; chance is 50 % at the default ``reverse_p``.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        clip_frames, stride, reverse_p: see ``ReverseSampler``. Videos shorter than a clip are left out.
        size: side of the square clips, pixels.
        head_dim: width of a hidden layer; 0 has none. dropout: before the last layer.
        view_options: every other argument of ``unreel.views.presets.snippet_views``.
    """

    @takes_view_options("num_views", "size", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: Annotated[int, Range(ge=2, unit="frames")] = 16,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        reverse_p: Annotated[float, Range(gt=0, lt=1)] = 0.5,
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=0)] = 0,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        **view_options: Any,
    ) -> None:
        super().__init__(
            encoder,
            sampler=ReverseSampler(clip_frames, stride=stride, reverse_p=reverse_p),
            head=ConcatHead(1, encoder.num_features, 2, hidden=head_dim, dropout=dropout),
            target="reversed",
            clip_frames=clip_frames,
            stride=stride,
            size=size,
            view_options=view_options,
        )
