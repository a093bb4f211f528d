"""Damaged videos, one test per kind of damage: what is read is what a plain decode gives, or it is refused by name."""

from __future__ import annotations

import gc
from pathlib import Path

import av
import numpy as np
import pytest

from tests.contracts import odd_streams as odd
from tests.contracts.decoder_suite import numbered_frames
from unreel.media import PyAVDecoder, TruncatedError, write_video
from unreel.media.bits import ffv1_is_whole


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def _decoded(path: Path) -> set[bytes]:
    """Every picture of a plain decode that goes on behind what the decoder refuses."""
    found = set()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.error.InvalidDataError:
                continue
            found |= {frame.to_ndarray(format="rgb24").tobytes() for frame in frames}
    return found


def _read_singly(path: Path) -> list[bytes | None]:
    """Each frame, read alone by a reader that knows the file; None where it is refused by a message that names it."""
    decoder, found = PyAVDecoder(), []
    for index in range(decoder.probe(path).num_frames):
        try:
            found.append(decoder.read(path, indices=np.array([index])).pixels[0].tobytes())
        except TruncatedError as error:
            found.append(None if str(path) in str(error) else b"a message that names no file")
    return found


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_an_avi_index_that_names_a_lost_packet_misleads_nobody(codec: str, tmp_path: Path) -> None:
    """Counting from the start skips what has lost its name; the index still counts it, and a seek is one off."""
    whole, damaged = tmp_path / "whole.avi", tmp_path / "damaged.avi"
    write_video(whole, numbered_frames(20), 25, gop=5, **odd.CODECS[codec])
    content = whole.read_bytes()
    at = content.index(_packets(whole)[3]) - 8  # its name, four characters, and its size
    damaged.write_bytes(content[:at] + b"zzzz" + content[at + 4 :])
    read, plain = _read_singly(damaged), _decoded(damaged)
    assert len(read) == 19
    assert len(set(read)) == 19
    assert None not in read
    assert set(read) <= plain


def test_half_a_jpeg_is_refused(tmp_path: Path) -> None:
    """Its decoder leaves the other half as an earlier picture was, or grey."""
    whole, damaged = tmp_path / "whole.avi", tmp_path / "damaged.avi"
    write_video(whole, numbered_frames(12), 25, **odd.CODECS["mjpeg"])
    packets, content = _packets(whole), whole.read_bytes()
    at = content.index(packets[6]) + len(packets[6]) // 2
    damaged.write_bytes(content[:at] + bytes(len(packets[6]) // 2 - 8) + content[at + len(packets[6]) // 2 - 8 :])
    assert [i for i, frame in enumerate(_read_singly(damaged)) if frame is None] == [6]
    assert _read_singly(damaged)[:6] == _read_singly(whole)[:6]


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_lost_reference_is_patched_as_a_plain_decode_does(codec: str, suffix: str, tmp_path: Path) -> None:
    """The decoder sees what is lost from the pictures between: those are not dropped then."""
    source = odd.coded(tmp_path, codec, range(20), suffix=suffix)
    for lost in (4, 5, 6, 7):
        items = [item for i, item in enumerate(source.items) if i != lost]
        path = odd.write_packets(tmp_path / f"lost{lost}_{codec}{suffix}", source, items)
        assert set(_read_singly(path)) - {None} <= _decoded(path)


def test_a_picture_is_lost_with_the_damaged_one_behind_it(tmp_path: Path) -> None:
    """An MPEG-2 decoder holds each picture back until the next reference comes, and drops it where that is damaged."""
    source = odd.coded(tmp_path, "mpeg2", range(20), suffix=".ts")
    at, key = next((i, item) for i, item in enumerate(source.items) if item.key and i)
    head = key.data.index(b"\0\0\1\xb3") + 4  # its sequence header begins with the width
    broken = key._replace(data=key.data[:head] + bytes([key.data[head] ^ 8]) + key.data[head + 1 :])
    path = tmp_path / "broken.ts"
    odd.write_packets(path, source, [broken if i == at else item for i, item in enumerate(source.items)])
    before, plain = _read_singly(path)[:10], _decoded(path)
    assert set(before[:9]) <= plain
    assert before[9] is None


@pytest.mark.parametrize("codec", ["libvpx", "libx264"])
def test_pictures_are_freed_as_they_are_used(codec: str, tmp_path: Path) -> None:
    """A decoder writes over the pictures it gets back; what it leaves of them must not depend on the collector."""
    path = write_video(tmp_path / "whole.mkv", numbered_frames(10), 25, codec=codec)
    gc.collect()
    gc.disable()
    try:
        PyAVDecoder().read(path, indices=np.arange(10))
        assert not [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
    finally:
        gc.enable()


def test_a_damaged_ffv1_packet_is_refused_with_the_rest_of_its_group(tmp_path: Path) -> None:
    """Its decoder patches a slice whose checksum fails, with whatever it has at hand, and gives no sign."""
    path, damaged = tmp_path / "whole.mkv", tmp_path / "damaged.mkv"
    write_video(path, numbered_frames(20), 25.0, codec="ffv1", gop=5)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert all(map(ffv1_is_whole, packets))
    content = path.read_bytes()
    at = content.index(packets[7]) + len(packets[7]) // 2
    damaged.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    decoder, whole = PyAVDecoder(), PyAVDecoder().read(path, indices=np.arange(20)).pixels
    assert decoder.probe(damaged).num_frames == 20
    for index in range(20):
        if index in (7, 8, 9):
            with pytest.raises(TruncatedError, match=f"frame {index} first"):
                decoder.read(damaged, indices=np.array([index]))
        else:
            read = decoder.read(damaged, indices=np.array([index])).pixels
            np.testing.assert_array_equal(read[0], whole[index])
    with pytest.raises(TruncatedError, match="3 of 20 frames"):
        decoder.decode_whole(damaged)
