"""Pictures of every kind: Pillow's pixels, upright, or a cause that says what the file is."""

from __future__ import annotations

import base64
import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from tests.media.pictures import colours, encoded, png, tiff, turned
from unreel.media import (
    FOREIGN_IMAGE_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ImageDecoder,
    MediaError,
    TruncatedError,
    UnreadableError,
    decoder_for,
    read_clip,
)
from unreel.media.picture import open_picture

RGB = colours()
GREY = RGB[..., 1].copy()
DEEP = np.random.default_rng(1).integers(0, 1 << 16, GREY.shape, dtype=np.uint16)
DEEP_RGB = np.random.default_rng(2).integers(0, 1 << 16, RGB.shape, dtype=np.uint16)
# 8 x 8 pixels of grey 100, arithmetically coded.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/yQALCAAIAAgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wBG/9k="
)


def pixels_of(data: bytes, **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return open_picture("x", data, max_pixels=1 << 20, **options).pixels


def grey_as_rgb(levels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(levels[..., None], 3, axis=-1)


LOSSLESS = {
    "png": ("PNG", {}),
    "interlaced": ("PNG", {"interlace": 1}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jpeg 2000": ("JPEG2000", {}),
    "code stream": ("JPEG2000", {"no_jp2": True}),
    "ico": ("ICO", {"sizes": [(56, 40)]}),
    "tiff": ("TIFF", {}),
    "big tiff": ("TIFF", {"big_tiff": True}),
    **{c: ("TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")},
}
LOSSY = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "avif": ("AVIF", {}),
    "jpeg in tiff": ("TIFF", {"compression": "jpeg"}),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_is_stored_whole_is_read_whole(kind: str) -> None:
    format, options = LOSSLESS[kind]
    np.testing.assert_array_equal(pixels_of(encoded(RGB, format, **options)), RGB)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_pictures_are_pillows(kind: str, tmp_path: Path) -> None:
    format, options = LOSSY[kind]
    path = tmp_path / "x"
    path.write_bytes(encoded(RGB, format, **options))
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels_of(path.read_bytes()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_ccitt"])
def test_pictures_of_one_bit(compression: str) -> None:
    image = Image.fromarray(GREY > 127)
    expected = grey_as_rgb(np.where(GREY > 127, 255, 0))
    np.testing.assert_array_equal(pixels_of(encoded(image, "TIFF", compression=compression)), expected)
    np.testing.assert_array_equal(pixels_of(encoded(image, "PNG")), expected)
    np.testing.assert_array_equal(pixels_of(encoded(image, "PPM")), expected)


SIXTEEN_BITS = {
    "png": png(DEEP),
    "png with transparency": png(np.stack([DEEP, DEEP.T.reshape(DEEP.shape)], -1)),
    "pgm": b"P5\n56 40\n65535\n" + DEEP.astype(">u2").tobytes(),
    "jpeg 2000": encoded(DEEP, "JPEG2000"),
    "tiff": tiff(DEEP),
    "big-endian tiff": tiff(DEEP, order=">"),
    "lzw tiff": encoded(DEEP, "TIFF", compression="tiff_lzw"),
    "tiff where zero is white": tiff(np.uint16(65535) - DEEP, t262=0),
}


@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_of_sixteen_bits_the_upper_eight_count(kind: str) -> None:
    np.testing.assert_array_equal(pixels_of(SIXTEEN_BITS[kind]), grey_as_rgb(DEEP >> 8))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
def test_colours_of_sixteen_bits(order: str, planes: bool) -> None:
    """Where each channel has its plane, Pillow by itself takes the bytes of 16-bit samples for 8-bit samples."""
    np.testing.assert_array_equal(pixels_of(tiff(DEEP_RGB, order=order, planes=planes)), DEEP_RGB >> 8)
    np.testing.assert_array_equal(pixels_of(tiff(RGB, order=order, planes=planes)), RGB)
    np.testing.assert_array_equal(pixels_of(png(DEEP_RGB)), DEEP_RGB >> 8)


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow reads this kind since 13, refuses it before"
)
def test_colours_as_luma_and_chroma() -> None:
    stored = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    assert np.abs(pixels_of(tiff(stored, t262=6, t530=(1, 1))).astype(int) - RGB).max() <= 3


def test_depths_between() -> None:
    twelve = (DEEP >> 4).astype(np.uint16)
    a, b = twelve[:, ::2].astype(int), twelve[:, 1::2].astype(int)
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).reshape(len(a), -1)
    file = tiff(packed, t256=GREY.shape[1], t258=12)
    np.testing.assert_array_equal(pixels_of(file), grey_as_rgb(twelve >> 4))
    ten = b"P5\n56 40\n1023\n" + (DEEP >> 6).astype(">u2").tobytes()
    assert np.abs(pixels_of(ten)[..., 0].astype(int) - (DEEP >> 8)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "deep PNG", "deep TIFF", "LZW"])
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    stored = DEEP if kind.startswith("deep") else RGB
    format = kind.removeprefix("deep ").replace("LZW", "TIFF")
    options = {"WEBP": {"lossless": True}, "LZW": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(stored, format, exif=turned(orientation), **options)
    plain = pixels_of(encoded(stored, format, **options))
    flat = Image.fromarray(plain)
    flat.getexif()[0x0112] = orientation
    picture = open_picture("x", data, max_pixels=1 << 20)
    np.testing.assert_array_equal(picture.pixels, np.asarray(ImageOps.exif_transpose(flat)))
    assert picture.rotation == {3: 180, 5: 270, 6: 270, 7: 90, 8: 90}.get(orientation, 0)


def test_a_broken_exif_block_leaves_the_picture_alone() -> None:
    for block in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM", b"Exif\0\0" + b"\xff" * 40):
        np.testing.assert_array_equal(pixels_of(encoded(RGB, "PNG", exif=block)), RGB)


def test_transparency_is_left_aside() -> None:
    """The colours under it are what is stored; whether they were meant to be seen before white is nobody's to say."""
    alpha = Image.fromarray(np.flipud(GREY))
    image, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    for format in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        file = encoded(Image.merge("RGBA", (*image.split(), alpha)), format, **options)
        np.testing.assert_array_equal(pixels_of(file), RGB)
    np.testing.assert_array_equal(pixels_of(encoded(Image.merge("LA", (grey, alpha)), "PNG")), grey_as_rgb(GREY))
    np.testing.assert_array_equal(pixels_of(encoded(image, "PNG", transparency=tuple(RGB[0, 0].tolist()))), RGB)
    few = image.quantize(16)
    np.testing.assert_array_equal(
        pixels_of(encoded(few, "PNG", transparency=bytes(range(0, 256, 16)))), np.asarray(few.convert("RGB"))
    )


def test_inks_are_turned_into_colours_once() -> None:
    """Adobe's programs store inks inverted and say so in a mark that Pillow writes and heeds."""
    inks = Image.fromarray(RGB).convert("CMYK")
    for file in (encoded(inks, "JPEG", quality=100, subsampling=0), encoded(inks, "TIFF")):
        assert np.abs(pixels_of(file).astype(int) - RGB).max() <= 4


@pytest.mark.parametrize(
    ("file", "first"),
    [
        (encoded(RGB, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "png"),
        (encoded(RGB, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "webp"),
        (encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "tiff"),
    ],
)
def test_of_several_pictures_the_first_is_read_and_that_is_said(tmp_path: Path, file: bytes, first: str) -> None:
    picture = open_picture("x", file, max_pixels=1 << 20)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.codec == f"{first} (first of several)"


ALL = {**LOSSLESS, **{f"lossy {k}": v for k, v in LOSSY.items()}, "gif": ("GIF", {})}


@pytest.mark.parametrize("kind", ALL)
def test_no_half_picture(kind: str, tmp_path: Path) -> None:
    format, options = ALL[kind]
    noise = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    whole, path = encoded(noise, format, **options), tmp_path / "cut.png"
    for share in (0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        for call in (read_clip, decoder_for(path).probe):
            with pytest.raises((TruncatedError, UnreadableError), match=r"cut\.png: "):
                call(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_where_a_jpeg_is_cut_and_what_follows_hide_nothing(progressive: bool) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    whole = encoded(noise, "JPEG", progressive=progressive)
    begin = whole.rindex(b"\xff\xda") + 20
    stuffed = whole.index(b"\xff\0", whole.index(b"\xff\xda")) + 1  # in the middle of two bytes that mean one
    cuts = [begin + (len(whole) - begin) // 2, stuffed]
    for cut in cuts:
        for filler in (b"", bytes(500)):
            with pytest.raises(TruncatedError):
                pixels_of(whole[:cut] + filler)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_was_cut_off_and_closed_again_is_found_by_probing(tmp_path: Path, progressive: bool) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    whole = encoded(noise if progressive else RGB, "JPEG", progressive=progressive)
    path = tmp_path / "closed.jpg"
    path.write_bytes(whole)
    assert ImageDecoder().probe(path).codec == "mjpeg"
    path.write_bytes(whole[: (whole.rindex(b"\xff\xda") + len(whole)) // 2] + b"\xff\xd9")
    with pytest.raises(TruncatedError, match="was cut off"):
        ImageDecoder().probe(path)


def test_an_arithmetic_jpeg_is_whole() -> None:
    """Its decoder reads on behind the last pixel, so what stands there must not be asked."""
    np.testing.assert_array_equal(pixels_of(ARITHMETIC, thorough=True), np.full((8, 8, 3), 100))


def test_a_png_whose_bytes_changed_is_refused() -> None:
    """Pillow itself does not look at the checksum of the pixels."""
    file = bytearray(png(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)))
    for at in range(60, len(file) - 20, 131):
        file[at] ^= 1
        with pytest.raises(UnreadableError, match="checksum of its IDAT"):
            pixels_of(bytes(file))
        file[at] ^= 1
    np.testing.assert_array_equal(pixels_of(bytes(file) + b"what a camera appends"), pixels_of(bytes(file)))


REFUSED = {
    "floating-point samples": tiff(GREY.astype(np.float32), t339=3),
    "signed samples": tiff(GREY.astype(np.int16), t339=2),
    "signed samples ": tiff(GREY.astype(np.int8), t339=2),
    "integers of 32 bits": tiff(GREY.astype(np.uint32)),
    "CIELab colours": tiff(RGB, t262=8),
    "a part of it only": tiff(GREY[:20], t257=40),
    "begins with a thumbnail": tiff(RGB, t254=1),
    "subsampled YCbCr without compression": tiff(RGB, t262=6),
    "unknown pixel mode": tiff(np.zeros((8, 8, 5), np.uint16)),
    "unknown code 34712": tiff(RGB, t259=34712),
    "gives no size": tiff(RGB, t256=0),
}


@pytest.mark.parametrize("cause", REFUSED)
def test_what_is_not_supported_is_said(cause: str) -> None:
    with pytest.raises(MediaError, match=f"x: this is a TIFF picture .*{cause.strip()}"):
        pixels_of(REFUSED[cause])


BEGINNINGS = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "this is a HEIC .* convert it to JPEG or PNG",
    b"\0\0\0\x18ftypmp42\0\0\0\0isommp42": "this is an MP4 or QuickTime video, not a picture",
    b"\x1aE\xdf\xa3 ": "this is a Matroska or WebM video, not a picture",
    b"RIFF\0\0\0\0AVI LIST": "this is an AVI video, not a picture",
    b"\0\0\0\x18ftypcrx ": "this is a camera's raw file",
    b"8BPS\0\1": "Photoshop",
    b"P7\nWIDTH 3": "PAM picture",
    b"\0\0\0\x0cJXL \r\n": "JPEG XL",
    b"\n <!DOCTYPE html><html>": "a web page",
    b"version https://git-lfs.github.com/spec/v1": "never fetched",
    b"%PDF-1.7": "a PDF document",
    bytes(99): "a file of zeros",
    b"once upon a time": "no known format",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_message_says_what_the_file_is(beginning: bytes) -> None:
    with pytest.raises(UnreadableError, match=rf"x: .*{BEGINNINGS[beginning]}"):
        pixels_of(beginning.ljust(200, beginning[-1:]))


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    for name, format in (("a.jpg", "PNG"), ("a.png", "BMP"), ("a.tif", "WEBP"), ("a.heic", "PNG")):
        path = tmp_path / name
        path.write_bytes(encoded(RGB, format, **({"lossless": True} if format == "WEBP" else {})))
        np.testing.assert_array_equal(read_clip(path).pixels[0], RGB)


def test_a_size_that_is_only_claimed_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were asked for"))
    for file in (
        png(RGB, size=(60_000, 60_000)),
        tiff(RGB, t256=60_000, t257=60_000),
        b"P6\n60000 60000\n255\n" + bytes(99),
    ):
        with pytest.raises(UnreadableError, match=r"60000x60000 pixels; more than 1,048,576"):
            pixels_of(file)
    with pytest.raises(UnreadableError, match=r"20000x20000 pixels; from .* bytes no more than 33,554,432 are read"):
        open_picture("x", png(RGB, size=(20_000, 20_000)), max_pixels=1 << 29)


def test_blank_pages_are_not_refused_for_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes may mean many pixels; and where they do not fit, that is said."""

    def full(image: Image.Image) -> None:
        raise MemoryError

    blank = Image.new("1", (6000, 6000), 1)
    files = [encoded(blank, "TIFF", compression="group4"), encoded(blank, "PNG")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", full)
    for file in files:
        with pytest.raises(UnreadableError, match="too large for the memory that is left"):
            open_picture("x", file, max_pixels=1 << 29)


def test_large_pictures_are_read_as_small_ones_are() -> None:
    """Beyond Pillow's own limit, when that is low, and in strips."""
    large = np.random.default_rng(0).integers(0, 256, (777, 1001, 3), dtype=np.uint8)
    data = encoded(large, "BMP")
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 10
    try:
        np.testing.assert_array_equal(pixels_of(data), large)
        assert Image.MAX_IMAGE_PIXELS == 10
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_the_program_keeps_its_own_settings_of_pillow() -> None:
    def state() -> tuple[Any, ...]:
        return (
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            list(warnings.filters),
        )

    whole, cut = encoded(RGB, "JPEG"), encoded(RGB, "JPEG")[:-300]
    ImageFile.LOAD_TRUNCATED_IMAGES, before = True, None
    try:
        before = state()
        failures: list[str] = []

        def read_many() -> None:
            for _ in range(20):
                pixels_of(whole)
                try:
                    pixels_of(cut)
                    failures.append("a half picture was read")
                except TruncatedError:
                    pass

        threads = [threading.Thread(target=read_many) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert state() == before
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_no_warning_of_pillows_reaches_the_user() -> None:
    lzw = encoded(RGB, "TIFF", compression="tiff_lzw")
    with warnings.catch_warnings(record=True) as before:
        warnings.simplefilter("always")
        with pytest.raises(Image.UnidentifiedImageError), Image.open(io.BytesIO(lzw[:-9])):
            pass
    assert before  # or this test says nothing
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(MediaError):
            pixels_of(lzw[:-9])
    assert not told


def test_a_long_text_beside_a_picture_is_no_obstacle() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * (2 * PngImagePlugin.MAX_TEXT_CHUNK), zip=True)
    np.testing.assert_array_equal(pixels_of(encoded(RGB, "PNG", pnginfo=texts)), RGB)


def test_a_suffix_means_one_thing() -> None:
    assert not IMAGE_SUFFIXES & VIDEO_SUFFIXES
    assert not FOREIGN_IMAGE_SUFFIXES & (IMAGE_SUFFIXES | VIDEO_SUFFIXES)
