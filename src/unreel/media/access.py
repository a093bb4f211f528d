"""Any path in, the right decoder out; and the two calls most programs need."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from unreel.media.decoder import Decoder, Frames, Path, VideoInfo
from unreel.media.frames import FrameFolderDecoder, decode_frames, list_frames
from unreel.media.image import FOREIGN_IMAGE_SUFFIXES, IMAGE_SUFFIXES, ImageDecoder
from unreel.media.picture import is_still
from unreel.media.video import PyAVDecoder

_WHOLE_SECONDS = 3600.0  # for a video of hours

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv"),
        *(".asf", ".flv", ".3gp", ".3g2", ".ogv", ".mxf", ".gif", ".h264", ".264", ".hevc", ".265", ".y4m", ".ivf"),
    }
)


def kind_of(path: Path) -> Literal["video", "image", "foreign", ""]:
    """What a file is, by its suffix; ``foreign`` for a picture that cannot be read, empty for what is no media.

    Only GIFs are opened, without being decoded: one with a single frame is an image, every other a video.
    """
    suffix = FilePath(path).suffix.lower()
    if suffix == ".gif":
        return "image" if is_still(path) else "video"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "foreign" if suffix in FOREIGN_IMAGE_SUFFIXES else ""


def decoder_for(path: Path) -> Decoder:
    """The decoder of a path, by its suffix: a folder of images, an image, or anything else as video, GIFs too."""
    if os.path.isdir(path):
        return FrameFolderDecoder()
    picture = FilePath(path).suffix.lower() in IMAGE_SUFFIXES | FOREIGN_IMAGE_SUFFIXES
    return ImageDecoder() if picture else PyAVDecoder()


def probe(path: Path) -> VideoInfo:
    """Facts about a video, an image or a folder of frames.

    Raises: MediaError, by cause: MissingFileError, UnreadableError, TruncatedError, NoStreamError, ReadTimeoutError.
    """
    return decoder_for(path).probe(path)


def decode_whole(path: Path) -> None:
    """Decode every frame of a video, an image or a folder of frames, and keep none: what is damaged anywhere raises.

    Raises: as ``probe``, and TruncatedError where a frame is listed but cannot be decoded.
    """
    decoder = decoder_for(path)
    if isinstance(decoder, PyAVDecoder):
        replace(decoder, max_seconds=_WHOLE_SECONDS).decode_whole(path)
    elif isinstance(decoder, FrameFolderDecoder):
        decode_frames(list_frames(path))
    else:
        decoder.probe(path)


def read_clip(path: Path, *, indices: ArrayLike | None = None, times_s: ArrayLike | None = None) -> Frames:
    """Frames of a video, an image or a folder of frames: ``pixels`` (T, H, W, 3) uint8 RGB, ``times_s`` (T,).

    Args:
        path: the file or folder.
        indices: frame numbers in presentation order, any order, repeats allowed.
        times_s: seconds; each gives the frame on screen then. With neither, the whole file is read.

    Raises: MediaError by cause; TooShortError for an index or time outside; UsageError when both are given.
    """
    decoder = decoder_for(path)
    if indices is None and times_s is None:
        indices = np.arange(decoder.probe(path).num_frames)
    return decoder.read(
        path,
        indices=None if indices is None else np.asarray(indices),
        times_s=None if times_s is None else np.asarray(times_s, dtype=np.float64),
    )
