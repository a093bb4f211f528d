"""Layouts of image data sets, from small trees written after their public descriptions, and from real samples.

docs/methods/evaluation.md has sizes of splits, masks and variants; docs/methods/contracam.md, Boxes the boxes.
"""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from unreel.core.errors import DataError, UsageError
from unreel.data.boxes import manifest_boxes
from unreel.data.layouts import LAYOUTS, read_layout
from unreel.data.layouts.cifar import read_batch
from unreel.data.layouts.common import Entry, assemble, draw_validation
from unreel.data.layouts.imagenet import IMAGENET9_CLASSES, IMAGENET9_VARIANTS
from unreel.data.layouts.objects import polygon_mask, read_image, read_voc_objects, run_length_mask, write_image
from unreel.data.manifest import Manifest

SAMPLES = Path(__file__).parents[3].parent / "shared" / "data"


def touch(*paths: Path) -> None:
    """Empty files: whoever opened one as an image would fail."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def image(path: Path, height: int = 4, width: int = 6, value: int = 0) -> np.ndarray:
    pixels = np.full((height, width, 3), value, dtype=np.uint8)
    write_image(path, pixels)
    return pixels


def sample(name: str) -> Path:
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"no real sample {name} beside the repository")
    return SAMPLES / name


def splits(manifest: Manifest) -> dict[str, int]:
    return dict(Counter(row.split for row in manifest))


# ------------------------------------------------------------------------------------------------------------ ImageNet


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    touch(*(root / "train" / w / f"{w}_{i}.JPEG" for w in ("n01440764", "n02084071") for i in (1, 2)))
    touch(*(root / "val" / f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)))
    return root


def test_imagenet_train_folders_and_a_flat_val_with_any_of_the_lists(flat):
    with pytest.raises(DataError, match=r"expected one of LOC_val_solution\.csv"):
        read_layout("imagenet", flat)
    kit = flat / "devkit" / "data"
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1", "2")
    with pytest.raises(DataError, match=r"meta\.mat"):
        read_layout("imagenet", flat)
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    table = np.array([(1, "n01440764", "tench, Tinca"), (2, "n02084071", "dog")], dtype=fields)
    savemat(kit / "meta.mat", {"synsets": table})
    manifest, missing = read_layout("imagenet", flat)
    assert missing == ()
    assert splits(manifest) == {"train": 4, "val": 3}
    truth = ["n02084071", "n01440764", "n02084071"]
    assert manifest.select(split="val").labels() == truth
    assert manifest[0].labels == {"label": "n01440764", "name": "tench, Tinca"}
    assert manifest[0].path == "train/n01440764/n01440764_1.JPEG"
    manifest.check_files()
    (kit / "meta.mat").unlink()
    write(flat / "imagenet_2012_validation_synset_labels.txt", *truth)
    assert read_layout("imagenet", flat).manifest.select(split="val").labels() == truth
    rows = [f"ILSVRC2012_val_{i:08d},{w} 1 2 3 4" for i, w in enumerate(reversed(truth[:2]), 1)]
    write(flat / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    write(flat / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca", "n02084071 dog")
    with pytest.raises(DataError, match=r"val_00000003\.JPEG: lies in no class's folder and no list gives"):
        read_layout("imagenet", flat)
    (flat / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    manifest, _ = read_layout("imagenet", flat)
    assert manifest.select(split="val").labels() == ["n01440764", "n02084071"]
    assert manifest[0].labels["name"] == "tench, Tinca tinca"


def test_imagenet_val_in_folders_and_a_truth_out_of_range(flat):
    kit = write(flat / "ILSVRC2012_validation_ground_truth.txt", "7").parent
    savemat(
        kit / "meta.mat",
        {"synsets": np.array([(1, "n1", "x")], dtype=[(n, object) for n in ("ILSVRC2012_ID", "WNID", "words")])},
    )
    with pytest.raises(DataError, match=r"ground_truth\.txt:1: expected the number of a class"):
        read_layout("imagenet", flat)
    for path in (flat / "val").iterdir():
        target = flat / "val" / "n02084071" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert set(read_layout("imagenet_stylized", flat.parent).manifest.select(split="val").labels()) == {"n02084071"}
    for broken in (b"nothing", b""):  # scipy has errors of its own for files that are none of MATLAB's
        (kit / "meta.mat").write_bytes(broken)
        with pytest.raises(DataError, match=r"meta\.mat: expected the development kit's table"):
            read_layout("imagenet", flat)


def test_shifted_test_sets(tmp_path):
    touch(
        *(tmp_path / "r" / "imagenet-r" / w / "art_0.jpg" for w in ("n01443537", "n02084071")), tmp_path / "r" / "x.txt"
    )
    for name in ("imagenet_r", "imagenet_sketch"):
        manifest, _ = read_layout(name, tmp_path / "r")
        assert splits(manifest) == {"test": 2}
        assert manifest.labels() == ["n01443537", "n02084071"]
    for place in ("blur/gaussian_blur", "gaussian_noise"):
        touch(*(tmp_path / "c" / place / s / "n02084071" / "v_1.JPEG" for s in "15"))
    manifest, _ = read_layout("imagenet_c", tmp_path / "c")
    assert [(r.labels["corruption"], r.labels["severity"]) for r in manifest] == [
        (c, s) for c in ("gaussian_blur", "gaussian_noise") for s in "15"
    ]
    assert set(manifest.groups()) == {"n02084071/v_1"}
    touch(tmp_path / "c" / "fog" / "6" / "n02084071" / "v_1.JPEG")
    with pytest.raises(DataError, match="severity 1 to 5"):
        read_layout("imagenet_c", tmp_path / "c")


# ---------------------------------------------------------------------------------------------------------- ImageNet-9


@pytest.fixture
def nine(tmp_path: Path) -> Path:
    root = tmp_path / "in9"
    for place in ("bg_challenge/original/val", "bg_challenge/only_bg_t/val", "original/train", "mixed_rand/train"):
        touch(*(root / place / "00_dog" / f"n02085620_{i}.JPEG" for i in range(3)))
        touch(*(root / place / "06_musical instrument" / f"n02085999_{i}.JPEG" for i in range(2)))
    touch(root / "bg_challenge" / "mixed_rand" / "val" / "00_dog" / "fg_n02085620_0_bg_n01440764_7.JPEG")
    cut = image(root / "bg_challenge" / "only_fg" / "val" / "00_dog" / "n02085620_0.png")
    cut[1:3, 2:4] = (9, 1, 200)
    cut[0, 0] = (0, 200, 200)  # one channel is 0: background
    write_image(root / "bg_challenge" / "only_fg" / "val" / "00_dog" / "n02085620_0.png", cut)
    return root


def test_imagenet9_variants_classes_pairs_and_masks(nine, tmp_path):
    manifest, _ = read_layout("imagenet9", nine)
    assert splits(manifest) == {"train": 5, "test": 12}
    assert set(manifest.labels()) == {"dog", "instrument"} < set(IMAGENET9_CLASSES)
    by_variant = Counter((row.labels["variant"], row.split) for row in manifest)
    assert by_variant == {
        ("original", "train"): 5,
        ("original", "test"): 5,
        ("mixed_rand", "test"): 1,
        ("only_bg_t", "test"): 5,
        ("only_fg", "test"): 1,
    }
    assert {v for v, _ in by_variant} < set(IMAGENET9_VARIANTS)
    pair = manifest.select(split="test", where={"group": "n02085620_0"})
    assert sorted(r.labels["variant"] for r in pair) == ["mixed_rand", "only_bg_t", "only_fg", "original"]
    assert Counter(bool(r.files) for r in manifest) == {True: 1, False: 16}
    other = read_layout("imagenet9", nine, train_variant="mixed_rand").manifest.select(split="train")
    assert set(other.labels("variant")) == {"mixed_rand"}
    written, _ = read_layout("imagenet9", nine, files=str(tmp_path / "files"))
    (row,) = [i for i, r in enumerate(written) if "mask" in r.files]
    assert written[row].labels["variant"] == "original"
    mask = read_image(written.file(row, "mask"))
    expected = np.zeros((4, 6), dtype=bool)
    expected[1:3, 2:4] = True
    np.testing.assert_array_equal(mask[..., 0] == 255, expected)
    np.testing.assert_array_equal(mask[..., 0] == 0, ~expected)
    with pytest.raises(UsageError, match="variant"):
        LAYOUTS["imagenet9"](nine, train_variant="mixed")
    touch(nine / "original" / "train" / "09_plant" / "n1_1.JPEG")
    with pytest.raises(DataError, match="00_dog"):
        read_layout("imagenet9", nine)


def test_imagenet9_linear_split_is_a_twentieth_of_train(tmp_path):
    touch(*(tmp_path / "original" / "train" / "00_dog" / f"n02085620_{i}.JPEG" for i in range(40)))
    first, _ = read_layout("imagenet9", tmp_path, splits="linear")
    assert splits(first) == {"train": 38, "val": 2}
    assert read_layout("imagenet9", tmp_path, splits="linear").manifest == first
    assert read_layout("imagenet9", tmp_path, splits="linear", seed=1).manifest != first
    assert "2 of 40 training rows drawn as val with seed 42" in first.notices


@pytest.mark.parametrize(
    ("part", "whole"), [(1_000, 5_994), (7_575, 75_750), (740, 3_680), (5, 100), (10_000, 118_287)]
)
def test_linear_splits_have_the_sizes_of_the_paper(part, whole):
    """Sizes of complete data: CUB 4,994 / 1,000, Food 68,175 / 7,575, Pets 2,940 / 740."""
    count = whole if whole < 10_000 else whole // 50
    rows = [Entry(f"{i}.jpg", f"{i}.jpg", "train", "x") for i in range(count)]
    made = assemble("x", Path("/x"), Path("/x"), rows, missing="error")
    drawn = draw_validation(made, part, whole, seed=42, what="x").manifest
    assert splits(drawn)["val"] == round(part * count / whole)


# ----------------------------------------------------------------------------------------------------------- COCO, VOC


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def coco_tree(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    cats = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    runs = [0, 10, 190]  # the first column of 10 × 20 px

    def note(ident, img, cat, box, outline, area, crowd=0):
        return {
            "id": ident, "image_id": img, "category_id": cat, "bbox": box, "segmentation": outline, "area": area,
            "iscrowd": crowd,
        }  # fmt: skip

    for split, first in (("train", 1), ("val", 3)):
        for i in range(2):
            image(root / f"{split}2017" / f"{first + i:012d}.png", 10, 20, 50 * i)
        images = [{"id": first + i, "file_name": f"{first + i:012d}.png", "height": 10, "width": 20} for i in range(2)]
        notes = [
            note(1, first, 18, [4, 2, 5, 5], square(4, 2, 5), 25),
            note(2, first, 1, [12, 1, 1, 2], [[12, 1, 13, 1, 13, 3, 12, 3]], 2),  # 1 %: too small to train with
            note(3, first, 18, [0, 0, 1, 10], {"counts": runs, "size": [10, 20]}, 10, crowd=1),
        ]
        data = {"images": images, "annotations": notes, "categories": cats}
        write(root / "annotations" / f"instances_{split}2017.json", json.dumps(data))
    return root


def test_coco_rows_boxes_and_masks(coco_tree, tmp_path):
    manifest, _ = read_layout("coco", coco_tree, files=str(tmp_path / "files"), masks=True)
    assert splits(manifest) == {"train": 2, "val": 2}
    assert manifest[0].labels == {"categories": "dog|person", "objects": "2"}
    assert manifest[1].labels == {"objects": "0"}
    boxes = manifest_boxes(manifest)
    np.testing.assert_allclose(boxes[0], [[3 / 20, 1 / 10, 10 / 20, 8 / 10]], atol=1e-6)
    exact = manifest_boxes(manifest, "objects")[0]
    np.testing.assert_allclose(exact, [[0.2, 0.2, 0.45, 0.7], [0.6, 0.1, 0.65, 0.3]], atol=1e-6)
    assert boxes[1].shape == (0, 4)
    assert manifest.notices == ("2 difficult or crowd objects are not among the boxes",)
    expected = np.zeros((10, 20), dtype=bool)
    expected[2:7, 4:9] = expected[1:3, 12] = expected[:, 0] = True
    np.testing.assert_array_equal(read_image(manifest.file(0, "mask"))[..., 0] == 255, expected)
    assert not read_image(manifest.file(1, "mask")).any()
    both = read_layout("coco", coco_tree, crowd=True).manifest
    assert both[0].labels["objects"] == "3"
    linear = read_layout("coco", coco_tree, splits="linear").manifest
    assert splits(linear) == {"train": 1, "val": 1, "test": 2}
    moved = Manifest.from_csv(manifest.to_csv(tmp_path / "m.csv"))
    np.testing.assert_array_equal(manifest_boxes(moved)[0], boxes[0])


def test_coco_objects_as_rows(coco_tree, tmp_path):
    manifest, _ = read_layout("coco", coco_tree, objects=True, crowd=True, files=str(tmp_path / "files"))
    assert [(r.split, r.labels["label"], r.labels["area"], r.labels["crowd"]) for r in manifest] == [
        (split, *found)
        for split in ("train", "val")
        for found in (("dog", "25", "0"), ("person", "2", "0"), ("dog", "10", "1"))
    ]
    # 7 × 7 px with margin, the shorter side 256; the crowd's 1 × 10 px grow to 1.2 × 10, which is 1 × 10.
    assert read_image(manifest.absolute(0)).shape == (256, 256, 3)
    assert read_image(manifest.absolute(2)).shape == (2560, 256, 3)
    assert len(set(manifest.groups())) == 2
    with pytest.raises(UsageError, match=r"layout\.files"):
        read_layout("coco", coco_tree, objects=True)
    with pytest.raises(UsageError, match="did you mean"):
        read_layout("coco", coco_tree, object=True)


def test_coco_faults_are_named(coco_tree):
    (coco_tree / "val2017" / f"{4:012d}.png").unlink()
    with pytest.raises(DataError, match="1 of the 4 images listed do not exist"):
        read_layout("coco", coco_tree)
    assert len(read_layout("coco", coco_tree, missing="skip").manifest) == 3
    notes = coco_tree / "annotations"
    write(notes / "person_keypoints_train2017.json", (notes / "instances_train2017.json").read_text())
    with pytest.raises(DataError, match="are both of split 'train'"):
        read_layout("coco", coco_tree, annotations="*.json", missing="skip")
    write(notes / "instances_val2017.json", '{"images": []}')
    with pytest.raises(DataError, match="lists images, annotations and categories"):
        read_layout("coco", coco_tree)


def test_polygons_fill_pixels_whose_centres_lie_inside():
    """Against a test of every centre by winding over the edges, pixel by pixel."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        points = rng.random((7, 2)) * [24, 18] - 2
        drawn = polygon_mask([points.ravel().tolist()], (14, 20))
        for y in range(14):
            for x in range(20):
                odd = False
                for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
                    if (y1 <= y + 0.5) != (y2 <= y + 0.5) and x1 + (y + 0.5 - y1) / (y2 - y1) * (x2 - x1) <= x + 0.5:
                        odd = not odd
                assert drawn[y, x] == odd
    assert not polygon_mask([], (3, 4)).any()


def encode(runs: list[int]) -> str:
    """COCO's text form of run lengths, written from its description."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
            text += chr(bits + (32 if more else 0) + 48)
    return text


def test_run_lengths_as_numbers_and_as_text():
    rng = np.random.default_rng(0)
    mask = rng.random((37, 53)) > 0.8
    mask[:, 10:40] = False  # long runs take several characters
    column = mask.T.ravel()
    edges = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff([0, *edges.tolist(), column.size]).tolist()
    runs = [0, *runs] if column[0] else runs
    np.testing.assert_array_equal(run_length_mask(runs, mask.shape), mask)
    np.testing.assert_array_equal(run_length_mask(encode(runs), mask.shape), mask)
    with pytest.raises(DataError, match="run lengths of"):
        run_length_mask([3, 4], (2, 2))


def voc_note(name: str, *objects: tuple[str, int, int, int, int, int], size: tuple[int, int] = (20, 10)) -> str:
    body = "".join(
        f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{e}</ymax></bndbox></object>"
        for n, d, a, b, c, e in objects
    )
    return (
        f"<annotation><filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"</size>{body}</annotation>"
    )


def test_voc_lists_boxes_and_outlines(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2007"
    notes = {"a": [("dog", 0, 5, 3, 8, 6)], "b": [("dog", 0, 1, 1, 20, 10), ("cat", 1, 1, 1, 2, 2)], "c": []}
    for name, objects in notes.items():
        write(base / "Annotations" / f"{name}.xml", voc_note(name, *objects))
        touch(base / "JPEGImages" / f"{name}.jpg")
    write(base / "ImageSets" / "Main" / "train.txt", "a")
    write(base / "ImageSets" / "Main" / "val.txt", "b")
    write(base / "ImageSets" / "Main" / "trainval.txt", "a", "b", "c")
    outline = image(base / "SegmentationObject" / "a.png", 10, 20)
    outline[2:6, 4:8], outline[2, 4] = (128, 0, 0), (224, 224, 192)
    write_image(base / "SegmentationObject" / "a.png", outline)
    manifest, _ = read_layout("voc", tmp_path, files=str(tmp_path / "files"))
    assert [(r.split, r.labels.get("label")) for r in manifest] == [("train", "dog"), ("val", "dog"), ("train", None)]
    exact = manifest_boxes(manifest, "objects")
    np.testing.assert_allclose(exact[0], [[4 / 20, 2 / 10, 8 / 20, 6 / 10]], atol=1e-6)
    np.testing.assert_array_equal(exact[1], [[0, 0, 1, 1]])
    expected = np.zeros((10, 20), dtype=bool)
    expected[2:6, 4:8] = True
    expected[2, 4] = False
    np.testing.assert_array_equal(read_image(manifest.file(0, "mask"))[..., 0] > 0, expected)
    plain = read_layout("voc", tmp_path, one_based=False, difficult=True, files=str(tmp_path / "plain")).manifest
    np.testing.assert_allclose(manifest_boxes(plain, "objects")[0], [[5 / 20, 3 / 10, 8 / 20, 6 / 10]], atol=1e-6)
    assert plain[1].labels["categories"] == "cat|dog"
    with pytest.raises(DataError, match=r"no folder of 2012 .*found VOC2007"):
        read_layout("voc", tmp_path, year="2012")
    write(base / "ImageSets" / "Main" / "val.txt", "a")
    with pytest.raises(DataError, match=r"val\.txt:1: 'a' is in train\.txt too"):
        read_layout("voc", tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<annotation>", "not readable as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type"),
        ("<annotation/>", "size/height"),
        (voc_note("a", ("dog", 0, 5, 3, 2, 6)), "corners"),
        (voc_note("a", size=(0, 4)), "0 × 4"),
    ],
)
def test_voc_a_malformed_annotation_is_named(tmp_path, text, told):
    with pytest.raises(DataError, match=rf"a\.xml.*{told}"):
        read_voc_objects(write(tmp_path / "a.xml", text))


# -------------------------------------------------------------------------------------- CUB, Flowers, Pets, Food, DAVIS


def test_cub_lists_boxes_masks_and_its_three_splits(tmp_path):
    base = tmp_path / "CUB_200_2011"
    names = [f"00{1 + i % 2}.Bird_{i % 2}/Bird_{i}.png" for i in range(24)]
    for name in names:
        image(base / "images" / name, 10, 20)
        outline = image(tmp_path / "segmentations" / f"{os.path.splitext(name)[0]}.png", 10, 20)
    outline[2:5, 4:9], outline[7, 4] = 204, 51  # four of five people, and one
    write_image(tmp_path / "segmentations" / f"{os.path.splitext(names[-1])[0]}.png", outline)
    write(base / "images.txt", *(f"{i} {n}" for i, n in enumerate(names, 1)))
    write(base / "train_test_split.txt", *(f"{i} {int(i <= 13)}" for i in range(1, 25)))
    write(base / "bounding_boxes.txt", *(f"{i} 4.0 2.0 5.0 5.0" for i in range(1, 25)))
    manifest, _ = read_layout("cub", tmp_path, files=str(tmp_path / "files"))
    assert splits(manifest) == {"train": 13, "test": 11}
    assert manifest[1].labels == {"label": "Bird_1"}
    np.testing.assert_allclose(manifest_boxes(manifest)[7], [[3 / 20, 1 / 10, 10 / 20, 8 / 10]], atol=1e-6)
    np.testing.assert_allclose(manifest_boxes(manifest, "objects")[7], [[4 / 20, 0.2, 9 / 20, 0.7]], atol=1e-6)
    manifest.check_files()
    assert manifest[0].files["segmentation"] == "segmentations/001.Bird_0/Bird_0.png"
    mask = read_image(manifest.file(23, "mask"))[..., 0]
    assert (mask[2:5, 4:9] == 255).all()
    assert (mask > 0).sum() == 15
    assert splits(read_layout("cub", tmp_path, splits="linear").manifest) == {"train": 11, "val": 2, "test": 11}
    # 788 and 1,000 of 11,788, of 24 images
    assert splits(read_layout("cub", tmp_path, splits="segmentation").manifest) == {"train": 20, "val": 2, "test": 2}
    write(base / "train_test_split.txt", "1 2")
    with pytest.raises(DataError, match="image 1 is marked '2'"):
        read_layout("cub", tmp_path)
    write(base / "images.txt", f"1 {names[0]}", f"1 {names[1]}")
    with pytest.raises(DataError, match=r"images\.txt:2: expected a number of its own"):
        read_layout("cub", tmp_path)


def test_flowers_lists_and_masks(tmp_path):
    for i in range(1, 6):
        touch(tmp_path / "jpg" / f"image_{i:05d}.jpg")
    cut = image(tmp_path / "segmim" / "segmim_00002.png", 2, 3, 100)
    cut[0, 0, 0] = cut[0, 1, 1] = 0
    cut[0, 2, 2] = 254
    cut[1, 0, 2] = 0  # no blue is no background
    write_image(tmp_path / "segmim" / "segmim_00002.png", cut)
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[5, 102, 5, 1, 1]])})
    savemat(tmp_path / "setid.mat", {"trnid": [[2]], "valid": [[1]], "tstid": [[5, 3, 4]]})
    manifest, _ = read_layout("flowers102", tmp_path, files=str(tmp_path / "files"))
    assert [(r.path, r.split, r.labels["label"]) for r in manifest] == [
        ("jpg/image_00002.jpg", "train", "102"),
        ("jpg/image_00001.jpg", "val", "005"),
        ("jpg/image_00005.jpg", "test", "001"),
        ("jpg/image_00003.jpg", "test", "005"),
        ("jpg/image_00004.jpg", "test", "001"),
    ]
    mask = read_image(manifest.file(0, "mask"))[..., 0]
    np.testing.assert_array_equal(mask, [[0, 0, 0], [255, 255, 255]])
    assert splits(read_layout("flowers102", tmp_path, splits="segmentation").manifest) == {
        "train": 3, "val": 1, "test": 1,
    }  # fmt: skip
    savemat(tmp_path / "setid.mat", {"trnid": [[9]], "valid": [[1]], "tstid": [[5]]})
    with pytest.raises(DataError, match="lists image 9"):
        read_layout("flowers102", tmp_path)
    (tmp_path / "setid.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"setid\.mat: expected a MATLAB file"):
        read_layout("flowers102", tmp_path)
    savemat(tmp_path / "setid.mat", {"trnid": [[9]]})
    with pytest.raises(DataError, match=r"setid\.mat: expected a MATLAB file with trnid"):
        read_layout("flowers102", tmp_path)


def test_pets_lists_and_trimaps(tmp_path):
    names = ["Abyssinian_1", "Abyssinian_2", "yorkshire_terrier_10", "yorkshire_terrier_9", "yorkshire_terrier_7"]
    touch(*(tmp_path / "images" / f"{n}.jpg" for n in names))
    lines = [f"{n} {1 if n[0] == 'A' else 37} {1 if n[0] == 'A' else 2} 1" for n in names]
    write(tmp_path / "annotations" / "trainval.txt", "#Image CLASS-ID SPECIES BREED-ID", *lines[1:])
    write(tmp_path / "annotations" / "test.txt", lines[0])
    trimap = np.array([[1, 2, 3]], dtype=np.uint8)[:, :, None].repeat(3, axis=2)
    write_image(tmp_path / "annotations" / "trimaps" / "Abyssinian_1.png", trimap)
    manifest, _ = read_layout("pets", tmp_path, files=str(tmp_path / "files"))
    assert splits(manifest) == {"train": 4, "test": 1}
    assert [r.labels for r in manifest][1:3] == [{"label": "yorkshire_terrier", "species": "dog"}] * 2
    assert read_image(manifest.file(4, "mask"))[0, :, 0].tolist() == [255, 0, 0]
    both = read_layout("pets", tmp_path, border=True, files=str(tmp_path / "both")).manifest
    assert read_image(both.file(4, "mask"))[0, :, 0].tolist() == [255, 0, 255]
    assert splits(read_layout("pets", tmp_path, splits="linear").manifest) == {"train": 3, "val": 1, "test": 1}
    write(tmp_path / "annotations" / "test.txt", "Abyssinian_1 1 3 1")
    with pytest.raises(DataError, match=r"test\.txt:1: expected 'Breed_1"):
        read_layout("pets", tmp_path)


def test_food_lists(tmp_path):
    names = [f"{c}/{i}" for c in ("apple_pie", "waffles") for i in range(10)]
    touch(*(tmp_path / "food-101" / "images" / f"{n}.jpg" for n in names))
    write(tmp_path / "food-101" / "meta" / "train.txt", *names[:10])
    write(tmp_path / "food-101" / "meta" / "test.txt", *names[10:])
    manifest, _ = read_layout("food101", tmp_path)
    assert splits(manifest) == {"train": 10, "test": 10}
    assert manifest[0].path == "food-101/images/apple_pie/0.jpg"
    assert splits(read_layout("food101", tmp_path, splits="linear").manifest) == {"train": 9, "val": 1, "test": 10}
    write(tmp_path / "food-101" / "meta" / "test.txt", "waffles")
    with pytest.raises(DataError, match=r"test\.txt:1: expected 'class/number'"):
        read_layout("food101", tmp_path)


def test_davis_lists_of_2016_and_2017(tmp_path):
    for name in ("bear", "camel"):
        touch(*(tmp_path / "DAVIS" / "JPEGImages" / "480p" / name / f"{i:05d}.jpg" for i in range(3)))
        touch(*(tmp_path / "DAVIS" / "Annotations" / "480p" / name / f"{i:05d}.png" for i in range(3)))
    lists = tmp_path / "DAVIS" / "ImageSets"
    for part, name in (("train", "bear"), ("val", "camel")):
        lines = [f"/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png" for i in range(3)]
        write(lists / "480p" / f"{part}.txt", *lines)
        write(lists / "2017" / f"{part}.txt", name)
    for year in ("", "2017"):
        manifest, _ = read_layout("davis", tmp_path, year=year)
        assert [(r.path, r.split, r.files["mask"]) for r in manifest] == [
            (f"DAVIS/JPEGImages/480p/{n}", s, f"DAVIS/Annotations/480p/{n}")
            for s, n in (("train", "bear"), ("val", "camel"))
        ]
        manifest.check_files()
    (tmp_path / "DAVIS" / "Annotations" / "480p" / "bear" / "00001.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 1 of 3 frames, such as 00001"):
        read_layout("davis", tmp_path)
    with pytest.raises(DataError, match=r"expected a folder 2019"):
        read_layout("davis", tmp_path, year="2019")


# --------------------------------------------------------------------------------------------------------------- CIFAR


def cifar_pickle(path: Path, content: dict[bytes, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    base = tmp_path / "cifar-10-batches-py"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        cifar_pickle(base / name, {b"data": data, b"labels": [0, 1], b"filenames": [b"a.png", b"b.png"]})
    cifar_pickle(base / "batches.meta", {b"label_names": [b"airplane", b"cat"], b"num_vis": 3072})
    return tmp_path


def test_cifar10_is_written_once_without_loss(cifar, tmp_path):
    manifest, missing = read_layout("cifar10", cifar, files=str(tmp_path / "png"))
    assert (splits(manifest), missing) == ({"train": 10, "test": 2}, ())
    assert manifest.labels()[:2] == ["airplane", "cat"]
    batch = pickle.loads((cifar / "cifar-10-batches-py" / "test_batch").read_bytes())
    expected = batch[b"data"][1].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(read_image(manifest.absolute(11)), expected)
    before = manifest.absolute(0).stat().st_mtime_ns
    assert read_layout("cifar10", cifar, files=str(tmp_path / "png")).manifest == manifest
    assert manifest.absolute(0).stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"layout\.files"):
        read_layout("cifar10", cifar)
    (cifar / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3"):
        read_layout("cifar10", cifar, files=str(tmp_path / "png"))
    manifest, missing = read_layout("cifar10", cifar, files=str(tmp_path / "png"), missing="skip")
    assert (len(manifest), missing) == (10, ("data_batch_3",))


def test_cifar100_has_two_labels(tmp_path):
    base = tmp_path / "cifar-100-python"
    for name in ("train", "test"):
        data = np.zeros((1, 3072), dtype=np.uint8)
        cifar_pickle(base / name, {b"data": data, b"fine_labels": [1], b"coarse_labels": [0]})
    names = {b"fine_label_names": [b"apple", b"aquarium_fish"], b"coarse_label_names": [b"fish"]}
    cifar_pickle(base / "meta", names)
    manifest, _ = read_layout("cifar100", tmp_path, files=str(tmp_path / "png"))
    assert manifest[0].labels == {"label": "aquarium_fish", "coarse": "fish"}
    cifar_pickle(base / "train", {b"data": np.zeros((1, 3072), dtype=np.uint8), b"fine_labels": [2]})
    with pytest.raises(DataError, match="'fine_labels', 1 numbers from 0 to 1"):
        read_layout("cifar100", tmp_path, files=str(tmp_path / "png"))


class Harm:
    """A pickle that would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar_nothing_in_a_pickle_runs(tmp_path, protocol):
    target = tmp_path / "harm"
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": Harm(str(target))}, protocol=protocol))
    with pytest.raises(DataError, match=r"it refers to .*\.open"):
        read_batch(tmp_path / "batch")
    assert not target.exists()
    for content in ([1], {b"data": np.zeros(2)}, {b"data": np.array([None])}):
        (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DataError, match="not a batch of CIFAR"):
            read_batch(tmp_path / "batch")
    (tmp_path / "batch").write_bytes(b"\x80\x02}")
    with pytest.raises(DataError, match="not a batch of CIFAR"):
        read_batch(tmp_path / "batch")


def test_cifar_batches_of_other_protocols_and_orders(tmp_path):
    data = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (data, np.asfortranarray(data)):
        for protocol in (0, 2, 4):
            (tmp_path / "b").write_bytes(pickle.dumps({"data": array, "labels": [1]}, protocol=protocol))
            found = read_batch(tmp_path / "b")
            np.testing.assert_array_equal(found["data"], data)
            assert found["labels"] == [1]


# -------------------------------------------------------------------------------------------------------- real samples


def test_real_voc_layouts(tmp_path):
    manifest, _ = read_layout("voc", sample("bccd"), files=str(tmp_path))
    assert splits(manifest) == {"train": 69, "val": 29}
    objects = manifest_boxes(manifest, "objects")
    counts = [int(row.labels["objects"]) for row in manifest]
    assert [len(b) for b in objects] == counts
    assert sum(counts) > 1000
    assert all((b >= 0).all() and (b <= 1).all() and (b[:, 2:] > b[:, :2]).all() for b in objects)
    raccoons, _ = read_layout("voc", sample("raccoon"), files=str(tmp_path / "r"))
    assert len(raccoons) == 100
    assert set(raccoons.labels()) == {"raccoon"}
    assert raccoons.splits == ()
    first = next(i for i, r in enumerate(raccoons) if r.path.endswith("/raccoon-151.jpg"))
    expected = [[41 / 225, 93 / 225, 108 / 225, 224 / 225]]
    np.testing.assert_allclose(manifest_boxes(raccoons, "objects")[first], expected, atol=1e-6)


def test_real_coco_outlines_have_the_annotated_area(tmp_path):
    root = sample("real_layouts") / "coco_keypoints"
    manifest, _ = read_layout("coco", root, annotations="test_coco.json", files=str(tmp_path))
    assert [row.labels["objects"] for row in manifest] == ["1", "3", "5", "5"]
    data = json.loads((root / "test_coco.json").read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in data["images"]}
    for note in data["annotations"]:
        drawn = polygon_mask(note["segmentation"], sizes[note["image_id"]])
        assert drawn.sum() == pytest.approx(note["area"], rel=0.02, abs=8)
        y, x = np.nonzero(drawn)
        left, top, width, height = note["bbox"]
        np.testing.assert_allclose(
            [x.min(), y.min(), x.max() + 1, y.max() + 1], [left, top, left + width, top + height], atol=1
        )
    crops, _ = read_layout("coco", root, annotations="test_coco.json", objects=True, files=str(tmp_path))
    assert len(crops) == 12
    assert min(read_image(crops.absolute(0)).shape[:2]) == 256


def test_real_davis_sequences():
    manifest, _ = read_layout("davis", sample("davis2016_val"))
    assert splits(manifest) == {"val": 10}
    manifest.check_files()
    masks = sorted(manifest.file(0, "mask").iterdir())
    assert len(masks) == len(list(manifest.absolute(0).iterdir())) == 30
    assert set(np.unique(read_image(masks[0]))) >= {0, 255}


def test_every_layout_refuses_another_split(tmp_path):
    for name, layout in LAYOUTS.items():
        with pytest.raises(UsageError, match="official split"):
            layout(tmp_path, split_number=9)
        assert name == layout.__name__
