"""What the data of a run were when it began, kept in its folder: a later start says what has changed since."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from unreel.core.digests import file_state, mapping_digest
from unreel.core.files import write_whole
from unreel.core.text import first_few, shown
from unreel.core.words import counted
from unreel.data.manifest import Manifest

FILE_NAME = "data.json.gz"
# Of more files only their number is kept: 100,000 take about 4 MB.
_MOST = 100_000
_DIGITS = 16
_SHOWN = 3


@dataclass(frozen=True)
class DataRecord:
    """The data of one run.

    Attributes:
        digest: ``Manifest.digest``.
        root: what paths are relative to, with links followed.
        num_files, num_rows: how many there are.
        files: path → fingerprint and state (``core.digests``). rows: path and span → digest of its labels, split and
            other columns. Both are empty where there are too many.
    """

    digest: str
    root: str
    num_files: int
    num_rows: int
    files: Mapping[str, tuple[str, str]]
    rows: Mapping[str, str]

    @classmethod
    def of(cls, manifest: Manifest) -> DataRecord:
        """A manifest's record now; reads up to 128 KiB per file. Raises DataError where a file cannot be read."""
        prints = manifest.fingerprints()
        files: dict[str, tuple[str, str]] = {}
        rows: dict[str, str] = {}
        if max(len(prints), len(manifest)) <= _MOST:
            for name, found in prints.items():
                state = file_state(os.path.join(manifest.root, name)).digest
                files[name] = (found[:_DIGITS], state[:_DIGITS])
            for row in manifest:
                name = row.path or f"{row.frames[0]}+{len(row.frames) - 1}"
                span = "" if row.start_s is None and row.end_s is None else f" from {row.start_s or 0:g} s"
                table = [row.end_s, row.frames, row.split, dict(row.labels), dict(row.groups), dict(row.files)]
                rows[name + span] = mapping_digest(table)[:_DIGITS]
        root = os.path.realpath(manifest.root)
        return cls(manifest.digest_of(prints), root, len(prints), len(manifest), files, rows)

    @classmethod
    def read(cls, folder: Path) -> DataRecord | None:
        """What a run's folder holds; None where there is none, or it cannot be read."""
        try:
            found = json.loads(gzip.decompress((folder / FILE_NAME).read_bytes()))
            return cls(**{**found, "files": {name: tuple(pair) for name, pair in found["files"].items()}})
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder, whole or not at all."""
        write_whole(folder / FILE_NAME, gzip.compress(json.dumps(asdict(self)).encode(), mtime=0))

    def changes_since(self, folder: Path) -> str:
        """What is other than when the run in this folder began, for people; the digests differ."""
        before = DataRecord.read(folder)
        if before is None:
            return "which files, it did not keep"
        numbers = f"{counted(before.num_files, 'file')} in {counted(before.num_rows, 'row')} then, "
        numbers += f"{counted(self.num_files, 'file')} in {counted(self.num_rows, 'row')} now"
        if not (before.files and self.files):
            return f"{numbers}; more than {_MOST:,} are not listed"
        old, new = before.files, self.files
        changed = [name for name in new if name in old and new[name][0] != old[name][0]]
        parts = [
            *_part("file", "added", new.keys() - old.keys()),
            *_part("file", "removed", old.keys() - new.keys()),
            *_part("file", "changed", changed),
        ]
        if new.keys() == old.keys():
            same = before.rows.keys() & self.rows.keys()
            parts += [
                *_part("row", "added", self.rows.keys() - before.rows.keys()),
                *_part("row", "removed", before.rows.keys() - self.rows.keys()),
                *_part("row", "given other columns", [r for r in same if before.rows[r] != self.rows[r]]),
            ]
        return f"{'; '.join(parts) or 'the rows are in another order, or repeated otherwise'} ({numbers})"

    def doubts_since(self, folder: Path) -> str:
        """Why data of the same digest may be other data than when the run began, for people; empty where they are not.

        Files elsewhere, or with other times, whose names, sizes and ends agree may differ in their middle.
        """
        before = DataRecord.read(folder)
        if before is None or before.digest != self.digest:
            return ""
        agree = "their names, sizes, beginnings and ends are the same, and they are taken to be the same files"
        if before.root != self.root:
            places = f"the data lie below {shown(self.root)}, and lay below {shown(before.root)} when the run began"
            return f"{places}; {agree}"
        touched = [name for name, (_, state) in self.files.items() if before.files.get(name, ("", state))[1] != state]
        if not touched:
            return ""
        found = counted(len(touched), "file")
        return f"{found} of the data were written or touched since the run began ({_some(touched)}); {agree}"


def _part(what: str, how: str, names: Iterable[str]) -> list[str]:
    listed = [*names]
    return [f"{counted(len(listed), what)} {how}: {_some(listed)}"] if listed else []


def _some(names: Iterable[str]) -> str:
    return first_few([*map(shown, sorted(names))], _SHOWN)
