"""What a dataset asks of samplers and view plans; methods supply both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.keys import Key
from unreel.data.batch import Aligned, Batch, ViewParams
from unreel.media import VideoInfo

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R BT.601 luma to four digits, as TensorFlow and torchvision round it (docs/methods/cvrl.md, Augmentation)."""


@dataclass(frozen=True)
class SourceInfo:
    """What a sampler knows of one manifest row before anything is decoded.

    ``num_frames``, ``duration_s`` and ``fps`` describe the row's span, not the whole file. ``sidecars`` holds the
    computed facts that the method named, one value per name.
    """

    video: VideoInfo
    num_frames: int
    duration_s: float
    sidecars: Mapping[str, object] = field(default_factory=dict)


class Request(NamedTuple):
    """What is wanted of one stream, relative to the row's span: frames (T,) int64, or times (T,) float64 in seconds.

    ``stream``: "video", "audio" (by times only), or the name of aligned data.
    """

    indices: NDArray[np.int64] | None = None
    times_s: NDArray[np.float64] | None = None
    stream: str = "video"


class SamplerDraw(NamedTuple):
    """One clip per view, and the targets that follow from the choice (order, pace …)."""

    clips: tuple[Request, ...]
    targets: Mapping[str, Tensor] = {}


@runtime_checkable
class Sampler(Protocol):
    """Chooses which times each view reads. Pure: the draw depends on the key and the source only. Picklable.

    A sampler that needs a certain length says so in an optional attribute ``min_frames``: shorter rows are left out
    before a run starts. Without it (see the function of that name) every row will do.
    """

    @property
    def num_views(self) -> int:
        """Number of clips per draw."""

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """One clip request per view. Raises TooShortError's cause as ValueError when the source cannot serve it."""


def min_frames(sampler: Sampler) -> int:
    """Frames that a row's span must have for this sampler: its attribute ``min_frames``, or 1 where it has none."""
    return int(getattr(sampler, "min_frames", 1))


class FrameSize(NamedTuple):
    """What a view plan needs to know of the frames before they are decoded, in pixels and frames."""

    height: int
    width: int
    num_frames: int


@runtime_checkable
class SupportsViews(Protocol):
    """Draw, then apply. ``draw`` and ``crop`` run in the worker, ``apply`` on the training device. Picklable.

    ``draw`` keys every operation by its own name, so adding or removing one never changes another's draw.
    """

    @property
    def num_views(self) -> int:
        """Number of views per sample."""

    def draw(self, key: Key, view: int, size: FrameSize, sidecars: Mapping[str, object]) -> ViewParams:
        """All random choices of one view, from no pixel. ``key`` ends at the sample; the plan appends the rest."""

    def crop(self, view: int, frames: Tensor, params: ViewParams) -> Tensor:
        """Crop and resize decoded frames (T, H, W, C) uint8 to the view's fixed size (T, S, S, C) uint8."""

    def align(self, view: int, data: Aligned, params: ViewParams) -> Aligned:
        """Aligned data in source coordinates, carried through the view's whole geometry (crop and flip)."""

    def apply(self, batch: Batch) -> Batch:
        """The rest of every view, batched: uint8 (B, T, S, S, C) to float (B, C, T, S, S) in [0, 1]."""


class SidecarLike(Protocol):
    """A computed fact per row; see ``unreel.data.sidecars``."""

    def value(self, row: int) -> object:
        """The fact for a manifest row. Raises MediaError when it could not be computed."""


@runtime_checkable
class TimedFact(Protocol):
    """A sidecar's value that depends on when the clips are; ``ClipDataset`` hands each view its own."""

    def of_clips(self, times_s: Sequence[NDArray[np.float64]], view: int) -> object:
        """The fact for clip number ``view`` of a sample whose clips have these presentation times, (T,) each."""


class Ticket(NamedTuple):
    """The index handed to a worker: no mutable epoch anywhere.

    ``reserves`` are the rows that take this slot, in order, when ``row`` cannot be read. They are disjoint from the
    global batch and from every other slot's reserves, so a substitute never duplicates a neighbour.
    """

    epoch: int
    step: int
    row: int
    reserves: tuple[int, ...] = ()
