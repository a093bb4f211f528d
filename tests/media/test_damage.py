"""Damaged videos, one test per kind of damage: what is read is what a plain decode gives, or it is refused by name."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.contracts import odd_streams as odd
from tests.contracts.decoder_suite import numbered_frames
from unreel.media import PyAVDecoder, TruncatedError, write_video
from unreel.media.bits import ffv1_is_whole
from unreel.media.forward import ForwardReader
from unreel.media.video import _SpanReader


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


def _is_refused(path: Path) -> bool:
    """Whether a decoder that is told to be strict refuses any packet."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        try:
            for packet in container.demux(video=0):
                packet.decode()
        except av.error.InvalidDataError:
            return True
    return False


def _read_singly(path: Path, *, ahead: bool = True) -> list[bytes | None]:
    """Each frame, read alone by a reader that knows the file; None where it is refused by a message that names it.

    One that reads ahead gives the same.
    """
    decoder, found = PyAVDecoder(), []
    for index in range(decoder.probe(path).num_frames):
        try:
            found.append(decoder.read(path, indices=np.array([index])).pixels[0].tobytes())
        except TruncatedError as error:
            found.append(None if str(path) in str(error) else b"a message that names no file")
    if ahead:
        forward = ForwardReader(decoder, path)
        for index, alone in enumerate(found):
            with nullcontext() if alone is not None else pytest.raises(TruncatedError):
                assert forward.read(np.array([index])).pixels[0].tobytes() == alone
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


def _textured(path: Path, **coding: Any) -> odd.Coded:
    """A moving square before noise, so that no part of a picture is like another."""
    ground = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.stack([ground] * 25)
    for i, frame in enumerate(frames):
        frame[16:32, 2 * i : 2 * i + 12] = (10 * i, 255 - 10 * i, 128)
    return odd.read_packets(write_video(path, frames, 25, gop=8, **coding))


def _with_flips(path: Path, source: odd.Coded, number: int, flips: dict[int, int]) -> Path:
    """The file with bits of one packet flipped: a mask by the number of a byte."""
    data = bytearray(source.items[number].data)
    for at, mask in flips.items():
        data[at] ^= mask
    items = [item._replace(data=bytes(data)) if i == number else item for i, item in enumerate(source.items)]
    return odd.write_packets(path, source, items)


def test_an_hevc_picture_that_is_patched_without_a_word_is_as_in_a_plain_decode(tmp_path: Path) -> None:
    """Its decoder leaves the rest of a damaged picture as its memory was, which skipping pictures changes."""
    source = _textured(tmp_path / "whole.mp4", codec="libx265", options={"bf": "2"})
    number = [i for i, item in enumerate(source.items) if item.key][2]
    for at in range(75, len(source.items[number].data), 26):
        path = _with_flips(tmp_path / "damaged.mp4", source, number, {at: 0x20})
        if _is_refused(path):
            break
    assert set(_read_singly(path)) <= _decoded(path)
    assert _is_refused(path)


def test_an_h264_reference_that_is_refused_is_missed_even_where_nobody_asks_for_it(tmp_path: Path) -> None:
    """Told to drop what nothing refers to, its decoder gives no sign where no picture comes out of a packet."""
    source = _textured(tmp_path / "whole.mp4", **odd.CODECS["h264"])
    assert source.items[20].data[4] & 0x60  # one that others refer to
    for bit in range(4, 8):  # of the header of its slice
        path = _with_flips(tmp_path / "damaged.mp4", source, 20, {8: 1 << bit})
        assert set(_read_singly(path)) - {None} <= _decoded(path)


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_malformed_messages_beside_hevc_pictures_cost_no_plain_decode(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that says it is longer than its unit, before each picture: a strict decoder refuses every packet."""
    source = odd.coded(tmp_path, "hevc", range(30), suffix=suffix)
    message = bytes((39 << 1, 1, 137, 200, 1, 2, 3, 0x80))
    before = (b"\0\0\0\1" if suffix == ".ts" else len(message).to_bytes(4, "big")) + message
    noisy = [item._replace(data=before + item.data) for item in source.items]
    path = odd.write_packets(tmp_path / f"noisy{suffix}", source, noisy)
    asked: list[dict[str, bool]] = []
    read = _SpanReader.read
    monkeypatch.setattr(_SpanReader, "read", lambda self, *span, **how: asked.append(how) or read(self, *span, **how))
    assert _read_singly(path, ahead=False) == _read_singly(source.template, ahead=False)
    assert asked[:90] == [{}, {"pictures_only": True}, {}] * 30
    assert asked[90:] == [{}] * 30
