"""Picture files for tests: what Pillow writes, and what only other programs do, by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 40, 56
ORIENTATION = 0x0112


def colours(seed: int = 0) -> NDArray[np.uint8]:
    """(40, 56, 3): blocks of many colours, which no turn and no swap of channels leaves as they are."""
    blocks = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def encoded(image: Image.Image | NDArray[Any], format: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def png(pixels: NDArray[Any], *, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of (H, W[, C]) uint8 or uint16; ``size`` (width, height) is what its header claims."""
    height, width = pixels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    big = pixels.astype(f">u{pixels.itemsize}")
    lines = b"".join(b"\0" + line.tobytes() for line in big)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 8 * pixels.itemsize, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff(pixels: NDArray[Any], *, order: str = "<", planes: bool = False, **tags: int | tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of (H, W[, C]) numbers, one strip per plane. Further tags go by number: ``t254=1``."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [stored[..., c].tobytes() for c in range(channels)] if planes else [stored.tobytes()]
    entries: dict[int, tuple[int, ...]] = {
        **{256: (width,), 257: (height,), 258: (8 * pixels.itemsize,) * channels, 259: (1,)},
        **{262: (1 if channels == 1 else 2,), 277: (channels,), 278: (height,), 284: (2 if planes else 1,)},
        273: (0,) * len(strips),
        279: tuple(len(s) for s in strips),
        **{int(k[1:]): v if isinstance(v, tuple) else (v,) for k, v in tags.items()},
    }
    after = 8 + 2 + 12 * len(entries) + 4
    extra, table = b"", b""
    for _ in range(2):  # the first tells how long the extra part is
        starts = after + len(extra) + np.cumsum([0, *(len(s) for s in strips[:-1])])
        entries[273] = tuple(int(s) for s in starts)[: len(entries[273])]
        extra, table = b"", b""
        for tag, values in sorted(entries.items()):
            kind, size = ("I", 4) if tag in (273, 279) else ("H", 3)
            data = struct.pack(f"{order}{len(values)}{kind}", *values)
            if len(data) > 4:
                table += struct.pack(f"{order}HHII", tag, size, len(values), after + len(extra))
                extra += data
            else:
                table += struct.pack(f"{order}HHI", tag, size, len(values)) + data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(entries))
    return head + table + bytes(4) + extra + b"".join(strips)


def turned(orientation: int) -> Image.Exif:
    """An EXIF block that says how the picture is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif
