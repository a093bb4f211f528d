"""One rule for parameters: shape (...) is one value per clip, (..., T) or (..., 1) one per frame."""

from __future__ import annotations

import torch
from torch import Tensor

from unreel.core.errors import UsageError


def check_clips(clips: Tensor, operation: str) -> None:
    """Raise UsageError unless ``clips`` is floating, (..., C, T, H, W), and free of gradient bookkeeping."""
    if clips.ndim < 4 or not clips.is_floating_point():
        raise UsageError(
            f"{operation} expects float clips (..., C, T, H, W) in [0, 1], got {clips.dtype} {tuple(clips.shape)}; "
            "uint8 frames become such clips in ViewPlan.apply"
        )
    if clips.requires_grad:
        raise UsageError(f"{operation} is not differentiable; detach the clips first")


def per_frame(value: Tensor | float, clips: Tensor, operation: str) -> Tensor:
    """``value`` as (N, T') on the clips' device and dtype, N = number of clips, T' = 1 or T.

    Raises: UsageError when its shape is neither (...) nor (..., T) nor (..., 1) for clips (..., C, T, H, W).
    """
    lead, frames = clips.shape[:-4], clips.shape[-3]
    tensor = torch.as_tensor(value, dtype=clips.dtype, device=clips.device)
    if tensor.ndim == 0:
        tensor = tensor.expand(lead)
    if tensor.shape == lead:
        return tensor.reshape(-1, 1)
    if tensor.shape[:-1] == lead and tensor.ndim == len(lead) + 1 and tensor.shape[-1] in (1, frames):
        return tensor.reshape(-1, tensor.shape[-1])
    raise UsageError(
        f"{operation}: the parameter has shape {tuple(tensor.shape)}; for clips {tuple(clips.shape)} expected "
        f"{tuple(lead)} (one per clip) or {(*lead, frames)} (one per frame)"
    )
