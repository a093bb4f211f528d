"""The one reader of rows: a row of a manifest and requests of its streams, in; tensors with presentation times, out.

Streams are ``video`` (frames), ``audio`` (samples at a rate) and whatever follows the frames (masks, boxes, gaze …), by
the name of its column ``file.<name>``. All share one clock: seconds from the start of the row's span.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import DataError, UsageError
from unreel.data.batch import AlignedKind, Fault
from unreel.data.contracts import FrameSize, Request, Ticket
from unreel.data.index import index_command
from unreel.data.manifest import Manifest
from unreel.data.workers import IN_PROCESS, WorkerContext
from unreel.media import (
    AudioDecoder,
    Decoder,
    Frames,
    MediaError,
    MissingFileError,
    NoStreamError,
    PyAVDecoder,
    TooShortError,
    UnreadableError,
    VideoInfo,
    decoder_for,
)
from unreel.media.forward import ForwardReader
from unreel.media.frames import probe_frames, read_frames

AlignedReader: TypeAlias = Callable[[Path, NDArray[np.int64], FrameSize], Tensor]
TimedReader: TypeAlias = Callable[[Path, NDArray[np.int64], NDArray[np.float64], FrameSize], Tensor]
FaultPolicy: TypeAlias = Literal["substitute", "report"]
R = TypeVar("R")

# Facts of this many rows are kept per worker: about 10 MB.
_FACTS_KEPT = 32_768
# A frame's time may differ from a span's written bound by rounding only.
_TIME_SLACK_S = 1e-6


class RowFacts(NamedTuple):
    """One row's video and the frames of its span: the first one's number in the file, and how many there are.

    ``start_s`` is the span's start in presentation time.
    """

    video: VideoInfo
    first: int
    num_frames: int
    start_s: float
    duration_s: float


class Stretch(NamedTuple):
    """What was asked of one stream, and the presentation time (T,) of each of its T items.

    ``data``: video (T, H, W, C) uint8 · audio (T,) float32 · aligned data of T rows or 1, as ``Aligned`` says.
    """

    data: Tensor
    times_s: NDArray[np.float64]


def load_arrays(path: Path) -> Any:
    """The array of a .npy file, mapped; of a .npz the arrays by name. Raises MissingFileError, UnreadableError."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise MissingFileError(path, "there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(path, f"not a readable NumPy file ({error})") from None


def read_array(path: Path, indices: NDArray[np.int64], size: FrameSize) -> Tensor:
    """Rows ``indices`` of a .npy file whose first axis is the video's frames; one row serves all frames.

    Raises: MissingFileError, UnreadableError; TooShortError where the array has fewer rows than the video frames.
    """
    del size
    data = load_arrays(path)
    if not np.ndim(data):
        raise UnreadableError(path, "holds no single array whose first axis is the video's frames")
    if data.shape[0] == 1:
        return torch.from_numpy(np.array(data))
    if data.shape[0] <= indices.max():
        raise TooShortError(path, f"has {data.shape[0]} rows where frame {int(indices.max())} was asked for")
    return torch.from_numpy(np.array(data[indices]))


@dataclass(frozen=True)
class AlignedSource:
    """A stream that follows the frames' geometry: the manifest's column ``file.<name>``.

    Attributes:
        name: column, stream, and key in ``View.aligned``.
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


@dataclass(eq=False, repr=False)
class RowReader:
    """Streams of a manifest's rows, by index or time within their span. Picklable; facts are kept per process.

    Args:
        manifest: what to read.
        decoder: reads every row; None chooses by each file's content.
        aligned: the streams beside video and audio.
        sound: reads the audio, of the row's own file, or of its ``file.audio``, which then begins with its first frame.
        cache_mb: keep the decoded frames of whole rows up to this size, per process. Rows come in another order each
            epoch, so those that came first are kept, none is thrown out.
        forward: rows that follow each other in one video are read by one opening of it.
    Raises: DataError for a row that lacks an aligned file.
    """

    manifest: Manifest
    decoder: Decoder | None = None
    _: KW_ONLY
    aligned: Sequence[AlignedSource] = ()
    sound: AudioDecoder = field(default_factory=AudioDecoder)
    cache_mb: float = 0.0
    forward: bool = False

    def __post_init__(self) -> None:
        for name in (source.name for source in self.aligned):
            lacking = next((i for i in range(len(self.manifest)) if self.manifest.file(i, name) is None), None)
            if lacking is not None:
                raise DataError(
                    f"{self.manifest.relative(lacking)}: no file.{name} in the manifest; every row needs one for "
                    f"aligned data {name!r}"
                )
        self._known = lru_cache(_FACTS_KEPT)(self._probe)
        self._chosen = lru_cache(_FACTS_KEPT)(decoder_for)
        self._kept: dict[int, Frames] = {}
        self._room = int(self.cache_mb * 1e6)
        self._open: ForwardReader | None = None

    def __reduce__(self) -> tuple[object, ...]:  # what was read stays with the process that read it
        make = partial(RowReader, aligned=self.aligned, sound=self.sound, cache_mb=self.cache_mb, forward=self.forward)
        return make, (self.manifest, self.decoder)

    def facts(self, row: int) -> RowFacts:
        """Probed facts and span of a row. Raises MediaError; TooShortError for a span without a frame."""
        return self._known(row)

    def read(self, row: int, requests: Sequence[Request]) -> list[Stretch]:
        """What each request asks for, in their order; all frames come from one call of the decoder.

        Raises: MediaError, by cause: TooShortError where a request leaves the span, UnreadableError where frames
            differ in size from what probing found; UsageError for an unknown stream, or unless a request holds either
            indices or times.
        """
        numbers = {n: self.frame_numbers(row, r) for n, r in enumerate(requests) if r.stream != "audio"}
        shown = [wanted for n, wanted in numbers.items() if requests[n].stream == "video"]
        union = np.unique(np.concatenate(shown)) if shown else np.empty(0, dtype=np.int64)
        pixels, times_s = self._pixels(row, union) if shown else (torch.empty(0), np.empty(0))
        read: dict[tuple[str, bytes], Stretch] = {}  # what several clips have in common is read once
        found = []
        for n, request in enumerate(requests):
            if request.stream == "audio":
                found.append(self._heard(row, request))
                continue
            wanted = numbers[n]
            address = (request.stream, wanted.tobytes())
            if address not in read:
                place = np.searchsorted(union, wanted)
                if request.stream == "video":
                    read[address] = Stretch(_take(pixels, place), times_s[place])
                else:
                    at = times_s[place] if np.isin(wanted, union).all() else self._times(row)[wanted]
                    read[address] = Stretch(self._aligned_with(row, request.stream, wanted, at), at)
            found.append(read[address])
        return found

    def frame_numbers(self, row: int, request: Request) -> NDArray[np.int64]:
        """Frame numbers in the file for a request within the row's span: (T,) int64.

        Raises: TooShortError where the request leaves the span; UsageError unless it holds indices or times.
        """
        facts = self.facts(row)
        if (request.indices is None) == (request.times_s is None):
            raise UsageError("a request needs either frame indices or times, and not both")
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

    def _probe(self, row: int) -> RowFacts:
        entry = self.manifest.rows[row]
        video = entry.facts if entry.facts is not None else self._video(row)
        if entry.start_s is None and entry.end_s is None:
            return RowFacts(video, 0, video.num_frames, video.start_s, video.duration_s)
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
        return RowFacts(video, first, last - first, video.start_s + start, min(end, video.duration_s) - start)

    def _back_end(self, row: int) -> Decoder:
        return self.decoder or self._chosen(self.manifest.absolute(row))

    def _video(self, row: int) -> VideoInfo:
        listed = self.manifest.frame_paths(row)
        return probe_frames(listed) if listed else self._back_end(row).probe(self.manifest.absolute(row))

    def _times(self, row: int) -> NDArray[np.float64]:
        listed = self.manifest.frame_paths(row)
        if listed:
            info = probe_frames(listed)
            return np.arange(info.num_frames) / info.fps
        return self._back_end(row).frame_times(self.manifest.absolute(row))

    def _frames(self, row: int, numbers: NDArray[np.int64]) -> Frames:
        listed = self.manifest.frame_paths(row)
        if listed:
            return read_frames(listed, indices=numbers)
        path, decoder = self.manifest.absolute(row), self._back_end(row)
        if not (self.forward and isinstance(decoder, PyAVDecoder) and self.manifest.same_file(row, row + 1, row - 1)):
            return decoder.read(path, indices=numbers)
        if self._open is None or self._open.path != path or self._open.process != os.getpid():
            self._open = ForwardReader(decoder, path)
        return self._open.read(numbers)

    def _cached(self, row: int, numbers: NDArray[np.int64]) -> Frames:
        facts = self.facts(row)
        whole = self._kept.get(row)
        if whole is None:
            size = facts.num_frames * facts.video.height * facts.video.width * 3
            if size > self._room:
                return self._frames(row, numbers)
            try:
                whole = self._frames(row, facts.first + np.arange(facts.num_frames))
            except MediaError:  # the frames asked for may be whole where others are not
                return self._frames(row, numbers)
            self._kept[row] = whole
            self._room -= size
        place = numbers - facts.first
        return Frames(whole.pixels[place], whole.times_s[place])

    def _pixels(self, row: int, numbers: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.float64]]:
        frames = self._cached(row, numbers) if self.cache_mb else self._frames(row, numbers)
        video = self.facts(row).video
        if frames.pixels.shape[1:3] != (video.height, video.width):
            raise UnreadableError(
                self.manifest.absolute(row),
                f"its frames are {frames.pixels.shape[2]}x{frames.pixels.shape[1]}, but probing found "
                f"{video.width}x{video.height}",
            )
        return torch.from_numpy(frames.pixels), frames.times_s

    def _heard(self, row: int, request: Request) -> Stretch:
        if request.times_s is None or request.indices is not None:
            raise UsageError("audio is asked for by times, not by indices")
        entry, path = self.manifest.rows[row], self.manifest.absolute(row)
        own = self.manifest.file(row, "audio")
        if own is None and (entry.frames or path.is_dir()):
            raise NoStreamError(path, "pictures have no sound; name its file in the column file.audio")
        start, length = entry.start_s or 0.0, np.inf
        try:
            facts = self.facts(row)
            start, length = facts.start_s - (facts.video.start_s if own else 0.0), facts.duration_s
        except NoStreamError:  # nothing but sound: seconds count from its first sample
            start += self.sound.probe(path).start_s
            if entry.end_s is not None:
                length = entry.end_s - (entry.start_s or 0.0)
        times = np.asarray(request.times_s, dtype=np.float64)
        loose = 0.5 / self.sound.rate_hz
        if times.size == 0 or times.min() < -loose or times.max() > length + loose:
            raise TooShortError(path, f"sound is asked for outside its {length:g} s")
        samples, times_s = self.sound.read(own or path, times_s=times + start)
        return Stretch(torch.from_numpy(samples), times_s)

    def _aligned_with(self, row: int, name: str, numbers: NDArray[np.int64], times_s: NDArray[np.float64]) -> Tensor:
        source = next((source for source in self.aligned if source.name == name), None)
        if source is None:
            known = ", ".join(["video", "audio", *(source.name for source in self.aligned)])
            raise UsageError(f"no stream {name!r}; there are {known}")
        path, video = self.manifest.file(row, name), self.facts(row).video
        assert path is not None  # checked for every row at the start
        return source.at(path, numbers, times_s, FrameSize(video.height, video.width, len(numbers)))


def _take(frames: Tensor, place: NDArray[np.int64]) -> Tensor:
    """``frames[place]``, without a copy where the places are evenly spaced, as they are unless clips interleave."""
    first, last = int(place[0]), int(place[-1])
    step = int(place[1]) - first if len(place) > 1 else 1
    if step > 0 and np.array_equal(place, np.arange(first, last + 1, step)):
        return frames[first : last + 1 : step]
    return frames[torch.from_numpy(place)]


def attempt(
    manifest: Manifest,
    ticket: Ticket,
    read: Callable[[int], R],
    *,
    faults: FaultPolicy,
    context: WorkerContext = IN_PROCESS,
) -> tuple[R | None, tuple[Fault, ...]]:
    """What ``read`` makes of the ticket's row, and a fault for each row that could not be read.

    Args:
        manifest: whose rows.
        ticket: which row, and which rows stand in for it, in order.
        read: reads a row. MediaError is a fault of its file; every other error is ours, and goes on.
        faults: what an unreadable row costs. ``substitute``: the first of its reserves that can be read takes the slot.
            ``report``: there is nothing in its place.
        context: which paths not to touch, and who hears of each row before it is read.
    Raises: DataError when a row and all its reserves fail.
    """
    failed: list[Fault] = []
    for row in (ticket.row, *(ticket.reserves if faults == "substitute" else ())):
        path = manifest.relative(row)
        if path in context.quarantine:
            failed.append(Fault(path, "Quarantined", context.quarantine[path], "", ticket.step))
            continue
        context.publish(row)
        try:
            found = read(row)
        except MediaError as error:
            failed.append(Fault(path, type(error).__name__, str(error), "", ticket.step))
        else:
            return found, tuple(replace(fault, substitute=path) for fault in failed)
    if faults == "report":
        return None, tuple(failed)
    listed = "\n".join(f"  {fault.message}" for fault in failed)
    raise DataError(
        f"step {ticket.step}: {failed[0].path} and its {len(failed) - 1} reserves cannot be read:\n{listed}\n"
        "Look for a missing disk or a wrong root. To list every file that is damaged anywhere, run\n"
        f"  {index_command(manifest)}"
    )
