"""Segmentation of the built-in world: fit, predict a map, score, save, load, predict again; and the scores' oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from tests.contracts.test_heads import HeadContract
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.data.synthetic import ActionWorld
from unreel.data.synthetic.scenes import MASK_CLASSES
from unreel.nn import create_encoder
from unreel.protocols.dense import DenseProbe, FittedDense, stage_by_stride
from unreel.protocols.head import load_head, save_head
from unreel.protocols.samples import FeatureSet, Truth
from unreel.stats import bootstrap_ci
from unreel.tasks.segmentation import MaskedClips, MaskTask, clip_scores

PLAN = ClipPlan(num_frames=4, stride=2, num_clips=1, num_crops=1, size_px=32, short_side_px=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    shown = {"radius_px": (14.0, 16.0), "contrast": 0.2, "distractor": 0.5, "occlusion": 0.5}
    ActionWorld(3, 12, 6, size_px=40, num_frames=8, audio_rate_hz=0, **shown).write(folder, truth=True)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def parts(world: Path) -> tuple[MaskTask, MaskedClips, MaskedClips]:
    task = MaskTask(world)
    net = create_encoder("r3d_tiny", seed=0)
    stage = stage_by_stride(net, 4)
    train, test = (task.read(role, net, PLAN, stage, device="cpu") for role in ("train", "test"))
    return task, train, test


@pytest.fixture(scope="module")
def fitted(parts: tuple[MaskTask, MaskedClips, MaskedClips]) -> FittedDense:
    task, train, _ = parts
    return DenseProbe(max_iterations=40).fit(train.maps, train.truth.labels, classes=task.classes)


class TestDense(HeadContract):
    @pytest.fixture
    def head(self, fitted):
        return fitted

    @pytest.fixture
    def inputs(self, parts):
        return parts[2].maps


def test_a_map_is_predicted_scored_kept_and_predicted_again(
    parts: tuple[MaskTask, MaskedClips, MaskedClips], fitted: FittedDense, tmp_path: Path
) -> None:
    """Even random weights of the first stages tell objects from the ground better than one class everywhere."""
    task, train, test = parts
    assert train.truth.labels.shape == (12, 4, 32, 32)
    assert set(np.unique(train.truth.labels)) == {0, 1}
    said = fitted.predict(test.maps)
    assert said.maps is not None
    assert said.maps.shape == (6, 2, 4, 32, 32)
    assert said.labels.shape == (6, 4, 32, 32)
    outcomes = task.score(said, test.truth)
    assert (outcomes.n, task.metrics(outcomes)[0].name) == (6, outcomes.primary)
    interval = bootstrap_ci(outcomes.values["mean_iou"], groups=test.truth.groups, num_resamples=200, seed=0)
    assert interval.low > outcomes.chance["mean_iou"]
    assert outcomes.chance["pixel_accuracy"] == pytest.approx((test.truth.labels == 0).mean())
    again = load_head(save_head(fitted, tmp_path / "dense.safetensors")).predict(test.maps)
    np.testing.assert_array_equal(again.maps, said.maps)
    assert task.score(again, test.truth).score() == outcomes.score()
    one = fitted.predict(test.maps[2:3]).maps
    np.testing.assert_array_equal(one[0], said.maps[2])  # type: ignore[index]


def test_scores_are_scikit_learns_clip_by_clip() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (5, 2, 6, 6)).astype(np.uint8)
    truth[0][truth[0] == 3] = 0  # a class that one clip does not show
    guess = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape))
    found = clip_scores(guess, truth, 4)
    for i in range(5):
        a, b = truth[i].ravel(), guess[i].ravel()
        seen = np.union1d(a, b)
        assert found["mean_iou"][i] == pytest.approx(jaccard_score(a, b, labels=seen, average="macro"))
        assert found["pixel_accuracy"][i] == pytest.approx(accuracy_score(a, b))


def test_the_probe_finds_what_made_the_masks_and_ignores_what_is_unmarked() -> None:
    """Masks are the sign of one channel; another is a thousand times as loud and tells nothing."""
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 3, 2, 8, 8, generator=rng) * torch.tensor([1.0, 1000.0, 1.0])[:, None, None, None] + 5
    masks = (maps[:, 0] > 5).to(torch.int64)
    head = DenseProbe(penalty=1e-6).fit(maps, masks, classes=("low", "high"))
    assert (head.predict(maps).labels == np.array(["low", "high"])[masks]).mean() > 0.98
    unmarked = masks.clone()
    unmarked[:3] = -1
    part = DenseProbe(penalty=1e-6).fit(maps, unmarked, classes=("low", "high"))
    assert part.card.counts == tuple(torch.bincount(masks[3:].flatten()).tolist())
    assert (part.predict(maps[:3]).labels == np.array(["low", "high"])[masks[:3]]).mean() > 0.95


def test_every_class_of_the_world_by_number(world: Path) -> None:
    net = create_encoder("r3d_tiny", seed=0)
    task = MaskTask(world, mask="truth", classes=MASK_CLASSES)
    found = task.read("test", net, PLAN, stage_by_stride(net, 4), device="cpu")
    binary = MaskTask(world, mask="truth", binary=True).read("test", net, PLAN, stage_by_stride(net, 4), device="cpu")
    assert len(np.unique(found.truth.labels)) > 2
    np.testing.assert_array_equal(found.truth.labels > 0, binary.truth.labels == 1)
    with pytest.raises(DataError, match="its mask holds the number"):
        MaskTask(world, mask="truth").read("test", net, PLAN, stage_by_stride(net, 4), device="cpu")


def test_an_unreadable_clip_is_a_fault_and_nothing_takes_its_place(world: Path, tmp_path: Path) -> None:
    manifest = Manifest.open(world)
    (tmp_path / "x.mp4").write_bytes(b"no video")
    first = next(i for i, row in enumerate(manifest) if row.split == "test")
    rows = [*manifest.rows]
    rows[first] = replace(rows[first], path=str(tmp_path / "x.mp4"))
    net = create_encoder("r3d_tiny", seed=0)
    found = MaskTask(replace(manifest, rows=tuple(rows))).read("test", net, PLAN, stage_by_stride(net, 4), device="cpu")
    assert (len(found.maps), len(found.truth), len(found.faults)) == (5, 5, 1)


def test_what_does_not_fit_is_refused(
    world: Path, parts: tuple[MaskTask, MaskedClips, MaskedClips], fitted: FittedDense
) -> None:
    task, train, test = parts
    net = create_encoder("r3d_tiny", seed=0)
    with pytest.raises(UsageError, match="the finest stage has"):
        stage_by_stride(net, 0)
    with pytest.raises(DataError, match=r"the data has .*file\.mask"):
        MaskTask(world, mask="depth")
    with pytest.raises(UsageError, match="one clip and one crop"):
        task.read("test", net, replace(PLAN, num_clips=2), "stage1")
    with pytest.raises(UsageError, match=r"takes the maps \(N, 24, T, h, w\)"):
        fitted.predict(FeatureSet(np.zeros((2, 3))))
    with pytest.raises(UsageError, match="do not belong"):
        task.score(fitted.predict(test.maps), Truth(test.truth.labels[:, :2]))
    with pytest.raises(DataError, match="single class"):
        DenseProbe().fit(train.maps, np.zeros_like(train.truth.labels), classes=("a", "b"))
    with pytest.raises(UsageError, match="numbers from 0 to 1"):
        DenseProbe().fit(train.maps, train.truth.labels, classes=("a",))
