"""The contract of one view operation: draw parameters from a key, apply them to a batch of clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from unreel.core.keys import Key
from unreel.data.contracts import FrameSize


class _Drawn(Protocol):
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


@runtime_checkable
class DeviceOperation(_Drawn, Protocol):
    """An operation on float clips, run in batches on the device."""

    def apply(self, clips: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """(B, C, T, H, W) float in [0, 1] to the same; params (B, T', ...) on the clips' device and never mutated."""


@runtime_checkable
class SourceOperation(_Drawn, Protocol):
    """A crop or resize of decoded frames, run in the worker; such operations lead their pipeline.

    A draw has a ``box``, what it keeps of the frames: (T', 4) x1 y1 x2 y2 in pixels.
    """

    def output_size(self, params: Mapping[str, Tensor], size: FrameSize) -> FrameSize:
        """The frames' size after it."""

    def crop(self, frames: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """(T, H, W, C) uint8 to (T, h, w, C) uint8; params (T', ...)."""


Operation: TypeAlias = DeviceOperation | SourceOperation
