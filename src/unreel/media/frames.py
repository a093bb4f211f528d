"""A list of image files, or a folder of them, as one clip."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.media.decoder import (
    Frames,
    Indices,
    MediaKind,
    MissingFileError,
    NoStreamError,
    Path,
    Times,
    UnreadableError,
    VideoInfo,
)
from unreel.media.image import FOREIGN_IMAGE_SUFFIXES, IMAGE_SUFFIXES, ImageDecoder
from unreel.media.signature import head_of, signature_of, suffix_of
from unreel.media.video import check_request, select_frames

# Image files carry no times; 25 frames per second is only the name given to "one after another".
NOMINAL_FPS = 25.0


def probe_frames(paths: Sequence[Path], *, fps: float = NOMINAL_FPS) -> VideoInfo:
    """Facts of a clip made of image files, from the first of them and their number.

    Raises: UsageError for an empty list or fps ≤ 0; the image decoder's errors for the first file.
    """
    _check(paths, fps)
    first = ImageDecoder().probe(paths[0])
    return replace(first, num_frames=len(paths), duration_s=len(paths) / fps, fps=fps)


def read_frames(
    paths: Sequence[Path], *, indices: Indices = None, times_s: Times = None, fps: float = NOMINAL_FPS
) -> Frames:
    """Frames of a clip made of image files, by index or time; each file is read once.

    Raises: UsageError for an empty list or fps ≤ 0; the image decoder's errors; UnreadableError where sizes differ;
        TooShortError for an index or a time outside the list.
    """
    _check(paths, fps)
    check_request(indices, times_s)
    times = np.arange(len(paths)) / fps
    wanted = select_frames(os.fspath(paths[0]), times, len(paths) / fps, indices=indices, times_s=times_s)
    decoder = ImageDecoder()
    unique, inverse = np.unique(wanted, return_inverse=True)
    images: list[NDArray[np.uint8]] = []
    for i in unique:
        image = decoder.read(paths[i], indices=np.zeros(1, dtype=np.int64)).pixels[0]
        if images and image.shape != images[0].shape:
            raise UnreadableError(
                paths[i],
                f"is {image.shape[1]}x{image.shape[0]} where {os.fspath(paths[unique[0]])} is "
                f"{images[0].shape[1]}x{images[0].shape[0]}; the frames of one clip must be of one size",
            )
        images.append(image)
    if not images:
        first = decoder.probe(paths[0])
        return Frames(np.empty((0, first.height, first.width, 3), dtype=np.uint8), np.empty(0))
    return Frames(np.stack(images)[inverse], times[wanted])


def decode_frames(paths: Sequence[Path]) -> None:
    """Decode every image of a clip, two at a time, and keep none. Raises as ``read_frames``."""
    for i in range(len(paths)):
        read_frames([paths[0], paths[i]], indices=np.arange(2))


def list_frames(folder: Path) -> list[str]:
    """The image files directly in a folder, in natural order (2 before 10); by their content where none has a suffix.

    Raises: MissingFileError where there is no such folder; NoStreamError where it holds no image; UnreadableError where
        two have one name but for the suffix (a frame and its mask, say), since they cannot both be the next frame.
    """
    name = os.fspath(folder)
    try:
        names = [e.name for e in os.scandir(name) if e.is_file() and not e.name.startswith(".")]
    except FileNotFoundError:
        raise MissingFileError(name, "there is no such folder") from None
    except OSError as error:
        raise UnreadableError(name, f"cannot be listed: {error.strerror}") from None
    images = sorted((n for n in names if suffix_of(n) in IMAGE_SUFFIXES), key=_natural)
    if not images:
        bare = [n for n in names if not suffix_of(n)]
        images = sorted((n for n in bare if signature_of(head_of(os.path.join(name, n))).format), key=_natural)
    if not images:
        foreign = sum(suffix_of(n) in FOREIGN_IMAGE_SUFFIXES for n in names)
        more = f", {foreign} of them pictures in formats that cannot be read" if foreign else ""
        raise NoStreamError(name, f"no image file directly in this folder ({len(names)} other files{more})")
    by_stem: dict[str, str] = {}
    for image in images:
        first = by_stem.setdefault(image[: len(image) - len(suffix_of(image))], image)
        if first != image:
            raise UnreadableError(
                name, f"holds both {first} and {image}; keep the frames of a clip in a folder of their own"
            )
    return [os.path.join(name, n) for n in images]


@dataclass(frozen=True)
class FrameFolderDecoder:
    """A folder of numbered images as a video.

    Args:
        fps: frames per second to number the images with; image files have no times of their own.
    """

    fps: float = NOMINAL_FPS

    name: ClassVar[str] = "frame-folder"
    kind: ClassVar[MediaKind] = "video"
    suffixes: ClassVar[frozenset[str]] = frozenset()
    """None: a folder may be called anything."""

    def opens(self, path: Path, head: bytes) -> bool:
        """Whether it is a folder."""
        return not head and os.path.isdir(path)

    def probe(self, path: Path) -> VideoInfo:
        """Facts from the first image and their number. Raises as ``read``."""
        return probe_frames(list_frames(path), fps=self.fps)

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        return np.arange(len(list_frames(path))) / self.fps

    def read(self, path: Path, *, indices: Indices = None, times_s: Times = None) -> Frames:
        """Frames by index or time; see ``read_frames`` and ``list_frames`` for what is raised."""
        return read_frames(list_frames(path), indices=indices, times_s=times_s, fps=self.fps)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _check(paths: Sequence[Path], fps: float) -> None:
    if not len(paths):
        raise UsageError("a clip of image files needs at least one file")
    if not fps > 0:
        raise UsageError(f"fps must be positive, got {fps}")
