"""Any path in, the right decoder out; and the two calls most programs need."""

from __future__ import annotations

import os
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import ArrayLike

from unreel.media.decoder import Decoder, Frames, Path, VideoInfo
from unreel.media.frames import FrameFolderDecoder
from unreel.media.image import IMAGE_SUFFIXES, ImageDecoder
from unreel.media.video import PyAVDecoder

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv"),
        *(".asf", ".flv", ".3gp", ".3g2", ".ogv", ".mxf", ".gif", ".h264", ".264", ".hevc", ".265", ".y4m", ".ivf"),
    }
)


def decoder_for(path: Path) -> Decoder:
    """The decoder of a path, by its kind: a folder of images, an image, or anything else as video."""
    if os.path.isdir(path):
        return FrameFolderDecoder()
    if FilePath(path).suffix.lower() in IMAGE_SUFFIXES:
        return ImageDecoder()
    return PyAVDecoder()


def probe(path: Path) -> VideoInfo:
    """Facts about a video, an image or a folder of frames.

    Raises: MediaError, by cause: MissingFileError, UnreadableError, TruncatedError, NoStreamError, ReadTimeoutError.
    """
    return decoder_for(path).probe(path)


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
