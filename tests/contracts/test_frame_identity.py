"""Every frame is the one a player shows, whatever the packets say: joined, cut, raw, interlaced, many-tracked files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contracts import odd_streams as odd
from tests.contracts.decoder_suite import plain_frames, read_numbers
from tests.contracts.field_writers import COLUMNS
from unreel.media import MediaError, PyAVDecoder, has_encoder, probe, read_clip
from unreel.media import video as video_module
from unreel.media.forward import ForwardReader

TWO = [*range(25), *range(100, 125)]
JUMPS = {"to zero": (0.0, 0.0), "back": (100.0, 3.0), "overlapping": (0.0, 0.4), "forward": (0.0, 50.0)}
Make = Callable[[Path], tuple[Path, list[int]]]
STREAMS: dict[str, Make] = {}

for codec in ("h264", "hevc", "mpeg2"):
    for jump, shifts in JUMPS.items():
        STREAMS[f"{codec} clock jumps {jump}"] = lambda f, c=codec, s=shifts: (odd.joined(f, c, s), TWO)
STREAMS["mpeg2 clock jumps to zero in a program stream"] = lambda f: (
    odd.joined(f, "mpeg2", (0.0, 0.0), suffix=".mpg"),
    TWO,
)
for codec, suffixes in {"h264": (".h264", ".264", ".mp4"), "hevc": (".hevc", ".265", ".mp4")}.items():
    for suffix in suffixes:
        for b in ("", " no b"):
            STREAMS[f"raw {codec}{b} {suffix}"] = lambda f, c=codec + b, s=suffix: (odd.raw(f, c, s), [*range(25)])
for codec in ("h264", "mpeg2"):
    for suffix in (".ts", ".mkv"):
        for split, how in ((True, "split"), (False, "together")):
            STREAMS[f"{codec} fields {suffix} {how}"] = lambda f, c=codec, s=suffix, t=split: (
                odd.fields(f, c, s, split=t),
                [*range(20)],
            )
STREAMS["h264 fields .mp4 split"] = lambda f: (odd.fields(f, "h264", ".mp4", split=True), [*range(20)])
for suffix in (".avi", ".mkv", ".mp4"):
    STREAMS[f"mpeg4 not coded {suffix}"] = lambda f, s=suffix: (odd.not_coded(f, s), [*range(25)])
STREAMS["mpeg4 packed b-frames"] = lambda f: (odd.packed(f), [*range(25)])
STREAMS["mpeg4 packets of 0 bytes in avi"] = lambda f: (odd.gaps_in_avi(f, "mpeg4"), [*range(25)])
STREAMS["mjpeg packets of 0 bytes in avi"] = lambda f: (odd.gaps_in_avi(f, "mjpeg"), [*range(25)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


def numbers_of(pixels: NDArray[np.uint8]) -> list[int]:
    if pixels.shape[2] == 16 * COLUMNS:  # drawn by the field writers
        return [int(sum((f[:, 16 * c + 8].mean() > 127) << c for c in range(COLUMNS))) for f in pixels]
    return read_numbers(pixels)


def check(path: Path, numbers: list[int], plain: NDArray[np.uint8] | None) -> None:
    """The numbers in order, times that ascend, the plain decode's pixels; and each frame the same when read alone."""
    frames = read_clip(path)
    assert numbers_of(frames.pixels) == numbers
    assert probe(path).num_frames == len(numbers)
    assert np.all(np.diff(frames.times_s) > 0)
    if plain is not None:
        np.testing.assert_array_equal(frames.pixels, plain)
    rng = np.random.default_rng(len(numbers))
    alone = rng.permutation(len(numbers))[:5, None]
    for wanted in (*alone, rng.permutation(len(numbers))[:6], np.array([len(numbers) - 1, 0])):
        for table_known in (True, False):
            if not table_known:
                video_module._kept.cache_clear()
            np.testing.assert_array_equal(PyAVDecoder().read(path, indices=wanted).pixels, frames.pixels[wanted])
    forward = ForwardReader(PyAVDecoder(), path)
    pieces = [*np.array_split(np.arange(len(numbers)), 4), *np.array_split(np.arange(0, len(numbers), 3), 3)]
    for wanted in (*pieces, np.array([4]), np.array([len(numbers) - 1]), np.array([5, 6])):
        np.testing.assert_array_equal(forward.read(wanted).pixels, frames.pixels[wanted])
    by_time = PyAVDecoder().read(path, times_s=frames.times_s[::-1] + 1e-4)
    np.testing.assert_array_equal(by_time.pixels, frames.pixels[::-1])


@pytest.mark.parametrize("name", STREAMS)
def test_every_picture_once_in_the_order_shown(name: str, folder: Path) -> None:
    if "hevc" in name and not has_encoder("libx265"):
        pytest.skip("this PyAV has no libx265 encoder")
    path, numbers = STREAMS[name](folder)
    check(path, numbers, plain_frames(path))


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
def test_a_recording_that_starts_inside_a_group(codec: str, suffix: str, folder: Path) -> None:
    """By stream copy from some packet on: what comes before the first keyframe has nothing to refer to."""
    path = odd.from_packet(folder, odd.coded(folder, codec, range(40)), 4, suffix)
    plain = plain_frames(path)
    numbers = numbers_of(plain)
    assert numbers[-1] == 39
    check(path, numbers, plain)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("codec", ["h264 open", "hevc open", "mpeg2"])
def test_a_recording_that_starts_with_an_open_group(codec: str, suffix: str, folder: Path) -> None:
    """Pictures that lead its first keyframe refer to a group that is not there."""
    source = odd.coded(folder, codec, range(40), gop=12, suffix=suffix)
    first = odd.second_keyframe(source)
    key = source.items[first]
    path = odd.from_packet(folder, source, first, suffix)
    numbers = [*range(round((key.shown_s - source.items[0].shown_s) * odd.FPS), 40)]
    assert len(numbers) < 40 - first  # there are leading pictures
    check(path, numbers, plain_frames(path))
    assert PyAVDecoder().frame_times(path)[0] == pytest.approx(float(key.shown_s), abs=2)


@pytest.mark.parametrize("codec", ["h264 open", "mpeg2"])
def test_the_second_of_two_recordings_starts_with_an_open_group(codec: str, folder: Path) -> None:
    """Its leading pictures must not be made from the recording before."""
    source = odd.coded(folder, codec, range(40), gop=12, suffix=".ts")
    first = odd.second_keyframe(source)
    whole = odd.write_packets(folder / "whole.ts", source, source.items)
    rest = odd.write_packets(folder / "rest.ts", source, source.items[first:], shift_s=-0.4)
    path = folder / "both.ts"
    path.write_bytes(whole.read_bytes() + rest.read_bytes())
    check(
        path, [*range(40), *range(round((source.items[first].shown_s - source.items[0].shown_s) * odd.FPS), 40)], None
    )


def test_the_table_is_the_same_whatever_was_read_before(folder: Path) -> None:
    """A damaged file tells the same in every process: nothing is repaired when it is met."""
    source = odd.coded(folder, "h264", range(40))
    items = list(source.items)
    items[22] = items[22]._replace(data=items[22].data[:8] + bytes(len(items[22].data) - 8))
    path = odd.write_packets(folder / "damaged.mkv", source, items)
    video_module._kept.cache_clear()
    before = PyAVDecoder().frame_times(path)
    for i in range(len(before)):
        with contextlib.suppress(MediaError):
            PyAVDecoder().read(path, indices=np.array([i]))
    np.testing.assert_array_equal(PyAVDecoder().frame_times(path), before)


@pytest.mark.parametrize("cover", [False, True])
@pytest.mark.parametrize(("suffix", "defaults", "shown"), [
    (".mov", (False, True), 1),
    (".mp4", (False, False, True), 2),
    (".mkv", (False, True), 1),
    (".mkv", (True, False), 0),
    (".mp4", (True, True), 0),
    (".ts", (False, False), 0),
])  # fmt: skip
def test_the_track_that_a_player_shows(
    suffix: str, defaults: tuple[bool, ...], shown: int, cover: bool, folder: Path
) -> None:
    if cover and suffix in (".ts", ".mov"):
        pytest.skip("no cover pictures there")
    path = odd.tracks(folder, suffix, defaults, cover=cover)
    check(path, [*range(50 * shown, 50 * shown + 12)], None)
