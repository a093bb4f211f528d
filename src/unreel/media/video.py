"""Video files through PyAV: one open, one forward pass, only what is needed.

The frames asked for are sorted; decoding starts at the keyframe that the first one needs, drops non-reference frames
that nobody asked for, converts only what was asked for, and stops at the last one. What comes back is bit for bit
what a plain decode of the whole file gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import av
import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Count, Positive, checked
from unreel.core.errors import UsageError
from unreel.media.bits import is_h264_reference, pictures_of_hevc
from unreel.media.decoder import Frames, Indices, MediaKind, Path, Times, TooShortError, TruncatedError, VideoInfo
from unreel.media.display import Converter
from unreel.media.frame_table import NO_TIME, FrameTable, build_table, decode_from_start
from unreel.media.signature import VIDEO_SUFFIXES, signature_of, suffix_of
from unreel.media.source import Source, file_place, opened

# Codecs whose non-reference pictures nothing at all refers to, so that skipping them cannot change another frame.
# HEVC's may still be referred to from higher temporal sub-layers: see _may_skip.
_SKIPPABLE = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "h263", "flv1"})
# Times are floats made from ticks; a caller's i / fps may fall this far short of a frame's own time.
_TIME_SLACK_S = 1e-6
# Codecs whose decoder leaves the rest of a damaged picture as its memory was, and says so only where it is strict.
SILENT = frozenset({"hevc"})
_TABLES_KEPT = 256
_BACK_PACKETS = 250  # how far before damage decoding begins at least, to be what a plain decode makes of it
_SEEK_WORTH_PACKETS = 64  # below this gap, demuxing on is cheaper than a seek

# Pictures one after another, each of which begins as a picture's file does.
_PICTURE_STREAMS = frozenset({".mjpeg", ".mjpg"})


@checked
@dataclass(frozen=True)
class PyAVDecoder:
    """Reads any video FFmpeg knows, through PyAV's own build of it, in one thread.

    Args:
        max_seconds: bound on one call's wall-clock time.
        max_packets: bound on the packets one call may read; 2,000,000 are 9 hours at 60 frames per second.
    """

    max_seconds: Positive = 60.0
    max_packets: Count = 2_000_000

    name: ClassVar[str] = "pyav"
    kind: ClassVar[MediaKind] = "video"
    suffixes: ClassVar[frozenset[str]] = VIDEO_SUFFIXES
    """The usual ones; FFmpeg knows more."""

    def opens(self, path: Path, head: bytes) -> bool:
        """Whether it begins as a video does, or as a GIF; JPEGs one after another have to be named so."""
        found = signature_of(head)
        streamed = found.format == "JPEG" and suffix_of(path) in _PICTURE_STREAMS
        return found.kind == "video" or found.format == "GIF" or streamed

    def probe(self, path: Path) -> VideoInfo:
        """Facts about the file: reads its packets and decodes one frame (for size and rotation).

        Raises: MissingFileError, UnreadableError, TruncatedError, NoStreamError, ReadTimeoutError.
        """
        return self.table(path).info

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        """Presentation time of every frame, ascending, in seconds: (num_frames,). Raises as ``probe``."""
        return self.table(path).times_s.copy()

    def read(self, path: Path, *, indices: Indices = None, times_s: Times = None) -> Frames:
        """Frames by index or by time; see ``Decoder.read``.

        Raises: as ``probe``; TooShortError for an index or time outside the file; TruncatedError where a frame is
            listed but cannot be decoded; UsageError unless exactly one of ``indices`` and ``times_s`` is given.
        """
        check_request(indices, times_s)
        kept = _kept(_cache_key(path))
        with opened(path, self.max_seconds, self.max_packets) as source:
            if source.context.name in SILENT:
                source.be_strict()  # now, while that opens nothing again
            table = kept[0] if kept else build_table(source)
            kept[:] = [table]
            source.refused = table.refused
            wanted = select_frames(source.path, table.times_s, table.end_s, indices=indices, times_s=times_s)
            unique, inverse = np.unique(wanted, return_inverse=True)
            asked = _Asked(table, unique)
            if not table.counted:
                _read_by_place(source, table, unique, asked)
            if not asked.found.all():
                # Counted output, an index that misleads, or damage: a plain pass from the start is the last word.
                _read_in_order(source, table, asked)
            if not asked.found.all():
                lost = unique[~asked.found]
                raise _cannot_be_decoded(source.path, len(lost), len(unique), int(lost[0]), asked=True)
            pixels = asked.converter.pixels
            if len(unique) != len(inverse) or np.any(inverse != np.arange(len(inverse))):
                pixels = pixels[inverse]
            return Frames(pixels, table.times_s[wanted])

    def decode_whole(self, path: Path) -> None:
        """Decode every frame and keep none, so that damage is found wherever it is.

        Raises: as ``probe``; TruncatedError where a frame is listed but cannot be decoded.
        """
        with opened(path, self.max_seconds, self.max_packets) as source:
            table = build_table(source)
            source.reopen()
            came = set()
            for count, frame in enumerate(decode_from_start(source, table.recordings)):
                came.add(count if table.counted else frame.pts)
            lost = [i for i, place in enumerate(table.place.tolist()) if place not in came]
        if lost:
            raise _cannot_be_decoded(path, len(lost), len(table.place), lost[0])

    def table(self, path: Path) -> FrameTable:
        """Every frame of the file and how to reach it, read once. Raises as ``probe``."""
        kept = _kept(_cache_key(path))
        if not kept:
            with opened(path, self.max_seconds, self.max_packets) as source:
                kept.append(build_table(source))
        return kept[0]


@lru_cache(maxsize=_TABLES_KEPT)
def _kept(key: tuple[object, ...]) -> list[FrameTable]:
    """The place of a file's table: empty until it was built. This process keeps the last few."""
    return []


def _cannot_be_decoded(path: Path, lost: int, count: int, first: int, *, asked: bool = False) -> TruncatedError:
    return TruncatedError(
        path,
        f"{lost} of {'the ' * asked}{count} frames {'asked for ' * asked}cannot be decoded "
        f"(frame {first} first); the file is damaged or ends early",
    )


def check_request(indices: object, times_s: object) -> None:
    """Raise UsageError unless exactly one way of addressing frames is given."""
    if (indices is None) == (times_s is None):
        raise UsageError("give exactly one of indices and times_s")


def select_frames(
    path: Path, frame_times_s: NDArray[np.float64], end_s: float, *, indices: Indices, times_s: Times
) -> NDArray[np.int64]:
    """Frame numbers (T,) for indices or times, by the rule of ``Decoder.read``.

    Raises: TooShortError for an index outside 0 … N − 1 or a time outside [first frame, end of the last frame).
    """
    count = len(frame_times_s)
    if indices is not None:
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or not (np.issubdtype(wanted.dtype, np.integer) or wanted.size == 0):
            raise UsageError(f"indices must be one row of integers, got {wanted.dtype} of shape {wanted.shape}")
        outside = (wanted < 0) | (wanted >= count)
        if outside.any():
            raise TooShortError(
                path, f"frame {int(wanted[outside][0])} asked for; it has {count} frames (0-{count - 1})"
            )
        return wanted.astype(np.int64)
    times = np.asarray(times_s, dtype=np.float64)
    if times.ndim != 1:
        raise UsageError(f"times_s must be one row of seconds, got shape {times.shape}")
    outside = ~((times >= frame_times_s[0] - _TIME_SLACK_S) & (times < max(end_s, frame_times_s[-1] + _TIME_SLACK_S)))
    if outside.any():
        raise TooShortError(
            path, f"{float(times[outside][0]):g} s asked for; it shows frames from {frame_times_s[0]:g} to {end_s:g} s"
        )
    return np.maximum(np.searchsorted(frame_times_s, times + _TIME_SLACK_S, side="right") - 1, 0).astype(np.int64)


def _cache_key(path: Path) -> tuple[object, ...]:
    name = os.fspath(path)
    try:
        facts = os.stat(name)
    except OSError:
        return (name,)  # opening it reports why
    return (os.path.abspath(name), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def _may_skip(context: av.VideoCodecContext) -> bool:
    """Whether dropping non-reference pictures is certain not to change any other frame."""
    if context.name in _SKIPPABLE:
        return True
    extra = context.extradata
    # hvcC (ISO/IEC 14496-15, 8.3.3.1): bits 2-4 of byte 21 are numTemporalLayers.
    return bool(context.name == "hevc" and extra and len(extra) > 22 and extra[0] == 1 and (extra[21] >> 3) & 7 == 1)


class _Asked:
    """The frames asked for, by the places of their packets: which are there, and their pixels."""

    def __init__(self, table: FrameTable, unique: NDArray[np.int64]) -> None:
        self.converter = Converter(table.info.height, table.info.width, len(unique))
        self.row_of: dict[int | None, int] = {place: row for row, place in enumerate(table.place[unique].tolist())}
        self.found = np.zeros(len(unique), dtype=bool)

    def take(self, frame: av.VideoFrame, place: int | None) -> None:
        """Keep the frame if it was asked for and is not there yet."""
        row = self.row_of.get(place)
        if row is not None and not self.found[row]:
            self.converter.convert(frame, row)
            self.found[row] = True

    def forget(self, begin: int, end: int) -> None:
        """Let the frames of these packets be read again."""
        for place, row in self.row_of.items():
            if place is not None and begin <= place <= end:
                self.found[row] = False


def _read_in_order(source: Source, table: FrameTable, asked: _Asked) -> None:
    """One plain pass from the start of the file; frames are told apart by their packets, or by counting."""
    source.reopen()
    for count, frame in enumerate(decode_from_start(source, table.recordings)):
        asked.take(frame, count if table.counted else frame.pts)
        if asked.found.all():
            return


def _read_by_place(source: Source, table: FrameTable, unique: NDArray[np.int64], asked: _Asked) -> None:
    """Decode only the runs of packets that the frames need, each from its keyframe to its last frame."""
    spans: list[list[int]] = []
    for begin, end in sorted(zip(table.start[unique].tolist(), table.stop[unique].tolist(), strict=True)):
        if spans and (begin <= spans[-1][1] or (begin == spans[-1][1] + 1 and begin not in table.recordings)):
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])

    if source.context.name in SILENT and not source.strict:
        source.be_strict()
    reader = _SpanReader(source, table, asked)
    damaged = [span for span in spans if reader.read(*span)]
    if source.strict and damaged:
        # A strict decoder also refuses messages beside the pictures: spans without another error are decoded as ever.
        harmless = [span for span in damaged if not reader.read(*span, pictures_only=True)]
        source.reopen()
        reader = _SpanReader(source, table, asked)
        damaged = [span for span in damaged if span not in harmless or reader.read(*span)]
    for begin, end in damaged:
        # A damaged group is patched up with what came before it: go back until a good one has been decoded, whole.
        first, begins = begin, max((r for r in table.recordings if r <= begin), default=0)
        while True:
            first = int(max(table.keys[table.keys <= first - _BACK_PACKETS].max(initial=0), begins))
            asked.forget(begin, end)
            if not reader.read(first, end, plain=True) or first == begins:
                break


class _SpanReader:
    """Decodes runs of packets, and keeps the frames that were asked for."""

    def __init__(self, source: Source, table: FrameTable, asked: _Asked) -> None:
        self._source, self._table, self._asked = source, table, asked
        self._cursor = Cursor(source, table)

    def read(self, begin: int, end: int, *, plain: bool = False, pictures_only: bool = False) -> bool:
        """Decode the packets ``begin`` to ``end``; True where their first group is damaged.

        A strict decoder stops at whatever packet is damaged, and then no frame of theirs is kept.

        ``plain`` decodes as a plain decode does: by a decoder that has seen nothing, and every picture. Otherwise
        pictures that nobody asked for and nothing refers to are dropped. ``pictures_only`` hides from the decoder
        whatever else packets hold. How a picture is shown may depend on that, so no frame is kept.
        """
        source, keys = self._source, self._table.keys
        if plain:
            source.reopen()
            self._cursor = Cursor(source, self._table)
        if not self._cursor.go_to(begin):
            return False
        skipping = not plain and self._table.one_each and _may_skip(source.context)
        following = int(keys[keys > begin].min(initial=len(self._table.packet_pts)))
        source.faults.clear()
        skip_now = False
        for place in range(begin, end + 1):
            packet = self._cursor.next()
            if packet is None:
                source.drain()  # pictures whose packets are not all there
                return False
            needless = skipping and place not in self._asked.row_of and self._is_droppable(packet)
            if needless != skip_now:
                source.context.skip_frame = "NONREF" if needless else "DEFAULT"
                skip_now = needless
            if pictures_only:
                packet.update(pictures_of_hevc(bytes(packet), source.context.extradata))
            frames = source.decode(packet, place)  # kept while the next packet is decoded, as in any plain loop
            self._take(frames)
            if source.strict and source.faults:
                break
        self._take(source.drain())
        if pictures_only or (source.strict and source.faults):
            self._asked.forget(begin, end)
        return any(source.strict or place < following for place in source.faults)

    def _is_droppable(self, packet: av.Packet[Any]) -> bool:
        """False where a decoder that is told to drop what nothing refers to would hide that it refuses a reference."""
        context = self._source.context
        return context.name != "h264" or not is_h264_reference(bytes(packet), context.extradata)

    def _take(self, frames: list[av.VideoFrame]) -> None:
        for frame in frames:
            self._asked.take(frame, frame.pts)


class Cursor:
    """Where a source stands among the packets of its table; every packet on the way is compared with the table's."""

    def __init__(self, source: Source, table: FrameTable) -> None:
        self._source, self._table = source, table
        self._packets: Iterator[av.Packet[Any]] | None = source.packets() if source.at_start else None
        self.at = 0  # place of the next packet

    def next(self) -> av.Packet[Any] | None:
        """The next packet; None at the end, or where it is not the one that was counted."""
        packet = self._pass()
        counted = packet is not None and list(file_place(packet)) == self._table.packet_at[self.at - 1].tolist()
        return packet if counted else None

    def _pass(self) -> av.Packet[Any] | None:
        """The next packet by its time alone; None at the end, or where it has another."""
        packet = next(self._packets, None) if self._packets is not None else None
        times = self._table.packet_pts
        if packet is None or self.at >= len(times):
            return None
        if times[self.at] != (NO_TIME if packet.pts is None else packet.pts):
            return None
        self.at += 1
        return packet

    def go_to(self, begin: int) -> bool:
        """Be before a packet: further on, by a seek, or where that leads astray by counting from the start."""
        worth = _SEEK_WORTH_PACKETS if self.at else 0  # at its start, a seek costs no more
        if self._packets is not None and 0 <= begin - self.at <= worth:
            return self._skip_to(begin) or self._count_to(begin)
        return self._seek(begin) or self._count_to(begin)

    def _skip_to(self, begin: int) -> bool:
        while self.at < begin:
            if self._pass() is None:
                self._packets = None
                return False
        return True

    def _seek(self, begin: int) -> bool:
        self._packets = None
        # With several clocks in one file, a time names no place.
        if len(self._table.recordings) > 1 or not self._source.seek(int(self._table.packet_dts[begin])):
            return False
        packets = self._source.packets()
        first = next(packets, None)
        if first is None or first.pts is None:
            return False
        same = np.flatnonzero(self._table.packet_pts == first.pts)
        if len(same) != 1 or same[0] > begin:
            return False
        self._packets, self.at = chain([first], packets), int(same[0])
        # After a seek, some containers give other times (MPEG program streams), or the times of other packets (AVI
        # with a damaged index): the packet is known by where it is in the file.
        found = self.next() if self._skip_to(begin) else None
        if found is None:
            return False
        self._packets, self.at = chain([found], packets), begin
        return True

    def _count_to(self, begin: int) -> bool:
        if self._packets is None or self.at > begin:
            strict = self._source.strict
            self._source.reopen()
            if strict:
                self._source.be_strict()
            self._packets, self.at = self._source.packets(), 0
        return self._skip_to(begin)
