"""Any path in, the right decoder out; and the two calls most programs need."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from unreel.media.decoder import FileDecoder, Frames, Path, VideoInfo
from unreel.media.frames import FrameFolderDecoder, decode_frames, list_frames
from unreel.media.image import FOREIGN_IMAGE_SUFFIXES, ImageDecoder
from unreel.media.picture import is_still
from unreel.media.signature import head_of, signature_of, suffix_of
from unreel.media.video import PyAVDecoder

_WHOLE_SECONDS = 3600.0  # for a video of hours

_DECODERS: list[FileDecoder] = [PyAVDecoder(), ImageDecoder(), FrameFolderDecoder()]


def register_decoder(decoder: FileDecoder) -> None:
    """Read what this decoder opens, from now on; ahead of the others where a file is for several, whatever its name.

    To be called where a module is imported, so that workers know it too. Raises: ValueError for a name that is taken.
    """
    if decoder.name in (known.name for known in _DECODERS):
        raise ValueError(f"decoder {decoder.name!r} is registered twice")
    _DECODERS.insert(0, decoder)


def decoder_for(path: Path) -> FileDecoder:
    """The decoder of a file or folder: the one that opens its content; where several do, or none, its suffix decides.

    What nothing knows is read as a video, which FFmpeg tells from more than the beginning.
    """
    head, suffix = head_of(path), suffix_of(path)
    able = [decoder for decoder in _DECODERS if decoder.opens(path, head)]
    named = [decoder for decoder in able or _DECODERS if suffix in decoder.suffixes]
    return (named or able or [PyAVDecoder()])[0]


def kind_of(path: Path, *, by_name: bool = False) -> Literal["video", "image", "foreign", ""]:
    """What a file is; ``foreign`` for a picture that cannot be read, empty for what is no media.

    A known suffix is believed, but for GIFs: one with a single frame is an image, every other a video. A file without a
    suffix is known by its content, unless ``by_name``. Nothing is decoded.
    """
    suffix = suffix_of(path)
    if suffix == ".gif":
        return "image" if is_still(path) else "video"
    if suffix in FOREIGN_IMAGE_SUFFIXES:
        return "foreign"
    if not suffix and not by_name:
        return kind_by_content(path)
    return next((decoder.kind for decoder in _DECODERS if suffix in decoder.suffixes), "")


def kind_by_content(path: Path) -> Literal["video", "image", "foreign", ""]:
    """What a file is by its first bytes alone, in the words of ``kind_of``."""
    head = head_of(path)
    found = signature_of(head)
    if found.format == "GIF":
        return "image" if is_still(path) else "video"
    able = next((decoder for decoder in _DECODERS if decoder.opens(path, head)), None)
    if able is not None and head:
        return able.kind
    return "foreign" if found.kind == "picture" and found.words else ""


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
