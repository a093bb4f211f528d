"""What a packet's own bits say about the pictures in it: the oracle is the decoder, or a writer of known streams."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.contracts import odd_streams as odd
from tests.contracts.field_writers import h264_fields, mpeg2_fields
from unreel.media import has_encoder
from unreel.media.bits import PictureCounter


@pytest.mark.parametrize("codec", ["h264", "h264 open", "hevc", "hevc open", "mpeg2", "mpeg4", "mpeg4 b", "mjpeg"])
@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_ordinary_packets_are_one_picture(codec: str, suffix: str, tmp_path: Path) -> None:
    if ("hevc" in codec and not has_encoder("libx265")) or (codec == "mjpeg" and suffix == ".ts"):
        pytest.skip("not made here")
    path = odd.coded(tmp_path, codec, range(20), suffix=suffix).template
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = PictureCounter(stream.codec_context.name, stream.codec_context.extradata)
        assert [count(bytes(p), p.is_keyframe) for p in container.demux(stream) if p.size] == [1] * 20


def test_fields_are_told_from_frames() -> None:
    frames, fields = (h264_fields([1, 2, 3], as_fields=f) for f in (False, True))
    count = PictureCounter("h264", None)
    assert [count(picture[0], True) for picture in frames] == [1, 1, 1]
    assert [count(unit, True) for picture in fields for unit in picture] == [None] * 6
    frames, fields = (mpeg2_fields([1, 2, 3], as_fields=f) for f in (False, True))
    count = PictureCounter("mpeg2video", None)
    assert [count(picture[0], True) for picture in frames] == [1, 1, 1]
    assert [count(unit, True) for picture in fields for unit in picture] == [None] * 6
    assert [count(b"".join(picture), True) for picture in fields] == [1, 1, 1]  # both fields in one packet


def test_other_parameters_midway_need_decoding() -> None:
    unit = h264_fields([1], as_fields=False)[0][0]
    count = PictureCounter("h264", None)
    assert [count(unit, True), count(unit, True)] == [1, 1]
    other = unit.replace(b"\0\0\0\1\x67\x4d", b"\0\0\0\1\x67\x58")  # another profile
    assert other != unit
    assert count(other, True) is None


def test_not_coded_packed_and_hidden(tmp_path: Path) -> None:
    source = odd.coded(tmp_path, "mpeg4", range(3))
    with av.open(str(source.template)) as container:
        count = PictureCounter("mpeg4", container.streams.video[0].codec_context.extradata)
    first, second = source.items[0].data, source.items[1].data
    assert [count(first, True), count(second, False), count(odd.NOT_CODED, False), count(first + second, True)] == [
        1,
        1,
        0,
        2,
    ]
    vp8 = PictureCounter("vp8", None)
    assert [vp8(b"\x10", True), vp8(b"\x00", True)] == [1, 0]
    vp9 = PictureCounter("vp9", None)
    shown, hidden, again = b"\x82\x49", b"\x80\x49", b"\x88\x00"
    assert [vp9(shown, True), vp9(hidden, True), vp9(again, False)] == [1, 0, 1]
    superframe = hidden + shown + b"\xc1\x02\x02\xc1"
    assert vp9(superframe, True) == 1
    assert vp9(shown + shown + b"\xc1\x02\x02\xc1", True) == 2


def test_a_codec_nobody_has_looked_at_is_decoded_to_be_counted() -> None:
    assert PictureCounter("wmv3", None)(b"anything", True) is None
    assert PictureCounter("h264", b"\1broken")(b"anything", True) is None


def test_a_missing_reference_shows_in_h264s_own_numbers(tmp_path: Path) -> None:
    """A decoder that drops pictures which nothing refers to would take it for more missing than there is."""
    items = odd.coded(tmp_path, "h264", range(20), suffix=".ts").items
    referred = next(i for i, item in enumerate(items) if i > 4 and not item.key and (_slice_head(item.data) & 0x60))
    disposable = next(i for i, item in enumerate(items) if i > 4 and not (_slice_head(item.data) & 0x60))
    for lost, whole in ((None, True), (disposable, True), (referred, False)):
        count = PictureCounter("h264", None)
        for i, item in enumerate(items):
            if i != lost:
                assert count(item.data, item.key) == 1
        assert count.in_sequence == whole


def _slice_head(data: bytes) -> int:
    """The first byte of the first slice."""
    at = data.find(b"\0\0\1")
    while data[at + 3] & 31 not in (1, 5):
        at = data.find(b"\0\0\1", at + 3)
    return data[at + 3]
