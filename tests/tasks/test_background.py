"""The Background Challenge (docs/methods/evaluation.md): variants, directions, the gap and its interval."""

import csv

import numpy as np
import pytest

from tests.contracts.test_task import TaskContract
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.data.synthetic import ActionWorld
from unreel.data.synthetic.backgrounds import VARIANTS, background_variant, tile_box, write_background_world
from unreel.nn import create_encoder
from unreel.protocols import KNN, FeatureSet, LinearProbe
from unreel.stats import bootstrap_ci
from unreel.tasks import BackgroundTask, VariantTask, evaluate
from unreel.tasks.background import DIRECTIONS
from unreel.tasks.classification import score_head

PLAN = ClipPlan(num_frames=2, stride=1, num_clips=1, num_crops=1, size_px=8, short_side_px=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Empty files: the contract never reads pixels."""
    folder = tmp_path_factory.mktemp("challenge")
    for i in range(20):
        (folder / f"train{i:02d}.png").touch()
    for name in ("original", "mixed_same", "mixed_rand", "no_fg", "only_bg_b"):
        for i in range(8):
            (folder / f"{name}{i}.png").touch()
    return folder


def rows(with_groups=True):
    found = [
        Row(f"train{i:02d}.png", split="train", labels={"label": "ab"[i % 2], "variant": "original"}) for i in range(20)
    ]
    for name in ("original", "mixed_same", "mixed_rand", "no_fg", "only_bg_b"):
        for i in range(8):
            groups = {"group": f"g{i}"} if with_groups else {}
            labels = {"label": "ab"[i % 2], "variant": name}
            found.append(Row(f"{name}{i}.png", split="test", labels=labels, groups=groups))
    return found


class TestBackground(TaskContract):
    @pytest.fixture(autouse=True)
    def _root(self, root):
        self.root = str(root)

    def make(self, order=None):
        listed = rows()
        return BackgroundTask(Manifest(self.root, tuple(listed if order is None else [listed[i] for i in order])))


def scored(task, right):
    """Outcomes of a head that is right on given (variant, picture) pairs."""
    source = task.clips(PLAN)
    vectors = []
    for name, label in zip(source.ids, source.labels, strict=True):
        sign = 1.0 if label == "a" else -1.0
        good = name.startswith("train") or right(name)
        vectors.append([sign if good else -sign])
    embeddings = TestBackground().embeddings(task)
    parts = task.parts(embeddings)
    value = dict(zip(source.ids, vectors, strict=True))

    def part(p):
        return FeatureSet(np.array([value[i] for i in p.ids]), p.labels, p.groups, p.ids)

    return score_head(KNN(k=1).fit(part(parts.train)), part(parts.test))


def test_check_C15_bg_gap(root) -> None:
    task = BackgroundTask(Manifest(str(root), tuple(rows())))
    # mixed_same: 6 of 8 right, mixed_rand: 2 of 8.
    outcomes = scored(task, lambda name: name[-5] in ("012345" if name.startswith("mixed_same") else "01"))
    found = {m.name: m for m in task.metrics(outcomes)}
    values = {name: m.statistic(outcomes).statistic(np.arange(outcomes.n)) for name, m in found.items()}
    assert values["accuracy.mixed_same"] == 0.75
    assert values["accuracy.mixed_rand"] == 0.25
    assert values["bg_gap"] == 0.5
    assert values["accuracy"] == 0.25  # that of "original"
    assert found["bg_gap"].statistic(outcomes).chance == 0
    assert found["accuracy"].statistic(outcomes).chance == 0.5


def test_the_gap_is_paired_over_pictures(root) -> None:
    """Right in mixed_same exactly where right in mixed_rand: a paired gap is 0 in every resample."""
    task = BackgroundTask(Manifest(str(root), tuple(rows())))
    outcomes = scored(task, lambda name: name[-5] in "0123")
    gap = next(m for m in task.metrics(outcomes) if m.name == "bg_gap").statistic(outcomes).statistic
    interval = bootstrap_ci(gap, groups=outcomes.truth.groups, num_resamples=100)
    assert (interval.low, interval.high) == (0, 0)
    accuracy = next(m for m in task.metrics(outcomes) if m.name == "accuracy").statistic(outcomes).statistic
    assert bootstrap_ci(accuracy, groups=outcomes.truth.groups, num_resamples=100).width > 0


def test_directions_are_the_challenges(root) -> None:
    up, down = {n for n, d in DIRECTIONS.items() if d}, {n for n, d in DIRECTIONS.items() if d is False}
    assert up == {"original", "mixed_same", "mixed_rand", "mixed_next", "only_fg"}
    assert down == {"only_bg_b", "only_bg_t"}
    assert DIRECTIONS["no_fg"] is None
    task = BackgroundTask(Manifest(str(root), tuple(rows())))
    found = {m.name: m.higher_is_better for m in task.metrics(scored(task, lambda name: True))}
    assert found == {
        "accuracy": True,
        "accuracy.mixed_same": True,
        "accuracy.mixed_rand": True,
        "accuracy.no_fg": None,
        "accuracy.only_bg_b": False,
        "bg_gap": False,
    }


def test_other_variants_never_train(root) -> None:
    extra = [Row(f"mixed_rand{i}.png", split="train", labels={"label": "a", "variant": "mixed_rand"}) for i in range(8)]
    kept = [r for r in rows() if not r.path.startswith("mixed_rand")]
    task = BackgroundTask(Manifest(str(root), (*kept, *extra)))
    parts = task.parts(TestBackground().embeddings(task))
    assert all(name.startswith("train") for name in parts.train.ids)
    assert any("8 training sources of other variants" in note for note in task.notes)
    assert "bg_gap" not in {m.name for m in task.metrics(scored(task, lambda name: True))}


def test_what_cannot_be_asked_is_refused(root) -> None:
    bare = [Row(r.path, split=r.split, labels={"label": r.labels["label"]}) for r in rows()]
    with pytest.raises(DataError, match="imagenet9"):
        BackgroundTask(Manifest(str(root), tuple(bare)))
    with pytest.raises(UsageError, match="original"):
        BackgroundTask(Manifest(str(root), tuple(rows())), train_variant="orignal")
    with pytest.raises(DataError, match="train part"):
        BackgroundTask(Manifest(str(root), tuple(rows())), train_variant="mixed_same")
    lonely = VariantTask(Manifest(str(root), tuple(rows(with_groups=False))))
    assert any("not paired" in note for note in lonely.notes)


def test_a_box_is_tiled_with_the_largest_strip_beside_it() -> None:
    frame = np.repeat(np.arange(6, dtype=np.uint8)[:, None, None], 6, 1).repeat(3, 2)
    tiled = tile_box(frame, np.array([0, 3, 6, 5]))
    np.testing.assert_array_equal(tiled[:, 0, 0], [0, 1, 2, 0, 1, 5])
    assert not tile_box(frame, np.array([0, 0, 6, 6])).any()


def test_variants_of_the_world_take_away_what_they_say() -> None:
    world = ActionWorld(3, 0, 2, num_frames=4, audio_rate_hz=0)
    scene = world.render(0, truth=True)
    inside = scene.truth.masks == 1
    fg, bg = background_variant(scene, "only_fg"), background_variant(scene, "no_fg")
    assert inside.any()
    assert (fg[~inside] == 0).all()
    assert (fg[inside] == scene.frames[inside]).all()
    assert (bg[inside] == 0).all()
    assert (bg[~inside] == scene.frames[~inside]).all()
    x1, y1, x2, y2 = scene.truth.boxes[0, 0].astype(int)
    black, tiled = background_variant(scene, "only_bg_b"), background_variant(scene, "only_bg_t")
    assert (black[0, y1:y2, x1:x2] == 0).all()
    assert (tiled[0, y1:y2, x1:x2] != scene.frames[0, y1:y2, x1:x2]).any()
    outside = np.ones((64, 64), bool)
    outside[y1:y2, x1:x2] = False
    assert (black[0][outside] == scene.frames[0][outside]).all()
    assert (tiled[0][outside] == scene.frames[0][outside]).all()


def test_the_built_in_world_is_asked_like_the_challenge(tmp_path) -> None:
    path = write_background_world(
        tmp_path, num_train=16, num_test=4, num_frames=2, size_px=32, variants=("original", "mixed_same", "mixed_rand")
    )
    with open(path, encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 16 + 3 * 4
    classes = {(r["group"], r["label"]) for r in table if r["split"] == "test"}
    assert len(classes) == 4  # one class per picture, whatever its background
    encoder = create_encoder("resnet_18", stem="cifar", width=4, seed=0)
    report = evaluate(
        encoder,
        BackgroundTask(path),
        protocol=LinearProbe(c=1.0),
        baselines=("random-init",),
        num_resamples=100,
        progress=False,
    )
    names = {s.metric for s in report.scores if s.encoder == "encoder"}
    assert names == {"accuracy", "accuracy.mixed_same", "accuracy.mixed_rand", "bg_gap"}
    gap = report.score(metric="bg_gap")
    assert gap.higher_is_better is False
    assert gap.n_groups == 4
    assert gap.value == pytest.approx(
        report.score(metric="accuracy.mixed_same").value - report.score(metric="accuracy.mixed_rand").value
    )


def test_worlds_show_the_same_object_before_other_backgrounds() -> None:
    def world(test, strength):
        return ActionWorld(1, 0, 6, background_link="appearance", test_background=test, background_strength=strength)

    same, swapped = world("same", 1.0), world("swapped", 1.0)
    for i in range(6):
        a, b = same.recipe(i), swapped.recipe(i)
        assert a.background == a.appearance
        assert b.background == (a.appearance + 1) % 8
        assert a._replace(background=0) == b._replace(background=0)
    assert set(VARIANTS) == set(DIRECTIONS)
