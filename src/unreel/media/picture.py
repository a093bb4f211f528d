"""The bytes of a picture to upright RGB pixels, through Pillow and nothing else (docs/decisions/0008.md)."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
import zlib
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from unreel.media.decoder import MediaError, Path, TruncatedError, UnreadableError
from unreel.media.signature import Signature, signature_of

# EXIF orientation -> counterclockwise degrees of its rotation, as VideoInfo counts them; a lone mirror has none.
_DEGREES = {3: 180, 5: 270, 6: 270, 7: 90, 8: 90}
# As video calls it; MPO is cameras' JPEG with more pictures behind the first.
_NAMES = {"JPEG": "mjpeg", "MPO": "mjpeg"}
_CUT = "its data end before the picture does; the file was cut off"
_EOI = b"\xff\xd9"
_STRIP_PIXELS = 1 << 19
# A blank PNG of one bit per pixel has 8,256; a blank page of a fax, in TIFF, eight lines.
_PIXELS_PER_BYTE, _PIXELS_PER_BYTE_OF_TIFF = 10_000, 100_000
_FREE_PIXELS = 1 << 25  # which any file may claim


class Picture(NamedTuple):
    """``pixels`` (H, W, 3) uint8, upright; ``codec``: the format's usual name; ``rotation``: degrees it was turned."""

    pixels: NDArray[np.uint8]
    codec: str
    rotation: int


def open_picture(path: Path, data: bytes, *, max_pixels: int, thorough: bool = False) -> Picture:
    """The first picture of a file.

    Transparency, colour profiles and gamma are left aside; of 16 bits the upper 8 count.

    Args:
        path: for messages.
        data: the whole file.
        max_pixels: a picture that says it is larger is refused before memory is asked for.
        thorough: also find JPEGs that were cut off and closed again, which costs a second decode of some.
    Raises: UnreadableError, TruncatedError.
    """
    found = signature_of(data)
    if not found.format:
        raise UnreadableError(path, _not_a_picture(found))
    try:
        with _OUR_SETTINGS:
            if found.format == "PNG":
                _check_png(data)
            return _decode(data, found, max_pixels, thorough)
    except _Refused as refused:
        raise refused.kind(path, str(refused)) from None
    except MemoryError as error:
        raise UnreadableError(path, f"this is {found.words} too large for the memory that is left") from error
    except Exception as error:  # on broken files Pillow lets through whatever its parsers stumble over
        if _says_cut(error) or (found.format == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)):
            raise TruncatedError(path, _CUT) from error
        raise UnreadableError(
            path, f"this is {found.words} that is damaged, or of a kind that Pillow cannot read ({_cause(error)})"
        ) from error


def is_still(path: Path) -> bool:
    """Whether a file is a picture that does not move, as its header and the marks of its frames tell; none is decoded.

    False for what cannot be opened as a picture.
    """
    try:
        if not os.path.isfile(path):  # opening a pipe may wait for ever
            return False
        with _OUR_SETTINGS, Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    except Exception:
        return False


def _cause(error: Exception) -> str:
    code = (error.__cause__ or error).args[:1]
    if isinstance(error.__cause__ or error, KeyError) and isinstance(code[0], int):
        return f"unknown code {code[0]}"
    if "not identified" in str(error):
        return "its header gives no size or no kind of pixels"
    return str(error) or type(error).__name__


class _Refused(Exception):
    def __init__(self, message: str, kind: type[MediaError] = UnreadableError) -> None:
        self.kind = kind
        super().__init__(message)


class _Settings:
    """Pillow's global settings as pictures are read here, whatever the program set, while any thread is inside.

    No size limit of Pillow's own (ours comes before any memory is taken), no filling in of what is missing, room for
    long texts beside a picture, and none of its warnings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._kept = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
                PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = self._kept
                self._warnings.__exit__(kind, error, at)


_OUR_SETTINGS = _Settings()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python prints its errors where no one set up logging


def _decode(data: bytes, found: Signature, max_pixels: int, thorough: bool) -> Picture:
    with _open(data, found.format) as image:
        _check_size(image.size, len(data), max_pixels, found)
        if found.format == "TIFF":
            _check_tiff(image)
        # Pillow turns a TIFF while it loads it, and only later finds a mark that stands behind a PNG's pixels.
        orientation = _orientation(image) if found.format == "TIFF" else 0
        try:
            image.load()
        except OSError as error:
            if found.format != "JPEG" or not _says_cut(error) or _is_cut(data, len(data)):
                raise
            return _decode(data + _EOI, found, max_pixels, False)
        orientation = orientation or _orientation(image)
        upright = ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
        pixels = _rgb(upright, image, found.words)
        codec = _NAMES.get(str(image.format), str(image.format).lower())
        if getattr(image, "is_animated", False) and codec != "mjpeg":
            codec += " (first of several)"
        unsure = thorough and found.format == "JPEG" and ("progressive" in image.info or _is_flat(pixels))
    if unsure and _is_cut(data, data.rfind(_EOI)):
        raise _Refused(_CUT, TruncatedError)
    return Picture(pixels, codec, _DEGREES.get(orientation, 0))


def _open(data: bytes, format: str) -> ImageFile.ImageFile:
    if format not in Image.OPEN:
        Image.init()
    if format not in Image.OPEN:
        raise UnidentifiedImageError(f"the installed Pillow was built without {format}")
    # Not Image.open, which keeps the cause to itself: "cannot identify image file".
    image: ImageFile.ImageFile = Image.OPEN[format][0](io.BytesIO(data), "")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block leaves the picture alone
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image, stored: Image.Image, words: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of any mode that Pillow reads pictures in."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and stored.format in ("PNG", "PPM")):
        tags = getattr(stored, "tag_v2", {})
        (bits, *_) = tags.get(258, (16,))
        levels = np.asarray(image).astype(np.uint16)
        if tags.get(262) == 0:  # zero is white; Pillow turns this round for 8 bits only
            levels = np.uint16((1 << bits) - 1) - levels
        return np.repeat((levels >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
    if mode in ("I", "F", "LAB"):
        kind = {"I": "integers of 32 bits", "F": "floating-point numbers", "LAB": "CIELab colours"}[mode]
        raise _Refused(f"this is {words} of {kind}, which are not supported; convert it to 8 or 16 bits of RGB")
    image.info.pop("transparency", None)  # left aside, as an alpha channel is
    rgb = image if mode == "RGB" else image.convert("RGB")
    width, height = rgb.size
    if width * height <= _STRIP_PIXELS:
        return np.array(rgb)
    pixels = np.empty((height, width, 3), dtype=np.uint8)  # in strips: Pillow's whole-picture copy takes twice as long
    step = max(1, _STRIP_PIXELS // (4 * width))
    for top in range(0, height, step):
        pixels[top : top + step] = np.asarray(rgb.crop((0, top, width, min(top + step, height))))
    return pixels


def _check_size(size: tuple[int, int], num_bytes: int, max_pixels: int, found: Signature) -> None:
    """Refuses what claims more pixels than are read, or than its bytes can mean: a damaged file may claim any size."""
    claim, pixels = f"this is {found.words} that claims {size[0]}x{size[1]} pixels", size[0] * size[1]
    if pixels > max_pixels:
        raise _Refused(f"{claim}; more than {max_pixels:,} are not read. If it is sound, make a smaller copy")
    per_byte = _PIXELS_PER_BYTE_OF_TIFF if found.format == "TIFF" else _PIXELS_PER_BYTE
    most = max(_FREE_PIXELS, per_byte * num_bytes)
    if pixels > most:
        raise _Refused(
            f"{claim}; from {num_bytes:,} bytes no more than {most:,} are read, since the file is damaged, or made to "
            "fill the memory",
        )


def _check_tiff(image: ImageFile.ImageFile) -> None:
    """Refuses what Pillow would show as something else than was meant, and mends what it would misread."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(254, 0) & 1:  # so begin cameras' raw files
        raise _Refused("this is a TIFF picture that begins with a thumbnail, as a camera's raw file does")
    samples = set(tags.get(339, ())) - {1, 4}  # unsigned, undefined
    if samples:
        raise _Refused(
            f"this is a TIFF picture of {'floating-point' if samples & {3, 6} else 'signed'} samples, which are not "
            "supported, since nothing says which value is white; convert it to 8 or 16 bits of RGB",
        )
    if image.tile[0][0] == "libtiff":  # which is strict itself
        return
    if tags.get(262) == 6 and tuple(tags.get(530, (2, 2))) != (1, 1):  # Pillow takes it for one that is not
        raise _Refused("this is a TIFF picture of subsampled YCbCr without compression, not supported")
    apart = tags.get(284) == 2  # a plane for each channel
    if apart and tags.get(258, (8,))[0] == 16:  # Pillow takes the samples of such planes for 8 bits
        order = "L" if tags.prefix == b"II" else "B"
        image.tile = [tile._replace(args=(f"{tile[3][0]};16{order}", *tile[3][1:])) for tile in image.tile]  # type: ignore[index]
    extents = [tile[1] or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (low - high) for left, high, right, low in extents)
    if covered < image.size[0] * image.size[1] * (tags.get(277, 1) if apart else 1):
        raise _Refused("this is a TIFF picture with strips or tiles for a part of it only", TruncatedError)


def _check_png(data: bytes) -> None:
    """Refuses a PNG with a wrong checksum, which Pillow does not look at where the pixels are."""
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return  # the decoder says whether what is missing matters
        wanted = int.from_bytes(data[end : end + 4], "big")
        if kind in (b"IHDR", b"PLTE", b"IDAT") and zlib.crc32(view[at + 4 : end]) != wanted:
            raise _Refused(f"this is a PNG picture that is damaged (the checksum of its {kind.decode()} is wrong)")
        at = end + 4


def _says_cut(error: Exception) -> bool:
    return "truncated" in str(error).lower() or isinstance(error, EOFError)


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    """Whether one of the picture's corners is of one colour, as where a JPEG's data ended too early."""
    corners = [pixels[rows, columns] for rows in (slice(8), slice(-8, None)) for columns in (slice(8), slice(-8, None))]
    return any((corner == corner[:1, :1]).all() for corner in corners)


def _is_cut(data: bytes, end: int) -> bool:
    """Whether a JPEG's data end (at ``end``) before its pixels do: then what stands behind them shows."""
    if b"\xff\xc9" in data or b"\xff\xca" in data:  # arithmetic coding reads on behind its last pixel
        return False
    shown = []
    kept = data[:end].rstrip(b"\0\xff")  # a download that stopped may leave zeros for the rest
    for filler in (b"", b"\x55" * 64):
        try:
            with _open(kept + filler + _EOI, "JPEG") as image:
                image.load()
                shown.append(np.asarray(image))
        except Exception:
            return True
    return not np.array_equal(shown[0], shown[1])


def _not_a_picture(found: Signature) -> str:
    if found.kind in ("video", "sound"):
        return f"this is {found.words}, not a picture"
    if found.kind == "picture":
        return f"this is {found.words}, which cannot be read; convert it to JPEG or PNG"
    return f"not a readable image ({found.words or 'its first bytes are those of no known format'})"
