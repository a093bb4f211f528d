"""What a head is expected to be worth: nobody is asked about what they saw, and the interval holds what comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unreel.protocols import FeatureSet, LinearProbe
from unreel.protocols.calibration import Mask, cross_validate, design_effect, fit_calibrated, prediction_interval
from unreel.protocols.head import Expected, HeadCard, Predictions, load_head, save_head


def _said(classes: NDArray[Any], answers: NDArray[Any]) -> Predictions:
    scores = (answers[:, None] == classes).astype(float)
    card = HeadCard("any", classes=tuple(classes.tolist()))
    return Predictions("classes", card, scores=scores, probabilities=0.8 * scores + 0.1)


@pytest.mark.parametrize("groups", [3, 11])
def test_each_sample_is_asked_once_of_a_head_that_did_not_see_its_group(groups: int) -> None:
    units = np.array([f"g{i % groups}" for i in range(33)])
    labels = np.array(["ab"[i % 2] for i in range(33)])
    asked = np.zeros(33, int)

    def ask(train: Mask, test: Mask) -> Predictions:
        assert not set(units[train]) & set(units[test])
        assert (train != test).all()
        asked[test] += 1
        return _said(np.unique(labels[train]), np.where(np.flatnonzero(test) < 30, labels[test], "none"))

    found = cross_validate(ask, labels, units)
    assert (asked == 1).all()
    assert found.expected is not None
    assert found.temperature is not None
    assert (found.expected.n, found.expected.groups) == (33, groups)
    assert found.expected.accuracy == pytest.approx(np.mean(np.where(np.arange(33) < 30, labels, "a") == labels))
    assert f"{min(5, groups)} folds" in found.expected.how


def test_where_there_is_nothing_to_learn_from_it_says_so() -> None:
    def never(train: Mask, test: Mask) -> Predictions:
        raise AssertionError

    one = cross_validate(never, np.array(["a", "b"]), np.array(["p", "p"]), noun="patient")
    assert one.expected is None
    assert "all labels are of one patient" in one.note
    two = cross_validate(never, np.array(["a", "a", "b"]), np.array(["p", "p", "q"]))
    assert two.expected is not None
    assert (two.temperature, two.expected.accuracy) == (None, 0.0)
    assert "not calibrated" in two.note


def test_samples_that_agree_within_groups_count_once() -> None:
    right, units = np.repeat([1.0, 0.0] * 20, 5), np.repeat(np.arange(40), 5)
    assert design_effect(right, units) == pytest.approx(5 * 40 / 39)
    assert design_effect(right, np.arange(200)) == pytest.approx(1, abs=0.01)
    low, high = prediction_interval(right, units, folds=5)
    other_low, other_high = prediction_interval(right[::5], np.arange(40), folds=5)
    assert (low, high) == pytest.approx((other_low, other_high), abs=0.01)


def test_an_interval_is_wider_of_fewer_labels_and_of_fewer_others() -> None:
    def width(labelled: int, others: int | None) -> float:
        low, high = prediction_interval(np.arange(labelled) % 4 > 0, np.arange(labelled), folds=5, others=others)
        assert 0 <= low <= 0.75 <= high <= 1
        return high - low

    assert width(20, 1) == 1
    assert width(20, 10) > width(20, None) > width(80, None)
    assert width(80, 20) > width(80, None)
    all_right = prediction_interval(np.ones(20), np.arange(20), folds=5)
    assert all_right[0] < 0.9  # twenty of twenty do not promise that all will be


def test_what_comes_lies_inside_in_at_least_eight_of_ten_cases() -> None:
    """Patients with ways of their own; twenty labels of eight of them, and then all the others."""
    inside, errors = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        middle = rng.normal(0, 0.9, (3, 12))
        patient = np.repeat(np.arange(60), 3)
        kind = rng.integers(0, 3, 180)
        vectors = middle[kind] + rng.normal(0, 0.7, (60, 12))[patient] + rng.normal(0, 1, (180, 12))
        ids, few = np.array([f"{i:03d}" for i in range(180)]), np.arange(20)
        others = np.flatnonzero(patient > patient[19])
        names = np.array([f"p{p}" for p in patient])
        samples = FeatureSet(vectors[few], np.array(list("abc"))[kind[few]], names[few], ids[few])
        head = fit_calibrated(LinearProbe(c=1.0), samples, others=len(others), seed=seed)
        found = float(np.mean(head.predict(vectors[others]).labels == np.array(list("abc"))[kind[others]]))
        expected = head.card.expected
        assert expected is not None
        inside.append(expected.low <= found <= expected.high)
        errors.append(found - expected.accuracy)
        assert expected.high - expected.low < 0.75
    assert np.mean(inside) >= 0.8
    assert abs(np.mean(errors)) < 0.08  # and the middle is not off


def test_it_is_kept_with_the_head(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    head = fit_calibrated(LinearProbe(c=1.0), FeatureSet(rng.normal(size=(20, 4)), np.array(list("ab") * 10)), others=9)
    again = load_head(save_head(head, tmp_path / "head.safetensors"))
    assert isinstance(again.card.expected, Expected)
    assert again.card.expected == head.card.expected
    assert "9 other" in str(again.card.expected)
