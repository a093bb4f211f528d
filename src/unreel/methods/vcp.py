"""VCP: video cloze procedure (Luo et al., AAAI 2020; docs/methods/vcp.md).

Of three consecutive clips the middle one is taken out and a candidate put in its place: the clip itself, or what an
operation made of it. Tell the operation.
"""

from __future__ import annotations

import itertools
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from unreel.core.checks import Amount, Frames, FramesApart, Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key, uniforms
from unreel.data.batch import Batch
from unreel.data.contracts import Request, SamplerDraw, SourceInfo
from unreel.data.snippets import clip_span, require_frames, snippet_frames
from unreel.methods.debiasing import HeadParts
from unreel.methods.parts import Part
from unreel.methods.pretext import BNGrouping, PretextTask, Question, Share
from unreel.methods.registry import register_method
from unreel.methods.rotation import rotate
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead

ClozeOperation: TypeAlias = Literal["identity", "rotation", "permutation", "shuffle", "remote"]
OPERATIONS: tuple[ClozeOperation, ...] = get_args(ClozeOperation)


@checked
@dataclass(frozen=True)
class ClozeSampler:
    """Three clips, ``interval`` frames apart, at a uniform place; the middle one may be shuffled, or from elsewhere.

    "shuffle" cuts the middle clip into ``shuffle_parts`` equal parts and puts them in another order; "remote" takes, in
    its place, a clip that lies at least ``interval`` frames before the first or after the last. Operations on pixels
    are left to the method. Where "remote" is among the operations all places have room for it, so that the
    place tells nothing.

    Args:
        operations: to draw from, equally likely.
        clip_frames, interval, stride: frames per clip, between two clips, and between two frames.
        shuffle_parts: divides ``clip_frames``.

    Targets: ``operation`` () int64, the place in ``operations``.
    """

    num_views = 3

    operations: tuple[ClozeOperation, ...] = OPERATIONS
    clip_frames: Frames = 16
    interval: FramesApart = 8
    _: KW_ONLY
    stride: Frames = 1
    shuffle_parts: Annotated[int, Range(ge=2)] = 4

    def __post_init__(self) -> None:
        operations, frames, parts = self.operations, self.clip_frames, self.shuffle_parts
        if len(operations) < 2 or len(set(operations)) < len(operations):
            raise UsageError(f"cloze takes at least two different operations, got {list(operations)}")
        if "shuffle" in operations and frames % parts:
            raise UsageError(f"{frames} frames cannot be shuffled in {parts} equal parts of two or more")

    @property
    def clip_span(self) -> int:
        return clip_span(self.clip_frames, self.stride)

    @property
    def _room(self) -> int:
        """Frames that a remote clip takes at one end, with the gap."""
        return self.clip_span + self.interval if "remote" in self.operations else 0

    @property
    def _tuple(self) -> int:
        return 3 * self.clip_span + 2 * self.interval

    @property
    def min_frames(self) -> int:
        """Three clips, and room for a fourth where one may be remote."""
        return self._tuple + self._room

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """Three clips. Raises UsageError for a source shorter than ``min_frames``."""
        require_frames(source, self.min_frames, f"three clips of {self.clip_frames} frames, and a remote one,")
        last, room = source.num_frames - self._tuple, self._room
        ahead = last - room + 1  # so many starts, the first ones, have room behind the tuple; as many before it
        start = key.child("start").integer(0, min(last + 1, 2 * ahead))
        start += room - ahead if start >= ahead < room else 0  # those between have room on neither side
        frames = snippet_frames(self.clip_frames, self.stride)
        step = self.clip_span + self.interval
        clips = [start + k * step + frames for k in range(3)]
        number = key.child("operation").integer(0, len(self.operations))
        if self.operations[number] == "shuffle":
            parts = clips[1].reshape(self.shuffle_parts, -1)
            clips[1] = parts[self._another_order(key.child("parts"))].flatten()
        elif self.operations[number] == "remote":
            before, after = max(0, start - room + 1), max(0, last - start - room + 1)
            away = key.child("away").integer(0, before + after)
            clips[1] = frames + (away if away < before else start + 3 * step + away - before)
        return SamplerDraw(tuple(map(Request, clips)), {"operation": torch.tensor(number)})

    def _another_order(self, key: Key) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A uniform order of the parts that is not the one they have."""
        attempt = 0
        while True:
            order = key.child(attempt).permutation(self.shuffle_parts)
            if (order != np.arange(self.shuffle_parts)).any():
                return order
            attempt += 1


def permute_tiles(clips: Tensor, order: Tensor) -> Tensor:
    """Clips (B, C, T, S, S), S even, cut into 2 × 2 tiles; place i, row by row, gets tile order[:, i]: (B, 4) int64."""
    count, channels, frames, size, _ = clips.shape
    parts = clips.reshape(count, channels, frames, 2, size // 2, 2, size // 2)
    tiles = parts.permute(0, 3, 5, 1, 2, 4, 6).flatten(1, 2)
    placed = tiles.gather(1, order[:, :, None, None, None, None].expand_as(tiles))
    placed = placed.reshape(count, 2, 2, channels, frames, size // 2, size // 2)
    return placed.permute(0, 3, 4, 1, 5, 2, 6).reshape(clips.shape)


def operation_head(in_dim: int, clips: ClozeSampler, *, hidden: Amount = 0, dropout: Share = 0.0) -> ConcatHead:
    """The operations told apart, from all three clips, behind a layer of width ``hidden``; 0 has none."""
    return ConcatHead(3, in_dim, len(clips.operations), hidden=hidden, dropout=dropout)


@register_method("vcp")
class VCP(PretextTask):
    """What was done to the middle one of three clips?

    Logs ``accuracy``; chance is 1/len(operations) (20 %).

    Args:
        encoder, clips, views, objects, head, bn_grouping: see ``PretextTask``. Videos that are too short are left out.
            Operations on pixels are done here: "rotation" by 1 to 3 quarter turns, "permutation" of 2 × 2 tiles, which
            need views of an even size.
    """

    target = "operation"
    guess = staticmethod(lambda clips: 1 / len(clips["operations"]))
    parts: ClassVar = {"clips": Part(ClozeSampler), **PretextTask.parts, "head": Part(operation_head)}
    sampler: ClozeSampler
    orders: Tensor

    def __init__(self, encoder: Encoder, *, bn_grouping: BNGrouping = "per_call", **parts: Unpack[HeadParts]) -> None:
        super().__init__(encoder, **parts, bn_grouping=bn_grouping)
        self.operations = self.sampler.operations
        size = getattr(self.views, "size", None) or 0
        if "permutation" in self.operations and size % 2:
            raise UsageError(f"2 × 2 tiles need an even size, got {size}")
        orders = torch.tensor(list(itertools.permutations(range(4))))
        self.register_buffer("orders", orders, persistent=False)  # the first changes nothing

    def question(self, batch: Batch) -> Question:
        """The three clips, the middle one after its operation."""
        (before, middle, after), operation = super().question(batch)
        ids, key = batch.sample_id, batch.key.child("cloze")
        if "rotation" in self.operations:
            turned = operation == self.operations.index("rotation")
            quarters = 1 + (3 * uniforms(key.child("quarters"), ids)).to(torch.int64)
            middle = rotate(middle, quarters * turned)
        if "permutation" in self.operations:
            permuted = operation == self.operations.index("permutation")
            number = 1 + ((len(self.orders) - 1) * uniforms(key.child("tiles"), ids)).to(torch.int64)
            middle = permute_tiles(middle, self.orders[number * permuted])
        return Question([before, middle, after], operation)
