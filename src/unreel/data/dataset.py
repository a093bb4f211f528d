"""From a row to a sample: draw times, read the row's streams once, draw views, crop.

``ClipDataset`` draws: what it returns is a pure function of (seed, epoch, row). ``EvaluationDataset`` gives fixed clips
and crops. Both read through :class:`unreel.data.rows.RowReader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Positive, Range, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.aligned import apply_to
from unreel.data.batch import Aligned, Batch, Fault, Sample, View, ViewParams, collate, stack_aligned
from unreel.data.contracts import (
    FrameSize,
    Request,
    Sampler,
    SidecarLike,
    SourceInfo,
    SupportsViews,
    Ticket,
    TimedFact,
)
from unreel.data.manifest import Manifest
from unreel.data.rows import AlignedSource, RowFacts, RowReader, attempt
from unreel.data.sampling import ClipPlan
from unreel.data.workers import IN_PROCESS, WorkerContext
from unreel.media import AudioDecoder, Decoder, MediaError, TooShortError

# Source frames decoded at a time in evaluation, so that a long plan on a large video stays within memory.
_EVALUATION_BYTES = 256 * 1024 * 1024


def resize_frames(frames: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    """Bilinear resize of (T, H, W, C) uint8 to (T, height, width, C) uint8.

    The clip keeps the decoder's channels-last memory, on which torch's uint8 kernel is three times as quick as on
    planes. Returns the input itself where nothing changes.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    planes = frames.permute(0, 3, 1, 2)
    resized = functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=antialias)
    return resized.permute(0, 2, 3, 1)


@checked
@dataclass(frozen=True)
class ClipSound:
    """The sound of each clip, a view of its own behind the clips: a window about the clip's middle, within the row.

    Args:
        seconds: its length; the clip's own, or more.
        decoder: at which rate, and what becomes of missing sound.
    """

    seconds: Positive
    decoder: AudioDecoder = field(default_factory=AudioDecoder)

    def request(self, times_s: NDArray[np.float64], facts: RowFacts) -> Request:
        """The samples that go with frames of these presentation times (T,)."""
        frame_s = 1 / facts.video.fps if facts.video.fps else 0.0
        middle = (times_s.min() + times_s.max() + frame_s) / 2 - facts.start_s
        start = max(0.0, min(middle - self.seconds / 2, facts.duration_s - self.seconds))
        count = round(self.seconds * self.decoder.rate_hz)
        return Request(times_s=start + np.arange(count) / self.decoder.rate_hz, stream="audio")


@dataclass(eq=False, repr=False)
class ClipDataset:
    """Training samples: ``dataset[Ticket(epoch, step, row, reserves)] -> Sample``.

    Args:
        manifest: what to learn from.
        sampler: which times each view reads.
        views: how each view is drawn and cropped.
        seed: the run's seed; a sample's key is (seed, epoch, sample id), so neither its row number, nor its
            neighbours, nor the step changes its views.
        sidecars: computed facts by name, handed to the sampler and the views.
        aligned: masks, boxes … that follow each view's geometry.
        sound: the sound of each clip comes as a further view, of the stream "audio"; None leaves it out.
        target_columns: label columns that come as targets of that name, () int64, and their classes in the order of
            the codes.
        decoder: reads every row; None chooses by each file's content.
        cache_mb: decoded frames kept in memory, per loader worker; for collections of small videos, whose decoding
            would otherwise be repeated each epoch. The samples are the same.
    Raises: UsageError when sampler and views disagree in number; DataError for an empty manifest, a row that lacks
        an aligned file, or a label that is none of the classes.
    """

    manifest: Manifest
    sampler: Sampler
    views: SupportsViews
    _: KW_ONLY
    seed: int = 0
    sidecars: Mapping[str, SidecarLike] | None = None
    aligned: Sequence[AlignedSource] = ()
    sound: ClipSound | None = None
    target_columns: Mapping[str, Sequence[str]] | None = None
    decoder: Decoder | None = None
    cache_mb: Annotated[float, Range(ge=0, unit="MB")] = 0.0

    def __post_init__(self) -> None:
        if self.sampler.num_views != self.views.num_views:
            raise UsageError(
                f"the sampler draws {self.sampler.num_views} clips and the view plan makes {self.views.num_views} "
                "views; they must be equal"
            )
        _check_not_empty(self.manifest)
        columns = self.target_columns or {}
        self.codes = {name: label_codes(self.manifest, name, classes) for name, classes in columns.items()}
        heard = AudioDecoder() if self.sound is None else self.sound.decoder
        self.reader = RowReader(self.manifest, self.decoder, aligned=self.aligned, sound=heard, cache_mb=self.cache_mb)

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, row: int, epoch: int = 0) -> Sample:
        """One row's views: a pure function of (seed, epoch, row's sample id).

        Raises: MediaError when the row cannot be read or is too short for the sampler.
        """
        manifest, reader = self.manifest, self.reader
        facts = reader.facts(row)
        sidecars = {name: table.value(row) for name, table in (self.sidecars or {}).items()}
        key = Key(self.seed, epoch, manifest.sample_id(row))
        source = SourceInfo(facts.video, facts.num_frames, facts.duration_s, sidecars)
        try:
            drawn = self.sampler.draw(key.child("time"), source)
        except ValueError as error:
            raise TooShortError(manifest.absolute(row), str(error)) from error
        beside = [clip._replace(stream=item.name) for clip in drawn.clips for item in self.aligned]
        read = iter(reader.read(row, [*drawn.clips, *beside]))
        clips = [next(read) for _ in drawn.clips]
        clip_times = [clip.times_s for clip in clips]
        views = []
        for i, clip in enumerate(clips):
            size = FrameSize(facts.video.height, facts.video.width, len(clip.times_s))
            known = {
                name: fact.of_clips(clip_times, i) if isinstance(fact, TimedFact) else fact
                for name, fact in sidecars.items()
            }
            params = self.views.draw(key, i, size, known)
            data = self.views.crop(i, clip.data, params)
            aligned = {
                item.name: self.views.align(i, Aligned(item.kind, next(read).data), params) for item in self.aligned
            }
            views.append(View(data, torch.from_numpy(clip.times_s), params, aligned))
        if self.sound is not None:
            for heard in reader.read(row, [self.sound.request(times_s, facts) for times_s in clip_times]):
                views.append(View(heard.data, torch.from_numpy(heard.times_s), stream="audio"))
        targets = {**drawn.targets, **{name: torch.tensor(codes[row]) for name, codes in self.codes.items()}}
        return Sample(tuple(views), targets, manifest.sample_id(row), manifest.group_id(row), row)

    def fill(self, ticket: Ticket, context: WorkerContext = IN_PROCESS) -> Sample:
        """The ticket's row, or the first of its reserves that can be read; what failed is in ``Sample.faults``.

        ``context`` and what is raised: see :func:`unreel.data.rows.attempt`.
        """
        read = partial(self.sample, epoch=ticket.epoch)
        found, faults = attempt(self.manifest, ticket, read, faults="substitute", context=context)
        assert found is not None
        return replace(found, faults=faults)

    __getitem__ = fill

    def batch(self, tickets: Sequence[Ticket], context: WorkerContext = IN_PROCESS) -> Batch:
        """A batch of what :meth:`fill` finds for each ticket."""
        return collate([self.fill(ticket, context) for ticket in tickets], stack=context.stack)

    def read(self, row: int, context: WorkerContext = IN_PROCESS, *, epoch: int = 0) -> Sample | Fault:
        """The row's sample, or the fault of one that cannot be read; see :func:`unreel.data.rows.attempt`."""
        read = partial(self.sample, epoch=epoch)
        found, faults = attempt(self.manifest, Ticket(epoch, -1, row), read, faults="report", context=context)
        return faults[0] if found is None else found


def label_codes(manifest: Manifest, column: str, classes: Sequence[str]) -> list[int]:
    """Each row's label as its place in ``classes``. Raises DataError for a label that is not there, or is missing."""
    place = {name: code for code, name in enumerate(classes)}
    labels = manifest.labels(column)
    strange = [row for row, label in enumerate(labels) if label not in place]
    if strange:
        first = labels[strange[0]]
        raise DataError(
            f"{manifest.relative(strange[0])}: "
            + (f"its label {column!r} is {first!r}" if first else f"it has no label {column!r}")
            + f", and {len(strange) - 1} other rows are like it; the classes are {', '.join(classes[:8])}"
            + (" …" if len(classes) > 8 else "")
        )
    return [place[label] for label in labels]


class EvaluationSample(NamedTuple):
    """The fixed views of one row, or why there are none.

    ``views`` (V, T, S, S, C) uint8 with V = clips × crops, clip-major; ``times_s`` (clips, T) float64 presentation
    times. Both are None where ``fault`` is not. ``aligned``: by name, (V, T or 1, …), carried into each view.
    ``params``: the geometry of each view: ``data.aligned.unapply_to(kind, data, params[v])`` carries what was predicted
    for view v back into the frames of the source.
    """

    views: Tensor | None
    times_s: Tensor | None
    sample_id: int
    group: int
    row: int
    fault: Fault | None = None
    aligned: Mapping[str, Aligned] = {}
    params: tuple[ViewParams, ...] = ()


@dataclass(eq=False, repr=False)
class EvaluationDataset:
    """Deterministic clips × crops of each row; never substitutes: an unreadable row comes back as its fault.

    Args:
        manifest: what to evaluate on.
        plan: the test views.
        decoder: reads every row; None chooses by each file's content.
        aligned: masks, boxes … that follow each view's geometry.
    """

    manifest: Manifest
    plan: ClipPlan
    decoder: Decoder | None = None
    _: KW_ONLY
    aligned: Sequence[AlignedSource] = ()

    def __post_init__(self) -> None:
        _check_not_empty(self.manifest)
        self.reader = RowReader(self.manifest, self.decoder, aligned=self.aligned, forward=True)
        self._kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}  # by file and number: what coming rows share

    def __len__(self) -> int:
        return len(self.manifest)

    def read(self, row: int, context: WorkerContext = IN_PROCESS) -> EvaluationSample:
        """The row's views or its fault; ``context`` as in :func:`unreel.data.rows.attempt`."""
        found, faults = attempt(self.manifest, Ticket(0, -1, row), self._sample, faults="report", context=context)
        if found is not None:
            return found
        return EvaluationSample(None, None, self.manifest.sample_id(row), self.manifest.group_id(row), row, faults[0])

    __getitem__ = read

    def _sample(self, row: int) -> EvaluationSample:
        plan, reader = self.plan, self.reader
        info = reader.facts(row)
        try:
            clips = plan.indices(info.num_frames)
        except ValueError as error:
            raise TooShortError(self.manifest.absolute(row), str(error)) from error
        source = (info.video.height, info.video.width)
        height, width = plan.resized(*source)
        crops = plan.crops(height, width)
        views = torch.empty(
            (plan.num_clips, plan.num_crops, plan.num_frames, plan.size_px, plan.size_px, 3), dtype=torch.uint8
        )
        times_s = torch.empty((plan.num_clips, plan.num_frames), dtype=torch.float64)
        together = max(1, _EVALUATION_BYTES // (source[0] * source[1] * 3 * plan.num_frames))
        for begin in range(0, plan.num_clips, together):
            union, places = np.unique(clips[begin : begin + together], return_inverse=True)
            resized, shown_s = self._resized(row, union, together * plan.num_frames)
            place = torch.from_numpy(places.reshape(-1, plan.num_frames))
            times_s[begin : begin + together] = shown_s[place]
            for number, crop in enumerate(crops):
                cut = resized[:, crop.top : crop.top + crop.size, crop.left : crop.left + crop.size]
                views[begin : begin + together, number] = cut[place]
        geometry = [
            _geometry(source, (height, width), (crop.top, crop.left), plan.size_px) for crop in crops
        ] * plan.num_clips
        return EvaluationSample(
            views.flatten(0, 1),
            times_s,
            self.manifest.sample_id(row),
            self.manifest.group_id(row),
            row,
            aligned={item.name: self._aligned(row, item, clips, geometry) for item in self.aligned},
            params=tuple(geometry),
        )

    def _resized(self, row: int, wanted: NDArray[np.int64], together: int) -> tuple[Tensor, Tensor]:
        """Frames of a row by number (T,), ascending, in the plan's size, with their times (T,).

        Rows that follow each other in one file may overlap. What a later one needs as well is kept while the decoder is
        there. At most ``together`` frames are held in their own size.
        """
        plan, reader, facts = self.plan, self.reader, self.reader.facts(row)
        height, width = plan.resized(facts.video.height, facts.video.width)

        def small(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            frames = reader.read(row, [Request(numbers)])[0]
            return resize_frames(frames.data, height, width, antialias=plan.antialias), torch.from_numpy(frames.times_s)

        if not self.manifest.same_file(row, row - 1, row + 1):
            return small(wanted)
        path, coming = self.manifest.rows[row].path, self._coming(row)
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] == path and key[1] in coming}
        last = facts.first + int(wanted[-1])
        missing = np.array(sorted(n for n in coming if n <= last and (path, n) not in self._kept), dtype=np.int64)
        for piece in np.split(missing, range(together, len(missing), together)):
            if len(piece):
                found = zip(piece.tolist(), *small(piece - facts.first), strict=True)
                self._kept |= {(path, n): (frame, time_s) for n, frame, time_s in found}
        kept = [self._kept[path, facts.first + n] for n in wanted.tolist()]
        return torch.stack([frame for frame, _ in kept]), torch.stack([time_s for _, time_s in kept])

    def _coming(self, row: int) -> set[int]:
        """Numbers in the file of what this row asks for, and of what later rows ask for that begin before it ends."""
        here = self.reader.facts(row)
        numbers: set[int] = set()
        for later in range(row, len(self.manifest)):
            if later > row and not self.manifest.same_file(later, row):
                break
            try:
                facts = self.reader.facts(later)
                clips = facts.first + self.plan.indices(facts.num_frames)
            except (MediaError, ValueError):  # told when its turn comes
                break
            if not here.first <= facts.first < here.first + here.num_frames:
                break
            numbers.update(clips.ravel().tolist())
        return numbers

    def _aligned(
        self, row: int, item: AlignedSource, clips: NDArray[np.int64], geometry: Sequence[ViewParams]
    ) -> Aligned:
        """One stream of every view: each clip's, carried into each of its crops."""
        each = self.reader.read(row, [Request(clip, stream=item.name) for clip in clips])
        sources = [stretch.data for stretch in each for _ in range(self.plan.num_crops)]
        moved = [
            apply_to(item.kind, data, params, antialias=self.plan.antialias)
            for data, params in zip(sources, geometry, strict=True)
        ]
        return stack_aligned([Aligned(item.kind, data) for data in moved])


def _geometry(source: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], size: int) -> ViewParams:
    """A crop of resized frames as ``ViewPlan`` records it: the part of the source that is seen, and its size."""
    scale = [whole / part for whole, part in zip(source, resized, strict=True)]
    top, left, bottom, right = (
        (place + end) * along for end in (0, size) for place, along in zip(corner, scale, strict=True)
    )
    return ViewParams(
        {
            "geometry.box": torch.tensor([[left, top, right, bottom]], dtype=torch.float32),
            "geometry.source_size": torch.tensor([source]),
            "geometry.size": torch.tensor([[size, size]]),
            "geometry.flip": torch.zeros(1, dtype=torch.bool),
        }
    )


def _check_not_empty(manifest: Manifest) -> None:
    if not len(manifest):
        raise DataError(f"the manifest of {manifest.root} has no rows; check the path, the split and any selection")
