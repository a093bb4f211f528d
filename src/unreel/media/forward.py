"""A video file opened once and decoded forward, for a reader that asks for later and later frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
from numpy.typing import NDArray

from unreel.media.decoder import Frames, MediaError, Path
from unreel.media.display import Converter
from unreel.media.frame_table import decode_from_start
from unreel.media.source import Budget, Source
from unreel.media.video import SILENT, Cursor, PyAVDecoder

# What a decoder may raise in the middle of a file; ``PyAVDecoder.read`` then says what is wrong.
_DOUBTS = (MediaError, av.FFmpegError, OSError, ValueError, IndexError, RuntimeError, MemoryError)


class ForwardReader:
    """Frames of one file, each call further on than the one before: what was decoded is not decoded again.

    The frames are those of ``decoder.read``, bit for bit, and so are the errors. A call that goes back, or to a later
    group of pictures, seeks. Where anything is odd (damage, a file that changed), ``decoder.read`` is asked instead.

    A reader belongs to the process that made it.
    """

    def __init__(self, decoder: PyAVDecoder, path: Path) -> None:
        self.path, self.process = path, os.getpid()
        self._decoder = decoder
        self._source: Source | None = None

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Frames (T,) by number, ascending and each once. Raises as ``PyAVDecoder.read``."""
        with suppress(*_DOUBTS):
            found = self._read_on(indices)
            if found is not None:
                return found
        self.close()
        return self._decoder.read(self.path, indices=indices)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _open(self) -> Source:
        path = os.fspath(self.path)
        self._table = self._decoder.table(path)
        self._source = source = Source(path, self._budget())
        source.refused = self._table.refused
        if source.context.name in SILENT:
            source.be_strict()
        self._cursor = Cursor(source, self._table)
        self._number = np.full(len(self._table.packet_pts), -1)  # of the frame that each packet is
        self._number[self._table.place] = np.arange(len(self._table.place))
        self._decoded: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._last = -1
        return source

    def _budget(self) -> Budget:
        """What one call may spend."""
        return Budget(os.fspath(self.path), self._decoder.max_seconds, self._decoder.max_packets)

    def _read_on(self, indices: NDArray[np.int64]) -> Frames | None:
        """The frames, or None where they are in doubt."""
        source = self._source or self._open()
        source.budget = self._budget()
        source.faults.clear()
        converter = Converter(self._table.info.height, self._table.info.width, len(indices))
        for row, wanted in enumerate(np.asarray(indices).tolist()):
            frame = self._go_to(source, wanted)
            if frame is None or (source.faults and not self._table.counted):
                return None
            converter.convert(frame, row)
        return Frames(converter.pixels, self._table.times_s[indices])

    def _go_to(self, source: Source, wanted: int) -> av.VideoFrame | None:
        """Decode until this frame; None where it does not come."""
        start = int(self._table.start[wanted])
        if self._decoded is None or wanted <= self._last or start > self._cursor.at:
            if self._decoded is not None:
                source.drain()
            self._last = -1
            self._decoded = self._counted(source) if self._table.counted else self._placed(source, start)
        for number, frame in self._decoded:
            self._frame, self._last = (
                frame,
                max(self._last, number),
            )  # kept while the next packet is decoded, as in any plain loop
            if number >= wanted:
                return frame if number == wanted else None
        return None

    def _counted(self, source: Source) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames from the first one on."""
        source.reopen()
        yield from enumerate(decode_from_start(source, self._table.recordings))

    def _placed(self, source: Source, begin: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers from a keyframe's packet on, as far as packets are those that were counted."""
        if not self._cursor.go_to(begin):
            return
        for place in range(begin, len(self._table.packet_pts)):
            if place > begin and place in self._table.recordings:
                yield from self._numbered(source.drain())
            packet = self._cursor.next()
            if packet is None:
                return
            yield from self._numbered(source.decode(packet, place))
        yield from self._numbered(source.drain())

    def _numbered(self, frames: list[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        for frame in frames:
            yield (-1 if frame.pts is None else int(self._number[frame.pts])), frame
