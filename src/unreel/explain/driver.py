"""Maps for whole data sets: shuffled batches by a fixed seed, in the order of the data, with where they come from.

A ContraCAM depends on the other rows of its batch (docs/methods/contracam.md, Batches). Data are often stored class by
class, which would set every image against its own kind: rows are shuffled by a key and come back by number. A batch
that has no negatives, such as a last row alone, is joined by rows of the one before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.batch import Fault
from unreel.data.dataset import EvaluationDataset, EvaluationSample
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.explain.contracam import CamSettings, Groups, activation_maps
from unreel.nn.encoder import Encoder, InputSpec
from unreel.nn.matching import tensors_digest

Resolution: TypeAlias = Literal["input", "features"]
ProgressCall: TypeAlias = Callable[[int, int], None]

_log = logging.getLogger("unreel.explain")


class ClipMap(NamedTuple):
    """The map of one clip of one row.

    Attributes:
        row: position in the data. clip: number of the clip in its plan.
        maps: (T, H, W) float32 in [0, 1], on the CPU; T = 1 for images. ``resolution="features"``: (T', h, w).
        times_s: (T,) or (T',) float64, presentation times of the maps' frames.
        pixels: (T, S, S, 3) uint8, what the net saw, where it was asked for.
    """

    row: int
    clip: int
    maps: Tensor
    times_s: Tensor
    pixels: Tensor | None = None


@dataclass(frozen=True)
class CamMaps:
    """Maps of a data set.

    Attributes:
        maps: (N, V, T, H, W) float32 in [0, 1]: rows that could be read, in their order, V clips each.
        rows: (N,) their positions in the data.
        times_s: (N, V, T) float64.
        faults: what could not be read, and why.
        provenance: all settings and digests of both nets, plain values.
    """

    maps: Tensor
    rows: Tensor
    times_s: Tensor
    faults: tuple[Fault, ...]
    provenance: dict[str, object]


def whole_frames(spec: InputSpec, *, num_clips: int = 1, size_px: int | None = None) -> ClipPlan:
    """Clips as the encoder was trained, of whole frames: resized to size × size, the aspect not kept."""
    size = spec.size_px if size_px is None else size_px
    return ClipPlan(
        num_frames=spec.num_frames,
        stride=spec.stride_frames,
        num_clips=num_clips,
        num_crops=1,
        size_px=size,
        short_side_px=size,
        resize_px=(size, size),
    )


def provenance(
    encoder: Encoder,
    projector: nn.Module | None,
    settings: CamSettings,
    *,
    batch_size: int,
    seed: int,
    plan: ClipPlan | None = None,
    resolution: Resolution = "input",
) -> dict[str, object]:
    """What maps of the same data depend on, as plain values: goes with every file of boxes or masks."""
    return {
        "contracam": 1,
        "settings": settings.to_card(),
        "architecture": encoder.architecture,
        "input": {k: list(v) if isinstance(v, tuple) else v for k, v in encoder.input_spec.to_card().items()},
        "encoder": tensors_digest(encoder.state_dict()),
        "projector": None if projector is None else tensors_digest(projector.state_dict()),
        "batch_size": batch_size,
        "seed": seed,
        "plan": None if plan is None else plan.digest,
        "resolution": resolution,
    }


def to_bytes(maps: Tensor) -> Tensor:
    """Maps in [0, 1] to uint8, rounded to the nearest of 256 levels."""
    return (maps * 255).round().clamp(0, 255).to(torch.uint8)


class _Item(NamedTuple):
    row: int
    clip: int
    pixels: Tensor
    times_s: Tensor
    group: int


class _Blocks:
    """Which rows are mapped together: settled by the groups of all rows, the number of rows and the seed alone.

    A batch is a block of shuffled rows. One that shows a single group, as a last row alone does, is joined by rows of
    other groups from the block before it, or from the nearest that has some (docs/methods/contracam.md, Batches).
    """

    def __init__(self, groups: Sequence[int], size: int, seed: int) -> None:
        order: list[int] = Key(seed, "contracam").permutation(len(groups)).tolist()
        self.groups, self.size = groups, size
        self.blocks = [order[begin : begin + size] for begin in range(0, len(order), size)]

    def batches(
        self,
        read: Iterable[tuple[int, list[_Item]]],
        again: Callable[[Sequence[int]], Iterator[list[_Item]]],
        *,
        contrastive: bool,
    ) -> Iterator[tuple[list[_Item], int]]:
        """Batches, and how many of their first items are the block's own.

        Args:
            read: numbers of blocks, and the items of their rows that can be read.
            again: reads rows that a block needs for company: the items of each that can be read.
            contrastive: whether rows need others.
        """
        warned = False
        for number, held in read:
            extra: list[_Item] = []
            if held and contrastive and len({item.group for item in held}) == 1:
                extra = self._company(number, held, again)
                if not extra and not warned:
                    warned = True
                    _log.warning(
                        "rows %d … %d are all of one group, and there are no others to set them against: their maps "
                        "are zero; give data of at least two groups (videos, persons)",
                        held[0].row,
                        held[-1].row,
                    )
            if held:
                yield held + extra, len(held)

    def _company(
        self, number: int, held: Sequence[_Item], again: Callable[[Sequence[int]], Iterator[list[_Item]]]
    ) -> list[_Item]:
        room = max(1, self.size - len({item.row for item in held}))
        for near in (*range(number - 1, -1, -1), *range(number + 1, len(self.blocks))):
            others = [row for row in self.blocks[near] if self.groups[row] != held[0].group]
            if others and (found := list(islice(again(others), room))):
                return [item for items in found for item in items]
        return []


def _stream(
    encoder: Encoder,
    projector: nn.Module | None,
    batches: Iterable[tuple[list[_Item], int]],
    settings: CamSettings,
    *,
    chunk: int | None,
    resolution: Resolution = "input",
    pixels: bool = False,
) -> Iterator[ClipMap]:
    factor = settings.expand_resolution
    finer = encoder if factor == 1 else encoder.at_resolution(factor)
    for batch, keep in batches:
        groups = torch.tensor([item.group for item in batch])
        seen = torch.stack([item.pixels for item in batch])
        found = activation_maps(finer, projector, seen, settings, groups=groups, chunk=chunk)
        maps = found.maps.cpu()[:keep, 0]
        maps = maps if maps.ndim == 4 else maps[:, None]
        times = torch.stack([item.times_s for item in batch[:keep]])
        if resolution == "features":
            maps = functional.adaptive_avg_pool3d(maps, found.grid)
            times = functional.adaptive_avg_pool1d(times[:, None], found.grid[0])[:, 0]
        maps = maps.to(torch.float32)
        for place, item in enumerate(batch[:keep]):
            yield ClipMap(item.row, item.clip, maps[place], times[place], item.pixels if pixels else None)


@checked
def check_batches(settings: CamSettings, batch_size: int, resolution: Resolution = "input") -> bool:
    """Whether rows need others in their batch. Raises UsageError where they could have none."""
    contrastive = settings.score == "contrastive"
    if batch_size < 1 + contrastive:
        raise UsageError(f"batch_size must be at least {1 + contrastive}, got {batch_size}")
    return contrastive


def array_maps(
    encoder: Encoder,
    projector: nn.Module | None,
    images: Tensor,
    *,
    settings: CamSettings | None = None,
    groups: Groups | None = None,
    batch_size: int = 256,
    seed: int = 0,
    chunk: int | None = None,
    **knobs: Any,
) -> Tensor:
    """Maps of N images or clips in memory, batch by batch, in their order.

    Args:
        images: as ``contracam`` takes them, N of them.
        settings: or single ``knobs`` of ``CamSettings``.
        groups: (N,) int; rows of one group are no negatives of each other.
        batch_size, seed: who is set against whom: recorded with the result, since it depends on them.
    Returns: (N, 1, H, W) for images, (N, 1, T, H, W) for clips, float32 on the CPU.
        Where all are of one group, the maps are zero, with a warning.
    Raises: UsageError as ``contracam``.
    """
    chosen = _settings(settings, knobs)
    contrastive = check_batches(chosen, batch_size)
    ids = torch.arange(len(images)) if groups is None else torch.as_tensor(groups)
    if len(ids) != len(images):
        raise UsageError(f"groups: expected one per image ({len(images)}), got {len(ids)}")
    plan = _Blocks(ids.tolist(), batch_size, seed)
    frames = images.shape[1 if images.dtype == torch.uint8 else 2] if images.ndim == 5 else 1
    times = torch.zeros(frames, dtype=torch.float64)

    def items(rows: Sequence[int]) -> list[_Item]:
        return [_Item(row, 0, images[row], times, plan.groups[row]) for row in rows]

    read = ((number, items(block)) for number, block in enumerate(plan.blocks))
    batches = plan.batches(read, lambda rows: ([item] for item in items(rows)), contrastive=contrastive)
    found = _stream(encoder, projector, batches, chosen, chunk=chunk)
    maps = [one.maps for one in sorted(found, key=lambda one: one.row)]
    if not maps:
        raise UsageError("there are no images to make maps of")
    stacked = torch.stack(maps)[:, None]
    return stacked if images.ndim == 5 else stacked[:, :, 0]


def _settings(settings: CamSettings | None, knobs: dict[str, Any]) -> CamSettings:
    if settings is not None and knobs:
        raise UsageError(f"give settings or single knobs, not both (settings and {', '.join(sorted(knobs))})")
    return CamSettings.of(**knobs) if settings is None else settings


def _groups(manifest: Manifest) -> list[int]:
    """One id per row: its group where it has one, else its file, so that spans of one video are one group."""
    return [
        manifest.group_id(i) if row.groups.get("group") or not row.path else Key("file", manifest.relative(i)).bits()
        for i, row in enumerate(manifest)
    ]


def iterate_maps(
    encoder: Encoder,
    projector: nn.Module | None,
    data: Source,
    *,
    plan: ClipPlan | None = None,
    settings: CamSettings | None = None,
    batch_size: int = 256,
    seed: int = 0,
    resolution: Resolution = "input",
    chunk: int | None = None,
    workers: int = 0,
    pixels: bool = False,
    skip: Collection[int] = (),
    on_fault: Callable[[Fault], None] | None = None,
    progress: ProgressCall | None = None,
    **knobs: Any,
) -> Iterator[ClipMap]:
    """Maps of a data set as they are made, in the shuffled order of the batches; memory for one batch only.

    Which rows share a batch is settled by the data, ``batch_size`` and ``seed`` alone. A row that cannot be read
    leaves its batch smaller; rows that no row of another group can be set against have maps of zeros, with a warning.

    Args:
        data: a manifest, or what makes one. Rows of one file, or of one group, are no negatives of each other.
        plan: which clips; None is ``whole_frames`` of the encoder's input.
        settings: or single ``knobs`` of ``CamSettings``.
        batch_size, seed: who is set against whom. All clips of a row are in one batch, which holds two rows at least.
        resolution: "input" maps of the plan's size, or "features": averaged over the cells of the feature map, which
            is what is worth keeping for video (``to_bytes``: 8 bits).
        chunk: rows per pass of the backbone.
        workers: processes that decode.
        pixels: give the frames with the maps.
        skip: rows whose maps are known. Batches of nothing else are left out; elsewhere such rows are read as company,
            so that a run that was stopped ends with the same maps.
        on_fault: called for each row that cannot be read; such rows have no map.
        progress: called with (rows read, rows in all).
    Raises: DataError for missing files; UsageError as ``contracam``.
    """
    chosen = _settings(settings, knobs)
    contrastive = check_batches(chosen, batch_size, resolution)
    manifest = Manifest.open(data)
    manifest.check_files()
    clips = whole_frames(encoder.input_spec) if plan is None else plan
    dataset = EvaluationDataset(manifest, clips)
    together = _Blocks(_groups(manifest), max(1 + contrastive, batch_size // clips.num_views), seed)
    known = set(skip)
    wanted = [i for i, block in enumerate(together.blocks) if not known.issuperset(block)]
    reading = [row for i in wanted for row in together.blocks[i]]

    def items(sample: EvaluationSample) -> list[_Item]:
        if sample.views is None or sample.times_s is None:
            return []
        times = sample.times_s.repeat_interleave(clips.num_crops, 0)
        group = together.groups[sample.row]
        return [_Item(sample.row, number, view, times[number], group) for number, view in enumerate(sample.views)]

    def read() -> Iterator[tuple[int, list[_Item]]]:
        samples = enumerate(iterate_evaluation(dataset, reading, workers=workers), 1)
        for i in wanted:
            held: list[_Item] = []
            for done, sample in islice(samples, len(together.blocks[i])):
                held += items(sample)
                if sample.fault is not None and on_fault is not None and sample.row not in known:
                    on_fault(sample.fault)
                if progress is not None:
                    progress(done, len(reading))
            yield i, held

    def again(rows: Sequence[int]) -> Iterator[list[_Item]]:
        return (found for sample in iterate_evaluation(dataset, rows, workers=workers) if (found := items(sample)))

    batches = together.batches(read(), again, contrastive=contrastive)
    for found in _stream(encoder, projector, batches, chosen, chunk=chunk, resolution=resolution, pixels=pixels):
        if found.row not in known:
            yield found


def maps_for(
    encoder: Encoder,
    projector: nn.Module | None,
    data: Source,
    *,
    plan: ClipPlan | None = None,
    settings: CamSettings | None = None,
    batch_size: int = 256,
    seed: int = 0,
    resolution: Resolution = "input",
    chunk: int | None = None,
    workers: int = 0,
    progress: ProgressCall | None = None,
    **knobs: Any,
) -> CamMaps:
    """``iterate_maps``, collected in the order of the data, with the settings and digests that made them.

    For sets that fit in memory: N · V · T · H · W float32. Raises as ``iterate_maps``; DataError where no row could
    be read.
    """
    chosen = _settings(settings, knobs)
    clips = whole_frames(encoder.input_spec) if plan is None else plan
    faults: list[Fault] = []
    found = sorted(
        iterate_maps(
            encoder,
            projector,
            data,
            plan=clips,
            settings=chosen,
            batch_size=batch_size,
            seed=seed,
            resolution=resolution,
            chunk=chunk,
            workers=workers,
            on_fault=faults.append,
            progress=progress,
        ),
        key=lambda one: (one.row, one.clip),
    )
    if not found:
        first = f" (first: {faults[0].path}: {faults[0].message})" if faults else ""
        raise DataError(f"none of {len(faults)} rows could be read{first}")
    rows = list(dict.fromkeys(one.row for one in found))
    maps, times = torch.stack([one.maps for one in found]), torch.stack([one.times_s for one in found])
    card = provenance(encoder, projector, chosen, batch_size=batch_size, seed=seed, plan=clips, resolution=resolution)
    return CamMaps(
        maps.view(len(rows), -1, *maps.shape[1:]),
        torch.tensor(rows),
        times.view(len(rows), -1, times.shape[-1]),
        tuple(faults),
        card,
    )
