"""From 2-D kernels to 3-D ones, the usual start of a video net (docs/methods/cvrl.md, Inflation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from unreel.core.checks import Count, checked
from unreel.core.errors import UsageError
from unreel.nn.encoder import Encoder
from unreel.nn.matching import MatchReport, best_prefix, match_state

InflateMode: TypeAlias = Literal["mean", "center"]


@checked
def inflate(weight_2d: Tensor, depth: Count, mode: InflateMode = "mean") -> Tensor:
    """A 2-D kernel (O, I, h, w) as a 3-D one (O, I, depth, h, w) whose sum over time is the 2-D kernel.

    "mean" repeats it ``depth`` times divided by ``depth`` (I3D); "center" puts it on frame ``depth // 2`` and zeros
    elsewhere. Equal for depth 1. Raises UsageError for another rank, a depth below 1 or an unknown mode.
    """
    if weight_2d.ndim != 4:
        raise UsageError(f"inflate takes (O, I, h, w), got {tuple(weight_2d.shape)}")
    if mode == "mean":
        return weight_2d.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    weight = weight_2d.new_zeros((*weight_2d.shape[:2], depth, *weight_2d.shape[2:]))
    weight[:, :, depth // 2] = weight_2d
    return weight


def inflate_state_dict(
    state_2d: Mapping[str, Tensor], encoder: Encoder, *, mode: InflateMode = "mean", source: str = "auto"
) -> tuple[dict[str, Tensor], MatchReport]:
    """Inflate a 2-D net's state dict by name, to each kernel's own temporal size in ``encoder``.

    For encoders under torchvision's names (the R3D family). Batch norms' weights and statistics are copied as they are.
    Returns what fits, and the report; nothing is loaded and nothing raised (see ``load_weights``, which refuses).
    """
    expected = encoder.state_dict()
    prefix = best_prefix(state_2d, expected, source)
    inflated: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in state_2d.items():
            target = expected.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if target is not None and tensor.ndim == 4 and target.ndim == 5:
                tensor = inflate(tensor, target.shape[2], mode)
            inflated[name] = tensor
    return match_state(inflated, expected, source)
