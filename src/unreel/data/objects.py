"""Where the objects are: boxes and masks of a source, computed (``cam``) or given with the data (``gt``).

Two kinds of facts, each from one of two places. A name says which:

* ``boxes`` — the sidecar that ``unreel data annotate boxes`` writes; ``file.boxes`` — the manifest's column;
* ``masks`` — the sidecar of ``unreel data annotate masks``; ``file.mask`` — the manifest's column.

**Boxes** are x1 y1 x2 y2 as shares of the frame. A sidecar holds per source ``boxes`` (N, 4), over the whole video, and
for tubelets also ``tube_times_s``, N lists of presentation times, and ``tube_boxes``, N lists of a box per time. A
``file.boxes`` is a NumPy archive of the same names (``.npz``), an (N, 4) array (``.npy``), or a text that several rows
share (``unreel.data.boxes``). All hold their margin already, and none of what is too small (docs/methods/contracam.md,
Boxes).

**Masks**: a sidecar holds ``file``, the path of a mask beside the table. A mask file is a picture, a folder with a
picture per frame, an array (``.npy``: (1 or T, h, w)), or an archive (``.npz``) of ``masks`` (T', h, w) and, where
these are not the file's frames one by one, ``times_s`` (T',): the nearest in time is taken. Levels of 8 bits are shares
of 255. Of a manifest's own mask whatever is not zero is object, since data sets number their objects. A row without a
mask has no object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unreel.core.errors import DataError, UsageError
from unreel.data.boxes import manifest_boxes
from unreel.data.contracts import FrameSize, SidecarLike
from unreel.data.manifest import Manifest
from unreel.data.rows import AlignedSource, load_arrays
from unreel.data.sidecars import (
    LEARNED,
    Sidecar,
    annotate_command,
    count_known,
    find_tables,
    made_by,
    open_table,
    require,
)
from unreel.media import IMAGE_SUFFIXES, TooShortError, UnreadableError
from unreel.media.image import ImageDecoder

Boxes = NDArray[np.float64]

MASK = "mask"
"""Key of the mask in ``View.aligned``, whichever place it came from."""
_DIGEST = re.compile(r"[0-9a-f]{16,}")
_TIME_SLACK_S = 1e-6
_NONE = "no-mask"  # stands for the file where a row has none


class ClipBoxes(NamedTuple):
    """Boxes of N objects, (N, 4) shares of the frame: within one clip, and over the whole video."""

    boxes: Boxes
    whole: Boxes


@dataclass(frozen=True)
class Tube:
    """One object through time: ``times_s`` (F,) ascending presentation times, ``boxes`` (F, 4) shares."""

    times_s: NDArray[np.float64]
    boxes: Boxes

    def tube_box(self, times_s: NDArray[np.float64]) -> Boxes | None:
        """The least box (4,) around it in the frames of these times; None where it is in none.

        Source: docs/methods/contracam.md, Video.

        A frame has the box that is nearest in time, up to half of the usual distance between boxes. For an object that
        was seen once, this is the distance between the frames.
        """
        spaced = self.times_s if len(self.times_s) > 1 else np.sort(times_s)
        reach = (0.5 * float(np.median(np.diff(spaced))) if len(spaced) > 1 else 0.0) + _TIME_SLACK_S
        distance = np.abs(times_s[:, None] - self.times_s[None])
        nearest = distance.argmin(1)
        chosen = self.boxes[nearest[distance.min(1) <= reach]]
        return _union(chosen) if len(chosen) else None


def _union(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


@dataclass(frozen=True)
class ObjectBoxes:
    """The objects of one source: ``boxes`` (N, 4) over the whole of it, and ``tubes``, none or N."""

    boxes: Boxes
    tubes: tuple[Tube, ...] = ()

    @classmethod
    def of(cls, value: object) -> ObjectBoxes:
        """From what a sidecar or a file holds: None, (N, 4) numbers, or a mapping as described above.

        Boxes that are not finite are absent. Raises DataError for something else.
        """
        found: Mapping[str, Any] = value if isinstance(value, Mapping) else {"boxes": value}
        try:
            tubes = []
            for times, boxes in zip(_list(found, "tube_times_s"), _list(found, "tube_boxes"), strict=True):
                at, where = np.asarray(times, dtype=np.float64), _four(boxes)
                known = np.isfinite(where).all(1)
                order = np.argsort(at[known], kind="stable")
                if len(order):
                    tubes.append(Tube(at[known][order], where[known][order]))
            if tubes:
                return cls(np.stack([_union(tube.boxes) for tube in tubes]), tuple(tubes))
            whole = _four(found.get("boxes"))
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"not boxes x1 y1 x2 y2: {error}") from None
        return cls(whole[np.isfinite(whole).all(1)])

    def of_clips(self, times_s: Sequence[NDArray[np.float64]], view: int) -> ClipBoxes:
        """The boxes for clip number ``view`` of a sample whose clips have these times.

        A tubelet that is in every clip of the sample has the box of its frames there. One that some clip lacks has the
        union of everything in the video, in all clips, so that views of one choice show one thing.
        """
        if not self.tubes:
            return ClipBoxes(self.boxes, self.boxes)
        everything = _union(self.boxes)
        rows = []
        for tube in self.tubes:
            parts = [tube.tube_box(np.asarray(clip)) for clip in times_s]
            here = parts[view]
            rows.append(everything if here is None or any(part is None for part in parts) else here)
        return ClipBoxes(np.stack(rows), self.boxes)


def _list(found: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = found.get(name)
    return () if value is None else value


def _four(boxes: Any) -> Boxes:
    return np.zeros((0, 4)) if boxes is None else np.asarray([*boxes], dtype=np.float64).reshape(-1, 4)


# ------------------------------------------------------------------------------------------------------- files of boxes


class BoxesColumn:
    """``file.boxes`` of a manifest as a sidecar; a row without it has no boxes.

    Raises: DataError where no row has one.
    """

    def __init__(self, manifest: Manifest) -> None:
        if "boxes" not in manifest.file_names:
            raise DataError(_no_column("boxes", "a file of boxes per row, or one text for all", manifest))
        self.manifest = manifest
        files = [manifest.file(row, "boxes") for row in range(len(manifest))]
        listed = [row for row, file in enumerate(files) if file is not None and file.suffix.lower() == ".txt"]
        # Texts are read once, here, whichever process asks later.
        self._listed = dict(zip(listed, manifest_boxes(manifest.subset(listed)), strict=True))

    def value(self, row: int) -> ObjectBoxes:
        """Boxes of a row. Raises MissingFileError, UnreadableError."""
        path = self.manifest.file(row, "boxes")
        if path is None:
            return ObjectBoxes(np.zeros((0, 4)))
        known = self._listed.get(row)
        return ObjectBoxes.of(load_arrays(path)) if known is None else ObjectBoxes(known)


def _no_column(role: str, holds: str, manifest: Manifest) -> str:
    """What to do without a column that was asked for: add it, or have an encoder find what it would hold."""
    name, switch = ("boxes", "object_crop") if role == "boxes" else ("masks", "bg_mixup")
    return (
        f"no row of {manifest.root} has file.{role}; add that column ({holds}), or take {name} that an encoder finds: "
        f"run\n  {annotate_command(name, manifest.root)}\nwhere RUN is a finished run, and train with "
        f"--{switch.replace('_', '-')} cam (from Python: {switch}='cam')"
    )


@dataclass(frozen=True)
class _BoxesTable:
    """The computed sidecar."""

    table: Sidecar

    def value(self, row: int) -> ObjectBoxes:
        return ObjectBoxes.of(self.table.value(row))


# ------------------------------------------------------------------------------------------------------- files of masks


def read_mask(
    path: Path,
    indices: NDArray[np.int64],
    times_s: NDArray[np.float64],
    size: FrameSize,
    *,
    binary: bool = False,
) -> Tensor:
    """The mask of some frames, (T or 1, H, W) float32 in [0, 1], resized to the frames (bilinear).

    Args:
        path: a picture, a folder with a picture per frame, a ``.npy`` or a ``.npz``, see above.
        indices: (T,) frames in the file. times_s: (T,) when they are shown.
        size: size of the frames.
        binary: whatever is not zero is 1.
    Raises: MissingFileError, UnreadableError; TooShortError where the masks end before the frames.
    """
    if path.name == _NONE:
        return torch.zeros(1, size.height, size.width)
    masks = _levels(path, indices, times_s)
    if binary:
        masks = (masks != 0).to(torch.float32)
    else:
        masks = masks.to(torch.float32) / 255 if masks.dtype == torch.uint8 else masks.to(torch.float32)
    if tuple(masks.shape[1:]) == (size.height, size.width):
        return masks
    return functional.interpolate(masks[None], size=(size.height, size.width), mode="bilinear", align_corners=False)[0]


def read_classes(path: Path, indices: NDArray[np.int64], times_s: NDArray[np.float64], size: FrameSize) -> Tensor:
    """A mask of some frames as numbers of classes, (T or 1, H, W) int64; the nearest pixel's where sizes differ.

    Arguments and errors as ``read_mask``.
    """
    masks = _levels(path, indices, times_s).to(torch.float64)
    if tuple(masks.shape[1:]) != (size.height, size.width):
        masks = functional.interpolate(masks[None], size=(size.height, size.width), mode="nearest-exact")[0]
    return masks.to(torch.int64)


def _levels(path: Path, indices: NDArray[np.int64], times_s: NDArray[np.float64]) -> Tensor:
    """A mask of some frames (T or 1, h, w) as it is in the file."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        _check_long(path, len(files), indices)
        levels = np.stack([_picture(files[i]) for i in (indices if len(files) > 1 else [0])])
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        levels = _picture(path)[None]
    else:
        levels = _masks_of(path, indices, times_s)
    return torch.from_numpy(np.array(levels))


def _picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(ImageDecoder().read(path, indices=np.zeros(1, dtype=np.int64)).pixels[0].max(-1))


def _masks_of(path: Path, indices: NDArray[np.int64], times_s: NDArray[np.float64]) -> NDArray[Any]:
    found = load_arrays(path)
    masks = found.get("masks") if isinstance(found, dict) else found
    if masks is None or masks.ndim not in (2, 3) or not len(masks):
        raise UnreadableError(path, "holds no masks (T, h, w)")
    if masks.ndim == 2:
        return masks[None]  # type: ignore[no-any-return]
    if len(masks) == 1:
        return masks  # type: ignore[no-any-return]
    if isinstance(found, dict) and "times_s" in found:
        nearest = np.abs(times_s[:, None] - found["times_s"][None]).argmin(1)
        return masks[nearest]  # type: ignore[no-any-return]
    _check_long(path, len(masks), indices)
    return masks[indices]  # type: ignore[no-any-return]


def _check_long(path: Path, length: int, indices: NDArray[np.int64]) -> None:
    if not length:
        raise UnreadableError(path, "holds no masks")
    if length > 1 and length <= indices.max():
        raise TooShortError(path, f"has {length} masks where frame {int(indices.max())} was asked for")


# --------------------------------------------------------------------------------------------------------- for a method


@dataclass(frozen=True)
class ObjectFacts:
    """What a method needs to know of its sources: for ``ClipDataset``.

    ``manifest``: the rows, with the computed masks as files. ``tables``: the sidecar tables that were read, by name.
    """

    manifest: Manifest
    sidecars: dict[str, SidecarLike]
    aligned: tuple[AlignedSource, ...] = ()
    tables: dict[str, str] = field(default_factory=dict)


def open_facts(
    manifest: Manifest,
    sidecars: Iterable[str] = (),
    aligned: Iterable[str] = (),
    *,
    tables: Mapping[str, str | None] | None = None,
) -> ObjectFacts:
    """Everything that a method names, for every row.

    Args:
        manifest: the rows.
        sidecars: names of facts: ``boxes``, ``file.boxes``, or a sidecar of ``unreel.data.sidecars``.
        aligned: names of masks: ``masks`` or ``file.mask``.
        tables: which of several tables of ``boxes`` or ``masks``: a path, or a file's name without its suffix.
    Raises: DataError where something is missing, naming the command that makes it; UsageError for several tables to
        choose from, or an unknown name.
    """
    used: dict[str, str] = {}

    def computed(name: str) -> tuple[Path, Sidecar]:
        path = choose_table(name, manifest, (tables or {}).get(name))
        used[name] = str(path)
        return path, open_table(path, manifest, name)

    found: dict[str, SidecarLike] = {}
    for name in sidecars:
        if name == "file.boxes":
            found[name] = BoxesColumn(manifest)
        elif name == "boxes":
            found[name] = _BoxesTable(computed(name)[1])
        else:
            found |= require([name], manifest)
    sources = []
    rows = manifest
    for name in aligned:
        if name == "masks":
            path, table = computed(name)
            rows = _with_masks(rows, table, path.parent)
        elif name != "file.mask":
            raise UsageError(f"aligned data {name!r} is not known; there are masks and file.mask")
        elif "mask" not in manifest.file_names:
            raise DataError(_no_column("mask", "a mask per row", manifest))
        rows = replace(rows, rows=tuple(replace(r, files={MASK: _NONE, **r.files}) for r in rows.rows))
        sources.append(AlignedSource(MASK, "soft_mask", read_at=partial(read_mask, binary=name == "file.mask")))
    return ObjectFacts(rows, found, tuple(sources), used)


def _with_masks(manifest: Manifest, table: Sidecar, folder: Path) -> Manifest:
    """The rows with their computed masks as ``file.mask``."""
    rows = []
    for number, row in enumerate(manifest.rows):
        try:
            file = str(folder / str(table.value(number)["file"]))
        except UnreadableError:  # as the source itself is
            file = _NONE
        rows.append(replace(row, files={**row.files, MASK: file}))
    return replace(manifest, rows=tuple(rows))


def table_name(path: Path, manifest: Manifest) -> str:
    """How a recipe names a table: its file's name where ``choose_table`` finds that by itself, else its path."""
    known = path.name.startswith(LEARNED) and path in find_tables(path.name.partition("-")[0], manifest)
    return path.stem if known else str(path.absolute())


def choose_table(name: str, manifest: Manifest, chosen: str | None = None) -> Path:
    """The sidecar table of ``boxes`` or ``masks`` to read: the one there is, the one that knows all rows, or the one
    chosen.

    Raises: DataError where there is none; UsageError where there are several, or not the chosen one.
    """
    if name not in LEARNED:
        raise UsageError(f"{name!r} is no table of objects; there are {', '.join(LEARNED)}")
    if chosen is not None and Path(chosen).is_file():
        return Path(chosen)
    found = {path.stem: path for path in reversed(find_tables(name, manifest))}
    command = annotate_command(name, manifest.root)
    if chosen is not None:
        stem = Path(chosen).name.removesuffix(".parquet")
        if stem in found:
            return found[stem]
        have = f"there are {', '.join(sorted(found))}" if found else f"there is none; run\n  {command}"
        raise UsageError(f"data.{name}: no table {chosen!r} for {manifest.root}; {have}")
    if not found:
        raise DataError(
            f"sidecar {name!r} is missing for all {len(manifest)} sources of {manifest.root}; run\n  {command}\n"
            "where RUN is a finished run whose encoder says where the objects are"
        )
    if len(found) > 1:  # tables of other parts of the data may lie beside it
        known = {stem: count_known(path, manifest) for stem, path in found.items()}
        found = {stem: path for stem, path in found.items() if known[stem] == len(manifest)} or found
    if len(found) > 1:
        found = dict(sorted(found.items(), key=lambda item: (-item[1].stat().st_mtime, item[0])))
        told = _tell_apart(list(found.values()))
        listed = "".join(
            f"\n  {stem}  {_written(path)}, knows {known[stem]} of {len(manifest)} rows{what}"
            for (stem, path), what in zip(found.items(), told, strict=True)
        )
        raise UsageError(
            f"there are {len(found)} tables of {name} for {manifest.root}, newest first:{listed}\n"
            f"choose one with --data.{name} {next(iter(found))} (from Python: {name}=…)"
        )
    return next(iter(found.values()))


def choose_tables(
    manifest: Manifest, names: Iterable[str], *, boxes: str | None = None, masks: str | None = None
) -> dict[str, str]:
    """The tables of computed boxes and masks among the facts that are read, by name.

    Args:
        manifest: the rows to learn from. names: of the facts that are read.
        boxes: which table of boxes, where `unreel data annotate boxes` made several: its path or its name.
        masks: which table of masks.
    Raises: DataError where there is none, naming the command; UsageError where there are several, or not this one.
    """
    asked = [name for name in LEARNED if name in set(names)]
    return {name: str(choose_table(name, manifest, boxes if name == "boxes" else masks)) for name in asked}


def _written(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def _tell_apart(tables: Sequence[Path]) -> list[str]:
    """Of each table its encoder, and the settings in which they differ, for people."""
    made = [_flat(made_by(path)) for path in tables]
    names = list(dict.fromkeys(name for one in made for name in one))
    told = ("settings.encoder", "settings.architecture")
    differ = [n for n in names if n not in told and len({str(one[n]) for one in made if n in one}) > 1]
    lines = []
    for one in made:
        net = " ".join(_value(one[n]) for n in reversed(told) if one.get(n))
        shown = [f"encoder {net}"] * bool(net) + [f"{_short(n)} {_value(one[n])}" for n in differ if n in one]
        lines.append("".join(f", {part}" for part in shown))
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name; a section as a whole is "on", where another table may have none."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= {prefix + name: "on", **_flat(value, f"{prefix}{name}.")} if inner else {prefix + name: value}
    return found


def _short(name: str) -> str:
    """As the command line calls a setting: maps' settings are the section ``cam``."""
    inner = name.removeprefix("settings.")
    return f"cam.{inner.removeprefix('settings.')}" if inner.startswith("settings.") else inner


def _value(value: Any) -> str:
    """A digest is told by its beginning."""
    text = "none" if value is None else str(value)
    return text[:8] if _DIGEST.fullmatch(text) else text
