"""Data that follows a clip's geometry: masks, soft masks, boxes, points, depth and flow; forward and back.

Everything here works on one clip. Coordinates are continuous (pixel i covers [i, i + 1)), boxes are x1 y1 x2 y2.
Masks and depth are sampled at the nearest pixel, since a value between two classes, or between an object and what is
behind it, does not exist; soft masks and flow are resized like frames. Flow is scaled and mirrored with them; it stays
meaningful only when a clip's frames share one geometry.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.data.batch import Aligned, AlignedKind, ViewParams

_NEAREST = ("mask", "depth")
_LINEAR = ("soft_mask", "flow")
_NAN = float("nan")


def _check(aligned: Aligned, size: tuple[int, int]) -> Tensor:
    data = aligned.data
    ranks = {"mask": 3, "soft_mask": 3, "depth": 3, "boxes": 3, "points": 3, "flow": 4}
    if data.ndim != ranks[aligned.kind]:
        raise UsageError(
            f"aligned {aligned.kind} has shape {tuple(data.shape)}; expected the {ranks[aligned.kind]} axes of one clip"
        )
    if aligned.kind not in ("boxes", "points") and tuple(data.shape[1:3]) != size:
        raise UsageError(
            f"aligned {aligned.kind} is {data.shape[1]} × {data.shape[2]}, its frames are {size[0]} × {size[1]}; "
            "resize it to the frames before it enters the pipeline"
        )
    return data


def _rows(data: Tensor, param: Tensor) -> tuple[Tensor, Tensor]:
    """Give data and parameter the same number of frames, where one of them has a single one."""
    frames = max(len(data), len(param))
    if len(data) not in (1, frames) or len(param) not in (1, frames):
        raise UsageError(f"aligned data has {len(data)} frames, the geometry has {len(param)}")
    return data.expand(frames, *data.shape[1:]), param


def _centers(start: float, stop: float, count: int) -> Tensor:
    """Centres of ``count`` equal cells between two coordinates, in the coordinates' own pixels."""
    return start + (torch.arange(count, dtype=torch.float64) + 0.5) * (stop - start) / count


class _Axis(NamedTuple):
    """Where to sample along one axis, ``scale`` pixels apart, from the pixels between low and high."""

    centers: Tensor
    scale: float
    low: float
    high: float


def _nearest(data: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    row = ys.floor().long().clamp(0, data.shape[1] - 1)
    column = xs.floor().long().clamp(0, data.shape[2] - 1)
    return data[:, row[:, None], column[None, :]]


def _weights(along: _Axis, size: int, antialias: bool) -> Tensor:
    """Triangle filter of half width max(scale, 1) about each centre, over the pixels between low and high."""
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    reach = max(along.scale, 1.0) if antialias else 1.0
    weight = (1 - (pixels - along.centers[:, None]).abs() / reach).clamp_min_(0)
    weight *= ((pixels > along.low) & (pixels < along.high)).to(weight.dtype)
    total = weight.sum(1, keepdim=True)
    # A centre beyond the last pixel's centre, or a box thinner than a pixel: the nearest pixel alone.
    empty = total.squeeze(1) <= 0
    weight[empty, along.centers[empty].floor().long().clamp(0, size - 1)] = 1
    return weight / weight.sum(1, keepdim=True)


def _linear(data: Tensor, wy: Tensor, wx: Tensor) -> Tensor:
    """(T, H, W) or (T, H, W, 2) with row weights (h, H) and column weights (w, W)."""
    wy, wx = wy.to(data.dtype), wx.to(data.dtype)
    return torch.einsum("hy,ty...->th...", wy, torch.einsum("wx,tyx...->tyw...", wx, data))


def _resampled(kind: AlignedKind, data: Tensor, y: _Axis, x: _Axis, *, antialias: bool = True) -> Tensor:
    """Data (T, H, W) or (T, H, W, 2) at other centres."""
    if kind in _NEAREST:
        return _nearest(data, y.centers, x.centers)
    part = _linear(data, _weights(y, data.shape[1], antialias), _weights(x, data.shape[2], antialias))
    return part * part.new_tensor([1 / x.scale, 1 / y.scale]) if kind == "flow" else part


def _drop_empty(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    clipped = torch.minimum(boxes.clamp_min(0), limit)
    gone = (clipped[..., 2] <= clipped[..., 0]) | (clipped[..., 3] <= clipped[..., 1])
    return clipped.masked_fill(gone[..., None], _NAN)


def _drop_outside(points: Tensor, size: tuple[int, int]) -> Tensor:
    limit = torch.tensor([size[1], size[0]], dtype=points.dtype, device=points.device)
    outside = ((points < 0) | (points > limit)).any(-1, keepdim=True)
    return points.masked_fill(outside, _NAN)


def crop_resize(
    aligned: Aligned, box: Tensor, source_size: tuple[int, int], size: tuple[int, int], *, antialias: bool = True
) -> Aligned:
    """Follow the cut of ``box`` (T', 4) out of frames of ``source_size`` and its resize to ``size`` (height, width).

    Boxes are clipped to the crop and become NaN (absent) when nothing is left; points outside become NaN.
    Raises: UsageError when the data do not have the frames' size or number.
    """
    kind = aligned.kind
    data, box = _rows(_check(aligned, source_size), box)
    height, width = size
    if kind in ("boxes", "points"):
        corner, scale = _map(box, size, data)
        moved = (data - corner) * scale
        return Aligned(kind, _drop_empty(moved, size) if kind == "boxes" else _drop_outside(moved, size))
    parts = []
    for index, (x1, y1, x2, y2) in enumerate(box.tolist()):
        chosen = data if len(box) == 1 else data[index : index + 1]
        y = _Axis(_centers(y1, y2, height), (y2 - y1) / height, y1, y2)
        x = _Axis(_centers(x1, x2, width), (x2 - x1) / width, x1, x2)
        parts.append(_resampled(kind, chosen, y, x, antialias=antialias))
    return Aligned(kind, torch.cat(parts))


def uncrop_resize(
    aligned: Aligned,
    box: Tensor,
    source_size: tuple[int, int],
    size: tuple[int, int],
    *,
    fill: float | None = None,
) -> Aligned:
    """The inverse of ``crop_resize``: from a view of ``size`` back into frames of ``source_size``.

    ``fill`` stands outside the crop, where the view knows nothing: 0 by default, NaN for depth.
    """
    kind = aligned.kind
    data, box = _rows(_check(aligned, size), box)
    if kind in ("boxes", "points"):
        corner, scale = _map(box, size, data)
        return Aligned(kind, data / scale + corner)
    if fill is None:
        fill = _NAN if kind == "depth" else 0.0
    out = data.new_full((len(data), *source_size, *data.shape[3:]), fill)
    for index, (x1, y1, x2, y2) in enumerate(box.tolist()):
        frames = slice(None) if len(box) == 1 else slice(index, index + 1)
        # Source pixels whose centre lies in the box, and where those centres are in the view.
        columns = torch.arange(source_size[1], dtype=torch.float64) + 0.5
        rows = torch.arange(source_size[0], dtype=torch.float64) + 0.5
        columns, rows = columns[(columns > x1) & (columns < x2)], rows[(rows > y1) & (rows < y2)]
        if not len(columns) or not len(rows):
            continue
        scale_x, scale_y = size[1] / (x2 - x1), size[0] / (y2 - y1)
        y = _Axis((rows - y1) * scale_y, scale_y, 0.0, float(size[0]))
        x = _Axis((columns - x1) * scale_x, scale_x, 0.0, float(size[1]))
        part = _resampled(kind, data[frames], y, x)
        top, left = int(rows[0]), int(columns[0])
        out[frames, top : top + len(rows), left : left + len(columns)] = part
    return Aligned(kind, out)


def _map(box: Tensor, size: tuple[int, int], data: Tensor) -> tuple[Tensor, Tensor]:
    """Corner and scale of the crop, (T', 1, 2) for points and (T', 1, 4) for boxes."""
    box = box.to(data.dtype)
    corner = box[:, None, :2]
    scale = torch.tensor([size[1], size[0]], dtype=data.dtype) / (box[:, None, 2:] - corner)
    repeats = data.shape[-1] // 2
    return corner.repeat(1, 1, repeats), scale.repeat(1, 1, repeats)


def mirror(aligned: Aligned, flags: Tensor, size: tuple[int, int]) -> Aligned:
    """Mirror left and right where ``flags`` (T',) holds, in frames of ``size``; its own inverse."""
    kind = aligned.kind
    data, flags = _rows(_check(aligned, size), flags)
    width = size[1]
    if kind == "boxes":
        flipped = torch.stack([width - data[..., 2], data[..., 1], width - data[..., 0], data[..., 3]], -1)
    elif kind == "points":
        flipped = torch.stack([width - data[..., 0], data[..., 1]], -1)
    else:
        flipped = data.flip(2)
        if kind == "flow":
            flipped = flipped * flipped.new_tensor([-1.0, 1.0])
    return Aligned(kind, torch.where(flags.bool().view(-1, *[1] * (data.ndim - 1)), flipped, data))


def _geometry(params: ViewParams) -> tuple[Tensor, tuple[int, int], tuple[int, int], Tensor]:
    try:
        box, flip = params["geometry.box"], params["geometry.flip"]
        source, size = params["geometry.source_size"], params["geometry.size"]
    except KeyError as missing:
        raise UsageError(f"these view parameters record no {missing}; they were not drawn by a ViewPlan") from None
    if box.ndim != 2:
        raise UsageError(f"aligned data is moved clip by clip, but the parameters are of a batch {tuple(box.shape)}")
    (h0, w0), (h1, w1) = source[0].tolist(), size[0].tolist()
    return box, (int(h0), int(w0)), (int(h1), int(w1)), flip


def apply_to(kind: AlignedKind, data: Tensor, params: ViewParams, *, antialias: bool = True) -> Tensor:
    """Carry one clip's data from source coordinates into its view: crop, resize, then flip.

    Args:
        kind: of data, with the shapes of ``unreel.data.batch.Aligned``.
        data: in the coordinates of the decoded frames.
        params: as drawn by ``ViewPlan.draw`` for that view (its ``geometry.*`` values are read).
        antialias: as the frames were resized.
    Raises: UsageError when the data do not fit the frames that the parameters were drawn for.
    """
    box, source_size, size, flip = _geometry(params)
    return mirror(crop_resize(Aligned(kind, data), box, source_size, size, antialias=antialias), flip, size).data


def unapply_to(kind: AlignedKind, data: Tensor, params: ViewParams, *, fill: float | None = None) -> Tensor:
    """The inverse of ``apply_to``, to score in source coordinates; ``fill`` as in ``uncrop_resize``."""
    box, source_size, size, flip = _geometry(params)
    return uncrop_resize(mirror(Aligned(kind, data), flip, size), box, source_size, size, fill=fill).data
