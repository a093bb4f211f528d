"""What a loader yields and a method sees: typed containers, from one sample's views to a collated batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor

from unreel.core.keys import Key

AlignedKind: TypeAlias = Literal["mask", "soft_mask", "boxes", "points", "depth", "flow"]
ALIGNED_KINDS: tuple[str, ...] = get_args(AlignedKind)


@dataclass(frozen=True)
class Aligned:
    """Data that follows a clip's geometry and nothing else.

    Shapes per clip (a leading B once collated), T being the clip's frames or 1 for an image:
    mask (T, H, W) int64 classes · soft_mask (T, H, W) float · depth (T, H, W) float ·
    boxes (T, N, 4) float x1 y1 x2 y2 in pixels, NaN rows are absent · points (T, N, 2) float x y in pixels ·
    flow (T, H, W, 2) float, pixels per frame (x, y).
    """

    kind: AlignedKind
    data: Tensor

    def __post_init__(self) -> None:
        if self.kind not in ALIGNED_KINDS:
            raise ValueError(f"unknown aligned kind {self.kind!r}; known: {', '.join(ALIGNED_KINDS)}")


@dataclass(frozen=True)
class ViewParams:
    """Every random choice behind one view, by "operation.parameter".

    Per clip each value is (T', ...) where T' is 1 (one draw for all frames) or T (one draw per frame); in a batch
    (B, T', ...). ``shared`` names the operations whose draw both views of a pair have in common.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    def operation(self, name: str) -> dict[str, Tensor]:
        """The parameters of one operation, without its prefix."""
        prefix = name + "."
        return {k[len(prefix) :]: v for k, v in self.values.items() if k.startswith(prefix)}

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]


class _Moved(ABC):
    """Tensors that go from place to place together."""

    @abstractmethod
    def each(self, move: Callable[[Tensor], Tensor]) -> Self:
        """The same with ``move`` of every tensor."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return self.each(torch.Tensor.pin_memory)


@dataclass(frozen=True)
class View(_Moved):
    """One augmented clip, or the sound of one (or B of them once collated).

    ``stream``: "video", whose ``data`` is (T, H, W, C) uint8 as the worker hands it over, (B, T, H, W, C) collated,
    (B, C, T, H, W) float in [0, 1] after ``ViewPlan.apply``; or "audio", (T,) or (B, T) float32 samples.
    ``times_s``: (T,) or (B, T) float64 presentation times, of one clock for all streams.
    """

    data: Tensor
    times_s: Tensor
    params: ViewParams = field(default_factory=ViewParams)
    aligned: dict[str, Aligned] = field(default_factory=dict)
    stream: str = "video"

    def each(self, move: Callable[[Tensor], Tensor]) -> View:
        params = replace(self.params, values={k: move(v) for k, v in self.params.values.items()})
        aligned = {k: Aligned(a.kind, move(a.data)) for k, a in self.aligned.items()}
        return View(move(self.data), move(self.times_s), params, aligned, self.stream)


@dataclass(frozen=True)
class Fault:
    """A source that could not be read in training, and what took its slot."""

    path: str
    cause: str
    message: str
    substitute: str
    step: int


@dataclass(frozen=True)
class Sample:
    """One row's views before collation. ``targets`` are what the sampler knows (order, pace, pair …)."""

    views: tuple[View, ...]
    targets: Mapping[str, Tensor]
    sample_id: int
    group: int
    row: int
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Batch(_Moved):
    """B samples with V views each; views may differ in size and length.

    ``targets[name]`` is (B, ...); ``sample_id``, ``group`` and ``row`` are (B,) int64. Row i of every view comes from
    the same source. Batches compare groups, never file names. ``key`` is the address of draws that
    ``forward`` makes (``unreel.core.keys.uniforms``), the same on all processes and another at every step.
    """

    views: tuple[View, ...]
    targets: dict[str, Tensor]
    sample_id: Tensor
    group: Tensor
    row: Tensor
    faults: tuple[Fault, ...] = ()
    key: Key = field(default_factory=lambda: Key("batch"))

    def __len__(self) -> int:
        return int(self.sample_id.shape[0])

    def each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        views = tuple(view.each(move) for view in self.views)
        targets = {name: move(target) for name, target in self.targets.items()}
        ids = move(self.sample_id), move(self.group), move(self.row)
        return Batch(views, targets, *ids, self.faults, self.key)


def stack_aligned(items: Sequence[Aligned]) -> Aligned:
    """One more axis in front. Raises ValueError where kinds or sizes differ; of boxes and points the numbers may."""
    tensors = [a.data for a in items]
    kinds = {a.kind for a in items}
    if len(kinds) != 1:
        raise ValueError(f"one aligned name has several kinds in a batch: {sorted(kinds)}")
    kind = items[0].kind
    if kind in ("boxes", "points"):  # the number of instances differs between samples: absent ones are NaN
        most = max(t.shape[1] for t in tensors)
        tensors = [
            torch.cat([t, t.new_full((t.shape[0], most - t.shape[1], t.shape[2]), float("nan"))], dim=1)
            for t in tensors
        ]
    return Aligned(kind, torch.stack(tensors))


def collate(samples: Sequence[Sample], *, stack: Callable[[list[Tensor]], Tensor] = torch.stack) -> Batch:
    """Stack samples into a batch. Raises ValueError when they disagree in views, sizes or targets.

    ``stack`` joins the clips of a view; a loader's worker passes one that writes to shared memory.
    """
    if not samples:
        raise ValueError("cannot collate an empty list of samples")
    views: list[View] = []
    for parts in zip(*(s.views for s in samples), strict=True):
        names = parts[0].params.values.keys()
        params = ViewParams(
            {n: torch.stack([p.params.values[n] for p in parts]) for n in names}, parts[0].params.shared
        )
        aligned = {n: stack_aligned([p.aligned[n] for p in parts]) for n in parts[0].aligned}
        clips = stack([p.data for p in parts])
        views.append(View(clips, torch.stack([p.times_s for p in parts]), params, aligned, parts[0].stream))
    return Batch(
        tuple(views),
        {n: torch.stack([s.targets[n] for s in samples]) for n in samples[0].targets},
        torch.tensor([s.sample_id for s in samples], dtype=torch.int64),
        torch.tensor([s.group for s in samples], dtype=torch.int64),
        torch.tensor([s.row for s in samples], dtype=torch.int64),
        tuple(f for s in samples for f in s.faults),
    )
