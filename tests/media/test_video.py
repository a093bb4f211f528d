"""Videos through PyAV: what is skipped, turned, cut, counted, bounded and remembered."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.contracts.decoder_suite import numbered_frames, plain_decode, read_numbers
from unreel.core.errors import UsageError
from unreel.media import (
    MediaError,
    NoStreamError,
    PyAVDecoder,
    ReadTimeoutError,
    TruncatedError,
    UnreadableError,
    probe,
    read_clip,
    write_video,
)
from unreel.media import video as video_module
from unreel.media.source import Source

B_FRAMES = {"bf": "3", "b_strategy": "0"}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", numbered_frames(48), 24, gop=24, options=B_FRAMES)


def _count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the frames that leave the decoder, as [number]."""
    counted = [0]
    plain = Source._frames

    def frames_of(self: Any, packet: Any) -> Any:
        frames = plain(self, packet)
        counted[0] += len(frames)
        return frames

    monkeypatch.setattr(Source, "_frames", frames_of)
    return counted


def test_frames_nobody_needs_are_not_decoded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = plain_decode(clip)
    decoder = PyAVDecoder()
    decoder.probe(clip)
    counted = _count_decoded(monkeypatch)
    wanted = np.array([2, 10, 18])
    frames = decoder.read(clip, indices=wanted)
    np.testing.assert_array_equal(frames.pixels, np.stack([reference[t] for t in sorted(reference)])[wanted])
    # Of frames 0-18 three in four are b-frames; without skipping all of them come out.
    assert counted[0] <= 12


def test_one_pass_over_both_clips_and_a_jump_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "long.mp4", numbered_frames(250, width=64), 25, gop=10, options={"bf": "0"})
    decoder = PyAVDecoder()
    decoder.probe(path)
    counted = _count_decoded(monkeypatch)
    opened = []
    plain_open = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or plain_open(*a, **k))
    wanted = np.array([3, 205, 4, 209, 3])
    frames = decoder.read(path, indices=wanted)
    assert read_numbers(frames.pixels) == wanted.tolist()
    assert len(opened) == 1
    assert counted[0] == 5 + 10  # 0-4 and 200-209


def test_skipping_is_certain_only_for_one_temporal_layer(tmp_path: Path) -> None:
    path = write_video(tmp_path / "h.mp4", numbered_frames(4), 25, codec="libx265")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert video_module._may_skip(context)
        layers = bytearray(context.extradata)
        layers[21] |= 2 << 3  # say three temporal layers
        context.extradata = bytes(layers)
        assert not video_module._may_skip(context)
    av1_like = write_video(tmp_path / "v.webm", numbered_frames(2), 25, codec="libvpx-vp9")
    with av.open(str(av1_like)) as container:
        assert not video_module._may_skip(container.streams.video[0].codec_context)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_display_matrix(tmp_path: Path, degrees: int, mirror: bool) -> None:
    """The oracle is NumPy: rotate counterclockwise after an optional horizontal mirror."""
    frames = numbered_frames(3, height=32, width=64)
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
        cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
        x = -1 if mirror else 1
        # [a b u; c d v; x y w] in 16.16 and 2.30 fixed point: p' = a p + c q, q' = b p + d q (y points down).
        matrix = np.array([cos * x, -sin * x, 0, sin, cos, 0, 0, 0, 1 << 14], dtype=np.int32) * (1 << 16)
        _set_matrix(stream, matrix)
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    shown = frames[:, :, ::-1] if mirror else frames
    expected = np.rot90(shown, degrees // 90, axes=(1, 2))
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    if not mirror:
        assert info.rotation == degrees
    assert np.abs(read_clip(path).pixels.astype(int) - expected).mean() < 6


def _set_matrix(stream: Any, matrix: Any) -> None:
    stream.set_display_matrix(matrix.tolist())


def test_frames_cut_by_an_edit_list_are_not_there(tmp_path: Path) -> None:
    source = write_video(tmp_path / "whole.mp4", numbered_frames(10), 25)
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as reader, av.open(str(cut), "w", options={"avoid_negative_ts": "disabled"}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        shift = round(4 * 0.04 / stream.time_base)
        for packet in reader.demux(stream):
            if packet.size:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                writer.mux(packet)
    info = probe(cut)
    assert info.num_frames == len(plain_decode(cut)) == 6
    assert read_numbers(read_clip(cut).pixels) == [4, 5, 6, 7, 8, 9]
    assert read_numbers(read_clip(cut, indices=[5, 0]).pixels) == [9, 4]


@pytest.mark.parametrize(("suffix", "container"), [(".ts", "mpegts"), (".asf", "asf"), (".mp4", "mp4")])
def test_time_may_begin_before_zero(tmp_path: Path, suffix: str, container: str) -> None:
    source = write_video(tmp_path / "whole.mp4", numbered_frames(10), 25, options=B_FRAMES)
    early = tmp_path / f"early{suffix}"
    options = {"avoid_negative_ts": "disabled", "movflags": "frag_keyframe+negative_cts_offsets+delay_moov"}
    with av.open(str(source)) as reader, av.open(str(early), "w", format=container, options=options) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.size:
                packet.pts -= round(0.2 / stream.time_base)
                packet.dts -= round(0.2 / stream.time_base)
                packet.stream = copy
                writer.mux(packet)
    times = PyAVDecoder().frame_times(early)
    assert times[0] < 0
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-3)
    assert probe(early).start_s == times[0]
    assert read_numbers(read_clip(early, indices=[9, 0, 4]).pixels) == [9, 0, 4]
    assert read_numbers(read_clip(early, times_s=times[[0, 1]] + 0.01).pixels) == [0, 1]


def test_hidden_reference_frames_of_vp8_are_not_counted(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.webm", numbered_frames(10), 25, codec="libvpx")
    path = tmp_path / "hidden.mkv"
    with av.open(str(source)) as reader, av.open(str(path), "w", format="matroska") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if not packet.size:
                continue
            for hidden in (True, False) if packet.pts == 200 else (False,):
                data = bytearray(bytes(packet))
                data[0] &= ~0x10 if hidden else 0xFF
                new = av.Packet(bytes(data))
                new.pts = new.dts = packet.pts - (10 if hidden else 0)
                new.time_base, new.stream, new.is_keyframe = packet.time_base, copy, packet.is_keyframe
                writer.mux(new)
    assert probe(path).num_frames == 10
    assert read_numbers(read_clip(path).pixels) == list(range(10))
    assert read_numbers(read_clip(path, indices=[7, 5]).pixels) == [7, 5]


def test_info_of_sound_rate_and_duration(tmp_path: Path) -> None:
    tone = np.sin(np.arange(8000) / 9)
    path = write_video(tmp_path / "a.mp4", numbered_frames(24), 24, audio=tone, audio_rate_hz=8000)
    info = probe(path)
    assert (info.width, info.height, info.num_frames, info.codec) == (64, 32, 24, "h264")
    assert (info.has_audio, info.audio_rate_hz) == (True, 8000)
    assert info.fps == 24
    assert info.duration_s == pytest.approx(1.0)
    assert (info.start_s, info.rotation, info.variable_frame_rate) == (0.0, 0, False)
    silent = probe(write_video(tmp_path / "b.mp4", numbered_frames(24), 24))
    assert (silent.has_audio, silent.audio_rate_hz) == (False, 0)


def test_variable_rate_is_said_and_averaged(tmp_path: Path) -> None:
    times = np.array([0.0, 0.1, 0.15, 0.4, 0.9])
    info = probe(write_video(tmp_path / "v.mp4", numbered_frames(5), 25, times_s=times))
    assert info.variable_frame_rate
    assert info.fps == pytest.approx(5 / info.duration_s)
    assert 0.9 < info.duration_s < 1.5
    for rate in (23.976, 29.97, 30.0, 120.0):
        for suffix in (".mp4", ".mkv"):  # mkv rounds times to milliseconds
            info = probe(write_video(tmp_path / f"c{suffix}", numbered_frames(30), rate))
            assert not info.variable_frame_rate
            assert info.fps == pytest.approx(rate, rel=2e-4)


def test_streams_without_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(NoStreamError, match=r"streams found: audio\)"):
        probe(path)


def test_cut_off_files(clip: Path, tmp_path: Path) -> None:
    whole = clip.read_bytes()
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(whole[: len(whole) // 2])  # the index of this mp4 is at its end
    with pytest.raises(TruncatedError, match="moov"):
        probe(headless)
    stream = write_video(tmp_path / "s.mkv", numbered_frames(48), 24, gop=12)
    short = tmp_path / "short.mkv"
    short.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    left = probe(short).num_frames
    assert 5 < left < 48
    assert read_numbers(read_clip(short, indices=range(left - 2)).pixels) == list(range(left - 2))
    with pytest.raises(MediaError):
        read_clip(short, indices=[47])


def test_damaged_frames_are_frames_or_a_typed_error(clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(30):
        broken = bytearray(content)
        for place in rng.integers(0, len(content), 12):
            broken[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "broken.mp4"
        path.write_bytes(broken)
        try:
            outcomes.append(read_clip(path, indices=[0, 20, 40]).pixels.shape[0])
        except MediaError as error:
            outcomes.append(type(error).__name__)
    assert 3 in outcomes


def test_bounds(clip: Path) -> None:
    video_module._kept.cache_clear()  # forget what earlier tests probed
    with pytest.raises(ReadTimeoutError, match="max_packets"):
        PyAVDecoder(max_packets=10).probe(clip)
    with pytest.raises(ReadTimeoutError, match="max_seconds"):
        PyAVDecoder(max_seconds=1e-9).read(clip, indices=np.array([0]))
    for wrong in ({"max_seconds": 0.0}, {"max_packets": 0}):
        with pytest.raises(UsageError):
            PyAVDecoder(**wrong)  # type: ignore[arg-type]


def test_a_pipe_that_never_speaks_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer would block an ordinary open for ever."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    with pytest.raises(MediaError):
        PyAVDecoder(max_seconds=0.5).probe(pipe)


def test_folders_and_forbidden_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="folder"):
        PyAVDecoder().probe(tmp_path)
    odd = tmp_path / "a:b %03d.mp4"  # a colon is no protocol, a percent sign no pattern
    write_video(odd, numbered_frames(3), 25)
    assert read_numbers(read_clip(odd).pixels) == [0, 1, 2]


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", numbered_frames(10), 25)
    assert probe(path).num_frames == 10
    write_video(path, numbered_frames(14, seed=1), 25)
    assert probe(path).num_frames == 14
    assert read_numbers(read_clip(path, indices=[13]).pixels) == [13]


def test_frame_times_are_the_callers_own(clip: Path) -> None:
    times = PyAVDecoder().frame_times(clip)
    times += 100
    assert PyAVDecoder().frame_times(clip)[0] == 0


def test_empty_request(clip: Path) -> None:
    assert PyAVDecoder().read(clip, indices=np.array([], dtype=np.int64)).pixels.shape == (0, 32, 64, 3)
    with pytest.raises(UsageError, match="integers"):
        PyAVDecoder().read(clip, indices=np.array([0.5]))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        PyAVDecoder().read(clip, times_s=np.zeros((2, 2)))


def test_times_just_short_of_a_frame_by_rounding(clip: Path) -> None:
    times = PyAVDecoder().frame_times(clip)
    frames = PyAVDecoder().read(clip, times_s=times - 1e-9)
    np.testing.assert_array_equal(frames.times_s, times)
    earlier = PyAVDecoder().read(clip, times_s=times[1:] - 1e-4)
    np.testing.assert_array_equal(earlier.times_s, times[:-1])


def test_no_growth_over_many_opens(clip: Path) -> None:
    """At most 20 MB over 5,000 opens."""

    def resident() -> int:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    decoder = PyAVDecoder()
    for _ in range(30):
        decoder.read(clip, indices=np.array([1]))
    before = resident()
    for _ in range(300):
        decoder.read(clip, indices=np.array([1]))
    assert resident() - before < 3_000_000


# ------------------------------------------------------------------------------------------------- odd and broken files


@pytest.fixture(scope="module")
def robust(shared_data: Path) -> Path:
    folder = shared_data / "robust_video"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/robust_video")
    return folder


def _listed(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    import json

    for name, facts in json.loads((folder / "manifest.json").read_text()).items():
        yield folder / name, facts


def _pixel_aspect(path: Path) -> Fraction:
    with av.open(str(path)) as container:
        return container.streams.video[0].sample_aspect_ratio or Fraction(1)


def test_odd_and_broken_files(robust: Path) -> None:
    """Always frames or a typed error; counts, sizes, starts and rotations as ffprobe lists them."""
    wrong = []
    for path, facts in _listed(robust):
        video = next((s for s in facts["streams"] if s["codec_type"] == "video" and s.get("width")), None)
        try:
            info = probe(path)
        except MediaError as error:
            copy = pickle.loads(pickle.dumps(error))
            if (video is not None and not facts["decode_errors"]) or type(copy) is MediaError:
                wrong.append(f"{path.name}: {error!r}")
            continue
        assert video is not None, path
        rotation = (video.get("side_data_list") or [{}])[0].get("rotation", 0)
        aspect = _pixel_aspect(path)
        aspect = aspect if abs(aspect - 1) > 0.02 else 1
        size = (round(video["width"] * max(1, aspect)), round(video["height"] / min(1, aspect)))
        expected = size if rotation % 180 == 0 else size[::-1]
        if (info.width, info.height) != expected or info.rotation != rotation % 360:
            wrong.append(f"{path.name}: {info.width}x{info.height} turned {info.rotation}, not {expected} {rotation}")
        if not facts["decode_errors"] and "nb_read_frames" in video:
            if info.num_frames != int(video["nb_read_frames"]):
                wrong.append(f"{path.name}: {info.num_frames} frames, not {video['nb_read_frames']}")
            if "start_time" in video and abs(info.start_s - float(video["start_time"])) > 1e-3:
                wrong.append(f"{path.name}: starts at {info.start_s}, not {video['start_time']}")
        sound = any(s["codec_type"] == "audio" for s in facts["streams"])
        if info.fps and info.has_audio != sound:
            wrong.append(f"{path.name}: sound {info.has_audio}")
        last = info.num_frames - 1
        try:
            read_clip(path, indices=[last, 0, last // 2])
        except MediaError as error:
            if not facts["decode_errors"]:
                wrong.append(f"{path.name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_odd_files_give_the_pixels_of_a_plain_decode(robust: Path) -> None:
    for path, facts in _listed(robust):
        rotated = any("rotation" in (s.get("side_data_list") or [{}])[0] for s in facts["streams"])
        video = next((s for s in facts["streams"] if s.get("nb_read_frames") and s["codec_type"] == "video"), None)
        if video is None or facts["decode_errors"] or rotated or path.suffix in (".avi", ".jpg", ".png"):
            continue
        if _pixel_aspect(path) != 1:
            continue  # not as stored: tests/contracts/test_pixel_aspect.py
        if int(video["nb_read_frames"]) * video["width"] * video["height"] > 15_000_000:
            continue  # the time is better spent on more kinds
        plain = plain_decode(path)
        reference = np.stack([plain[tick] for tick in sorted(plain)])
        wanted = np.random.default_rng(1).permutation(len(reference))[:5]
        np.testing.assert_array_equal(read_clip(path, indices=wanted).pixels, reference[wanted], err_msg=path.name)
