"""VCOP: video clip order prediction (Xu et al., CVPR 2019; tcgl.md §8).

From one video take three snippets, a little apart, and shuffle them; compare every two of them; tell which of the 3!
orders it was.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from unreel.core.settings import Range
from unreel.data.snippets import SnippetSampler
from unreel.methods.pretext import BNGrouping, PretextTask
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import PairHead
from unreel.views.presets import snippet_views


@register_method("vcop")
class VCOP(PretextTask):
    """Which order were these snippets filmed in? Defaults are the paper's.

    Logs ``accuracy``; chance is 1/num_snippets! (1/6 for three).

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        num_snippets: 2, 3 or 4 in the paper; there are num_snippets! classes.
        clip_frames, interval, stride: frames per snippet, between two snippets, and between two frames: 16, 8, 1, a
            span of 64 frames (§1.1). Shorter videos are left out.
        size: side of the square clips, pixels.
        head_dim: width of the layer that compares two snippets, 512; dropout: before the last layer, 0.5.
        bn_grouping: the release calls its network once per position: "per_call".
        view_options: every other argument of ``unreel.views.presets.snippet_views``.
    """

    @takes_view_options("num_views", "size", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        num_snippets: Annotated[int, Range(ge=2, le=5)] = 3,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        interval: Annotated[int, Range(ge=0, unit="frames")] = 8,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=1)] = 512,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.5,
        bn_grouping: BNGrouping = "per_call",
        **view_options: Any,
    ) -> None:
        super().__init__(
            encoder,
            sampler=SnippetSampler(num_snippets, clip_frames, interval, stride=stride),
            head=PairHead(
                num_snippets, encoder.num_features, math.factorial(num_snippets), hidden=head_dim, dropout=dropout
            ),
            target="order_class",
            clip_frames=clip_frames,
            stride=stride,
            size=size,
            view_options=view_options,
            bn_grouping=bn_grouping,
        )
