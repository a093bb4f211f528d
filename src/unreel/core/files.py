"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def replacing(path: str | PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """A new hidden path beside ``path``, which takes its place when the block ends; after an error nothing is left.

    Until then ``path`` is what it was. Two writers, in whatever threads, processes or machines, do not meet: the last
    one to finish stays.

    Args:
        path: the file to write; its folder is made where it is missing.
        durable: have the disk confirm the bytes and the name, so that a machine that loses power keeps the old or the
            new file.
    Raises: OSError where the disk refuses.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(target.parent)


def write_whole(path: str | PathLike[str], content: bytes | str) -> Path:
    """Write a file as ``replacing`` does, text as UTF-8 with its line ends as they are. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
