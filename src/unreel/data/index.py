"""Probe every source of a manifest once, remember what was found, and list what cannot be read."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from unreel.core.digests import file_digest
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.media import MediaError, MissingFileError, ReadTimeoutError, VideoInfo, probe, probe_frames

_FORMAT = 2  # raise when probing learns to tell more, so that old answers are not believed
# What may well be different next time is not remembered.
_TRANSIENT = (MissingFileError, ReadTimeoutError)


class IndexFault(NamedTuple):
    """A source that cannot be used: the first row that names it, its path, the error's class, and its message."""

    row: int
    path: str
    cause: str
    message: str


class Indexed(NamedTuple):
    """The manifest with facts (None for faulty rows), and the faults."""

    manifest: Manifest
    faults: list[IndexFault]


def cache_folder() -> Path:
    """Where facts are remembered: ``$UNREEL_CACHE``, else ``$XDG_CACHE_HOME/unreel``, else ``~/.cache/unreel``."""
    own = os.environ.get("UNREEL_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unreel"


def index(
    manifest: Manifest,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    cache: str | os.PathLike[str] | bool | None = True,
) -> Indexed:
    """Probe every file of a manifest; a file seen before, unchanged in size and time or in content, is not opened.

    An image is decoded whole; of a video the packets are read and one frame is decoded, so that what is broken further
    on is met by who decodes it.

    Args:
        manifest: what to probe. Rows with spans of one file share one probe.
        workers: threads; probing waits for storage more than for the processor.
        progress: called with (files done, files in all).
        cache: a folder to remember facts in; True is ``cache_folder()``, False or None remembers nothing.

    Returns: the manifest with facts, and the faults: one per unreadable file, and one per span that lies outside it.
    """
    first_row: dict[str, int] = {}
    for i in range(len(manifest)):
        first_row.setdefault(_source_name(manifest, i), i)
    folder = cache_folder() if cache is True else Path(cache) if cache else None
    found: dict[str, VideoInfo | IndexFault] = {}
    total = len(first_row)
    with _Memory(folder) as memory:
        to_probe = []
        for name, i in first_row.items():
            known = None if manifest.rows[i].frames else memory.by_stat(name)
            if known is None:
                to_probe.append((name, i))
            else:
                found[name] = _revive(known, i, manifest)
        done = total - len(to_probe)
        if progress is not None and done:
            progress(done, total)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = {pool.submit(_probe, manifest, i, memory): name for name, i in to_probe}
            try:
                for job in as_completed(jobs):
                    digest, facts, fault, transient = job.result()
                    name = jobs[job]
                    answer = facts if facts is not None else fault
                    assert answer is not None  # one of the two, by construction
                    found[name] = answer
                    if digest and not transient:
                        memory.put(name, digest, facts, fault)
                    done += 1
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    facts_of: list[VideoInfo | None] = []
    faults: list[IndexFault] = []
    for i, row in enumerate(manifest.rows):
        name = _source_name(manifest, i)
        answer = found[name]
        if isinstance(answer, IndexFault):
            facts_of.append(None)
            if first_row[name] == i:
                faults.append(answer)
            continue
        if row.start_s is not None and row.start_s >= answer.duration_s > 0:
            faults.append(
                IndexFault(
                    i, row.path, "TooShortError", f"the span starts at {row.start_s:g} s of {answer.duration_s:g} s"
                )
            )
            facts_of.append(None)
            continue
        facts_of.append(answer)
    return Indexed(manifest.with_facts(facts_of), faults)


def _source_name(manifest: Manifest, i: int) -> str:
    frames = manifest.frame_paths(i)
    return "\n".join(map(str, frames)) if frames else str(manifest.absolute(i))


class _Probed(NamedTuple):
    digest: str
    facts: VideoInfo | None
    fault: IndexFault | None
    transient: bool


def _probe(manifest: Manifest, i: int, memory: _Memory) -> _Probed:
    row, path, digest = manifest.rows[i], str(manifest.absolute(i)), ""
    try:
        frames = manifest.frame_paths(i)
        if frames:
            return _Probed("", probe_frames(frames), None, False)
        if memory.active and os.path.isfile(path):
            digest = file_digest(path)  # by name and content: a folder that moved keeps its facts
            known = memory.by_digest(digest)
            if known is not None:
                revived = _revive(known, i, manifest)
                if isinstance(revived, IndexFault):
                    return _Probed(digest, None, revived, False)
                return _Probed(digest, revived, None, False)
        return _Probed(digest, probe(path), None, False)
    except (MediaError, DataError) as error:
        fault = IndexFault(i, row.path or row.frames[0], type(error).__name__, str(error))
        return _Probed(digest, None, fault, isinstance(error, _TRANSIENT))


def _revive(text: str, i: int, manifest: Manifest) -> VideoInfo | IndexFault:
    stored = json.loads(text)
    if "cause" in stored:
        path = manifest.absolute(i)
        return IndexFault(i, manifest.rows[i].path, stored["cause"], f"{path}: {stored['message']}")
    return VideoInfo(**stored)


class _Memory:
    """Facts by content digest, and digests by (path, size, time), in one SQLite file. Without a folder, nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._facts: dict[str, str] = {}
        self._stats: dict[str, tuple[int, int, str]] = {}
        self._new_facts: dict[str, str] = {}
        self._new_stats: dict[str, tuple[int, int, str]] = {}
        self.active = folder is not None

    def __enter__(self) -> _Memory:
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with self._database() as database:
                    self._facts = dict(database.execute("SELECT digest, facts FROM facts").fetchall())
                    rows = database.execute("SELECT path, size, mtime_ns, digest FROM stats").fetchall()
                    self._stats = {p: (s, t, d) for p, s, t, d in rows}
            except (OSError, sqlite3.Error):  # a read-only home or a broken cache only costs time
                self.active = False
        return self

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        assert self._folder is not None
        connection = sqlite3.connect(self._folder / f"index-{_FORMAT}.sqlite", timeout=30)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS facts (digest TEXT PRIMARY KEY, facts TEXT)")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS stats (path TEXT PRIMARY KEY, size INT, mtime_ns INT, digest TEXT)"
                )
                yield connection
        finally:
            connection.close()

    def by_stat(self, path: str) -> str | None:
        known = self._stats.get(path)
        if known is None:
            return None
        try:
            facts = os.stat(path)
        except OSError:
            return None
        return self._facts.get(known[2]) if (facts.st_size, facts.st_mtime_ns) == known[:2] else None

    def by_digest(self, digest: str) -> str | None:
        return self._facts.get(digest)

    def put(self, path: str, digest: str, facts: VideoInfo | None, fault: IndexFault | None) -> None:
        if not self.active:
            return
        if facts is not None:
            self._new_facts[digest] = json.dumps(asdict(facts))
        elif fault is not None:
            self._new_facts[digest] = json.dumps(
                {"cause": fault.cause, "message": fault.message.removeprefix(f"{path}: ")}
            )
        try:
            now = os.stat(path)
        except OSError:
            return
        self._new_stats[path] = (now.st_size, now.st_mtime_ns, digest)

    def __exit__(self, *unused: object) -> None:
        if not self.active or not self._new_facts:
            return
        try:
            with self._database() as database:
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", self._new_facts.items())
                database.executemany(
                    "INSERT OR REPLACE INTO stats VALUES (?, ?, ?, ?)", [(p, *v) for p, v in self._new_stats.items()]
                )
        except (OSError, sqlite3.Error):
            pass
