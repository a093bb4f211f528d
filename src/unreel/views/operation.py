"""The contract of one view operation: draw parameters from a key, apply them to a batch of clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from unreel.core.keys import Key
from unreel.data.batch import Aligned
from unreel.data.contracts import FrameSize


@runtime_checkable
class Operation(Protocol):
    """One augmentation. A frozen dataclass: its fields are the knobs, it holds no state.

    A parameter drawn once per clip has a leading axis of length 1, drawn per frame (``consistent=False``) of length T.
    """

    @property
    def name(self) -> str:
        """Unique within a view; the draw's key and the parameters' prefix."""

    @property
    def consistent(self) -> bool:
        """True: one draw for all frames of the clip. False: one per frame (the ablation)."""

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """Parameters for one clip, each (T', ...) with T' = 1 or T. ``size`` is the decoded frame's."""

    def apply(self, clips: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """(B, C, T, H, W) float in [0, 1] to the same; params (B, T', ...) on the clips' device and never mutated."""


@runtime_checkable
class GeometricOperation(Operation, Protocol):
    """An operation that moves pixels, hence everything aligned with them."""

    def align(self, aligned: Aligned, params: Mapping[str, Tensor], size: FrameSize) -> Aligned:
        """The same motion on aligned data of one clip; ``size`` is the frame's before the operation."""

    def unalign(self, aligned: Aligned, params: Mapping[str, Tensor], size: FrameSize) -> Aligned:
        """The inverse, to score in source coordinates; ``size`` is the frame's before the operation."""


@runtime_checkable
class SourceOperation(GeometricOperation, Protocol):
    """A geometric operation on decoded frames, run in the worker; such operations lead their pipeline."""

    def box(self, params: Mapping[str, Tensor], size: FrameSize) -> Tensor:
        """What it keeps of frames of ``size``: (T', 4) x1 y1 x2 y2 in pixels."""

    def output_size(self, params: Mapping[str, Tensor], size: FrameSize) -> FrameSize:
        """The frames' size after it."""

    def crop(self, frames: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """(T, H, W, C) uint8 to (T, h, w, C) uint8; params (T', ...)."""
