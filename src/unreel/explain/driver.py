"""Maps for whole data sets: shuffled batches by a fixed seed, in the order of the data, with where they come from.

A ContraCAM depends on the other rows of its batch (docs/methods/contracam.md, Batches). Data are often stored class by
class, which would set every image against its own kind: rows are shuffled by a key and come back by number. A batch
that has no negatives, such as a last row alone, is joined by rows of the one before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Fault
from unreel.data.dataset import EvaluationDataset, EvaluationSample
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.explain.contracam import CamSettings, activation_maps
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


class MapPlan(NamedTuple):
    """Which clips of a source are looked at, and whether each frame of them by itself."""

    clips: ClipPlan
    per_frame: bool
    video: bool


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


@dataclass(frozen=True)
class MapMaker:
    """What maps of a data set are made with.

    Args:
        encoder, projector: both from one method; see ``contracam``.
        plan: which clips, see ``map_plan``.
        cam: settings of the maps.
        batch_size, seed: who is set against whom, in clips. All clips of a row are in one batch, which holds two rows
            at least.
        chunk: rows per pass of the backbone; changes nothing but the memory.
    Raises: UsageError for batches in which no row could have another beside it.
    """

    encoder: Encoder
    projector: nn.Module | None
    plan: MapPlan
    cam: CamSettings = field(default_factory=CamSettings)
    batch_size: int = 256
    seed: int = 0
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < self._fewest:
            raise UsageError(f"batch_size must be at least {self._fewest}, got {self.batch_size}")

    @property
    def _fewest(self) -> int:
        return 2 if self.cam.score == "contrastive" else 1

    def card(self, resolution: Resolution = "input") -> dict[str, object]:
        """What maps of the same data depend on, as plain values: goes with every file of boxes or masks."""
        spec = self.encoder.input_spec.to_card()
        return {
            "contracam": 1,
            "settings": self.cam.to_card(),
            "architecture": self.encoder.architecture,
            "input": {k: list(v) if isinstance(v, tuple) else v for k, v in spec.items()},
            "encoder": tensors_digest(self.encoder.state_dict()),
            "projector": None if self.projector is None else tensors_digest(self.projector.state_dict()),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "plan": self.plan.clips.digest,
            "resolution": resolution,
        }

    def maps(
        self,
        manifest: Manifest,
        faults: list[Fault],
        *,
        rows: Collection[int] | None = None,
        resolution: Resolution = "input",
        workers: int = 0,
        pixels: bool = False,
        progress: ProgressCall | None = None,
    ) -> Iterator[ClipMap]:
        """Maps of a data set as they are made, in the shuffled order of the batches; memory for one batch only.

        Which rows share a batch is settled by the data, ``batch_size`` and ``seed`` alone. A row that cannot be read
        leaves its batch smaller; rows that no row of another group can be set against have maps of zeros, with a
        warning.

        Args:
            manifest: rows of one file, or of one group, are no negatives of each other.
            faults: gets what cannot be read, and why; such rows have no map.
            rows: those asked for; None is all. Batches of nothing else are left out; elsewhere other rows are read as
                company, so that a run that was stopped ends with the same maps.
            resolution: "input" maps of the plan's size, or "features": averaged over the cells of the feature map,
                which is what is worth keeping for video (``to_bytes``: 8 bits).
            workers: processes that decode.
            pixels: give the frames with the maps.
            progress: called with (rows read, rows in all).
        Raises: DataError for missing files; UsageError as ``contracam``.
        """
        manifest.check_files()
        clips = self.plan.clips
        dataset = EvaluationDataset(manifest, clips)
        together = _Blocks(_groups(manifest), max(self._fewest, self.batch_size // clips.num_views), self.seed)
        asked = set(range(len(manifest)) if rows is None else rows)
        wanted = [i for i, block in enumerate(together.blocks) if not asked.isdisjoint(block)]
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
                    if sample.fault is not None and sample.row in asked:
                        faults.append(sample.fault)
                    if progress is not None:
                        progress(done, len(reading))
                yield i, held

        def again(near: Sequence[int]) -> Iterator[list[_Item]]:
            return (found for sample in iterate_evaluation(dataset, near, workers=workers) if (found := items(sample)))

        factor = self.cam.expand_resolution
        finer = self.encoder if factor == 1 else self.encoder.at_resolution(factor)
        for batch, keep in together.batches(read(), again, contrastive=self._fewest > 1):
            for item, shown, times in zip(batch, *self._batch(finer, batch, keep, resolution), strict=False):
                if item.row in asked:
                    yield ClipMap(item.row, item.clip, shown, times, item.pixels if pixels else None)

    def _batch(self, encoder: Encoder, batch: list[_Item], keep: int, resolution: Resolution) -> tuple[Tensor, Tensor]:
        """Maps (N, T, H, W) and times (N, T) of a batch's first items."""
        groups = torch.tensor([item.group for item in batch])
        seen = torch.stack([item.pixels for item in batch])
        found = activation_maps(encoder, self.projector, seen, self.cam, groups=groups, chunk=self.chunk)
        maps = found.maps.cpu()[:keep, 0]
        maps = maps if maps.ndim == 4 else maps[:, None]
        times = torch.stack([item.times_s for item in batch[:keep]])
        if resolution == "features":
            maps = functional.adaptive_avg_pool3d(maps, found.grid)
            times = functional.adaptive_avg_pool1d(times[:, None], found.grid[0])[:, 0]
        return maps.to(torch.float32), times


def _groups(manifest: Manifest) -> list[int]:
    """One id per row: its group where it has one, else its file, so that spans of one video are one group."""
    return [
        manifest.group_id(i)
        if row.groups.get(manifest.group) or not row.path
        else Key("file", manifest.relative(i)).bits()
        for i, row in enumerate(manifest)
    ]
