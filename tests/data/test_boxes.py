"""Boxes as shares of the image and their text file (docs/methods/contracam.md, Boxes)."""

import numpy as np
import pytest

from unreel.core.errors import DataError, UsageError
from unreel.data.boxes import boxes_to_shares, manifest_boxes, read_boxes, write_boxes
from unreel.data.manifest import Manifest, Row


def test_check_C5_margin_of_a_rectangle_and_strict_minimum():
    found = boxes_to_shares([[6, 4, 8, 6], [0, 0, 2, 2], [0, 0, 5, 1]], (20, 20))
    np.testing.assert_allclose(found, [[0.22, 0.14, 0.78, 0.56], [0, 0, 0.3, 0.06]], atol=1e-12)
    np.testing.assert_array_equal(boxes_to_shares([[0, 0, 20, 10]], (10, 20)), [[0, 0, 1, 1]])
    assert boxes_to_shares([], (20, 20)).shape == (0, 4)
    # Wide images: x is divided by the width, y by the height.
    np.testing.assert_allclose(boxes_to_shares([[10, 2, 10, 4]], (10, 40), margin=0), [[0.25, 0.2, 0.5, 0.6]])


def test_gt_boxes_may_be_judged_by_the_area_of_their_masks():
    found = boxes_to_shares([[6, 4, 8, 6], [0, 0, 10, 10]], (20, 20), areas=[4, 5], margin=0)
    np.testing.assert_allclose(found, [[0, 0, 0.5, 0.5]])
    for bad in ({"rectangles": [[1, 2, 3]]}, {"areas": [1, 2]}, {"margin": -1}, {"size": (0, 3)}):
        with pytest.raises(UsageError):
            boxes_to_shares(**{"rectangles": [[0, 0, 1, 1]], "size": (20, 20), **bad})


def test_check_C8_file_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    boxes = {}
    for i in range(20):
        corners = np.sort(rng.random((i % 4, 2, 2)), axis=1)
        boxes[f"class {i}/a,b {i}.jpg"] = corners.reshape(-1, 4)
    boxes["0.1,0.2,0.3,0.4"] = np.zeros((0, 4))  # like a box, but alone
    boxes["ü"] = np.array([[-1e-9, 0, 1 + 1e-9, 1]])
    again = read_boxes(write_boxes(tmp_path / "new" / "b.txt", boxes))
    assert list(again) == list(boxes)
    for name, rows in boxes.items():
        assert again[name].shape == rows.shape
        np.testing.assert_allclose(again[name], rows, atol=1e-6)
    text = write_boxes(tmp_path / "c.txt", {"n01.JPEG": [[0.25, 0, 1, 0.5]], "n02.JPEG": []}).read_text()
    assert text == "n01.JPEG 0.250000,0.000000,1.000000,0.500000\nn02.JPEG\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a 0,0,1,1", "a\r"])
def test_ids_that_could_not_be_read_back_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="read back"):
        write_boxes(tmp_path / "b.txt", {name: []})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [[0, 0, 1.01, 1], [0.5, 0, 0.4, 1], [0, 0.5, 1, 0.4], [np.nan, 0, 1, 1]])
def test_boxes_outside_the_image_are_refused(tmp_path, row):
    with pytest.raises(UsageError, match="'a'"):
        write_boxes(tmp_path / "b.txt", {"a": [row]})
    if not np.isnan(row[0]):
        (tmp_path / "b.txt").write_text("x\na " + ",".join(map(str, row)))
        with pytest.raises(DataError, match=r"b\.txt:2: expected 0 ≤ x1"):
            read_boxes(tmp_path / "b.txt")


def test_a_file_of_other_hands(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("\ufeffa.jpg 0,0,1,1 \r\n\r\nb c.jpg .5,.5,1,1  0,0,1e-1,1\r\n")
    assert {k: v.tolist() for k, v in read_boxes(path).items()} == {
        "a.jpg": [[0, 0, 1, 1]],
        "b c.jpg": [[0.5, 0.5, 1, 1], [0, 0, 0.1, 1]],
    }
    path.write_text("a\na")
    with pytest.raises(DataError, match="second time"):
        read_boxes(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_boxes(tmp_path / "none.txt")


def test_boxes_of_a_manifest_by_place_or_as_written(tmp_path):
    write_boxes(tmp_path / "files" / "b.txt", {"../data/a.jpg": [[0, 0, 1, 0.5]], "c/b.jpg": [], "../data/c/b.jpg": []})
    rows = [Row(p, files={"boxes": "../files/b.txt"}) for p in ("a.jpg", "c/b.jpg")]
    (tmp_path / "data").mkdir()
    manifest = Manifest(str(tmp_path / "data"), tuple(rows))
    first, second = manifest_boxes(manifest)
    assert (first.tolist(), second.shape) == ([[0, 0, 1, 0.5]], (0, 4))
    (tmp_path / "other").mkdir()
    moved = Manifest.from_csv(manifest.to_csv(tmp_path / "other" / "m.csv"), check=False)
    assert manifest_boxes(moved)[0].tolist() == [[0, 0, 1, 0.5]]
    write_boxes(tmp_path / "files" / "b.txt", {"a.jpg": [[0, 0, 0.5, 0.5]]})
    assert manifest_boxes(manifest.subset([0]))[0].tolist() == [[0, 0, 0.5, 0.5]]
    with pytest.raises(DataError, match="not listed in"):
        manifest_boxes(manifest)
    with pytest.raises(DataError, match=r"no file\.gt"):
        manifest_boxes(manifest, "gt")
