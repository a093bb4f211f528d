"""Classification metrics against scikit-learn, hand counts and invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from unreel.core.errors import UsageError
from unreel.metrics import classification as c


def pair(seed, n=60, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    predictions = np.where(rng.random(n) < 0.5, labels, rng.integers(0, classes, n))
    return predictions, labels


@pytest.mark.filterwarnings("ignore:A single label:UserWarning")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_agrees_with_scikit_learn(seed, n, classes):
    predictions, labels = pair(seed, n, classes)
    assert c.accuracy(predictions, labels) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert c.macro_f1(predictions, labels) == pytest.approx(
        sk.f1_score(labels, predictions, average="macro", zero_division=0)
    )
    per_class = [np.mean(predictions[labels == k] == k) for k in np.unique(labels)]
    assert c.balanced_accuracy(predictions, labels) == pytest.approx(np.mean(per_class))
    if set(predictions) <= set(labels):
        assert c.balanced_accuracy(predictions, labels) == pytest.approx(
            sk.balanced_accuracy_score(labels, predictions)
        )
    matrix = c.confusion_matrix(predictions, labels)
    np.testing.assert_array_equal(matrix.counts, sk.confusion_matrix(labels, predictions))
    np.testing.assert_array_equal(matrix.classes, np.unique(np.concatenate([labels, predictions])))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 6), st.booleans())
def test_top_k_is_a_stable_sort(seed, n, classes, ties):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (n, classes)) / 2 if ties else rng.normal(size=(n, classes))
    labels = rng.integers(0, classes, n)
    for k in range(1, classes + 1):
        slow = [labels[i] in sorted(range(classes), key=lambda j, i=i: (-scores[i, j], j))[:k] for i in range(n)]
        np.testing.assert_array_equal(c.top_k_correct(scores, labels, k=k), slow)
    assert c.top_k_accuracy(scores, labels, k=1) == c.accuracy(scores.argmax(1), labels)
    assert c.top_k_accuracy(scores, labels, k=classes) == 1.0
    if not ties and classes > 2:
        oracle = sk.top_k_accuracy_score(labels, scores, k=2, labels=range(classes))
        assert c.top_k_accuracy(scores, labels, k=2) == pytest.approx(oracle)


def test_hand_counts():
    labels, predictions = ["a", "a", "a", "b"], ["a", "a", "b", "c"]
    matrix = c.confusion_matrix(predictions, labels)
    assert matrix.classes.tolist() == ["a", "b", "c"]
    assert matrix.counts.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert matrix.recalls[:2].tolist() == [2 / 3, 0.0]
    assert c.accuracy(predictions, labels) == 0.5
    assert c.balanced_accuracy(predictions, labels) == pytest.approx(1 / 3)
    assert c.macro_f1(predictions, labels) == pytest.approx((0.8 + 0 + 0) / 3)
    assert c.correct(predictions, labels).tolist() == [1, 1, 0, 0]


def test_order_of_given_classes_is_kept():
    matrix = c.confusion_matrix(["x", "y"], ["y", "y"], classes=["y", "x", "z"])
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("metric", [c.accuracy, c.balanced_accuracy, c.macro_f1])
def test_renaming_and_permuting_leave_scores(metric):
    predictions, labels = pair(3)
    names = np.array(["zebra", "ant", "moth", "cat", "dog"])
    order = np.random.default_rng(0).permutation(len(labels))
    assert metric(names[predictions], names[labels]) == pytest.approx(metric(predictions, labels))
    assert metric(predictions[order], labels[order]) == pytest.approx(metric(predictions, labels))
    assert metric(torch.from_numpy(predictions), torch.from_numpy(labels)) == metric(predictions, labels)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: c.accuracy([], []), "n ≥ 1"),
        (lambda: c.accuracy([0, 1], [0]), "expected 1 labels, got 2"),
        (lambda: c.accuracy(["0"], [0]), "text in one place"),
        (lambda: c.accuracy([0.0], [float("nan")]), "NaN"),
        (lambda: c.top_k_correct(np.zeros((2, 3)), [0, 3], k=1), "0 to 2"),
        (lambda: c.top_k_correct(np.zeros((2, 3)), [0, 1], k=4), "1 to 3"),
        (lambda: c.top_k_correct(np.zeros((2, 3)), [0], k=1), "shape"),
        (lambda: c.top_k_correct(np.full((1, 3), np.nan), [0], k=1), "NaN"),
        (lambda: c.confusion_matrix(["a"], ["b"], classes=["a"]), "b occur"),
        (lambda: c.confusion_matrix(["a"], ["a"], classes=["a", "a"]), "twice"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(UsageError, match=words):
        call()


@pytest.mark.filterwarnings("error")
def test_a_single_class_is_counted_without_a_word():
    found = c.confusion_matrix(["a", "a"], ["a", "a"])
    assert found.counts.tolist() == [[2]]
    assert c.macro_f1(["a", "a"], ["a", "a"]) == 1.0
