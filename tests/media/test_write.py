"""What is written is what was given, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.contracts.decoder_suite import numbered_frames, read_numbers
from unreel.core.errors import UsageError
from unreel.media import probe, read_clip, write_video


def test_pixels_survive(tmp_path: Path) -> None:
    frames = numbered_frames(12)
    lossless = write_video(tmp_path / "a.mkv", frames, 25, codec="ffv1", pixel_format="bgr0")
    np.testing.assert_array_equal(read_clip(lossless).pixels, frames)
    smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, None, :, None], (12, 32, 64, 3))
    close = write_video(tmp_path / "b.mp4", smooth, 25)
    assert np.abs(read_clip(close).pixels.astype(int) - smooth).mean() < 2


def test_tensors_and_generators(tmp_path: Path) -> None:
    frames = numbered_frames(6)
    write_video(tmp_path / "t.mp4", torch.from_numpy(frames), 25)
    write_video(tmp_path / "g.mp4", (f for f in frames), 25)
    assert (tmp_path / "t.mp4").read_bytes() == (tmp_path / "g.mp4").read_bytes()


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    tone = np.sin(np.arange(4000) / 7)
    written = set()
    for i in range(8):
        path = write_video(tmp_path / f"{i}.mp4", numbered_frames(32, height=64), 25, audio=tone, audio_rate_hz=4000)
        written.add(path.read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("channels", [0, 1, 2])
def test_sound_keeps_every_sample_at_its_time(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    sound = rng.uniform(-1, 1, (5003, channels) if channels else (5003,))
    path = write_video(tmp_path / "s.mp4", numbered_frames(8), 8, audio=sound, audio_rate_hz=5000)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        decoded = list(container.decode(stream))
        assert decoded[0].pts == 0
        samples = np.concatenate([f.to_ndarray().reshape(-1, max(channels, 1)) for f in decoded])
    assert np.abs(samples / 32767 - sound.reshape(5003, -1)).max() < 1 / 32767
    assert probe(path).audio_rate_hz == 5000


def test_loud_and_undefined_samples_are_clipped(tmp_path: Path) -> None:
    write_video(tmp_path / "s.mp4", numbered_frames(2), 2, audio=[9.0, -9.0, np.nan] * 999, audio_rate_hz=2000)
    aac = write_video(
        tmp_path / "a.mp4", numbered_frames(2), 2, audio=np.zeros(4000), audio_rate_hz=8000, audio_codec="aac"
    )
    assert probe(aac).has_audio


def test_odd_sizes(tmp_path: Path) -> None:
    odd = np.zeros((3, 33, 65, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match=r"65x33.*pad=True"):
        write_video(tmp_path / "o.mp4", odd, 25)
    assert not list(tmp_path.iterdir())
    info = probe(write_video(tmp_path / "p.mp4", odd, 25, pad=True))
    assert (info.width, info.height) == (66, 34)
    info = probe(write_video(tmp_path / "q.mp4", odd, 25, pixel_format="yuv444p"))
    assert (info.width, info.height) == (65, 33)


def test_times(tmp_path: Path) -> None:
    times = np.array([0.5, 0.6, 1.25])
    path = write_video(tmp_path / "t.mp4", numbered_frames(3), 25, times_s=times)
    np.testing.assert_allclose(read_clip(path).times_s, times, atol=1e-4)
    assert read_numbers(read_clip(path, times_s=[0.7]).pixels) == [1]


def test_groups_of_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "g.mp4", numbered_frames(30), 25, gop=7)
    with av.open(str(path)) as container:
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert sum(keys) >= 30 // 7 + 1


def test_wrong_calls_leave_nothing_behind(tmp_path: Path) -> None:
    frames = numbered_frames(3)
    wrong = [
        ("a.xyz", frames, {}, "suffix"),
        ("a.mp4", frames.astype(np.float32), {}, "uint8"),
        ("a.mp4", frames[..., 0], {}, "RGB"),
        ("a.mp4", frames[:0], {}, "no frames"),
        ("a.mp4", [frames[0], frames[1][:16]], {}, "frame 1"),
        ("a.mp4", frames, {"codec": "nonesuch"}, "no encoder"),
        ("a.mp4", frames, {"audio": np.zeros(10)}, "audio_rate_hz"),
        ("a.mp4", frames, {"audio": np.zeros((10, 7)), "audio_rate_hz": 8000}, "audio is"),
        ("a.mp4", frames, {"times_s": [0.0, 1.0]}, "more frames"),
        ("a.mp4", frames, {"times_s": [0.0, 1.0, 2.0, 3.0]}, "4 times for 3"),
        ("a.mp4", frames, {"times_s": [0.0, 0.0, 1.0]}, "ascending"),
        ("a.mp4", frames, {"pixel_format": "nonesuch"}, "nonesuch"),
    ]
    for name, given, options, message in wrong:
        with pytest.raises(UsageError, match=message):
            write_video(tmp_path / name, given, 25, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="fps"):
        write_video(tmp_path / "a.mp4", frames, 0)
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(3), 25)
    before = path.read_bytes()
    with pytest.raises(UsageError):
        write_video(path, [numbered_frames(1)[0], np.zeros((8, 8, 3), np.uint8)], 25)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
