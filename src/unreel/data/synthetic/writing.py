"""A built-in world as files: videos with sound, their truth and the manifest."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UnreelError
from unreel.core.files import claimed, replacing, write_arrays, write_whole
from unreel.core.processes import GUARD, refuse_unguarded
from unreel.data.boxes import MARGIN, MIN_SCALE
from unreel.data.synthetic.scenes import APPEARANCES, EVENTS, MASK_CLASSES, MOTIONS
from unreel.media.write import write_video

if TYPE_CHECKING:
    from unreel.data.synthetic.actions import ActionWorld

# Columns of the manifest for ground truth, and what the files' names end in before ".npz".
_TRUTH_FILES: dict[str, str] = {"file.truth": "", "file.boxes": ".boxes", "file.mask": ".mask"}


def write_world(
    world: ActionWorld,
    folder: str | PathLike[str],
    *,
    workers: int = 0,
    truth: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write every video of a world as mp4 with sound, and ``manifest.csv`` beside; returns the manifest's path.

    Args:
        folder: made if missing; files of the same names are replaced.
        workers: processes that render and encode; 0 does it here.
        truth: also write ``truth/<split>/<number>.npz`` with the arrays of ``Truth``, and beside it the objects'
            boxes (``file.boxes``) and where any object is (``file.mask``), for methods; named in the manifest.
        progress: called with (videos done, videos in all).
    Raises: WriteError where the folder cannot be written; BusyError when another process writes there.
    """
    refuse_unguarded()
    root = Path(folder)
    with claimed(root):
        _write_videos(world, root, workers, truth, progress)
        return _write_manifest(world, root, truth)


def _write_videos(
    world: ActionWorld, root: Path, workers: int, truth: bool, progress: Callable[[int, int], None] | None
) -> None:
    total = len(world)
    if workers <= 0:
        for index in range(total):
            _write_one(world, root, index, truth)
            if progress is not None:
                progress(index + 1, total)
    else:
        # Fresh processes: a fork would inherit torch's and the codec's threads in an unknown state.
        chunk = max(1, min(32, total // (4 * workers)))
        spans = [range(i, min(i + chunk, total)) for i in range(0, total, chunk)]
        done = 0
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                jobs = [pool.submit(_write_span, world, root, span, truth) for span in spans]
                for job in as_completed(jobs):
                    done += job.result()
                    if progress is not None:
                        progress(done, total)
        except BrokenProcessPool as error:
            raise UnreelError(
                f"a process that wrote videos ended ({error}). In a script, {GUARD}; else the machine may be out "
                "of memory: use workers=0"
            ) from None


def _write_span(world: ActionWorld, root: Path, span: range, truth: bool) -> int:
    for index in span:
        _write_one(world, root, index, truth)
    return len(span)


def _write_one(world: ActionWorld, root: Path, index: int, truth: bool) -> None:
    scene = world.render(index, truth=truth)
    write_video(
        root / f"{scene.name}.mp4",
        scene.frames,
        world.fps,
        audio=scene.audio if len(scene.audio) else None,
        audio_rate_hz=scene.audio_rate_hz,
    )
    if scene.truth is not None:
        facts = scene.truth
        # A hundredth of a pixel is enough, at half the bytes.
        halves = {"flow": facts.flow.astype(np.float16), "depth": facts.depth.astype(np.float16)}
        write_arrays(root / "truth" / f"{scene.name}.npz", {**vars(facts), **halves})
        times, boxes = np.arange(world.num_frames) / world.fps, _training_boxes(facts.boxes, world.size_px)
        tubes = {"tube_times_s": np.broadcast_to(times, boxes.shape[:2]), "tube_boxes": boxes}
        write_arrays(root / "truth" / f"{scene.name}.boxes.npz", tubes)
        stands_out = ~np.isin(facts.masks, [MASK_CLASSES.index(name) for name in ("background", "occluder")])
        masks = {"masks": stands_out.astype(np.uint8)}
        write_arrays(root / "truth" / f"{scene.name}.mask.npz", masks, compressed=True)


def _write_manifest(world: ActionWorld, root: Path, truth: bool) -> Path:
    rows: list[dict[str, str]] = []
    for index in range(len(world)):
        (split, number), recipe = world.locate(index), world.recipe(index)
        name = f"{split}/{number:05d}"
        event = {"label.event": EVENTS[recipe.event]} if world.events else {}
        count = {"label.count": str(recipe.num_bystanders)} if world.bystanders[1] > 0 else {}
        files = {column: f"truth/{name}{end}.npz" for column, end in _TRUTH_FILES.items()} if truth else {}
        row = {
            "path": f"{name}.mp4",
            "split": split,
            "label.motion": MOTIONS[recipe.motion],
            "label.appearance": APPEARANCES[recipe.appearance],
            **event,
            **count,
            "label.background": f"background-{recipe.background}",
            "group": f"{split}-{number:05d}",
        }
        rows.append(row | files)
    path = write_cells(root / "manifest.csv", [rows[0], *(row.values() for row in rows)])
    write_whole(root / "world.json", json.dumps(world.settings(), indent=2) + "\n")
    return path


def write_cells(path: Path, rows: Iterable[Collection[str]]) -> Path:
    """A table, whose first row names the columns, as a file of comma-separated values; all or nothing."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def _training_boxes(boxes: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Boxes (T, N, 4) in pixels as what ``unreel.data.objects`` reads: (N, T, 4) shares with their margin.

    NaN where an object covers no more than the least share of the frame (docs/methods/contracam.md, Boxes).
    """
    shares = boxes.astype(np.float64).transpose(1, 0, 2) / size
    extent = shares[..., 2:] - shares[..., :2]
    more = MARGIN * np.concatenate([-extent, extent], axis=-1)
    large = extent.prod(-1, keepdims=True) > MIN_SCALE
    return np.where(large, np.clip(shares + more, 0, 1), np.nan)
