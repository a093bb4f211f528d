"""Files whose packets are not their pictures, made from the packets of ordinary ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from tests.contracts.decoder_suite import numbered_frames
from tests.contracts.field_writers import h264_fields, mpeg2_fields
from unreel.media import write_video

FPS = 25
TICK = Fraction(1, 90_000)
B_FRAMES = {"bf": "2", "b_strategy": "0"}
CODECS: dict[str, dict[str, Any]] = {
    "h264": {"options": B_FRAMES},
    "h264 no b": {"options": {"bf": "0"}},
    "h264 open": {"options": {**B_FRAMES, "x264-params": "open-gop=1"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "bframes=2:b-adapt=0:open-gop=0:log-level=error"}},
    "hevc no b": {"codec": "libx265", "options": {"x265-params": "bframes=0:log-level=error"}},
    "hevc open": {"codec": "libx265", "options": {"x265-params": "bframes=2:b-adapt=0:open-gop=1:log-level=error"}},
    "mpeg2": {
        "codec": "mpeg2video",
        "options": {"bf": "2", "qscale": "2", "b_strategy": "0", "sc_threshold": "1000000000"},
    },
    "mjpeg": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "0", "qscale": "2"}},
    "mpeg4 b": {"codec": "mpeg4", "options": {"bf": "1", "qscale": "2", "b_strategy": "0"}},
}
# The header of an MPEG-4 P-picture that is not coded (25 frames per second take 5 bits of time), and stuffing.
NOT_CODED = b"\0\0\1\xb6" + int("0101000001001111", 2).to_bytes(2, "big")


class Item(NamedTuple):
    """A packet: its bytes, when it is shown and decoded (seconds), and whether it is a keyframe."""

    data: bytes
    shown_s: Fraction
    decoded_s: Fraction
    key: bool


class Coded(NamedTuple):
    """A video's packets, and the file they came from, which tells how they are coded."""

    template: Path
    items: list[Item]


def coded(folder: Path, codec: str, numbers: Iterable[int], *, gop: int = 10, suffix: str = ".mkv") -> Coded:
    """Pictures that show ``numbers``, encoded; from a .ts, every keyframe carries the stream's headers."""
    wanted = list(numbers)
    path = folder / f"{codec.replace(' ', '_')}_{wanted[0]}_{len(wanted)}_{gop}{suffix}"
    if not path.exists():
        frames = numbered_frames(max(wanted) + 1)[wanted]
        write_video(path, frames, FPS, gop=gop, **CODECS[codec])
    return read_packets(path)


def read_packets(path: Path) -> Coded:
    """The packets of a file's first video track; decode times, where the file has none, as they must be."""
    with av.open(str(path)) as container:
        packets = [(bytes(p), p.pts * p.time_base, p.is_keyframe) for p in container.demux(video=0) if p.size]
    times = sorted(time for _, time, _ in packets)
    early = max(
        (times[i] - shown for i, (_, shown, _) in enumerate(packets)), default=Fraction(0)
    )  # how far decoding must run ahead
    return Coded(path, [Item(data, shown, times[i] - early, key) for i, (data, shown, key) in enumerate(packets)])


def write_packets(
    path: Path,
    source: Coded,
    items: Sequence[Item],
    *,
    shift_s: float = 0,
    container: str | None = None,
    **options: str,
) -> Path:
    """Packets as they are, into another container."""
    shift = Fraction(shift_s)
    with (
        av.open(str(source.template)) as reader,
        av.open(str(path), "w", format=container, options={"avoid_negative_ts": "disabled"}) as writer,
    ):
        stream = writer.add_stream_from_template(reader.streams.video[0])
        _mux(writer, stream, items, shift)
    return path


def _mux(writer: Any, stream: Any, items: Sequence[Item], shift: Fraction = Fraction(0)) -> None:
    for item in items:
        packet = av.Packet(item.data)
        packet.pts, packet.dts = round((item.shown_s + shift) / TICK), round((item.decoded_s + shift) / TICK)
        packet.time_base, packet.stream, packet.is_keyframe = TICK, stream, item.key
        packet.duration = round(Fraction(1, FPS) / TICK)
        writer.mux(packet)


# ----------------------------------------------------------------------------------------------------- kinds of files


def joined(
    folder: Path,
    codec: str,
    shifts_s: tuple[float, float],
    *,
    suffix: str = ".ts",
    numbers: Sequence[range] | None = None,
) -> Path:
    """Two recordings one behind the other in one file, each with a clock of its own."""
    parts = []
    for number, (wanted, shift) in enumerate(zip((range(25), range(100, 125)), shifts_s, strict=True)):
        source = coded(folder, codec, wanted)
        part = folder / f"part{number}{suffix}"
        write_packets(part, source, source.items, shift_s=shift)
        parts.append(part.read_bytes())
    path = folder / f"joined{suffix}"
    path.write_bytes(b"".join(parts))
    return path


def raw(folder: Path, codec: str, suffix: str, count: int = 25) -> Path:
    """A stream without a container, whatever its name says."""
    source = coded(folder, codec, range(count))
    return write_packets(folder / f"raw{suffix}", source, source.items, container=codec.split()[0])


def from_packet(folder: Path, source: Coded, first: int, suffix: str) -> Path:
    """A recording that begins at some packet of another one."""
    return write_packets(folder / f"{source.template.stem}_from{first}{suffix}", source, source.items[first:])


def second_keyframe(source: Coded) -> int:
    """The number, in the file, of the packet of the second keyframe."""
    return [i for i, item in enumerate(source.items) if item.key][1]


def fields(folder: Path, codec: str, suffix: str, *, split: bool, count: int = 20) -> Path:
    """Pictures of two fields each; ``split`` stores each field in a packet of its own."""
    pictures = (h264_fields if codec == "h264" else mpeg2_fields)([*range(count)])
    stream = folder / f"fields.{'264' if codec == 'h264' else 'm2v'}"
    stream.write_bytes(b"".join(unit for picture in pictures for unit in picture))
    path = folder / f"fields_{split}{suffix}"
    with av.open(str(stream)) as reader, av.open(str(path), "w") as writer:
        output = writer.add_stream_from_template(reader.streams.video[0])
        items = []
        for number, picture in enumerate(pictures):
            for part, data in enumerate(picture if split else [b"".join(picture)]):
                time = Fraction(2 * number + part, 2 * FPS)
                items.append(Item(data, time, time, number % 5 == 0 and part == 0))
        _mux(writer, output, items)
    return path


def not_coded(folder: Path, suffix: str, *, at: Sequence[int] = (4, 13), count: int = 25) -> Path:
    """MPEG-4 with pictures that are not coded: a player goes on showing the one before."""
    source = coded(folder, "mpeg4", range(count))
    items: list[Item] = []
    for number, item in enumerate(source.items):
        step = Fraction(len(items) - number, FPS)
        items.append(item._replace(shown_s=item.shown_s + step, decoded_s=item.decoded_s + step))
        if number in at:
            time = items[-1].shown_s + Fraction(1, FPS)
            items.append(Item(NOT_CODED, time, time, False))
    return write_packets(folder / f"not_coded{suffix}", source, items)


def packed(folder: Path, count: int = 25) -> Path:
    """MPEG-4 in AVI as DivX wrote it: a B-picture lies with the picture it needs, and an empty one in its place."""
    source = coded(folder, "mpeg4 b", range(count))
    packets: list[tuple[bytes, bool]] = []
    for before, item in zip([None, *source.items], source.items, strict=False):
        if before is not None and item.shown_s < before.shown_s:
            packets[-1] = (packets[-1][0] + item.data, packets[-1][1])
            packets.append((NOT_CODED, False))
        else:
            packets.append((item.data, item.key))
    first, key = packets[0]
    at = first.find(b"\0\0\1\xb6")
    packets[0] = (first[:at] + b"\0\0\1\xb2DivX503b1393p" + first[at:], key)
    times = [Fraction(i, FPS) for i in range(len(packets))]
    items = [Item(data, time, time, key) for (data, key), time in zip(packets, times, strict=True)]
    return write_packets(folder / "packed.avi", source, items)


def gaps_in_avi(folder: Path, codec: str) -> Path:
    """AVI fills a gap in time with packets of 0 bytes."""
    source = coded(folder, codec, range(25))
    times = [item.shown_s + Fraction(3 * (number > 7), FPS) for number, item in enumerate(source.items)]
    items = [Item(i.data, time, time, i.key) for i, time in zip(source.items, times, strict=True)]
    return write_packets(folder / f"{codec}_gaps.avi", source, items)


def tracks(folder: Path, suffix: str, defaults: Sequence[bool], *, cover: bool = False) -> Path:
    """Track k shows the numbers from 50 k on; ``defaults`` says which are on; ``cover`` puts a picture before them."""
    path = folder / f"tracks{suffix}"
    sources = [coded(folder, "h264", range(50 * k, 50 * k + 12)) for k in range(len(defaults))]
    readers = [av.open(str(source.template)) for source in sources]
    with av.open(str(path), "w") as writer:
        picture = None
        if cover:
            picture = writer.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        streams = [writer.add_stream_from_template(reader.streams.video[0]) for reader in readers]
        for stream, default in zip(streams, defaults, strict=True):
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
            writer.mux(picture.encode(frame) + picture.encode(None))
        for source, stream in zip(sources, streams, strict=True):
            _mux(writer, stream, source.items)
    for reader in readers:
        reader.close()
    return path
