"""Sound through PyAV: mono samples at one rate, addressed by the presentation times that its video's frames have.

Sample k of the rate asked for is the sound at k / rate seconds, in every file, whatever its own rate and wherever its
track begins: what is asked for is read on this grid, so that two reads of one moment give the same sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from math import gcd
from typing import Annotated, Any, NamedTuple

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from unreel.core.checks import Amount, Count, Positive, Range, checked
from unreel.core.errors import UsageError
from unreel.media.decoder import NoStreamError, Path, TooShortError, TruncatedError, UnreadableError
from unreel.media.source import Source, opened

# Below this, decoding from the start is cheap, and lossy codecs, which remember what they decoded, give the same bits.
_SEEK_WORTH_S = 10.0
_WARM_UP_S = 1.0  # decoded before what is asked for, after a seek: more than any codec remembers audibly
_MOST_SPAN_S = 3600.0
_TAPS = 10  # half the length of scipy's resampling filter, in samples of the lower rate
# Times are floats: what falls this close to the middle between two samples belongs to the later one, always.
_SLACK_SAMPLES = 1e-6


@dataclass(frozen=True)
class AudioInfo:
    """What probing tells of the track that is read: ``start_s`` is the presentation time of its first sample.

    ``rate_hz`` and ``channels`` are the file's own; ``tracks`` counts the file's audio tracks.
    """

    rate_hz: int
    channels: int
    duration_s: float
    codec: str
    start_s: float
    tracks: int


class Sound(NamedTuple):
    """``samples`` (N,) float32 in [−1, 1], ``times_s`` (N,) float64 presentation times."""

    samples: NDArray[np.float32]
    times_s: NDArray[np.float64]


@checked
@dataclass(frozen=True)
class AudioDecoder:
    """The sound of any file that FFmpeg knows, as the mean of its channels. Stateless, picklable.

    Args:
        rate_hz: samples per second that come out.
        silence_s: as far as this from the track's nearest sample, a time is silent: tracks are often a little shorter
            than their video. 0 refuses whatever is not there.
        track: which of several audio tracks, from 0; None is the one a player takes.
        max_seconds, max_packets: bounds on one call, as of ``PyAVDecoder``.
    Raises: UsageError for values out of range.
    """

    rate_hz: Count = 16_000
    silence_s: Annotated[float, Range(ge=0, le=60, unit="s")] = 0.1
    track: Amount | None = None
    max_seconds: Positive = 60.0
    max_packets: Count = 2_000_000

    def probe(self, path: Path) -> AudioInfo:
        """Facts about the track: reads its packets and decodes its beginning.

        Raises: MissingFileError, UnreadableError, TruncatedError, ReadTimeoutError; NoStreamError without sound.
        """
        with self._open(path) as source:
            track = _Track(source)
            source.reopen()
            tick = float(source.stream.time_base)
            end = max(((p.pts + (p.duration or 0)) * tick for p in source.packets() if p.pts is not None), default=0.0)
            start = track.first / track.rate
            return AudioInfo(
                rate_hz=track.rate,
                channels=track.channels,
                duration_s=max(end, track.first_end / track.rate) - start,
                codec=source.context.name,
                start_s=start,
                tracks=len(source.container.streams.audio),
            )

    def read(self, path: Path, *, times_s: NDArray[np.float64]) -> Sound:
        """The sample nearest to each time, in any order, repeats allowed.

        Raises: as ``probe``; TooShortError where a time is further than ``silence_s`` from the track, or TruncatedError
            where that is damage; UsageError for times that are no row of numbers, or span more than an hour.
        """
        times = np.asarray(times_s, dtype=np.float64)
        if times.ndim != 1 or not np.isfinite(times).all():
            raise UsageError(f"times_s must be one row of seconds, got {times.dtype} of shape {times.shape}")
        wanted = np.floor(times * self.rate_hz + (0.5 + _SLACK_SAMPLES)).astype(np.int64)
        if not len(wanted):
            return Sound(np.empty(0, dtype=np.float32), np.empty(0))
        first, stop = int(wanted.min()), int(wanted.max()) + 1
        if stop - first > _MOST_SPAN_S * self.rate_hz:
            raise UsageError(f"one read of sound may span {_MOST_SPAN_S:g} s, got {(stop - first) / self.rate_hz:g} s")
        with self._open(path) as source:
            samples = self._between(source, first, stop)
        return Sound(samples[wanted - first], wanted / self.rate_hz)

    def _open(self, path: Path) -> Any:
        return opened(path, self.max_seconds, self.max_packets, partial(_choose, track=self.track))

    def _between(self, source: Source, first: int, stop: int) -> NDArray[np.float32]:
        """Samples first … stop − 1 of the grid."""
        track = _Track(source)
        shared = gcd(self.rate_hz, track.rate)
        up, down = self.rate_hz // shared, track.rate // shared
        low, high = first * down // up, -(-stop * down // up)  # what is asked for, in samples of the file
        reach = int(self.silence_s * track.rate) + 1
        margin = max(reach, 0 if up == down else _TAPS * -(-max(up, down) // up) + 1)
        begin = (low - margin) // down * down  # a sample of both grids
        found, there = track.between(begin, high + margin)
        missing = int((~_near(there, reach)[low - begin : high - begin]).sum())
        if missing:
            span = f"{first / self.rate_hz:g} to {stop / self.rate_hz:g} s"
            asked = f"{missing / track.rate:.3g} s of the sound from {span}"
            if source.faults:
                raise TruncatedError(source.path, f"{asked} cannot be decoded; the file is damaged or ends early")
            raise TooShortError(
                source.path, f"{asked} are not there; the track begins at {track.first / track.rate:g} s"
            )
        if not np.isfinite(found).all():
            raise UnreadableError(source.path, "its sound holds numbers that are not finite")
        if up != down:
            from scipy.signal import resample_poly  # half a second to import: for those who need it

            found = np.asarray(resample_poly(found, up, down), dtype=np.float32)
        at = first - begin // down * up
        return found[at : at + stop - first]


def _choose(path: str, container: InputContainer, *, track: int | None) -> Any:
    """The audio track of this number, or the one that a player takes."""
    tracks = container.streams.audio
    if not tracks:
        kinds = sorted({str(s.type) for s in container.streams})
        raise NoStreamError(path, f"no audio stream (streams found: {', '.join(kinds) or 'none'})")
    if track is None:
        return max(tracks, key=lambda s: bool(s.disposition & Disposition.default))
    if track >= len(tracks):
        raise NoStreamError(path, f"no audio track {track}; it has {len(tracks)}, counted from 0")
    return tracks[track]


class _Track:
    """Mono samples of the open track by number: sample n is the sound at n / rate seconds of presentation time.

    Samples are counted on from the first one, since the times of many containers are rounded to milliseconds.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tick: Fraction = source.stream.time_base
        self._frames = self._decoded()
        beginning = next(self._frames, None)
        if beginning is None:
            raise TruncatedError(source.path, "none of its sound can be decoded; the file is damaged or ends early")
        self.rate = int(beginning.sample_rate)
        self.channels = int(beginning.layout.nb_channels)
        # What a time may differ by from where counting gets to and be the same: a tick, and a sample.
        self._loose = int(np.ceil(float(self._tick * self.rate))) + 1
        self._beginning = beginning
        self.first = self._number(beginning)
        self.first_end = self.first + int(beginning.samples)

    def between(self, begin: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Samples begin … end − 1, zeros where there are none, and which of them there are."""
        found, there = np.zeros(end - begin, dtype=np.float32), np.zeros(end - begin, dtype=bool)
        for start, data in self._pieces(begin):
            if start >= end:
                break
            low, high = max(start, begin), min(start + len(data), end)
            if low < high:
                found[low - begin : high - begin] = data[low - start : high - start]
                there[low - begin : high - begin] = True
        return found, there

    def _pieces(self, begin: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Decoded stretches in order, by the number of their first sample, from before ``begin`` on."""
        source, frames = self._source, chain([self._beginning], self._frames)
        if begin - self.first > _SEEK_WORTH_S * self.rate:
            ahead = float((begin / self.rate - _WARM_UP_S) / self._tick)
            if source.seek(int(ahead)):
                source.context.flush_buffers()
                pieces = self._counted(self._decoded(), self._on_grid)
                piece = next(pieces, None)
                if piece is not None and piece[0] <= begin:
                    yield piece
                    yield from pieces
                    return
            source.reopen()
            frames = chain(self._decoded())
        yield from self._counted(frames, lambda number, _: number)

    def _decoded(self) -> Iterator[Any]:
        for packet in self._source.packets():
            yield from self._source.decode(packet, None)
        yield from self._source.drain()

    def _counted(
        self, frames: Iterable[Any], place: Callable[[int, int], int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        end: int | None = None
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise UnreadableError(
                    self._source.path, f"its sound changes from {self.rate} to {frame.sample_rate} samples per second"
                )
            data = _mono(frame)
            number = end if frame.pts is None else self._number(frame)
            if number is None:
                number = self.first
            if end is None:
                number = place(number, len(data))
            elif abs(number - end) <= self._loose:
                number = end
            end = number + len(data)
            yield number, data

    def _number(self, frame: Any) -> int:
        return round((frame.pts or 0) * self._tick * self.rate)

    def _on_grid(self, number: int, length: int) -> int:
        """Where counting from the first sample would have got to, for pieces of one length."""
        counted = self.first_end + round((number - self.first_end) / length) * length
        return counted if abs(counted - number) <= self._loose else number


def _near(there: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Which samples have one that is there within ``reach``."""
    count = np.concatenate([[0], np.cumsum(there)])
    at = np.arange(len(there))
    near: NDArray[np.bool_] = count[np.minimum(at + reach + 1, len(there))] > count[np.maximum(at - reach, 0)]
    return near


def _mono(frame: Any) -> NDArray[np.float32]:
    data = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        data = data.reshape(-1, channels).T
    if data.dtype == np.uint8:
        data = data.astype(np.float32) - 128
        return np.asarray(data.mean(0) / 128, dtype=np.float32)
    scale = -float(np.iinfo(data.dtype).min) if np.issubdtype(data.dtype, np.integer) else 1.0
    return np.asarray(data.mean(0, dtype=np.float64) / scale, dtype=np.float32)
