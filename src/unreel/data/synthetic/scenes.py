"""What a scene of a built-in world is made of: its draws, the states of its objects, their painting and its truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unreel.data.synthetic.drawing import SHAPE_REACH, SHAPES, TEXTURES, Array, as_f32

MOTIONS: tuple[str, ...] = (
    "horizontal",  # to and fro along x
    "vertical",  # to and fro along y
    "diagonal",  # to and fro along either diagonal: a flip swaps the two
    "circle",  # round a centre, either way: a flip swaps the two
    "pulse",  # grows and shrinks in place
    "spin",  # turns in place, either way
    "flicker",  # stays, its brightness comes and goes
    "settle",  # glides to another place, slows down and stays there: cannot be reversed
)
EVENTS: tuple[str, ...] = (
    "arrive",  # glides in, slowing down to rest
    "depart",  # its time reversal
    "dissolve",  # fades, fast and then slowly
    "condense",
    "burst",  # its radius jumps and relaxes
    "collapse",
)
APPEARANCES: tuple[str, ...] = tuple(f"{shape}-{texture}" for shape in ("disc", "bar") for texture in TEXTURES)
# Depths in arbitrary units, far to near.
DEPTHS: dict[str, float] = {
    "background": 10.0,
    "bystander": 8.0,
    "distractor": 6.0,
    "object": 4.0,
    "event": 3.0,
    "occluder": 2.0,
}
# Class numbers of ``Truth.masks``.
MASK_CLASSES: tuple[str, ...] = ("background", "object", "distractor", "occluder", "event", "bystander")


class Recipe(NamedTuple):
    """One video's own draws, in pixels, frames and radians; what is not listed follows from the key.

    ``event`` is −1 in a world without events.
    """

    motion: int
    appearance: int
    background: int
    period_frames: float
    amplitude_px: float
    radius_px: float
    centre_px: tuple[float, float]
    camera_moves: bool
    has_distractor: bool
    has_occluder: bool
    event: int = -1
    num_bystanders: int = 0


@dataclass(frozen=True)
class Truth:
    """Ground truth of one scene: T frames of H × W, N objects: the target, the distractor, the event's actor and the
    bystanders, those that there are.

    ``boxes`` (T, N, 4) float32 x1 y1 x2 y2 in pixels, of the whole object, hidden, faded or not, clipped to the frame;
    ``masks`` (T, H, W) uint8, numbers into ``MASK_CLASSES``, what is in front wins (of an actor that fades, where it
    makes more than half of the colour); ``depth`` (T, H, W) float32;
    ``flow`` (T, H, W, 2) float32, the way (x, y) in pixels of what is seen at t until t + 1 (the last frame's leads
    out of the video); ``counts`` (T,) int64 objects with a visible pixel; ``ego_motion`` (T, 2) float32, the camera's
    way (x, y) in pixels until t + 1; ``background``: the texture's number.
    """

    boxes: NDArray[np.float32]
    masks: NDArray[np.uint8]
    flow: NDArray[np.float32]
    depth: NDArray[np.float32]
    counts: NDArray[np.int64]
    ego_motion: NDArray[np.float32]
    background: int


@dataclass(frozen=True)
class Scene:
    """One rendered video: ``frames`` (T, H, W, 3) uint8, ``audio`` (samples,) float32 mono in [−1, 1], its labels.

    ``event`` is empty in a world without events; ``count`` are the bystanders. ``truth`` is ``None`` unless it was
    asked for.
    """

    name: str
    split: str
    frames: NDArray[np.uint8]
    audio: NDArray[np.float32]
    audio_rate_hz: int
    motion: str
    appearance: str
    background: str
    recipe: Recipe
    truth: Truth | None = None
    event: str = ""
    count: int = 0


@dataclass(frozen=True)
class Track:
    """The state of one object at T + 1 times: what is drawn, and what the flow follows.

    ``kind`` is one of ``MASK_CLASSES``; ``opacity`` in [0, 1], ``None`` for a solid object.
    """

    x: Array
    y: Array
    radius: Array
    angle: Array
    light: Array
    shape: str
    texture: str
    colours: tuple[Array, Array]
    kind: str = "object"
    opacity: Array | None = None

    @classmethod
    def of(
        cls,
        times: int,
        *,
        shape: str,
        texture: str,
        colours: tuple[Array, Array],
        kind: str = "object",
        opacity: Array | None = None,
        **states: float | NDArray[np.floating],
    ) -> Track:
        """An object at ``times`` times; a state (x, y, radius, angle, light: 1) that is a number stays as it is."""
        one = np.ones(times, dtype=np.float32)
        arrays = {name: as_f32(values * one) for name, values in {"light": 1.0, **states}.items()}
        return cls(shape=shape, texture=texture, colours=colours, kind=kind, opacity=opacity, **arrays)

    def shifted(self, dx: Array, dy: Array) -> Track:
        return replace(self, x=self.x + dx, y=self.y + dy)


def _local(track: Track, dx: Array, dy: Array) -> tuple[Array, Array]:
    """Pixels from the object's centre (T, h, w) to its own turned coordinates, in radii."""
    radius = track.radius[: len(dx), None, None]
    c = np.cos(track.angle[: len(dx)])[:, None, None] / radius
    s = np.sin(track.angle[: len(dx)])[:, None, None] / radius
    return as_f32(c * dx + s * dy), as_f32(c * dy - s * dx)


def _coverage(track: Track, u: Array, v: Array) -> Array:
    """Share of each pixel that the object covers, by its coordinates (T, h, w)."""
    return as_f32(np.clip(np.float32(0.5) - SHAPES[track.shape](u, v) * track.radius[: len(u), None, None], 0, 1))


def paint(canvas: NDArray[np.uint8], margin: int, track: Track, num_frames: int) -> None:
    """Draw the object into every frame, on the patch around it only; ``canvas`` is changed."""
    half = int(np.ceil(float(track.radius[:num_frames].max()) * SHAPE_REACH)) + 1
    limit = canvas.shape[1] - 2 * half - 1
    left = np.clip(np.floor(track.x[:num_frames]).astype(np.int64) - half + margin, 0, limit)
    top = np.clip(np.floor(track.y[:num_frames]).astype(np.int64) - half + margin, 0, limit)
    span = np.arange(2 * half + 1)
    columns, rows = left[:, None] + span, top[:, None] + span
    dx = (columns - margin).astype(np.float32)[:, None, :] - track.x[:num_frames, None, None]
    dy = (rows - margin).astype(np.float32)[:, :, None] - track.y[:num_frames, None, None]
    u, v = _local(track, dx, dy)
    cover = _coverage(track, u, v)[..., None]
    if track.opacity is not None:
        cover = cover * track.opacity[:num_frames, None, None, None]
    tone = np.clip(np.float32(0.5) + np.float32(1.5) * TEXTURES[track.texture](u, v), 0, 1)[..., None]
    bright, dark = track.colours
    paint = (dark + tone * (bright - dark)) * track.light[:num_frames, None, None, None]
    np.minimum(paint, 255, out=paint)
    index = (np.arange(num_frames)[:, None, None], rows[:, :, None], columns[:, None, :])
    under = canvas[index].astype(np.float32)
    canvas[index] = (under + cover * (paint - under) + np.float32(0.5)).astype(np.uint8)


def tight_boxes(track: Track, covered: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    """The tight box of the covered pixels per frame, NaN where the object is outside: (T, 4)."""
    boxes = np.full((len(covered), 4), np.nan, dtype=np.float32)
    columns, rows = np.any(covered, axis=1), np.any(covered, axis=2)
    present = np.any(columns, axis=1)
    boxes[:, 0], boxes[:, 1] = columns.argmax(1), rows.argmax(1)
    boxes[:, 2] = size - columns[:, ::-1].argmax(1)
    boxes[:, 3] = size - rows[:, ::-1].argmax(1)
    boxes[~present] = np.nan
    return boxes


def ground_truth(
    tracks: list[Track],
    size: int,
    camera: tuple[Array, Array],
    bar: tuple[int, int, NDArray[np.uint8]] | None,
    background: int,
) -> Truth:
    """The truth of a scene of ``size`` × ``size`` pixels; ``bar`` is the occluder: first and last column, colour."""
    camera_x, camera_y = camera
    frames = len(camera_x) - 1
    grid = np.arange(size, dtype=np.float32)
    seen_as = np.zeros((frames, size, size), dtype=np.uint8)  # number of the track in front, from 1
    ego = np.stack([np.diff(camera_x), np.diff(camera_y)], axis=-1)
    flow = np.broadcast_to(-ego[:, None, None], (frames, size, size, 2)).copy()
    boxes = np.empty((frames, len(tracks), 4), dtype=np.float32)
    for number in sorted(range(len(tracks)), key=lambda n: -DEPTHS[tracks[n].kind]):
        track = tracks[number]
        dx = grid[None, None, :] - track.x[:-1, None, None]
        dy = grid[None, :, None] - track.y[:-1, None, None]
        cover = _coverage(track, *_local(track, dx, dy))
        boxes[:, number] = tight_boxes(track, cover > 0.5, size)
        covered = cover * (1 if track.opacity is None else track.opacity[:-1, None, None]) > 0.5
        seen_as[covered] = number + 1
        # A pixel of the object keeps its local coordinates: it moves by the change of a similarity transform.
        ratio = track.radius[1:] / track.radius[:-1]
        turn = track.angle[1:] - track.angle[:-1]
        a, b = (ratio * np.cos(turn))[:, None, None], (ratio * np.sin(turn))[:, None, None]
        move_x = (a - 1) * dx - b * dy + np.diff(track.x)[:, None, None]
        move_y = b * dx + (a - 1) * dy + np.diff(track.y)[:, None, None]
        flow[covered] = np.stack([move_x, move_y], axis=-1)[covered]
    if bar is not None:
        seen_as[:, :, bar[0] : bar[1]] = 0
    masks = np.array([0, *(MASK_CLASSES.index(track.kind) for track in tracks)], dtype=np.uint8)[seen_as]
    if bar is not None:
        masks[:, :, bar[0] : bar[1]] = 3
        flow[:, :, bar[0] : bar[1]] = 0  # fixed to the camera
    depth = np.array([DEPTHS[name] for name in MASK_CLASSES], dtype=np.float32)[masks]
    seen = [np.any(seen_as == number + 1, axis=(1, 2)) for number in range(len(tracks))]
    return Truth(
        boxes=boxes,
        masks=masks,
        flow=flow.astype(np.float32),
        depth=depth,
        counts=np.sum(seen, axis=0).astype(np.int64),
        ego_motion=ego.astype(np.float32),
        background=background,
    )
