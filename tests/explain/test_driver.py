"""Maps of whole data sets (docs/methods/contracam.md, Batches and Settings and Video)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explain.nets import Cells, linear_head, pictures
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Fault
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.explain import CamSettings, MapMaker, contracam, to_bytes, whole_frames
from unreel.explain.driver import MapPlan
from unreel.explain.objects import map_plan
from unreel.media.image import encode_image
from unreel.media.write import write_video
from unreel.views.geometry import resize


def _order(count: int, seed: int = 0) -> list[int]:
    order: list[int] = Key(seed, "contracam").permutation(count).tolist()
    return order


def _pixels(count: int, *, height: int = 8, width: int = 12) -> Tensor:
    return (pictures(count, height, width, 3, seed=9) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of 12 × 8 pixels."""
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(_pixels(5)):
        (folder / f"{i}.png").write_bytes(encode_image(pixels.numpy()))
    return folder


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 8 frames at 8 Hz, 16 × 16 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    generator = np.random.default_rng(3)
    for i in range(3):
        small = generator.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
        write_video(folder / f"{i}.mp4", small.repeat(4, 1).repeat(4, 2), fps=8)
    return folder


def _maker(encoder: Cells, data: Manifest, **options: Any) -> MapMaker:
    return MapMaker(encoder, linear_head(), options.pop("plan", None) or map_plan(encoder, data), **options)


def _maps(encoder: Cells, data: Manifest, **options: Any) -> dict[int, Tensor]:
    """The maps (V, T, H, W) of every row."""
    found: dict[int, list[Tensor]] = {}
    for one in _maker(encoder, data, **options).maps(data, []):
        found.setdefault(one.row, []).append(one.maps)
    return {row: torch.stack(found[row]) for row in sorted(found)}


def _all(encoder: Cells, folder: Path, groups: list[int] | Tensor | None = None, **options: Any) -> Tensor:
    """The maps (N, 1, H, W) of a folder of images, whose groups are given."""
    data = Manifest.open(folder)
    if groups is not None:
        rows = [replace(row, groups={"group": f"g{int(g)}"}) for row, g in zip(data.rows, groups, strict=True)]
        data = replace(data, rows=tuple(rows))
    return torch.cat(list(_maps(encoder, data, **options).values()))


def _written(folder: Path, count: int) -> Tensor:
    """So many images of 8 × 8 as files, and their pixels."""
    pixels = _pixels(count, height=8, width=8)
    for i, picture in enumerate(pixels):
        (folder / f"{i}.png").write_bytes(encode_image(picture.numpy()))
    return pixels


def test_batches_are_shuffled_and_come_back_by_number(tmp_path: Path) -> None:
    encoder, head, images = Cells(), linear_head(), _written(tmp_path, 6)
    order = _order(6, seed=4)
    expected = torch.empty(6, 1, 8, 8)
    for at in (order[:3], order[3:]):
        expected[at] = contracam(encoder, head, images[at], 2).float()
    twice = CamSettings(iterations=2)
    torch.testing.assert_close(_all(encoder, tmp_path, cam=twice, batch_size=3, seed=4), expected)
    assert order != sorted(order)
    assert not torch.allclose(_all(encoder, tmp_path, cam=twice, batch_size=3, seed=5), expected)
    torch.testing.assert_close(_all(encoder, tmp_path, cam=twice), contracam(encoder, head, images, 2).float())


def test_a_last_batch_of_one_is_filled_from_the_one_before(tmp_path: Path) -> None:
    encoder, head, images = Cells(), linear_head(), _written(tmp_path, 5)
    order = _order(5)
    found = _all(encoder, tmp_path, batch_size=4)
    alone = contracam(encoder, head, images[[order[4], *order[:3]]])[0].float()
    torch.testing.assert_close(found[order[4]], alone)
    assert found.amax((1, 2, 3)).tolist() == [1] * 5
    # filled with other groups only; a partial batch that has negatives stays as it is (the release's)
    groups = torch.zeros(5, dtype=torch.int64)
    groups[order[1]] = 1
    filled = _all(encoder, tmp_path, groups, batch_size=4, cam=CamSettings(iterations=2))
    pair = contracam(encoder, head, images[[order[4], order[1]]], 2)[0].float()
    torch.testing.assert_close(filled[order[4]], pair)
    six = _written(tmp_path, 6)
    order = _order(6)
    two = _all(encoder, tmp_path, batch_size=4)[order[4:]]
    torch.testing.assert_close(two, contracam(encoder, head, six[order[4:]]).float())


def test_a_batch_of_one_group_is_joined_by_others_wherever_they_are(tmp_path: Path) -> None:
    encoder, head, images = Cells(), linear_head(), _written(tmp_path, 6)
    order = _order(6)
    groups = torch.zeros(6, dtype=torch.int64)
    groups[order[2:]] = 1  # batches of two: the first by itself, then two of the other group
    found = _all(encoder, tmp_path, groups, batch_size=2)
    for own in (order[:2], order[2:4], order[4:]):
        other = order[2] if own == order[:2] else order[0]
        rows = [*own, other]
        alone = contracam(encoder, head, images[rows], groups=groups[rows])[:2].float()
        torch.testing.assert_close(found[own], alone)
        assert alone.amax((1, 2, 3)).tolist() == [1, 1]
    groups = torch.ones(6, dtype=torch.int64)
    groups[order[2:4]] = 0  # the middle one, between two of the other group: by the one before it
    middle = _all(encoder, tmp_path, groups, batch_size=2, cam=CamSettings(iterations=2))[order[2:4]]
    rows = order[2:4] + order[:1]
    torch.testing.assert_close(middle, contracam(encoder, head, images[rows], 2, groups=groups[rows])[:2].float())


def test_no_negatives_at_all_is_zero_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, twice = Cells(), CamSettings(iterations=2)
    _written(tmp_path, 1)
    # a classifier needs none
    assert _all(encoder, tmp_path, cam=CamSettings(score="supervised")).any()
    assert not caplog.records
    for count, groups in ((1, None), (5, [1] * 5)):
        _written(tmp_path, count)
        caplog.clear()
        found = _all(encoder, tmp_path, groups, batch_size=2, cam=twice)
        assert found.shape == (count, 1, 8, 8)
        assert not found.any()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "at least two groups" in caplog.text
    with pytest.raises(UsageError, match="batch_size must be at least 2, got 1"):
        _all(encoder, tmp_path, batch_size=1)
    assert _all(encoder, tmp_path, batch_size=1, cam=CamSettings(score="supervised")).any()


def test_images_are_resized_whole_and_carry_what_made_them(image_folder: Path) -> None:
    encoder, head, data = Cells(), linear_head(), Manifest.open(image_folder)
    found = torch.stack(list(_maps(encoder, data, cam=CamSettings(iterations=2)).values()))
    assert found.shape == (5, 1, 1, 8, 8)
    assert found.dtype == torch.float32
    # squeezed, not cropped: what the one resize of the package makes of the whole image
    squeezed = torch.stack([resize(p[None], (8, 8)) for p in _pixels(5)])
    torch.testing.assert_close(found[:, 0], contracam(encoder, head, squeezed, 2)[:, 0].float())
    card = _maker(encoder, data, cam=CamSettings(iterations=2)).card()
    assert card["settings"] == CamSettings(iterations=2).to_card()
    assert (card["batch_size"], card["seed"], card["resolution"]) == (256, 0, "input")
    assert card["plan"] == whole_frames(encoder.input_spec).digest
    other = _maker(Cells(seed=3), data).card()
    assert other["encoder"] != card["encoder"]
    assert other["projector"] == card["projector"]


def test_video_maps_at_feature_resolution(video_folder: Path) -> None:
    encoder, data = Cells(depth=3, stride_t=2), Manifest.open(video_folder)
    clips = ClipPlan(
        num_frames=4, stride=1, num_clips=2, num_crops=1, size_px=8, short_side_px=8, resize_px=(8, 8), rule="tcgl"
    )
    maker = _maker(encoder, data, plan=MapPlan(clips, False, True))
    seen: list[tuple[int, int]] = []
    whole = list(maker.maps(data, [], progress=lambda done, of: seen.append((done, of))))
    assert [(one.row, one.clip) for one in whole] == [(row, clip) for row in _order(3) for clip in range(2)]
    assert seen[-1] == (3, 3)
    for fine, coarse in zip(whole, maker.maps(data, [], resolution="features"), strict=True):
        assert (coarse.row, coarse.clip) == (fine.row, fine.clip)
        assert fine.maps.shape == (4, 8, 8)
        torch.testing.assert_close(coarse.maps, fine.maps.view(2, 2, 4, 2, 4, 2).mean((1, 3, 5)))
        torch.testing.assert_close(coarse.times_s, fine.times_s.view(2, 2).mean(1))
        torch.testing.assert_close(fine.times_s[1] - fine.times_s[0], torch.tensor(1 / 8).double())
    rows = sorted({one.row for one in whole})
    assert rows == [0, 1, 2]


def test_clips_and_spans_of_one_video_are_one_group(video_folder: Path) -> None:
    encoder = Cells(depth=3)
    encoder.input_spec = replace(encoder.input_spec, num_frames=4)
    plan = MapPlan(whole_frames(encoder.input_spec), False, True)

    def maps(data: Manifest) -> Tensor:
        return torch.stack(list(_maps(encoder, data, plan=plan).values()))

    spans = Manifest(str(video_folder), (Row("0.mp4", 0.0, 0.5), Row("0.mp4", 0.5, 1.0)))
    assert not maps(spans).any()
    more = Manifest(str(video_folder), (*spans.rows, Row("1.mp4", 0.0, 0.5)))
    torch.testing.assert_close(maps(more)[0], maps(more.subset([0, 2]))[0])
    patients = Manifest(
        str(video_folder), (Row("0.mp4", groups={"group": "ann"}), Row("1.mp4", groups={"group": "ann"}))
    )
    assert not maps(patients).any()


def test_eight_bits() -> None:
    maps = torch.tensor([0.0, 0.2, 0.5, 1.0])
    assert to_bytes(maps).tolist() == [0, 51, 128, 255]
    assert (to_bytes(pictures(1000).float()) / 255 - pictures(1000).float()).abs().max() <= 0.5 / 255 + 1e-6


def test_unreadable_files_leave_their_batch_and_stop_nobody(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is left alone in a batch is set against the next readable rows, whatever is known already."""
    encoder, head, data = Cells(), linear_head(), Manifest.open(image_folder)
    order = _order(5)
    for file in image_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    maker = _maker(encoder, data, batch_size=2)
    data = replace(data, root=str(tmp_path))

    def maps(known: list[int], faults: list[Fault]) -> dict[int, Tensor]:
        return {one.row: one.maps for one in maker.maps(data, faults, rows={*range(5)} - {*known})}

    broken = [order[0], order[2], order[3]]  # the first batch has one left, the second none, the third one
    for row in broken:
        (tmp_path / f"{row}.png").write_bytes(b"not a picture")
    faults: list[Fault] = []
    whole = maps([], faults)
    assert set(whole) == {order[1], order[4]}
    assert sorted(fault.path for fault in faults) == sorted(f"{row}.png" for row in broken)  # each told once
    squeezed = torch.stack([resize(p[None], (8, 8)) for p in _pixels(5)])
    pair = contracam(encoder, head, squeezed[[order[1], order[4]]])[:, 0].float()
    torch.testing.assert_close(whole[order[1]], pair[0])
    torch.testing.assert_close(whole[order[4]], pair[1])
    assert torch.equal(maps([*broken, order[1]], faults)[order[4]], whole[order[4]])
    assert torch.equal(maps([order[0]], faults)[order[1]], whole[order[1]])
    # what is known is not told again
    assert sorted(fault.path for fault in faults[3:]) == sorted(
        f"{row}.png" for row in broken[1:]
    )  # what is known is not told again
    assert not caplog.records
    (tmp_path / f"{order[4]}.png").write_bytes(b"neither")
    assert not maps([], [])[order[1]].any()
    assert len(caplog.records) == 1


def test_what_is_known_is_skipped_and_changes_nothing(image_folder: Path) -> None:
    """A run that goes on where it was stopped has the same batches, and rows that are known as company only."""
    data = Manifest.open(image_folder)
    maker = _maker(Cells(), data, batch_size=2, seed=1)
    whole = {one.row: one.maps for one in maker.maps(data, [])}
    order = _order(5, seed=1)
    for known in (order[:2], order[:1], order[:4], order[1:]):
        read: list[int] = []
        asked = set(order) - set(known)
        found = maker.maps(data, [], rows=asked, pixels=True, progress=lambda _, total, read=read: read.append(total))
        rest = {one.row: one for one in found}
        assert set(rest) == asked
        for row, one in rest.items():
            assert torch.equal(one.maps, whole[row])
            assert one.pixels is not None
            assert one.pixels.shape == (1, 8, 8, 3)
        assert len(read) == read[-1] < 7
    assert list(maker.maps(data, [], rows=[])) == []
