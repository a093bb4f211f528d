"""Bytes to tensors with times: video, images, audio."""

from unreel.media.access import (
    decode_whole,
    decoder_for,
    kind_by_content,
    kind_of,
    probe,
    read_clip,
    register_decoder,
)
from unreel.media.audio import AudioDecoder, AudioInfo, Sound
from unreel.media.decoder import (
    Decoder,
    FileDecoder,
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
from unreel.media.frames import FrameFolderDecoder, decode_frames, list_frames, probe_frames, read_frames
from unreel.media.image import FOREIGN_IMAGE_SUFFIXES, IMAGE_SUFFIXES, ImageDecoder, encode_image
from unreel.media.signature import VIDEO_SUFFIXES, suffix_of
from unreel.media.video import PyAVDecoder
from unreel.media.write import has_encoder, write_video

__all__ = [
    "FOREIGN_IMAGE_SUFFIXES",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "AudioDecoder",
    "AudioInfo",
    "Decoder",
    "FileDecoder",
    "FrameFolderDecoder",
    "Frames",
    "ImageDecoder",
    "MediaError",
    "MissingFileError",
    "NoStreamError",
    "PyAVDecoder",
    "ReadTimeoutError",
    "Sound",
    "TooShortError",
    "TruncatedError",
    "UnreadableError",
    "VideoInfo",
    "decode_frames",
    "decode_whole",
    "decoder_for",
    "encode_image",
    "has_encoder",
    "kind_by_content",
    "kind_of",
    "list_frames",
    "probe",
    "probe_frames",
    "read_clip",
    "read_frames",
    "register_decoder",
    "suffix_of",
    "write_video",
]
