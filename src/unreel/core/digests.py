"""Digests: what a file is, what a setting is, in a few characters.

A file's quick digest reads at most 128 KiB: its relative path, its size, its head and its tail. Two versions of a
video that differ only in the middle and have equal size are not told apart; ``full=True`` reads every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from unreel.core.errors import DataError

_EDGE_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
# 16 bytes: a chance collision among 10^9 files has probability below 10^-20.
_SIZE_BYTES = 16


def file_digest(
    path: str | PathLike[str], *, relative_to: str | PathLike[str] | None = None, full: bool = False
) -> str:
    """32 hex digits for one file: blake2b of (relative path, size, first and last 64 KiB), or of every byte.

    Args:
        path: the file.
        relative_to: the root that its path is written against; None uses the file's own name, so that a folder
            that moved keeps its digests.
        full: read the whole file instead of its head and tail.

    Raises: DataError when the file cannot be read.
    """
    file = Path(path)
    name = Path(os.path.relpath(file, relative_to)).as_posix() if relative_to is not None else file.name
    digest = hashlib.blake2b(digest_size=_SIZE_BYTES)
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # The separator cannot occur in a path, so (path, size) is read in one way only.
            digest.update(f"{'full' if full else 'edges'}\0{name}\0{size}\0".encode())
            if full:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
            else:
                digest.update(stream.read(_EDGE_BYTES))
                if size > _EDGE_BYTES:
                    stream.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
                    digest.update(stream.read(_EDGE_BYTES))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def mapping_digest(values: Mapping[str, object] | Sequence[object]) -> str:
    """32 hex digits for plain values (what JSON can hold); the order of keys does not matter.

    Raises: TypeError for anything that JSON cannot hold, ValueError for NaN and infinities.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=_SIZE_BYTES).hexdigest()
