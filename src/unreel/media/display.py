"""Decoded frames to what is displayed: RGB, turned, mirrored, and stretched to square pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

# A pixel more than eight times as wide as high, or the reverse, is a mistake in the header.
_MAX_ASPECT = 8
# Tools that scale a video to whole, or even, pixels write what they rounded off as an aspect: 426 x 240 with 640:639.
_ROUNDING = 50  # of one in 50, or one pixel; real ratios start at 16:15
_SideData: Any = SideDataContainer  # whose constructor PyAV's types leave out


class Turn:
    """How a frame is turned for display: FFmpeg's display matrix reduced to its eight orientations."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self.transpose = self.flip_x = self.flip_y = False
        self._read_matrix(frame)
        # Counterclockwise degrees of the rotation part, as FFmpeg counts them; a lone mirror has none.
        if self.transpose:
            self.degrees = 90 if self.flip_y else 270
        else:
            self.degrees = 180 if self.flip_x and self.flip_y else 0

    def _read_matrix(self, frame: av.VideoFrame) -> None:
        try:
            # Not frame.side_data: the frame keeps that, and it keeps the frame. Such frames wait for the garbage
            # collector, and which buffers the decoder writes into, over whose rest, would depend on when it runs.
            data = _SideData(frame).get("DISPLAYMATRIX")
        except ValueError:  # PyAV refuses frames that carry a kind of side data it does not know
            quarter = round(frame.rotation / 90) % 4
            self.transpose = quarter in (1, 3)
            self.flip_x, self.flip_y = quarter in (2, 3), quarter in (1, 2)
            return
        if data is None:
            return
        a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
        if abs(a) + abs(d) < abs(b) + abs(c):
            self.transpose, self.flip_x, self.flip_y = True, c < 0, b < 0
        else:
            self.flip_x, self.flip_y = a < 0, d < 0

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) as stored to (H, W, 3) as displayed; a view."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def display_size(frame: av.VideoFrame, turn: Turn, aspect: Fraction | None) -> tuple[int, int]:
    """Height and width as displayed: pixels made square, then turned.

    Args:
        frame: as decoded.
        turn: how it is turned.
        aspect: width of a stored pixel over its height; None, a ratio that no camera has, or one so near 1 that it is
            left from rounding, counts as 1.

    The side that is too short is stretched and the other is kept, so that no stored detail is lost: a DVD's 720 x 576
    with pixels of 64:45 is shown as 1024 x 576, and 720 x 480 with pixels of 8:9 as 720 x 540.
    """
    height, width = frame.height, frame.width
    if aspect is not None and aspect > 0 and 1 / Fraction(_MAX_ASPECT) <= aspect <= _MAX_ASPECT:
        width, height = _stretched(width, max(aspect, Fraction(1))), _stretched(height, max(1 / aspect, Fraction(1)))
    return (width, height) if turn.transpose else (height, width)


def _stretched(side: int, factor: Fraction) -> int:
    longer = round(side * factor)
    return longer if longer - side > max(1, side // _ROUNDING) else side


class Converter:
    """Decoded frames to displayed RGB, into rows of one output array."""

    def __init__(self, height: int, width: int, num_frames: int) -> None:
        self.pixels = np.empty((num_frames, height, width, 3), dtype=np.uint8)
        self._reformat = VideoReformatter()

    def convert(self, frame: av.VideoFrame, row: int) -> None:
        """Write the frame into a row; whatever its own size, it is scaled to the array's."""
        turn = Turn(frame)
        height, width = self.pixels.shape[1:3]
        if turn.transpose:
            height, width = width, height
        # A stream that changes size midway is scaled to its first size, as players do.
        rgb = self._reformat.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane: Any = rgb.planes[0]
        lines = np.frombuffer(plane, dtype=np.uint8).reshape(height, plane.line_size)
        self.pixels[row] = turn.apply(lines[:, : width * 3].reshape(height, width, 3))
