"""Snippets: short clips of one video, one after the other, whose order a network is to tell.

Source: docs/methods/tcgl.md, Sampling.

An order of n snippets is a vector with order[p] = chronological index of the snippet that stands at position p. Its
class is its number among the lexicographic permutations of 0 … n − 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.checks import Count, Frames, FramesApart, Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.contracts import Request, SamplerDraw, SourceInfo

MOST_SNIPPETS = 7
"""7! = 5,040 classes; the papers use 2 to 4."""


@checked
def permutations(n: Annotated[int, Range(ge=1, le=MOST_SNIPPETS)]) -> Tensor:
    """All orders of ``n`` snippets, lexicographic: (n!, n) int64. Raises UsageError unless 1 ≤ n ≤ 7."""
    return torch.tensor(list(itertools.permutations(range(n))))


def permutation_class(order: Tensor | NDArray[np.int64] | Sequence[int]) -> int:
    """The row of ``permutations(n)`` that equals ``order`` (n,).

    Raises: UsageError when ``order`` is no permutation of 0 … n − 1.
    """
    items = [int(i) for i in order]
    if sorted(items) != list(range(len(items))):
        raise UsageError(f"an order is a permutation of 0 … n − 1, got {items}")
    # Each later item that is smaller skips a block of (n − 1 − p)! permutations.
    return sum(sum(b < a for b in items[p + 1 :]) * math.factorial(len(items) - 1 - p) for p, a in enumerate(items))


def up_to_reversal(order_class: Tensor, n: int) -> Tensor:
    """Classes 0 … n!/2 − 1 that an order of n ≥ 2 snippets shares with the same video's played backwards.

    Played backwards, the snippet i is n − 1 − i (which is not the tuple read backwards: docs/methods/tcgl.md, Graphs),
    and class c is n! − 1 − c. Any shape, int64.
    """
    return torch.minimum(order_class, math.factorial(n) - 1 - order_class)


@checked
def clip_span(clip_frames: Count, stride: Count = 1) -> int:
    """Frames from the first to the last of a clip, both included. Raises UsageError for counts below 1."""
    return (clip_frames - 1) * stride + 1


def snippet_frames(clip_frames: int, stride: int = 1, *, tile: bool = False) -> NDArray[np.int64]:
    """Frames of a snippet after its first: 0, stride, 2·stride …, or the first ``clip_frames`` times. (clip_frames,)"""
    return (0 if tile else stride) * np.arange(clip_frames, dtype=np.int64)


def require_frames(source: SourceInfo, needed: int, what: str) -> None:
    """Refuse a source of fewer than ``needed`` frames. Raises UsageError, which samplers raise (``data.contracts``)."""
    if source.num_frames < needed:
        raise UsageError(f"{what} need {needed} frames, the source has {source.num_frames}; leave shorter ones out")


@checked
@dataclass(frozen=True)
class SnippetSampler:
    """``num_snippets`` clips, ``interval`` frames apart, in shuffled positions (VCOP, Xu et al. 2019).

    Source: docs/methods/tcgl.md, Sampling.

    The first snippet starts uniformly in 0 … L − span, both included; with the defaults snippet k starts 24 k frames
    later and the span is 64 frames.

    Args:
        num_snippets: per draw.
        clip_frames, stride: frames per snippet and frames between them.
        interval: frames between the last frame of a snippet and the first of the next, both left out.
        shuffle: False keeps them in chronological order, whose class is 0.
        tile: each snippet is a single frame, shown ``clip_frames`` times: for methods that were made for images. Its
            length is then 1.

    Targets: ``order`` (num_snippets,) int64, order[p] = chronological index of the snippet at position p;
    ``order_class`` () int64, its row among ``permutations(num_snippets)``.
    """

    num_snippets: Annotated[int, Range(ge=1, le=MOST_SNIPPETS)] = 3
    clip_frames: Frames = 16
    interval: FramesApart = 8
    _: KW_ONLY
    stride: Frames = 1
    shuffle: bool = True
    tile: bool = False

    @property
    def step(self) -> int:
        """Frames from the first of a snippet to the first of the next."""
        return self.interval + (1 if self.tile else clip_span(self.clip_frames, self.stride))

    @property
    def num_views(self) -> int:
        return self.num_snippets

    @property
    def min_frames(self) -> int:
        """Frames from the first of the first snippet to the last of the last: 64 with the defaults."""
        return self.step * self.num_snippets - self.interval

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """One clip per position. Raises UsageError for a source shorter than ``min_frames``."""
        what = f"{self.num_snippets} snippets of {self.clip_frames} frames, {self.interval} apart,"
        require_frames(source, self.min_frames, what)
        start = key.child("start").integer(0, source.num_frames - self.min_frames + 1)
        n = self.num_snippets
        order = key.child("order").permutation(n) if self.shuffle else np.arange(n, dtype=np.int64)
        frames = start + snippet_frames(self.clip_frames, self.stride, tile=self.tile)
        clips = tuple(Request(frames + self.step * int(k)) for k in order)
        targets = {"order": torch.from_numpy(order), "order_class": torch.tensor(permutation_class(order))}
        return SamplerDraw(clips, targets)
