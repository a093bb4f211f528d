"""Colour operations on float clips (..., C, T, H, W) in [0, 1]; one factor per clip (...) or per frame (..., T).

The defaults are those of CVRL's release (cvrl.md §4): brightness multiplies, contrast turns about the per-channel mean
of the whole clip, saturation and hue act in HSV, and every operation clips to [0, 1]. Grey clips (C = 1) have neither
saturation nor hue and pass those unchanged. Nothing here is differentiable.

The functions ending in an underscore write into their argument, a contiguous (N, C, T, H, W), and take factors of
shape (N, 1, T', 1, 1): they are what a view plan runs. They use no masks and no ``torch.where``, which is several
times slower on CPU than the few arithmetic passes that replace it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from unreel.core.errors import UsageError, unknown_name
from unreel.views._broadcast import check_clips, per_frame

ContrastPivot: TypeAlias = Literal["clip", "frame", "gray"]
SaturationMode: TypeAlias = Literal["hsv", "blend"]

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R BT.601 luma to four digits, as TensorFlow and torchvision round it (cvrl.md §4, step 5)."""


def check_pivot(pivot: str) -> None:
    """Raise UsageError unless ``pivot`` is a known contrast pivot."""
    if pivot not in get_args(ContrastPivot):
        raise unknown_name("contrast pivot", pivot, get_args(ContrastPivot))


def check_saturation_mode(mode: str) -> None:
    """Raise UsageError unless ``mode`` is a known saturation mode."""
    if mode not in get_args(SaturationMode):
        raise unknown_name("saturation mode", mode, get_args(SaturationMode))


def _has_color(clips: Tensor) -> bool:
    channels = clips.shape[1]
    if channels not in (1, 3):
        raise UsageError(f"colour operations need 1 or 3 channels, got {channels}")
    return channels == 3


def _luma(clips: Tensor) -> Tensor:
    """(N, 3, ...) to (N, ...)."""
    red, green, blue = clips.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brightness_(clips: Tensor, factor: Tensor) -> Tensor:
    """In-place ``brightness``."""
    return clips.mul_(factor).clamp_(0, 1)


def contrast_(clips: Tensor, factor: Tensor, pivot: ContrastPivot = "clip") -> Tensor:
    """In-place ``contrast``."""
    if pivot == "frame":
        center = clips.mean((3, 4), keepdim=True)
    else:
        center = clips.mean((2, 3, 4), keepdim=True)
        if pivot == "gray" and _has_color(clips):
            center = _luma(center).unsqueeze(1)
    return clips.mul_(factor).add_(center * (1 - factor)).clamp_(0, 1)


def saturation_(clips: Tensor, factor: Tensor, mode: SaturationMode = "hsv") -> Tensor:
    """In-place ``saturation``."""
    if not _has_color(clips):
        return clips
    if mode == "blend":
        gray = _luma(clips).unsqueeze(1)
        return clips.mul_(factor).add_(gray.mul(1 - factor)).clamp_(0, 1)
    # With V and hue fixed, HSV saturation moves every channel along the line to V: x' = V + (x − V)·s'/s, and
    # s'/s = min(factor, 1/s), 1/s = V/(V − min). No hue is needed.
    red, green, blue = clips.unbind(1)
    value = torch.maximum(red, green)
    chroma = value.maximum(blue)
    value = chroma.clone()
    chroma -= torch.minimum(red, green).minimum(blue)
    ratio = (value / chroma.clamp_min_(torch.finfo(clips.dtype).tiny)).minimum(factor.clamp_min(0).squeeze(1))
    value = value.unsqueeze(1)
    return clips.sub_(value).mul_(ratio.unsqueeze(1)).add_(value).clamp_min_(0)


# Each channel of HSV → RGB is min + chroma·clamp(sign·|h − peak| + offset, 0, 1) with the hue h in sextants [0, 6).
_HUE_WAVES = ((3.0, 1.0, -1.0), (2.0, -1.0, 2.0), (4.0, -1.0, 2.0))


def hue_(clips: Tensor, shift: Tensor) -> Tensor:
    """In-place ``hue``."""
    if not _has_color(clips):
        return clips
    red, green, blue = clips.unbind(1)
    low = torch.minimum(red, green).minimum(blue)
    high = torch.maximum(red, green).maximum(blue)
    chroma = high - low
    # Distance of the hue from red, in sextants, without a branch: (max − 2·min + g + b − r) / chroma, in [0, 3];
    # the side is the sign of g − b. The order of the sums makes it exactly 0 for grey.
    hue6 = (green + blue).sub_(red).sub_(low, alpha=2).add_(high)
    hue6.div_(chroma.clamp_min(torch.finfo(clips.dtype).tiny)).copysign_(green - blue)
    hue6.add_(6 * shift.squeeze(1))
    hue6.sub_(torch.mul(hue6, 1 / 6, out=high).floor_(), alpha=6)
    for channel, (peak, sign, offset) in enumerate(_HUE_WAVES):
        wave = torch.sub(hue6, peak, out=high).abs_()
        wave = wave.sub_(-offset) if sign > 0 else wave.neg_().add_(offset)
        torch.addcmul(low, chroma, wave.clamp_(0, 1), out=clips[:, channel])
    return clips


def grayscale_(clips: Tensor) -> Tensor:
    """In-place ``grayscale``."""
    return clips.copy_(_luma(clips).unsqueeze(1)) if _has_color(clips) else clips


def solarize_(clips: Tensor, threshold: Tensor) -> Tensor:
    """In-place ``solarize``."""
    above = torch.ge(clips, threshold).to(clips.dtype)
    return clips.mul_(1 - 2 * above).add_(above)


def _run(name: str, operation: Callable[[Tensor, Tensor], Tensor], clips: Tensor, value: Tensor | float) -> Tensor:
    check_clips(clips, name)
    factor = per_frame(value, clips, name)[:, None, :, None, None]
    # A fresh contiguous copy: the in-place kernels write planes.
    work = clips.detach().clone(memory_format=torch.contiguous_format).view(-1, *clips.shape[-4:])
    return operation(work, factor).view(clips.shape)


def brightness(clips: Tensor, factor: Tensor | float) -> Tensor:
    """Multiply by ``factor`` (≥ 0; 1 changes nothing) and clip to [0, 1].

    Args:
        clips: float (..., C, T, H, W) in [0, 1].
        factor: (...) per clip or (..., T) per frame.
    Returns: the same shape and dtype. Raises: UsageError for another dtype or a parameter of another shape.
    """
    return _run("brightness", brightness_, clips, factor)


def contrast(clips: Tensor, factor: Tensor | float, *, pivot: ContrastPivot = "clip") -> Tensor:
    """Stretch about a pivot, clip to [0, 1]: p + factor·(x − p).

    Args:
        clips: float (..., C, T, H, W) in [0, 1].
        factor: (...) per clip or (..., T) per frame.
        pivot: ``clip`` the per-channel mean over all frames (CVRL's release: no flicker), ``frame`` the per-channel
            mean of each frame, ``gray`` the mean luma of the clip, one number for all channels.
    Raises: UsageError for an unknown pivot, another dtype or a parameter of another shape.
    """
    check_pivot(pivot)
    return _run("contrast", lambda x, f: contrast_(x, f, pivot), clips, factor)


def saturation(clips: Tensor, factor: Tensor | float, *, mode: SaturationMode = "hsv") -> Tensor:
    """Scale saturation by ``factor`` ≥ 0.

    Args:
        clips: float (..., C, T, H, W) in [0, 1], C = 3 (C = 1 is returned unchanged).
        factor: (...) per clip or (..., T) per frame.
        mode: ``hsv`` multiplies S in HSV, at most 1 (TensorFlow, CVRL's release); ``blend`` mixes with the luma
            (torchvision, SimCLR in PyTorch).
    Raises: UsageError for an unknown mode, another dtype or a parameter of another shape.
    """
    check_saturation_mode(mode)
    return _run("saturation", lambda x, f: saturation_(x, f, mode), clips, factor)


def hue(clips: Tensor, shift: Tensor | float) -> Tensor:
    """Turn the hue by ``shift`` of a full circle (0.5 is opposite), in HSV; V and S stay.

    Args:
        clips: float (..., C, T, H, W) in [0, 1], C = 3 (C = 1 is returned unchanged).
        shift: (...) per clip or (..., T) per frame; any real number.
    Raises: UsageError for another dtype or a parameter of another shape.
    """
    return _run("hue", hue_, clips, shift)


def grayscale(clips: Tensor) -> Tensor:
    """All channels become the luma 0.2989 R + 0.587 G + 0.114 B (cvrl.md §4); the channel count stays.

    Raises: UsageError for another dtype or a channel count other than 1 and 3.
    """
    return _run("grayscale", lambda x, _: grayscale_(x), clips, 0.0)


def solarize(clips: Tensor, threshold: Tensor | float = 0.5) -> Tensor:
    """x ≥ threshold becomes 1 − x (cvrl.md §4, step 7: threshold 0.5).

    Args:
        clips: float (..., C, T, H, W) in [0, 1].
        threshold: (...) per clip or (..., T) per frame.
    Raises: UsageError for another dtype or a parameter of another shape.
    """
    return _run("solarize", solarize_, clips, threshold)
