"""Colour operations on float clips (..., C, T, H, W) in [0, 1]; one factor per clip (...) or per frame (..., T).

The defaults are those of CVRL's release (docs/methods/cvrl.md, Augmentation): brightness multiplies, contrast turns
about the per-channel mean of the whole clip, saturation and hue act in HSV, and every operation clips to [0, 1]. Grey
clips (C = 1) have neither saturation nor hue and pass those unchanged. Nothing here is differentiable.

The functions ending in an underscore write into their argument, (N, C, T, H, W): they are what a view plan runs. They
use no masks and no ``torch.where``, which is several times slower on CPU than the few arithmetic passes that replace
it, and little memory of their own, since new pages cost more than passes do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from unreel.core.checks import checked
from unreel.core.errors import UsageError
from unreel.data.contracts import LUMA
from unreel.views._broadcast import check_clips, per_frame

ContrastPivot: TypeAlias = Literal["clip", "frame", "gray"]
SaturationMode: TypeAlias = Literal["hsv", "blend"]


def _has_color(clips: Tensor) -> bool:
    channels = clips.shape[1]
    if channels not in (1, 3):
        raise UsageError(f"colour operations need 1 or 3 channels, got {channels}")
    return channels == 3


def _luma(clips: Tensor) -> Tensor:
    """(N, 3, ...) to (N, ...)."""
    red, green, blue = clips.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _extremes(clips: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest channel of (N, 3, ...), (N, ...) each, of their own memory."""
    red, green, blue = clips.unbind(1)
    high, low = torch.maximum(red, green), torch.minimum(red, green)
    return torch.maximum(high, blue, out=high), torch.minimum(low, blue, out=low)


Factor: TypeAlias = Tensor | float
"""(N, 1, T', 1, 1), or one number for all clips, which needs no broadcasting and tells when clipping is idle."""


def brightness_(clips: Tensor, factor: Factor) -> Tensor:
    """In-place ``brightness``."""
    clips.mul_(factor)
    return clips if _shrinks(factor) else clips.clamp_(0, 1)


def contrast_center(clips: Tensor, pivot: ContrastPivot = "clip") -> Tensor:
    """The pivot of ``contrast``, to be broadcast over the clips."""
    if pivot == "frame":
        return clips.mean((3, 4), keepdim=True)
    center = clips.mean((2, 3, 4), keepdim=True)
    return _luma(center).unsqueeze(1) if pivot == "gray" and _has_color(clips) else center


def contrast_(clips: Tensor, factor: Factor, center: Tensor) -> Tensor:
    """In-place ``contrast`` about a ``contrast_center``."""
    clips.mul_(factor).add_(center * (1 - factor))
    return clips if _shrinks(factor) else clips.clamp_(0, 1)


def _shrinks(factor: Factor) -> bool:
    # A factor in [0, 1] cannot leave [0, 1]; reading a tensor's would cost more than the pass it saves.
    return isinstance(factor, float) and 0 <= factor <= 1


def _per_plane(factor: Factor) -> Factor:
    return factor if isinstance(factor, float) else factor.squeeze(1)


def _chroma_ratio(high: Tensor, chroma: Tensor, factor: Factor, out: Tensor) -> Tensor:
    """How much saturation and hence chroma grow, min(factor, 1/s) with 1/s = max/chroma, at a fixed maximum."""
    torch.clamp_min(chroma, torch.finfo(chroma.dtype).tiny, out=out)
    torch.div(high, out, out=out)
    if isinstance(factor, float):
        return out.clamp_max_(max(factor, 0.0))
    return torch.minimum(out, factor.squeeze(1).clamp_min(0), out=out)


def saturation_(clips: Tensor, factor: Factor, mode: SaturationMode = "hsv") -> Tensor:
    """In-place ``saturation``."""
    if not _has_color(clips):
        return clips
    if mode == "blend":
        gray = _luma(clips).unsqueeze(1)
        return clips.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)
    # With V and hue fixed, HSV saturation moves every channel along the line to V: x' = V + (x − V)·s'/s. No hue.
    high, low = _extremes(clips)
    torch.sub(high, low, out=low)
    ratio = _chroma_ratio(high, low, factor, low).unsqueeze(1)
    high = high.unsqueeze(1)
    return clips.sub_(high).mul_(ratio).add_(high).clamp_min_(0)


# Each channel of HSV → RGB is min + chroma·clamp(sign·|h − peak| + offset, 0, 1) with the hue h in sextants [0, 6).
_HUE_WAVES = ((3.0, 1.0, -1.0), (2.0, -1.0, 2.0), (4.0, -1.0, 2.0))


def hue_(clips: Tensor, shift: Factor, factor: Factor | None = None) -> Tensor:
    """In-place ``hue``; with ``factor`` also ``saturation`` in HSV, before or after: there the two commute."""
    if not _has_color(clips):
        return clips
    red, green, blue = clips.unbind(1)
    high, low = _extremes(clips)
    chroma = high - low
    # Distance of the hue from red, in sextants, without a branch: (max − 2·min + g + b − r) / chroma, in [0, 3];
    # the side is the sign of g − b. The order of the sums makes it exactly 0 for grey.
    hue6 = torch.add(green, blue).sub_(red).sub_(low, alpha=2).add_(high)
    scratch = torch.clamp_min(chroma, torch.finfo(clips.dtype).tiny)
    hue6.div_(scratch).copysign_(torch.sub(green, blue, out=scratch)).add_(6 * _per_plane(shift))
    hue6.sub_(torch.mul(hue6, 1 / 6, out=scratch).floor_(), alpha=6)
    if factor is not None:
        chroma.mul_(_chroma_ratio(high, chroma, factor, scratch))
        torch.sub(high, chroma, out=low).clamp_min_(0)
    for channel, (peak, sign, offset) in enumerate(_HUE_WAVES):
        wave = torch.sub(hue6, peak, out=scratch).abs_()
        wave = wave.add_(offset) if sign > 0 else wave.neg_().add_(offset)
        torch.addcmul(low, chroma, wave.clamp_(0, 1), out=clips[:, channel])
    return clips


def _scale_shift(clips: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (clips * scale + shift).clamp(0, 1)


def _turn_hsv(clips: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """``hue_`` with saturation as one expression, for the compiler."""
    red, green, blue = clips.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    divisor = chroma.clamp_min(torch.finfo(clips.dtype).tiny)
    hue6 = torch.copysign(((green + blue) - red - 2 * low + high) / divisor, green - blue) + 6 * shift
    hue6 = hue6 - 6 * torch.floor(hue6 * (1 / 6))
    chroma = chroma * torch.minimum(high / divisor, factor)
    low = (high - chroma).clamp_min(0)
    waves = [((hue6 - peak).abs() * sign + offset).clamp(0, 1) for peak, sign, offset in _HUE_WAVES]
    return torch.stack([low + chroma * wave for wave in waves], 1)


class CompiledKernels(NamedTuple):
    """One pass each, made by torch.compile: out-of-place, factors as tensors."""

    scale_shift: Callable[[Tensor, Tensor, Tensor], Tensor]
    turn_hsv: Callable[[Tensor, Tensor, Tensor], Tensor]


@lru_cache(maxsize=1)
def compiled_kernels() -> CompiledKernels:
    """The kernels of compiled colour jitter; compiled on first use, for any shape, once per process.

    They equal the eager operations within 2e-6 in float32 (the compiler may fuse a product and a sum).
    """
    # torch keeps compiled code in a folder for the next process, and takes code for registers of another width from
    # there (another processor, where the folder is shared): half of the pixels stay unwritten. Named, the width is
    # part of what the code is kept by.
    width = {"AVX2": 256, "AVX512": 512}.get(torch.backends.cpu.get_cpu_capability())
    options: dict[str, str | int | bool | Callable[..., Any]] = {} if width is None else {"cpp.simdlen": width}
    scale_shift, turn_hsv = (torch.compile(f, dynamic=True, options=options) for f in (_scale_shift, _turn_hsv))
    return CompiledKernels(scale_shift, turn_hsv)


def grayscale_(clips: Tensor) -> Tensor:
    """In-place ``grayscale``."""
    return clips.copy_(_luma(clips).unsqueeze(1)) if _has_color(clips) else clips


def solarize_(clips: Tensor, threshold: Factor) -> Tensor:
    """In-place ``solarize``."""
    above = clips.ge(threshold).to(clips.dtype)
    return clips.addcmul_(clips, above, value=-2).add_(above)


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


@checked
def contrast(clips: Tensor, factor: Tensor | float, *, pivot: ContrastPivot = "clip") -> Tensor:
    """Stretch about a pivot, clip to [0, 1]: p + factor·(x − p).

    Args:
        clips: float (..., C, T, H, W) in [0, 1].
        factor: (...) per clip or (..., T) per frame.
        pivot: ``clip`` the per-channel mean over all frames (CVRL's release: no flicker), ``frame`` the per-channel
            mean of each frame, ``gray`` the mean luma of the clip, one number for all channels.
    Raises: UsageError for an unknown pivot, another dtype or a parameter of another shape.
    """
    return _run("contrast", lambda x, f: contrast_(x, f, contrast_center(x, pivot)), clips, factor)


@checked
def saturation(clips: Tensor, factor: Tensor | float, *, mode: SaturationMode = "hsv") -> Tensor:
    """Scale saturation by ``factor`` ≥ 0.

    Args:
        clips: float (..., C, T, H, W) in [0, 1], C = 3 (C = 1 is returned unchanged).
        factor: (...) per clip or (..., T) per frame.
        mode: ``hsv`` multiplies S in HSV, at most 1 (TensorFlow, CVRL's release); ``blend`` mixes with the luma
            (torchvision, SimCLR in PyTorch).
    Raises: UsageError for an unknown mode, another dtype or a parameter of another shape.
    """
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
    """All channels become the luma 0.2989 R + 0.587 G + 0.114 B; the channel count stays.

    Source: docs/methods/cvrl.md, Augmentation.

    Raises: UsageError for another dtype or a channel count other than 1 and 3.
    """
    return _run("grayscale", lambda x, _: grayscale_(x), clips, 0.0)


def solarize(clips: Tensor, threshold: Tensor | float = 0.5) -> Tensor:
    """x ≥ threshold becomes 1 − x (docs/methods/cvrl.md, Augmentation, step 7: threshold 0.5).

    Args:
        clips: float (..., C, T, H, W) in [0, 1].
        threshold: (...) per clip or (..., T) per frame.
    Raises: UsageError for another dtype or a parameter of another shape.
    """
    return _run("solarize", solarize_, clips, threshold)
