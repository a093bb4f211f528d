"""What a folder or a table holds: the Python twin of ``unreel data index``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unreel.core.errors import UsageError
from unreel.core.files import check_file
from unreel.core.progress import Progress, format_seconds
from unreel.core.text import listed
from unreel.core.words import plural
from unreel.data.columns import Columns
from unreel.data.folders import Kind, Warned
from unreel.data.index import IndexFault
from unreel.data.index import index as probe_all
from unreel.data.manifest import Manifest, Source
from unreel.protocols.compute import sorted_options


@dataclass(frozen=True)
class IndexSummary:
    """What a folder or a table holds, once every file has been probed."""

    manifest: Manifest
    faults: tuple[IndexFault, ...]
    written: Path | None

    def to_plain(self) -> dict[str, object]:
        facts = [row.facts for row in self.manifest if row.facts is not None]
        seconds = [row.seconds for row in self.manifest if row.facts is not None]
        return {
            "sources": len(self.manifest),
            "files": len({(row.path, row.frames) for row in self.manifest}),
            "readable": len(facts),
            "hours": round(sum(seconds) / 3600, 4),
            "sizes": dict(Counter(f"{f.width}x{f.height}" for f in facts).most_common()),
            "codecs": dict(Counter(f.codec for f in facts).most_common()),
            "with_sound": sum(f.has_audio for f in facts),
            "shortest_s": round(min(seconds, default=0.0), 3),
            "longest_s": round(max(seconds, default=0.0), 3),
            "splits": dict(Counter(row.split for row in self.manifest if row.split)),
            "labels": {name: len({*self.manifest.labels(name)} - {""}) for name in self.manifest.label_names},
            "groups": {name: len({*self.manifest.groups(name)} - {""}) for name in self.manifest.group_names},
            "notices": list(self.manifest.notices),
            "faults": [fault._asdict() for fault in self.faults],
            "manifest": str(self.written) if self.written else None,
        }

    def text(self) -> str:
        plain: dict[str, Any] = self.to_plain()
        facts = [row.facts for row in self.manifest if row.facts is not None]
        seconds = sum(row.seconds for row in self.manifest)

        def counted(values: Mapping[str, int], most: int = 6) -> str:
            shown = ", ".join(f"{name}: {count}" for name, count in list(values.items())[:most])
            return shown + (f" … ({len(values)} in all)" if len(values) > most else "")

        readable = f"{plain['readable']} readable of {plain['sources']}"
        if self.manifest.only_images:
            lines, sound = [f"images    {readable}"], ""
        else:
            lines, sound = [f"videos    {readable}, {format_seconds(seconds)} in all"], "; with sound: {with_sound}"
            if plain["files"] < plain["sources"]:
                files = "1 file" if plain["files"] == 1 else f"{plain['files']} files"
                lines.append(f"spans     {plain['sources']} of {files}, each with its own length")
            lines += [f"length    {plain['shortest_s']:g} to {plain['longest_s']:g} s"] if facts else []
        if facts:
            lines.append(f"size      {counted(plain['sizes'])}")
            lines.append(f"codec     {counted(plain['codecs'])}{sound.format_map(plain)}")
        if plain["splits"]:
            lines.append(f"splits    {counted(plain['splits'])}")
        for kind in ("label", "group"):
            for name, count in plain[f"{kind}s"].items():
                what = ("class", "classes") if kind == "label" else ("group", "groups")
                lines.append(f"{kind:<9} {'' if name == kind else name + ': '}{count} {what[count != 1]}")
        lines += [
            f"{'warning' if isinstance(notice, Warned) else 'note':<9} {notice}" for notice in self.manifest.notices
        ]
        lines += listed("fault     ", [fault.message for fault in self.faults])
        if self.written:
            lines.append(f"wrote     {self.written}")
        return "\n".join(lines)


def index(
    data: Source,
    *,
    out: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    kind: Kind | None = None,
    decode: bool = False,
    workers: int = 2,
    **columns: str | None,
) -> IndexSummary:
    """Probe every source, and write a manifest (.csv or .parquet) with what was found.

    Args:
        data: a folder, a manifest, or a list of paths.
        out: the manifest to write, which finds its files from where it lies.
        root: what the paths of a table are relative to; its own folder by default.
        kind: how the files of a folder are taken, whatever table lies in it, see ``Manifest.from_folder``.
        decode: decode every frame of every file, to find what is damaged further on.
        workers: files probed at a time.
        columns: path, label, group, split, start, end: the columns of a table, see ``Columns``.

    Raises: DataError for missing files or an empty folder; UsageError for another suffix; WriteError, before any file
        is opened, where ``out`` cannot be written.
    """
    target = Path(out) if out is not None else None
    if target is not None and target.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{target}: a manifest ends in .csv or .parquet")
    if target is not None:
        check_file(target)
    if kind is None:
        (chosen,) = sorted_options(columns, Columns)
        manifest = Manifest.open(data, root=root, columns=chosen, tell=False)  # the summary does
    elif isinstance(data, str | os.PathLike) and os.path.isdir(data):
        manifest = Manifest.from_folder(data, kind=kind)
    else:
        raise UsageError(f"kind {kind}: it says how the files of a folder are taken, and the data is no folder")
    with Progress("index", len(manifest), unit=plural(manifest.noun)) as bar:
        indexed = probe_all(manifest, workers=workers, decode=decode, progress=bar)
    if target is not None:
        write = indexed.manifest.to_csv if target.suffix.lower() == ".csv" else indexed.manifest.to_parquet
        write(target)
    return IndexSummary(indexed.manifest, tuple(indexed.faults), target)
