"""Which files below a folder are the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.media import kind_of


def gif(path: Path, frames: int) -> None:
    first, *rest = [Image.new("L", (8, 8), 40 * i) for i in range(frames)]
    first.save(path, save_all=True, append_images=rest)


def test_a_gif_is_a_video_only_where_it_moves(tmp_path: Path) -> None:
    gif(tmp_path / "still.gif", 1)
    gif(tmp_path / "moves.gif", 3)
    (tmp_path / "broken.GIF").write_bytes(b"GIF89a")
    assert [kind_of(tmp_path / n) for n in ("still.gif", "moves.gif", "broken.GIF")] == ["image", "video", "video"]


@pytest.mark.parametrize(
    ("frames", "pictures", "others", "kind", "rows"),
    [
        ((1,), 12, (), "image", 13),  # a still GIF is one picture more
        ((3,), 12, (), "image", 12),  # one that moves is left out, and said to be
        ((3, 3), 2, (), "video", 2),
        ((3,), 12, ("a.mp4",), "video", 2),
        ((1, 1), 0, (), "image", 2),
        ((2, 3), 0, (), "video", 2),
    ],
)
def test_gifs_among_pictures(
    tmp_path: Path, frames: tuple[int, ...], pictures: int, others: tuple[str, ...], kind: str, rows: int
) -> None:
    for i, count in enumerate(frames):
        gif(tmp_path / f"{i}.gif", count)
    for name in [*(f"{i}.png" for i in range(pictures)), *others]:
        (tmp_path / name).write_bytes(b"")
    manifest = Manifest.from_folder(tmp_path)
    assert (len(manifest), manifest.only_images) == (rows, kind == "image")
    left_out = len(frames) + pictures + len(others) - rows
    assert any(f"{left_out} " in n and "left out" in n for n in manifest.notices) == (left_out > 0)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.nef", "d.png"):
        (tmp_path / name).write_bytes(b"x")
    (notice,) = Manifest.from_folder(tmp_path).notices
    assert notice.startswith("3 pictures in formats that cannot be read (.heic, .nef) left out, such as a.HEIC;")
    (tmp_path / "d.png").unlink()
    with pytest.raises(DataError, match=r"3 pictures in formats that cannot be read .* convert to JPEG or PNG"):
        Manifest.from_folder(tmp_path)
