"""Still images as videos of one frame."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from unreel.core.errors import UsageError
from unreel.media.decoder import (
    Frames,
    MissingFileError,
    NoStreamError,
    Path,
    TooShortError,
    TruncatedError,
    UnreadableError,
    VideoInfo,
)
from unreel.media.video import _Converter, _Turn, check_request

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ico"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx"),
    }
)
# Pictures that Pillow alone cannot read: known by name, so that a folder of them is not taken for an empty one.
FOREIGN_IMAGE_SUFFIXES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".exr", ".hdr", ".svg", ".pam"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"),  # cameras' raw files
    }
)


@dataclass(frozen=True)
class ImageDecoder:
    """PNG, JPEG, BMP, TIFF, WebP and PNM through PyAV: one frame at time 0, on screen for ever.

    Args:
        max_bytes: larger files are refused unread; 512 MiB holds any photograph.
    """

    max_bytes: int = 512 * 1024 * 1024

    @property
    def name(self) -> str:
        """``image``."""
        return "image"

    def probe(self, path: Path) -> VideoInfo:
        """Size and codec; ``num_frames`` is 1 and ``fps`` 0. The picture is decoded whole. Raises as ``read``."""
        frame, turn, codec = self._frame(path)
        height, width = turn.size(frame)
        return VideoInfo(
            width=width, height=height, num_frames=1, duration_s=0.0, fps=0.0, codec=codec, rotation=turn.degrees
        )

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        """``[0.0]``, for a file that exists."""
        self._bytes(path)
        return np.zeros(1)

    def read(
        self,
        path: Path,
        *,
        indices: NDArray[np.int64] | None = None,
        times_s: NDArray[np.float64] | None = None,
    ) -> Frames:
        """The image once for every index (0) or time (≥ 0) asked for.

        Raises: MissingFileError, UnreadableError, TruncatedError, NoStreamError; TooShortError for another index or
            a time before 0.
        """
        check_request(indices, times_s)
        asked = np.asarray(indices if indices is not None else times_s)
        outside = (asked != 0) if indices is not None else ~(asked >= 0)
        if outside.any():
            what = "frame {}" if indices is not None else "{} s"
            raise TooShortError(path, f"{what.format(asked[outside][0])} asked for; an image has frame 0 only")
        frame, turn, _ = self._frame(path)
        converter = _Converter(*turn.size(frame), 1)
        try:
            converter.convert(frame, 0, turn)
        except (av.FFmpegError, ValueError) as error:
            raise UnreadableError(path, f"its pixels cannot be converted to RGB ({error})") from error
        return Frames(np.repeat(converter.pixels, len(asked), axis=0), np.zeros(len(asked)))

    def _bytes(self, path: Path) -> bytes:
        name = os.fspath(path)
        try:
            size = os.stat(name).st_size
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

    def _frame(self, path: Path) -> tuple[av.VideoFrame, _Turn, str]:
        data = self._bytes(path)
        # A JPEG whose end is missing would be decoded into a picture with grey for the rest, and without a word. Others
        # are not decoded strictly: many cameras' headers hold mistakes that leave the picture alone.
        unfinished = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
        try:  # from memory: FFmpeg would read "%" in a file name as a pattern of numbered files
            with av.open(io.BytesIO(data), mode="r", metadata_errors="replace") as container:
                if not container.streams.video:
                    raise NoStreamError(path, "it holds no picture")
                stream = container.streams.video[0]
                context = stream.codec_context
                if context is None:
                    raise UnreadableError(path, "the installed FFmpeg has no decoder for it")
                context.thread_type, context.thread_count = "NONE", 1
                if unfinished:
                    context.options = {"err_detect": "explode"}
                for packet in container.demux(stream):
                    for frame in context.decode(packet if packet.size else None):
                        return frame, _Turn(frame, exif_orientation(data)), context.name
        except (av.FFmpegError, ValueError, IndexError, RuntimeError, MemoryError) as error:
            if unfinished:
                raise TruncatedError(path, "its JPEG data end before the picture does; the file was cut off") from error
            raise UnreadableError(
                path, f"not a readable image ({getattr(error, 'strerror', None) or error})"
            ) from error
        raise TruncatedError(path, "the image data ends before the picture")


def is_still(path: Path) -> bool:
    """Whether a file is a picture that does not move, as its header and the marks of its frames tell; none is decoded.

    False for what cannot be opened as a picture.
    """
    try:
        with Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    except Exception:  # Pillow lets through whatever a broken header makes it stumble over
        return False


def exif_orientation(data: bytes) -> int:
    """The orientation (1-8) that a JPEG's EXIF block gives, or 0 without one.

    Read here because PyAV refuses to show the side data of frames that carry EXIF, and its angle forgets mirrors.
    """
    start = data.find(b"Exif\0\0", 0, 1 << 16) if data[:2] == b"\xff\xd8" else -1
    tiff = data[start + 6 :] if start >= 0 else b""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order not in ("little", "big"):
        return 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if order == "little" else "big")

    table = number(4, 4)
    for entry in range(min(number(table, 2), 256)):
        at = table + 2 + 12 * entry
        if number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 0
    return 0


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
