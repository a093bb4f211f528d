"""OPN: sorting sequences, order without direction (Lee et al., ICCV 2017; tcgl.md §8, recalled).

From one video take four frames, or four short snippets, and shuffle them; tell their order, but not whether the video
runs forward: an order and that of the same video played backwards are one class, of 4!/2.

Differs from the paper: the frames are evenly spaced at a uniform place; the paper looks for high motion.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.data.snippets import SnippetSampler, up_to_reversal
from unreel.methods.pretext import BNGrouping, PretextTask, Question
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import PairHead
from unreel.views.presets import snippet_views


@register_method("opn")
class OPN(PretextTask):
    """Which order were these snippets filmed in, up to the direction of time?

    Logs ``accuracy``; chance is 2/num_snippets! (8.3 % for four).

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        num_snippets: 4 in the paper; there are num_snippets!/2 classes.
        clip_frames, interval, stride: frames per snippet, between two snippets, and between two frames. Videos that
            are shorter than the whole are left out.
        tile: each snippet is one frame, shown ``clip_frames`` times, as in the paper, whose network sees images. Its
            crop jitter is then ``crop_per="snippet"``, the default; between the frames of a snippet it would be
            ``crop_per="frame"``.
        size: side of the square clips, pixels.
        head_dim: width of the layer that compares two snippets (six pairs); dropout: before the last layer.
        bn_grouping: "per_call" normalises each position by itself, as separate calls of one network do.
        view_options: every other argument of ``unreel.views.presets.snippet_views``; ``channel_p=1,
            color_per="snippet"`` is the paper's channel splitting, against chromatic shortcuts.
    """

    @takes_view_options("num_views", "size", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        num_snippets: Annotated[int, Range(ge=3, le=5)] = 4,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        interval: Annotated[int, Range(ge=0, unit="frames")] = 8,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        tile: bool = False,
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=1)] = 512,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.5,
        bn_grouping: BNGrouping = "per_call",
        **view_options: Any,
    ) -> None:
        classes = math.factorial(num_snippets) // 2
        super().__init__(
            encoder,
            sampler=SnippetSampler(num_snippets, clip_frames, interval, stride=stride, tile=tile),
            head=PairHead(num_snippets, encoder.num_features, classes, hidden=head_dim, dropout=dropout),
            target="order_class",
            clip_frames=clip_frames,
            stride=stride,
            size=size,
            view_options=view_options,
            bn_grouping=bn_grouping,
        )

    def question(self, batch: Batch) -> Question:
        """All snippets, and the class of their order up to reversal."""
        clips, order_class = super().question(batch)
        return Question(clips, up_to_reversal(order_class, len(clips)))
