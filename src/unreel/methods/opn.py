"""OPN: sorting sequences, order without direction (Lee et al., ICCV 2017; docs/methods/opn.md).

From one video take four frames, or four short snippets, and shuffle them; tell their order, but not whether the video
runs forward: an order and that of the same video played backwards are one class, of 4!/2.

Differs from the paper: the frames are evenly spaced at a uniform place; the paper looks for high motion.
"""

from __future__ import annotations

import math
from typing import ClassVar

from unreel.core.checks import Count
from unreel.core.errors import UsageError
from unreel.data.batch import Batch
from unreel.data.snippets import SnippetSampler, up_to_reversal
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Question, Share
from unreel.methods.registry import register_method
from unreel.methods.vcop import VCOP
from unreel.nn.heads import PairHead


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
