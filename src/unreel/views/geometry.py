"""Geometry: the one resize of the package, crops, flips, blur and affine maps.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. Boxes are x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from unreel.core.checks import Amount, checked
from unreel.core.errors import UsageError
from unreel.data.dataset import resize_frames
from unreel.views._broadcast import check_clips, per_frame

Size: TypeAlias = int | tuple[int, int]
"""Height and width in pixels; one number is a square."""
Padding: TypeAlias = Literal["zero", "reflect", "edge"]


def as_size(size: Size) -> tuple[int, int]:
    """``size`` as (height, width). Raises UsageError unless both are positive."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UsageError(f"a frame size must be at least 1 × 1 pixels, got {height} × {width}")
    return height, width


def resize(frames: Tensor, size: Size, *, antialias: bool = True) -> Tensor:
    """Bilinear resize: the only one in the package, so that training and evaluation see the same pixels.

    Args:
        frames: uint8 (T, H, W, C) as decoded, or float (..., C, T, H, W).
        size: height and width of the result, pixels.
        antialias: widen the filter when shrinking (default). CVRL's release does not (docs/methods/cvrl.md,
            Augmentation).
    Returns: the same layout and dtype; contiguous. uint8 is rounded to nearest. The same size returns the input.
    Raises: UsageError for another dtype or rank.
    """
    height, width = as_size(size)
    if frames.dtype == torch.uint8 and frames.ndim == 4:
        return resize_frames(frames, height, width, antialias=antialias).contiguous()
    if frames.is_floating_point() and frames.ndim >= 4:
        if frames.shape[-2:] == (height, width):
            return frames
        flat = frames.reshape(-1, 1, *frames.shape[-2:])
        out = F.interpolate(flat, (height, width), mode="bilinear", antialias=antialias, align_corners=False)
        return out.view(*frames.shape[:-2], height, width)
    raise UsageError(
        f"resize expects uint8 frames (T, H, W, C) or float clips (..., C, T, H, W), "
        f"got {frames.dtype} {tuple(frames.shape)}"
    )


def _cut(frames: Tensor, boxes: Tensor, size: Size | None, antialias: bool) -> Tensor:
    """``resized_crop`` of one clip with boxes (T', 4), uint8 (T, H, W, C) or float (C, T, H, W)."""
    packed = frames.dtype == torch.uint8
    clip = frames.permute(3, 0, 1, 2) if packed else frames
    height, width = clip.shape[-2:]
    parts = []
    for index, row in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (round(v) for v in row)
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise UsageError(
                f"crop box x1 y1 x2 y2 = {x1} {y1} {x2} {y2} is empty or outside the {height} × {width} frame"
            )
        part = (clip if len(boxes) == 1 else clip[:, index : index + 1])[..., y1:y2, x1:x2]
        if packed:
            part = part.permute(1, 2, 3, 0).contiguous()  # the resize of a strided cut is up to twice as slow
        parts.append(part if size is None else resize(part, size, antialias=antialias).contiguous())
    return parts[0] if len(parts) == 1 else torch.cat(parts, 0 if packed else 1)


def resized_crop(frames: Tensor, box: Tensor, size: Size | None, *, antialias: bool = True) -> Tensor:
    """Cut a box and resize it.

    Args:
        frames: uint8 (T, H, W, C), or float (..., C, T, H, W).
        box: x1 y1 x2 y2 in pixels, rounded half to even; for uint8 (4,) or (T', 4), for float (..., 4) or
            (..., T', 4) with T' = 1 or T.
        size: size of the result; ``None`` keeps the box's own (all boxes must then be of one size).
        antialias: as in ``resize``.
    Raises: UsageError for a box that is empty or leaves the frame, or another shape.
    """
    if frames.dtype == torch.uint8 and frames.ndim == 4:
        boxes = box.reshape(-1, 4)
        if len(boxes) not in (1, len(frames)):
            raise UsageError(f"resized_crop: {len(boxes)} boxes for {len(frames)} frames; expected 1 or one per frame")
        return _cut(frames, boxes, size, antialias)
    check_clips(frames, "resized_crop")
    lead, num_frames = frames.shape[:-4], frames.shape[-3]
    if box.shape[:-1] == lead:
        box = box.unsqueeze(-2)
    if box.shape[:-2] != lead or box.shape[-1] != 4 or box.shape[-2] not in (1, num_frames):
        raise UsageError(
            f"resized_crop: boxes {tuple(box.shape)} for clips {tuple(frames.shape)}; expected {(*lead, 4)} "
            f"or {(*lead, num_frames, 4)}"
        )
    flat = frames.reshape(-1, *frames.shape[-4:]), box.reshape(-1, box.shape[-2], 4)
    clips = [_cut(clip, boxes, size, antialias) for clip, boxes in zip(*flat, strict=True)]
    return torch.stack(clips).view(*lead, *clips[0].shape)


def hflip(clips: Tensor, flags: Tensor | bool = True) -> Tensor:
    """Mirror left and right where ``flags`` holds.

    Args:
        clips: float (..., C, T, H, W).
        flags: bool (...) per clip or (..., T) per frame.
    Returns: a new tensor. Raises: UsageError for a parameter of another shape.
    """
    check_clips(clips, "hflip")
    weight = per_frame(torch.as_tensor(flags).to(clips.dtype), clips, "hflip") > 0
    weight = weight.view(*clips.shape[:-4], 1, weight.shape[-1], 1, 1)
    return torch.where(weight, clips.flip(-1), clips)


def default_blur_radius(height: int, width: int) -> int:
    """(size // 10) // 2 pixels of the short side: 11, or 23 taps, at 224 (docs/methods/cvrl.md, Augmentation)."""
    return (min(height, width) // 10) // 2


def blur_taps(sigma: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian taps exp(−j²/2σ²), j = −radius … radius: (N,) pixels to (N, 2·radius + 1); σ = 0 is identity.

    Taps below a thousandth of the dtype's epsilon are exactly 0: they change nothing, and subnormal numbers would slow
    every product.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=sigma.dtype, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-6).unsqueeze(-1)) ** 2)
    taps = taps * (taps > 1e-3 * torch.finfo(sigma.dtype).eps)
    return taps / taps.sum(-1, keepdim=True)


def _source_index(size: int, radius: int, padding: Padding, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where output i takes tap j from, (size, 2·radius + 1), and whether that is inside (zero padding only)."""
    index = torch.arange(size, device=device)[:, None] + torch.arange(-radius, radius + 1, device=device)
    inside = torch.ones_like(index, dtype=torch.bool)
    if padding == "zero":
        inside = (index >= 0) & (index < size)
    elif padding == "reflect" and size > 1:  # … 2 1 | 0 1 2 …: period 2(size − 1), as often as the radius asks
        index = index.remainder(2 * (size - 1))
        index = torch.minimum(index, 2 * (size - 1) - index)
    return index.clamp(0, size - 1), inside


def blur_matrix(sigma: Tensor, size: int, radius: int, padding: Padding = "zero") -> Tensor:
    """The blur of a line of ``size`` pixels as a banded matrix: (N,) to (N, size, size), out = matrix @ line."""
    taps = blur_taps(sigma, radius)
    index, inside = _source_index(size, radius, padding, sigma.device)
    values = taps[:, None, :] * inside.to(taps.dtype)
    out = torch.zeros(len(sigma), size, size, dtype=taps.dtype, device=taps.device)
    return out.scatter_add_(2, index.expand(len(sigma), -1, -1), values)


_MATRIX_ELEMENTS = 1 << 20
"""Blur matrices are built for about this many elements at a time."""
_BAND_BLOCK = 32
"""On CPU, wide frames are blurred in stripes of this many lines: a stripe needs only its band of the matrix."""
_BLUR_ELEMENTS = 1 << 19
"""On CPU, about this many pixels go through both products at a time, so that the second finds them in the cache."""


def _stripes(size: int, reach: int) -> list[tuple[int, int, int, int]]:
    """Lines first … last of the result, and low … high of the source that they see."""
    step = _BAND_BLOCK if size > 2 * _BAND_BLOCK else size
    edges = [(first, min(first + step, size)) for first in range(0, size, step)]
    return [(first, last, max(first - reach, 0), min(last + reach, size)) for first, last in edges]


def _blur_clip_(clip: Tensor, across: Tensor, down: Tensor, reach: int) -> None:
    """In-place blur of one contiguous clip (C, T, H, W) with its matrices, on CPU."""
    height, width = clip.shape[-2:]
    planes = clip.view(-1, height, width)
    step = max(1, _BLUR_ELEMENTS // (height * width))
    lines = torch.empty_like(planes[:step])
    across = across.t()
    for start in range(0, len(planes), step):
        part = planes[start : start + step]
        between = lines[: len(part)]
        source, target = part.view(-1, width), between.view(-1, width)
        for first, last, low, high in _stripes(width, reach):
            torch.mm(source[:, low:high], across[low:high, first:last], out=target[:, first:last])
        for first, last, low, high in _stripes(height, reach):
            band = down[first:last, low:high].expand(len(part), -1, -1)
            torch.bmm(band, between[:, low:high], out=part[:, first:last])


def _blur_together_(clips: Tensor, rows: Sequence[int], across: Tensor, down: Tensor) -> None:
    """In-place blur of the clips ``rows`` of (N, C, T, H, W), as two batched products."""
    count, (channels, frames, height, width) = len(rows), clips.shape[1:]
    index = torch.tensor(rows, device=clips.device)
    lines = torch.bmm(clips[index].view(count, -1, width), across.transpose(1, 2))
    blurred = torch.matmul(down[:, None], lines.view(count, channels * frames, height, width))
    clips[index] = blurred.view(count, channels, frames, height, width)


def gaussian_blur_(
    clips: Tensor, sigma: Tensor, radius: int, padding: Padding, *, rows: Sequence[int] | None = None
) -> Tensor:
    """In-place blur of contiguous (N, C, T, H, W), one σ per clip: of all, (N,), or of ``rows``, (len(rows),).

    Two products with banded matrices: exact for every padding, and several times faster on CPU than a depthwise
    convolution, which spends its time outside the multiply units.
    """
    height, width = clips.shape[-2:]
    where = list(range(len(clips))) if rows is None else list(rows)
    sigma = sigma.to(device=clips.device, dtype=clips.dtype, non_blocking=True)
    on_cpu = clips.device.type == "cpu"
    step = max(1, _MATRIX_ELEMENTS // (width * width + height * height)) if on_cpu else max(1, len(where))
    for start in range(0, len(where), step):
        part, some = where[start : start + step], sigma[start : start + step]
        across = blur_matrix(some, width, radius, padding)
        down = across if height == width else blur_matrix(some, height, radius, padding)
        if on_cpu:  # clip by clip, in the cache
            reaches = (blur_taps(some, radius)[:, radius + 1 :] > 0).sum(1).tolist()
            for n, row in enumerate(part):
                _blur_clip_(clips[row], across[n], down[n], reaches[n])
            continue
        _blur_together_(clips, part, across, down)
    return clips


@checked
def gaussian_blur(
    clips: Tensor, sigma: Tensor | float, radius: Amount | None = None, padding: Padding = "zero"
) -> Tensor:
    """Separable Gaussian blur with exact taps.

    Args:
        clips: float (..., C, T, H, W).
        sigma: standard deviation in pixels, (...) per clip or (..., T) per frame; 0 changes nothing.
        radius: taps reach this many pixels to each side; default (size // 10) // 2 of the short side
            (docs/methods/cvrl.md, Augmentation).
        padding: ``zero`` as in CVRL's release (borders darken), ``reflect`` (without the edge pixel), ``edge``.
    Returns: the same shape and dtype. Raises: UsageError for an unknown padding, a negative radius, another shape.
    """
    check_clips(clips, "gaussian_blur")
    height, width = clips.shape[-2:]
    reach = default_blur_radius(height, width) if radius is None else radius
    values = per_frame(sigma, clips, "gaussian_blur")
    if values.shape[1] == 1:
        work = clips.detach().clone(memory_format=torch.contiguous_format).view(-1, *clips.shape[-4:])
        return gaussian_blur_(work, values[:, 0], reach, padding).view(clips.shape)
    frames = clips.transpose(-4, -3)  # every frame is a clip of its own
    work = frames.clone(memory_format=torch.contiguous_format).view(-1, clips.shape[-4], 1, height, width)
    out = gaussian_blur_(work, values.reshape(-1), reach, padding)
    return out.view(frames.shape).transpose(-4, -3).contiguous()


@checked
def affine(clips: Tensor, matrix: Tensor, *, padding: Padding = "zero") -> Tensor:
    """Move pixels by p_out = M p_in + t, in pixels from the frame's centre, x right, y down.

    An output pixel is the bilinear sample of the input at M⁻¹(p_out − t).

    Args:
        clips: float (..., C, T, H, W).
        matrix: [M | t], (..., 2, 3) per clip or (..., T, 2, 3) per frame; t in pixels.
        padding: what lies outside the frame.
    Raises: UsageError for an unknown padding or a matrix of another shape; a singular M raises torch's LinAlgError.
    """
    check_clips(clips, "affine")
    modes = {"zero": "zeros", "reflect": "reflection", "edge": "border"}
    lead, (channels, frames, height, width) = clips.shape[:-4], clips.shape[-4:]
    matrix = matrix.to(clips)
    if matrix.shape[:-2] == lead:
        matrix = matrix.unsqueeze(-3)
    if matrix.shape[:-3] != lead or matrix.shape[-2:] != (2, 3) or matrix.shape[-3] not in (1, frames):
        raise UsageError(
            f"affine: matrix {tuple(matrix.shape)} for clips {tuple(clips.shape)}; expected {(*lead, 2, 3)} "
            f"or {(*lead, frames, 2, 3)}"
        )
    inverse = torch.linalg.inv(matrix[..., :2])
    shift = -(inverse @ matrix[..., 2:])
    # Normalised coordinates n = 2 p / side, so theta = S⁻¹ M⁻¹ S with S = diag(W/2, H/2).
    half = torch.tensor([width / 2, height / 2], dtype=clips.dtype, device=clips.device)
    theta = torch.cat([inverse * half / half[:, None], shift / half[:, None]], -1)
    theta = theta.expand(*lead, frames, 2, 3).reshape(-1, 2, 3)
    flat = clips.transpose(-4, -3).reshape(-1, channels, height, width)
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    out = F.grid_sample(flat, grid, mode="bilinear", padding_mode=modes[padding], align_corners=False)
    return out.view(*lead, frames, channels, height, width).transpose(-4, -3).contiguous()
