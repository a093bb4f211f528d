"""Tasks on the order of time: how the clips of one video follow one another, or which way one runs.

**Arrow of time** (Wei et al., CVPR 2018; docs/methods/arrow_of_time.md): does this clip run forward or backward?
Differs from the paper: frames in place of optical flow, on any encoder.

**Shuffle & Learn** (Misra et al., ECCV 2016; docs/methods/shuffle_learn.md): is this order of events a possible one? Of
five moments a < b < c < d < e of one video, (b, c, d) is in order, (b, a, d) and (b, e, d) are not: they begin and end
alike, and only the middle decides. Differs from the paper: the moments are drawn uniformly; the paper looks for a
window of high motion. The network sees short snippets, or (``tile``) single frames repeated, where the paper's sees
images.

**VCOP**, video clip order prediction (Xu et al., CVPR 2019; docs/methods/vcop.md): from one video take three snippets,
a little apart, and shuffle them; compare every two of them; tell which of the 3! orders it was.

**OPN**, sorting sequences (Lee et al., ICCV 2017; docs/methods/opn.md): from one video take four frames, or four short
snippets, and shuffle them; tell their order, but not whether the video runs forward: an order and that of the same
video played backwards are one class, of 4!/2. Differs from the paper: the frames are evenly spaced at a uniform place;
the paper looks for high motion.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch

from unreel.core.checks import Amount, Count, Fraction, Frames, FramesApart, Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import SnippetSampler, clip_span, require_frames, snippet_frames, up_to_reversal
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Question, Share
from unreel.methods.registry import register_method
from unreel.nn.heads import ConcatHead, PairHead

_MOMENTS = 5
_IN_ORDER = (1, 2, 3)  # b, c, d of a … e
_OUT_OF_ORDER = ((1, 0, 3), (1, 4, 3))


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


def order_head(in_dim: int, clips: SnippetSampler, *, hidden: Count = 512, dropout: Share = 0.5) -> PairHead:
    """Every two of the snippets compared by a layer of width ``hidden``, then all n! orders told apart."""
    n = clips.num_snippets
    return PairHead(n, in_dim, math.factorial(n), hidden=hidden, dropout=dropout)


@register_method("vcop")
class VCOP(PretextTask):
    """Which order were these snippets filmed in? Defaults are the paper's.

    Logs ``accuracy``; chance is 1/num_snippets! (1/6 for three).

    Args:
        encoder, clips, views, objects, head, bn_grouping: see ``PretextTask``. Three snippets of 16 frames, 8 apart, a
            span of 64 frames; shorter videos are left out. The head compares by 512 with a dropout of 0.5; the
            release calls its network once per position.
    """

    target = "order_class"
    guess = staticmethod(lambda clips: 1 / math.factorial(clips["num_snippets"]))
    parts: ClassVar = {"clips": Part(SnippetSampler), **PretextTask.parts, "head": Part(order_head)}


def reversal_head(in_dim: int, clips: SnippetSampler, *, hidden: Count = 512, dropout: Share = 0.5) -> PairHead:
    """Every two of the snippets compared by a layer of width ``hidden``, then all n!/2 orders told apart."""
    n = clips.num_snippets
    if n < 3:
        raise UsageError(f"opn sorts at least 3 snippets, got {n}: two have one order up to reversal")
    return PairHead(n, in_dim, math.factorial(n) // 2, hidden=hidden, dropout=dropout)


@register_method("opn")
class OPN(PretextTask):
    """Which order were these snippets filmed in, up to the direction of time?

    Logs ``accuracy``; chance is 2/num_snippets! (8.3 % for four).

    Args:
        encoder, clips, views, objects, head, bn_grouping: see ``PretextTask``. Four snippets; with ``tile`` each is one
            frame, shown ``clip_frames`` times, as in the paper, whose network sees images: its crop jitter is then
            ``crop_per="snippet"``, the default; between the frames of a snippet it would be ``crop_per="frame"``.
            ``channel_p=1, color_per="snippet"`` is the paper's channel splitting, against chromatic shortcuts.
    """

    target = "order_class"
    guess = staticmethod(lambda clips: 2 / math.factorial(clips["num_snippets"]))
    parts: ClassVar = {**VCOP.parts, "clips": Part(SnippetSampler, {"num_snippets": 4}), "head": Part(reversal_head)}

    def question(self, batch: Batch) -> Question:
        """All snippets, and the class of their order up to reversal."""
        clips, order_class = super().question(batch)
        return Question(clips, up_to_reversal(order_class, len(clips)))
