"""Boxes and masks that a world writes for methods: what the scene shows, with their margin and least size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unreel.data.boxes import MARGIN
from unreel.data.contracts import FrameSize
from unreel.data.manifest import Manifest
from unreel.data.objects import BoxesColumn, read_mask
from unreel.data.synthetic import ActionWorld


def test_boxes_and_masks_of_a_world_are_its_scenes(tmp_path: Path) -> None:
    world = ActionWorld(5, 2, 1, size_px=32, num_frames=6, distractor=1.0, bystanders=(1, 1), audio_rate_hz=0)
    manifest = Manifest.open(world.write(tmp_path, truth=True))
    boxes = BoxesColumn(manifest)
    for row in range(len(manifest)):
        truth = world.render(row, truth=True).truth
        assert truth is not None
        path = manifest.file(row, "mask")
        assert path is not None
        frames = np.arange(6)
        mask = read_mask(path, frames, frames / world.fps, FrameSize(32, 32, 6), binary=True).numpy()
        np.testing.assert_array_equal(mask == 1, np.isin(truth.masks, (1, 2, 5)))  # object, distractor, bystander
        found = boxes.value(row)
        assert len(found.tubes) >= 2
        tube = found.tubes[0]
        assert tube.times_s[0] == 0
        for time, (x1, y1, x2, y2) in zip(tube.times_s, tube.boxes, strict=True):
            t = round(time * world.fps)
            left, top, right, bottom = truth.boxes[t, 0]
            more = MARGIN * (right - left)
            np.testing.assert_allclose([x1, x2], [max(left - more, 0) / 32, min(right + more, 32) / 32], atol=1e-6)
            more = MARGIN * (bottom - top)
            np.testing.assert_allclose([y1, y2], [max(top - more, 0) / 32, min(bottom + more, 32) / 32], atol=1e-6)
        sizes = [(t[:, 2] - t[:, 0]) * (t[:, 3] - t[:, 1]) for t in (tube.boxes for tube in found.tubes)]
        assert min(float(s.min()) for s in sizes) > 0.01  # smaller ones are absent


def test_a_world_without_truth_writes_none(tmp_path: Path) -> None:
    manifest = Manifest.open(ActionWorld(5, 1, 0, size_px=32, num_frames=2, audio_rate_hz=0).write(tmp_path))
    assert manifest.file_names == ()
    assert not (tmp_path / "truth").exists()
