"""The decoder contract: bytes in, frames with presentation times out.

Frames are addressed by presentation time. Every back end returns the same frame for the same address.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UnreelError

Path: TypeAlias = str | PathLike[str]
MediaKind: TypeAlias = Literal["video", "image"]
Indices: TypeAlias = NDArray[np.int64] | None
"""Numbers of frames in presentation order (T,), or None where times are given."""
Times: TypeAlias = NDArray[np.float64] | None
"""Seconds (T,), or None where numbers are given."""


class MediaError(UnreelError):
    """A media file could not be read; ``path`` says which, the subclass says why."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = str(path)
        super().__init__(f"{self.path}: {message}")

    def __reduce__(self) -> tuple[object, ...]:  # errors cross worker boundaries
        return (_rebuild, (type(self), self.path, str(self)))


def _rebuild(kind: type[MediaError], path: str, text: str) -> MediaError:
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.path = path
    return error


class MissingFileError(MediaError):
    """There is no such file."""


class UnreadableError(MediaError):
    """The bytes are not a media file, or the codec cannot decode them."""


class TruncatedError(MediaError):
    """The file ends, or breaks, before the frames asked for."""


class NoStreamError(MediaError):
    """The file has no stream of the kind asked for (an audio file read as video, say)."""


class TooShortError(MediaError):
    """The file has fewer frames, or less time, than asked for."""


class ReadTimeoutError(MediaError):
    """A read passed its bound in packets or seconds."""


@dataclass(frozen=True)
class VideoInfo:
    """What probing a file tells, without decoding it.

    ``num_frames`` counts presentable frames exactly (from packets); ``fps`` is the average rate; ``duration_s`` runs
    from the first frame's start to the last frame's end; width and height are as displayed (rotation applied).
    An image has ``num_frames == 1`` and ``fps == 0``.
    """

    width: int
    height: int
    num_frames: int
    duration_s: float
    fps: float
    codec: str
    start_s: float = 0.0
    rotation: int = 0
    variable_frame_rate: bool = False
    has_audio: bool = False
    audio_rate_hz: int = 0


class Frames(NamedTuple):
    """Decoded frames: ``pixels`` (T, H, W, C) uint8 RGB, ``times_s`` (T,) float64 presentation times."""

    pixels: NDArray[np.uint8]
    times_s: NDArray[np.float64]


@runtime_checkable
class Decoder(Protocol):
    """A back end for one kind of media. Stateless, picklable; every method raises MediaError subclasses only."""

    @property
    def name(self) -> str:
        """Short name for reports and cache keys."""

    def probe(self, path: Path) -> VideoInfo:
        """Facts about the file, without decoding its frames."""

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        """Presentation time of every frame, ascending, in seconds: (num_frames,)."""

    def read(self, path: Path, *, indices: Indices = None, times_s: Times = None) -> Frames:
        """Frames by index in presentation order, or the frames on screen at ``times_s``; exactly one is given.

        Any order and repeats are allowed; the result keeps the order asked for. The frame on screen at t is the last
        one with presentation time ≤ t. Raises TooShortError for an index or a time outside the file.
        """


@runtime_checkable
class FileDecoder(Decoder, Protocol):
    """A decoder that knows its files: it joins the others by ``unreel.media.register_decoder``."""

    @property
    def kind(self) -> MediaKind:
        """What its files are, in a list of a folder's media."""

    @property
    def suffixes(self) -> frozenset[str]:
        """Suffixes of its files' names, in lower case; they decide where several decoders open a file, or none."""

    def opens(self, path: Path, head: bytes) -> bool:
        """Whether a file is for this decoder, by its first bytes (1024, or all); a folder has none."""
