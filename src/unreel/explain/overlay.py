"""Maps and boxes over frames, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from unreel.core.errors import UsageError
from unreel.data.contracts import LUMA
from unreel.data.dataset import resize_frames

COLOURS: tuple[tuple[int, int, int], ...] = (
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
    (213, 94, 0),
)
"""Colours of objects, one after the other. Colour-blind people tell them apart, too (Okabe and Ito 2008)."""

# The part of a colour map in use: its ends are nearly black and nearly white, which hides the picture and says nothing.
_LOWEST, _HIGHEST = 80, 235
_OUTLINE = (16, 16, 20)


@cache
def _table() -> NDArray[np.float32]:
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.arange(256))[:, :3] * 255, dtype=np.float32)


def fit(frames: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) uint8 made smaller, where needed, so that no side is longer than this."""
    height, width = frames.shape[1:3]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return frames
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.ascontiguousarray(resize_frames(torch.from_numpy(np.ascontiguousarray(frames)), *size).numpy())


def heat(frames: NDArray[np.uint8], maps: ArrayLike, *, strength: float = 0.65) -> NDArray[np.uint8]:
    """Maps over frames as colour: what the map leaves at 0 looks as it is, though grey and a little darker.

    Args:
        frames: (T, H, W, 3) uint8.
        maps: (T, h, w) in [0, 1], resized to the frames.
        strength: share of the colour where the map is 1.
    Returns: (T, H, W, 3) uint8.
    """
    count, height, width = frames.shape[:3]
    levels = torch.from_numpy(np.asarray(maps, dtype=np.float32))[:, None]
    if len(levels) != count:
        raise UsageError(f"{count} frames and {len(levels)} maps; there must be as many")
    resized = functional.interpolate(levels, size=(height, width), mode="bilinear", align_corners=False)
    level = resized.clamp(0, 1)[:, 0].numpy()
    table = _table()
    tint = table[(_LOWEST + level * (_HIGHEST - _LOWEST)).astype(np.int64)]
    picture = frames.astype(np.float32)
    grey = (picture @ np.array(LUMA, dtype=np.float32))[..., None]
    base = 0.85 * (0.45 * picture + 0.55 * grey)
    share = (strength * level)[..., None]
    # Where the object is, its own colours stay under the heat.
    base = base + level[..., None] * (picture - base)
    return np.asarray(((1 - share) * base + share * tint).round().clip(0, 255), dtype=np.uint8)


def draw_boxes(
    frame: NDArray[np.uint8], boxes: ArrayLike, *, colours: Sequence[tuple[int, int, int]] = COLOURS
) -> NDArray[np.uint8]:
    """A frame (H, W, 3) with outlines of boxes (N, 4), shares of it; the i-th in the i-th colour, in turn."""
    drawn = frame.copy()
    height, width = frame.shape[:2]
    line = max(1, round(min(height, width) / 120))
    for number, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, dtype=np.float64).reshape(-1, 4)):
        corners = (round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height))
        _outline(drawn, corners, line + 1, _OUTLINE)
        inner = (corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1) if line > 1 else corners
        _outline(drawn, inner, line, colours[number % len(colours)])
    return drawn


def _outline(frame: NDArray[np.uint8], corners: tuple[int, int, int, int], line: int, colour: tuple[int, ...]) -> None:
    height, width = frame.shape[:2]
    left, top = max(0, corners[0]), max(0, corners[1])
    right, bottom = min(width, corners[2]), min(height, corners[3])
    if right <= left or bottom <= top:
        return
    inside = frame[top:bottom, left:right]
    inside[:line] = inside[-line:] = colour
    inside[:, :line] = inside[:, -line:] = colour


def enlarge(frames: NDArray[np.uint8], shortest_px: int, longest_px: int = 640) -> NDArray[np.uint8]:
    """Tiny frames (T, H, W, 3) shown larger, pixel by pixel.

    The factor is the least whole one that reaches the short side, or the most that keeps within the long one.
    """
    short, long = sorted(frames.shape[1:3])
    factor = max(1, min(-(-shortest_px // short), longest_px // long))
    return frames.repeat(factor, 1).repeat(factor, 2) if factor > 1 else frames


def widen(frames: NDArray[np.uint8], most: int = 4) -> NDArray[np.uint8]:
    """Very narrow frames (T, H, W, 3) with grey beside them, so that no side is over ``most`` times the other."""
    height, width = frames.shape[1:3]
    up, left = (max(0, -(-other // most) - side) for side, other in ((height, width), (width, height)))
    if not (up or left):
        return frames
    around = ((0, 0), (up // 2, up - up // 2), (left // 2, left - left // 2), (0, 0))
    return np.pad(frames, around, constant_values=127)


def colour_bar(stops: int = 12) -> list[str]:
    """CSS colours of the map from low to high, as ``heat`` tints with them."""
    table = _table()[np.linspace(_LOWEST, _HIGHEST, stops).astype(int)]
    return [f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in table]
