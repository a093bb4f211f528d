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


# (where, the bytes there, what it is); the first that fits counts.
_SIGNATURES: tuple[tuple[int, bytes, Signature], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Signature("PNG", "a PNG picture")),
    (0, b"\xff\xd8\xff", Signature("JPEG", "a JPEG picture")),
    (0, b"GIF87a", Signature("GIF", "a GIF picture")),
    (0, b"GIF89a", Signature("GIF", "a GIF picture")),
    (0, b"II\xbc\x01", Signature("", "a JPEG XR picture")),
    (0, b"IIU\0", Signature("", "a camera's raw file")),
    (0, b"IIRO", Signature("", "a camera's raw file")),
    (0, b"FUJIFILMCCD-RAW", Signature("", "a camera's raw file")),
    *((0, order, Signature("TIFF", "a TIFF picture")) for order in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*")),
    *((0, order, Signature("TIFF", "a BigTIFF picture")) for order in (b"II+\0", b"MM\0+")),
    (8, b"WEBP", Signature("WEBP", "a WebP picture")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Signature("JPEG2000", "a JPEG 2000 picture")),
    (0, b"\xff\x4f\xff\x51", Signature("JPEG2000", "a JPEG 2000 picture")),
    *((0, b"P%d" % kind, Signature("PPM", "a PNM picture")) for kind in range(1, 7)),
    (0, b"P7\n", Signature("", "a PAM picture")),
    (0, b"Pf", Signature("", "a PFM picture (floating-point samples)")),
    (0, b"PF", Signature("", "a PFM picture (floating-point samples)")),
    (0, b"\0\0\x01\0\0\0\x01", Signature("", "an MPEG-4 video", "video")),
    (0, b"\0\0\x01\0", Signature("ICO", "an ICO picture")),
    (0, b"\xff\x0a", Signature("", "a JPEG XL picture")),
    (0, b"\0\0\0\x0cJXL ", Signature("", "a JPEG XL picture")),
    (0, b"8BPS", Signature("", "a Photoshop (PSD) picture")),
    (0, b"\x76\x2f\x31\x01", Signature("", "an OpenEXR picture (floating-point samples)")),
    (0, b"#?R", Signature("", "a Radiance HDR picture (floating-point samples)")),
    (0, b"\x1aE\xdf\xa3", Signature("", "a Matroska or WebM video", "video")),
    (8, b"AVI ", Signature("", "an AVI video", "video")),
    (0, b"\0\0\x01\xba", Signature("", "an MPEG video", "video")),
    (0, b"\0\0\x01\xb3", Signature("", "an MPEG video", "video")),
    (0, b"FLV\x01", Signature("", "an FLV video", "video")),
    (0, b"OggS", Signature("", "an Ogg video or sound", "video")),
    (0, b"\x30\x26\xb2\x75", Signature("", "a Windows Media (ASF) video", "video")),
    (0, b"YUV4MPEG2", Signature("", "a YUV4MPEG (y4m) video", "video")),
    (0, b"\0\0\0\x01", Signature("", "a raw H.264 or H.265 video", "video")),
    (0, b"DKIF", Signature("", "an IVF video", "video")),
    (0, b"\x06\x0e\x2b\x34", Signature("", "an MXF video", "video")),
    (8, b"WAVE", Signature("", "a WAV sound", "sound")),
    (0, b"fLaC", Signature("", "a FLAC sound", "sound")),
    (0, b"ID3", Signature("", "an MP3 sound", "sound")),
    (128, b"DICM", Signature("", "a DICOM file", "other")),
    (0, b"%PDF", Signature("", "a PDF document", "other")),
    (0, b"%!PS", Signature("", "a PostScript document", "other")),
    (0, b"PK\x03\x04", Signature("", "a ZIP archive", "other")),
    (0, b"\x1f\x8b", Signature("", "a gzip archive", "other")),
    (
        0,
        b"version https://git-lfs",
        Signature("", "a pointer of Git LFS: the picture itself was never fetched", "other"),
    ),
    (0, b"BM", Signature("BMP", "a BMP picture")),
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
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return Signature("", "an MP4 or QuickTime video", "video")
    for at, mark, signature in _SIGNATURES:
        if data[at : at + len(mark)] == mark:
            return signature
    for at, step in ((0, _TS_PACKET), (4, _TS_PACKET + 4)):  # with a time before each packet, as discs have it
        marks = [data[place : place + 1] for place in range(at, at + 4 * step, step)]
        if all(mark == _SYNC for mark in marks):
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
