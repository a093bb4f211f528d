"""Every frame a video shows, in the order a player shows it, and how to reach it. A pure function of the file.

Where each packet provably is one picture with a time of its own, packets are read and one frame is decoded; so is the
head of a recording that starts where nothing can be decoded yet. Whatever else is found, the file is decoded once,
and what came out is the table.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from numpy.typing import NDArray

from unreel.media.bits import PictureCounter, ffv1_is_whole
from unreel.media.decoder import TruncatedError, UnreadableError, VideoInfo
from unreel.media.display import Turn, display_size
from unreel.media.source import Source, file_place

# Containers that store no presentation times: FFmpeg's guess is right only where the codec does not reorder frames.
_NO_TIMES = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "ivf"})
# Codecs whose decoder holds a picture back until a later one comes, and drops it where that one is damaged.
_HOLDS_BACK = frozenset({"mpeg1video", "mpeg2video"})
NO_TIME = -(1 << 62)  # before every real time stamp


@dataclass(frozen=True)
class FrameTable:
    """Every presentable frame of a file, in presentation order, and how to reach it.

    A *place* is a packet's number in the file. ``place`` (N,) of the packet each frame comes out of; ``start`` (N,)
    of the keyframe to decode from; ``stop`` (N,) of the last packet that belongs to the frame. ``packet_pts`` and
    ``packet_dts`` (P,) are the file's own; ``packet_at`` (P, 2) is where in the file each packet is, and its size in
    bytes; ``keys`` (K,) are the places of keyframes. ``refused`` are the places of packets that are damaged by their
    own checksum, and of what builds on them: they are never decoded. ``recordings`` are the places where another
    recording begins: the decoder starts anew there. ``one_each`` means that every packet shown is one whole picture,
    and none is missing between them. ``counted`` means that places do not tell frames apart: they are found by counting
    the decoder's output from the start of the file.
    """

    place: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    packet_pts: NDArray[np.int64]
    packet_dts: NDArray[np.int64]
    packet_at: NDArray[np.int64]
    keys: NDArray[np.int64]
    refused: frozenset[int]
    recordings: frozenset[int]
    times_s: NDArray[np.float64]
    end_s: float
    one_each: bool
    counted: bool
    info: VideoInfo


class TableCache:
    """The last few frame tables of this process, by path, size and modification time."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tables: OrderedDict[tuple[object, ...], FrameTable] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> FrameTable | None:
        """The table of a key, or None where it was never put or is forgotten."""
        with self._lock:
            table = self._tables.get(key)
            if table is not None:
                self._tables.move_to_end(key)
            return table

    def put(self, key: tuple[object, ...], table: FrameTable) -> None:
        """Remember a table; the one that was not asked for longest is forgotten."""
        with self._lock:
            self._tables[key] = table
            self._tables.move_to_end(key)
            while len(self._tables) > self._capacity:
                self._tables.popitem(last=False)


@dataclass
class _Packets:
    """What the packets of a track say, in file order."""

    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    at: list[tuple[int, int]] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)  # by their own checksums, of a codec that has any
    one_each: bool = True  # nothing but whole pictures and packets that show nothing, and no sign of damage
    in_sequence: bool = True  # no picture is missing, by the stream's own numbers
    packed: bool = False  # a picture may come out of another packet than its own

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True)
class _Shown:
    """The frames of a file in the order shown, as FrameTable has them; ``ticks`` are of one clock, ascending."""

    place: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    ticks: NDArray[np.int64]
    last_duration: int
    one_each: bool
    counted: bool = False


def build_table(source: Source) -> FrameTable:
    """Read all packets once; decode until the first frame, for its size and rotation, and further only where needed.

    Raises: TruncatedError without a packet; UnreadableError where nothing can be decoded.
    """
    packets, first = _read_packets(source)
    if source.strict and (first is None or source.faults):
        source.reopen()  # the first frame is one that any decoder gives
        first = next(decode_from_start(source, frozenset()), None)
    if not len(packets):
        raise TruncatedError(source.path, "its video stream has no packets; the file is cut off or was never finished")
    if first is None:
        raise UnreadableError(source.path, f"none of its {len(packets)} {source.context.name} packets gives a frame")
    source.refused = _refused(packets)
    pts, shown = np.array(packets.pts), np.array(packets.shown)
    recordings = _recordings(packets, pts, shown)
    told = packets.one_each and recordings is not None and _times_are_told(source, packets, pts, shown, recordings)
    if told and recordings is not None:
        _drop_undecodable_heads(source, packets, pts, shown, recordings)
    if told and recordings is not None and shown.any():
        found = _from_packets(source, packets, pts, shown, recordings)
    else:
        found, first = _from_decoding(source, packets, pts, recordings)
    return _finish(source, packets, pts, frozenset(recordings or ()), found, first)


def _read_packets(source: Source) -> tuple[_Packets, av.VideoFrame | None]:
    """All packets, and the first frame that comes out."""
    packets = _Packets()
    count = PictureCounter(source.context.name, source.context.extradata)
    first: av.VideoFrame | None = None
    for place, packet in enumerate(source.packets()):
        pts, dts, key, size = packet.pts, packet.dts, packet.is_keyframe, packet.size
        packets.pts.append(NO_TIME if pts is None else pts)
        packets.dts.append(NO_TIME if dts is None else dts)
        packets.at.append(file_place(packet))
        packets.duration.append(packet.duration or 0)
        packets.key.append(key and size > 0)
        pictures = count(bytes(packet), key) if size else 0
        if pictures not in (0, 1) or packet.is_corrupt or (key and packet.has_sidedata("new_extradata")):
            packets.one_each = False
        packets.packed |= (pictures or 0) > 1
        if source.context.name == "ffv1":
            packets.whole.append(ffv1_is_whole(bytes(packet)))
        packets.shown.append(pictures != 0 and not packet.is_discard)
        if first is None:
            first = next(iter(source.decode(packet, place)), None)
    packets.in_sequence = count.in_sequence
    if first is None and len(packets):
        first = next(iter(source.drain()), None)
    return packets, first


def _refused(packets: _Packets) -> frozenset[int]:
    """Packets whose own checksum fails, each with the rest of its group; none where no checksum holds at all."""
    refused: set[int] = set()
    broken = False
    for place, whole in enumerate(packets.whole):
        broken = not whole or (broken and not packets.key[place])
        if broken:
            refused.add(place)
    return frozenset(refused) if any(packets.whole) else frozenset()


def _recordings(packets: _Packets, pts: NDArray[np.int64], shown: NDArray[np.bool_]) -> list[int] | None:
    """Where each recording of the file begins: at a keyframe whose group is not shown after what came before it.

    None where the clock goes back in another way. Pictures that lead an open group's keyframe are shown after the
    group before, and so begin nothing.
    """
    begins = sorted({0, *np.flatnonzero(packets.key).tolist()})
    timed = shown & (pts != NO_TIME)
    lowest = np.minimum.reduceat(np.where(timed, pts, -NO_TIME), begins).tolist()
    highest = np.maximum.reduceat(np.where(timed, pts, NO_TIME), begins).tolist()
    starts, top, last_dts = [0], NO_TIME, NO_TIME
    for (begin, end), low, high in zip(pairwise([*begins, len(packets)]), lowest, highest, strict=True):
        if begin and low <= top:
            if not NO_TIME < packets.dts[begin] <= last_dts:
                return None  # pictures of one clock, in an order that the keyframes do not explain
            starts.append(begin)
            top = last_dts = NO_TIME
        top = max(top, high)
        for dts in packets.dts[begin:end]:
            if dts != NO_TIME:
                if dts <= last_dts:
                    return None
                last_dts = dts
    return starts


def _times_are_told(
    source: Source, packets: _Packets, pts: NDArray[np.int64], shown: NDArray[np.bool_], recordings: list[int]
) -> bool:
    """Whether every packet that is shown has a time that no other has, within its recording."""
    untimed = not _NO_TIMES.isdisjoint(source.container.format.name.split(","))
    if untimed and (source.context.has_b_frames or packets.pts != packets.dts):
        return False
    if not shown.any():
        return False
    for begin, end in pairwise([*recordings, len(packets)]):
        times = pts[begin:end][shown[begin:end]]
        if NO_TIME in times or len(np.unique(times)) != len(times):
            return False
    return True


def _drop_undecodable_heads(
    source: Source, packets: _Packets, pts: NDArray[np.int64], shown: NDArray[np.bool_], recordings: list[int]
) -> None:
    """Mark as not shown what never comes out at the start of a recording: pictures before, or shown before, its first
    keyframe, whose references are not in the file.
    """
    key = np.array(packets.key)
    for begin, end in pairwise([*recordings, len(packets)]):
        keys = begin + np.flatnonzero(key[begin:end])
        head = np.zeros(len(pts), dtype=bool)
        if len(keys):
            head[begin : keys[0]] = True
            following = slice(keys[0], keys[1] if len(keys) > 1 else end)
            head[following] = pts[following] < pts[keys[0]]
        else:
            head[begin:end] = True
        head &= shown
        if not head.any():
            continue
        came = np.zeros(len(pts), dtype=bool)
        source.reopen()
        for frame in decode_from_start(source, frozenset(), begin, end):
            place = -1 if frame.pts is None else frame.pts
            if begin <= place < end:
                came[place] = True
                if not head[place]:
                    break  # the decoder shows pictures in order: what is not out by now never comes
        shown &= ~head | came


def decode_from_start(
    source: Source, recordings: frozenset[int], begin: int = 0, end: int | None = None
) -> Iterator[av.VideoFrame]:
    """What a plain decode of the packets ``begin`` to ``end`` puts out, from a source at its first packet.

    The decoder is as new for every recording, so that no picture is made from another recording's.
    """
    for place, packet in enumerate(source.packets()):
        if place == end:
            break
        if place > begin and place in recordings:
            yield from source.drain()
        if place >= begin:
            yield from source.decode(packet, place)
    yield from source.drain()


def _from_packets(
    source: Source, packets: _Packets, pts: NDArray[np.int64], shown: NDArray[np.bool_], recordings: list[int]
) -> _Shown:
    """The frames of a file whose packets tell."""
    orders, starts, stops = [], [], []
    for begin, end in pairwise([*recordings, len(packets)]):
        places = begin + np.flatnonzero(shown[begin:end])
        places = places[np.argsort(pts[places], kind="stable")]
        orders.append(places)
        starts.append(_starts(places, packets.key, pts, begin))
        stops.append(_stops(source, places, pts, end))
    place, start, stop = (np.concatenate(parts) for parts in (orders, starts, stops))
    ticks = _one_clock([pts[places] for places in orders if len(places)])
    return _Shown(place, start, stop, ticks, packets.duration[place[-1]], one_each=packets.in_sequence)


def _from_decoding(
    source: Source, packets: _Packets, pts: NDArray[np.int64], recordings: list[int] | None
) -> tuple[_Shown, av.VideoFrame]:
    """The frames of a file whose packets do not tell: what the decoder puts out, each with its packet's time."""
    source.reopen()
    source.faults.clear()
    first: av.VideoFrame | None = None
    duration = 0
    came: list[int] = []
    for frame in decode_from_start(source, frozenset(recordings or ())):
        first = first or frame
        duration = frame.duration or duration
        came.append(-1 if frame.pts is None else frame.pts)
    if first is None:
        raise UnreadableError(source.path, f"no frame of its {source.context.name} stream can be decoded")
    place = np.array(came)
    known = (place >= 0) & (place < len(packets))
    times = np.where(known, pts[np.where(known, place, 0)], NO_TIME)
    counted = packets.packed or bool(source.faults) or not known.all() or len(np.unique(place)) != len(place)
    begins = recordings or [0]
    parts = np.split(np.arange(len(place)), [] if counted else np.searchsorted(place, begins[1:]))
    ticks = _clock_of_decoded(source, [times[rows] for rows in parts], explained=recordings is not None)
    if counted:
        rows = np.arange(len(place))
        found = _Shown(rows, np.zeros_like(rows), rows, ticks, duration, one_each=False, counted=True)
    else:
        rank = np.full(len(packets), len(place))
        rank[place] = np.arange(len(place))
        starts = [_starts(place[rows], packets.key, rank, begin) for rows, begin in zip(parts, begins, strict=True)]
        ends = [*begins[1:], len(packets)]
        stops = [_stops(source, place[rows], rank, end) for rows, end in zip(parts, ends, strict=True)]
        following = np.unique([*came, *begins, len(packets)])
        stop = np.maximum(following[np.searchsorted(following, place, side="right")] - 1, np.concatenate(stops))
        found = _Shown(place, np.concatenate(starts), stop, ticks, duration, one_each=False)
    return found, first


def _starts(places: NDArray[np.int64], key: list[bool], when: NDArray[np.int64], begin: int) -> NDArray[np.int64]:
    """The place to decode each frame from: the last keyframe that neither follows it in the file nor is shown after it.

    Pictures that follow an open group's keyframe but are shown before it refer to the group before. ``when`` (P,)
    orders packets by presentation; ``begin`` is where the recording begins.
    """
    keys = [k for k in range(begin, int(places.max(initial=begin)) + 1) if key[k]]
    at = np.searchsorted(keys, places, side="right") - 1
    starts = np.full(len(places), begin)
    for row, (place, last) in enumerate(zip(places.tolist(), at.tolist(), strict=True)):
        while last >= 0 and when[keys[last]] > when[place]:
            last -= 1
        if last >= 0:
            starts[row] = keys[last]
    return starts


def _stops(source: Source, places: NDArray[np.int64], when: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """The last packet to decode for each frame: its own, or the one that the decoder shows it at.

    Where that one is damaged, the frame is lost to a plain decode. ``when`` is as for ``_starts``; the recording goes
    on to the packet before ``end``.
    """
    if source.context.name not in _HOLDS_BACK:
        return places
    stops = places.copy()
    for row, place in enumerate(places.tolist()):
        later = place + 1
        while later < end and when[later] <= when[place]:
            later += 1
        stops[row] = min(later, end - 1)
    return stops


def _one_clock(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The ticks of several recordings as those of one: a clock that went back goes on where the one before ended."""
    joined = parts[:1]
    for ticks in parts[1:]:
        last = joined[-1]
        if ticks[0] <= last[-1]:
            step = (
                int(np.median(np.diff(last)))
                if len(last) > 1
                else int(np.median(np.diff(ticks)))
                if len(ticks) > 1
                else 1
            )
            ticks = ticks + (last[-1] + max(step, 1) - ticks[0])
        joined.append(ticks)
    return np.concatenate(joined)


def _clock_of_decoded(source: Source, parts: list[NDArray[np.int64]], *, explained: bool) -> NDArray[np.int64]:
    """One clock for what the decoder put out: the packets' own times where each frame has one, else its number.

    Args:
        source: for its rate.
        parts: each recording's times (ticks, or NO_TIME), as they came.
        explained: whether the jumps of the file's clock are where recordings begin; times that come in the wrong order
            then are the right ones, handed out in the wrong order.
    """
    ordered = [np.sort(times) if explained else times for times in parts if len(times)]
    if all(times.min() != NO_TIME and np.all(np.diff(times) > 0) for times in ordered):
        return _one_clock(ordered)
    times = np.concatenate(parts)
    rate = source.stream.average_rate or source.stream.guessed_rate or Fraction(25)
    tick = source.stream.time_base or 1 / rate
    known = times[times != NO_TIME]
    origin = int(known.min()) if len(known) else 0
    return np.array([origin + round(i / rate / tick) for i in range(len(times))])


def _finish(
    source: Source,
    packets: _Packets,
    packet_pts: NDArray[np.int64],
    recordings: frozenset[int],
    shown: _Shown,
    first: av.VideoFrame,
) -> FrameTable:
    """The table, with what it tells about the video."""
    stream, container = source.stream, source.container
    tick = stream.time_base or Fraction(1, 1000)
    times = (shown.ticks * tick.numerator) / tick.denominator
    gaps = np.diff(times)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    typical = float(np.median(gaps)) if len(gaps) else (1 / rate if rate else 0.0)
    last = float(shown.last_duration * tick) if shown.last_duration > 0 else typical
    if stream.duration and len(recordings) < 2:
        # In mp4 a packet's duration is a step in decode order; the stream's own end is the bound.
        remaining = float(stream.duration * tick) - float(times[-1] - times[0])
        last = min(last, remaining) if remaining > 0 else last
    duration = float(times[-1] - times[0]) + last
    # One tick of rounding on either end of a gap is no variation, nor is a tenth of a frame.
    variable = bool(len(gaps)) and float(np.max(np.abs(gaps - typical))) > max(0.1 * typical, 2.001 * float(tick))
    measured = len(times) / duration if duration > 0 else rate
    # The header's rate is the exact fraction behind rounded times; it is believed where the times agree with it.
    fps = rate if rate and not variable and abs(rate - measured) <= 0.01 * measured + 1e-9 else measured
    turn = Turn(first)
    height, width = display_size(first, turn, stream.sample_aspect_ratio)
    sound = next(iter(container.streams.audio), None)
    info = VideoInfo(
        width=width,
        height=height,
        num_frames=len(times),
        duration_s=duration,
        fps=fps,
        codec=source.context.name,
        start_s=float(times[0]),
        rotation=turn.degrees,
        variable_frame_rate=variable,
        has_audio=sound is not None,
        audio_rate_hz=int(sound.sample_rate or 0) if sound is not None else 0,
    )
    return FrameTable(
        shown.place,
        shown.start,
        shown.stop,
        packet_pts,
        np.where(np.array(packets.dts) == NO_TIME, packet_pts, packets.dts),
        np.array(packets.at),
        np.flatnonzero(packets.key),
        source.refused,
        recordings,
        times,
        float(times[0]) + duration,
        shown.one_each,
        shown.counted,
        info,
    )
