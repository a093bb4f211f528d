"""3D rotation: by how many quarter turns was this clip turned? (3D-RotNet, Jing et al. 2018; tcgl.md §8, recalled).

All frames of a square clip are turned alike, by exact transposes and flips: no resampling that could be seen.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from unreel.core.errors import unknown_name
from unreel.core.keys import uniforms
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.data.sampling import UniformSampler
from unreel.methods.pretext import PretextTask, Question
from unreel.methods.registry import register_method
from unreel.methods.view_options import takes_view_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import ConcatHead
from unreel.views.presets import snippet_views

Copies: TypeAlias = Literal["one", "all"]


def rotate(clips: Tensor, quarters: Tensor) -> Tensor:
    """Square clips (B, C, T, S, S), each turned counter-clockwise by its own number of quarters (B,) int64, exactly."""
    which = (slice(None), *[None] * 4)
    clips = torch.where((quarters % 2 == 1)[which], clips.transpose(-2, -1).flip(-2), clips)
    return torch.where((quarters % 4 >= 2)[which], clips.flip(-2, -1), clips)


@register_method("rotation")
class Rotation(PretextTask):
    """By how many quarter turns was this clip turned?

    Logs ``accuracy``; chance is 25 %.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method feeds it.
        clip_frames, stride: frames per clip and frames between them; short videos are looped.
        copies: "all" gives all four turns of each clip to one batch (the original), "one" a random one.
        size: side of the square clips, pixels.
        head_dim: width of a hidden layer; 0 has none. dropout: before the last layer.
        view_options: every other argument of ``unreel.views.presets.snippet_views``; there is no flip.
    """

    @takes_view_options("num_views", "size", "flip_p", "flip_per", of=snippet_views)
    def __init__(
        self,
        encoder: Encoder,
        *,
        clip_frames: Annotated[int, Range(ge=1, unit="frames")] = 16,
        stride: Annotated[int, Range(ge=1, unit="frames")] = 1,
        copies: Copies = "all",
        size: Annotated[int, Range(ge=8, unit="px")] = 112,
        head_dim: Annotated[int, Range(ge=0)] = 0,
        dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0,
        **view_options: Any,
    ) -> None:
        if copies not in get_args(Copies):
            raise unknown_name("copies", copies, get_args(Copies))
        super().__init__(
            encoder,
            sampler=UniformSampler(clip_frames=clip_frames, stride=stride),
            head=ConcatHead(1, encoder.num_features, 4, hidden=head_dim, dropout=dropout),
            target="quarters",
            clip_frames=clip_frames,
            stride=stride,
            size=size,
            view_options=view_options,
        )
        self.all_copies = copies == "all"

    def question(self, batch: Batch) -> Question:
        """The clip, turned; with all copies four clips, each a question by itself."""
        clips = batch.views[0].data
        if self.all_copies:
            quarters = torch.arange(4, device=clips.device).expand(len(clips), 4)
            return Question([rotate(clips, quarters[:, i]) for i in range(4)], quarters)
        quarters = (4 * uniforms(batch.key.child("rotation"), batch.sample_id)).to(torch.int64)
        return Question([rotate(clips, quarters)], quarters)
