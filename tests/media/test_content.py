"""The content of a file decides what reads it; its suffix breaks ties."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contracts.decoder_suite import numbered_frames, read_numbers
from tests.media.sounds import KINDS, tone, write_sound
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.data.contracts import Request
from unreel.data.manifest import Manifest, Row
from unreel.data.rows import RowReader
from unreel.media import (
    FileDecoder,
    Frames,
    ImageDecoder,
    MediaError,
    NoStreamError,
    UnreadableError,
    VideoInfo,
    access,
    decoder_for,
    has_encoder,
    kind_by_content,
    kind_of,
    probe,
    read_clip,
    register_decoder,
    write_video,
)

# What files are called that have no suffix, or a wrong one.
NAMES = ("IM0001", "1.2.840.113619.2.55.3", "scan.bin", "notes.txt", "a.png", "a.mp4", "a.avi", "a.JPG", "a.gif")
VIDEOS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mov": {},
    "mkv": {},
    "webm": {"codec": "libvpx"},
    "avi": {"codec": "mpeg4"},
    "ts": {},
    "mpg": {"codec": "mpeg2video"},
}
PICTURES = ("png", "jpg", "bmp", "tif", "webp", "ppm", "jp2")


@pytest.mark.parametrize("suffix", VIDEOS)
def test_a_video_is_read_under_any_name(suffix: str, tmp_path: Path) -> None:
    options = VIDEOS[suffix]
    if not has_encoder(options.get("codec", "libx264")):
        pytest.skip("this PyAV lacks the encoder")
    path = write_video(tmp_path / f"v.{suffix}", numbered_frames(12), 25, **options)
    wanted = read_clip(path).pixels
    assert kind_by_content(path) == "video"
    for name in NAMES:
        path = path.rename(tmp_path / name)
        assert decoder_for(path).name == "pyav"
        np.testing.assert_array_equal(read_clip(path).pixels, wanted)
        assert probe(path).num_frames == 12


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_read_under_any_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(numbered_frames(1)[0]).save(path)
    wanted = read_clip(path).pixels
    assert kind_by_content(path) == "image"
    for name in NAMES:
        path = path.rename(tmp_path / name)
        assert decoder_for(path).name == "image"
        np.testing.assert_array_equal(read_clip(path).pixels, wanted)
        assert probe(path).fps == 0


def test_the_suffix_breaks_a_tie(tmp_path: Path) -> None:
    """A GIF is a picture and a video: as a picture it has one frame."""
    path = write_video(tmp_path / "a.gif", numbered_frames(5), 10, codec="gif", pixel_format="rgb8")
    for name, frames in (("a.gif", 5), ("a.png", 1), ("a.mp4", 5), ("a", 5), ("a.txt", 5)):
        path = path.rename(tmp_path / name)
        assert probe(path).num_frames == frames
    one = tmp_path / "one"
    Image.fromarray(numbered_frames(1)[0]).save(one, format="GIF")
    assert [kind_of(one), kind_of(path.rename(tmp_path / "many"))] == ["image", "video"]


def test_pictures_one_after_another_are_named_so(tmp_path: Path) -> None:
    pictures = []
    for i in range(4):
        Image.fromarray(numbered_frames(4)[i]).save(tmp_path / "p.jpg", quality=95)
        pictures.append((tmp_path / "p.jpg").read_bytes())
    for name, frames in (("s.mjpeg", 4), ("s.mjpg", 4), ("s.jpg", 1), ("s", 1)):
        (tmp_path / name).write_bytes(b"".join(pictures))
        assert probe(tmp_path / name).num_frames == frames


@pytest.mark.parametrize("name", ["wav", "flac", "aac in mp4"])
def test_sound_is_no_video(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = write_sound(tmp_path / f"s{kind.suffix}", tone(0.5, kind.rate_hz), kind)
    for other in ("s", "s.mp4", "s.txt"):
        path = path.rename(tmp_path / other)
        with pytest.raises(NoStreamError, match="audio"):
            probe(path)
    if name != "aac in mp4":  # which only its tracks tell
        assert kind_of(path.rename(tmp_path / "bare")) == ""


def test_what_is_no_media_stays_a_typed_error(tmp_path: Path) -> None:
    for content in (
        b"",
        b"once upon a time\n" * 50,
        bytes(3000),
        b"%PDF-1.7\n" + bytes(600),
        b"\0" * 128 + b"DICM" * 40,
    ):
        for name in ("x", "x.mp4", "x.png", "1.2.3"):
            path = tmp_path / name
            path.write_bytes(content)
            assert kind_by_content(path) == ""
            with pytest.raises(MediaError, match=name):
                probe(path)
    with pytest.raises(UsageError, match="data is a folder"):
        Manifest.open(tmp_path / "x")


def test_a_picture_that_nothing_reads_is_known_all_the_same(tmp_path: Path) -> None:
    bare, named = tmp_path / "IMG", tmp_path / "IMG.heic"
    for path in (bare, named):
        path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
        assert kind_of(path) == "foreign"
    with pytest.raises(UnreadableError, match="HEIC"):
        probe(named)


# ------------------------------------------------------------------------------------------------- a decoder that joins


@dataclass(frozen=True)
class MadeUp:
    """Files that begin with 128 bytes and DICM: one grey frame per byte behind."""

    name: str = "made up"
    kind: Any = "video"
    suffixes: frozenset[str] = frozenset({".dcm"})

    def opens(self, path: Any, head: bytes) -> bool:
        return head[128:132] == b"DICM"

    def probe(self, path: Any) -> VideoInfo:
        count = len(Path(path).read_bytes()) - 132
        return VideoInfo(8, 8, count, count / 10, 10.0, "made up")

    def frame_times(self, path: Any) -> Any:
        return np.arange(self.probe(path).num_frames) / 10

    def read(self, path: Any, *, indices: Any = None, times_s: Any = None) -> Frames:
        levels = np.frombuffer(Path(path).read_bytes()[132:], np.uint8)[indices]
        return Frames(np.broadcast_to(levels[:, None, None, None], (len(levels), 8, 8, 3)).copy(), indices / 10)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_DECODERS", list(access._DECODERS))
    register_decoder(MadeUp())


def test_a_decoder_joins_by_saying_what_it_opens(joined: None, tmp_path: Path) -> None:
    assert isinstance(MadeUp(), FileDecoder)
    data = tmp_path / "export" / "S0001"
    data.mkdir(parents=True)
    for i in range(3):
        (data / f"IM{i}").write_bytes(bytes(128) + b"DICM" + bytes([10 * i, 1, 2, 3]))
    manifest = Manifest.from_folder(tmp_path / "export")
    assert [row.path for row in manifest] == [f"S0001/IM{i}" for i in range(3)]
    assert manifest.noun == "video"
    (found,) = RowReader(manifest).read(2, [Request(np.array([3, 0]))])
    assert found.data[:, 0, 0, 0].tolist() == [3, 20]
    (tmp_path / "x.dcm").write_bytes(b"damaged")
    assert decoder_for(tmp_path / "x.dcm").name == "made up"  # nothing opens it: the suffix decides
    picture = tmp_path / "p.dcm"
    Image.fromarray(numbered_frames(1)[0]).save(picture, format="PNG")
    assert isinstance(decoder_for(picture), ImageDecoder)
    with pytest.raises(ValueError, match="registered twice"):
        register_decoder(MadeUp())


# -------------------------------------------------------------------------------------------------------- whole folders


def test_a_folder_without_suffixes_is_listed_by_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "export"
    for label in ("normal", "ill"):
        (data / label).mkdir(parents=True)
        for i in range(2):
            write_video(tmp_path / "v.mp4", numbered_frames(6), 25).rename(data / label / f"1.2.840.{i}")
        Image.fromarray(numbered_frames(1)[0]).save(data / label / "KEY", format="PNG")
        (data / label / "DICOMDIR").write_bytes(b"no media")
    manifest = Manifest.from_folder(data)
    assert [row.path for row in manifest] == [f"{label}/1.2.840.{i}" for label in ("ill", "normal") for i in range(2)]
    assert manifest.labels() == ["ill", "ill", "normal", "normal"]
    told = "8 files without a suffix were looked into: 4 videos, 2 pictures"
    assert any(told in notice for notice in manifest.notices)
    assert any("2 image files beside the videos left out" in notice for notice in manifest.notices)
    assert any("2 files that are no media" in notice for notice in manifest.notices)
    assert read_numbers(RowReader(manifest).read(3, [Request(np.arange(6))])[0].data.numpy()) == list(range(6))
    assert [row.path for row in Manifest.from_folder(data, kind="image")] == ["ill/KEY", "normal/KEY"]
    assert main(["data", "index", str(data)]) == 0
    assert told in capsys.readouterr().out
    # Where names tell, what has none is left out as it was.
    write_video(data / "ill" / "named.mp4", numbered_frames(6), 25)
    manifest = Manifest.from_folder(data)
    assert [row.path for row in manifest] == ["ill/named.mp4"]
    assert any("no suffix: 8" in notice for notice in manifest.notices)


def test_one_file_named_by_the_user(tmp_path: Path) -> None:
    for name in ("IM0001", "scan.bin"):
        write_video(tmp_path / "v.mp4", numbered_frames(6), 25).rename(tmp_path / name)
        manifest = Manifest.open(tmp_path / name)
        assert [row.path for row in manifest] == [name]
        assert len(RowReader(manifest).read(0, [Request(np.arange(6))])[0].data) == 6
    (tmp_path / "t.csv").write_text("path\nIM0001\n")
    assert RowReader(Manifest.open(tmp_path / "t.csv")).facts(0).num_frames == 6
    pictures = Manifest(str(tmp_path), (Row("P1"),))
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "P1", format="JPEG")
    assert pictures.only_images
    assert pictures.noun == "image"


def test_a_folder_of_bare_frames_is_a_clip(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(numbered_frames(12)[i]).save(tmp_path / f"frame{i}", format="PNG")
    (tmp_path / "INDEX").write_text("no picture")
    assert read_numbers(read_clip(tmp_path).pixels) == list(range(12))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert kind_by_content(tmp_path / "pipe") == ""
    with pytest.raises(DataError, match="no video or image file"):
        Manifest.from_folder(tmp_path)
