"""Sidecars: facts computed once per source, before times or crops are drawn from them.

A fact is keyed by what the source is and by what computed it (name, version and settings of its producer). A source is
itself by its place as seen from the table and its state, so that a table beside the data moves with it; where these do
not agree, by all its bytes (``core.digests``). A table is one Parquet file; ``unreel data annotate`` writes it, and a
run that needs it stops at the start where it is missing.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from unreel.core.checks import Range, checked
from unreel.core.digests import FileState, content_digest, file_state, mapping_digest
from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.core.files import append, check_folder, claimed, replacing
from unreel.core.text import shown
from unreel.data.contracts import LUMA
from unreel.data.index import cache_folder
from unreel.data.loader import iterate_rows
from unreel.data.manifest import Manifest
from unreel.data.workers import WorkerContext
from unreel.media import Decoder, MediaError, UnreadableError, decoder_for

Values: TypeAlias = Mapping[str, Any]

# Columns of the table besides the producer's own, which are prefixed "value.".
_KEYS = ("path", "size", "state", "content", "error")
_DIGITS = 16
_MADE_BY = b"unreel.producer"


class Versioned(Protocol):
    """What facts are called and what they depend on.

    ``version`` rises whenever the same file would give other facts; ``settings`` holds whatever else changes them.
    """

    @property
    def name(self) -> str:
        """What the fact is called on the command line and in ``Method.sidecars``."""

    @property
    def version(self) -> int:
        """Raised when the computation changes."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Plain values that the facts depend on."""


@runtime_checkable
class Producer(Versioned, Protocol):
    """Computes the facts of one source. Picklable, and a pure function of the file's content."""

    def compute(self, path: Path) -> Values:
        """Facts by name: numbers, text, or lists of them; the same names for every source. Raises MediaError."""


class Found(NamedTuple):
    """The facts of one source, or why there are none."""

    row: int
    problem: str | None
    values: Values


@runtime_checkable
class SetProducer(Versioned, Protocol):
    """Computes the facts of many sources together, because each depends on others."""

    def compute_all(
        self, sources: Manifest, rows: Collection[int], *, table: Path, workers: int = 0
    ) -> Iterator[Found]:
        """The facts of ``rows``, in any order; for one and the same ``sources`` they do not depend on ``rows``.

        Args:
            sources: whole files, each once. Which they are, in which order, and how they are grouped is part of
                what the table is called.
            rows: those whose facts are missing.
            table: where the table will be; files that belong to it lie beside it, in a folder of its name.
            workers: processes that decode.
        """


_DECODE_BYTES = 64 * 1024 * 1024


@checked
@dataclass(frozen=True)
class MotionEnergy:
    """Mean absolute change of luma, per second, at low resolution: where in a video something moves.

    Facts: ``per_second`` list of floats, luma (0 to 1) per second averaged over each second from the first frame on;
    ``mean`` their mean over the video; ``duration_s`` from the first frame used to the last.

    Args:
        size_px: frames are averaged down to this square, which leaves sensor noise out.
        fps: at most this many frames per second are looked at.
    """

    size_px: Annotated[int, Range(ge=1, unit="px")] = 32
    fps: Annotated[float, Range(gt=0, unit="Hz")] = 8.0

    name = "motion_energy"
    version = 1

    @property
    def settings(self) -> Mapping[str, object]:
        return {"size_px": self.size_px, "fps": self.fps}

    def compute(self, path: Path) -> Values:
        """The facts of one video, image or frame folder. Raises MediaError."""
        decoder = decoder_for(path)
        times = decoder.frame_times(path)
        ticks = np.arange(times[0], times[-1] + 1e-6, 1 / self.fps)
        indices = np.unique(np.searchsorted(times, ticks + 1e-6, side="right") - 1).astype(np.int64)
        if len(indices) < 2:
            return {"per_second": [0.0], "mean": 0.0, "duration_s": 0.0}
        changes = np.array(list(self._changes(decoder, path, indices)))
        # Each change is spread over the time between its two frames; C(t) is all change up to t.
        shown = times[indices] - times[indices[0]]
        total = np.concatenate([[0.0], np.cumsum(changes)])
        edges = np.append(np.arange(0.0, np.ceil(shown[-1])), shown[-1])
        rates = np.diff(np.interp(edges, shown, total)) / np.diff(edges)
        return {
            "per_second": rates.tolist(),
            "mean": float(total[-1] / shown[-1]),
            "duration_s": float(shown[-1]),
        }

    def _changes(self, decoder: Decoder, path: Path, indices: NDArray[np.int64]) -> Iterator[float]:
        """Mean absolute luma difference of consecutive frames: len(indices) − 1 values."""
        info = decoder.probe(path)
        together = max(2, _DECODE_BYTES // (info.width * info.height * 3))
        before: torch.Tensor | None = None
        for begin in range(0, len(indices), together):
            pixels = torch.from_numpy(decoder.read(path, indices=indices[begin : begin + together]).pixels)
            small = torch.stack([self._reduce(frame) for frame in pixels])
            if before is not None:
                small = torch.cat([before, small])
            yield from (small[1:] - small[:-1]).abs().mean((1, 2)).tolist()
            before = small[-1:]

    def _reduce(self, frame: torch.Tensor) -> torch.Tensor:
        """(H, W, 3) uint8 to (size, size) luma in [0, 1]; averages first, so that no large float frame is made."""
        planes = frame.permute(2, 0, 1)[None].to(torch.float32)
        small = functional.adaptive_avg_pool2d(
            planes, (min(self.size_px, frame.shape[0]), min(self.size_px, frame.shape[1]))
        )
        return (small[0] * torch.tensor(LUMA)[:, None, None]).sum(0) / 255


PRODUCERS: dict[str, Callable[[], Producer]] = {"motion_energy": MotionEnergy}


# Facts that a trained encoder finds; ``unreel.explain.producers`` makes their producers.
LEARNED = ("boxes", "masks")


def producer_digest(producer: Versioned) -> str:
    """32 hex digits for name, version and settings."""
    return mapping_digest([producer.name, producer.version, dict(producer.settings)])


class _ForSources(NamedTuple):
    """A producer of a set as ``Versioned``, for one set: its facts depend on all of it."""

    name: str
    version: int
    settings: Mapping[str, object]


def for_sources(producer: Versioned, sources: Manifest) -> Versioned:
    """What a set producer's table is made by: the producer, and the digest of its sources in their order.

    Paths relative to the root and groups count, not contents: a file that changed is computed again by itself.
    """
    listed = [[sources.relative(row), entry.groups.get("group", "")] for row, entry in enumerate(sources.rows)]
    settings = {**producer.settings, "sources": {"count": len(listed), "digest": mapping_digest(listed)}}
    return _ForSources(producer.name, producer.version, settings)


def annotate_command(name: str, data: str | os.PathLike[str]) -> str:
    """The shell command that computes a fact for ``data``; RUN in it is for people to replace."""
    return f"unreel data annotate {name} {shlex.quote(os.fspath(data))}" + " --encoder RUN" * (name in LEARNED)


def create_producer(name: str, *, data: str | os.PathLike[str] = "DATA") -> Producer:
    """A producer with its default settings, by name; ``data`` is what an error's command says.

    Raises: UsageError for an unknown name, or a learned fact's.
    """
    if name in LEARNED:
        raise UsageError(
            f"{name} are found by an encoder, and none was given; run\n  {annotate_command(name, data)}\n"
            "where RUN is the folder of a finished run, or an encoder's file (.safetensors)"
        )
    if name not in PRODUCERS:
        raise unknown_name("sidecar", name, [*PRODUCERS, *LEARNED])
    return PRODUCERS[name]()


def default_folder(manifest: Manifest) -> Path:
    """Where tables are kept unless told otherwise: in the cache, by the root of the data."""
    return cache_folder() / "sidecars" / mapping_digest([os.path.realpath(manifest.root)])[:_DIGITS]


def table_path(folder: str | os.PathLike[str], producer: Versioned) -> Path:
    """The table of one producer in a folder."""
    return Path(folder) / f"{producer.name}-{producer_digest(producer)[:_DIGITS]}.parquet"


def place_beside(table: Path, source: Path) -> str:
    """Where a source is, seen from a table: the same when both are moved together."""
    return shown(Path(os.path.relpath(os.path.realpath(source), os.path.realpath(table.parent))).as_posix())


def file_beside(table: Path, source: Path, suffix: str) -> Path:
    """Where a producer's file for one source goes, as the table names it: one source's is never another's."""
    name = mapping_digest([place_beside(table, source)])[:_DIGITS]
    return Path(table.stem, name[:2], f"{shown(source.stem)[:40]}-{name}{suffix}")


@lru_cache(maxsize=100_000)
def _content(file: str, state: FileState) -> str:
    """All bytes of a file that is in this state: read once per process."""
    del state
    return content_digest(file)


class _Entry(NamedTuple):
    """One line of a table: a source's place beside it, size, state and content when it was computed, and the facts."""

    path: str
    size: int
    state: str
    content: str
    error: str | None
    values: dict[str, Any]


class _Table:
    """Entries by place, and by content for files that lie elsewhere or have other times; those of a file, if any.

    Raises: DataError for a file that is no table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_place: dict[str, _Entry] = {}
        self._by_content: dict[str, _Entry] = {}
        self._sizes: set[int] = set()
        if path.exists():
            self._read()

    def add(self, entry: _Entry) -> None:
        self._by_place[entry.path] = entry
        self._by_content[entry.content] = entry
        self._sizes.add(entry.size)

    def entry(self, source: Path, before: FileState, problem: str | None, values: Values) -> _Entry:
        """A source's entry, whose facts were computed after it was in the state ``before``."""
        content = _content(os.path.realpath(source), before)
        same = file_state(source) == before  # else what was computed may be of another file than what was read here
        return _Entry(
            place_beside(self.path, source), *before, content if same else "", problem and shown(problem), dict(values)
        )

    def find(self, source: Path) -> _Entry | None:
        """A source's entry: found by its entry in its folder where it is as it was, else by its bytes."""
        if not self._by_place:
            return None
        state = file_state(source)
        known = self._by_place.get(place_beside(self.path, source))
        if known is not None and (known.size, known.state) == state:
            return known
        return self._by_content.get(_content(os.path.realpath(source), state)) if state.size in self._sizes else None

    def renew(self, source: Path) -> bool:
        """Whether a source has facts; from here on they belong to its place and state of now."""
        known = self.find(source)
        if known is None or known.error is not None:  # what failed is tried again: another version may read it
            return False
        self.add(known._replace(path=place_beside(self.path, source), state=file_state(source).digest))
        return True

    def _read(self) -> None:
        """Add the entries of the Parquet table. Raises DataError where it cannot be read."""
        import pyarrow.parquet as parquet

        try:
            table = parquet.read_table(self.path)
            if _MADE_BY in (table.schema.metadata or {}) and "state" not in table.column_names:
                return  # of an older unreel, which took files for one another
            for record in table.to_pylist():
                place, size, state, content, error = (record[k] for k in _KEYS)
                values = {k.removeprefix("value."): v for k, v in record.items() if k.startswith("value.")}
                self.add(_Entry(place, size, state, content, error, {} if error is not None else values))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.path}: not a sidecar table ({error}); delete it and annotate again") from None

    def read_journal(self, journal: Path) -> None:
        """Add the entries of an unfinished run; a last line that was cut off is left out."""
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                entry = _Entry(*json.loads(line))
            except (ValueError, TypeError):
                continue
            self.add(entry)

    def write(self, producer: Versioned) -> None:
        """The Parquet table, whole or not at all, with what made it."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        entries = sorted(self._by_place.values(), key=lambda e: e.path)  # one per place: its latest
        names = list(dict.fromkeys(k for e in entries for k in e.values))
        records = [
            {
                **{k: getattr(entry, k) for k in _KEYS},
                **{f"value.{name}": entry.values.get(name) for name in names},
            }
            for entry in entries
        ]
        made_by = {"name": producer.name, "version": producer.version, "settings": dict(producer.settings)}
        table = pa.Table.from_pylist(records)
        metadata = {**(table.schema.metadata or {}), _MADE_BY: json.dumps(made_by).encode()}
        with replacing(self.path) as partial:
            parquet.write_table(table.replace_schema_metadata(metadata), partial)


class Annotation(NamedTuple):
    """What annotating did: the table, how many sources were computed and how many were known, and what failed."""

    table: Path
    computed: int
    known: int
    failed: list[tuple[str, str]]


def _compute(manifest: Manifest, producer: Producer, row: int, context: WorkerContext) -> Found:
    path = manifest.relative(row)
    if path in context.quarantine:
        return Found(row, context.quarantine[path], {})
    context.publish(row)
    try:
        return Found(row, None, dict(producer.compute(manifest.absolute(row))))
    except MediaError as error:
        return Found(row, str(error), {})


def annotate(
    manifest: Manifest,
    producer: Producer | SetProducer,
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
    timeout_s: float = 600.0,
) -> Annotation:
    """Compute a producer's facts for every source that has none yet.

    A run that was stopped goes on where it was: every source is written to a journal beside the table, and the table
    itself appears whole at the end. A source that cannot be read gets an entry that says so. Facts that depend on the
    other sources (``SetProducer``) have a table of their own for every set of sources.

    Args:
        manifest: whose sources. Rows with spans of one file share one entry.
        producer: what to compute.
        out: the folder for the table; None is the cache. ``require`` finds it there, in the cache, and in the
            folder ``sidecars`` of the manifest's root.
        progress: called with (sources done, sources in all).
        workers: processes that compute; 0 computes in this one.
        timeout_s: how long a worker may have one source in hand before it is given up.
    Raises: DataError for an empty manifest, rows that list frames, missing files; BusyError for a second run on the
        same table; WriteError where the folder cannot be written.
    """
    if not len(manifest):
        raise DataError(f"the manifest of {manifest.root} has no rows; there is nothing to annotate")
    for i, entry in enumerate(manifest.rows):
        if entry.frames:
            raise DataError(
                f"{manifest.relative(i)}: sidecars are computed per file or folder, and row {i} lists single frames"
            )
    manifest.check_files()
    folder = Path(out) if out is not None else default_folder(manifest)
    check_folder(folder)
    first_row: dict[str, int] = {}
    for i in range(len(manifest)):
        first_row.setdefault(manifest.relative(i), i)
    rows = list(first_row.values())
    whole = replace(manifest, rows=tuple(replace(manifest.rows[row], start_s=None, end_s=None) for row in rows))
    maker: Versioned = producer if isinstance(producer, Producer) else for_sources(producer, whole)
    target = table_path(folder, maker)
    journal = target.with_suffix(".journal")
    with claimed(folder, only=target.name):
        table = _Table(target)
        if journal.exists():
            table.read_journal(journal)
            append(journal, "\n")  # a killed run may have left half a line
        before = {row: file_state(manifest.absolute(row)) for row in rows}
        missing = [row for row in rows if not table.renew(manifest.absolute(row))]
        total, known = len(rows), len(rows) - len(missing)
        if progress is not None:
            progress(known, total)
        results: Iterable[Found] = ()
        if isinstance(producer, Producer):
            job = partial(_compute, manifest, producer)
            results = iterate_rows(job, manifest, missing, workers=workers, timeout_s=timeout_s, most=math.inf)
        elif missing:
            place = {row: i for i, row in enumerate(rows)}
            of_set = producer.compute_all(whole, [place[row] for row in missing], table=target, workers=workers)
            results = (one._replace(row=rows[one.row]) for one in of_set)
        for done, (row, problem, values) in enumerate(results, 1):
            found = table.entry(manifest.absolute(row), before[row], problem, values)
            append(journal, json.dumps(found) + "\n")
            table.add(found)
            if progress is not None:
                progress(known + done, total)
        table.write(maker)
        journal.unlink(missing_ok=True)
    entries = [(manifest.relative(row), table.find(manifest.absolute(row))) for row in rows]
    failed = [(path, e.error) for path, e in entries if e is not None and e.error is not None]
    return Annotation(target, len(missing), known, failed)


class Sidecar:
    """One producer's facts for the rows of one manifest; ``ClipDataset`` takes them by name."""

    def __init__(self, name: str, manifest: Manifest, entries: Sequence[_Entry]) -> None:
        self.name = name
        self._manifest = manifest
        self._entries = tuple(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def value(self, row: int) -> Values:
        """The facts of a row's source. Raises UnreadableError where they could not be computed."""
        entry = self._entries[row]
        if entry.error is not None:
            raise UnreadableError(self._manifest.absolute(row), f"has no {self.name} ({entry.error})")
        return entry.values


def require(
    names: Iterable[str | Producer], manifest: Manifest, *, folder: str | os.PathLike[str] | None = None
) -> dict[str, Sidecar]:
    """The sidecars of these names for every row of a manifest.

    Args:
        names: of sidecars with their default settings, or producers.
        manifest: whose rows.
        folder: where the tables are; None looks in ``sidecars`` below the manifest's root, then in the cache.
    Returns: by name.
    Raises: DataError where facts are missing, naming the command that makes them; UsageError for an unknown name.
    """
    found: dict[str, Sidecar] = {}
    for item in names:
        producer = create_producer(item, data=manifest.root) if isinstance(item, str) else item
        folders = _folders(manifest) if folder is None else [Path(folder)]
        tables = [file for f in folders if (file := table_path(f, producer)).exists()]
        out = "" if folder is None else f" --out {shlex.quote(os.fspath(folder))}"
        advice = f"run\n  {annotate_command(producer.name, manifest.root)}{out}"
        found[producer.name] = _sidecar(producer.name, manifest, tables, advice)
    return found


def _folders(manifest: Manifest) -> list[Path]:
    return [Path(manifest.root, "sidecars"), default_folder(manifest)]


def _entries(manifest: Manifest, paths: Sequence[Path]) -> list[_Entry | None]:
    """For every row the first entry that these tables have of its source."""
    tables = [_Table(path) for path in paths]
    known: dict[Path, _Entry | None] = {}
    for source in map(manifest.absolute, range(len(manifest))):
        if source not in known:
            known[source] = next(filter(None, (table.find(source) for table in tables)), None)
    return [known[manifest.absolute(i)] for i in range(len(manifest))]


def _sidecar(name: str, manifest: Manifest, paths: Sequence[Path], advice: str, where: str = "") -> Sidecar:
    entries = _entries(manifest, paths)
    missing = list(dict.fromkeys(manifest.relative(i) for i, entry in enumerate(entries) if entry is None))
    if missing:
        sources = len({manifest.relative(i) for i in range(len(manifest))})
        raise DataError(
            f"{where}sidecar {name!r} is missing for {len(missing)} of {sources} sources of {manifest.root} "
            f"(first: {missing[0]}); {advice}"
        )
    return Sidecar(name, manifest, [entry for entry in entries if entry is not None])


def made_by(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What made a table: ``name``, ``version`` and ``settings`` of its producer; empty where it does not say."""
    import pyarrow.parquet as parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:
        raise DataError(f"{os.fspath(path)}: not a sidecar table ({error})") from None
    found: dict[str, Any] = json.loads(metadata.get(_MADE_BY, b"{}"))
    return found


def find_tables(name: str, manifest: Manifest) -> list[Path]:
    """Tables of facts of this name for a manifest, whatever settings made them.

    Those in ``sidecars`` below the manifest's root come first, then those in the cache.
    """
    return [path for folder in _folders(manifest) for path in sorted(folder.glob(f"{name}-*.parquet"))]


def count_known(path: Path, manifest: Manifest) -> int:
    """How many rows a table has an entry for. Raises DataError for a file that is no table."""
    return sum(entry is not None for entry in _entries(manifest, [path]))


def open_table(path: Path, manifest: Manifest, name: str) -> Sidecar:
    """One table's facts for every row. Raises DataError for rows it does not know, or a file that is no table."""
    return _sidecar(name, manifest, [path], f"run `unreel data annotate {name}` on them again", f"{path}: ")
