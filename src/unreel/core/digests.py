"""Digests: what a file is, what a setting is, in a few characters.

One rule for files: **a file is itself by its place and its state, or by all its bytes.** A name, a size and two ends
are no identity: the uncompressed pictures and videos of one camera may agree in all of them.

- ``place_digest`` names a file on this machine, for the price of looking at its entry: its real path, with links
  followed, its size, and the times of the last change of its bytes and of its entry. A file that was moved, copied,
  replaced or touched gets another name. That costs time, never a wrong answer. Features and the index go by it.
- ``content_digest`` reads every byte. Facts that travel with the data go by it where the place or the times differ.
- ``fingerprint`` reads at most 128 KiB: the relative path, the size, the first and last 64 KiB. It is the same on every
  machine. Where two differ, the files differ; where they agree, the files may differ in their middle. So it tells that
  data has changed since a run began, and is no key to what was computed from a file.

A folder counts as the files directly in it, hidden ones left out: a video that lies there as single frames.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from unreel.core.errors import DataError

_EDGE_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
# 16 bytes: a chance collision among 10^9 files has probability below 10^-20.
_SIZE_BYTES = 16


class FileState(NamedTuple):
    """How a file or folder is now: its bytes (a folder's together), and 32 hex digits of its size and times."""

    size: int
    digest: str


def file_state(path: str | PathLike[str]) -> FileState:
    """Size and times of a file, or of the files in a folder; nothing is read. Raises DataError where there is none."""
    try:
        facts = os.stat(path)
        if not stat.S_ISDIR(facts.st_mode):
            return FileState(facts.st_size, mapping_digest(_times(facts)))
        inside = [(entry, entry.stat()) for entry in _inside(path)]
        # Where an entry is a link, another file may take the place of its target.
        listed = [[e.name, os.path.realpath(e) if e.is_symlink() else "", *_times(s)] for e, s in inside]
        return FileState(sum(s.st_size for _, s in inside), mapping_digest(listed))
    except OSError as error:
        raise _unreadable(path, error) from None


def place_digest(path: str | PathLike[str]) -> str:
    """32 hex digits for a file or folder at its place, as it is now. Raises DataError where there is none."""
    return mapping_digest([os.path.realpath(path), file_state(path).digest])


def content_digest(path: str | PathLike[str]) -> str:
    """32 hex digits for every byte of a file, or of every file in a folder by its name.

    Raises: DataError where something cannot be read.
    """
    return _by_files(path, lambda file: _hashed(file, "" if file == path else os.path.basename(file), full=True))


def fingerprint(path: str | PathLike[str], root: str | PathLike[str], *, full: bool = False) -> str:
    """32 hex digits for a file's path below ``root``, size, first and last 64 KiB; a folder's cover all of its files.

    ``full`` reads every byte. Raises: DataError where something cannot be read.
    """
    return _by_files(path, lambda file: _hashed(file, Path(os.path.relpath(file, root)).as_posix(), full=full))


def mapping_digest(values: Mapping[str, object] | Sequence[object]) -> str:
    """32 hex digits for plain values (what JSON can hold); the order of keys does not matter.

    Raises: TypeError for anything that JSON cannot hold, ValueError for NaN and infinities.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=_SIZE_BYTES).hexdigest()


def _times(facts: os.stat_result) -> list[int]:
    # The second time is the file system's own: programs that restore the first one cannot restore it.
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _inside(folder: str | PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(os.fspath(folder)) as entries:
        return sorted((e for e in entries if e.is_file() and not e.name.startswith(".")), key=lambda e: e.path)


def _by_files(path: str | PathLike[str], digest: Callable[[str | PathLike[str]], str]) -> str:
    try:
        return mapping_digest([digest(e.path) for e in _inside(path)]) if os.path.isdir(path) else digest(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _hashed(file: str | PathLike[str], name: str, *, full: bool) -> str:
    if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe may wait for ever
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, and not a file", os.fspath(file))
    digest = hashlib.blake2b(digest_size=_SIZE_BYTES)
    with open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        # The separator cannot occur in a path, so (path, size) is read in one way only.
        digest.update(f"{'full' if full else 'edges'}\0{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if full:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        else:
            digest.update(stream.read(_EDGE_BYTES))
            if size > _EDGE_BYTES:
                stream.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
                digest.update(stream.read(_EDGE_BYTES))
    return digest.hexdigest()


def _unreadable(path: str | PathLike[str], error: OSError) -> DataError:
    return DataError(f"{error.filename or os.fspath(path)}: cannot be read ({error.strerror or error})")
