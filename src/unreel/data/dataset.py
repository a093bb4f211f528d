"""From a manifest row to a sample: draw times, decode once, draw views, crop.

``ClipDataset`` is for training: what it returns is a pure function of (seed, epoch, row), and an unreadable file's
slot is refilled from the ticket's reserves. ``EvaluationDataset`` gives fixed clips and crops and never substitutes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.core.settings import Range
from unreel.data.batch import Aligned, AlignedKind, Fault, Sample, View
from unreel.data.contracts import ClipRequest, FrameSize, Sampler, SourceInfo, SupportsViews, Ticket, TimedFact
from unreel.data.index import index_command
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.media import (
    Decoder,
    Frames,
    MediaError,
    MissingFileError,
    TooShortError,
    UnreadableError,
    VideoInfo,
    decoder_for,
)
from unreel.media.frames import probe_frames, read_frames

Publish: TypeAlias = Callable[[int], None]

# Facts of this many rows are kept per worker: about 10 MB.
_FACTS_KEPT = 32_768
# A frame's time may differ from a span's written bound by rounding only.
_TIME_SLACK_S = 1e-6
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


class _Facts(NamedTuple):
    """One row's video and the frames of its span."""

    video: VideoInfo
    first: int
    num_frames: int
    start_s: float
    duration_s: float


class SourceReader:
    """Rows of a manifest as frames, by index or time within their span. Picklable; facts are kept per process.

    Args:
        manifest: what to read.
        decoder: reads every row; None chooses by the kind of file.
        cache_mb: keep the decoded frames of whole rows up to this size, per process. Rows come in another order each
            epoch, so those that came first are kept, none is thrown out.
    """

    def __init__(self, manifest: Manifest, decoder: Decoder | None = None, *, cache_mb: float = 0.0) -> None:
        self.manifest = manifest
        self.decoder = decoder
        self.cache_mb = cache_mb
        self._facts: OrderedDict[int, _Facts] = OrderedDict()
        self._kept: dict[int, Frames] = {}
        self._room = int(cache_mb * 1e6)

    def __reduce__(self) -> tuple[object, ...]:  # what was read stays with the process that read it
        return partial(SourceReader, cache_mb=self.cache_mb), (self.manifest, self.decoder)

    def facts(self, row: int) -> _Facts:
        """Probed facts and span of a row. Raises MediaError; TooShortError for a span without a frame."""
        known = self._facts.get(row)
        if known is not None:
            self._facts.move_to_end(row)
            return known
        facts = self._probe(row)
        self._facts[row] = facts
        if len(self._facts) > _FACTS_KEPT:
            self._facts.popitem(last=False)
        return facts

    def _probe(self, row: int) -> _Facts:
        entry = self.manifest.rows[row]
        video = entry.facts if entry.facts is not None else self._video(row)
        if entry.start_s is None and entry.end_s is None:
            return _Facts(video, 0, video.num_frames, video.start_s, video.duration_s)
        # A manifest counts seconds from the first frame, a decoder in presentation time.
        start = entry.start_s or 0.0
        end = video.duration_s if entry.end_s is None else entry.end_s
        bounds = video.start_s + np.array([start, end]) - _TIME_SLACK_S
        first, last = (int(i) for i in np.searchsorted(self._times(row), bounds))
        if last <= first:
            raise TooShortError(
                self.manifest.absolute(row),
                f"its span {start:g}–{end:g} s holds no frame; the file lasts {video.duration_s:g} s",
            )
        return _Facts(video, first, last - first, video.start_s + start, min(end, video.duration_s) - start)

    def _back_end(self, row: int) -> Decoder:
        return self.decoder if self.decoder is not None else decoder_for(self.manifest.absolute(row))

    def _video(self, row: int) -> VideoInfo:
        listed = self.manifest.frame_paths(row)
        return probe_frames(listed) if listed else self._back_end(row).probe(self.manifest.absolute(row))

    def _times(self, row: int) -> NDArray[np.float64]:
        listed = self.manifest.frame_paths(row)
        if listed:
            info = probe_frames(listed)
            return np.arange(info.num_frames) / info.fps
        return self._back_end(row).frame_times(self.manifest.absolute(row))

    def _read(self, row: int, indices: NDArray[np.int64]) -> Frames:
        listed = self.manifest.frame_paths(row)
        if listed:
            return read_frames(listed, indices=indices)
        return self._back_end(row).read(self.manifest.absolute(row), indices=indices)

    def _cached(self, row: int, indices: NDArray[np.int64]) -> Frames:
        facts = self.facts(row)
        whole = self._kept.get(row)
        if whole is None:
            size = facts.num_frames * facts.video.height * facts.video.width * 3
            if size > self._room:
                return self._read(row, indices)
            try:
                whole = self._read(row, facts.first + np.arange(facts.num_frames))
            except MediaError:  # the frames asked for may be whole where others are not
                return self._read(row, indices)
            self._kept[row] = whole
            self._room -= size
        place = indices - facts.first
        return Frames(whole.pixels[place], whole.times_s[place])

    def resolve(self, row: int, request: ClipRequest) -> NDArray[np.int64]:
        """Frame numbers in the file for a request within the row's span: (T,) int64.

        Raises: TooShortError where the request leaves the span; UsageError unless it holds indices or times.
        """
        facts = self.facts(row)
        if (request.indices is None) == (request.times_s is None):
            raise UsageError("a clip request needs either frame indices or times, and not both")
        if request.indices is not None:
            wanted = np.asarray(request.indices, dtype=np.int64) + facts.first
        elif facts.video.num_frames == 1:
            wanted = np.zeros(len(np.asarray(request.times_s)), dtype=np.int64)  # an image is on screen for ever
        else:
            times = np.asarray(request.times_s, dtype=np.float64) + facts.start_s
            wanted = np.searchsorted(self._times(row), times + _TIME_SLACK_S, side="right").astype(np.int64) - 1
            past = times >= facts.start_s + facts.duration_s
            wanted = np.where(past, facts.first + facts.num_frames, wanted)
        if wanted.size == 0 or wanted.min() < facts.first or wanted.max() >= facts.first + facts.num_frames:
            raise TooShortError(
                self.manifest.absolute(row),
                f"a clip reaches outside its {facts.num_frames} frames ({facts.duration_s:g} s)",
            )
        return wanted

    def read(self, row: int, indices: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.float64]]:
        """Frames of the file by number, in one call of the decoder: (T, H, W, C) uint8 and their times (T,).

        Raises: MediaError, by cause; UnreadableError where frames differ in size from what probing told.
        """
        frames = self._cached(row, indices) if self.cache_mb else self._read(row, indices)
        video = self.facts(row).video
        if frames.pixels.shape[1:3] != (video.height, video.width):
            raise UnreadableError(
                self.manifest.absolute(row),
                f"its frames are {frames.pixels.shape[2]}x{frames.pixels.shape[1]}, probing told "
                f"{video.width}x{video.height}",
            )
        return torch.from_numpy(frames.pixels), frames.times_s


def _take(frames: Tensor, place: NDArray[np.int64]) -> Tensor:
    """``frames[place]``, without a copy where the places are evenly spaced, as they are unless clips interleave."""
    first, last = int(place[0]), int(place[-1])
    step = int(place[1]) - first if len(place) > 1 else 1
    if step > 0 and np.array_equal(place, np.arange(first, last + 1, step)):
        return frames[first : last + 1 : step]
    return frames[torch.from_numpy(place)]


AlignedReader: TypeAlias = Callable[[Path, NDArray[np.int64], FrameSize], Tensor]
TimedReader: TypeAlias = Callable[[Path, NDArray[np.int64], NDArray[np.float64], FrameSize], Tensor]


def read_array(path: Path, indices: NDArray[np.int64], size: FrameSize) -> Tensor:
    """Rows ``indices`` of a .npy file whose first axis is the video's frames; one row serves all frames.

    Raises: MissingFileError, UnreadableError; TooShortError where the array has fewer rows than the video frames.
    """
    del size
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MissingFileError(path, "there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(path, f"not a readable .npy array ({error})") from None
    if data.ndim == 0:
        raise UnreadableError(path, "holds a single number; its first axis must be the video's frames")
    if data.shape[0] == 1:
        return torch.from_numpy(np.array(data))
    if data.shape[0] <= indices.max():
        raise TooShortError(path, f"has {data.shape[0]} rows where frame {int(indices.max())} was asked for")
    return torch.from_numpy(np.array(data[indices]))


@dataclass(frozen=True)
class AlignedSource:
    """Data that follows the clip's geometry: the manifest's column ``file.<name>``.

    Attributes:
        name: column and key in ``View.aligned``.
        kind: how it follows; see :class:`unreel.data.batch.Aligned`, whose shapes ``read`` must return.
        read: (path, frame numbers in the file, frame size) to a tensor of T or 1 rows.
        read_at: (path, frame numbers, presentation times, frame size) to the same, in the place of ``read``: for data
            that have times of their own.
    """

    name: str
    kind: AlignedKind
    read: AlignedReader = read_array
    read_at: TimedReader | None = None

    def at(self, path: Path, indices: NDArray[np.int64], times_s: NDArray[np.float64], size: FrameSize) -> Tensor:
        """The data of these frames. Raises MediaError."""
        return self.read(path, indices, size) if self.read_at is None else self.read_at(path, indices, times_s, size)


class SidecarLike(Protocol):
    """A computed fact per row; see ``unreel.data.sidecars``."""

    def value(self, row: int) -> object:
        """The fact for a manifest row. Raises MediaError when it could not be computed."""


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
        target_columns: label columns that come as targets of that name, () int64, and their classes in the order of
            the codes.
        decoder: reads every row; None chooses by the kind of file.
        cache_mb: decoded frames kept in memory, per loader worker; for collections of small videos, whose decoding
            would otherwise be repeated each epoch. The samples are the same.
    Raises: UsageError when sampler and views disagree in number; DataError for an empty manifest, a row that lacks
        an aligned file, or a label that is none of the classes.
    """

    def __init__(
        self,
        manifest: Manifest,
        sampler: Sampler,
        views: SupportsViews,
        *,
        seed: int = 0,
        sidecars: Mapping[str, SidecarLike] | None = None,
        aligned: Sequence[AlignedSource] = (),
        target_columns: Mapping[str, Sequence[str]] | None = None,
        decoder: Decoder | None = None,
        cache_mb: Annotated[float, Range(ge=0, unit="MB")] = 0.0,
    ) -> None:
        if sampler.num_views != views.num_views:
            raise UsageError(
                f"the sampler draws {sampler.num_views} clips and the view plan makes {views.num_views} views; "
                "they must be equal"
            )
        _check_not_empty(manifest)
        for source in aligned:
            for i in range(len(manifest)):
                if manifest.file(i, source.name) is None:
                    raise DataError(
                        f"{manifest.relative(i)}: no file.{source.name} in the manifest; every row needs one for "
                        f"aligned data {source.name!r}"
                    )
        self.manifest = manifest
        self.sampler = sampler
        self.views = views
        self.seed = seed
        self.sidecars = dict(sidecars or {})
        self.aligned = tuple(aligned)
        self.codes = {name: label_codes(manifest, name, classes) for name, classes in (target_columns or {}).items()}
        self.reader = SourceReader(manifest, decoder, cache_mb=cache_mb)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, ticket: Ticket) -> Sample:
        return self.fill(ticket)

    def sample(self, row: int, epoch: int = 0) -> Sample:
        """One row's views: a pure function of (seed, epoch, row's sample id).

        Raises: MediaError when the row cannot be read or is too short for the sampler.
        """
        manifest, reader = self.manifest, self.reader
        facts = reader.facts(row)
        sidecars = {name: table.value(row) for name, table in self.sidecars.items()}
        key = Key(self.seed, epoch, manifest.sample_id(row))
        source = SourceInfo(facts.video, facts.num_frames, facts.duration_s, sidecars)
        try:
            drawn = self.sampler.draw(key.child("time"), source)
        except ValueError as error:
            raise TooShortError(reader.manifest.absolute(row), str(error)) from error
        wanted = [reader.resolve(row, clip) for clip in drawn.clips]
        union, places = np.unique(np.concatenate(wanted), return_inverse=True)
        pixels, times_s = reader.read(row, union)
        clip_places = np.split(places, np.cumsum([len(indices) for indices in wanted])[:-1])
        clip_times = [times_s[place] for place in clip_places]
        views = []
        read: dict[tuple[str, bytes], Aligned] = {}  # views of one clip share what is aligned with it
        for i, (indices, place) in enumerate(zip(wanted, clip_places, strict=True)):
            size = FrameSize(facts.video.height, facts.video.width, len(indices))
            known = {
                name: fact.of_clips(clip_times, i) if isinstance(fact, TimedFact) else fact
                for name, fact in sidecars.items()
            }
            params = self.views.draw(key, i, size, known)
            clip = self.views.crop(i, _take(pixels, place), params)
            aligned = {}
            for item in self.aligned:
                address = (item.name, indices.tobytes())
                if address not in read:
                    path = manifest.file(row, item.name)
                    assert path is not None  # checked for every row at the start
                    read[address] = Aligned(item.kind, item.at(path, indices, clip_times[i], size))
                aligned[item.name] = self.views.align(i, read[address], params)
            views.append(View(clip, torch.from_numpy(clip_times[i]), params, aligned))
        targets = {**drawn.targets, **{name: torch.tensor(codes[row]) for name, codes in self.codes.items()}}
        return Sample(tuple(views), targets, manifest.sample_id(row), manifest.group_id(row), row)

    def fill(
        self, ticket: Ticket, *, quarantine: Mapping[str, str] | None = None, publish: Publish | None = None
    ) -> Sample:
        """The ticket's row, or the first of its reserves that can be read; what failed is in ``Sample.faults``.

        Args:
            ticket: which row, and which rows stand in for it, in order.
            quarantine: paths not to touch, as the manifest writes them, and why.
            publish: called with each row before it is read.
        Raises: DataError when the row and all its reserves fail.
        """
        failed: list[tuple[str, str, str]] = []
        for row in (ticket.row, *ticket.reserves):
            path = self.manifest.relative(row)
            if quarantine and path in quarantine:
                failed.append((path, "Quarantined", quarantine[path]))
                continue
            if publish is not None:
                publish(row)
            try:
                sample = self.sample(row, ticket.epoch)
            except MediaError as error:
                failed.append((path, type(error).__name__, str(error)))
            else:
                faults = tuple(Fault(p, cause, message, path, ticket.step) for p, cause, message in failed)
                return replace(sample, faults=faults)
        listed = "\n".join(f"  {message}" for _, _, message in failed)
        raise DataError(
            f"step {ticket.step}: {failed[0][0]} and its {len(failed) - 1} reserves cannot be read:\n{listed}\n"
            "Look for a missing disk or a wrong root. To list every file that is damaged anywhere, run\n"
            f"  {index_command(self.manifest)}"
        )


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
    times. Both are None where ``fault`` is not.
    """

    views: Tensor | None
    times_s: Tensor | None
    sample_id: int
    group: int
    row: int
    fault: Fault | None = None


class EvaluationDataset:
    """Deterministic clips × crops of each row; never substitutes: an unreadable row comes back as its fault.

    Args:
        manifest: what to evaluate on.
        plan: the test views.
        decoder: reads every row; None chooses by the kind of file.
    """

    def __init__(self, manifest: Manifest, plan: ClipPlan, decoder: Decoder | None = None) -> None:
        _check_not_empty(manifest)
        self.manifest = manifest
        self.plan = plan
        self.reader = SourceReader(manifest, decoder)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> EvaluationSample:
        return self.read(row)

    def read(
        self, row: int, *, quarantine: Mapping[str, str] | None = None, publish: Publish | None = None
    ) -> EvaluationSample:
        """The row's views or its fault; ``quarantine`` and ``publish`` as in :meth:`ClipDataset.fill`."""
        path = self.manifest.relative(row)
        facts = (self.manifest.sample_id(row), self.manifest.group_id(row), row)
        if quarantine and path in quarantine:
            return EvaluationSample(None, None, *facts, Fault(path, "Quarantined", quarantine[path], "", -1))
        if publish is not None:
            publish(row)
        try:
            views, times_s = self._views(row)
        except MediaError as error:
            return EvaluationSample(None, None, *facts, Fault(path, type(error).__name__, str(error), "", -1))
        return EvaluationSample(views, times_s, *facts)

    def _views(self, row: int) -> tuple[Tensor, Tensor]:
        plan, reader = self.plan, self.reader
        info = reader.facts(row)
        try:
            clips = plan.indices(info.num_frames) + info.first
        except ValueError as error:
            raise TooShortError(reader.manifest.absolute(row), str(error)) from error
        height, width = plan.resized(info.video.height, info.video.width)
        crops = plan.crops(height, width)
        views = torch.empty(
            (plan.num_clips, plan.num_crops, plan.num_frames, plan.size_px, plan.size_px, 3), dtype=torch.uint8
        )
        times_s = torch.empty((plan.num_clips, plan.num_frames), dtype=torch.float64)
        frame_bytes = info.video.height * info.video.width * 3
        together = max(1, _EVALUATION_BYTES // (frame_bytes * plan.num_frames))
        for begin in range(0, plan.num_clips, together):
            union, places = np.unique(clips[begin : begin + together], return_inverse=True)
            pixels, times = reader.read(row, union)
            place = torch.from_numpy(places.reshape(-1, plan.num_frames))
            resized = resize_frames(pixels, height, width, antialias=plan.antialias)
            times_s[begin : begin + together] = torch.from_numpy(times)[place]
            for number, crop in enumerate(crops):
                cut = resized[:, crop.top : crop.top + crop.size, crop.left : crop.left + crop.size]
                views[begin : begin + together, number] = cut[place]
        return views.flatten(0, 1), times_s


def _check_not_empty(manifest: Manifest) -> None:
    if not len(manifest):
        raise DataError(f"the manifest of {manifest.root} has no rows; check the path, the split and any selection")
