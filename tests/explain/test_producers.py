"""Boxes and masks as sidecars: written, kept, resumed, and read by what learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.explain.nets import Cells, linear_head
from unreel.core.errors import DataError, UsageError
from unreel.data.contracts import FrameSize
from unreel.data.manifest import Manifest
from unreel.data.objects import ObjectBoxes, open_facts, read_mask
from unreel.data.sidecars import (
    Found,
    annotate,
    create_producer,
    for_sources,
    made_by,
    open_table,
    producer_digest,
    table_path,
)
from unreel.explain import CamSettings, CrfSettings, MapMaker
from unreel.explain.objects import ObjectSettings, find_objects, join_rows, map_plan
from unreel.explain.producers import BOX_MAPS, MASK_MAPS, BoxProducer, MaskProducer
from unreel.media.image import encode_image
from unreel.media.write import write_video

CAM = CamSettings(iterations=2)


def _pictures(count: int, seed: int = 4) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise of 24 × 16 with a bright rectangle."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 80, (count, 16, 24, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        picture[3 + i : 9 + i, 4 + 2 * i : 12 + 2 * i] += np.uint8(150)
    return pixels


@pytest.fixture
def images(tmp_path: Path) -> Manifest:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i, pixels in enumerate(_pictures(5)):
        (folder / ("sub" if i % 2 else "") / f"{i}.png").write_bytes(encode_image(pixels))
    return Manifest.open(folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        frames = np.stack([np.roll(_pictures(1, seed=i)[0], t, axis=1) for t in range(6)])
        write_video(folder / f"{i}.mp4", frames, fps=10, crf=1)
    return Manifest.open(folder)


def _boxes(manifest: Manifest, **options: Any) -> BoxProducer:
    encoder = Cells()
    given: dict[str, Any] = {"cam": CAM, "crf": None, "batch_size": 2, **options}
    return BoxProducer(encoder, linear_head(), map_plan(encoder, manifest), **given)


def test_the_papers_settings_are_the_defaults(images: Manifest) -> None:
    encoder = Cells()
    made = BoxProducer(encoder, linear_head(), map_plan(encoder, images))
    assert made.cam == BOX_MAPS == CamSettings(iterations=10, expand_resolution=2)
    assert made.crf == CrfSettings()
    assert MaskProducer(encoder, None, made.plan).cam == MASK_MAPS == CamSettings()
    assert made.batch_size == 256
    with pytest.raises(UsageError, match="batch_size must be at least 2"):
        _boxes(images, batch_size=1)


def test_boxes_of_images_are_those_of_their_maps(images: Manifest) -> None:
    producer = _boxes(images)
    done = annotate(images, producer, out=Path(images.root) / "sidecars")
    assert (done.computed, done.known, done.failed) == (5, 0, [])
    assert done.table == table_path(Path(images.root) / "sidecars", for_sources(producer, images))
    table = open_table(done.table, images, "boxes")
    maps = list(join_rows(producer.maps(images, [])))
    assert len(maps) == 5
    for source in maps:
        expected = find_objects(source).facts()
        assert expected["boxes"]
        np.testing.assert_allclose(table.value(source.row)["boxes"], expected["boxes"])
    facts = open_facts(images, ["boxes"])  # as a training run asks for them
    found = facts.sidecars["boxes"].value(3)
    assert isinstance(found, ObjectBoxes)
    np.testing.assert_allclose(found.boxes, table.value(3)["boxes"])


def test_the_table_says_what_made_it(images: Manifest, tmp_path: Path) -> None:
    producer = _boxes(images)
    told = made_by(annotate(images, producer, out=tmp_path / "t").table)
    assert (told["name"], told["version"]) == ("boxes", 1)
    settings = told["settings"]
    assert settings["settings"]["iterations"] == 2
    assert settings["objects"]["margin"] == 0.2
    assert settings["crf"] is None
    assert settings["batch_size"] == 2
    digests = {producer_digest(producer)}
    other_weights = replace(producer, encoder=Cells(seed=5))
    for changed in (
        other_weights,
        replace(producer, projector=linear_head(seed=9)),
        replace(producer, seed=1),
        replace(producer, batch_size=3),
        replace(producer, cam=replace(CAM, variant="official")),
        replace(producer, crf=CrfSettings(iterations=1)),
        replace(producer, objects=ObjectSettings(margin=0.1)),
    ):
        digests.add(producer_digest(changed))
    assert len(digests) == 8
    assert producer_digest(replace(producer, chunk=1)) in digests  # which changes nothing


def test_other_rows_together_are_another_table(images: Manifest) -> None:
    """Maps depend on who shares a batch; a part of the rows reads the table of all of them."""
    folder = Path(images.root, "sidecars")
    producer = _boxes(images)
    of_all = annotate(images, producer, out=folder)
    part = images.subset([3, 1, 0])
    for row, place in enumerate([3, 1, 0]):
        read = open_facts(part, ["boxes"]).sidecars["boxes"].value(row)
        np.testing.assert_array_equal(read.boxes, open_table(of_all.table, images, "boxes").value(place)["boxes"])
    others = [part, images.subset([0, 1, 3]), images.subset([4, 2])]
    grouped = replace(images, rows=tuple(replace(r, groups={"group": str(i // 2)}) for i, r in enumerate(images.rows)))
    labelled = replace(images, rows=tuple(replace(row, labels={"label": "one"}) for row in images.rows))
    tables = [annotate(rows, producer, out=folder) for rows in (*others, grouped)]
    assert [done.computed for done in tables] == [3, 3, 2, 5]
    assert len({of_all.table, *(done.table for done in tables)}) == 5
    assert annotate(labelled, producer, out=folder).computed == 0  # labels are no input of a map
    assert made_by(of_all.table)["settings"]["sources"]["count"] == 5
    # of several tables the one that knows all rows is taken by itself
    tables[-1].table.unlink()
    assert open_facts(images, ["boxes"]).tables["boxes"] == str(of_all.table)
    with pytest.raises(UsageError, match="choose one"):
        open_facts(images.subset([4, 2]), ["boxes"])


class _Stops(BoxProducer):
    """Stopped after two sources."""

    def compute_all(self, *args: Any, **options: Any) -> Iterator[Found]:
        for number, found in enumerate(super().compute_all(*args, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield found


def test_stopped_and_gone_on_is_the_same_table(images: Manifest, tmp_path: Path) -> None:
    producer = _boxes(images, batch_size=3)
    whole = annotate(images, producer, out=tmp_path / "whole")
    fields = {name: getattr(producer, name) for name in ("encoder", "projector", "plan", "cam", "crf", "batch_size")}
    with pytest.raises(KeyboardInterrupt):
        annotate(images, _Stops(**fields), out=tmp_path / "parts")
    again = annotate(images, producer, out=tmp_path / "parts")
    assert (again.computed, again.known) == (3, 2)
    first, second = (open_table(done.table, images, "boxes") for done in (whole, again))
    assert [first.value(i) for i in range(5)] == [second.value(i) for i in range(5)]
    assert annotate(images, producer, out=tmp_path / "parts").computed == 0


def test_a_broken_file_has_no_boxes_and_stops_nobody(images: Manifest, tmp_path: Path) -> None:
    broken = Path(images.root, "4.png")
    broken.write_bytes(b"no picture")
    done = annotate(images, _boxes(images), out=tmp_path / "t")
    assert done.computed == 5
    assert [path for path, _ in done.failed] == ["4.png"]
    assert "not a readable image" in done.failed[0][1]
    assert open_table(done.table, images, "boxes").value(0)["boxes"]


def test_masks_of_images_are_grey_pictures_of_their_size(images: Manifest) -> None:
    encoder = Cells()
    producer = MaskProducer(encoder, linear_head(), map_plan(encoder, images), batch_size=5)
    done = annotate(images, producer, out=Path(images.root) / "sidecars")
    facts = open_facts(images, aligned=["masks"])
    maps = {one.row: one.maps for one in MapMaker(encoder, linear_head(), producer.plan).maps(images, [])}
    for row in range(5):
        path = facts.manifest.file(row, "mask")
        assert path is not None
        assert path.parent.is_relative_to(done.table.with_suffix(""))
        mask = read_mask(path, np.zeros(1, dtype=np.int64), np.zeros(1), FrameSize(16, 24, 1))
        assert mask.shape == (1, 16, 24)
        expected = torch.nn.functional.interpolate(maps[row][None], size=(16, 24), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(mask, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert annotate(images, producer, out=Path(images.root) / "sidecars").computed == 0
    assert len(Manifest.open(images.root)) == 5  # masks beside the images are none of them


def test_boxes_and_masks_of_videos(videos: Manifest, tmp_path: Path) -> None:
    encoder, head = Cells(depth=3, stride_t=2), linear_head()
    encoder.input_spec = replace(encoder.input_spec, num_frames=4)
    plan = map_plan(encoder, videos)
    assert plan.clips.num_clips == 2
    boxes = BoxProducer(encoder, head, plan, CAM, crf=None)
    table = open_table(annotate(videos, boxes, out=tmp_path / "t").table, videos, "boxes")
    found = ObjectBoxes.of(table.value(1))
    assert found.tubes
    for tube in found.tubes:
        assert np.isin(tube.times_s.round(6), np.arange(6) / 10).all()
        assert ((tube.boxes >= 0) & (tube.boxes <= 1)).all()
    masks = MaskProducer(encoder, head, plan)
    done = annotate(videos, masks, out=tmp_path / "t")
    file = done.table.parent / open_table(done.table, videos, "masks").value(1)["file"]
    with np.load(file) as archive:
        levels, times = archive["masks"], archive["times_s"]
    assert levels.dtype == np.uint8
    assert levels.shape[1:] == (4, 4)  # features: 8 px at stride 2
    assert len(levels) == len(times) == 3  # two clips of four frames, two features each, one at the same time
    assert (np.diff(times) > 0).all()
    shown = read_mask(file, np.array([0, 5]), np.array([0.0, 0.5]), FrameSize(4, 4, 2))
    torch.testing.assert_close(shown, torch.from_numpy(levels[[0, -1]]) / 255)


def test_an_encoder_of_images_looks_at_frames(videos: Manifest, tmp_path: Path) -> None:
    encoder = Cells()
    plan = map_plan(encoder, videos)
    assert plan.per_frame
    cam = CamSettings(per_frame=True)
    done = annotate(videos, MaskProducer(encoder, linear_head(), plan, cam), out=tmp_path / "t")
    with np.load(done.table.parent / open_table(done.table, videos, "masks").value(0)["file"]) as archive:
        assert len(archive["masks"]) == len(archive["times_s"]) > 1


def test_without_an_encoder_the_command_is_named() -> None:
    with pytest.raises(UsageError, match="annotate boxes DATA --encoder RUN"):
        create_producer("boxes")
    with pytest.raises(UsageError, match="masks"):
        create_producer("maks")
    with pytest.raises(DataError, match="not a sidecar"):
        made_by(Path(__file__))
