"""Damaged pictures of many formats: each is read as Pillow reads it, or refused by a type that names the file.

    python benchmarks/mutated_pictures.py --count 1000 --seed 0

Outcomes: ``unchanged``, ``as Pillow`` (reads it), or an error's name; and what must not be, ``WRONG``: another error
than MediaError, pixels that are not Pillow's, a picture from a file that was cut, ten seconds. 800 MB are the most.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mutants import Kind, Mutant, main
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps

from unreel.media import ImageDecoder, MediaError

LONGEST_S = 10.0

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "apng": ("PNG", {"save_all": True}),
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "ppm": ("PPM", {}),
    "ico": ("ICO", {"sizes": [(64, 48)]}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "animated webp": ("WEBP", {"save_all": True}),
    "avif": ("AVIF", {}),
    "jpeg 2000": ("JPEG2000", {}),
    "tiff": ("TIFF", {}),
    "big tiff": ("TIFF", {"big_tiff": True}),
    "16-bit tiff": ("TIFF", {}),
    "16-bit png": ("PNG", {}),
    **{
        f"tiff, {c}": ("TIFF", {"compression": c})
        for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd")
    },
    "tiff, group4": ("TIFF", {"compression": "group4"}),
}


def whole(kind: str) -> bytes:
    """A sound file of a kind, 64 x 48, with an orientation where the format has one."""
    format, options = KINDS[kind]
    rng = np.random.default_rng(len(kind))
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(pixels)
    if kind.startswith("16-bit"):
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if kind == "tiff, group4":
        image = Image.fromarray(pixels[..., 0] > 127)
    if "save_all" in options:
        options = options | {"append_images": [Image.fromarray(pixels[::-1])]}
    if format in ("PNG", "JPEG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = options | {"exif": exif}
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One way to damage a file, and the damaged file."""
    way = str(rng.choice(["bits", "bits", "header", "header", "cut", "zeros", "insert", "swap", "huge"]))
    broken = bytearray(data)
    at = int(rng.integers(len(data)))
    if way == "bits":
        for place in rng.integers(0, len(data), int(rng.integers(1, 9))):
            broken[place] ^= 1 << int(rng.integers(8))
    elif way == "header":
        for place in rng.integers(0, min(200, len(data)), int(rng.integers(1, 4))):
            broken[place] = int(rng.integers(256))
    elif way == "cut":
        del broken[at:]
    elif way == "zeros":
        broken[at:] = bytes(len(data) - at)
    elif way == "insert":
        broken[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
    elif way == "swap":
        size = max(1, len(data) // 8)
        broken[at : at + size] = broken[:size][: len(data) - at]
    else:  # a number of the header becomes a very large one
        place = int(rng.integers(min(200, len(data) - 4)))
        broken[place : place + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x60\xea\0\0", b"\0\0\xea\x60", b"\xff" * 4])
    return way, bytes(broken)


def as_pillow_reads(data: bytes) -> NDArray[np.uint8] | None:
    """The plain way to open a picture, without anything of ours; None where Pillow refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if data[4:8] == b"ftyp":  # Image.open looks at the first of several brands only
                image: Image.Image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
            else:
                image = Image.open(io.BytesIO(data))
            image.load()
        except Exception:
            return None
        inverted = getattr(image, "tag_v2", {}).get(262) == 0  # zero is white
        with contextlib.suppress(Exception):  # a broken EXIF block leaves a picture as it is
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        return np.repeat(((65535 - levels if inverted else levels) >> 8).astype(np.uint8)[..., None], 3, -1)
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))


def make(folder: Path) -> list[Path]:
    """A sound file of every kind, named by it."""
    for kind in KINDS:
        (folder / kind).write_bytes(whole(kind))
    return [folder / kind for kind in KINDS]


@lru_cache(maxsize=64)
def pixels_of(path: Path) -> NDArray[np.uint8]:
    return ImageDecoder().read(path, indices=np.zeros(1, dtype=np.int64)).pixels[0]


def mutant(good: list[Path], number: int, seed: int) -> Mutant:
    """Damaged file ``number``: a function of the seed alone."""
    path = good[number % len(good)]
    way, data = mutated(path.read_bytes(), np.random.default_rng([seed, number]))
    return Mutant(path.name, way, f"{path.name}.png", data)


def judge(path: Path) -> str:
    """Read a damaged file, and say whether what happened is allowed."""
    _, way, name = path.name.split("~")
    kind, data, start = name.removesuffix(".png"), path.read_bytes(), time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = ImageDecoder().read(path, indices=np.zeros(1, dtype=np.int64)).pixels[0]
        result = "unchanged" if np.array_equal(pixels, pixels_of(path.with_name(kind))) else "as Pillow"
        plain = as_pillow_reads(data)
        if result != "unchanged" and (plain is None or not np.array_equal(pixels, plain)):
            result = "WRONG: pixels that are not Pillow's"
        elif result != "unchanged" and (way == "cut" or "png" in kind):
            result = "WRONG: pixels that the file does not hold"
    except MediaError as error:
        result = type(error).__name__
        if result == "MediaError" or not str(error).startswith(f"{path}: "):
            result = f"WRONG: an error that does not name its cause or file: {error}"
    return f"WRONG: too slow, after {result}" if time.monotonic() - start > LONGEST_S else result


KIND = Kind(make, mutant, judge, most_mb=800)

if __name__ == "__main__":
    raise SystemExit(main(KIND, __doc__))
