"""Shuffle & Learn: is this order of events a possible one? (Misra et al., ECCV 2016; tcgl.md §8, recalled).

Of five moments a < b < c < d < e of one video, (b, c, d) is in order, (b, a, d) and (b, e, d) are not: they begin and
end alike, and only the middle decides.

Differs from the paper: the moments are drawn uniformly; the paper looks for a window of high motion. The network sees
short snippets, or (``tile``) single frames repeated, where the paper's sees images.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.core.settings import Range
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import clip_span, require_frames, snippet_frames
from unreel.methods.pretext import BNGrouping, PretextTask
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead
from unreel.views.presets import snippet_views

_MOMENTS = 5
_IN_ORDER = (1, 2, 3)  # b, c, d of a … e
_OUT_OF_ORDER = ((1, 0, 3), (1, 4, 3))


class MomentSampler:
    """Three of five moments of one video, in a possible order or not.

    The five start at uniform places within a window, each at least ``interval`` frames after the end of the one before.

    Args:
        clip_frames, stride: frames per moment and frames between them.
        interval: least number of frames between two moments.
        window: frames in which all five lie, itself at a uniform place; None: the whole video.
        tile: each moment is a single frame, shown ``clip_frames`` times.
        positive_p: probability that the order is possible; the impossible ones share the rest equally.

    Targets: ``in_order`` () int64, 1 or 0; ``moments`` (3,) int64, which of a … e (0 … 4) the clips are.
    """

    num_views = 3

    def __init__(
        self,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        interval: Annotated[int, Range(ge=0, unit="frames")] = 0,
        *,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        window: Annotated[int, Range(ge=1, unit="frames")] | None = None,
        tile: bool = False,
        positive_p: Annotated[float, Range(gt=0, lt=1)] = 0.25,
    ) -> None:
        span = clip_span(clip_frames, stride)
        if interval < 0 or not 0 < positive_p < 1:
            raise UsageError(f"moments need an interval ≥ 0 and positive_p in (0, 1), got {interval}, {positive_p}")
        self.clip_frames, self.stride, self.interval, self.tile = clip_frames, stride, interval, tile
        self.step = interval + (1 if tile else span)
        self.window, self.positive_p = window, positive_p
        self.closest = _MOMENTS * self.step - interval
        if window is not None and window < self.closest:
            raise UsageError(f"five moments take {self.closest} frames, the window has {window}")

    @property
    def min_frames(self) -> int:
        """Frames of five moments as close as they may be, or the window's."""
        return self.closest if self.window is None else self.window

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """Three clips. Raises UsageError for a source shorter than ``min_frames``."""
        require_frames(source, self.min_frames, f"five moments of {self.clip_frames} frames")
        window = source.num_frames if self.window is None else self.window
        first = key.child("window").integer(0, source.num_frames - window + 1)
        # Any five of slack + 5 places, less their ranks, are five ascending numbers in 0 … slack, all equally likely.
        slack = window - self.closest
        places = np.sort(key.child("moments").numpy().choice(slack + _MOMENTS, _MOMENTS, replace=False))
        starts = first + places + (self.step - 1) * np.arange(_MOMENTS)
        possible = key.child("in order").bernoulli(self.positive_p)
        chosen = _IN_ORDER if possible else _OUT_OF_ORDER[key.child("outside").integer(0, len(_OUT_OF_ORDER))]
        frames = snippet_frames(self.clip_frames, self.stride, tile=self.tile)
        clips = tuple(Request(frames + int(starts[m])) for m in chosen)
        return SamplerDraw(clips, {"in_order": torch.tensor(int(possible)), "moments": torch.tensor(chosen)})

    def __repr__(self) -> str:
        return (
            f"MomentSampler({self.clip_frames}, {self.interval}, stride={self.stride}, window={self.window}, "
            f"tile={self.tile}, positive_p={self.positive_p})"
        )


@register_method("shuffle_learn")
class ShuffleLearn(PretextTask):
    """Is the middle one of three moments between the other two?

    Logs ``accuracy``; chance, always saying "impossible", is 1 − positive_p (75 %).

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        clip_frames, interval, stride, window, tile, positive_p: see ``MomentSampler``. Videos that are too short are
            left out.
        size: side of the square clips, pixels.
        head_dim: width of a hidden layer after the concatenation; 0 has none, as in the paper.
        dropout: before the last layer.
        bn_grouping: "per_call" normalises each position by itself, as separate calls of one network do.
        view_options: every other argument of ``unreel.views.presets.snippet_views``.
    """

    @takes_view_options("num_views", "size", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        interval: Annotated[int, Range(ge=0, unit="frames")] = 0,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        window: Annotated[int, Range(ge=1, unit="frames")] | None = None,
        tile: bool = False,
        positive_p: Annotated[float, Range(gt=0, lt=1)] = 0.25,
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=0)] = 0,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        bn_grouping: BNGrouping = "per_call",
        **view_options: Any,
    ) -> None:
        super().__init__(
            encoder,
            sampler=MomentSampler(
                clip_frames, interval, stride=stride, window=window, tile=tile, positive_p=positive_p
            ),
            head=ConcatHead(3, encoder.num_features, 2, hidden=head_dim, dropout=dropout),
            target="in_order",
            clip_frames=clip_frames,
            stride=stride,
            size=size,
            view_options=view_options,
            bn_grouping=bn_grouping,
        )
