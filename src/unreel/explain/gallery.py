"""What an encoder finds, as files that people look at and programs read: overlays, a page, maps and boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError
from unreel.core.files import write_arrays, write_whole
from unreel.core.keys import Key
from unreel.core.modules import device_of
from unreel.core.text import one_line
from unreel.data.batch import Fault
from unreel.data.boxes import write_boxes
from unreel.data.contracts import Request
from unreel.data.manifest import Manifest
from unreel.data.rows import RowReader
from unreel.explain.crf import CrfSettings
from unreel.explain.driver import MapMaker, to_bytes
from unreel.explain.objects import Objects, ObjectSettings, SourceMaps, find_objects, join_rows, refine
from unreel.explain.overlay import COLOURS, colour_bar, draw_boxes, enlarge, fit, heat, widen
from unreel.media.image import encode_image
from unreel.media.write import write_video

_LONGEST_NAME = 200  # bytes; file systems take 255, and a suffix follows
_LONGEST_PX = 640  # of an overlay; enough to see a map's cells
_SHORTEST_PX = 192  # of an overlay: smaller pictures are shown larger
_MOST_FRAMES = 480  # of an overlay: twenty seconds of film
_READ_TOGETHER = 32
_LISTED = 6  # objects named below a picture


@dataclass(frozen=True)
class GalleryItem:
    """One source on the page; paths are relative to the folder."""

    name: str
    overlay: str
    still: str
    map: str
    video: bool
    boxes: list[list[float]] = field(default_factory=list)
    tubelets: list[dict[str, Any]] = field(default_factory=list)
    label: str = ""

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The largest boxes or longest tubelets, in their order: CSS colour and what to say of each."""
        if self.video:
            sizes = [float(len(tube["boxes"])) for tube in self.tubelets]
            texts = [f"{tube['times_s'][0]:.1f}–{tube['times_s'][-1]:.1f} s" for tube in self.tubelets]
        else:
            sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in self.boxes]
            texts = [f"{100 * size:.0f} %" for size in sizes]
        chosen = sorted(sorted(range(len(sizes)), key=lambda i: -sizes[i])[:_LISTED])
        return [("rgb({} {} {})".format(*COLOURS[i % len(COLOURS)]), texts[i]) for i in chosen]

    @property
    def unlisted(self) -> int:
        """How many objects ``legend`` leaves out."""
        return max(0, len(self.tubelets if self.video else self.boxes) - _LISTED)


@dataclass(frozen=True)
class Gallery:
    """What was written: the page, the sources on it in the order of the data, and those that could not be read."""

    page: Path
    items: tuple[GalleryItem, ...]
    faults: tuple[Fault, ...]


def choose_rows(manifest: Manifest, limit: int, seed: int = 0) -> Manifest:
    """At most ``limit`` rows, drawn by a key, in the order of the data; 0 is all."""
    if not 0 < limit < len(manifest):
        return manifest
    return manifest.subset(sorted(Key(seed, "explain").permutation(len(manifest)).tolist()[:limit]))


def write_gallery(
    maker: MapMaker,
    manifest: Manifest,
    out: Path,
    *,
    crf: CrfSettings | None = None,
    objects: ObjectSettings | None = None,
    workers: int = 0,
    title: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """Maps of every source of a manifest, and a page that shows them.

    Writes ``overlays/`` (a PNG per image, an mp4 per video), ``maps/`` (8 bits without loss: a grey PNG per image; per
    video an archive with ``masks`` (F, S, S) and ``times_s``), ``explain.json`` (settings and digests), ``index.html``,
    and with ``objects`` also ``boxes.txt`` (docs/methods/contracam.md, Boxes) and, of videos, ``tubelets.json``.

    Args:
        maker: makes the maps.
        manifest: its rows set against each other.
        out: the folder; files in it are replaced.
        crf: refines the maps first.
        objects: also look for boxes.
        workers: processes that decode.
        title: what the page calls the encoder.
        progress: called with (rows read, rows in all).
    Raises: DataError where no row can be read.
    """
    faults: list[Fault] = []
    clips = maker.maps(manifest, faults, workers=workers, pixels=crf is not None, progress=progress)
    reader = RowReader(manifest)
    items: dict[int, GalleryItem] = {}
    for source in join_rows(clips):
        refined = refine(source, crf, device=device_of(maker.encoder))
        found = None if objects is None else find_objects(refined, objects)
        items[source.row] = _write_source(reader, refined, found, out)
    if not items:
        first = f" (first: {faults[0].message})" if faults else ""
        raise DataError(f"none of {len(manifest)} sources of {manifest.root} could be read{first}")
    shown = tuple(items[row] for row in sorted(items))
    card = maker.card() | {
        "sources": len(manifest),
        "crf": None if crf is None else crf.to_card(),
        "objects": None if objects is None else objects.to_card(),
        "faults": [{"path": fault.path, "message": fault.message} for fault in faults],
    }
    write_whole(out / "explain.json", json.dumps(card, indent=1))
    if objects is not None:
        write_boxes(out / "boxes.txt", {item.name: item.boxes for item in shown})
        if maker.plan.video:
            tubes = {item.name: item.tubelets for item in shown}
            write_whole(out / "tubelets.json", json.dumps(tubes, indent=1))
    page = out / "index.html"
    write_whole(page, render_page(shown, faults, card, title=title or maker.encoder.architecture or "encoder"))
    return Gallery(page, shown, tuple(faults))


def _write_source(reader: RowReader, source: SourceMaps, found: Objects | None, out: Path) -> GalleryItem:
    manifest, row = reader.manifest, source.row
    name = one_line(manifest.relative(row)).strip()
    entry = manifest.rows[row]
    if entry.start_s is not None or entry.end_s is not None:  # several rows may be spans of one file
        name = f"{name}@{entry.start_s or 0:g}-{'' if entry.end_s is None else f'{entry.end_s:g}'}"
    file = _below(name)
    video = len(source.maps) > 1
    levels = to_bytes(source.maps).numpy()
    map_file = f"maps/{file}.npz" if video else f"maps/{file}.png"
    if video:
        write_arrays(out / map_file, {"masks": levels, "times_s": source.times_s}, compressed=True)
    else:
        write_whole(out / map_file, encode_image(levels[0]))
    still = f"overlays/{file}.jpg"
    overlay = f"overlays/{file}.mp4" if video else f"overlays/{file}.png"
    if video:
        poster = _write_film(reader, source, found, out / overlay)
    else:
        pixels = reader.read(row, [Request(np.zeros(1, dtype=np.int64))])[0].data
        shown = enlarge(fit(pixels.numpy(), _LONGEST_PX), _SHORTEST_PX, _LONGEST_PX)
        marked = draw_boxes(heat(shown, source.maps.numpy())[0], [] if found is None else found.boxes.numpy())
        write_whole(out / overlay, encode_image(widen(marked[None])[0]))
        poster = widen(shown)[0]
    write_whole(out / still, encode_image(poster, format="jpeg"))
    tubelets = [] if found is None else _tube_card(found)
    boxes = [] if found is None else found.boxes.tolist()
    return GalleryItem(name, overlay, still, map_file, video, boxes, tubelets, entry.labels.get("label", ""))


def _below(name: str) -> str:
    """A source's name as that of a file below the page's folder, whatever its own folder, no part of it too long."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    short = (f"{p[:40]}-{mapping_digest([p])[:8]}" if len(os.fsencode(p)) > _LONGEST_NAME else p for p in parts)
    return "/".join("_" if part == ".." else part for part in short)


def _tube_card(found: Objects) -> list[dict[str, Any]]:
    return [
        {
            "times_s": found.times_s[tube.first : tube.last + 1].round(6).tolist(),
            "boxes": tube.boxes.round(6).tolist(),
            "found": tube.found.tolist(),
        }
        for tube in found.tubelets
    ]


def _write_film(reader: RowReader, source: SourceMaps, found: Objects | None, path: Path) -> NDArray[np.uint8]:
    """The frames between the first and the last that have a map, with what is between them in time; returns one."""
    row, times = source.row, source.times_s
    facts = reader.facts(row)
    step = -(-facts.num_frames // _MOST_FRAMES)
    shown = np.arange(0, facts.num_frames, step)
    usual = float(np.median(np.diff(times)))
    maps = source.maps.numpy()
    first: list[NDArray[np.uint8]] = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for begin in range(0, len(shown), _READ_TOGETHER):
            pixels, at = reader.read(row, [Request(shown[begin : begin + _READ_TOGETHER])])[0]
            inside = (at >= times[0] - usual) & (at <= times[-1] + usual)
            if not inside.any():
                continue
            pixels, at = pixels[torch.from_numpy(inside)], at[inside]
            small = enlarge(fit(pixels.numpy(), _LONGEST_PX), _SHORTEST_PX, _LONGEST_PX)
            if not first:
                first.append(widen(small)[0])
            tinted = heat(small, np.stack([_map_at(maps, times, float(t), usual) for t in at]))
            for frame, t in zip(tinted, at.tolist(), strict=True):
                yield widen((frame if found is None else _with_tubelets(frame, found, t))[None])[0]

    write_video(path, frames(), max(1.0, facts.video.fps / step), crf=20, pad=True, pixel_format="yuv420p")
    return first[0]


def _map_at(maps: NDArray[Any], times: NDArray[np.float64], t: float, usual: float) -> NDArray[np.float32]:
    """The map at a time: between its neighbours, or none at all (zeros) in a hole between clips."""
    place = float(np.interp(t, times, np.arange(len(times))))
    low, high = int(np.floor(place)), int(np.ceil(place))
    if times[high] - times[low] > 1.5 * usual:
        near = low if t - times[low] <= times[high] - t else high
        return maps[near] if abs(times[near] - t) <= usual / 2 else np.zeros_like(maps[0])
    share = place - low
    return np.asarray((1 - share) * maps[low] + share * maps[high], dtype=np.float32)


def _with_tubelets(frame: NDArray[np.uint8], found: Objects, t: float) -> NDArray[np.uint8]:
    place = float(np.interp(t, found.times_s, np.arange(len(found.times_s))))
    for number, tube in enumerate(found.tubelets):
        if tube.first - 0.5 <= place <= tube.last + 0.5:
            local = np.clip(place - tube.first, 0, len(tube.boxes) - 1)
            low, high = int(np.floor(local)), int(np.ceil(local))
            box = tube.boxes[low] + (local - low) * (tube.boxes[high] - tube.boxes[low])
            frame = draw_boxes(frame, box, colours=[COLOURS[number % len(COLOURS)]])
    return frame


def render_page(items: tuple[GalleryItem, ...], faults: list[Fault], card: dict[str, Any], *, title: str) -> str:
    """The page's HTML: complete but for the pictures, which lie beside it."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["url"] = lambda path: quote(path)
    template = environment.from_string((files("unreel.explain") / "gallery.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        items=items,
        faults=faults,
        card=card,
        bar=", ".join(colour_bar()),
        video=any(item.video for item in items),
    )
