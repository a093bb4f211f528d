"""Shuffle & Learn: is this order of events a possible one? (Misra et al., ECCV 2016; docs/methods/shuffle_learn.md).

Of five moments a < b < c < d < e of one video, (b, c, d) is in order, (b, a, d) and (b, e, d) are not: they begin and
end alike, and only the middle decides.

Differs from the paper: the moments are drawn uniformly; the paper looks for a window of high motion. The network sees
short snippets, or (``tile``) single frames repeated, where the paper's sees images.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import torch

from unreel.core.checks import Amount, Fraction, Frames, FramesApart, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import clip_span, require_frames, snippet_frames
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Share
from unreel.methods.registry import register_method
from unreel.nn.heads import ConcatHead

_MOMENTS = 5
_IN_ORDER = (1, 2, 3)  # b, c, d of a … e
_OUT_OF_ORDER = ((1, 0, 3), (1, 4, 3))


@checked
@dataclass(frozen=True)
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

    clip_frames: Frames = 16
    interval: FramesApart = 0
    _: KW_ONLY
    stride: Frames = 1
    window: Frames | None = None
    tile: bool = False
    positive_p: Fraction = 0.25

    def __post_init__(self) -> None:
        if self.window is not None and self.window < self.closest:
            raise UsageError(f"five moments take {self.closest} frames, the window has {self.window}")

    @property
    def step(self) -> int:
        """Least number of frames from the first of a moment to the first of the next."""
        return self.interval + (1 if self.tile else clip_span(self.clip_frames, self.stride))

    @property
    def closest(self) -> int:
        """Frames of five moments as close as they may be."""
        return _MOMENTS * self.step - self.interval

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


def possible_head(in_dim: int, *, hidden: Amount = 0, dropout: Share = 0.0) -> ConcatHead:
    """Possible or not, from all three, behind a layer of width ``hidden``; 0 has none, as in the paper."""
    return ConcatHead(3, in_dim, 2, hidden=hidden, dropout=dropout)


@register_method("shuffle_learn")
class ShuffleLearn(PretextTask):
    """Is the middle one of three moments between the other two?

    Logs ``accuracy``; chance, always saying "impossible", is 1 − positive_p (75 %).

    Args:
        encoder, clips, views, objects, head, bn_grouping: see ``PretextTask``. Videos that are too short for five
            moments are left out.
    """

    target = "in_order"
    guess = staticmethod(lambda clips: max(clips["positive_p"], 1 - clips["positive_p"]))
    parts: ClassVar = {"clips": Part(MomentSampler), **PretextTask.parts, "head": Part(possible_head)}
