"""VCOP: video clip order prediction (Xu et al., CVPR 2019; docs/methods/vcop.md).

From one video take three snippets, a little apart, and shuffle them; compare every two of them; tell which of the 3!
orders it was.
"""

from __future__ import annotations

import math
from typing import ClassVar

from unreel.core.checks import Count
from unreel.data.snippets import SnippetSampler
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Share
from unreel.methods.registry import register_method
from unreel.nn.heads import PairHead


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
