"""Still pictures as people meet them: odd files, mirrors, very narrow ones, and what cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.media.pictures import colours, encoded, png, tiff, turned

from unreel import api
from unreel.cli.main import main
from unreel.media import read_clip, write_video

SIZE = 32
NARROW = {"tall": (300, 2), "wide": (2, 300), "line": (200, 1), "dot": (1, 1), "usual": (30, 40)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def upright(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def test_a_folder_of_odd_pictures_says_what_each_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, rgb = tmp_path / "data", colours()
    folder.mkdir()
    whole = encoded(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), "JPEG")
    video = write_video(tmp_path / "v.mp4", np.zeros((3, 32, 32, 3), np.uint8), 25)
    readable = {
        "moves.webp": encoded(rgb, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(rgb[::-1])]),
        "big.tif": encoded(rgb, "TIFF", big_tiff=True),
        "zstd.tif": encoded(rgb, "TIFF", compression="zstd"),
        "jpeg.tif": encoded(rgb, "TIFF", compression="jpeg"),
        "photo.jfif": whole,
        "new.avif": encoded(rgb, "AVIF"),
        "png.jpg": png(rgb),
        "film.jpg": video.read_bytes(),
    }
    refused = {
        "bomb.png": (png(rgb, size=(60_000, 60_000)), "60000x60000 pixels; more than 536,870,912 are not read"),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "this is a HEIC (HEIF) picture, which cannot be read"),
        "page.jpg": (b"<html><body>404", "a web page"),
        "cut.jpg": (whole[: len(whole) // 2], "the file was cut off"),
        "float.tif": (tiff(rgb[..., 0].astype(np.float32), t339=3), "floating-point samples, which are not supported"),
        "empty.png": (b"", "the file is empty"),
    }
    for name, data in {**readable, **{n: d for n, (d, _) in refused.items()}, "x.heic": b"x", "y.cr3": b"y"}.items():
        (folder / name).write_bytes(data)
    assert main(["data", "index", str(folder), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sources"], found["readable"]) == (len(readable) + len(refused), len(readable))
    assert {fault["path"]: refused[fault["path"]][1] in fault["message"] for fault in found["faults"]} == dict.fromkeys(
        refused, True
    )
    assert any("2 pictures in formats that cannot be read (.cr3, .heic)" in note for note in found["notices"])
    for name in ("moves.webp", "big.tif", "zstd.tif", "png.jpg"):
        np.testing.assert_array_equal(read_clip(folder / name).pixels[0], rgb)


def test_a_folder_of_heic_is_not_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert main(["data", "index", str(tmp_path)]) == 1
    assert "1 picture in a format that cannot be read (.heic)" in capsys.readouterr().err
    assert main(["data", "index", str(tmp_path / "a.HEIC"), "--quiet"]) == 0
    assert "this is a HEIC (HEIF) picture, which cannot be read; convert it to JPEG or PNG" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_mirrors_and_turns_are_seen(tmp_path: Path, suffix: str) -> None:
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {})
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.{suffix}"
        Image.fromarray(colours()).save(path, exif=turned(orientation), **options)
        np.testing.assert_array_equal(read_clip(path).pixels[0], upright(path))


def test_a_clip_of_pictures_that_are_turned(tmp_path: Path) -> None:
    for number, orientation in enumerate((6, 6, 5)):
        Image.fromarray(colours(number)).save(tmp_path / f"{number}.png", exif=turned(orientation))
    expected = np.stack([upright(tmp_path / f"{number}.png") for number in range(3)])
    np.testing.assert_array_equal(read_clip(tmp_path).pixels, expected)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A labelled folder with very narrow pictures among others, and a run of one step on it."""
    folder, out = tmp_path_factory.mktemp("narrow"), tmp_path_factory.mktemp("runs") / "run"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir()
        for name, size in NARROW.items():
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / label / f"{name}.png")
    train = {"steps": 1, "epochs": None, "warmup_epochs": 0, "batch_size": 4, "workers": 0, "device": "cpu", "seed": 3}
    method = {"size": SIZE, "clip_frames": 1, "stride": 1, "out_dim": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        api.pretrain("simclr", folder, out=out, encoder="r3d_tiny", train=train, **method)
        yield folder, out


def test_narrow_pictures_are_explained(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    folder, run = narrow
    out = tmp_path / "page"
    assert main(["explain", str(run), str(folder), "--out", str(out), "--iterations", "1", "--boxes", "--quiet"]) == 0
    assert (out / "index.html").read_text().count("<figure>") == 2 * len(NARROW)
    for name in NARROW:
        shown = [read_clip(out / "overlays" / "a" / f"{name}.png.{kind}").pixels.shape[1:3] for kind in ("png", "jpg")]
        assert shown[0] == shown[1]
        assert max(shown[0]) <= 640
        assert max(shown[0]) <= 4 * min(shown[0])


def test_narrow_pictures_are_embedded_searched_and_scored(
    narrow: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = narrow
    assert main(["embed", str(run), str(folder), "--out", str(tmp_path / "e.parquet"), "--quiet"]) == 0
    assert f"{2 * len(NARROW)} " in capsys.readouterr().out
    assert main(["search", str(run), str(folder), str(folder / "a" / "tall.png"), "--quiet", "--json"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), str(folder), "--protocol", "knn", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name",
    [
        "tiff_compression/jpeg_rgb.tif",
        "exif_mirror/orient2.png",
        "exif_mirror/orient5.webp",
        "unclear_messages/big.tif",
        "unclear_messages/zstd.tif",
        "unclear_messages/anim.webp",
        "very_narrow_picture/tall.png",
    ],
)
def test_the_cases(shared_cases: Path, name: str) -> None:
    np.testing.assert_array_equal(read_clip(shared_cases / name).pixels[0], upright(shared_cases / name))


def test_the_case_of_a_narrow_picture(shared_cases: Path, narrow: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(narrow[0] / "a", tmp_path / "data")
    shutil.copy(shared_cases / "very_narrow_picture" / "tall.png", folder / "long.png")
    out = tmp_path / "page"
    call = ["explain", str(narrow[1]), str(folder), "--out", str(out), "--iterations", "1", "--quiet"]
    assert main(call) == 0
    assert "long.png" in (out / "index.html").read_text()
