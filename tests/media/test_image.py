"""Images as clips of one frame, lists of images as clips, and the choice of a decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.contracts.decoder_suite import numbered_frames, read_numbers
from unreel.core.errors import UsageError
from unreel.media import (
    FrameFolderDecoder,
    ImageDecoder,
    MediaError,
    MissingFileError,
    NoStreamError,
    PyAVDecoder,
    TooShortError,
    TruncatedError,
    UnreadableError,
    decoder_for,
    encode_image,
    list_frames,
    probe,
    probe_frames,
    read_clip,
    read_frames,
    write_video,
)


def test_pixels_are_those_of_another_reader(tmp_path: Path) -> None:
    sharp = numbered_frames(1)[0]
    smooth = np.stack([np.add.outer(np.arange(32) * a, np.arange(64) * b) for a, b in ((2, 1), (1, 2), (3, 1))], -1)
    for suffix, tolerance in ((".png", 0), (".bmp", 0), (".tiff", 0), (".ppm", 0), (".webp", 3), (".jpg", 3)):
        picture = smooth.astype(np.uint8) if tolerance else sharp  # readers smooth subsampled colour differently
        path = tmp_path / f"p{suffix}"
        Image.fromarray(picture).save(path)
        with Image.open(path) as reference:
            expected = np.asarray(reference.convert("RGB")).astype(int)
        assert np.abs(read_clip(path).pixels[0] - expected).mean() <= tolerance


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(64 * 32, dtype=np.uint16).reshape(32, 64) % 256
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_clip(tmp_path / "grey.png").pixels[0], grey[..., None].repeat(3, -1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.abs(read_clip(tmp_path / "deep.png").pixels[0, ..., 0].astype(int) - grey).max() <= 1
    colour = Image.fromarray(numbered_frames(1)[0])
    colour.convert("P").save(tmp_path / "palette.png")
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_clip(tmp_path / "alpha.png").pixels[0], np.asarray(colour))
    assert read_clip(tmp_path / "palette.png").pixels.shape == (1, 32, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.fromarray(numbered_frames(1)[0])
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.save(path, exif=tags, quality=98, subsampling=0)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    frames = read_clip(path)
    assert frames.pixels.shape[1:] == expected.shape
    assert (probe(path).height, probe(path).width) == expected.shape[:2]
    assert np.abs(frames.pixels[0] - expected).mean() < 6


def test_an_image_is_on_screen_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(numbered_frames(1)[0]).save(path)
    assert read_clip(path, times_s=[0.0, 3600.0]).pixels.shape[0] == 2
    assert (probe(path).num_frames, probe(path).fps) == (1, 0.0)
    with pytest.raises(TooShortError):
        read_clip(path, times_s=[-0.1])
    with pytest.raises(UnreadableError, match="more than an image"):
        ImageDecoder(max_bytes=10).probe(path)


def test_a_list_of_frames_is_a_clip(tmp_path: Path) -> None:
    paths = []
    for i, frame in enumerate(numbered_frames(5)):
        paths.append(tmp_path / f"{'edcba'[i]}.png")  # the list's order counts, not the names'
        Image.fromarray(frame).save(paths[-1])
    info = probe_frames(paths, fps=10)
    assert (info.num_frames, info.fps, info.duration_s, info.width) == (5, 10, 0.5, 64)
    assert read_numbers(read_frames(paths, indices=np.array([4, 0, 4])).pixels) == [4, 0, 4]
    assert read_numbers(read_frames(paths, times_s=np.array([0.25]), fps=10).pixels) == [2]
    assert read_frames(paths, indices=np.array([], dtype=np.int64)).pixels.shape == (0, 32, 64, 3)
    with pytest.raises(TooShortError):
        read_frames(paths, indices=np.array([5]))
    with pytest.raises(UsageError):
        read_frames([], indices=np.array([0]))
    with pytest.raises(UsageError):
        probe_frames(paths, fps=0)
    Image.fromarray(numbered_frames(1, height=64)[0]).save(paths[2])
    with pytest.raises(UnreadableError, match=r"c\.png.*64x64.*64x32"):
        read_frames(paths, indices=np.array([0, 2]))


def test_frame_folders(tmp_path: Path) -> None:
    for name in ("img10.png", "img9.png", "img100.png", ".hidden.png"):
        Image.fromarray(numbered_frames(1)[0]).save(tmp_path / name)
    assert [Path(p).name for p in list_frames(tmp_path)] == ["img9.png", "img10.png", "img100.png"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NoStreamError):
        list_frames(empty)
    with pytest.raises(MissingFileError):
        list_frames(tmp_path / "absent")


def test_frames_of_mixed_suffixes(tmp_path: Path) -> None:
    """In their order, whatever the format; but a picture beside each frame, a mask say, is no frame between them."""
    frames = numbered_frames(3)
    for number, suffix in enumerate((".png", ".bmp", ".PNG")):
        Image.fromarray(frames[number]).save(tmp_path / f"{number}{suffix}", format=suffix[1:])
    assert read_numbers(read_clip(tmp_path).pixels) == [0, 1, 2]
    Image.fromarray(frames[1]).save(tmp_path / "1.jpg")
    for call in (probe, read_clip):
        with pytest.raises(UnreadableError, match=r"holds both 1\.bmp and 1\.jpg"):
            call(tmp_path)


def test_a_folder_of_frames_that_are_not_all_sound(tmp_path: Path) -> None:
    for number, frame in enumerate(numbered_frames(4)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    assert read_numbers(read_clip(tmp_path, indices=[3, 0]).pixels) == [3, 0]
    with pytest.raises(TruncatedError, match=r"2\.png: "):
        read_clip(tmp_path)
    unread = tmp_path / "phone"
    unread.mkdir()
    (unread / "0.heic").write_bytes(b"x")
    with pytest.raises(NoStreamError, match="1 of them pictures in formats that cannot be read"):
        probe(unread)


def test_a_turned_first_frame_is_told(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "0.png", exif=tags)
    assert (probe(tmp_path).rotation, probe(tmp_path).width, probe(tmp_path).height) == (270, 32, 64)


def test_the_right_decoder(tmp_path: Path) -> None:
    assert isinstance(decoder_for(tmp_path), FrameFolderDecoder)
    assert isinstance(decoder_for(tmp_path / "a.JPG"), ImageDecoder)
    assert isinstance(decoder_for(tmp_path / "a.mp4"), PyAVDecoder)
    video = write_video(tmp_path / "v.mp4", numbered_frames(4), 25)
    assert read_numbers(read_clip(video).pixels) == [0, 1, 2, 3]


@pytest.mark.parametrize(("format", "tolerance"), [("png", 0), ("jpeg", 3)])
@pytest.mark.parametrize("size", [(1, 1), (33, 65), (64, 48)])
def test_encoded_images_open_anywhere(tmp_path: Path, format: str, tolerance: float, size: tuple[int, int]) -> None:
    height, width = size
    picture = np.stack([np.add.outer(np.arange(height) * a, np.arange(width) * b) for a, b in ((2, 1), (1, 2), (3, 1))])
    picture = np.clip(picture.transpose(1, 2, 0), 0, 255).astype(np.uint8)
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode_image(picture, format=format))  # type: ignore[arg-type]
    with Image.open(path) as other:
        assert np.abs(np.asarray(other.convert("RGB")).astype(int) - picture).mean() <= tolerance
    assert np.abs(read_clip(path).pixels[0].astype(int) - picture).mean() <= tolerance


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_was_cut_off_is_none(tmp_path: Path, progressive: bool) -> None:
    """Its reader would show grey for what is missing; two bytes of end alone hide nothing."""
    path = tmp_path / "whole.jpg"
    smooth = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 3
    Image.fromarray(smooth).resize((160, 120)).save(path, progressive=progressive, exif=tags)
    data = path.read_bytes()
    whole = read_clip(path).pixels
    for name, content in (("end.jpg", data[:-2]), ("more.jpg", data + b"camera's own")):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_clip(tmp_path / name).pixels, whole)
    cut = tmp_path / "cut.jpg"
    scan = data.index(b"\xff\xda")
    for size in (len(data) - 200, (scan + len(data)) // 2):
        cut.write_bytes(data[:size])
        for call in (probe, read_clip):
            with pytest.raises(TruncatedError, match="was cut off"):
                call(cut)
    cut.write_bytes(data[: scan // 2])
    with pytest.raises(MediaError):
        probe(cut)


def test_what_is_no_image() -> None:
    for wrong in (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match="image is"):
            encode_image(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="png"):
        encode_image(np.zeros((4, 4, 3), np.uint8), format="tiff")  # type: ignore[arg-type]


def test_a_grey_png_keeps_every_level(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    file = tmp_path / "levels.png"
    file.write_bytes(encode_image(levels))
    back = ImageDecoder().read(file, indices=np.zeros(1, dtype=np.int64)).pixels[0]
    np.testing.assert_array_equal(back, np.repeat(levels[..., None], 3, 2))
    with pytest.raises(UsageError, match="image is"):
        encode_image(levels, format="jpeg")
