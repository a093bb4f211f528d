"""A view plan: for each view a pipeline of operations; drawn before pixels change, applied in batches on the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data import aligned as _aligned
from unreel.data.batch import Aligned, Batch, View, ViewParams
from unreel.data.contracts import FrameSize
from unreel.views.geometry import as_size
from unreel.views.operation import DeviceOperation, Operation, SourceOperation
from unreel.views.operations import CenterCrop, HorizontalFlip, RandomCrop, frame_blocks


class ViewPlan:
    """Implements ``unreel.data.contracts.SupportsViews``. Picklable, without state, equal when all its values are.

    Besides its operations' values ("crop.box", "jitter.hue" …) the parameters of a view record its whole geometry:
    ``geometry.box`` (T', 4) the part of the decoded frame that is seen, x1 y1 x2 y2 in source pixels,
    ``geometry.source_size`` and ``geometry.size`` (1, 2) int64 height and width before and after, and
    ``geometry.flip`` (T',) bool. ``data.aligned.apply_to`` needs no more.

    Args:
        pipelines: one sequence of operations per view. Operations on decoded frames come first, at most the last
            of them with one draw per frame.
        shared: names of operations that are drawn once for all views of a sample, such as the object of an
            object-aware crop. They must be in every pipeline.
        late: ``apply`` moves pixels only (flips); ``finish`` does the rest, after what mixes samples in between.
    Raises: UsageError when a name repeats within a pipeline, an operation on frames comes late, or a shared name is
        missing.
    """

    def __init__(
        self, pipelines: Sequence[Sequence[Operation]], *, shared: Collection[str] = (), late: bool = False
    ) -> None:
        self.pipelines = tuple(tuple(p) for p in pipelines)
        self.shared = frozenset(shared)
        self.late = late
        if not self.pipelines:
            raise UsageError("a view plan needs at least one pipeline")
        self._source: list[tuple[SourceOperation, ...]] = []
        self._device: list[tuple[DeviceOperation, ...]] = []
        for view, pipeline in enumerate(self.pipelines):
            names = [op.name for op in pipeline]
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated or "geometry" in names:
                raise UsageError(
                    f"view {view}: operation name {(repeated or ['geometry'])[0]!r} is used twice or reserved; "
                    "names are part of the draws' keys, so give each its own"
                )
            source = tuple(op for op in pipeline if isinstance(op, SourceOperation))
            device = tuple(op for op in pipeline if not isinstance(op, SourceOperation))
            if misplaced := [op.name for op, kept in zip(source, pipeline, strict=False) if op is not kept]:
                raise UsageError(
                    f"view {view}: {misplaced[0]!r} works on decoded frames and must come before {device[0].name!r}"
                )
            varying = [op.name for op in source[:-1] if not op.consistent]
            if varying:
                raise UsageError(f"view {view}: {varying[0]!r} draws per frame and must be the last crop or resize")
            missing = sorted(self.shared - set(names))
            if missing:
                raise UsageError(f"view {view} has no operation {missing[0]!r}, which is to be shared")
            self._source.append(source)
            self._device.append(device)

    @property
    def num_views(self) -> int:
        """Number of views per sample."""
        return len(self.pipelines)

    @property
    def size(self) -> int | None:
        """Side of the first view's frames in pixels; None where they are not square."""
        sizes = [size for op in self.pipelines[0] if (size := getattr(op, "size", None)) is not None]
        height, width = as_size(sizes[-1]) if sizes else (0, 1)
        return height if height == width else None

    def after(self, operation: Operation, *, shared: bool = False) -> ViewPlan:
        """The same plan behind one more operation on decoded frames; no other draw changes."""
        names = self.shared | ({operation.name} if shared else set())
        return ViewPlan([[operation, *p] for p in self.pipelines], shared=names, late=self.late)

    def steady(self, without: Collection[str] = ()) -> ViewPlan:
        """The same plan with the centre in the place of a random crop, and without the operations of these names."""

        def still(op: Operation) -> Operation:
            return CenterCrop(op.size) if isinstance(op, RandomCrop) else op

        pipelines = [[still(op) for op in pipeline if op.name not in without] for pipeline in self.pipelines]
        names = {op.name: still(op).name for op in self.pipelines[0] if op.name not in without}
        return ViewPlan(pipelines, shared=[names[n] for n in self.shared if n in names], late=self.late)

    def _value(self) -> tuple[object, ...]:
        return self.pipelines, self.shared, self.late

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, ViewPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        views = "; ".join(" → ".join(map(repr, p)) for p in self.pipelines)
        shared = f", shared={sorted(self.shared)}" if self.shared else ""
        return f"ViewPlan({views}{shared}{', late=True' if self.late else ''})"

    def draw(self, key: Key, view: int, size: FrameSize, sidecars: Mapping[str, object]) -> ViewParams:
        """All random choices of one view, before a pixel is touched.

        Args:
            key: the sample's; the plan appends the view's index (or ``shared``) and the operation's name.
            view: index of the pipeline.
            size: size of the decoded frames; ``num_frames`` is the clip's.
            sidecars: computed facts of the source, by name.
        """
        values: dict[str, Tensor] = {}
        box = torch.tensor([[0, 0, size.width, size.height]], dtype=torch.float32)
        flip = torch.zeros(1, dtype=torch.bool)
        now = size

        def draw_one(op: Operation) -> dict[str, Tensor]:
            scope: str | int = "shared" if op.name in self.shared else view
            drawn = op.draw(key.child(scope, op.name), now, sidecars)
            values.update({f"{op.name}.{k}": v for k, v in drawn.items()})
            return drawn

        for op in self._source[view]:
            drawn = draw_one(op)
            inner, corner = drawn["box"], box[:, :2]
            scale = (box[:, 2:] - box[:, :2]) / torch.tensor([now.width, now.height])
            box = torch.cat([corner + inner[:, :2] * scale, corner + inner[:, 2:] * scale], 1)
            now = op.output_size(drawn, now)
        for other in self._device[view]:
            drawn = draw_one(other)
            if isinstance(other, HorizontalFlip):
                flip = flip ^ drawn["apply"]
        values["geometry.box"] = box
        values["geometry.source_size"] = torch.tensor([[size.height, size.width]])
        values["geometry.size"] = torch.tensor([[now.height, now.width]])
        values["geometry.flip"] = flip
        return ViewParams(values, self.shared)

    def crop(self, view: int, frames: Tensor, params: ViewParams) -> Tensor:
        """Crop and resize decoded frames (T, H, W, C) uint8 to the view's size (T, h, w, C) uint8, contiguous.

        Raises: UsageError when the frames do not have the size that the parameters were drawn for.
        """
        drawn_for = tuple(params["geometry.source_size"][0].tolist())
        if tuple(frames.shape[1:3]) != drawn_for:
            raise UsageError(
                f"view {view}: frames are {frames.shape[1]} × {frames.shape[2]}, but the crop was drawn for "
                f"{drawn_for[0]} × {drawn_for[1]}"
            )
        for op in self._source[view]:
            frames = op.crop(frames, params.operation(op.name))
        return frames.contiguous()

    def align(self, view: int, data: Aligned, params: ViewParams) -> Aligned:
        """Aligned data of one clip in source coordinates, carried through the view's whole geometry (crop and flip).

        One step from the source to the view, however many resizes there were: nearest sampling twice would drift.
        """
        antialias = all(getattr(op, "antialias", True) for op in self._source[view])
        return Aligned(data.kind, _aligned.apply_to(data.kind, data.data, params, antialias=antialias))

    def apply_view(self, view: int, clips: Tensor, params: ViewParams) -> Tensor:
        """The device part of one view: uint8 (B, T, h, w, C) to float (B, C, T, h, w) in [0, 1], params (B, T', ...).

        The float type is torch's default. Raises: UsageError for clips that are not uint8 frames.
        """
        if clips.dtype != torch.uint8 or clips.ndim != 5:
            raise UsageError(
                f"view {view}: expected uint8 clips (B, T, H, W, C) from the loader, got {clips.dtype} "
                f"{tuple(clips.shape)}; a batch is applied once"
            )
        count, frames, height, width, channels = clips.shape
        out = torch.empty(count, channels, frames, height, width, dtype=torch.get_default_dtype(), device=clips.device)
        pixels = clips.permute(0, 4, 1, 2, 3)
        if out.device.type == "cpu":  # a few frames at a time: the second pass finds them in the cache
            for source, target in zip(pixels, out, strict=True):
                for first, block in frame_blocks(target.unsqueeze(0)):
                    block[0].copy_(source[:, first : first + block.shape[2]]).div_(255)
        else:
            out.copy_(pixels).div_(255)
        # Which clips are touched, and in which order, is decided on the host: one wait for the parameters.
        return self._run(self._now(view), out, params)

    def _now(self, view: int) -> list[DeviceOperation]:
        return [op for op in self._device[view] if not self.late or isinstance(op, HorizontalFlip)]

    def _run(self, operations: Sequence[DeviceOperation], clips: Tensor, params: ViewParams) -> Tensor:
        """Operations on clips that are ours, in place where they can."""
        names = {op.name for op in operations}
        host = ViewParams({k: v.cpu() for k, v in params.values.items() if k.split(".")[0] in names})
        for op in operations:
            in_place = getattr(op, "apply_", op.apply)
            clips = in_place(clips, host.operation(op.name))
        return clips

    def apply(self, batch: Batch) -> Batch:
        """The device part of every view of the video; the batch given is not changed.

        Aligned data moved in the worker already; views of other streams stay as they are.
        """
        found = sum(v.stream == "video" for v in batch.views)
        if found != self.num_views:
            raise UsageError(f"the batch has {found} views, the plan {self.num_views}")
        return self._each(batch, lambda i, v: self.apply_view(i, v.data, v.params))

    def finish(self, batch: Batch) -> Batch:
        """What ``apply`` left out because the plan is late; the batch given is not changed."""

        def rest(i: int, v: View) -> Tensor:
            now = self._now(i)
            late = [op for op in self._device[i] if op not in now]
            return self._run(late, v.data.clone(memory_format=torch.contiguous_format), v.params)

        return self._each(batch, rest)

    def _each(self, batch: Batch, change: Callable[[int, View], Tensor]) -> Batch:
        numbers = count()
        with torch.no_grad():
            views = [replace(v, data=change(next(numbers), v)) if v.stream == "video" else v for v in batch.views]
        return replace(batch, views=tuple(views))
