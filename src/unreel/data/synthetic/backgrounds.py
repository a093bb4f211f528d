"""The Background Challenge of the built-in world: equal objects in front of kept, swapped, removed backgrounds.

The eight variants are those of ImageNet-9 (Xiao et al. 2021, arXiv 2006.09994; docs/methods/evaluation.md, Background
Challenge). Draws being addressed, a test video has the same object in every variant: ``group`` pairs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import unknown_name
from unreel.core.files import claimed
from unreel.data.synthetic.actions import ActionWorld
from unreel.data.synthetic.scenes import MASK_CLASSES, Scene
from unreel.data.synthetic.writing import write_cells
from unreel.media.write import write_video

VARIANTS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
"""Backgrounds: as in training; always the class's; any; always the next class's; black; the object black; the object's
box black; the box tiled with background."""

# test_background and strength of the worlds that show a background of their own.
_WORLDS: dict[str, tuple[Literal["same", "swapped", "random"], float | None]] = {
    "original": ("same", None),
    "mixed_same": ("same", 1.0),
    "mixed_rand": ("random", None),
    "mixed_next": ("swapped", 1.0),
}


def tile_box(frame: NDArray[np.uint8], box: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) whose box x1 y1 x2 y2 (pixels, ends behind) shows the largest strip beside it, repeated.

    The strip runs along a whole side (docs/methods/object_views.md, BG-Mixup) and repeats along its axis from the
    frame's edge on; a box that leaves no strip, the whole frame, becomes black.
    """
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in box)
    strips = [frame[:y1], frame[:, :x1], frame[:, x2:], frame[y2:]]
    strip = max(strips, key=lambda s: s.shape[0] * s.shape[1])
    out = frame.copy()
    if 0 in strip.shape:
        out[:] = 0
        return out
    rows, columns = np.arange(height) % strip.shape[0], np.arange(width) % strip.shape[1]
    out[y1:y2, x1:x2] = strip[rows[y1:y2, None], columns[None, x1:x2]]
    return out


def background_variant(scene: Scene, variant: str) -> NDArray[np.uint8]:
    """The frames (T, H, W, 3) of a scene with its truth, what the variant takes away taken away.

    Raises: UsageError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if variant in _WORLDS:
        return scene.frames
    assert scene.truth is not None
    inside = (scene.truth.masks == MASK_CLASSES.index("object"))[..., None]
    if variant in ("only_fg", "no_fg"):
        return np.where(inside == (variant == "only_fg"), scene.frames, np.uint8(0))
    frames = scene.frames.copy()
    for t, box in enumerate(scene.truth.boxes[:, 0]):
        if np.isnan(box).any():
            continue
        x1, y1, x2, y2 = (int(v) for v in box)
        if variant == "only_bg_t":
            frames[t] = tile_box(frames[t], np.array([x1, y1, x2, y2]))
        else:
            frames[t, y1:y2, x1:x2] = 0
    return frames


def write_background_world(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train: int = 512,
    num_test: int = 480,
    variants: tuple[str, ...] = VARIANTS,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Path:
    """Write training videos whose background goes with the class, the test videos in every variant, and the manifest.

    Columns: path, split, label (the appearance), label.variant, group. ``unreel.tasks.BackgroundTask`` asks about it.

    Args:
        folder: made if missing.
        seed, num_train, num_test: the world's; every variant has ``num_test`` videos.
        variants: which to write; "original" must be among them.
        progress: called with (videos done, videos in all).
        settings: of ``ActionWorld``, but for its background link.
    Raises: UsageError for an unknown variant or setting.
    """
    for name in variants:
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
    link: dict[str, Any] = {"background_link": "appearance", "audio_rate_hz": 0, **settings}
    strength = link.pop("background_strength", 0.9)

    def world(variant: str) -> ActionWorld:
        test, own = _WORLDS.get(variant, _WORLDS["original"])
        chosen = strength if own is None else own
        return ActionWorld(seed, num_train, num_test, test_background=test, background_strength=chosen, **link)

    root = Path(folder)
    rows: list[list[str]] = []
    total = num_train + len(variants) * num_test

    def write(scene: Scene, variant: str, split: str, number: int) -> None:
        path = root / variant / split / f"{number:05d}.mp4"
        write_video(path, background_variant(scene, variant), link.get("fps", 12))
        name = path.relative_to(root).as_posix()
        rows.append([name, split, scene.appearance, variant, f"{split}-{number:05d}"])
        if progress is not None:
            progress(len(rows), total)

    with claimed(root):
        built = world("original")
        for index in range(num_train):
            write(built.render(index), "original", "train", index)
        for variant in variants:
            built = world(variant)
            for number in range(num_test):
                scene = built.render(num_train + number, truth=variant not in _WORLDS)
                write(scene, variant, "test", number)
        return write_cells(root / "manifest.csv", [["path", "split", "label", "label.variant", "group"], *rows])


__all__ = ["VARIANTS", "background_variant", "tile_box", "write_background_world"]
