"""A folder as a manifest: which files below it are media, and what their folders say about them."""

from __future__ import annotations

import os
from pathlib import Path

from unreel.core.errors import DataError, UsageError
from unreel.data.row import Row
from unreel.data.split_names import split_role
from unreel.media import VIDEO_SUFFIXES, kind_of


def list_folder(root: str | os.PathLike[str], *, kind: str = "auto") -> tuple[list[Row], list[str]]:
    """One row per media file below a folder, sorted by path, and what to tell; see ``Manifest.from_folder``."""
    if kind not in ("auto", "video", "image"):
        raise UsageError(f"kind must be 'auto', 'video' or 'image', got {kind!r}")
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"{base}: there is no such folder")
    found: dict[str, list[str]] = {"video": [], "image": [], "foreign": []}
    other, hidden = 0, 0
    for folder, folders, names in os.walk(base):
        hidden += sum(n.startswith(".") for n in names)
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        inside = Path(folder).relative_to(base)
        if not inside.parts and "sidecars" in folders and any(Path(folder, "sidecars").glob("*.parquet")):
            folders.remove("sidecars")  # computed facts and their masks, see data/sidecars.py
        for name in names:
            if name.startswith("."):
                continue
            media = kind_of(Path(folder, name))
            if media:
                found[media].append((inside / name).as_posix())
            else:
                other += 1
    chosen = kind if kind != "auto" else _kind_of_folder(found["video"], found["image"])
    paths = sorted(found[chosen], key=lambda p: p.split("/"))
    if not paths:
        what = "video or image" if kind == "auto" else kind
        raise DataError(
            f"{base}: no {what} file below this folder ({other} other files, {hidden} hidden ones); "
            + (_foreign(found["foreign"]) or f"known suffixes: {', '.join(sorted(VIDEO_SUFFIXES)[:8])} …")
        )
    notices = []
    left_out = len(found["image"]) if chosen == "video" else len(found["video"])
    if left_out:
        notices.append(f"{left_out} {'image' if chosen == 'video' else 'video'} files beside the {chosen}s left out")
    if found["foreign"]:
        notices.append(_foreign(found["foreign"]))
    if other:
        notices.append(f"{other} files that are no media ignored")
    if hidden:
        notices.append(f"{hidden} hidden files ignored")
    return _labelled(paths), notices


def _kind_of_folder(videos: list[str], images: list[str]) -> str:
    """Videos where there are any; but animated GIFs alone must be as many as the images beside them."""
    if all(v.lower().endswith(".gif") for v in videos) and len(videos) < len(images):
        return "image"
    return "video" if videos else "image"


def _foreign(paths: list[str]) -> str:
    if not paths:
        return ""
    suffixes = sorted({os.path.splitext(p)[1].lower() for p in paths})
    what = "1 picture in a format" if len(paths) == 1 else f"{len(paths)} pictures in formats"
    return f"{what} that cannot be read ({', '.join(suffixes)}) left out, such as {min(paths)}; convert to JPEG or PNG"


def _labelled(paths: list[str]) -> list[Row]:
    """Rows whose split and label are what their folders say, where the folders say it of every file alike.

    The first folders are splits when all their names are understood, or when train and another part are among them: a
    class may be called train, but hardly train beside test.
    """
    parts = [p.split("/")[:-1] for p in paths]
    depths = {len(p) for p in parts}
    roles = {p[0]: split_role(p[0]) for p in parts if p}
    if 0 not in depths and (None not in roles.values() or {"train"} < {role for role in roles.values() if role}):
        deep = 2 if depths <= {1, 2} else -1
        return [
            Row(path, split=roles[p[0]] or p[0], labels={"label": p[1]} if len(p) == deep else {})
            for path, p in zip(paths, parts, strict=True)
        ]
    if depths == {1}:
        return [Row(path, labels={"label": p[0]}) for path, p in zip(paths, parts, strict=True)]
    return [Row(path) for path in paths]
