"""Probe every source of a manifest once, remember what was found, and list what cannot be read."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from unreel.core.digests import place_digest
from unreel.core.errors import DataError
from unreel.core.text import shown
from unreel.data.manifest import Manifest
from unreel.media import MediaError, VideoInfo, decode_frames, decode_whole, probe, probe_frames

_FORMAT = 4  # raise when probing learns to tell more or other things, so that old answers are not believed


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
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cache: str | os.PathLike[str] | bool | None = True,
) -> Indexed:
    """Probe every file of a manifest; a file whose facts are known, and that is as it was, is not opened.

    An image is decoded whole. For a video, the packets are read and one frame is decoded: what is broken further on is
    met by whoever decodes it. Facts belong to one file at its place (``core.digests.place_digest``). A fault is never
    remembered: what could not be read is probed again.

    Args:
        manifest: what to probe. Rows with spans of one file share one probe.
        workers: threads; probing waits for storage more than for the processor.
        decode: decode every frame of every file, known or not: what training could not read is a fault here, too.
        progress: called with (files done, files in all).
        cache: a folder to remember facts in; True is ``cache_folder()``, False or None remembers nothing.

    Returns: the manifest with facts, and the faults: one per unreadable file, and one per span that lies outside it.
    """
    first_row: dict[str, int] = {}
    for i in range(len(manifest)):
        first_row.setdefault(_source_name(manifest, i), i)
    folder = cache_folder() if cache is True else Path(cache) if cache else None
    # Named before they are opened: what is written meanwhile is another file.
    places = {} if folder is None else {n: _place(n) for n, i in first_row.items() if not manifest.rows[i].frames}
    known = {} if decode else _recall(folder, places.values())
    found: dict[str, VideoInfo | IndexFault] = {name: known[p] for name, p in places.items() if p in known}
    new: dict[str, VideoInfo] = {}
    done, total = len(found), len(first_row)
    if progress is not None and done:
        progress(done, total)
    try:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = {
                pool.submit(_probe, manifest, i, decode): name for name, i in first_row.items() if name not in found
            }
            try:
                for job in as_completed(jobs):
                    name, answer = jobs[job], job.result()
                    found[name] = answer
                    if places.get(name) and isinstance(answer, VideoInfo):
                        new[places[name]] = answer
                    done += 1
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        _remember(folder, new)

    facts_of: list[VideoInfo | None] = []
    faults: list[IndexFault] = []
    for i, row in enumerate(manifest.rows):
        name = _source_name(manifest, i)
        answer = found[name]
        if isinstance(answer, VideoInfo) and row.start_s is not None and row.start_s >= answer.duration_s > 0:
            ends = f"where {shown(name)} ends at {answer.duration_s:g} s"
            told = f"{shown(manifest.where(i))}: the span starts at {row.start_s:g} s, {ends}"
            answer = IndexFault(i, row.path, "TooShortError", told)
        if isinstance(answer, IndexFault) and answer.row == i:
            faults.append(answer)
        facts_of.append(answer if isinstance(answer, VideoInfo) else None)
    return Indexed(manifest.with_facts(facts_of), faults)


def _source_name(manifest: Manifest, i: int) -> str:
    frames = manifest.frame_paths(i)
    return "\n".join(map(str, frames)) if frames else str(manifest.absolute(i))


def _place(path: str) -> str:
    """The name of one file or folder at its place; empty for none at all."""
    try:
        return place_digest(path)
    except DataError:
        return ""


def index_command(manifest: Manifest) -> str:
    """The shell command that finds every damaged file of a manifest."""
    elsewhere = manifest.table and os.path.realpath(manifest.root) != os.path.dirname(os.path.realpath(manifest.table))
    root = f" --root {shlex.quote(shown(manifest.root))}" if elsewhere else ""
    return f"unreel data index {shlex.quote(shown(manifest.table or manifest.root))}{root} --decode"


def _probe(manifest: Manifest, i: int, decode: bool) -> VideoInfo | IndexFault:
    row = manifest.rows[i]
    try:
        if row.frames:
            if decode:
                decode_frames(manifest.frame_paths(i))
            return probe_frames(manifest.frame_paths(i))
        if decode:
            decode_whole(manifest.absolute(i))
        return probe(manifest.absolute(i))
    except (MediaError, DataError) as error:
        return IndexFault(i, row.path or row.frames[0], type(error).__name__, str(error))


@contextmanager
def _memory(folder: Path) -> Iterator[sqlite3.Connection]:
    """What is remembered, a line per file at its place. Raises OSError and sqlite3.Error."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(sqlite3.connect(folder / f"index-{_FORMAT}.sqlite", timeout=30)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS facts (place TEXT PRIMARY KEY, facts TEXT)")
        yield database


def _recall(folder: Path | None, places: Iterable[str]) -> dict[str, VideoInfo]:
    found: dict[str, VideoInfo] = {}
    if folder is not None:
        with suppress(OSError, sqlite3.Error), _memory(folder) as database:  # a broken cache only costs time
            for place in places:
                for (text,) in database.execute("SELECT facts FROM facts WHERE place = ?", (place,)):
                    found[place] = VideoInfo(**json.loads(text))
    return found


def _remember(folder: Path | None, new: Mapping[str, VideoInfo]) -> None:
    if folder is not None and new:
        with suppress(OSError, sqlite3.Error), _memory(folder) as database:  # as of a home that is read-only
            rows = [(place, json.dumps(asdict(facts))) for place, facts in new.items()]
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
