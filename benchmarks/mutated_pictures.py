"""Damaged pictures of many formats: each is read as Pillow reads it, or refused by a type that names the file.

    python benchmarks/mutated_pictures.py --count 1000 --seed 0

Prints per format what happened, the longest read and the memory at its highest; ends with 1 where anything is wrong: a
crash, a hang, another error than MediaError, pixels that are not Pillow's, a picture from a file that was cut.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps

from unreel.media import ImageDecoder, MediaError

LONGEST_S = 10.0
MOST_MB = 800

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


class Outcome(NamedTuple):
    """What became of a damaged file: ``unchanged``, ``as Pillow`` or an error's name; ``wrong``: what must not be."""

    result: str
    seconds: float
    wrong: str


def judge(path: Path, kind: str, way: str, data: bytes, original: NDArray[np.uint8]) -> Outcome:
    """Read a damaged file, and say whether what happened is allowed."""
    path.write_bytes(data)
    start, result, wrong = time.monotonic(), "", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = ImageDecoder().read(path, indices=np.zeros(1, dtype=np.int64)).pixels[0]
        result = "unchanged" if np.array_equal(pixels, original) else "as Pillow"
        plain = as_pillow_reads(data)
        if result != "unchanged" and (plain is None or not np.array_equal(pixels, plain)):
            wrong = "pixels that are not Pillow's"
        if result != "unchanged" and (way == "cut" or "png" in kind):
            wrong = "pixels that the file does not hold"
    except MediaError as error:
        result = type(error).__name__
        if result == "MediaError" or not str(error).startswith(f"{path}: "):
            wrong = f"an error that does not name its cause or file: {error}"
    except BaseException as error:
        result, wrong = type(error).__name__, f"not a MediaError: {error!r}"
    seconds = time.monotonic() - start
    return Outcome(result, seconds, wrong or ("too slow" if seconds > LONGEST_S else ""))


def run(folder: Path, count: int, seed: int) -> tuple[dict[str, list[Outcome]], list[str]]:
    """Outcomes by kind, and what is wrong."""
    outcomes: dict[str, list[Outcome]] = {kind: [] for kind in KINDS}
    wrong = []
    originals = {kind: whole(kind) for kind in KINDS}
    decoded = {}
    for kind, data in originals.items():
        (folder / "whole").write_bytes(data)
        decoded[kind] = ImageDecoder().read(folder / "whole", indices=np.zeros(1, dtype=np.int64)).pixels[0]
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        way, data = mutated(originals[kind], np.random.default_rng([seed, number]))
        outcome = judge(folder / f"{number}.png", kind, way, data, decoded[kind])
        outcomes[kind].append(outcome)
        if outcome.wrong:
            wrong.append(f"number {number}, {kind}, {way}: {outcome.wrong}")
        else:
            (folder / f"{number}.png").unlink()
    return outcomes, wrong


def main() -> int:
    """Run, print, and say with the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.dump_traceback_later(600, exit=True)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, wrong = run(Path(folder), options.count, options.seed)
    for kind, found in outcomes.items():
        counts = Counter(outcome.result for outcome in found)
        told = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
        print(f"{kind:26} {len(found):4}  {max((o.seconds for o in found), default=0):5.2f} s  {told}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(f"{options.count} files, at most {peak:.0f} MB of memory, {len(wrong)} wrong")
    print(*wrong, sep="\n")
    return 1 if wrong or peak > MOST_MB else 0


if __name__ == "__main__":
    sys.exit(main())
