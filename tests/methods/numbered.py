"""Videos that tell which frame, and which quarter of it, each pixel is from; and batches that a method's own parts cut.

Pixel = 3 · frame number + 10, 20 or 40 by quarter: whatever a sampler or a method did can be read off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.methods.clips import sample
from unreel.core.keys import Key
from unreel.data.batch import Batch, collate
from unreel.data.contracts import SourceInfo
from unreel.media import VideoInfo
from unreel.methods import Method, create_method
from unreel.nn import create_encoder
from unreel.nn.encoder import Encoder, InputSpec, StageInfo

PER_FRAME = 3
QUARTERS = torch.tensor([0, 10, 20, 40], dtype=torch.uint8)

# Cheap and small: clips of 4 frames of 8 × 8 pixels as they are.
TINY: dict[str, Any] = {"clip_frames": 4, "size": 8, "resize": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "vcop": {"interval": 2, "hidden": 24},
    "opn": {"interval": 1, "hidden": 48},
    "shuffle_learn": {"hidden": 24},
    "arrow_of_time": {"hidden": 8},
    "pace": {"hidden": 24, "jitter_p": 0.0},
    "rotation": {"hidden": 8},
    "vcp": {"interval": 2, "hidden": 48},
}
NAMES = tuple(SETTINGS)


def video(frames: int, size: int = 8) -> Tensor:
    """(frames, size, size, 3) uint8."""
    corner = torch.zeros(size, size, dtype=torch.uint8)
    half = size // 2
    corner[:half, half:], corner[half:, :half], corner[half:, half:] = QUARTERS[1:]
    number = PER_FRAME * torch.arange(frames, dtype=torch.uint8)
    return (number[:, None, None] + corner)[..., None].expand(-1, -1, -1, 3).contiguous()


def frames_of(clips: Tensor) -> Tensor:
    """Frame numbers of uint8 clips (B, T, H, W, C), or float ones (B, C, T, H, W): (B, T) int64."""
    lowest = clips[..., 0].amin((2, 3)) if clips.dtype == torch.uint8 else 255 * clips[:, 0].amin((-2, -1))
    return (lowest / PER_FRAME).round().to(torch.int64)


def tiny(name: str, encoder: Encoder | None = None, **options: Any) -> Method:
    """A method of this family around a very small encoder; the same weights at every call."""
    if encoder is None:
        encoder = create_encoder("r3d_tiny", channels=(6, 8, 10, 12), stem_channels=4, seed=0)
    return create_method(name, encoder, seed=0, **{**TINY, **SETTINGS[name], **options})


def batch_of(method: Method, rows: int, *, frames: int = 30, seed: int = 0, applied: bool = True, **of: int) -> Batch:
    """``rows`` samples of the numbered video, drawn by the method's sampler and views."""
    source = video(frames, **of)
    samples = [sample(method, source, 7919 * row + 3, Key(seed, row)) for row in range(rows)]
    batch = replace(collate(samples), key=Key("numbered", seed))
    return method.views.apply(batch) if applied else batch


def source(frames: int) -> SourceInfo:
    """What a sampler knows of a video of so many frames."""
    return SourceInfo(VideoInfo(8, 8, frames, frames / 10, 10.0, "raw"), frames, frames / 10)


class TileMeans(Encoder):
    """An encoder that sees frame numbers: the mean of every quarter of every frame, centred and scaled."""

    def __init__(self, frames: int = 4) -> None:
        super().__init__()
        self.num_features = 4 * frames
        self.input_spec = InputSpec()
        self.stage_info = {"tiles": StageInfo(4 * frames, frames, 4)}

    def forward_features(self, x: Tensor, names: Any = None) -> dict[str, Tensor]:
        tiles = torch.nn.functional.adaptive_avg_pool3d(x[:, :1], (x.shape[2], 2, 2))
        return {"tiles": (10 * tiles - 2.5).flatten(1)[..., None, None, None]}
