"""Still images as videos of one frame."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.media.decoder import (
    Frames,
    Indices,
    MediaKind,
    MissingFileError,
    Path,
    Times,
    TooShortError,
    TruncatedError,
    UnreadableError,
    VideoInfo,
)
from unreel.media.picture import open_picture
from unreel.media.signature import signature_of
from unreel.media.video import check_request

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ico"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx"),
    }
)
# Pictures that Pillow alone cannot read: known by name, so that a folder of them is not taken for an empty one.
FOREIGN_IMAGE_SUFFIXES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"),  # cameras' raw files
    }
)


@dataclass(frozen=True)
class ImageDecoder:
    """Still pictures as Pillow reads them, upright: one frame at time 0, on screen for ever.

    The content decides on the format, not the suffix. Of an animation, or a file of several pages, the first picture is
    taken, and ``codec`` says so.

    Args:
        max_bytes: larger files are refused unread; 512 MiB holds any photograph.
        max_pixels: pictures that say they are larger are refused unread; 2^29 hold 23,170 x 23,170, in 4 GiB of memory.
    """

    max_bytes: int = 512 * 1024 * 1024
    max_pixels: int = 512 * 1024 * 1024

    name: ClassVar[str] = "image"
    kind: ClassVar[MediaKind] = "image"
    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES | FOREIGN_IMAGE_SUFFIXES
    """Suffixes of what it reads, and of what it refuses by name."""

    def opens(self, path: Path, head: bytes) -> bool:
        """Whether it begins as a picture that Pillow reads."""
        return bool(signature_of(head).format)

    def probe(self, path: Path) -> VideoInfo:
        """Size and codec; ``num_frames`` is 1 and ``fps`` 0. The picture is decoded whole. Raises as ``read``."""
        pixels, codec, turn = open_picture(path, self._bytes(path), max_pixels=self.max_pixels, thorough=True)
        height, width = pixels.shape[:2]
        return VideoInfo(width, height, num_frames=1, duration_s=0.0, fps=0.0, codec=codec, rotation=turn)

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        """``[0.0]``, for a file that exists."""
        self._bytes(path)
        return np.zeros(1)

    def read(self, path: Path, *, indices: Indices = None, times_s: Times = None) -> Frames:
        """The image once for every index (0) or time (≥ 0) asked for.

        Raises: MissingFileError, UnreadableError, TruncatedError; TooShortError for another index or a time before 0.
        """
        check_request(indices, times_s)
        asked = np.asarray(indices if indices is not None else times_s)
        outside = (asked != 0) if indices is not None else ~(asked >= 0)
        if outside.any():
            what = "frame {}" if indices is not None else "{} s"
            raise TooShortError(path, f"{what.format(asked[outside][0])} asked for; an image has frame 0 only")
        pixels = open_picture(path, self._bytes(path), max_pixels=self.max_pixels).pixels[None]
        return Frames(pixels if len(asked) == 1 else np.repeat(pixels, len(asked), axis=0), np.zeros(len(asked)))

    def _bytes(self, path: Path) -> bytes:
        name = os.fspath(path)
        try:
            facts = os.stat(name)
            if stat.S_ISFIFO(facts.st_mode) or stat.S_ISCHR(facts.st_mode):  # reading may wait for ever
                raise UnreadableError(name, "is a pipe or a device, not a file")
            size = facts.st_size
            if size > self.max_bytes:
                raise UnreadableError(name, f"{size} bytes are more than an image may have ({self.max_bytes})")
            with open(name, "rb") as stream:
                data = stream.read()
        except FileNotFoundError:
            raise MissingFileError(name, "there is no such file") from None
        except OSError as error:
            raise UnreadableError(name, f"cannot be opened: {error.strerror}") from None
        if not data:
            raise TruncatedError(name, "the file is empty (0 bytes)")
        return data


def encode_image(pixels: NDArray[np.uint8], *, format: Literal["png", "jpeg"] = "png", quality: int = 3) -> bytes:
    """An (H, W, 3) uint8 RGB image as the bytes of a PNG or JPEG file; (H, W) makes a grey PNG.

    Args:
        pixels: the image, at least 1 x 1.
        format: png keeps every value; jpeg is small.
        quality: of JPEG, from 2 (best) to 31.

    Raises: UsageError for another shape, type or format.
    """
    image = np.ascontiguousarray(pixels)
    grey = image.ndim == 2 and format == "png"
    if not (grey or image.shape[2:] == (3,)) or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(
            f"an image is (H, W, 3) uint8, or (H, W) for a PNG, and not empty, got {image.shape} {image.dtype}"
        )
    codecs = {"png": ("png", "rgb24"), "jpeg": ("mjpeg", "yuvj444p")}
    if format not in codecs:
        raise UsageError(f"format must be 'png' or 'jpeg', got {format!r}")
    codec, pixel_format = ("png", "gray") if grey else codecs[format]
    if format == "jpeg" and max(image.shape) > 65_535:
        raise UsageError(f"a JPEG has at most 65,535 pixels a side, got {image.shape[1]}x{image.shape[0]}")
    context = cast(av.VideoCodecContext, av.CodecContext.create(codec, "w"))
    context.height, context.width = image.shape[:2]
    context.pix_fmt, context.time_base, context.thread_count = pixel_format, Fraction(1, 1), 1
    if format == "jpeg":
        context.options = {"qmin": str(quality), "qmax": str(quality)}
    frame = av.VideoFrame.from_ndarray(image, format="gray" if grey else "rgb24")
    if not grey:
        frame = VideoReformatter().reformat(frame, format=pixel_format, dst_color_range=2, threads=1)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
