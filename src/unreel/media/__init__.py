"""Bytes to tensors with times: video, images, audio."""

from unreel.media.decoder import (
    Decoder,
    Frames,
    MediaError,
    MissingFileError,
    NoStreamError,
    ReadTimeoutError,
    TooShortError,
    TruncatedError,
    UnreadableError,
    VideoInfo,
)

__all__ = [
    "Decoder",
    "Frames",
    "MediaError",
    "MissingFileError",
    "NoStreamError",
    "ReadTimeoutError",
    "TooShortError",
    "TruncatedError",
    "UnreadableError",
    "VideoInfo",
]
