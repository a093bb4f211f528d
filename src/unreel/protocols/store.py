"""The feature store: frozen features are computed once and read ever after.

One SQLite file per (encoder, layer, pooling, clips, dtype); one row per source span. A manifest selects rows, so no
subset is ever encoded twice. Several processes may read and write one store at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.checks import Count, checked
from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError, UsageError
from unreel.core.files import WriteError, make_folder, refused
from unreel.data.index import cache_folder
from unreel.nn.encoder import Encoder

# 10 GiB hold 400 000 videos of 3 views × 2048 features.
DEFAULT_MAX_BYTES = 10 * 1024**3
# SQLite's bound on parameters was 999 before version 3.32.
_QUERY_KEYS = 900
_WAIT_S = 60.0
# Raised when sources are named otherwise, or when decoders give other frames: older files are not read again.
_FORMAT = 2

_log = logging.getLogger(__name__)


def encoder_digest(encoder: Encoder) -> str:
    """32 hex digits of everything that decides an embedding: weights, buffers, structure, arguments, input spec."""
    digest = hashlib.blake2b(digest_size=16)
    card = {
        "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}",
        "architecture": encoder.architecture,
        "arguments": {k: str(v) for k, v in encoder.arguments.items()},
        "input": {k: str(v) for k, v in encoder.input_spec.to_card().items()},
        "structure": repr(encoder),
    }
    digest.update(json.dumps(card, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # A view as bytes: NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TableKey:
    """What all rows of one file have in common.

    ``encoder``: its digest (weights, structure, ``prepare``); ``clips``: digest of the clip plan
    (by contract all decoders give the same frames); ``layer``: the stage that was pooled; ``dtype``: the precision of
    the computation; ``pooling``: ``Pooling.key``, which also says whether rows hold the mean over views; empty for the
    encoder's own pooling and a vector per view.
    """

    encoder: str
    clips: str
    layer: str
    dtype: str = "float32"
    pooling: str = ""

    @cached_property
    def digest(self) -> str:
        return mapping_digest({"features": _FORMAT, **asdict(self)})


class FeatureTable:
    """One open file of the store: source key → (V, D) float32, a vector per view or one mean. A context manager."""

    def __init__(self, store: FeatureStore, key: TableKey) -> None:
        self.store, self.key = store, key
        self.path = store.root / f"{key.digest}.sqlite"
        self.full = False
        make_folder(store.root)
        # Held shared while the file is open: deleting a database that somebody has open would corrupt it, so eviction
        # takes the lock exclusively and passes over files in use.
        try:
            self._lock: IO[bytes] = store._lock_path(self.path).open("ab")
        except OSError as error:
            raise refused(store.root, error) from error
        with suppress(OSError):  # a drive without locks
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        try:
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_S)
            with self._connection:
                self._connection.execute("CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT)")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS features (source TEXT PRIMARY KEY, views INTEGER NOT NULL, "
                    "width INTEGER NOT NULL, vectors BLOB NOT NULL)"
                )
                self._connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", asdict(key).items())
        except sqlite3.DatabaseError as error:
            self._lock.close()
            if _is_refusal(error):
                raise WriteError(f"{self.path} cannot be written: {error}; choose another place") from error
            raise DataError(f"{self.path}: not a readable feature file ({error}); delete it and run again") from None
        os.utime(self.path)  # last use, which eviction goes by

    def __enter__(self) -> FeatureTable:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file and let it be evicted."""
        self._connection.close()
        self._lock.close()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM features").fetchone()[0])

    def get(self, sources: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Source key → (V, D) for those that have a row."""
        found: dict[str, NDArray[np.float32]] = {}
        unique = list(dict.fromkeys(sources))
        for start in range(0, len(unique), _QUERY_KEYS):
            part = unique[start : start + _QUERY_KEYS]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT source, views, width, vectors FROM features WHERE source IN ({marks})", part
            )
            for source, views, width, blob in rows:
                found[source] = np.frombuffer(blob, dtype="<f4").reshape(views, width).astype(np.float32)
        return found

    def put(self, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Add rows in one transaction; a row that is already there stays as it is.

        Once this file alone would pass the store's budget, or the disk takes no more, nothing more is written to it and
        ``full`` is True.
        """
        if self.full:
            return
        values = []
        for source, vectors in rows.items():
            if vectors.ndim != 2:
                raise UsageError(f"the store keeps (views, D) per source, got shape {vectors.shape}")
            values.append((source, *vectors.shape, np.ascontiguousarray(vectors, dtype="<f4").tobytes()))
        size = self.path.stat().st_size + sum(len(v[3]) for v in values)
        if size > self.store.max_bytes:
            self.full = True
            return
        try:
            with self._connection:
                self._connection.executemany("INSERT OR IGNORE INTO features VALUES (?, ?, ?, ?)", values)
        except sqlite3.OperationalError as error:
            if not _is_refusal(error):
                raise
            self.full = True
            _log.warning("%s: %s; features are still computed, but no more of them are kept", self.path, error)
            return
        self.store.evict(keep=self.path)


def _is_refusal(error: sqlite3.Error) -> bool:
    """Whether the disk is what SQLite could not go on with."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR"))


@checked
class FeatureStore:
    """A folder of feature files with a bound on their total size.

    Args:
        root: the folder; created when first written to.
        max_bytes: when the files together pass it, whole files are deleted, the longest unused first; files that a
            process has open are passed over.
        asked_for: whether somebody named the folder. Where nobody did, ``embed`` does without one that fails.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, max_bytes: Count = DEFAULT_MAX_BYTES, asked_for: bool = True
    ) -> None:
        self.root = Path(root)
        self.max_bytes = max_bytes
        self.asked_for = asked_for

    @classmethod
    def usual(cls, place: str | os.PathLike[str]) -> FeatureStore:
        """Where commands keep features: the folder ``features`` of a run that can be written, else the user's cache."""
        run = Path(place)
        own = (run / "config.yaml").is_file() and os.access(run, os.W_OK)
        return cls((run if own else cache_folder()) / "features", asked_for=False)

    def open(self, key: TableKey) -> FeatureTable:
        """The file for a key, created if there is none. Raises DataError when it is not a feature file."""
        return FeatureTable(self, key)

    def files(self) -> list[Path]:
        """Feature files, the longest unused first."""
        return list(self._sizes())

    def evict(self, *, keep: Path | None = None) -> list[Path]:
        """Delete files until the budget holds; returns those deleted."""
        sizes = self._sizes()
        total = sum(sizes.values())
        gone: list[Path] = []
        for path, size in sizes.items():
            if total <= self.max_bytes:
                break
            if path == keep:
                continue
            with self._lock_path(path).open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # in use, or on a drive that cannot tell
                    continue
                total -= size
                path.unlink(missing_ok=True)
                path.with_name(path.name + "-journal").unlink(missing_ok=True)
                gone.append(path)
        return gone

    def _sizes(self) -> dict[Path, int]:
        """Feature files with their sizes, the longest unused first."""
        found = []
        for path in self.root.glob("*.sqlite"):
            with suppress(FileNotFoundError):  # evicted by another process meanwhile
                facts = path.stat()
                found.append((facts.st_mtime_ns, path, facts.st_size))
        return {path: size for _, path, size in sorted(found)}

    @staticmethod
    def _lock_path(path: Path) -> Path:
        return path.with_suffix(".lock")
