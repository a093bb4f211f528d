"""Frames come as displayed: pixels that are not square are made square, by the container's ratio or the stream's."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from tests.contracts.decoder_suite import numbered_frames, plain_frames
from unreel.media import has_encoder, probe, read_clip, write_video

FRAMES = numbered_frames(4, height=48, width=64)


def _in_container(path: Path, aspect: Fraction, codec: str, degrees: int = 0) -> Path:
    """As the muxer writes it: pasp in mp4 and mov, DisplayWidth in mkv, the sequence header in MPEG-2."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if degrees:
            cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
            matrix = np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 14], dtype=np.int32) * (1 << 16)
            stream.set_display_matrix(matrix.tolist())
        for frame in FRAMES:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def _in_stream(path: Path, aspect: Fraction, codec: str) -> Path:
    """In the stream alone: H.264's and HEVC's own header, in a transport stream or no container at all."""
    words = f"sar={aspect.numerator}\\:{aspect.denominator}"
    params = {"libx264": {"x264-params": words}, "libx265": {"x265-params": f"{words}:log-level=error"}}[codec]
    plain = write_video(path.with_suffix(".ts"), FRAMES, 25, codec=codec, options=params)
    if path.suffix == ".ts":
        return plain
    container = "h264" if codec == "libx264" else "hevc"
    with av.open(str(plain)) as reader, av.open(str(path), "w", format=container) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    return path


def _in_mkv(path: Path, aspect: Fraction) -> Path:
    """Matroska's DisplayWidth and DisplayHeight, put into the track of a file that has none."""
    width, height = 64 * aspect.numerator, 48 * aspect.denominator
    display = b"".join(
        tag + b"\x84" + side.to_bytes(4, "big") for tag, side in ((b"\x54\xb0", width), (b"\x54\xba", height))
    )
    masters = (b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0")  # segment, tracks, track, video

    def grown(data: bytes, names: tuple[bytes, ...]) -> bytes:
        if not names:
            return data + display + b"\x54\xb2\x81\0"  # DisplayUnit: pixels
        out, at = b"", 0
        while at < len(data):
            tag = data[at : at + _vint_bytes(data[at])]
            start = at + len(tag) + _vint_bytes(data[at + len(tag)])
            size = int.from_bytes(data[at + len(tag) : start], "big") & ((1 << 7 * (start - at - len(tag))) - 1)
            body = data[start : start + size]
            if tag == names[0]:
                body = grown(body, names[1:])
            out += tag + b"\x01" + len(body).to_bytes(7, "big") + body
            at = start + size
        return out

    plain = write_video(path.with_name("plain.mkv"), FRAMES, 25, codec="ffv1")
    path.write_bytes(grown(plain.read_bytes(), masters))
    return path


def _vint_bytes(first: int) -> int:
    return 9 - first.bit_length()


def _stretched(path: Path, width: int, height: int) -> np.ndarray:
    scale = VideoReformatter()
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(scale.reformat(frame, width=width, height=height, format="rgb24").to_ndarray())
    return np.stack(frames)


KINDS: dict[str, Callable[[Path, Fraction], Path]] = {
    "mp4 pasp": lambda f, a: _in_container(f / "v.mp4", a, "mpeg4"),
    "mov h264": lambda f, a: _in_container(f / "v.mov", a, "libx264"),
    "mkv DisplayWidth": lambda f, a: _in_mkv(f / "v.mkv", a),
    "avi mpeg4": lambda f, a: _in_container(f / "v.avi", a, "mpeg4"),
    "h264 in ts": lambda f, a: _in_stream(f / "v.ts", a, "libx264"),
    "raw h264": lambda f, a: _in_stream(f / "v.264", a, "libx264"),
    "hevc in ts": lambda f, a: _in_stream(f / "v.ts", a, "libx265"),
}


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (128, 48)),
        (Fraction(16, 11), (93, 48)),
        (Fraction(2, 3), (64, 72)),
        (Fraction(8, 9), (64, 54)),
        (Fraction(1), (64, 48)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_short_side_is_stretched(kind: str, aspect: Fraction, size: tuple[int, int], tmp_path: Path) -> None:
    if "hevc" in kind and not has_encoder("libx265"):
        pytest.skip("this PyAV has no libx265 encoder")
    path = KINDS[kind](tmp_path, aspect)
    info = probe(path)
    assert (info.width, info.height) == size
    pixels = read_clip(path).pixels
    assert pixels.shape == (4, *size[::-1], 3)
    np.testing.assert_array_equal(pixels, _stretched(path, *size))


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 9)])
def test_mpeg2_tells_the_shape_of_the_picture(aspect: Fraction, tmp_path: Path) -> None:
    """MPEG-2 stores the shape of the whole picture, so that 64 x 48 shown as 16:9 has pixels of 4:3."""
    path = _in_container(tmp_path / "v.mpg", aspect * Fraction(48, 64), "mpeg2video")
    assert probe(path).width / probe(path).height == pytest.approx(float(aspect), abs=0.02)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_stretched_then_turned(degrees: int, tmp_path: Path) -> None:
    path = _in_container(tmp_path / "turned.mp4", Fraction(2), "libx264", degrees)
    info = probe(path)
    assert (info.width, info.height, info.rotation) == ((128, 48) if degrees == 180 else (48, 128)) + (degrees,)
    expected = np.rot90(_stretched(path, 128, 48), degrees // 90, axes=(1, 2))
    np.testing.assert_array_equal(read_clip(path).pixels, expected)


@pytest.mark.parametrize("aspect", [Fraction(640, 639), Fraction(99, 100), Fraction(9), Fraction(1, 9)])
def test_what_is_rounding_or_a_mistake_is_left_alone(aspect: Fraction, tmp_path: Path) -> None:
    path = _in_stream(tmp_path / "v.ts", aspect, "libx264")
    assert (probe(path).width, probe(path).height) == (64, 48)
    np.testing.assert_array_equal(read_clip(path).pixels, plain_frames(path))
