"""What a file is by its first bytes, in a few words: for messages, and for the choice of a reader."""

from __future__ import annotations

import os
import stat
from typing import Literal, NamedTuple


class Signature(NamedTuple):
    """``format``: Pillow's name of a picture it reads, else empty. ``words``: what a person calls it, or empty."""

    format: str
    words: str
    kind: Literal["picture", "video", "sound", "other"] = "picture"


VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv"),
        *(".asf", ".flv", ".3gp", ".3g2", ".ogv", ".mxf", ".gif", ".h264", ".264", ".hevc", ".265", ".y4m", ".ivf"),
    }
)
HEAD_BYTES = 1024
_TS_PACKET, _SYNC = 188, b"\x47"


# (where, the bytes there, then the fields of a Signature); the first that fits counts.
_SIGNATURES: tuple[tuple[int, tuple[bytes, ...], str, str, Literal["picture", "video", "sound", "other"]], ...] = (
    (4, (b"moov", b"mdat", b"wide", b"free"), "", "an MP4 or QuickTime video", "video"),
    (0, (b"\x89PNG\r\n\x1a\n",), "PNG", "a PNG picture", "picture"),
    (0, (b"\xff\xd8\xff",), "JPEG", "a JPEG picture", "picture"),
    (0, (b"GIF87a", b"GIF89a"), "GIF", "a GIF picture", "picture"),
    (0, (b"II\xbc\x01",), "", "a JPEG XR picture", "picture"),
    (0, (b"IIU\0", b"IIRO", b"FUJIFILMCCD-RAW"), "", "a camera's raw file", "picture"),
    (0, (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*"), "TIFF", "a TIFF picture", "picture"),
    (0, (b"II+\0", b"MM\0+"), "TIFF", "a BigTIFF picture", "picture"),
    (8, (b"WEBP",), "WEBP", "a WebP picture", "picture"),
    (0, (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "JPEG2000", "a JPEG 2000 picture", "picture"),
    (0, (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "PPM", "a PNM picture", "picture"),
    (0, (b"P7\n",), "", "a PAM picture", "picture"),
    (0, (b"Pf", b"PF"), "", "a PFM picture (floating-point samples)", "picture"),
    (0, (b"\0\0\x01\0\0\0\x01",), "", "an MPEG-4 video", "video"),
    (0, (b"\0\0\x01\0",), "ICO", "an ICO picture", "picture"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "", "a JPEG XL picture", "picture"),
    (0, (b"8BPS",), "", "a Photoshop (PSD) picture", "picture"),
    (0, (b"\x76\x2f\x31\x01",), "", "an OpenEXR picture (floating-point samples)", "picture"),
    (0, (b"#?R",), "", "a Radiance HDR picture (floating-point samples)", "picture"),
    (0, (b"\x1aE\xdf\xa3",), "", "a Matroska or WebM video", "video"),
    (8, (b"AVI ",), "", "an AVI video", "video"),
    (0, (b"\0\0\x01\xba", b"\0\0\x01\xb3"), "", "an MPEG video", "video"),
    (0, (b"FLV\x01",), "", "an FLV video", "video"),
    (0, (b"OggS",), "", "an Ogg video or sound", "video"),
    (0, (b"\x30\x26\xb2\x75",), "", "a Windows Media (ASF) video", "video"),
    (0, (b"YUV4MPEG2",), "", "a YUV4MPEG (y4m) video", "video"),
    (0, (b"\0\0\0\x01",), "", "a raw H.264 or H.265 video", "video"),
    (0, (b"DKIF",), "", "an IVF video", "video"),
    (0, (b"\x06\x0e\x2b\x34",), "", "an MXF video", "video"),
    (8, (b"WAVE",), "", "a WAV sound", "sound"),
    (0, (b"fLaC",), "", "a FLAC sound", "sound"),
    (0, (b"ID3",), "", "an MP3 sound", "sound"),
    (128, (b"DICM",), "", "a DICOM file", "other"),
    (0, (b"%PDF",), "", "a PDF document", "other"),
    (0, (b"%!PS",), "", "a PostScript document", "other"),
    (0, (b"PK\x03\x04",), "", "a ZIP archive", "other"),
    (0, (b"\x1f\x8b",), "", "a gzip archive", "other"),
    (0, (b"version https://git-lfs",), "", "a pointer of Git LFS: the picture itself was never fetched", "other"),
    (0, (b"BM",), "BMP", "a BMP picture", "picture"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def signature_of(data: bytes) -> Signature:
    """What the first bytes (some hundred are enough) say; an empty ``Signature`` where they say nothing."""
    if data[4:8] == b"ftyp":
        size = min(max(int.from_bytes(data[:4], "big"), 16), 256)
        brands = {data[at : at + 4] for at in (8, *range(16, size, 4))}
        if brands & {b"avif", b"avis"}:
            return Signature("AVIF", "an AVIF picture")
        if brands & _HEIF_BRANDS:
            return Signature("", "a HEIC (HEIF) picture")
        if b"crx " in brands:
            return Signature("", "a camera's raw file")
        if data[8:12] in (b"M4A ", b"M4B "):
            return Signature("", "an MPEG-4 sound", "sound")
        return Signature("", "an MP4 or QuickTime video", "video")
    for at, marks, format, words, kind in _SIGNATURES:
        if data.startswith(marks, at):
            return Signature(format, words, kind)
    for at, step in ((0, _TS_PACKET), (4, _TS_PACKET + 4)):  # with a time before each packet, as discs have it
        if all(data[place : place + 1] == _SYNC for place in range(at, at + 4 * step, step)):
            return Signature("", "an MPEG transport stream", "video")
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return Signature("", "a web page, perhaps an error message saved in the picture's place", "other")
    if b"<svg" in start:
        return Signature("", "an SVG drawing")
    if data and not data.strip(b"\0"):
        return Signature("", "a file of zeros", "other")
    return Signature("", "", "other")


def head_of(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file; none of what is no file, such as a folder or a pipe, or cannot be opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe may wait for ever
            return b""
        with open(path, "rb", buffering=0) as stream:
            return stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def suffix_of(path: str | os.PathLike[str]) -> str:
    """A name's suffix in lower case; empty for none, and for digits, which count (1.2.840.10008, take.0001)."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    return "" if suffix[1:].isdigit() else suffix
