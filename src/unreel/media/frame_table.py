"""Every frame a video shows, in the order a player shows it, and how to reach it. A pure function of the file.

Where each packet provably is one picture with a time of its own, packets are read and one frame is decoded; so is the
head of a recording that starts where nothing can be decoded yet. Whatever else is found, the file is decoded once,
and what came out is the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Packets:
    """What the packets of an open file's track say, in file order; the arrays are (P,), ``at`` is (P, 2)."""

    source: Source
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    at: NDArray[np.int64]
    key: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    whole: NDArray[np.bool_]  # by their own checksums, of a codec that has any
    one_each: bool  # nothing but whole pictures and packets that show nothing, and no sign of damage
    in_sequence: bool  # no picture is missing, by the stream's own numbers
    packed: bool  # a picture may come out of another packet than its own

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
    if first is None:
        raise UnreadableError(source.path, f"none of its {len(packets)} {source.context.name} packets gives a frame")
    source.refused = _refused(packets)
    recordings = _recordings(packets)
    told = recordings if recordings and packets.one_each and _times_are_told(packets, recordings) else None
    if told:
        _drop_undecodable_heads(packets, told)
    if told and packets.shown.any():
        found = _from_packets(packets, told)
    else:
        found, first = _from_decoding(packets, recordings)
    return _finish(packets, frozenset(recordings or ()), found, first)


def _read_packets(source: Source) -> tuple[_Packets, av.VideoFrame | None]:
    """All packets, and the first frame that comes out."""
    count = PictureCounter(source.context.name, source.context.extradata)
    rows: list[tuple[int, ...]] = []
    one_each, packed, checksums = True, False, source.context.name == "ffv1"
    first: av.VideoFrame | None = None
    for place, packet in enumerate(source.packets()):
        key, size = packet.is_keyframe, packet.size
        pictures = count(bytes(packet), key) if size else 0
        if pictures not in (0, 1) or packet.is_corrupt or (key and packet.has_sidedata("new_extradata")):
            one_each = False
        packed |= (pictures or 0) > 1
        times = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
        shown, whole = pictures != 0 and not packet.is_discard, not checksums or ffv1_is_whole(bytes(packet))
        rows.append((*times, packet.duration or 0, *file_place(packet), key and size > 0, shown, whole))
        if first is None:
            first = next(iter(source.decode(packet, place)), None)
    if not rows:
        raise TruncatedError(source.path, "its video stream has no packets; the file is cut off or was never finished")
    if first is None:
        first = next(iter(source.drain()), None)
    table = np.array(rows, dtype=np.int64).T.copy()
    (pts, dts, duration), at, (key, shown, whole) = table[:3], table[3:5].T, table[5:] != 0
    return _Packets(source, pts, dts, duration, at, key, shown, whole, one_each, count.in_sequence, packed), first


def _refused(packets: _Packets) -> frozenset[int]:
    """Packets whose own checksum fails, each with the rest of its group; none where no checksum holds at all."""
    refused: set[int] = set()
    broken = False
    for place, whole in enumerate(packets.whole.tolist()):
        broken = not whole or (broken and not packets.key[place])
        if broken:
            refused.add(place)
    return frozenset(refused) if packets.whole.any() else frozenset()


def _recordings(packets: _Packets) -> list[int] | None:
    """Where each recording of the file begins: at a keyframe whose group is not shown after what came before it.

    None where the clock goes back in another way. Pictures that lead an open group's keyframe are shown after the
    group before, and so begin nothing.
    """
    begins = sorted({0, *np.flatnonzero(packets.key).tolist()})
    timed, all_dts = packets.shown & (packets.pts != NO_TIME), packets.dts.tolist()
    lowest = np.minimum.reduceat(np.where(timed, packets.pts, -NO_TIME), begins).tolist()
    highest = np.maximum.reduceat(np.where(timed, packets.pts, NO_TIME), begins).tolist()
    starts, top, last_dts = [0], NO_TIME, NO_TIME
    for (begin, end), low, high in zip(pairwise([*begins, len(packets)]), lowest, highest, strict=True):
        if begin and low <= top:
            if not NO_TIME < all_dts[begin] <= last_dts:
                return None  # pictures of one clock, in an order that the keyframes do not explain
            starts.append(begin)
            top = last_dts = NO_TIME
        top = max(top, high)
        for dts in all_dts[begin:end]:
            if dts != NO_TIME:
                if dts <= last_dts:
                    return None
                last_dts = dts
    return starts


def _times_are_told(packets: _Packets, recordings: list[int]) -> bool:
    """Whether every packet that is shown has a time that no other has, within its recording."""
    untimed = not _NO_TIMES.isdisjoint(packets.source.container.format.name.split(","))
    if untimed and (packets.source.context.has_b_frames or (packets.pts != packets.dts).any()):
        return False
    for begin, end in pairwise([*recordings, len(packets)]):
        times = packets.pts[begin:end][packets.shown[begin:end]]
        if NO_TIME in times or len(np.unique(times)) != len(times):
            return False
    return bool(packets.shown.any())


def _drop_undecodable_heads(packets: _Packets, recordings: list[int]) -> None:
    """Mark as not shown what never comes out at the start of a recording: pictures before, or shown before, its first
    keyframe, whose references are not in the file.
    """
    source, pts, shown = packets.source, packets.pts, packets.shown
    for begin, end in pairwise([*recordings, len(packets)]):
        first, second = [*(begin + np.flatnonzero(packets.key[begin:end])), end, end][:2]
        head = np.zeros(len(pts), dtype=bool)
        head[begin:first] = True
        head[first:second] = pts[first:second] < pts[first : first + 1]
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
        shown &= ~head | came  # in place


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


def _from_packets(packets: _Packets, recordings: list[int]) -> _Shown:
    """The frames of a file whose packets tell."""
    orders, starts, stops = [], [], []
    pts = packets.pts
    for begin, end in pairwise([*recordings, len(packets)]):
        places = begin + np.flatnonzero(packets.shown[begin:end])
        places = places[np.argsort(pts[places], kind="stable")]
        orders.append(places)
        starts.append(_starts(packets, places, pts, begin))
        stops.append(_stops(packets.source, places, pts, end))
    place, start, stop = (np.concatenate(parts) for parts in (orders, starts, stops))
    ticks = _one_clock([pts[places] for places in orders if len(places)])
    return _Shown(place, start, stop, ticks, int(packets.duration[place[-1]]), one_each=packets.in_sequence)


def _from_decoding(packets: _Packets, recordings: list[int] | None) -> tuple[_Shown, av.VideoFrame]:
    """The frames of a file whose packets do not tell: what the decoder puts out, each with its packet's time."""
    source = packets.source
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
    times = np.where(known, packets.pts[np.where(known, place, 0)], NO_TIME)
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
        starts = [_starts(packets, place[rows], rank, begin) for rows, begin in zip(parts, begins, strict=True)]
        ends = [*begins[1:], len(packets)]
        stops = [_stops(source, place[rows], rank, end) for rows, end in zip(parts, ends, strict=True)]
        following = np.unique([*came, *begins, len(packets)])
        stop = np.maximum(following[np.searchsorted(following, place, side="right")] - 1, np.concatenate(stops))
        found = _Shown(place, np.concatenate(starts), stop, ticks, duration, one_each=False)
    return found, first


def _starts(packets: _Packets, places: NDArray[np.int64], when: NDArray[np.int64], begin: int) -> NDArray[np.int64]:
    """The place to decode each frame from: the last keyframe that neither follows it in the file nor is shown after it.

    Pictures that follow an open group's keyframe but are shown before it refer to the group before. ``when`` (P,)
    orders packets by presentation; ``begin`` is where the recording begins.
    """
    keys = begin + np.flatnonzero(packets.key[begin : places.max(initial=begin) + 1])
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
            steps = next((np.diff(part) for part in (last, ticks) if len(part) > 1), np.ones(1))
            ticks = ticks + (last[-1] + max(int(np.median(steps)), 1) - ticks[0])
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


def _finish(packets: _Packets, recordings: frozenset[int], shown: _Shown, first: av.VideoFrame) -> FrameTable:
    """The table, with what it tells about the video."""
    source, stream = packets.source, packets.source.stream
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
    sound = next(iter(source.container.streams.audio), None)
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
        packets.pts,
        np.where(packets.dts == NO_TIME, packets.pts, packets.dts),
        packets.at,
        np.flatnonzero(packets.key),
        source.refused,
        recordings,
        times,
        float(times[0]) + duration,
        shown.one_each,
        shown.counted,
        info,
    )
