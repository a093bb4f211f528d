"""From maps of a source to its objects (docs/methods/contracam.md, Settings and Video)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explain.nets import Cells
from unreel.core.errors import UsageError
from unreel.data.manifest import Manifest
from unreel.data.objects import ObjectBoxes
from unreel.explain import boxes_from_map, dense_crf
from unreel.explain.driver import ClipMap
from unreel.explain.objects import ObjectSettings, SourceMaps, find_objects, join_clips, join_rows, map_plan, refine
from unreel.media.image import encode_image
from unreel.media.write import write_video


def _walk(places: list[int]) -> Tensor:
    """A 6 × 6 square at each of these columns, on 20 × 40."""
    clip = torch.zeros(len(places), 20, 40)
    for frame, x in zip(clip, places, strict=True):
        frame[7:13, x : x + 6] = 1
    return clip


def _clip(row: int, number: int, maps: Tensor, start: float, step: float = 0.1) -> ClipMap:
    times = start + step * torch.arange(len(maps), dtype=torch.float64)
    pixels = torch.full((len(maps), 2, 2, 3), number, dtype=torch.uint8)
    return ClipMap(row, number, maps, times, pixels)


def test_clips_join_in_time_and_frames_seen_twice_have_the_maximum() -> None:
    first, second = _walk([0, 1, 2]), 0.5 * _walk([2, 3, 4])
    second[0, 0, 0] = 0.7
    joined = join_clips([_clip(3, 1, second, 0.2), _clip(3, 0, first, 0.0)])
    assert joined.row == 3
    np.testing.assert_allclose(joined.times_s, [0, 0.1, 0.2, 0.3, 0.4])
    assert torch.equal(joined.maps[:2], first[:2])
    assert torch.equal(joined.maps[3:], second[1:])
    assert torch.equal(joined.maps[2], torch.maximum(first[2], second[0]))
    assert joined.pixels is not None
    assert joined.pixels[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1]
    rows = list(join_rows(iter([_clip(5, 0, first, 0), _clip(5, 1, first, 1), _clip(2, 0, first, 0)])))
    assert [(one.row, len(one.maps)) for one in rows] == [(5, 6), (2, 3)]
    # A clip that repeats an image's one frame is an image.
    still = ClipMap(0, 0, first[:1].repeat(4, 1, 1), torch.zeros(4, dtype=torch.float64))
    assert len(join_clips([still]).maps) == 1


def test_objects_of_an_image() -> None:
    shown = _walk([4]) * 0.9
    shown[0, 7:13, 20:30] = 0.8
    shown[0, 0, 0] = 1  # a speck
    found = find_objects(SourceMaps(0, shown, np.zeros(1)))
    assert found.tubelets == ()
    assert found.masks.sum() == 36 + 60
    clean = shown.clone()
    clean[0, 0, 0] = 0
    torch.testing.assert_close(found.boxes, boxes_from_map(clean[0] > 0.5))
    facts = found.facts()
    assert facts["tube_times_s"] == facts["tube_boxes"] == []
    np.testing.assert_allclose(ObjectBoxes.of(facts).boxes, found.boxes.numpy())
    single = find_objects(SourceMaps(0, shown, np.zeros(1)), ObjectSettings(single=True))
    assert len(single.boxes) == 1
    assert find_objects(SourceMaps(0, torch.zeros(1, 20, 40), np.zeros(1))).facts()["boxes"] == []


def test_objects_of_a_video_and_holes_between_its_clips() -> None:
    """Two clips with a hole: one tubelet where the hole is two frames, two where it is longer."""
    for missing, expected in ((2, 1), (3, 2)):
        second = 4 + missing
        places = [10 + t for t in (*range(4), *range(second, second + 4))]
        times = np.array([0.1 * t for t in (*range(4), *range(second, second + 4))])
        found = find_objects(SourceMaps(0, _walk(places), times), ObjectSettings(margin=0.5))
        assert len(found.tubelets) == expected
        np.testing.assert_allclose(found.times_s, 0.1 * np.arange(second + 4))
        tubes = ObjectBoxes.of(found.facts()).tubes
        assert len(tubes) == expected
        assert sum(len(tube.times_s) for tube in tubes) == (8 + missing if expected == 1 else 8)
        if expected == 1:
            x1 = tubes[0].boxes[:, 0] * 40
            np.testing.assert_allclose(x1, 10 - 3 + np.arange(10), atol=1e-9)
        assert len(found.boxes) == 1 + (missing > 100)


def test_tubelets_of_a_single_frame_are_noise() -> None:
    maps = _walk([10, 11, 12, 13])
    maps[1, 0:4, 30:38] = 1
    source = SourceMaps(0, maps, np.arange(4) * 0.1)
    assert len(find_objects(source).tubelets) == 1
    assert len(find_objects(source, ObjectSettings(min_frames=1)).tubelets) == 2


def test_settings_reach_the_boxes() -> None:
    ring = torch.zeros(1, 20, 20)
    ring[0, 4:12, 4:14] = 1
    ring[0, 6:10, 6:12] = 0
    source = SourceMaps(0, ring, np.zeros(1))
    assert len(find_objects(source).boxes) == 1
    assert len(find_objects(source, ObjectSettings(variant="official")).boxes) == 2
    assert len(find_objects(source, ObjectSettings(variant="official", contours="outer")).boxes) == 1
    assert ObjectSettings(variant="official").to_card()["contours"] == "tree"
    low = SourceMaps(0, ring * 0.4, np.zeros(1))
    assert len(find_objects(low).boxes) == 0
    assert len(find_objects(low, ObjectSettings(binarise_threshold=0.3)).boxes) == 1


def test_refining_runs_the_crf_on_every_frame() -> None:
    from unreel.explain import CrfSettings

    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 6, 5, generator=generator)
    maps[1] = 0
    pixels = torch.randint(0, 50, (2, 6, 5, 3), generator=generator, dtype=torch.uint8)
    source = SourceMaps(0, maps, np.arange(2.0), pixels)
    refined = refine(source, CrfSettings())
    torch.testing.assert_close(refined.maps[0], dense_crf(pixels[0], maps[0]))
    assert not refined.maps[1].any()  # a map that shows nothing goes on showing nothing
    assert refine(source, None) is source
    with pytest.raises(UsageError, match="frames"):
        refine(replace(source, pixels=None), CrfSettings())


def test_plans_for_images_and_videos(tmp_path: Path) -> None:
    images, videos = tmp_path / "images", tmp_path / "videos"
    images.mkdir()
    (images / "a.png").write_bytes(encode_image(np.zeros((8, 8, 3), np.uint8)))
    for i in range(2):
        write_video(videos / f"{i}.mp4", np.zeros((40, 8, 8, 3), np.uint8), fps=10)
    encoder = Cells()
    plan = map_plan(encoder, Manifest.open(images))
    assert not plan.video
    assert not plan.per_frame
    assert (plan.clips.num_clips, plan.clips.num_frames, plan.clips.resize_px) == (1, 1, (8, 8))
    plan = map_plan(encoder, Manifest.open(videos), size_px=16)
    assert plan.video
    assert plan.per_frame  # an encoder of images
    assert (plan.clips.num_clips, plan.clips.num_frames, plan.clips.size_px) == (1, 8, 16)
    encoder.input_spec = replace(encoder.input_spec, num_frames=8, stride_frames=2)
    plan = map_plan(encoder, Manifest.open(videos))
    assert not plan.per_frame
    assert plan.clips.num_clips == 3  # of 15 frames each, for 40
    assert map_plan(encoder, Manifest.open(videos), num_clips=7).clips.num_clips == 7
