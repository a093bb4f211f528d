"""Label tasks: parts, columns, leaks."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from tests.contracts.test_task import TaskContract, blobs
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.protocols import KNN, ArrayClips, FeatureSet, LinearProbe
from unreel.tasks import TASKS, LabelTask
from unreel.tasks.classification import score_head

PIXELS = np.zeros((60, 2, 8, 8, 3), np.uint8)


def arrays(n=60, order=None, grouped=True, labels=None):
    names = np.array([f"s{i:02d}" for i in range(n)])
    given = np.array(labels if labels is not None else [f"class {i % 3}" for i in range(n)])
    groups = np.array([f"g{i // 3}" for i in range(n)])
    at = np.arange(n) if order is None else order
    return ArrayClips(PIXELS[:n], labels=given[at], groups=groups[at] if grouped else None, ids=names[at].tolist())


def manifest(tmp_path, rows):
    return Manifest(str(tmp_path), tuple(rows))


def row(i, split="", label="ab", group="", **others):
    labels = {"label": label[i % len(label)]} if label else {}
    return Row(f"{i}.mp4", split=split, labels=labels, groups={"group": group} if group else {}, **others)


class TestHashSplit(TaskContract):
    def make(self, order=None):
        return LabelTask(arrays(order=order))


class TestUngrouped(TaskContract):
    def make(self, order=None):
        return LabelTask(arrays(order=order, grouped=False), test_fraction=0.5)


class TestGivenSplits(TaskContract):
    def make(self, order=None):
        splits = np.array(["train", "val", "test", "train"])[np.arange(60) // 3 % 4]
        return LabelTask(arrays(order=order), splits=list(splits if order is None else splits[order]))


def test_it_is_registered():
    assert TASKS["label"] is LabelTask
    assert TASKS.names() == ["background", "clip_order", "gallery", "label", "shift"]


def test_hash_split_says_so_and_is_stable_when_sources_are_added():
    few, more = LabelTask(arrays(48)), LabelTask(arrays(60))
    np.testing.assert_array_equal(few.roles, more.roles[:48])
    assert "30% of sources kept for testing by a hash" in few.notes[0]
    assert (LabelTask(arrays(), seed=1).roles != more.roles).any()


def test_the_manifests_own_split_is_used(tmp_path):
    names = ["train", "Training", "val", "dev", "test", "testing"]
    rows = [row(i, split=names[i // 2 % 6]) for i in range(24)]
    task = LabelTask(manifest(tmp_path, rows))
    assert task.roles.tolist() == [
        {"tr": "train", "va": "val", "de": "val", "te": "test"}[r.split.lower()[:2]] for r in rows
    ]
    assert task.notes == ()


def test_a_validation_split_stands_in_for_a_missing_test_split(tmp_path):
    task = LabelTask(manifest(tmp_path, [row(i, split="train" if i < 6 else "val") for i in range(10)]))
    assert (task.roles == "test").sum() == 4
    assert "tested on 'val'" in task.notes[0]


def test_other_names_of_splits(tmp_path):
    rows = [row(i, split="fold1" if i < 6 else "fold2") for i in range(10)]
    task = LabelTask(manifest(tmp_path, rows), train="fold1", test="fold2")
    assert task.roles.tolist() == ["train"] * 6 + ["test"] * 4
    with pytest.raises(DataError, match=r"'fold1' is not understood \(nor is 'fold2'; 10 rows in all\)"):
        LabelTask(manifest(tmp_path, rows))


def test_rows_without_label_or_split_are_left_out_and_counted(tmp_path):
    rows = [row(i, split="train" if i < 6 else "test") for i in range(10)]
    rows += [row(10, split="train", label=""), row(11, split="")]
    task = LabelTask(manifest(tmp_path, rows))
    assert (task.roles != "").sum() == 10
    assert "1 of 12 sources have no 'label' label" in task.notes[0]
    assert "1 labelled sources are in none" in task.notes[1]


def test_a_group_in_two_parts_is_refused_by_name(tmp_path):
    rows = [row(i, split="train" if i < 6 else "test", group="anna" if i in (2, 7) else f"p{i}") for i in range(10)]
    with pytest.raises(DataError, match=r"1 groups are in more than one part: anna \(test and train\)"):
        LabelTask(manifest(tmp_path, rows))


def test_many_leaks_are_counted_and_a_few_named(tmp_path):
    rows = [row(i, split="train" if i < 20 else "test", group=f"p{i % 20:02d}") for i in range(40)]
    with pytest.raises(DataError, match=r"20 groups .* and 15 more"):
        LabelTask(manifest(tmp_path, rows))


def test_two_spans_of_one_file_may_not_straddle_even_under_other_groups(tmp_path):
    rows = [row(i, split="train" if i < 6 else "test", group=f"p{i}") for i in range(10)]
    rows += [
        Row("x.mp4", 0.0, 1.0, split="train", labels={"label": "a"}, groups={"group": "q"}),
        Row("x.mp4", 1.0, 2.0, split="test", labels={"label": "a"}, groups={"group": "r"}),
    ]
    with pytest.raises(DataError, match=r"1 files .*x\.mp4"):
        LabelTask(manifest(tmp_path, rows))


def test_columns_are_found_or_asked_for(tmp_path):
    def rows(**names):
        return [Row(f"{i}.mp4", labels={k: v[i % 2] for k, v in names.items()}) for i in range(20)]

    assert LabelTask(manifest(tmp_path, rows(motion="ab"))).label == "motion"
    assert LabelTask(manifest(tmp_path, rows(label="ab", motion="cd"))).label == "label"
    assert LabelTask(manifest(tmp_path, rows(motion="ab", colour="cd")), label="colour").classes == ["c", "d"]
    with pytest.raises(UsageError, match="which label"):
        LabelTask(manifest(tmp_path, rows(motion="ab", colour="cd")))
    with pytest.raises(UsageError, match="did you mean 'motion'"):
        LabelTask(manifest(tmp_path, rows(motion="ab")), label="motoin")
    with pytest.raises(DataError, match="no label"):
        LabelTask(manifest(tmp_path, [Row("a.mp4")]))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: LabelTask(ArrayClips(PIXELS)), DataError, "no labels"),
        (lambda: LabelTask(arrays(labels=["a"] * 60)), DataError, "single class"),
        (lambda: LabelTask(arrays(), splits=["train"] * 60), DataError, "no split is called"),
        (lambda: LabelTask(arrays(), splits=["test"] * 60), DataError, "no split is called 'train'"),
        (lambda: LabelTask(arrays(), splits=["train"]), UsageError, "one per source"),
        (lambda: LabelTask(arrays(), test_fraction=0.0), UsageError, "test_fraction"),
        (lambda: LabelTask(arrays(3, grouped=False), test_fraction=1e-9), DataError, "test part"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_set_metrics_equal_scikit_learn_on_any_resample():
    task = LabelTask(arrays())
    train, test = blobs(1, spread=3.0), blobs(2, spread=3.0)
    outcomes = score_head(LinearProbe(c=0.1).fit(train), test)
    metrics = {m.name: m for m in task.metrics(outcomes)}
    assert next(iter(metrics)) == "accuracy"
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, 80, 40)
        y, p = outcomes.truth.labels[rows], outcomes.predictions.labels[rows]
        balanced = np.mean([np.mean(p[y == c] == c) for c in np.unique(y)])
        assert metrics["balanced_accuracy"].statistic(outcomes).statistic(rows) == pytest.approx(balanced)
        f1 = f1_score(y, p, average="macro")
        assert metrics["macro_f1"].statistic(outcomes).statistic(rows) == pytest.approx(f1)
    # Four equal classes: guessing finds a quarter of each, with a precision of a quarter.
    assert metrics["balanced_accuracy"].statistic(outcomes).chance == pytest.approx(0.25)
    assert metrics["macro_f1"].statistic(outcomes).chance == pytest.approx(0.25)


def test_a_training_class_that_is_neither_tested_nor_predicted_has_a_chance_too():
    train = FeatureSet(np.eye(3)[[0] * 6 + [1] * 3 + [2] * 3] + 0.001 * np.arange(12)[:, None], list("aaaaaabbbccc"))
    outcomes = score_head(KNN(k=1).fit(train), FeatureSet(np.eye(3)[[1, 1, 2, 2]], list("bbcc")))
    metrics = {m.name: m.statistic(outcomes) for m in LabelTask(arrays()).metrics(outcomes) if m.statistic}
    assert metrics["macro_f1"].statistic(np.arange(4)) == 1.0
    # Guessing at the shares 1/2, 1/4, 1/4 finds a quarter of b and of c; F1 is 0, 1/3 and 1/3.
    assert metrics["balanced_accuracy"].chance == pytest.approx(1 / 4)
    assert metrics["macro_f1"].chance == pytest.approx(2 / 9)


def test_chance_of_set_metrics_is_what_blind_answers_reach():
    rng = np.random.default_rng(0)
    y_train = rng.choice(["a", "b", "c"], 400, p=[0.6, 0.3, 0.1])
    y_test = rng.choice(["a", "b", "c"], 3000, p=[0.4, 0.4, 0.2])
    x = rng.normal(size=(3400, 2))
    outcomes = score_head(LinearProbe(c=1.0).fit(FeatureSet(x[:400], y_train)), FeatureSet(x[400:], y_test))
    metrics = {m.name: m for m in LabelTask(arrays()).metrics(outcomes)}
    blind = [rng.permutation(np.resize(rng.permutation(y_train), 3000)) for _ in range(20)]
    constant = np.full(3000, "a")
    balanced = max(np.mean([balanced_accuracy_score(y_test, p) for p in blind]), 1 / 3)
    f1 = max(
        np.mean([f1_score(y_test, p, average="macro") for p in blind]),
        f1_score(y_test, constant, average="macro", zero_division=0),
    )
    assert metrics["balanced_accuracy"].statistic(outcomes).chance == pytest.approx(balanced, abs=0.01)
    assert metrics["macro_f1"].statistic(outcomes).chance == pytest.approx(f1, abs=0.01)
    accuracy = max(np.mean(y_test == "a"), np.mean([np.mean(p == y_test) for p in blind]))
    assert outcomes.chance["accuracy"] == pytest.approx(accuracy, abs=0.01)
