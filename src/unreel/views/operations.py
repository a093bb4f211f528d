"""The operations of a view: frozen dataclasses whose fields are the knobs.

Operations on decoded frames (crops and resizes) run in the worker and come first in a pipeline; the others run
batched on the training device. Each has a name, unique within its pipeline, which is part of every draw's key. A draw
for frame t has t in its key, and the draw of a whole clip is that of frame 0: switching to per-frame draws changes no
other frame's values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unreel.core.checks import Amount, NotNegative, Share, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.contracts import FrameSize
from unreel.data.objects import ClipBoxes, ObjectBoxes
from unreel.views import color, geometry
from unreel.views.geometry import Padding, Size, as_size

Range: TypeAlias = tuple[float, float]
Params: TypeAlias = Mapping[str, Tensor]

_GATHER_ELEMENTS = 1 << 14
"""On CPU, smaller clips than this are gathered into groups; a larger one is worked on where it is, alone."""
_FRAME_BLOCK_PIXELS = 1 << 16
"""On CPU, a run of pointwise passes goes over blocks of frames with about this many pixels, which stay in the cache."""


def _check_range(owner: str, name: str, value: Range, low: float, high: float = math.inf) -> None:
    if not low <= value[0] <= value[1] <= high:
        limit = f"[{low}, {high}]" if math.isfinite(high) else f"at least {low}"
        raise UsageError(f"{owner}: {name} must be an ascending pair within {limit}, got {value}")


def _over_rows(clips: Tensor, rows: Sequence[int], work: Callable[[Tensor, list[int]], object]) -> None:
    """Run ``work(x, part)`` in place on the clips ``rows``, ascending; x holds those whose parameters ``part`` names.

    Groups are gathered and scattered back, except on CPU, where a clip of some size gains nothing from company.
    """
    if not rows:
        return
    if clips.device.type == "cpu" and clips[0].numel() >= _GATHER_ELEMENTS:
        for row in rows:
            work(clips[row : row + 1], [row])
    elif len(rows) == len(clips):
        work(clips, list(rows))
    else:
        index = torch.tensor(rows, device=clips.device)
        gathered = clips[index]
        work(gathered, list(rows))
        clips[index] = gathered


def _factor(values: Tensor, part: list[int], like: Tensor) -> color.Factor:
    """Host parameters (N,) of some clips, to multiply (n, C, T, H, W) with."""
    if len(part) == 1:
        return float(values[part[0]])
    return values[part].to(device=like.device, dtype=like.dtype, non_blocking=True).view(-1, 1, 1, 1, 1)


def frame_blocks(clips: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views of a few frames each with their first frame's number, on CPU; the whole elsewhere."""
    pixels, frames = clips.shape[0] * clips.shape[3] * clips.shape[4], clips.shape[2]
    per_block = max(1, _FRAME_BLOCK_PIXELS // pixels)
    if clips.device.type != "cpu" or frames <= 2 * per_block:
        per_block = frames
    for first in range(0, frames, per_block):
        yield first, clips[:, :, first : first + per_block]


class _Operation:
    """What all operations share; ``name`` and ``consistent`` are fields of the dataclasses."""

    name: str
    consistent: bool

    def _frames(self, size: FrameSize) -> range:
        return range(1 if self.consistent else size.num_frames)


class _ByChance(_Operation):
    """An operation on float clips, which clips or frames get with probability ``p``.

    Subclasses write ``_on``, or ``_run`` where one set of parameters per clip says more than whether.
    """

    p: float

    def _bounds(self) -> dict[str, Range]:
        """What is drawn besides, uniformly, and between which numbers."""
        return {}

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``apply`` (T',) bool, and (T',) floats of the operation's own."""
        frames = self._frames(size)
        params = {"apply": torch.tensor([key.child("apply", t).bernoulli(self.p) for t in frames])}
        for what, bounds in self._bounds().items():
            params[what] = torch.tensor([key.child(what, t).uniform(*bounds) for t in frames])
        return params

    def apply(self, clips: Tensor, params: Params) -> Tensor:
        """(B, C, T, H, W) float in [0, 1] to a new tensor of the same shape; params (B, T', ...)."""
        return self.apply_(clips.clone(memory_format=torch.contiguous_format), params)

    def apply_(self, clips: Tensor, params: Params) -> Tensor:
        """``apply`` that may write into ``clips`` (contiguous). Params may be on the host, which saves a wait."""
        host = {k: v.cpu() for k, v in params.items()}
        count, channels, frames, height, width = clips.shape
        drawn = {v.shape[1] for v in host.values()}
        if not drawn <= {1, frames} or any(len(v) != count for v in host.values()):
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in host.items())
            raise UsageError(f"{self.name}: parameters {shapes} do not fit clips {tuple(clips.shape)}")
        if max(drawn, default=1) == 1:
            self._run(clips, {k: v[:, 0] for k, v in host.items()})
            return clips
        # One draw per frame: every frame is a clip of its own.
        flat = clips.transpose(1, 2).contiguous().view(count * frames, channels, 1, height, width)
        self._run(flat, {k: v.expand(count, frames, *v.shape[2:]).flatten(0, 1) for k, v in host.items()})
        return flat.view(count, frames, channels, height, width).transpose(1, 2).contiguous()

    def _run(self, clips: Tensor, params: dict[str, Tensor]) -> None:
        """In place on (N, C, T, H, W); params (N, ...) on the host."""
        _over_rows(clips, _chosen(params), lambda x, _: self._on(x))

    def _on(self, clips: Tensor) -> object:
        """In place on the clips that get it."""


def _chosen(params: Params) -> list[int]:
    rows: list[int] = params["apply"].nonzero().flatten().tolist()
    return rows


class _SourceOperation(_Operation):
    """An operation on decoded frames: a draw's ``box`` is what it keeps of them."""

    size: Size | None
    antialias: bool = True

    def output_size(self, params: Params, size: FrameSize) -> FrameSize:
        """``size`` as asked."""
        return FrameSize(*as_size(self.size or 0), size.num_frames)

    def crop(self, frames: Tensor, params: Params) -> Tensor:
        """(T, H, W, C) uint8 to (T, h, w, C) uint8; params (T', ...)."""
        out = self.output_size(params, FrameSize(frames.shape[1], frames.shape[2], frames.shape[0]))
        return geometry.resized_crop(frames, params["box"], out[:2], antialias=self.antialias)


# ---------------------------------------------------------------------------------------------------------------------
# On decoded frames, in the worker

CropSampler: TypeAlias = Literal["tf", "torchvision"]

_TF_ATTEMPTS = 100
_TF_MIN_COVERED = 0.1
"""min_object_covered of TensorFlow's sampler, whose object is the whole frame (docs/methods/cvrl.md, Augmentation)."""
_TORCHVISION_ATTEMPTS = 10


def tf_crop_box(key: Key, height: int, width: int, area: Range, aspect: Range) -> tuple[int, int, int, int]:
    """A box x1 y1 x2 y2 as TensorFlow's distorted-bounding-box op draws it.

    Source: docs/methods/cvrl.md, Augmentation, fidelity traps.

    Aspect (w/h) uniform, then an integer height uniform between those of the least and the greatest area, offsets
    uniform in [0, H − h) and [0, W − w). Attempt i has i in its key; after 100 failures the full frame.
    """
    least, most = area[0] * height * width, area[1] * height * width
    for attempt in range(_TF_ATTEMPTS):
        ratio = key.child("aspect", attempt).uniform(*aspect)
        low, high = round(math.sqrt(least / ratio)), round(math.sqrt(most / ratio))
        if round(high * ratio) > width:
            high = int((width + 0.5 - 1e-7) / ratio)
            if round(high * ratio) > width:
                high -= 1
        high = min(high, height)
        low = min(low, high)
        h = key.child("height", attempt).integer(low, high + 1)
        w = round(h * ratio)
        # Rounding may leave the range by one line; one step back is allowed.
        if w * h < least:
            h += 1
            w = round(h * ratio)
        if w * h > most:
            h -= 1
            w = round(h * ratio)
        if not (least <= w * h <= most and 0 < w <= width and 0 < h <= height):
            continue
        if w * h < _TF_MIN_COVERED * height * width:
            continue
        y = key.child("y", attempt).integer(0, height - h) if h < height else 0
        x = key.child("x", attempt).integer(0, width - w) if w < width else 0
        return x, y, x + w, y + h
    return 0, 0, width, height


def torchvision_crop_box(key: Key, height: int, width: int, area: Range, aspect: Range) -> tuple[int, int, int, int]:
    """A box x1 y1 x2 y2 as torchvision's RandomResizedCrop draws it: area uniform, aspect log-uniform.

    After 10 failures the centre, with the aspect clamped to its range.
    """
    for attempt in range(_TORCHVISION_ATTEMPTS):
        target = height * width * key.child("area", attempt).uniform(*area)
        ratio = math.exp(key.child("aspect", attempt).uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            y = key.child("y", attempt).integer(0, height - h + 1)
            x = key.child("x", attempt).integer(0, width - w + 1)
            return x, y, x + w, y + h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


@checked
@dataclass(frozen=True)
class RandomResizedCrop(_SourceOperation):
    """Cut a random box and resize it to ``size``.

    ``area`` is a share of the frame, ``aspect`` width over height (defaults: docs/methods/cvrl.md, Augmentation, step
    1). ``sampler``: ``tf`` as in CVRL's release, ``torchvision`` (area uniform, aspect log-uniform).
    ``antialias=False`` resizes as the release does.
    """

    size: Size = 224
    area: Range = (0.3, 1.0)
    aspect: Range = (0.5, 2.0)
    sampler: CropSampler = "tf"
    antialias: bool = True
    consistent: bool = True
    name: str = "crop"

    def __post_init__(self) -> None:
        as_size(self.size)
        _check_range(self.name, "area", self.area, 0.0, 1.0)
        _check_range(self.name, "aspect", self.aspect, 1e-6)
        if self.sampler == "tf" and self.area[1] <= _TF_MIN_COVERED:
            raise UsageError(
                f"{self.name}: the tf sampler rejects crops below {_TF_MIN_COVERED} of the frame, so area {self.area} "
                "would always give the full frame; use sampler='torchvision'"
            )

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``box`` (T', 4) in pixels."""
        sample = tf_crop_box if self.sampler == "tf" else torchvision_crop_box
        frames = self._frames(size)
        boxes = [sample(key.child(t), size.height, size.width, self.area, self.aspect) for t in frames]
        return {"box": torch.tensor(boxes, dtype=torch.float32)}


@dataclass(frozen=True)
class Resize(_SourceOperation):
    """Resize the whole frame: to ``size`` (aspect not kept), or so that the short side is ``short_side_px``."""

    size: Size | None = None
    short_side_px: int | None = None
    antialias: bool = True
    name: str = "resize"
    consistent: ClassVar[bool] = True  # type: ignore[misc]

    def __post_init__(self) -> None:
        if (self.size is None) == (self.short_side_px is None):
            raise UsageError(f"{self.name}: give either size or short_side_px")
        as_size(self.size if self.size is not None else (self.short_side_px or 0))

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``box`` (1, 4): the whole frame."""
        return {"box": torch.tensor([[0, 0, size.width, size.height]], dtype=torch.float32)}

    def output_size(self, params: Params, size: FrameSize) -> FrameSize:
        """``size``, or the frame's scaled; the long side is rounded down, as torchvision does."""
        if self.short_side_px is None:
            return super().output_size(params, size)
        short = self.short_side_px
        height, width = (max(short, short * side // min(size[:2])) for side in size[:2])
        return FrameSize(height, width, size.num_frames)


class _PlainCrop(_SourceOperation):
    """A crop of fixed size without resize."""

    size: Size

    def __post_init__(self) -> None:
        as_size(self.size)

    def _room(self, size: FrameSize) -> tuple[int, int, int, int]:
        height, width = as_size(self.size)
        if height > size.height or width > size.width:
            raise DataError(
                f"{self.name}: cannot cut {height} × {width} out of frames of {size.height} × {size.width}; "
                "put a Resize before it or ask for less"
            )
        return height, width, size.height - height, size.width - width


@checked
@dataclass(frozen=True)
class CenterCrop(_PlainCrop):
    """Cut ``size`` without resize; ``position`` moves it along the longer remainder: 0 left or top, 1 right or bottom.

    Positions 0, 0.5, 1 are the three test crops of docs/methods/evaluation.md, CVRL's linear probe (check 22: x = 0,
    42, 84 for 256 of 340).
    """

    size: Size = 224
    position: Share = 0.5
    name: str = "center_crop"
    consistent: ClassVar[bool] = True  # type: ignore[misc]

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``box`` (1, 4) in pixels; nothing is random."""
        height, width, room_y, room_x = self._room(size)
        along_x = room_x >= room_y
        x = round(room_x * (self.position if along_x else 0.5))
        y = round(room_y * (0.5 if along_x else self.position))
        return {"box": torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)}


@dataclass(frozen=True)
class RandomCrop(_PlainCrop):
    """Cut ``size`` at a uniform place, without resize (docs/methods/tcgl.md, Views: 112 out of 128 × 171)."""

    size: Size = 112
    consistent: bool = True
    name: str = "random_crop"

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``box`` (T', 4) in pixels."""
        height, width, room_y, room_x = self._room(size)
        boxes = []
        for t in self._frames(size):
            x, y = key.child("x", t).integer(0, room_x + 1), key.child("y", t).integer(0, room_y + 1)
            boxes.append([x, y, x + width, y + height])
        return {"box": torch.tensor(boxes, dtype=torch.float32)}


@checked
@dataclass(frozen=True)
class ObjectCrop(_SourceOperation):
    """Cut out one of the source's object boxes, for the crops after it.

    Source: docs/methods/object_views.md, Object-aware crop.

    The sidecar holds boxes x1 y1 x2 y2 as shares of the frame: (N, 4), or what ``unreel.data.objects`` knows; none
    means the whole frame, as does a box below one pixel. Share it between views (``ViewPlan(shared=…)``) to give all
    the same object. ``pick``: ``uniform`` or ``largest``. ``margin`` widens the box by that share of its size on each
    side (computed boxes hold theirs already); boxes that cover no more than ``min_area`` of the frame are left out.
    """

    sidecar: str = "boxes"
    pick: Literal["uniform", "largest"] = "uniform"
    margin: NotNegative = 0.0
    min_area: Share = 0.0
    name: str = "object"
    consistent: ClassVar[bool] = True  # type: ignore[misc]

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``box`` (1, 4) in whole pixels, ``index`` (1,) int64 of the box chosen, −1 for the whole frame."""
        if self.sidecar not in sidecars:
            made = (
                "the manifest's column of that name"
                if self.sidecar.startswith("file.")
                else f"`unreel data annotate {self.sidecar} DATA --encoder RUN`"
            )
            raise DataError(
                f"{self.name}: the source came without {self.sidecar!r}, which is from {made}; give ClipDataset the "
                "sidecars that unreel.data.objects.open_facts finds (a recipe's object_crop does)"
            )
        found = sidecars[self.sidecar]
        if not isinstance(found, ClipBoxes):
            boxes = found.boxes if isinstance(found, ObjectBoxes) else ObjectBoxes.of(found).boxes
            found = ClipBoxes(boxes, boxes)
        # Sizes are those over the whole video, so that all clips choose among the same.
        areas = (found.whole[:, 2] - found.whole[:, 0]) * (found.whole[:, 3] - found.whole[:, 1])
        kept = np.flatnonzero(areas > self.min_area)
        whole = [0, 0, size.width, size.height]
        index, box = -1, whole
        if len(kept):
            if self.pick == "largest":
                index = int(kept[np.argmax(areas[kept])])
            else:
                index = int(kept[key.child("pick").integer(0, len(kept))])
            x1, y1, x2, y2 = found.boxes[index]
            wide, high = self.margin * (x2 - x1), self.margin * (y2 - y1)
            left, top = max(0, round((x1 - wide) * size.width)), max(0, round((y1 - high) * size.height))
            right = min(size.width, round((x2 + wide) * size.width))
            bottom = min(size.height, round((y2 + high) * size.height))
            index, box = (index, [left, top, right, bottom]) if right > left and bottom > top else (-1, whole)
        return {"box": torch.tensor([box], dtype=torch.float32), "index": torch.tensor([index])}

    def output_size(self, params: Params, size: FrameSize) -> FrameSize:
        x1, y1, x2, y2 = (int(v) for v in params["box"][0].tolist())
        return FrameSize(y2 - y1, x2 - x1, size.num_frames)


# ---------------------------------------------------------------------------------------------------------------------
# On float clips, batched


@checked
@dataclass(frozen=True)
class HorizontalFlip(_ByChance):
    """Mirror left and right with probability ``p`` (docs/methods/cvrl.md, Augmentation, step 2)."""

    p: Share = 0.5
    consistent: bool = True
    name: str = "flip"

    def _on(self, clips: Tensor) -> Tensor:
        return clips.copy_(clips.flip(-1))


JITTER_OPERATIONS = ("brightness", "contrast", "saturation", "hue")


@checked
@dataclass(frozen=True)
class ColorJitter(_ByChance):
    """Brightness, contrast, saturation and hue in random order, the whole block with probability ``p``.

    Factors are uniform in [max(0, 1 − s), 1 + s], the hue shift in [−hue, hue] of the circle (docs/methods/cvrl.md,
    Augmentation, step 4); a strength of 0 leaves that operation out. ``contrast_pivot`` and ``saturation_mode`` as in
    ``views.color``. With one draw per frame, the pivot ``clip`` is each frame's own mean.

    ``compiled`` runs one kernel per operation instead of some thirty, after tens of seconds of torch.compile in the
    first batch: for long runs on a GPU (on CPU it gains little at 224 pixels and nothing at 56). The result is that of
    eager within 1e-5 in float32.
    """

    p: Share = 0.8
    brightness: NotNegative = 0.8
    contrast: NotNegative = 0.8
    saturation: NotNegative = 0.8
    hue: NotNegative = 0.2
    contrast_pivot: color.ContrastPivot = "clip"
    saturation_mode: color.SaturationMode = "hsv"
    compiled: bool = False
    consistent: bool = True
    name: str = "jitter"

    def _bounds(self) -> dict[str, Range]:
        strengths = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        return {k: (max(0.0, 1 - s), 1 + s) for k, s in strengths.items()} | {"hue": (-self.hue, self.hue)}

    def draw(self, key: Key, size: FrameSize, sidecars: Mapping[str, object]) -> dict[str, Tensor]:
        """``apply`` (T',) bool, ``order`` (T', 4) int64 over ``JITTER_OPERATIONS``, and a (T',) factor of each."""
        orders = np.stack([key.child("order", t).permutation(len(JITTER_OPERATIONS)) for t in self._frames(size)])
        return {**super().draw(key, size, sidecars), "order": torch.from_numpy(orders)}

    def _run(self, clips: Tensor, params: dict[str, Tensor]) -> None:
        active = [i for i, knob in enumerate(JITTER_OPERATIONS) if getattr(self, knob) > 0]
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, (on, order) in enumerate(zip(params["apply"].tolist(), params["order"].tolist(), strict=True)):
            if on:
                groups.setdefault(tuple(i for i in order if i in active), []).append(row)
        for order, rows in groups.items():
            _over_rows(clips, rows, partial(self._sequence, order=order, params=params))

    def _passes(self, order: tuple[int, ...]) -> list[str]:
        """The knobs in order; in HSV, saturation and hue side by side are one, "both"."""
        passes: list[str] = []
        for knob in (JITTER_OPERATIONS[i] for i in order):
            if passes and {passes[-1], knob} == {"saturation", "hue"} and self.saturation_mode == "hsv":
                passes[-1] = "both"
            else:
                passes.append(knob)
        return passes

    def _sequence(self, x: Tensor, part: list[int], *, order: tuple[int, ...], params: dict[str, Tensor]) -> None:
        factor = {knob: _factor(params[knob], part, x) for knob in (JITTER_OPERATIONS[i] for i in order)}
        passes, start = self._passes(order), 0
        while start < len(passes):
            # Up to the next contrast all is pointwise, so a block of frames takes those passes together; a contrast
            # needs the mean of all frames as they are by then.
            stop = next((i for i in range(start + 1, len(passes)) if passes[i] == "contrast"), len(passes))
            center = x.new_zeros(1, 1, 1, 1, 1)
            if passes[start] == "contrast":
                center = color.contrast_center(x, self.contrast_pivot)
            fused = self.compiled and x.shape[1] == 3
            run = self._compiled if fused else self._pointwise
            for first, block in ((0, x),) if fused else frame_blocks(x):
                here = center if center.shape[2] == 1 else center[:, :, first : first + block.shape[2]]
                run(block, passes[start:stop], factor, here)
            start = stop

    def _pointwise(self, x: Tensor, passes: list[str], factor: dict[str, color.Factor], center: Tensor) -> None:
        """In place; only the first pass may be contrast, about ``center``."""
        for knob in passes:
            if knob == "brightness":
                color.brightness_(x, factor[knob])
            elif knob == "contrast":
                color.contrast_(x, factor[knob], center)
            elif knob == "saturation":
                color.saturation_(x, factor[knob], self.saturation_mode)
            else:
                color.hue_(x, factor["hue"], factor["saturation"] if knob == "both" else None)

    def _compiled(self, x: Tensor, passes: list[str], factor: dict[str, color.Factor], center: Tensor) -> None:
        """``_pointwise`` with compiled kernels, on (n, C, pixels) and (n, C, 1): few shapes mean few compilations."""
        kernels = color.compiled_kernels()
        count, channels = x.shape[:2]
        work = x.view(count, channels, -1)
        values = {k: torch.as_tensor(v, dtype=x.dtype, device=x.device).view(-1, 1) for k, v in factor.items()}
        for knob in passes:
            per_frame = knob == "contrast" and center.shape[2] > 1
            if per_frame or (knob == "saturation" and self.saturation_mode == "blend"):
                x.copy_(work.view(x.shape))
                self._pointwise(x, [knob], factor, center)
                work = x.view(count, channels, -1)
            elif knob in ("brightness", "contrast"):
                scale = values[knob].unsqueeze(1).expand(count, channels, 1).contiguous()
                shift = center.view(count, -1, 1) * (1 - scale) if knob == "contrast" else torch.zeros_like(scale)
                work = kernels.scale_shift(work, scale, shift)
            else:
                shift = x.new_zeros(count, 1) if knob == "saturation" else values["hue"]
                scale = x.new_ones(count, 1) if knob == "hue" else values["saturation"]
                work = kernels.turn_hsv(work, shift, scale)
        if work.data_ptr() != x.data_ptr():
            x.copy_(work.view(x.shape))


@checked
@dataclass(frozen=True)
class Grayscale(_ByChance):
    """Luma in all channels with probability ``p`` (docs/methods/cvrl.md, Augmentation, step 5)."""

    p: Share = 0.2
    consistent: bool = True
    name: str = "gray"

    def _on(self, clips: Tensor) -> Tensor:
        return color.grayscale_(clips)


@checked
@dataclass(frozen=True)
class ChannelReplication(_ByChance):
    """One of the channels, uniformly drawn, in the place of all, with probability ``p`` (docs/methods/opn.md, Numbers).

    Against shortcuts of order tasks: chromatic aberration and the drift of white balance tell where or when a crop was
    taken (Noroozi & Favaro 2016; OPN's channel splitting, Lee et al. 2017).
    """

    p: Share = 1.0
    consistent: bool = True
    name: str = "channel"

    def _bounds(self) -> dict[str, Range]:
        return {"channel": (0.0, 1.0)}  # the share of the channels before the chosen one

    def _run(self, clips: Tensor, params: dict[str, Tensor]) -> None:
        chosen = (params["channel"] * clips.shape[1]).to(torch.int64).clamp(max=clips.shape[1] - 1).tolist()
        for row in _chosen(params):
            clips[row] = clips[row, chosen[row]].clone()


@checked
@dataclass(frozen=True)
class GaussianBlur(_ByChance):
    """Gaussian blur with σ uniform in ``sigma`` pixels, with probability ``p``.

    Source: docs/methods/cvrl.md, Augmentation, step 6.

    ``radius=None`` is (size // 10) // 2 of the view's short side: 11 (23 taps) at 224. ``padding`` is ``zero`` in
    CVRL's release, ``reflect`` in the object-aware code (docs/methods/moco.md, Views).
    """

    p: Share = 0.5
    sigma: Range = (0.1, 2.0)
    radius: Amount | None = None
    padding: Padding = "zero"
    consistent: bool = True
    name: str = "blur"

    def __post_init__(self) -> None:
        _check_range(self.name, "sigma", self.sigma, 0.0)

    def _bounds(self) -> dict[str, Range]:
        return {"sigma": self.sigma}  # pixels of the view

    def _run(self, clips: Tensor, params: dict[str, Tensor]) -> None:
        radius = geometry.default_blur_radius(*clips.shape[-2:]) if self.radius is None else self.radius
        rows = _chosen(params)
        if radius > 0 and rows:
            geometry.gaussian_blur_(clips, params["sigma"][rows], radius, self.padding, rows=rows)


@checked
@dataclass(frozen=True)
class Solarize(_ByChance):
    """x ≥ ``threshold`` becomes 1 − x, with probability ``p`` (docs/methods/cvrl.md, Augmentation, step 7)."""

    p: Share = 0.2
    threshold: float = 0.5
    consistent: bool = True
    name: str = "solarize"

    def _on(self, clips: Tensor) -> Tensor:
        return color.solarize_(clips, self.threshold)
