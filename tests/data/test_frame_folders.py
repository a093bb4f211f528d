"""Folders of frames, told from folders of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from unreel.core.errors import DataError
from unreel.data.manifest import Manifest


def numbers(pattern: str, folders: str, values: Iterable[int] = range(1, 6)) -> list[str]:
    return [f"{folder}/{pattern.format(n)}" for folder in folders.split() for n in values]


VIDEOS = {
    "of classes": numbers("img_{:05}.jpg", "run/v1 run/v2 wave/v3 wave/v4"),
    "of splits and classes": numbers("{:06}.png", "train/run/v1 train/wave/v2 test/run/v3"),
    "every fifth frame, without zeros": numbers("frame{}.jpg", "run/v1 run/v2 wave/v1", range(0, 55, 5)),
    "with another number in the name": numbers("v_g01_c02-{:04}.JPG", "run/a wave/b", range(7, 19)),
    "a folder around": numbers("{:04}.png", "frames/run/v1 frames/run/v2 frames/wave/v3"),
    "of unequal depth": numbers("{:04}.png", "run/v1 run/night/v2 wave/v3"),
}
PICTURES = {
    "classes": (numbers("{:04}.png", "cat dog", range(1, 30)), "may be classes"),
    "classes in parts": (numbers("{:04}.png", "train/cat train/dog test/cat"), "may be classes"),
    "classes in a folder": (numbers("image_{:04}.jpg", "101/cat 101/dog"), "may be classes"),
    "a folder in each class": (numbers("n01_{}.JPEG", "cat/images dog/images"), "all folders are called images"),
    "a frame is missing": ([*numbers("{:03}.png", "a/v1 a/v2"), *numbers("{}.png", "b/v3", (1, 2, 4))], "such as b/v3"),
    "a cover beside": ([*numbers("{:03}.png", "a/v1 a/v2"), "a/cover.png"], "they do not in others, such as a"),
    "flow beside": (
        [n for kind in ("img", "flow_x", "flow_y") for n in numbers(kind + "_{:05}.jpg", "a/v1 a/v2 b/v3")],
        "a/v1 holds 3 series",
    ),
    "photographs": (numbers("IMG_{}.jpg", "2024/june 2024/july 2025/may", (4511, 4513, 4514, 4520)), ""),
    "pairs": (numbers("{}.png", "a/p1 a/p2 b/p3", (1, 2)), ""),
    "names": ([f"{f}/{n}.jpg" for f in ("a/x", "b/y") for n in ("blue1", "red2", "green3")], ""),
    "one flat folder": ([f"{n:03}.png" for n in range(9)], ""),
    "one album": (numbers("IMG_{:04}.jpg", "album"), "may be classes"),
}


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("names", VIDEOS.values(), ids=VIDEOS)
def test_videos(names: list[str], tmp_path: Path) -> None:
    manifest = Manifest.from_folder(touch(tmp_path, names))
    assert {row.path for row in manifest} == {str(Path(name).parent) for name in names}
    (notice,) = [n for n in manifest.notices if "--kind image" in n]
    assert "each folder is read as a video" in notice
    single = Manifest.from_folder(tmp_path, kind="image")
    assert sorted(row.path for row in single) == sorted(names)
    assert single.notices == ()


@pytest.mark.parametrize(("names", "reason"), PICTURES.values(), ids=PICTURES)
def test_pictures(names: list[str], reason: str, tmp_path: Path) -> None:
    manifest = Manifest.from_folder(touch(tmp_path, names))
    assert sorted(row.path for row in manifest) == sorted(names)
    found = [n for n in manifest.notices if "If each folder holds frames" in n]
    assert [reason in n and "taken as single pictures" in n for n in found] == [True] * bool(reason)
    if "series" in reason:
        with pytest.raises(DataError, match=r"a/v1 holds 3 series of pictures, .* a table"):
            Manifest.from_folder(tmp_path, kind="frames")
        return
    videos = Manifest.from_folder(tmp_path, kind="frames")
    assert {row.path for row in videos} == {str(Path(name).parent) for name in names}


def test_labels_and_splits_are_the_folders_above(tmp_path: Path) -> None:
    found = Manifest.from_folder(touch(tmp_path / "a", VIDEOS["of splits and classes"]))
    assert {(r.path, r.split, r.labels["label"]) for r in found} == {
        ("train/run/v1", "train", "run"),
        ("train/wave/v2", "train", "wave"),
        ("test/run/v3", "test", "run"),
    }
    found = Manifest.from_folder(touch(tmp_path / "b", VIDEOS["of classes"]))
    assert found.labels() == ["run", "run", "wave", "wave"]
    assert not found.only_images


def test_frames_of_one_video_are_of_one_size(tmp_path: Path) -> None:
    names = numbers("image_{:04}.png", "indoor/chair indoor/lamp outdoor/tree")
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8 + (i == 14), 8)).save(tmp_path / name)  # the last one alone is wider
    manifest = Manifest.from_folder(tmp_path)
    assert len(manifest) == len(names)
    assert "several sizes, such as outdoor/tree/image_000" in manifest.notices[0]
