"""Video files through PyAV: one open, one forward pass, only what is needed.

The frames asked for are sorted; decoding starts at the keyframe that the first one needs, drops non-reference frames
that nobody asked for, converts only what was asked for, and stops at the last one. What comes back is bit for bit
what a plain decode of the whole file gives.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.media.decoder import (
    Frames,
    MediaError,
    MissingFileError,
    NoStreamError,
    Path,
    ReadTimeoutError,
    TooShortError,
    TruncatedError,
    UnreadableError,
    VideoInfo,
)

# Codecs whose non-reference pictures nothing at all refers to, so that skipping them cannot change another frame.
# HEVC's may still be referred to from higher temporal sub-layers: see _may_skip.
_SKIPPABLE = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "h263", "flv1"})
# Containers that store no presentation times: FFmpeg's guess is right only where the codec does not reorder frames.
_NO_TIMES = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "ivf"})
# Times are floats made from ticks; a caller's i / fps may fall this far short of a frame's own time.
_TIME_SLACK_S = 1e-6
_TABLES_KEPT = 256
_NO_PTS = -(1 << 62)  # before every real time stamp
_SEEK_WORTH_PACKETS = 64  # below this gap, demuxing on is cheaper than a seek


@dataclass(frozen=True)
class _Table:
    """Every presentable frame of a file, in presentation order, and how to reach it.

    ``pts`` (N,) ticks; ``position`` (N,) place in decode order; ``start`` (N,) decode position of the keyframe to
    start from. ``packet_pts`` and ``packet_dts`` (P,) are in decode order. ``ordered`` means that packet times
    cannot be trusted: frames are then found by counting the decoder's output from the start of the file.
    """

    pts: NDArray[np.int64]
    position: NDArray[np.int64]
    start: NDArray[np.int64]
    packet_pts: NDArray[np.int64]
    packet_dts: NDArray[np.int64]
    times_s: NDArray[np.float64]
    end_s: float
    ordered: bool
    info: VideoInfo


class _TableCache:
    """The last few frame tables of this process, by path, size and modification time."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tables: OrderedDict[tuple[object, ...], _Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> _Table | None:
        with self._lock:
            table = self._tables.get(key)
            if table is not None:
                self._tables.move_to_end(key)
            return table

    def put(self, key: tuple[object, ...], table: _Table) -> None:
        with self._lock:
            self._tables[key] = table
            self._tables.move_to_end(key)
            while len(self._tables) > self._capacity:
                self._tables.popitem(last=False)


_tables = _TableCache(_TABLES_KEPT)


class _Budget:
    """What one call may spend; ``packet()`` is called for each packet that is read."""

    def __init__(self, path: str, max_seconds: float, max_packets: int) -> None:
        self.path, self.max_seconds, self.max_packets = path, max_seconds, max_packets
        self._deadline = time.monotonic() + max_seconds
        self._packets = 0

    def packet(self) -> None:
        self._packets += 1
        if self._packets > self.max_packets:
            raise ReadTimeoutError(
                self.path, f"more than {self.max_packets} packets read; raise max_packets if the file is that long"
            )
        if time.monotonic() > self._deadline:
            raise self.expired()

    def expired(self) -> ReadTimeoutError:
        return ReadTimeoutError(
            self.path, f"reading took more than {self.max_seconds:g} s; raise max_seconds for slow storage"
        )


class _Opened:
    """An open file with its video stream, one decoder thread, and a budget."""

    def __init__(self, path: str, container: av.container.InputContainer, budget: _Budget) -> None:
        self.path, self.container, self.budget = path, container, budget
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails)
        ]
        if not streams:
            kinds = sorted({str(s.type) for s in container.streams}) or ["none"]
            raise NoStreamError(path, f"no video stream (streams found: {', '.join(kinds)})")
        self.stream = streams[0]
        context = self.stream.codec_context
        if context is None:
            raise UnreadableError(path, "the installed FFmpeg has no decoder for its video stream")
        context.thread_type = "NONE"
        context.thread_count = 1
        self.context = context

    def packets(self) -> Iterator[av.Packet[Any]]:
        """The video packets from here on; ends at the end of the file or where it breaks."""
        stream = self.container.demux(self.stream)
        while True:
            try:
                packet = next(stream)
            except StopIteration:
                return
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                return  # what came before the damage stays usable
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return
            self.budget.packet()
            yield packet

    def decode(self, packet: av.Packet[Any] | None) -> list[av.VideoFrame]:
        """Frames that come out after this packet; a damaged packet gives none."""
        try:
            return list(self.context.decode(packet))
        except (av.error.InvalidDataError, av.error.EOFError):
            return []

    def rewind(self, dts: int | None = None) -> None:
        """Go to the keyframe at or before ``dts`` (stream ticks), or to the start of the file."""
        if dts is not None:
            self.container.seek(dts, stream=self.stream, backward=True)
            return
        try:
            self.container.seek(_NO_PTS, stream=self.stream, backward=True)
        except av.FFmpegError:
            self.container.seek(0)


@contextmanager
def _opened(path: Path, max_seconds: float, max_packets: int) -> Iterator[_Opened]:
    """Open a file; whatever FFmpeg reports on the way leaves as a MediaError."""
    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
    except FileNotFoundError:
        raise MissingFileError(name, "there is no such file") from None
    except OSError as error:
        raise UnreadableError(name, f"cannot be opened: {error.strerror}") from None
    if os.path.isdir(name):
        raise UnreadableError(name, "is a folder, not a media file")
    if size == 0:
        raise TruncatedError(name, "the file is empty (0 bytes)")
    budget = _Budget(name, max_seconds, max_packets)
    try:
        # "file:" keeps a colon in the name from being read as a protocol.
        with av.open("file:" + name, timeout=max_seconds, metadata_errors="replace") as container:
            yield _Opened(name, container, budget)
    except (MediaError, UsageError):
        raise
    except av.error.ExitError:  # the timeout's own error
        raise budget.expired() from None
    except av.FFmpegError as error:
        if _lacks_index(name):
            raise TruncatedError(name, "an mp4 or mov without its index (moov): the file was cut off") from error
        raise UnreadableError(name, f"not a readable media file ({error.strerror or error})") from error
    except (OSError, ValueError, IndexError, RuntimeError, MemoryError) as error:
        raise UnreadableError(name, f"cannot be read ({type(error).__name__}: {error})") from error


def _lacks_index(path: str) -> bool:
    """Whether the file is an mp4 or mov whose top-level boxes run past its end before any ``moov``."""
    size = os.path.getsize(path)
    position, first = 0, True
    with open(path, "rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            head = stream.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if first and kind not in (b"ftyp", b"wide", b"mdat", b"free", b"skip"):
                return False
            if kind == b"moov":
                return False
            if length == 1 and len(head) == 16:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:
                break
            position, first = position + length, False
    return not first


def _may_skip(context: av.VideoCodecContext) -> bool:
    """Whether dropping non-reference pictures is certain not to change any other frame."""
    if context.name in _SKIPPABLE:
        return True
    extra = context.extradata
    # hvcC (ISO/IEC 14496-15, 8.3.3.1): bits 2-4 of byte 21 are numTemporalLayers.
    return bool(context.name == "hevc" and extra and len(extra) > 22 and extra[0] == 1 and (extra[21] >> 3) & 7 == 1)


def _is_hidden(codec: str, packet: av.Packet[Any]) -> bool:
    """Packets that show nothing: edited out, or VP8's alternate references (RFC 6386, 9.1: show_frame)."""
    if packet.is_discard:
        return True
    return codec == "vp8" and packet.size > 0 and not (memoryview(packet)[0] >> 4) & 1


# (transpose, flip x, flip y) for the EXIF orientations 1-8 (CIPA DC-008, 4.6.4: tag 0x0112).
_EXIF_TURNS = (
    (False, False, False),
    (False, False, False),
    (False, True, False),
    (False, True, True),
    (False, False, True),
    (True, False, False),
    (True, True, False),
    (True, True, True),
    (True, False, True),
)


class _Turn:
    """How a frame is turned for display: FFmpeg's display matrix reduced to its eight orientations.

    ``exif`` is the EXIF orientation of a still image (1-8), which takes the matrix's place.
    """

    def __init__(self, frame: av.VideoFrame, exif: int = 0) -> None:
        self.transpose = self.flip_x = self.flip_y = False
        if exif:
            self.transpose, self.flip_x, self.flip_y = _EXIF_TURNS[exif]
        else:
            self._read_matrix(frame)
        # Counterclockwise degrees of the rotation part, as FFmpeg counts them; a lone mirror has none.
        if self.transpose:
            self.degrees = 90 if self.flip_y else 270
        else:
            self.degrees = 180 if self.flip_x and self.flip_y else 0

    def _read_matrix(self, frame: av.VideoFrame) -> None:
        try:
            data: Any = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV refuses frames that carry a kind of side data it does not know
            quarter = round(frame.rotation / 90) % 4
            self.transpose = quarter in (1, 3)
            self.flip_x, self.flip_y = quarter in (2, 3), quarter in (1, 2)
            return
        if data is None:
            return
        a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
        if abs(a) + abs(d) < abs(b) + abs(c):
            self.transpose, self.flip_x, self.flip_y = True, c < 0, b < 0
        else:
            self.flip_x, self.flip_y = a < 0, d < 0

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width as displayed."""
        return (frame.width, frame.height) if self.transpose else (frame.height, frame.width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) as stored to (H, W, 3) as displayed; a view."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class _Converter:
    """Decoded frames to displayed RGB, into rows of one output array."""

    def __init__(self, height: int, width: int, num_frames: int) -> None:
        self.pixels = np.empty((num_frames, height, width, 3), dtype=np.uint8)
        self._reformat = VideoReformatter()

    def convert(self, frame: av.VideoFrame, row: int, turn: _Turn | None = None) -> None:
        turn = turn or _Turn(frame)
        height, width = self.pixels.shape[1:3]
        if turn.transpose:
            height, width = width, height
        # A stream that changes size midway is scaled to its first size, as players do.
        rgb = self._reformat.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane: Any = rgb.planes[0]
        lines = np.frombuffer(plane, dtype=np.uint8).reshape(height, plane.line_size)
        self.pixels[row] = turn.apply(lines[:, : width * 3].reshape(height, width, 3))


@dataclass(frozen=True)
class PyAVDecoder:
    """Reads any video FFmpeg knows, through PyAV's own build of it, in one thread.

    Args:
        max_seconds: bound on one call's wall-clock time.
        max_packets: bound on the packets one call may read; 2,000,000 are 9 hours at 60 frames per second.
    """

    max_seconds: float = 60.0
    max_packets: int = 2_000_000

    def __post_init__(self) -> None:
        if not self.max_seconds > 0 or not self.max_packets > 0:
            raise UsageError(
                f"max_seconds and max_packets must be positive, got {self.max_seconds} and {self.max_packets}"
            )

    @property
    def name(self) -> str:
        """``pyav``."""
        return "pyav"

    def probe(self, path: Path) -> VideoInfo:
        """Facts about the file: reads its packets and decodes one frame (for size and rotation).

        Raises: MissingFileError, UnreadableError, TruncatedError, NoStreamError, ReadTimeoutError.
        """
        return self._table(path).info

    def frame_times(self, path: Path) -> NDArray[np.float64]:
        """Presentation time of every frame, ascending, in seconds: (num_frames,). Raises as ``probe``."""
        return self._table(path).times_s.copy()

    def read(
        self,
        path: Path,
        *,
        indices: NDArray[np.int64] | None = None,
        times_s: NDArray[np.float64] | None = None,
    ) -> Frames:
        """Frames by index or by time; see ``Decoder.read``.

        Raises: as ``probe``; TooShortError for an index or time outside the file; TruncatedError where a frame is
            listed but cannot be decoded; UsageError unless exactly one of ``indices`` and ``times_s`` is given.
        """
        check_request(indices, times_s)
        key = _cache_key(path)
        with _opened(path, self.max_seconds, self.max_packets) as source:
            table = _tables.get(key)
            fresh = table is None
            if table is None:
                table = _build_table(source)
                _tables.put(key, table)
            wanted = select_frames(source.path, table.times_s, table.end_s, indices=indices, times_s=times_s)
            unique, inverse = np.unique(wanted, return_inverse=True)
            converter = _Converter(table.info.height, table.info.width, len(unique))
            if len(unique):
                found = np.zeros(len(unique), dtype=bool)
                if not table.ordered:
                    _read_by_time(source, table, unique, converter, found, fresh=fresh)
                if not found.all():
                    # Counted output, a bad index, or damage: a plain pass from the start is the last word.
                    _read_in_order(source, table, unique, converter, found)
                if not found.all():
                    lost = unique[~found]
                    raise TruncatedError(
                        source.path,
                        f"{len(lost)} of the {len(unique)} frames asked for cannot be decoded "
                        f"(frame {int(lost[0])} first); the file is damaged or ends early",
                    )
            pixels = converter.pixels
            if len(unique) != len(inverse) or np.any(inverse != np.arange(len(inverse))):
                pixels = pixels[inverse]
            return Frames(pixels, table.times_s[wanted])

    def _table(self, path: Path) -> _Table:
        key = _cache_key(path)
        table = _tables.get(key)
        if table is None:
            with _opened(path, self.max_seconds, self.max_packets) as source:
                table = _build_table(source)
            _tables.put(key, table)
        return table


def check_request(indices: object, times_s: object) -> None:
    """Raise UsageError unless exactly one way of addressing frames is given."""
    if (indices is None) == (times_s is None):
        raise UsageError("give exactly one of indices and times_s")


def select_frames(
    path: Path,
    frame_times_s: NDArray[np.float64],
    end_s: float,
    *,
    indices: NDArray[np.int64] | None,
    times_s: NDArray[np.float64] | None,
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
    return (os.path.abspath(name), facts.st_size, facts.st_mtime_ns)


def _build_table(source: _Opened) -> _Table:
    """Read all packets once; decode until the first frame, for its size and rotation."""
    codec = source.context.name
    pts: list[int | None] = []
    dts: list[int | None] = []
    durations: list[int] = []
    keys: list[bool] = []
    shown: list[bool] = []
    first: av.VideoFrame | None = None
    for packet in source.packets():
        pts.append(packet.pts)
        dts.append(packet.dts)
        durations.append(packet.duration or 0)
        keys.append(packet.is_keyframe)
        shown.append(not _is_hidden(codec, packet))
        if first is None:
            first = next(iter(source.decode(packet)), None)
    if not pts:
        raise TruncatedError(source.path, "its video stream has no packets; the file is cut off or was never finished")
    if first is None:
        first = next(iter(source.decode(None)), None)
    if first is None:
        raise UnreadableError(source.path, f"none of its {len(pts)} {codec} packets gives a frame")
    times_missing = any(p is None for p, s in zip(pts, shown, strict=True) if s)
    reorders = source.context.has_b_frames or any(p != d for p, d in zip(pts, dts, strict=True))
    untimed = not _NO_TIMES.isdisjoint(source.container.format.name.split(","))
    visible = [p for p, s in zip(pts, shown, strict=True) if s]
    if times_missing or len(set(visible)) != len(visible) or not visible or (untimed and reorders):
        return _decoded_table(source)

    packet_pts = np.array([p if p is not None else _NO_PTS for p in pts], dtype=np.int64)
    packet_dts = np.array([d if d is not None else p for d, p in zip(dts, packet_pts, strict=True)], dtype=np.int64)
    positions = np.flatnonzero(shown)
    order = positions[np.argsort(packet_pts[positions], kind="stable")]
    # A frame needs the last keyframe that neither follows it in the file nor is shown after it: pictures that follow
    # an open group's keyframe but are shown before it refer to the group before.
    key_positions = np.flatnonzero(keys)
    start = np.zeros(len(order), dtype=np.int64)
    for row, position in enumerate(order):
        at = int(np.searchsorted(key_positions, position, side="right")) - 1
        while at >= 0 and packet_pts[key_positions[at]] > packet_pts[position]:
            at -= 1
        start[row] = key_positions[at] if at >= 0 else 0
    last = durations[int(order[-1])]
    return _finish_table(source, first, packet_pts[order], order, start, packet_pts, packet_dts, last, ordered=False)


def _decoded_table(source: _Opened) -> _Table:
    """The table of a file whose packets do not tell when their frames are shown: count what the decoder puts out."""
    source.rewind()
    pts: list[int | None] = []
    first: av.VideoFrame | None = None
    duration = 0
    for frame in _all_frames(source):
        first = first or frame
        pts.append(frame.pts)
        duration = frame.duration or duration
    if first is None:
        raise UnreadableError(source.path, f"no frame of its {source.context.name} stream can be decoded")
    known = [p for p in pts if p is not None]
    rate = source.stream.average_rate or source.stream.guessed_rate or Fraction(25)
    tick = source.stream.time_base or 1 / rate
    if len(known) == len(pts) and len(set(known)) == len(pts):
        shown_at = np.array(sorted(known), dtype=np.int64)  # the right times, handed out in the wrong order
    else:
        origin = min(known, default=0)
        shown_at = np.array([origin + round(i / rate / tick) for i in range(len(pts))], dtype=np.int64)
    rows = np.arange(len(pts), dtype=np.int64)
    zeros = np.zeros(len(pts), dtype=np.int64)
    return _finish_table(source, first, shown_at, rows, zeros, shown_at, shown_at, duration, ordered=True)


def _finish_table(
    source: _Opened,
    first: av.VideoFrame,
    pts: NDArray[np.int64],
    position: NDArray[np.int64],
    start: NDArray[np.int64],
    packet_pts: NDArray[np.int64],
    packet_dts: NDArray[np.int64],
    last_duration: int,
    *,
    ordered: bool,
) -> _Table:
    stream, container = source.stream, source.container
    tick = stream.time_base or Fraction(1, 1000)
    times = (pts * tick.numerator) / tick.denominator
    gaps = np.diff(times)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    typical = float(np.median(gaps)) if len(gaps) else (1 / rate if rate else 0.0)
    last = float(last_duration * tick) if last_duration > 0 else typical
    if stream.duration:  # in mp4 a packet's duration is a step in decode order; the stream's own end is the bound
        remaining = float(stream.duration * tick) - float(times[-1] - times[0])
        last = min(last, remaining) if remaining > 0 else last
    duration = float(times[-1] - times[0]) + last
    # One tick of rounding on either end of a gap is no variation, nor is a tenth of a frame.
    variable = bool(len(gaps)) and float(np.max(np.abs(gaps - typical))) > max(0.1 * typical, 2.001 * float(tick))
    measured = len(times) / duration if duration > 0 else rate
    # The header's rate is the exact fraction behind rounded times; it is believed where the times agree with it.
    fps = rate if rate and not variable and abs(rate - measured) <= 0.01 * measured + 1e-9 else measured
    turn = _Turn(first)
    height, width = turn.size(first)
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
    return _Table(pts, position, start, packet_pts, packet_dts, times, float(times[0]) + duration, ordered, info)


def _all_frames(source: _Opened) -> Iterator[av.VideoFrame]:
    for packet in source.packets():
        yield from source.decode(packet)
    yield from source.decode(None)


def _read_in_order(
    source: _Opened, table: _Table, unique: NDArray[np.int64], converter: _Converter, found: NDArray[np.bool_]
) -> None:
    """One plain pass from the start of the file; frames are told apart by time, or by counting."""
    source.context.skip_frame = "DEFAULT"
    source.rewind()
    row_of = {int(table.pts[i]): row for row, i in enumerate(unique)}
    row_of_count = {int(i): row for row, i in enumerate(unique)}
    for count, frame in enumerate(_all_frames(source)):
        row = row_of_count.get(count) if table.ordered else row_of.get(frame.pts if frame.pts is not None else _NO_PTS)
        if row is not None and not found[row]:
            converter.convert(frame, row)
            found[row] = True
            if found.all():
                return


def _read_by_time(
    source: _Opened,
    table: _Table,
    unique: NDArray[np.int64],
    converter: _Converter,
    found: NDArray[np.bool_],
    *,
    fresh: bool,
) -> None:
    """Decode only the runs of packets that the frames need, each from its keyframe to its last frame."""
    row_of = {int(table.pts[i]): row for row, i in enumerate(unique)}
    spans: list[list[int]] = []
    for begin, end in sorted(zip(table.start[unique].tolist(), table.position[unique].tolist(), strict=True)):
        if spans and begin <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])

    skipping = _may_skip(source.context)
    skip_now = False
    packets: Iterator[av.Packet[Any]] | None = None
    at = 0  # decode position of the next packet
    for begin, end in spans:
        if packets is None or begin - at > _SEEK_WORTH_PACKETS:
            packets = _packets_from(source, table, begin, at_start=packets is None and not fresh)
            if packets is None:
                return
            at = begin
        for packet in packets:
            if packet.pts != table.packet_pts[at]:
                return  # not the packets that were counted: the file changed under us
            if at >= begin:
                needless = skipping and packet.pts not in row_of
                if needless != skip_now:
                    source.context.skip_frame = "NONREF" if needless else "DEFAULT"
                    skip_now = needless
                _take(source.decode(packet), row_of, converter, found)
            at += 1
            if at > end:
                break
        _take(source.decode(None), row_of, converter, found)
        source.context.flush_buffers()


def _packets_from(source: _Opened, table: _Table, begin: int, *, at_start: bool) -> Iterator[av.Packet[Any]] | None:
    """The packets from decode position ``begin`` on: by a seek, or where that leads astray by counting from the start.

    None where even that does not find the packets of the table. ``at_start`` tells that nothing has been read yet.
    """
    for seek in (True, False):
        if seek and begin == 0:
            continue
        if seek:
            try:
                source.rewind(int(table.packet_dts[begin]))
            except av.error.ExitError:
                raise
            except av.FFmpegError:
                continue  # a container that cannot seek
        elif not at_start:
            source.rewind()
        at_start = False
        packets = source.packets()
        packet = next(packets, None)
        place = _place(table, packet)
        # Every packet on the way is compared: after a seek, some containers (MPEG program streams) give other times.
        while place is not None and place < begin:
            packet, place = next(packets, None), place + 1
            if packet is None or packet.pts != table.packet_pts[place]:
                place = None
        if packet is not None and place == begin:
            return chain([packet], packets)
    return None


def _place(table: _Table, packet: av.Packet[Any] | None) -> int | None:
    """The decode position of a packet, found by its times; None for a packet the table does not hold."""
    if packet is None or packet.pts is None:
        return None
    same = np.flatnonzero(table.packet_pts == packet.pts)
    return int(same[0]) if len(same) == 1 else None


def _take(frames: list[av.VideoFrame], row_of: dict[int, int], converter: _Converter, found: NDArray[np.bool_]) -> None:
    for frame in frames:
        row = row_of.get(frame.pts if frame.pts is not None else _NO_PTS)
        if row is not None and not found[row]:
            converter.convert(frame, row)
            found[row] = True
