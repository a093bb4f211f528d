"""Maps of whole data sets (docs/methods/contracam.md, Batches and Settings and Video)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explain.nets import Cells, linear_head, pictures
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.explain import (
    CamSettings,
    array_maps,
    contracam,
    iterate_maps,
    maps_for,
    to_bytes,
    whole_frames,
)
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


def test_batches_are_shuffled_and_come_back_in_order() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(6, 3, 8, 8)
    order = _order(6, seed=4)
    expected = torch.empty(6, 1, 8, 8)
    for at in (order[:3], order[3:]):
        expected[at] = contracam(encoder, head, images[at], 2).float()
    found = array_maps(encoder, head, images, iterations=2, batch_size=3, seed=4)
    torch.testing.assert_close(found, expected)
    assert order != sorted(order)
    assert not torch.allclose(array_maps(encoder, head, images, iterations=2, batch_size=3, seed=5), expected)
    whole = array_maps(encoder, head, images, settings=CamSettings(iterations=2))
    torch.testing.assert_close(whole, contracam(encoder, head, images, 2).float())
    clips = pictures(3, 3, 4, 8, 8)
    torch.testing.assert_close(array_maps(encoder, head, clips), contracam(encoder, head, clips).float())


def test_a_last_batch_of_one_is_filled_from_the_one_before() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(5, 3, 8, 8)
    order = _order(5)
    found = array_maps(encoder, head, images, batch_size=4)
    alone = contracam(encoder, head, images[[order[4], *order[:3]]])[0].float()
    torch.testing.assert_close(found[order[4]], alone)
    assert found.amax((1, 2, 3)).tolist() == [1] * 5
    # filled with other groups only; a partial batch that has negatives stays as it is (the release's)
    groups = torch.zeros(5, dtype=torch.int64)
    groups[order[1]] = 1
    filled = array_maps(encoder, head, images, groups=groups, batch_size=4, iterations=2)
    pair = contracam(encoder, head, images[[order[4], order[1]]], 2)[0].float()
    torch.testing.assert_close(filled[order[4]], pair)
    six = pictures(6, 3, 8, 8)
    order = _order(6)
    two = array_maps(encoder, head, six, batch_size=4)[order[4:]]
    torch.testing.assert_close(two, contracam(encoder, head, six[order[4:]]).float())


def test_a_batch_of_one_group_is_joined_by_others_wherever_they_are() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(6, 3, 8, 8)
    order = _order(6)
    groups = torch.zeros(6, dtype=torch.int64)
    groups[order[2:]] = 1  # batches of two: the first by itself, then two of the other group
    found = array_maps(encoder, head, images, groups=groups, batch_size=2)
    for own in (order[:2], order[2:4], order[4:]):
        other = order[2] if own == order[:2] else order[0]
        rows = [*own, other]
        alone = contracam(encoder, head, images[rows], groups=groups[rows])[:2].float()
        torch.testing.assert_close(found[own], alone)
        assert alone.amax((1, 2, 3)).tolist() == [1, 1]
    groups = torch.ones(6, dtype=torch.int64)
    groups[order[2:4]] = 0  # the middle one, between two of the other group: by the one before it
    middle = array_maps(encoder, head, images, groups=groups, batch_size=2, iterations=2)[order[2:4]]
    rows = order[2:4] + order[:1]
    torch.testing.assert_close(middle, contracam(encoder, head, images[rows], 2, groups=groups[rows])[:2].float())


def test_no_negatives_at_all_is_zero_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    encoder, head = Cells(), linear_head()
    for images, groups in ((pictures(1, 3, 8, 8), None), (pictures(5, 3, 8, 8), [1] * 5)):
        caplog.clear()
        found = array_maps(encoder, head, images, groups=groups, batch_size=2, iterations=2)
        assert found.shape == (len(images), 1, 8, 8)
        assert not found.any()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "at least two groups" in caplog.text
    caplog.clear()
    # a classifier needs none
    assert array_maps(encoder, head, pictures(1, 3, 8, 8), score="supervised").any()
    assert not caplog.records
    with pytest.raises(UsageError, match="batch_size must be at least 2"):
        array_maps(encoder, head, pictures(3, 3, 8, 8), batch_size=1)
    with pytest.raises(UsageError, match="not both"):
        array_maps(encoder, head, pictures(3, 3, 8, 8), settings=CamSettings(), iterations=2)


def test_images_are_resized_whole_and_carry_their_provenance(image_folder: Path) -> None:
    encoder, head = Cells(), linear_head()
    found = maps_for(encoder, head, image_folder, iterations=2)
    assert found.maps.shape == (5, 1, 1, 8, 8)
    assert found.maps.dtype == torch.float32
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    # squeezed, not cropped: what the one resize of the package makes of the whole image
    squeezed = torch.stack([resize(p[None], (8, 8)) for p in _pixels(5)])
    torch.testing.assert_close(found.maps[:, 0], contracam(encoder, head, squeezed, 2)[:, 0].float())
    card = found.provenance
    assert card["settings"] == CamSettings(iterations=2).to_card()
    assert (card["batch_size"], card["seed"], card["resolution"]) == (256, 0, "input")
    assert card["plan"] == whole_frames(encoder.input_spec).digest
    other = maps_for(Cells(seed=3), head, image_folder, iterations=2).provenance
    assert other["encoder"] != card["encoder"]
    assert other["projector"] == card["projector"]


def test_an_unreadable_image_is_reported_and_has_no_map(image_folder: Path, tmp_path: Path) -> None:
    for file in image_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "2.png").write_bytes(b"not a picture")
    found = maps_for(Cells(), linear_head(), tmp_path)
    assert found.rows.tolist() == [0, 1, 3, 4]
    assert [fault.path for fault in found.faults] == ["2.png"]
    for file in tmp_path.iterdir():
        file.write_bytes(b"neither")
    with pytest.raises(DataError, match="none of 5 rows could be read"):
        maps_for(Cells(), linear_head(), tmp_path)


def test_video_maps_at_feature_resolution(video_folder: Path) -> None:
    encoder, head = Cells(depth=3, stride_t=2), linear_head()
    plan = ClipPlan(
        num_frames=4, stride=1, num_clips=2, num_crops=1, size_px=8, short_side_px=8, resize_px=(8, 8), rule="tcgl"
    )
    seen: list[tuple[int, int]] = []
    whole = maps_for(encoder, head, video_folder, plan=plan, progress=lambda done, of: seen.append((done, of)))
    assert whole.maps.shape == (3, 2, 4, 8, 8)
    assert seen[-1] == (3, 3)
    small = maps_for(encoder, head, video_folder, plan=plan, resolution="features")
    assert small.maps.shape == (3, 2, 2, 4, 4)
    cells = whole.maps.view(3, 2, 2, 2, 4, 2, 4, 2).mean((3, 5, 7))
    torch.testing.assert_close(small.maps, cells)
    torch.testing.assert_close(small.times_s, whole.times_s.view(3, 2, 2, 2).mean(3))
    torch.testing.assert_close(whole.times_s[0, 0, 1] - whole.times_s[0, 0, 0], torch.tensor(1 / 8).double())
    one_by_one = list(iterate_maps(encoder, head, video_folder, plan=plan))
    assert [one.row for one in one_by_one] == [row for row in _order(3) for _ in range(2)]
    for one in one_by_one:
        torch.testing.assert_close(one.maps, whole.maps[one.row, one.clip])


def test_clips_and_spans_of_one_video_are_one_group(video_folder: Path) -> None:
    encoder, head = Cells(depth=3), linear_head()
    encoder.input_spec = replace(encoder.input_spec, num_frames=4)
    spans = Manifest(str(video_folder), (Row("0.mp4", 0.0, 0.5), Row("0.mp4", 0.5, 1.0)))
    assert not maps_for(encoder, head, spans).maps.any()
    more = Manifest(str(video_folder), (*spans.rows, Row("1.mp4", 0.0, 0.5)))
    of_three = maps_for(encoder, head, more).maps
    of_two = maps_for(encoder, head, more.subset([0, 2])).maps
    torch.testing.assert_close(of_three[0], of_two[0])
    patients = Manifest(
        str(video_folder), (Row("0.mp4", groups={"group": "ann"}), Row("1.mp4", groups={"group": "ann"}))
    )
    assert not maps_for(encoder, head, patients).maps.any()


def test_eight_bits() -> None:
    maps = torch.tensor([0.0, 0.2, 0.5, 1.0])
    assert to_bytes(maps).tolist() == [0, 51, 128, 255]
    assert (to_bytes(pictures(1000).float()) / 255 - pictures(1000).float()).abs().max() <= 0.5 / 255 + 1e-6


def test_unreadable_files_leave_their_batch_and_stop_nobody(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is left alone in a batch is set against the next readable rows, whatever is known already."""
    encoder, head = Cells(), linear_head()
    order = _order(5)
    for file in image_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plan = ClipPlan(1, 1, 1, 1, 8, 8, resize_px=(8, 8))

    def maps(skip: list[int], faults: list[str]) -> dict[int, Tensor]:
        found = iterate_maps(
            encoder,
            head,
            tmp_path,
            plan=plan,
            batch_size=2,
            skip=skip,
            on_fault=lambda fault: faults.append(fault.path),
        )
        return {one.row: one.maps for one in found}

    broken = [order[0], order[2], order[3]]  # the first batch has one left, the second none, the third one
    for row in broken:
        (tmp_path / f"{row}.png").write_bytes(b"not a picture")
    faults: list[str] = []
    whole = maps([], faults)
    assert set(whole) == {order[1], order[4]}
    assert sorted(faults) == sorted(f"{row}.png" for row in broken)  # each told once
    squeezed = torch.stack([resize(p[None], (8, 8)) for p in _pixels(5)])
    pair = contracam(encoder, head, squeezed[[order[1], order[4]]])[:, 0].float()
    torch.testing.assert_close(whole[order[1]], pair[0])
    torch.testing.assert_close(whole[order[4]], pair[1])
    assert torch.equal(maps([*broken, order[1]], faults)[order[4]], whole[order[4]])
    assert torch.equal(maps([order[0]], faults)[order[1]], whole[order[1]])
    assert sorted(faults[3:]) == sorted(f"{row}.png" for row in broken[1:])  # what is known is not told again
    assert not caplog.records
    (tmp_path / f"{order[4]}.png").write_bytes(b"neither")
    assert not maps([], [])[order[1]].any()
    assert len(caplog.records) == 1


def test_what_is_known_is_skipped_and_changes_nothing(image_folder: Path) -> None:
    """A run that goes on where it was stopped has the same batches, and rows that are known as company only."""
    encoder, head = Cells(), linear_head()
    options: dict[str, object] = {"batch_size": 2, "seed": 1, "plan": ClipPlan(1, 1, 1, 1, 8, 8, resize_px=(8, 8))}
    whole = {one.row: one.maps for one in iterate_maps(encoder, head, image_folder, **options)}  # type: ignore[arg-type]
    order = _order(5, seed=1)
    for known in (order[:2], order[:1], order[:4], order[1:]):
        read: list[int] = []
        rest = {
            one.row: one
            for one in iterate_maps(
                encoder,
                head,
                image_folder,
                skip=known,
                pixels=True,
                progress=lambda _, total, read=read: read.append(total),
                **options,  # type: ignore[arg-type]
            )
        }
        assert set(rest) == set(order) - set(known)
        for row, one in rest.items():
            assert torch.equal(one.maps, whole[row])
            assert one.pixels is not None
            assert one.pixels.shape == (1, 8, 8, 3)
        assert len(read) == read[-1] < 7
    assert list(iterate_maps(encoder, head, image_folder, skip=order, **options)) == []  # type: ignore[arg-type]
