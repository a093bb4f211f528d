"""Files that appear whole or not at all, places that are tried before the work, folders with one owner at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

from unreel.core.errors import UnreelError, UsageError
from unreel.core.text import shown

_OTHER_PLACE = "choose another place"
_ADVICE = {
    errno.ENOSPC: f"free some space there, or {_OTHER_PLACE}",
    errno.EDQUOT: f"free some space there, or {_OTHER_PLACE}",
    errno.EFBIG: f"lift the limit on the size of a file (ulimit -f shows it), or {_OTHER_PLACE}",
    errno.EROFS: _OTHER_PLACE,
    errno.EACCES: f"change the permissions there, or {_OTHER_PLACE}",
    errno.EPERM: f"change the permissions there, or {_OTHER_PLACE}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: f"look at the disk, or {_OTHER_PLACE}",
}


class WriteError(UnreelError, OSError):
    """A place cannot be written; the message says which, why, and what to do."""


class BusyError(UnreelError):
    """Another process works in the folder."""


def refused(path: str | PathLike[str], error: OSError) -> WriteError:
    """The error to raise for ``path`` when the system refused with ``error``."""
    reason = (str(error) if error.errno is None else os.strerror(error.errno)).lower()
    return WriteError(f"{os.fspath(path)} cannot be written: {reason}; {_ADVICE.get(error.errno or 0, _OTHER_PLACE)}")


def is_refusal(error: OSError) -> bool:
    """Whether the error says that a disk takes no more, whatever was being done."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


# ------------------------------------------------------------------------------------------------- before the work


def check_file(path: str | PathLike[str]) -> None:
    """Raise WriteError where no file can be written at ``path``: to be asked before work that ends in one.

    It is tried: a few bytes are written beside it and removed. What is there is left alone; no folder is made.
    """
    target = _place(path)
    _check_shape(target, folder=False)
    _try_writing(target.parent, path)
    if target.exists():
        try:
            os.close(os.open(target, os.O_WRONLY))
        except OSError as error:
            # A file that may only be read can still be replaced; one that is marked unchangeable cannot.
            if error.errno in (errno.EPERM, errno.EROFS):
                raise refused(path, error) from error


def check_folder(path: str | PathLike[str]) -> None:
    """Raise WriteError where nothing can be written in a folder, there already or not yet; see ``check_file``.

    Raises BusyError where another process has claimed it.
    """
    home = Path(path)
    _check_shape(home, folder=True)
    with suppress(OSError), _lock_of(home).open("rb") as stream:
        if try_lock(stream) is False:
            raise _busy(stream, home)
    _try_writing(home, path)


def check_apart(out: str | PathLike[str], data: str | PathLike[str]) -> None:
    """Raise UsageError where results would lie directly in the folder of the data, among its files."""
    if os.path.isdir(data) and os.path.realpath(out) == os.path.realpath(data):
        place = os.path.join(os.fspath(out), "results")
        raise UsageError(
            f"--out {os.fspath(out)} is the folder of the data, where results would lie among the files to learn from; "
            f"choose another folder, such as {place}"
        )


def _place(path: str | PathLike[str]) -> Path:
    """Where a file goes: a link stands for what it points to."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _check_shape(target: Path, *, folder: bool) -> None:
    """Refuse a folder in a file's place and the reverse, here or further up."""
    found = _nearest(target)
    if found != target:
        if not found.is_dir():
            raise WriteError(f"{target} cannot be written: {found} is a file, not a folder; {_OTHER_PLACE}")
    elif folder and not target.is_dir():
        raise WriteError(f"{target} cannot be written: it is a file, and a folder is expected; choose another name")
    elif not folder and target.is_dir():
        raise WriteError(f"{target} cannot be written: it is a folder, and a file is expected; name a file in it")
    elif not folder and not target.is_file():
        raise WriteError(f"{target} cannot be written: it is a device or a pipe, and a file is expected")


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest place above it that exists."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), Path(os.curdir))


def _try_writing(folder: Path, path: str | PathLike[str]) -> None:
    trial = _nearest(folder) / f".{secrets.token_hex(4)}.partial"
    try:
        with trial.open("xb") as stream:
            stream.write(bytes(4096))
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):
            trial.unlink()


# ----------------------------------------------------------------------------------------------------- whole files


@contextmanager
def replacing(path: str | PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """A new hidden path beside ``path``, which takes its place when the block ends; after an error nothing is left.

    Until then ``path`` is what it was. Two writers, in whatever threads, processes or machines, do not meet: the last
    one to finish stays.

    Args:
        path: the file to write, or a link to it; its folder is made where it is missing.
        durable: have the disk confirm the bytes and the name, so that a machine that loses power keeps the old or the
            new file.
    Raises: WriteError where the disk refuses, whatever the block made of its error.
    """
    target = _place(path)
    _check_shape(target, folder=False)
    make_folder(target.parent, path)
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(partial, target)
    except Exception as error:
        cause = _disk_error(error, partial)
        if cause is None:
            raise
        raise refused(path, cause) from error
    finally:
        with suppress(OSError):  # a disk that cannot be written refuses this, too
            partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(target.parent)


def write_whole(path: str | PathLike[str], content: bytes | str) -> Path:
    """Write a file as ``replacing`` does, text as UTF-8 with its line ends as they are. Raises WriteError."""
    with replacing(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else shown(content).encode())
    return Path(path)


def write_arrays(path: str | PathLike[str], arrays: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write an .npz file as ``replacing`` does. Raises WriteError."""
    import numpy as np

    with replacing(path) as partial, partial.open("wb") as stream:  # given a path, numpy changes its name
        (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return Path(path)


def append(path: str | PathLike[str], text: str) -> None:
    """Add whole lines to a file; where the disk refuses it is as it was. Raises WriteError."""
    try:
        with open(path, "ab", buffering=0) as stream:
            before = stream.tell()
            content = shown(text).encode()
            try:
                while content:
                    content = content[stream.write(content) :]
            except OSError:
                with suppress(OSError):
                    stream.truncate(before)
                raise
    except OSError as error:
        raise refused(path, error) from error


def make_folder(folder: Path, path: str | PathLike[str] | None = None) -> None:
    """Make a folder where it is missing. Raises WriteError, which speaks of ``path`` where it is given."""
    _check_shape(folder, folder=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder if path is None else path, error) from error


def _disk_error(error: BaseException, partial: Path) -> OSError | None:
    """The system's refusal behind an error of whatever kind a library made of it; None where there is none."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, UnreelError):  # those have their own words
        if isinstance(seen, OSError):
            ours = seen.filename is not None and os.fspath(seen.filename) == os.fspath(partial)
            if ours or seen.filename is None:
                return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --------------------------------------------------------------------------------------------------- one owner only

_held: set[IO[bytes]] = set()


def _let_go() -> None:
    for stream in _held:
        stream.close()
    _held.clear()


# A forked child's copy would hold the lock when its parent is gone.
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def claimed(folder: str | PathLike[str], *, only: str = "", wait: bool = False) -> Iterator[None]:
    """This process and no other works in ``folder`` while the block runs; a process that dies claims nothing.

    The folder is made where it is missing, and holds a file ``.lock`` meanwhile. Where the file system knows no locks
    (some network drives), nothing is claimed.

    Args:
        only: claim the file of this name in the folder, and no more.
        wait: until no other process has it.
    Raises: BusyError when another process has it, with who and since when; WriteError where it cannot be written.
    """
    home = Path(folder)
    _check_shape(home, folder=True)
    _try_writing(home, folder)
    make_folder(home)
    lock = _lock_of(home, only)
    stream = _locked(lock, home / only, wait)
    if stream is None:
        yield
        return
    owner = os.getpid()
    _held.add(stream)
    try:
        who = {"process": owner, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # a full disk is met by the work
            stream.truncate(0)
            stream.write(json.dumps(who).encode())
        yield
    finally:
        if os.getpid() == owner:
            with suppress(OSError):
                lock.unlink()
            _held.discard(stream)
            stream.close()


def try_lock(stream: IO[Any], *, wait: bool = False) -> bool | None:
    """Lock an open file for this process; False when another has it, None where the file system knows no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock_of(home: Path, only: str = "") -> Path:
    return home / (f".{only}.lock" if only else ".lock")


def _locked(path: Path, claim: Path, wait: bool) -> IO[bytes] | None:
    while True:
        try:
            stream = path.open("ab+", buffering=0)
        except OSError as error:
            raise refused(path.parent, error) from error
        held = try_lock(stream, wait=wait)
        if held is False:
            with stream:
                raise _busy(stream, claim)
        try:
            same = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        if held and same:
            return stream
        stream.close()
        if held is None:
            with suppress(OSError):
                path.unlink()
            return None
        # The one before removed the file between our opening and our locking it.


def _busy(stream: IO[bytes], claim: Path) -> BusyError:
    stream.seek(0)
    try:
        who = json.loads(stream.read())
        owner = f" (process {who['process']} on {who['host']}, since {who['since']})"
    except (ValueError, KeyError, TypeError):
        owner = ""
    what = "in this folder" if claim.is_dir() else "on this file"
    return BusyError(f"{claim}: another process works {what}{owner}; wait for it to end, or choose another place")
