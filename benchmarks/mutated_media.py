"""What reading does with damaged files: bit flips, cuts, splices, swapped blocks. No crash, no hang, nothing made up.

    python benchmarks/mutated_media.py --count 1000 --seed 0 --out mutated.json

Small files of every container are made, mutated by a seed, and read in a process of their own that may be killed.
The outcome of each is one of

- ``same``: every frame is read, and each is one that a plain decode of the mutated file also gives;
- ``as after a seek``: so it is, or a plain decode from one of its keyframes gives it. Decoders patch what is damaged up
  with what they decoded before; where they do not say so, a player that seeks shows another patch;
- an error's name: reading was refused, by cause (``MediaError`` and its kinds);
- ``MADE UP``: a frame came back that neither gives; ``UNTYPED``: another error; ``CRASH``; ``HANG``.

The last four are faults of unreel: the command then exits with 1, and ``--keep`` copies the files that did it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
from mutants import Kind, Mutant, main
from numpy.typing import NDArray

from unreel.media import MediaError, PyAVDecoder, has_encoder, write_video
from unreel.media.display import Converter
from unreel.media.source import opened

# ------------------------------------------------------------------------------------------------------------- videos

B_FRAMES = {"bf": "2", "b_strategy": "0"}
VIDEOS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": B_FRAMES},
    "h264.mkv": {"options": B_FRAMES},
    "h264.ts": {"options": B_FRAMES},
    "hevc.mp4": {"codec": "libx265", "options": {"bf": "2"}},
    "hevc.ts": {"codec": "libx265", "options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2", "qscale": "3"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "qscale": "3"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "qscale": "3"}},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "gif.gif": {"codec": "gif", "pixel_format": "rgb8"},
}


def make_videos(folder: Path) -> list[Path]:
    """A second of a moving square, in every container; and H.264 without one."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.stack([ground] * 25)
    for i, frame in enumerate(frames):
        frame[16:32, 2 * i : 2 * i + 12] = (10 * i, 255 - 10 * i, 128)
    made = [
        write_video(folder / name, frames, 25, gop=8, **options)
        for name, options in VIDEOS.items()
        if has_encoder(options.get("codec", "libx264"))
    ]
    raw = folder / "raw.h264"
    with av.open(str(folder / "h264.ts")) as reader, av.open(str(raw), "w", format="h264") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    return [*made, raw]


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=12).hexdigest()


def _plain_digests(path: Path, track: int, size: tuple[int, int], key: int | None = None) -> tuple[set[str], list[int]]:
    """Every picture that a plain decode gives, as displayed; and which packets are keyframes.

    ``key`` decodes from that packet on, as a player does that seeks: again, where the decoder refuses a packet.
    """
    found, keys = set(), []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams[track]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        canvas = Converter(*size, 1)
        packets = container.demux(stream)
        for place in itertools.count():
            packet = None
            with contextlib.suppress(StopIteration, av.error.EOFError, av.error.InvalidDataError):
                packet = next(packets)
            last = packet is None or (not packet.size and packet.dts is None)
            if packet is not None and packet.is_keyframe:
                keys.append(place)
            frames = []
            if last or (packet is not None and packet.size and place >= (key or 0)):
                try:
                    frames = stream.codec_context.decode(None if last else packet)
                except av.FFmpegError:
                    if key is not None:
                        frames = stream.codec_context.decode(None)
                        stream.codec_context.flush_buffers()
            for frame in frames:
                canvas.convert(frame, 0)
                found.add(_digest(canvas.pixels[0]))
            if last:
                return found, keys


def read_video(path: Path) -> str:
    """Read a video frame by frame in any order, and whole."""
    try:
        decoder = PyAVDecoder(max_seconds=30.0)
        info = decoder.probe(path)
        rows = np.random.default_rng(info.num_frames).permutation(info.num_frames)[:12]
        single: dict[int, str] = {}
        refused: MediaError | None = None
        for row in rows:
            try:
                single[int(row)] = _digest(decoder.read(path, indices=np.array([row])).pixels[0])
            except MediaError as error:
                refused = error
        with opened(path, 30.0, 2_000_000) as source:
            track, size = source.stream.index, (info.height, info.width)
        plain, keys = _plain_digests(path, track, size)
        strange = set(single.values()) - plain
        for key in keys if strange else ():
            strange -= _plain_digests(path, track, size, key)[0]
        if strange:
            return "MADE UP"
        if refused is not None:
            return type(refused).__name__
        return "same" if set(single.values()) <= plain else "as after a seek"
    except MediaError as error:
        return type(error).__name__


# ---------------------------------------------------------------------------------------------------------- mutations


def _flips(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    for at in rng.integers(0, len(data), int(rng.integers(1, 20))):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    return bytes(data[: int(rng.integers(1, len(data)))])


def _splice(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """The start of one file and the rest of another."""
    return bytes(data[: int(rng.integers(1, len(data)))]) + other[int(rng.integers(0, len(other))) :]


def _swap(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    size = max(1, min(int(2 ** rng.integers(2, 12)), len(data) // 3))
    first, second = sorted(rng.integers(0, len(data) - size, 2).tolist())
    if second - first >= size:
        one, two = data[first : first + size], data[second : second + size]
        data[first : first + size], data[second : second + size] = two, one
    return bytes(data)


def _drop(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    first = int(rng.integers(0, len(data)))
    return bytes(data[:first] + data[first + int(2 ** rng.integers(0, 11)) :])


def _zero(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    first = int(rng.integers(0, len(data)))
    size = min(int(2 ** rng.integers(2, 11)), len(data) - first)
    return bytes(data[:first]) + bytes(size) + bytes(data[first + size :])


def _repeat(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """A file behind itself: clocks that jump back."""
    return bytes(data) + bytes(data[int(rng.integers(0, len(data))) :])


MUTATIONS = {f.__name__[1:]: f for f in (_flips, _cut, _splice, _swap, _drop, _zero, _repeat)}


def mutant(good: list[Path], number: int, seed: int) -> Mutant:
    """Damaged file ``number``: a function of the seed alone."""
    rng = np.random.default_rng([seed, number])
    path = good[number % len(good)]
    way = [*MUTATIONS][int(rng.integers(len(MUTATIONS)))]
    same_kind = [p for p in good if p.suffix == path.suffix]
    other = same_kind[int(rng.integers(len(same_kind)))].read_bytes()
    return Mutant(path.name, way, path.name, MUTATIONS[way](bytearray(path.read_bytes()), rng, other))


KIND = Kind(make_videos, mutant, read_video)

if __name__ == "__main__":
    av.logging.set_level(None)
    raise SystemExit(main(KIND, __doc__))
