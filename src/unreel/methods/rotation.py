"""3D rotation: by how many quarter turns was this clip turned? (3D-RotNet, Jing et al. 2018; docs/methods/rotation.md).

All frames of a square clip are turned alike, by exact transposes and flips: no resampling that could be seen.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor

from unreel.core.checks import Amount
from unreel.core.errors import UsageError
from unreel.core.keys import uniforms
from unreel.data.batch import Batch
from unreel.data.sampling import UniformSampler
from unreel.methods.debiasing import HeadParts
from unreel.methods.parts import Part
from unreel.methods.pretext import PretextTask, Question, Share
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead


def rotate(clips: Tensor, quarters: Tensor) -> Tensor:
    """Square clips (B, C, T, S, S), each turned counter-clockwise by its own number of quarters (B,) int64, exactly."""
    which = (slice(None), *[None] * 4)
    clips = torch.where((quarters % 2 == 1)[which], clips.transpose(-2, -1).flip(-2), clips)
    return torch.where((quarters % 4 >= 2)[which], clips.flip(-2, -1), clips)


def turn_head(in_dim: int, *, hidden: Amount = 0, dropout: Share = 0.0) -> ConcatHead:
    """Four quarter turns told apart, behind a layer of width ``hidden``; 0 has none."""
    return ConcatHead(1, in_dim, 4, hidden=hidden, dropout=dropout)


@register_method("rotation")
class Rotation(PretextTask):
    """By how many quarter turns was this clip turned?

    Logs ``accuracy``; chance is 25 %.

    Args:
        encoder, clips, views, objects, head: see ``PretextTask``. One clip of 16 frames; short videos are looped.
            There should be no flip, which a turn could be taken for.
        copies: "all" gives all four turns of each clip to one batch (the original), "one" a random one.
    """

    target = "quarters"
    guess = staticmethod(lambda clips: 1 / 4)
    parts: ClassVar = {"clips": Part(UniformSampler), **PretextTask.parts, "head": Part(turn_head)}

    def __init__(self, encoder: Encoder, *, copies: Literal["one", "all"] = "all", **parts: Unpack[HeadParts]) -> None:
        super().__init__(encoder, **parts, bn_grouping="joint")
        if any(op.name == "flip" for pipeline in getattr(self.views, "pipelines", ()) for op in pipeline):
            raise UsageError("a mirrored clip is no quarter turn of the original: set views.flip_p to 0")
        self.all_copies = copies == "all"

    def question(self, batch: Batch) -> Question:
        """The clip, turned; with all copies four clips, each a question by itself."""
        clips = batch.views[0].data
        if self.all_copies:
            quarters = torch.arange(4, device=clips.device).expand(len(clips), 4)
            return Question([rotate(clips, quarters[:, i]) for i in range(4)], quarters)
        quarters = (4 * uniforms(batch.key.child("rotation"), batch.sample_id)).to(torch.int64)
        return Question([rotate(clips, quarters)], quarters)
