"""Overlays, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.explain.nets import Cells, linear_head
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.explain import CamSettings, MapMaker, read_boxes
from unreel.explain.gallery import GalleryItem, choose_rows, write_gallery
from unreel.explain.objects import ObjectSettings, map_plan
from unreel.explain.overlay import COLOURS, colour_bar, draw_boxes, enlarge, fit, heat
from unreel.media import decoder_for, probe
from unreel.media.image import encode_image
from unreel.media.write import write_video


def test_heat_colours_only_what_the_map_shows() -> None:
    frames = np.full((1, 8, 8, 3), (200, 100, 50), dtype=np.uint8)
    levels = np.zeros((1, 8, 8), dtype=np.float32)
    plain = heat(frames, levels)
    assert (plain == plain[0, 0, 0]).all()
    spread = np.ptp(plain[0, 0, 0].astype(int))
    assert 0 < spread < 100  # greyer than the 150 it was
    levels[0, :, 4:] = 1
    shown = heat(frames, levels)
    assert (shown[:, :, :3] == plain[:, :, :3]).all()
    assert (shown[0, :, 4:] != plain[0, :, 4:]).any()
    assert (heat(frames, levels, strength=0)[0, :, 5:] == frames[0, :, 5:]).all()  # its own colours under the heat
    brightness = [heat(frames, np.full((1, 2, 2), v, np.float32)).mean() for v in (0.2, 0.5, 0.8, 1.0)]
    assert brightness == sorted(brightness)
    assert len(set(colour_bar(stops=12))) == 12
    with pytest.raises(UsageError, match="1 frames and 2 maps"):
        heat(frames, np.zeros((2, 4, 4)))


def test_boxes_are_drawn_inside_the_frame_in_their_colours() -> None:
    frame = np.zeros((40, 60, 3), dtype=np.uint8)
    drawn = draw_boxes(frame, [[0.0, 0.0, 0.5, 1.0], [0.5, 0.25, 1.0, 0.75], [0.3, 0.3, 0.3, 0.3]])
    assert not frame.any()
    found = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}
    assert set(COLOURS[:2]) <= found
    assert tuple(drawn[5, 0].tolist()) == COLOURS[0]
    assert tuple(drawn[10, 40].tolist()) == COLOURS[1]
    assert not drawn[20, 20].any()
    assert np.array_equal(draw_boxes(frame, np.zeros((0, 4))), frame)


def test_sizes() -> None:
    frames = np.zeros((2, 30, 40, 3), dtype=np.uint8)
    assert fit(frames, 20).shape == (2, 15, 20, 3)
    assert fit(frames, 40) is frames
    assert enlarge(frames, 70).shape == (2, 90, 120, 3)
    assert enlarge(frames, 30) is frames
    assert enlarge(frames, 70, 100).shape == (2, 60, 80, 3)
    assert enlarge(frames, 70, 20) is frames


def _scene(size: int = 16) -> np.ndarray:
    pixels = np.random.default_rng(1).integers(0, 80, (5, size, 24, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        picture[3:9, 2 * i : 2 * i + 8] += np.uint8(150)
    return pixels


def test_a_page_of_images(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for i, picture in enumerate(_scene()):
        (data / ("cat" if i % 2 else "a & b")).mkdir(parents=True, exist_ok=True)
        (data / ("cat" if i % 2 else "a & b") / f"{i} %.png").write_bytes(encode_image(picture))
    (data / "cat" / "broken.png").write_bytes(b"nothing")
    encoder, head = Cells(), linear_head()
    encoder.input_spec = replace(encoder.input_spec, size_px=16)
    manifest = Manifest.open(data)
    maker = MapMaker(encoder, head, map_plan(encoder, manifest), CamSettings(iterations=2))
    found = write_gallery(maker, manifest, out, objects=ObjectSettings())
    assert [item.name for item in found.items] == [f"{'cat' if i % 2 else 'a & b'}/{i} %.png" for i in (0, 2, 4, 1, 3)]
    assert [fault.path for fault in found.faults] == ["cat/broken.png"]
    boxes = read_boxes(out / "boxes.txt")
    assert list(boxes) == [item.name for item in found.items]
    for item in found.items:
        np.testing.assert_allclose(boxes[item.name], np.array(item.boxes).reshape(-1, 4), atol=1e-6)
        overlay = decoder_for(out / item.overlay).read(out / item.overlay, indices=np.zeros(1, dtype=np.int64))
        assert overlay.pixels.shape == (1, 192, 288, 3)  # twelve times as large, its aspect kept
        level = decoder_for(out / item.map).read(out / item.map, indices=np.zeros(1, dtype=np.int64)).pixels
        assert level.shape == (1, 16, 16, 3)
        assert level.max() == 255
        assert (out / item.still).is_file()
    text = found.page.read_text(encoding="utf-8")
    assert "a &amp; b/0 %.png" in text
    assert 'src="overlays/a%20%26%20b/0%20%25.png.png"' in text
    assert "broken.png" in text
    card = json.loads((out / "explain.json").read_text())
    assert card["settings"]["iterations"] == 2
    assert card["objects"]["margin"] == 0.2
    assert card["faults"][0]["path"] == "cat/broken.png"


def test_a_page_of_videos(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for i in range(3):
        frames = np.stack([np.roll(_scene()[i], t, axis=1) for t in range(6)])
        write_video(data / f"{i}.mp4", frames, fps=10)
    encoder = Cells(depth=3)
    encoder.input_spec = replace(encoder.input_spec, num_frames=2, stride_frames=2, size_px=16)
    manifest = Manifest.open(data)
    maker = MapMaker(encoder, linear_head(), map_plan(encoder, manifest))
    found = write_gallery(maker, manifest, out, objects=ObjectSettings(), title="it")
    tubelets = json.loads((out / "tubelets.json").read_text())
    assert list(tubelets) == ["0.mp4", "1.mp4", "2.mp4"]
    for item in found.items:
        assert item.video
        info = probe(out / item.overlay)
        assert (info.width, info.height) == (288, 192)
        assert info.num_frames == 6
        assert info.fps == 10
        with np.load(out / item.map) as archive:
            assert archive["masks"].dtype == np.uint8
            assert len(archive["masks"]) == len(archive["times_s"])
        for tube in tubelets[item.name]:
            assert len(tube["times_s"]) == len(tube["boxes"]) == len(tube["found"])
    text = found.page.read_text(encoding="utf-8")
    assert "<video" in text
    assert "Where it looks" in text


def test_nothing_readable(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(b"nothing")
    manifest, encoder = Manifest.open(tmp_path), Cells()
    with pytest.raises(DataError, match="none of 2"):
        write_gallery(MapMaker(encoder, None, map_plan(encoder, manifest)), manifest, tmp_path)


def test_rows_are_drawn_by_a_key(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"")
    manifest = Manifest.open(tmp_path)
    chosen = [row.path for row in choose_rows(manifest, 3)]
    assert chosen == sorted(chosen)
    assert chosen == [row.path for row in choose_rows(manifest, 3)]
    assert len(chosen) == 3
    assert choose_rows(manifest, 0) is manifest
    assert choose_rows(manifest, 8) is manifest
    assert any([row.path for row in choose_rows(manifest, 3, seed)] != chosen for seed in (1, 2, 3))


def test_the_largest_objects_are_named_in_their_colours() -> None:
    boxes = [[0.0, 0.0, 0.1 * (i + 1), 0.5] for i in range(8)]
    item = GalleryItem("a", "o", "s", "m", video=False, boxes=boxes)
    assert [text for _, text in item.legend] == ["15 %", "20 %", "25 %", "30 %", "35 %", "40 %"]
    assert item.legend[0][0] == "rgb({} {} {})".format(*COLOURS[2])
    assert item.legend[5][0] == "rgb({} {} {})".format(*COLOURS[0])  # the eighth
    assert item.unlisted == 2
    tube = {"times_s": [0.0, 0.1], "boxes": [[0, 0, 1, 1]] * 2, "found": [True, True]}
    assert GalleryItem("a", "o", "s", "m", video=True, tubelets=[tube]).legend[0][1] == "0.0–0.1 s"
    assert GalleryItem("a", "o", "s", "m", video=True).unlisted == 0
