"""An open media file: which track is read, its packets in file order, its decoder, and what reading may cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import av
from av.stream import Disposition

from unreel.core.errors import UsageError
from unreel.media.decoder import (
    MediaError,
    MissingFileError,
    NoStreamError,
    Path,
    ReadTimeoutError,
    TruncatedError,
    UnreadableError,
)
from unreel.media.signature import VIDEO_SUFFIXES, head_of, suffix_of

Chooser: TypeAlias = Callable[[str, av.container.InputContainer], Any]
"""A file's path and the open file to the track that is read."""

# Codecs whose decoder refuses a damaged picture if told to; else it leaves the rest of it as an earlier one was.
_STRICT = frozenset({"mjpeg"})
_EXPLODE = {"err_detect": "explode"}
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails


class Budget:
    """What one call may spend; ``packet()`` is called for each packet that is read.

    The time between two packets counts for half of the limit at most: a process that was suspended meanwhile (Ctrl-Z, a
    scheduler) must not blame the file. One operation that takes too long is stopped by FFmpeg's own limit.
    """

    def __init__(self, path: str, max_seconds: float, max_packets: int) -> None:
        self.path, self.max_seconds, self.max_packets = path, max_seconds, max_packets
        self._spent_s, self._last_s = 0.0, time.monotonic()
        self._packets = 0

    def packet(self) -> None:
        """Raise ReadTimeoutError where this packet is one too many, or comes too late."""
        self._packets += 1
        if self._packets > self.max_packets:
            raise ReadTimeoutError(
                self.path, f"more than {self.max_packets} packets read; raise max_packets if the file is that long"
            )
        now = time.monotonic()
        self._spent_s += min(now - self._last_s, self.max_seconds / 2)
        self._last_s = now
        if self._spent_s >= self.max_seconds:
            raise self.expired()

    def expired(self) -> ReadTimeoutError:
        """The error of a call that took too long."""
        return ReadTimeoutError(
            self.path, f"reading took more than {self.max_seconds:g} s; raise max_seconds for slow storage"
        )


def choose_video(path: str, container: av.container.InputContainer) -> Any:
    """The video track that a player shows: the first that is switched on (mov, mp4) or flagged as default (mkv).

    Raises: NoStreamError where there is none, or nothing but cover pictures.
    """
    tracks = [s for s in container.streams.video if not s.disposition & _COVERS]
    if not tracks:
        kinds = sorted({str(s.type) for s in container.streams if s.type != "video"})
        covers = ["a cover picture"] if container.streams.video else []
        raise NoStreamError(path, f"no video stream (streams found: {', '.join(kinds + covers) or 'none'})")
    return max(tracks, key=lambda s: bool(s.disposition & Disposition.default))  # the first of equals


class Source:
    """An open file with one of its tracks, which ``choose`` chooses, and one decoder thread.

    Packets carry their place in the file as presentation time into the decoder, so that a frame's ``pts`` is the
    place of the packet it came from, whatever times the file gives.
    """

    def __init__(self, path: str, budget: Budget, choose: Chooser = choose_video) -> None:
        self.path, self.budget, self._choose = path, budget, choose
        self.faults: list[int] = []  # places of packets that the decoder refused, and of frames that it patched up
        self.refused: frozenset[int] = frozenset()  # places of packets that never reach the decoder
        self._open()

    def _open(self) -> None:
        self.at_start = True
        # FFmpeg believes a picture's suffix more than the beginning of a program stream.
        misnamed = suffix_of(self.path) not in VIDEO_SUFFIXES and head_of(self.path).startswith(b"\0\0\x01\xba")
        # "file:" keeps a colon in the name from being read as a protocol.
        self.container = av.open(
            "file:" + self.path,
            format="mpeg" if misnamed else None,
            timeout=self.budget.max_seconds,
            metadata_errors="replace",
        )
        try:
            self.stream = self._choose(self.path, self.container)
            context = self.stream.codec_context
            if context is None:
                raise UnreadableError(
                    self.path, f"the installed FFmpeg has no decoder for its {self.stream.type} stream"
                )
            context.thread_type = "NONE"
            context.thread_count = 1
            self.context = context
            self.strict = False
            if context.name in _STRICT:
                context.options = _EXPLODE
        except BaseException:
            self.container.close()
            raise

    def close(self) -> None:
        self.container.close()

    def reopen(self) -> None:
        """Be at the first packet again, with a decoder that has seen nothing, and is not strict.

        Unlike a seek, this never fails.
        """
        self.close()
        self._open()

    def be_strict(self) -> None:
        """Be at the first packet, with a new decoder that refuses what it would else pass over or patch up."""
        if self.context.is_open:
            self.reopen()
        self.context.options = _EXPLODE
        self.strict = True

    def seek(self, ticks: int) -> bool:
        """Go to the keyframe at or before a decode time; False where the container cannot."""
        try:
            self.container.seek(ticks, stream=self.stream, backward=True)
        except av.error.ExitError:
            raise
        except av.FFmpegError:
            return False
        return True

    def packets(self) -> Iterator[av.Packet[Any]]:
        """The track's packets from here on; ends at the end of the file or where it breaks."""
        self.at_start = False
        stream = self.container.demux(self.stream)
        while True:
            try:
                packet = next(stream)
            except (StopIteration, av.error.EOFError, av.error.InvalidDataError):
                return  # what came before damage stays usable
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return
            self.budget.packet()
            yield packet

    def decode(self, packet: av.Packet[Any], place: int | None) -> list[Any]:
        """Frames that come out after this packet; a damaged packet gives none, and an empty one is never decoded.

        Without a place, the packet keeps its own time.
        """
        if not packet.size or place in self.refused:
            return []
        if place is not None:
            packet.pts = place
        return self._frames(packet)

    def drain(self) -> list[Any]:
        """The frames that still wait to be shown; the decoder then is as new."""
        frames = self._frames(None)
        self.context.flush_buffers()
        return frames

    def _frames(self, packet: av.Packet[Any] | None) -> list[Any]:
        try:
            frames = list(self.context.decode(packet))
        except (av.error.ExitError, av.error.MemoryError):
            raise
        except av.FFmpegError:
            self.faults.append(-1 if packet is None or packet.pts is None else packet.pts)
            return []
        self.faults += [-1 if frame.pts is None else frame.pts for frame in frames if frame.is_corrupt]
        return frames


def file_place(packet: av.Packet[Any]) -> tuple[int, int]:
    """Where in the file a packet begins (-1 where the container does not say), and how many bytes it has."""
    return (-1 if packet.pos is None else packet.pos), packet.size


@contextmanager
def opened(path: Path, max_seconds: float, max_packets: int, choose: Chooser = choose_video) -> Iterator[Source]:
    """Open a file at one of its tracks; what FFmpeg reports leaves as a MediaError."""
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
    budget = Budget(name, max_seconds, max_packets)
    try:
        source = Source(name, budget, choose)
        try:
            yield source
        finally:
            source.close()
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
