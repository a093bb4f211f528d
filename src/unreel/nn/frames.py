"""Two-dimensional nets on clips: every frame by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unreel.nn.staged import StagedEncoder


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B·T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, num_frames: int) -> Tensor:
    """(B·T, C, H, W) back to (B, C, T, H, W)."""
    return x.reshape(-1, num_frames, *x.shape[1:]).transpose(1, 2)


class PerFrame(nn.Module):
    """A 2-D module as one on clips: every frame by itself, (B, C, T, h, w) to (B, C', T, h', w')."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Fold the frames into the batch, apply the module, unfold."""
        return unfold_frames(self.module(fold_frames(x)), x.shape[2])


class FrameEncoder(StagedEncoder):
    """A chain of 2-D stages. Maps are 5-D like every encoder's, (B, C, T, h, w) with T unchanged."""

    def stage(self, name: str) -> nn.Module:
        """The module that makes stage ``name`` from the stage before it, on clips: 5-D in and out."""
        return PerFrame(super().stage(name))

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps (B, C, T, h, w) by stage name, in one pass; ``None`` gives the last stage only."""
        num_frames = x.shape[2]
        maps = super().forward_features(fold_frames(x), names)
        return {name: unfold_frames(m, num_frames) for name, m in maps.items()}
